/*
 * compat.h: every #if PG_VERSION_NUM of the project.  The rest of the code
 * reads as if only one server version existed (15 is the development version).
 */
#ifndef CDP_COMPAT_H
#define CDP_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "cdp needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* DecodeDateTime got one more argument in 16 */
#if PG_VERSION_NUM >= 160000
#define cdp_decode_datetime(field, ftype, nfields, dtype, tm, fsec, tz) \
	DecodeDateTime(field, ftype, nfields, dtype, tm, fsec, tz, &(DateTimeErrorExtra) {0})
#else
#define cdp_decode_datetime(field, ftype, nfields, dtype, tm, fsec, tz) \
	DecodeDateTime(field, ftype, nfields, dtype, tm, fsec, tz)
#endif

/* what a check hook hands on is freed by the server: memory of its own kind from 16 on; NULL when there is none */
#if PG_VERSION_NUM >= 160000
#define cdp_guc_malloc(size) guc_malloc(LOG, size)
#else
#define cdp_guc_malloc(size) malloc(size)
#endif

/* waits have names of their own from 17 on */
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define cdp_wait_event(name) WaitEventExtensionNew(name)
#else
#include "utils/wait_event.h"
#define cdp_wait_event(name) PG_WAIT_EXTENSION
#endif

/* belongs to a resource owner instead of a memory context from 17 on; ours live as long as the process */
#if PG_VERSION_NUM >= 170000
#define cdp_create_wait_event_set(n) CreateWaitEventSet(NULL, n)
#else
#define cdp_create_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

/* number of this backend's transaction */
#if PG_VERSION_NUM >= 170000
#define cdp_my_lxid() (MyProc->vxid.lxid)
#else
#define cdp_my_lxid() (MyProc->lxid)
#endif

/* from 16 on an update that stays on its page may leave all indexes but summarizing ones (BRIN) as they are */
#if PG_VERSION_NUM >= 160000
#define CdpUpdateIndexes TU_UpdateIndexes
#define CDP_UPDATE_NO_INDEX TU_None
#define CDP_UPDATE_ALL_INDEXES TU_All
#define cdp_index_stays(update, info) ((update) == TU_Summarizing && !(info)->ii_Summarizing)
#else
#define CdpUpdateIndexes bool
#define CDP_UPDATE_NO_INDEX false
#define CDP_UPDATE_ALL_INDEXES true
#define cdp_index_stays(update, info) false
#endif

/* primary keys may be deferrable from 18 on; ours are not */
#if PG_VERSION_NUM >= 180000
#define cdp_primary_key_index(table) RelationGetPrimaryKeyIndex(table, false)
#else
#define cdp_primary_key_index(table) RelationGetPrimaryKeyIndex(table)
#endif

/* 18 counts the searches of an index scan for EXPLAIN */
#if PG_VERSION_NUM >= 180000
#define cdp_index_beginscan(table, index, snapshot, nkeys) index_beginscan(table, index, snapshot, NULL, nkeys, 0)
#else
#define cdp_index_beginscan(table, index, snapshot, nkeys) index_beginscan(table, index, snapshot, nkeys, 0)
#endif

/* comes before the declaration from 18 on */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* permissions left the range table in 16 */
#if PG_VERSION_NUM >= 160000
#define CdpCheckPerms RTEPermissionInfo
#define CDP_CHECK_PERMS_PARAMS List *rtable, List *perms, bool raise
#define CDP_CHECK_PERMS_ARGS rtable, perms, raise
#define CDP_CHECK_PERMS_LIST perms
#else
#define CdpCheckPerms RangeTblEntry
#define CDP_CHECK_PERMS_PARAMS List *rtable, bool raise
#define CDP_CHECK_PERMS_ARGS rtable, raise
#define CDP_CHECK_PERMS_LIST rtable
#endif

/*
 * Names mean those of pg_catalog from push to pop, which takes what push
 * returned; an abort pops, too.  Up to 16 without the cost of a setting.
 */
#if PG_VERSION_NUM >= 170000
#include "utils/guc.h"
static inline int
cdp_push_safe_path(void)
{
	int			nest = NewGUCNestLevel();

	RestrictSearchPath();
	return nest;
}
#define cdp_pop_safe_path(nest) AtEOXact_GUC(true, nest)
#else
#include "catalog/namespace.h"
static inline int
cdp_push_safe_path(void)
{
	OverrideSearchPath path = {.addCatalog = true};

	PushOverrideSearchPath(&path);
	return 1;
}
#define cdp_pop_safe_path(nest) PopOverrideSearchPath()
#endif

#endif							/* CDP_COMPAT_H */
