/*
 * leaf.c: find and open the partition that an instant belongs to.
 *
 * Partitions are ranges of one timestamptz column that leave no hole: the
 * first begins at MINVALUE and the last ends at MAXVALUE.  The engine writes
 * into the leaf itself; the parent stays locked (ROW EXCLUSIVE) for the
 * transaction, so that no leaf can be detached or dropped meanwhile.
 */
#include "postgres.h"

#include "access/table.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "event/leaf.h"

static TimestampTz
bound_value(PartitionBoundInfo bi, int i)
{
	switch (bi->kind[i][0])
	{
		case PARTITION_RANGE_DATUM_MINVALUE:
			return DT_NOBEGIN;
		case PARTITION_RANGE_DATUM_MAXVALUE:
			return DT_NOEND;
		default:
			return DatumGetTimestampTz(bi->datums[i][0]);
	}
}

CdpLeaves *
cdp_leaves_open(Oid parent)
{
	CdpLeaves  *l = palloc0(sizeof(CdpLeaves));
	PartitionDesc pd;
	PartitionBoundInfo bi;

	l->parent = table_open(parent, RowExclusiveLock);
	pd = RelationGetPartitionDesc(l->parent, true);
	bi = pd->boundinfo;
	l->leaf = palloc0(pd->nparts * sizeof(CdpLeaf));

	/* bound i + 1 is the upper one of the range that bi->indexes[i + 1] names */
	for (int i = 0; bi != NULL && i + 1 < bi->ndatums; i++)
	{
		CdpLeaf    *leaf = &l->leaf[l->n];

		if (bi->indexes[i + 1] < 0)
			continue;
		leaf->from = bound_value(bi, i);
		leaf->to = bound_value(bi, i + 1);
		leaf->relid = pd->oids[bi->indexes[i + 1]];
		l->n++;
	}
	return l;
}

void
cdp_leaves_close(CdpLeaves *l)
{
	for (int i = 0; i < l->n; i++)
		if (l->leaf[i].rel)
			cdp_rel_close(l->leaf[i].rel);
	table_close(l->parent, NoLock);
}

CdpLeaf *
cdp_leaf_of(CdpLeaves *l, TimestampTz at)
{
	if (l->last && cdp_leaf_holds(l->last, at))
		return l->last;
	for (int i = 0; i < l->n; i++)
		if (cdp_leaf_holds(&l->leaf[i], at))
			return l->last = &l->leaf[i];
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no partition of \"%s\" covers %s", RelationGetRelationName(l->parent),
					timestamptz_to_str(at)),
			 errhint("Attach the partition again that was detached.")));
}

CdpRel *
cdp_leaf_rel(CdpLeaves *l, CdpLeaf *leaf)
{
	if (leaf->rel == NULL)
		leaf->rel = cdp_rel_open_leaf(leaf->relid, l->parent);
	return leaf->rel;
}

bool
cdp_leaf_is_empty(CdpLeaves *l, CdpLeaf *leaf)
{
	return RelationGetNumberOfBlocks(cdp_leaf_rel(l, leaf)->rel) == 0;
}
