/*
 * sweep.h: deleting what lies below W, step by step (sweep.c, drop.c).
 */
#ifndef CDP_SWEEP_H
#define CDP_SWEEP_H

#include "cdp.h"

#include "storage/block.h"

#define CDP_DROP_MS 200			/* less than lock_timeout of a worker, who queues behind */

/* rows of one partition */
typedef struct CdpLeafCount
{
	const char *leaf;
	int64		rows;
} CdpLeafCount;

typedef struct CdpLeafCounts
{
	CdpLeafCount *leaf;
	int			n;
} CdpLeafCounts;

typedef struct CdpSweep
{
	MemoryContext cxt;			/* for all below */
	int32		workspace_id;
	TimestampTz watermark;
	int64		after;			/* people up to this fragment were looked at */
	int64		people;			/* whose events were deleted */
	int64	   *held;			/* people whom another transaction holds, in id order */
	int			nheld,
				maxheld;
	CdpLeafCounts events,
				seen;
} CdpSweep;

/* All are called as cdp_owner, in a transaction. */

/* what would be deleted */
extern void cdp_sweep_count(CdpSweep *s);

/* Next people with events below W; those whom somebody holds go to s->held.  False: there were none. */
extern bool cdp_sweep_people(CdpSweep *s);

/* the held ones, as far as lock_timeout lets: raises when it does not */
extern void cdp_sweep_held(CdpSweep *s, int from, int n);

/* the ids of events that are gone, or nobody's; then nobody's events */
extern void cdp_sweep_seen(CdpSweep *s);
extern void cdp_sweep_nobody(CdpSweep *s);

/* lock_timeout to the end of the (sub)transaction, and what comes of it (purge.c) */
extern void cdp_set_lock_timeout(int ms);
extern bool cdp_is_lock_failure(int sqlstate);

/* ---------------------------------------------------------------- drop.c */

/*
 * Least W of all workspaces.  workspace_id <> 0: as if that one's was raised
 * to watermark.  cleared: of what is gone for certain.
 */
extern TimestampTz cdp_least_watermark(int32 workspace_id, TimestampTz watermark, bool cleared);

/* names of the months of event or message_seen that lie wholly below the instant */
extern List *cdp_partitions_below(CdpTable table, TimestampTz instant);

/*
 * Drops them as far as they are empty (or nearly so), and lets the first
 * partition reach to where the last of them did; it is truncated if it is
 * empty.  Returns the names of the dropped ones.  cleared: the
 * instant is below what cdp_least_watermark() says of that.  Leaves partitions
 * of more than most_pages alone, since they would be read under the lock.
 * Raises when a lock is not had within lock_timeout.
 */
extern List *cdp_drop_partitions(CdpTable table, TimestampTz instant, bool cleared, BlockNumber most_pages);

#endif							/* CDP_SWEEP_H */
