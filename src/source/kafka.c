/*
 * kafka.c: the door to Kafka, built as cdp_kafka.so, which only source workers
 * load.  Nothing else in the project but kafka_ask.c includes librdkafka.
 *
 * Threads.  librdkafka runs threads of its own; they block all signals and run
 * nothing of ours but on_certificate(), which notes a number: errors and log
 * lines are queued by the library and handed to our callbacks inside
 * kafka_poll(), in the worker's thread.  Nothing here calls into the server,
 * throws or pallocs; memory is malloc's.  A handle is made after the fork and
 * belongs to one process.
 *
 * What is read.  Partitions are assigned by us, from positions that the caller
 * keeps in its own tables: no group is joined, nothing is committed to Kafka,
 * and a position that the broker no longer has is an error, never a jump
 * (auto.offset.reset = error).  Transactions that were aborted are skipped
 * (isolation.level = read_committed).
 *
 * Positions.  The offsets of a partition have holes: control records, aborted
 * and compacted ones.  The position is therefore last + 1 while there is more,
 * and the offset of the library's end-of-partition event once the end is
 * reached; the event lies in the queue behind the messages that it follows and
 * dies with their assignment, so a position never passes a message that was
 * not handed out.  It comes with the next answer of the broker, up to
 * fetch.wait.max.ms after the last message, and also when poll returns none.
 *
 * Memory.  A body is the library's own buffer, kept from poll to release.  The
 * library fetches ahead until queued.min.messages or queued.max.messages.kbytes
 * wait, and then one more answer of each broker comes, which was limited by its
 * compressed size: 16-byte messages compressed 60-fold make 200 MB of 512 kB.
 * A single message may be bigger than all this; the broker sends it alone.
 * Headers are in none of its limits: when more of them wait than should, nothing
 * is fetched until they were handed out.
 *
 * Blocking.  No call lasts longer than 200 ms.  What the cluster has not
 * answered by then (partitions, offsets) is "not yet": a thread goes on asking,
 * and the caller asks again (kafka_ask.c).  A broker answers the requests of a
 * connection one after the other, and a Fetch waits there for messages, so
 * questions have a handle, and connections, of their own.
 * rd_kafka_query_watermark_offsets() waits for socket.timeout.ms in librdkafka
 * 2.0; rd_kafka_offsets_for_times() keeps its time, sends the same request, and
 * asks for many partitions at once.
 *
 * Imprecise: an out-of-range event may be older than the last assign; the
 * caller looks at offsets() before it acts.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fmgr.h"
#include "port/atomics.h"

#include "source/kafka_ask.h"
#include "source/source.h"

PG_MODULE_MAGIC;

#define ANSWER_MS			50	/* the answer of a cluster that is near comes within */
#define CLOSE_MS			1000	/* longest close; the process ends afterwards */
#define TAKE_MESSAGES		100 /* taken from the library's queue at once */
#define MAX_EVENTS			16	/* kept until next_error */
#define TEXT_BYTES			512
#define TOPIC_BYTES			250 /* Kafka allows 249 */
#define EPOCH_MS			INT64CONST(946684800000)	/* the server's, from 1970 */

/*
 * Before 2.2 the library looks once a second whether a queue that was full has
 * room again, unless something else wakes it: we do, at most this often, and
 * only when this much was taken at once.
 */
#define NUDGE_MS			10
#define NUDGE_MESSAGES		1000
#define NUDGE_BYTES			(1024 * 1024)

#define HEADER_BYTES		128 /* memory of a header, ours and the library's, besides its name and value */
#define HEADERS_AHEAD		(64 * 1024 * 1024)	/* bytes of headers that may wait */

/* limits of what is fetched ahead; the source may choose others */
static const char *const default_options[][2] = {
	{"queued.min.messages", "50000"},	/* at the most, in spite of its name */
	{"queued.max.messages.kbytes", "20480"},
	{"message.max.bytes", "500000"},	/* only the least value of the next; messages may be bigger */
	{"fetch.max.bytes", "524288"},	/* compressed; a bigger one is not faster */
	{"fetch.message.max.bytes", "65536"},	/* the same of one partition */
	{"reconnect.backoff.max.ms", "1000"},
	{"socket.timeout.ms", "30000"},
	{"client.id", "cdp"},
};

