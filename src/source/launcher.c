/*
 * launcher.c: the one static process, which keeps all other workers running.
 *
 * It has no database: it can read pg_database and shared memory, and little
 * else.  What should run is written in slots (shmem.c); what runs, too.  Each
 * round compares the two and moves every slot that can move, so a lost hint, a
 * failed fork or a restart of the launcher itself costs time and nothing else.
 *
 * Databases, in the launcher's memory:
 *
 *   unknown --(maintenance worker started: the probe)--> set up | absent
 *   set up  --(the worker says absent and exits)-------> absent
 *   absent  --(hint: set-up ran, a setting changed)----> unknown
 *
 * A probe is the maintenance worker itself: it looks whether cdp is set up in
 * its database and wanted there, and exits at once if not.  They start one
 * after the other, so that a server of many databases needs one worker slot to
 * learn where it has work.  Templates and databases that refuse connections
 * are left alone.
 *
 * Slots:
 *
 *          allocate             start                    takes it
 *   FREE ------------> DOWN ------------> STARTING ----------------> UP
 *     ^                 | ^                  |                        |
 *     +--- not wanted --+ +-- refused, dead, +                        |
 *                         |   or deadline passed                      |
 *                         +------ process ended, for any reason ------+
 *
 * DOWN becomes STARTING when the slot is wanted, its database is not to be kept
 * free, its database's maintenance worker is up or fails, and next_start has
 * come; who failed waits 1 to 20 s.  UP is asked to
 * stop (stop_deadline, and its latch) when any of that no longer holds or its
 * source's configuration is another generation; a second later it gets SIGTERM.
 * A source worker that shows no sign of life for cdp.worker_timeout is abandoned:
 * another slot gets its place.  When it goes on it finds that it is asked to
 * stop; a batch that it still commits is fenced by the positions, like all.
 * That max_worker_processes is used up is logged when it begins and ends, and
 * tried again every 5 s.
 *
 * Starts only after recovery: on a standby the launcher does not exist, after
 * promotion it does.  Exit code 1 always: the postmaster starts it again.
 */
#include "cdp.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"

#define SCAN_MS 60000			/* look at pg_database at least so often */
#define START_MS 10000			/* a start that took longer has failed; nobody waits longer for a probe */
#define STOP_MS 1000			/* between asking and SIGTERM, and between two SIGTERMs */
#define REFUSED_MS 5000			/* max_worker_processes is used up: try again */

typedef struct Database
{
	Oid			oid;
	bool		absent;			/* probed: nothing to do there */
	bool		seen;			/* in the present scan */
} Database;

static List *databases = NIL;
static BackgroundWorkerHandle **handles;	/* by slot; NULL: started by an earlier launcher */
static int64 next_scan = 0;
static int64 timeout_since = 0; /* cdp.worker_timeout is what it is */
static bool refused;			/* a start, in this round */

/* ---------------------------------------------------------------- databases */

static Database *
find_database(Oid oid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);

		if (db->oid == oid)
			return db;
	}
	return NULL;
}

static void
note_database(Oid oid)
{
	Database   *db = find_database(oid);

	if (db == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		db = palloc0(sizeof(Database));
		db->oid = oid;
		databases = lappend(databases, db);
		MemoryContextSwitchTo(old);
	}
	db->seen = true;
}

static void
forget_unseen(void)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);

		if (!db->seen)
		{
			databases = foreach_delete_current(databases, lc);
			pfree(db);
		}
	}
}

static void
scan_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;

	foreach(lc, databases)
		((Database *) lfirst(lc))->seen = false;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		/* -2: an interrupted DROP DATABASE left it (15.4 and later) */
		if (form->datallowconn && !form->datistemplate && form->datconnlimit != -2)
			note_database(form->oid);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	forget_unseen();
	next_scan = cdp_ticks() + SCAN_MS;
}

