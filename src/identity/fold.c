/*
 * fold.c: F(links, decisions), who is one person.
 *
 * F is a function of a set: neither the order of the arrays nor of arrival
 * plays a part.  What runs, in this order:
 *
 *	guards		identifiers presented with more owners than their degree allows
 *				are shared: each is an anonymous profile of its own and links
 *				nothing.  Retracted links count here, so undo cannot clear it.
 *	join		union-find over the links that are left gives the components.
 *	contested?	a component that breaks no limit and no keep_apart, and in which
 *				no call can be refused, is one profile: if the whole breaks
 *				nothing, no prefix of it does, so no order is needed.
 *	bound		a contested component of more than MAX_CONTESTED_LINKS links
 *				loses its hubs (identifiers with two owners, which become
 *				shared), and what is then still contested and too big is held:
 *				nothing is joined in it.  Neither is sticky.
 *	fold		the links of the other contested components are folded in the
 *				order of (evidence time, message id, link id): each is joined
 *				unless the union would break something; then its weakest
 *				offending members are dropped until it does not.  Components do
 *				not touch each other, so one pass over all of them will do.
 *
 * A retracted link, and an event with one identifier, is a link of one member:
 * it joins nothing but gives its member a profile.  Values of a namespace that
 * alias links say are one person count once for a limit.
 *
 * The strongest member of a link is never dropped: when something breaks,
 * either a weaker member lives in another profile or is of the broken
 * namespace, or none has a profile and the weakest goes.  So the events of a
 * link belong to its strongest member that is not shared, but those of a
 * refused call to the id that it names.
 *
 * Cost: union-find for what is not contested, sorting for the rest.  Limits are
 * checked on counts per profile; only with a window or alias links are the
 * members of a profile looked at, and then only when the counts exceed the
 * limit.
 *
 * The letter of F: R1 to R6, R11 and R65 of the correctness rules.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "fold.h"

/* links of a contested component that are folded at the most (R1); a test lowers it */
#ifndef MAX_CONTESTED_LINKS
#define MAX_CONTESTED_LINKS		2000
#endif

/* what a hub may have: it becomes shared with its second owner */
#define HUB_OWNERS				1

/* no guard: any number of owners */
#define ANY_OWNERS				PG_INT32_MAX

/* what a union would break: the rank of a namespace, or */
#define BREAKS_NOTHING			(-2)
#define BREAKS_KEEP_APART		(-1)

/* flags of an identifier */
#define PLACED		0x01		/* in a profile */
#define IDENTIFIED	0x02		/* of a profile's root: identify named it */

/* flags of a component, at its root */
#define CONTESTED	0x04
#define TOO_BIG		0x08

/* a link in the order of the fold; one of a single member has no link */
typedef struct Entry
{
	CdpMoment	moment;
	int64		id;				/* of the link, or of the only identifier */
	int			link;			/* -1: of ident alone */
	int			ident;
	bool		skip;			/* the same set was folded earlier */
} Entry;

typedef struct Apart
{
	int			comp,
				a,
				b;
} Apart;

/* One call of cdp_fold.  Arrays are parallel to fold->idents. */
typedef struct Work
{
	CdpFold    *fold;
	TimestampTz *age;			/* least first_seen of what presented it (R65.8) */
	int		   *parent;			/* union-find: components, then profiles */
	int		   *comp;			/* root of the component */
	int		   *alias;			/* union-find: values that are one person */
	int		   *next;			/* ring of the members of a profile */
	int		   *stamp;			/* scratch; in the fold: last serial that saw this class */
	int		   *slot;			/* place in counts */
	int		   *counts;			/* [nlimited] each profile: values per limited namespace */
	uint8	   *flags;
	int			serial;
	bool		has_alias;

	int			nlimited;
	int		   *limited;		/* ranks with a limit, ascending */
	int		   *limit_no;		/* rank -> index into limited, -1: none */

	int			napart;			/* pairs inside a contested component, by comp */
	Apart	   *apart;

	int			nentries;
	Entry	   *entries;
	int		   *set;			/* members of the link being folded */
	int			maxwarnings;
} Work;

/* ---------------------------------------------------------------- order */

int
cdp_moment_cmp(const CdpMoment *a, const CdpMoment *b)
{
	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	return cdp_str_cmp(a->message_id, b->message_id);
}

