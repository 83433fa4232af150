/*
 * status.c: what workers report, as rows: the functions behind the views
 * cdp.source_status and cdp.status.
 *
 * cdp.status says for each thing that must hold whether it does, and what to do
 * if not; a thing that is in order has a row that says so, so that an empty
 * result never means "not looked at".  Nothing in it is personal data.
 */
#include "cdp.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"
#include "shape.h"

#define OLD_PARKED_S 60			/* a message waits for so long: look who holds the person */
#define OLD_DIRTY_S 60			/* a person that waits longer to be computed again is stuck */
#define OLD_PURGE_S 60			/* what was purged before, and may be left, is not looked for */
#define LOCK_TIMEOUT_MS 1000	/* for a table that somebody locks */
#define OLD_CLOCK_S 60			/* the clock is so far behind the last batch: it was set back */
#define OLD_SNAPSHOT_S 300		/* a snapshot that is older makes hot rows slow */

/* ---------------------------------------------------------------- workers and partitions */

static const char *
worker_state(const CdpSlot *slot)
{
	if (slot->state != CDP_SLOT_UP)
		return slot->failures > 0 ? "failed" : "starting";
	switch (slot->condition)
	{
		case CDP_COND_WAITING:
			return "waiting";
		case CDP_COND_RUNNING:
			return "running";
		default:
			return "starting";
	}
}

/* A process that is to end is shown until it has ended: it may still commit a batch. */
static bool
is_shown(const CdpSlot *slot)
{
	return slot->wanted || (slot->state == CDP_SLOT_UP && !slot->abandoned);
}

/* Whose partitions these are at present: of other numbers of workers two could have one. */
static bool
is_current(const CdpSlot *slot)
{
	return slot->wanted && slot->running_generation == slot->generation;
}

static bool
is_wanted(const CdpSlot *slot)
{
	return slot->wanted;
}

/* The source slots of this database and of the caller's workspace, copied. */
static CdpSlot *
copy_slots(bool (*chosen) (const CdpSlot *slot), int *n)
{
	int32		workspace;
	CdpSlot    *copy;

	*n = 0;
	if (cdp_workers == NULL)
		return NULL;
	workspace = cdp_caller_workspace();
	copy = palloc(cdp_workers->nslots * sizeof(CdpSlot));
	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		const CdpSlot *slot = &cdp_workers->slots[i];

		if (slot->state != CDP_SLOT_FREE && slot->kind == CDP_WORKER_SOURCE && chosen(slot) &&
			slot->database == MyDatabaseId && slot->workspace_id == workspace)
			copy[(*n)++] = *slot;
	}
	LWLockRelease(cdp_workers->lock);
	return copy;
}

static Datum
time_or_null(TimestampTz t, bool *isnull)
{
	*isnull = t == 0;
	return TimestampTzGetDatum(t);
}

