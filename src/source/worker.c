/*
 * worker.c: one source worker: worker i of n of one source.
 *
 *   starting --(no such source)-------------------------------> exits 0
 *   starting --(topics there, bounds known, assigned)--> running
 *   running  <--(broker or topic away, lock not had)---> waiting
 *   any      --(asked to stop: other configuration, paused)---> exits 0
 *   any      --(error)----------------------------------------> exits 1
 *
 * The loop: poll what is in the transport's queue, up to cdp.batch_rows and
 * cdp.batch_bytes; apply it in one transaction that also advances the
 * positions; report.  No transaction is open while it waits, and it waits for
 * the latch, the transport's pipe and the postmaster at once; one that is busy
 * asks for the postmaster before each transaction.  What arrives
 * after a quiet moment is committed at once; after that, batches start at least
 * PACE_MS apart, so a steady flow makes at most a hundred commits a second and
 * a fast one makes big batches.
 *
 * Exactly once.  Positions are written by the engine, in the transaction of the
 * data, on condition that they are what we think (fencing).  If they are not
 * (another worker, a DBA), or a lock was not had in time, or a deadlock chose
 * us, the transaction is over, the positions are read again, and the partitions
 * are assigned again from there; a lock that was not had while we looked around
 * is asked for again in the same way.  Any other error ends the process; the
 * launcher starts it again after a back-off.  synchronous_commit is off: a crash
 * takes the last data and their positions together.
 *
 * SIGTERM is die: it ends a wait at once, and a batch at its next check.
 *
 * Memory: w.cxt for the life of the process, batch_cxt reset after each round.
 * glibc raises the size from which it maps a block by itself, up to 32 MB, each
 * time such a block is freed; after some big messages these then lie among
 * others in the heap, which never gets shorter.  It is fixed instead; what a
 * batch allocates is in smaller blocks, and so much of the heap is kept when
 * they are freed that the next batch finds its memory there: the kernel's part
 * in giving it anew is one twentieth of the time.
 * The consumer is opened after the fork and closed in before_shmem_exit
 * (consumer.c); it owns the bodies of a batch until release().
 */
#include "cdp.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "identity/recent.h"
#include "clock.h"
#include "stats.h"
#include "worker.h"

#define TELL_MS 10000			/* who waits for so long says so in the log */
#define PACE_MS 10				/* between the starts of two batches */
#define RETRY_FIRST_MS 50		/* after a lost lock; doubled up to */
#define RETRY_MAX_MS 1000
#define RATE_MS 1000			/* a rate is counted over at least this */
#define AHEAD_MS 600000			/* a record that is later than now by this says nothing about time */
#define CONTEXT_PARTS 8			/* partitions that an error context names */
#define MAPPED_BYTES (512 * 1024)	/* blocks of memory from this size are given back when they are freed */
#define BLOCK_BYTES (256 * 1024)	/* of a batch */
#define KEPT_BYTES (64 * 1024 * 1024)	/* at the end of the heap, for the next batch */

static Worker w;
static MemoryContext batch_cxt;
static CdpMessage *messages;
static int	max_messages = 0;
static int64 batch_started = 0; /* in cdp_ticks() */

typedef enum Doing
{
	LOOKING,					/* at topics and positions */
	APPLYING					/* a batch */
} Doing;

static Doing doing;
static int	retries[2];			/* in a row, of each */

/* ---------------------------------------------------------------- transactions */

/* Else a busy one would go on to the end of the topic, and no server can start beside it. */
static void
end_with_postmaster(void)
{
	if (!PostmasterIsAlive())
		proc_exit(1);
}

void
cdp_worker_begin(void)
{
	end_with_postmaster();
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
cdp_worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(batch_cxt);
}

/* ---------------------------------------------------------------- configuration */

/* Strings of a text array, kept. */
static const char **
keep_array(Datum array, int *n)
{
	Datum	   *values;
	const char **kept;
	MemoryContext old;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, n);
	old = MemoryContextSwitchTo(w.cxt);
	kept = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		kept[i] = TextDatumGetCString(values[i]);
	MemoryContextSwitchTo(old);
	return kept;
}

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static const char *
keep_text(int number)
{
	bool		isnull;

	return MemoryContextStrdup(w.cxt, TextDatumGetCString(column(number, &isnull)));
}

