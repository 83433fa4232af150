/*
 * event.h: what the decoders share, and the time rules that admit calls.
 */
#ifndef CDP_EVENT_H
#define CDP_EVENT_H

#include "engine.h"
#include "event/json.h"

/* ---------------------------------------------------------------- times.c */

/*
 * ISO 8601 / RFC 3339 as JSON producers write it, or 10 to 13 digits of
 * seconds or milliseconds since 1970.  Depends on no setting, throws nothing.
 */
extern bool cdp_parse_time(CdpStr s, TimestampTz *out, CdpReason *why);

/* fill received_at, occurred_at, evidence_at, stamp and future_clamped from the message */
extern void cdp_event_times(const CdpSource *source, CdpEvent *ev);

/* ---------------------------------------------------------------- decode.c */

#define CDP_MAX_MESSAGE_ID		255 /* bytes */
#define CDP_MAX_IDENTIFIER		1024	/* bytes of an identifier's value */
#define CDP_MAX_NAME			1024	/* bytes of an event, page or screen name */
#define CDP_MAX_TRAIT			(32 * 1024) /* bytes of a trait as jsonb */

/* the call of that name; false: there is none.  *type is its name for ever. */
extern bool cdp_call_parse(CdpStr name, CdpCall *call, CdpStr *type);

/*
 * Of a body without what transport changes: cdp_draft_end() takes it over the
 * event's fields, unless the format has set one that it makes of these.
 */
#define CDP_FINGERPRINT_SEED UINT64CONST(0x9E3779B97F4A7C15)
extern uint64 cdp_fingerprint_text(uint64 h, CdpStr s);
extern uint64 cdp_fingerprint_jsonb(uint64 h, const Jsonb *jb);

/* one event in the making */
typedef struct CdpDraft
{
	CdpBatch   *batch;
	CdpJson    *json;
	CdpEvent   *ev;				/* the last of the batch until the draft fails */
	CdpPresented presented[CDP_MAX_IDENTIFIERS];
	int			npresented;

	/* the first fault */
	bool		failed;
	CdpReason	reason;
	const char *detail;
} CdpDraft;

extern void cdp_draft_begin(CdpDraft *d, CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw);

/* the event stays, or becomes a reject */
extern void cdp_draft_end(CdpDraft *d);

/*
 * All return false when the draft has failed.  A node may be NULL: the field
 * is absent; so is null, and a blank text.  detail names the field.
 */
extern bool cdp_draft_fail(CdpDraft *d, CdpReason reason, const char *detail);
extern bool cdp_draft_text(CdpDraft *d, const CdpJsonNode *node, const char *field, uint32 max, CdpStr *out);
extern bool cdp_draft_time(CdpDraft *d, const CdpJsonNode *node, const char *field, TimestampTz *out);
extern bool cdp_draft_is_object(CdpDraft *d, const CdpJsonNode *node, const char *field);
extern bool cdp_draft_object(CdpDraft *d, const CdpJsonNode *node, const char *field, Jsonb **out);
extern bool cdp_draft_present(CdpDraft *d, CdpStr namespace_name, CdpStr value);

/* the same from a string or number; anything else says nothing */
extern bool cdp_draft_present_node(CdpDraft *d, CdpStr namespace_name, const CdpJsonNode *node);
extern bool cdp_draft_traits(CdpDraft *d, const CdpJsonNode *node, const char *field);

/* text of a string or number without blanks around it; false: another kind, or blank */
extern bool cdp_node_text(const CdpJsonNode *node, CdpStr *out);

/* neither NULL nor a JSON null */
static inline bool
cdp_node_present(const CdpJsonNode *node)
{
	return node != NULL && node->kind != CDP_JSON_NULL;
}

/* a literal as CdpStr, its length known to the compiler */
#define CDP_LITERAL(text) ((CdpStr) {text, sizeof(text) - 1})

#endif							/* CDP_EVENT_H */