int
cdp_fold_ident_cmp(const CdpFoldIdent *a, const CdpFoldIdent *b)
{
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return cdp_str_cmp(a->value, b->value);
}

static int
entry_cmp(const void *a, const void *b)
{
	const Entry *x = a,
			   *y = b;
	int			c = cdp_moment_cmp(&x->moment, &y->moment);

	if (c != 0)
		return c;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return (x->ident > y->ident) - (x->ident < y->ident);
}

/* ---------------------------------------------------------------- small tools */

static void *
alloc_array(Size n, Size size)
{
	return palloc_extended(Max(n, 1) * size, MCXT_ALLOC_HUGE);
}

static int
find(int *parent, int i)
{
	while (parent[i] != i)
	{
		parent[i] = parent[parent[i]];
		i = parent[i];
	}
	return i;
}

static void
unite(int *parent, int a, int b)
{
	a = find(parent, a);
	b = find(parent, b);
	if (a < b)
		parent[b] = a;
	else
		parent[a] = b;
}

static inline const CdpNamespace *
namespace_of(const Work *w, int ident)
{
	return &w->fold->policy->namespaces[w->fold->idents[ident].rank];
}

static inline bool
is_shared(const Work *w, int ident)
{
	return w->fold->idents[ident].shared;
}

static inline bool
is_call(const CdpFoldLink *link)
{
	return link->kind == CDP_LINK_CALL_IDENTIFY || link->kind == CDP_LINK_CALL_ALIAS;
}

/* The first member that is not shared; -1: all are. */
static int
first_member(const Work *w, const CdpFoldLink *link)
{
	for (int i = 0; i < link->nmembers; i++)
		if (!is_shared(w, link->members[i]))
			return link->members[i];
	return -1;
}

static void
warn(Work *w, const char *kind, int ident, int rank, int64 link_id)
{
	CdpFold    *fold = w->fold;

	if (fold->nwarnings == w->maxwarnings)
	{
		Size		size;

		w->maxwarnings = Max(8, w->maxwarnings * 2);
		size = w->maxwarnings * sizeof(CdpFoldWarning);
		fold->warnings = fold->warnings ?
			repalloc_huge(fold->warnings, size) : palloc(size);
	}
	fold->warnings[fold->nwarnings++] = (CdpFoldWarning)
	{
		.kind = kind, .ident = ident, .rank = rank, .link_id = link_id
	};
}

/* ---------------------------------------------------------------- guards */

typedef struct OwnerPair
{
	int			ident,
				owner;
} OwnerPair;

static int
owner_pair_cmp(const void *a, const void *b)
{
	const OwnerPair *x = a,
			   *y = b;

	if (x->ident != y->ident)
		return x->ident < y->ident ? -1 : 1;
	return (x->owner > y->owner) - (x->owner < y->owner);
}

static int
owners_in(const Work *w, const CdpFoldLink *link)
{
	int			n = 0;

	for (int i = 0; i < link->nmembers; i++)
		n += namespace_of(w, link->members[i])->owner;
	return n;
}

/*
 * For each identifier, how often a link presents it with an owner: no fewer
 * than its distinct owners, and much cheaper.
 */
static int *
count_meetings(const Work *w)
{
	const CdpFold *fold = w->fold;
	int		   *meetings = alloc_array(fold->nidents, sizeof(int));

	memset(meetings, 0, fold->nidents * sizeof(int));
	for (int l = 0; l < fold->nlinks; l++)
	{
		int			n = owners_in(w, &fold->links[l]);

		for (int i = 0; i < fold->links[l].nmembers; i++)
			meetings[fold->links[l].members[i]] += n;
	}
	return meetings;
}

/* The pairs (identifier, owner) of identifiers with more meetings than allowed. */
static OwnerPair *
collect_owners(const Work *w, const int *meetings, const int *allowed, Size *npairs)
{
	const CdpFold *fold = w->fold;
	OwnerPair  *pairs;
	Size		n = 0;

	for (int i = 0; i < fold->nidents; i++)
		if (meetings[i] > allowed[i])
			n += meetings[i];
	pairs = alloc_array(n, sizeof(OwnerPair));
	n = 0;
	for (int l = 0; l < fold->nlinks; l++)
	{
		const CdpFoldLink *link = &fold->links[l];

		for (int i = 0; i < link->nmembers; i++)
			for (int j = 0; meetings[link->members[i]] > allowed[link->members[i]] && j < link->nmembers; j++)
				if (j != i && namespace_of(w, link->members[j])->owner)
					pairs[n++] = (OwnerPair) {link->members[i], link->members[j]};
	}
	*npairs = n;
	return pairs;
}

