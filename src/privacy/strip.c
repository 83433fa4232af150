/*
 * strip.c: forgotten identifiers in the events of other people (R48).
 *
 * Whether a text is one of them is found out as admit would: normalised by the
 * rules of each namespace and hashed.  So a document can be searched by who
 * knows the hashes only, and what is spelt otherwise but means the same is
 * found, too.  What counts is a whole string or number, as a value, as an
 * element of an array or as a key; not a part of a longer text.
 *
 * A value that is short, or a number, may well be something else: customer 7
 * must not take a quantity of 7 away.  It counts only where the key says that it
 * is an identifier.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "event/mapping.h"
#include "privacy/suppress.h"
#include "spi.h"

#define TELLING_TEXT 6			/* bytes from which a text is an identifier whatever its key */
#define TELLING_NUMBER 9		/* digits */
#define MAX_DEPTH 128			/* of a document; decoders take half of it */

static bool
has_hash(const CdpErased *e, int64 hash, int32 check)
{
	if (e->tokens)
		return cdp_token_before(e->tokens, hash, check) > e->age;
	return bsearch(&hash, e->hashes, e->n, sizeof(int64), cdp_int64_order) != NULL;
}

bool
cdp_is_erased(const CdpErased *e, CdpStr text)
{
	if (text.s == NULL || text.len == 0 || text.len > NAMEDATALEN * 16)
		return false;
	for (int i = 0; i < e->policy->nnamespaces; i++)
	{
		const CdpNamespace *ns = &e->policy->namespaces[i];
		int64		hash;
		int32		check;

		if (ns->household)
			continue;
		cdp_ident_hash(e->policy->workspace_id, ns, cdp_normalise(ns, text), &hash, &check);
		if (has_hash(e, hash, check))
			return true;
	}
	return false;
}

static bool
ends_with(CdpStr s, const char *end)
{
	uint32		n = strlen(end);

	return s.len >= n && memcmp(s.s + s.len - n, end, n) == 0;
}

/* id, userId, customer_id, externalIds, email, phone, token and the like, and what the source's mapping says */
bool
cdp_names_identifier(const CdpErased *e, CdpStr key)
{
	static const char *const ends[] = {"Id", "ID", "Ids", "_id", "-id", ".id", "_ids", "mail", "phone", "Phone", "token", "Token"};

	if (cdp_str_eq(key, cdp_str("id")) || cdp_str_eq(key, cdp_str("userid")))
		return true;
	for (int i = 0; i < lengthof(ends); i++)
		if (ends_with(key, ends[i]))
			return true;
	return e->source && e->source->mapping && cdp_mapping_names_identifier(e->source->mapping, key);
}

static bool
is_number(CdpStr text)
{
	for (uint32 i = 0; i < text.len; i++)
		if (strchr("0123456789.+-", text.s[i]) == NULL)
			return false;
	return true;
}

bool
cdp_mentions_erased(const CdpErased *e, CdpStr text, bool named)
{
	if (!named && text.len < (is_number(text) ? TELLING_NUMBER : TELLING_TEXT))
		return false;
	return cdp_is_erased(e, text);
}

static bool
scalar_is_erased(const CdpErased *e, const JsonbValue *v, bool named)
{
	if (v->type == jbvString)
		return cdp_mentions_erased(e, (CdpStr) {v->val.string.val, v->val.string.len}, named);
	if (v->type == jbvNumeric)
		return cdp_mentions_erased(e, cdp_str(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)))), named);
	return false;
}

/* a copy in the making */
typedef struct Copy
{
	const CdpErased *erased;
	JsonbIterator *it;
	JsonbParseState *state;
	JsonbValue *out;
	JsonbValue	key;			/* that has no value yet */
	bool		has_key;
	bool		named[MAX_DEPTH];	/* the key that we are in says that it is an identifier; elements have their array's */
	int			depth;
	bool		stripped;
} Copy;

static bool
is_named(const Copy *c)
{
	return c->depth < MAX_DEPTH && c->named[c->depth];
}

/* a key, or a scalar; true: it is left out */
static bool
leave_out(Copy *c, JsonbIteratorToken token, JsonbValue *v)
{
	if (!scalar_is_erased(c->erased, v, token != WJB_KEY && is_named(c)))
		return false;
	if (token == WJB_KEY)
		(void) JsonbIteratorNext(&c->it, v, true);
	c->has_key = false;
	return c->stripped = true;
}

