/*
 * dirty.c: what must be computed again, now or later (R61).
 *
 * A split or a moved event makes a fragment's counters and traits wrong.  The
 * batch computes them again (recompute.c) unless that would read more than
 * cdp.recompute_limit events, or a part of them is waiting for it already: then
 * the fragments get a row in cdp_data.dirty, and the maintenance worker does it
 * a moment later, one fragment a transaction.
 *
 * Both hold the lock of the profile row, and so does everybody who writes or
 * deletes that row of dirty: no wait and no conflict there.  The recompute
 * reads all that is stored of the fragment, so batches go on folding into it as
 * into any other: what they add before is read again, what they add afterwards
 * comes on top of a right state.  Until then readers see the state without the
 * moved times, and after a split counters and traits of both people as those of
 * the one; cdp.verify() leaves such fragments out.
 *
 * The worker looks each second and is not woken: a replay that moves many
 * events of one large person then costs one recompute a second and not one a
 * batch, each of which would keep the batches out while it lasts.
 *
 * A fragment that somebody holds longer than lock_timeout waits for the next
 * round; the round begins behind the last one that was tried, so that it does
 * not keep the others waiting.  After a crash the rows are still there.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "profile/dirty.h"
#include "spi.h"
#include "work.h"

#define ROUND_FRAGMENTS 100		/* looked up at a time */
#define ROUND_MS 1000			/* then the other jobs have their turn */

/* ---------------------------------------------------------------- in a batch */

static CdpSpi waits_plan = {
	"SELECT FROM cdp_data.dirty d WHERE d.fragment_id = ANY ($1) LIMIT 1",
	1, {INT8ARRAYOID}
};

static CdpSpi mark_plan = {
	"INSERT INTO cdp_data.dirty (fragment_id, workspace_id, cause, marked_at) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT ON CONSTRAINT dirty_pkey DO NOTHING",
	4, {INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID}
};

/* is one of them waiting already? then its event_count says little */
static bool
one_waits(CdpFragment **f, int n)
{
	int64	   *ids = palloc(n * sizeof(int64));
	Datum		arg;
	bool		waits;

	for (int i = 0; i < n; i++)
		ids[i] = f[i]->fragment_id;
	arg = cdp_int8_array(ids, n);
	waits = cdp_spi_run(&waits_plan, &arg, NULL) > 0;
	cdp_spi_end();
	pfree(ids);
	return waits;
}

void
cdp_mark_recompute(CdpFragment **f, int n, const char *cause)
{
	int64		events = 0;
	bool		later = false;

	if (n == 1 && f[0]->recompute)
		return;
	for (int i = 0; i < n; i++)
	{
		events += f[i]->event_count;
		later |= f[i]->dirty != NULL;
	}
	later = later || events > cdp_recompute_limit || one_waits(f, n);
	for (int i = 0; i < n; i++)
	{
		f[i]->recompute = f[i]->changed = true;
		if (later)
			f[i]->dirty = cause;
	}
}

void
cdp_dirty_store(CdpWork *w)
{
	for (int i = 0; i < w->nfragments; i++)
	{
		CdpFragment *f = w->fragments[i];
		Datum		args[4];

		if (!f->dirty)
			continue;
		args[0] = Int64GetDatum(f->fragment_id);
		args[1] = Int32GetDatum(w->workspace_id);
		args[2] = CStringGetTextDatum(f->dirty);
		args[3] = TimestampTzGetDatum(w->batch->instant);
		cdp_spi_exec(&mark_plan, args, NULL);
	}
}

/* ---------------------------------------------------------------- the maintenance worker */

typedef struct Waiting
{
	int64		fragment_id;
	int32		workspace_id;
} Waiting;

static CdpSpi next_plan = {
	"SELECT d.fragment_id, d.workspace_id FROM cdp_data.dirty d WHERE d.fragment_id > $1"
	" ORDER BY d.fragment_id LIMIT $2",
	2, {INT8OID, INT8OID}
};

static CdpSpi done_plan = {"DELETE FROM cdp_data.dirty WHERE fragment_id = $1", 1, {INT8OID}};

static int
read_waiting(int64 after, Waiting *waiting)
{
	Datum		args[2] = {Int64GetDatum(after), Int64GetDatum(ROUND_FRAGMENTS)};
	CdpUserContext user;
	int			n;
	bool		isnull;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	cdp_become_owner(&user);
	n = cdp_spi_run(&next_plan, args, NULL);
	for (int i = 0; i < n; i++)
		waiting[i] = (Waiting) {cdp_spi_int64(i, 1), DatumGetInt32(cdp_spi_datum(i, 2, &isnull))};
	cdp_spi_end();
	cdp_become_caller(&user);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return n;
}

static void
recompute_one(const Waiting *waiting)
{
	Datum		arg = Int64GetDatum(waiting->fragment_id);
	CdpUserContext user;

	cdp_apply_recompute(waiting->workspace_id, waiting->fragment_id);
	cdp_become_owner(&user);
	cdp_spi_exec(&done_plan, &arg, NULL);
	cdp_become_caller(&user);
}

/* in a transaction of its own; nothing happens when somebody holds the fragment */
static void
try_one(const Waiting *waiting)
{
	StartTransactionCommand();
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		recompute_one(waiting);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		cdp_engine_instant = 0;
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE && geterrcode() != ERRCODE_T_R_DEADLOCK_DETECTED)
			PG_RE_THROW();
		AbortCurrentTransaction();
		FlushErrorState();
	}
	PG_END_TRY();
}

bool
cdp_dirty_maintain(void)
{
	static int64 last = 0;		/* tried */
	int64		end = cdp_ticks() + ROUND_MS;
	Waiting		waiting[ROUND_FRAGMENTS];
	int			n = read_waiting(last, waiting),
				tried = 0;

	for (; tried < n && cdp_ticks() < end; tried++)
	{
		try_one(&waiting[tried]);
		last = waiting[tried].fragment_id;
		CHECK_FOR_INTERRUPTS();
	}
	if (tried == n && n < ROUND_FRAGMENTS)
		last = 0;				/* from the first again, in the next round */
	return true;
}
