/*
 * view_owner.c: views of another owner show nothing.
 *
 * A view reads with its owner's rights.  Those of cdp belong to cdp_owner, whom
 * row security holds; after pg_restore --no-owner they would belong to the
 * superuser who restored, and show every workspace to everybody.  So before a
 * query runs: who is held by row security reads no table of cdp_data with the
 * rights of somebody who is not.
 */
#include "cdp.h"

#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "compat.h"
#include "privacy/view_owner.h"

static ExecutorCheckPerms_hook_type previous_check_perms = NULL;

/* has_bypassrls_privilege() is true of superusers, too */
static bool
is_view_of_another_owner(const CdpCheckPerms * p)
{
	return OidIsValid(p->checkAsUser) && OidIsValid(p->relid) && has_bypassrls_privilege(p->checkAsUser) &&
		strcmp(get_namespace_name(get_rel_namespace(p->relid)), CDP_DATA_SCHEMA) == 0 &&
		!cdp_caller_is(has_bypassrls_privilege);
}

static bool
check_perms(CDP_CHECK_PERMS_PARAMS)
{
	ListCell   *lc;

	foreach(lc, CDP_CHECK_PERMS_LIST)
	{
		if (!is_view_of_another_owner(lfirst(lc)))
			continue;
		if (!raise)
			return false;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a view over cdp_data belongs to a role that row security does not hold"),
				 errdetail("It would show every workspace."),
				 errhint("If the database was restored with --no-owner, restore it without; else let the view read the views of cdp.")));
	}
	return previous_check_perms == NULL || previous_check_perms(CDP_CHECK_PERMS_ARGS);
}

void
cdp_view_owner_hook_install(void)
{
	previous_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_perms;
}
