/*
 * namespaces.c: the rules of identity, as SQL sets them.
 *
 * What a caller may give wrong is refused here, in his words; the rest is
 * plpgsql (cdp.store_namespace), run as cdp_owner, because a superuser may
 * name a workspace that he does not work in.
 *
 * Rules take part in F, so for identifiers that are stored they can not change
 * without computing everybody again.  That is not there yet: such a change is
 * refused while the namespace has identifiers.  Blocked values, the pattern of
 * valid ones and the weight only act when a message is admitted; they may
 * change at any time, for later messages.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "identity/identity.h"

/* arguments of cdp.set_namespace, in order */
enum
{
	ARG_NAME, ARG_PRIORITY, ARG_LEVEL, ARG_VALUE_LIMIT, ARG_LIMIT_WINDOW, ARG_DEGREE, ARG_OWNER, ARG_NORMALISER,
	ARG_VALID, ARG_BLOCKED, ARG_WEIGHT, ARG_WORKSPACE, NARGS
};

#define MAX_PRIORITY 10000
#define UNCHANGED (-1)			/* default of value_limit and degree; NULL means none */
#define UNCHANGED_US (-USECS_PER_SEC)	/* the same of limit_window */

static void
refuse(const char *parameter, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid %s of a namespace", parameter),
			 errdetail_internal("%s", detail)));
}

static bool
text_is(FunctionCallInfo fcinfo, int arg, const char *value)
{
	return strcmp(text_to_cstring(PG_GETARG_TEXT_PP(arg)), value) == 0;
}

static void
check_name(FunctionCallInfo fcinfo)
{
	int			length;

	if (PG_ARGISNULL(ARG_NAME))
		refuse("name", "It must not be null.");
	length = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(ARG_NAME));
	if (length == 0 || length >= NAMEDATALEN)
		refuse("name", "It must have 1 to 63 bytes.");
	if (text_is(fcinfo, ARG_NAME, "profile_id"))
		refuse("name", "profile_id is reserved for profile ids.");
}

static void
check_numbers(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(ARG_PRIORITY) &&
		(PG_GETARG_INT32(ARG_PRIORITY) < 1 || PG_GETARG_INT32(ARG_PRIORITY) > MAX_PRIORITY))
		refuse("priority", "It must be 1 (the strongest) to 10,000.");
	if (!PG_ARGISNULL(ARG_VALUE_LIMIT) && PG_GETARG_INT32(ARG_VALUE_LIMIT) != UNCHANGED &&
		PG_GETARG_INT32(ARG_VALUE_LIMIT) < 1)
		refuse("value_limit", "It must be at least 1, or null for any number.");
	if (!PG_ARGISNULL(ARG_DEGREE) && PG_GETARG_INT32(ARG_DEGREE) != UNCHANGED &&
		PG_GETARG_INT32(ARG_DEGREE) < 1)
		refuse("degree", "It must be at least 1, or null for no guard.");
	if (!PG_ARGISNULL(ARG_WEIGHT) &&
		!(PG_GETARG_FLOAT4(ARG_WEIGHT) > 0 && PG_GETARG_FLOAT4(ARG_WEIGHT) <= 1))
		refuse("weight", "It must be more than 0 and at most 1.");
}

static void
check_window(FunctionCallInfo fcinfo)
{
	int64		us = PG_ARGISNULL(ARG_LIMIT_WINDOW) ? UNCHANGED_US : cdp_interval_us(PG_GETARG_INTERVAL_P(ARG_LIMIT_WINDOW));

	if (us <= 0 && us != UNCHANGED_US)
		refuse("limit_window", "It must be longer than 0, or null for ever.");
}

static void
check_words(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(ARG_LEVEL) && !text_is(fcinfo, ARG_LEVEL, "individual") &&
		!text_is(fcinfo, ARG_LEVEL, "household"))
		refuse("level", "It must be individual or household.");
	if (!PG_ARGISNULL(ARG_NORMALISER) &&
		cdp_normaliser_parse(text_to_cstring(PG_GETARG_TEXT_PP(ARG_NORMALISER))) < 0)
		refuse("normaliser", "It must be none, or of trim, lower, digits, separated by commas.");
	if (!PG_ARGISNULL(ARG_VALID) && !text_is(fcinfo, ARG_VALID, ""))
		(void) cdp_pattern_compile(text_to_cstring(PG_GETARG_TEXT_PP(ARG_VALID)), false);
}

static void
check_blocked(FunctionCallInfo fcinfo)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	CdpStr	   *entries;

	if (PG_ARGISNULL(ARG_BLOCKED))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(ARG_BLOCKED), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	entries = palloc(n * sizeof(CdpStr));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			refuse("blocked", "It must not hold nulls.");
		entries[i] = cdp_str(TextDatumGetCString(elements[i]));
	}
	if (n > 0)
		(void) cdp_blocklist_compile(entries, n);
}

/* Run as cdp_owner; arguments as given. */
static void
call_as_owner(const char *sql, int n, Oid *types, Datum *values, const char *nulls)
{
	CdpUserContext save;
	int			rc;

	cdp_become_owner(&save);
	SPI_connect();
	rc = SPI_execute_with_args(sql, n, types, values, nulls, false, 0);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
	SPI_finish();
	cdp_become_caller(&save);
}

static CdpWorkspace *
workspace_argument(FunctionCallInfo fcinfo, int arg)
{
	return cdp_workspace_of_caller(PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg)));
}

PG_FUNCTION_INFO_V1(cdp_sql_set_namespace);

Datum
cdp_sql_set_namespace(PG_FUNCTION_ARGS)
{
	Oid			types[NARGS] = {TEXTOID, INT4OID, TEXTOID, INT4OID, INTERVALOID, INT4OID, BOOLOID, TEXTOID,
	TEXTOID, TEXTARRAYOID, FLOAT4OID, INT4OID};
	Datum		values[NARGS];
	char		nulls[NARGS];

	check_name(fcinfo);
	check_numbers(fcinfo);
	check_window(fcinfo);
	check_words(fcinfo);
	check_blocked(fcinfo);
	for (int i = 0; i < ARG_WORKSPACE; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[ARG_WORKSPACE] = Int32GetDatum(workspace_argument(fcinfo, ARG_WORKSPACE)->id);
	nulls[ARG_WORKSPACE] = ' ';
	call_as_owner("SELECT cdp.store_namespace($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
				  NARGS, types, values, nulls);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_set_identity_policy);

Datum
cdp_sql_set_identity_policy(PG_FUNCTION_ARGS)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2];

	if (PG_ARGISNULL(0) || (!text_is(fcinfo, 0, "components") && !text_is(fcinfo, 0, "demote")))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown identity policy"),
				 errhint("It is components or demote.")));
	values[0] = PG_GETARG_DATUM(0);
	values[1] = Int32GetDatum(workspace_argument(fcinfo, 1)->id);
	call_as_owner("SELECT cdp.store_identity_policy($1, $2)", 2, types, values, NULL);
	PG_RETURN_VOID();
}