/* Take the hints that others left for us. */
static void
take_hints(void)
{
	bool		forget_absent;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	forget_absent = cdp_workers->forget_absent;
	if (cdp_workers->rescan || forget_absent)
		next_scan = 0;
	cdp_workers->rescan = false;
	cdp_workers->forget_absent = false;
	LWLockRelease(cdp_workers->lock);
	if (forget_absent)
	{
		ListCell   *lc;

		foreach(lc, databases)
			((Database *) lfirst(lc))->absent = false;
	}
}

/* Lock held. */
static bool
probe_running(int64 now)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->kind != CDP_WORKER_MAINTENANCE || slot->condition != CDP_COND_STARTING)
			continue;
		if (slot->state == CDP_SLOT_STARTING || (slot->state == CDP_SLOT_UP && now < slot->start_deadline))
			return true;
	}
	return false;
}

/* Lock held.  A database that turned out to have nothing takes its sources' slots along. */
static void
settle_database(Database *db, CdpSlot *slot)
{
	if (slot->condition != CDP_COND_ABSENT || slot->state == CDP_SLOT_UP)
		return;
	db->absent = true;
	for (int i = 0; i < cdp_workers->nslots; i++)
		if (cdp_workers->slots[i].database == db->oid)
			cdp_workers->slots[i].wanted = false;
}

/* One maintenance worker for each database that is not known to have nothing. */
static void
want_maintenance(void)
{
	ListCell   *lc;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cdp_workers->nslots; i++)
		if (cdp_workers->slots[i].state != CDP_SLOT_FREE &&
			find_database(cdp_workers->slots[i].database) == NULL)
			cdp_workers->slots[i].wanted = false;
	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);
		CdpSlot    *slot = cdp_maintenance_slot(db->oid);

		if (slot)
			settle_database(db, slot);
		else if (!db->absent && !cdp_database_blocked(db->oid))
			(void) cdp_slot_allocate(CDP_WORKER_MAINTENANCE, db->oid);
	}
	LWLockRelease(cdp_workers->lock);
}

/* ---------------------------------------------------------------- slots */

static void
describe_worker(const CdpSlot *slot, BackgroundWorker *w)
{
	bool		source = slot->kind == CDP_WORKER_SOURCE;

	strlcpy(w->bgw_type, source ? "cdp source" : "cdp maintenance", BGW_MAXLEN);
	if (source)
		snprintf(w->bgw_name, BGW_MAXLEN, "cdp source %s (worker %d of %d)",
				 slot->name, slot->worker + 1, slot->nworkers);
	else
		snprintf(w->bgw_name, BGW_MAXLEN, "cdp maintenance (database %u)", slot->database);
	strlcpy(w->bgw_library_name, "cdp", BGW_MAXLEN);
	strlcpy(w->bgw_function_name, source ? "cdp_source_main" : "cdp_maintenance_main", BGW_MAXLEN);
}

/* The slot is STARTING and ours: no other process changes it before the worker takes it. */
static void
start_worker(int i)
{
	CdpSlot    *slot = &cdp_workers->slots[i];
	BackgroundWorker w = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = BGW_NEVER_RESTART,
		.bgw_main_arg = Int32GetDatum(i),
		.bgw_notify_pid = MyProcPid
	};

	describe_worker(slot, &w);
	memcpy(w.bgw_extra, &slot->token, sizeof(slot->token));
	if (handles[i])
		pfree(handles[i]);
	handles[i] = NULL;
	if (RegisterDynamicBackgroundWorker(&w, &handles[i]))
		return;
	refused = true;
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	slot->state = CDP_SLOT_DOWN;
	slot->next_start = cdp_ticks() + REFUSED_MS;
	LWLockRelease(cdp_workers->lock);
}

/* What step_slot() found to be done without the lock. */
typedef enum Action
{
	ACT_NONE,
	ACT_START,
	ACT_GIVE_UP
} Action;

/*
 * Lock held.  Source workers leave the first place to their database's
 * maintenance worker: it is the one who finds that cdp is gone, or cdp.workers off.  One that
 * failed holds nobody up.
 */
