/*
 * setup.c: cdp.setup(), which turns a database into a customer data platform.
 *
 * The tables, policies, triggers and views are ordinary objects of no
 * extension, so that pg_dump takes them for user data; they are made by the
 * set-up script (cdp-setup.sql, beside the control file), which is run as
 * cdp_owner and leaves alone what is there.  So the same call serves four
 * ends: a new database, one whose extension was dropped and created again
 * (policies, triggers and views are gone, data is not), a restored or cloned
 * one, and one in which somebody dropped a view.
 *
 * Whether the data belongs to this server says the row of cdp_data.instance:
 * another system identifier or database means a restore or a clone.  Then the
 * epoch is raised, and the Kafka sources are paused until somebody resumes
 * them, because two copies would consume the same topics.
 *
 * Everything is one transaction, but for the key file, which a rollback leaves
 * behind: the next call takes it.  Concurrent calls wait for each other on the
 * extension's lock.
 */
#include "cdp.h"

#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include <sys/stat.h>

#include "catalog.h"
#include "key.h"
#include "source/launcher.h"

#define SETUP_SCRIPT "cdp-setup.sql"

/* ---------------------------------------------------------------- what must hold before */

static void
require_superuser(const char *function)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", function),
				 errhint("It must be run by a superuser.")));
}

static void
require_utf8(void)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdp needs a database in encoding UTF8"),
				 errdetail("This one is in %s.", GetDatabaseEncodingName()),
				 errhint("Create a database with ENCODING 'UTF8' TEMPLATE template0.")));
}

/* Only one at a time, and none while the extension is dropped. */
static void
lock_extension(void)
{
	LockDatabaseObject(ExtensionRelationId, get_extension_oid("cdp", false), 0, ShareUpdateExclusiveLock);
}

/* ---------------------------------------------------------------- SQL */

static void
run(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc < 0)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
}

/* First column of the first row; isnull when there is none. */
static Datum
ask(const char *sql, bool *isnull)
{
	run(sql);
	*isnull = true;
	if (SPI_processed == 0)
		return (Datum) 0;
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
}

static bool
exists(const char *sql)
{
	run(sql);
	return SPI_processed > 0;
}

/* Settings under which the script means the same everywhere; undone by AtEOXact_GUC. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"client_min_messages", "warning"},
		{"default_tablespace", ""},
		{"default_table_access_method", "heap"},
		{"check_function_bodies", "off"},
		{"row_security", "on"},
		{"timezone", "UTC"},
		{"datestyle", "ISO"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* ---------------------------------------------------------------- the script */

static char *
read_script(void)
{
	char		share[MAXPGPATH];
	char	   *path;
	FILE	   *file;
	struct stat st;
	char	   *text;

	get_share_path(my_exec_path, share);
	path = psprintf("%s/extension/%s", share, SETUP_SCRIPT);
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL || fstat(fileno(file), &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open the set-up script \"%s\": %m", path)));
	text = palloc(st.st_size + 1);
	if (fread(text, 1, st.st_size, file) != st.st_size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the set-up script \"%s\": %m", path)));
	text[st.st_size] = '\0';
	FreeFile(file);
	pg_verifymbstr(text, st.st_size, false);
	return text;
}

/* The schema belongs to cdp_owner, who may not create schemas. */
static void
make_schema(void)
{
	if (!OidIsValid(get_namespace_oid(CDP_DATA_SCHEMA, true)))
	{
		run("CREATE SCHEMA cdp_data AUTHORIZATION cdp_owner");
		run("COMMENT ON SCHEMA cdp_data IS 'Tables of cdp; nobody but cdp_owner uses them directly.'");
		return;
	}
	if (!exists("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'cdp_data' AND nspowner = 'cdp_owner'::regrole"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"%s\" exists and does not belong to %s", CDP_DATA_SCHEMA, CDP_OWNER_ROLE),
				 errhint("If it was restored with --no-owner, restore it without: as it is, the views show every workspace. Else rename or drop it.")));
}

static void
require_layout(void)
{
	bool		isnull;
	int32		layout = DatumGetInt32(ask("SELECT pg_catalog.max(version) FROM cdp_data.version", &isnull));

	if (isnull)
		run(psprintf("INSERT INTO cdp_data.version (version) VALUES (%d)", CDP_LAYOUT_VERSION));
	else if (layout != CDP_LAYOUT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the tables of cdp have layout %d, but this library works with layout %d",
						layout, CDP_LAYOUT_VERSION),
				 errhint("Run SELECT cdp.migrate().")));
}

/* Tables that exist are brought up to date before anything else may look at them. */
static void
check_layout_of_existing(void)
{
	if (exists("SELECT 1 FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('cdp_data.version')"))
		require_layout();
}

/* Statement by statement, so that an error shows the one that failed. */
static void
run_script(void)
{
	char	   *script = read_script();
	CdpUserContext save;
	ListCell   *lc;

	cdp_become_owner(&save);
	foreach(lc, pg_parse_query(script))
	{
		RawStmt    *statement = lfirst_node(RawStmt, lc);
		char	   *text = script + statement->stmt_location;

		run(statement->stmt_len > 0 ? pnstrdup(text, statement->stmt_len) : text);
	}
	require_layout();
	cdp_become_caller(&save);
}

