/*
 * resolve.c: from the identifiers of a batch to locked fragments.
 *
 * The protocol (specs/correctness.md Z.4, READ COMMITTED):
 *
 *	1. look every identifier up, in hash order, with one snapshot S1; a key
 *	   that another transaction is inserting is waited for.  What a worker
 *	   remembers (recent.c) it need not look up;
 *	2. group what the batch ties together.  A group of one fragment that
 *	   brings nothing new cannot change who is who: only that row is locked.
 *	   Of any other group the whole component is found and locked;
 *	   What is of somebody who was forgotten is dropped (privacy/suppress.c);
 *	3. insert the missing identifiers, in hash order;
 *	4. lock the profile rows, in id order;
 *	5. a row whose locked version S1 could not see was changed meanwhile: its
 *	   identifiers, and those that are remembered with another version of it,
 *	   are read again, and when they moved the attempt ends (CDP_TRY_AGAIN) and
 *	   starts afresh.  Whoever changes a component rewrites every fragment row
 *	   of it, so that an unchanged row means an unchanged component; where one
 *	   changed, profile and contest must be the same, and nobody new in them;
 *	6. a row that turns out to be contested while the batch has a new or an
 *	   earlier link for it becomes a hint: the next attempt examines it; so does
 *	   one whose identifier with a degree meets an owner for the first time;
 *	7. settle who is who (component.c).
 *
 * No deadlock: waits in 1 and 3 follow hash order and nobody in 4 waits in 1
 * or 3; 4 is ordered and starts from none.  A client that runs several batches
 * in one transaction can break the order; the server then picks a victim, and
 * workers, having the shorter deadlock_timeout, are it.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "identity/columns.h"
#include "identity/recent.h"
#include "privacy/suppress.h"
#include "profile/columns.h"
#include "spi.h"
#include "work.h"

typedef struct FragmentEntry
{
	int64		fragment_id;
	uint32		status;
	CdpFragment *fragment;
} FragmentEntry;

#define SH_PREFIX fragment_hash
#define SH_ELEMENT_TYPE FragmentEntry
#define SH_KEY_TYPE int64
#define SH_KEY fragment_id
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key) ^ (uint32) ((key) >> 32))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

struct CdpFragmentIndex
{
	fragment_hash_hash *hash;
};

/* ---------------------------------------------------------------- hints */

bool
cdp_hinted(const CdpHints *hints, int64 fragment_id)
{
	for (int i = 0; i < hints->n; i++)
		if (hints->fragments[i] == fragment_id)
			return true;
	return false;
}

void
cdp_hint(CdpHints *hints, int64 fragment_id)
{
	if (cdp_hinted(hints, fragment_id))
		return;
	if (hints->n == hints->max)
	{
		hints->max = Max(16, hints->max * 2);
		hints->fragments = hints->fragments
			? repalloc(hints->fragments, hints->max * sizeof(int64))
			: MemoryContextAlloc(hints->cxt, hints->max * sizeof(int64));
	}
	hints->fragments[hints->n++] = fragment_id;
}

/* ---------------------------------------------------------------- fragments of the attempt */

#define FRAGMENT_BLOCK 64		/* increment of cdp_data.fragment_id_seq */

int64
cdp_new_fragment_id(void)
{
	static int64 next = 0;
	static int	left = 0;

	if (left == 0)
	{
		next = cdp_next_block("fragment_id_seq");
		left = FRAGMENT_BLOCK;
	}
	left--;
	return next++;
}

CdpFragment *
cdp_work_fragment(CdpWork *w, int64 fragment_id)
{
	FragmentEntry *entry = fragment_hash_lookup(w->by_id->hash, fragment_id);

	return entry ? entry->fragment : NULL;
}

CdpFragment *
cdp_work_add_fragment(CdpWork *w, int64 fragment_id)
{
	bool		found;
	FragmentEntry *entry = fragment_hash_insert(w->by_id->hash, fragment_id, &found);

	if (!found)
	{
		CdpFragment *f = palloc0(sizeof(CdpFragment));

		f->fragment_id = fragment_id;
		f->profile_id = fragment_id;
		f->first_seen = DT_NOEND;
		f->last_seen = DT_NOBEGIN;
		f->eval_at = DT_NOBEGIN;
		f->next_due = DT_NOEND;
		entry->fragment = f;
		if (w->nfragments == w->maxfragments)
		{
			w->maxfragments = Max(64, w->maxfragments * 2);
			w->fragments = w->fragments
				? repalloc(w->fragments, w->maxfragments * sizeof(CdpFragment *))
				: palloc(w->maxfragments * sizeof(CdpFragment *));
		}
		w->fragments[w->nfragments++] = f;
	}
	return entry->fragment;
}

CdpFragment *
cdp_work_create_fragment(CdpWork *w)
{
	CdpFragment *f = cdp_work_add_fragment(w, cdp_new_fragment_id());

	f->created = f->stable = f->changed = true;
	return f;
}

