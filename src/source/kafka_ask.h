/*
 * kafka_ask.h: questions to a cluster whose answers may take longer than a
 * call of the transport; of cdp_kafka.so alone.
 */
#ifndef CDP_KAFKA_ASK_H
#define CDP_KAFKA_ASK_H

#include <time.h>

#include <librdkafka/rdkafka.h>

typedef enum AskKind
{
	ASK_METADATA,				/* of the topic of the first element */
	ASK_BOUNDS,					/* start and end of each partition */
	ASK_TIMES,					/* first record at or after the time in each offset */
	ASK_COMPACTED				/* is the topic of the first element compacted? */
} AskKind;

typedef struct Ask
{
	AskKind		kind;
	uint64_t	tag;			/* an answer to a question with another one is not wanted */
	rd_kafka_topic_partition_list_t *about;

	/* the answer */
	rd_kafka_resp_err_t err;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_partition_list_t *low;	/* start; the offsets of times */
	rd_kafka_topic_partition_list_t *high;
	bool		compacted;
} Ask;

typedef struct Asker Asker;

extern Asker *asker_start(rd_kafka_t *rk);	/* NULL: no memory, no thread */

/* false: it is still waiting for an answer, and owns rk */
extern bool asker_stop(Asker *asker, const struct timespec *until);

/* both return NULL when there is no memory; ask_free may be given NULL */
extern Ask *ask_make(AskKind kind, uint64_t tag, int size);
extern void ask_free(Ask *ask);

/*
 * Takes the question; returns it answered, or what was asked before with the
 * same words; NULL: not yet, ask again.  Waits only if the place was free.
 */
extern Ask *asker_ask(Asker *asker, Ask *question, int wait_ms);

#endif							/* CDP_KAFKA_ASK_H */
