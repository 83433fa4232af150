/*
 * table.c: a thin layer over the table and index access methods.
 *
 * The engine touches the same few tables for every event, always by primary
 * key and in key order.  SQL costs 4 to 9 us a row for that; going to the
 * access methods costs 1 to 2 us (bench).  What SQL would check is left out on
 * purpose: our tables have no triggers, rules, generated columns or foreign
 * keys (shape.c looks), and row security does not apply to the owner's engine.
 *
 * Locks: RowExclusiveLock on the relation to the end of the transaction, row
 * locks as asked.  Everything belongs to the caller's memory context and
 * resource owner, so that an abort cleans up without our help.
 *
 * Inserts are buffered and written with table_multi_insert, then indexed.  A
 * duplicate key raises unique_violation: the engine looked first, so that this
 * is a race with another batch, and the batch is tried again.  Tuples are formed
 * here, once: of a virtual slot the heap makes a copy first.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "shape.h"
#include "table.h"

/* equality function of a key column's type */
static RegProcedure
equality_of(Oid type)
{
	switch (type)
	{
		case INT8OID:
			return F_INT8EQ;
		case INT4OID:
			return F_INT4EQ;
		case INT2OID:
			return F_INT2EQ;
		case CHAROID:
			return F_CHAREQ;
		case UUIDOID:
			return F_UUID_EQ;
		case TEXTOID:
			return F_TEXTEQ;
		case TIMESTAMPTZOID:
			return F_TIMESTAMPTZ_EQ;
		default:
			elog(ERROR, "no key column of type %u is expected", type);
	}
}

static void
open_key(CdpRel *r)
{
	Oid			pk = cdp_primary_key_index(r->rel);

	r->index = index_open(pk, RowExclusiveLock);
	r->nkeys = Min(IndexRelationGetNumberOfKeyAttributes(r->index), CDP_REL_MAX_KEYS);
	for (int i = 0; i < r->nkeys; i++)
		r->keyproc[i] = equality_of(TupleDescAttr(RelationGetDescr(r->index), i)->atttypid);
}

CdpRel *
cdp_rel_open_leaf(Oid relid, Relation parent)
{
	CdpRel	   *r = palloc0(sizeof(CdpRel));

	r->cxt = CurrentMemoryContext;
	r->rel = table_open(relid, RowExclusiveLock);
	r->ncolumns = cdp_shape_require(r->rel, parent);
	r->desc = CreateTupleDescCopy(RelationGetDescr(r->rel));
	open_key(r);
	r->estate = CreateExecutorState();
	r->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(r->rri, r->rel, 0, NULL, 0);
	ExecOpenIndices(r->rri, false);
	r->row = table_slot_create(r->rel, NULL);
	r->fresh = MakeSingleTupleTableSlot(r->desc, &TTSOpsVirtual);
	r->image = MakeSingleTupleTableSlot(r->desc, &TTSOpsHeapTuple);
	r->tuples = AllocSetContextCreate(r->cxt, "cdp rows", CDP_BATCH_SIZES);
	return r;
}

CdpRel *
cdp_rel_open(Oid relid)
{
	return cdp_rel_open_leaf(relid, NULL);
}

static void
end_look(CdpRel *r)
{
	ExecClearTuple(r->row);
	if (r->scan)
		index_endscan(r->scan);
	if (r->snapshot)
		UnregisterSnapshot(r->snapshot);
	r->scan = NULL;
	r->snapshot = NULL;
}

void
cdp_rel_close(CdpRel *r)
{
	cdp_rel_flush(r);
	end_look(r);
	if (r->dirty_scan)
		index_endscan(r->dirty_scan);
	for (int i = 0; i < r->nslots; i++)
		ExecDropSingleTupleTableSlot(r->buffer[i]);
	ExecDropSingleTupleTableSlot(r->row);
	ExecDropSingleTupleTableSlot(r->fresh);
	ExecDropSingleTupleTableSlot(r->image);
	ExecCloseIndices(r->rri);
	FreeExecutorState(r->estate);
	index_close(r->index, NoLock);
	table_close(r->rel, NoLock);
	MemoryContextDelete(r->tuples);
}

/* ---------------------------------------------------------------- looking */

void
cdp_rel_look(CdpRel *r, Snapshot snapshot)
{
	end_look(r);
	r->snapshot = RegisterSnapshot(snapshot);
}

static void
make_scan_keys(CdpRel *r, ScanKey keys, const Datum *key, int nkeys)
{
	for (int i = 0; i < nkeys; i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   r->index->rd_indcollation[i], r->keyproc[i], key[i]);
}

static IndexScanDesc
begin_scan(CdpRel *r, Snapshot snapshot, int nkeys)
{
	MemoryContext old = MemoryContextSwitchTo(r->cxt);
	IndexScanDesc scan = cdp_index_beginscan(r->rel, r->index, snapshot, nkeys);

	MemoryContextSwitchTo(old);
	return scan;
}

