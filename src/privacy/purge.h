/*
 * purge.h: the retention watermark W, and what lies below it.
 */
#ifndef CDP_PURGE_H
#define CDP_PURGE_H

#include "cdp.h"

/*
 * W of a workspace for events, as it is committed now; DT_NOBEGIN: none.  A
 * batch asks after it locked engine_lock, so that who does not know a W that is
 * committed is one of the lock's holders.
 */
extern TimestampTz cdp_watermark(int32 workspace_id);

/*
 * For the maintenance worker, outside a transaction and connected to a
 * database that is set up: deletes again what older batches left below a new W,
 * and drops partitions.  False: try again later.
 */
extern bool cdp_purge_maintain(void);

#endif							/* CDP_PURGE_H */
