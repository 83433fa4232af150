/*
 * maintenance.c: the one worker of each database that is set up.
 *
 *   starting --(cdp absent, or cdp.workers off)--> absent, exits 0
 *   starting --(all is well)---------------------> running  <--+
 *   starting --(data of another server)----------> detached ---+ (cdp.setup() attached it)
 *   any      --(key or version is not the right one)--> refused, until it is
 *   running  <-(somebody locks what it needs)----> waiting
 *   any      --(another error)-------------------> exits 1, comes back after a back-off
 *
 * Each second, or when it is woken, it reads cdp_data.source and writes into
 * the slots which source workers should run, with the generation of each
 * configuration; the launcher starts and stops them.  A source that is paused
 * has none, nor has any where the library is not that of the tables, or has not
 * their key.  Then it runs the jobs that are due.  An idle round is one read-only
 * query: it writes no WAL.  A source that finds no slot (cdp.max_workers) waits;
 * cdp.status says so.
 *
 * In a database whose data came from elsewhere (another system identifier or
 * database than cdp_data.instance says) no source has a worker and no job runs:
 * a restore may still be under way.  While it is, the row of cdp_data.instance
 * may be missing, and cdp is not set up yet.
 *
 * A job that does not get a lock, or is a deadlock's victim, is tried again
 * some seconds later, and the others go on; the log has a line when that begins
 * and one when it ends.
 */
#include "cdp.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "event/filter.h"
#include "event/partition.h"
#include "privacy/purge.h"
#include "profile/dirty.h"
#include "profile/statistics.h"
#include "event/quarantine.h"
#include "launcher.h"
#include "privacy/erasure.h"

#define ROUND_MS 1000

/* outside a transaction; false: try again after RETRY_MS */
typedef struct Job
{
	const char *name;
	int			every_ms;
	bool		(*run) (void);
	int64		next;			/* in cdp_ticks() */
	bool		hindered;		/* it failed last time, for a reason that will pass */
} Job;

#define RETRY_MS 5000

static bool look(void);
static bool apply_parked(void);

static Job	sources_job = {"reading the sources", 0, look}; /* in each round */

/* first what only reads and writes rows; DDL may fail for reasons of others (event triggers), which ends the process */
static Job	jobs[] = {
	{"applying parked messages", 1000, apply_parked},
	{"building filters", 1000, cdp_filter_maintain},
	{"following the growth of tables", 1000, cdp_statistics_maintain},
	{"keeping the clock's floor", 1000, cdp_clock_maintain},
	{"computing people again", 1000, cdp_dirty_maintain},
	{"completing erasures", 1000, cdp_erasure_maintain},
	{"purging", 1000, cdp_purge_maintain},
	{"making partitions", 60000, cdp_partition_maintain}
};

static CdpSlot *me;
static MemoryContext job_cxt;	/* emptied after each job */
static bool fit = false;		/* the data is ours, the version and the key are the right ones */

/* ---------------------------------------------------------------- what should run */

typedef struct Wanted
{
	int32		source_id;
	int32		workspace_id;
	int32		workers;
	int64		generation;
	char		name[NAMEDATALEN];
} Wanted;

static Datum
column(int row, int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
}

/* SPI is connected. */
static Wanted *
read_sources(int *n)
{
	Wanted	   *wanted;

	*n = cdp_owner_query("SELECT source_id, workspace_id, workers, " CDP_GENERATION_SQL ", name"
						 " FROM cdp_data.source WHERE brokers IS NOT NULL AND NOT paused"
						 " ORDER BY source_id", 0, NULL, NULL, NULL);
	wanted = palloc0(Max(*n, 1) * sizeof(Wanted));
	for (int i = 0; i < *n; i++)
	{
		char	   *name = TextDatumGetCString(column(i, 5));

		wanted[i].source_id = DatumGetInt32(column(i, 1));
		wanted[i].workspace_id = DatumGetInt32(column(i, 2));
		wanted[i].workers = DatumGetInt32(column(i, 3));
		wanted[i].generation = DatumGetInt64(column(i, 4));
		memcpy(wanted[i].name, name, pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1));
	}
	return wanted;
}