bool
cdp_rel_find(CdpRel *r, const Datum *key, int nkeys)
{
	ScanKeyData keys[CDP_REL_MAX_KEYS];

	Assert(r->snapshot && nkeys <= r->nkeys);
	make_scan_keys(r, keys, key, nkeys);
	if (r->scan && r->scan_keys != nkeys)
	{
		index_endscan(r->scan);
		r->scan = NULL;
	}
	if (r->scan == NULL)
	{
		r->scan = begin_scan(r, r->snapshot, nkeys);
		r->scan_keys = nkeys;
	}
	index_rescan(r->scan, keys, nkeys, NULL, 0);
	return cdp_rel_next(r);
}

bool
cdp_rel_next(CdpRel *r)
{
	return index_getnext_slot(r->scan, ForwardScanDirection, r->row);
}

/* is this the key of r->row? key columns are passed by value, or not compared here */
static bool
has_key(CdpRel *r, const Datum *key, int nkeys)
{
	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	column = r->index->rd_index->indkey.values[i];
		bool		isnull;

		if (slot_getattr(r->row, column, &isnull) != key[i] || isnull)
			return false;
	}
	return true;
}

/* a table that was vacuumed or rewritten may end before the place that is remembered */
static bool
is_in_table(CdpRel *r, ItemPointer tid)
{
	if (!ItemPointerIsValid(tid))
		return false;
	if (ItemPointerGetBlockNumber(tid) >= r->nblocks)
		r->nblocks = RelationGetNumberOfBlocks(r->rel);
	return ItemPointerGetBlockNumber(tid) < r->nblocks;
}

bool
cdp_rel_find_at(CdpRel *r, const Datum *key, int nkeys, ItemPointer tid)
{
	Assert(r->snapshot && nkeys == r->nkeys);
	if (is_in_table(r, tid) && table_tuple_fetch_row_version(r->rel, tid, r->snapshot, r->row) &&
		has_key(r, key, nkeys))
		return true;
	return cdp_rel_find(r, key, nkeys);
}

/* one look with a dirty snapshot; *wait is set when somebody has to end first */
static bool
find_dirty(CdpRel *r, ScanKey keys, int nkeys, TransactionId *wait)
{
	bool		found;

	if (r->dirty_scan == NULL)
	{
		InitDirtySnapshot(r->dirty);
		r->dirty_scan = begin_scan(r, &r->dirty, nkeys);
	}
	index_rescan(r->dirty_scan, keys, nkeys, NULL, 0);
	found = index_getnext_slot(r->dirty_scan, ForwardScanDirection, r->row);
	*wait = InvalidTransactionId;
	if (found)
		*wait = TransactionIdIsValid(r->dirty.xmin) ? r->dirty.xmin : r->dirty.xmax;
	return found;
}

bool
cdp_rel_find_settled(CdpRel *r, const Datum *key, int nkeys)
{
	ScanKeyData keys[CDP_REL_MAX_KEYS];
	TransactionId wait;

	Assert(nkeys == r->nkeys);
	make_scan_keys(r, keys, key, nkeys);
	for (;;)
	{
		bool		found = find_dirty(r, keys, nkeys, &wait);

		if (!found || !TransactionIdIsValid(wait))
			return found;
		XactLockTableWait(wait, r->rel, &r->row->tts_tid, XLTW_InsertIndex);
		CHECK_FOR_INTERRUPTS();
	}
}

bool
cdp_rel_is_arriving(CdpRel *r, const Datum *key, int nkeys)
{
	ScanKeyData keys[CDP_REL_MAX_KEYS];
	TransactionId wait;

	Assert(nkeys == r->nkeys);
	make_scan_keys(r, keys, key, nkeys);
	return find_dirty(r, keys, nkeys, &wait) && TransactionIdIsValid(wait);
}

/* ---------------------------------------------------------------- forming tuples */

/* the values of r->fresh, as a tuple that the slot owns */
static void
form_tuple(CdpRel *r, TupleTableSlot *slot)
{
	ExecStoreHeapTuple(heap_form_tuple(r->desc, r->fresh->tts_values, r->fresh->tts_isnull), slot, true);
	slot->tts_tableOid = RelationGetRelid(r->rel);
}

/* the row that was being filled is one of the gathered */
static void
gather(CdpRel *r)
{
	MemoryContext old;

	if (!r->filling)
		return;
	r->filling = false;
	old = MemoryContextSwitchTo(r->cxt);
	if (r->buffer == NULL)
	{
		r->buffer = palloc(CDP_REL_BUFFER * sizeof(TupleTableSlot *));
		r->places = palloc(CDP_REL_BUFFER * sizeof(ItemPointer));
	}
	if (r->nbuffered == r->nslots)
		r->buffer[r->nslots++] = MakeSingleTupleTableSlot(r->desc, &TTSOpsHeapTuple);
	MemoryContextSwitchTo(r->tuples);
	r->places[r->nbuffered] = r->place;
	form_tuple(r, r->buffer[r->nbuffered++]);
	MemoryContextSwitchTo(old);
}