static void
put_worker(ReturnSetInfo *rsinfo, const CdpSlot *slot)
{
	Datum		values[12];
	bool		nulls[12] = {0};

	values[0] = Int32GetDatum(slot->source_id);
	values[1] = Int32GetDatum(slot->worker);
	values[2] = Int32GetDatum(slot->pid);
	nulls[2] = slot->pid == 0;
	values[3] = CStringGetTextDatum(worker_state(slot));
	values[4] = time_or_null(slot->started_at, &nulls[4]);
	values[5] = Int64GetDatum(slot->nbatches);
	values[6] = Int64GetDatum(slot->nmessages);
	values[7] = time_or_null(slot->last_commit_at, &nulls[7]);
	values[8] = CStringGetTextDatum(slot->last_error);
	values[9] = CStringGetTextDatum(slot->last_sqlstate);
	values[10] = time_or_null(slot->last_error_at, &nulls[10]);
	nulls[8] = nulls[9] = nulls[10];
	values[11] = Int32GetDatum(slot->unlisted);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(cdp_sql_source_workers);

Datum
cdp_sql_source_workers(PG_FUNCTION_ARGS)
{
	int			n;
	CdpSlot    *slots;

	InitMaterializedSRF(fcinfo, 0);
	slots = copy_slots(is_shown, &n);
	for (int i = 0; i < n; i++)
		put_worker((ReturnSetInfo *) fcinfo->resultinfo, &slots[i]);
	return (Datum) 0;
}

static void
put_partition(ReturnSetInfo *rsinfo, int32 source_id, const CdpPartitionStat *p)
{
	Datum		values[7];
	bool		nulls[7] = {0};

	values[0] = Int32GetDatum(source_id);
	values[1] = Int32GetDatum(p->topic + 1);
	values[2] = Int32GetDatum(p->partition);
	values[3] = BoolGetDatum(p->ready);
	values[4] = Int64GetDatum(p->end);
	nulls[4] = p->end < 0;
	values[5] = time_or_null(p->end_at, &nulls[5]);
	values[6] = Float4GetDatum(p->rate);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(cdp_sql_source_partitions);

Datum
cdp_sql_source_partitions(PG_FUNCTION_ARGS)
{
	int			n;
	CdpSlot    *slots;

	InitMaterializedSRF(fcinfo, 0);
	slots = copy_slots(is_current, &n);
	for (int i = 0; i < n; i++)
		for (int p = 0; slots[i].state == CDP_SLOT_UP && p < slots[i].nparts; p++)
			put_partition((ReturnSetInfo *) fcinfo->resultinfo, slots[i].source_id, &slots[i].parts[p]);
	return (Datum) 0;
}

static void
put_trouble(ReturnSetInfo *rsinfo, const CdpSlot *slot, int topic, const CdpTrouble *trouble)
{
	Datum		values[5];
	bool		nulls[5] = {0};

	if (trouble->at == 0)
		return;
	values[0] = Int32GetDatum(slot->source_id);
	values[1] = Int32GetDatum(slot->worker);
	values[2] = Int32GetDatum(topic + 1);
	nulls[2] = topic < 0;
	values[3] = CStringGetTextDatum(trouble->text);
	values[4] = TimestampTzGetDatum(trouble->at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(cdp_sql_source_errors);

Datum
cdp_sql_source_errors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	CdpSlot    *slots;

	InitMaterializedSRF(fcinfo, 0);
	slots = copy_slots(is_wanted, &n);
	for (int i = 0; i < n; i++)
	{
		put_trouble(rsinfo, &slots[i], -1, &slots[i].trouble);
		for (int t = 0; t < CDP_SLOT_TOPICS; t++)
			put_trouble(rsinfo, &slots[i], t, &slots[i].topic_trouble[t]);
	}
	return (Datum) 0;
}

/* ---------------------------------------------------------------- cdp.status */

typedef struct Report
{
	Tuplestorestate *store;
	TupleDesc	desc;
} Report;

/* hint may be NULL */
static void
say(Report *r, const char *severity, const char *item, const char *message, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, hint == NULL};

	values[0] = CStringGetTextDatum(severity);
	values[1] = CStringGetTextDatum(item);
	values[2] = CStringGetTextDatum(message);
	values[3] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(r->store, r->desc, values, nulls);
}

static void
report_launcher(Report *r)
{
	if (cdp_workers->launcher_pid == 0)
		say(r, "error", "launcher", "the launcher is not running",
			"It starts again by itself within seconds; if not, look into the server log.");
	else
		say(r, "ok", "launcher", "the launcher is running", NULL);
}

static void
report_maintenance(Report *r)
{
	CdpSlot		slot = {.state = CDP_SLOT_FREE};
	CdpSlot    *found;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	found = cdp_maintenance_slot(MyDatabaseId);
	if (found)
		slot = *found;
	LWLockRelease(cdp_workers->lock);

	if (!cdp_workers_enabled)
		say(r, "warning", "maintenance", "cdp.workers is off for this session; if it is off for the database, no worker runs",
			"ALTER DATABASE ... RESET cdp.workers");
	else if (slot.state == CDP_SLOT_UP && slot.condition == CDP_COND_RUNNING)
		say(r, "ok", "maintenance", "the maintenance worker is running", NULL);
	else if (cdp_attachment() == CDP_ATTACHED_ELSEWHERE)
		say(r, "error", "maintenance", "this data was attached to another server or database; its sources are at rest",
			"If no other copy consumes its topics: SELECT cdp.setup(), then cdp.resume_source() for each source.");
	else if (slot.state == CDP_SLOT_UP && slot.condition == CDP_COND_WAITING)
		say(r, "warning", "maintenance", psprintf("the maintenance worker waits: %s", slot.last_error),
			"Somebody locks tables of cdp_data. It is tried again every few seconds.");
	else if (slot.state == CDP_SLOT_UP && slot.condition == CDP_COND_REFUSED)
		say(r, "error", "maintenance", psprintf("no worker may work: %s", slot.last_error),
			"See version and key here. The workers start by themselves when that is mended.");
	else if (slot.last_error_at != 0)
		say(r, "error", "maintenance", psprintf("the maintenance worker fails: %s", slot.last_error),
			"It is tried again every 1 to 20 seconds.");
	else if (slot.state != CDP_SLOT_FREE)
		say(r, "info", "maintenance", "the maintenance worker is starting", NULL);
	else
		say(r, "error", "maintenance", "the maintenance worker is not running",
			"SELECT cdp.setup() if it did not run here; else wait some seconds, and look at worker_slots.");
}

static void
report_slots(Report *r)
{
	if (cdp_workers->no_worker_since != 0)
		say(r, "error", "worker_slots",
			psprintf("no background worker slot is free since %s", timestamptz_to_str(cdp_workers->no_worker_since)),
			"Raise max_worker_processes and restart the server.");
	else if (cdp_workers->no_slot_since != 0)
		say(r, "error", "worker_slots", psprintf("all %d workers of cdp.max_workers are used", cdp_max_workers),
			"Raise cdp.max_workers (and max_worker_processes) and restart the server.");
	else
		say(r, "ok", "worker_slots", "there are worker slots for all that should run", NULL);
}

/* The error that a function raises, or NULL: the report goes on. */
static ErrorData *
attempt(CdpInSubtransaction function, void *arg)
{
	ErrorData  *error = cdp_in_subtransaction(function, arg);

	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return error;
}

typedef struct Requirement
{
	void		(*require) (void);
} Requirement;

static bool
call_requirement(void *arg)
{
	((Requirement *) arg)->require();
	return true;
}

/* Whether it is met. */
static bool
report_requirement(Report *r, const char *item, void (*require) (void), const char *good)
{
	Requirement requirement = {require};
	ErrorData  *error = attempt(call_requirement, &requirement);

	if (error)
		say(r, "error", item, error->message, error->hint ? error->hint : error->detail);
	else
		say(r, "ok", item, good, NULL);
	return error == NULL;
}

typedef struct Part
{
	Report	   *r;
	void		(*report) (Report *r);
} Part;

static bool
call_part(void *arg)
{
	Part	   *part = arg;

	part->report(part->r);
	return true;
}

/* What reads a table says at least that it could not. */
static void
report_part(Report *r, const char *item, void (*report) (Report *r))
{
	Part		part = {r, report};
	ErrorData  *error = attempt(call_part, &part);

	if (error)
		say(r, "warning", item, psprintf("it could not be looked at: %s", error->message),
			error->detail ? error->detail : "Look into pg_locks for who locks tables of cdp_data.");
}

static char *
cell(int row, int column)
{
	char	   *text = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return text ? text : "";
}

static bool
may_see(const char *workspace_id)
{
	return cdp_caller_is(superuser_arg) || list_member_int(cdp_caller_workspaces(), atoi(workspace_id));
}

/* Superusers see all here; who sees nothing must not take that for rest. */
static void
report_workspace(Report *r)
{
	if (cdp_caller_workspaces() != NIL)
		return;
	if (cdp_caller_is(superuser_arg))
		say(r, "info", "workspace", "this role works in no workspace: other views are empty, and functions refuse",
			"Use SET ROLE, or cdp.grant_workspace(role, workspace).");
	else
		say(r, "warning", "workspace", "this role works in no workspace, so nothing is said of sources and people",
			"Use cdp.grant_workspace(role, workspace).");
}

/* Whoever is given the name of a role that was dropped would work where it did.  SPI is connected. */
static void
report_roles(Report *r)
{
	uint64		n = cdp_owner_query("SELECT g.role_name, w.workspace_id, w.name FROM cdp_data.workspace_role g"
									" JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) g.workspace_id"
									" WHERE g.role_name OPERATOR(pg_catalog.<>) '" CDP_EVERYBODY "' AND NOT EXISTS"
									" (SELECT FROM pg_catalog.pg_roles a WHERE a.rolname OPERATOR(pg_catalog.=) g.role_name)"
									" ORDER BY w.name, g.role_name",
									0, NULL, NULL, NULL);

	for (int i = 0; i < n; i++)
		if (may_see(cell(i, 2)))
			say(r, "warning", psprintf("workspace %s", cell(i, 3)),
				psprintf("role \"%s\", which was granted it, does not exist", cell(i, 1)),
				"After a restore, bring the roles (pg_dumpall --roles-only). If it was dropped or renamed: cdp.revoke_workspace() with this name, or the next role of this name works in the workspace.");
}

/* the workers of one source */
typedef struct Workers
{
	int			running,
				waiting,
				failed;			/* ended with an error, and did not work since */
	bool		worst_failed;
	CdpSlot		worst;			/* whose error is shown; last_error is empty: nobody's */
} Workers;

/* who fails comes before who waits, then the trouble that is older */
static bool
is_worse(const CdpSlot *slot, bool failed, const Workers *w)
{
	if (slot->last_error[0] == '\0' || w->worst.last_error[0] == '\0')
		return slot->last_error[0] != '\0';
	if (failed != w->worst_failed)
		return failed;
	return slot->last_error_at < w->worst.last_error_at;
}

static void
count_worker(Workers *w, const CdpSlot *slot)
{
	bool		up = slot->state == CDP_SLOT_UP;
	bool		failed = slot->failures > 0 && !(up && slot->condition == CDP_COND_WAITING);

	if (up && slot->condition == CDP_COND_RUNNING)
	{
		w->running++;
		return;
	}
	if (is_worse(slot, failed, w))
	{
		w->worst = *slot;
		w->worst_failed = failed;
	}
	w->failed += failed;
	w->waiting += up && !failed && slot->condition == CDP_COND_WAITING;
}

static void
count_workers(int32 source_id, Workers *w)
{
	memset(w, 0, sizeof(*w));
	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		const CdpSlot *slot = &cdp_workers->slots[i];

		if (slot->state != CDP_SLOT_FREE && slot->kind == CDP_WORKER_SOURCE && slot->wanted &&
			slot->database == MyDatabaseId && slot->source_id == source_id)
			count_worker(w, slot);
	}
	LWLockRelease(cdp_workers->lock);
}

/* Is there nothing that keeps the launcher from starting a worker, within moments? */
static bool
may_start(void)
{
	const CdpSlot *maintenance;
	bool		up;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	maintenance = cdp_maintenance_slot(MyDatabaseId);
	up = maintenance && maintenance->state == CDP_SLOT_UP && maintenance->condition == CDP_COND_RUNNING &&
		cdp_workers->launcher_pid != 0 && cdp_workers->no_worker_since == 0 && cdp_workers->no_slot_since == 0;
	LWLockRelease(cdp_workers->lock);
	return up;
}

static const char *
severity_of(const Workers *w, int starting)
{
	if (w->failed > 0 || (starting > 0 && !may_start()))
		return "error";
	return w->waiting > 0 ? "warning" : "info";
}

static void
report_running(Report *r, const char *item, int workers, const Workers *w)
{
	StringInfoData message;
	int			starting = workers - w->running - w->waiting - w->failed;

	initStringInfo(&message);
	appendStringInfo(&message, "%d of %d workers are running", w->running, workers);
	if (w->running == workers)
	{
		say(r, "ok", item, message.data, NULL);
		return;
	}
	appendStringInfo(&message, ", %d wait, %d failed", w->waiting, w->failed);
	if (starting > 0)
		appendStringInfo(&message, ", %d not yet started", starting);
	if (w->worst.last_error[0])
		appendStringInfo(&message, "; worker %d: %s", w->worst.worker + 1, w->worst.last_error);
	say(r, severity_of(w, starting), item, message.data, starting > 0 ?
		"Workers start when nothing is in the way: see maintenance, key and worker_slots here." :
		"Workers try again by themselves; cdp.source_status has the last error of each topic.");
}

/* A process that another one replaced, and that is still there. */
static void
report_silent(Report *r, const char *item, int32 source_id)
{
	int			pid = 0;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		const CdpSlot *slot = &cdp_workers->slots[i];

		if (slot->state == CDP_SLOT_UP && slot->abandoned &&
			slot->database == MyDatabaseId && slot->source_id == source_id)
			pid = slot->pid;
	}
	LWLockRelease(cdp_workers->lock);
	if (pid != 0)
		say(r, "warning", item, psprintf("process %d is silent; another one has its place", pid),
			"It was stopped, or waits for a disk, and may hold locks. When it goes on it ends by itself.");
}