/* what makes it correct; set last, so that nothing overrides it */
static const char *const fixed_options[][2] = {
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"allow.auto.create.topics", "false"},
	{"auto.offset.reset", "error"},
	{"isolation.level", "read_committed"},
	{"enable.partition.eof", "true"},
	{"log.queue", "true"},
};

/* a message that was taken from the library's queue */
typedef struct Kept
{
	rd_kafka_message_t *message;
	CdpHeader  *headers;		/* NULL: none */
} Kept;

typedef struct Assigned
{
	char		topic[TOPIC_BYTES];
	int32		partition;
	int64		next;			/* position after what was handed out */
} Assigned;

typedef struct Event
{
	char		topic[TOPIC_BYTES]; /* "": not about a partition */
	int32		partition;
	bool		fatal;
	bool		out_of_range;
	char		text[TEXT_BYTES];
} Event;

struct CdpConsumer
{
	rd_kafka_t *rk;				/* fetches */
	rd_kafka_t *askee;			/* is asked for partitions and offsets */
	Asker	   *asker;			/* by this thread */
	rd_kafka_queue_t *queue;
	int			wakeup[2];		/* pipe; the library writes a byte when its queue fills */
	bool		nudge;			/* the library needs to be woken */
	int64		nudged_at;		/* milliseconds */

	Assigned   *assigned;
	int			nassigned;
	rd_kafka_topic_partition_list_t *list;	/* the same, as the library wants it */
	bool		at_rest;		/* it has none, until all that was taken is handed out */
	Assigned   *last;			/* of the message before, with its topic */
	rd_kafka_topic_t *last_topic;

	Kept	   *kept;			/* the first next_kept are handed out */
	int			nkept,
				next_kept,
				max_kept;

	CdpPartition *found;		/* answer of partitions() */
	char		found_topic[TOPIC_BYTES];
	int			nfound,
				max_found;

	Event		events[MAX_EVENTS];
	int			nevents;
	Event		event;			/* handed out by next_error */
	char		error[TEXT_BYTES];
	char		last_trouble[TEXT_BYTES];	/* what the library said about brokers, until they answered */
	pg_atomic_uint32 certificate_error; /* OpenSSL's number for the last one that was refused */
};

PGDLLEXPORT const CdpTransport *cdp_kafka_transport(void);

/* ---------------------------------------------------------------- small things */

static CdpStr
bytes_of(const void *s, size_t len)
{
	CdpStr		str = {s, s ? (uint32) len : 0};

	return str;
}

static int64
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* a topic's name as the library wants it */
static void
copy_topic(char *topic, CdpStr name)
{
	snprintf(topic, TOPIC_BYTES, "%.*s", (int) name.len, name.s);
}

/* ---------------------------------------------------------------- errors and events */

/* sets the text that a call returns: what failed, and why */
static void
set_error(CdpConsumer *c, const char **error, const char *what, const char *name,
		  rd_kafka_resp_err_t err)
{
	bool		unreachable = err == RD_KAFKA_RESP_ERR__TRANSPORT ||
	err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;

	snprintf(c->error, sizeof(c->error), "%s \"%s\": %s%s%s", what, name, rd_kafka_err2str(err),
			 unreachable && c->last_trouble[0] ? "; " : "",
			 unreachable ? c->last_trouble : "");
	*error = c->error;
}

/* a new event to fill; when there are too many, the newest is overwritten */
static Event *
add_event(CdpConsumer *c, const char *topic, int32 partition, const char *text)
{
	Event	   *e = &c->events[c->nevents < MAX_EVENTS ? c->nevents++ : MAX_EVENTS - 1];

	memset(e, 0, sizeof(*e));
	strlcpy(e->topic, topic ? topic : "", sizeof(e->topic));
	e->partition = topic ? partition : -1;
	strlcpy(e->text, text ? text : "unknown error", sizeof(e->text));
	return e;
}

/* of the library, in its threads: 1 if a certificate of the broker's chain is good */
static int
on_certificate(rd_kafka_t *rk, const char *broker, int32_t id, int *error, int depth,
			   const char *der, size_t size, char *text, size_t text_size, void *opaque)
{
	CdpConsumer *c = opaque;

	if (*error == 0)
		return 1;
	pg_atomic_write_u32(&c->certificate_error, *error);
	return 0;
}

