/*
 * fold_unit.c: SQL functions that call identity's pure part, for the program
 * beside it.  Its own library, with fold.c and normalise.c linked in; cdp.so is
 * not needed.
 *
 *	unit_fold(text) -> text			one call of cdp_fold; the format is below
 *	unit_fold_ns(text, int) -> float8	nanoseconds a call
 *	unit_normalise(text, text) -> text	normaliser, value
 *	unit_match(text, bool, text) -> bool	pattern, ignore case, value
 *	unit_blocked(text[], text) -> bool
 *	unit_blocked_ns(text[], text, int) -> float8
 *
 * Input of unit_fold, fields separated by blanks, - is "none":
 *	policy, number of namespaces, each: limit window degree owner
 *	number of identifiers, each: hash rank value alone_at alone_message sticky
 *	number of links, each: id kind retracted first_at message n members..
 *	number of pairs, each: a b
 * Output, fields separated by blanks, parts by " | ":
 *	contested nprofiles | profile.. | shared.. | attributed.. | warnings kind/ident/rank..
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "identity/identity.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(unit_fold);
PG_FUNCTION_INFO_V1(unit_fold_ns);
PG_FUNCTION_INFO_V1(unit_normalise);
PG_FUNCTION_INFO_V1(unit_match);
PG_FUNCTION_INFO_V1(unit_blocked);
PG_FUNCTION_INFO_V1(unit_blocked_ns);

/* ---------------------------------------------------------------- reading a case */

static CdpStr
next_field(char **p)
{
	char	   *start = *p;
	char	   *end = strchrnul(start, ' ');

	*p = *end == '\0' ? end : end + 1;
	*end = '\0';
	return (CdpStr) {start, end - start};
}

static int64
next_number(char **p)
{
	return strtoi64(next_field(p).s, NULL, 10);
}

static CdpMoment
next_moment(char **p)
{
	CdpStr		at = next_field(p);
	CdpStr		message = next_field(p);

	if (strcmp(at.s, "-") == 0)
		return (CdpMoment) {CDP_NO_TIME, CDP_STR_NONE};
	return (CdpMoment) {strtoi64(at.s, NULL, 10), message};
}

static CdpPolicy *
read_policy(char **p)
{
	CdpPolicy  *policy = palloc0(sizeof(CdpPolicy));

	policy->kind = strcmp(next_field(p).s, "demote") == 0 ? CDP_POLICY_DEMOTE : CDP_POLICY_COMPONENTS;
	policy->nnamespaces = next_number(p);
	policy->namespaces = palloc0(sizeof(CdpNamespace) * policy->nnamespaces);
	for (int r = 0; r < policy->nnamespaces; r++)
	{
		CdpNamespace *ns = &policy->namespaces[r];

		ns->id = r + 1;
		ns->value_limit = next_number(p);
		ns->limit_window = next_number(p);
		ns->degree = next_number(p);
		ns->owner = next_number(p);
	}
	return policy;
}

static void
read_links(CdpFold *fold, char **p)
{
	fold->nlinks = next_number(p);
	fold->links = palloc0(sizeof(CdpFoldLink) * (fold->nlinks + 1));
	for (int l = 0; l < fold->nlinks; l++)
	{
		CdpFoldLink *link = &fold->links[l];

		link->link_id = next_number(p);
		link->kind = next_field(p).s[0];
		link->retracted = next_number(p);
		link->first = next_moment(p);
		link->nmembers = next_number(p);
		link->members = palloc(sizeof(int) * link->nmembers);
		for (int i = 0; i < link->nmembers; i++)
			link->members[i] = next_number(p);
	}
}

