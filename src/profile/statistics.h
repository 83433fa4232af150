/*
 * statistics.h: planner statistics that follow bulk loads.
 */
#ifndef CDP_STATISTICS_H
#define CDP_STATISTICS_H

#include "postgres.h"

/* for the maintenance worker, outside a transaction; false: try again later */
extern bool cdp_statistics_maintain(void);

#endif							/* CDP_STATISTICS_H */
