/*
 * suppress.h: what was forgotten is not taken in again.
 */
#ifndef CDP_SUPPRESS_H
#define CDP_SUPPRESS_H

#include "utils/jsonb.h"

#include "work.h"

/* ---------------------------------------------------------------- strip.c */

/* identifiers that are to be found in texts and documents, by their hashes: no value is needed */
typedef struct CdpErased
{
	const CdpPolicy *policy;
	const int64 *hashes;		/* ascending */
	int			n;
	CdpRel	   *tokens;			/* instead: all that have a token and may not be of this age */
	TimestampTz age;
	const CdpSource *source;	/* of the message or event; its mapping may name keys of identifiers; or NULL */
} CdpErased;

/* is the text one of them, in whatever namespace? */
extern bool cdp_is_erased(const CdpErased *e, CdpStr text);

/* the same, where it may be something else unless its key says what it is */
extern bool cdp_mentions_erased(const CdpErased *e, CdpStr text, bool named);
extern bool cdp_names_identifier(const CdpErased *e, CdpStr key);

/* does the member of a document, or a part of it, mention one? */
extern bool cdp_member_is_erased(const CdpErased *e, CdpStr key, const JsonbValue *value);

/* a copy without the members, elements and keys that are one of them; NULL: there are none */
extern Jsonb *cdp_strip(const CdpErased *e, Jsonb *document);

/* columns of an event that may hold some: user_id, anonymous_id, properties, traits, context */
#define CDP_STRIPPED_COLUMNS 5

/* a stored event as it is to be */
typedef struct CdpStripped
{
	int64		fragment_id,
				event_id,
				anchor;
	TimestampTz occurred_at;
	Datum		values[CDP_STRIPPED_COLUMNS];
	char		nulls[CDP_STRIPPED_COLUMNS];	/* 'n': NULL */
} CdpStripped;

/* Take those columns, from the given one on, of a row of the running SPI result; true: something is taken away. */
extern bool cdp_strip_columns(const CdpErased *e, int row, int column, CdpStripped *out);

/* Write the event. */
extern void cdp_strip_store(const CdpStripped *event);

/* ---------------------------------------------------------------- suppress.c */

/* Messages older than this are not taken, says the identifier's token in the snapshot that rel looks in; DT_NOBEGIN: it has none. */
extern TimestampTz cdp_token_before(CdpRel *rel, int64 hash, int32 check);

/* Look for the token of an identifier that has no row, in w->snapshot or a later one; true: it is a later token than was known. */
extern bool cdp_suppress_look(CdpWork *w, CdpIdent *id);

/* New identifiers are in the table now, and everybody is locked: has somebody been forgotten meanwhile? */
extern bool cdp_suppress_look_again(CdpWork *w);

/* Is nothing of the event to be stored, as its identifiers' suppressed_before says? */
extern bool cdp_suppress_drops(const CdpEvent *ev);

/* Drop and strip events that were older than what was forgotten; true: there were some, and the attempt must start again. */
extern bool cdp_suppress_events(CdpWork *w);

/* ---------------------------------------------------------------- mentions.c */

/* What the batch is about to put into quarantine, and is older than what was forgotten, is dropped or stripped. */
extern void cdp_suppress_refused(CdpBatch *batch);

#endif							/* CDP_SUPPRESS_H */
