/*
 * forget.c: cdp.forget(), the right to be forgotten.
 *
 * One transaction.  Who is meant is found by the identifier or profile id; what
 * goes is planned (erasure_plan.c); all fragments of the plan are locked in id
 * order, as a batch would (Z.4), and it is asked again who is meant and what
 * goes: an identifier may have become another person's while we waited.  If
 * anything changed, in a new attempt.  Then it is carried out (erasure.c).
 * Messages that are set aside are searched (mentions.c) before the locks, since
 * that may take a while and nobody should wait for it; when other identifiers
 * go in the end, what was done to them is rolled back, and they are searched
 * again.
 *
 * The row in cdp_data.erasure, committed with it, makes the maintenance worker
 * repeat what batches of that time may have left behind (complete.c).
 *
 * Killed in the middle: nothing has happened.  Twice at once: the second waits
 * for the first, and finds nobody.  synchronous_commit is on whatever the
 * session says: what was confirmed must not come back after a crash.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "identity/recent.h"
#include "privacy/erasure.h"
#include "spi.h"

#define MAX_ATTEMPTS 100		/* that others may spoil */

typedef struct Request
{
	const CdpWorkspace *workspace;
	CdpStr		namespace_name,
				value;
	char	   *reason;
	char	   *scope;			/* NULL: not said */
	bool		dry_run;
	Oid			role;			/* who asks */
} Request;

typedef struct Outcome
{
	CdpErasurePlan plan;
	CdpErasureCounts counts,
				mentions;		/* what was found in messages that are set aside, and in events of nobody */
	TimestampTz not_before;
	int64		erasure_id;
	int			attempts;
	bool		done;
} Outcome;

/* ---------------------------------------------------------------- who is meant */

static CdpSpi identifier_plan = {
	"SELECT i.fragment_id, i.state FROM cdp_data.identifier i WHERE i.identifier_id = $1 AND i.\"check\" = $2",
	2, {INT8OID, INT4OID}
};

static CdpSpi fragment_plan = {
	"SELECT p.fragment_id FROM cdp_data.profile p WHERE p.fragment_id = $1 AND p.workspace_id = $2",
	2, {INT8OID, INT4OID}
};

/* people who live and presented it, in the links of its component */
static CdpSpi holders_plan = {
	"WITH near AS (SELECT p.contest_id FROM cdp_data.profile p WHERE p.fragment_id = $2 AND p.contest_id <> 0)"
	" SELECT pg_catalog.count(DISTINCT o.profile_id) FROM near n"
	"  JOIN cdp_data.profile f ON f.contest_id = n.contest_id"
	"  JOIN cdp_data.identifier i ON i.fragment_id = f.fragment_id"
	"  JOIN cdp_data.link l ON l.identifier_id = i.identifier_id AND $1 = ANY (l.members)"
	"  JOIN cdp_data.identifier m ON m.identifier_id = ANY (l.members) AND m.state = 'l'"
	"  JOIN cdp_data.profile o ON o.fragment_id = m.fragment_id",
	2, {INT8OID, INT8OID}
};

static void
refuse_shared(int64 hash, int64 fragment_id)
{
	Datum		args[2] = {Int64GetDatum(hash), Int64GetDatum(fragment_id)};
	int64		holders;

	cdp_spi_run(&holders_plan, args, NULL);
	holders = cdp_spi_int64(0, 1);
	cdp_spi_end();
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("this identifier belongs to nobody alone, and selects nobody"),
			 errdetail("People who presented it: %lld.", (long long) holders),
			 errhint("Name the person by another identifier, or by namespace profile_id.")));
}

static const CdpNamespace *
person_namespace(const Request *r)
{
	const CdpNamespace *ns = cdp_namespace_find(&r->workspace->policy, r->namespace_name);

	if (ns == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("namespace \"%s\" does not exist", r->namespace_name.s)));
	if (ns->household)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("an identifier of a household selects nobody"),
				 errhint("Name the person by an identifier of its own.")));
	return ns;
}