/* Topics, a bit for each, that a worker of the source found to be compacted. */
static uint32
compacted_topics(int32 source_id)
{
	uint32		compacted = 0;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		const CdpSlot *slot = &cdp_workers->slots[i];

		if (slot->state == CDP_SLOT_UP && slot->kind == CDP_WORKER_SOURCE && !slot->abandoned &&
			slot->database == MyDatabaseId && slot->source_id == source_id)
			compacted |= slot->compacted;
	}
	LWLockRelease(cdp_workers->lock);
	return compacted;
}

static void
report_compacted(Report *r, const char *item, int32 source_id)
{
	int			n = pg_popcount32(compacted_topics(source_id));

	if (n > 0)
		say(r, "warning", item, psprintf("%d of its topics are compacted: what Kafka removes before it is read is lost without a gap", n),
			"Messages that must not be lost need a topic with cleanup.policy=delete.");
}

static void
report_source(Report *r, int row)
{
	char	   *item = psprintf("source %s", cell(row, 3));
	int			diverged = atoi(cell(row, 6));
	int32		source_id = atoi(cell(row, 1));
	bool		paused = strcmp(cell(row, 5), "t") == 0;
	Workers		w;

	count_workers(source_id, &w);
	report_silent(r, item, source_id);
	report_compacted(r, item, source_id);
	if (diverged > 0)
		say(r, "error", item, psprintf("%d partitions hold other records than those that were read; they are at rest", diverged),
			psprintf("The topic was deleted and made again, or truncated, or the position was set beyond its end. To read all of it%s:"
					 " SELECT cdp.adopt_source(source, topic, \"partition\", 0) FROM cdp.source_status WHERE state = 'diverged' AND source = %s;",
					 paused ? ", when the source was resumed" : "", quote_literal_cstr(cell(row, 3))));
	if (paused)
		say(r, "info", item, "the source is paused", psprintf("SELECT cdp.resume_source(%s);", quote_literal_cstr(cell(row, 3))));
	else
		report_running(r, item, atoi(cell(row, 4)), &w);
}

