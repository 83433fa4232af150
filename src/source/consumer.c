/*
 * consumer.c: how a source worker opens its Kafka consumer: the source's
 * options, the secrets, and when to open it again.
 *
 * What the options name outside the database (the secrets file, certificates,
 * a key) is read by the Kafka client once, when it is opened.  So at the pace
 * at which the worker looks around it compares what stat says of these files
 * with what it said when they were read.  When one changed, a second consumer
 * is opened, and takes the place of the first: a password or a certificate is
 * changed without a restart, and whoever put the old one out of force need not
 * tell us when.  If it cannot be opened (the file is gone, readable by others,
 * or incomplete) the first one stays, with a warning, until they change again.
 *
 * A source without SASL and files of its own looks at no file.
 */
#include "cdp.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "worker.h"

#define MORE_OPTIONS 3			/* those that we add at the most */

static const char *const file_options[] = {"ssl.ca.location", "ssl.certificate.location", "ssl.key.location"};

StaticAssertDecl(1 + lengthof(file_options) == CDP_WORKER_FILES, "the secrets file and these are looked at");

/* ---------------------------------------------------------------- the source's options */

static const char *
option_value(const Worker *w, const char *name)
{
	for (int i = 0; i < w->noptions; i++)
		if (strcmp(w->option_names[i], name) == 0)
			return w->option_values[i];
	return NULL;
}

static bool
uses_tls(const Worker *w)
{
	const char *protocol = option_value(w, "security.protocol");

	return protocol && strstr(protocol, "ssl");
}

static bool
needs_password(const Worker *w)
{
	const char *protocol = option_value(w, "security.protocol");

	return protocol && strncmp(protocol, "sasl_", 5) == 0;
}

static bool
uses_secrets(const Worker *w)
{
	return needs_password(w) || option_value(w, "ssl.key.location");
}

/* ---------------------------------------------------------------- the files */

static void
look_at(CdpFileMark *mark, const char *path)
{
	struct stat st;

	memset(mark, 0, sizeof(*mark));
	if (path == NULL || stat(path, &st) != 0)
		return;
	mark->device = st.st_dev;
	mark->inode = st.st_ino;
	mark->size = st.st_size;
	mark->changed_s = st.st_ctim.tv_sec;
	mark->changed_ns = st.st_ctim.tv_nsec;
}

/* What the files are that the consumer reads; true: they were others at the last call. */
static bool
look_at_files(Worker *w)
{
	CdpFileMark before[CDP_WORKER_FILES];

	memcpy(before, w->files, sizeof(before));
	look_at(&w->files[0], uses_secrets(w) ? cdp_secrets_path() : NULL);
	for (int i = 0; i < lengthof(file_options); i++)
		look_at(&w->files[1 + i], option_value(w, file_options[i]));
	return memcmp(before, w->files, sizeof(before)) != 0;
}

/* ---------------------------------------------------------------- opening */

static void
close_consumer(int code, Datum arg)
{
	Worker	   *w = (Worker *) DatumGetPointer(arg);

	if (w->consumer)
		w->transport->close(w->consumer);
	w->consumer = NULL;
}

/* The client with our options and those of s. */
static CdpConsumer *
open_with(const Worker *w, const CdpSecrets *s, const char **error)
{
	const char **names = palloc((w->noptions + MORE_OPTIONS) * sizeof(char *));
	const char **values = palloc((w->noptions + MORE_OPTIONS) * sizeof(char *));
	int			n = w->noptions;

	memcpy(names, w->option_names, n * sizeof(char *));
	memcpy(values, w->option_values, n * sizeof(char *));
	if (uses_tls(w))
	{
		names[n] = "ssl.endpoint.identification.algorithm"; /* "none" by default before librdkafka 2.0 */
		values[n++] = "https";
	}
	if (s->sasl_password)
	{
		names[n] = "sasl.password";
		values[n++] = s->sasl_password;
	}
	if (s->key_password)
	{
		names[n] = "ssl.key.password";
		values[n++] = s->key_password;
	}
	return w->transport->open(w->brokers, names, values, n, error);
}

