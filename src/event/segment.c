/*
 * segment.c: format `segment`: the six calls of the Segment spec, as Segment's
 * and RudderStack's libraries send them.
 *
 * One message is one call, a JSON array of calls, or an envelope
 * {"batch": [...], "sentAt": ..., "context": ...} whose stamps and context
 * hold for the calls that lack them.  An element that is wrong costs only
 * itself; bytes that are not JSON are one reject.
 *
 * Who it is about: userId, anonymousId, e-mail and phone (traits of identify,
 * context.traits of every call; traits of group are the group's), the device,
 * Google Analytics' client id, and context.externalIds, whose types are names
 * of namespaces (admit leaves out those that are not declared).  An alias
 * call presents its two user ids and nothing else.
 *
 * Top-level fields without a column are kept in context under their own name.
 * `timestamp` is not: it is either original_at, or what somebody computed from
 * the other stamps, which differs with every delivery.
 */
#include "postgres.h"

#include "event/event.h"

/* top-level fields that we know */
typedef enum Field
{
	F_TYPE,
	F_MESSAGE_ID,
	F_USER_ID,
	F_ANONYMOUS_ID,
	F_EVENT,
	F_NAME,
	F_PROPERTIES,
	F_TRAITS,
	F_CONTEXT,
	F_ORIGINAL_TIMESTAMP,
	F_TIMESTAMP,
	F_SENT_AT,
	F_RECEIVED_AT,
	F_PREVIOUS_ID,
	F_GROUP_ID,
	F_INTEGRATIONS,
	F_COUNT,
	F_OTHER = F_COUNT
} Field;

/* what of the envelope holds for its calls; NULL: absent */
typedef struct Envelope
{
	const CdpJsonNode *fields[F_COUNT];
	CdpStr		text;			/* the same as one object, for calls that go to quarantine */
} Envelope;

typedef struct Call
{
	CdpDraft	d;
	const Envelope *envelope;
	const CdpJsonNode *root;
	const CdpJsonNode *fields[F_COUNT];
} Call;

#define IS(text) (memcmp(key.s, text, sizeof(text) - 1) == 0)

static Field
field_of(CdpStr key)
{
	switch (key.len)
	{
		case 4:
			return IS("type") ? F_TYPE : IS("name") ? F_NAME : F_OTHER;
		case 5:
			return IS("event") ? F_EVENT : F_OTHER;
		case 6:
			return IS("userId") ? F_USER_ID : IS("sentAt") ? F_SENT_AT : IS("traits") ? F_TRAITS : F_OTHER;
		case 7:
			return IS("context") ? F_CONTEXT : IS("groupId") ? F_GROUP_ID : F_OTHER;
		case 9:
			return IS("messageId") ? F_MESSAGE_ID : IS("timestamp") ? F_TIMESTAMP : F_OTHER;
		case 10:
			return IS("properties") ? F_PROPERTIES : IS("receivedAt") ? F_RECEIVED_AT
				: IS("previousId") ? F_PREVIOUS_ID : F_OTHER;
		case 11:
			return IS("anonymousId") ? F_ANONYMOUS_ID : F_OTHER;
		case 12:
			return IS("integrations") ? F_INTEGRATIONS : F_OTHER;
		case 17:
			return IS("originalTimestamp") ? F_ORIGINAL_TIMESTAMP : F_OTHER;
		default:
			return F_OTHER;
	}
}

#undef IS

static inline Field
field_of_key(const CdpJsonNode *key)
{
	return field_of((CdpStr) {key->s, key->len});
}

static void
read_fields(const CdpJson *j, const CdpJsonNode *object, const CdpJsonNode **fields)
{
	memset(fields, 0, sizeof(*fields) * F_COUNT);
	CDP_JSON_FOREACH_MEMBER(j, object, key)
	{
		Field		f = field_of_key(key);

		if (f != F_OTHER)
			fields[f] = key + 1;
	}
}

/* ---------------------------------------------------------------- context */

/* is the field kept in context, since no column takes it? */
static bool
has_no_column(CdpCall call, Field f)
{
	switch (f)
	{
		case F_OTHER:
		case F_PREVIOUS_ID:
		case F_GROUP_ID:
		case F_INTEGRATIONS:
			return true;
		case F_EVENT:
			return call != CDP_CALL_TRACK;
		case F_NAME:
			return call != CDP_CALL_PAGE && call != CDP_CALL_SCREEN;
		default:
			return false;
	}
}

