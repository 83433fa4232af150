/*
 * filter.c: Bloom filters over the partitions of message_seen.
 *
 * A message id may have been stored in any partition, whatever the stamp of
 * the copy that comes now.  So that it is not looked for in the indexes of all
 * of them, shared memory holds for each partition (leaf) a blocked Bloom
 * filter: a line of 256 bits, 8 of them for a key, about 10 bits a key; what
 * it says "no" to, the leaf lacks.  Keys are keyed hashes, so their own bits
 * serve.  No filter, no preloading, no memory, a standby: unknown, and the leaf
 * is asked.
 *
 * What must hold: while a filter is ready, the key of each row that is or may
 * become visible in its leaf is in it.  More keys may be; so rollback, DELETE,
 * TRUNCATE, VACUUM FULL, REINDEX, and rows that a split moves to another leaf
 * need no care.
 *
 * Who writes a leaf?
 *	- Batches.  They lock the parent (ROW EXCLUSIVE, to the end of the
 *	  transaction), then find the filter, ready or being built, then add the
 *	  key, then write.  Also a batch that updates a row adds its key, since the
 *	  builder may have read the place that the new version goes to.
 *	- Anybody else, by INSERT, UPDATE, MERGE or COPY: a restore, a superuser.
 *	  They lock what they name and then pass the permission check, where our
 *	  hook takes the filter away.  The engine's own UPDATE, known by its security
 *	  context, is let through.  The hook does not see a logical subscription: none
 *	  may write message_seen.
 *
 * Building, by the database's maintenance worker, one leaf after the other:
 * the filter is registered, then the holders of a lock on parent or leaf are
 * noted (GetLockConflicts).  Who locks later finds the filter, or meets it in
 * the hook.  When all of the noted transactions have ended, what they wrote is
 * committed, so that a scan with a snapshot taken now, in slices of their own,
 * sees each row that is not added by its writer.  A rewrite of the leaf
 * between two slices moves rows: then it is built again.  Nobody is waited for
 * in a blocking way, since the worker has other things to do.
 *
 * Reading takes no lock.  A filter that goes (leaf outgrew it, hook) counts
 * its slot's generation up before its memory may be used again; a reader
 * compares generations after he read, and if they differ, all is unknown.  A
 * writer who adds to a filter that went adds too many keys to another one; the
 * leaf's next filter is built after his end.
 *
 * Filters live no longer than their maintenance worker, who takes away those of
 * leaves that are gone each second: a relation's or a database's OID cannot come
 * round in that time, and DROP DATABASE ends the worker first.  A crash empties
 * shared memory.
 */
#include "cdp.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "event/filter.h"
#include "event/leaf.h"
#include "holders.h"

#define SHMEM_NAME "cdp filters"
#define MAX_FILTERS 256			/* in all databases together */
#define MAX_MEMORY_MB (64 * 1024)
#define LINES_PER_MB ((uint64) 1024 * 1024 / sizeof(CdpFilterLine))
#define BITS_PER_KEY 10
#define ROWS_PER_PAGE 75		/* of message_seen, 90 % full */
#define LEAST_KEYS 16384
#define ROOM 1.5				/* keys there is room for, to rows there are */
#define OUTGROWN 1.5			/* keys added, to keys there is room for */
#define SLICE_PAGES 4096		/* read in one transaction */
#define BUILD_MS 300			/* building goes on at the most, before other jobs have their turn */
#define KEY_COLUMN 1

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_CLEARING,				/* its memory is taken, not yet usable */
	SLOT_BUILDING,				/* takes keys */
	SLOT_READY
} SlotState;

/* Written under the lock; what a reader compares afterwards is atomic. */
typedef struct CdpFilterSlot
{
	SlotState	state;
	Oid			database,
				parent,
				leaf;
	uint32		first,			/* its lines */
				nlines;
	pg_atomic_uint32 generation;
	pg_atomic_uint64 added;		/* keys */
} CdpFilterSlot;

