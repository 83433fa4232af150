/*
 * clock.h: instants of batches never run backwards, and deadlines do not follow the wall clock.
 */
#ifndef CDP_INSTANT_H
#define CDP_INSTANT_H

#include "cdp.h"

/* from _PG_init, when preloading */
extern void cdp_clock_init(void);

/* the clock, or the floor where the clock was set back */
extern TimestampTz cdp_clock_above_floor(void);

/* by how much the clock was set forward since the server started, us */
extern int64 cdp_clock_set_forward(void);

/* who deletes by the clock refuses when it was set forward by more than this */
#define CDP_CLOCK_TRUST_US USECS_PER_HOUR

/* by how much the clock is behind the instant of the last batch, us */
extern int64 cdp_clock_behind(void);

/* an instant was used: no later batch comes before it */
extern void cdp_clock_raise(TimestampTz instant);

/* for the maintenance worker, outside a transaction: keeps the floor in cdp_data.instance */
extern bool cdp_clock_maintain(void);

/*
 * Milliseconds of a clock that nobody sets, the same in all processes: for
 * deadlines and pauses, which a step of the wall clock must not stretch.
 */
extern int64 cdp_ticks(void);

#endif							/* CDP_INSTANT_H */
