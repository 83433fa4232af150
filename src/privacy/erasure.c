/*
 * erasure.c: the deletions of cdp.forget(), under the locks of all fragments of the plan.
 *
 * In one transaction: what the person's fragments hold goes, its events first;
 * events of others that presented it are stripped, or go (erasure_plan.c says
 * which), their links with them; tokens are written; the others are then told
 * apart anew from what is left, and what is theirs is computed again.
 *
 * The rows of message_seen stay and point to nobody (R30).  Their key is
 * computed from the event again: source, message id, and the stamp if that is
 * the device's own.  What is not found so is looked for in all partitions, and,
 * after a source was dropped or got another id space, by a scan.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "privacy/erasure.h"
#include "profile/dirty.h"
#include "spi.h"

/* events that went, for message_seen */
typedef struct Gone
{
	Datum	   *keys,
			   *stamps,
			   *events;
	int			n,
				max;
	TimestampTz newest;			/* evidence */
} Gone;

/* ---------------------------------------------------------------- events that go */

static void
need_gone(Gone *gone, int n)
{
	if (gone->n + n <= gone->max)
		return;
	gone->max = Max(gone->n + n, gone->max * 2);
	gone->keys = gone->keys ? repalloc_huge(gone->keys, gone->max * sizeof(Datum)) : palloc(gone->max * sizeof(Datum));
	gone->stamps = gone->stamps ? repalloc_huge(gone->stamps, gone->max * sizeof(Datum)) : palloc(gone->max * sizeof(Datum));
	gone->events = gone->events ? repalloc_huge(gone->events, gone->max * sizeof(Datum)) : palloc(gone->max * sizeof(Datum));
}

/* columns source_id, message_id, original_at, received_at, occurred_at, event_id of a row of the running result */
static void
note_gone(const CdpErasurePlan *p, Gone *gone, int row, int column)
{
	bool		isnull;
	uint8	   *key = MemoryContextAlloc(p->cxt, 16);
	Datum		original = cdp_spi_datum(row, column + 2, &isnull);
	TimestampTz received = cdp_spi_int64(row, column + 3);

	gone->stamps[gone->n] = isnull ? TimestampTzGetDatum(received) : original;
	gone->newest = Max(gone->newest, Min(received, cdp_spi_int64(row, column + 4)));
	cdp_seen_key(p->workspace->id, cdp_source_usable(DatumGetInt32(cdp_spi_datum(row, column, &isnull))),
				 cdp_spi_text(row, column + 1, p->cxt), key);
	gone->keys[gone->n] = PointerGetDatum(key);
	gone->events[gone->n++] = Int64GetDatum(cdp_spi_int64(row, column + 5));
}

#define GONE_COLUMNS "e.source_id, e.message_id, e.original_at, e.received_at, e.occurred_at, e.event_id"

static CdpSpi delete_events_plan = {
	"DELETE FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) RETURNING " GONE_COLUMNS,
	1, {INT8ARRAYOID}
};

static int64
delete_events(const CdpErasurePlan *p, Gone *gone)
{
	Datum		arg = cdp_int8_array(p->fragments, p->nfragments);
	int			n = cdp_spi_run(&delete_events_plan, &arg, NULL);

	need_gone(gone, n);
	for (int i = 0; i < n; i++)
		note_gone(p, gone, i, 1);
	cdp_spi_end();
	return n;
}

/* ---------------------------------------------------------------- what they left in message_seen */

static Datum
array_of(Datum *values, int n, Oid type)
{
	if (type == UUIDOID)
		return PointerGetDatum(construct_array(values, n, UUIDOID, 16, false, TYPALIGN_CHAR));
	return PointerGetDatum(construct_array(values, n, type, 8, true, TYPALIGN_DOUBLE));
}

#define POINTS_TO_NOBODY "UPDATE cdp_data.message_seen s SET identifier_id = 0, event_id = 0"

