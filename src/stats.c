/*
 * stats.c: what the stages of the engine cost.
 *
 * One array of counters in shared memory for the whole server, made at start
 * and added to with atomics by whoever runs a batch: no lock, nothing to clean
 * up when a backend dies, and a reader may see a call whose time is not yet
 * added.  Lost with the server, by design: they are for looking, not for
 * accounting.
 */
#include "cdp.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "stats.h"

typedef struct StageCounters
{
	pg_atomic_uint64 calls;
	pg_atomic_uint64 rows;
	pg_atomic_uint64 total_ns;
	pg_atomic_uint64 max_ns;
} StageCounters;

static const char *const stage_names[CDP_STAGE_COUNT] = {
	"decode", "admit", "resolve", "store", "fold", "apply", "commit"
};

static StageCounters *stages = NULL;	/* NULL: not preloaded */
static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

static void
request_memory(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(sizeof(StageCounters) * CDP_STAGE_COUNT);
}

static void
clear_counters(StageCounters *c)
{
	pg_atomic_write_u64(&c->calls, 0);
	pg_atomic_write_u64(&c->rows, 0);
	pg_atomic_write_u64(&c->total_ns, 0);
	pg_atomic_write_u64(&c->max_ns, 0);
}

static void
attach_memory(void)
{
	bool		found;

	if (prev_startup_hook)
		prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	stages = ShmemInitStruct("cdp stages", sizeof(StageCounters) * CDP_STAGE_COUNT, &found);
	for (int i = 0; !found && i < CDP_STAGE_COUNT; i++)
	{
		pg_atomic_init_u64(&stages[i].calls, 0);
		pg_atomic_init_u64(&stages[i].rows, 0);
		pg_atomic_init_u64(&stages[i].total_ns, 0);
		pg_atomic_init_u64(&stages[i].max_ns, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
cdp_stats_init(void)
{
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_memory;
}

void
cdp_stage_add(CdpStage stage, uint64 rows, uint64 nanoseconds)
{
	StageCounters *c;
	uint64		max;

	if (stages == NULL)
		return;
	c = &stages[stage];
	pg_atomic_fetch_add_u64(&c->calls, 1);
	pg_atomic_fetch_add_u64(&c->rows, rows);
	pg_atomic_fetch_add_u64(&c->total_ns, nanoseconds);
	max = pg_atomic_read_u64(&c->max_ns);
	while (nanoseconds > max && !pg_atomic_compare_exchange_u64(&c->max_ns, &max, nanoseconds))
		 /* max was set to the newer value */ ;
}

PG_FUNCTION_INFO_V1(cdp_sql_stage_stats);

/* cdp.read_stage_stats(): one row a stage; none when not preloaded */
Datum
cdp_sql_stage_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; stages != NULL && i < CDP_STAGE_COUNT; i++)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = CStringGetTextDatum(stage_names[i]);
		values[1] = Int64GetDatum(pg_atomic_read_u64(&stages[i].calls));
		values[2] = Int64GetDatum(pg_atomic_read_u64(&stages[i].rows));
		values[3] = Int64GetDatum(pg_atomic_read_u64(&stages[i].total_ns));
		values[4] = Int64GetDatum(pg_atomic_read_u64(&stages[i].max_ns));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(cdp_sql_reset_stage_stats);

Datum
cdp_sql_reset_stage_stats(PG_FUNCTION_ARGS)
{
	for (int i = 0; stages != NULL && i < CDP_STAGE_COUNT; i++)
		clear_counters(&stages[i]);
	PG_RETURN_VOID();
}