/* what the library says in one text for all; the numbers are those of openssl/x509_vfy.h */
static const char *
certificate_trouble(uint32 error)
{
	switch (error)
	{
		case 9:
			return "the broker's certificate is not valid yet";
		case 10:
			return "the broker's certificate has expired";
		case 62:
		case 64:
			return "the broker's certificate is for another host";
		case 2:
		case 18:
		case 19:
		case 20:
		case 21:
			return "the broker's certificate is of an unknown authority, see ssl.ca.location";
		default:
			return NULL;
	}
}

/* keeps what the library says about a broker, without what changes from one attempt to the next */
static void
note_trouble(CdpConsumer *c, const char *reason)
{
	const char *certificate = strstr(reason, "certificate verify failed") ?
	certificate_trouble(pg_atomic_read_u32(&c->certificate_error)) : NULL;
	const char *end = strstr(reason, certificate ? ": " : " (after ");

	snprintf(c->last_trouble, sizeof(c->last_trouble), "%.*s%s%s",
			 end ? (int) (end - reason) : (int) strlen(reason), reason,
			 certificate ? ": " : "", certificate ? certificate : "");
}

/* of the library, in our thread: trouble with a broker, or with everything */
static void
on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
	CdpConsumer *c = opaque;

	/* that all brokers are down says less than why the last of them is */
	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN && c->last_trouble[0])
		return;
	note_trouble(c, reason ? reason : rd_kafka_err2str(err));
	if (rk == c->rk)
		add_event(c, NULL, -1, c->last_trouble)->fatal = err == RD_KAFKA_RESP_ERR__FATAL;
}

/* of the library, in our thread: what it logs is told again as errors, so only stderr is spared */
static void
on_log(const rd_kafka_t *rk, int level, const char *facility, const char *line)
{
}

static bool
kafka_next_error(CdpConsumer *c, bool *fatal, CdpPartition *part, bool *out_of_range,
				 const char **text)
{
	if (c->nevents == 0)
		return false;
	c->event = c->events[0];
	memmove(&c->events[0], &c->events[1], --c->nevents * sizeof(Event));
	*fatal = c->event.fatal;
	*out_of_range = c->event.out_of_range;
	*text = c->event.text;
	part->topic = c->event.topic[0] ? cdp_str(c->event.topic) : CDP_STR_NONE;
	part->partition = c->event.partition;
	return true;
}

/* ---------------------------------------------------------------- opening and closing */

/* true when the value of an option must not be shown */
static bool
is_secret(const char *name)
{
	return strstr(name, "password") || strstr(name, "secret") || strstr(name, "pem");
}

/* sets one option; false with a text in why, never with a secret in it */
static bool
set_option(rd_kafka_conf_t *conf, const char *name, const char *value, char *why)
{
	char		text[TEXT_BYTES];

	if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
		return true;
	if (is_secret(name))
		strlcpy(text, "its value is not valid", sizeof(text));
	snprintf(why, TEXT_BYTES, "option \"%s\" of the Kafka client: %s", name, text);
	return false;
}

static bool
set_options(rd_kafka_conf_t *conf, const char *const(*options)[2], int noptions, char *why)
{
	for (int i = 0; i < noptions; i++)
		if (!set_option(conf, options[i][0], options[i][1], why))
			return false;
	return true;
}

/* the configuration: our defaults, the source's options, what must be */
static rd_kafka_conf_t *
make_conf(CdpConsumer *c, const char *brokers, const char **names, const char **values,
		  int noptions, char *why)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		ignored[TEXT_BYTES];
	bool		ok;

	ok = set_options(conf, default_options, lengthof(default_options), why);
	c->nudge = !set_option(conf, "fetch.queue.backoff.ms", "10", ignored);
	for (int i = 0; ok && i < noptions; i++)
		ok = set_option(conf, names[i], values[i], why);
	ok = ok && set_option(conf, "bootstrap.servers", brokers, why) &&
		set_options(conf, fixed_options, lengthof(fixed_options), why);
	if (!ok)
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_opaque(conf, c);
	rd_kafka_conf_set_error_cb(conf, on_error);
	rd_kafka_conf_set_log_cb(conf, on_log);
	(void) rd_kafka_conf_set_ssl_cert_verify_cb(conf, on_certificate);	/* refused where the library has no TLS */
	return conf;
}