/* SPI is connected and has the source's row. */
static void
keep_row(void)
{
	bool		isnull;
	const char **topics;
	int			n;

	w.workspace_id = DatumGetInt32(column(1, &isnull));
	w.name = keep_text(2);
	w.brokers = keep_text(3);
	topics = keep_array(column(4, &isnull), &w.ntopics);
	w.topics = MemoryContextAllocZero(w.cxt, Max(w.ntopics, 1) * sizeof(Topic));
	for (int t = 0; t < w.ntopics; t++)
	{
		w.topics[t].name = topics[t];
		w.topics[t].len = strlen(topics[t]);
	}
	w.from_latest = DatumGetBool(column(5, &isnull));
	w.option_names = keep_array(column(6, &isnull), &w.noptions);
	w.option_values = keep_array(column(7, &isnull), &n);
	w.nworkers = DatumGetInt32(column(8, &isnull));
	w.secret = keep_text(9);
}

/* False: there is no such source, or it is at rest. */
static bool
load_source(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(w.source_id)};
	bool		found;

	cdp_worker_begin();
	cdp_version_require();
	cdp_key_require();
	SPI_connect();
	found = cdp_owner_query("SELECT workspace_id, name, brokers, topics,"
							" coalesce(options OPERATOR(pg_catalog.->>) 'start', '') OPERATOR(pg_catalog.=) 'latest',"
							" ARRAY(SELECT key FROM pg_catalog.jsonb_each_text(options OPERATOR(pg_catalog.->) 'client') ORDER BY key),"
							" ARRAY(SELECT value FROM pg_catalog.jsonb_each_text(options OPERATOR(pg_catalog.->) 'client') ORDER BY key),"
							" workers,"
							" coalesce(options OPERATOR(pg_catalog.->>) 'secret', name)"
							" FROM cdp_data.source WHERE source_id OPERATOR(pg_catalog.=) $1"
							" AND brokers IS NOT NULL AND NOT paused",
							lengthof(types), types, values, NULL) == 1;
	if (found)
	{
		keep_row();
		w.format = cdp_source_by_id(w.source_id)->format;
	}
	SPI_finish();
	cdp_worker_commit();
	return found;
}

/* ---------------------------------------------------------------- the transport */

/* What the library wants us to know; one that it cannot get over ends the process. */
static void
take_errors(void)
{
	CdpPartition id;
	bool		fatal,
				out_of_range;
	const char *text;

	while (w.transport->next_error(w.consumer, &fatal, &id, &out_of_range, &text))
	{
		Part	   *part = cdp_parts_find(&w, id.topic, id.partition);

		if (fatal)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the Kafka consumer failed: %s", text)));
		if (part)
			cdp_parts_recheck(&w, part);
		cdp_note(&w, part ? part->topic : -1, text);
	}
}

/* ---------------------------------------------------------------- a batch */

/* The known record, read once more: is it the same one?  False: msg is a later one. */
static bool
verify(Part *part, const CdpMessage *msg)
{
	part->verify = false;
	if (msg->offset != part->known.offset)
	{
		part->new_state = "unverified"; /* compacted */
		return false;
	}
	if (cdp_record_hash(w.workspace_id, msg) == part->known.hash)
	{
		part->new_state = "ok";
		return true;
	}
	part->state = CDP_PART_DIVERGED;
	part->new_state = "diverged";
	w.assign = true;
	cdp_part_report_diverged(&w, part, "A record that was read is another one now.");
	return true;
}

/* What is to be known of a message that is handed to the engine. */
static void
note_message(Part *part, CdpMessage *msg, TimestampTz ahead)
{
	part->last = msg;
	part->counted++;
	part->ntombstones += cdp_is_tombstone(w.format, msg);
	if (msg->record_time < ahead && (part->latest == CDP_NO_TIME || msg->record_time > part->latest))
		part->latest = msg->record_time;
}

/* Keep what is ours and new; returns how many messages are left, in front. */
static int
sort_out(int n)
{
	int			kept = 0;
	Part	   *part = NULL;
	TimestampTz ahead = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AHEAD_MS);

	for (int i = 0; i < n; i++)
	{
		CdpMessage *msg = &messages[i];

		if (part == NULL || part->partition != msg->partition ||
			!cdp_str_eq(cdp_part_id(&w, part).topic, msg->topic))
			part = cdp_parts_find(&w, msg->topic, msg->partition);
		if (part == NULL || part->state != CDP_PART_OK)
			continue;
		if (part->verify && verify(part, msg))
			continue;
		if (msg->offset < part->position)
			continue;
		messages[kept] = *msg;
		note_message(part, &messages[kept++], ahead);
	}
	return kept;
}

