/*
 * workspace.c: workspaces, and who works in which.
 *
 * What a role may see follows from the table workspace_role alone, never from
 * a setting that the caller could change; config.c holds the rule.  With the
 * second workspace the rule changes for everybody at once: who was granted
 * none sees nothing, superusers included, so create_workspace() lists them.
 */
#include "cdp.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"

/* roles whose members read the views */
static const char *const reading_roles[] = {
	"cdp_admin", "cdp_analyst", "cdp_marketer", "cdp_privacy_officer", "cdp_auditor"
};

PG_FUNCTION_INFO_V1(cdp_sql_current_workspace);

Datum
cdp_sql_current_workspace(PG_FUNCTION_ARGS)
{
	int32		id = cdp_caller_workspace();

	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(id);
}

CdpWorkspace *
cdp_workspace_of_caller(const char *name)
{
	CdpWorkspace *w = cdp_workspace_by_name(name);

	if (name != NULL && !superuser_arg(GetOuterUserId()) && !cdp_role_has_workspace(GetOuterUserId(), w->id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for workspace \"%s\"", name)));
	return w;
}

/* ---------------------------------------------------------------- who loses sight */

static bool
reads_views(Form_pg_authid role)
{
	if (role->rolsuper)
		return true;
	for (int i = 0; i < lengthof(reading_roles); i++)
	{
		Oid			group = get_role_oid(reading_roles[i], true);

		if (OidIsValid(group) && is_member_of_role_nosuper(role->oid, group))
			return true;
	}
	return false;
}

static bool
has_any_workspace(Oid role, List *workspaces)
{
	ListCell   *lc;

	foreach(lc, workspaces)
		if (cdp_role_has_workspace(role, lfirst_int(lc)))
			return true;
	return false;
}

/* Names of the roles that can log in, read the views, and work in no workspace. */
static char *
roles_without_workspace(List *workspaces)
{
	Relation	rel = table_open(AuthIdRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	StringInfoData names;
	HeapTuple	tuple;

	initStringInfo(&names);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_authid role = (Form_pg_authid) GETSTRUCT(tuple);

		if (role->rolcanlogin && reads_views(role) && !has_any_workspace(role->oid, workspaces))
			appendStringInfo(&names, "%s%s", names.len ? ", " : "", NameStr(role->rolname));
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return names.data;
}

/* ---------------------------------------------------------------- changes */

static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create or drop a workspace"),
				 errhint("It must be done by a superuser.")));
}

/* Run as cdp_owner in every workspace; $1 text, $2 integer. */
static void
run_as_owner(const char *sql, const char *text, int32 number, int expected)
{
	CdpUserContext save;
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2] = {CStringGetTextDatum(text), Int32GetDatum(number)};
	int			rc;

	cdp_become_owner(&save);
	SPI_connect();
	rc = SPI_execute_with_args(sql, 2, types, values, NULL, false, 0);
	if (rc != expected)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
	SPI_finish();
	cdp_become_caller(&save);
}

PG_FUNCTION_INFO_V1(cdp_sql_create_workspace);

Datum
cdp_sql_create_workspace(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *workspaces;
	char	   *blind;

	require_superuser();
	cdp_version_require();
	run_as_owner("INSERT INTO cdp_data.workspace (name)"
				 " SELECT $1 WHERE $2 OPERATOR(pg_catalog.=) 0", name, 0, SPI_OK_INSERT);
	run_as_owner("SELECT cdp.make_default_namespaces($2), cdp.secure_views()"
				 " WHERE $1 IS NOT NULL", name, cdp_workspace_by_name(name)->id, SPI_OK_SELECT);

	workspaces = cdp_workspace_ids();
	if (list_length(workspaces) < 2)
		PG_RETURN_VOID();
	blind = roles_without_workspace(workspaces);
	if (*blind)
		ereport(NOTICE,
				(errmsg("these roles work in no workspace, and see nothing any more: %s", blind),
				 errhint("Use cdp.grant_workspace(role, workspace).")));
	PG_RETURN_VOID();
}

static void
grant_or_revoke(FunctionCallInfo fcinfo, const char *sql, int expected)
{
	Name		role = PG_GETARG_NAME(0);
	CdpWorkspace *w = cdp_workspace_of_caller(text_to_cstring(PG_GETARG_TEXT_PP(1)));

	(void) get_role_oid(NameStr(*role), false);
	run_as_owner(sql, NameStr(*role), w->id, expected);
}

PG_FUNCTION_INFO_V1(cdp_sql_grant_workspace);

Datum
cdp_sql_grant_workspace(PG_FUNCTION_ARGS)
{
	grant_or_revoke(fcinfo, "INSERT INTO cdp_data.workspace_role (role_name, workspace_id) VALUES ($1::name, $2)"
					" ON CONFLICT DO NOTHING", SPI_OK_INSERT);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_revoke_workspace);

Datum
cdp_sql_revoke_workspace(PG_FUNCTION_ARGS)
{
	grant_or_revoke(fcinfo, "DELETE FROM cdp_data.workspace_role"
					" WHERE role_name OPERATOR(pg_catalog.=) $1::name AND workspace_id OPERATOR(pg_catalog.=) $2",
					SPI_OK_DELETE);
	PG_RETURN_VOID();
}