static CdpSpi seen_plans[] = {
	{POINTS_TO_NOBODY " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS g(key, stamp, event_id)"
		" WHERE s.key = g.key AND s.stamp = g.stamp AND s.event_id = g.event_id",
	3, {UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID}},
	{POINTS_TO_NOBODY " WHERE s.key = ANY ($1) AND s.event_id = ANY ($3)",
	3, {UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID}},
	{POINTS_TO_NOBODY " WHERE s.event_id = ANY ($3)",
	3, {UUIDARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID}}
};

static int64
let_seen_point_to_nobody(const Gone *gone)
{
	Datum		args[3] = {array_of(gone->keys, gone->n, UUIDOID), array_of(gone->stamps, gone->n, TIMESTAMPTZOID),
	array_of(gone->events, gone->n, INT8OID)};
	int64		n = 0;

	for (int i = 0; i < lengthof(seen_plans) && n < gone->n; i++)
		n += cdp_spi_exec(&seen_plans[i], args, NULL);
	return n;
}

/* ---------------------------------------------------------------- events of others */

static CdpSpi move_plan = {
	"UPDATE cdp_data.event e SET fragment_id = $3 WHERE e.fragment_id = ANY ($1) AND e.anchor = ANY ($2)",
	3, {INT8ARRAYOID, INT8ARRAYOID, INT8OID}
};

/* an identifier whose fragment goes finds refuge with somebody who presented it, and its events with it */
static void
move_refugee(CdpWork *w, const CdpErasurePlan *p, const CdpErasureMember *m)
{
	static CdpSpi identifier_plan = {
		"UPDATE cdp_data.identifier SET fragment_id = $2 WHERE identifier_id = $1", 2, {INT8OID, INT8OID}
	};
	int64	   *anchors = palloc((p->nlinks + 1) * sizeof(int64));
	int			n = 0;
	Datum		args[3] = {Int64GetDatum(m->hash), Int64GetDatum(m->refuge)};
	CdpFragment *f = cdp_work_fragment(w, m->refuge);

	cdp_spi_exec(&identifier_plan, args, NULL);
	anchors[n++] = m->hash;
	for (int i = 0; i < p->nlinks; i++)
		if (cdp_erasure_attributed(p, &p->links[i]) == m->hash)
			anchors[n++] = p->links[i].link_id;
	args[0] = cdp_int8_array(p->fragments, p->nfragments);
	args[1] = cdp_int8_array(anchors, n);
	args[2] = Int64GetDatum(m->refuge);
	if (cdp_spi_exec(&move_plan, args, NULL) > 0)
		cdp_mark_recompute(&f, 1, "forgotten");
	f->changed = true;
}

static void
move_refugees(CdpWork *w, const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nmembers; i++)
		if (p->members[i].fate == CDP_STAYS && p->members[i].refuge)
			move_refugee(w, p, &p->members[i]);
}

static CdpSpi others_plan = {
	"SELECT e.fragment_id, e.anchor, e.user_id, e.anonymous_id, e.properties, e.traits, e.context, " GONE_COLUMNS
	" FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) AND e.anchor = ANY ($2)",
	2, {INT8ARRAYOID, INT8ARRAYOID}
};

static CdpSpi delete_event_plan = {
	"DELETE FROM cdp_data.event WHERE fragment_id = $1 AND occurred_at = $2 AND event_id = $3",
	3, {INT8OID, TIMESTAMPTZOID, INT8OID}
};

static void
delete_other(const CdpStripped *o)
{
	Datum		args[3] = {Int64GetDatum(o->fragment_id), TimestampTzGetDatum(o->occurred_at), Int64GetDatum(o->event_id)};

	cdp_spi_exec(&delete_event_plan, args, NULL);
}

/* fragments that may hold events of links and identifiers that go, and those anchors */
static bool
touched_anchors(const CdpErasurePlan *p, Datum *fragments, Datum *anchors)
{
	int64	   *a = palloc((p->nlinks + p->nmembers) * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < p->nlinks; i++)
		if (p->links[i].fate != CDP_STAYS)
			a[n++] = p->links[i].link_id;
	for (int i = 0; i < p->ngone; i++)
		a[n++] = p->gone[i];
	*fragments = cdp_int8_array(p->others, p->nothers);
	*anchors = cdp_int8_array(a, n);
	return n > 0 && p->nothers > 0;
}

