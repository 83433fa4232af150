/*
 * catalog.c: where our tables are, and in whose name we touch them.
 *
 * OIDs of the tables are looked up once per backend and forgotten when a
 * relcache message names one of them, or all.  DROP EXTENSION, a restore into
 * the same session and a rolled back cdp.setup() all send one.  That a table is
 * absent is never remembered.
 *
 * Small tables (configuration, instance) are read by cdp_scan_table() and
 * cdp_scan_index(): scans with the snapshot that PostgreSQL uses for its own
 * catalogs.  They see what is committed now, work in parallel workers and
 * inside the planner, and no policy applies to them.
 */
#include "cdp.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"

static const char *const table_names[CDP_T_COUNT] = {
	[CDP_T_INSTANCE] = "instance",
	[CDP_T_WORKSPACE] = "workspace",
	[CDP_T_WORKSPACE_ROLE] = "workspace_role",
	[CDP_T_SOURCE] = "source",
	[CDP_T_SOURCE_OFFSET] = "source_offset",
	[CDP_T_SOURCE_GAP] = "source_gap",
	[CDP_T_NAMESPACE] = "namespace",
	[CDP_T_ENGINE_LOCK] = "engine_lock",
	[CDP_T_EVENT] = "event",
	[CDP_T_MESSAGE_SEEN] = "message_seen",
	[CDP_T_QUARANTINE] = "quarantine",
	[CDP_T_PARKED] = "parked",
	[CDP_T_IDENTIFIER] = "identifier",
	[CDP_T_LINK] = "link",
	[CDP_T_CONTEST] = "contest",
	[CDP_T_DECISION] = "decision",
	[CDP_T_PROFILE] = "profile",
	[CDP_T_PROFILE_TRAIT] = "profile_trait",
	[CDP_T_DIRTY] = "dirty",
	[CDP_T_RETENTION_WATERMARK] = "retention_watermark",
	[CDP_T_VERSION] = "version",
	[CDP_T_TRAIT_CLASS] = "trait_class",
	[CDP_T_SUPPRESSION] = "suppression",
};

#define MAX_CALLBACKS 4
#define SAFE_PATH "pg_catalog, pg_temp" /* of workers and of cdp.setup() */

static Oid	table_oids[CDP_T_COUNT];	/* InvalidOid: look it up */
static CdpTableCallback callbacks[MAX_CALLBACKS];
static int	ncallbacks = 0;
static bool registered = false;
static bool version_checked = false;

/* ---------------------------------------------------------------- tables */

static void
relcache_callback(Datum arg, Oid relid)
{
	for (int t = 0; t < CDP_T_COUNT; t++)
	{
		if (relid == InvalidOid || (table_oids[t] == relid && OidIsValid(relid)))
		{
			table_oids[t] = InvalidOid;
			if (t == CDP_T_VERSION)
				version_checked = false;
			for (int i = 0; i < ncallbacks; i++)
				callbacks[i] (t);
		}
	}
}

static void
register_callback(void)
{
	if (registered)
		return;
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	registered = true;
}

void
cdp_on_table_change(CdpTableCallback f)
{
	Assert(ncallbacks < MAX_CALLBACKS);
	register_callback();
	callbacks[ncallbacks++] = f;
}

void
cdp_catalog_forget(void)
{
	relcache_callback((Datum) 0, InvalidOid);
}

static Oid
find_table(CdpTable t)
{
	Oid			schema;

	if (OidIsValid(table_oids[t]))
		return table_oids[t];
	register_callback();
	schema = get_namespace_oid(CDP_DATA_SCHEMA, true);
	if (OidIsValid(schema))
		table_oids[t] = get_relname_relid(table_names[t], schema);
	return table_oids[t];
}

Oid
cdp_table(CdpTable t)
{
	Oid			oid = find_table(t);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cdp is not set up in this database"),
				 errdetail("There is no table %s.%s.", CDP_DATA_SCHEMA, table_names[t]),
				 errhint("Run SELECT cdp.setup() as a superuser.")));
	return oid;
}

bool
cdp_is_set_up(void)
{
	return OidIsValid(find_table(CDP_T_VERSION)) && OidIsValid(find_table(CDP_T_INSTANCE));
}

static void
scan_table(CdpTable t, const char *index, int nkeys, ScanKey key, CdpRowFunction f, void *arg)
{
	Relation	rel = table_open(cdp_table(t), AccessShareLock);
	Oid			index_id = index ? get_relname_relid(index, RelationGetNamespace(rel)) : InvalidOid;
	SysScanDesc scan = systable_beginscan(rel, index_id, OidIsValid(index_id), NULL, nkeys, key);
	CdpRow		row = {.desc = RelationGetDescr(rel)};

	while (HeapTupleIsValid(row.tuple = systable_getnext(scan)))
		f(&row, arg);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

void
cdp_scan_table(CdpTable t, CdpRowFunction f, void *arg)
{
	scan_table(t, NULL, 0, NULL, f, arg);
}

void
cdp_scan_index(CdpTable t, const char *index, const char *column, int32 value, CdpRowFunction f, void *arg)
{
	ScanKeyData key;

	ScanKeyInit(&key, get_attnum(cdp_table(t), column), BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(value));
	scan_table(t, index, 1, &key, f, arg);
}

Datum
cdp_row_get(const CdpRow *row, const char *column, bool *isnull)
{
	int			number = SPI_fnumber(row->desc, column);

	if (number <= 0)
		elog(ERROR, "cdp: column %s is missing", column);
	return heap_getattr(row->tuple, number, row->desc, isnull);
}

/* ---------------------------------------------------------------- version */

static void
keep_version(const CdpRow *row, void *arg)
{
	bool		isnull;
	int32		version = DatumGetInt32(cdp_row_get(row, "version", &isnull));
	int32	   *newest = arg;

	*newest = Max(*newest, version);
}

/* pg_extension.extversion of cdp; NULL when it is not there */
static char *
extension_version(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("cdp"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		d = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		if (!isnull)
			version = TextDatumGetCString(d);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

void
cdp_version_require(void)
{
	int32		layout = 0;
	char	   *version;

	if (version_checked)
		return;
	cdp_scan_table(CDP_T_VERSION, keep_version, &layout);
	if (layout != CDP_LAYOUT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the tables of cdp have layout %d, but this library works with layout %d",
						layout, CDP_LAYOUT_VERSION),
				 layout < CDP_LAYOUT_VERSION ?
				 errhint("Run SELECT cdp.migrate() as a superuser.") :
				 errhint("Install the newer version of cdp, and restart the server.")));
	version = extension_version();
	if (version == NULL || strcmp(version, CDP_EXTENSION_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the library of cdp is version %s, but the extension is version %s",
						CDP_EXTENSION_VERSION, version ? version : "none"),
				 errhint("Run ALTER EXTENSION cdp UPDATE, or restart the server with the matching library.")));
	version_checked = true;
}

