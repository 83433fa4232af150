/*
 * wait.c: cdp.wait_for_source().
 *
 * A request is a number, larger than all before, that the waiting session
 * writes into the slots of the source's workers.  A worker that finds it looks
 * at its topics and asks the broker for the end of each partition, after it
 * took the request and hence after the call; when its committed positions have
 * passed all of these ends it writes the number back.  The session sleeps on a
 * condition variable meanwhile and holds no lock; each time it wakes it reads
 * the source's row with a new snapshot, so that it follows what others commit:
 * more workers, another configuration, a dropped source.  An answer counts only
 * if it was given under the configuration that the row has now.  Then nothing
 * of the source may be parked; that is looked at every PARKED_MS.
 *
 * A worker that restarts finds the request still in its slot.  With no worker,
 * no topic or no broker there is no answer, and the time runs out: false.
 *
 * Who waits must not hold back the removal of dead rows: without it the updates
 * of the workers are not HOT any more, and cost half of their speed (measured).
 * So a statement that is nothing but the call gives up its xmin while it waits.
 */
#include "cdp.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"

#define LOOK_MS 1000			/* look again although nobody told us */
#define PARKED_MS 50			/* the same, while only parked messages are missing */

typedef struct Awaited
{
	int32		source_id;
	bool		kafka;
	bool		paused;
	int32		workers;
	int64		generation;
	bool		parked;
	TransactionId xmin;
} Awaited;

static Datum
result(int column)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);
}

/* What is committed about the source now; raises when there is none. */
static Awaited
read_source(const char *name, int32 source_id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(source_id)};
	Awaited		a;

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	if (cdp_owner_read("SELECT source_id, brokers IS NOT NULL, workers, " CDP_GENERATION_SQL ","
					   " EXISTS (SELECT 1 FROM cdp_data.parked p"
					   " WHERE p.source_id OPERATOR(pg_catalog.=) s.source_id), xmin, paused"
					   " FROM cdp_data.source s WHERE source_id OPERATOR(pg_catalog.=) $1",
					   1, types, values) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name)));
	a.source_id = DatumGetInt32(result(1));
	a.kafka = DatumGetBool(result(2));
	a.workers = DatumGetInt32(result(3));
	a.generation = DatumGetInt64(result(4));
	a.parked = DatumGetBool(result(5));
	a.xmin = DatumGetTransactionId(result(6));
	a.paused = DatumGetBool(result(7));
	SPI_finish();
	PopActiveSnapshot();
	return a;
}

static void
require_waitable(const char *name, const Awaited *a)
{
	if (a->kafka && TransactionIdIsNormal(a->xmin) && TransactionIdIsCurrentTransactionId(a->xmin))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" was created or changed in this transaction", name),
				 errdetail("Workers see it after the commit only."),
				 errhint("Commit first, then wait.")));
	if (a->kafka && cdp_workers == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cdp was not preloaded, so nothing consumes source \"%s\"", name),
				 errhint("Add cdp to shared_preload_libraries and restart the server.")));
}

static uint64
new_request(void)
{
	uint64		request;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	request = ++cdp_workers->last_request;
	LWLockRelease(cdp_workers->lock);
	return request;
}

/* Put the request before the workers that have not seen it; true if all have answered. */
static bool
is_answered(const Awaited *a, uint64 request)
{
	int			answers = 0;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->state == CDP_SLOT_FREE || slot->kind != CDP_WORKER_SOURCE || !slot->wanted ||
			slot->database != MyDatabaseId || slot->source_id != a->source_id)
			continue;
		if (slot->request < request)
		{
			slot->request = request;
			if (slot->latch)
				SetLatch(slot->latch);
		}
		if (slot->state == CDP_SLOT_UP && slot->running_generation == a->generation &&
			slot->reached >= request)
			answers++;
	}
	LWLockRelease(cdp_workers->lock);
	return answers == a->workers;
}

/*
 * Is the statement SELECT of this call alone, without any other that could look
 * at its snapshot again?  A cursor, which always has a name, may be a function's
 * in the middle of a query; a portal that is ready may be run after us.
 */
static bool
is_whole_statement(const Node *call)
{
	const PlannedStmt *stmt;
	const Plan *plan;

	if (IsInTransactionBlock(true) || ActivePortal == NULL || ActivePortal->queryDesc == NULL ||
		ActivePortal->name[0] != '\0' || !ThereAreNoReadyPortals())
		return false;
	stmt = ActivePortal->queryDesc->plannedstmt;
	plan = stmt->planTree;
	return IsA(plan, Result) && plan->lefttree == NULL && stmt->subplans == NIL &&
		list_length(plan->targetlist) == 1 &&
		(const Node *) linitial_node(TargetEntry, plan->targetlist)->expr == call;
}

/* As if no snapshot were held; the next one that is taken sets it again. */
static void
give_up_xmin(void)
{
	InvalidateCatalogSnapshot();
	MyProc->xmin = TransactionXmin = InvalidTransactionId;
}

/* From now; a month has the length that it has in the calendar. */
static int64
milliseconds_of(Datum interval)
{
	TimestampTz now = GetCurrentTimestamp();

	return (DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), interval)) - now) /
		1000;
}

/* Wait until every worker has answered and nothing is parked; false: the time is over. */
static bool
wait_for(const char *name, Awaited a, int64 until, bool whole_statement)
{
	uint64		request = a.kafka ? new_request() : 0;
	bool		done = false;

	for (;;)
	{
		bool		answered;
		int64		ms;

		ConditionVariablePrepareToSleep(&cdp_workers->progress);
		answered = !a.kafka || is_answered(&a, request);
		done = answered && !a.parked;
		ms = until - cdp_ticks();
		if (done || ms <= 0)
			break;
		ms = Min(ms, answered ? PARKED_MS : LOOK_MS);
		if (whole_statement)
			give_up_xmin();
		ConditionVariableTimedSleep(&cdp_workers->progress, ms, cdp_wait_event("CdpWaitForSource"));
		a = read_source(name, a.source_id);
		require_waitable(name, &a);
	}
	ConditionVariableCancelSleep();
	return done;
}

PG_FUNCTION_INFO_V1(cdp_sql_wait_for_source);

Datum
cdp_sql_wait_for_source(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		until = cdp_ticks() + milliseconds_of(PG_GETARG_DATUM(1));
	Awaited		a;

	PreventCommandDuringRecovery("wait_for_source");
	cdp_version_require();
	a = read_source(name, cdp_source_id_of_caller(name));
	require_waitable(name, &a);
	if (a.paused)
		ereport(NOTICE,
				(errmsg("source \"%s\" is paused; nothing comes until it is resumed", name),
				 errhint("Use cdp.resume_source() in another session.")));
	if (!a.kafka && !a.parked)
		PG_RETURN_BOOL(true);
	if (cdp_workers == NULL)
		PG_RETURN_BOOL(false);	/* parked messages of an SQL source, and nobody to apply them */
	PG_RETURN_BOOL(wait_for(name, a, until, is_whole_statement(fcinfo->flinfo->fn_expr)));
}