static void
read_other(CdpErasurePlan *p, Gone *gone, int row, CdpStripped *o)
{
	bool		isnull;
	CdpErased	erased = {.policy = &p->workspace->policy, .hashes = p->gone, .n = p->ngone,
	.source = cdp_source_usable(DatumGetInt32(cdp_spi_datum(row, 8, &isnull)))};
	MemoryContext old = MemoryContextSwitchTo(p->cxt);

	o->fragment_id = cdp_spi_int64(row, 1);
	o->anchor = cdp_spi_int64(row, 2);
	o->occurred_at = cdp_spi_int64(row, 12);
	o->event_id = cdp_spi_int64(row, 13);
	if (cdp_erasure_anchor(p, o->anchor) == CDP_GOES)
		note_gone(p, gone, row, 8);
	else
		(void) cdp_strip_columns(&erased, row, 3, o);
	cdp_erasure_note_events(p, o->anchor);
	MemoryContextSwitchTo(old);
}

static int
read_others(CdpErasurePlan *p, Gone *gone, CdpStripped **others)
{
	Datum		args[2];
	int			n;

	if (!touched_anchors(p, &args[0], &args[1]))
		return 0;
	n = cdp_spi_run(&others_plan, args, NULL);
	*others = MemoryContextAllocZero(p->cxt, Max(n, 1) * sizeof(CdpStripped));
	need_gone(gone, n);
	for (int i = 0; i < n; i++)
		read_other(p, gone, i, &(*others)[i]);
	cdp_spi_end();
	return n;
}

/* of a link whose events were purged the declared traits are left, and may mention what goes */
static void
mark_purged(CdpWork *w, const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nlinks; i++)
	{
		const CdpErasureLink *link = &p->links[i];
		const CdpErasureMember *m = cdp_erasure_member(p, cdp_erasure_attributed(p, link));
		CdpFragment *f;

		if (link->fate != CDP_STRIPPED || m->fate != CDP_STAYS || link->first_at >= p->watermark)
			continue;
		f = cdp_work_fragment(w, m->refuge ? m->refuge : m->fragment_id);
		f->recompute = f->changed = true;
		f->dirty = NULL;		/* now, however many events there are: later nobody knows what to take away */
	}
}

static void
change_others(CdpWork *w, CdpErasurePlan *p, Gone *gone, CdpErasureCounts *counts)
{
	CdpStripped *others = NULL;
	int			n = read_others(p, gone, &others);

	for (int i = 0; i < n; i++)
	{
		CdpFragment *f = cdp_work_fragment(w, others[i].fragment_id);

		if (cdp_erasure_anchor(p, others[i].anchor) == CDP_GOES)
		{
			delete_other(&others[i]);
			counts->event++;
		}
		else
		{
			others[i].anchor = cdp_erasure_new_anchor(p, others[i].anchor);
			cdp_strip_store(&others[i]);
			counts->event_stripped++;
		}
		cdp_mark_recompute(&f, 1, "forgotten");
	}
}

/* ---------------------------------------------------------------- links of others */

/*
 * All events of a link belong to one person.  If they are gone, it was the one
 * that is forgotten; unless they were purged: then the link says whose they were.
 */
static bool
link_survives(const CdpErasurePlan *p, const CdpErasureLink *link)
{
	if (link->fate != CDP_STRIPPED)
		return false;
	return link->has_events || (link->first_at < p->watermark &&
								cdp_erasure_member(p, cdp_erasure_attributed(p, link))->fate == CDP_STAYS);
}

