/*
 * engine.h: the batch, as every stage of the engine sees it.
 *
 *   decode -> admit -> resolve -> store -> fold -> (decide) -> (emit)
 *
 * decode and admit touch no table and throw nothing: what is wrong with a
 * message becomes a CdpReject.  Everything in a batch lives in batch->cxt.
 */
#ifndef CDP_ENGINE_H
#define CDP_ENGINE_H

#include "cdp.h"

/* ---------------------------------------------------------------- input */

typedef struct CdpHeader
{
	CdpStr		name,
				value;
} CdpHeader;

/* one record of a topic, or one row of SQL; its bytes are owned by the caller for the life of the batch */
typedef struct CdpMessage
{
	CdpStr		body;			/* s == NULL: no value; a tombstone, unless the format says otherwise */
	CdpStr		key;
	CdpHeader  *headers;
	int			nheaders;
	CdpStr		topic;			/* s == NULL: not from a topic */
	int32		partition;		/* -1: not from a topic */
	int64		offset;			/* -1: not from a topic */
	TimestampTz record_time;	/* CDP_NO_TIME: none */
	bool		log_append_time;
	int32		ordinal;		/* place in the caller's statement, from 1 */
	int		   *items;			/* elements of an array that are wanted; NULL: all there is */
	int			nitems;
	int64		quarantine_id;	/* row that it is replayed from, 0: none; what is refused again stays there */
	bool		repaired;		/* replayed with other bytes than it came with */
	CdpStr		shared;			/* of an element that is replayed: what its envelope said for all of them */
	int			parked;			/* how often it was parked before, */
	TimestampTz parked_at;		/* and when for the first time */
} CdpMessage;

/* ---------------------------------------------------------------- reasons (event/reason.c) */

/* why a message is in quarantine: one documented list, X(symbol, sql name, what it means) */
#define CDP_REASONS(X) \
	X(INVALID_JSON, "invalid_json", "the bytes are not one JSON value") \
	X(INVALID_ENCODING, "invalid_encoding", "the bytes are not valid UTF-8") \
	X(NUL_CHARACTER, "nul_character", "a string holds \\u0000, which PostgreSQL cannot store") \
	X(LONE_SURROGATE, "lone_surrogate", "a string holds half of a surrogate pair") \
	X(NOT_AN_OBJECT, "not_an_object", "the message is JSON but not an object") \
	X(EMPTY, "empty", "the message has no bytes but white space, or is an array without elements") \
	X(TOO_DEEP, "too_deep", "nested deeper than 64 levels") \
	X(TOO_MANY_KEYS, "too_many_keys", "more than 1,000 keys") \
	X(MESSAGE_TOO_BIG, "message_too_big", "longer than cdp.max_message_size") \
	X(VALUE_TOO_BIG, "value_too_big", "a string longer than 256 kB") \
	X(TRAIT_TOO_BIG, "trait_too_big", "a trait longer than 32 kB") \
	X(NUMBER_TOO_LONG, "number_too_long", "a number of more than 64 digits, or an exponent beyond 64") \
	X(UNKNOWN_TYPE, "unknown_type", "type is absent or none of the calls of the format") \
	X(MISSING_FIELD, "missing_field", "a required field is absent or blank") \
	X(INVALID_FIELD, "invalid_field", "a field has the wrong JSON type") \
	X(FIELD_TOO_LONG, "field_too_long", "an identifier, a message id or a name is too long") \
	X(INVALID_TIME, "invalid_time", "a time stamp cannot be parsed") \
	X(TIME_TOO_OLD, "time_too_old", "a time stamp before 1970") \
	X(NO_IDENTIFIER, "no_identifier", "the message says nothing about who it is") \
	X(ID_CONFLICT, "id_conflict", "the message id was used before with another body") \
	X(HASH_COLLISION, "hash_collision", "an identifier has the same 64-bit hash as another one") \
	X(APPLY_FAILED, "apply_failed", "the engine could not apply the message; the error is in detail")

typedef enum CdpReason
{
#define X(sym, name, what) CDP_REASON_##sym,
	CDP_REASONS(X)
#undef X
	CDP_REASON_COUNT
} CdpReason;

extern const char *cdp_reason_name(CdpReason r);

/* ---------------------------------------------------------------- events */

typedef enum CdpCall
{
	CDP_CALL_TRACK,
	CDP_CALL_IDENTIFY,
	CDP_CALL_PAGE,
	CDP_CALL_SCREEN,
	CDP_CALL_GROUP,
	CDP_CALL_ALIAS
} CdpCall;