static bool
waits_for_maintenance(const CdpSlot *slot)
{
	CdpSlot    *m = slot->kind == CDP_WORKER_SOURCE ? cdp_maintenance_slot(slot->database) : NULL;

	return m && m->failures == 0 &&
		(m->state != CDP_SLOT_UP || m->condition == CDP_COND_STARTING || m->condition == CDP_COND_ABSENT);
}

/* Lock held. */
static Action
step_down(CdpSlot *slot, int64 now, int64 *next)
{
	if (!slot->wanted)
	{
		slot->state = CDP_SLOT_FREE;
		return ACT_NONE;
	}
	if (cdp_database_blocked(slot->database))
		return ACT_NONE;		/* its release is a hint */
	if (waits_for_maintenance(slot))
		return ACT_NONE;		/* so is the condition that it reports */
	if (slot->next_start > now)
	{
		*next = Min(*next, slot->next_start);
		return ACT_NONE;
	}
	if (slot->kind == CDP_WORKER_MAINTENANCE && probe_running(now))
	{
		*next = Min(*next, now + START_MS);
		return ACT_NONE;
	}
	slot->state = CDP_SLOT_STARTING;
	slot->condition = CDP_COND_STARTING;
	slot->stop_deadline = 0;
	slot->token++;
	slot->start_deadline = now + START_MS;
	*next = Min(*next, slot->start_deadline);
	return ACT_START;
}

/* Lock held.  dead: the postmaster says that the process ended before it took the slot. */
static Action
step_starting(CdpSlot *slot, bool dead, int64 now, int64 *next)
{
	if (!dead && slot->start_deadline > now)
	{
		*next = Min(*next, slot->start_deadline);
		return ACT_NONE;
	}
	slot->state = CDP_SLOT_DOWN;
	slot->token++;				/* a late start finds that it is too late */
	slot->failures++;
	slot->next_start = cdp_backoff_until(slot->failures);
	*next = Min(*next, slot->next_start);
	return ACT_GIVE_UP;
}

/* Lock held.  Is a process of the same place given up already? */
static bool
one_abandoned(const CdpSlot *slot)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		const CdpSlot *other = &cdp_workers->slots[i];

		if (other->state == CDP_SLOT_UP && other->abandoned && other->database == slot->database &&
			other->source_id == slot->source_id && other->worker == slot->worker)
			return true;
	}
	return false;
}

/*
 * Lock held.  A source worker that is silent, stopped by a signal or by a disk,
 * gives its place to another one: its maintenance worker allocates it.
 */
static void
step_silent(CdpSlot *slot, int64 now, int64 *next)
{
	int64		until = Max(slot->alive_at, timeout_since) + cdp_worker_timeout_ms;

	if (slot->kind != CDP_WORKER_SOURCE || slot->abandoned || one_abandoned(slot))
		return;
	if (until > now)
	{
		*next = Min(*next, until);
		return;
	}
	slot->abandoned = true;
	slot->wanted = false;
	ereport(WARNING,
			(errmsg("worker %d of source \"%s\" (process %d) is silent; another process takes its place",
					slot->worker + 1, slot->name, (int) slot->pid),
			 errdetail("It showed no sign of life for %lld s.", (long long) (now - slot->alive_at) / 1000)));
}

/* Lock held. */
static Action
step_up(CdpSlot *slot, int64 now, int64 *next)
{
	step_silent(slot, now, next);
	if (slot->wanted && !cdp_database_blocked(slot->database) &&
		(slot->kind == CDP_WORKER_MAINTENANCE || slot->generation == slot->running_generation))
	{
		if (slot->stop_deadline == 0)
			return ACT_NONE;
	}
	if (slot->stop_deadline == 0)
		SetLatch(slot->latch);
	else if (slot->stop_deadline <= now)
	{
		/*
		 * one that is only slow may end its batch: the next one might be as
		 * slow
		 */
		if (!slot->abandoned || cdp_database_blocked(slot->database))
			kill(slot->pid, SIGTERM);
	}
	else
	{
		*next = Min(*next, slot->stop_deadline);
		return ACT_NONE;
	}
	slot->stop_deadline = now + STOP_MS;
	*next = Min(*next, slot->stop_deadline);
	return ACT_NONE;
}

