/*
 * clock.c: the floor under the instants of batches (R22), and whether the clock was set.
 *
 * The floor is the greatest instant that a batch of this server was stamped
 * with: an atomic in shared memory, raised by the engine, and kept in
 * cdp_data.instance by the maintenance worker, at most once a second and only
 * when batches ran.  Each backend takes the kept one into account before its
 * first batch, so that a restart, a promotion or a restore does not go back
 * behind it by more than that second.  When the clock is set back, batches are
 * stamped with the floor until the clock has caught up.
 *
 * The postmaster notes at its start by how much the wall clock is ahead of a
 * clock that nobody sets; its children inherit that.  A greater difference later
 * means that the clock was set forward since, which is no good clock to delete
 * by.  Imprecise: a clock that was wrong before the server started, and a
 * machine whose other clock stood still (a paused virtual machine), are taken
 * for right and for set forward.
 */
#include "postgres.h"

#include <time.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "spi.h"

#define WARN_BEHIND_US USECS_PER_SEC	/* a clock this far below the floor was set back */

#ifdef CLOCK_BOOTTIME
#define UNSET_CLOCK CLOCK_BOOTTIME	/* goes on while the machine sleeps */
#else
#define UNSET_CLOCK CLOCK_MONOTONIC
#endif

static pg_atomic_uint64 *floor_instant = NULL;	/* NULL: not preloaded */
static int64 lead_at_start = 0; /* of the wall clock, when the postmaster started */
static shmem_request_hook_type prev_request_hook = NULL;
static shmem_startup_hook_type prev_startup_hook = NULL;

static void
request_memory(void)
{
	if (prev_request_hook)
		prev_request_hook();
	RequestAddinShmemSpace(sizeof(pg_atomic_uint64));
}

static void
attach_memory(void)
{
	bool		found;

	if (prev_startup_hook)
		prev_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	floor_instant = ShmemInitStruct("cdp clock floor", sizeof(pg_atomic_uint64), &found);
	if (!found)
		pg_atomic_init_u64(floor_instant, 0);
	LWLockRelease(AddinShmemInitLock);
}

/* by how much the wall clock is ahead of the one that nobody sets, us */
static int64
clock_lead(void)
{
	struct timespec unset;

	if (clock_gettime(UNSET_CLOCK, &unset) != 0)
		elog(ERROR, "cdp: clock_gettime failed: %m");
	return GetCurrentTimestamp() - ((int64) unset.tv_sec * USECS_PER_SEC + unset.tv_nsec / 1000);
}

void
cdp_clock_init(void)
{
	lead_at_start = clock_lead();
	prev_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_memory;
}

void
cdp_clock_raise(TimestampTz instant)
{
	uint64		seen;

	if (floor_instant == NULL)
		return;
	seen = pg_atomic_read_u64(floor_instant);
	while ((TimestampTz) seen < instant && !pg_atomic_compare_exchange_u64(floor_instant, &seen, (uint64) instant))
		 /* seen was set to the newer value */ ;
}

/* 2000-01-01, which no batch was stamped with, while there is none */
static TimestampTz
current_floor(void)
{
	return floor_instant ? (TimestampTz) pg_atomic_read_u64(floor_instant) : 0;
}

int64
cdp_clock_set_forward(void)
{
	/* the superuser's override is meant */
	return cdp_clock_override[0] ? 0 : Max(clock_lead() - lead_at_start, 0);
}

int64
cdp_clock_behind(void)
{
	return Max(current_floor() - cdp_clock(), 0);
}

int64
cdp_ticks(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MILLISEC(now);
}

/* the floor that was kept, by this server or the one that the data comes from */
static void
raise_to_kept(const CdpRow *row, void *arg)
{
	bool		isnull;
	TimestampTz kept = DatumGetTimestampTz(cdp_row_get(row, "clock_floor", &isnull));

	if (!TIMESTAMP_NOT_FINITE(kept))
		cdp_clock_raise(kept);
}

TimestampTz
cdp_clock_above_floor(void)
{
	static bool warned = false;
	static bool kept_known = false;
	TimestampTz now = cdp_clock();
	TimestampTz low;
	bool		behind;

	if (!kept_known)
		cdp_scan_table(CDP_T_INSTANCE, raise_to_kept, NULL);
	kept_known = true;
	low = current_floor();
	behind = low > now + WARN_BEHIND_US;
	if (behind && !warned)
		ereport(WARNING,
				(errmsg("the clock is behind the instant of the last batch"),
				 errdetail("Batches are stamped with that instant until the clock has caught up.")));
	warned = behind;
	return Max(now, low);
}

/* ---------------------------------------------------------------- keeping it */

static CdpSpi keep_plan = {
	"UPDATE cdp_data.instance SET clock_floor = $1 WHERE clock_floor < $1",
	1, {TIMESTAMPTZOID}
};

bool
cdp_clock_maintain(void)
{
	static TimestampTz written = 0;
	TimestampTz low = current_floor();
	Datum		arg = TimestampTzGetDatum(low);
	CdpUserContext user;

	if (low <= written)
		return true;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	cdp_become_owner(&user);
	cdp_spi_exec(&keep_plan, &arg, NULL);
	cdp_become_caller(&user);
	PopActiveSnapshot();
	CommitTransactionCommand();
	written = low;
	return true;
}