/* how a presented set of identifiers links (cdp_data.link.kind) */
typedef enum CdpLinkKind
{
	CDP_LINK_OBSERVED = 'o',	/* seen together in one event */
	CDP_LINK_ALIAS = 'a',		/* Segment alias: two ids that are one person */
	CDP_LINK_CALL_IDENTIFY = 'i',	/* mapped JSON: identify(id, other), refuses an identified other */
	CDP_LINK_CALL_ALIAS = 'l'	/* mapped JSON: alias(id, other), refuses an identified other */
} CdpLinkKind;

#define CDP_MAX_IDENTIFIERS 32	/* of one event */

/* an identifier as the decoder found it: raw, not yet normalised */
typedef struct CdpPresented
{
	CdpStr		namespace_name;
	CdpStr		value;
} CdpPresented;

typedef struct CdpIdent CdpIdent;	/* identity/identity.h */
typedef struct CdpLink CdpLink;

/* how an event of the batch ended */
typedef enum CdpOutcome
{
	CDP_OUT_PENDING,
	CDP_OUT_STORED,
	CDP_OUT_DUPLICATE,			/* seen before, same body */
	CDP_OUT_QUARANTINED,
	CDP_OUT_EXPIRED,			/* occurred before the retention watermark */
	CDP_OUT_SUPPRESSED,			/* of somebody who was forgotten since */
	CDP_OUT_TOMBSTONE,			/* null value */
	CDP_OUT_PARKED
} CdpOutcome;

typedef struct CdpEvent
{
	CdpMessage *msg;
	int32		item;			/* element of an array message, from 0; -1: the message itself */
	CdpStr		raw;			/* the bytes of this event alone */
	CdpStr		shared;			/* what its envelope says for it, to be kept with raw; s == NULL: nothing */

	/* decode */
	CdpCall		call;
	CdpLinkKind link_kind;
	CdpStr		type;			/* stored: 'track', 'identify', .. */
	CdpStr		name;			/* track: event; page, screen: name; s == NULL: none */
	CdpStr		message_id;		/* as sent, trimmed; s == NULL: derived by admit */
	CdpStr		user_id,
				anonymous_id;
	TimestampTz original_at,	/* originalTimestamp, else timestamp; CDP_NO_TIME if absent */
				sent_at,
				payload_received_at;
	int64		source_seq;		/* mapped order number, 0 */
	Jsonb	   *properties,		/* NULL: absent */
			   *traits,
			   *context;
	CdpPresented *presented;	/* in the order found; for calls: id first, then other */
	int			npresented;
	uint64		fingerprint;	/* of the body without transport fields */

	/* admit */
	TimestampTz received_at,
				occurred_at,
				evidence_at;	/* least of the two */
	TimestampTz stamp;			/* partition key of message_seen: original_at, else record time */
	uint8		seen_key[16];
	bool		derived_id;
	bool		future_clamped;
	bool		two_owners;		/* R65.3: two values of a namespace of limit 1: no link at all */
	CdpIdent  **idents;			/* valid, unblocked, person level, distinct, strongest first (calls: id first) */
	int			npresenting;
	int			nidents;		/* that say who it is: all of them, or none (two owners) */
	CdpLink    *link;			/* NULL when nidents < 2 */
	int64		anchor;			/* link id, or the hash of the only identifier; 0: nobody */

	/* resolve, store */
	CdpOutcome	outcome;
	CdpReason	reason;			/* when quarantined */
	const char *detail;
	bool		settled;		/* quarantined whatever another attempt would say */
	int64		fragment_id;	/* 0: nobody */
	int64		event_id;
	TimestampTz moved_from;		/* occurred_at of the stored event, when this delivery moves it */
} CdpEvent;

/* a message, or an element of one, that goes to quarantine */
typedef struct CdpReject
{
	CdpMessage *msg;
	int32		item;
	CdpStr		raw;
	CdpStr		shared;			/* as in CdpEvent */
	CdpReason	reason;
	const char *detail;			/* no personal data; may be NULL */
	CdpStr		message_id;		/* if it could be read */
	bool		suppressed;		/* of somebody who was forgotten since: nothing of it is kept */
} CdpReject;

