/*
 * partition.c: the maintenance worker's part in making partitions.
 *
 * The work itself is SQL (cdp.make_partitions).  Two months are always there
 * ahead of the clock, so nothing waits for it; it needs ACCESS EXCLUSIVE on
 * the parent for a moment, and gives up after a second (the worker tries again)
 * rather than let the batches queue behind a long reader.  Asking whether there is anything to do
 * writes nothing.
 */
#include "cdp.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event/partition.h"

#define PARTITION_LOCK_TIMEOUT "1s"

static Datum
call(const char *sql)
{
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		args[1] = {TimestampTzGetDatum(cdp_clock())};
	bool		isnull;

	if (SPI_execute_with_args(sql, 1, types, args, NULL, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "cdp: \"%s\" failed", sql);
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

static void
make_missing(void)
{
	CdpUserContext save;
	int			nest = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", PARTITION_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	cdp_become_owner(&save);
	SPI_connect();
	if (DatumGetBool(call("SELECT cdp.partition_months_due($1)")))
		ereport(LOG,
				(errmsg("cdp made %d partitions", DatumGetInt32(call("SELECT cdp.make_partitions($1)")))));
	SPI_finish();
	cdp_become_caller(&save);
	AtEOXact_GUC(true, nest);
}

bool
cdp_partition_maintain(void)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	make_missing();
	PopActiveSnapshot();
	CommitTransactionCommand();
	return true;
}
