/*
 * table.h: reading, locking and writing rows of our own tables without SQL.
 */
#ifndef CDP_TABLE_H
#define CDP_TABLE_H

#include "cdp.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#define CDP_REL_MAX_KEYS 4
#define CDP_REL_BUFFER 1000		/* rows gathered before they are written */

typedef struct CdpRel
{
	MemoryContext cxt;			/* that it was opened in: all of it lives there */
	Relation	rel;
	TupleDesc	desc;			/* a copy: slots need not be registered with the resource owner */
	int			ncolumns;		/* of desc that are ours; what follows is NULL in new rows */
	BlockNumber nblocks;		/* at least; our lock keeps the table from getting shorter */
	Relation	index;			/* primary key */
	int			nkeys;			/* its columns */
	RegProcedure keyproc[CDP_REL_MAX_KEYS];
	EState	   *estate;
	ResultRelInfo *rri;
	Snapshot	snapshot;		/* of the open scan */
	IndexScanDesc scan;
	int			scan_keys;
	SnapshotData dirty;			/* of the scan that sees what others have not committed */
	IndexScanDesc dirty_scan;
	TupleTableSlot *row;		/* last row found */
	TupleTableSlot *fresh;		/* values of the next row to insert or to replace another */
	bool		filling;		/* fresh is a row to insert */
	ItemPointer place;			/* of that row */
	MemoryContext tuples;		/* of the rows gathered */
	TupleTableSlot *image;		/* formed tuple of an update */
	TupleTableSlot **buffer;	/* formed tuples */
	ItemPointer *places;		/* who wants to know where they went, or NULL */
	int			nbuffered,
				nslots;
} CdpRel;

/* raise when the table is not as cdp made it (shape.h) */
extern CdpRel *cdp_rel_open(Oid relid);
extern CdpRel *cdp_rel_open_leaf(Oid relid, Relation parent);
extern void cdp_rel_close(CdpRel *r);

/* look-ups by a prefix of the primary key see this snapshot from now on */
extern void cdp_rel_look(CdpRel *r, Snapshot snapshot);
extern bool cdp_rel_find(CdpRel *r, const Datum *key, int nkeys);
extern bool cdp_rel_next(CdpRel *r);

/* the same by the whole key, for who remembers where the row was: it may have moved */
extern bool cdp_rel_find_at(CdpRel *r, const Datum *key, int nkeys, ItemPointer tid);

/*
 * Find a row as it will be: waits for whoever is inserting or deleting that
 * key.  Sees what is committed or our own.
 */
extern bool cdp_rel_find_settled(CdpRel *r, const Datum *key, int nkeys);

/* is another transaction inserting (or deleting) that key? waits for nobody */
extern bool cdp_rel_is_arriving(CdpRel *r, const Datum *key, int nkeys);

/* lock the row in r->row; r->row becomes its newest version; false: it is gone */
extern bool cdp_rel_lock(CdpRel *r);

/* a row that will be written in place of r->row (it has its values) or of the one at tid (none); then update */
extern TupleTableSlot *cdp_rel_edit(CdpRel *r);
extern TupleTableSlot *cdp_rel_replace(CdpRel *r);

/* tid: of the row that is replaced; becomes where the new one is.  Unique keys must be as they were. */
extern void cdp_rel_update(CdpRel *r, ItemPointer tid);

/*
 * The next row to insert: fill tts_values and tts_isnull before anything else
 * is asked of the table.  Written by flush, close or when the buffer is full.
 */
extern TupleTableSlot *cdp_rel_new(CdpRel *r);

/* the same; *place becomes where the row is, when it is written */
extern TupleTableSlot *cdp_rel_new_at(CdpRel *r, ItemPointer place);
extern void cdp_rel_flush(CdpRel *r);

#endif							/* CDP_TABLE_H */