/* A partition whose position moved without a message: only control records were there. */
static bool
any_moved(void)
{
	for (int i = 0; i < w.nparts; i++)
	{
		Part	   *part = w.parts[i];
		CdpPartition id = cdp_part_id(&w, part);

		if (part->state == CDP_PART_OK && w.transport->position(w.consumer, &id) > part->position)
			return true;
		if (part->state == CDP_PART_OK && part->verify &&
			w.transport->position(w.consumer, &id) >= part->position)
			return true;
	}
	return false;
}

/* What is to be advanced, in the order of topic and partition. */
static int
make_advances(CdpAdvance *advances)
{
	int			n = 0;

	for (int i = 0; i < w.nparts; i++)
	{
		Part	   *part = w.parts[i];
		CdpPartition id = cdp_part_id(&w, part);
		CdpAdvance *a = &advances[n];
		int64		next;

		part->next = part->position;
		if (part->state != CDP_PART_OK)
			continue;
		next = w.transport->position(w.consumer, &id);
		if (part->verify && next >= part->position)
		{
			part->verify = false;	/* the known record is gone */
			part->new_state = "unverified";
		}
		if (next <= part->position)
			continue;
		part->next = next;
		*a = (CdpAdvance) {id.topic, id.partition, part->position, next, -1, CDP_NO_TIME, 0, part->ntombstones};
		if (part->last)
		{
			part->next_read = (Record) {part->last->offset, cdp_record_hash(w.workspace_id, part->last)};
			a->last_offset = part->next_read.offset;
			a->last_time = part->last->record_time;
			a->last_hash = part->next_read.hash;
		}
		n++;
	}
	return n;
}

static void
write_states(void)
{
	for (int i = 0; i < w.nparts; i++)
	{
		Part	   *part = w.parts[i];

		if (part->new_state)
			cdp_position_set_state(w.source_id, w.topics[part->topic].name, part->partition,
								   part->next, part->new_state);
	}
}

static void
forget_batch(void)
{
	for (int i = 0; i < w.nparts; i++)
	{
		w.parts[i]->last = NULL;
		w.parts[i]->next_read.offset = -1;
		w.parts[i]->ntombstones = 0;
		w.parts[i]->new_state = NULL;
	}
	w.transport->release(w.consumer);
}

/* The partitions and offsets at work. */
static void
batch_context(void *arg)
{
	int			named = 0;

	for (int i = 0; i < w.nparts && named < CONTEXT_PARTS; i++)
	{
		const Part *part = w.parts[i];

		if (part->last == NULL)
			continue;
		errcontext("source \"%s\", topic \"%s\", partition %d, offsets %lld to %lld",
				   w.name, w.topics[part->topic].name, part->partition,
				   (long long) part->position, (long long) part->last->offset);
		named++;
	}
}

/* The batch is committed. */
static void
take_committed(Part *part)
{
	part->position = part->next;
	if (part->next_read.offset >= 0)
		part->read = part->next_read;
	part->trusted |= !part->verify;
	if (part->mark_time == CDP_NO_TIME)
		cdp_part_mark(&w, part);
}

/* Apply n messages of the queue in one transaction; how many were new. */
static int
apply(int n)
{
	ErrorContextCallback context = {error_context_stack, batch_context, NULL};
	CdpAdvance *advances = palloc(Max(w.nparts, 1) * sizeof(CdpAdvance));
	instr_time	t;
	int			kept,
				nadvances;

	error_context_stack = &context;
	pgstat_report_activity(STATE_RUNNING, "applying a batch");
	cdp_worker_begin();
	kept = sort_out(n);
	nadvances = make_advances(advances);
	if (nadvances > 0)
		cdp_apply(cdp_source_by_id(w.source_id), messages, kept, advances, nadvances, NULL, NULL);
	write_states();
	t = cdp_stage_start();
	cdp_worker_commit();
	cdp_stage_stop(CDP_STAGE_COMMIT, t, kept);
	error_context_stack = context.previous;
	for (int i = 0; i < w.nparts; i++)
		if (w.parts[i]->state == CDP_PART_OK)
			take_committed(w.parts[i]);
	return kept;
}