typedef struct Filters
{
	LWLock	   *lock;
	uint32		nlines;
	CdpFilterSlot slots[MAX_FILTERS];
	CdpFilterLine lines[FLEXIBLE_ARRAY_MEMBER];
} Filters;

/* what the maintenance worker is at */
typedef struct Build
{
	CdpFilter	filter;			/* slot == NULL: nothing */
	Oid			leaf;
	VirtualTransactionId *before;	/* to end before the scan; zero-ended */
	bool		scanning;
	Oid			filenode;		/* of the leaf, when the scan began */
	BlockNumber next,
				end;
} Build;

static Filters *filters = NULL; /* NULL: not preloaded, or off */
static int	filter_memory_mb = 64;
static Build build;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;
static ExecutorCheckPerms_hook_type previous_check_perms = NULL;

/* ---------------------------------------------------------------- keys */

void
cdp_filter_add(const CdpFilter *f, const unsigned char *key)
{
	CdpFilterLine *line;
	uint64		bits = cdp_filter_bits(key);
	bool		new = false;

	if (f->slot == NULL)
		return;
	line = cdp_filter_line(f, key);
	for (int i = 0; i < 4; i++)
	{
		uint64		mask = cdp_filter_mask(bits, i);

		if ((pg_atomic_read_u64(&line->word[i]) & mask) == mask)
			continue;
		pg_atomic_fetch_or_u64(&line->word[i], mask);
		new = true;
	}
	if (new)
		pg_atomic_fetch_add_u64(&f->slot->added, 1);
}

bool
cdp_filter_stands(const CdpFilter *f)
{
	pg_read_barrier();
	return pg_atomic_read_u32(&f->slot->generation) == f->generation;
}

/* Lock held. */
static CdpFilter
use_slot(CdpFilterSlot *slot)
{
	CdpFilter	f = {
		.slot = slot,
		.lines = filters->lines + slot->first,
		.nlines = slot->nlines,
		.generation = pg_atomic_read_u32(&slot->generation),
		.ready = slot->state == SLOT_READY
	};

	return f;
}

static CdpLeaf *
leaf_by_relid(CdpLeaves *leaves, Oid relid)
{
	for (int i = 0; i < leaves->n; i++)
		if (leaves->leaf[i].relid == relid)
			return &leaves->leaf[i];
	return NULL;
}

void
cdp_filter_find(CdpLeaves *leaves)
{
	if (filters == NULL)
		return;
	LWLockAcquire(filters->lock, LW_SHARED);
	for (int i = 0; i < MAX_FILTERS; i++)
	{
		CdpFilterSlot *slot = &filters->slots[i];
		CdpLeaf    *leaf;

		if (slot->state < SLOT_BUILDING || slot->database != MyDatabaseId)
			continue;
		leaf = leaf_by_relid(leaves, slot->leaf);
		if (leaf)
			leaf->filter = use_slot(slot);
	}
	LWLockRelease(filters->lock);
}

/* ---------------------------------------------------------------- slots */

/* Lock held. */
static void
free_slot(CdpFilterSlot *slot)
{
	pg_atomic_fetch_add_u32(&slot->generation, 1);	/* a full barrier */
	slot->state = SLOT_FREE;
}

/* Lock held.  The slot of another filter that has one of these lines. */
static CdpFilterSlot *
overlapping_slot(uint32 first, uint32 nlines)
{
	for (int i = 0; i < MAX_FILTERS; i++)
	{
		CdpFilterSlot *slot = &filters->slots[i];

		if (slot->state != SLOT_FREE && slot->first < first + nlines && first < slot->first + slot->nlines)
			return slot;
	}
	return NULL;
}

