/*
 * source.h: where messages come from.  Only kafka*.c include librdkafka, and
 * only a worker loads cdp_kafka.so, through the table of functions below.
 */
#ifndef CDP_SOURCE_H
#define CDP_SOURCE_H

#include "engine.h"

/* ---------------------------------------------------------------- transport: the door of cdp_kafka.so */

typedef struct CdpConsumer CdpConsumer;

typedef struct CdpPartition
{
	CdpStr		topic;
	int32		partition;
	int32		leader;			/* as partitions() found it; -1: none */
} CdpPartition;

typedef enum CdpAnswer
{
	CDP_ANSWERED,
	CDP_NOT_YET,				/* ask again with the same words */
	CDP_NO_ANSWER				/* absent topic, no broker, refused: *error says it */
} CdpAnswer;

/*
 * No call lasts longer than 200 ms, none throws, none pallocs in a callback.
 * Errors come as text in *error (static buffer of the consumer, no secrets).
 */
typedef struct CdpTransport
{
	CdpConsumer *(*open) (const char *brokers, const char **option_names, const char **option_values,
						  int noptions, const char **error);
	void		(*close) (CdpConsumer *c);
	int			(*wakeup_fd) (CdpConsumer *c);	/* readable when something waits in the queue */

	/*
	 * Questions to the cluster, which may take longer than a call.  The
	 * answer to a question of another tag is never taken for this one's: what
	 * it says was so after the first question of this tag.
	 */

	/* partitions of a topic, at least one, valid until the next call */
	CdpAnswer	(*partitions) (CdpConsumer *c, const char *topic, uint64 tag, CdpPartition **out,
							   int *n, const char **error);

	/* false, too, when the broker does not say */
	CdpAnswer	(*compacted) (CdpConsumer *c, const char *topic, uint64 tag, bool *compacted);

	/*
	 * log start and end (high watermark, read_committed: last stable offset)
	 * of partitions; -1: this one is not known, and *error is why
	 */
	CdpAnswer	(*offsets) (CdpConsumer *c, const CdpPartition *parts, int n, uint64 tag,
							int64 *lows, int64 *highs, const char **error);

	/*
	 * offset of the first record that is later than a time; -1: there is
	 * none, or it is not known
	 */
	CdpAnswer	(*later) (CdpConsumer *c, const CdpPartition *parts, const TimestampTz *times, int n,
						  uint64 tag, int64 *offsets, const char **error);

	/* (re)assign exactly these, from these positions */
	bool		(*assign) (CdpConsumer *c, const CdpPartition *parts, const int64 *positions, int n,
						   const char **error);

	/*
	 * Take what is in the queue, at most max messages or bytes; returns how
	 * many, 0: none.  Bodies belong to the consumer until release().
	 */
	int			(*poll) (CdpConsumer *c, CdpMessage *out, int max, Size max_bytes);
	void		(*release) (CdpConsumer *c);

	/*
	 * Position after the last message handed out, per partition; at the end
	 * it is past control records and aborted ones.  It may move in a poll
	 * that returns 0.  -1: not assigned.
	 */
	int64		(*position) (CdpConsumer *c, const CdpPartition *part);
	/* errors and events since the last call, one at a time; false: none */
	bool		(*next_error) (CdpConsumer *c, bool *fatal, CdpPartition *part, bool *out_of_range,
							   const char **text);
} CdpTransport;

/* symbol of cdp_kafka.so, found with load_external_function */
#define CDP_KAFKA_LIBRARY "$libdir/cdp_kafka"
#define CDP_KAFKA_SYMBOL "cdp_kafka_transport"
typedef const CdpTransport *(*CdpTransportFunction) (void);

/* ---------------------------------------------------------------- options.c */

/* NULL when a source may set this librdkafka option to this value, else a sentence why not */
extern const char *cdp_kafka_option_error(const char *name, const char *value);

/* ---------------------------------------------------------------- secrets.c */

/* what the secrets file says under one name; the values lie in buf */
typedef struct CdpSecrets
{
	const char *name;
	char	   *brokers;		/* those that may get it; NULL: absent, as the others */
	char	   *sasl_password;
	char	   *key_password;	/* of ssl.key.location */
	char	   *buf;			/* NULL: there is no file */
	Size		len;
} CdpSecrets;

extern const char *cdp_secrets_path(void);
extern const char *cdp_certificates_path(void); /* directory of the files that options may name */

/*
 * What brokers may get of the secret; to be wiped at once.  NULL, or what is
 * wrong: also that a password is needed and not there.  Throws nothing.
 */
extern const char *cdp_secrets_read(CdpSecrets *s, const char *name, const char *brokers, bool password);
extern void cdp_secrets_wipe(CdpSecrets *s);

#endif							/* CDP_SOURCE_H */