/* member of context, the call's own or the envelope's */
static const CdpJsonNode *
context_member(const Call *c, CdpStr key)
{
	const CdpJsonNode *own = cdp_json_member(c->d.json, c->fields[F_CONTEXT], key);

	return own ? own : cdp_json_member(c->d.json, c->envelope->fields[F_CONTEXT], key);
}

typedef struct MemberList
{
	const CdpJsonNode **keys;
	uint32		n;
} MemberList;

/* add it unless its key is among the first n of the list */
static void
add_member(MemberList *list, const CdpJsonNode *key, uint32 n)
{
	for (uint32 i = 0; i < n; i++)
		if (list->keys[i]->len == key->len && memcmp(list->keys[i]->s, key->s, key->len) == 0)
			return;
	list->keys[list->n++] = key;
}

static void
add_members(const CdpJson *j, MemberList *list, const CdpJsonNode *object)
{
	uint32		n = list->n;

	if (object == NULL)
		return;
	CDP_JSON_FOREACH_MEMBER(j, object, key)
		add_member(list, key, n);
}

/* fields of the call that have no column, and the envelope's integrations */
static void
add_fields(Call *c, MemberList *list)
{
	const CdpJson *j = c->d.json;
	const CdpJsonNode *integrations = c->envelope->fields[F_INTEGRATIONS];
	uint32		n = list->n;

	CDP_JSON_FOREACH_MEMBER(j, c->root, key)
	{
		if (has_no_column(c->d.ev->call, field_of_key(key)))
			add_member(list, key, n);
	}
	if (integrations)
		add_member(list, integrations - 1, list->n);
}

static bool
decode_context(Call *c)
{
	const CdpJsonNode *own = c->fields[F_CONTEXT];
	const CdpJsonNode *shared = c->envelope->fields[F_CONTEXT];
	MemberList	list = {NULL, 0};
	uint32		max = c->root->n + 1;

	if (!cdp_draft_is_object(&c->d, own, "context") || !cdp_draft_is_object(&c->d, shared, "context"))
		return false;
	max += own ? own->n : 0;
	max += shared ? shared->n : 0;
	list.keys = palloc(max * sizeof(CdpJsonNode *));
	add_members(c->d.json, &list, own);
	add_members(c->d.json, &list, shared);
	add_fields(c, &list);
	if (list.n > 0 || cdp_node_present(own))
		c->d.ev->context = cdp_json_object(c->d.json, list.keys, list.n);
	pfree(list.keys);
	return true;
}

/* ---------------------------------------------------------------- identifiers */

#define PRESENT(d, name, node) cdp_draft_present_node(d, CDP_LITERAL(name), node)

static bool
equals_ignoring_case(CdpStr s, const char *lower)
{
	return s.len == strlen(lower) && pg_strncasecmp(s.s, lower, s.len) == 0;
}

/* ids of the device, if context says of which kind it is */
static bool
present_device(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *device = context_member(c, CDP_LITERAL("device"));
	const CdpJsonNode *id,
			   *advertising_id,
			   *token;
	CdpStr		kind;

	if (device == NULL)
		return true;
	id = cdp_json_member(d->json, device, CDP_LITERAL("id"));
	advertising_id = cdp_json_member(d->json, device, CDP_LITERAL("advertisingId"));
	token = cdp_json_member(d->json, device, CDP_LITERAL("token"));
	cdp_node_text(cdp_json_member(d->json, device, CDP_LITERAL("type")), &kind);
	if (!equals_ignoring_case(kind, "ios") && !equals_ignoring_case(kind, "android"))
		cdp_node_text(cdp_json_member(d->json, context_member(c, CDP_LITERAL("os")), CDP_LITERAL("name")), &kind);
	if (equals_ignoring_case(kind, "android"))
		return PRESENT(d, "android.id", id) && PRESENT(d, "android.idfa", advertising_id)
			&& PRESENT(d, "android.push_token", token);
	if (equals_ignoring_case(kind, "ios"))
		return PRESENT(d, "ios.id", id) && PRESENT(d, "ios.idfa", advertising_id)
			&& PRESENT(d, "ios.push_token", token);
	return true;
}