static CdpSpi add_link_plan = {
	"INSERT INTO cdp_data.link AS l (identifier_id, link_id, source_id, kind, weight, workspace_id, first_at, last_at,"
	" first_event_id, first_message, members) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
	" ON CONFLICT ON CONSTRAINT link_pkey DO UPDATE SET"
	" first_at = CASE WHEN (excluded.first_at, excluded.first_message) < (l.first_at, l.first_message)"
	"  THEN excluded.first_at ELSE l.first_at END,"
	" first_message = CASE WHEN (excluded.first_at, excluded.first_message) < (l.first_at, l.first_message)"
	"  THEN excluded.first_message ELSE l.first_message END,"
	" first_event_id = CASE WHEN (excluded.first_at, excluded.first_message) < (l.first_at, l.first_message)"
	"  THEN excluded.first_event_id ELSE l.first_event_id END,"
	" last_at = greatest(l.last_at, excluded.last_at)",
	11, {INT8OID, INT8OID, INT4OID, CHAROID, FLOAT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, TEXTOID, INT8ARRAYOID}
};

static CdpSpi add_alone_plan = {
	"UPDATE cdp_data.identifier SET alone_at = $2, alone_message = $3 WHERE identifier_id = $1"
	" AND (alone_at IS NULL OR ($2, $3 COLLATE \"C\") < (alone_at, alone_message))",
	3, {INT8OID, TIMESTAMPTZOID, TEXTOID}
};

static void
add_rest(const CdpErasurePlan *p, const CdpErasureLink *link)
{
	int64		rest[CDP_MAX_IDENTIFIERS];
	int			n = cdp_erasure_rest(p, link, rest);
	Datum		args[11] = {Int64GetDatum(rest[0])};

	if (n == 1)
	{
		args[1] = TimestampTzGetDatum(link->first_at);
		args[2] = cdp_text(link->first_message);
		cdp_spi_exec(&add_alone_plan, args, NULL);
		return;
	}
	args[1] = Int64GetDatum(cdp_erasure_new_anchor(p, link->link_id));
	args[2] = Int32GetDatum(link->source_id);
	args[3] = CharGetDatum(link->kind);
	args[4] = Float4GetDatum(link->weight);
	args[5] = Int32GetDatum(p->workspace->id);
	args[6] = TimestampTzGetDatum(link->first_at);
	args[7] = TimestampTzGetDatum(link->last_at);
	args[8] = Int64GetDatum(link->first_event_id);
	args[9] = cdp_text(link->first_message);
	args[10] = cdp_int8_array(rest, n);
	cdp_spi_exec(&add_link_plan, args, NULL);
}

static void
note_evidence(const CdpErasurePlan *p, const int64 *members, int n)
{
	for (int i = 0; i < n; i++)
		cdp_erasure_member(p, members[i])->has_evidence = true;
}

/* by links that are left; that of its own is in its row */
static void
note_all_evidence(const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nlinks; i++)
	{
		int64		rest[CDP_MAX_IDENTIFIERS];

		if (p->links[i].fate == CDP_STAYS || link_survives(p, &p->links[i]))
			note_evidence(p, rest, cdp_erasure_rest(p, &p->links[i], rest));
	}
}

/* identifiers that no event of who is left presented; demoted ones, say */
static void
find_orphans(CdpErasurePlan *p)
{
	note_all_evidence(p);
	p->orphans = palloc(Max(p->nmembers, 1) * sizeof(int64));
	p->norphans = 0;
	for (int i = 0; i < p->nmembers; i++)
	{
		CdpErasureMember *m = &p->members[i];

		if (m->fate != CDP_STAYS || m->has_evidence || m->alone)
			continue;
		m->fate = CDP_GOES_QUIETLY;
		p->orphans[p->norphans++] = m->hash;
	}
}

static bool
has_fragment(const int64 *ids, int n, int64 id)
{
	return bsearch(&id, ids, n, sizeof(int64), cdp_int64_order) != NULL;
}

