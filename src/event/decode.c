/*
 * decode.c: messages to events.  What is common to all formats.
 *
 * A decoder walks the tape of a message (json.c) and fills one draft per
 * event; the draft is the last event of the batch until it ends, and becomes a
 * reject instead when something in it is wrong.  Nothing here touches a table
 * or throws, but out of memory, and to a client whose message no row could
 * hold.  Strings of an event point into the message, or into the arena in the
 * batch's context: nothing is copied that has no escapes.
 *
 * A new format is a file with one CdpFormat, and its line in cdp_format_find.
 */
#include "postgres.h"

#include "port/pg_bswap.h"

#include "event/event.h"

#define FIRST_EVENTS 64
#define FIRST_REJECTS 16
#define KEPT_BYTES (64 * 1024 * 1024)	/* most of a message, key and headers included, that quarantine keeps */

/* ---------------------------------------------------------------- the batch */

const CdpFormat *
cdp_format_find(const char *name)
{
	static const CdpFormat *const formats[] = {&cdp_format_segment, &cdp_format_json, &cdp_format_cloudevents};

	for (int i = 0; i < lengthof(formats); i++)
		if (strcmp(formats[i]->name, name) == 0)
			return formats[i];
	return NULL;
}

/* room for one more entry: the array doubles */
static void *
grow_array(MemoryContext cxt, void *array, int n, int *max, int first, Size size)
{
	if (n < *max)
		return array;
	*max = Max(*max * 2, first);
	if (array == NULL)
		return MemoryContextAlloc(cxt, *max * size);
	return repalloc_huge(array, *max * size);
}

CdpEvent *
cdp_batch_add_event(CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw)
{
	CdpEvent   *ev;

	batch->events = grow_array(batch->cxt, batch->events, batch->nevents, &batch->maxevents,
							   Max(FIRST_EVENTS, batch->nmessages), sizeof(CdpEvent));
	ev = &batch->events[batch->nevents++];
	memset(ev, 0, sizeof(CdpEvent));
	ev->msg = msg;
	ev->item = item;
	ev->raw = raw;
	return ev;
}

CdpReject *
cdp_batch_reject(CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw,
				 CdpReason reason, const char *detail)
{
	CdpReject  *r;

	batch->rejects = grow_array(batch->cxt, batch->rejects, batch->nrejects, &batch->maxrejects,
								FIRST_REJECTS, sizeof(CdpReject));
	r = &batch->rejects[batch->nrejects++];
	memset(r, 0, sizeof(CdpReject));
	r->msg = msg;
	r->item = item;
	r->raw = raw;
	r->reason = reason;
	r->detail = detail;
	return r;
}

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool
is_blank(CdpStr s)
{
	for (uint32 i = 0; i < s.len; i++)
		if (!is_space(s.s[i]))
			return false;
	return true;
}

static bool
is_in_headers(const CdpFormat *format, const CdpMessage *msg)
{
	return format->in_headers && format->in_headers(msg);
}

bool
cdp_is_tombstone(const CdpFormat *format, const CdpMessage *msg)
{
	return msg->body.s == NULL && !is_in_headers(format, msg);
}

uint64
cdp_headers_size(const CdpMessage *msg)
{
	uint64		size = 0;

	for (int i = 0; i < msg->nheaders; i++)
		size += (uint64) msg->headers[i].name.len + msg->headers[i].value.len;
	return size;
}

/* What a few kB unpack to may be more than a row can hold; Kafka has it still, a client gets an error. */
static void
refuse_huge(CdpBatch *batch, CdpMessage *msg, uint64 size)
{
	if (msg->partition < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("message of " UINT64_FORMAT " bytes is too large", size),
				 errdetail("More than %d bytes are not even kept in quarantine.", KEPT_BYTES)));
	msg->key = CDP_STR_NONE;
	msg->nheaders = 0;
	cdp_batch_reject(batch, msg, -1, CDP_STR_NONE, CDP_REASON_MESSAGE_TOO_BIG,
					 psprintf(UINT64_FORMAT " bytes; more than %d are not stored", size, KEPT_BYTES));
}

static void
decode_message(CdpBatch *batch, CdpMessage *msg)
{
	const CdpFormat *format = batch->source->format;
	uint64		size = (uint64) msg->body.len + msg->key.len + cdp_headers_size(msg);

	if (size > KEPT_BYTES)
		refuse_huge(batch, msg, size);
	else if (msg->body.len > (uint64) cdp_max_message_kb * 1024)
		cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_MESSAGE_TOO_BIG, NULL);
	else if (cdp_is_tombstone(format, msg))
		batch->ntombstones++;
	else if (!is_blank(msg->body) || is_in_headers(format, msg))
		format->decode(batch, msg);
	else
		cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_EMPTY, NULL);
}

void
cdp_decode(CdpBatch *batch)
{
	batch->json = cdp_json_create(batch->cxt);
	for (int i = 0; i < batch->nmessages; i++)
		decode_message(batch, &batch->messages[i]);
	cdp_json_free(batch->json);
	batch->json = NULL;
}