/* Lock held. */
static CdpSlot *
source_slot(int32 source_id, int worker)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->state != CDP_SLOT_FREE && slot->kind == CDP_WORKER_SOURCE &&
			slot->database == MyDatabaseId && slot->source_id == source_id &&
			slot->worker == worker && !slot->abandoned)
			return slot;
	}
	return NULL;
}

/* Lock held.  True if the launcher has something to do. */
static bool
publish_worker(const Wanted *wanted, int worker)
{
	CdpSlot    *slot = source_slot(wanted->source_id, worker);
	bool		changed = slot == NULL || slot->generation != wanted->generation;

	if (slot == NULL)
		slot = cdp_slot_allocate(CDP_WORKER_SOURCE, MyDatabaseId);
	if (slot == NULL)
		return false;			/* all are used: cdp.status says so */
	if (changed)
		slot->next_start = 0;
	slot->wanted = true;
	slot->source_id = wanted->source_id;
	slot->workspace_id = wanted->workspace_id;
	slot->worker = worker;
	slot->nworkers = wanted->workers;
	slot->generation = wanted->generation;
	memcpy(slot->name, wanted->name, NAMEDATALEN);
	return changed;
}

static void
publish(const Wanted *wanted, int n)
{
	bool		changed = false;
	int			nwanted = 0,
				nbefore = 0;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->state == CDP_SLOT_FREE || slot->kind != CDP_WORKER_SOURCE ||
			slot->database != MyDatabaseId)
			continue;
		nbefore += slot->wanted;
		slot->wanted = false;
	}
	for (int s = 0; s < n; s++)
	{
		for (int i = 0; i < wanted[s].workers; i++)
		{
			changed |= publish_worker(&wanted[s], i);
			nwanted++;
		}
	}
	LWLockRelease(cdp_workers->lock);
	if (!changed && nwanted == nbefore)
		return;
	cdp_wake_launcher(false, false);
	ConditionVariableBroadcast(&cdp_workers->progress); /* who waits has new slots to put a request in */
}

/* ---------------------------------------------------------------- parked messages */

/* Sources that have some; in a context of the caller. */
static int32 *
sources_with_parked(int *n)
{
	MemoryContext cxt = CurrentMemoryContext;
	int32	   *ids;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	*n = cdp_owner_query("SELECT s.source_id FROM cdp_data.source s WHERE EXISTS"
						 " (SELECT 1 FROM cdp_data.parked p WHERE p.source_id OPERATOR(pg_catalog.=) s.source_id)",
						 0, NULL, NULL, NULL);
	ids = MemoryContextAlloc(cxt, Max(*n, 1) * sizeof(int32));
	for (int i = 0; i < *n; i++)
		ids[i] = DatumGetInt32(column(i, 1));
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
	return ids;
}