/*
 * What cdp.create_source() has refused may have come in another way: by who
 * may write to all tables, with a dump, or before a setting was changed.
 */
static const char *
refused_option(const Worker *w)
{
	for (int i = 0; i < w->noptions; i++)
	{
		const char *why = cdp_kafka_option_error(w->option_names[i], w->option_values[i]);

		if (why)
			return psprintf("option \"%s\" is refused: %s", w->option_names[i], why);
	}
	return NULL;
}

/* The library names the option only, and reports what it did not find as it likes. */
static const char *
unreadable_file(const Worker *w)
{
	for (int i = 0; i < lengthof(file_options); i++)
	{
		const char *path = option_value(w, file_options[i]);

		if (path && access(path, R_OK) != 0)
			return psprintf("could not read the file \"%s\" of option \"%s\": %m", path, file_options[i]);
	}
	return NULL;
}

/* NULL with a text in error.  Reaches no broker. */
static CdpConsumer *
open_consumer(const Worker *w, const char **error)
{
	CdpSecrets	s = {NULL};
	CdpConsumer *consumer = NULL;
	bool		locked = false;

	*error = refused_option(w);
	if (*error == NULL)
		*error = unreadable_file(w);
	if (*error == NULL && uses_secrets(w))
		*error = cdp_secrets_read(&s, w->secret, w->brokers, needs_password(w));
	if (*error == NULL)
	{
		consumer = open_with(w, &s, error);
		locked = consumer == NULL && s.key_password == NULL && strstr(*error, "ssl.key.location");
	}
	cdp_secrets_wipe(&s);
	if (locked)
		*error = psprintf("%s; if the key has a password: no \"%s.ssl.key.password\" in secrets file \"%s\"",
						  *error, w->secret, cdp_secrets_path());
	return consumer;
}

static void
make_wait_set(Worker *w)
{
	w->wait_set = cdp_create_wait_event_set(3);
	AddWaitEventToSet(w->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(w->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(w->wait_set, WL_SOCKET_READABLE, w->transport->wakeup_fd(w->consumer), NULL, NULL);
}

void
cdp_consumer_open(Worker *w)
{
	CdpTransportFunction door = (CdpTransportFunction)
	load_external_function(CDP_KAFKA_LIBRARY, CDP_KAFKA_SYMBOL, true, NULL);
	const char *error;

	w->transport = door();
	before_shmem_exit(close_consumer, PointerGetDatum(w));
	look_at_files(w);
	w->consumer = open_consumer(w, &error);
	if (w->consumer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not open a Kafka consumer: %s", error)));
	make_wait_set(w);
}

/* The first consumer stays; NULL: no more. */
static void
note_refusal(Worker *w, const char *error)
{
	if (w->refusal)
		pfree(w->refusal);
	w->refusal = error ? MemoryContextStrdup(w->cxt, error) : NULL;
	if (error)
		ereport(WARNING,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("source \"%s\" goes on with the secrets and certificates that it has: %s", w->name, error)));
}

static void
take_consumer(Worker *w, CdpConsumer *consumer)
{
	FreeWaitEventSet(w->wait_set);
	close_consumer(0, PointerGetDatum(w));
	w->consumer = consumer;
	make_wait_set(w);
	cdp_parts_restart(w);
	ereport(LOG, (errmsg("source \"%s\" goes on with other secrets or certificates", w->name)));
}

void
cdp_consumer_renew(Worker *w)
{
	if (look_at_files(w))
	{
		const char *error;
		CdpConsumer *consumer = open_consumer(w, &error);

		note_refusal(w, error);
		if (consumer)
			take_consumer(w, consumer);
	}
	if (w->refusal)
		cdp_slot_error(w->slot, "08000", w->refusal);	/* again, as long as it lasts */
}
