/*
 * workspace.c: the workspace of the caller, for policies and views.
 *
 * What a role may see follows from the role table alone, never from a setting
 * that the caller could change.  config.c decides; this is its SQL face.
 */
#include "cdp.h"

#include "fmgr.h"

PG_FUNCTION_INFO_V1(cdp_sql_current_workspace);

Datum
cdp_sql_current_workspace(PG_FUNCTION_ARGS)
{
	int32		id = cdp_caller_workspace();

	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(id);
}