static bool
present_ga_client(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *places[] = {
		c->fields[F_INTEGRATIONS] ? c->fields[F_INTEGRATIONS] : c->envelope->fields[F_INTEGRATIONS],
		context_member(c, CDP_LITERAL("integrations")),
	};

	for (int i = 0; i < lengthof(places); i++)
	{
		const CdpJsonNode *ga = cdp_json_member(d->json, places[i], CDP_LITERAL("Google Analytics"));

		if (!PRESENT(d, "ga_client_id", cdp_json_member(d->json, ga, CDP_LITERAL("clientId"))))
			return false;
	}
	return true;
}

/* [{type: namespace, id}]; those of the collection accounts are no people */
static bool
present_external_ids(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *ids = context_member(c, CDP_LITERAL("externalIds"));

	if (ids == NULL)
		return true;
	CDP_JSON_FOREACH_ELEMENT(d->json, ids, e)
	{
		CdpStr		type;
		CdpStr		collection;

		if (!cdp_node_text(cdp_json_member(d->json, e, CDP_LITERAL("type")), &type))
			continue;
		cdp_node_text(cdp_json_member(d->json, e, CDP_LITERAL("collection")), &collection);
		if (cdp_str_eq(collection, CDP_LITERAL("accounts")))
			continue;
		if (!cdp_draft_present_node(d, type, cdp_json_member(d->json, e, CDP_LITERAL("id"))))
			return false;
	}
	return true;
}

static bool
present_email_and_phone(CdpDraft *d, const CdpJsonNode *traits)
{
	return traits == NULL
		|| (PRESENT(d, "email", cdp_json_member(d->json, traits, CDP_LITERAL("email")))
			&& PRESENT(d, "phone", cdp_json_member(d->json, traits, CDP_LITERAL("phone"))));
}

static bool
present_alias(Call *c)
{
	CdpDraft   *d = &c->d;
	CdpStr		previous;

	if (!cdp_draft_text(d, c->fields[F_PREVIOUS_ID], "previousId", CDP_MAX_IDENTIFIER, &previous))
		return false;
	if (d->ev->user_id.s == NULL || previous.s == NULL)
		return cdp_draft_fail(d, CDP_REASON_MISSING_FIELD, d->ev->user_id.s ? "previousId" : "userId");
	d->ev->link_kind = CDP_LINK_ALIAS;
	return cdp_draft_present(d, CDP_LITERAL("user_id"), d->ev->user_id)
		&& cdp_draft_present(d, CDP_LITERAL("user_id"), previous);
}

static bool
present_identifiers(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpSource *source = d->batch->source;

	if (d->ev->call == CDP_CALL_ALIAS && source->alias)
		return present_alias(c);
	if (!cdp_draft_present(d, CDP_LITERAL("user_id"), d->ev->user_id)
		|| !cdp_draft_present(d, CDP_LITERAL("anonymous_id"), d->ev->anonymous_id))
		return false;
	if (d->ev->call == CDP_CALL_IDENTIFY && !present_email_and_phone(d, c->fields[F_TRAITS]))
		return false;
	if (source->email_from_properties
		&& !PRESENT(d, "email", cdp_json_member(d->json, c->fields[F_PROPERTIES], CDP_LITERAL("email"))))
		return false;
	return present_email_and_phone(d, context_member(c, CDP_LITERAL("traits")))
		&& present_device(c) && present_ga_client(c) && present_external_ids(c);
}

/* ---------------------------------------------------------------- the other fields */

static bool
decode_type(Call *c)
{
	CdpStr		type;

	if (!cdp_node_text(c->fields[F_TYPE], &type) || !cdp_call_parse(type, &c->d.ev->call, &c->d.ev->type))
		return cdp_draft_fail(&c->d, CDP_REASON_UNKNOWN_TYPE, NULL);
	return true;
}

static bool
decode_ids(Call *c)
{
	CdpDraft   *d = &c->d;

	return cdp_draft_text(d, c->fields[F_MESSAGE_ID], "messageId", CDP_MAX_MESSAGE_ID, &d->ev->message_id)
		&& cdp_draft_text(d, c->fields[F_USER_ID], "userId", CDP_MAX_IDENTIFIER, &d->ev->user_id)
		&& cdp_draft_text(d, c->fields[F_ANONYMOUS_ID], "anonymousId", CDP_MAX_IDENTIFIER, &d->ev->anonymous_id);
}

/* the call's own stamp, else the envelope's */
static const CdpJsonNode *
stamp_field(const Call *c, Field f)
{
	return cdp_node_present(c->fields[f]) ? c->fields[f] : c->envelope->fields[f];
}

