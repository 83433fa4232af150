/*
 * mapping.c: the source option `mapping`, from what a user wrote to paths.
 *
 * The option is an object with a member for each field that is mapped:
 *
 *	message_id, name, time, sent_at, received_at, order, user_id, anonymous_id,
 *	properties, traits, context
 *						a path
 *	type				a path to one of the six calls, or
 *						{"path": .., "calls": {"signup": "identify", ..}}
 *	type, name			{"constant": ..}
 *	identifiers			a path to [{"namespace": .., "value": ..}, ..], or a list
 *						[{"namespace": "email", "value": path}, ..]
 *	call				a path to {"identify" or "alias": {"id": .., "other": ..}}, or
 *						such an object with paths as values
 *
 * A path is $ and one or more steps: .member, ."any member", [element].  What
 * does not begin so is an error, never a constant: a forgotten $ would give
 * every message the same id.
 *
 * Compiled when a source is made and once per change of its row; it raises and
 * so is never called for a message.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "event/mapping.h"

#define MAX_PATH_BYTES 1024
#define MAX_ELEMENT_DIGITS 6
#define MAX_CALLS 1000			/* values of type that are translated */

static const char *const field_names[CDP_FIELD_COUNT] = {
	"message_id", "type", "name", "time", "sent_at", "received_at", "order",
	"user_id", "anonymous_id", "identifiers", "call", "properties", "traits", "context",
};

/* ---------------------------------------------------------------- what is wrong */

static void
refuse_field(const char *field, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value of field \"%s\" of mapping", field),
			 errdetail("It must be %s.", expected)));
}

static void
refuse_path(const char *field, const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid path \"%s\" for field \"%s\" of mapping", text, field),
			 errdetail("A path is a dollar sign and one to %d steps: .member, .\"any member\" or [element].",
					   CDP_JSON_MAX_DEPTH),
			 text[0] == '$' ? errhint("Examples are $.customer.id, $.\"customer.id\" and $.emails[0].")
			 : errhint("Write $.member for a member of the message; a constant of type or name is {\"constant\": \"text\"}.")));
}

/* ---------------------------------------------------------------- jsonb */

static bool
is_object(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsObject(v->val.binary.data);
}

static bool
is_list(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data) && !JsonContainerIsScalar(v->val.binary.data);
}

/* member of an object, null and absent are one; out->type is then jbvNull */
static bool
get_member(const JsonbValue *object, const char *name, JsonbValue *out)
{
	out->type = jbvNull;
	return getKeyJsonValueFromContainer(object->val.binary.data, name, strlen(name), out) != NULL
		&& out->type != jbvNull;
}

/* members of an object that are not null */
static int
count_members(const JsonbValue *object)
{
	JsonbIterator *it = JsonbIteratorInit(object->val.binary.data);
	JsonbValue	v;
	int			n = 0;

	for (JsonbIteratorToken token; (token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE;)
		n += token == WJB_VALUE && v.type != jbvNull;
	return n;
}

static char *
text_of(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

static bool
is_text(const JsonbValue *v)
{
	return v->type == jbvString && v->val.string.len > 0;
}

/* ---------------------------------------------------------------- paths */

/* .member or ."any member"; NULL: neither */
static char *
parse_member(char *p, CdpStep *step)
{
	Size		n;

	if (*++p == '"')
	{
		n = strcspn(++p, "\"");
		step->member = (CdpStr) {p, n};
		return n > 0 && p[n] == '"' ? p + n + 1 : NULL;
	}
	n = strcspn(p, ".[]\" \t\n");
	step->member = (CdpStr) {p, n};
	return n > 0 ? p + n : NULL;
}

/* [element], from 0; NULL: not so */
static char *
parse_element(char *p, CdpStep *step)
{
	Size		n = strspn(++p, "0123456789");

	step->member = CDP_STR_NONE;
	if (n == 0 || n > MAX_ELEMENT_DIGITS || p[n] != ']')
		return NULL;
	step->element = atoi(p);
	return p + n + 1;
}

static CdpPath
parse_path(const char *field, char *text)
{
	CdpPath		path = {0, palloc0(CDP_JSON_MAX_DEPTH * sizeof(CdpStep))};
	char	   *p = text[0] == '$' && strlen(text) <= MAX_PATH_BYTES ? text + 1 : NULL;

	while (p && *p && path.nsteps < CDP_JSON_MAX_DEPTH)
	{
		CdpStep    *step = &path.steps[path.nsteps++];

		p = *p == '.' ? parse_member(p, step) : *p == '[' ? parse_element(p, step) : NULL;
	}
	if (p == NULL || *p || path.nsteps == 0)
		refuse_path(field, text);
	return path;
}

void
cdp_mapping_set_path(CdpMapping *m, CdpField field, const char *path)
{
	m->paths[field] = parse_path(field_names[field], pstrdup(path));
}

/* ---------------------------------------------------------------- fields */

static void
compile_constant(CdpMapping *m, CdpField f, const JsonbValue *value)
{
	CdpJsonNode *node = &m->constants[f];
	CdpCall		call;
	CdpStr		type;

	if (!is_text(value) || value->val.string.len > CDP_MAX_NAME)
		refuse_field(field_names[f], "a path or {\"constant\": \"text\"}, of at most 1,024 bytes");
	node->kind = CDP_JSON_STRING;
	node->s = text_of(value);
	node->len = value->val.string.len;
	if (f == CDP_FIELD_TYPE && !cdp_call_parse((CdpStr) {node->s, node->len}, &call, &type))
		refuse_field(field_names[f], "one of the calls track, identify, page, screen, group and alias");
}

/* {"signup": "identify", ..} */
static void
compile_calls(CdpMapping *m, const JsonbValue *calls)
{
	JsonbIterator *it;
	JsonbValue	key,
				value;

	if (!is_object(calls) || count_members(calls) > MAX_CALLS)
		refuse_field("type.calls", "an object that gives a call for each of at most 1,000 values");
	m->calls = palloc0((count_members(calls) + 1) * sizeof(CdpMappedCall));
	it = JsonbIteratorInit(calls->val.binary.data);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		CdpMappedCall *c = &m->calls[m->ncalls];

		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type == jbvNull)
			continue;
		if (value.type != jbvString ||
			!cdp_call_parse((CdpStr) {value.val.string.val, value.val.string.len}, &c->call, &c->type))
			refuse_field("type.calls", "an object whose values are calls: track, identify, page, screen, group, alias");
		c->value = (CdpStr) {text_of(&key), key.val.string.len};
		m->ncalls++;
	}
}

