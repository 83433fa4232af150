/*
 * cloudevents.c: format `cloudevents`: CloudEvents 1.0.
 *
 * An event comes in one of three forms:
 *
 *	structured	the value is the event as a JSON object
 *	batch		the value is a JSON array of them; with the source's option batch
 *	binary		from Kafka: attributes in headers ce_NAME, datacontenttype in the
 *				header content-type, and the value is the data
 *
 * A header content-type that begins with application/cloudevents says
 * structured or batch; else a header ce_NAME says binary; else (and always
 * from SQL) the value is JSON.  An event in binary form is brought into the
 * structured one, as a tape, not as text: nothing that is in its data can
 * become an attribute.  Then all are read through a mapping (mapping.c) over
 * the structured form, whose fields are by default
 *
 *	name = type, time = time, properties = data, user_id = subject
 *
 * subject only where the mapping says nothing else about who it is.  Data that
 * is no object becomes properties {"data": ..}, or {"data_base64": ..} for
 * bytes.  Attributes that no field has taken are kept in context.
 *
 * The pair (source, id) is unique by specification: it is the message id,
 * `source id` with a blank between them, which no URI reference has.
 *
 * The record's key is the attribute partitionkey of a binary event that has
 * none.  A binary event without data is a record without value: an event, no
 * tombstone.  Compared for duplicates is the event: not its form, not where it
 * was partitioned and traced on its way, not the spelling of its time.
 */
#include "postgres.h"

#include "common/base64.h"
#include "mb/pg_wchar.h"

#include "event/mapping.h"

#define SPECVERSION "1.0"
#define ATTRIBUTE_PREFIX "ce_"
#define CONTENT_TYPE "content-type"
#define EVENT_MEDIA_TYPE "application/cloudevents"
#define MAX_CLOUD_ID 1024		/* bytes of source and id together */

typedef struct CloudMapping
{
	CdpMapping	m;
	bool		maps_properties;	/* the user's mapping does */
} CloudMapping;

static bool
begins_with(CdpStr s, const char *prefix)
{
	return s.len >= strlen(prefix) && pg_strncasecmp(s.s, prefix, strlen(prefix)) == 0;
}

static bool
ends_with(CdpStr s, const char *suffix)
{
	Size		n = strlen(suffix);

	return s.len >= n && pg_strncasecmp(s.s + s.len - n, suffix, n) == 0;
}

/* ---------------------------------------------------------------- media types */

/* without parameters and blanks */
static CdpStr
bare_type(CdpStr type)
{
	const char *semicolon = type.s ? memchr(type.s, ';', type.len) : NULL;

	if (semicolon)
		type.len = semicolon - type.s;
	while (type.len > 0 && type.s[0] == ' ')
	{
		type.s++;
		type.len--;
	}
	while (type.len > 0 && type.s[type.len - 1] == ' ')
		type.len--;
	return type;
}

/* of data; an event that does not say has JSON */
static bool
is_json_type(CdpStr type)
{
	type = bare_type(type);
	return type.len == 0 || ends_with(type, "/json") || ends_with(type, "+json");
}

/* application/cloudevents, perhaps -batch, perhaps +json: the formats of events that we read */
static bool
is_readable_format(CdpStr type)
{
	type = bare_type(type);
	type.s += strlen(EVENT_MEDIA_TYPE);
	type.len -= strlen(EVENT_MEDIA_TYPE);
	if (begins_with(type, "-batch"))
	{
		type.s += strlen("-batch");
		type.len -= strlen("-batch");
	}
	return type.len == 0 || (begins_with(type, "+json") && type.len == strlen("+json"));
}

/* ---------------------------------------------------------------- headers */

static CdpStr
content_type(const CdpMessage *msg)
{
	for (int i = msg->nheaders - 1; i >= 0; i--)
		if (msg->headers[i].name.len == strlen(CONTENT_TYPE) && begins_with(msg->headers[i].name, CONTENT_TYPE))
			return msg->headers[i].value;
	return CDP_STR_NONE;
}

static bool
is_attribute(const CdpHeader *h)
{
	return h->name.len > strlen(ATTRIBUTE_PREFIX) &&
		memcmp(h->name.s, ATTRIBUTE_PREFIX, strlen(ATTRIBUTE_PREFIX)) == 0;
}

static bool
has_attributes(const CdpMessage *msg)
{
	if (begins_with(content_type(msg), EVENT_MEDIA_TYPE))
		return false;
	for (int i = 0; i < msg->nheaders; i++)
		if (is_attribute(&msg->headers[i]))
			return true;
	return false;
}

static bool
is_text(CdpStr s)
{
	return memchr(s.s, '\0', s.len) == NULL && pg_verify_mbstr(PG_UTF8, s.s, s.len, true);
}