/* starts the library, with all signals blocked in the threads it makes; uses up conf */
static rd_kafka_t *
start_library(rd_kafka_conf_t *conf, char *why)
{
	sigset_t	all,
				before;
	char		text[TEXT_BYTES];
	rd_kafka_t *rk;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		snprintf(why, TEXT_BYTES, "could not start the Kafka client: %s", text);
		return NULL;
	}
	rd_kafka_set_log_queue(rk, NULL);
	return rk;
}

/* both handles of a consumer, from one configuration, which is used up */
static bool
start_handles(CdpConsumer *c, rd_kafka_conf_t *conf, char *why)
{
	c->askee = start_library(rd_kafka_conf_dup(conf), why);
	c->asker = c->askee ? asker_start(c->askee) : NULL;
	if (c->asker == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	/* the library wants a group before it assigns; nobody joins it */
	if (!set_option(conf, "group.id", "cdp", why))
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	c->rk = start_library(conf, why);
	if (c->rk == NULL)
		return false;
	rd_kafka_poll_set_consumer(c->rk);
	c->queue = rd_kafka_queue_get_consumer(c->rk);
	rd_kafka_queue_io_event_enable(c->queue, c->wakeup[1], "q", 1);
	return true;
}

static void *
destroy_library(void *rk)
{
	rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return NULL;
}

/*
 * The library joins its threads, one of which may be resolving a name: wait
 * until then, and leave them to the end of the process.  False: they go on, and
 * may still call us back.
 */
static bool
stop_library(rd_kafka_t *rk, const struct timespec *until)
{
	sigset_t	all,
				before;
	pthread_t	thread;
	bool		stopped = false;

	if (rk == NULL)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, destroy_library, rk) == 0)
	{
		stopped = pthread_timedjoin_np(thread, NULL, until) == 0;
		if (!stopped)
			pthread_detach(thread);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return stopped;
}

/* false: something of the library goes on, which knows the consumer */
static bool
stop_handles(CdpConsumer *c)
{
	struct timespec until;
	bool		stopped;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += CLOSE_MS / 1000;
	if (c->queue)
	{
		rd_kafka_queue_io_event_enable(c->queue, -1, NULL, 0);
		rd_kafka_queue_destroy(c->queue);
	}
	stopped = stop_library(c->rk, &until);
	if (c->asker && !asker_stop(c->asker, &until))
		return false;
	return stop_library(c->askee, &until) && stopped;
}

/* gives back what was handed out, or everything that was taken */
static void
drop_kept(CdpConsumer *c, int n)
{
	for (int i = 0; i < n; i++)
	{
		free(c->kept[i].headers);
		rd_kafka_message_destroy(c->kept[i].message);
	}
	c->nkept -= n;
	c->next_kept = Max(c->next_kept - n, 0);
	if (c->nkept > 0)
		memmove(&c->kept[0], &c->kept[n], c->nkept * sizeof(Kept));
}

static void
kafka_release(CdpConsumer *c)
{
	drop_kept(c, c->next_kept);
}

static void
kafka_close(CdpConsumer *c)
{
	bool		stopped;

	if (c == NULL)
		return;
	drop_kept(c, c->nkept);
	if (c->list)
		rd_kafka_topic_partition_list_destroy(c->list);
	stopped = stop_handles(c);
	close(c->wakeup[0]);
	close(c->wakeup[1]);
	free(c->kept);
	free(c->found);
	free(c->assigned);
	if (stopped)				/* else its callbacks still write here */
		free(c);
}

/* a consumer without partitions; NULL with a text when an option is wrong.  Reaches no broker. */
static CdpConsumer *
kafka_open(const char *brokers, const char **option_names, const char **option_values,
		   int noptions, const char **error)
{
	static char why[TEXT_BYTES];
	CdpConsumer *c = calloc(1, sizeof(CdpConsumer));
	rd_kafka_conf_t *conf;

	*error = why;
	strlcpy(why, "out of memory or file descriptors", sizeof(why));
	if (c == NULL)
		return NULL;
	pg_atomic_init_u32(&c->certificate_error, 0);
	if (pipe2(c->wakeup, O_NONBLOCK | O_CLOEXEC) != 0)
	{
		free(c);
		return NULL;
	}
	conf = make_conf(c, brokers, option_names, option_values, noptions, why);
	if (conf == NULL || !start_handles(c, conf, why))
	{
		kafka_close(c);
		return NULL;
	}
	*error = NULL;
	return c;
}

