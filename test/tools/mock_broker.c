/*
 * mock_broker.c: librdkafka's mock cluster as a program, for the demo and for
 * error injection.
 *
 *   mock_broker [--brokers N] [--partitions N] [--topic NAME[:N]]...
 *               [--port-file FILE] [--commands FIFO]
 *
 * Prints the bootstrap.servers of the cluster on standard output, writes them
 * into FILE, and serves on the loopback until SIGTERM or SIGINT.  A topic that
 * is not named is made when it is first asked for, with --partitions.  Keeps
 * about 5 MB of a partition, oldest first out: produce at the pace at which it
 * is consumed.  It knows no transactions and no TLS; use a real broker there.
 *
 * Commands, one a line, on standard input or from FIFO (made if absent); each
 * is answered by a line "ok" or "error: ..." on standard output:
 *
 *   down BROKER | up BROKER           brokers count from 1
 *   rtt BROKER MILLISECONDS           slower answers
 *   fail APIKEY CODE COUNT            the next COUNT requests of this kind fail
 *                                     (1 Fetch, 2 ListOffsets, 3 Metadata; code 6
 *                                     is NOT_LEADER_FOR_PARTITION, -195 cuts the
 *                                     connection)
 *   topic NAME PARTITIONS             makes a topic
 *   topic-error NAME CODE             metadata of the topic says CODE; 0: no more
 *   leader NAME PARTITION BROKER      moves the leader; -1: nobody leads
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define MAX_TOPICS		64
#define LINE_BYTES		1024
#define MAX_FAILURES	10000

typedef struct Options
{
	int			brokers,
				partitions,
				ntopics;
	const char *topics[MAX_TOPICS];
	const char *port_file;
	const char *fifo;
} Options;

static volatile sig_atomic_t stopping = 0;

static void
on_signal(int signo)
{
	(void) signo;
	stopping = 1;
}

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "mock_broker: %s: %s\n", what, why);
	exit(1);
}

static void
usage(FILE *out)
{
	fprintf(out, "usage: mock_broker [--brokers N] [--partitions N] [--topic NAME[:N]]...\n"
			"                   [--port-file FILE] [--commands FIFO]\n");
}

/* a number within bounds, or the end of the program */
static int
number(const char *text, int min, int max, const char *what)
{
	char	   *end;
	long		n = strtol(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < min || n > max)
		die(what, "not a number in its range");
	return (int) n;
}

static Options
parse_options(int argc, char **argv)
{
	Options		o = {.brokers = 1,.partitions = 4};

	for (int i = 1; i < argc; i += 2)
	{
		const char *name = argv[i];

		if (strcmp(name, "--help") == 0)
		{
			usage(stdout);
			exit(0);
		}
		if (i + 1 == argc)
			die(name, "unknown, or its value is missing");
		if (strcmp(name, "--brokers") == 0)
			o.brokers = number(argv[i + 1], 1, 16, name);
		else if (strcmp(name, "--partitions") == 0)
			o.partitions = number(argv[i + 1], 1, 1000, name);
		else if (strcmp(name, "--topic") == 0 && o.ntopics < MAX_TOPICS)
			o.topics[o.ntopics++] = argv[i + 1];
		else if (strcmp(name, "--port-file") == 0)
			o.port_file = argv[i + 1];
		else if (strcmp(name, "--commands") == 0)
			o.fifo = argv[i + 1];
		else
			die(name, "unknown option, or one too many");
	}
	return o;
}