/* attributes of a binary event; parts has room for two more than the headers */
static int
collect_attributes(const CdpMessage *msg, CdpHeader *parts)
{
	CdpStr		type = content_type(msg);
	int			n = 0;

	if (msg->key.len > 0 && is_text(msg->key))
		parts[n++] = (CdpHeader) {CDP_LITERAL("partitionkey"), msg->key};
	for (int i = 0; i < msg->nheaders; i++)
	{
		CdpStr		name = msg->headers[i].name;

		if (!is_attribute(&msg->headers[i]) || msg->headers[i].value.s == NULL)
			continue;
		name.s += strlen(ATTRIBUTE_PREFIX);
		name.len -= strlen(ATTRIBUTE_PREFIX);
		/* no names of attributes */
		if (cdp_str_eq(name, CDP_LITERAL("data")) || cdp_str_eq(name, CDP_LITERAL("data_base64")))
			continue;
		parts[n++] = (CdpHeader) {name, msg->headers[i].value};
	}
	if (type.s)
		parts[n++] = (CdpHeader) {CDP_LITERAL("datacontenttype"), type};
	return n;
}

/* data that is no JSON, as the structured form has it: text, else base64 */
static CdpHeader
data_as_text(CdpJson *j, CdpStr data)
{
	int			size = pg_b64_enc_len(data.len);
	char	   *encoded;

	if (is_text(data))
		return (CdpHeader) {CDP_LITERAL("data"), data};
	encoded = cdp_json_alloc(j, size);
	size = pg_b64_encode((const void *) data.s, data.len, encoded, size);
	return (CdpHeader) {CDP_LITERAL("data_base64"), {encoded, size}};
}

static bool
headers_too_big(const CdpMessage *msg)
{
	return msg->body.len + cdp_headers_size(msg) > (uint64) cdp_max_message_kb * 1024;
}

/* a binary event as structured one on the tape; false: refused */
static bool
assemble(CdpJson *j, const CdpMessage *msg)
{
	CdpHeader  *parts;
	CdpStr		json = CDP_STR_NONE;
	int			n;
	bool		ok;

	if (headers_too_big(msg))
	{
		j->reason = CDP_REASON_MESSAGE_TOO_BIG;
		return false;
	}
	parts = palloc((msg->nheaders + 3) * sizeof(CdpHeader));
	n = collect_attributes(msg, parts);
	if (msg->body.len > 0 && is_json_type(content_type(msg)))
		json = msg->body;
	else if (msg->body.len > 0)
		parts[n++] = data_as_text(j, msg->body);
	ok = cdp_json_assemble(j, parts, n, CDP_LITERAL("data"), json);
	pfree(parts);
	return ok;
}

/* ---------------------------------------------------------------- attributes */

static const CdpJsonNode *
attribute(const CdpMapped *c, CdpStr name)
{
	return cdp_json_member(c->d.json, c->root, name);
}

/* a blank in source would make the pair ambiguous */
static bool
is_reference(CdpStr s)
{
	for (uint32 i = 0; i < s.len; i++)
		if ((unsigned char) s.s[i] <= ' ')
			return false;
	return true;
}

/* the message id, as far as source and id are right: what is wrong is told later */
static void
take_message_id(CdpMapped *c)
{
	CdpStr		source;
	CdpStr		id;
	char	   *text;

	if (!cdp_node_text(attribute(c, CDP_LITERAL("source")), &source) ||
		!cdp_node_text(attribute(c, CDP_LITERAL("id")), &id) ||
		!is_reference(source) || source.len + id.len + 1 > MAX_CLOUD_ID)
		return;
	text = cdp_json_alloc(c->d.json, source.len + id.len + 1);
	memcpy(text, source.s, source.len);
	text[source.len] = ' ';
	memcpy(text + source.len + 1, id.s, id.len);
	c->d.ev->message_id = (CdpStr) {text, source.len + id.len + 1};
}

static bool
require(CdpMapped *c, const char *name, uint32 max, CdpStr *value)
{
	if (!cdp_draft_text(&c->d, attribute(c, cdp_str(name)), name, max, value))
		return false;
	return value->s || cdp_draft_fail(&c->d, CDP_REASON_MISSING_FIELD, name);
}

static bool
check_attributes(CdpMapped *c)
{
	CdpDraft   *d = &c->d;
	CdpStr		version,
				source,
				id,
				type;

	if (!require(c, "specversion", CDP_MAX_NAME, &version) || !require(c, "source", MAX_CLOUD_ID, &source) ||
		!require(c, "id", MAX_CLOUD_ID, &id) || !require(c, "type", CDP_MAX_NAME, &type))
		return false;
	if (!cdp_str_eq(version, CDP_LITERAL(SPECVERSION)))
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "specversion");
	if (!is_reference(source))
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "source");
	if (d->ev->message_id.s == NULL)
		return cdp_draft_fail(d, CDP_REASON_FIELD_TOO_LONG, "id");
	if (cdp_node_present(attribute(c, CDP_LITERAL("data"))) && cdp_node_present(attribute(c, CDP_LITERAL("data_base64"))))
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "data_base64");
	return true;
}

