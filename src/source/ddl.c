/*
 * ddl.c: what transactions and utility commands tell the workers.
 *
 * Wake at commit.  What a transaction changed is a hint once it committed, and
 * nothing before and nothing if it rolled back; the hint sits in a static
 * variable until the transaction callback.
 *
 * Keep free.  A connected worker makes DROP DATABASE, RENAME, SET TABLESPACE
 * and CREATE DATABASE ... TEMPLATE fail, and DROP EXTENSION takes the code from
 * under its feet.  The hook marks the database as one to be kept free, waits
 * until no worker is left (at most FREE_MS; then the command itself says what
 * is in its way), and the end of the transaction, whichever it is, takes the
 * mark off.  A session that holds a mark and dies without that end takes the
 * server's shared memory along.
 */
#include "cdp.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"

#define FREE_MS 10000			/* wait for workers to leave a database */
#define FREE_CHECK_MS 1000		/* look again although nobody told us */

static ProcessUtility_hook_type previous_utility = NULL;
static bool registered = false;

/* what to do at the end of this transaction */
static bool wake_database = false;	/* at commit: the workers of this database */
static bool wake_launcher = false;	/* at its end: databases or settings changed */
static bool holds_blocks = false;	/* at its end: blocks[] of mine */
static Oid	blocks[CDP_BLOCKS];
static int	nblocks = 0;

/* ---------------------------------------------------------------- the end of a transaction */

static void
release_blocks(void)
{
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int b = 0; b < nblocks; b++)
	{
		for (int i = 0; i < CDP_BLOCKS; i++)
		{
			if (cdp_workers->blocked[i] == blocks[b])
			{
				cdp_workers->blocked[i] = InvalidOid;
				break;
			}
		}
	}
	LWLockRelease(cdp_workers->lock);
	nblocks = 0;
	holds_blocks = false;
	wake_launcher = true;
}

/*
 * The maintenance worker reads the sources, source workers their positions;
 * where there is none of them, a probe finds out.
 */
static void
wake_workers(void)
{
	CdpSlot    *maintenance;
	bool		known;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->database != MyDatabaseId)
			continue;
		slot->next_start = 0;
		slot->look = true;
		if (slot->state == CDP_SLOT_UP)
			SetLatch(slot->latch);
	}
	maintenance = cdp_maintenance_slot(MyDatabaseId);
	known = maintenance && maintenance->state == CDP_SLOT_UP;
	LWLockRelease(cdp_workers->lock);
	if (!known)
		cdp_wake_launcher(true, true);
}

static void
at_end(XactEvent event, void *arg)
{
	bool		committed = event == XACT_EVENT_COMMIT;

	if (!committed && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (holds_blocks)
		release_blocks();
	if (wake_launcher)
		cdp_wake_launcher(true, true);
	if (wake_database && committed)
		wake_workers();
	wake_launcher = wake_database = false;
}

static void
register_callback(void)
{
	if (registered)
		return;
	RegisterXactCallback(at_end, NULL);
	registered = true;
}

void
cdp_launcher_wake(void)
{
	if (cdp_workers == NULL)
		return;
	register_callback();
	wake_database = true;
}

/* ---------------------------------------------------------------- keep a database free */

static bool
mark_blocked(Oid database)
{
	bool		marked = false;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CDP_BLOCKS && !marked; i++)
	{
		if (!OidIsValid(cdp_workers->blocked[i]))
		{
			cdp_workers->blocked[i] = database;
			marked = true;
		}
	}
	if (cdp_workers->launcher_latch)
		SetLatch(cdp_workers->launcher_latch);
	LWLockRelease(cdp_workers->lock);
	return marked;
}

static bool
holds_block_of(Oid database)
{
	for (int b = 0; b < nblocks; b++)
		if (blocks[b] == database)
			return true;
	return false;
}

static bool
has_workers(Oid database)
{
	bool		found = false;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		found |= slot->database == database &&
			(slot->state == CDP_SLOT_UP || slot->state == CDP_SLOT_STARTING);
	}
	LWLockRelease(cdp_workers->lock);
	return found;
}