static bool
decode_times(Call *c)
{
	CdpDraft   *d = &c->d;

	return cdp_draft_time(d, c->fields[F_TIMESTAMP], "timestamp", &d->ev->original_at)
		&& cdp_draft_time(d, c->fields[F_ORIGINAL_TIMESTAMP], "originalTimestamp", &d->ev->original_at)
		&& cdp_draft_time(d, stamp_field(c, F_SENT_AT), "sentAt", &d->ev->sent_at)
		&& cdp_draft_time(d, stamp_field(c, F_RECEIVED_AT), "receivedAt", &d->ev->payload_received_at);
}

/* the name's own bytes, blanks and all; absent when it has nothing else */
static bool
decode_name(Call *c, const CdpJsonNode *node, const char *field)
{
	CdpStr		trimmed;

	if (!cdp_draft_text(&c->d, node, field, CDP_MAX_NAME, &trimmed))
		return false;
	if (trimmed.s == NULL)
		return true;
	if (node->len > CDP_MAX_NAME)
		return cdp_draft_fail(&c->d, CDP_REASON_FIELD_TOO_LONG, field);
	c->d.ev->name = (CdpStr) {node->s, node->len};
	return true;
}

/* what a call of this type must have, and its name */
static bool
decode_required(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *name;
	CdpStr		group;

	switch (d->ev->call)
	{
		case CDP_CALL_TRACK:
			if (!decode_name(c, c->fields[F_EVENT], "event"))
				return false;
			return d->ev->name.s || cdp_draft_fail(d, CDP_REASON_MISSING_FIELD, "event");
		case CDP_CALL_PAGE:
		case CDP_CALL_SCREEN:
			if (!decode_name(c, c->fields[F_NAME], "name"))
				return false;
			name = cdp_json_member(d->json, c->fields[F_PROPERTIES], CDP_LITERAL("name"));
			if (d->ev->name.s == NULL && name && name->kind == CDP_JSON_STRING)
				return decode_name(c, name, "properties.name");
			return true;
		case CDP_CALL_GROUP:
			if (!cdp_draft_text(d, c->fields[F_GROUP_ID], "groupId", CDP_MAX_IDENTIFIER, &group))
				return false;
			return group.s || cdp_draft_fail(d, CDP_REASON_MISSING_FIELD, "groupId");
		case CDP_CALL_IDENTIFY:
		case CDP_CALL_ALIAS:
			break;
	}
	return true;
}

/* RudderStack's libraries put the traits of an identify into context */
static bool
decode_bodies(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *traits = c->fields[F_TRAITS];
	const char *field = "traits";

	if (d->ev->call == CDP_CALL_IDENTIFY && !cdp_node_present(traits))
	{
		traits = context_member(c, CDP_LITERAL("traits"));
		field = "context.traits";
	}
	return cdp_draft_object(d, c->fields[F_PROPERTIES], "properties", &d->ev->properties)
		&& cdp_draft_traits(d, traits, field)
		&& decode_context(c);
}

/* limits of the call itself and of what it takes from the envelope */
static bool
check_limits(Call *c)
{
	CdpReason	r = cdp_json_check(c->d.json, c->root);

	for (int f = 0; r == CDP_REASON_COUNT && f < F_COUNT; f++)
		if (c->envelope->fields[f])
			r = cdp_json_check(c->d.json, c->envelope->fields[f]);
	return r == CDP_REASON_COUNT || cdp_draft_fail(&c->d, r, NULL);
}

static void
decode_call(CdpBatch *batch, CdpMessage *msg, int item, const CdpJsonNode *root, const Envelope *envelope)
{
	Call		c;
	CdpStr		id;

	c.envelope = envelope;
	c.root = root;
	cdp_draft_begin(&c.d, batch, msg, item, item < 0 ? msg->body : cdp_json_raw(batch->json, root));
	c.d.ev->shared = envelope->text;
	read_fields(batch->json, root, c.fields);
	/* so that the reject has it, whatever is wrong with the rest */
	if (cdp_node_text(c.fields[F_MESSAGE_ID], &id) && id.len <= CDP_MAX_MESSAGE_ID)
		c.d.ev->message_id = id;
	if (root->kind != CDP_JSON_OBJECT)
		cdp_draft_fail(&c.d, CDP_REASON_NOT_AN_OBJECT, NULL);
	else
		(void) (check_limits(&c) && decode_type(&c) && decode_ids(&c) && decode_times(&c)
				&& decode_required(&c) && present_identifiers(&c) && decode_bodies(&c));
	cdp_draft_end(&c.d);
}