/* ---------------------------------------------------------------- calls */

bool
cdp_call_parse(CdpStr name, CdpCall *call, CdpStr *type)
{
	static const CdpStr names[] = {
		[CDP_CALL_TRACK] = {"track", 5},
		[CDP_CALL_IDENTIFY] = {"identify", 8},
		[CDP_CALL_PAGE] = {"page", 4},
		[CDP_CALL_SCREEN] = {"screen", 6},
		[CDP_CALL_GROUP] = {"group", 5},
		[CDP_CALL_ALIAS] = {"alias", 5},
	};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (cdp_str_eq(name, names[i]))
		{
			*call = (CdpCall) i;
			*type = names[i];
			return true;
		}
	}
	return false;
}

/* ---------------------------------------------------------------- fingerprint */

#define FINGERPRINT_PRIME_1 UINT64CONST(0xA0761D6478BD642F)
#define FINGERPRINT_PRIME_2 UINT64CONST(0xE7037ED1A0B428DB)

/* both halves of the 128-bit product */
static inline uint64
mix(uint64 a, uint64 b)
{
#ifdef HAVE_INT128
	uint128		product = (uint128) a * b;

	return (uint64) product ^ (uint64) (product >> 64);
#else
	uint64		lo = (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
	uint64		m1 = (a >> 32) * (b & 0xFFFFFFFF);
	uint64		m2 = (a & 0xFFFFFFFF) * (b >> 32);
	uint64		hi = (a >> 32) * (b >> 32);
	uint64		mid = (lo >> 32) + (m1 & 0xFFFFFFFF) + (m2 & 0xFFFFFFFF);

	return ((mid << 32) | (lo & 0xFFFFFFFF)) ^ (hi + (m1 >> 32) + (m2 >> 32) + (mid >> 32));
#endif
}

static inline uint64
load_word(const char *p, uint32 n)
{
	uint64		w = 0;

	memcpy(&w, p, n);
#ifdef WORDS_BIGENDIAN
	w = pg_bswap64(w);
#endif
	return w;
}

/* the length goes in first, so that fields cannot run into each other; NULL is not '' */
static uint64
mix_bytes(uint64 h, const char *p, uint32 len)
{
	h = mix(h ^ (p ? len : PG_UINT64_MAX), FINGERPRINT_PRIME_1);
	if (p == NULL)
		return h;
	for (; len >= 16; p += 16, len -= 16)
		h = mix(load_word(p, 8) ^ FINGERPRINT_PRIME_2, load_word(p + 8, 8) ^ h);
	if (len >= 8)
	{
		h = mix(load_word(p, 8) ^ FINGERPRINT_PRIME_2, h);
		p += 8;
		len -= 8;
	}
	if (len > 0)
		h = mix(load_word(p, len) ^ FINGERPRINT_PRIME_1, h ^ FINGERPRINT_PRIME_2);
	return h;
}

uint64
cdp_fingerprint_text(uint64 h, CdpStr s)
{
	return mix_bytes(h, s.s, s.len);
}

uint64
cdp_fingerprint_jsonb(uint64 h, const Jsonb *jb)
{
	return jb ? mix_bytes(h, VARDATA(jb), VARSIZE(jb) - VARHDRSZ) : mix_bytes(h, NULL, 0);
}

/*
 * Of the body without what transport changes.  Compared for one message id
 * only, so it need not resist anybody; admit keys it before it is stored.
 */
static uint64
fingerprint(const CdpEvent *ev)
{
	uint64		h = mix(CDP_FINGERPRINT_SEED ^ (uint64) ev->original_at, FINGERPRINT_PRIME_1 ^ (uint64) ev->source_seq);

	h = cdp_fingerprint_text(h, ev->type);
	h = cdp_fingerprint_text(h, ev->name);
	h = cdp_fingerprint_text(h, ev->message_id);
	h = cdp_fingerprint_text(h, ev->user_id);
	h = cdp_fingerprint_text(h, ev->anonymous_id);
	for (int i = 0; i < ev->npresented; i++)
	{
		h = cdp_fingerprint_text(h, ev->presented[i].namespace_name);
		h = cdp_fingerprint_text(h, ev->presented[i].value);
	}
	h = cdp_fingerprint_jsonb(h, ev->properties);
	h = cdp_fingerprint_jsonb(h, ev->traits);
	return cdp_fingerprint_jsonb(h, ev->context);
}

/* ---------------------------------------------------------------- drafts */

void
cdp_draft_begin(CdpDraft *d, CdpBatch *batch, CdpMessage *msg, int item, CdpStr raw)
{
	d->batch = batch;
	d->json = batch->json;
	d->ev = cdp_batch_add_event(batch, msg, item, raw);
	d->ev->original_at = d->ev->sent_at = d->ev->payload_received_at = CDP_NO_TIME;
	d->ev->link_kind = CDP_LINK_OBSERVED;
	d->npresented = 0;
	d->failed = false;
	d->detail = NULL;
}

void
cdp_draft_end(CdpDraft *d)
{
	CdpEvent   *ev = d->ev;

	if (!d->failed && d->npresented == 0)
		cdp_draft_fail(d, CDP_REASON_NO_IDENTIFIER, NULL);
	if (d->failed)
	{
		CdpReject  *r = cdp_batch_reject(d->batch, ev->msg, ev->item, ev->raw, d->reason, d->detail);

		r->message_id = ev->message_id;
		r->shared = ev->shared;
		d->batch->nevents--;
		return;
	}
	ev->npresented = d->npresented;
	ev->presented = (CdpPresented *) cdp_json_alloc(d->json, d->npresented * sizeof(CdpPresented));
	memcpy(ev->presented, d->presented, d->npresented * sizeof(CdpPresented));
	if (ev->fingerprint == 0)
		ev->fingerprint = fingerprint(ev);
}

bool
cdp_draft_fail(CdpDraft *d, CdpReason reason, const char *detail)
{
	if (!d->failed)
	{
		d->failed = true;
		d->reason = reason;
		d->detail = detail;
	}
	return false;
}

bool
cdp_node_text(const CdpJsonNode *node, CdpStr *out)
{
	CdpStr		s;

	*out = CDP_STR_NONE;
	if (node == NULL || (node->kind != CDP_JSON_STRING && node->kind != CDP_JSON_NUMBER))
		return false;
	s = (CdpStr) {node->s, node->len};
	while (s.len > 0 && is_space(s.s[0]))
	{
		s.s++;
		s.len--;
	}
	while (s.len > 0 && is_space(s.s[s.len - 1]))
		s.len--;
	if (s.len == 0)
		return false;
	*out = s;
	return true;
}

bool
cdp_draft_text(CdpDraft *d, const CdpJsonNode *node, const char *field, uint32 max, CdpStr *out)
{
	if (!cdp_node_text(node, out))
	{
		/* a blank string or null says nothing, true or [] is a mistake */
		if (cdp_node_present(node) && node->kind != CDP_JSON_STRING)
			return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, field);
		return true;
	}
	if (out->len > max)
	{
		*out = CDP_STR_NONE;
		return cdp_draft_fail(d, CDP_REASON_FIELD_TOO_LONG, field);
	}
	return true;
}

