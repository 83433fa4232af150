/*
 * mapped.c: format `json`: JSON of any shape, read through a mapping.
 *
 * The source's option `mapping` is an object that says for each field where
 * it is: a path of member names ("$.customer.id"), or a constant (any text
 * that does not begin with "$").  Fields:
 *
 *   message_id, type (one of the six calls; default track), name, time,
 *   sent_at, received_at, order (an integer, for ties of time),
 *   user_id, anonymous_id      identifiers of these namespaces
 *   identifiers                [{"namespace": .., "value": ..}, ..]
 *   call                       {"identify": {"id": .., "other": ..}} or
 *                              {"alias": {"id": .., "other": ..}}, both
 *                              {"namespace": .., "value": ..}: links that refuse
 *                              an identified other (correctness.md R11)
 *   properties, traits, context    objects
 *
 * What no path has taken is kept in properties, or, where properties is
 * mapped itself, in context (if its keys are free there).  A path that finds
 * nothing leaves its field absent.  A message is one event; its ids belong to
 * the source.  Compiled once per change of the source; a mapping is never
 * changed under a batch.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "event/event.h"

typedef enum Field
{
	M_MESSAGE_ID,
	M_TYPE,
	M_NAME,
	M_TIME,
	M_SENT_AT,
	M_RECEIVED_AT,
	M_ORDER,
	M_USER_ID,
	M_ANONYMOUS_ID,
	M_IDENTIFIERS,				/* from here on: no scalars, so no constants */
	M_CALL,
	M_PROPERTIES,
	M_TRAITS,
	M_CONTEXT,
	M_COUNT
} Field;

static const char *const field_names[M_COUNT] = {
	"message_id", "type", "name", "time", "sent_at", "received_at", "order",
	"user_id", "anonymous_id", "identifiers", "call", "properties", "traits", "context",
};

typedef struct Place
{
	bool		mapped;
	CdpJsonNode constant;		/* kind STRING, if there are no steps */
	int			nsteps;
	CdpStr	   *steps;			/* member names from the root on */
} Place;

typedef struct Mapping
{
	Place		places[M_COUNT];
} Mapping;

typedef struct Call
{
	CdpDraft	d;
	CdpJsonNode *root;
	const CdpJsonNode *fields[M_COUNT];
} Call;

/* ---------------------------------------------------------------- compile */

static Field
field_by_name(CdpStr name)
{
	for (int f = 0; f < M_COUNT; f++)
		if (cdp_str_eq(name, cdp_str(field_names[f])))
			return (Field) f;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("mapping has the unknown field \"%.*s\"", (int) name.len, name.s),
			 errhint("Fields are message_id, type, name, time, sent_at, received_at, order, user_id, anonymous_id, identifiers, call, properties, traits and context.")));
}

/* "$.a.b": two steps; the text is ours */
static void
compile_path(Place *place, char *text)
{
	int			max = 1;
	char	   *p = text + 1;

	for (char *c = text; *c; c++)
		max += *c == '.';
	place->steps = palloc(max * sizeof(CdpStr));
	while (*p == '.')
	{
		Size		n = strcspn(++p, ".");

		if (n == 0)
			break;
		place->steps[place->nsteps++] = (CdpStr) {p, n};
		p += n;
	}
	if (*p != '\0' || place->nsteps == 0 || p[-1] == '.')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mapping has the invalid path \"%s\"", text),
				 errdetail("A path is a dollar sign and member names, each after a dot, such as $.customer.id.")));
}

static void
compile_place(Mapping *m, const JsonbValue *key, const JsonbValue *value)
{
	Field		f = field_by_name((CdpStr) {key->val.string.val, key->val.string.len});
	Place	   *place = &m->places[f];
	char	   *text;

	if (value->type == jbvNull)
		return;
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("field \"%s\" of mapping must be a path or a constant text", field_names[f])));
	text = pnstrdup(value->val.string.val, value->val.string.len);
	place->mapped = true;
	if (text[0] == '$')
		compile_path(place, text);
	else if (f >= M_IDENTIFIERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("field \"%s\" of mapping must be a path", field_names[f])));
	else
	{
		place->constant.kind = CDP_JSON_STRING;
		place->constant.s = text;
		place->constant.len = strlen(text);
	}
}

static bool
says_who(const Mapping *m)
{
	return m->places[M_USER_ID].mapped || m->places[M_ANONYMOUS_ID].mapped
		|| m->places[M_IDENTIFIERS].mapped || m->places[M_CALL].mapped;
}

