/*
 * mask.c: what a reader sees who may not see values.
 *
 * The views are the same for everybody; their output columns ask sees_values()
 * and, where the answer is no, show a pseudonym or a reduced document.  Nothing
 * here filters rows.
 */
#include "cdp.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"

/* roles that see values; they are there from CREATE EXTENSION on */
static const char *const seeing_roles[] = {"cdp_admin", "cdp_privacy_officer"};

static bool
sees_values(void)
{
	Oid			caller = GetOuterUserId();

	if (!cdp_preloaded)
		return false;
	if (superuser_arg(caller))
		return true;
	for (int i = 0; i < lengthof(seeing_roles); i++)
	{
		Oid			role = get_role_oid(seeing_roles[i], true);

		if (OidIsValid(role) && has_privs_of_role(caller, role))
			return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(cdp_sql_sees_values);

Datum
cdp_sql_sees_values(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sees_values());
}
