/*
 * mapped.c: format `json`: JSON of any shape, read through a mapping
 * (mapping.c), and what format `cloudevents` does the same.
 *
 * What no path has taken is kept in properties, or, where properties is
 * mapped itself, in context (if its keys are free there).  A mapped object is
 * kept whole, even if a path leads into it.  A path that finds nothing leaves
 * its field absent.  A message is one event; its ids belong to the source.
 *
 * The fingerprint is that of the message, not of what the mapping makes of it:
 * a message that is read again after the mapping was changed is still the
 * same message.  Only what sent_at and received_at found is left out.
 */
#include "postgres.h"

#include "common/int.h"

#include "event/mapping.h"

/* ---------------------------------------------------------------- find */

static const CdpJsonNode *
step_into(const CdpJson *j, const CdpJsonNode *node, const CdpStep *step)
{
	int			n = 0;

	if (step->member.s)
		return cdp_json_member(j, node, step->member);
	CDP_JSON_FOREACH_ELEMENT(j, node, e)
	{
		if (n++ == step->element)
			return e;
	}
	return NULL;
}

static const CdpJsonNode *
follow(const CdpMapped *c, const CdpPath *path)
{
	const CdpJsonNode *node = path->nsteps > 0 ? c->root : NULL;

	for (int i = 0; node && i < path->nsteps; i++)
		node = step_into(c->d.json, node, &path->steps[i]);
	return node;
}

void
cdp_mapped_find(CdpMapped *c, const CdpMapping *m, const CdpJsonNode *root)
{
	c->m = m;
	c->root = root;
	for (int f = 0; f < CDP_FIELD_COUNT; f++)
		c->fields[f] = m->constants[f].s ? &m->constants[f] : follow(c, &m->paths[f]);
	for (int i = 0; i < m->nidentifiers; i++)
		c->identifiers[i] = follow(c, &m->identifiers[i].value);
	c->call_id = follow(c, &m->call_id.value);
	c->call_other = follow(c, &m->call_other.value);
}

static void
set_skip(CdpJson *j, const CdpJsonNode *object, CdpStr name, bool skip)
{
	CDP_JSON_FOREACH_MEMBER(j, object, key)
		if (cdp_str_eq((CdpStr) {key->s, key->len}, name))
			j->nodes[key + 1 - j->nodes].skip = skip;
}

void
cdp_mapped_take(CdpMapped *c, CdpStr name)
{
	set_skip(c->d.json, c->root, name, true);
}

/* leave out what the path finds, or no more; elements of arrays stay where they are */
static void
skip_path(CdpMapped *c, const CdpPath *path, bool skip)
{
	const CdpJsonNode *node = c->root;

	if (path->nsteps == 0 || path->steps[path->nsteps - 1].member.s == NULL)
		return;
	for (int i = 0; node && i < path->nsteps - 1; i++)
		node = step_into(c->d.json, node, &path->steps[i]);
	if (node)
		set_skip(c->d.json, node, path->steps[path->nsteps - 1].member, skip);
}

/* so that the rest can be told apart */
static void
take_path(CdpMapped *c, const CdpPath *path)
{
	if (!path->covered)
		skip_path(c, path, true);
}

static void
take_fields(CdpMapped *c)
{
	const CdpMapping *m = c->m;

	for (int f = 0; f < CDP_FIELD_COUNT; f++)
		if (f != CDP_FIELD_TYPE || m->calls == NULL)	/* what was translated is not lost */
			take_path(c, &m->paths[f]);
	for (int i = 0; i < m->nidentifiers; i++)
		take_path(c, &m->identifiers[i].value);
	take_path(c, &m->call_id.value);
	take_path(c, &m->call_other.value);
}

/* ---------------------------------------------------------------- type and scalars */

/* absent, null or blank */
static bool
says_nothing(const CdpJsonNode *node)
{
	CdpStr		text;

	return !cdp_node_present(node) || (node->kind == CDP_JSON_STRING && !cdp_node_text(node, &text));
}

/* what stands for a call: the message's own, else the mapping's if both its identifiers are there */
static const char *
call_of(const CdpMapped *c)
{
	const CdpJsonNode *call = c->fields[CDP_FIELD_CALL];

	if (cdp_node_present(call))
		return cdp_json_member(c->d.json, call, CDP_LITERAL("identify")) ? "identify"
			: cdp_json_member(c->d.json, call, CDP_LITERAL("alias")) ? "alias" : NULL;
	if (says_nothing(c->call_id) || says_nothing(c->call_other))
		return NULL;
	return c->m->call_kind == CDP_LINK_CALL_IDENTIFY ? "identify" : "alias";
}