/* One batch of each source in its own transaction; those who are still held are parked again. */
static bool
apply_parked(void)
{
	int			n;
	int32	   *ids = sources_with_parked(&n);

	for (int i = 0; i < n; i++)
	{
		CdpSource  *source;

		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		source = cdp_source_usable(ids[i]);
		if (source != NULL)
			(void) cdp_unpark(source, cdp_batch_rows);
		PopActiveSnapshot();
		CommitTransactionCommand();
		MemoryContextSwitchTo(job_cxt);
		ConditionVariableBroadcast(&cdp_workers->progress);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* ---------------------------------------------------------------- rounds */

static bool
is_wanted_here(void)
{
	return cdp_workers_enabled && cdp_is_set_up() && OidIsValid(get_extension_oid("cdp", true));
}

static bool
any_hindered(void)
{
	bool		any = sources_job.hindered;

	for (int i = 0; i < lengthof(jobs); i++)
		any |= jobs[i].hindered;
	return any;
}

/* Source workers as the table says; with another version or key none can work. */
static void
look_at_sources(void)
{
	Wanted	   *wanted;
	int			n;

	cdp_version_require();
	cdp_key_require();
	SPI_connect();
	wanted = read_sources(&n);
	publish(wanted, n);
	SPI_finish();
	cdp_slot_condition(me, any_hindered() ? CDP_COND_WAITING : CDP_COND_RUNNING);
}

/* Is the data ours, or at rest?  Ends where there is nothing to do. */
static bool
look(void)
{
	CdpAttachment attachment;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	attachment = is_wanted_here() ? cdp_attachment() : CDP_ATTACHED_NOWHERE;
	if (attachment == CDP_ATTACHED_NOWHERE)
	{
		cdp_slot_condition(me, CDP_COND_ABSENT);
		cdp_slot_end();
	}
	if (attachment == CDP_ATTACHED_HERE)
		look_at_sources();
	else
	{
		publish(NULL, 0);
		cdp_slot_condition(me, CDP_COND_DETACHED);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	fit = attachment == CDP_ATTACHED_HERE;
	return true;
}

/* No source may run before the key and the version are the right ones. */
static void
refuse(void)
{
	fit = false;
	publish(NULL, 0);
	cdp_slot_condition(me, CDP_COND_REFUSED);
}

/* error is NULL when it went well; says once that it began, and once that it is over. */
static void
note_hindrance(Job *job, const ErrorData *error)
{
	if (error)
		cdp_slot_error(me, unpack_sql_state(error->sqlerrcode), cdp_error_text(error));
	if (error && !job->hindered)
		ereport(LOG,
				(errmsg("%s waits with %s: %s", MyBgworkerEntry->bgw_name, job->name, cdp_error_text(error)),
				 error->hint ? errhint("%s", error->hint) : 0));
	else if (!error && job->hindered)
		ereport(LOG, (errmsg("%s goes on with %s", MyBgworkerEntry->bgw_name, job->name)));
	job->hindered = error != NULL;
}

static bool
is_refusal(const Job *job, const ErrorData *error)
{
	return job == &sources_job && error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
}

/* False: it must be tried again.  An error that does not pass by itself goes up, and ends the process. */
static bool
run_job(Job *job)
{
	volatile bool done = false;
	ErrorData  *volatile error = NULL;

	pgstat_report_activity(STATE_RUNNING, job->name);
	MemoryContextSwitchTo(job_cxt);
	PG_TRY();
	{
		done = job->run();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(job_cxt);
		error = CopyErrorData();
		if (!cdp_error_passes(error) && !is_refusal(job, error))
			PG_RE_THROW();
		FlushErrorState();
		AbortOutOfAnyTransaction();
	}
	PG_END_TRY();
	note_hindrance(job, error);
	if (error && is_refusal(job, error))
		refuse();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(job_cxt);
	CHECK_FOR_INTERRUPTS();
	return done;
}

static void
run_due_jobs(void)
{
	for (int i = 0; i < lengthof(jobs); i++)
	{
		if (jobs[i].next > cdp_ticks())
			continue;
		jobs[i].next = cdp_ticks() + (run_job(&jobs[i]) ? jobs[i].every_ms : RETRY_MS);
	}
}

static void
rounds(void)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (cdp_slot_stop_requested(me))
			cdp_slot_end();
		(void) run_job(&sources_job);
		if (fit)
			run_due_jobs();
		cdp_slot_healthy(me);
		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ROUND_MS, cdp_wait_event("CdpMaintenance"));
		ResetLatch(MyLatch);
	}
}

void
cdp_maintenance_main(Datum arg)
{
	MemoryContext cxt = TopMemoryContext;

	me = cdp_slot_attach(arg);
	job_cxt = AllocSetContextCreate(TopMemoryContext, "cdp maintenance job", ALLOCSET_DEFAULT_SIZES);
	SetConfigOption("application_name", "cdp maintenance", PGC_USERSET, PGC_S_OVERRIDE);
	PG_TRY();
	{
		rounds();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(cxt);
		cdp_slot_fail(me, error);
	}
	PG_END_TRY();
}