/* fragments that had identifiers and have none any more; one that had none says what a merged-away profile id became */
static void
find_emptied(CdpErasurePlan *p)
{
	int64	   *before = palloc(Max(p->nmembers, 1) * sizeof(int64));
	int64	   *after = palloc(Max(p->nmembers, 1) * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < p->nmembers; i++)
	{
		const CdpErasureMember *m = &p->members[i];

		before[i] = m->fragment_id;
		if (m->fate == CDP_STAYS)
			after[n++] = m->refuge ? m->refuge : m->fragment_id;
	}
	qsort(before, p->nmembers, sizeof(int64), cdp_int64_order);
	qsort(after, n, sizeof(int64), cdp_int64_order);
	p->emptied = palloc(Max(p->nothers, 1) * sizeof(int64));
	p->nemptied = 0;
	for (int i = 0; i < p->nothers; i++)
		if (has_fragment(before, p->nmembers, p->others[i]) && !has_fragment(after, n, p->others[i]))
			p->emptied[p->nemptied++] = p->others[i];
}

static CdpSpi retract_plan = {
	"UPDATE cdp_data.decision SET a = $2 WHERE kind = 'retract' AND a = $1", 2, {INT8OID, INT8OID}
};

/* after the old rows were deleted */
static void
add_stripped_links(const CdpErasurePlan *p, CdpErasureCounts *counts)
{
	for (int i = 0; i < p->nlinks; i++)
		if (link_survives(p, &p->links[i]))
		{
			add_rest(p, &p->links[i]);
			counts->link_stripped++;
		}
}

static void
keep_retractions(const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nlinks; i++)
		if (link_survives(p, &p->links[i]))
		{
			Datum		args[2] = {Int64GetDatum(p->links[i].link_id),
			Int64GetDatum(cdp_erasure_new_anchor(p, p->links[i].link_id))};

			cdp_spi_exec(&retract_plan, args, NULL);
		}
}

/* ---------------------------------------------------------------- rows that just go */

#define STEP_ARGS 4, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}

/*
 * Counted or deleted by the same condition: $1 the fragments that go, $2 the
 * identifiers that go, $3 the links that go or are stripped, $4 all identifiers of the plan.
 */
typedef struct Step
{
	size_t		count;			/* in CdpErasureCounts */
	CdpSpi		select;
	CdpSpi		erase;
} Step;

#define STEP(member, table, condition) \
	{offsetof(CdpErasureCounts, member), \
	{"SELECT pg_catalog.count(*) FROM cdp_data." table " t WHERE " condition, STEP_ARGS}, \
	{"DELETE FROM cdp_data." table " t WHERE " condition, STEP_ARGS}}

static Step steps[] = {
	STEP(link, "link", "t.identifier_id = ANY ($4) AND t.link_id = ANY ($3)"),
	STEP(decision, "decision",
		 "(t.kind = 'retract' AND t.a = ANY ($3)) OR (t.kind <> 'retract' AND t.a = ANY ($2)) OR t.b = ANY ($2)"),
	STEP(warning, "identity_warning",
		 "t.identifier_id = ANY ($2) OR (t.identifier_id = ANY ($4) AND t.link_id = ANY ($3))"),
	STEP(dirty, "dirty", "t.fragment_id = ANY ($1)"),
	STEP(profile_trait, "profile_trait", "t.fragment_id = ANY ($1)"),
	STEP(identifier, "identifier", "t.identifier_id = ANY ($2)"),
	STEP(profile, "profile", "t.fragment_id = ANY ($1)")
};

static int64 *
counter(CdpErasureCounts *counts, const Step *step)
{
	return (int64 *) ((char *) counts + step->count);
}

static Datum
both(const int64 *a, int na, const int64 *b, int nb)
{
	int64	   *ids = palloc(Max(na + nb, 1) * sizeof(int64));

	memcpy(ids, a, na * sizeof(int64));
	memcpy(ids + na, b, nb * sizeof(int64));
	return cdp_int8_array(ids, na + nb);
}