TupleTableSlot *
cdp_rel_replace(CdpRel *r)
{
	gather(r);
	ExecClearTuple(r->fresh);
	memset(r->fresh->tts_isnull, false, r->ncolumns * sizeof(bool));
	memset(r->fresh->tts_isnull + r->ncolumns, true, (r->desc->natts - r->ncolumns) * sizeof(bool));
	return r->fresh;
}

/* ---------------------------------------------------------------- locking and updating */

bool
cdp_rel_lock(CdpRel *r)
{
	TM_FailureData tmfd;
	ItemPointerData tid = r->row->tts_tid;
	TM_Result	result;

	result = table_tuple_lock(r->rel, &tid, r->snapshot, r->row, GetCurrentCommandId(false),
							  LockTupleNoKeyExclusive, LockWaitBlock,
							  TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &tmfd);
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Deleted:
			return false;
		default:
			elog(ERROR, "row of \"%s\" cannot be locked: %d", RelationGetRelationName(r->rel), result);
	}
}

TupleTableSlot *
cdp_rel_edit(CdpRel *r)
{
	TupleTableSlot *fresh = cdp_rel_replace(r);

	slot_getallattrs(r->row);
	memcpy(fresh->tts_values, r->row->tts_values, r->desc->natts * sizeof(Datum));
	memcpy(fresh->tts_isnull, r->row->tts_isnull, r->desc->natts * sizeof(bool));
	return fresh;
}

/* does the row belong into a partial index? */
static bool
satisfies(CdpRel *r, IndexInfo *info, ExprContext *econtext)
{
	if (info->ii_Predicate == NIL)
		return true;
	if (info->ii_PredicateState == NULL)
		info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, r->estate);
	return ExecQual(info->ii_PredicateState, econtext);
}

/*
 * ExecInsertIndexTuples() for what our tables have.  An update never changes a
 * unique key, so it need not look whether another row has it: that would visit
 * every version that the transaction has made of the row.
 */
static void
insert_index_entries(CdpRel *r, TupleTableSlot *slot, bool update, CdpUpdateIndexes which)
{
	ExprContext *econtext = GetPerTupleExprContext(r->estate);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	econtext->ecxt_scantuple = slot;
	for (int i = 0; i < r->rri->ri_NumIndices; i++)
	{
		Relation	index = r->rri->ri_IndexRelationDescs[i];
		IndexInfo  *info = r->rri->ri_IndexRelationInfo[i];
		bool		check = index->rd_index->indisunique && !update;

		if (!info->ii_ReadyForInserts || cdp_index_stays(which, info) || !satisfies(r, info, econtext))
			continue;
		FormIndexDatum(info, slot, r->estate, values, isnull);
		index_insert(index, values, isnull, &slot->tts_tid, r->rel, check ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
					 update, info);
	}
	ResetPerTupleExprContext(r->estate);
}

void
cdp_rel_update(CdpRel *r, ItemPointer tid)
{
	CdpUpdateIndexes which;
	ItemPointerData old = *tid;

	form_tuple(r, r->image);
	simple_table_tuple_update(r->rel, &old, r->image, r->snapshot ? r->snapshot : SnapshotAny, &which);
	if (which != CDP_UPDATE_NO_INDEX)
		insert_index_entries(r, r->image, true, which);
	*tid = r->image->tts_tid;
	ExecClearTuple(r->image);
}

/* ---------------------------------------------------------------- inserting */

TupleTableSlot *
cdp_rel_new_at(CdpRel *r, ItemPointer place)
{
	TupleTableSlot *fresh = cdp_rel_replace(r);

	if (r->nbuffered == CDP_REL_BUFFER)
		cdp_rel_flush(r);
	r->filling = true;
	r->place = place;
	return fresh;
}

TupleTableSlot *
cdp_rel_new(CdpRel *r)
{
	return cdp_rel_new_at(r, NULL);
}

void
cdp_rel_flush(CdpRel *r)
{
	MemoryContext old;

	gather(r);
	if (r->nbuffered == 0)
		return;
	old = MemoryContextSwitchTo(r->tuples);
	table_multi_insert(r->rel, r->buffer, r->nbuffered, GetCurrentCommandId(true), 0, NULL);
	if (r->rri->ri_NumIndices > 0)
		for (int i = 0; i < r->nbuffered; i++)
			insert_index_entries(r, r->buffer[i], false, CDP_UPDATE_ALL_INDEXES);
	for (int i = 0; i < r->nbuffered; i++)
	{
		if (r->places[i])
			*r->places[i] = r->buffer[i]->tts_tid;
		ExecClearTuple(r->buffer[i]);
	}
	r->nbuffered = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(r->tuples);
}