static bool
start_died(int i)
{
	pid_t		pid;

	return handles[i] && GetBackgroundWorkerPid(handles[i], &pid) == BGWH_STOPPED;
}

static void
step_slot(int i, int64 *next)
{
	CdpSlot    *slot = &cdp_workers->slots[i];
	int64		now = cdp_ticks();
	bool		dead = slot->state == CDP_SLOT_STARTING && start_died(i);
	Action		action = ACT_NONE;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	switch (slot->state)
	{
		case CDP_SLOT_FREE:
			break;
		case CDP_SLOT_DOWN:
			action = step_down(slot, now, next);
			break;
		case CDP_SLOT_STARTING:
			action = step_starting(slot, dead, now, next);
			break;
		case CDP_SLOT_UP:
			action = step_up(slot, now, next);
			break;
	}
	LWLockRelease(cdp_workers->lock);

	if (action == ACT_START)
		start_worker(i);
	else if (action == ACT_GIVE_UP && handles[i] && !dead)
		TerminateBackgroundWorker(handles[i]);
}

/* ---------------------------------------------------------------- the rounds */

static void
report_refused(void)
{
	bool		before = cdp_workers->no_worker_since != 0;

	if (refused == before)
		return;
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	cdp_workers->no_worker_since = refused ? GetCurrentTimestamp() : 0;
	LWLockRelease(cdp_workers->lock);
	if (refused)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free for a worker of cdp"),
				 errdetail("It is tried again every %d seconds.", REFUSED_MS / 1000),
				 errhint("Raise max_worker_processes, at present %d, and restart the server.",
						 max_worker_processes)));
	else
		ereport(LOG, (errmsg("background worker slots are free again for the workers of cdp")));
}

/* Lock not held.  Something that was refused still waits. */
static bool
any_waits_refused(void)
{
	for (int i = 0; i < cdp_workers->nslots; i++)
	{
		CdpSlot    *slot = &cdp_workers->slots[i];

		if (slot->state == CDP_SLOT_DOWN && slot->wanted && slot->failures == 0 &&
			slot->next_start > cdp_ticks())
			return true;
	}
	return false;
}

/* Who sleeps by a longer time-out is not silent by a shorter one at once. */
static void
note_timeout(void)
{
	static int	known = 0;

	if (known != cdp_worker_timeout_ms)
		timeout_since = cdp_ticks();
	known = cdp_worker_timeout_ms;
}

/* One round; returns when the next one is due. */
static int64
reconcile(void)
{
	int64		next;

	note_timeout();
	take_hints();
	if (next_scan <= cdp_ticks())
		scan_databases();
	next = next_scan;
	want_maintenance();
	refused = cdp_workers->no_worker_since != 0 && any_waits_refused();
	for (int i = 0; i < cdp_workers->nslots; i++)
		step_slot(i, &next);
	report_refused();
	return next;
}

static void
launcher_leave(int code, Datum arg)
{
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	if (cdp_workers->launcher_pid == MyProcPid)
	{
		cdp_workers->launcher_pid = 0;
		cdp_workers->launcher_latch = NULL;
	}
	LWLockRelease(cdp_workers->lock);
}

static void
launcher_enter(void)
{
	before_shmem_exit(launcher_leave, (Datum) 0);
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	cdp_workers->launcher_pid = MyProcPid;
	cdp_workers->launcher_latch = MyLatch;
	LWLockRelease(cdp_workers->lock);
}

static void
wait_until(int64 when)
{
	long		ms = (long) Max(when - cdp_ticks(), 0);

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, cdp_wait_event("CdpLauncher"));
	ResetLatch(MyLatch);
}

void
cdp_launcher_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	cdp_force_settings();
	handles = MemoryContextAllocZero(TopMemoryContext,
									 cdp_workers->nslots * sizeof(BackgroundWorkerHandle *));
	launcher_enter();
	for (;;)
	{
		int64		next;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			cdp_wake_launcher(true, true);	/* cdp.workers may have been switched on */
		}
		next = reconcile();
		wait_until(next);
	}
}