static void
step_args(const CdpErasurePlan *p, Datum *args)
{
	int64	   *links = palloc(Max(p->nlinks, 1) * sizeof(int64));
	int64	   *members = palloc(Max(p->nmembers, 1) * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < p->nlinks; i++)
		if (p->links[i].fate != CDP_STAYS)
			links[n++] = p->links[i].link_id;
	for (int i = 0; i < p->nmembers; i++)
		members[i] = p->members[i].hash;
	args[0] = both(p->fragments, p->nfragments, p->emptied, p->nemptied);
	args[1] = both(p->gone, p->ngone, p->orphans, p->norphans);
	args[2] = cdp_int8_array(links, n);
	args[3] = cdp_int8_array(members, p->nmembers);
}

static void
run_steps(const CdpErasurePlan *p, CdpErasureCounts *counts)
{
	Datum		args[4];

	step_args(p, args);
	for (int i = 0; i < lengthof(steps); i++)
		*counter(counts, &steps[i]) += cdp_spi_exec(&steps[i].erase, args, NULL);
}

static void
count_steps(const CdpErasurePlan *p, CdpErasureCounts *counts)
{
	Datum		args[4];

	step_args(p, args);
	for (int i = 0; i < lengthof(steps); i++)
	{
		cdp_spi_run(&steps[i].select, args, NULL);
		*counter(counts, &steps[i]) += cdp_spi_int64(0, 1);
		cdp_spi_end();
	}
}

/* ---------------------------------------------------------------- tokens */

static CdpSpi token_plan = {
	"INSERT INTO cdp_data.suppression AS s (identifier_id, not_before, workspace_id, \"check\") VALUES ($1, $2, $3, $4)"
	" ON CONFLICT ON CONSTRAINT suppression_pkey DO UPDATE SET not_before = greatest(s.not_before, excluded.not_before)",
	4, {INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID}
};

static void
write_tokens(const CdpErasurePlan *p, TimestampTz not_before)
{
	for (int i = 0; i < p->nmembers; i++)
	{
		const CdpErasureMember *m = &p->members[i];
		Datum		args[4] = {Int64GetDatum(m->hash), TimestampTzGetDatum(not_before),
		Int32GetDatum(p->workspace->id), Int32GetDatum(m->check)};

		if (m->fate == CDP_GOES)
			cdp_spi_exec(&token_plan, args, NULL);
	}
}

/* ---------------------------------------------------------------- the others */

static void
leave_fragments(CdpWork *w, const CdpErasurePlan *p)
{
	int			kept = 0;

	for (int i = 0; i < w->nfragments; i++)
		if (!has_fragment(p->fragments, p->nfragments, w->fragments[i]->fragment_id) &&
			!has_fragment(p->emptied, p->nemptied, w->fragments[i]->fragment_id))
			w->fragments[kept++] = w->fragments[i];
	w->nfragments = kept;
}

static CdpIdent *
make_ident(CdpWork *w, const CdpErasureMember *m)
{
	CdpIdent   *id = palloc0(sizeof(CdpIdent));

	id->hash = m->hash;
	id->attempt = w->attempt;
	id->known = true;
	id->state = m->state;
	id->fragment_id = m->refuge ? m->refuge : m->fragment_id;
	return id;
}

/* one group that presents all of them, and nothing new: it is folded as it is */
static void
present_the_others(CdpWork *w, const CdpErasurePlan *p)
{
	w->idents = palloc(Max(p->nmembers, 1) * sizeof(CdpIdent *));
	w->nidents = 0;
	for (int i = 0; i < p->nmembers; i++)
		if (p->members[i].fate == CDP_STAYS)
		{
			w->idents[w->nidents] = make_ident(w, &p->members[i]);
			w->idents[w->nidents]->index = w->nidents;
			w->nidents++;
		}
	w->group_of = palloc0(Max(w->nidents, 1) * sizeof(int));
	w->groups = palloc0(sizeof(CdpGroup));
	w->groups[0] = (CdpGroup) {.idents = w->idents, .nidents = w->nidents, .examine = true, .next_merged = -1};
	w->ngroups = 1;
	w->refold = true;
}

static CdpSpi contests_plan = {
	"DELETE FROM cdp_data.contest c WHERE c.contest_id = ANY ($1)"
	" AND NOT EXISTS (SELECT FROM cdp_data.profile p WHERE p.contest_id = c.contest_id)",
	1, {INT8ARRAYOID}
};

