/*
 * expected.c: the partition that F makes of everything that is stored.
 *
 * For cdp.verify(): all identifiers, links and decisions of a workspace are
 * read with the caller's snapshot and folded at once, by the same code that
 * the engine uses for one component.  Rows are fetched in parts, so that only
 * what F needs is in memory: about 300 bytes an identifier and a link, freed
 * when the result has been read.  Locks nothing, writes nothing: it runs on a
 * standby, too.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/portal.h"

#include "identity/evidence.h"
#include "identity/identity.h"
#include "spi.h"

#define FETCH_ROWS 10000		/* rows in memory as the tables have them */

typedef struct Everything
{
	MemoryContext cxt;
	CdpFold		fold;
	int			maxidents;
	CdpEvidence evidence;
} Everything;

/* ---------------------------------------------------------------- reading */

/* take() finds the rows in SPI's result */
static void
read_all(Everything *e, const char *sql, void (*take) (Everything *e))
{
	Oid			type = INT4OID;
	Datum		arg = Int32GetDatum(e->fold.policy->workspace_id);
	Portal		portal = SPI_cursor_open_with_args(NULL, sql, 1, &type, &arg, NULL, true, 0);

	do
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		take(e);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
}

static CdpFoldIdent *
new_ident(Everything *e)
{
	CdpFold    *f = &e->fold;

	if (f->nidents == e->maxidents)
	{
		e->maxidents = Max(1024, e->maxidents * 2);
		f->idents = f->idents
			? repalloc_huge(f->idents, e->maxidents * sizeof(CdpFoldIdent))
			: MemoryContextAllocHuge(e->cxt, e->maxidents * sizeof(CdpFoldIdent));
	}
	f->idents[f->nidents] = (CdpFoldIdent) {0};
	return &f->idents[f->nidents++];
}

static void
take_identifiers(Everything *e)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		CdpNamespace *ns = cdp_namespace_by_id(e->fold.policy, DatumGetInt32(cdp_spi_datum(i, 2, &isnull)));
		CdpFoldIdent *id = new_ident(e);

		id->hash = cdp_spi_int64(i, 1);
		id->rank = ns ? ns - e->fold.policy->namespaces : 0;
		id->value = cdp_spi_text(i, 3, e->cxt);
		id->alone = cdp_evidence_moment(i, 4, 5, e->cxt);
	}
}

static void
take_links(Everything *e)
{
	cdp_evidence_take_links(&e->evidence);
}

static void
take_decisions(Everything *e)
{
	cdp_evidence_take_decisions(&e->evidence);
}

static void
fold_everything(Everything *e, int32 workspace_id)
{
	e->cxt = CurrentMemoryContext;
	e->fold.policy = &cdp_workspace_by_id(workspace_id)->policy;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	read_all(e, "SELECT i.identifier_id, i.namespace_id, i.value, i.alone_at, i.alone_message FROM cdp_data.identifier i"
			 " WHERE i.workspace_id = $1 ORDER BY i.identifier_id", take_identifiers);
	MemoryContextSwitchTo(e->cxt);
	cdp_evidence_begin(&e->evidence, &e->fold, true);
	read_all(e, CDP_EVIDENCE_LINKS " WHERE l.workspace_id = $1 ORDER BY l.link_id", take_links);
	read_all(e, CDP_EVIDENCE_DECISIONS " AND d.workspace_id = $1", take_decisions);
	SPI_finish();
	cdp_fold(&e->fold);
}

/* ---------------------------------------------------------------- SQL */

static void
put_row(ReturnSetInfo *rsi, int64 anchor, const CdpFoldIdent *whose, const CdpFoldIdent *self)
{
	Datum		values[4] = {Int64GetDatum(anchor)};
	bool		nulls[4] = {false, whose == NULL, true, self == NULL};

	if (whose)
		values[1] = Int64GetDatum(whose->hash);
	if (self)
	{
		values[2] = Int32GetDatum(self->profile);
		nulls[2] = self->profile < 0;
		values[3] = CharGetDatum(self->profile < 0 ? 'd' : self->shared ? 's' : 'l');
	}
	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(cdp_sql_expected_people);

Datum
cdp_sql_expected_people(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Everything	e = {0};

	InitMaterializedSRF(fcinfo, 0);
	fold_everything(&e, PG_GETARG_INT32(0));
	for (int i = 0; i < e.fold.nidents; i++)
		put_row(rsi, e.fold.idents[i].hash, &e.fold.idents[i], &e.fold.idents[i]);
	for (int i = 0; i < e.fold.nlinks; i++)
	{
		CdpFoldLink *link = &e.fold.links[i];

		put_row(rsi, link->link_id, link->attributed < 0 ? NULL : &e.fold.idents[link->attributed], NULL);
	}
	return (Datum) 0;
}
