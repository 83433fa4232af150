/*
 * stats.h: time per engine stage, in shared memory (view cdp.stage_stats).
 */
#ifndef CDP_STATS_H
#define CDP_STATS_H

#include "postgres.h"

#include "portability/instr_time.h"

typedef enum CdpStage
{
	CDP_STAGE_DECODE,
	CDP_STAGE_ADMIT,
	CDP_STAGE_RESOLVE,
	CDP_STAGE_STORE,
	CDP_STAGE_FOLD,
	CDP_STAGE_APPLY,			/* the whole batch */
	CDP_STAGE_COMMIT,
	CDP_STAGE_COUNT
} CdpStage;

/* from _PG_init, when preloading */
extern void cdp_stats_init(void);

/* add one call; nothing when the library was not preloaded */
extern void cdp_stage_add(CdpStage stage, uint64 rows, uint64 nanoseconds);

static inline instr_time
cdp_stage_start(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return now;
}

static inline void
cdp_stage_stop(CdpStage stage, instr_time start, uint64 rows)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	cdp_stage_add(stage, rows, (uint64) (INSTR_TIME_GET_DOUBLE(now) * 1e9));
}

#endif							/* CDP_STATS_H */