/* ---------------------------------------------------------------- 0: what the attempt presents */

/* true: the event's is less */
static bool
lower_moment(CdpMoment *m, const CdpEvent *ev)
{
	CdpMoment	mine = {ev->evidence_at, ev->message_id};

	if (cdp_moment_cmp(&mine, m) >= 0)
		return false;
	*m = mine;
	return true;
}

/*
 * moves: the event is stored already.  It is no link of this attempt, or it
 * would tie what it presents today; its evidence is set right where its rows
 * are (event/move.c).
 */
static void
collect_ident(CdpWork *w, CdpIdent *id, CdpEvent *ev, bool moves)
{
	if (id->attempt != w->attempt)
	{
		id->attempt = w->attempt;
		id->known = false;
		id->era = 0;
		ItemPointerSetInvalid(&id->tid);
		id->state = 'l';
		id->fragment_id = 0;
		id->alone.at = id->stored_alone.at = CDP_NO_TIME;
		id->first_at = id->last_at = ev->evidence_at;
		w->idents[w->nidents++] = id;
	}
	id->first_at = Min(id->first_at, ev->evidence_at);
	id->last_at = Max(id->last_at, ev->evidence_at);
	if (ev->nidents == 1 && !moves)
		(void) lower_moment(&id->alone, ev);
}

static void
collect_link(CdpWork *w, CdpLink *link, CdpEvent *ev)
{
	if (link->attempt != w->attempt)
	{
		link->attempt = w->attempt;
		link->known = false;
		ItemPointerSetInvalid(&link->tid);
		link->first.at = link->stored_first.at = CDP_NO_TIME;
		link->last_at = ev->evidence_at;
		link->attributed = link->members[0];
		w->links[w->nlinks++] = link;
	}
	link->last_at = Max(link->last_at, ev->evidence_at);
	if (lower_moment(&link->first, ev))
		link->first_event = ev;
}

static void
collect_event(CdpWork *w, CdpEvent *ev, bool moves)
{
	for (int i = 0; i < ev->nidents; i++)
		collect_ident(w, ev->idents[i], ev, moves);
	if (ev->link && !moves)
		collect_link(w, ev->link, ev);
}

static int
ident_by_hash(const void *pa, const void *pb)
{
	int64		a = (*(CdpIdent *const *) pa)->hash;
	int64		b = (*(CdpIdent *const *) pb)->hash;

	return (a > b) - (a < b);
}

typedef CdpIdent *IdentPointer;

#define ST_SORT sort_idents
#define ST_ELEMENT_TYPE IdentPointer
#define ST_COMPARE(a, b) ident_by_hash(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static int
link_by_key(const void *pa, const void *pb)
{
	const CdpLink *a = *(CdpLink *const *) pa;
	const CdpLink *b = *(CdpLink *const *) pb;

	if (a->members[0]->hash != b->members[0]->hash)
		return a->members[0]->hash < b->members[0]->hash ? -1 : 1;
	return (a->link_id > b->link_id) - (a->link_id < b->link_id);
}

typedef CdpLink *LinkPointer;

#define ST_SORT sort_links
#define ST_ELEMENT_TYPE LinkPointer
#define ST_COMPARE(a, b) link_by_key(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static void
collect(CdpWork *w)
{
	int			nids = 0,
				nlinks = 0;

	for (int i = 0; i < w->nevents; i++)
	{
		nids += w->events[i]->nidents;
		nlinks += w->events[i]->link != NULL;
	}
	for (int i = 0; i < w->nmoves; i++)
		nids += w->moves[i]->nidents;
	w->idents = palloc(Max(nids, 1) * sizeof(CdpIdent *));
	w->links = palloc(Max(nlinks, 1) * sizeof(CdpLink *));
	for (int i = 0; i < w->nevents; i++)
		collect_event(w, w->events[i], false);
	for (int i = 0; i < w->nmoves; i++)
		collect_event(w, w->moves[i], true);
	sort_idents(w->idents, w->nidents);
	sort_links(w->links, w->nlinks);
	for (int i = 0; i < w->nidents; i++)
		w->idents[i]->index = i;
}

/* ---------------------------------------------------------------- 1: look up */