bool
cdp_draft_time(CdpDraft *d, const CdpJsonNode *node, const char *field, TimestampTz *out)
{
	CdpReason	why = CDP_REASON_INVALID_TIME;

	if (!cdp_node_present(node))
		return true;
	if (node->kind != CDP_JSON_STRING && node->kind != CDP_JSON_NUMBER)
		return cdp_draft_fail(d, why, field);
	if (!cdp_parse_time((CdpStr) {node->s, node->len}, out, &why))
		return cdp_draft_fail(d, why, field);
	return true;
}

bool
cdp_draft_is_object(CdpDraft *d, const CdpJsonNode *node, const char *field)
{
	if (cdp_node_present(node) && node->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, field);
	return true;
}

bool
cdp_draft_object(CdpDraft *d, const CdpJsonNode *node, const char *field, Jsonb **out)
{
	if (!cdp_node_present(node))
		return true;
	if (!cdp_draft_is_object(d, node, field))
		return false;
	*out = cdp_json_jsonb(d->json, node);
	return true;
}

bool
cdp_draft_present(CdpDraft *d, CdpStr namespace_name, CdpStr value)
{
	if (value.len == 0)
		return true;
	if (value.len > CDP_MAX_IDENTIFIER)
		return cdp_draft_fail(d, CDP_REASON_FIELD_TOO_LONG, "identifier");
	if (d->npresented == CDP_MAX_IDENTIFIERS)
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "more than 32 identifiers");
	d->presented[d->npresented++] = (CdpPresented) {namespace_name, value};
	return true;
}

bool
cdp_draft_present_node(CdpDraft *d, CdpStr namespace_name, const CdpJsonNode *node)
{
	CdpStr		value;

	if (!cdp_node_text(node, &value))
		return true;
	return cdp_draft_present(d, namespace_name, value);
}

/* traits of an event; of an identify each has its limit */
bool
cdp_draft_traits(CdpDraft *d, const CdpJsonNode *node, const char *field)
{
	Jsonb	   *traits = NULL;

	if (!cdp_draft_object(d, node, field, &traits))
		return false;
	d->ev->traits = traits;
	if (d->ev->call != CDP_CALL_IDENTIFY || traits == NULL || VARSIZE(traits) <= CDP_MAX_TRAIT)
		return true;
	for (int n = JB_ROOT_COUNT(traits), i = 0; i < n; i++)
		if (getJsonbLength(&traits->root, n + i) > CDP_MAX_TRAIT)
			return cdp_draft_fail(d, CDP_REASON_TRAIT_TOO_BIG, NULL);
	return true;
}