static int
kafka_wakeup_fd(CdpConsumer *c)
{
	return c->wakeup[0];
}

/* ---------------------------------------------------------------- what the broker knows */

/* the question is about these */
static Ask *
make_question(AskKind kind, const CdpPartition *parts, int n, uint64 tag)
{
	Ask		   *q = ask_make(kind, tag, n);
	char		topic[TOPIC_BYTES];

	for (int i = 0; q && i < n; i++)
	{
		copy_topic(topic, parts[i].topic);
		rd_kafka_topic_partition_list_add(q->about, topic, parts[i].partition);
	}
	return q;
}

/* asks; *a is the answer, which the caller frees, unless it is CDP_NOT_YET */
static CdpAnswer
put_question(CdpConsumer *c, Ask *q, const char *what, Ask **a, const char **error)
{
	*error = NULL;
	*a = NULL;
	rd_kafka_poll(c->askee, 0); /* runs our callbacks */
	if (q)
		*a = asker_ask(c->asker, q, ANSWER_MS);
	if (*a == NULL)
		return CDP_NOT_YET;
	if (!(*a)->err)
	{
		c->last_trouble[0] = '\0';
		return CDP_ANSWERED;
	}
	set_error(c, error, what, (*a)->about->elems[0].topic, (*a)->err);
	return CDP_NO_ANSWER;
}

