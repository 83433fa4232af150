/*
 * worker.h: what one source worker knows, shared by its three files: worker.c
 * (the process, the batches), partitions.c (what there is to read) and
 * consumer.c (how Kafka is reached).
 */
#ifndef CDP_WORKER_H
#define CDP_WORKER_H

#include "storage/latch.h"

#include "launcher.h"

/* a record that was read, and how to know it again */
typedef struct Record
{
	int64		offset;			/* -1: none is known */
	int64		hash;
} Record;

/* one partition that this worker consumes */
typedef struct Part
{
	int			topic;			/* index in topics */
	int32		partition;
	CdpPartitionState state;
	bool		trusted;		/* its topic is known to be the one that we read */
	bool		verify;			/* assigned from the known record on, to compare it */
	Record		known;			/* the last one, or that of the mark */
	int64		position;		/* committed, like the next two */
	Record		read;			/* the last one */
	TimestampTz latest;			/* of the records read; CDP_NO_TIME: not known */

	/* what was so when the topic was the one that we read: see partitions.c */
	TimestampTz mark_time;		/* latest; CDP_NO_TIME: there is no mark */
	int64		mark;			/* position */
	Record		mark_read;		/* the last one */
	int64		later;			/* offset below mark of a record that is later; -1: none */
	bool		suspect;		/* compare the record of the mark */

	int32		leader;			/* broker; -1: none, or not known */
	int			missing;		/* looks in a row that did not find it */
	int64		end;			/* as the broker said last; -1: never */
	TimestampTz end_at;

	/* numbers of looks */
	uint64		bounds_asked,
				bounds_answered,
				later_asked,
				later_answered,
				wait_look;		/* that found wait_end */
	int64		wait_end;		/* wait_for_source waits for this position */

	/* of the batch at work */
	CdpMessage *last;			/* its last message; NULL: none */
	Record		next_read;		/* the same; offset -1: none */
	int64		ntombstones;
	int64		next;
	const char *new_state;		/* to be written with the batch; NULL: as it is */

	int64		counted;		/* since counted_from */
	int64		counted_from;	/* in cdp_ticks() */
	float4		rate;
} Part;

typedef struct Topic
{
	const char *name;
	uint32		len;
	bool		present;
	bool		started;		/* start => latest: it has rows */
	bool		policy_asked;	/* whether it is compacted */
	uint64		asked,			/* look */
				answered;
	int			nparts;			/* on the broker */
	int			size;			/* of parts */
	Part	  **parts;			/* by number; NULL: another worker's */
} Topic;

/* a file as it was when it was read; all zero: it was not there */
typedef struct CdpFileMark
{
	uint64		device,
				inode;
	int64		size,
				changed_s,
				changed_ns;
} CdpFileMark;

#define CDP_WORKER_FILES 4		/* secrets, CA, certificate, key */

typedef struct Worker
{
	CdpSlot    *slot;
	MemoryContext cxt;			/* lives as long as the process */
	int32		source_id;
	int32		workspace_id;
	int			worker;			/* i of n */
	int			nworkers;
	const char *name;
	const char *brokers;
	const char *secret;			/* its name in the secrets file */
	const CdpFormat *format;
	bool		from_latest;
	int			noptions;
	const char **option_names;
	const char **option_values;

	const CdpTransport *transport;
	CdpConsumer *consumer;
	WaitEventSet *wait_set;		/* the consumer's, the latch and the postmaster */
	CdpFileMark files[CDP_WORKER_FILES];
	char	   *refusal;		/* why the files as they are now were not taken; NULL: they were */

	int			ntopics;
	Topic	   *topics;
	int			nparts;
	Part	  **parts;			/* in the order of (topic, partition) */
	bool		assign;			/* the assignment is not what parts say */
	bool		reread;			/* a batch failed: positions may not be what parts say */
	bool		parked_full;	/* cdp.parked_limit is reached */

	uint64		look;			/* number of the last one */
	bool		looking;		/* it is not over */
	int64		next_look;		/* in cdp_ticks(), as the next one */
	int64		next_step;		/* of the look, and of what is new between looks */
	uint64		request;		/* of wait_for_source, taken from the slot */
	uint64		request_look;	/* the first one that began after it was taken */
	uint64		reached;		/* the request that was answered last */
} Worker;

/* transactions of the worker; end with cdp_worker_commit() */
extern void cdp_worker_begin(void);
extern void cdp_worker_commit(void);

/* consumer.c */
extern void cdp_consumer_open(Worker *w);	/* raises when it cannot be opened */
extern void cdp_consumer_renew(Worker *w);	/* opens it again if the files that it reads changed; not within a batch */

/* look.c */
extern void cdp_look(Worker *w);	/* what is due: ask, place, assign */
extern int64 cdp_look_next(const Worker *w);	/* in cdp_ticks() */
extern void cdp_look_request(Worker *w, uint64 request);	/* look at once */
extern bool cdp_look_is_ready(const Worker *w); /* nothing is being waited for */
extern bool cdp_look_is_answered(const Worker *w);
extern bool cdp_look_is_reached(const Worker *w);	/* every end of the request is passed */

/* partitions.c */
extern Part *cdp_parts_find(Worker *w, CdpStr topic, int32 partition);
extern void cdp_parts_reread(Worker *w);	/* positions as committed */
extern void cdp_parts_restart(Worker *w);	/* the consumer is another one: look at everything again */
extern void cdp_parts_recheck(Worker *w, Part *part);	/* its bounds may have moved */
extern void cdp_parts_assign(Worker *w);
extern bool cdp_topic_is_started(Worker *w, Topic *topic);
extern void cdp_topic_start(Worker *w, Topic *topic, const int64 *positions);
extern CdpPartition cdp_part_id(const Worker *w, const Part *part);
extern Part *cdp_part_add(Worker *w, int topic, int32 partition);
extern void cdp_part_place(Worker *w, Part *part, int64 low, int64 high);	/* NEW becomes what row and log say */
extern void cdp_parts_recall(Worker *w, int topic, int32 first);	/* those that have rows */
extern void cdp_part_gone(Worker *w, Part *part);	/* may free it */
extern void cdp_part_mark(const Worker *w, Part *part);
extern void cdp_part_take_later(Worker *w, Part *part, int64 later);
extern void cdp_part_report_diverged(Worker *w, const Part *part, const char *why);
extern void cdp_note(Worker *w, int topic, const char *text);

#endif							/* CDP_WORKER_H */