static void
enter(Copy *c, JsonbIteratorToken token)
{
	bool		named = token == WJB_BEGIN_ARRAY && is_named(c);

	c->depth++;
	if (c->depth < MAX_DEPTH)
		c->named[c->depth] = named;
}

static void
copy_token(Copy *c, JsonbIteratorToken token, JsonbValue *v)
{
	bool		scalar = token == WJB_VALUE || token == WJB_ELEM;

	if (c->has_key)
		(void) pushJsonbValue(&c->state, WJB_KEY, &c->key);
	c->has_key = false;
	c->out = pushJsonbValue(&c->state, token, scalar ? v : NULL);
	if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
		enter(c, token);
	else if (!scalar)
		c->depth--;
}

static void
take_key(Copy *c, const JsonbValue *v)
{
	c->key = *v;
	c->has_key = true;
	if (c->depth < MAX_DEPTH)
		c->named[c->depth] = cdp_names_identifier(c->erased, (CdpStr) {v->val.string.val, v->val.string.len});
}

Jsonb *
cdp_strip(const CdpErased *e, Jsonb *document)
{
	Copy		c = {.erased = e};
	JsonbIteratorToken token;
	JsonbValue	v;

	if (document == NULL || JB_ROOT_IS_SCALAR(document))
		return NULL;
	c.it = JsonbIteratorInit(&document->root);
	while ((token = JsonbIteratorNext(&c.it, &v, false)) != WJB_DONE)
	{
		if ((token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM) && leave_out(&c, token, &v))
			continue;
		if (token == WJB_KEY)
			take_key(&c, &v);
		else
			copy_token(&c, token, &v);
	}
	return c.stripped ? JsonbValueToJsonb(c.out) : NULL;
}

bool
cdp_member_is_erased(const CdpErased *e, CdpStr key, const JsonbValue *value)
{
	if (cdp_mentions_erased(e, key, false) || scalar_is_erased(e, value, cdp_names_identifier(e, key)))
		return true;
	return value->type == jbvBinary && cdp_strip(e, JsonbValueToJsonb((JsonbValue *) value)) != NULL;
}

/* ---------------------------------------------------------------- stored events */

static bool
strip_text(const CdpErased *e, int row, int column, Datum *value, char *null)
{
	CdpStr		text = cdp_spi_text(row, column, CurrentMemoryContext);
	bool		erased = cdp_is_erased(e, text);

	*null = text.s == NULL || erased ? 'n' : ' ';
	*value = *null == ' ' ? cdp_text(text) : (Datum) 0;
	return erased;
}

static bool
strip_jsonb(const CdpErased *e, int row, int column, Datum *value, char *null)
{
	bool		isnull;
	Datum		d = cdp_spi_datum(row, column, &isnull);
	Jsonb	   *document = isnull ? NULL : DatumGetJsonbPCopy(d);
	Jsonb	   *stripped = cdp_strip(e, document);

	*null = isnull ? 'n' : ' ';
	*value = PointerGetDatum(stripped ? stripped : document);
	return stripped != NULL;
}

bool
cdp_strip_columns(const CdpErased *e, int row, int column, CdpStripped *out)
{
	bool		any = false;

	for (int i = 0; i < CDP_STRIPPED_COLUMNS; i++)
		any |= (i < 2 ? strip_text : strip_jsonb) (e, row, column + i, &out->values[i], &out->nulls[i]);
	return any;
}

static CdpSpi store_plan = {
	"UPDATE cdp_data.event SET anchor = $4, user_id = $5, anonymous_id = $6, properties = $7, traits = $8, context = $9"
	" WHERE fragment_id = $1 AND occurred_at = $2 AND event_id = $3",
	4 + CDP_STRIPPED_COLUMNS,
	{INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, JSONBOID}
};

void
cdp_strip_store(const CdpStripped *event)
{
	Datum		args[4 + CDP_STRIPPED_COLUMNS] = {Int64GetDatum(event->fragment_id), TimestampTzGetDatum(event->occurred_at),
	Int64GetDatum(event->event_id), Int64GetDatum(event->anchor)};
	char		nulls[5 + CDP_STRIPPED_COLUMNS] = "    ";

	memcpy(args + 4, event->values, sizeof(event->values));
	memcpy(nulls + 4, event->nulls, sizeof(event->nulls));
	cdp_spi_exec(&store_plan, args, nulls);
}
