/*
 * profile.h: what the rooms of this folder share.
 */
#ifndef CDP_PROFILE_H
#define CDP_PROFILE_H

#include "work.h"

extern int64 cdp_month_bit(TimestampTz at);
extern bool cdp_declares_traits(const CdpEvent *ev);

/* when a trait was declared, and what breaks ties: DESIGN 9.8, R32, R59 */
typedef struct CdpStamp
{
	uint8		rank;			/* 1: an event */
	TimestampTz evidence_at,
				occurred_at;
	int64		source_seq;
	CdpStr		message_id;
	int32		source_id;
} CdpStamp;

/* traits of one declaration are merged into those of a fragment, and written */
typedef struct CdpTraitSet CdpTraitSet;

extern CdpTraitSet *cdp_traits_begin(MemoryContext cxt);
extern void cdp_traits_add_chunk(CdpTraitSet *set, int chunk, Jsonb *traits, bytea *stamps);

/* true: the set keeps pointers into traits and stamp->message_id from now on */
extern bool cdp_traits_declare(CdpTraitSet *set, Jsonb *traits, const CdpStamp *stamp);

/*
 * Those of a stored chunk that were declared by events before the instant, and
 * mention nothing that is erased (NULL: nothing is); the set keeps pointers into them.
 */
struct CdpErased;
extern void cdp_traits_keep(CdpTraitSet *set, Jsonb *traits, bytea *stamps, TimestampTz before,
							const struct CdpErased *erased);

/* write the chunks that changed; the fragment is locked */
extern void cdp_traits_store(CdpTraitSet *set, CdpRel *rel, int64 fragment_id, int32 workspace_id);

#endif							/* CDP_PROFILE_H */
