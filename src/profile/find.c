/*
 * find.c: from an identifier to the person.
 *
 * The value is normalised and hashed as admit does it, and looked up by the
 * hash in the caller's snapshot; only in the caller's workspace, because the
 * workspace is in the hash.  A demoted identifier belongs to nobody.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "identity/identity.h"

static const char by_identifier[] =
"SELECT p.profile_id FROM cdp_data.identifier i"
" JOIN cdp_data.profile p ON p.fragment_id OPERATOR(pg_catalog.=) i.fragment_id"
" WHERE i.identifier_id OPERATOR(pg_catalog.=) $1 AND i.\"check\" OPERATOR(pg_catalog.=) $2"
" AND i.state OPERATOR(pg_catalog.<>) 'd'";

static const char by_fragment[] =
"SELECT p.profile_id FROM cdp_data.profile p"
" WHERE p.fragment_id OPERATOR(pg_catalog.=) $1 AND p.workspace_id OPERATOR(pg_catalog.=) $2";

static const char of_fragment[] =
"SELECT 1::bigint FROM cdp_data.identifier i"
" WHERE i.fragment_id OPERATOR(pg_catalog.=) $1 AND i.workspace_id OPERATOR(pg_catalog.=) $2"
" AND i.state OPERATOR(pg_catalog.<>) 'd'";

/* First row of one of the statements; 0: none. */
static int64
look_up(SPIPlanPtr *plan, const char *sql, int64 key, int32 second)
{
	CdpUserContext save;
	Oid			types[2] = {INT8OID, INT4OID};
	Datum		values[2] = {Int64GetDatum(key), Int32GetDatum(second)};
	int64		found = 0;
	bool		isnull;

	cdp_become_owner(&save);
	SPI_connect();
	if (*plan == NULL)
	{
		*plan = SPI_prepare(sql, 2, types);
		if (*plan == NULL || SPI_keepplan(*plan) != 0)
			elog(ERROR, "cdp: could not prepare \"%s\"", sql);
	}
	if (SPI_execute_plan(*plan, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "cdp: \"%s\" failed", sql);
	if (SPI_processed > 0)
		found = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	cdp_become_caller(&save);
	return found;
}

bool
cdp_parse_profile_id(CdpStr value, int64 *id)
{
	char	   *end;

	errno = 0;
	*id = strtoi64(value.s, &end, 10);
	return errno == 0 && end != value.s && *end == '\0';
}

int64
cdp_find_profile(const CdpWorkspace *workspace, CdpStr namespace_name, CdpStr value)
{
	static SPIPlanPtr identifier_plan = NULL;
	static SPIPlanPtr fragment_plan = NULL;
	CdpNamespace *ns;
	int64		hash;
	int32		check;

	if (cdp_str_eq(namespace_name, cdp_str(CDP_PROFILE_ID_NAMESPACE)))
	{
		int64		id;

		return cdp_parse_profile_id(value, &id) ? look_up(&fragment_plan, by_fragment, id, workspace->id) : 0;
	}
	ns = cdp_namespace_find(&workspace->policy, namespace_name);
	if (ns == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("namespace \"%s\" does not exist", namespace_name.s)));
	cdp_ident_hash(workspace->id, ns, cdp_normalise(ns, value), &hash, &check);
	return look_up(&identifier_plan, by_identifier, hash, check);
}

PG_FUNCTION_INFO_V1(cdp_sql_find_profile);

Datum
cdp_sql_find_profile(PG_FUNCTION_ARGS)
{
	int64		id = cdp_find_profile(cdp_workspace_by_name(NULL),
									  cdp_str(text_to_cstring(PG_GETARG_TEXT_PP(0))),
									  cdp_str(text_to_cstring(PG_GETARG_TEXT_PP(1))));

	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}

PG_FUNCTION_INFO_V1(cdp_sql_has_identifier);

Datum
cdp_sql_has_identifier(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;

	PG_RETURN_BOOL(look_up(&plan, of_fragment, PG_GETARG_INT64(0), cdp_caller_workspace()) != 0);
}
