/*
 * verify.c: cdp.verify(): for whom it is run.
 *
 * The question itself is SQL (cdp.verify_workspace), run as cdp_owner.  In a
 * SECURITY DEFINER function nobody could tell any more through whose functions
 * the caller has come, so whose workspace it is and whether values are shown
 * is decided here, before.  Its plans are kept, with row security not forced: so
 * it runs in no other way.  Takes no locks but those of reading; beyond work_mem
 * rows go to temporary files.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/dest.h"

#include "catalog.h"

static ParamListInfo
arguments(int32 workspace, bool sees_values)
{
	ParamListInfo params = makeParamList(2);

	params->params[0] = (ParamExternData) {Int32GetDatum(workspace), false, PARAM_FLAG_CONST, INT4OID};
	params->params[1] = (ParamExternData) {BoolGetDatum(sees_values), false, PARAM_FLAG_CONST, BOOLOID};
	return params;
}

/* in the snapshot of the statement that calls */
static void
run(ReturnSetInfo *rsinfo, ParamListInfo params)
{
	SPIExecuteOptions options = {.params = params, .read_only = true, .dest = CreateDestReceiver(DestTuplestore)};
	int			rc;

	SetTuplestoreDestReceiverParams(options.dest, rsinfo->setResult, CurrentMemoryContext, false, NULL, NULL);
	SPI_connect();
	rc = SPI_execute_extended("SELECT * FROM cdp.verify_workspace($1, $2)", &options);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "cdp: could not verify: %s", SPI_result_code_string(rc));
	SPI_finish();
}

PG_FUNCTION_INFO_V1(cdp_sql_verify);

Datum
cdp_sql_verify(PG_FUNCTION_ARGS)
{
	int32		workspace = cdp_required_workspace();
	bool		sees_values = cdp_values_workspace() == workspace;
	CdpUserContext user;

	InitMaterializedSRF(fcinfo, 0);
	cdp_become_owner(&user);
	run((ReturnSetInfo *) fcinfo->resultinfo, arguments(workspace, sees_values));
	cdp_become_caller(&user);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_sql_require_verify);

Datum
cdp_sql_require_verify(PG_FUNCTION_ARGS)
{
	if (!InNoForceRLSOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cdp.verify_workspace() is for cdp.verify() only")));
	PG_RETURN_BOOL(true);
}
