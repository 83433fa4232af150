/*
 * kafka_ask.c: a thread that asks a cluster, so that who wants to know need not
 * wait.
 *
 * The library answers such questions in calls that wait; the worker waits no
 * longer than a call of the transport may last, and a cluster far away takes
 * longer than that.  So one thread of ours asks, one question after the other.
 * Who asks waits for a moment; if the answer is not there, the same words later
 * take it.  There is one place for a question and its answer; another question
 * has to wait until it is free, and an answer that nobody wants any more is
 * thrown away.  A tag makes questions different that have the same words: an
 * answer that was asked for before a certain moment must not pass for a new one.
 *
 * The thread blocks all signals, calls nothing of the server, and runs none of
 * our callbacks.  A call of the library that waits cannot be ended; who stops
 * the asker meanwhile leaves it, and the library's handle, to the end of the
 * process.
 */
#include "postgres.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "source/kafka_ask.h"

#define ASK_MS 3000				/* longest question; a broker that is away holds up the others so long */

typedef enum Place
{
	PLACE_FREE,
	PLACE_ASKED,				/* the thread has it */
	PLACE_ANSWERED
} Place;

struct Asker
{
	rd_kafka_t *rk;
	pthread_t	thread;
	pthread_mutex_t lock;		/* all that follows */
	pthread_cond_t changed;
	Place		place;
	Ask		   *ask;
	bool		stop;
};

/* ---------------------------------------------------------------- questions */

Ask *
ask_make(AskKind kind, uint64_t tag, int size)
{
	Ask		   *ask = calloc(1, sizeof(Ask));

	if (ask == NULL)
		return NULL;
	ask->kind = kind;
	ask->tag = tag;
	ask->about = rd_kafka_topic_partition_list_new(size);
	return ask;
}

static void
free_list(rd_kafka_topic_partition_list_t *list)
{
	if (list)
		rd_kafka_topic_partition_list_destroy(list);
}

void
ask_free(Ask *ask)
{
	if (ask == NULL)
		return;
	if (ask->metadata)
		rd_kafka_metadata_destroy(ask->metadata);
	free_list(ask->about);
	free_list(ask->low);
	free_list(ask->high);
	free(ask);
}

static bool
same_question(const Ask *a, const Ask *b)
{
	if (a->kind != b->kind || a->tag != b->tag || a->about->cnt != b->about->cnt)
		return false;
	for (int i = 0; i < a->about->cnt; i++)
	{
		const rd_kafka_topic_partition_t *x = &a->about->elems[i],
				   *y = &b->about->elems[i];

		if (x->partition != y->partition || x->offset != y->offset || strcmp(x->topic, y->topic) != 0)
			return false;
	}
	return true;
}

/* ---------------------------------------------------------------- in the thread */

static rd_kafka_resp_err_t
answer_metadata(rd_kafka_t *rk, Ask *ask)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, ask->about->elems[0].topic, NULL);
	rd_kafka_resp_err_t err;

	if (topic == NULL)
		return rd_kafka_last_error();
	err = rd_kafka_metadata(rk, 0, topic, &ask->metadata, ASK_MS);
	rd_kafka_topic_destroy(topic);
	return err;
}

/* the protocol's time stamps -1 and -2 are the library's constants for end and start */
static rd_kafka_resp_err_t
answer_bound(rd_kafka_t *rk, const Ask *ask, int64_t which, rd_kafka_topic_partition_list_t **answer)
{
	*answer = rd_kafka_topic_partition_list_copy(ask->about);
	for (int i = 0; i < (*answer)->cnt; i++)
		(*answer)->elems[i].offset = which;
	return rd_kafka_offsets_for_times(rk, *answer, ASK_MS);
}

static bool
says_compact(const rd_kafka_ConfigResource_t *topic)
{
	size_t		n;
	const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(topic, &n);

	for (size_t i = 0; i < n; i++)
	{
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), "cleanup.policy") == 0)
			return value && strstr(value, "compact");
	}
	return false;
}

static rd_kafka_resp_err_t
take_configuration(rd_kafka_event_t *event, Ask *ask)
{
	const rd_kafka_ConfigResource_t **topics;
	size_t		n;
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);

	if (err)
		return err;
	topics = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);
	err = n == 1 ? rd_kafka_ConfigResource_error(topics[0]) : RD_KAFKA_RESP_ERR_UNKNOWN;
	if (!err)
		ask->compacted = says_compact(topics[0]);
	return err;
}