/* the fragment of the identifier; 0: nobody has it */
static int64
find_by_identifier(const Request *r)
{
	const CdpNamespace *ns = person_namespace(r);
	int64		hash,
				fragment_id = 0;
	int32		check;
	char		state = 'l';
	bool		isnull;
	Datum		args[2];

	cdp_ident_hash(r->workspace->id, ns, cdp_normalise(ns, r->value), &hash, &check);
	args[0] = Int64GetDatum(hash);
	args[1] = Int32GetDatum(check);
	if (cdp_spi_run(&identifier_plan, args, NULL) > 0)
	{
		fragment_id = cdp_spi_int64(0, 1);
		state = DatumGetChar(cdp_spi_datum(0, 2, &isnull));
	}
	cdp_spi_end();
	if (state != 'l')
		refuse_shared(hash, fragment_id);
	return fragment_id;
}

static int64
find_by_profile_id(const Request *r)
{
	Datum		args[2];
	int64		id;

	if (!cdp_parse_profile_id(r->value, &id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("a profile id is a number")));
	args[0] = Int64GetDatum(id);
	args[1] = Int32GetDatum(r->workspace->id);
	if (cdp_spi_run(&fragment_plan, args, NULL) == 0)
		id = 0;
	cdp_spi_end();
	return id;
}

static int64
find_target(const Request *r)
{
	if (cdp_str_eq(r->namespace_name, cdp_str(CDP_PROFILE_ID_NAMESPACE)))
		return find_by_profile_id(r);
	return find_by_identifier(r);
}

/* the profile id of a shared identifier that others presented says no more than the identifier */
static void
refuse_nobody(const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nmembers && p->ngone == 0; i++)
		if (p->members[i].refuge)
			refuse_shared(p->members[i].hash, p->target);
}

static void
require_person(const Request *r, const CdpErasurePlan *p)
{
	refuse_nobody(p);
	if (r->scope || !p->ambiguous)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CARDINALITY_VIOLATION),
			 errmsg("profile %lld has two values of a namespace that is limited to one, and may be two people",
					(long long) p->profile_id),
			 errhint("Say scope => 'profile' for the whole profile, or 'fragment' for what was known of this identifier before it was joined with others.")));
}

/* who is meant now, and what goes; false: nobody */
static bool
plan(const Request *r, Outcome *o)
{
	o->plan.target = find_target(r);
	if (o->plan.target == 0 || !cdp_erasure_plan(&o->plan))
		return false;
	require_person(r, &o->plan);
	return true;
}

/* ---------------------------------------------------------------- carrying it out */

static bool
lock_everybody(CdpWork *w, const CdpErasurePlan *p)
{
	for (int i = 0; i < p->nfragments; i++)
		(void) cdp_work_add_fragment(w, p->fragments[i]);
	for (int i = 0; i < p->nothers; i++)
		(void) cdp_work_add_fragment(w, p->others[i]);
	return cdp_lock_fragments(w);
}

static bool
same_ids(const int64 *a, int na, const int64 *b, int nb)
{
	return na == nb && memcmp(a, b, na * sizeof(int64)) == 0;
}

/* the fragments that were locked, and the identifiers that were searched? */
static bool
same_people(const CdpErasurePlan *a, const CdpErasurePlan *b)
{
	return a->target == b->target &&
		same_ids(a->fragments, a->nfragments, b->fragments, b->nfragments) &&
		same_ids(a->others, a->nothers, b->others, b->nothers) &&
		same_ids(a->tokens, a->ntokens, b->tokens, b->ntokens);
}

typedef struct Attempt
{
	const Request *request;
	Outcome    *outcome;
} Attempt;

static void
erase(CdpWork *w, void *arg)
{
	Attempt    *a = arg;
	CdpErasurePlan before = a->outcome->plan;

	if (!lock_everybody(w, &before))
		return;
	if (!plan(a->request, a->outcome) || !same_people(&before, &a->outcome->plan))
		return;
	cdp_read_instant(w);
	a->outcome->not_before = cdp_erasure_carry_out(w, &a->outcome->plan, &a->outcome->counts);
	a->outcome->done = true;
}