/* SPI is connected. */
static void
report_sources(Report *r)
{
	uint64		n = cdp_owner_query("SELECT s.source_id, s.workspace_id, s.name, s.workers, s.paused,"
									" (SELECT pg_catalog.count(*) FROM cdp_data.source_offset o"
									" WHERE o.source_id OPERATOR(pg_catalog.=) s.source_id"
									" AND o.state OPERATOR(pg_catalog.=) 'diverged')"
									" FROM cdp_data.source s WHERE s.brokers IS NOT NULL ORDER BY s.name",
									0, NULL, NULL, NULL);

	for (int i = 0; i < n; i++)
		if (may_see(cell(i, 2)))
			report_source(r, i);
}

/* Rows of a table that belong to the caller's workspaces, and the age of the oldest.  SPI is connected. */
static int64
count_waiting(const char *table, const char *since, int64 *seconds)
{
	uint64		n = cdp_owner_query(psprintf("SELECT workspace_id, pg_catalog.count(*), pg_catalog.extract('epoch',"
											 " pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.min(%s))::pg_catalog.int8"
											 " FROM cdp_data.%s GROUP BY workspace_id", since, table), 0, NULL, NULL, NULL);
	int64		waiting = 0;

	*seconds = 0;
	for (int i = 0; i < n; i++)
		if (may_see(cell(i, 1)))
		{
			waiting += atoll(cell(i, 2));
			*seconds = Max(*seconds, atoll(cell(i, 3)));
		}
	return waiting;
}