typedef struct CdpBatch
{
	MemoryContext cxt;
	CdpSource  *source;

	CdpMessage *messages;
	int			nmessages;

	CdpEvent   *events;			/* filled by decode; stages skip outcome != PENDING */
	int			nevents,
				maxevents;
	CdpReject  *rejects;
	int			nrejects,
				maxrejects;
	int64		ntombstones;

	struct CdpJson *json;		/* decode only: the tape of the message at hand */
	struct CdpIdentTable *idents;	/* identity: distinct identifiers of the batch */
	struct CdpLinkTable *links; /* identity: distinct links of the batch */
	struct CdpFragmentTable *fragments; /* profile: fragments that are folded into */

	TimestampTz watermark;		/* W of the workspace, read after engine_lock was locked */
	TimestampTz instant;		/* B; set after the last lock */
	int			nfailed;		/* events that could not be applied */
	bool		applied;		/* part of it was: the transaction holds locks from now on */
} CdpBatch;

/* ---------------------------------------------------------------- formats (event/decode.c) */

/*
 * One decoder.  decode() appends events and rejects with the two functions
 * below.  It must not throw for anything that is in the bytes.
 */
typedef struct CdpFormat
{
	const char *name;
	bool		unique_ids;		/* ids are unique by specification: id space is the workspace */
	void		(*decode) (CdpBatch *batch, CdpMessage *msg);

	/*
	 * may this be an event although it has no value, or a blank one?  NULL:
	 * never, it is a tombstone or empty
	 */
	bool		(*in_headers) (const CdpMessage *msg);

	/*
	 * checks and compiles source options of this format; may raise; NULL if
	 * it has none
	 */
	void	   *(*compile) (Jsonb *options);
} CdpFormat;

extern const CdpFormat *cdp_format_find(const char *name);	/* NULL when unknown */
extern bool cdp_is_tombstone(const CdpFormat *format, const CdpMessage *msg);
extern uint64 cdp_headers_size(const CdpMessage *msg);	/* bytes of names and values */
extern const CdpFormat cdp_format_segment;
extern const CdpFormat cdp_format_json;
extern const CdpFormat cdp_format_cloudevents;

/* both return a zeroed entry; pointers are valid until the next append */
extern CdpEvent *cdp_batch_add_event(CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw);
extern CdpReject *cdp_batch_reject(CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw,
								   CdpReason reason, const char *detail);

/* ---------------------------------------------------------------- the stages */

extern void cdp_decode(CdpBatch *batch);
extern void cdp_admit(CdpBatch *batch);
extern void cdp_batch_begin(CdpBatch *batch);	/* part of it: for who admits nothing */

/* key of message_seen (16 bytes); source NULL: ids unique in the workspace */
extern void cdp_seen_key(int32 workspace_id, const CdpSource *source, CdpStr message_id, uint8 *key);

/* nidents, link and anchor of an event from what it presents; in batch->cxt */
extern void cdp_event_set_anchor(CdpBatch *batch, CdpEvent *ev);

/* ---------------------------------------------------------------- entrance (engine.c) */

/* what a Kafka worker wants advanced in the same transaction */
typedef struct CdpAdvance
{
	CdpStr		topic;
	int32		partition;
	int64		expected,		/* position in the table, else the batch is refused */
				next;			/* position afterwards */
	int64		last_offset;	/* of the last record consumed; -1: none, what was known stays */
	TimestampTz last_time;		/* its time, which may be none, and fingerprint */
	int64		last_hash;
	int64		ntombstones;	/* among the records */
} CdpAdvance;

/* what became of one message; an array of messages has many */
typedef struct CdpResult
{
	int32		ordinal;
	int32		item;
	CdpOutcome	outcome;
	CdpReason	reason;
	const char *detail;			/* no personal data; may be NULL */
	const char *message_id;		/* NULL if it could not be read */
} CdpResult;

/*
 * Apply messages of one source in the caller's transaction.  Retries and
 * bisects inside subtransactions.  advances may be NULL.  When results is not
 * NULL it becomes a palloc'd array in the caller's context.
 */
extern void cdp_apply(CdpSource *source, CdpMessage *messages, int nmessages,
					  CdpAdvance *advances, int nadvances,
					  CdpResult **results, int *nresults);

/* raises unless what can be done now */
extern void cdp_require_read_committed(const char *what);

/*
 * A side door, in the caller's transaction, for who enters at the locks (Z.4)
 * with people that it knows: change() adds their fragments and locks them.  On
 * an error the caller clears cdp_engine_instant.
 */
struct CdpWork;
extern void cdp_apply_other(int32 workspace_id, void (*change) (struct CdpWork *w, void *arg), void *arg);

/*
 * Compute counters and traits of one fragment again from its events, in the
 * caller's transaction: enters at the locks (Z.4).  A fragment that is gone is
 * left alone.  On an error the caller clears cdp_engine_instant.
 */
extern void cdp_apply_recompute(int32 workspace_id, int64 fragment_id);

#endif							/* CDP_ENGINE_H */
