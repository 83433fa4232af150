/*
 * sweep.c: deleting what lies below the watermark W of a workspace.
 *
 * People first, SLICE_PEOPLE at a time and in the order of their fragment ids:
 * their profile rows are locked as a batch locks them (Z.4), their events below
 * W are deleted, and their counters are those of the events that stay, all in
 * one transaction: so at each moment the counters are those of what is stored,
 * whoever else folds, splits or moves.  Links, identifiers and declared traits
 * stay.  Whoever is held by another transaction is passed over, so that nothing
 * waits here with many people locked.  People of many events are left to
 * cdp_data.dirty, as after a split (profile/dirty.c).
 *
 * Then the ids of messages, in one statement: those below W whose event is not
 * stored, as one snapshot sees it; so an event that is left keeps its id.  Last
 * the events of nobody, whose ids are gone by then: a moved event of nobody is
 * locked by its id, too (event/move.c), and no deadlock comes of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "privacy/sweep.h"
#include "spi.h"
#include "work.h"

#define SLICE_PEOPLE 1000		/* locked at a time */

/* ---------------------------------------------------------------- counts by partition */

static void
count_leaf(CdpSweep *s, CdpLeafCounts *counts, Oid leaf, int64 rows)
{
	MemoryContext old = MemoryContextSwitchTo(s->cxt);
	char	   *name = get_rel_name(leaf);
	int			i = 0;

	while (i < counts->n && strcmp(counts->leaf[i].leaf, name) != 0)
		i++;
	if (i == counts->n)
	{
		counts->leaf = counts->leaf
			? repalloc(counts->leaf, (counts->n + 1) * sizeof(CdpLeafCount))
			: palloc(sizeof(CdpLeafCount));
		counts->leaf[counts->n++] = (CdpLeafCount) {name, 0};
	}
	counts->leaf[i].rows += rows;
	MemoryContextSwitchTo(old);
}

/* runs a statement over (workspace, W) that returns leaves and numbers */
static void
run_and_count(CdpSweep *s, CdpSpi *plan, CdpLeafCounts *counts)
{
	Datum		args[2] = {Int32GetDatum(s->workspace_id), TimestampTzGetDatum(s->watermark)};
	int			n = cdp_spi_run(plan, args, NULL);
	bool		isnull;

	for (int i = 0; i < n; i++)
		count_leaf(s, counts, DatumGetObjectId(cdp_spi_datum(i, 1, &isnull)), cdp_spi_int64(i, 2));
	cdp_spi_end();
}

/* ---------------------------------------------------------------- what would go */

static CdpSpi count_events_plan = {
	"SELECT e.tableoid, pg_catalog.count(*) FROM cdp_data.event e"
	" WHERE e.workspace_id = $1 AND e.occurred_at < $2 GROUP BY e.tableoid",
	2, {INT4OID, TIMESTAMPTZOID}
};

static CdpSpi count_seen_plan = {
	"SELECT s.tableoid, pg_catalog.count(*) FROM cdp_data.message_seen s"
	" WHERE s.workspace_id = $1 AND s.occurred_at < $2 GROUP BY s.tableoid",
	2, {INT4OID, TIMESTAMPTZOID}
};

static CdpSpi count_people_plan = {
	"SELECT pg_catalog.count(DISTINCT e.fragment_id) FROM cdp_data.event e"
	" WHERE e.workspace_id = $1 AND e.occurred_at < $2 AND e.fragment_id <> 0",
	2, {INT4OID, TIMESTAMPTZOID}
};

void
cdp_sweep_count(CdpSweep *s)
{
	Datum		args[2] = {Int32GetDatum(s->workspace_id), TimestampTzGetDatum(s->watermark)};

	run_and_count(s, &count_events_plan, &s->events);
	run_and_count(s, &count_seen_plan, &s->seen);
	(void) cdp_spi_run(&count_people_plan, args, NULL);
	s->people = cdp_spi_int64(0, 1);
	cdp_spi_end();
}

/* ---------------------------------------------------------------- people */

/* a LIMIT that the planner knows: it then walks the primary keys and does not sort the month */
static CdpSpi next_plan = {
	"SELECT DISTINCT e.fragment_id FROM cdp_data.event e"
	" WHERE e.workspace_id = $1 AND e.occurred_at < $2 AND e.fragment_id > $3 ORDER BY e.fragment_id"
	" LIMIT " CppAsString2(SLICE_PEOPLE),
	3, {INT4OID, TIMESTAMPTZOID, INT8OID}
};

static CdpSpi free_plan = {
	"SELECT p.fragment_id FROM cdp_data.profile p WHERE p.fragment_id = ANY ($1)"
	" ORDER BY p.fragment_id FOR NO KEY UPDATE SKIP LOCKED",
	1, {INT8ARRAYOID}
};

static CdpSpi delete_plan = {
	"WITH gone AS (DELETE FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) AND e.occurred_at < $2"
	" RETURNING e.tableoid, e.fragment_id)"
	" SELECT g.tableoid, pg_catalog.count(*), g.fragment_id FROM gone g GROUP BY g.tableoid, g.fragment_id",
	2, {INT8ARRAYOID, TIMESTAMPTZOID}
};

static int
read_ids(CdpSpi *plan, Datum *args, int64 *ids)
{
	int			n = cdp_spi_run(plan, args, NULL);

	for (int i = 0; i < n; i++)
		ids[i] = cdp_spi_int64(i, 1);
	cdp_spi_end();
	return n;
}