/* {"constant": ..}, for type also {"path": .., "calls": {..}} */
static void
compile_scalar_object(CdpMapping *m, CdpField f, const JsonbValue *object)
{
	JsonbValue	constant,
				path,
				calls;

	if (get_member(object, "constant", &constant) && count_members(object) == 1)
		compile_constant(m, f, &constant);
	else if (f == CDP_FIELD_TYPE && get_member(object, "path", &path) && path.type == jbvString
			 && get_member(object, "calls", &calls) && count_members(object) == 2)
	{
		m->paths[f] = parse_path("type.path", text_of(&path));
		compile_calls(m, &calls);
	}
	else
		refuse_field(field_names[f], f == CDP_FIELD_TYPE
					 ? "a path, {\"constant\": \"text\"}, or {\"path\": path, \"calls\": {\"value\": \"call\"}}"
					 : "a path or {\"constant\": \"text\"}");
}

/* {"namespace": .., "value": path} */
static void
compile_identifier(const char *field, const JsonbValue *pair, CdpMappedIdentifier *out)
{
	JsonbValue	name,
				value;

	if (!is_object(pair) || !get_member(pair, "namespace", &name) || !is_text(&name) || name.val.string.val[0] == '$'
		|| !get_member(pair, "value", &value) || value.type != jbvString || count_members(pair) != 2)
		refuse_field(field, "{\"namespace\": name, \"value\": path}");
	out->namespace_name = (CdpStr) {text_of(&name), name.val.string.len};
	out->value = parse_path(field, text_of(&value));
}

static void
compile_identifiers(CdpMapping *m, const JsonbValue *list)
{
	JsonbIterator *it = JsonbIteratorInit(list->val.binary.data);
	JsonbValue	v;

	m->identifiers = palloc0(CDP_MAX_IDENTIFIERS * sizeof(CdpMappedIdentifier));
	for (JsonbIteratorToken token; (token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE;)
	{
		if (token != WJB_ELEM)
			continue;
		if (m->nidentifiers == CDP_MAX_IDENTIFIERS)
			refuse_field("identifiers", psprintf("a list of at most %d", CDP_MAX_IDENTIFIERS));
		compile_identifier("identifiers", &v, &m->identifiers[m->nidentifiers++]);
	}
}

/* {"identify": {"id": pair, "other": pair}} or the same with alias */
static void
compile_call(CdpMapping *m, const JsonbValue *call)
{
	JsonbValue	both,
				id,
				other;
	bool		identify = get_member(call, "identify", &both);

	if ((!identify && !get_member(call, "alias", &both)) || count_members(call) != 1 || !is_object(&both)
		|| !get_member(&both, "id", &id) || !get_member(&both, "other", &other) || count_members(&both) != 2)
		refuse_field("call", "a path, or {\"identify\" or \"alias\": {\"id\": identifier, \"other\": identifier}}");
	compile_identifier("call.id", &id, &m->call_id);
	compile_identifier("call.other", &other, &m->call_other);
	m->call_kind = identify ? CDP_LINK_CALL_IDENTIFY : CDP_LINK_CALL_ALIAS;
}

static CdpField
field_by_name(CdpStr name)
{
	for (int f = 0; f < CDP_FIELD_COUNT; f++)
		if (cdp_str_eq(name, cdp_str(field_names[f])))
			return (CdpField) f;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("mapping has the unknown field \"%.*s\"", (int) name.len, name.s),
			 errhint("Fields are message_id, type, name, time, sent_at, received_at, order, user_id, anonymous_id, identifiers, call, properties, traits and context.")));
}