/*
 * Make identifiers shared that were presented with more distinct owners than
 * allowed, retracted links included (R65.10).  An identifier is no owner of
 * itself.
 */
static void
share_above(Work *w, const int *allowed, bool sticky)
{
	int		   *meetings = count_meetings(w);
	Size		npairs;
	OwnerPair  *pairs = collect_owners(w, meetings, allowed, &npairs);
	int			distinct = 0;

	qsort(pairs, npairs, sizeof(OwnerPair), owner_pair_cmp);
	for (Size p = 0; p < npairs; p++)
	{
		int			ident = pairs[p].ident;

		if (p == 0 || pairs[p - 1].ident != ident)
			distinct = 0;
		if (p == 0 || owner_pair_cmp(&pairs[p - 1], &pairs[p]) != 0)
			distinct++;
		if (distinct > allowed[ident])
		{
			w->fold->idents[ident].shared = true;
			w->fold->idents[ident].sticky |= sticky;
		}
	}
	pfree(pairs);
	pfree(meetings);
}

/* The degree guard, and what was decided before. */
static void
apply_degree(Work *w)
{
	CdpFold    *fold = w->fold;
	int		   *allowed = NULL;

	for (int i = 0; i < fold->nidents; i++)
		fold->idents[i].shared = fold->idents[i].sticky;
	for (int r = 0; r < fold->policy->nnamespaces; r++)
		if (fold->policy->namespaces[r].degree > 0 && allowed == NULL)
			allowed = alloc_array(fold->nidents, sizeof(int));
	if (allowed == NULL)
		return;
	for (int i = 0; i < fold->nidents; i++)
	{
		int			degree = namespace_of(w, i)->degree;

		allowed[i] = degree > 0 ? degree : ANY_OWNERS;
	}
	share_above(w, allowed, true);
	pfree(allowed);
}

/* ---------------------------------------------------------------- join */

/* Alias links make values of one namespace count as one (whatever their time). */
static void
join_alias(Work *w, const CdpFoldLink *link)
{
	w->has_alias = true;
	for (int i = 0; i < link->nmembers; i++)
		for (int j = 0; j < i; j++)
		{
			int			a = link->members[i],
						b = link->members[j];

			if (!is_shared(w, a) && !is_shared(w, b) &&
				w->fold->idents[a].rank == w->fold->idents[b].rank)
				unite(w->alias, a, b);
		}
}

/* Components over the links that are not retracted, without shared identifiers. */
static void
join_components(Work *w)
{
	CdpFold    *fold = w->fold;

	w->has_alias = false;
	for (int i = 0; i < fold->nidents; i++)
		w->parent[i] = w->alias[i] = i;
	for (int l = 0; l < fold->nlinks; l++)
	{
		const CdpFoldLink *link = &fold->links[l];
		int			first = first_member(w, link);

		if (link->retracted || first < 0)
			continue;
		for (int i = 0; i < link->nmembers; i++)
			if (!is_shared(w, link->members[i]))
				unite(w->parent, first, link->members[i]);
		if (link->kind == CDP_LINK_ALIAS)
			join_alias(w, link);
	}
	for (int i = 0; i < fold->nidents; i++)
		w->comp[i] = find(w->parent, i);
}

/* ---------------------------------------------------------------- contested? */

typedef struct Aged
{
	int			comp,
				class;
	TimestampTz age;
} Aged;

static int
aged_cmp(const void *a, const void *b)
{
	const Aged *x = a,
			   *y = b;

	if (x->comp != y->comp)
		return x->comp < y->comp ? -1 : 1;
	return (x->age > y->age) - (x->age < y->age);
}

/*
 * The values of one component, by age: does any window hold more than limit of
 * them?  seen is zero for all classes, and left so.
 */
static bool
any_window_breaks(const Aged *v, int n, const CdpNamespace *ns, int *seen)
{
	int			from = 0,
				distinct = 0,
				most = 0;

	for (int i = 0; i < n; i++)
	{
		for (; v[i].age - v[from].age >= ns->limit_window; from++)
			distinct -= --seen[v[from].class] == 0;
		distinct += seen[v[i].class]++ == 0;
		most = Max(most, distinct);
	}
	for (; from < n; from++)
		seen[v[from].class]--;
	return most > ns->value_limit;
}