/* a client that exists only because the cluster needs one to live in */
static rd_kafka_t *
make_host(void)
{
	char		text[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;

	/* warnings only: it would note that it has no brokers */
	rd_kafka_conf_set(conf, "log_level", "4", text, sizeof(text));
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	if (rk == NULL)
		die("librdkafka", text);
	return rk;
}

static rd_kafka_resp_err_t
make_topic(rd_kafka_mock_cluster_t *cluster, const char *name, int partitions, int brokers)
{
	return rd_kafka_mock_topic_create(cluster, name, partitions, brokers < 3 ? brokers : 3);
}

/* NAME or NAME:N */
static void
make_first_topics(rd_kafka_mock_cluster_t *cluster, const Options *o)
{
	for (int i = 0; i < o->ntopics; i++)
	{
		char		name[LINE_BYTES];
		char	   *colon;
		rd_kafka_resp_err_t err;

		snprintf(name, sizeof(name), "%s", o->topics[i]);
		colon = strchr(name, ':');
		if (colon)
			*colon = '\0';
		err = make_topic(cluster, name,
						 colon ? number(colon + 1, 1, 1000, "--topic") : o->partitions,
						 o->brokers);
		if (err)
			die(name, rd_kafka_err2str(err));
	}
}

/* appears whole or not at all */
static void
write_port_file(const char *path, const char *servers)
{
	char		other[LINE_BYTES];
	FILE	   *f;

	snprintf(other, sizeof(other), "%s.new", path);
	f = fopen(other, "w");
	if (f == NULL || fprintf(f, "%s\n", servers) < 0 || fclose(f) != 0 ||
		rename(other, path) != 0)
		die(path, strerror(errno));
}

static rd_kafka_resp_err_t
fail_requests(rd_kafka_mock_cluster_t *cluster, int api, int code, int count)
{
	rd_kafka_resp_err_t *errors;

	if (count < 1 || count > MAX_FAILURES)
		return RD_KAFKA_RESP_ERR__INVALID_ARG;
	errors = malloc(count * sizeof(*errors));
	if (errors == NULL)
		return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
	for (int i = 0; i < count; i++)
		errors[i] = code;
	rd_kafka_mock_push_request_errors_array(cluster, api, count, errors);
	free(errors);
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* runs one line; the library's error code */
static rd_kafka_resp_err_t
run_command(rd_kafka_mock_cluster_t *cluster, const char *line, int brokers)
{
	char		name[256];
	int			a,
				b,
				c;

	if (sscanf(line, "down %d", &a) == 1)
		return rd_kafka_mock_broker_set_down(cluster, a);
	if (sscanf(line, "up %d", &a) == 1)
		return rd_kafka_mock_broker_set_up(cluster, a);
	if (sscanf(line, "rtt %d %d", &a, &b) == 2)
		return rd_kafka_mock_broker_set_rtt(cluster, a, b);
	if (sscanf(line, "fail %d %d %d", &a, &b, &c) == 3)
		return fail_requests(cluster, a, b, c);
	if (sscanf(line, "topic %255s %d", name, &a) == 2)
		return make_topic(cluster, name, a, brokers);
	if (sscanf(line, "topic-error %255s %d", name, &a) == 2)
	{
		rd_kafka_mock_topic_set_error(cluster, name, a);
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	if (sscanf(line, "leader %255s %d %d", name, &a, &b) == 3)
		return rd_kafka_mock_partition_set_leader(cluster, name, a, b);
	return RD_KAFKA_RESP_ERR__INVALID_ARG;
}

/* the lines in buf are run and removed; returns what is left of the last one */
static size_t
run_lines(rd_kafka_mock_cluster_t *cluster, char *buf, size_t len, int brokers)
{
	char	   *start = buf;
	char	   *end;

	while ((end = memchr(start, '\n', len - (start - buf))) != NULL)
	{
		rd_kafka_resp_err_t err;

		*end = '\0';
		err = run_command(cluster, start, brokers);
		if (err)
			printf("error: %s\n", rd_kafka_err2str(err));
		else
			printf("ok\n");
		start = end + 1;
	}
	len -= start - buf;
	memmove(buf, start, len);
	return len;
}

/* read and write, so that it never ends when a writer closes */
static int
open_fifo(const char *path)
{
	int			fd;

	if (mkfifo(path, 0600) != 0 && errno != EEXIST)
		die(path, strerror(errno));
	fd = open(path, O_RDWR);
	if (fd < 0)
		die(path, strerror(errno));
	return fd;
}

/* until a signal; the end of standard input only ends the commands */
static void
serve(rd_kafka_mock_cluster_t *cluster, int fd, int brokers, const sigset_t *waiting)
{
	char		buf[LINE_BYTES];
	size_t		len = 0;

	while (!stopping)
	{
		struct pollfd p = {.fd = fd,.events = POLLIN};
		ssize_t		n;

		if (ppoll(&p, 1, NULL, waiting) < 0)
			continue;
		n = read(fd, buf + len, sizeof(buf) - len);
		if (n <= 0)
			fd = -1;			/* poll ignores it */
		else
			len = run_lines(cluster, buf, len + n, brokers);
		if (len == sizeof(buf))
			len = 0;			/* no command is that long */
	}
}

int
main(int argc, char **argv)
{
	Options		o = parse_options(argc, argv);
	struct sigaction action = {.sa_handler = on_signal};
	sigset_t	stop,
				waiting;
	rd_kafka_t *host;
	rd_kafka_mock_cluster_t *cluster;

	setvbuf(stdout, NULL, _IOLBF, 0);

	/* the signals arrive in ppoll only, and in none of the library's threads */
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigprocmask(SIG_BLOCK, &stop, &waiting);

	host = make_host();
	cluster = rd_kafka_mock_cluster_new(host, o.brokers);
	if (cluster == NULL)
		die("librdkafka", "could not make a mock cluster");
	make_first_topics(cluster, &o);
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	if (o.port_file)
		write_port_file(o.port_file, rd_kafka_mock_cluster_bootstraps(cluster));
	serve(cluster, o.fifo ? open_fifo(o.fifo) : STDIN_FILENO, o.brokers, &waiting);

	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(host);
	return 0;
}
