/*
 * driver.c: src/source/kafka.c and options.c outside the server, driven by
 * lines on standard input (kafka.py writes them).
 *
 *   open BROKERS [OPTION=VALUE]...    ok | error TEXT
 *   partitions TOPIC TAG              ok TOPIC:PARTITION ... | pending | error TEXT
 *   offsets TOPIC PARTITION TAG       ok LOW HIGH | pending | error TEXT
 *   later TOPIC PARTITION TIME TAG    ok OFFSET | pending | error TEXT
 *   assign TOPIC:PARTITION:POS ...    ok | error TEXT
 *   batch MESSAGES BYTES NANOSECONDS  of one poll; how long a message is worked on
 *   read COUNT MS [FILE]              ok MESSAGES BYTES SECONDS POLLS LARGEST
 *   until TOPIC PARTITION POS MS      reads on; ok POSITION
 *   position TOPIC PARTITION          ok POSITION
 *   errors                            event FATAL RANGE TOPIC PARTITION TEXT ..., ok
 *   slowest                           ok MS CALL, the longest call so far but open and close,
 *                                     not counting the time in which no processor was free
 *   option NAME VALUE                 ok | refused SENTENCE
 *   close                             ok SECONDS
 *
 * read waits for the transport's descriptor before each poll, as a worker does,
 * and polls once for each time that it is readable: a lost wake-up hangs it.
 * FILE gets a line for each message: partition, offset, time stamp, its type,
 * key, body and headers in hexadecimal, "-" for null.
 */
#include "postgres.h"

#include <fcntl.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "source/source.h"

#define MAX_WORDS	1100
#define MAX_BATCH	100000
#define MAX_EVENTS	1000

extern const CdpTransport *cdp_kafka_transport(void);

typedef struct SeenEvent
{
	bool		fatal,
				out_of_range;
	char		topic[256],
				text[600];
	int			partition;
} SeenEvent;

/* of secrets.c, which needs a server */
const char *
cdp_certificates_path(void)
{
	return "/certificates";
}

static const CdpTransport *transport;
static CdpConsumer *consumer;
static CdpMessage *messages;
static int	batch_messages = 10000;
static Size batch_bytes = 16 * 1024 * 1024;
static int64 work_ns = 0;
static SeenEvent events[MAX_EVENTS];
static int	nevents;
static double slowest;
static const char *slowest_call = "none";

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* for which this thread could have run, and a busy machine had no processor for it */
static double
seconds_in_queue(void)
{
	static int	fd = -1;
	char		line[100] = "";
	unsigned long long ran,
				queued;

	if (fd < 0)
		fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, line, sizeof(line) - 1, 0) <= 0 || sscanf(line, "%llu %llu", &ran, &queued) != 2)
		return 0;
	return queued / 1e9;
}

static double
seconds_of_ours(void)
{
	return seconds() - seconds_in_queue();
}

static void
note_time(const char *call, double began)
{
	double		took = (seconds_of_ours() - began) * 1000;

	if (took > slowest)
	{
		slowest = took;
		slowest_call = call;
	}
}

/* runs one call of the transport and remembers how long it took */
#define TIMED(call, expression) \
	do { double began_ = seconds_of_ours(); expression; note_time(call, began_); } while (0)

static void
print_result(bool ok, const char *error)
{
	if (ok)
		printf("ok\n");
	else
		printf("error %s\n", error ? error : "no text");
}

/* false: there is no answer, which is said */
static bool
print_answer(CdpAnswer answer, const char *error)
{
	if (answer == CDP_NOT_YET)
		printf("pending\n");
	else if (answer == CDP_NO_ANSWER)
		print_result(false, error);
	return answer == CDP_ANSWERED;
}

/* "TOPIC:PARTITION[:POSITION]" */
static CdpPartition
parse_partition(char *word, int64 *position)
{
	char	   *partition = strchr(word, ':');
	char	   *pos = strchr(partition + 1, ':');

	if (pos && position)
		*position = strtoll(pos + 1, NULL, 10);
	return (CdpPartition)
	{
		{
			word, (uint32) (partition - word)
		}, atoi(partition + 1)
	};
}

static void
collect_events(void)
{
	CdpPartition part;
	bool		fatal,
				out_of_range;
	const char *text;

	while (transport->next_error(consumer, &fatal, &part, &out_of_range, &text))
	{
		SeenEvent  *e = &events[nevents < MAX_EVENTS - 1 ? nevents++ : nevents];

		e->fatal = fatal;
		e->out_of_range = out_of_range;
		snprintf(e->topic, sizeof(e->topic), "%.*s", (int) part.topic.len, part.topic.len ? part.topic.s : "");
		e->partition = part.partition;
		snprintf(e->text, sizeof(e->text), "%s", text);
	}
}