/* Lock held.  First place where so many lines are free; false: there is none. */
static bool
find_lines(uint32 nlines, uint32 *first)
{
	CdpFilterSlot *slot;

	for (*first = 0; *first + (uint64) nlines <= filters->nlines; *first = slot->first + slot->nlines)
	{
		slot = overlapping_slot(*first, nlines);
		if (slot == NULL)
			return true;
	}
	return false;
}

/* Lock held. */
static CdpFilterSlot *
find_free_slot(void)
{
	for (int i = 0; i < MAX_FILTERS; i++)
		if (filters->slots[i].state == SLOT_FREE)
			return &filters->slots[i];
	return NULL;
}

static CdpFilterSlot *
take_slot(Oid parent, Oid leaf, uint32 nlines)
{
	CdpFilterSlot *slot;
	uint32		first;

	LWLockAcquire(filters->lock, LW_EXCLUSIVE);
	slot = find_free_slot();
	if (slot != NULL && find_lines(nlines, &first))
	{
		slot->database = MyDatabaseId;
		slot->parent = parent;
		slot->leaf = leaf;
		slot->first = first;
		slot->nlines = nlines;
		pg_atomic_write_u64(&slot->added, 0);
		slot->state = SLOT_CLEARING;
	}
	else
		slot = NULL;
	LWLockRelease(filters->lock);
	return slot;
}

/* The slot goes on to a state, SLOT_FREE included, unless it was taken away since. */
static bool
set_state(const CdpFilter *f, SlotState state)
{
	bool		stands;

	LWLockAcquire(filters->lock, LW_EXCLUSIVE);
	stands = cdp_filter_stands(f);
	if (stands && state == SLOT_FREE)
		free_slot(f->slot);
	else if (stands)
		f->slot->state = state;
	LWLockRelease(filters->lock);
	return stands;
}

/* A new filter that takes keys; slot == NULL: no room, or taken away already. */
static CdpFilter
register_filter(Oid parent, Oid leaf, BlockNumber pages)
{
	double		keys = Max((double) pages * ROWS_PER_PAGE * ROOM, LEAST_KEYS);
	double		nlines = keys * BITS_PER_KEY / (BITS_PER_BYTE * sizeof(CdpFilterLine)) + 1;
	CdpFilter	f = {NULL};
	CdpFilterSlot *slot = nlines > filters->nlines ? NULL : take_slot(parent, leaf, (uint32) nlines);

	if (slot == NULL)
		return f;
	f = use_slot(slot);			/* nobody else makes slots of this database */
	memset(f.lines, 0, f.nlines * sizeof(CdpFilterLine));
	if (!set_state(&f, SLOT_BUILDING))
		f.slot = NULL;
	return f;
}

static bool
has_outgrown(CdpFilterSlot *slot)
{
	double		room = (double) slot->nlines * BITS_PER_BYTE * sizeof(CdpFilterLine) / BITS_PER_KEY;

	return pg_atomic_read_u64(&slot->added) > OUTGROWN * room;
}

/* filters of this database whose leaf is gone or outgrew them; leaves == NULL: all */
static void
free_slots(CdpLeaves *leaves)
{
	LWLockAcquire(filters->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_FILTERS; i++)
	{
		CdpFilterSlot *slot = &filters->slots[i];

		if (slot->state == SLOT_FREE || slot->database != MyDatabaseId)
			continue;
		if (leaves == NULL || leaf_by_relid(leaves, slot->leaf) == NULL || has_outgrown(slot))
			free_slot(slot);
	}
	LWLockRelease(filters->lock);
}

static void
free_at_exit(int code, Datum arg)
{
	free_slots(NULL);
}

/* ---------------------------------------------------------------- others who write */

static inline bool
concerns(const CdpFilterSlot *slot, Oid relid)
{
	return slot->state != SLOT_FREE && slot->database == MyDatabaseId &&
		(slot->leaf == relid || slot->parent == relid);
}