static void *
compile_mapping(Jsonb *options)
{
	Mapping    *m = palloc0(sizeof(Mapping));
	JsonbValue	object;
	JsonbValue	key,
				value;
	JsonbIterator *it;
	JsonbIteratorToken token;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options)
		|| getKeyJsonValueFromContainer(&options->root, "mapping", strlen("mapping"), &object) == NULL
		|| object.type != jbvBinary || !JsonContainerIsObject(object.val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("format \"json\" needs the option \"mapping\", an object")));
	it = JsonbIteratorInit(object.val.binary.data);
	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &key, true)) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		compile_place(m, &key, &value);
	}
	if (!says_who(m))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mapping does not say who a message is about"),
				 errhint("Map at least one of identifiers, user_id, anonymous_id and call.")));
	return m;
}

/* ---------------------------------------------------------------- decode */

/* find each field, and mark it so that the rest can be told apart */
static void
read_fields(Call *c, const Mapping *m)
{
	CdpJson    *j = c->d.json;

	for (int f = 0; f < M_COUNT; f++)
	{
		const Place *place = &m->places[f];
		const CdpJsonNode *node = c->root;

		c->fields[f] = NULL;
		if (place->mapped && place->nsteps == 0)
			c->fields[f] = &place->constant;
		if (place->nsteps == 0)
			continue;
		for (int i = 0; node && i < place->nsteps; i++)
			node = cdp_json_member(j, node, place->steps[i]);
		c->fields[f] = node;
		if (node)
			j->nodes[node - j->nodes].skip = 1;
	}
}

static bool
decode_type(Call *c)
{
	CdpEvent   *ev = c->d.ev;
	CdpStr		type;

	if (!cdp_draft_text(&c->d, c->fields[M_TYPE], "type", CDP_MAX_NAME, &type))
		return false;
	if (type.s == NULL)
		type = cdp_json_member(c->d.json, c->fields[M_CALL], CDP_LITERAL("identify")) ? CDP_LITERAL("identify")
			: cdp_json_member(c->d.json, c->fields[M_CALL], CDP_LITERAL("alias")) ? CDP_LITERAL("alias")
			: CDP_LITERAL("track");
	return cdp_call_parse(type, &ev->call, &ev->type) || cdp_draft_fail(&c->d, CDP_REASON_UNKNOWN_TYPE, "type");
}

static bool
decode_order(Call *c)
{
	const CdpJsonNode *node = c->fields[M_ORDER];
	CdpStr		text;
	int64		v = 0;
	bool		negative;

	if (!cdp_draft_text(&c->d, node, "order", CDP_MAX_NAME, &text) || text.s == NULL)
		return !c->d.failed;
	negative = text.s[0] == '-';
	for (uint32 i = negative; i < text.len; i++)
	{
		if (text.s[i] < '0' || text.s[i] > '9' || v > (PG_INT64_MAX - 9) / 10)
			return cdp_draft_fail(&c->d, CDP_REASON_INVALID_FIELD, "order");
		v = v * 10 + text.s[i] - '0';
	}
	c->d.ev->source_seq = negative ? -v : v;
	return text.len > negative || cdp_draft_fail(&c->d, CDP_REASON_INVALID_FIELD, "order");
}

static bool
decode_scalars(Call *c)
{
	CdpDraft   *d = &c->d;

	return cdp_draft_text(d, c->fields[M_MESSAGE_ID], "message_id", CDP_MAX_MESSAGE_ID, &d->ev->message_id)
		&& cdp_draft_text(d, c->fields[M_NAME], "name", CDP_MAX_NAME, &d->ev->name)
		&& cdp_draft_text(d, c->fields[M_USER_ID], "user_id", CDP_MAX_IDENTIFIER, &d->ev->user_id)
		&& cdp_draft_text(d, c->fields[M_ANONYMOUS_ID], "anonymous_id", CDP_MAX_IDENTIFIER, &d->ev->anonymous_id)
		&& cdp_draft_time(d, c->fields[M_TIME], "time", &d->ev->original_at)
		&& cdp_draft_time(d, c->fields[M_SENT_AT], "sent_at", &d->ev->sent_at)
		&& cdp_draft_time(d, c->fields[M_RECEIVED_AT], "received_at", &d->ev->payload_received_at)
		&& decode_order(c);
}

/* {"namespace": .., "value": ..}; *found: it has both */
static bool
present_pair(CdpDraft *d, const CdpJsonNode *pair, const char *field, bool *found)
{
	CdpStr		name;
	CdpStr		value;

	if (pair == NULL || pair->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, field);
	*found = cdp_node_text(cdp_json_member(d->json, pair, CDP_LITERAL("namespace")), &name)
		&& cdp_node_text(cdp_json_member(d->json, pair, CDP_LITERAL("value")), &value);
	return !*found || cdp_draft_present(d, name, value);
}