static void
write_hex(FILE *f, CdpStr s)
{
	if (s.s == NULL)
		fputc('-', f);
	for (uint32 i = 0; s.s && i < s.len; i++)
		fprintf(f, "%02x", (unsigned char) s.s[i]);
}

static void
write_message(FILE *f, const CdpMessage *m)
{
	fprintf(f, "%d\t" INT64_FORMAT "\t" INT64_FORMAT "\t%s\t", m->partition, m->offset,
			m->record_time, m->log_append_time ? "append" : "create");
	write_hex(f, m->key);
	fputc('\t', f);
	write_hex(f, m->body);
	fputc('\t', f);
	for (int i = 0; i < m->nheaders; i++)
	{
		write_hex(f, m->headers[i].name);
		fputc('=', f);
		write_hex(f, m->headers[i].value);
		fputc(';', f);
	}
	fputc('\n', f);
}

typedef struct Total
{
	int64		messages,
				bytes,
				polls,
				largest;		/* bytes of one poll */
} Total;

/* takes as long as a worker would, without the processor that the library may need */
static void
work(int n)
{
	struct timespec t = {n * work_ns / 1000000000, n * work_ns % 1000000000};

	if (work_ns > 0)
		nanosleep(&t, NULL);
}

/* one wait and one poll; writes what came */
static void
read_once(int wait_ms, int64 wanted, FILE *f, Total *total)
{
	struct pollfd p = {.fd = transport->wakeup_fd(consumer),.events = POLLIN};
	int64		bytes = 0;
	int			n;

	if (poll(&p, 1, wait_ms) <= 0)
		return;
	TIMED("poll", n = transport->poll(consumer, messages, Min(batch_messages, wanted), batch_bytes));
	total->polls++;
	for (int i = 0; i < n; i++)
	{
		bytes += messages[i].body.len;
		if (f)
			write_message(f, &messages[i]);
	}
	work(n);
	total->messages += n;
	total->bytes += bytes;
	total->largest = Max(total->largest, bytes);
	collect_events();
	TIMED("release", transport->release(consumer));
}

static void
command_read(char **word, int n)
{
	int64		wanted = strtoll(word[1], NULL, 10);
	double		began = seconds();
	double		last = began;
	double		end = began + atoi(word[2]) / 1000.0;
	FILE	   *f = n > 3 ? fopen(word[3], "w") : NULL;
	Total		total = {0};

	while (total.messages < wanted && seconds() < end)
	{
		int64		before = total.messages;

		read_once((int) ((end - seconds()) * 1000) + 1, wanted - total.messages, f, &total);
		if (total.messages > before)
			last = seconds();
	}
	if (f)
		fclose(f);
	printf("ok " INT64_FORMAT " " INT64_FORMAT " %.6f " INT64_FORMAT " " INT64_FORMAT "\n",
		   total.messages, total.bytes, last - began, total.polls, total.largest);
}

static int64
position_of(char *topic, const char *partition)
{
	CdpPartition part = {cdp_str(topic), atoi(partition)};
	int64		position;

	TIMED("position", position = transport->position(consumer, &part));
	return position;
}

static void
command_until(char **word)
{
	int64		wanted = strtoll(word[3], NULL, 10);
	double		end = seconds() + atoi(word[4]) / 1000.0;
	Total		total = {0};

	while (position_of(word[1], word[2]) < wanted && seconds() < end)
		read_once((int) ((end - seconds()) * 1000) + 1, MAX_BATCH, NULL, &total);
	printf("ok " INT64_FORMAT "\n", position_of(word[1], word[2]));
}

static void
command_open(char **word, int n)
{
	const char *names[MAX_WORDS];
	const char *values[MAX_WORDS];
	const char *error;

	for (int i = 2; i < n; i++)
	{
		char	   *equal = strchr(word[i], '=');

		*equal = '\0';
		names[i - 2] = word[i];
		values[i - 2] = equal + 1;
	}
	nevents = 0;
	consumer = transport->open(word[1], names, values, n - 2, &error);
	print_result(consumer != NULL, error);
}

