/*
 * shmem.c: the slots of workers in shared memory.
 *
 * A fixed number of slots (cdp.max_workers), one a worker that should run or
 * runs, of any database.  One LWLock guards everything; it is held for a few
 * instructions, and nothing that can throw happens under it.  Nothing here
 * survives a crash or a restart of the server, and nothing needs to: which
 * workers should run is read from the catalog again, and positions live in
 * cdp_data.source_offset.
 *
 * Who writes what: maintenance workers (and for databases the launcher) decide
 * what is wanted, the launcher moves a slot from DOWN to STARTING and back, the
 * worker itself from STARTING to UP, and, in its exit callback, from UP to
 * DOWN.  The callback is registered before the process joins the array of
 * backends, so it runs after the process left it: who sees a slot without
 * process knows that DROP DATABASE does not see it either.
 */
#include "cdp.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"

#define SHMEM_NAME "cdp workers"
#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MAX_MS 16000	/* so that who was down works within 30 s, maintenance worker before it included */
#define MS_PER_S 1000
#define LAUNCHER_RESTART_S 5

CdpWorkers *cdp_workers = NULL;
int			cdp_max_workers = 32;
int			cdp_worker_timeout_ms;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

/* ---------------------------------------------------------------- set up */

static Size
workers_size(void)
{
	return add_size(offsetof(CdpWorkers, slots), mul_size(cdp_max_workers, sizeof(CdpSlot)));
}

static void
shmem_request(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	RequestAddinShmemSpace(workers_size());
	RequestNamedLWLockTranche(SHMEM_NAME, 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cdp_workers = ShmemInitStruct(SHMEM_NAME, workers_size(), &found);
	if (!found)
	{
		memset(cdp_workers, 0, workers_size());
		cdp_workers->lock = &GetNamedLWLockTranche(SHMEM_NAME)->lock;
		cdp_workers->nslots = cdp_max_workers;
		ConditionVariableInit(&cdp_workers->progress);
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
register_launcher(void)
{
	BackgroundWorker w = {
		.bgw_name = "cdp launcher",
		.bgw_type = "cdp launcher",
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = LAUNCHER_RESTART_S,
		.bgw_library_name = "cdp",
		.bgw_function_name = "cdp_launcher_main"
	};

	RegisterBackgroundWorker(&w);
}

void
cdp_workers_init(void)
{
	DefineCustomIntVariable("cdp.max_workers",
							"Workers of cdp in all databases together.",
							"One for each database and one or more for each Kafka source; max_worker_processes must leave room for them.",
							&cdp_max_workers, 32, 1, 1024,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.worker_timeout",
							"A source worker that shows no sign of life for so long is replaced by another process.",
							NULL, &cdp_worker_timeout_ms, 60 * MS_PER_S, MS_PER_S, 24 * 3600 * MS_PER_S,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;

	/* pg_upgrade runs servers in which nothing may change by itself */
	if (IsBinaryUpgrade)
		return;
	cdp_ddl_hook_install();
	register_launcher();
}

/* ---------------------------------------------------------------- small things on slots */

/* Lock held. */
CdpSlot *
cdp_maintenance_slot(Oid database)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->state != CDP_SLOT_FREE && slot->kind == CDP_WORKER_MAINTENANCE &&
			slot->database == database)
			return slot;
	}
	return NULL;
}

/* Lock held. */
bool
cdp_database_blocked(Oid database)
{
	for (int i = 0; i < CDP_BLOCKS; i++)
		if (OidIsValid(database) && cdp_workers->blocked[i] == database)
			return true;
	return false;
}

/* Lock held.  Finds a free slot and makes it one that is DOWN; NULL: none is free. */
CdpSlot *
cdp_slot_allocate(CdpWorkerKind kind, Oid database)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];
		uint32		token = slot->token;

		if (slot->state != CDP_SLOT_FREE)
			continue;
		memset(slot, 0, sizeof(CdpSlot));
		slot->token = token;	/* a late start of its last owner must not fit */
		slot->kind = kind;
		slot->database = database;
		slot->wanted = true;
		slot->state = CDP_SLOT_DOWN;
		cdp_workers->no_slot_since = 0;
		return slot;
	}
	if (cdp_workers->no_slot_since == 0)
		cdp_workers->no_slot_since = GetCurrentTimestamp();
	return NULL;
}

/* 1 s, doubled with each failure up to 16 s, and up to a quarter more so that many do not come at once. */
int64
cdp_backoff_until(int failures)
{
	int			ms = failures <= 0 ? 0 : BACKOFF_FIRST_MS << Min(failures - 1, 5);

	ms = Min(ms, BACKOFF_MAX_MS);
	ms += ms / 4 * pg_prng_double(&pg_global_prng_state);
	return cdp_ticks() + ms;
}

/* Make the launcher look again; what exactly, is the hint. */
void
cdp_wake_launcher(bool rescan, bool forget_absent)
{
	if (cdp_workers == NULL)
		return;
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	cdp_workers->rescan |= rescan;
	cdp_workers->forget_absent |= forget_absent;
	if (cdp_workers->launcher_latch)
		SetLatch(cdp_workers->launcher_latch);
	LWLockRelease(cdp_workers->lock);
}