/* through the translation of the mapping; what it does not know may still be a call */
static bool
translate_type(CdpMapped *c, CdpStr type)
{
	CdpEvent   *ev = c->d.ev;

	for (int i = 0; i < c->m->ncalls; i++)
	{
		if (!cdp_str_eq(c->m->calls[i].value, type))
			continue;
		ev->call = c->m->calls[i].call;
		ev->type = c->m->calls[i].type;
		return true;
	}
	return cdp_call_parse(type, &ev->call, &ev->type) || cdp_call_parse(CDP_LITERAL("track"), &ev->call, &ev->type);
}

static bool
decode_type(CdpMapped *c)
{
	CdpEvent   *ev = c->d.ev;
	const char *call = call_of(c);
	CdpStr		type;

	if (!cdp_draft_text(&c->d, c->fields[CDP_FIELD_TYPE], "type", CDP_MAX_NAME, &type))
		return false;
	if (type.s == NULL)
		type = cdp_str(call ? call : "track");
	if (c->m->calls)
		return translate_type(c, type);
	return cdp_call_parse(type, &ev->call, &ev->type) || cdp_draft_fail(&c->d, CDP_REASON_UNKNOWN_TYPE, "type");
}

static bool
decode_order(CdpMapped *c)
{
	const CdpJsonNode *node = c->fields[CDP_FIELD_ORDER];
	CdpStr		text;
	int64		v = 0;			/* negative, as there are more of these */
	bool		negative;

	if (!cdp_draft_text(&c->d, node, "order", CDP_MAX_NAME, &text) || text.s == NULL)
		return !c->d.failed;
	negative = text.s[0] == '-';
	for (uint32 i = negative; i < text.len; i++)
	{
		if (text.s[i] < '0' || text.s[i] > '9' || pg_mul_s64_overflow(v, 10, &v)
			|| pg_sub_s64_overflow(v, text.s[i] - '0', &v))
			return cdp_draft_fail(&c->d, CDP_REASON_INVALID_FIELD, "order");
	}
	if (text.len == negative || (!negative && v == PG_INT64_MIN))
		return cdp_draft_fail(&c->d, CDP_REASON_INVALID_FIELD, "order");
	c->d.ev->source_seq = negative ? v : -v;
	return true;
}

static bool
decode_scalars(CdpMapped *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode **f = c->fields;

	if (f[CDP_FIELD_MESSAGE_ID]
		&& !cdp_draft_text(d, f[CDP_FIELD_MESSAGE_ID], "message_id", CDP_MAX_MESSAGE_ID, &d->ev->message_id))
		return false;
	return cdp_draft_text(d, f[CDP_FIELD_NAME], "name", CDP_MAX_NAME, &d->ev->name)
		&& cdp_draft_text(d, f[CDP_FIELD_USER_ID], "user_id", CDP_MAX_IDENTIFIER, &d->ev->user_id)
		&& cdp_draft_text(d, f[CDP_FIELD_ANONYMOUS_ID], "anonymous_id", CDP_MAX_IDENTIFIER, &d->ev->anonymous_id)
		&& cdp_draft_time(d, f[CDP_FIELD_TIME], "time", &d->ev->original_at)
		&& cdp_draft_time(d, f[CDP_FIELD_SENT_AT], "sent_at", &d->ev->sent_at)
		&& cdp_draft_time(d, f[CDP_FIELD_RECEIVED_AT], "received_at", &d->ev->payload_received_at)
		&& decode_order(c);
}

/* ---------------------------------------------------------------- identifiers */