static void
command_partitions(char **word)
{
	CdpPartition *parts;
	const char *error;
	int			count;
	CdpAnswer	answer;

	TIMED("partitions", answer = transport->partitions(consumer, word[1], atoi(word[2]), &parts, &count, &error));
	if (!print_answer(answer, error))
		return;
	printf("ok");
	for (int i = 0; i < count; i++)
		printf(" %.*s:%d", (int) parts[i].topic.len, parts[i].topic.s, parts[i].partition);
	printf("\n");
}

static void
command_assign(char **word, int n)
{
	CdpPartition parts[MAX_WORDS];
	int64		positions[MAX_WORDS];
	const char *error;
	bool		ok;

	for (int i = 1; i < n; i++)
		parts[i - 1] = parse_partition(word[i], &positions[i - 1]);
	TIMED("assign", ok = transport->assign(consumer, parts, positions, n - 1, &error));
	print_result(ok, error);
}

static void
command_offsets(char **word)
{
	CdpPartition part = {cdp_str(word[1]), atoi(word[2])};
	int64		low,
				high;
	const char *error;
	CdpAnswer	answer;

	TIMED("offsets", answer = transport->offsets(consumer, &part, 1, atoi(word[3]), &low, &high, &error));
	if (print_answer(error ? CDP_NO_ANSWER : answer, error))
		printf("ok " INT64_FORMAT " " INT64_FORMAT "\n", low, high);
}

/* the first record later than a time stamp as read prints it */
static void
command_later(char **word)
{
	CdpPartition part = {cdp_str(word[1]), atoi(word[2])};
	TimestampTz time = strtoll(word[3], NULL, 10);
	int64		offset;
	const char *error;
	CdpAnswer	answer;

	TIMED("later", answer = transport->later(consumer, &part, &time, 1, atoi(word[4]), &offset, &error));
	if (print_answer(answer, error))
		printf("ok " INT64_FORMAT "\n", offset);
}

static void
command_errors(void)
{
	for (int i = 0; i < nevents; i++)
		printf("event %d %d %s %d %s\n", events[i].fatal, events[i].out_of_range,
			   events[i].topic[0] ? events[i].topic : "-", events[i].partition, events[i].text);
	nevents = 0;
	printf("ok\n");
}

static void
command_close(void)
{
	double		began = seconds();

	transport->close(consumer);
	consumer = NULL;
	printf("ok %.3f\n", seconds() - began);
}

static void
command_option(char **word, int n)
{
	const char *why = cdp_kafka_option_error(word[1], n > 2 ? word[2] : "");

	if (why)
		printf("refused %s\n", why);
	else
		printf("ok\n");
}

static void
run_command(char **word, int n)
{
	if (strcmp(word[0], "open") == 0)
		command_open(word, n);
	else if (strcmp(word[0], "option") == 0)
		command_option(word, n);
	else if (strcmp(word[0], "batch") == 0)
	{
		batch_messages = Min(atoi(word[1]), MAX_BATCH);
		batch_bytes = strtoull(word[2], NULL, 10);
		work_ns = strtoll(word[3], NULL, 10);
		printf("ok\n");
	}
	else if (strcmp(word[0], "slowest") == 0)
		printf("ok %.1f %s\n", slowest, slowest_call);
	else if (consumer == NULL)
		printf("error not open\n");
	else if (strcmp(word[0], "partitions") == 0)
		command_partitions(word);
	else if (strcmp(word[0], "assign") == 0)
		command_assign(word, n);
	else if (strcmp(word[0], "offsets") == 0)
		command_offsets(word);
	else if (strcmp(word[0], "later") == 0)
		command_later(word);
	else if (strcmp(word[0], "read") == 0)
		command_read(word, n);
	else if (strcmp(word[0], "until") == 0)
		command_until(word);
	else if (strcmp(word[0], "position") == 0)
		printf("ok " INT64_FORMAT "\n", position_of(word[1], word[2]));
	else if (strcmp(word[0], "errors") == 0)
		command_errors();
	else if (strcmp(word[0], "close") == 0)
		command_close();
	else
		printf("error unknown command\n");
}

int
main(void)
{
	static char line[1024 * 64];

	transport = cdp_kafka_transport();
	messages = malloc(MAX_BATCH * sizeof(CdpMessage));
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin))
	{
		char	   *word[MAX_WORDS];
		char	   *rest = line;
		char	   *w;
		int			n = 0;

		while (n < MAX_WORDS && (w = strtok_r(rest, " \n", &rest)) != NULL)
			word[n++] = w;
		if (n > 0)
			run_command(word, n);
		fflush(stdout);
	}
	if (consumer)
		transport->close(consumer);
	free(messages);
	return 0;
}
