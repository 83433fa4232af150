/*
 * evidence.c: stored links and decisions as the input of F.
 *
 * The engine folds a component and adds the links of its batch (component.c);
 * cdp.verify() folds a workspace (expected.c).  Each selects its own rows, and
 * hands them to here: so the two cannot differ because one reads otherwise.
 *
 * Members become indices into the fold's identifiers by a sorted array of their
 * hashes, 16 bytes each.  Locks nothing and writes nothing; whether the rows
 * can change meanwhile is the caller's affair.
 */
#include "postgres.h"

#include "utils/array.h"
#include "utils/timestamp.h"

#include "identity/evidence.h"
#include "spi.h"

/* columns of CDP_EVIDENCE_LINKS and CDP_EVIDENCE_DECISIONS */
enum
{
	L_ID = 1, L_KIND, L_MEMBERS, L_FIRST_AT, L_FIRST_MESSAGE, L_RETRACTED
};

enum
{
	D_A = 1, D_B, D_SHARED
};

typedef struct CdpHashIndex
{
	int64		hash;
	int			index;
} CdpHashIndex;

static int
hash_order(const void *a, const void *b)
{
	return cdp_int64_order(&((const CdpHashIndex *) a)->hash, &((const CdpHashIndex *) b)->hash);
}

void
cdp_evidence_begin(CdpEvidence *e, CdpFold *fold, bool partial)
{
	*e = (CdpEvidence) {.fold = fold, .cxt = CurrentMemoryContext, .partial = partial};
	e->by_hash = MemoryContextAllocHuge(e->cxt, Max(fold->nidents, 1) * sizeof(CdpHashIndex));
	for (int i = 0; i < fold->nidents; i++)
		e->by_hash[i] = (CdpHashIndex) {fold->idents[i].hash, i};
	qsort(e->by_hash, fold->nidents, sizeof(CdpHashIndex), hash_order);
}

/* -1: it is not in the fold */
static int
index_of(const CdpEvidence *e, int64 hash)
{
	CdpHashIndex key = {hash, 0};
	CdpHashIndex *found = bsearch(&key, e->by_hash, e->fold->nidents, sizeof(CdpHashIndex), hash_order);

	return found ? found->index : -1;
}

CdpMoment
cdp_evidence_moment(int row, int at_column, int message_column, MemoryContext cxt)
{
	bool		isnull;
	Datum		at = cdp_spi_datum(row, at_column, &isnull);

	if (isnull)
		return (CdpMoment) {CDP_NO_TIME, CDP_STR_NONE};
	return (CdpMoment) {DatumGetTimestampTz(at), cdp_spi_text(row, message_column, cxt)};
}

/* ---------------------------------------------------------------- links */

static void
need_link(CdpEvidence *e)
{
	CdpFold    *f = e->fold;

	if (f->nlinks < e->maxlinks)
		return;
	e->maxlinks = Max(32, e->maxlinks * 2);
	f->links = f->links
		? repalloc_huge(f->links, e->maxlinks * sizeof(CdpFoldLink))
		: MemoryContextAllocHuge(e->cxt, e->maxlinks * sizeof(CdpFoldLink));
}

CdpFoldLink *
cdp_evidence_add_link(CdpEvidence *e, int64 link_id, CdpLinkKind kind, const int64 *members, int n)
{
	CdpFoldLink *link;

	need_link(e);
	link = &e->fold->links[e->fold->nlinks];
	*link = (CdpFoldLink) {.link_id = link_id, .kind = kind,.first.at = CDP_NO_TIME};
	link->members = MemoryContextAlloc(e->cxt, n * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		int			at = index_of(e, members[i]);

		if (at >= 0)
			link->members[link->nmembers++] = at;
		else if (!e->partial)
			elog(ERROR, "a link has a member outside of its component");
	}
	if (link->nmembers < 2)
		return NULL;
	e->fold->nlinks++;
	return link;
}

static CdpFoldLink *
add_stored_link(CdpEvidence *e, int row, int64 id)
{
	bool		isnull;
	Datum		members = cdp_spi_datum(row, L_MEMBERS, &isnull);
	ArrayType  *a = DatumGetArrayTypeP(members);
	CdpFoldLink *link = cdp_evidence_add_link(e, id, DatumGetChar(cdp_spi_datum(row, L_KIND, &isnull)),
											  (int64 *) ARR_DATA_PTR(a), ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a)));

	if ((Pointer) a != DatumGetPointer(members))
		pfree(a);
	if (link)
		link->retracted = DatumGetBool(cdp_spi_datum(row, L_RETRACTED, &isnull));
	return link;
}

void
cdp_evidence_take_links(CdpEvidence *e)
{
	CdpFold    *f = e->fold;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64		id = cdp_spi_int64(i, L_ID);
		CdpMoment	first = cdp_evidence_moment(i, L_FIRST_AT, L_FIRST_MESSAGE, e->cxt);
		CdpFoldLink *link;

		/* another source has presented it, too? */
		if (f->nlinks && f->links[f->nlinks - 1].link_id == id)
			link = &f->links[f->nlinks - 1];
		else
			link = add_stored_link(e, i, id);
		if (link && cdp_moment_cmp(&first, &link->first) < 0)
			link->first = first;
	}
}

/* ---------------------------------------------------------------- decisions */

static void
keep_apart(CdpEvidence *e, int a, int b)
{
	CdpFold    *f = e->fold;

	if (f->napart == e->maxapart)
	{
		e->maxapart = Max(8, e->maxapart * 2);
		f->apart = f->apart
			? repalloc_huge(f->apart, e->maxapart * sizeof(CdpFoldPair))
			: MemoryContextAllocHuge(e->cxt, e->maxapart * sizeof(CdpFoldPair));
	}
	f->apart[f->napart++] = (CdpFoldPair) {a, b};
}

/* a decision on who is not in the fold is passed over */
void
cdp_evidence_take_decisions(CdpEvidence *e)
{
	bool		isnull;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int			a = index_of(e, cdp_spi_int64(i, D_A));
		int			b = index_of(e, cdp_spi_int64(i, D_B));

		if (a >= 0 && DatumGetBool(cdp_spi_datum(i, D_SHARED, &isnull)))
			e->fold->idents[a].sticky = true;
		else if (a >= 0 && b >= 0)
			keep_apart(e, a, b);
	}
}
