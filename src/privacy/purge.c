/*
 * purge.c: cdp.purge_before(), and the maintenance worker's part in it.
 *
 * A purge raises the watermark W of a workspace and deletes what lies below it,
 * in the caller's transaction (sweep.c says in which order).  From its commit on
 * a batch refuses events below W as expired: it reads W after it locked
 * engine_lock (cdp_watermark).  A batch that runs at that commit may not know W,
 * and store an event below it a moment later.  So cdp_data.retention_watermark
 * says up to where nothing is left for certain (cleared); while that is less
 * than W the maintenance worker sweeps again, and raises it when it found
 * nothing after all holders of engine_lock that were there at the commit had
 * ended (holders.c).  Until then what such a batch stored is as any other event.
 *
 * The purge does not wait: people whom somebody holds are tried once more for
 * HELD_MS at the end, and then left to the worker; so are the people beyond
 * MOST_PEOPLE, so that no transaction holds all people for minutes.  Partitions
 * are dropped last (drop.c), if the lock is had within a second.  What is done
 * of it when the lock is not had is kept: each such step has a subtransaction.
 *
 * The worker's part is in resweep.c.
 *
 * An instant is mostly reckoned from the clock, so a clock that was set forward
 * since the server started refuses the purge (clock.c).
 *
 * Imprecise: a message of which two deliveries lie on either side of W (R25) is
 * purged with the delivery that defined its times, and the other one, should it
 * come again, is a new event.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "engine.h"
#include "privacy/purge.h"
#include "privacy/sweep.h"
#include "spi.h"

#define EVENT_CLASS "event"		/* the only class of data so far */
#define MOST_PEOPLE 100000		/* locked by one purge */
#define HELD_PEOPLE 1000		/* tried at a time */
#define HELD_MS 500				/* less than deadlock_timeout of a client */
#define DROP_TRIES 5
#define DROP_PAGES 16384		/* largest partition that is read while its lock keeps others out: 128 MB */

/* ---------------------------------------------------------------- W */

/* event is the only class */
static void
keep_watermark(const CdpRow *row, void *arg)
{
	bool		isnull;

	*(TimestampTz *) arg = DatumGetTimestampTz(cdp_row_get(row, "watermark", &isnull));
}

TimestampTz
cdp_watermark(int32 workspace_id)
{
	TimestampTz watermark = DT_NOBEGIN;

	cdp_scan_index(CDP_T_RETENTION_WATERMARK, "retention_watermark_pkey", "workspace_id", workspace_id,
				   keep_watermark, &watermark);
	return watermark;
}