/* takes the partitions of one topic; the name is one copy for all */
static rd_kafka_resp_err_t
take_found(CdpConsumer *c, const rd_kafka_metadata_t *md)
{
	const rd_kafka_metadata_topic_t *t = &md->topics[0];
	CdpPartition *found = c->found;

	if (md->topic_cnt != 1)
		return RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	if (t->err)
		return t->err;
	if (t->partition_cnt == 0)
		return RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	if (t->partition_cnt > c->max_found)
		found = realloc(c->found, t->partition_cnt * sizeof(CdpPartition));
	if (found == NULL)
		return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
	c->found = found;
	c->max_found = Max(t->partition_cnt, c->max_found);
	strlcpy(c->found_topic, t->topic, sizeof(c->found_topic));
	for (int i = 0; i < t->partition_cnt; i++)
		c->found[i] = (CdpPartition) {cdp_str(c->found_topic), t->partitions[i].id, t->partitions[i].leader};
	c->nfound = t->partition_cnt;
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static CdpAnswer
kafka_partitions(CdpConsumer *c, const char *topic, uint64 tag, CdpPartition **out, int *n,
				 const char **error)
{
	CdpPartition about = {cdp_str(topic), RD_KAFKA_PARTITION_UA, -1};
	rd_kafka_resp_err_t err;
	Ask		   *a;
	CdpAnswer	answer = put_question(c, make_question(ASK_METADATA, &about, 1, tag), "topic", &a, error);

	c->nfound = 0;
	if (answer == CDP_ANSWERED)
	{
		err = take_found(c, a->metadata);
		if (err)
		{
			set_error(c, error, "topic", topic, err);
			answer = CDP_NO_ANSWER;
		}
	}
	ask_free(a);
	*out = c->found;
	*n = c->nfound;
	return answer;
}

static CdpAnswer
kafka_compacted(CdpConsumer *c, const char *topic, uint64 tag, bool *compacted)
{
	CdpPartition about = {cdp_str(topic), RD_KAFKA_PARTITION_UA, -1};
	const char *error;
	Ask		   *a;
	CdpAnswer	answer = put_question(c, make_question(ASK_COMPACTED, &about, 1, tag), "topic", &a, &error);

	*compacted = a && a->compacted;
	ask_free(a);
	return answer;
}

/* the offsets of an answer; -1 where there is none, with the error of the last of them */
static void
take_offsets(CdpConsumer *c, const rd_kafka_topic_partition_list_t *list, int64 *offsets,
			 const char **error)
{
	for (int i = 0; i < list->cnt; i++)
	{
		const rd_kafka_topic_partition_t *p = &list->elems[i];

		offsets[i] = p->err || p->offset < 0 ? -1 : p->offset;
		if (offsets[i] < 0 && error)
			set_error(c, error, "offsets of topic", p->topic,
					  p->err ? p->err : RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE);
	}
}

/* high is the last stable offset: everything below can be read now, or never */
static CdpAnswer
kafka_offsets(CdpConsumer *c, const CdpPartition *parts, int n, uint64 tag, int64 *lows, int64 *highs,
			  const char **error)
{
	Ask		   *a;
	CdpAnswer	answer = put_question(c, make_question(ASK_BOUNDS, parts, n, tag), "offsets of topic", &a, error);

	if (answer == CDP_ANSWERED)
	{
		take_offsets(c, a->low, lows, error);
		take_offsets(c, a->high, highs, error);
	}
	ask_free(a);
	return answer;
}

static CdpAnswer
kafka_later(CdpConsumer *c, const CdpPartition *parts, const TimestampTz *times, int n, uint64 tag,
			int64 *offsets, const char **error)
{
	Ask		   *q = make_question(ASK_TIMES, parts, n, tag);
	Ask		   *a;
	CdpAnswer	answer;

	for (int i = 0; q && i < n; i++)
		q->about->elems[i].offset = times[i] / 1000 + EPOCH_MS + 1;
	answer = put_question(c, q, "times of topic", &a, error);
	if (answer == CDP_ANSWERED)
		take_offsets(c, a->low, offsets, NULL);
	ask_free(a);
	return answer;
}

/* ---------------------------------------------------------------- assigning */

/* throws away what the library had ready for the assignment before */
static void
drop_queue(CdpConsumer *c)
{
	rd_kafka_message_t *taken[TAKE_MESSAGES];
	ssize_t		n;

	while ((n = rd_kafka_consume_batch_queue(c->queue, 0, taken, TAKE_MESSAGES)) > 0)
		for (ssize_t i = 0; i < n; i++)
			rd_kafka_message_destroy(taken[i]);
	c->last = NULL;
}

/* our own picture of the assignment, and the library's */
static bool
set_assigned(CdpConsumer *c, const CdpPartition *parts, const int64 *positions, int n)
{
	Assigned   *a = realloc(c->assigned, Max(n, 1) * sizeof(Assigned));

	if (a == NULL)
		return false;
	c->assigned = a;
	c->nassigned = n;
	if (c->list)
		rd_kafka_topic_partition_list_destroy(c->list);
	c->list = rd_kafka_topic_partition_list_new(n);
	for (int i = 0; i < n; i++)
	{
		copy_topic(a[i].topic, parts[i].topic);
		a[i].partition = parts[i].partition;
		a[i].next = positions[i];
		rd_kafka_topic_partition_list_add(c->list, a[i].topic, a[i].partition)->offset = a[i].next;
	}
	return true;
}

/* bodies that were not released are gone afterwards, events too */
static bool
kafka_assign(CdpConsumer *c, const CdpPartition *parts, const int64 *positions, int n,
			 const char **error)
{
	rd_kafka_resp_err_t err;

	/* nothing of the old assignment may come after the new one */
	err = rd_kafka_assign(c->rk, NULL);
	drop_kept(c, c->nkept);
	drop_queue(c);
	c->nevents = 0;
	c->at_rest = false;
	if (!err && !set_assigned(c, parts, positions, n))
		err = RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
	if (!err && n > 0)
		err = rd_kafka_assign(c->rk, c->list);
	*error = NULL;
	if (err)
		set_error(c, error, "assignment of", n > 0 ? c->list->elems[0].topic : "", err);
	return !err;
}

/* NULL when it is not ours (any more) */
static Assigned *
find_assigned(CdpConsumer *c, const char *topic, int32 partition)
{
	for (int i = 0; i < c->nassigned; i++)
		if (c->assigned[i].partition == partition && strcmp(c->assigned[i].topic, topic) == 0)
			return &c->assigned[i];
	return NULL;
}

/* the same for a message; messages come in runs of one partition */
static Assigned *
find_assigned_of(CdpConsumer *c, const rd_kafka_message_t *m)
{
	if (c->last && c->last_topic == m->rkt && c->last->partition == m->partition)
		return c->last;
	c->last_topic = m->rkt;
	c->last = m->rkt ? find_assigned(c, rd_kafka_topic_name(m->rkt), m->partition) : NULL;
	return c->last;
}

static int64
kafka_position(CdpConsumer *c, const CdpPartition *part)
{
	char		topic[TOPIC_BYTES];
	Assigned   *a;

	copy_topic(topic, part->topic);
	a = find_assigned(c, topic, part->partition);
	return a ? a->next : -1;
}

/* ---------------------------------------------------------------- polling */

/* takes the next messages of the library's queue; false: none, or no memory */
static bool
take(CdpConsumer *c)
{
	rd_kafka_message_t *taken[TAKE_MESSAGES];
	ssize_t		n;

	if (c->nkept + TAKE_MESSAGES > c->max_kept)
	{
		int			max = Max(c->max_kept * 2, 1024);
		Kept	   *k = realloc(c->kept, max * sizeof(Kept));

		if (k == NULL)
			return false;
		c->kept = k;
		c->max_kept = max;
	}
	n = rd_kafka_consume_batch_queue(c->queue, 0, taken, TAKE_MESSAGES);
	for (ssize_t i = 0; i < n; i++)
	{
		c->kept[c->nkept].headers = NULL;
		c->kept[c->nkept++].message = taken[i];
	}
	return n > 0;
}

/* keeps what the library has fetched, and lets it fetch no more */
static void
rest(CdpConsumer *c)
{
	while (take(c))
		;
	if (rd_kafka_assign(c->rk, NULL))
		return;
	drop_queue(c);				/* came meanwhile, is fetched again */
	c->at_rest = true;
}

static void
end_rest(CdpConsumer *c)
{
	rd_kafka_resp_err_t err;

	for (int i = 0; i < c->nassigned; i++)
		c->list->elems[i].offset = c->assigned[i].next;
	err = rd_kafka_assign(c->rk, c->list);
	if (err)
		add_event(c, NULL, -1, rd_kafka_err2str(err))->fatal = true;
	c->at_rest = false;
}

/* headers is what n messages had: is it likely that too much of the kind waits? */
static bool
too_much_waits(const CdpConsumer *c, int n, Size headers)
{
	return !c->at_rest && n > 0 &&
		headers / n * (c->nkept - c->next_kept + rd_kafka_queue_length(c->queue)) > HEADERS_AHEAD;
}

/* an entry of the queue that is no message: the end of a partition, or an error */
static void
note_message_error(CdpConsumer *c, const rd_kafka_message_t *m)
{
	Assigned   *a = find_assigned_of(c, m);
	Event	   *e;

	switch (m->err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			if (a)
				a->next = Max(a->next, m->offset);
			break;

			/* about the group, which is never used */
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
		case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
			break;

		default:
			e = add_event(c, m->rkt ? rd_kafka_topic_name(m->rkt) : NULL, m->partition,
						  rd_kafka_message_errstr(m));
			e->out_of_range = m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
				m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
			e->fatal = m->err == RD_KAFKA_RESP_ERR__FATAL;
	}
}

/* the library parses headers when they are asked for; returns their bytes */
static Size
copy_headers(Kept *k, CdpMessage *out)
{
	rd_kafka_headers_t *headers;
	size_t		n;
	Size		bytes = 0;

	if (rd_kafka_message_headers(k->message, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return 0;
	n = rd_kafka_header_cnt(headers);
	k->headers = n > 0 ? calloc(n, sizeof(CdpHeader)) : NULL;
	if (k->headers == NULL)
		return 0;
	for (size_t i = 0; i < n; i++)
	{
		const char *name;
		const void *value;
		size_t		len;

		if (rd_kafka_header_get_all(headers, i, &name, &value, &len) != RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		k->headers[i].name = cdp_str(name);
		k->headers[i].value = bytes_of(value, len);
		bytes += k->headers[i].name.len + k->headers[i].value.len + 2;	/* their lengths */
		out->nheaders++;
	}
	out->headers = k->headers;
	return bytes;
}

/* milliseconds since 1970 to the server's microseconds since 2000 */
static TimestampTz
record_time(const rd_kafka_message_t *m, bool *log_append)
{
	rd_kafka_timestamp_type_t type;
	int64		ms = rd_kafka_message_timestamp(m, &type);

	*log_append = type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
	if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || ms < 0 ||
		ms >= END_TIMESTAMP / 1000 + EPOCH_MS)
		return CDP_NO_TIME;
	return (ms - EPOCH_MS) * 1000;
}

/* fills out and adds to the bytes of headers; false when the message is from before the last assignment */
static bool
hand_out(CdpConsumer *c, Kept *k, CdpMessage *out, Size *headers)
{
	rd_kafka_message_t *m = k->message;
	Assigned   *a = find_assigned_of(c, m);

	if (a == NULL || m->offset < a->next)
		return false;
	a->next = m->offset + 1;
	memset(out, 0, sizeof(*out));
	out->body = bytes_of(m->payload, m->len);
	out->key = bytes_of(m->key, m->key_len);
	*headers += copy_headers(k, out);
	out->topic = cdp_str(a->topic);
	out->partition = m->partition;
	out->offset = m->offset;
	out->record_time = record_time(m, &out->log_append_time);
	return true;
}

/* see NUDGE_MS: a request whose answer nobody waits for wakes the brokers' threads */
static void
nudge(CdpConsumer *c, int messages, Size bytes)
{
	rd_kafka_topic_partition_list_t *list;
	int64		now;

	if (!c->nudge || (messages < NUDGE_MESSAGES && bytes < NUDGE_BYTES))
		return;
	now = now_ms();
	if (now - c->nudged_at < NUDGE_MS)
		return;
	c->nudged_at = now;
	list = rd_kafka_topic_partition_list_copy(c->list);
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = RD_KAFKA_OFFSET_END;
	(void) rd_kafka_offsets_for_times(c->rk, list, 0);
	rd_kafka_topic_partition_list_destroy(list);
}

static void
drain_wakeup(CdpConsumer *c)
{
	char		bytes[64];

	while (read(c->wakeup[0], bytes, sizeof(bytes)) > 0)
		;
}

/* the library writes only when its queue was empty: say again that there is more, or may be after a rest */
static void
rearm_wakeup(CdpConsumer *c)
{
	if ((c->next_kept < c->nkept || rd_kafka_queue_length(c->queue) > 0 || c->at_rest) &&
		write(c->wakeup[1], "m", 1) < 0)
		Assert(errno == EAGAIN);	/* full: it is readable anyway */
}

/* see CdpTransport; a first message that is bigger than max_bytes is handed out alone */
static int
kafka_poll(CdpConsumer *c, CdpMessage *out, int max, Size max_bytes)
{
	Size		bytes = 0,
				headers = 0;
	int			n = 0;

	if (c->at_rest && c->next_kept == c->nkept)
		end_rest(c);
	drain_wakeup(c);
	c->last = NULL;
	while (n < max && (c->next_kept < c->nkept || take(c)))
	{
		Kept	   *k = &c->kept[c->next_kept];

		if (k->message->err)
			note_message_error(c, k->message);
		else
		{
			if (n > 0 && bytes + headers + k->message->len > max_bytes)
				break;
			if (hand_out(c, k, &out[n], &headers))
			{
				bytes += k->message->len + out[n].nheaders * HEADER_BYTES;
				out[n].ordinal = n + 1;
				n++;
			}
		}
		c->next_kept++;
	}
	if (too_much_waits(c, n, headers))
		rest(c);
	rearm_wakeup(c);
	nudge(c, n, bytes);
	return n;
}

/* ---------------------------------------------------------------- the table */

const CdpTransport *
cdp_kafka_transport(void)
{
	static const CdpTransport transport = {
		.open = kafka_open,
		.close = kafka_close,
		.wakeup_fd = kafka_wakeup_fd,
		.partitions = kafka_partitions,
		.assign = kafka_assign,
		.compacted = kafka_compacted,
		.offsets = kafka_offsets,
		.later = kafka_later,
		.poll = kafka_poll,
		.release = kafka_release,
		.position = kafka_position,
		.next_error = kafka_next_error,
	};

	return &transport;
}