static void
take_row(CdpWork *w, CdpIdent *id)
{
	TupleTableSlot *row = w->identifier->row;

	slot_getallattrs(row);
	id->known = true;
	id->tid = row->tts_tid;
	id->fragment_id = DatumGetInt64(row->tts_values[IDENTIFIER_FRAGMENT]);
	id->state = DatumGetChar(row->tts_values[IDENTIFIER_STATE]);
	id->stored_first_day = DatumGetDateADT(row->tts_values[IDENTIFIER_FIRST_DAY]);
	id->stored_last_day = DatumGetDateADT(row->tts_values[IDENTIFIER_LAST_DAY]);
	if (!row->tts_isnull[IDENTIFIER_ALONE_AT])
	{
		text	   *t = DatumGetTextPCopy(row->tts_values[IDENTIFIER_ALONE_MESSAGE]);

		id->stored_alone.at = DatumGetTimestampTz(row->tts_values[IDENTIFIER_ALONE_AT]);
		id->stored_alone.message_id = (CdpStr) {VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
	}
	else
		id->stored_alone = (CdpMoment) {CDP_NO_TIME, CDP_STR_NONE};
	if (!row->tts_isnull[IDENTIFIER_SUPPRESSED_BEFORE])
	{
		id->suppressed_before = DatumGetTimestampTz(row->tts_values[IDENTIFIER_SUPPRESSED_BEFORE]);
		w->has_tokens = true;
	}
	if (DatumGetInt32(row->tts_values[IDENTIFIER_CHECK]) != id->check)
		id->known = false, id->fragment_id = -1;
}

/* events that present an identifier whose hash is taken by another value cannot be stored */
static bool
refuse_collisions(CdpWork *w)
{
	bool		any = false;

	for (int i = 0; i < w->nevents; i++)
		for (int j = 0; j < w->events[i]->nidents; j++)
			if (w->events[i]->idents[j]->fragment_id == -1)
			{
				w->events[i]->outcome = CDP_OUT_QUARANTINED;
				w->events[i]->reason = CDP_REASON_HASH_COLLISION;
				w->events[i]->settled = any = true;
			}
	return any;
}

/*
 * A delivery of a stored message that presents somebody unknown: the event was
 * purged, or presented others, and there is nothing to move.
 */
static bool
drop_strange_moves(CdpWork *w)
{
	bool		any = false;

	for (int i = 0; i < w->nmoves; i++)
		for (int j = 0; j < w->moves[i]->nidents; j++)
			if (!w->moves[i]->idents[j]->known)
				w->moves[i]->settled = any = true;
	return any;
}

static bool
look_up(CdpWork *w)
{
	bool		collision = false;

	cdp_rel_look(w->identifier, w->snapshot);
	for (int i = 0; i < w->nidents; i++)
	{
		CdpIdent   *id = w->idents[i];
		Datum		key = Int64GetDatum(id->hash);

		if (cdp_recent_identifier(id))
			continue;
		if (cdp_rel_find(w->identifier, &key, 1) || cdp_rel_find_settled(w->identifier, &key, 1))
			take_row(w, id);
		else
			(void) cdp_suppress_look(w, id);
		collision |= id->fragment_id == -1;
	}
	if (collision && refuse_collisions(w))
		return false;
	return !cdp_suppress_events(w) && !drop_strange_moves(w);
}

/* ---------------------------------------------------------------- 2: groups */

static int
uf_find(int *parent, int i)
{
	while (parent[i] != i)
		i = parent[i] = parent[parent[i]];
	return i;
}

static void
uf_join(int *parent, int a, int b)
{
	a = uf_find(parent, a);
	b = uf_find(parent, b);
	if (a != b)
		parent[Max(a, b)] = Min(a, b);
}

typedef struct KeyIndex
{
	int64		key;
	int			index;
} KeyIndex;

static int
key_index_order(const void *a, const void *b)
{
	const KeyIndex *x = a,
			   *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return (x->index > y->index) - (x->index < y->index);
}

#define ST_SORT sort_key_index
#define ST_ELEMENT_TYPE KeyIndex
#define ST_COMPARE(a, b) key_index_order(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* join everything that has the same key */
static void
uf_join_equal(int *parent, KeyIndex *k, int n)
{
	sort_key_index(k, n);
	for (int i = 1; i < n; i++)
		if (k[i].key == k[i - 1].key)
			uf_join(parent, k[i].index, k[i - 1].index);
}

static int *
tie_together(CdpWork *w)
{
	int		   *parent = palloc(w->nidents * sizeof(int));
	KeyIndex   *known = palloc(w->nidents * sizeof(KeyIndex));
	int			nknown = 0;

	for (int i = 0; i < w->nidents; i++)
	{
		parent[i] = i;
		if (w->idents[i]->known)
			known[nknown++] = (KeyIndex) {w->idents[i]->fragment_id, i};
	}
	for (int i = 0; i < w->nlinks; i++)
		for (int j = 1; j < w->links[i]->nmembers; j++)
			uf_join(parent, w->links[i]->members[0]->index, w->links[i]->members[j]->index);
	uf_join_equal(parent, known, nknown);
	pfree(known);
	return parent;
}

/* slices of the identifiers and links, one a group */
static void
cut_groups(CdpWork *w, int *parent)
{
	CdpIdent  **ids = palloc(w->nidents * sizeof(CdpIdent *));
	CdpLink   **links = palloc(Max(w->nlinks, 1) * sizeof(CdpLink *));

	w->group_of = palloc(w->nidents * sizeof(int));
	w->groups = palloc0(w->nidents * sizeof(CdpGroup));
	w->ngroups = 0;
	for (int i = 0; i < w->nidents; i++)
	{
		int			root = uf_find(parent, i);

		/* a root has the least index of its set: it is numbered first */
		w->group_of[i] = root == i ? w->ngroups++ : w->group_of[root];
		w->groups[w->group_of[i]].nidents++;
	}
	for (int i = 0; i < w->nlinks; i++)
		w->groups[w->group_of[w->links[i]->members[0]->index]].nlinks++;
	for (int g = 0, at = 0, lat = 0; g < w->ngroups; g++)
	{
		w->groups[g].idents = ids + at;
		w->groups[g].links = links + lat;
		w->groups[g].merged_into = g;
		w->groups[g].next_merged = -1;
		at += w->groups[g].nidents;
		lat += w->groups[g].nlinks;
		w->groups[g].nidents = w->groups[g].nlinks = 0;
	}
	for (int i = 0; i < w->nidents; i++)
	{
		CdpGroup   *g = &w->groups[w->group_of[i]];

		g->idents[g->nidents++] = w->idents[i];
	}
	for (int i = 0; i < w->nlinks; i++)
	{
		CdpGroup   *g = &w->groups[w->group_of[w->links[i]->members[0]->index]];

		g->links[g->nlinks++] = w->links[i];
	}
}

/* may this group change who is who, as far as one can tell without its profile rows? */
static bool
is_candidate(const CdpGroup *g, const CdpHints *hints)
{
	int64		fragment = 0;

	if (g->has_move)
		return true;
	for (int i = 0; i < g->nidents; i++)
	{
		const CdpIdent *id = g->idents[i];

		if (!id->known || id->state != 'l' || id->ns->limit_window > 0)
			return true;
		if (fragment && fragment != id->fragment_id)
			return true;
		fragment = id->fragment_id;
		if (hints->n && cdp_hinted(hints, fragment))
			return true;
	}
	for (int i = 0; i < g->nlinks; i++)
		if (g->links[i]->kind == CDP_LINK_CALL_IDENTIFY || g->links[i]->kind == CDP_LINK_CALL_ALIAS)
			return true;
	return false;
}

/* ---------------------------------------------------------------- 2b: whole components of the candidates */

typedef struct ProfileRow
{
	int64		fragment_id,
				profile_id,
				contest_id;
} ProfileRow;

static int
read_profile_rows(CdpSpi *plan, const int64 *a, int na, const int64 *b, int nb, ProfileRow **rows)
{
	Datum		args[2] = {cdp_int8_array(a, na), cdp_int8_array(b, nb)};
	int			n = cdp_spi_run(plan, args, NULL);

	*rows = palloc(Max(n, 1) * sizeof(ProfileRow));
	for (int i = 0; i < n; i++)
		(*rows)[i] = (ProfileRow) {cdp_spi_int64(i, 1), cdp_spi_int64(i, 2), cdp_spi_int64(i, 3)};
	cdp_spi_end();
	return n;
}

/* rows of these fragments */
static CdpSpi fragments_plan = {
	"SELECT p.fragment_id, p.profile_id, p.contest_id FROM cdp_data.profile p"
	" WHERE p.fragment_id = ANY ($1) AND $2 IS NOT NULL",
	2, {INT8ARRAYOID, INT8ARRAYOID}
};

/* rows of these profiles and contests */
static CdpSpi members_plan = {
	"SELECT p.fragment_id, p.profile_id, p.contest_id FROM cdp_data.profile p WHERE p.fragment_id = ANY ($1)"
	" UNION SELECT p.fragment_id, p.profile_id, p.contest_id FROM cdp_data.profile p"
	" WHERE p.profile_id = ANY ($1) AND p.profile_id <> p.fragment_id"
	" UNION SELECT p.fragment_id, p.profile_id, p.contest_id FROM cdp_data.profile p"
	" WHERE p.contest_id = ANY ($2) AND p.contest_id <> 0",
	2, {INT8ARRAYOID, INT8ARRAYOID}
};

static int
row_by_fragment(const void *a, const void *b)
{
	const ProfileRow *x = a,
			   *y = b;

	return (x->fragment_id > y->fragment_id) - (x->fragment_id < y->fragment_id);
}

static const ProfileRow *
find_row(const ProfileRow *rows, int n, int64 fragment_id)
{
	ProfileRow	key = {fragment_id, 0, 0};

	return bsearch(&key, rows, n, sizeof(ProfileRow), row_by_fragment);
}

/* fragment ids of the candidates' known identifiers, with repeats */
static int
candidate_fragments(CdpWork *w, int64 **out)
{
	int			n = 0;

	*out = palloc(w->nidents * sizeof(int64));
	for (int i = 0; i < w->nidents; i++)
		if (w->idents[i]->known && w->groups[w->group_of[i]].examine)
			(*out)[n++] = w->idents[i]->fragment_id;
	return n;
}

/* groups that turn out to be of one profile or contest become one */
static void
join_groups(CdpWork *w, const ProfileRow *rows, int nrows)
{
	int		   *parent = palloc(w->ngroups * sizeof(int));
	KeyIndex   *profiles = palloc(w->nidents * sizeof(KeyIndex));
	KeyIndex   *contests = palloc(w->nidents * sizeof(KeyIndex));
	int			np = 0,
				nc = 0;

	for (int g = 0; g < w->ngroups; g++)
		parent[g] = g;
	for (int i = 0; i < w->nidents; i++)
	{
		int			g = w->group_of[i];
		const ProfileRow *row;

		if (!w->idents[i]->known || !w->groups[g].examine)
			continue;
		row = find_row(rows, nrows, w->idents[i]->fragment_id);
		if (row == NULL)
			continue;
		profiles[np++] = (KeyIndex) {row->profile_id, g};
		if (row->contest_id)
			contests[nc++] = (KeyIndex) {row->contest_id, g};
	}
	uf_join_equal(parent, profiles, np);
	uf_join_equal(parent, contests, nc);
	for (int g = 0; g < w->ngroups; g++)
	{
		CdpGroup   *root = &w->groups[uf_find(parent, g)];

		w->groups[g].merged_into = root - w->groups;
		if (root == &w->groups[g] || !w->groups[g].examine)
			continue;
		w->groups[g].next_merged = root->next_merged;
		root->next_merged = g;
	}
}

/* a candidate that brings nothing new to one uncontested profile is not examined after all */
static void
dismiss(CdpWork *w, CdpGroup *g, const ProfileRow *rows, int nrows, const CdpHints *hints)
{
	int64		profile = 0;

	for (int i = 0; i < g->nidents; i++)
	{
		CdpIdent   *id = g->idents[i];
		const ProfileRow *row;

		if (!id->known || id->state != 'l' || id->ns->limit_window > 0)
			return;
		row = find_row(rows, nrows, id->fragment_id);
		if (row == NULL || row->contest_id || (profile && profile != row->profile_id))
			return;
		if (cdp_hinted(hints, id->fragment_id))
			return;
		profile = row->profile_id;
	}
	for (int i = 0; i < g->nlinks; i++)
		if (g->links[i]->kind == CDP_LINK_CALL_IDENTIFY || g->links[i]->kind == CDP_LINK_CALL_ALIAS)
			return;
	g->examine = false;
}

/* sorts and drops repeats; returns how many are left */
static int
distinct(int64 *v, int n)
{
	int			kept = 0;

	qsort(v, n, sizeof(int64), cdp_int64_order);
	for (int i = 0; i < n; i++)
		if (i == 0 || v[i] != v[kept - 1])
			v[kept++] = v[i];
	return kept;
}

static void
add_planned(CdpWork *w, const ProfileRow *row)
{
	CdpFragment *f = cdp_work_add_fragment(w, row->fragment_id);

	f->planned = true;
	f->planned_profile_id = row->profile_id;
	f->planned_contest_id = row->contest_id;
}

/* add every fragment of the examined groups' components to those that will be locked */
static void
add_components(CdpWork *w, const ProfileRow *rows, int nrows)
{
	int64	   *profiles = palloc(w->nidents * sizeof(int64));
	int64	   *contests = palloc(w->nidents * sizeof(int64));
	int			np = 0,
				nc = 0,
				n;
	ProfileRow *members;

	for (int i = 0; i < w->nidents; i++)
	{
		const ProfileRow *row;

		if (!w->idents[i]->known || !w->groups[w->group_of[i]].examine)
			continue;
		row = find_row(rows, nrows, w->idents[i]->fragment_id);
		if (row == NULL)
			continue;
		profiles[np++] = row->profile_id;
		if (row->contest_id)
			contests[nc++] = row->contest_id;
	}
	if (np == 0)
		return;
	np = distinct(profiles, np);
	nc = distinct(contests, nc);
	n = read_profile_rows(&members_plan, profiles, np, contests, nc, &members);
	for (int i = 0; i < n; i++)
		add_planned(w, &members[i]);
	pfree(members);
}

static void
examine_candidates(CdpWork *w, const CdpHints *hints)
{
	int64	   *fragments;
	int			n = candidate_fragments(w, &fragments);
	ProfileRow *rows;
	int			nrows;

	n = distinct(fragments, n);
	if (n == 0)
		return;
	nrows = read_profile_rows(&fragments_plan, fragments, n, fragments, 0, &rows);
	qsort(rows, nrows, sizeof(ProfileRow), row_by_fragment);
	for (int g = 0; g < w->ngroups; g++)
		if (w->groups[g].examine)
			dismiss(w, &w->groups[g], rows, nrows, hints);
	join_groups(w, rows, nrows);
	add_components(w, rows, nrows);
}

/* choose the fragment that new identifiers of a group are born in */
static void
choose_home(CdpWork *w, CdpGroup *g)
{
	for (int i = 0; i < g->nidents; i++)
		if (g->idents[i]->known && (g->home == 0 || g->idents[i]->fragment_id < g->home))
			g->home = g->idents[i]->fragment_id;
	if (g->home == 0)
		g->home = cdp_work_create_fragment(w)->fragment_id;
}

static void
plan_groups(CdpWork *w, const CdpHints *hints)
{
	bool		any = false;

	cut_groups(w, tie_together(w));
	for (int i = 0; i < w->nmoves; i++)
		for (int j = 0; j < w->moves[i]->nidents; j++)
			w->groups[w->group_of[w->moves[i]->idents[j]->index]].has_move = true;
	for (int g = 0; g < w->ngroups; g++)
		any |= w->groups[g].examine = is_candidate(&w->groups[g], hints);
	if (any)
		examine_candidates(w, hints);
	for (int i = 0; i < w->nidents; i++)
	{
		CdpGroup   *g = &w->groups[w->group_of[i]];

		if (w->idents[i]->known)
		{
			g->has_known = true;
			cdp_work_add_fragment(w, w->idents[i]->fragment_id);
		}
		else
			g->has_new = true;
	}
	for (int g = 0; g < w->ngroups; g++)
		if (w->groups[g].has_new)
			choose_home(w, &w->groups[g]);
}

/* ---------------------------------------------------------------- 3: insert */

static void
fill_identifier(CdpWork *w, CdpIdent *id, TupleTableSlot *row)
{
	Datum	   *v = row->tts_values;

	v[IDENTIFIER_ID] = Int64GetDatum(id->hash);
	v[IDENTIFIER_FRAGMENT] = Int64GetDatum(id->fragment_id);
	v[IDENTIFIER_CHECK] = Int32GetDatum(id->check);
	v[IDENTIFIER_WORKSPACE] = Int32GetDatum(w->workspace_id);
	v[IDENTIFIER_FIRST_DAY] = DateADTGetDatum(cdp_day_of(id->first_at));
	v[IDENTIFIER_LAST_DAY] = DateADTGetDatum(cdp_day_of(id->last_at));
	v[IDENTIFIER_NAMESPACE] = Int32GetDatum(id->ns->id);
	v[IDENTIFIER_STATE] = CharGetDatum('l');
	row->tts_isnull[IDENTIFIER_ALONE_AT] = row->tts_isnull[IDENTIFIER_ALONE_MESSAGE] = id->alone.at == CDP_NO_TIME;
	if (id->alone.at != CDP_NO_TIME)
	{
		v[IDENTIFIER_ALONE_AT] = TimestampTzGetDatum(id->alone.at);
		v[IDENTIFIER_ALONE_MESSAGE] = cdp_text(id->alone.message_id);
	}
	row->tts_isnull[IDENTIFIER_SUPPRESSED_BEFORE] = id->suppressed_before == DT_NOBEGIN;
	v[IDENTIFIER_SUPPRESSED_BEFORE] = TimestampTzGetDatum(id->suppressed_before);
	v[IDENTIFIER_VALUE] = cdp_text(id->value);
}

static void
insert_missing(CdpWork *w)
{
	for (int i = 0; i < w->nidents; i++)
	{
		CdpIdent   *id = w->idents[i];

		if (id->known)
			continue;
		id->fragment_id = w->groups[w->group_of[i]].home;
		id->stored_alone = id->alone;
		id->stored_first_day = cdp_day_of(id->first_at);
		id->stored_last_day = cdp_day_of(id->last_at);
		fill_identifier(w, id, cdp_rel_new_at(w->identifier, &id->tid));
	}
	cdp_rel_flush(w->identifier);
}

/* ---------------------------------------------------------------- 4: lock */

static int
fragment_by_id(const void *pa, const void *pb)
{
	int64		a = (*(CdpFragment *const *) pa)->fragment_id;
	int64		b = (*(CdpFragment *const *) pb)->fragment_id;

	return (a > b) - (a < b);
}

typedef CdpFragment *FragmentPointer;

#define ST_SORT sort_fragments
#define ST_ELEMENT_TYPE FragmentPointer
#define ST_COMPARE(a, b) fragment_by_id(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* is the version that is in the slot the one that the first look saw? */
static bool
is_stable(CdpWork *w, TupleTableSlot *row)
{
	HeapTupleHeader tuple = ((HeapTupleTableSlot *) row)->tuple->t_data;

	return TransactionIdPrecedes(HeapTupleHeaderGetXmin(tuple), w->snapshot->xmin) ||
		table_tuple_satisfies_snapshot(w->profile->rel, row, w->snapshot);
}

static void
take_profile(CdpWork *w, CdpFragment *f)
{
	TupleTableSlot *row = w->profile->row;
	Datum	   *v = row->tts_values;

	slot_getallattrs(row);
	f->tid = row->tts_tid;
	f->stable = is_stable(w, row);
	cdp_recent_confirm(f, HeapTupleHeaderGetRawXmin(((HeapTupleTableSlot *) row)->tuple->t_data));
	f->profile_id = DatumGetInt64(v[PROFILE_ID]);
	f->contest_id = DatumGetInt64(v[PROFILE_CONTEST]);
	f->event_count = DatumGetInt64(v[PROFILE_EVENT_COUNT]);
	f->months = DatumGetInt64(v[PROFILE_MONTHS]);
	f->first_seen = DatumGetTimestampTz(v[PROFILE_FIRST_SEEN]);
	f->last_seen = DatumGetTimestampTz(v[PROFILE_LAST_SEEN]);
	f->eval_at = DatumGetTimestampTz(v[PROFILE_EVAL_AT]);
	f->next_due = DatumGetTimestampTz(v[PROFILE_NEXT_DUE]);
}

/* the fragment is gone: the next attempt must look for its identifiers */
static void
forget_people(CdpWork *w, const CdpFragment *f)
{
	for (int i = 0; i < w->nidents; i++)
		if (w->idents[i]->known && w->idents[i]->fragment_id == f->fragment_id)
			(void) cdp_recent_holds(f, w->idents[i]);
}

/* goes through all, so that one more attempt is enough when many people are gone */
bool
cdp_lock_fragments(CdpWork *w)
{
	bool		complete = true;

	sort_fragments(w->fragments, w->nfragments);
	cdp_rel_look(w->profile, GetLatestSnapshot());
	for (int i = 0; i < w->nfragments; i++)
	{
		CdpFragment *f = w->fragments[i];
		Datum		key = Int64GetDatum(f->fragment_id);
		ItemPointerData tid = cdp_recent_place(f->fragment_id);

		if (f->created)
			continue;
		if (!cdp_rel_find_at(w->profile, &key, 1, &tid) || !cdp_rel_lock(w->profile))
		{
			forget_people(w, f);
			complete = false;
			continue;
		}
		take_profile(w, f);
	}
	return complete;
}

/* ---------------------------------------------------------------- 5, 6: look again */

/* takes its row, too */
static bool
is_where_it_was(CdpWork *w, CdpIdent *id)
{
	Datum		key = Int64GetDatum(id->hash);

	if (!cdp_rel_find(w->identifier, &key, 1))
		return false;
	slot_getallattrs(w->identifier->row);
	if (DatumGetInt64(w->identifier->row->tts_values[IDENTIFIER_FRAGMENT]) != id->fragment_id ||
		DatumGetChar(w->identifier->row->tts_values[IDENTIFIER_STATE]) != id->state)
		return false;
	take_row(w, id);
	return true;
}

/*
 * Identifiers that are remembered, or of fragments that changed since S1, are
 * where they were?  Goes through all: what is not so is forgotten.
 */
static bool
identifiers_stayed(CdpWork *w)
{
	bool		looked = false,
				stayed = true;

	for (int i = 0; i < w->nidents; i++)
	{
		CdpIdent   *id = w->idents[i];
		CdpFragment *f = id->known ? cdp_work_fragment(w, id->fragment_id) : NULL;

		if (f == NULL || (cdp_recent_holds(f, id) && f->stable))
			continue;
		if (!looked)
			cdp_rel_look(w->identifier, GetLatestSnapshot());
		looked = true;
		if (stayed)
			stayed = is_where_it_was(w, id);
	}
	return stayed;
}

/* of a component that is examined: is it of the same profile and contest as when it was found? */
static bool
is_as_planned(const CdpFragment *f)
{
	return f->stable || (f->planned && f->profile_id == f->planned_profile_id && f->contest_id == f->planned_contest_id);
}

/* has nobody come to the profiles and contests of these fragments? all of them are locked */
static bool
nobody_came(CdpWork *w, CdpFragment **fragments, int n)
{
	int64	   *profiles = palloc(Max(n, 1) * sizeof(int64));
	int64	   *contests = palloc(Max(n, 1) * sizeof(int64));
	ProfileRow *members;
	int			nc = 0,
				nmembers;
	bool		same = true;

	for (int i = 0; i < n; i++)
	{
		profiles[i] = fragments[i]->profile_id;
		if (fragments[i]->contest_id)
			contests[nc++] = fragments[i]->contest_id;
	}
	n = distinct(profiles, n);
	nc = distinct(contests, nc);
	nmembers = read_profile_rows(&members_plan, profiles, n, contests, nc, &members);
	for (int i = 0; i < nmembers && same; i++)
		same = cdp_work_fragment(w, members[i].fragment_id) != NULL;
	pfree(members);
	return same;
}

/*
 * A component that is examined must be what it was when it was found.  Rows
 * that others changed meanwhile are no reason to start again, or people whom
 * they write all the time would never get through: whoever joins or leaves a
 * component changes what its rows say, or comes with a row of his own.
 */
static bool
components_stayed(CdpWork *w)
{
	CdpFragment **changed = palloc(Max(w->nfragments, 1) * sizeof(CdpFragment *));
	int			n = 0;

	for (int i = 0; i < w->nidents; i++)
		if (w->idents[i]->known && w->groups[w->group_of[i]].examine &&
			!is_as_planned(cdp_work_fragment(w, w->idents[i]->fragment_id)))
			return false;
	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->planned && !w->fragments[i]->stable)
		{
			if (!is_as_planned(w->fragments[i]))
				return false;
			changed[n++] = w->fragments[i];
		}
	return n == 0 || nobody_came(w, changed, n);
}