static bool
present_call(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *identify = cdp_json_member(d->json, c->fields[M_CALL], CDP_LITERAL("identify"));
	const CdpJsonNode *alias = cdp_json_member(d->json, c->fields[M_CALL], CDP_LITERAL("alias"));
	const CdpJsonNode *call = identify ? identify : alias;
	bool		id = false;
	bool		other = false;

	if (call == NULL || (identify && alias))
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "call");
	if (!present_pair(d, cdp_json_member(d->json, call, CDP_LITERAL("id")), "call.id", &id)
		|| !present_pair(d, cdp_json_member(d->json, call, CDP_LITERAL("other")), "call.other", &other))
		return false;
	if (!id || !other)
		return cdp_draft_fail(d, CDP_REASON_MISSING_FIELD, id ? "call.other" : "call.id");
	d->ev->link_kind = identify ? CDP_LINK_CALL_IDENTIFY : CDP_LINK_CALL_ALIAS;
	return true;
}

/* a call presents its two identifiers and nothing else */
static bool
present_identifiers(Call *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *list = c->fields[M_IDENTIFIERS];
	bool		found;

	if (cdp_node_present(c->fields[M_CALL]))
		return present_call(c);
	if (!cdp_draft_present(d, CDP_LITERAL("user_id"), d->ev->user_id)
		|| !cdp_draft_present(d, CDP_LITERAL("anonymous_id"), d->ev->anonymous_id))
		return false;
	if (!cdp_node_present(list))
		return true;
	if (list->kind != CDP_JSON_ARRAY)
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, "identifiers");
	CDP_JSON_FOREACH_ELEMENT(d->json, list, e)
	{
		if (!present_pair(d, e, "identifiers", &found))
			return false;
	}
	return true;
}

/* context: its own members, and what no path has taken */
static void
merge_rest(Call *c, const CdpJsonNode *context)
{
	CdpJson    *j = c->d.json;
	const CdpJsonNode **keys;
	uint32		n = 0;

	keys = palloc((c->root->n + (context ? context->n : 0) + 1) * sizeof(*keys));
	if (context)
	{
		CDP_JSON_FOREACH_MEMBER(j, context, key)
			if (!key[1].skip)
				keys[n++] = key;
	}
	CDP_JSON_FOREACH_MEMBER(j, c->root, key)
	{
		if (!key[1].skip && cdp_json_member(j, context, (CdpStr) {key->s, key->len}) == NULL)
			keys[n++] = key;
	}
	if (n > 0 || context)
		c->d.ev->context = cdp_json_object(j, keys, n);
	pfree(keys);
}

static bool
decode_bodies(Call *c, const Mapping *m)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *properties = c->fields[M_PROPERTIES];
	const CdpJsonNode *context = c->fields[M_CONTEXT];

	if (!cdp_draft_is_object(d, properties, "properties") || !cdp_draft_is_object(d, context, "context")
		|| !cdp_draft_traits(d, c->fields[M_TRAITS], "traits"))
		return false;
	if (!cdp_node_present(context))
		context = NULL;
	if (m->places[M_PROPERTIES].mapped)
	{
		if (cdp_node_present(properties))
			d->ev->properties = cdp_json_jsonb(d->json, properties);
		merge_rest(c, context);
		return true;
	}
	if (context)
		d->ev->context = cdp_json_jsonb(d->json, context);
	d->ev->properties = cdp_json_jsonb(d->json, c->root);
	return true;
}

static bool
decode_fields(Call *c, const Mapping *m)
{
	CdpReason	r = cdp_json_check(c->d.json, c->root);
	CdpStr		id;

	if (cdp_node_text(c->fields[M_MESSAGE_ID], &id) && id.len <= CDP_MAX_MESSAGE_ID)
		c->d.ev->message_id = id;
	if (r != CDP_REASON_COUNT)
		return cdp_draft_fail(&c->d, r, NULL);
	if (c->root->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(&c->d, CDP_REASON_NOT_AN_OBJECT, NULL);
	return decode_type(c) && decode_scalars(c) && present_identifiers(c) && decode_bodies(c, m);
}

static void
decode_json(CdpBatch *batch, CdpMessage *msg)
{
	const Mapping *m = batch->source->mapping;
	Call		c;

	if (!cdp_json_parse(batch->json, msg->body))
	{
		cdp_batch_reject(batch, msg, -1, msg->body, batch->json->reason, NULL);
		return;
	}
	c.root = batch->json->nodes;
	cdp_draft_begin(&c.d, batch, msg, -1, msg->body);
	read_fields(&c, m);
	(void) decode_fields(&c, m);
	cdp_draft_end(&c.d);
}

const CdpFormat cdp_format_json = {
	.name = "json",
	.unique_ids = false,
	.decode = decode_json,
	.compile = compile_mapping,
};