/* Messages that the broker deleted before they were read; each source that lost some in the last day has a row. */
static void
report_gaps(Report *r)
{
	uint64		n = cdp_owner_query("SELECT s.name, s.workspace_id, pg_catalog.sum(g.to_offset OPERATOR(pg_catalog.-) g.from_offset)"
									" FROM cdp_data.source_gap g"
									" JOIN cdp_data.source s ON s.source_id OPERATOR(pg_catalog.=) g.source_id"
									" WHERE g.found_at OPERATOR(pg_catalog.>)"
									" (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval)"
									" GROUP BY s.name, s.workspace_id ORDER BY s.name", 0, NULL, NULL, NULL);

	for (uint64 i = 0; i < n; i++)
		if (may_see(cell(i, 2)))
			say(r, "warning", psprintf("gap %s", cell(i, 1)),
				psprintf("the broker deleted %s messages before they were read, found within the last day", cell(i, 3)),
				"They are lost to this source: see cdp.source_gap. Give the topic a longer retention, or the source more workers.");
}

/* Messages that wait for somebody whom a session holds. */
static void
report_parked(Report *r)
{
	int64		seconds;
	int64		waiting = count_waiting("parked", "parked_at", &seconds);

	if (waiting == 0)
		say(r, "ok", "parked", "no message is parked", NULL);
	else
		say(r, seconds < OLD_PARKED_S ? "info" : "warning", "parked",
			psprintf("%lld messages are parked, one for %lld s", (long long) waiting, (long long) seconds),
			"They wait for people whom an open transaction holds, and are applied when it has ended; oldest_snapshot here names the oldest one.");
}

