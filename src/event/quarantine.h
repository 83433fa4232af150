/*
 * quarantine.h: messages that are set aside, for good or for a moment.
 */
#ifndef CDP_QUARANTINE_H
#define CDP_QUARANTINE_H

#include "engine.h"

/* rejects of decode, and events that ended in quarantine */
extern void cdp_quarantine_store(CdpBatch *batch);

/* headers of a record as the tables keep them */
extern void cdp_read_headers(CdpMessage *msg, CdpStr bytes);

/* events whose outcome is CDP_OUT_PARKED */
extern void cdp_park_store(CdpBatch *batch);

/*
 * Apply parked messages of a source, in the caller's transaction; at most max.
 * Returns how many rows were taken; those whose profile is still held are
 * parked again.
 */
extern int	cdp_unpark(CdpSource *source, int max);

#endif							/* CDP_QUARANTINE_H */