/* moved events changed when their identifiers were presented alone */
static void
read_evidence_again(CdpWork *w)
{
	cdp_rel_look(w->identifier, GetLatestSnapshot());
	for (int i = 0; i < w->nmoves; i++)
		for (int j = 0; j < w->moves[i]->nidents; j++)
		{
			Datum		key = Int64GetDatum(w->moves[i]->idents[j]->hash);

			if (!cdp_rel_find(w->identifier, &key, 1))
				elog(ERROR, "an identifier of a locked fragment is gone");
			take_row(w, w->moves[i]->idents[j]);
		}
}

static void
look_up_links(CdpWork *w)
{
	cdp_rel_look(w->link, GetLatestSnapshot());
	for (int i = 0; i < w->nlinks; i++)
	{
		CdpLink    *link = w->links[i];
		Datum		key[4] = {Int64GetDatum(link->members[0]->hash), Int64GetDatum(link->link_id),
		Int32GetDatum(w->batch->source->id), CharGetDatum(link->kind)};
		text	   *t;

		if (!link->members[0]->known ||
			cdp_recent_link(cdp_work_fragment(w, link->members[0]->fragment_id), link, w->batch->source->id) ||
			!cdp_rel_find(w->link, key, 4))
			continue;
		slot_getallattrs(w->link->row);
		t = DatumGetTextPCopy(w->link->row->tts_values[LINK_FIRST_MESSAGE]);
		link->known = true;
		link->tid = w->link->row->tts_tid;
		link->stored_first.at = DatumGetTimestampTz(w->link->row->tts_values[LINK_FIRST_AT]);
		link->stored_first.message_id = (CdpStr) {VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
		link->stored_last = DatumGetTimestampTz(w->link->row->tts_values[LINK_LAST_AT]);
	}
}

/* does the group bring evidence that a fold in order would notice? */
static bool
brings_evidence(const CdpGroup *g)
{
	for (int i = 0; i < g->nlinks; i++)
		if (!g->links[i]->known || cdp_moment_cmp(&g->links[i]->first, &g->links[i]->stored_first) < 0)
			return true;
	for (int i = 0; i < g->nidents; i++)
		if (cdp_moment_cmp(&g->idents[i]->alone, &g->idents[i]->stored_alone) < 0)
			return true;
	return false;
}

/* the degree guard counts within one person, too: does an identifier that has one meet an owner? */
static bool
meets_owner(const CdpLink *link)
{
	for (int i = 0; i < link->nmembers; i++)
		for (int j = 0; link->members[i]->ns->degree > 0 && j < link->nmembers; j++)
			if (j != i && link->members[j]->ns->owner)
				return true;
	return false;
}

static bool
brings_owner(const CdpGroup *g)
{
	for (int i = 0; i < g->nlinks; i++)
		if (!g->links[i]->known && meets_owner(g->links[i]))
			return true;
	return false;
}

/* groups that were thought harmless but belong to a contested component, or may make it one */
static bool
hint_contested(CdpWork *w, CdpHints *hints)
{
	bool		any = false;

	for (int i = 0; i < w->ngroups; i++)
	{
		CdpGroup   *g = &w->groups[i];
		CdpFragment *f;

		if (g->examine || !g->has_known)
			continue;
		f = cdp_work_fragment(w, g->idents[0]->fragment_id);
		if (f == NULL || !(f->contest_id ? brings_evidence(g) : brings_owner(g)))
			continue;
		cdp_hint(hints, f->fragment_id);
		any = true;
	}
	return any;
}

/* ---------------------------------------------------------------- the stage */

void
cdp_index_fragments(CdpWork *w)
{
	w->by_id = palloc(sizeof(struct CdpFragmentIndex));
	w->by_id->hash = fragment_hash_create(w->cxt, Max(w->nevents, 16), NULL);
}

CdpTry
cdp_resolve(CdpWork *w, CdpHints *hints)
{
	cdp_index_fragments(w);
	collect(w);
	w->snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (!look_up(w))
		return CDP_TRY_AGAIN;
	plan_groups(w, hints);
	insert_missing(w);
	CommandCounterIncrement();
	if (!cdp_lock_fragments(w) || !identifiers_stayed(w) || !components_stayed(w) || cdp_suppress_look_again(w))
		return CDP_TRY_AGAIN;
	cdp_store_moves(w);
	if (w->nmoves)
		read_evidence_again(w);
	look_up_links(w);
	if (hint_contested(w, hints))
		return CDP_TRY_AGAIN;
	cdp_settle_components(w);
	return CDP_TRY_DONE;
}