/* People whose recompute was left to the maintenance worker. */
static void
report_recompute(Report *r)
{
	int64		seconds;
	int64		waiting = count_waiting("dirty", "marked_at", &seconds);

	if (waiting == 0)
		say(r, "ok", "recompute", "nobody waits to be computed again", NULL);
	else if (seconds < OLD_DIRTY_S)
		say(r, "info", "recompute", psprintf("%lld people wait to be computed again from their events", (long long) waiting),
			"The maintenance worker does it within moments.");
	else
		say(r, "warning", "recompute",
			psprintf("%lld people wait to be computed again from their events, one for %lld s", (long long) waiting, (long long) seconds),
			"Look at maintenance here, and for a transaction that holds them.");
}

/* Workspaces in which something may be left below the watermark. */
static void
report_purge(Report *r)
{
	int64		seconds;
	int64		waiting = count_waiting("retention_watermark WHERE cleared OPERATOR(pg_catalog.<) watermark", "advanced_at", &seconds);

	if (waiting == 0)
		say(r, "ok", "purge", "nothing is left of what was purged", NULL);
	else if (seconds < OLD_PURGE_S)
		say(r, "info", "purge", "what was purged is looked for once more", "The maintenance worker does it within moments.");
	else
		say(r, "warning", "purge",
			psprintf("events that were purged %lld s ago may be left", (long long) seconds),
			"It ends when all transactions have ended that wrote into cdp then, or hold people whose events go: see oldest_snapshot and maintenance here.");
}

/* Erasures that are to be repeated when the batches of that time have ended. */
static void
report_erasure(Report *r)
{
	int64		seconds;
	int64		waiting = count_waiting("erasure WHERE completed_at IS NULL", "erased_at", &seconds);

	if (waiting == 0)
		say(r, "ok", "erasure", "nothing is left of who was forgotten", NULL);
	else if (seconds < OLD_PURGE_S)
		say(r, "info", "erasure", psprintf("messages of %lld erasures are looked for once more", (long long) waiting),
			"The maintenance worker does it within moments.");
	else
		say(r, "warning", "erasure",
			psprintf("messages of people who were forgotten %lld s ago may be left among those that are set aside", (long long) seconds),
			"It ends when all transactions have ended that wrote into cdp then: see oldest_snapshot and maintenance here.");
}

/*
 * What keeps old row versions alive: asked as who sees all sessions, so that
 * every caller gets the same answer; names only a process, slot or transaction.
 * SPI is connected.
 */
static void
report_snapshots(Report *r)
{
	CdpUserContext save;
	int			rc;

	cdp_become_stats_reader(&save);
	rc = SPI_execute("SELECT h.holder, pg_catalog.extract('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) h.since)::pg_catalog.int8"
					 " FROM (SELECT 'process ' OPERATOR(pg_catalog.||) pid::pg_catalog.text AS holder, xact_start AS since"
					 " FROM pg_catalog.pg_stat_activity WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"
					 " AND pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()"
					 " AND (datname OPERATOR(pg_catalog.=) pg_catalog.current_database() OR datname IS NULL)"
					 " UNION ALL SELECT 'prepared transaction', prepared FROM pg_catalog.pg_prepared_xacts"
					 " WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()) h"
					 " WHERE h.since IS NOT NULL ORDER BY h.since LIMIT 1", true, 0);
	cdp_become_caller(&save);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "cdp: could not look for the oldest snapshot");
	if (SPI_processed == 0)
		say(r, "ok", "oldest_snapshot", "no other transaction is open", NULL);
	else if (atoll(cell(0, 2)) < OLD_SNAPSHOT_S)
		say(r, "ok", "oldest_snapshot", psprintf("the oldest transaction, of %s, is open for %s s", cell(0, 1), cell(0, 2)), NULL);
	else
		say(r, "warning", "oldest_snapshot",
			psprintf("%s keeps old row versions alive for %s s", cell(0, 1), cell(0, 2)),
			"Ingest gets slower with every minute. End it, or set idle_in_transaction_session_timeout.");
}