/* Most statements have nothing to do with us: they only look, without the lock. */
void
cdp_filter_forget(Oid relid)
{
	if (filters == NULL)
		return;
	for (int i = 0; i < MAX_FILTERS; i++)
	{
		CdpFilterSlot *slot = &filters->slots[i];

		if (!concerns(slot, relid))
			continue;
		LWLockAcquire(filters->lock, LW_EXCLUSIVE);
		if (concerns(slot, relid))
			free_slot(slot);
		LWLockRelease(filters->lock);
	}
}

static bool
check_perms(CDP_CHECK_PERMS_PARAMS)
{
	ListCell   *lc;

	foreach(lc, CDP_CHECK_PERMS_LIST)
	{
		CdpCheckPerms *p = lfirst(lc);

		if ((p->requiredPerms & (ACL_INSERT | ACL_UPDATE)) && OidIsValid(p->relid) && !InNoForceRLSOperation())
			cdp_filter_forget(p->relid);
	}
	return previous_check_perms == NULL || previous_check_perms(CDP_CHECK_PERMS_ARGS);
}

/* ---------------------------------------------------------------- building */

static void
end_build(void)
{
	if (build.before)
		pfree(build.before);
	memset(&build, 0, sizeof(build));
}

/* who writes, or may be about to write, into the leaf without knowing of its filter */
static VirtualTransactionId *
note_writers(Oid parent, Oid leaf)
{
	Oid			relids[2] = {parent, leaf};

	return cdp_holders_note(relids, lengthof(relids));
}

/* Begins to build the first filter that is missing and fits in; false: none. */
static bool
begin_build(CdpLeaves *leaves)
{
	Oid			parent = RelationGetRelid(leaves->parent);

	for (int i = 0; i < leaves->n && build.filter.slot == NULL; i++)
	{
		CdpLeaf    *leaf = &leaves->leaf[i];

		if (leaf->filter.slot != NULL || !ConditionalLockRelationOid(leaf->relid, RowExclusiveLock) ||
			cdp_leaf_is_empty(leaves, leaf))
			continue;
		build.leaf = leaf->relid;
		build.filter = register_filter(parent, leaf->relid, RelationGetNumberOfBlocks(leaf->rel->rel));
		if (build.filter.slot != NULL)
			build.before = note_writers(parent, leaf->relid);
	}
	return build.filter.slot != NULL;
}

static void
add_pages(Relation rel, BlockNumber first, BlockNumber end)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *row = table_slot_create(rel, NULL);
	ItemPointerData from,
				to;
	TableScanDesc scan;

	ItemPointerSet(&from, first, FirstOffsetNumber);
	ItemPointerSet(&to, end - 1, MaxOffsetNumber);
	scan = table_beginscan_tidrange(rel, snapshot, &from, &to);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, row))
	{
		bool		isnull;

		cdp_filter_add(&build.filter, DatumGetUUIDP(slot_getattr(row, KEY_COLUMN, &isnull))->data);
		CHECK_FOR_INTERRUPTS();
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
	UnregisterSnapshot(snapshot);
}

/* The leaf is open.  False: it was rewritten since the scan began. */
static bool
scan_slice(Relation rel)
{
	BlockNumber end;

	if (!build.scanning)
	{
		build.scanning = true;
		build.filenode = rel->rd_rel->relfilenode;
		build.end = RelationGetNumberOfBlocks(rel);
	}
	if (rel->rd_rel->relfilenode != build.filenode)
		return false;
	end = Min(build.next + SLICE_PAGES, build.end);
	if (build.next < end)
		add_pages(rel, build.next, end);
	build.next = end;
	return true;
}

