/*
 * leaf.h: the partitions of event and message_seen.
 */
#ifndef CDP_LEAF_H
#define CDP_LEAF_H

#include "table.h"

typedef struct CdpLeaf
{
	TimestampTz from,			/* inclusive; DT_NOBEGIN: MINVALUE */
				to;				/* exclusive; DT_NOEND: MAXVALUE */
	Oid			relid;
	CdpRel	   *rel;			/* opened when first used */
	bool		known_empty;	/* its index held nothing when the batch began */
	bool		asked;
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
/* false only if the leaf certainly holds no row */
extern bool cdp_leaf_may_hold(CdpLeaves *leaves, CdpLeaf *leaf);

#endif							/* CDP_LEAF_H */
