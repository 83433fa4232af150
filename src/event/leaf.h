/*
 * leaf.h: the partitions of event and message_seen.
 */
#ifndef CDP_LEAF_H
#define CDP_LEAF_H

#include "table.h"

#include "event/filter.h"

typedef struct CdpLeaf
{
	TimestampTz from,			/* inclusive; DT_NOBEGIN: MINVALUE */
				to;				/* exclusive; DT_NOEND: MAXVALUE */
	Oid			relid;
	CdpRel	   *rel;			/* opened when first used */
	CdpFilter	filter;			/* set by cdp_filter_find() */
} CdpLeaf;

typedef struct CdpLeaves
{
	Relation	parent;
	CdpLeaf    *leaf;			/* by range */
	int			n;
	CdpLeaf    *last;			/* where the last look ended */
} CdpLeaves;

extern CdpLeaves *cdp_leaves_open(Oid parent);
extern void cdp_leaves_close(CdpLeaves *leaves);
extern CdpLeaf *cdp_leaf_of(CdpLeaves *leaves, TimestampTz at);
extern CdpRel *cdp_leaf_rel(CdpLeaves *leaves, CdpLeaf *leaf);

/* true only if the leaf certainly holds no row now */
extern bool cdp_leaf_is_empty(CdpLeaves *leaves, CdpLeaf *leaf);

static inline bool
cdp_leaf_holds(const CdpLeaf *leaf, TimestampTz at)
{
	return leaf->from <= at && (at < leaf->to || leaf->to == DT_NOEND);
}

#endif							/* CDP_LEAF_H */