static Datum
contests_of(const CdpWork *w)
{
	int64	   *ids = palloc(Max(w->nfragments, 1) * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->contest_id)
			ids[n++] = w->fragments[i]->contest_id;
	return cdp_int8_array(ids, n);
}

/* who is who among them, without the one who went; what is theirs is computed again where it was touched */
static void
settle_the_others(CdpWork *w, const CdpErasurePlan *p)
{
	CdpErased	erased = {&p->workspace->policy, p->gone, p->ngone};

	w->erased = &erased;
	leave_fragments(w, p);
	for (int i = 0; i < w->nfragments; i++)
		w->fragments[i]->changed = w->fragments[i]->rearranged = true;
	present_the_others(w, p);
	if (w->nidents)
		cdp_settle_components(w);
	cdp_rel_look(w->trait, GetLatestSnapshot());
	cdp_fold_events(w);
	cdp_store_profiles(w);
	w->erased = NULL;
}

/* ---------------------------------------------------------------- all of it */

TimestampTz
cdp_erasure_carry_out(CdpWork *w, CdpErasurePlan *p, CdpErasureCounts *counts)
{
	Gone		gone = {.newest = DT_NOBEGIN};
	Datum		contests = contests_of(w);
	TimestampTz not_before;

	move_refugees(w, p);
	CommandCounterIncrement();
	counts->event += delete_events(p, &gone);
	change_others(w, p, &gone, counts);
	mark_purged(w, p);
	counts->seen += gone.n ? let_seen_point_to_nobody(&gone) : 0;
	not_before = Max(w->batch->instant, gone.newest + 1);
	find_orphans(p);
	find_emptied(p);
	keep_retractions(p);
	run_steps(p, counts);
	add_stripped_links(p, counts);
	write_tokens(p, not_before);
	CommandCounterIncrement();
	if (p->nothers)
		settle_the_others(w, p);
	CommandCounterIncrement();
	cdp_spi_exec(&contests_plan, &contests, NULL);
	return not_before;
}

/* ---------------------------------------------------------------- counting only */

static CdpSpi count_events_plan = {
	"SELECT pg_catalog.count(*) FROM cdp_data.event e WHERE e.fragment_id = ANY ($1)", 1, {INT8ARRAYOID}
};

static CdpSpi count_others_plan = {
	"SELECT e.anchor, pg_catalog.count(*) FROM cdp_data.event e"
	" WHERE e.fragment_id = ANY ($1) AND e.anchor = ANY ($2) GROUP BY e.anchor",
	2, {INT8ARRAYOID, INT8ARRAYOID}
};

static void
count_others(CdpErasurePlan *p, CdpErasureCounts *counts)
{
	Datum		args[2];
	int			n;

	if (!touched_anchors(p, &args[0], &args[1]))
		return;
	n = cdp_spi_run(&count_others_plan, args, NULL);
	for (int i = 0; i < n; i++)
	{
		cdp_erasure_note_events(p, cdp_spi_int64(i, 1));
		if (cdp_erasure_anchor(p, cdp_spi_int64(i, 1)) == CDP_GOES)
			counts->event += cdp_spi_int64(i, 2);
		else
			counts->event_stripped += cdp_spi_int64(i, 2);
	}
	cdp_spi_end();
}

/* as carry_out() would */
void
cdp_erasure_count(CdpErasurePlan *p, CdpErasureCounts *counts)
{
	Datum		arg = cdp_int8_array(p->fragments, p->nfragments);

	cdp_spi_run(&count_events_plan, &arg, NULL);
	counts->event += cdp_spi_int64(0, 1);
	cdp_spi_end();
	count_others(p, counts);
	counts->seen += counts->event;
	find_orphans(p);
	find_emptied(p);
	count_steps(p, counts);
	for (int i = 0; i < p->nlinks; i++)
		counts->link_stripped += link_survives(p, &p->links[i]);
}