/* ---------------------------------------------------------------- report */

static void
update_rate(Part *part, int64 now)
{
	int64		ms = now - part->counted_from;

	if (ms < RATE_MS)
		return;
	part->rate = part->counted * 1000.0 / ms;
	part->counted = 0;
	part->counted_from = now;
}

/* Is nothing in its way? */
static bool
is_read(const Part *part)
{
	return part->state == CDP_PART_OK && part->leader >= 0 && w.topics[part->topic].present &&
		retries[APPLYING] == 0 && !w.assign && !w.parked_full;
}

/* Show what there is; kept is the size of the batch that was committed, or -1. */
static void
publish(int kept)
{
	CdpSlot    *slot = w.slot;
	int64		now = cdp_ticks();
	int			n = Min(w.nparts, CDP_SLOT_PARTITIONS);

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	if (kept >= 0)
	{
		slot->nbatches++;
		slot->nmessages += kept;
		slot->last_commit_at = GetCurrentTimestamp();
	}
	for (int i = 0; i < n; i++)
	{
		Part	   *part = w.parts[i];
		int64		end = part->end < 0 ? -1 : Max(part->end, part->position);

		update_rate(part, now);
		slot->parts[i] = (CdpPartitionStat) {part->topic, is_read(part), part->partition, end, part->end_at, part->rate};
	}
	slot->nparts = n;
	slot->unlisted = w.nparts - n;
	LWLockRelease(cdp_workers->lock);
}

/* What others want: that we look again, and (wait_for_source) that we answer. */
static void
take_request(void)
{
	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	if (w.slot->request > w.request || w.slot->look)
		cdp_look_request(&w, w.slot->request);
	w.slot->look = false;		/* nobody else clears it, so a shared lock will do */
	LWLockRelease(cdp_workers->lock);
}

static void
answer_request(void)
{
	if (w.request <= w.reached || !cdp_look_is_reached(&w))
		return;
	w.reached = w.request;
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	w.slot->reached = w.reached;
	LWLockRelease(cdp_workers->lock);
	ConditionVariableBroadcast(&cdp_workers->progress);
}

/* ---------------------------------------------------------------- what may go wrong in a batch */

static bool
positions_moved(void)
{
	bool		moved = false;

	cdp_worker_begin();
	for (int i = 0; i < w.nparts; i++)
	{
		Part	   *part = w.parts[i];
		CdpPosition row = cdp_position_read(w.source_id, w.topics[part->topic].name, part->partition);

		moved |= part->state == CDP_PART_OK && (!row.found || row.position != part->position);
	}
	cdp_worker_commit();
	return moved;
}

static bool
source_is_gone(void)
{
	bool		gone;

	cdp_worker_begin();
	gone = cdp_source_find(w.source_id) == NULL;
	cdp_worker_commit();
	return gone;
}