/* {"namespace": .., "value": ..}; *found: it has both */
static bool
present_pair(CdpDraft *d, const CdpJsonNode *pair, const char *field, bool *found)
{
	CdpStr		name;
	CdpStr		value;

	if (pair == NULL || pair->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(d, CDP_REASON_INVALID_FIELD, field);
	if (!cdp_draft_text(d, cdp_json_member(d->json, pair, CDP_LITERAL("namespace")), field, CDP_MAX_NAME, &name)
		|| !cdp_draft_text(d, cdp_json_member(d->json, pair, CDP_LITERAL("value")), field, CDP_MAX_IDENTIFIER, &value))
		return false;
	*found = name.s && value.s;
	return !*found || cdp_draft_present(d, name, value);
}

static bool
present_call(CdpMapped *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *identify = cdp_json_member(d->json, c->fields[CDP_FIELD_CALL], CDP_LITERAL("identify"));
	const CdpJsonNode *alias = cdp_json_member(d->json, c->fields[CDP_FIELD_CALL], CDP_LITERAL("alias"));
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

static bool
present_mapped(CdpMapped *c, const CdpMappedIdentifier *id, const CdpJsonNode *node, const char *field)
{
	CdpStr		value;

	return cdp_draft_text(&c->d, node, field, CDP_MAX_IDENTIFIER, &value)
		&& cdp_draft_present(&c->d, id->namespace_name, value);
}

/* as call_of() has found them both */
static bool
present_mapped_call(CdpMapped *c)
{
	CdpDraft   *d = &c->d;

	if (!present_mapped(c, &c->m->call_id, c->call_id, "call.id")
		|| !present_mapped(c, &c->m->call_other, c->call_other, "call.other"))
		return false;
	d->ev->link_kind = c->m->call_kind;
	return true;
}

/* user_id, anonymous_id, those of the mapping's list, those of the message's */
static bool
present_observed(CdpMapped *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *list = c->fields[CDP_FIELD_IDENTIFIERS];
	bool		found;

	if (!cdp_draft_present(d, CDP_LITERAL("user_id"), d->ev->user_id)
		|| !cdp_draft_present(d, CDP_LITERAL("anonymous_id"), d->ev->anonymous_id))
		return false;
	for (int i = 0; i < c->m->nidentifiers; i++)
		if (!present_mapped(c, &c->m->identifiers[i], c->identifiers[i], "identifiers"))
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

/* a call presents its two identifiers and nothing else */
static bool
present_identifiers(CdpMapped *c)
{
	if (cdp_node_present(c->fields[CDP_FIELD_CALL]))
		return present_call(c);
	return call_of(c) ? present_mapped_call(c) : present_observed(c);
}

/* ---------------------------------------------------------------- bodies */

/* context: its own members, and what no path has taken */
static void
merge_rest(CdpMapped *c, const CdpJsonNode *context)
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
decode_bodies(CdpMapped *c)
{
	CdpDraft   *d = &c->d;
	const CdpJsonNode *properties = c->fields[CDP_FIELD_PROPERTIES];
	const CdpJsonNode *context = c->fields[CDP_FIELD_CONTEXT];

	if (!cdp_draft_is_object(d, properties, "properties") || !cdp_draft_is_object(d, context, "context")
		|| !cdp_draft_traits(d, c->fields[CDP_FIELD_TRAITS], "traits"))
		return false;
	if (!cdp_node_present(context))
		context = NULL;
	if (cdp_mapping_has(c->m, CDP_FIELD_PROPERTIES))
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

bool
cdp_mapped_decode(CdpMapped *c)
{
	take_fields(c);
	return decode_type(c) && decode_scalars(c) && present_identifiers(c) && decode_bodies(c);
}

/* ---------------------------------------------------------------- format json */

/* of the whole message but what transport changes */
static void
fingerprint_message(CdpMapped *c)
{
	CdpJson    *j = c->d.json;
	Jsonb	   *whole;

	skip_path(c, &c->m->paths[CDP_FIELD_SENT_AT], true);
	skip_path(c, &c->m->paths[CDP_FIELD_RECEIVED_AT], true);
	whole = cdp_json_jsonb(j, c->root);
	c->d.ev->fingerprint = cdp_fingerprint_jsonb(CDP_FINGERPRINT_SEED, whole);
	cdp_json_forget(j, whole);
	skip_path(c, &c->m->paths[CDP_FIELD_SENT_AT], false);
	skip_path(c, &c->m->paths[CDP_FIELD_RECEIVED_AT], false);
}

static bool
decode_message(CdpMapped *c)
{
	CdpReason	r = cdp_json_check(c->d.json, c->root);
	CdpStr		id;

	/* so that the reject has it, whatever is wrong with the rest */
	if (cdp_node_text(c->fields[CDP_FIELD_MESSAGE_ID], &id) && id.len <= CDP_MAX_MESSAGE_ID)
		c->d.ev->message_id = id;
	if (r != CDP_REASON_COUNT)
		return cdp_draft_fail(&c->d, r, NULL);
	if (c->root->kind != CDP_JSON_OBJECT)
		return cdp_draft_fail(&c->d, CDP_REASON_NOT_AN_OBJECT, NULL);
	fingerprint_message(c);
	return cdp_mapped_decode(c);
}

static void
decode_json(CdpBatch *batch, CdpMessage *msg)
{
	CdpMapped	c;

	if (!cdp_json_parse(batch->json, msg->body))
	{
		cdp_batch_reject(batch, msg, -1, msg->body, batch->json->reason, NULL);
		return;
	}
	cdp_draft_begin(&c.d, batch, msg, -1, msg->body);
	cdp_mapped_find(&c, batch->source->mapping, batch->json->nodes);
	(void) decode_message(&c);
	cdp_draft_end(&c.d);
}

static void *
compile_json(Jsonb *options)
{
	CdpMapping *m = palloc0(sizeof(CdpMapping));

	cdp_mapping_compile(m, options);
	if (!cdp_mapping_says_who(m))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("format \"json\" needs an option \"mapping\" that says who a message is about"),
				 errhint("Map at least one of identifiers, user_id, anonymous_id and call.")));
	cdp_mapping_finish(m);
	return m;
}

const CdpFormat cdp_format_json = {
	.name = "json",
	.unique_ids = false,
	.decode = decode_json,
	.compile = compile_json,
};