static CdpSpi raise_plan = {
	"INSERT INTO cdp_data.retention_watermark AS r (workspace_id, class, watermark, advanced_at)"
	" VALUES ($1, '" EVENT_CLASS "', $2, $3) ON CONFLICT ON CONSTRAINT retention_watermark_pkey"
	" DO UPDATE SET watermark = excluded.watermark, advanced_at = excluded.advanced_at"
	" WHERE r.watermark < excluded.watermark",
	3, {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

/* purges of one workspace come one after the other */
static void
raise_watermark(CdpSweep *s)
{
	Datum		args[3] = {Int32GetDatum(s->workspace_id), TimestampTzGetDatum(s->watermark), TimestampTzGetDatum(cdp_now())};

	(void) cdp_spi_exec(&raise_plan, args, NULL);
	CommandCounterIncrement();
	s->watermark = cdp_watermark(s->workspace_id);
}

/* ---------------------------------------------------------------- steps that a lock may stop */

void
cdp_set_lock_timeout(int ms)
{
	(void) set_config_option("lock_timeout", psprintf("%dms", ms), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

bool
cdp_is_lock_failure(int sqlstate)
{
	return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE || sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED ||
		sqlstate == ERRCODE_OBJECT_IN_USE;
}

typedef void (*Step) (CdpSweep *s, void *arg);

typedef struct Attempt
{
	CdpSweep   *sweep;
	Step		step;
	void	   *arg;
	int			ms;
} Attempt;

static bool
take_step(void *arg)
{
	Attempt    *a = arg;

	cdp_set_lock_timeout(a->ms);
	a->step(a->sweep, a->arg);
	return true;
}

/* In a subtransaction; false: a lock was not had within the time, and nothing was done. */
static bool
try_step(CdpSweep *s, Step step, void *arg, int ms)
{
	Attempt		a = {s, step, arg, ms};
	ErrorData  *error = cdp_in_subtransaction(take_step, &a);

	if (!error)
		return true;
	cdp_engine_instant = 0;
	if (!cdp_is_lock_failure(error->sqlerrcode))
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/* ---------------------------------------------------------------- the purge */

/* what it leaves to the maintenance worker */
typedef struct Left
{
	bool		rest;			/* of the people, or of the ids */
	int64		held;			/* people */
	List	   *partitions;
} Left;

typedef struct Held
{
	int			from,
				n;
} Held;

static void
sweep_held(CdpSweep *s, void *arg)
{
	Held	   *h = arg;

	cdp_sweep_held(s, h->from, h->n);
}

static void
sweep_seen(CdpSweep *s, void *arg)
{
	cdp_sweep_seen(s);
}

static void
sweep_nobody(CdpSweep *s, void *arg)
{
	cdp_sweep_nobody(s);
}

static void
purge_people(CdpSweep *s, Left *left)
{
	Held		h;

	while (s->people < MOST_PEOPLE && cdp_sweep_people(s))
		CHECK_FOR_INTERRUPTS();
	left->rest = s->people >= MOST_PEOPLE;
	for (h.from = 0; h.from < s->nheld; h.from += h.n)
	{
		h.n = Min(s->nheld - h.from, HELD_PEOPLE);
		if (!try_step(s, sweep_held, &h, HELD_MS))
			left->held += h.n;
	}
}

typedef struct Drop
{
	CdpTable	table;
	TimestampTz below;
	List	   *dropped;
} Drop;

static void
drop_partitions(CdpSweep *s, void *arg)
{
	Drop	   *d = arg;

	d->dropped = cdp_drop_partitions(d->table, d->below, false, DROP_PAGES);
}

static const CdpTable partitioned[] = {CDP_T_MESSAGE_SEEN, CDP_T_EVENT};	/* in the order in which a batch locks them */

/* names of the dropped partitions */
static List *
purge_partitions(CdpSweep *s, Left *left)
{
	TimestampTz below = cdp_least_watermark(0, DT_NOBEGIN, false);
	List	   *dropped = NIL;

	for (int t = 0; t < lengthof(partitioned); t++)
	{
		Drop		d = {partitioned[t], below};

		for (int i = 0; i < DROP_TRIES && !try_step(s, drop_partitions, &d, CDP_DROP_MS); i++)
			CHECK_FOR_INTERRUPTS();
		dropped = list_concat(dropped, d.dropped);
		left->partitions = list_concat(left->partitions, cdp_partitions_below(partitioned[t], below));
	}
	return dropped;
}

/* ---------------------------------------------------------------- what is returned */

static void
put_counts(StringInfo out, const char *table, const CdpLeafCounts *counts)
{
	appendStringInfo(out, "\"%s\": {", table);
	for (int i = 0; i < counts->n; i++)
	{
		appendStringInfoString(out, i ? ", " : "");
		escape_json(out, counts->leaf[i].leaf);
		appendStringInfo(out, ": %lld", (long long) counts->leaf[i].rows);
	}
	appendStringInfoString(out, "}");
}

static void
put_names(StringInfo out, const char *key, List *names)
{
	ListCell   *lc;

	appendStringInfo(out, "\"%s\": [", key);
	foreach(lc, names)
	{
		appendStringInfoString(out, lc == list_head(names) ? "" : ", ");
		escape_json(out, lfirst(lc));
	}
	appendStringInfoString(out, "]");
}

/* left is NULL for a dry run */
static Datum
report(const CdpSweep *s, const CdpWorkspace *workspace, List *dropped, const Left *left)
{
	StringInfoData out;
	char		watermark[MAXDATELEN + 1];

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"workspace\": ");
	escape_json(&out, pnstrdup(workspace->name.s, workspace->name.len));
	JsonEncodeDateTime(watermark, TimestampTzGetDatum(s->watermark), TIMESTAMPTZOID, NULL);
	appendStringInfo(&out, ", \"class\": \"" EVENT_CLASS "\", \"watermark\": \"%s\", \"dry_run\": %s, \"people\": %lld, ",
					 watermark, left ? "false" : "true", (long long) s->people);
	put_counts(&out, "event", &s->events);
	appendStringInfoString(&out, ", ");
	put_counts(&out, "message_seen", &s->seen);
	appendStringInfoString(&out, ", ");
	put_names(&out, "dropped", dropped);
	if (left)
	{
		appendStringInfo(&out, ", \"complete\": %s, \"held_people\": %lld, ",
						 left->rest || left->held || left->partitions ? "false" : "true", (long long) left->held);
		put_names(&out, "left", left->partitions);
	}
	appendStringInfoChar(&out, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}

/* ---------------------------------------------------------------- SQL */

static TimestampTz
instant_argument(FunctionCallInfo fcinfo)
{
	TimestampTz instant;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("instant must not be null")));
	instant = PG_GETARG_TIMESTAMPTZ(0);
	if (TIMESTAMP_NOT_FINITE(instant) || instant > cdp_now())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("instant must lie in the past"),
				 errdetail("What happens before it is refused from now on.")));
	return instant;
}

/* F20: what is purged by a clock that is wrong is gone, and refused for as long as it was wrong */
static void
check_clock(void)
{
	int64		by = cdp_clock_set_forward();

	if (by > CDP_CLOCK_TRUST_US)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the clock was set forward by %lld s since the server started", (long long) (by / USECS_PER_SEC)),
				 errdetail("A purge by a clock that is wrong could delete what is to be kept."),
				 errhint("Set the clock right. If it is right, restart the server.")));
}

