/*
 * workspace.c: workspaces, and who works in which.
 *
 * What a role may see follows from the table workspace_role alone, never from
 * a setting that the caller could change; config.c holds the rule.  The first
 * workspace is granted to everybody (role_name public); with the second that
 * grant goes: who was granted none sees nothing, superusers included, so
 * create_workspace() lists them.  It does not come back when workspaces are
 * dropped: else the analysts of a tenant that left would see the one that stays.
 *
 * Who writes rows of a workspace holds it, to the end of his transaction: an
 * ACCESS SHARE lock on (cdp_data.workspace, workspace_id), which no statement
 * of others can take.  drop_workspace() takes it ACCESS EXCLUSIVE: it waits for
 * the transactions that wrote to this workspace, and those who come later wait
 * for it and find the workspace gone.  Then it deletes in every table that has
 * a workspace_id, so nothing has to be swept up afterwards.  Ids of workspaces
 * and sources are never used again, and hashes contain them: what caches and
 * filters still remember of it can not be met any more.
 */
#include "cdp.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"

#include "source/launcher.h"

#define MAX_NAME 63				/* characters, as the table has it */

/* roles whose members read the views */
static const char *const reading_roles[] = {
	"cdp_admin", "cdp_analyst", "cdp_marketer", "cdp_privacy_officer", "cdp_auditor"
};

PG_FUNCTION_INFO_V1(cdp_sql_required_workspace);

Datum
cdp_sql_required_workspace(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(cdp_required_workspace());
}

PG_FUNCTION_INFO_V1(cdp_sql_current_workspace);

Datum
cdp_sql_current_workspace(PG_FUNCTION_ARGS)
{
	int32		id = cdp_caller_workspace();

	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(id);
}

bool
cdp_workspace_hold(int32 workspace_id)
{
	LockDatabaseObject(cdp_table(CDP_T_WORKSPACE), workspace_id, 0, AccessShareLock);
	return cdp_workspace_exists(workspace_id);
}

bool
cdp_workspace_try_hold(int32 workspace_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cdp_table(CDP_T_WORKSPACE), workspace_id, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return cdp_workspace_exists(workspace_id);
}

/* Whether another's exists, nobody learns. */
static void
refuse_workspace(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for workspace \"%s\"", name)));
}

CdpWorkspace *
cdp_workspace_of_caller(const char *name)
{
	CdpWorkspace *w;

	if (name != NULL && !cdp_caller_is(superuser_arg))
	{
		w = cdp_workspace_find(name);
		if (w == NULL || !list_member_int(cdp_caller_workspaces(), w->id))
			refuse_workspace(name);
	}
	w = cdp_workspace_by_name(name);
	if (!cdp_workspace_hold(w->id))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("workspace \"%s\" does not exist", w->name.s)));
	return cdp_workspace_by_id(w->id);
}

/* ---------------------------------------------------------------- who loses sight */

typedef bool (*RoleTest) (Form_pg_authid role);

static bool
is_member_of(Form_pg_authid role, const char *group_name)
{
	Oid			group = get_role_oid(group_name, true);

	return OidIsValid(group) && is_member_of_role_nosuper(role->oid, group);
}

static bool
reads_views(Form_pg_authid role)
{
	if (role->rolsuper)
		return true;
	for (int i = 0; i < lengthof(reading_roles); i++)
		if (is_member_of(role, reading_roles[i]))
			return true;
	return false;
}

/* a superuser writes to any source */
static bool
writes(Form_pg_authid role)
{
	return !role->rolsuper && is_member_of(role, "cdp_ingest");
}

typedef void (*RoleFunction) (Form_pg_authid role, void *arg);