/* ---------------------------------------------------------------- messages */

static const Envelope no_envelope;

static const struct
{
	Field		field;
	const char *name;
}			shared_fields[] = {
	{F_CONTEXT, "context"}, {F_INTEGRATIONS, "integrations"}, {F_SENT_AT, "sentAt"}, {F_RECEIVED_AT, "receivedAt"}
};

static void
read_shared_fields(const CdpJson *j, const CdpJsonNode *root, Envelope *envelope)
{
	const CdpJsonNode *fields[F_COUNT];

	read_fields(j, root, fields);
	for (int i = 0; i < lengthof(shared_fields); i++)
		envelope->fields[shared_fields[i].field] = fields[shared_fields[i].field];
}

/*
 * What holds for the calls of an envelope, as a JSON object in the arena;
 * nothing if with every call it would be more than a message may be.
 */
static CdpStr
shared_text(CdpJson *j, const Envelope *envelope, uint32 ncalls)
{
	Size		len = 2;
	char	   *text;
	char	   *p;

	for (int i = 0; i < lengthof(shared_fields); i++)
		if (envelope->fields[shared_fields[i].field])
			len += cdp_json_raw(j, envelope->fields[shared_fields[i].field]).len + strlen(shared_fields[i].name) + 4;
	if (len == 2 || len * ncalls > (uint64) cdp_max_message_kb * 1024)
		return CDP_STR_NONE;
	p = text = cdp_json_alloc(j, len);
	for (int i = 0; i < lengthof(shared_fields); i++)
	{
		CdpStr		raw;

		if (envelope->fields[shared_fields[i].field] == NULL)
			continue;
		raw = cdp_json_raw(j, envelope->fields[shared_fields[i].field]);
		p += sprintf(p, "%c\"%s\":", p == text ? '{' : ',', shared_fields[i].name);
		memcpy(p, raw.s, raw.len);
		p += raw.len;
	}
	*p++ = '}';
	return (CdpStr) {text, p - text};
}

/*
 * The calls of an envelope: its member batch, if that is an array and the
 * message is no call itself.  NULL: it is no envelope.
 */
static const CdpJsonNode *
envelope_calls(CdpJson *j, const CdpJsonNode *root, Envelope *envelope)
{
	const CdpJsonNode *calls = cdp_json_member(j, root, CDP_LITERAL("batch"));
	CdpStr		type;
	CdpCall		call;

	if (calls == NULL || calls->kind != CDP_JSON_ARRAY)
		return NULL;
	if (cdp_node_text(cdp_json_member(j, root, CDP_LITERAL("type")), &type) && cdp_call_parse(type, &call, &type))
		return NULL;
	read_shared_fields(j, root, envelope);
	envelope->text = shared_text(j, envelope, calls->n);
	return calls;
}

/* of a call that is replayed from quarantine: what its envelope said then */
static bool
replayed_envelope(CdpJson *j, CdpStr text, Envelope *envelope)
{
	const CdpJsonNode *shared = cdp_json_append(j, text);

	if (shared == NULL)
		return false;
	read_shared_fields(j, shared, envelope);
	envelope->text = text;
	return true;
}

static void
decode_segment(CdpBatch *batch, CdpMessage *msg)
{
	CdpJson    *j = batch->json;
	const CdpJsonNode *root;
	const CdpJsonNode *calls;
	Envelope	envelope = no_envelope;
	int			item = 0;

	if (!cdp_json_parse(j, msg->body) || (msg->shared.s && !replayed_envelope(j, msg->shared, &envelope)))
	{
		cdp_batch_reject(batch, msg, -1, msg->body, j->reason, NULL);
		return;
	}
	root = j->nodes;
	calls = root->kind == CDP_JSON_ARRAY ? root : envelope_calls(j, root, &envelope);
	if (calls == NULL)
		decode_call(batch, msg, -1, root, &envelope);
	else
	{
		CDP_JSON_FOREACH_ELEMENT(j, calls, e)
			decode_call(batch, msg, item++, e, &envelope);
		if (item == 0)
			cdp_batch_reject(batch, msg, -1, msg->body, CDP_REASON_EMPTY, NULL);
	}
}

const CdpFormat cdp_format_segment = {
	.name = "segment",
	.unique_ids = true,
	.decode = decode_segment,
	.compile = NULL,
};