static void
check_class(FunctionCallInfo fcinfo)
{
	char	   *class;

	if (PG_ARGISNULL(1))
		return;
	class = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(class, EVENT_CLASS) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no class of data \"%s\"", class),
				 errhint("Use \"" EVENT_CLASS "\", the only one so far, or NULL for all.")));
}

static Datum
dry_run(CdpSweep *s, const CdpWorkspace *workspace)
{
	TimestampTz below = cdp_least_watermark(s->workspace_id, s->watermark, false);
	List	   *doomed = NIL;

	s->watermark = Max(s->watermark, cdp_watermark(s->workspace_id));
	cdp_sweep_count(s);
	for (int t = 0; t < lengthof(partitioned); t++)
		doomed = list_concat(doomed, cdp_partitions_below(partitioned[t], below));
	return report(s, workspace, doomed, NULL);
}

static Datum
purge(CdpSweep *s, const CdpWorkspace *workspace)
{
	Left		left = {0};
	List	   *dropped;

	LockRelationOid(cdp_table(CDP_T_ENGINE_LOCK), RowExclusiveLock);
	raise_watermark(s);
	purge_people(s, &left);
	left.rest |= !try_step(s, sweep_seen, NULL, HELD_MS) || !try_step(s, sweep_nobody, NULL, HELD_MS);
	dropped = purge_partitions(s, &left);
	return report(s, workspace, dropped, &left);
}

PG_FUNCTION_INFO_V1(cdp_sql_purge_before);

Datum
cdp_sql_purge_before(PG_FUNCTION_ARGS)
{
	CdpSweep	s = {.cxt = CurrentMemoryContext};
	CdpWorkspace *workspace;
	CdpUserContext user;
	volatile Datum result = (Datum) 0;
	bool		dry = PG_ARGISNULL(2) || PG_GETARG_BOOL(2);

	cdp_version_require();
	check_class(fcinfo);
	s.watermark = instant_argument(fcinfo);
	workspace = cdp_workspace_of_caller(NULL);
	s.workspace_id = workspace->id;
	if (!dry)
	{
		PreventCommandDuringRecovery("cdp.purge_before()");
		check_clock();
		cdp_require_read_committed("purge");
	}
	cdp_become_owner(&user);
	PG_TRY();
	{
		result = dry ? dry_run(&s, workspace) : purge(&s, workspace);
	}
	PG_FINALLY();
	{
		cdp_engine_instant = 0;
	}
	PG_END_TRY();
	cdp_become_caller(&user);
	PG_RETURN_DATUM(result);
}