/* ---------------------------------------------------------------- users */

Oid
cdp_owner_role(void)
{
	return get_role_oid(CDP_OWNER_ROLE, false);
}

static Oid
relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

void
cdp_owner_require(void)
{
	Oid			owner = cdp_owner_role();

	for (int t = 0; t < CDP_T_COUNT; t++)
		if (relation_owner(cdp_table(t)) != owner)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("table \"%s\" does not belong to %s", table_names[t], CDP_OWNER_ROLE),
					 errhint("Give the tables of cdp_data back: ALTER TABLE ... OWNER TO cdp_owner.")));
}

/*
 * Where it cannot be told for whom something runs.  Triggers of a foreign key's
 * action run as the owner of their table, whoever caused them, and row security
 * is not forced there.  (AFTER triggers run later: as who ran the statement; from
 * PostgreSQL 18 on as that owner again, but with row security, and as a role
 * that the statement came through.)
 */
static const char *
why_unknown(int context)
{
	if (context & SECURITY_NOFORCE_RLS)
		return "A BEFORE trigger that the action of a foreign key fires runs as the owner of its table. Use an AFTER trigger.";
	if ((context & SECURITY_RESTRICTED_OPERATION) && (context & SECURITY_LOCAL_USERID_CHANGE))
		return "A function with the rights of its owner runs while the server builds or maintains something of another one.";
	return NULL;
}

/* For who must not raise: would cdp_caller_role() do so? */
bool
cdp_caller_is_known(void)
{
	Oid			userid;
	int			context;

	GetUserIdAndSecContext(&userid, &context);
	return why_unknown(context) == NULL;
}

/*
 * Who runs the statement, whatever functions with the rights of others it has
 * come through; not after cdp_become_owner().  Where the server runs code of a
 * table's owner (ANALYZE, also by autovacuum, REFRESH, CREATE INDEX, ..) that
 * is the owner: a superuser's sight is not lent to him.
 */
Oid
cdp_caller_role(void)
{
	Oid			userid;
	int			context;
	const char *why;

	GetUserIdAndSecContext(&userid, &context);
	why = why_unknown(context);
	if (why)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cdp can not tell for whom this runs"),
				 errdetail("%s", why)));
	return context & SECURITY_RESTRICTED_OPERATION ? userid : GetOuterUserId();
}

/* The owner of a function with his rights that the caller has come through: he gets no more than he has himself. */
static Oid
lent_role(Oid caller)
{
	Oid			userid = GetUserId();

	return userid == caller || userid == cdp_owner_role() || superuser_arg(userid) ? InvalidOid : userid;
}

bool
cdp_caller_is(CdpRoleTest test)
{
	Oid			caller = cdp_caller_role();
	Oid			lent = lent_role(caller);

	return test(caller) && (!OidIsValid(lent) || test(lent));
}

List *
cdp_caller_workspaces(void)
{
	Oid			caller = cdp_caller_role();
	Oid			lent = lent_role(caller);
	List	   *workspaces = cdp_workspaces_of_role(caller);

	return OidIsValid(lent) ? list_intersection_int(workspaces, cdp_workspaces_of_role(lent)) : workspaces;
}

/*
 * Types, functions and operators are looked up by name: without the safe path
 * one of the caller's, be it only a temporary type, would run as that role.
 */
static void
become(Oid role, int flags, CdpUserContext *save)
{
	GetUserIdAndSecContext(&save->userid, &save->sec_context);
	SetUserIdAndSecContext(role, save->sec_context | SECURITY_LOCAL_USERID_CHANGE | flags);
	save->path = strcmp(namespace_search_path, SAFE_PATH) == 0 ? 0 : cdp_push_safe_path();
}

void
cdp_become_owner(CdpUserContext *save)
{
	become(cdp_owner_role(), SECURITY_NOFORCE_RLS, save);
}

/* Who sees the activity of every session, and nothing else that others do not. */
void
cdp_become_stats_reader(CdpUserContext *save)
{
	become(ROLE_PG_READ_ALL_STATS, 0, save);
}

void
cdp_become_caller(const CdpUserContext *save)
{
	if (save->path > 0)
		cdp_pop_safe_path(save->path);
	SetUserIdAndSecContext(save->userid, save->sec_context);
}

PG_FUNCTION_INFO_V1(cdp_sql_config_changed);

/*
 * Statement trigger on tables that backends cache: all of them hear of the
 * change when it commits, this one at once, and again if it rolls back.
 */
Datum
cdp_sql_config_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"config_changed\" was not called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}
