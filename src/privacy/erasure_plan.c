/*
 * erasure_plan.c: who goes, and what of the people around him is touched (R48).
 *
 * What goes with a person (or one fragment) are its live identifiers, each with
 * a token, and those demoted or held apart that it presented and no other living
 * person did.  A shared identifier gets no token; its row goes when nobody else
 * presented it.  Others can share links with the person in a contested
 * component only, or when one fragment of a person goes: these are all read,
 * with their links.
 *
 * A link of which a member goes is stripped of it, unless it was the strongest,
 * or all go: then the link goes with its events, as suppress.c does with those
 * that come later.
 *
 * Reads in one snapshot per statement and locks nothing: for a dry run that is
 * all; cdp.forget() reads once to know what to lock, and once more under the
 * locks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "privacy/erasure.h"
#include "privacy/purge.h"
#include "spi.h"

/* ---------------------------------------------------------------- fragments */

static CdpSpi fragments_plan = {
	"WITH mine AS (SELECT p.fragment_id, p.profile_id, p.contest_id FROM cdp_data.profile p"
	"  WHERE p.profile_id = (SELECT q.profile_id FROM cdp_data.profile q"
	"   WHERE q.fragment_id = $1 AND q.workspace_id = $2))"
	" SELECT m.fragment_id, m.profile_id, m.profile_id FROM mine m"
	" UNION SELECT o.fragment_id, o.profile_id, m.profile_id FROM mine m"
	"  JOIN cdp_data.profile o ON o.contest_id = m.contest_id WHERE o.contest_id <> 0"
	" ORDER BY 1",
	2, {INT8OID, INT4OID}
};

static bool
goes(const CdpErasurePlan *p, int64 fragment_id)
{
	return bsearch(&fragment_id, p->fragments, p->nfragments, sizeof(int64), cdp_int64_order) != NULL;
}

static bool
read_fragments(CdpErasurePlan *p)
{
	Datum		args[2] = {Int64GetDatum(p->target), Int32GetDatum(p->workspace->id)};
	int			n = cdp_spi_run(&fragments_plan, args, NULL);

	p->fragments = MemoryContextAlloc(p->cxt, Max(n, 1) * sizeof(int64));
	p->others = MemoryContextAlloc(p->cxt, Max(n, 1) * sizeof(int64));
	p->nfragments = p->nothers = 0;
	for (int i = 0; i < n; i++)
	{
		int64		id = cdp_spi_int64(i, 1);

		p->profile_id = cdp_spi_int64(i, 3);
		if (p->fragment_only ? id == p->target : cdp_spi_int64(i, 2) == p->profile_id)
			p->fragments[p->nfragments++] = id;
		else
			p->others[p->nothers++] = id;
	}
	cdp_spi_end();
	return p->nfragments > 0;
}

/* ---------------------------------------------------------------- identifiers and links */

static Datum
all_fragments(const CdpErasurePlan *p)
{
	int64	   *ids = palloc((p->nfragments + p->nothers) * sizeof(int64));

	memcpy(ids, p->fragments, p->nfragments * sizeof(int64));
	memcpy(ids + p->nfragments, p->others, p->nothers * sizeof(int64));
	return cdp_int8_array(ids, p->nfragments + p->nothers);
}

static CdpSpi members_plan = {
	"SELECT i.identifier_id, i.fragment_id, i.\"check\", i.namespace_id, i.state, i.alone_at"
	" FROM cdp_data.identifier i WHERE i.fragment_id = ANY ($1) ORDER BY i.identifier_id",
	1, {INT8ARRAYOID}
};