static void
keep_held(CdpSweep *s, int64 id)
{
	if (s->nheld == s->maxheld)
	{
		s->maxheld = Max(64, s->maxheld * 2);
		s->held = s->held
			? repalloc(s->held, s->maxheld * sizeof(int64))
			: MemoryContextAlloc(s->cxt, s->maxheld * sizeof(int64));
	}
	s->held[s->nheld++] = id;
}

/* Locks those who are free, and keeps them; returns how many.  Both lists are in id order. */
static int
lock_free(CdpSweep *s, int64 *ids, int n)
{
	int64	   *locked = palloc(n * sizeof(int64));
	Datum		arg = cdp_int8_array(ids, n);
	int			nlocked = read_ids(&free_plan, &arg, locked);

	for (int i = 0, j = 0; i < n; i++)
	{
		if (j < nlocked && locked[j] == ids[i])
			j++;
		else
			keep_held(s, ids[i]);
	}
	memcpy(ids, locked, nlocked * sizeof(int64));
	pfree(locked);
	return nlocked;
}

/* people who are locked, or to be locked */
typedef struct Slice
{
	CdpSweep   *s;
	const int64 *ids;
	int			n;
} Slice;

/* those who are not gone; their ids as an array */
static Datum
lock(CdpWork *w, const Slice *slice)
{
	int64	   *ids = palloc(slice->n * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < slice->n; i++)
		(void) cdp_work_add_fragment(w, slice->ids[i]);
	(void) cdp_lock_fragments(w);
	cdp_read_instant(w);
	for (int i = 0; i < w->nfragments; i++)
		if (ItemPointerIsValid(&w->fragments[i]->tid))
			ids[n++] = w->fragments[i]->fragment_id;
	return cdp_int8_array(ids, n);
}

/* deletes, and takes what is deleted off the counts; returns how many fragments lost something */
static int
delete_events(CdpWork *w, CdpSweep *s, Datum ids, CdpFragment **touched)
{
	Datum		args[2] = {ids, TimestampTzGetDatum(s->watermark)};
	int			rows = cdp_spi_run(&delete_plan, args, NULL),
				ntouched = 0;
	bool		isnull;

	for (int i = 0; i < rows; i++)
	{
		CdpFragment *f = cdp_work_fragment(w, cdp_spi_int64(i, 3));

		count_leaf(s, &s->events, DatumGetObjectId(cdp_spi_datum(i, 1, &isnull)), cdp_spi_int64(i, 2));
		f->event_count -= cdp_spi_int64(i, 2);
		if (!f->changed)
			touched[ntouched++] = f;
		f->changed = true;
	}
	cdp_spi_end();
	return ntouched;
}

static void
purge_slice(CdpWork *w, void *arg)
{
	Slice	   *slice = arg;
	CdpFragment **touched = palloc(slice->n * sizeof(CdpFragment *));
	int			n = delete_events(w, slice->s, lock(w, slice), touched),
				small = 0;

	for (int i = 0; i < n; i++)
	{
		if (touched[i]->event_count > cdp_recompute_limit)
		{
			touched[i]->recompute = true;
			touched[i]->dirty = "purge";
		}
		else
			touched[small++] = touched[i];
	}
	cdp_recount(w, touched, small);
	cdp_dirty_store(w);
	cdp_store_profiles(w);
	slice->s->people += n;
}

bool
cdp_sweep_people(CdpSweep *s)
{
	Datum		args[3] = {Int32GetDatum(s->workspace_id), TimestampTzGetDatum(s->watermark), Int64GetDatum(s->after)};
	int64		ids[SLICE_PEOPLE];
	int			n = read_ids(&next_plan, args, ids);
	Slice		slice = {s, ids};

	if (n == 0)
		return false;
	s->after = ids[n - 1];
	slice.n = lock_free(s, ids, n);
	if (slice.n > 0)
		cdp_apply_other(s->workspace_id, purge_slice, &slice);
	CommandCounterIncrement();
	return true;
}

void
cdp_sweep_held(CdpSweep *s, int from, int n)
{
	Slice		slice = {s, s->held + from, n};

	cdp_apply_other(s->workspace_id, purge_slice, &slice);
	CommandCounterIncrement();
}

/* ---------------------------------------------------------------- ids, and nobody's events */

static CdpSpi seen_plan = {
	"WITH gone AS (DELETE FROM cdp_data.message_seen s WHERE s.workspace_id = $1 AND s.occurred_at < $2"
	"  AND NOT EXISTS (SELECT FROM cdp_data.event e JOIN cdp_data.profile p ON p.fragment_id = e.fragment_id"
	"   WHERE e.workspace_id = $1 AND e.occurred_at < $2 AND e.event_id = s.event_id)"
	" RETURNING s.tableoid)"
	" SELECT g.tableoid, pg_catalog.count(*) FROM gone g GROUP BY g.tableoid",
	2, {INT4OID, TIMESTAMPTZOID}
};

/* also those of a fragment that is gone, which there should not be */
static CdpSpi nobody_plan = {
	"WITH gone AS (DELETE FROM cdp_data.event e WHERE e.workspace_id = $1 AND e.occurred_at < $2"
	"  AND NOT EXISTS (SELECT FROM cdp_data.profile p WHERE p.fragment_id = e.fragment_id)"
	" RETURNING e.tableoid)"
	" SELECT g.tableoid, pg_catalog.count(*) FROM gone g GROUP BY g.tableoid",
	2, {INT4OID, TIMESTAMPTZOID}
};

void
cdp_sweep_seen(CdpSweep *s)
{
	run_and_count(s, &seen_plan, &s->seen);
}

void
cdp_sweep_nobody(CdpSweep *s)
{
	run_and_count(s, &nobody_plan, &s->events);
}
