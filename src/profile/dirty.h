/*
 * dirty.h: fragments that the maintenance worker computes again.
 */
#ifndef CDP_DIRTY_H
#define CDP_DIRTY_H

#include "postgres.h"

/* for the maintenance worker, outside a transaction */
extern bool cdp_dirty_maintain(void);

#endif							/* CDP_DIRTY_H */