static void
read_members(CdpErasurePlan *p)
{
	Datum		arg = all_fragments(p);
	bool		isnull;

	p->nmembers = cdp_spi_run(&members_plan, &arg, NULL);
	p->members = MemoryContextAllocZero(p->cxt, Max(p->nmembers, 1) * sizeof(CdpErasureMember));
	for (int i = 0; i < p->nmembers; i++)
	{
		CdpErasureMember *m = &p->members[i];
		CdpNamespace *ns;

		m->hash = cdp_spi_int64(i, 1);
		m->fragment_id = cdp_spi_int64(i, 2);
		m->check = DatumGetInt32(cdp_spi_datum(i, 3, &isnull));
		ns = cdp_namespace_by_id(&p->workspace->policy, DatumGetInt32(cdp_spi_datum(i, 4, &isnull)));
		m->rank = ns ? ns - p->workspace->policy.namespaces : -1;
		m->state = DatumGetChar(cdp_spi_datum(i, 5, &isnull));
		(void) cdp_spi_datum(i, 6, &isnull);
		m->alone = !isnull;
	}
	cdp_spi_end();
}

static int
member_order(const void *a, const void *b)
{
	return cdp_int64_order(&((const CdpErasureMember *) a)->hash, &((const CdpErasureMember *) b)->hash);
}

CdpErasureMember *
cdp_erasure_member(const CdpErasurePlan *p, int64 hash)
{
	CdpErasureMember key = {.hash = hash};

	return bsearch(&key, p->members, p->nmembers, sizeof(CdpErasureMember), member_order);
}

static CdpSpi links_plan = {
	"SELECT l.link_id, l.source_id, l.kind, l.members, l.first_at, l.last_at, l.first_event_id, l.first_message, l.weight"
	" FROM cdp_data.link l WHERE l.identifier_id = ANY ($1) ORDER BY l.link_id, l.source_id",
	1, {INT8ARRAYOID}
};

static void
read_link(CdpErasurePlan *p, CdpErasureLink *link, int row)
{
	MemoryContext old;
	ArrayType  *members;
	bool		isnull;

	link->link_id = cdp_spi_int64(row, 1);
	link->source_id = DatumGetInt32(cdp_spi_datum(row, 2, &isnull));
	link->kind = DatumGetChar(cdp_spi_datum(row, 3, &isnull));
	old = MemoryContextSwitchTo(p->cxt);
	members = DatumGetArrayTypePCopy(cdp_spi_datum(row, 4, &isnull));
	MemoryContextSwitchTo(old);
	link->members = (int64 *) ARR_DATA_PTR(members);
	link->nmembers = ArrayGetNItems(ARR_NDIM(members), ARR_DIMS(members));
	link->first_at = cdp_spi_int64(row, 5);
	link->last_at = cdp_spi_int64(row, 6);
	link->first_event_id = cdp_spi_int64(row, 7);
	link->first_message = cdp_spi_text(row, 8, p->cxt);
	link->weight = DatumGetFloat4(cdp_spi_datum(row, 9, &isnull));
}

static void
read_links(CdpErasurePlan *p)
{
	int64	   *hashes = palloc(Max(p->nmembers, 1) * sizeof(int64));
	Datum		arg;

	for (int i = 0; i < p->nmembers; i++)
		hashes[i] = p->members[i].hash;
	arg = cdp_int8_array(hashes, p->nmembers);
	p->nlinks = cdp_spi_run(&links_plan, &arg, NULL);
	p->links = MemoryContextAllocZero(p->cxt, Max(p->nlinks, 1) * sizeof(CdpErasureLink));
	for (int i = 0; i < p->nlinks; i++)
		read_link(p, &p->links[i], i);
	cdp_spi_end();
}

/* ---------------------------------------------------------------- fates of identifiers */

/* as attributed_member() in identity/fold.c, but for calls: the strongest that is not shared */
int64
cdp_erasure_attributed(const CdpErasurePlan *p, const CdpErasureLink *link)
{
	for (int i = 0; i < link->nmembers; i++)
	{
		const CdpErasureMember *m = cdp_erasure_member(p, link->members[i]);

		if (m && m->state != 's')
			return m->hash;
	}
	return link->members[0];
}