/* The next slice; a filter that cannot be built is given up; false: come back later. */
static bool
continue_build(void)
{
	Relation	rel;
	bool		goes_on;

	if (!cdp_filter_stands(&build.filter))
	{
		end_build();
		return true;
	}
	if ((!build.scanning && !cdp_holders_have_ended(build.before)) || !ConditionalLockRelationOid(build.leaf, AccessShareLock))
		return false;
	rel = try_table_open(build.leaf, NoLock);
	goes_on = rel != NULL && scan_slice(rel);
	if (rel != NULL)
		table_close(rel, NoLock);
	if (goes_on && build.next < build.end)
		return true;
	(void) set_state(&build.filter, goes_on ? SLOT_READY : SLOT_FREE);
	end_build();
	return true;
}

/* One step in a transaction of its own; false: nothing more to do now. */
static bool
build_step(void)
{
	Oid			parent = cdp_table(CDP_T_MESSAGE_SEEN);
	CdpLeaves  *leaves;
	bool		more;

	if (build.filter.slot != NULL)
		return continue_build();
	if (!ConditionalLockRelationOid(parent, RowExclusiveLock))
		return false;
	leaves = cdp_leaves_open(parent);
	free_slots(leaves);
	cdp_filter_find(leaves);
	more = begin_build(leaves);
	cdp_leaves_close(leaves);
	return more;
}

bool
cdp_filter_maintain(void)
{
	static bool registered = false;
	instr_time	start = {0},
				now;
	bool		more = filters != NULL;

	if (more && !registered)
	{
		before_shmem_exit(free_at_exit, 0);
		registered = true;
	}
	INSTR_TIME_SET_CURRENT(start);
	while (more)
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		more = build_step();
		PopActiveSnapshot();
		CommitTransactionCommand();
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		more = more && INSTR_TIME_GET_MILLISEC(now) < BUILD_MS;
	}
	return true;
}

/* ---------------------------------------------------------------- shared memory */

static Size
filters_size(void)
{
	return add_size(offsetof(Filters, lines), mul_size(filter_memory_mb * LINES_PER_MB, sizeof(CdpFilterLine)));
}

static void
shmem_request(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	RequestAddinShmemSpace(filters_size());
	RequestNamedLWLockTranche(SHMEM_NAME, 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	filters = ShmemInitStruct(SHMEM_NAME, filters_size(), &found);
	if (!found)
	{
		memset(filters, 0, offsetof(Filters, lines));	/* lines are cleared when they are taken */
		filters->lock = &GetNamedLWLockTranche(SHMEM_NAME)->lock;
		filters->nlines = filter_memory_mb * LINES_PER_MB;
		for (int i = 0; i < MAX_FILTERS; i++)
		{
			pg_atomic_init_u32(&filters->slots[i].generation, 0);
			pg_atomic_init_u64(&filters->slots[i].added, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
cdp_filter_init(void)
{
	DefineCustomIntVariable("cdp.filter_memory",
							"Shared memory for filters over the ids of stored messages.",
							"1 MB serves about 600,000 messages. Without a filter the index of each month is asked for each message. 0: no filters.",
							&filter_memory_mb, 64, 0, MAX_MEMORY_MB,
							PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	if (filter_memory_mb == 0)
		return;
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	previous_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_perms;
}

/* ---------------------------------------------------------------- looking at them */

PG_FUNCTION_INFO_V1(cdp_sql_filters);

/* cdp.read_filters(): one row a filter of this database */
Datum
cdp_sql_filters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; filters != NULL && i < MAX_FILTERS; i++)
	{
		CdpFilterSlot slot;
		Datum		values[4];
		bool		nulls[4] = {false};

		LWLockAcquire(filters->lock, LW_SHARED);
		slot = filters->slots[i];
		LWLockRelease(filters->lock);
		if (slot.state < SLOT_BUILDING || slot.database != MyDatabaseId)
			continue;
		values[0] = ObjectIdGetDatum(slot.leaf);
		values[1] = BoolGetDatum(slot.state == SLOT_READY);
		values[2] = Int64GetDatum(pg_atomic_read_u64(&slot.added));
		values[3] = Int64GetDatum((int64) slot.nlines * sizeof(CdpFilterLine));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
