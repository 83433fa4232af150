/*
 * launcher.h: what runs, where it is noted, and how it is woken.
 *
 * The first part is for every room, the second for this folder only.
 */
#ifndef CDP_LAUNCHER_H
#define CDP_LAUNCHER_H

#include "cdp.h"

/* ---------------------------------------------------------------- for every room */

/* called once by _PG_init while the library is preloaded; registers the launcher */
extern void cdp_workers_init(void);

/*
 * Something that workers read has changed in this database (a source, set-up,
 * a key).  Nothing happens before the transaction commits; the catalog is the
 * truth and this only a hint.
 */
extern void cdp_launcher_wake(void);

/* ---------------------------------------------------------------- for src/source */

#include "postmaster/bgworker.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "source.h"

#define CDP_SLOT_PARTITIONS 256 /* of one worker; of more only the position is known */
#define CDP_SLOT_TOPICS 16		/* of a source, whose trouble is shown apart; of more it is everybody's */
#define CDP_SLOT_ERROR 256		/* bytes of an error text that is shown */
#define CDP_BLOCKS 8			/* databases that are kept free of workers at a time */

typedef enum CdpWorkerKind
{
	CDP_WORKER_MAINTENANCE,
	CDP_WORKER_SOURCE
} CdpWorkerKind;

/* the life of a slot; the transitions are drawn in launcher.c */
typedef enum CdpSlotState
{
	CDP_SLOT_FREE,
	CDP_SLOT_DOWN,				/* allocated, no process: until next_start */
	CDP_SLOT_STARTING,			/* asked for: until start_deadline */
	CDP_SLOT_UP					/* a process has it */
} CdpSlotState;

/* what a worker says about itself */
typedef enum CdpCondition
{
	CDP_COND_STARTING,
	CDP_COND_WAITING,			/* for a broker, a topic, or a lock */
	CDP_COND_RUNNING,
	CDP_COND_ABSENT,			/* maintenance: cdp is not set up here, or cdp.workers is off */
	CDP_COND_REFUSED,			/* maintenance: the key or the version is not the right one */
	CDP_COND_DETACHED			/* maintenance: the data was attached to another server or database */
} CdpCondition;

typedef enum CdpPartitionState
{
	CDP_PART_NEW,				/* its bounds are not known yet */
	CDP_PART_OK,
	CDP_PART_DIVERGED
} CdpPartitionState;

typedef struct CdpPartitionStat
{
	int16		topic;			/* index in source.topics */
	bool		ready;			/* it is being read */
	int32		partition;
	int64		end;			/* -1: not known yet */
	TimestampTz end_at;
	float4		rate;			/* records per second */
} CdpPartitionStat;

typedef struct CdpTrouble
{
	TimestampTz at;				/* 0: none */
	char		text[CDP_SLOT_ERROR];
} CdpTrouble;

typedef struct CdpSlot
{
	CdpSlotState state;
	CdpWorkerKind kind;
	Oid			database;
	int32		source_id;
	int32		workspace_id;
	int32		worker;			/* i of n */
	int32		nworkers;
	char		name[NAMEDATALEN];	/* of the source */

	/* what should be */
	bool		wanted;
	int64		generation;		/* of the source's configuration */
	uint32		token;			/* of the last start */

	/* what is */
	int64		running_generation;
	pid_t		pid;
	Latch	   *latch;
	CdpCondition condition;
	TimestampTz started_at;
	int64		next_start;		/* in cdp_ticks(), as the next two */
	int64		start_deadline;
	int64		stop_deadline;	/* 0: it was not asked to stop */
	int			failures;		/* in a row */
	int64		alive_at;		/* in cdp_ticks(); written by its process without the lock */
	bool		abandoned;		/* its process is silent; another slot has its place */

	/* what happened */
	int64		nbatches;
	int64		nmessages;
	TimestampTz last_commit_at;
	TimestampTz last_error_at;
	char		last_sqlstate[6];
	char		last_error[CDP_SLOT_ERROR]; /* the newest of the next two */
	CdpTrouble	trouble;		/* with everything */
	CdpTrouble	topic_trouble[CDP_SLOT_TOPICS]; /* with one topic of the source */
	uint32		compacted;		/* topics that are, a bit for each */

	bool		look;			/* something that it reads was changed by hand */

	/*
	 * wait_for_source: the last request, and the last one whose ends were
	 * passed
	 */
	uint64		request;
	uint64		reached;

	int			nparts;			/* those of parts that are filled */
	int			unlisted;		/* partitions that found no place in parts */
	CdpPartitionStat parts[CDP_SLOT_PARTITIONS];
} CdpSlot;