static void
compile_field(CdpMapping *m, CdpField f, const JsonbValue *value)
{
	if (value->type == jbvNull)
		return;
	if (value->type == jbvString)
		m->paths[f] = parse_path(field_names[f], text_of(value));
	else if (f == CDP_FIELD_IDENTIFIERS && is_list(value))
		compile_identifiers(m, value);
	else if (f == CDP_FIELD_CALL && is_object(value))
		compile_call(m, value);
	else if ((f == CDP_FIELD_TYPE || f == CDP_FIELD_NAME) && is_object(value))
		compile_scalar_object(m, f, value);
	else
		refuse_field(field_names[f], f == CDP_FIELD_IDENTIFIERS ? "a path or a list of identifiers"
					 : f == CDP_FIELD_CALL ? "a path or an object"
					 : f == CDP_FIELD_TYPE || f == CDP_FIELD_NAME ? "a path or an object"
					 : "a path");
}

/* ---------------------------------------------------------------- the whole */

void
cdp_mapping_compile(CdpMapping *m, Jsonb *options)
{
	JsonbValue	object;
	JsonbValue	key,
				value;
	JsonbIterator *it;

	if (!JB_ROOT_IS_OBJECT(options)
		|| getKeyJsonValueFromContainer(&options->root, "mapping", strlen("mapping"), &object) == NULL
		|| object.type == jbvNull)
		return;
	if (!is_object(&object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the source option \"mapping\" must be an object")));
	it = JsonbIteratorInit(object.val.binary.data);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &key, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&it, &value, true);
		compile_field(m, field_by_name((CdpStr) {key.val.string.val, key.val.string.len}), &value);
	}
}

/* does the inner path go through what the outer one finds? */
static bool
leads_into(const CdpPath *inner, const CdpPath *outer)
{
	for (int i = 0; i < Min(inner->nsteps, outer->nsteps); i++)
	{
		const CdpStep *a = &inner->steps[i];
		const CdpStep *b = &outer->steps[i];

		if ((a->member.s == NULL) != (b->member.s == NULL) ||
			(a->member.s ? !cdp_str_eq(a->member, b->member) : a->element != b->element))
			return false;
	}
	return outer->nsteps > 0 && inner->nsteps > outer->nsteps;
}

static void
cover(const CdpMapping *m, CdpPath *path)
{
	for (int f = CDP_FIELD_PROPERTIES; f < CDP_FIELD_COUNT; f++)
		path->covered |= leads_into(path, &m->paths[f]);
}

void
cdp_mapping_finish(CdpMapping *m)
{
	for (int f = 0; f < CDP_FIELD_COUNT; f++)
		cover(m, &m->paths[f]);
	for (int i = 0; i < m->nidentifiers; i++)
		cover(m, &m->identifiers[i].value);
	cover(m, &m->call_id.value);
	cover(m, &m->call_other.value);
}

bool
cdp_mapping_says_who(const CdpMapping *m)
{
	return cdp_mapping_has(m, CDP_FIELD_USER_ID) || cdp_mapping_has(m, CDP_FIELD_ANONYMOUS_ID)
		|| cdp_mapping_has(m, CDP_FIELD_IDENTIFIERS) || cdp_mapping_has(m, CDP_FIELD_CALL)
		|| m->nidentifiers > 0 || m->call_kind != 0;
}

/* the last member of the path; of an element of an array, the array's */
static bool
ends_in(const CdpPath *path, CdpStr key)
{
	int			i = path->nsteps - 1;

	while (i >= 0 && path->steps[i].member.s == NULL)
		i--;
	return i >= 0 && cdp_str_eq(path->steps[i].member, key);
}

bool
cdp_mapping_names_identifier(const CdpMapping *m, CdpStr key)
{
	for (int i = 0; i < m->nidentifiers; i++)
		if (ends_in(&m->identifiers[i].value, key))
			return true;
	if (cdp_mapping_has(m, CDP_FIELD_IDENTIFIERS) && cdp_str_eq(key, CDP_LITERAL("value")))
		return true;			/* of its pairs */
	return ends_in(&m->paths[CDP_FIELD_USER_ID], key) || ends_in(&m->paths[CDP_FIELD_ANONYMOUS_ID], key) ||
		ends_in(&m->call_id.value, key) || ends_in(&m->call_other.value, key);
}