static CdpSpi erasure_plan = {
	"INSERT INTO cdp_data.erasure (workspace_id, erased_at, erased_by, reason, scope, tokens, fragments)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING erasure_id",
	7, {INT4OID, TIMESTAMPTZOID, NAMEOID, TEXTOID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID}
};

static void
record(const Request *r, Outcome *o)
{
	NameData	by;
	Datum		args[7];

	namestrcpy(&by, GetUserNameFromId(r->role, false));
	args[0] = Int32GetDatum(r->workspace->id);
	args[1] = TimestampTzGetDatum(o->not_before);
	args[2] = NameGetDatum(&by);
	args[3] = CStringGetTextDatum(r->reason);
	args[4] = CStringGetTextDatum(o->plan.fragment_only ? "fragment" : "profile");
	args[5] = cdp_int8_array(o->plan.tokens, o->plan.ntokens);
	args[6] = cdp_int8_array(o->plan.fragments, o->plan.nfragments);
	cdp_spi_run(&erasure_plan, args, NULL);
	o->erasure_id = cdp_spi_int64(0, 1);
	cdp_spi_end();
}

static bool
erase_once(void *arg)
{
	Attempt    *a = arg;

	a->outcome->counts = (CdpErasureCounts) {0};
	cdp_apply_other(a->request->workspace->id, erase, a);
	return a->outcome->done;
}

/* in a subtransaction, so that what a failed attempt did and locked is given up */
static void
run(CdpInSubtransaction step, Attempt *a)
{
	ErrorData  *error = cdp_in_subtransaction(step, a);

	if (error)
		ReThrowError(error);
}

/* what is here is of the past, whatever its stamps say: those of a device whose clock is fast lie in the future */
static void
search_mentions(const Request *r, Outcome *o)
{
	cdp_erase_mentions(r->workspace, o->plan.tokens, o->plan.ntokens, DT_NOEND, r->dry_run, &o->mentions);
}

static bool
has_attempts_left(Outcome *o)
{
	if (o->done)
		return false;
	CHECK_FOR_INTERRUPTS();
	if (o->attempts++ == MAX_ATTEMPTS)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the person changed during each of %d attempts", MAX_ATTEMPTS)));
	return true;
}

/* false: others go than those that were searched */
static bool
search_and_erase(void *arg)
{
	Attempt    *a = arg;
	Outcome    *o = a->outcome;
	CdpErasurePlan searched = o->plan;

	o->mentions = (CdpErasureCounts) {0};
	search_mentions(a->request, o);
	do
		run(erase_once, a);
	while (has_attempts_left(o) && plan(a->request, o) &&
		   same_ids(searched.tokens, searched.ntokens, o->plan.tokens, o->plan.ntokens));
	return o->done;
}

static bool
forget(const Request *r, Outcome *o)
{
	Attempt		a = {r, o};

	while (has_attempts_left(o))
	{
		if (!plan(r, o))
			return false;
		run(search_and_erase, &a);
	}
	record(r, o);
	return true;
}

static bool
count(const Request *r, Outcome *o)
{
	if (!plan(r, o))
		return false;
	cdp_erasure_count(&o->plan, &o->counts);
	search_mentions(r, o);
	return true;
}

/* ---------------------------------------------------------------- the answer */

static void
put_count(StringInfo out, const char *name, int64 n)
{
	char		last = out->data[out->len - 1];

	appendStringInfo(out, "%s\"%s\": " INT64_FORMAT, last == '{' ? "" : ", ", name, n);
}