typedef struct CdpWorkers
{
	LWLock	   *lock;			/* all that follows but the condition variable */
	ConditionVariable progress; /* a worker reached a request, or ended */

	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	bool		rescan;			/* look at pg_database again */
	bool		forget_absent;	/* and probe the databases again in which there was nothing */
	Oid			blocked[CDP_BLOCKS];	/* databases that must be free of workers */
	TimestampTz no_worker_since;	/* max_worker_processes is used up; 0: it is not */
	TimestampTz no_slot_since;	/* cdp.max_workers is used up */

	uint64		last_request;
	int			nslots;
	CdpSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} CdpWorkers;

extern CdpWorkers *cdp_workers; /* NULL unless preloaded */
extern int	cdp_max_workers;
extern int	cdp_worker_timeout_ms;

/* shmem.c */
extern void cdp_workers_shmem_init(void);
extern void cdp_wake_launcher(bool rescan, bool forget_absent);
extern CdpSlot *cdp_maintenance_slot(Oid database); /* lock held; NULL: none */
extern bool cdp_database_blocked(Oid database); /* lock held */
extern CdpSlot *cdp_slot_allocate(CdpWorkerKind kind, Oid database);	/* lock held */
extern int64 cdp_backoff_until(int failures);	/* in cdp_ticks() */

/* slot.c: the process side of a slot */
extern CdpSlot *cdp_slot_attach(Datum arg); /* takes the slot, connects; exits if it is stale */
extern bool cdp_slot_stop_requested(const CdpSlot *slot);
extern void cdp_slot_condition(CdpSlot *slot, CdpCondition condition);
extern void cdp_slot_error(CdpSlot *slot, const char *sqlstate, const char *text);
extern void cdp_slot_topic_error(CdpSlot *slot, int topic, const char *sqlstate, const char *text);
extern void cdp_slot_compacted(CdpSlot *slot, int topic, bool compacted);
extern void cdp_slot_healthy(CdpSlot *slot);
pg_noreturn extern void cdp_slot_end(void);
extern void cdp_force_settings(void);	/* also of the launcher, which has no slot */
extern const char *cdp_error_text(const ErrorData *error);
extern bool cdp_error_passes(const ErrorData *error);
pg_noreturn extern void cdp_slot_fail(CdpSlot *slot, ErrorData *error);

/* ddl.c */
extern void cdp_ddl_hook_install(void);

/* entry points of the processes */
extern PGDLLEXPORT void cdp_launcher_main(Datum arg);
extern PGDLLEXPORT void cdp_maintenance_main(Datum arg);
extern PGDLLEXPORT void cdp_source_main(Datum arg);

/*
 * offsets.c: positions in the table.  Each runs in a transaction of the caller
 * that has a snapshot, and acts as cdp_owner.
 */
typedef struct CdpPosition
{
	bool		found;
	bool		diverged;
	int64		position;
	int64		last_offset;	/* of the last record that was read; -1: not known */
	TimestampTz last_time;		/* may be CDP_NO_TIME */
	int64		last_hash;
} CdpPosition;

extern CdpPosition cdp_position_read(int32 source_id, const char *topic, int32 partition);
extern void cdp_position_create(int32 source_id, const char *topic, int32 partition, int64 position);
extern int32 cdp_topic_rows_end(int32 source_id, const char *topic);
extern bool cdp_position_skip_gap(int32 source_id, const char *topic, int32 partition,
								  int64 from_offset, int64 to_offset);
extern bool cdp_position_forget(int32 source_id, const char *topic, int32 partition, int64 position);
extern void cdp_position_set_state(int32 source_id, const char *topic, int32 partition,
								   int64 position, const char *state);
extern int64 cdp_parked_bytes(int32 source_id);
extern int64 cdp_record_hash(int32 workspace_id, const CdpMessage *msg);

/* a number that is another one when the configuration of a source is; over a row of cdp_data.source */
#define CDP_GENERATION_SQL \
	"pg_catalog.hashtextextended(pg_catalog.jsonb_build_array(name, brokers, topics, format, options, workers)::text, 0)"

/* one statement through SPI as cdp_owner, which sees what is committed now; leaves SPI connected */
extern uint64 cdp_owner_query(const char *sql, int nargs, Oid *types, Datum *values,
							  const char *nulls);

/* the same for a SELECT that sees the active snapshot */
extern uint64 cdp_owner_read(const char *sql, int nargs, Oid *types, Datum *values);

#endif							/* CDP_LAUNCHER_H */
