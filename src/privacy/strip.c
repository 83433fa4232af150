/*
 * strip.c: forgotten identifiers in the events of other people (R48).
 *
 * Whether a text is one of them is found out as admit would: normalised by the
 * rules of each namespace and hashed.  So a document can be searched by who
 * knows the hashes only, and what is spelt otherwise but means the same is
 * found, too.  What counts is a whole string or number, as a value, as an
 * element of an array or as a key; not a part of a longer text.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "privacy/suppress.h"
#include "spi.h"

static bool
has_hash(const CdpErased *e, int64 hash)
{
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
		if (has_hash(e, hash))
			return true;
	}
	return false;
}

static bool
scalar_is_erased(const CdpErased *e, const JsonbValue *v)
{
	if (v->type == jbvString)
		return cdp_is_erased(e, (CdpStr) {v->val.string.val, v->val.string.len});
	if (v->type == jbvNumeric)
		return cdp_is_erased(e, cdp_str(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)))));
	return false;
}

/* copies the document; true: something was left out */
static bool
copy_without(const CdpErased *e, JsonbIterator *it, JsonbValue **out)
{
	JsonbParseState *state = NULL;
	JsonbIteratorToken token;
	JsonbValue	v,
				key;
	bool		has_key = false,
				stripped = false;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			if (scalar_is_erased(e, &v))
			{
				stripped = true;
				(void) JsonbIteratorNext(&it, &v, true);
				continue;
			}
			key = v;
			has_key = true;
			continue;
		}
		if ((token == WJB_VALUE || token == WJB_ELEM) && scalar_is_erased(e, &v))
		{
			stripped = true;
			has_key = false;
			continue;
		}
		if (has_key)
			(void) pushJsonbValue(&state, WJB_KEY, &key);
		has_key = false;
		*out = pushJsonbValue(&state, token, token == WJB_VALUE || token == WJB_ELEM ? &v : NULL);
	}
	return stripped;
}

Jsonb *
cdp_strip(const CdpErased *e, Jsonb *document)
{
	JsonbValue *copy = NULL;

	if (document == NULL || JB_ROOT_IS_SCALAR(document))
		return NULL;
	if (!copy_without(e, JsonbIteratorInit(&document->root), &copy))
		return NULL;
	return JsonbValueToJsonb(copy);
}