/* what the broker tells of a topic's configuration, if it lets us know */
static rd_kafka_resp_err_t
answer_compacted(rd_kafka_t *rk, Ask *ask)
{
	rd_kafka_ConfigResource_t *topic = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, ask->about->elems[0].topic);
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_event_t *event;
	char		text[256];
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;

	rd_kafka_AdminOptions_set_request_timeout(options, ASK_MS, text, sizeof(text));
	rd_kafka_DescribeConfigs(rk, &topic, 1, options, queue);
	event = rd_kafka_queue_poll(queue, ASK_MS);
	if (event)
	{
		err = take_configuration(event, ask);
		rd_kafka_event_destroy(event);
	}
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_ConfigResource_destroy(topic);
	return err;
}

static void
answer(rd_kafka_t *rk, Ask *ask)
{
	switch (ask->kind)
	{
		case ASK_METADATA:
			ask->err = answer_metadata(rk, ask);
			break;
		case ASK_BOUNDS:
			ask->err = answer_bound(rk, ask, RD_KAFKA_OFFSET_BEGINNING, &ask->low);
			if (!ask->err)
				ask->err = answer_bound(rk, ask, RD_KAFKA_OFFSET_END, &ask->high);
			break;
		case ASK_TIMES:
			ask->low = rd_kafka_topic_partition_list_copy(ask->about);
			ask->err = rd_kafka_offsets_for_times(rk, ask->low, ASK_MS);
			break;
		case ASK_COMPACTED:
			ask->err = answer_compacted(rk, ask);
			break;
	}
}

static void *
asker_main(void *arg)
{
	Asker	   *a = arg;

	pthread_mutex_lock(&a->lock);
	while (!a->stop)
	{
		if (a->place != PLACE_ASKED)
		{
			pthread_cond_wait(&a->changed, &a->lock);
			continue;
		}
		pthread_mutex_unlock(&a->lock);
		answer(a->rk, a->ask);
		pthread_mutex_lock(&a->lock);
		a->place = PLACE_ANSWERED;
		pthread_cond_broadcast(&a->changed);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* ---------------------------------------------------------------- asking */

/* lock held: an answer that is there is taken if it is the one to q, else thrown away */
static Ask *
take_answer(Asker *a, const Ask *q)
{
	Ask		   *found = a->ask;

	if (a->place != PLACE_ANSWERED)
		return NULL;
	a->place = PLACE_FREE;
	a->ask = NULL;
	if (found == q || same_question(found, q))
		return found;
	ask_free(found);
	return NULL;
}

static struct timespec
from_now(int ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += ms % 1000 * 1000000L;
	if (t.tv_nsec >= 1000000000L)
	{
		t.tv_sec++;
		t.tv_nsec -= 1000000000L;
	}
	return t;
}

Ask *
asker_ask(Asker *a, Ask *question, int wait_ms)
{
	struct timespec until = from_now(wait_ms);
	Ask		   *found;

	pthread_mutex_lock(&a->lock);
	found = take_answer(a, question);
	if (found || a->place != PLACE_FREE)
		ask_free(question);
	else
	{
		a->ask = question;
		a->place = PLACE_ASKED;
		pthread_cond_broadcast(&a->changed);
		while (a->place == PLACE_ASKED &&
			   pthread_cond_timedwait(&a->changed, &a->lock, &until) != ETIMEDOUT)
			;
		found = a->place == PLACE_ANSWERED ? take_answer(a, question) : NULL;
	}
	pthread_mutex_unlock(&a->lock);
	return found;
}

/* ---------------------------------------------------------------- start and stop */

Asker *
asker_start(rd_kafka_t *rk)
{
	Asker	   *a = calloc(1, sizeof(Asker));
	pthread_condattr_t clock;
	sigset_t	all,
				before;
	int			err;

	if (a == NULL)
		return NULL;
	a->rk = rk;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&a->changed, &clock);
	pthread_condattr_destroy(&clock);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&a->thread, NULL, asker_main, a);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err == 0)
		return a;
	free(a);
	return NULL;
}

bool
asker_stop(Asker *a, const struct timespec *until)
{
	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	if (pthread_timedjoin_np(a->thread, NULL, until) != 0)
	{
		pthread_detach(a->thread);
		return false;
	}
	ask_free(a->ask);
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	free(a);
	return true;
}
