/*
 * expected.c: the partition that F makes of everything that is stored.
 *
 * For cdp.verify(): all identifiers, links and decisions of a workspace are
 * read with the caller's snapshot and folded at once, by the same code that
 * the engine uses for one component.  Memory: about 300 bytes an identifier
 * and a link.  Locks nothing, writes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "identity/identity.h"
#include "spi.h"

typedef struct Everything
{
	MemoryContext cxt;
	CdpFold		fold;
	int			maxlinks;
} Everything;

/* ---------------------------------------------------------------- reading */

static void
query(const char *sql, int32 workspace_id)
{
	Oid			type = INT4OID;
	Datum		arg = Int32GetDatum(workspace_id);

	if (SPI_execute_with_args(sql, 1, &type, &arg, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "cannot read what is stored");
}

static CdpMoment
moment_at(Everything *e, int row, int at_column, int message_column)
{
	bool		isnull;
	Datum		at = cdp_spi_datum(row, at_column, &isnull);
	CdpMoment	m = {CDP_NO_TIME, CDP_STR_NONE};

	if (!isnull)
	{
		m.at = DatumGetTimestampTz(at);
		m.message_id = cdp_spi_text(row, message_column, e->cxt);
	}
	return m;
}

static void
read_identifiers(Everything *e)
{
	CdpFold    *f = &e->fold;
	bool		isnull;

	query("SELECT i.identifier_id, i.namespace_id, i.value, i.alone_at, i.alone_message FROM cdp_data.identifier i"
		  " WHERE i.workspace_id = $1 ORDER BY i.identifier_id", f->policy->workspace_id);
	f->nidents = (int) SPI_processed;
	f->idents = MemoryContextAllocExtended(e->cxt, Max(f->nidents, 1) * sizeof(CdpFoldIdent),
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < f->nidents; i++)
	{
		CdpNamespace *ns = cdp_namespace_by_id(f->policy, DatumGetInt16(cdp_spi_datum(i, 2, &isnull)));

		f->idents[i].hash = cdp_spi_int64(i, 1);
		f->idents[i].rank = ns ? ns - f->policy->namespaces : 0;
		f->idents[i].value = cdp_spi_text(i, 3, e->cxt);
		f->idents[i].alone = moment_at(e, i, 4, 5);
	}
	SPI_freetuptable(SPI_tuptable);
}

static int
ident_index(const CdpFold *f, int64 hash)
{
	int			lo = 0,
				hi = f->nidents;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (f->idents[mid].hash == hash)
			return mid;
		if (f->idents[mid].hash < hash)
			lo = mid + 1;
		else
			hi = mid;
	}
	return -1;
}

/* false: a member is missing; the link then joins those that are there */
static void
set_link_members(Everything *e, CdpFoldLink *link, ArrayType *a)
{
	int			n = ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a));
	int64	   *hashes = (int64 *) ARR_DATA_PTR(a);

	link->members = MemoryContextAlloc(e->cxt, Max(n, 1) * sizeof(int));
	for (int i = 0; i < n; i++)
	{
		int			at = ident_index(&e->fold, hashes[i]);

		if (at >= 0)
			link->members[link->nmembers++] = at;
	}
}

static void
read_links(Everything *e)
{
	CdpFold    *f = &e->fold;
	bool		isnull;
	int			n;

	query("SELECT DISTINCT ON (l.link_id) l.link_id, l.kind, l.members, l.first_at, l.first_message,"
		  " EXISTS (SELECT FROM cdp_data.decision d WHERE d.kind = 'retract' AND d.a = l.link_id)"
		  " FROM cdp_data.link l WHERE l.workspace_id = $1 ORDER BY l.link_id, l.first_at, l.first_message",
		  f->policy->workspace_id);
	n = (int) SPI_processed;
	f->links = MemoryContextAllocExtended(e->cxt, Max(n, 1) * sizeof(CdpFoldLink), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < n; i++)
	{
		CdpFoldLink *link = &f->links[f->nlinks];

		link->link_id = cdp_spi_int64(i, 1);
		link->kind = DatumGetChar(cdp_spi_datum(i, 2, &isnull));
		link->first = moment_at(e, i, 4, 5);
		link->retracted = DatumGetBool(cdp_spi_datum(i, 6, &isnull));
		set_link_members(e, link, DatumGetArrayTypeP(cdp_spi_datum(i, 3, &isnull)));
		if (link->nmembers >= 2)
			f->nlinks++;
		else
			memset(link, 0, sizeof(CdpFoldLink));
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
read_decisions(Everything *e)
{
	CdpFold    *f = &e->fold;
	bool		isnull;
	int			n;

	query("SELECT d.a, d.b, d.kind = 'shared' FROM cdp_data.decision d"
		  " WHERE d.workspace_id = $1 AND d.kind IN ('keep_apart', 'shared')", f->policy->workspace_id);
	n = (int) SPI_processed;
	f->apart = MemoryContextAlloc(e->cxt, Max(n, 1) * sizeof(CdpFoldPair));
	for (int i = 0; i < n; i++)
	{
		int			a = ident_index(f, cdp_spi_int64(i, 1));
		int			b = ident_index(f, cdp_spi_int64(i, 2));

		if (a >= 0 && DatumGetBool(cdp_spi_datum(i, 3, &isnull)))
			f->idents[a].sticky = true;
		else if (a >= 0 && b >= 0)
			f->apart[f->napart++] = (CdpFoldPair) {a, b};
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
fold_everything(Everything *e, int32 workspace_id)
{
	MemoryContext old;

	e->cxt = CurrentMemoryContext;
	e->fold.policy = &cdp_workspace_by_id(workspace_id)->policy;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	read_identifiers(e);
	read_links(e);
	read_decisions(e);
	SPI_finish();
	old = MemoryContextSwitchTo(e->cxt);
	cdp_fold(&e->fold);
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- SQL */

PG_FUNCTION_INFO_V1(cdp_sql_expected_identifiers);
PG_FUNCTION_INFO_V1(cdp_sql_expected_links);

Datum
cdp_sql_expected_identifiers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Everything	e = {0};

	InitMaterializedSRF(fcinfo, 0);
	fold_everything(&e, PG_GETARG_INT32(0));
	for (int i = 0; i < e.fold.nidents; i++)
	{
		CdpFoldIdent *id = &e.fold.idents[i];
		Datum		values[3] = {Int64GetDatum(id->hash), Int32GetDatum(id->profile),
		CharGetDatum(id->profile < 0 ? 'd' : id->shared ? 's' : 'l')};
		bool		nulls[3] = {false, id->profile < 0, false};

		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
cdp_sql_expected_links(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Everything	e = {0};

	InitMaterializedSRF(fcinfo, 0);
	fold_everything(&e, PG_GETARG_INT32(0));
	for (int i = 0; i < e.fold.nlinks; i++)
	{
		CdpFoldLink *link = &e.fold.links[i];
		bool		nobody = link->attributed < 0;
		Datum		values[2] = {Int64GetDatum(link->link_id),
		Int64GetDatum(nobody ? 0 : e.fold.idents[link->attributed].hash)};
		bool		nulls[2] = {false, nobody};

		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	return (Datum) 0;
}
