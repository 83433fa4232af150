/*
 * resweep.c: what the maintenance worker does after a purge.
 *
 * While cdp_data.retention_watermark says that something may be left below a
 * watermark (cleared < watermark), it sweeps: people who were held, the people
 * beyond what one purge does, and what batches stored that did not know W.  A
 * slice of people is a transaction; who is held is passed over, and waits for
 * the next round.  A sweep that found nobody deletes the ids of messages and the
 * events of nobody, too.
 *
 * The holders of engine_lock are noted once the watermark is there for all to
 * see (holders.c).  When they have ended it sweeps once more, from the beginning,
 * and if that finds nobody, nothing is left and nothing will come: cleared is
 * raised.  Then partitions are dropped; when their lock is not had, a while later.
 *
 * An idle round is one read-only query.  After a crash, or another purge, all
 * begins again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/block.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "holders.h"
#include "privacy/purge.h"
#include "privacy/sweep.h"
#include "spi.h"

#define ROUND_MS 1000			/* then the other jobs have their turn */
#define DROP_AGAIN_MS 5000		/* until the lock of a partition is asked for again: all batches queue behind that */
#define MOST_PENDING 1000		/* workspaces that are swept at a time */

typedef struct Pending
{
	int32		workspace_id;
	TimestampTz watermark;
	int64		after;			/* the sweep at hand is so far */
	bool		found;			/* somebody, in this sweep */
	bool		clean;			/* the last sweep found nobody */
} Pending;

static Pending pending[MOST_PENDING];
static int	npending = 0;
static VirtualTransactionId *before = NULL; /* who may not know these watermarks */
static bool ended;				/* all of them */
static TimestampTz drops_due = DT_NOBEGIN;	/* when partitions are to be dropped; DT_NOEND: there are none */

/* ---------------------------------------------------------------- in a transaction, as cdp_owner */

typedef void (*Work) (void *arg);

/* false: somebody held a lock, and nothing was done */
static bool
run(Work work, void *arg)
{
	volatile bool done = true;
	CdpUserContext user;

	StartTransactionCommand();
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		cdp_become_owner(&user);
		work(arg);
		cdp_become_caller(&user);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		cdp_engine_instant = 0;
		if (!cdp_is_lock_failure(geterrcode()))
			PG_RE_THROW();
		AbortCurrentTransaction();
		FlushErrorState();
		done = false;
	}
	PG_END_TRY();
	CHECK_FOR_INTERRUPTS();
	return done;
}

/* ---------------------------------------------------------------- which watermarks */

static CdpSpi pending_plan = {
	"SELECT r.workspace_id, r.watermark FROM cdp_data.retention_watermark r WHERE r.cleared < r.watermark"
	" ORDER BY r.workspace_id LIMIT " CppAsString2(MOST_PENDING),
	0
};

/* the rows of the running result are those that we have? */
static bool
are_known(int n)
{
	bool		isnull;

	for (int i = 0; i < n && i < npending; i++)
		if (pending[i].workspace_id != DatumGetInt32(cdp_spi_datum(i, 1, &isnull)) ||
			pending[i].watermark != cdp_spi_int64(i, 2))
			return false;
	return n == npending;
}

static void
look_for_watermarks(void *arg)
{
	Oid			engine_lock = cdp_table(CDP_T_ENGINE_LOCK);
	int			n = cdp_spi_run(&pending_plan, NULL, NULL);
	bool		isnull;

	if (!are_known(n))
	{
		for (int i = 0; i < n; i++)
			pending[i] = (Pending) {DatumGetInt32(cdp_spi_datum(i, 1, &isnull)), cdp_spi_int64(i, 2)};
		npending = n;
		if (before)
			pfree(before);
		before = cdp_holders_note(&engine_lock, 1);
		ended = false;
	}
	cdp_spi_end();
}

/* ---------------------------------------------------------------- sweeping */

static void
sweep_slice(void *arg)
{
	Pending    *p = arg;
	CdpSweep	s = {.cxt = CurrentMemoryContext, .workspace_id = p->workspace_id, .watermark = p->watermark, .after = p->after};
	bool		more;

	(void) cdp_workspace_hold(p->workspace_id); /* of one that was dropped nothing is found */
	more = cdp_sweep_people(&s);
	p->after = more ? s.after : 0;
	p->found |= more;
}

static void
sweep_rest(void *arg)
{
	Pending    *p = arg;
	CdpSweep	s = {.cxt = CurrentMemoryContext, .workspace_id = p->workspace_id, .watermark = p->watermark};

	(void) cdp_workspace_hold(p->workspace_id);
	cdp_sweep_seen(&s);
	cdp_sweep_nobody(&s);
}

/* one sweep, or what of it can be done until the end of the round */
static void
sweep(Pending *p, TimestampTz end)
{
	do
	{
		if (!run(sweep_slice, p))
			return;
	} while (p->after != 0 && GetCurrentTimestamp() < end);
	if (p->after != 0)
		return;
	p->clean = !p->found && run(sweep_rest, p);
	p->found = false;
}

/* what was swept before they ended is swept once more */
static void
look_for_end(void)
{
	if (ended || !cdp_holders_have_ended(before))
		return;
	ended = true;
	for (int i = 0; i < npending; i++)
	{
		pending[i].clean = pending[i].found = false;
		pending[i].after = 0;
	}
}

static CdpSpi cleared_plan = {
	"UPDATE cdp_data.retention_watermark SET cleared = $2 WHERE workspace_id = $1 AND class = 'event' AND cleared < $2",
	2, {INT4OID, TIMESTAMPTZOID}
};

static void
mark_cleared(void *arg)
{
	Pending    *p = arg;
	Datum		args[2] = {Int32GetDatum(p->workspace_id), TimestampTzGetDatum(p->watermark)};

	cdp_spi_exec(&cleared_plan, args, NULL);
}

static void
sweep_all(void)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROUND_MS);

	for (int i = 0; i < npending; i++)
	{
		if (!pending[i].clean && GetCurrentTimestamp() < end)
			sweep(&pending[i], end);
		if (ended && pending[i].clean && run(mark_cleared, &pending[i]))
			drops_due = DT_NOBEGIN;
	}
}

/* ---------------------------------------------------------------- partitions */

static void
drop_partitions(void *arg)
{
	CdpTable	table = *(CdpTable *) arg;
	List	   *dropped;

	cdp_set_lock_timeout(CDP_DROP_MS);
	dropped = cdp_drop_partitions(table, cdp_least_watermark(0, DT_NOBEGIN, true), true, MaxBlockNumber);
	if (dropped)
		ereport(LOG, (errmsg("cdp dropped %d partitions that lay below the watermark", list_length(dropped))));
}

static bool
drop_all(void)
{
	CdpTable	seen = CDP_T_MESSAGE_SEEN,
				event = CDP_T_EVENT;
	bool		done = run(drop_partitions, &seen);

	return run(drop_partitions, &event) && done;
}

/* ---------------------------------------------------------------- the job */

bool
cdp_purge_maintain(void)
{
	if (!run(look_for_watermarks, NULL))
		return false;
	if (npending > 0)
	{
		look_for_end();
		sweep_all();
	}
	if (GetCurrentTimestamp() >= drops_due)
		drops_due = drop_all() ? DT_NOEND : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DROP_AGAIN_MS);
	return true;
}