static void
report_clock(Report *r)
{
	int64		forward = cdp_clock_set_forward();
	int64		behind = cdp_clock_behind();

	if (forward > CDP_CLOCK_TRUST_US)
		say(r, "warning", "clock",
			psprintf("the clock was set forward by %lld s since the server started; cdp.purge_before() refuses", (long long) (forward / USECS_PER_SEC)),
			"Set the clock right. If it is right, restart the server.");
	else if (behind > OLD_CLOCK_S * USECS_PER_SEC)
		say(r, "warning", "clock",
			psprintf("the clock is %lld s behind the last batch; batches are stamped with that instant until it has caught up", (long long) (behind / USECS_PER_SEC)),
			"Set the clock right, if it is not.");
	else
		say(r, "ok", "clock", "the clock goes on as when the server started", NULL);
}

static void
report_workers(Report *r)
{
	if (RecoveryInProgress())
	{
		say(r, "info", "standby", "this server is a standby; workers start when it is promoted", NULL);
		return;
	}
	report_launcher(r);
	report_part(r, "maintenance", report_maintenance);
	report_slots(r);
}

/* What only the owner of the tables can read. */
static bool
read_tables(void *arg)
{
	Report	   *r = arg;

	SPI_connect();
	if (!RecoveryInProgress())
	{
		report_sources(r);
		report_gaps(r);
	}
	report_roles(r);
	report_parked(r);
	report_recompute(r);
	report_purge(r);
	report_erasure(r);
	report_snapshots(r);
	SPI_finish();
	return true;
}

static void
report_tables(Report *r)
{
	ErrorData  *error = attempt(read_tables, r);

	if (error)
		say(r, error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? "warning" : "error", "tables",
			psprintf("not all tables of cdp could be looked at: %s", error->message),
			"Rows are missing here. Look into pg_locks for who locks tables of cdp_data.");
	else
		say(r, "ok", "tables", "the tables can be read", NULL);
}

static void
report_shapes(Report *r)
{
	Requirement requirement = {cdp_shapes_require};
	ErrorData  *error = attempt(call_requirement, &requirement);

	if (error == NULL)
		say(r, "ok", "shapes", "the tables are as cdp made them", NULL);
	else if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		say(r, "warning", "shapes", psprintf("the tables could not be looked at: %s", error->message),
			"Look into pg_locks for who locks tables of cdp_data.");
	else
		say(r, "error", "shapes", psprintf("%s: nothing can be written", error->message),
			psprintf("%s %s", error->detail ? error->detail : "", error->hint ? error->hint : ""));
}

/* Who asks what is wrong does not wait for who locks the tables. */
static void
wait_no_longer(void)
{
	if (LockTimeout == 0 || LockTimeout > LOCK_TIMEOUT_MS)
		(void) set_config_option("lock_timeout", psprintf("%d", LOCK_TIMEOUT_MS), PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

PG_FUNCTION_INFO_V1(cdp_sql_server_status);

Datum
cdp_sql_server_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Report		r;
	int			nest;

	InitMaterializedSRF(fcinfo, 0);
	r = (Report) {rsinfo->setResult, rsinfo->setDesc};
	if (cdp_workers == NULL)
	{
		say(&r, "error", "preload", "the library was not preloaded: no worker runs, and views raise an error",
			"Add cdp to shared_preload_libraries and restart the server.");
		return (Datum) 0;
	}
	say(&r, "ok", "preload", "the library was preloaded", NULL);
	nest = NewGUCNestLevel();
	wait_no_longer();
	report_clock(&r);
	report_workers(&r);
	if (report_requirement(&r, "version", cdp_version_require, "library, extension and tables are of one version"))
		report_part(&r, "workspace", report_workspace);
	(void) report_requirement(&r, "key", cdp_key_require, "the key is there and is the right one");
	if (report_requirement(&r, "owner", cdp_owner_require, "the tables belong to cdp_owner"))
	{
		report_shapes(&r);
		report_tables(&r);
	}
	AtEOXact_GUC(true, nest);
	return (Datum) 0;
}
