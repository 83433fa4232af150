/*
 * component.c: who is who in the components that a batch may change.
 *
 * All fragments of these components are locked.  Their identifiers are read in
 * one query for the whole batch.  Most components break no limit: their
 * fragments become one profile, whose id is the least fragment id.  For the
 * others the links are read and F decides (fold.c); then
 *
 *	- a fragment whose identifiers belong to several profiles is split: the
 *	  group with the strongest identifier keeps it, every other identifier gets
 *	  a fragment of its own (once: later folds move whole fragments).  Traits
 *	  whose events were purged stay with the fragment, so who was presented
 *	  before the watermark keeps it, not somebody who came later;
 *	- the events follow the identifier that their link is attributed to, found
 *	  by anchor in the old fragments; what was moved is computed again from
 *	  events (recompute.c), in the same transaction unless it is large (dirty.c);
 *	- an identifier in no profile is demoted: it keeps a fragment of the
 *	  component as the place where the component can be found;
 *	- contest_id on every fragment says that order matters here from now on.
 *
 * Every fragment of a component whose partition changes is written, so that
 * another batch that locks any of them notices.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "access/table.h"
#include "identity/evidence.h"
#include "privacy/purge.h"
#include "spi.h"
#include "work.h"

/* a member of a component, as stored, with what the batch adds */
typedef struct Member
{
	int64		hash;
	int64		fragment_id;
	int16		rank;			/* in the policy; -1: its namespace is gone */
	char		state;
	CdpStr		value;
	CdpMoment	alone;
	CdpIdent   *ident;			/* NULL: not in the batch */
	int64		new_fragment_id;
	char		new_state;
	bool		moved;
} Member;

typedef struct Component
{
	CdpWork    *w;
	Member	   *members;		/* by fragment */
	int			nmembers;
	CdpFragment **fragments;
	int			nfragments;
	CdpLink   **links;			/* of the batch */
	int			nlinks;
	bool		contested_before;
	CdpFold		fold;
	bool	   *presented_early;	/* per identifier of the fold: before the watermark; NULL: not asked yet */
	int64		contest_id;
} Component;

/* ---------------------------------------------------------------- reading members */

static CdpSpi members_plan = {
	"SELECT i.identifier_id, i.fragment_id, i.namespace_id, i.state, i.alone_at, i.alone_message, i.value"
	" FROM cdp_data.identifier i WHERE i.fragment_id = ANY ($1)",
	1, {INT8ARRAYOID}
};

static void
read_member(CdpWork *w, Member *m, int row)
{
	bool		isnull;
	CdpNamespace *ns;

	m->hash = cdp_spi_int64(row, 1);
	m->fragment_id = m->new_fragment_id = cdp_spi_int64(row, 2);
	ns = cdp_namespace_by_id(w->policy, DatumGetInt32(cdp_spi_datum(row, 3, &isnull)));
	m->rank = ns ? ns - w->policy->namespaces : -1;
	m->state = m->new_state = DatumGetChar(cdp_spi_datum(row, 4, &isnull));
	m->alone = cdp_evidence_moment(row, 5, 6, w->cxt);
	m->value = cdp_spi_text(row, 7, w->cxt);
	m->ident = cdp_batch_ident(w->batch, m->hash);
	if (m->ident && m->ident->attempt != w->attempt)
		m->ident = NULL;
	if (m->ident && cdp_moment_cmp(&m->ident->alone, &m->alone) < 0)
		m->alone = m->ident->alone;
}

static int
member_by_fragment(const void *a, const void *b)
{
	const Member *x = a,
			   *y = b;

	if (x->fragment_id != y->fragment_id)
		return x->fragment_id < y->fragment_id ? -1 : 1;
	return (x->hash > y->hash) - (x->hash < y->hash);
}

static int
read_members(CdpWork *w, const int64 *fragments, int n, Member **out)
{
	Datum		arg = cdp_int8_array(fragments, n);
	int			count = cdp_spi_run(&members_plan, &arg, NULL);

	*out = MemoryContextAllocZero(w->cxt, Max(count, 1) * sizeof(Member));
	for (int i = 0; i < count; i++)
		read_member(w, &(*out)[i], i);
	cdp_spi_end();
	qsort(*out, count, sizeof(Member), member_by_fragment);
	return count;
}

/* ---------------------------------------------------------------- the quick test */

