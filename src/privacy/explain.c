/*
 * explain.c: plans are not shown to who may not see all rows.
 *
 * A plan tells of rows that its reader does not get: the planner's estimates
 * come from the statistics of all workspaces, and EXPLAIN ANALYZE counts what a
 * policy filtered out.  So only superusers, and who works in a workspace that is
 * the only one, get plans of queries over cdp_data, through views or functions.
 *
 * EXPLAIN reaches the executor whatever it explains, a prepared statement or a
 * cursor too; there the plan's tables are known, those of inlined functions
 * included.  A query that merely runs inside of an explained one is refused as
 * well, also one of cdp itself.  debug_print_plan, which everybody may set, sends plans as messages:
 * the same for it, in the planner.  auto_explain writes plans to the log, from
 * where everybody may ask for them (client_min_messages): to clients they do not go.
 */
#include "cdp.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "optimizer/planner.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "privacy/explain.h"

static ProcessUtility_hook_type previous_utility = NULL;
static ExecutorStart_hook_type previous_executor_start = NULL;
static planner_hook_type previous_planner = NULL;
static emit_log_hook_type previous_emit_log = NULL;

static int	explaining = 0;		/* EXPLAIN statements that are running, one in the other */

static bool
reads_our_tables(const PlannedStmt *plan)
{
	Oid			schema = get_namespace_oid("cdp_data", true);
	ListCell   *lc;

	if (!OidIsValid(schema))
		return false;
	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (OidIsValid(rte->relid) && get_rel_namespace(rte->relid) == schema)
			return true;
	}
	return false;
}

/* A statement of cdp itself, which runs as its owner, is run for who runs the statement around it. */
static bool
is_ours(void)
{
	return InNoForceRLSOperation() && GetUserId() == get_role_oid(CDP_OWNER_ROLE, true);
}

static bool
works_alone(List *workspaces)
{
	return workspaces != NIL && list_length(cdp_workspace_ids()) < 2;
}

/* superusers first: what the tables say may not be known yet, or not to this library */
static bool
sees_plans(void)
{
	if (is_ours())
		return !InSecurityRestrictedOperation() &&
			(superuser_arg(GetOuterUserId()) || works_alone(cdp_workspaces_of_role(GetOuterUserId())));
	return cdp_caller_is_known() &&
		(cdp_caller_is(superuser_arg) || works_alone(cdp_caller_workspaces()));
}

static void
refuse_plan(const PlannedStmt *plan)
{
	if (!reads_our_tables(plan) || sees_plans())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to see the plan of a query over cdp"),
			 errdetail("A plan tells of rows of other workspaces."),
			 errhint("Superusers may, and who works in the only workspace.")));
}

static void
next_utility(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
			 ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (previous_utility)
		previous_utility(pstmt, query, read_only, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, env, dest, qc);
}

static void
utility(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
		ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (!IsA(pstmt->utilityStmt, ExplainStmt))
	{
		next_utility(pstmt, query, read_only, context, params, env, dest, qc);
		return;
	}
	explaining++;
	PG_TRY();
	{
		next_utility(pstmt, query, read_only, context, params, env, dest, qc);
	}
	PG_FINALLY();
	{
		explaining--;
	}
	PG_END_TRY();
}

static void
executor_start(QueryDesc *query, int eflags)
{
	if (explaining > 0)
		refuse_plan(query->plannedstmt);
	if (previous_executor_start)
		previous_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

static PlannedStmt *
plan(Query *parse, const char *query, int options, ParamListInfo params)
{
	PlannedStmt *result = previous_planner ? previous_planner(parse, query, options, params) :
	standard_planner(parse, query, options, params);

	if (Debug_print_plan)
		refuse_plan(result);
	return result;
}

/* auto_explain reports at the end of a query, in its transaction */
static void
emit_log(ErrorData *edata)
{
	if (edata->output_to_client && edata->elevel < ERROR && edata->filename && strstr(edata->filename, "auto_explain")
		&& IsTransactionState() && cdp_is_set_up() && !sees_plans())
		edata->output_to_client = false;
	if (previous_emit_log)
		previous_emit_log(edata);
}

void
cdp_explain_hook_install(void)
{
	previous_emit_log = emit_log_hook;
	emit_log_hook = emit_log;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	previous_planner = planner_hook;
	planner_hook = plan;
}