/*
 * A namespace with a window: of the components in which it has more values than
 * its limit (count), mark those in which they fall into one window.
 */
static void
contest_by_window(Work *w, int rank, const int *count)
{
	const CdpFold *fold = w->fold;
	const CdpNamespace *ns = &fold->policy->namespaces[rank];
	Aged	   *aged = alloc_array(fold->nidents, sizeof(Aged));
	int		   *seen = alloc_array(fold->nidents, sizeof(int));
	int			n = 0;

	memset(seen, 0, fold->nidents * sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
		if (fold->idents[i].rank == rank && !is_shared(w, i) &&
			count[w->comp[i]] > ns->value_limit)
			aged[n++] = (Aged) {w->comp[i], find(w->alias, i), w->age[i]};
	qsort(aged, n, sizeof(Aged), aged_cmp);
	for (int from = 0, to; from < n; from = to)
	{
		for (to = from; to < n && aged[to].comp == aged[from].comp;)
			to++;
		if (any_window_breaks(aged + from, to - from, ns, seen))
			w->flags[aged[from].comp] |= CONTESTED;
	}
	pfree(seen);
	pfree(aged);
}

/* Mark the components in which a namespace has more values than its limit. */
static void
contest_by_limit(Work *w, int k, int *count)
{
	const CdpFold *fold = w->fold;
	int			rank = w->limited[k];
	const CdpNamespace *ns = &fold->policy->namespaces[rank];
	bool		above = false;

	memset(count, 0, fold->nidents * sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
		if (fold->idents[i].rank == rank && w->alias[i] == i && !is_shared(w, i))
			above |= ++count[w->comp[i]] > ns->value_limit;
	if (!above)
		return;
	if (ns->limit_window > 0)
		contest_by_window(w, rank, count);
	else
		for (int i = 0; i < fold->nidents; i++)
			if (count[w->comp[i]] > ns->value_limit)
				w->flags[w->comp[i]] |= CONTESTED;
}

static bool
is_apart_in_component(const Work *w, const CdpFoldPair *pair)
{
	return pair->a != pair->b && w->comp[pair->a] == w->comp[pair->b];
}

/* Set CONTESTED at the roots of components that need an order; true if any. */
static bool
find_contested(Work *w)
{
	const CdpFold *fold = w->fold;
	bool		any = false;

	memset(w->flags, 0, fold->nidents);
	for (int k = 0; k < w->nlimited; k++)
		contest_by_limit(w, k, w->stamp);
	for (int p = 0; p < fold->napart; p++)
		if (is_apart_in_component(w, &fold->apart[p]))
			w->flags[w->comp[fold->apart[p].a]] |= CONTESTED;
	for (int l = 0; l < fold->nlinks; l++)
	{
		int			first = first_member(w, &fold->links[l]);

		if (is_call(&fold->links[l]) && !fold->links[l].retracted && first >= 0)
			w->flags[w->comp[first]] |= CONTESTED;
	}
	for (int i = 0; i < fold->nidents; i++)
		any |= (w->flags[i] & CONTESTED) != 0;
	return any;
}

/* ---------------------------------------------------------------- bound */

/* Set TOO_BIG at the roots of contested components beyond the bound; true if any. */
static bool
find_too_big(Work *w)
{
	const CdpFold *fold = w->fold;
	int		   *nlinks = w->stamp;
	bool		any = false;

	if (fold->nlinks <= MAX_CONTESTED_LINKS)
		return false;
	memset(nlinks, 0, fold->nidents * sizeof(int));
	for (int l = 0; l < fold->nlinks; l++)
	{
		int			first = first_member(w, &fold->links[l]);

		if (!fold->links[l].retracted && first >= 0)
			nlinks[w->comp[first]]++;
	}
	for (int i = 0; i < fold->nidents; i++)
		if ((w->flags[i] & CONTESTED) && nlinks[i] > MAX_CONTESTED_LINKS)
		{
			w->flags[i] |= TOO_BIG;
			any = true;
		}
	return any;
}

/* Make the hubs of components beyond the bound shared, and look again. */
static void
share_hubs(Work *w)
{
	const CdpFold *fold = w->fold;
	int		   *allowed = alloc_array(fold->nidents, sizeof(int));

	for (int i = 0; i < fold->nidents; i++)
		allowed[i] = (w->flags[w->comp[i]] & TOO_BIG) && !namespace_of(w, i)->owner ?
			HUB_OWNERS : ANY_OWNERS;
	share_above(w, allowed, false);
	pfree(allowed);
	join_components(w);
	find_contested(w);
	find_too_big(w);
}

/* ---------------------------------------------------------------- attribution */

/* R65.11, R65.13: the strongest member that is not shared, of a retracted link the strongest. */
static int
attributed_member(const Work *w, const CdpFoldLink *link)
{
	const CdpFoldIdent *idents = w->fold->idents;
	int			first = link->retracted ? -1 : first_member(w, link);
	int			other = link->members[link->nmembers - 1];

	if (first < 0)
		first = link->members[0];
	else if (is_shared(w, other))
		return first;
	/* only a call may have the stronger one last */
	return is_call(link) && cdp_fold_ident_cmp(&idents[other], &idents[first]) < 0 ? other : first;
}

/* Before the fold, which has the last word about refused calls. */
static void
attribute_links(Work *w)
{
	for (int l = 0; l < w->fold->nlinks; l++)
		w->fold->links[l].attributed = attributed_member(w, &w->fold->links[l]);
}

/* ---------------------------------------------------------------- fold: one link */

static inline int *
counts_of(const Work *w, int root)
{
	return w->counts + (Size) w->slot[root] * w->nlimited;
}

/*
 * Values of a namespace in some profiles that count at the time of a link, those
 * of one person once.  Looks at every member: with windows and aliases only.
 */
static int
count_exactly(Work *w, const int *roots, int nroots, int rank, TimestampTz at)
{
	const CdpFold *fold = w->fold;
	int64		window = fold->policy->namespaces[rank].limit_window;
	int			serial = ++w->serial;
	int			n = 0;

	for (int r = 0; r < nroots; r++)
	{
		int			i = roots[r];

		do
		{
			int			class = find(w->alias, i);

			if (fold->idents[i].rank == rank && w->stamp[class] != serial &&
				(window == 0 || (w->age[i] > at - window && w->age[i] <= at)))
			{
				w->stamp[class] = serial;
				n++;
			}
			i = w->next[i];
		} while (i != roots[r]);
	}
	return n;
}

/* True if the union of profiles has too many values of limited namespace k. */
static bool
limit_breaks(Work *w, const int *roots, int nroots, int k, TimestampTz at)
{
	int			rank = w->limited[k];
	const CdpNamespace *ns = &w->fold->policy->namespaces[rank];
	int			n = 0;

	for (int r = 0; r < nroots; r++)
		n += counts_of(w, roots[r])[k];
	if (n > ns->value_limit && (ns->limit_window > 0 || w->has_alias))
		n = count_exactly(w, roots, nroots, rank, at);
	return n > ns->value_limit;
}

static int
apart_lower_bound(const Work *w, int comp)
{
	int			lo = 0,
				hi = w->napart;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (w->apart[mid].comp < comp)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool
has_root(const int *roots, int nroots, int root)
{
	for (int r = 0; r < nroots; r++)
		if (roots[r] == root)
			return true;
	return false;
}

static bool
keep_apart_breaks(Work *w, const int *roots, int nroots)
{
	int			comp = w->comp[roots[0]];

	for (int p = apart_lower_bound(w, comp); p < w->napart && w->apart[p].comp == comp; p++)
		if (has_root(roots, nroots, find(w->parent, w->apart[p].a)) &&
			has_root(roots, nroots, find(w->parent, w->apart[p].b)))
			return true;
	return false;
}

/* What the union of the members and their profiles would break, the first of it. */
static int
find_broken(Work *w, const int *set, int n, TimestampTz at)
{
	int		   *roots = w->set + n;
	int			nroots = 0;

	for (int i = 0; i < n; i++)
	{
		int			root = find(w->parent, set[i]);

		if (!has_root(roots, nroots, root))
			roots[nroots++] = root;
	}
	if (nroots == 1)
		return BREAKS_NOTHING;	/* already one profile */
	for (int k = 0; k < w->nlimited; k++)
		if (limit_breaks(w, roots, nroots, k, at))
			return w->limited[k];
	return keep_apart_breaks(w, roots, nroots) ? BREAKS_KEEP_APART : BREAKS_NOTHING;
}

/* R65.4: the weakest member that is in the way; never the strongest. */
static int
weakest_offending(Work *w, const int *set, int n, int broken)
{
	int			strongest = find(w->parent, set[0]);

	for (int i = n - 1; i > 0; i--)
	{
		bool		elsewhere = (w->flags[set[i]] & PLACED) &&
		(!(w->flags[set[0]] & PLACED) || find(w->parent, set[i]) != strongest);

		if (elsewhere || w->fold->idents[set[i]].rank == broken)
			return i;
	}
	return n - 1;
}

/* Join two profiles: the ring, the counts, the flag of the root. */
static void
join_profiles(Work *w, int a, int b)
{
	int			swap;

	a = find(w->parent, a);
	b = find(w->parent, b);
	if (a == b)
		return;
	w->parent[b] = a;
	w->flags[a] |= w->flags[b] & IDENTIFIED;
	for (int k = 0; k < w->nlimited; k++)
		counts_of(w, a)[k] += counts_of(w, b)[k];
	swap = w->next[a];
	w->next[a] = w->next[b];
	w->next[b] = swap;
}

/* Join the first n of w->set, but for members that must be dropped. */
static void
fold_set(Work *w, int n, const CdpFoldLink *link)
{
	int			broken;

	while ((broken = find_broken(w, w->set, n, link->first.at)) != BREAKS_NOTHING)
	{
		int			out = weakest_offending(w, w->set, n, broken);

		warn(w, "demoted", w->set[out], Max(broken, -1), link->link_id);
		memmove(w->set + out, w->set + out + 1, (n - out - 1) * sizeof(int));
		n--;
	}
	for (int i = 0; i < n; i++)
	{
		join_profiles(w, w->set[0], w->set[i]);
		w->flags[w->set[i]] |= PLACED;
	}
}

/* True if a call (id, other) must not take other: it is somebody already. */
static bool
call_is_refused(Work *w, int id, int other)
{
	int			root = find(w->parent, other);

	return root != find(w->parent, id) && (w->flags[root] & IDENTIFIED);
}

/* Fill w->set with the members that are not shared, strongest first; their number. */
static int
set_of(Work *w, const CdpFoldLink *link)
{
	int			n = 0;

	for (int i = 0; i < link->nmembers; i++)
		if (!is_shared(w, link->members[i]))
			w->set[n++] = link->members[i];
	if (is_call(link) && n == 2 &&
		cdp_fold_ident_cmp(&w->fold->idents[w->set[0]], &w->fold->idents[w->set[1]]) > 0)
	{
		w->set[0] = link->members[1];
		w->set[1] = link->members[0];
	}
	return n;
}

static void
fold_link(Work *w, CdpFoldLink *link)
{
	int			n = set_of(w, link);

	if (is_call(link) && n == 2 && call_is_refused(w, link->members[0], link->members[1]))
	{
		warn(w, "already identified", link->members[1], -1, link->link_id);
		link->attributed = w->set[0] = link->members[0];
		n = 1;
	}
	fold_set(w, n, link);
	if (link->kind == CDP_LINK_CALL_IDENTIFY && !is_shared(w, link->members[0]))
		w->flags[find(w->parent, link->members[0])] |= IDENTIFIED;
}

/* ---------------------------------------------------------------- fold: all */

/* Is it folded in order?  Not shared, in a contested component within the bound. */
static bool
is_folded(const Work *w, int ident)
{
	return !is_shared(w, ident) &&
		(w->flags[w->comp[ident]] & (CONTESTED | TOO_BIG)) == CONTESTED;
}

static void
add_entry(Work *w, CdpMoment moment, int64 id, int link, int ident)
{
	w->entries[w->nentries++] = (Entry)
	{
		.moment = moment, .id = id, .link = link, .ident = ident
	};
}

static Size
max_entries(const CdpFold *fold)
{
	Size		n = fold->nidents;

	for (int l = 0; l < fold->nlinks; l++)
		n += fold->links[l].retracted ? fold->links[l].nmembers : 1;
	return n;
}

/* What is to be folded: links, retracted ones as one each member, single events. */
static void
collect_entries(Work *w)
{
	const CdpFold *fold = w->fold;

	w->entries = alloc_array(max_entries(fold), sizeof(Entry));
	for (int l = 0; l < fold->nlinks; l++)
	{
		const CdpFoldLink *link = &fold->links[l];
		int			first = first_member(w, link);

		if (!link->retracted && first >= 0 && is_folded(w, first))
			add_entry(w, link->first, link->link_id, l, first);
		for (int i = 0; link->retracted && i < link->nmembers; i++)
			if (is_folded(w, link->members[i]))
				add_entry(w, link->first, link->link_id, -1, link->members[i]);
	}
	for (int i = 0; i < fold->nidents; i++)
		if (fold->idents[i].alone.at != CDP_NO_TIME && is_folded(w, i))
			add_entry(w, fold->idents[i].alone, fold->idents[i].hash, -1, i);
	qsort(w->entries, w->nentries, sizeof(Entry), entry_cmp);
}

static int
same_set_cmp(const void *a, const void *b, void *arg)
{
	const Work *w = arg;
	const Entry *x = &w->entries[*(const int *) a],
			   *y = &w->entries[*(const int *) b];
	const CdpFoldLink *lx = &w->fold->links[x->link],
			   *ly = &w->fold->links[y->link];

	if (lx->nmembers != ly->nmembers)
		return lx->nmembers < ly->nmembers ? -1 : 1;
	return memcmp(lx->members, ly->members, lx->nmembers * sizeof(int));
}

/*
 * Each distinct set is folded once: an alias of two identifiers that were also
 * observed together is one set with two links.
 */
static void
skip_repeated_sets(Work *w)
{
	int		   *order = alloc_array(w->nentries, sizeof(int));
	int			n = 0;

	for (int e = 0; e < w->nentries; e++)
		if (w->entries[e].link >= 0 && !is_call(&w->fold->links[w->entries[e].link]))
			order[n++] = e;
	qsort_arg(order, n, sizeof(int), same_set_cmp, w);
	for (int from = 0, to; from < n; from = to)
	{
		int			earliest = order[from];

		for (to = from; to < n && same_set_cmp(&order[from], &order[to], w) == 0; to++)
		{
			earliest = Min(earliest, order[to]);
			w->entries[order[to]].skip = true;
		}
		w->entries[earliest].skip = false;
	}
	pfree(order);
}

static int
apart_cmp(const void *a, const void *b)
{
	const Apart *x = a,
			   *y = b;

	return (x->comp > y->comp) - (x->comp < y->comp);
}

static void
collect_apart(Work *w)
{
	const CdpFold *fold = w->fold;

	w->napart = 0;
	w->apart = alloc_array(fold->napart, sizeof(Apart));
	for (int p = 0; p < fold->napart; p++)
	{
		const CdpFoldPair *pair = &fold->apart[p];

		if (is_apart_in_component(w, pair) && is_folded(w, pair->a))
			w->apart[w->napart++] = (Apart) {w->comp[pair->a], pair->a, pair->b};
	}
	qsort(w->apart, w->napart, sizeof(Apart), apart_cmp);
}

/* Every identifier that is folded begins by itself, in no profile. */
static void
start_profiles(Work *w)
{
	const CdpFold *fold = w->fold;
	Size		ncounts;
	int			nslots = 0;

	w->next = alloc_array(fold->nidents, sizeof(int));
	w->slot = alloc_array(fold->nidents, sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
		if (is_folded(w, i))
		{
			w->parent[i] = w->next[i] = i;
			w->slot[i] = nslots++;
		}

	ncounts = (Size) nslots * w->nlimited;
	w->counts = alloc_array(ncounts, sizeof(int));
	memset(w->counts, 0, ncounts * sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
	{
		int			k = w->limit_no[fold->idents[i].rank];

		if (k >= 0 && is_folded(w, i))
			counts_of(w, i)[k] = 1;
	}
	memset(w->stamp, 0, fold->nidents * sizeof(int));
}

static void
fold_contested(Work *w)
{
	collect_entries(w);
	collect_apart(w);
	start_profiles(w);
	if (w->has_alias)
		skip_repeated_sets(w);
	for (int e = 0; e < w->nentries; e++)
	{
		const Entry *entry = &w->entries[e];

		if (entry->link < 0)
			w->flags[entry->ident] |= PLACED;
		else if (!entry->skip)
			fold_link(w, &w->fold->links[entry->link]);
	}
	pfree(w->counts);
	pfree(w->slot);
	pfree(w->next);
	pfree(w->apart);
	pfree(w->entries);
}

/* ---------------------------------------------------------------- result */

/* Nothing is joined in a held component; everything in an uncontested one is. */
static void
place_the_rest(Work *w)
{
	CdpFold    *fold = w->fold;

	for (int i = 0; i < fold->nidents; i++)
	{
		if (is_folded(w, i))
			continue;
		if (w->flags[w->comp[i]] & TOO_BIG)
			w->parent[i] = i;
		if (w->age[i] != CDP_NO_TIME)
			w->flags[i] |= PLACED;
	}
}

/* One warning a held component, naming its strongest identifier. */
static void
warn_of_held(Work *w)
{
	CdpFold    *fold = w->fold;
	int		   *strongest = w->stamp;

	memset(strongest, -1, fold->nidents * sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
	{
		int			root = w->comp[i];

		if ((w->flags[root] & TOO_BIG) &&
			(strongest[root] < 0 ||
			 cdp_fold_ident_cmp(&fold->idents[i], &fold->idents[strongest[root]]) < 0))
			strongest[root] = i;
	}
	for (int i = 0; i < fold->nidents; i++)
		if (strongest[w->comp[i]] == i)
			warn(w, "held", i, -1, 0);
}

static void
number_profiles(Work *w)
{
	CdpFold    *fold = w->fold;
	int		   *number = w->stamp;

	memset(number, -1, fold->nidents * sizeof(int));
	for (int i = 0; i < fold->nidents; i++)
	{
		int			root = find(w->parent, i);

		if (!(w->flags[i] & PLACED))
		{
			fold->idents[i].profile = -1;
			continue;
		}
		if (number[root] < 0)
			number[root] = fold->nprofiles++;
		fold->idents[i].profile = number[root];
	}
}

/* ---------------------------------------------------------------- entrance */

static void
find_limits(Work *w)
{
	const CdpPolicy *policy = w->fold->policy;

	w->limited = alloc_array(policy->nnamespaces, sizeof(int));
	w->limit_no = alloc_array(policy->nnamespaces, sizeof(int));
	for (int r = 0; r < policy->nnamespaces; r++)
	{
		w->limit_no[r] = -1;
		if (policy->kind == CDP_POLICY_DEMOTE && policy->namespaces[r].value_limit > 0)
		{
			w->limit_no[r] = w->nlimited;
			w->limited[w->nlimited++] = r;
		}
	}
}

/* How old each identifier is, and the length of the longest link. */
static int
find_ages(Work *w)
{
	const CdpFold *fold = w->fold;
	int			longest = 1;

	for (int i = 0; i < fold->nidents; i++)
		w->age[i] = fold->idents[i].alone.at;
	for (int l = 0; l < fold->nlinks; l++)
	{
		const CdpFoldLink *link = &fold->links[l];

		longest = Max(longest, link->nmembers);
		for (int i = 0; i < link->nmembers; i++)
			w->age[link->members[i]] = Min(w->age[link->members[i]], link->first.at);
	}
	return longest;
}

static void
start_work(Work *w, CdpFold *fold)
{
	Size		n = fold->nidents;

	memset(w, 0, sizeof(*w));
	w->fold = fold;
	w->age = alloc_array(n, sizeof(TimestampTz));
	w->parent = alloc_array(4 * n, sizeof(int));
	w->comp = w->parent + n;
	w->alias = w->comp + n;
	w->stamp = w->alias + n;
	w->flags = alloc_array(n, sizeof(uint8));
	find_limits(w);
	w->set = alloc_array(2 * find_ages(w), sizeof(int));
	fold->contested = false;
	fold->nprofiles = 0;
	fold->warnings = NULL;
	fold->nwarnings = 0;
}

static void
end_work(Work *w)
{
	pfree(w->set);
	pfree(w->limit_no);
	pfree(w->limited);
	pfree(w->flags);
	pfree(w->parent);
	pfree(w->age);
}

void
cdp_fold(CdpFold *fold)
{
	Work		w;

	start_work(&w, fold);
	apply_degree(&w);
	join_components(&w);
	fold->contested = find_contested(&w);
	if (fold->contested && find_too_big(&w))
	{
		share_hubs(&w);
		warn_of_held(&w);
	}
	attribute_links(&w);
	if (fold->contested)
		fold_contested(&w);
	place_the_rest(&w);
	number_profiles(&w);
	end_work(&w);
}