/* ---------------------------------------------------------------- fingerprint */

/* what differs between two deliveries of one event, and what is told apart below */
static bool
is_transport(const CdpJsonNode *key)
{
	static const CdpStr names[] = {
		{"specversion", 11}, {"partitionkey", 12}, {"traceparent", 11}, {"tracestate", 10},
		{"time", 4}, {"data", 4}, {"data_base64", 11}
	};
	CdpStr		name = {key->s, key->len};
	CdpStr		value;

	for (int i = 0; i < lengthof(names); i++)
		if (cdp_str_eq(name, names[i]))
			return true;
	return cdp_str_eq(name, CDP_LITERAL("datacontenttype")) && cdp_node_text(key + 1, &value) && is_json_type(value);
}

static uint64
mix_value(CdpJson *j, uint64 h, const CdpJsonNode *value)
{
	Jsonb	   *jb;

	if (value == NULL)
		return cdp_fingerprint_text(h, CDP_STR_NONE);
	jb = cdp_json_jsonb(j, value);
	h = cdp_fingerprint_jsonb(h, jb);
	cdp_json_forget(j, jb);
	return h;
}

/* headers know no numbers, so an attribute is compared as text; their order says nothing */
static uint64
mix_attributes(CdpMapped *c)
{
	CdpJson    *j = c->d.json;
	uint64		sum = 0;

	CDP_JSON_FOREACH_MEMBER(j, c->root, key)
	{
		uint64		h = cdp_fingerprint_text(CDP_FINGERPRINT_SEED, (CdpStr) {key->s, key->len});

		if (is_transport(key) || !cdp_node_present(key + 1))
			continue;
		if (cdp_json_is_container(key + 1))
			sum += mix_value(j, h, key + 1);
		else
			sum += cdp_fingerprint_text(h, (CdpStr) {key[1].s, key[1].len});
	}
	return sum;
}

/* the text that base64 stands for, as binary form has it; false: it is none */
static bool
text_of_base64(CdpJson *j, const CdpJsonNode *base64, CdpJsonNode *text)
{
	char	   *bytes;
	int			n;

	if (base64 == NULL || base64->kind != CDP_JSON_STRING)
		return false;
	bytes = cdp_json_alloc(j, pg_b64_dec_len(base64->len) + 1);
	n = pg_b64_decode(base64->s, base64->len, (void *) bytes, pg_b64_dec_len(base64->len));
	if (n <= 0 || !is_text((CdpStr) {bytes, n}))
		return false;
	*text = (CdpJsonNode) {.kind = CDP_JSON_STRING, .s = bytes, .len = n};
	return true;
}

static void
fingerprint_event(CdpMapped *c)
{
	uint64		h = mix_attributes(c);
	const CdpJsonNode *time = attribute(c, CDP_LITERAL("time"));
	CdpStr		text = time && !cdp_json_is_container(time) ? (CdpStr) {time->s, time->len} : CDP_STR_NONE;
	const CdpJsonNode *data = attribute(c, CDP_LITERAL("data"));
	const CdpJsonNode *base64 = attribute(c, CDP_LITERAL("data_base64"));
	CdpJsonNode decoded;
	TimestampTz at;
	CdpReason	ignored;

	if (text_of_base64(c->d.json, base64, &decoded))
	{
		data = &decoded;
		base64 = NULL;
	}
	if (text.s && cdp_parse_time(text, &at, &ignored))
		h = cdp_fingerprint_text(h, (CdpStr) {(const char *) &at, sizeof(at)});
	else
		h = cdp_fingerprint_text(h, text);
	h = mix_value(c->d.json, h, data);
	c->d.ev->fingerprint = mix_value(c->d.json, h, base64);
}

/* ---------------------------------------------------------------- one event */

/* data that cannot be properties but as a member of them; NULL: it can, or there is none */
static const CdpJsonNode *
odd_data(CdpMapped *c, const CloudMapping *m)
{
	const CdpJsonNode *data = c->fields[CDP_FIELD_PROPERTIES];
	const CdpJsonNode *base64 = attribute(c, CDP_LITERAL("data_base64"));

	if (m->maps_properties)
		return NULL;
	if (cdp_node_present(data))
		return data->kind == CDP_JSON_OBJECT ? NULL : data;
	return cdp_node_present(base64) ? base64 : NULL;
}

