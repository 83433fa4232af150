/*
 * spi.c: saved SPI plans and small conversions.
 *
 * Plans are kept per backend and revalidated by the plan cache.  They run as
 * cdp_owner with row security not forced (cdp_become_owner), and nowhere else:
 * the plan cache does not key on that.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "spi.h"

#define FETCH_ROWS 1000			/* of a large result, at a time */

static void
connect_and_plan(CdpSpi *stmt)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (stmt->plan)
		return;
	stmt->plan = SPI_prepare(stmt->sql, stmt->nargs, stmt->types);
	if (stmt->plan == NULL || SPI_keepplan(stmt->plan) != 0)
		elog(ERROR, "cannot prepare \"%s\": %s", stmt->sql, SPI_result_code_string(SPI_result));
}

int
cdp_spi_run(CdpSpi *stmt, Datum *args, const char *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	int			rc;

	connect_and_plan(stmt);
	rc = SPI_execute_plan(stmt->plan, args, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "cannot run \"%s\": %s", stmt->sql, SPI_result_code_string(rc));
	MemoryContextSwitchTo(caller);	/* what the caller makes of the rows outlives SPI_finish */
	return (int) SPI_processed;
}

void
cdp_spi_end(void)
{
	SPI_finish();
}

int
cdp_spi_exec(CdpSpi *stmt, Datum *args, const char *nulls)
{
	int			n = cdp_spi_run(stmt, args, nulls);

	cdp_spi_end();
	return n;
}

void
cdp_spi_each(CdpSpi *stmt, Datum *args, CdpSpiRow f, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext rows = AllocSetContextCreate(caller, "cdp rows", ALLOCSET_DEFAULT_SIZES);
	Portal		portal;

	connect_and_plan(stmt);
	portal = SPI_cursor_open(NULL, stmt->plan, args, NULL, false);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		MemoryContextSwitchTo(rows);
		for (int i = 0, n = (int) SPI_processed; i < n; i++)
			f(i, arg);
		MemoryContextReset(rows);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(rows);
}

Datum
cdp_spi_datum(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

int64
cdp_spi_int64(int row, int column)
{
	bool		isnull;
	Datum		d = cdp_spi_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(d);
}

CdpStr
cdp_spi_text(int row, int column, MemoryContext cxt)
{
	bool		isnull;
	Datum		d = cdp_spi_datum(row, column, &isnull);
	text	   *t;
	char	   *s;

	if (isnull)
		return CDP_STR_NONE;
	t = DatumGetTextPP(d);
	s = MemoryContextAlloc(cxt, VARSIZE_ANY_EXHDR(t) + 1);
	memcpy(s, VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t));
	return (CdpStr) {s, VARSIZE_ANY_EXHDR(t)};
}

Datum
cdp_int8_array(const int64 *v, int n)
{
	Datum	   *d = palloc(Max(n, 1) * sizeof(Datum));
	ArrayType  *a;

	for (int i = 0; i < n; i++)
		d[i] = Int64GetDatum(v[i]);
	a = construct_array(d, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	pfree(d);
	return PointerGetDatum(a);
}

Datum
cdp_text(CdpStr s)
{
	return PointerGetDatum(cstring_to_text_with_len(s.s, s.len));
}

int
cdp_int64_order(const void *a, const void *b)
{
	int64		x = *(const int64 *) a,
				y = *(const int64 *) b;

	return (x > y) - (x < y);
}

int32
cdp_day_of(TimestampTz at)
{
	return (int32) (at >= 0 ? at / USECS_PER_DAY : -((-at + USECS_PER_DAY - 1) / USECS_PER_DAY));
}

int64
cdp_next_block(const char *sequence)
{
	Oid			nsp = get_namespace_oid(CDP_DATA_SCHEMA, false);
	Oid			seq = get_relname_relid(sequence, nsp);

	if (!OidIsValid(seq))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.%s\" does not exist", CDP_DATA_SCHEMA, sequence),
				 errhint("Run SELECT cdp.setup().")));
	return nextval_internal(seq, false);
}