/* May the caller do any of these commands?  Who may not, gets an error from them and stops no worker. */
static bool
may_command(Oid database)
{
	HeapTuple	tuple;
	bool		owns = false;

	if (superuser())
		return true;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		owns = has_privs_of_role(GetUserId(), ((Form_pg_database) GETSTRUCT(tuple))->datdba);
		ReleaseSysCache(tuple);
	}
	return owns;
}

/* No worker is in the database from here to the end of the transaction. */
static void
keep_free(Oid database)
{
	int64		until = cdp_ticks() + FREE_MS;

	if (!OidIsValid(database) || nblocks == CDP_BLOCKS || !may_command(database))
		return;
	register_callback();
	if (!holds_block_of(database))
	{
		if (!mark_blocked(database))
			return;				/* many such commands at once: this one sees for itself */
		blocks[nblocks++] = database;
		holds_blocks = true;
	}

	ConditionVariablePrepareToSleep(&cdp_workers->progress);
	while (has_workers(database) && cdp_ticks() < until)
		ConditionVariableTimedSleep(&cdp_workers->progress, FREE_CHECK_MS,
									cdp_wait_event("CdpKeepFree"));
	ConditionVariableCancelSleep();
}

static Oid
template_of(const CreatedbStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			return get_database_oid(defGetString(option), true);
	}
	return InvalidOid;
}

static bool
sets_tablespace(const AlterDatabaseStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
			return true;
	return false;
}

static bool
drops_cdp(const DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, stmt->objects)
		if (strcmp(strVal(lfirst(lc)), "cdp") == 0)
			return true;
	return false;
}

/* CREATE, ALTER or DROP EXTENSION of ours. */
static bool
changes_cdp(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateExtensionStmt:
			return strcmp(((CreateExtensionStmt *) stmt)->extname, "cdp") == 0;
		case T_AlterExtensionStmt:
			return strcmp(((AlterExtensionStmt *) stmt)->extname, "cdp") == 0;
		case T_DropStmt:
			return drops_cdp((DropStmt *) stmt);
		default:
			return false;
	}
}

/* Every session looks at the versions again when this one has committed. */
static void
forget_version(void)
{
	if (cdp_is_set_up())
		CacheInvalidateRelcacheByRelid(cdp_table(CDP_T_VERSION));
}

/* Which database must be free of workers for this command; InvalidOid: none. */
static Oid
database_to_free(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return get_database_oid(((DropdbStmt *) stmt)->dbname, true);
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) stmt);
		case T_AlterDatabaseStmt:
			if (sets_tablespace((AlterDatabaseStmt *) stmt))
				return get_database_oid(((AlterDatabaseStmt *) stmt)->dbname, true);
			return InvalidOid;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return get_database_oid(((RenameStmt *) stmt)->subname, true);
			return InvalidOid;
		case T_DropStmt:
		case T_AlterExtensionStmt:
			return changes_cdp(stmt) ? MyDatabaseId : InvalidOid;
		default:
			return InvalidOid;
	}
}

/* A setting of a database reaches new connections only: its workers start again. */
static void
restart_workers(const char *dbname)
{
	Oid			database = get_database_oid(dbname, true);

	if (OidIsValid(database))
		keep_free(database);
}

static void
utility(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
		ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	bool		changes = changes_cdp(stmt);	/* asked now: some commands scribble on the statement */

	switch (nodeTag(stmt))
	{
		case T_AlterDatabaseSetStmt:
			restart_workers(((AlterDatabaseSetStmt *) stmt)->dbname);
			break;
		case T_CreatedbStmt:
		case T_AlterDatabaseStmt:
			register_callback();
			wake_launcher = true;
			/* fall through */
		default:
			keep_free(database_to_free(stmt));
	}
	if (previous_utility)
		previous_utility(pstmt, query, read_only, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, env, dest, qc);
	if (changes)
		forget_version();
}

void
cdp_ddl_hook_install(void)
{
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
}
