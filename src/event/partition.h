/*
 * partition.h: months of event and message_seen, made before they are needed.
 */
#ifndef CDP_PARTITION_H
#define CDP_PARTITION_H

#include "postgres.h"

/*
 * For the maintenance worker, outside a transaction and connected to a
 * database that is set up: makes missing months in a transaction of its own.
 * Raises when a lock was not to be had within a second.
 */
extern bool cdp_partition_maintain(void);

#endif							/* CDP_PARTITION_H */