/* more values of a namespace than its limit? windows and aliases are left to the fold */
static bool
breaks_a_limit(const Component *c)
{
	const CdpPolicy *policy = c->w->policy;
	int		   *count = palloc0(policy->nnamespaces * sizeof(int));
	bool		broken = false;

	for (int i = 0; i < c->nmembers; i++)
	{
		const CdpNamespace *ns;

		if (c->members[i].rank < 0)
			continue;
		ns = &policy->namespaces[c->members[i].rank];
		if (policy->kind == CDP_POLICY_DEMOTE && ns->value_limit > 0 &&
			++count[c->members[i].rank] > ns->value_limit)
			broken = true;
		if (c->members[i].state != 'l' || ns->degree > 0)
			broken = true;
	}
	pfree(count);
	return broken;
}

static bool
has_call(const Component *c)
{
	for (int i = 0; i < c->nlinks; i++)
		if (c->links[i]->kind == CDP_LINK_CALL_IDENTIFY || c->links[i]->kind == CDP_LINK_CALL_ALIAS)
			return true;
	return false;
}

static bool
there_are_decisions(void)
{
	Relation	rel = table_open(cdp_table(CDP_T_DECISION), AccessShareLock);
	bool		any = RelationGetNumberOfBlocks(rel) > 0;

	table_close(rel, AccessShareLock);
	return any;
}

static bool
needs_fold(const Component *c)
{
	return c->w->refold || c->contested_before || breaks_a_limit(c) || has_call(c) || there_are_decisions();
}

/* ---------------------------------------------------------------- everybody is one person */

static void
set_profile(CdpFragment *f, int64 profile_id, int64 contest_id)
{
	if (f->profile_id == profile_id && f->contest_id == contest_id)
		return;
	f->profile_id = profile_id;
	f->contest_id = contest_id;
	f->changed = true;
}

static void
rewrite_all(Component *c)
{
	for (int i = 0; i < c->nfragments; i++)
		c->fragments[i]->changed = true;
}

static void
join_all(Component *c)
{
	int64		least = c->fragments[0]->fragment_id;

	for (int i = 1; i < c->nfragments; i++)
		least = Min(least, c->fragments[i]->fragment_id);
	for (int i = 0; i < c->nfragments; i++)
		set_profile(c->fragments[i], least, 0);
	rewrite_all(c);
}

/* ---------------------------------------------------------------- preparing the fold */

static CdpSpi links_plan = {
	CDP_EVIDENCE_LINKS " WHERE l.identifier_id = ANY ($1) ORDER BY l.link_id",
	1, {INT8ARRAYOID}
};

static CdpSpi decisions_plan = {
	CDP_EVIDENCE_DECISIONS " AND d.a = ANY ($1)",
	1, {INT8ARRAYOID}
};

static void
prepare_idents(Component *c)
{
	c->fold.idents = palloc0(c->nmembers * sizeof(CdpFoldIdent));
	c->fold.nidents = c->nmembers;
	for (int i = 0; i < c->nmembers; i++)
	{
		c->fold.idents[i].hash = c->members[i].hash;
		c->fold.idents[i].rank = Max(c->members[i].rank, 0);
		c->fold.idents[i].value = c->members[i].value;
		c->fold.idents[i].alone = c->members[i].alone;
	}
}