static void
put_deleted(StringInfo out, const Outcome *o)
{
	appendStringInfoString(out, ", \"deleted\": {");
	put_count(out, "event", o->counts.event);
	put_count(out, "identifier", o->counts.identifier);
	put_count(out, "link", o->counts.link - o->counts.link_stripped);
	put_count(out, "profile", o->counts.profile);
	put_count(out, "profile_trait", o->counts.profile_trait);
	put_count(out, "dirty", o->counts.dirty);
	put_count(out, "decision", o->counts.decision);
	put_count(out, "identity_warning", o->counts.warning);
	put_count(out, "quarantine", o->mentions.quarantine);
	put_count(out, "parked", o->mentions.parked);
	appendStringInfoString(out, "}, \"stripped\": {");
	put_count(out, "event", o->counts.event_stripped + o->mentions.event_stripped);
	put_count(out, "link", o->counts.link_stripped);
	put_count(out, "quarantine", o->mentions.quarantine_stripped);
	appendStringInfoString(out, "}, \"kept\": {");
	put_count(out, "message_seen", o->counts.seen);
	appendStringInfoString(out, "}");
}

static Datum
answer(const Request *r, const Outcome *o, bool found)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "{\"found\": %s, \"dry_run\": %s", found ? "true" : "false", r->dry_run ? "true" : "false");
	if (found)
	{
		appendStringInfo(&out, ", \"profile_id\": " INT64_FORMAT ", \"scope\": \"%s\", \"tokens\": %d",
						 o->plan.profile_id, o->plan.fragment_only ? "fragment" : "profile", o->plan.ntokens);
		if (!r->dry_run)
			appendStringInfo(&out, ", \"erasure_id\": " INT64_FORMAT, o->erasure_id);
		put_deleted(&out, o);
	}
	appendStringInfoChar(&out, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data));
}

/* ---------------------------------------------------------------- cdp.forget() */

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static void
require_argument(bool given, const char *name, const char *hint)
{
	if (!given)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s is required", name),
				 errhint("%s", hint)));
}

static void
read_request(FunctionCallInfo fcinfo, Request *r)
{
	char	   *namespace_name = text_argument(fcinfo, 0);
	char	   *value = text_argument(fcinfo, 1);

	r->reason = text_argument(fcinfo, 2);
	r->dry_run = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	r->scope = text_argument(fcinfo, 4);
	require_argument(namespace_name && value, "an identifier", "Name the person by namespace and value.");
	require_argument(r->reason && r->reason[strspn(r->reason, " ")] != '\0', "a reason",
					 "It is kept with the erasure; write no personal data in it.");
	if (r->scope && strcmp(r->scope, "fragment") != 0 && strcmp(r->scope, "profile") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown scope \"%s\"", r->scope),
				 errhint("It is fragment, profile, or NULL.")));
	r->namespace_name = cdp_str(namespace_name);
	r->value = cdp_str(value);
	r->workspace = cdp_workspace_of_caller(NULL);
	r->role = cdp_caller_role();
}

static void
prepare_to_write(void)
{
	cdp_require_read_committed("forget");
	LockRelationOid(cdp_table(CDP_T_ENGINE_LOCK), RowExclusiveLock);
	cdp_recent_forget();
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

PG_FUNCTION_INFO_V1(cdp_sql_forget);

Datum
cdp_sql_forget(PG_FUNCTION_ARGS)
{
	Request		r = {0};
	Outcome		o = {.done = false};
	CdpUserContext user;
	volatile bool found = false;

	cdp_version_require();
	cdp_key_require();
	read_request(fcinfo, &r);
	o.plan = (CdpErasurePlan) {.cxt = CurrentMemoryContext, .workspace = r.workspace};
	o.plan.fragment_only = r.scope && strcmp(r.scope, "fragment") == 0;
	if (!r.dry_run)
		prepare_to_write();
	cdp_become_owner(&user);
	PG_TRY();
	{
		found = r.dry_run ? count(&r, &o) : forget(&r, &o);
	}
	PG_FINALLY();
	{
		cdp_engine_instant = 0;
	}
	PG_END_TRY();
	cdp_become_caller(&user);
	return answer(&r, &o, found);
}
