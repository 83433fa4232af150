/*
 * held.c: whom does somebody else hold?
 *
 * A worker whose batch ran into lock_timeout asks this, without waiting, and
 * parks exactly the messages of the people who are held (DESIGN 9.10): those
 * with a profile row that cannot be locked (SKIP LOCKED), in the whole
 * component, because a batch may need all of it; those with an identifier, and
 * those with a message id, that another transaction is just inserting.  Where
 * somebody locks a whole table, nobody in particular is held and all must wait.
 *
 * Runs in a subtransaction that is rolled back, so that it keeps no lock.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "event/leaf.h"
#include "identity/held.h"
#include "identity/identity.h"
#include "spi.h"
#include "table.h"

/* identifiers whose component has a row that cannot be locked now */
static CdpSpi held_plan = {
	"WITH mine AS MATERIALIZED (SELECT i.identifier_id, p.contest_id, p.profile_id"
	"   FROM cdp_data.identifier i JOIN cdp_data.profile p ON p.fragment_id = i.fragment_id"
	"   WHERE i.identifier_id = ANY ($1)),"
	" needed AS MATERIALIZED (SELECT f.fragment_id, f.profile_id AS key"
	"   FROM (SELECT DISTINCT m.profile_id FROM mine m WHERE m.contest_id = 0) k"
	"   JOIN cdp_data.profile f ON f.profile_id = k.profile_id"
	"  UNION ALL SELECT f.fragment_id, -f.contest_id"
	"   FROM (SELECT DISTINCT m.contest_id FROM mine m WHERE m.contest_id <> 0) k"
	"   JOIN cdp_data.profile f ON f.contest_id = k.contest_id AND f.contest_id <> 0),"
	" free AS MATERIALIZED (SELECT f.fragment_id FROM cdp_data.profile f"
	"   WHERE f.fragment_id IN (SELECT n.fragment_id FROM needed n) FOR NO KEY UPDATE SKIP LOCKED),"
	" held AS (SELECT DISTINCT n.key FROM needed n"
	"   WHERE NOT EXISTS (SELECT FROM free WHERE free.fragment_id = n.fragment_id))"
	" SELECT m.identifier_id FROM mine m"
	" JOIN held h ON h.key = CASE m.contest_id WHEN 0 THEN m.profile_id ELSE -m.contest_id END",
	1, {INT8ARRAYOID}
};

typedef struct Held
{
	int64	   *identifiers;	/* sorted */
	int			n;
} Held;

static bool
is_held(const Held *held, int64 identifier_id)
{
	return held->n && bsearch(&identifier_id, held->identifiers, held->n, sizeof(int64), cdp_int64_order) != NULL;
}

/* distinct identifiers of the events */
static int
collect(CdpEvent **events, int n, int64 **out)
{
	int			max = 0,
				count = 0,
				kept = 0;

	for (int i = 0; i < n; i++)
		max += events[i]->nidents;
	*out = palloc(Max(max, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
		for (int j = 0; j < events[i]->nidents; j++)
			(*out)[count++] = events[i]->idents[j]->hash;
	qsort(*out, count, sizeof(int64), cdp_int64_order);
	for (int i = 0; i < count; i++)
		if (i == 0 || (*out)[i] != (*out)[kept - 1])
			(*out)[kept++] = (*out)[i];
	return kept;
}

static void
find_locked(Held *held, const int64 *identifiers, int n)
{
	Datum		arg = cdp_int8_array(identifiers, n);
	int			rows = cdp_spi_run(&held_plan, &arg, NULL);

	for (int i = 0; i < rows; i++)
		held->identifiers[held->n++] = cdp_spi_int64(i, 1);
	cdp_spi_end();
}

static void
find_arriving(Held *held, const int64 *identifiers, int n)
{
	CdpRel	   *rel = cdp_rel_open(cdp_table(CDP_T_IDENTIFIER));

	for (int i = 0; i < n; i++)
	{
		Datum		key = Int64GetDatum(identifiers[i]);

		if (cdp_rel_is_arriving(rel, &key, 1))
			held->identifiers[held->n++] = identifiers[i];
	}
	cdp_rel_close(rel);
}

/*
 * Is another transaction storing a message of this id, in whatever leaf?  A
 * filter that was replaced meanwhile may miss it: then the batch is halved.
 */
static bool
message_arriving(CdpLeaves *leaves, CdpEvent *ev)
{
	Datum		key = UUIDPGetDatum((pg_uuid_t *) ev->seen_key);

	for (int i = 0; i < leaves->n; i++)
	{
		CdpLeaf    *leaf = &leaves->leaf[i];

		if (!(leaf->filter.ready && cdp_filter_lacks(&leaf->filter, ev->seen_key)) &&
			cdp_rel_is_arriving(cdp_leaf_rel(leaves, leaf), &key, 1))
			return true;
	}
	return false;
}

static int
mark(CdpEvent **events, int n, const Held *held)
{
	CdpLeaves  *leaves = cdp_leaves_open(cdp_table(CDP_T_MESSAGE_SEEN));
	int			marked = 0;

	cdp_filter_find(leaves);
	for (int i = 0; i < n; i++)
	{
		bool		hold = message_arriving(leaves, events[i]);

		for (int j = 0; j < events[i]->nidents && !hold; j++)
			hold = is_held(held, events[i]->idents[j]->hash);
		if (hold && !events[i]->settled)
		{
			events[i]->outcome = CDP_OUT_PARKED;
			events[i]->settled = true;
			marked++;
		}
	}
	cdp_leaves_close(leaves);
	return marked;
}

static void
require_unlocked(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, RowExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table \"%s\" is locked by another session", get_rel_name(relid))));
}

/* Raises when a table that attempts write into is locked, or a partition of it. */
static void
require_unlocked_tables(void)
{
	static const CdpTable written[] = {
		CDP_T_EVENT, CDP_T_MESSAGE_SEEN, CDP_T_IDENTIFIER, CDP_T_LINK, CDP_T_CONTEST, CDP_T_PROFILE, CDP_T_PROFILE_TRAIT,
		CDP_T_DIRTY
	};

	for (int i = 0; i < lengthof(written); i++)
	{
		Oid			relid = cdp_table(written[i]);
		ListCell   *lc;

		require_unlocked(relid);
		if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
			continue;
		foreach(lc, find_inheritance_children(relid, NoLock))
			require_unlocked(lfirst_oid(lc));
	}
}

typedef struct Asked
{
	CdpEvent  **events;
	int			n;
	int			marked;
} Asked;

/* false: its locks are given up */
static bool
mark_held(void *arg)
{
	Asked	   *a = arg;
	Held		held = {0};
	int64	   *identifiers;
	int			count;

	require_unlocked_tables();
	count = collect(a->events, a->n, &identifiers);
	held.identifiers = palloc(Max(2 * count, 1) * sizeof(int64));
	find_locked(&held, identifiers, count);
	find_arriving(&held, identifiers, count);
	qsort(held.identifiers, held.n, sizeof(int64), cdp_int64_order);
	a->marked = mark(a->events, a->n, &held);
	return false;
}

int
cdp_park_held(CdpEvent **events, int n)
{
	Asked		a = {events, n};
	ErrorData  *error = cdp_in_subtransaction(mark_held, &a);

	if (error)
		ReThrowError(error);
	return a.marked;
}
