/*
 * options.c: which options of librdkafka a source may set.
 *
 * An allow-list: what is not on it is refused, so that a new version of the
 * library adds nothing by itself.  Options that load code, run commands, show
 * secrets or would break exactly-once have a reason of their own in the
 * message; secrets come from the secrets file, never from a table.  Runs in
 * clients' backends when a source is created or altered: knows nothing of the
 * library but names.
 */
#include "cdp.h"

#include <ctype.h>
#include <stdlib.h>

#include "source/source.h"

/* how the value of an allowed option is checked */
typedef struct CdpKafkaOption
{
	const char *name;
	const char *words;			/* allowed values between blanks; NULL: see below */
	int64		min,
				max;			/* a number; 0, 0: text, or a file when path */
	bool		path;
} CdpKafkaOption;

/* the numbers bound what a worker's memory can become */
static const CdpKafkaOption allowed[] = {
	{"client.id"},
	{"security.protocol", " plaintext ssl sasl_plaintext sasl_ssl "},
	{"sasl.mechanisms", " PLAIN SCRAM-SHA-256 SCRAM-SHA-512 "},
	{"sasl.mechanism", " PLAIN SCRAM-SHA-256 SCRAM-SHA-512 "},
	{"sasl.username"},
	{"ssl.ca.location", .path = true},
	{"ssl.certificate.location", .path = true},
	{"ssl.key.location", .path = true},
	{"ssl.endpoint.identification.algorithm", " https "},
	{"enable.ssl.certificate.verification", " true "},
	{"session.timeout.ms", NULL, 1, 3600000},
	{"heartbeat.interval.ms", NULL, 1, 3600000},
	{"max.poll.interval.ms", NULL, 1, 86400000},
	{"fetch.wait.max.ms", NULL, 1, 10000},
	{"fetch.error.backoff.ms", NULL, 0, 10000},
	{"fetch.min.bytes", NULL, 1, 1048576},
	{"fetch.max.bytes", NULL, 524288, 16777216},
	{"fetch.message.max.bytes", NULL, 1024, 16777216},
	{"max.partition.fetch.bytes", NULL, 1024, 16777216},
	{"receive.message.max.bytes", NULL, 20000000, 200000000},
	{"queued.min.messages", NULL, 1, 100000},
	{"queued.max.messages.kbytes", NULL, 1, 65536},
};

/* why some of the others are refused; a name that ends in '*' is a prefix */
static const struct
{
	const char *name;
	const char *why;
}			refused[] = {
	{"group.id", "It is set by cdp: positions are kept in the database and no group is joined."},
	{"group.*", "No consumer group is joined: cdp assigns the partitions itself."},
	{"auto.offset.reset", "It is set by cdp: a lost position is reported, never skipped. Use the source's option \"start\"."},
	{"isolation.level", "It is set by cdp: aborted transactions are never read."},
	{"enable.auto.commit", "It is set by cdp: positions are committed with the events."},
	{"enable.auto.offset.store", "It is set by cdp: positions are committed with the events."},
	{"enable.partition.eof", "It is set by cdp."},
	{"allow.auto.create.topics", "It is set by cdp: reading a topic never creates it."},
	{"bootstrap.servers", "The brokers are an argument of their own."},
	{"metadata.broker.list", "The brokers are an argument of their own."},
	{"sasl.password", "Secrets are read from the secrets file, never from an option."},
	{"ssl.key.password", "Secrets are read from the secrets file, never from an option."},
	{"ssl.keystore.*", "Secrets are read from the secrets file, never from an option."},
	{"ssl.key.pem", "Secrets are read from the secrets file, never from an option."},
	{"sasl.oauthbearer.*", "The mechanism OAUTHBEARER is not supported."},
	{"enable.sasl.oauthbearer.*", "The mechanism OAUTHBEARER is not supported."},
	{"sasl.kerberos.*", "The mechanism GSSAPI is not supported, since it runs a shell command."},
	{"plugin.library.paths", "It loads code into the server."},
	{"interceptors", "It loads code into the server."},
	{"ssl.engine.*", "It loads code into the server."},
	{"ssl.providers", "It loads code into the server."},
	{"debug", "It writes secrets and personal data into the log."},
};

static bool
name_matches(const char *pattern, const char *name)
{
	size_t		n = strlen(pattern);

	if (n > 0 && pattern[n - 1] == '*')
		return strncmp(pattern, name, n - 1) == 0;
	return strcmp(pattern, name) == 0;
}

static const char *
number_error(const CdpKafkaOption *o, const char *value)
{
	char	   *end;
	int64		n = strtoll(value, &end, 10);

	if (*end != '\0' || !isdigit((unsigned char) value[0]) || strlen(value) > 12)
		return "Its value must be a whole number.";
	if (n < o->min || n > o->max)
		return psprintf("Its value must be between " INT64_FORMAT " and " INT64_FORMAT ".",
						o->min, o->max);
	return NULL;
}

static const char *
text_error(const CdpKafkaOption *o, const char *value)
{
	if (value[0] == '\0')
		return "Its value must not be empty.";
	if (strlen(value) >= MAXPGPATH)
		return "Its value is too long.";
	for (const char *p = value; *p; p++)
		if ((unsigned char) *p < ' ' || *p == 0x7f)
			return "Its value must not contain control characters.";
	return NULL;
}

/* so that nobody reads, through the client, what only the server may read */
static const char *
path_error(const char *value)
{
	const char *directory = cdp_certificates_path();
	size_t		len = strlen(directory);

	if (strncmp(value, directory, len) == 0 && value[len] == '/' && value[len + 1] && strstr(value + len, "/.") == NULL)
		return NULL;
	return psprintf("Its value must be the path of a file in the directory \"%s\" (cdp.certificate_directory).", directory);
}

/* why the value is not allowed, or NULL */
static const char *
value_error(const CdpKafkaOption *o, const char *value)
{
	const char *why;

	if (o->words)
	{
		if (value[0] && !strchr(value, ' ') && strstr(o->words, psprintf(" %s ", value)))
			return NULL;
		return psprintf("Its value must be one of:%.*s.", (int) strlen(o->words) - 1, o->words);
	}
	if (o->max > 0)
		return number_error(o, value);
	why = text_error(o, value);
	return why == NULL && o->path ? path_error(value) : why;
}

/*
 * NULL when a source may set this option of librdkafka to this value, else a
 * full sentence why not, without the value.
 */
const char *
cdp_kafka_option_error(const char *name, const char *value)
{
	for (int i = 0; i < lengthof(allowed); i++)
		if (strcmp(allowed[i].name, name) == 0)
			return value_error(&allowed[i], value);
	for (int i = 0; i < lengthof(refused); i++)
		if (name_matches(refused[i].name, name))
			return refused[i].why;
	return "It is not one of the options of the Kafka client that a source may set.";
}