static void
each_role(RoleFunction f, void *arg)
{
	Relation	rel = table_open(AuthIdRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(rel, 0, NULL);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		f((Form_pg_authid) GETSTRUCT(tuple), arg);
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

typedef struct Without
{
	RoleTest	is_of_kind;
	StringInfoData names;
} Without;

static void
name_if_without(Form_pg_authid role, void *arg)
{
	Without    *w = arg;

	if (role->rolcanlogin && w->is_of_kind(role) && cdp_workspaces_of_role(role->oid) == NIL)
		appendStringInfo(&w->names, "%s%s", w->names.len ? ", " : "", NameStr(role->rolname));
}

/* Names of the roles of a kind that can log in and work in no workspace. */
static char *
roles_without_workspace(RoleTest is_of_kind)
{
	Without		w = {is_of_kind};

	initStringInfo(&w.names);
	each_role(name_if_without, &w);
	return w.names.data;
}

typedef struct Elsewhere
{
	Oid			granted;
	int32		workspace_id;
	bool		found;			/* somebody who works in another one */
} Elsewhere;

static void
note_elsewhere(Form_pg_authid role, void *arg)
{
	Elsewhere  *e = arg;
	List	   *workspaces;

	if (!is_member_of_role_nosuper(role->oid, e->granted))
		return;
	workspaces = cdp_workspaces_of_role(role->oid);
	e->found |= list_length(workspaces) > list_member_int(workspaces, e->workspace_id);
}

/* With two workspaces a role can work in none: an admin must not do that to people of others. */
static void
refuse_role_of_others(Oid granted, const char *name, int32 workspace_id)
{
	Elsewhere	e = {granted, workspace_id};

	if (cdp_caller_is(superuser_arg))
		return;
	each_role(note_elsewhere, &e);
	if (e.found)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to grant a workspace to role \"%s\"", name),
				 errdetail("The role, or a member of it, works in another one, and could work in none with both."),
				 errhint("It must be done by a superuser.")));
}

/* ---------------------------------------------------------------- changes */

static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to create or drop a workspace, or to grant one to everybody"),
				 errhint("It must be done by a superuser.")));
}

/* Run as cdp_owner in every workspace; $1 text, $2 integer.  The first jsonb that comes, in the caller's memory, or 0. */
static Datum
run_as_owner(const char *sql, const char *text, int32 number, int expected)
{
	CdpUserContext save;
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2] = {CStringGetTextDatum(text), Int32GetDatum(number)};
	Datum		first = (Datum) 0;
	int			rc;

	cdp_become_owner(&save);
	SPI_connect();
	rc = SPI_execute_with_args(sql, 2, types, values, NULL, false, 0);
	if (rc != expected)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
	if (SPI_tuptable != NULL && SPI_processed > 0 && SPI_gettypeid(SPI_tuptable->tupdesc, 1) == JSONBOID)
	{
		bool		isnull;
		Datum		d = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		first = SPI_datumTransfer(d, false, -1);
	}
	SPI_finish();
	cdp_become_caller(&save);
	return first;
}

/* One at a time; who reads the table is not kept waiting. */
static void
lock_workspaces(const char *function)
{
	require_superuser();
	PreventCommandDuringRecovery(function);
	cdp_version_require();
	LockRelationOid(cdp_table(CDP_T_WORKSPACE), ShareRowExclusiveLock);
}

static void
list_roles_without_workspace(void)
{
	char	   *blind = roles_without_workspace(reads_views);
	char	   *dumb = roles_without_workspace(writes);

	if (*blind)
		ereport(NOTICE,
				(errmsg("these roles work in no workspace, and see nothing any more: %s", blind),
				 errhint("Use cdp.grant_workspace(role, workspace).")));
	if (*dumb)
		ereport(NOTICE,
				(errmsg("these roles work in no workspace, and can write no messages any more: %s", dumb),
				 errhint("Use cdp.grant_workspace(role, workspace).")));
}