static CdpFold *
read_fold(char *p)
{
	CdpFold    *fold = palloc0(sizeof(CdpFold));

	fold->policy = read_policy(&p);
	fold->nidents = next_number(&p);
	fold->idents = palloc0(sizeof(CdpFoldIdent) * (fold->nidents + 1));
	for (int i = 0; i < fold->nidents; i++)
	{
		CdpFoldIdent *ident = &fold->idents[i];

		ident->hash = next_number(&p);
		ident->rank = next_number(&p);
		ident->value = next_field(&p);
		ident->alone = next_moment(&p);
		ident->sticky = next_number(&p);
	}
	read_links(fold, &p);
	fold->napart = next_number(&p);
	fold->apart = palloc0(sizeof(CdpFoldPair) * (fold->napart + 1));
	for (int i = 0; i < fold->napart; i++)
	{
		fold->apart[i].a = next_number(&p);
		fold->apart[i].b = next_number(&p);
	}
	return fold;
}

/* ---------------------------------------------------------------- fold */

Datum
unit_fold(PG_FUNCTION_ARGS)
{
	CdpFold    *fold = read_fold(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	StringInfoData out;

	cdp_fold(fold);
	initStringInfo(&out);
	appendStringInfo(&out, "%d %d |", fold->contested, fold->nprofiles);
	for (int i = 0; i < fold->nidents; i++)
		appendStringInfo(&out, " %d", fold->idents[i].profile);
	appendStringInfoString(&out, " |");
	for (int i = 0; i < fold->nidents; i++)
		appendStringInfo(&out, " %d", fold->idents[i].shared + fold->idents[i].sticky);
	appendStringInfoString(&out, " |");
	for (int l = 0; l < fold->nlinks; l++)
		appendStringInfo(&out, " %d", fold->links[l].attributed);
	appendStringInfoString(&out, " |");
	for (int i = 0; i < fold->nwarnings; i++)
		appendStringInfo(&out, " %s/%d/%d", fold->warnings[i].kind,
						 fold->warnings[i].ident, fold->warnings[i].rank);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}

Datum
unit_fold_ns(PG_FUNCTION_ARGS)
{
	CdpFold    *fold = read_fold(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int			n = PG_GETARG_INT32(1);
	instr_time	start,
				end;

	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < n; i++)
		cdp_fold(fold);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_DOUBLE(end) * 1e9 / n);
}

/* ---------------------------------------------------------------- values */

static CdpStr
arg_str(text *t)
{
	return (CdpStr) {VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
}

static struct CdpBlockList *
arg_blocklist(ArrayType *array)
{
	Datum	   *values;
	int			n;
	CdpStr	   *entries;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	entries = palloc(sizeof(CdpStr) * (n + 1));
	for (int i = 0; i < n; i++)
		entries[i] = arg_str(DatumGetTextPP(values[i]));
	return cdp_blocklist_compile(entries, n);
}

/* NULL when the normaliser is unknown. */
Datum
unit_normalise(PG_FUNCTION_ARGS)
{
	CdpNamespace ns = {0};
	CdpStr		result;

	ns.normaliser = cdp_normaliser_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (ns.normaliser < 0)
		PG_RETURN_NULL();
	result = cdp_normalise(&ns, arg_str(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.s, result.len));
}

Datum
unit_match(PG_FUNCTION_ARGS)
{
	struct CdpPattern *pattern = cdp_pattern_compile(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_BOOL(1));

	PG_RETURN_BOOL(cdp_pattern_match(pattern, arg_str(PG_GETARG_TEXT_PP(2))));
}

Datum
unit_blocked(PG_FUNCTION_ARGS)
{
	struct CdpBlockList *list = arg_blocklist(PG_GETARG_ARRAYTYPE_P(0));

	PG_RETURN_BOOL(cdp_blocklist_match(list, arg_str(PG_GETARG_TEXT_PP(1))));
}

Datum
unit_blocked_ns(PG_FUNCTION_ARGS)
{
	struct CdpBlockList *list = arg_blocklist(PG_GETARG_ARRAYTYPE_P(0));
	CdpStr		value = arg_str(PG_GETARG_TEXT_PP(1));
	int			n = PG_GETARG_INT32(2);
	int			hits = 0;
	instr_time	start,
				end;

	INSTR_TIME_SET_CURRENT(start);
	for (int i = 0; i < n; i++)
		hits += cdp_blocklist_match(list, value);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(hits > n ? -1 : INSTR_TIME_GET_DOUBLE(end) * 1e9 / n);
}
