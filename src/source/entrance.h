/*
 * entrance.h: what inbox.c and ingest.c share.
 */
#ifndef CDP_ENTRANCE_H
#define CDP_ENTRANCE_H

#include "engine.h"

/*
 * The SQL source of that name (NULL: 'sql'), for a role that may write to it.
 * Raises when it does not exist, has brokers, or the caller's role is not of
 * cdp_ingest or not of the source's workspace.
 */
extern CdpSource *cdp_entrance_source(const char *name);

/* a message of SQL: no topic, no record time */
extern void cdp_entrance_message(CdpMessage *msg, CdpStr body, int ordinal);

extern const char *cdp_outcome_name(CdpOutcome outcome);

#endif							/* CDP_ENTRANCE_H */