static void
check_new_name(const char *name)
{
	if (name[0] == '\0' || pg_mbstrlen(name) > MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of a workspace must have 1 to %d characters", MAX_NAME)));
	if (cdp_workspace_find(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("workspace \"%s\" already exists", name)));
}

PG_FUNCTION_INFO_V1(cdp_sql_create_workspace);

Datum
cdp_sql_create_workspace(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum		shut;

	lock_workspaces("create_workspace");
	check_new_name(name);
	run_as_owner("INSERT INTO cdp_data.workspace (name)"
				 " SELECT $1 WHERE $2 OPERATOR(pg_catalog.=) 0", name, 0, SPI_OK_INSERT);
	shut = run_as_owner("DELETE FROM cdp_data.workspace_role WHERE role_name OPERATOR(pg_catalog.=) $1::pg_catalog.name"
						" AND $2 OPERATOR(pg_catalog.=) 0 RETURNING pg_catalog.to_jsonb(role_name)",
						CDP_EVERYBODY, 0, SPI_OK_DELETE_RETURNING);
	run_as_owner("SELECT cdp.make_default_namespaces($2), cdp.secure_views()"
				 " WHERE $1 IS NOT NULL", name, cdp_workspace_by_name(name)->id, SPI_OK_SELECT);
	if (shut)
		list_roles_without_workspace();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_drop_workspace);

Datum
cdp_sql_drop_workspace(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		dry_run = PG_GETARG_BOOL(1);
	CdpWorkspace *w;
	Datum		report;

	lock_workspaces("drop_workspace");
	w = cdp_workspace_by_name(name);
	if (list_length(cdp_workspace_ids()) == 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("workspace \"%s\" cannot be dropped", name),
				 errdetail("It is the only one.")));
	if (dry_run)
		PG_RETURN_DATUM(run_as_owner("SELECT cdp.drop_workspace_rows($2, $1 IS NOT NULL)", name, w->id, SPI_OK_SELECT));
	LockDatabaseObject(cdp_table(CDP_T_WORKSPACE), w->id, 0, AccessExclusiveLock);
	report = run_as_owner("SELECT cdp.drop_workspace_rows($2, $1 IS NULL)", name, w->id, SPI_OK_SELECT);
	run_as_owner("SELECT cdp.secure_views() WHERE $1 IS NOT NULL AND $2 IS NOT NULL", name, w->id, SPI_OK_SELECT);
	cdp_launcher_wake();
	PG_RETURN_DATUM(report);
}

/* Everybody can be granted only what is the only one, and only by whom everything is. */
static void
check_everybody(void)
{
	require_superuser();
	if (list_length(cdp_workspace_ids()) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is more than one workspace, so none can be everybody's")));
}

PG_FUNCTION_INFO_V1(cdp_sql_grant_workspace);

Datum
cdp_sql_grant_workspace(PG_FUNCTION_ARGS)
{
	const char *role = NameStr(*PG_GETARG_NAME(0));
	CdpWorkspace *w = cdp_workspace_of_caller(text_to_cstring(PG_GETARG_TEXT_PP(1)));

	if (strcmp(role, CDP_EVERYBODY) == 0)
		check_everybody();
	else
		refuse_role_of_others(get_role_oid(role, false), role, w->id);
	run_as_owner("INSERT INTO cdp_data.workspace_role (role_name, workspace_id) VALUES ($1::name, $2)"
				 " ON CONFLICT DO NOTHING", role, w->id, SPI_OK_INSERT);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_revoke_workspace);

/* also from a role that was dropped: who gets its name next would have what it had */
Datum
cdp_sql_revoke_workspace(PG_FUNCTION_ARGS)
{
	const char *role = NameStr(*PG_GETARG_NAME(0));
	CdpWorkspace *w = cdp_workspace_of_caller(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	bool		everybody = strcmp(role, CDP_EVERYBODY) == 0;
	Datum		revoked;

	if (everybody)
		check_everybody();
	revoked = run_as_owner("DELETE FROM cdp_data.workspace_role WHERE role_name OPERATOR(pg_catalog.=) $1::pg_catalog.name"
						   " AND workspace_id OPERATOR(pg_catalog.=) $2 RETURNING pg_catalog.to_jsonb(role_name)",
						   role, w->id, SPI_OK_DELETE_RETURNING);
	if (!revoked && !everybody)
		(void) get_role_oid(role, false);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- the list */

PG_FUNCTION_INFO_V1(cdp_sql_read_workspaces);

/* Of superusers all, of others those that they work in. */
Datum
cdp_sql_read_workspaces(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		all = cdp_caller_is(superuser_arg);
	List	   *own = cdp_caller_workspaces();
	uint64		n;

	InitMaterializedSRF(fcinfo, 0);
	cdp_version_require();
	SPI_connect();
	n = cdp_owner_read("SELECT w.workspace_id, w.name, w.identity_policy,"
					   " (SELECT pg_catalog.array_agg(r.role_name ORDER BY r.role_name) FROM cdp_data.workspace_role r"
					   " WHERE r.workspace_id OPERATOR(pg_catalog.=) w.workspace_id), w.created_at"
					   " FROM cdp_data.workspace w", 0, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		Datum		values[5];
		bool		nulls[5];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
		if (all || list_member_int(own, DatumGetInt32(values[0])))
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