/* ---------------------------------------------------------------- key and instance */

/*
 * The first time: make the key, or take the one that another database of this
 * server uses, and write down its mark.
 */
static void
make_instance(void)
{
	Oid			types[4] = {UUIDOID, BYTEAOID, INT8OID, OIDOID};
	Datum		values[4];
	CdpKeyMark	mark;
	bytea	   *check = palloc(VARHDRSZ + sizeof(mark.check));

	if (exists("SELECT 1 FROM cdp_data.identifier LIMIT 1"))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cdp_data.instance is empty, but there are identifiers"),
				 errdetail("Which key their hashes were made with is not known.")));
	if (cdp_key_create())
		ereport(NOTICE,
				(errmsg("made the key file \"%s\"", cdp_key_path()),
				 errhint("Back it up, apart from the database: without it nobody in the database can be recognised.")));
	cdp_key_mark(&mark);
	SET_VARSIZE(check, VARHDRSZ + sizeof(mark.check));
	memcpy(VARDATA(check), mark.check, sizeof(mark.check));
	values[0] = UUIDPGetDatum(&mark.id);
	values[1] = PointerGetDatum(check);
	values[2] = Int64GetDatum((int64) GetSystemIdentifier());
	values[3] = ObjectIdGetDatum(MyDatabaseId);
	if (SPI_execute_with_args("INSERT INTO cdp_data.instance (key_id, key_check, system_identifier, database_oid)"
							  " VALUES ($1, $2, $3, $4)", 4, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "cdp: could not insert the instance");
	CacheInvalidateRelcacheByRelid(cdp_table(CDP_T_INSTANCE));
	CommandCounterIncrement();
}

static void
compare_instance(const CdpRow *row, void *arg)
{
	bool		isnull;
	int64		server = DatumGetInt64(cdp_row_get(row, "system_identifier", &isnull));
	Oid			database = DatumGetObjectId(cdp_row_get(row, "database_oid", &isnull));
	CdpAttachment *found = arg;

	*found = server == (int64) GetSystemIdentifier() && database == MyDatabaseId ?
		CDP_ATTACHED_HERE : CDP_ATTACHED_ELSEWHERE;
}

CdpAttachment
cdp_attachment(void)
{
	CdpAttachment found = CDP_ATTACHED_NOWHERE;

	cdp_scan_table(CDP_T_INSTANCE, compare_instance, &found);
	return found;
}

/* The data came from another server or database: attach it here, at rest. */
static void
attach_instance(void)
{
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2] = {Int64GetDatum((int64) GetSystemIdentifier()), ObjectIdGetDatum(MyDatabaseId)};
	uint64		paused;

	if (SPI_execute_with_args("UPDATE cdp_data.instance SET system_identifier = $1, database_oid = $2, epoch = epoch + 1"
							  " WHERE (system_identifier, database_oid) IS DISTINCT FROM ($1, $2)",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "cdp: could not update the instance");
	if (SPI_processed == 0)
		return;
	run("UPDATE cdp_data.source SET paused = true WHERE brokers IS NOT NULL");
	paused = SPI_processed;
	CacheInvalidateRelcacheByRelid(cdp_table(CDP_T_INSTANCE));
	ereport(NOTICE,
			(errmsg("this data comes from another server or database; " UINT64_FORMAT " Kafka sources are paused", paused),
			 errhint("Start each with cdp.resume_source() when no other copy consumes its topics.")));
}

static void
settle_instance(void)
{
	CdpUserContext save;

	cdp_become_owner(&save);
	if (exists("SELECT 1 FROM cdp_data.instance"))
	{
		cdp_key_require();
		attach_instance();
	}
	else
		make_instance();
	cdp_key_require();
	cdp_become_caller(&save);
}

/* ---------------------------------------------------------------- SQL functions */

PG_FUNCTION_INFO_V1(cdp_sql_setup);

Datum
cdp_sql_setup(PG_FUNCTION_ARGS)
{
	int			nest;
	const char *messages;

	require_superuser("setup");
	PreventCommandDuringRecovery("setup");
	require_utf8();
	lock_extension();
	messages = pstrdup(GetConfigOption("client_min_messages", false, false));

	nest = NewGUCNestLevel();
	fix_settings();
	SPI_connect();
	make_schema();
	check_layout_of_existing();
	run_script();
	cdp_catalog_forget();
	/* what is said from here on is for the caller, if he wants to hear it */
	(void) set_config_option("client_min_messages", messages, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	settle_instance();
	SPI_finish();
	AtEOXact_GUC(true, nest);

	cdp_launcher_wake();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_migrate);

/* There is one layout so far; steps from each to the next come here. */
Datum
cdp_sql_migrate(PG_FUNCTION_ARGS)
{
	require_superuser("migrate");
	cdp_version_require();
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("there is nothing to migrate"),
			 errdetail("The tables already have layout %d.", CDP_LAYOUT_VERSION)));
}