static CdpFoldLink *
find_fold_link(CdpFold *fold, int nstored, int64 link_id)
{
	int			lo = 0,
				hi = nstored;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (fold->links[mid].link_id == link_id)
			return &fold->links[mid];
		if (fold->links[mid].link_id < link_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static void
add_batch_links(Component *c, CdpEvidence *e)
{
	int			nstored = c->fold.nlinks;

	for (int i = 0; i < c->nlinks; i++)
	{
		CdpLink    *mine = c->links[i];
		CdpFoldLink *link = find_fold_link(&c->fold, nstored, mine->link_id);
		int64		hashes[CDP_MAX_IDENTIFIERS];

		if (link == NULL)
		{
			for (int j = 0; j < mine->nmembers; j++)
				hashes[j] = mine->members[j]->hash;
			link = cdp_evidence_add_link(e, mine->link_id, mine->kind, hashes, mine->nmembers);
		}
		if (cdp_moment_cmp(&mine->first, &link->first) < 0)
			link->first = mine->first;
	}
}

static void
prepare_evidence(Component *c)
{
	CdpEvidence e;
	int64	   *hashes = palloc(c->nmembers * sizeof(int64));
	Datum		arg;

	for (int i = 0; i < c->nmembers; i++)
		hashes[i] = c->members[i].hash;
	arg = cdp_int8_array(hashes, c->nmembers);
	cdp_evidence_begin(&e, &c->fold, false);
	cdp_spi_run(&links_plan, &arg, NULL);
	cdp_evidence_take_links(&e);
	cdp_spi_end();
	add_batch_links(c, &e);
	if (!there_are_decisions())
		return;
	cdp_spi_run(&decisions_plan, &arg, NULL);
	cdp_evidence_take_decisions(&e);
	cdp_spi_end();
}

/* a degree guard that trips is a decision from then on (R4) */
static CdpSpi shared_plan = {
	"INSERT INTO cdp_data.decision (workspace_id, kind, a, reason)"
	" SELECT $2, 'shared', $1, 'degree' WHERE NOT EXISTS"
	" (SELECT FROM cdp_data.decision d WHERE d.a = $1 AND d.kind = 'shared')",
	2, {INT8OID, INT4OID}
};

static void
record_shared(Component *c)
{
	for (int i = 0; i < c->nmembers; i++)
		if (c->fold.idents[i].sticky && c->members[i].state != 's')
		{
			Datum		args[2] = {Int64GetDatum(c->members[i].hash), Int32GetDatum(c->w->workspace_id)};

			cdp_spi_exec(&shared_plan, args, NULL);
		}
}

static CdpSpi warning_plan = {
	"INSERT INTO cdp_data.identity_warning (workspace_id, kind, identifier_id, namespace_id, link_id, warned_at)"
	" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
	6, {INT4OID, TEXTOID, INT8OID, INT4OID, INT8OID, TIMESTAMPTZOID}
};

/* a fold finds the same things each time: only what is new is logged */
static void
log_warnings(Component *c)
{
	for (int i = 0; i < c->fold.nwarnings; i++)
	{
		const CdpFoldWarning *f = &c->fold.warnings[i];
		Datum		args[6] = {Int32GetDatum(c->w->workspace_id), CStringGetTextDatum(f->kind),
			Int64GetDatum(c->members[f->ident].hash),
			Int32GetDatum(f->rank < 0 ? 0 : c->w->policy->namespaces[f->rank].id), Int64GetDatum(f->link_id),
		TimestampTzGetDatum(cdp_clock())};

		cdp_spi_exec(&warning_plan, args, NULL);
	}
}

static void
fold_component(Component *c)
{
	c->fold.policy = c->w->policy;
	prepare_idents(c);
	prepare_evidence(c);
	cdp_fold(&c->fold);
	record_shared(c);
	log_warnings(c);
}

/* ---------------------------------------------------------------- applying the fold */

static void
note_early(Component *c)
{
	TimestampTz watermark = cdp_watermark(c->w->workspace_id);
	const CdpFold *f = &c->fold;

	c->presented_early = palloc0(Max(f->nidents, 1) * sizeof(bool));
	for (int i = 0; i < f->nidents; i++)
		c->presented_early[i] = f->idents[i].alone.at < watermark;
	for (int l = 0; l < f->nlinks; l++)
		for (int i = 0; f->links[l].first.at < watermark && i < f->links[l].nmembers; i++)
			c->presented_early[f->links[l].members[i]] = true;
}

static bool
has_better_claim(const Component *c, int a, int b)
{
	if (c->presented_early[a] != c->presented_early[b])
		return c->presented_early[a];
	return cdp_fold_ident_cmp(&c->fold.idents[a], &c->fold.idents[b]) < 0;
}

/* do the live identifiers of members[from..to) belong to several profiles? */
static bool
is_split(const Component *c, int from, int to)
{
	int			profile = -1;

	for (int i = from; i < to; i++)
	{
		int			p = c->fold.idents[i].profile;

		if (p >= 0 && profile >= 0 && p != profile)
			return true;
		profile = Max(profile, p);
	}
	return false;
}

/* which of them decides which profile keeps the fragment? */
static int
keeper(Component *c, int from, int to)
{
	int			best = -1;

	if (c->presented_early == NULL)
		note_early(c);
	for (int i = from; i < to; i++)
		if (c->fold.idents[i].profile >= 0 && (best < 0 || has_better_claim(c, i, best)))
			best = i;
	return c->fold.idents[best].profile;
}

static void
split_fragments(Component *c, CdpFragment ***all, int *nall)
{
	*all = palloc((c->nfragments + c->nmembers) * sizeof(CdpFragment *));
	*nall = c->nfragments;
	memcpy(*all, c->fragments, c->nfragments * sizeof(CdpFragment *));
	for (int from = 0, to; from < c->nmembers; from = to)
	{
		int			keep;

		for (to = from + 1; to < c->nmembers && c->members[to].fragment_id == c->members[from].fragment_id; to++)
			;
		if (!is_split(c, from, to))
			continue;
		keep = keeper(c, from, to);
		for (int i = from; i < to; i++)
		{
			CdpFragment *f;

			if (c->fold.idents[i].profile < 0 || c->fold.idents[i].profile == keep)
				continue;
			f = cdp_work_create_fragment(c->w);
			(*all)[(*nall)++] = f;
			c->members[i].new_fragment_id = f->fragment_id;
			c->members[i].moved = true;
		}
	}
}

/* the id of a profile is its least fragment id */
static void
label_profiles(Component *c, CdpFragment **all, int nall)
{
	int64	   *label = palloc0(Max(c->fold.nprofiles, 1) * sizeof(int64));

	for (int i = 0; i < c->nmembers; i++)
	{
		int			p = c->fold.idents[i].profile;

		if (p >= 0 && (label[p] == 0 || c->members[i].new_fragment_id < label[p]))
			label[p] = c->members[i].new_fragment_id;
	}
	for (int i = 0; i < nall; i++)
		set_profile(all[i], all[i]->fragment_id, c->contest_id);
	for (int i = 0; i < c->nmembers; i++)
		if (c->fold.idents[i].profile >= 0)
			set_profile(cdp_work_fragment(c->w, c->members[i].new_fragment_id),
						label[c->fold.idents[i].profile], c->contest_id);
}

static CdpSpi identifier_plan = {
	"UPDATE cdp_data.identifier SET fragment_id = $2, state = $3 WHERE identifier_id = $1",
	3, {INT8OID, INT8OID, CHAROID}
};

static bool
write_members(Component *c)
{
	bool		moved = false;

	for (int i = 0; i < c->nmembers; i++)
	{
		Member	   *m = &c->members[i];
		Datum		args[3];

		m->new_state = c->fold.idents[i].profile < 0 ? 'd' : c->fold.idents[i].shared ? 's' : 'l';
		if (!m->moved && m->new_state == m->state)
			continue;
		args[0] = Int64GetDatum(m->hash);
		args[1] = Int64GetDatum(m->new_fragment_id);
		args[2] = CharGetDatum(m->new_state);
		if (cdp_spi_exec(&identifier_plan, args, NULL) != 1)
			elog(ERROR, "an identifier of a locked component is gone");
		moved |= m->moved || m->new_state == 's' || m->state == 's';
		if (m->ident)
		{
			m->ident->fragment_id = m->new_fragment_id;
			m->ident->state = m->new_state;
		}
	}
	return moved;
}

/* ---------------------------------------------------------------- contests */

static CdpSpi contest_plan = {
	"INSERT INTO cdp_data.contest (contest_id, workspace_id, nlinks, refolded_at) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (contest_id) DO UPDATE SET nlinks = excluded.nlinks, refolded_at = excluded.refolded_at",
	4, {INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID}
};

static CdpSpi drop_contests_plan = {
	"DELETE FROM cdp_data.contest WHERE contest_id = ANY ($1) AND contest_id <> $2",
	2, {INT8ARRAYOID, INT8OID}
};

/*
 * The component's contest: the least id of those that met, or a new one; 0 when
 * it is one person.  Profiles that a shared identifier or a retracted link
 * still ties together are found through it, too.
 */
static void
settle_contest(Component *c)
{
	int64	   *old = palloc(c->nfragments * sizeof(int64));
	int			n = 0;
	Datum		args[4];

	for (int i = 0; i < c->nfragments; i++)
		if (c->fragments[i]->contest_id)
			old[n++] = c->fragments[i]->contest_id;
	qsort(old, n, sizeof(int64), cdp_int64_order);
	c->contest_id = 0;
	if (c->fold.contested || c->fold.nprofiles != 1)
		c->contest_id = n ? old[0] : cdp_next_block("contest_id_seq");
	if (n)
	{
		args[0] = cdp_int8_array(old, n);
		args[1] = Int64GetDatum(c->contest_id);
		cdp_spi_exec(&drop_contests_plan, args, NULL);
	}
	if (c->contest_id)
	{
		args[0] = Int64GetDatum(c->contest_id);
		args[1] = Int32GetDatum(c->w->workspace_id);
		args[2] = Int32GetDatum(c->fold.nlinks);
		args[3] = TimestampTzGetDatum(cdp_clock());
		cdp_spi_exec(&contest_plan, args, NULL);
	}
}

/* ---------------------------------------------------------------- events follow */

static CdpSpi relabel_plan = {
	"UPDATE cdp_data.event e SET fragment_id = t.fragment_id"
	" FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS t(anchor, fragment_id)"
	" WHERE e.fragment_id = ANY ($1) AND e.anchor = t.anchor AND e.fragment_id <> t.fragment_id",
	3, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
};

/* every event of the component lies in the fragment of the identifier that its link is attributed to */
static void
relabel_events(Component *c, CdpFragment **all, int nall)
{
	int64	   *fragments = palloc(c->nfragments * sizeof(int64));
	int64	   *anchors = palloc((c->nmembers + c->fold.nlinks) * sizeof(int64));
	int64	   *targets = palloc((c->nmembers + c->fold.nlinks) * sizeof(int64));
	int			n = 0,
				nf = 0;
	Datum		args[3];

	for (int i = 0; i < c->nfragments; i++)
		if (!c->fragments[i]->created)
			fragments[nf++] = c->fragments[i]->fragment_id;
	for (int i = 0; i < c->nmembers; i++)
		anchors[n] = c->members[i].hash, targets[n++] = c->members[i].new_fragment_id;
	for (int i = 0; i < c->fold.nlinks; i++)
		if (c->fold.links[i].attributed >= 0)
		{
			anchors[n] = c->fold.links[i].link_id;
			targets[n++] = c->members[c->fold.links[i].attributed].new_fragment_id;
		}
	args[0] = cdp_int8_array(fragments, nf);
	args[1] = cdp_int8_array(anchors, n);
	args[2] = cdp_int8_array(targets, n);
	if (nf == 0 || cdp_spi_exec(&relabel_plan, args, NULL) == 0)
		return;
	cdp_mark_recompute(all, nall, "split");
}

static void
attribute_links(Component *c)
{
	for (int i = 0; i < c->fold.nlinks; i++)
	{
		CdpFoldLink *link = &c->fold.links[i];
		CdpLink    *mine = cdp_batch_link(c->w->batch, link->link_id);

		if (mine && mine->attempt == c->w->attempt)
			mine->attributed = link->attributed < 0 ? NULL : c->members[link->attributed].ident;
	}
}

static void
apply_fold(Component *c)
{
	CdpFragment **all;
	int			nall;

	split_fragments(c, &all, &nall);
	settle_contest(c);
	label_profiles(c, all, nall);
	if (write_members(c))
	{
		CommandCounterIncrement();
		relabel_events(c, all, nall);
	}
	attribute_links(c);
	rewrite_all(c);
	for (int i = 0; i < nall; i++)
		all[i]->rearranged = true;
}

/* ---------------------------------------------------------------- the components of a batch */

typedef struct FragmentGroup
{
	int			group;
	CdpFragment *fragment;
} FragmentGroup;

static int
fragment_group_order(const void *a, const void *b)
{
	const FragmentGroup *x = a,
			   *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	return (x->fragment->fragment_id > y->fragment->fragment_id) - (x->fragment->fragment_id < y->fragment->fragment_id);
}

static int
root_group(const CdpWork *w, int ident)
{
	return w->groups[w->group_of[ident]].merged_into;
}

typedef struct Label
{
	int64		key;
	int			group;
} Label;

static int
label_order(const void *a, const void *b)
{
	return cdp_int64_order(&((const Label *) a)->key, &((const Label *) b)->key);
}

static int
find_label(const Label *labels, int n, int64 key)
{
	Label		k = {key, 0};
	const Label *found = key ? bsearch(&k, labels, n, sizeof(Label), label_order) : NULL;

	return found ? found->group : -1;
}

/* profile ids and contest ids (negated: contests) of the examined groups */
static int
label_groups(CdpWork *w, Label *labels)
{
	int			n = 0;

	for (int i = 0; i < w->nidents; i++)
	{
		CdpFragment *f;
		int			g = root_group(w, i);

		if (!w->groups[w->group_of[i]].examine)
			continue;
		f = cdp_work_fragment(w, w->idents[i]->fragment_id);
		labels[n++] = (Label) {f->profile_id, g};
		if (f->contest_id)
			labels[n++] = (Label) {-f->contest_id, g};
	}
	qsort(labels, n, sizeof(Label), label_order);
	return n;
}

static int
group_of_fragment(const Label *labels, int n, const CdpFragment *f)
{
	int			g = find_label(labels, n, f->profile_id);

	return g < 0 && f->contest_id ? find_label(labels, n, -f->contest_id) : g;
}

/*
 * A group that changes nothing by itself may be of a profile that another one
 * makes contested, or splits: its links are evidence there, and are not stored yet.
 */
static void
join_others(CdpWork *w, const Label *labels, int nlabels)
{
	if (nlabels == 0)
		return;
	for (int i = 0; i < w->ngroups; i++)
	{
		CdpGroup   *g = &w->groups[i];
		CdpGroup   *root;
		CdpFragment *f;
		int			r;

		if (g->examine || g->nlinks == 0 || !g->idents[0]->known)
			continue;
		f = cdp_work_fragment(w, g->idents[0]->fragment_id);
		r = f ? group_of_fragment(labels, nlabels, f) : -1;
		if (r < 0)
			continue;
		root = &w->groups[r];
		g->merged_into = r;
		g->next_merged = root->next_merged;
		root->next_merged = i;
	}
}

/* which of the locked fragments belong to which examined group */
static int
fragments_of_groups(CdpWork *w, FragmentGroup *out)
{
	Label	   *labels = palloc(2 * w->nidents * sizeof(Label));
	int			nlabels = label_groups(w, labels);
	int			n = 0;

	for (int i = 0; i < w->nfragments; i++)
	{
		int			g = group_of_fragment(labels, nlabels, w->fragments[i]);

		if (g >= 0)
			out[n++] = (FragmentGroup) {g, w->fragments[i]};
	}
	join_others(w, labels, nlabels);
	qsort(out, n, sizeof(FragmentGroup), fragment_group_order);
	pfree(labels);
	return n;
}

static CdpLink **
links_of_group(CdpWork *w, int group, int *n)
{
	CdpLink   **links;
	int			count = 0;

	for (int g = group; g >= 0; g = w->groups[g].next_merged)
		count += w->groups[g].nlinks;
	links = palloc(Max(count, 1) * sizeof(CdpLink *));
	*n = 0;
	for (int g = group; g >= 0; g = w->groups[g].next_merged)
		for (int i = 0; i < w->groups[g].nlinks; i++)
			links[(*n)++] = w->groups[g].links[i];
	return links;
}

/* where the members of a fragment begin */
static int
first_member(const Member *all, int nall, int64 fragment_id)
{
	Member		key = {.fragment_id = fragment_id, .hash = PG_INT64_MIN};
	int			lo = 0,
				hi = nall;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (member_by_fragment(&all[mid], &key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void
gather_members(Component *c, const Member *all, int nall)
{
	int			max = 8;

	c->members = palloc(max * sizeof(Member));
	for (int f = 0; f < c->nfragments; f++)
	{
		int64		id = c->fragments[f]->fragment_id;

		for (int i = first_member(all, nall, id); i < nall && all[i].fragment_id == id; i++)
		{
			if (c->nmembers == max)
				c->members = repalloc(c->members, (max *= 2) * sizeof(Member));
			c->members[c->nmembers++] = all[i];
		}
	}
}

static void
settle_one(CdpWork *w, const FragmentGroup *fg, int nfg, Member *all, int nall)
{
	Component	c = {.w = w};

	c.fragments = palloc(nfg * sizeof(CdpFragment *));
	for (int i = 0; i < nfg; i++)
	{
		c.fragments[c.nfragments++] = fg[i].fragment;
		c.contested_before |= fg[i].fragment->contest_id != 0;
	}
	gather_members(&c, all, nall);
	c.links = links_of_group(w, fg[0].group, &c.nlinks);
	if (!needs_fold(&c))
		join_all(&c);
	else
	{
		fold_component(&c);
		if (c.fold.contested || c.contested_before || w->refold || c.fold.nprofiles != 1)
			apply_fold(&c);
		else
			join_all(&c);
	}
}

void
cdp_settle_components(CdpWork *w)
{
	FragmentGroup *fg = palloc(Max(w->nfragments, 1) * sizeof(FragmentGroup));
	int			n = fragments_of_groups(w, fg);
	int64	   *ids = palloc(Max(n, 1) * sizeof(int64));
	Member	   *all;
	int			nall;

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		ids[i] = fg[i].fragment->fragment_id;
	nall = read_members(w, ids, n, &all);
	for (int from = 0, to; from < n; from = to)
	{
		for (to = from + 1; to < n && fg[to].group == fg[from].group; to++)
			;
		settle_one(w, fg + from, to - from, all, nall);
	}
}