static void
sleep_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 cdp_wait_event("CdpSourceRetry"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* The transaction is over because of error: wait, read the positions and go on from there, or end. */
static void
recover(ErrorData *error)
{
	if (doing == APPLYING)
		forget_batch();
	if (error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT && source_is_gone())
		cdp_slot_end();			/* dropped while the batch waited for its workspace */
	if (!cdp_error_passes(error) &&
		!(error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE && positions_moved()))
		cdp_slot_fail(w.slot, error);
	if (retries[doing]++ == 0)
		ereport(LOG, (errmsg("source \"%s\" tries again: %s", w.name, cdp_error_text(error))));
	cdp_slot_error(w.slot, unpack_sql_state(error->sqlerrcode), cdp_error_text(error));
	FreeErrorData(error);
	cdp_slot_condition(w.slot, CDP_COND_WAITING);
	w.reread = true;
	publish(-1);
	sleep_ms(Min(RETRY_FIRST_MS << Min(retries[doing] - 1, 5), RETRY_MAX_MS));
}

static void
goes_on(void)
{
	if (retries[doing] > 0)
		ereport(LOG, (errmsg("source \"%s\" goes on", w.name)));
	retries[doing] = 0;
}

static void
batch_done(int kept)
{
	goes_on();
	forget_batch();
	cdp_slot_healthy(w.slot);
	publish(kept);
	pgstat_report_stat(false);
}

/* Poll and apply; false: there was nothing. */
static bool
consume(void)
{
	int			n;

	if (max_messages != cdp_batch_rows)
	{
		max_messages = cdp_batch_rows;
		messages = messages ? repalloc(messages, max_messages * sizeof(CdpMessage)) :
			MemoryContextAlloc(w.cxt, max_messages * sizeof(CdpMessage));
	}
	n = w.transport->poll(w.consumer, messages, max_messages, (Size) cdp_batch_bytes * 1024);
	take_errors();
	if (n == 0 && !any_moved())
		return false;
	batch_started = cdp_ticks();
	batch_done(apply(n));
	return true;
}

/* ---------------------------------------------------------------- the loop */

static void
wait_for_something(void)
{
	WaitEvent	event;
	long		ms = (long) Max(cdp_look_next(&w) - cdp_ticks(), 0);

	ms = Min(ms, cdp_worker_timeout_ms / 3);	/* who waits lives */
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	(void) WaitEventSetWait(w.wait_set, ms, &event, 1, cdp_wait_event("CdpSource"));
	ResetLatch(MyLatch);
}

/* Batches that follow each other closely start at least PACE_MS apart. */
static void
pace(void)
{
	long		ms = (long) (cdp_ticks() - batch_started);

	if (ms < PACE_MS)
		sleep_ms(PACE_MS - ms);
}

static void
look_around(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	w.slot->alive_at = cdp_ticks();
	if (cdp_slot_stop_requested(w.slot))
		cdp_slot_end();
	take_request();
}

/* What lasts is in the log, with a line when it is over. */
static void
tell_waiting(bool ready)
{
	static int64 since = 0;		/* 0: nothing is waited for */
	static bool told = false;

	if (ready)
	{
		if (told)
			ereport(LOG, (errmsg("source \"%s\" goes on", w.name)));
		told = false;
		since = 0;
	}
	else if (since == 0)
		since = cdp_ticks();
	else if (!told && !w.parked_full && retries[APPLYING] == 0 && cdp_ticks() - since > TELL_MS)
	{
		ereport(LOG, (errmsg("source \"%s\" waits: %s", w.name, w.slot->last_error)));
		told = true;
	}
}

static void
do_turn(void)
{
	bool		ready;

	doing = LOOKING;
	if (cdp_look_next(&w) <= cdp_ticks() || w.assign || w.reread)
	{
		cdp_consumer_renew(&w);
		cdp_look(&w);
		publish(-1);
		goes_on();
	}
	ready = retries[APPLYING] == 0 && cdp_look_is_ready(&w);
	cdp_slot_condition(w.slot, ready ? CDP_COND_RUNNING : CDP_COND_WAITING);
	tell_waiting(ready);
	doing = APPLYING;
	if (!w.parked_full && !w.assign && consume())
		pace();
	else
	{
		answer_request();
		wait_for_something();
	}
	answer_request();
}

/* One turn; what fails in it is over afterwards, and tried again in the next one, or the process ends. */
static void
turn(void)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		do_turn();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(w.cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(batch_cxt);
	}
	PG_END_TRY();
	if (error)
		recover(error);
	MemoryContextReset(batch_cxt);
}

static void
loop(void)
{
	for (;;)
	{
		look_around();
		turn();
	}
}

static void
bound_memory(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES);
	(void) mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
	cdp_batch_block = BLOCK_BYTES;
#endif
}

static void
run(void)
{
	if (!load_source())
		cdp_slot_end();
	cdp_recent_start();
	/* everybody sees it: no name */
	SetConfigOption("application_name", psprintf("cdp source %d", w.source_id), PGC_USERSET, PGC_S_OVERRIDE);
	cdp_consumer_open(&w);
	loop();
}

void
cdp_source_main(Datum arg)
{
	bound_memory();
	w.slot = cdp_slot_attach(arg);
	w.cxt = AllocSetContextCreate(TopMemoryContext, "cdp source", ALLOCSET_DEFAULT_SIZES);
	batch_cxt = AllocSetContextCreate(TopMemoryContext, "cdp batch", CDP_BATCH_SIZES);
	w.source_id = w.slot->source_id;
	w.worker = w.slot->worker;
	MemoryContextSwitchTo(batch_cxt);
	PG_TRY();
	{
		run();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(w.cxt);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(w.cxt);
		cdp_slot_fail(w.slot, error);
	}
	PG_END_TRY();
}