/* who presented its members? */
static void
note_presenter(CdpErasurePlan *p, const CdpErasureLink *link)
{
	const CdpErasureMember *who = cdp_erasure_member(p, cdp_erasure_attributed(p, link));

	if (who == NULL || who->state != 'l')
		return;
	for (int i = 0; i < link->nmembers; i++)
	{
		CdpErasureMember *m = cdp_erasure_member(p, link->members[i]);

		if (m == NULL)
			continue;
		if (goes(p, who->fragment_id))
			m->mine = true;
		else if (m->other == 0 || who->fragment_id < m->other)
			m->other = who->fragment_id;
	}
}

/* in a component that is held it lies apart from the only one who presented it */
static bool
is_held_apart(const CdpErasurePlan *p, const CdpErasureMember *m)
{
	return !p->fragment_only && m->mine && m->other == 0 && !m->alone;
}

/* one that is shared or demoted lies in any fragment of the component, also where it does not belong */
static void
judge_member(const CdpErasurePlan *p, CdpErasureMember *m)
{
	bool		lies_here = goes(p, m->fragment_id);

	if (m->state == 'l')
		m->fate = lies_here || is_held_apart(p, m) ? CDP_GOES : CDP_STAYS;
	else if (m->other == 0 && (m->mine || (lies_here && p->nothers == 0)))
		m->fate = m->state == 's' ? CDP_GOES_QUIETLY : CDP_GOES;
	else
	{
		m->fate = CDP_STAYS;
		if (lies_here)
			m->refuge = m->other ? m->other : p->others[0];
	}
}

static void
judge_members(CdpErasurePlan *p)
{
	for (int i = 0; i < p->nlinks; i++)
		note_presenter(p, &p->links[i]);
	for (int i = 0; i < p->nmembers; i++)
		judge_member(p, &p->members[i]);
	p->gone = MemoryContextAlloc(p->cxt, Max(p->nmembers, 1) * sizeof(int64));
	p->tokens = MemoryContextAlloc(p->cxt, Max(p->nmembers, 1) * sizeof(int64));
	p->ngone = p->ntokens = 0;
	for (int i = 0; i < p->nmembers; i++)
	{
		if (p->members[i].fate != CDP_STAYS)
			p->gone[p->ngone++] = p->members[i].hash;
		if (p->members[i].fate == CDP_GOES)
			p->tokens[p->ntokens++] = p->members[i].hash;
	}
}

/* ---------------------------------------------------------------- fates of links */

static bool
member_goes(const CdpErasurePlan *p, int64 hash)
{
	return bsearch(&hash, p->gone, p->ngone, sizeof(int64), cdp_int64_order) != NULL;
}

static int
rank_of(const CdpErasurePlan *p, int64 hash)
{
	const CdpErasureMember *m = cdp_erasure_member(p, hash);

	return m && m->rank >= 0 ? m->rank : PG_INT16_MAX;
}

/* of a call the strongest may stand last */
static int64
strongest(const CdpErasurePlan *p, const CdpErasureLink *link)
{
	int64		best = link->members[0];

	for (int i = 1; i < link->nmembers; i++)
		if (rank_of(p, link->members[i]) < rank_of(p, best))
			best = link->members[i];
	return best;
}

static void
judge_link(const CdpErasurePlan *p, CdpErasureLink *link)
{
	int			n = 0;

	for (int i = 0; i < link->nmembers; i++)
		n += member_goes(p, link->members[i]);
	if (n == 0)
		link->fate = CDP_STAYS;
	else if (n == link->nmembers || member_goes(p, strongest(p, link)))
		link->fate = CDP_GOES;
	else
		link->fate = CDP_STRIPPED;
}

int
cdp_erasure_rest(const CdpErasurePlan *p, const CdpErasureLink *link, int64 *rest)
{
	int			n = 0;

	for (int i = 0; i < link->nmembers; i++)
		if (!member_goes(p, link->members[i]))
			rest[n++] = link->members[i];
	return n;
}