static bool
decode_fields(CdpMapped *c, const CloudMapping *m)
{
	CdpReason	r = cdp_json_check(c->d.json, c->root);
	const CdpJsonNode *odd;
	const CdpJsonNode *key;

	if (r != CDP_REASON_COUNT)
		return cdp_draft_fail(&c->d, r, NULL);
	if (c->root->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(&c->d, CDP_REASON_NOT_AN_OBJECT, NULL);
	if (!check_attributes(c))
		return false;
	fingerprint_event(c);
	cdp_mapped_take(c, CDP_LITERAL("specversion"));
	cdp_mapped_take(c, CDP_LITERAL("id"));
	odd = odd_data(c, m);
	if (odd)
	{
		cdp_mapped_take(c, CDP_LITERAL("data_base64"));
		c->fields[CDP_FIELD_PROPERTIES] = NULL;
	}
	if (!cdp_mapped_decode(c))
		return false;
	if (odd)
	{
		key = odd - 1;
		c->d.ev->properties = cdp_json_object(c->d.json, &key, 1);
	}
	return true;
}

static void
decode_event(CdpBatch *batch, CdpMessage *msg, int item, const CdpJsonNode *root)
{
	const CloudMapping *m = batch->source->mapping;
	CdpMapped	c;

	cdp_draft_begin(&c.d, batch, msg, item, item < 0 ? msg->body : cdp_json_raw(batch->json, root));
	cdp_mapped_find(&c, &m->m, root);
	take_message_id(&c);
	(void) decode_fields(&c, m);
	cdp_draft_end(&c.d);
}

/* ---------------------------------------------------------------- messages */

/* a repaired message may be given in the structured form, whatever its headers say */
static bool
is_structured_repair(CdpJson *j, const CdpMessage *msg)
{
	return msg->repaired && cdp_json_parse(j, msg->body) && cdp_json_member(j, j->nodes, CDP_LITERAL("specversion"));
}

static void
decode_json_event(CdpBatch *batch, CdpMessage *msg)
{
	CdpJson    *j = batch->json;
	int			item = 0;

	if (!cdp_json_parse(j, msg->body))
		cdp_batch_reject(batch, msg, -1, msg->body, j->reason, NULL);
	else if (j->nodes->kind != CDP_JSON_ARRAY)
		decode_event(batch, msg, -1, j->nodes);
	else if (!batch->source->batch)
		cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_NOT_AN_OBJECT, "batch");
	else
	{
		CDP_JSON_FOREACH_ELEMENT(j, j->nodes, e)
			decode_event(batch, msg, item++, e);
		if (item == 0)
			cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_EMPTY, NULL);
	}
}

static void
decode_cloudevents(CdpBatch *batch, CdpMessage *msg)
{
	CdpStr		type = content_type(msg);

	if (begins_with(type, EVENT_MEDIA_TYPE) && !is_readable_format(type))
		cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_INVALID_FIELD, CONTENT_TYPE);
	else if (!has_attributes(msg) || is_structured_repair(batch->json, msg))
		decode_json_event(batch, msg);
	else if (assemble(batch->json, msg))
		decode_event(batch, msg, -1, batch->json->nodes);
	else
		cdp_batch_reject(batch, msg, -1, msg->body, batch->json->reason, NULL);
}

/* ---------------------------------------------------------------- the format */

static void *
compile_cloudevents(Jsonb *options)
{
	CloudMapping *c = palloc0(sizeof(CloudMapping));
	CdpMapping *m = &c->m;

	cdp_mapping_compile(m, options);
	if (cdp_mapping_has(m, CDP_FIELD_MESSAGE_ID))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("field \"message_id\" of mapping cannot be set for format \"cloudevents\""),
				 errdetail("The id of a cloud event is its source and its id.")));
	c->maps_properties = cdp_mapping_has(m, CDP_FIELD_PROPERTIES);
	if (!cdp_mapping_has(m, CDP_FIELD_NAME) && m->constants[CDP_FIELD_NAME].s == NULL)
		cdp_mapping_set_path(m, CDP_FIELD_NAME, "$.type");
	if (!cdp_mapping_has(m, CDP_FIELD_TIME))
		cdp_mapping_set_path(m, CDP_FIELD_TIME, "$.time");
	if (!c->maps_properties)
		cdp_mapping_set_path(m, CDP_FIELD_PROPERTIES, "$.data");
	if (!cdp_mapping_says_who(m))
		cdp_mapping_set_path(m, CDP_FIELD_USER_ID, "$.subject");
	cdp_mapping_finish(m);
	return c;
}

const CdpFormat cdp_format_cloudevents = {
	.name = "cloudevents",
	.unique_ids = true,
	.decode = decode_cloudevents,
	.in_headers = has_attributes,
	.compile = compile_cloudevents,
};