/* the first of its rows: one a source */
static CdpErasureLink *
find_link(const CdpErasurePlan *p, int64 link_id)
{
	int			lo = 0,
				hi = p->nlinks;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (p->links[mid].link_id < link_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < p->nlinks && p->links[lo].link_id == link_id ? &p->links[lo] : NULL;
}

void
cdp_erasure_note_events(CdpErasurePlan *p, int64 link_id)
{
	CdpErasureLink *end = p->links + p->nlinks;

	for (CdpErasureLink *link = find_link(p, link_id); link && link < end && link->link_id == link_id; link++)
		link->has_events = true;
}

CdpFate
cdp_erasure_anchor(const CdpErasurePlan *p, int64 anchor)
{
	const CdpErasureLink *link = find_link(p, anchor);

	if (link)
		return link->fate;
	return member_goes(p, anchor) ? CDP_GOES : CDP_STAYS;
}

int64
cdp_erasure_new_anchor(const CdpErasurePlan *p, int64 anchor)
{
	const CdpErasureLink *link = find_link(p, anchor);
	int64		rest[CDP_MAX_IDENTIFIERS];
	int			n = cdp_erasure_rest(p, link, rest);

	return n == 1 ? rest[0] : cdp_link_hash(p->workspace->id, link->kind, rest, n);
}

/* ---------------------------------------------------------------- who is meant? */

static int
index_of(const int64 *values, int n, int64 value)
{
	for (int i = 0; i < n; i++)
		if (values[i] == value)
			return i;
	return -1;
}

static int
root_of(const int *parent, int i)
{
	while (parent[i] != i)
		i = parent[i];
	return i;
}

/* values that an alias ties are one */
static int
tie_aliases(const CdpErasurePlan *p, const int64 *values, int n, int *parent)
{
	int			distinct = n;

	for (int i = 0; i < p->nlinks; i++)
	{
		const CdpErasureLink *link = &p->links[i];
		int			first = -1;

		if (link->kind != CDP_LINK_ALIAS && link->kind != CDP_LINK_CALL_ALIAS)
			continue;
		for (int k = 0; k < link->nmembers; k++)
		{
			int			at = index_of(values, n, link->members[k]);

			if (at < 0)
				continue;
			at = root_of(parent, at);
			if (first < 0)
				first = at;
			else if (at != first)
			{
				parent[at] = first;
				distinct--;
			}
		}
	}
	return distinct;
}

/* do live identifiers of this rank go that no alias ties? */
static bool
has_two_values(const CdpErasurePlan *p, int rank)
{
	int64	   *values = palloc(Max(p->nmembers, 1) * sizeof(int64));
	int		   *parent = palloc(Max(p->nmembers, 1) * sizeof(int));
	int			n = 0;

	for (int i = 0; i < p->nmembers; i++)
		if (p->members[i].rank == rank && p->members[i].state == 'l' && goes(p, p->members[i].fragment_id))
		{
			parent[n] = n;
			values[n++] = p->members[i].hash;
		}
	return n > 1 && tie_aliases(p, values, n, parent) > 1;
}

static bool
is_ambiguous(const CdpErasurePlan *p)
{
	const CdpPolicy *policy = &p->workspace->policy;

	for (int rank = 0; rank < policy->nnamespaces; rank++)
		if (policy->namespaces[rank].value_limit == 1 && policy->namespaces[rank].limit_window == 0 &&
			has_two_values(p, rank))
			return true;
	return false;
}

bool
cdp_erasure_plan(CdpErasurePlan *p)
{
	if (!read_fragments(p))
		return false;
	p->watermark = cdp_watermark(p->workspace->id);
	read_members(p);
	read_links(p);
	judge_members(p);
	for (int i = 0; i < p->nlinks; i++)
		judge_link(p, &p->links[i]);
	p->ambiguous = is_ambiguous(p);
	return true;
}
