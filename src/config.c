/*
 * config.c: workspaces, namespaces and sources, as every backend keeps them.
 *
 * A workspace is read, with all that belongs to it, when it is first asked for,
 * and in which workspaces a role works, when that role is: there may be very
 * many.  A statement trigger on each of the tables (catalog.c) sends a relcache
 * message, so that every change is seen by every backend at its next look,
 * whether it came through a function, plain SQL or a restore, and is forgotten
 * again when it rolls back.
 *
 * What was read since the last change is a generation with a memory context of
 * its own.  Whoever holds a pointer into it keeps it to the end of the
 * transaction: a generation that was replaced is freed only then.  One that has
 * read MANY workspaces is replaced after the transaction, so that memory is
 * bounded.  A source's options are compiled when it is first asked for, so that
 * a source that can not be compiled hurts nobody else.
 */
#include "cdp.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "engine.h"
#include "identity/identity.h"

typedef struct SourceEntry
{
	CdpSource	source;			/* first: what others see */
	bool		compiled;
	bool		unusable;		/* it cannot be */
	char	   *format;
	Jsonb	   *options;
} SourceEntry;

typedef struct WorkspaceEntry
{
	CdpWorkspace workspace;		/* first: what others see */
	List	   *sources;		/* SourceEntry */
	List	   *open_keys;		/* CdpStr * */
} WorkspaceEntry;

typedef struct RoleEntry
{
	Oid			role;
	List	   *workspaces;		/* ids of those it works in */
} RoleEntry;

typedef struct Generation
{
	MemoryContext cxt;
	List	   *workspaces;		/* WorkspaceEntry */
	List	   *roles;			/* RoleEntry */
	List	   *absent;			/* ids of sources that rows name and that were dropped */
	struct Generation *older;	/* replaced in this transaction */
} Generation;

#define MANY 100				/* workspaces, or roles */

static Generation *current = NULL;
static bool stale = true;
static bool registered = false;

/* ---------------------------------------------------------------- values of rows */

static CdpStr
row_text(const CdpRow *row, const char *column)
{
	bool		isnull;
	Datum		d = cdp_row_get(row, column, &isnull);

	return isnull ? CDP_STR_NONE : cdp_str(TextDatumGetCString(d));
}

static int32
row_int(const CdpRow *row, const char *column)
{
	bool		isnull;
	Datum		d = cdp_row_get(row, column, &isnull);

	return isnull ? 0 : DatumGetInt32(d);
}

static bool
row_bool(const CdpRow *row, const char *column)
{
	bool		isnull;
	Datum		d = cdp_row_get(row, column, &isnull);

	return !isnull && DatumGetBool(d);
}

static int64
row_interval(const CdpRow *row, const char *column)
{
	bool		isnull;
	Datum		d = cdp_row_get(row, column, &isnull);

	return isnull ? 0 : cdp_interval_us(DatumGetIntervalP(d));
}

#define LONGEST_US (PG_INT64_MAX / 2)	/* 146,000 years, which may be added to any time stamp of ours */

/* months count as 30 days, as in the comparison of intervals */
int64
cdp_interval_us(const Interval *i)
{
	int64		days = (int64) i->month * DAYS_PER_MONTH + i->day;
	int64		us;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &us) || pg_add_s64_overflow(us, i->time, &us))
		return days > 0 ? LONGEST_US : -LONGEST_US;
	return Max(Min(us, LONGEST_US), -LONGEST_US);
}

/* ---------------------------------------------------------------- workspaces and namespaces */

static CdpPolicyKind
policy_kind(CdpStr name)
{
	return cdp_str_eq(name, cdp_str("components")) ? CDP_POLICY_COMPONENTS : CDP_POLICY_DEMOTE;
}

static void
load_workspace(const CdpRow *row, void *arg)
{
	WorkspaceEntry *e = palloc0(sizeof(WorkspaceEntry));
	CdpWorkspace *w = &e->workspace;

	w->id = row_int(row, "workspace_id");
	w->name = row_text(row, "name");
	w->policy.workspace_id = w->id;
	w->policy.kind = policy_kind(row_text(row, "identity_policy"));
	*(WorkspaceEntry **) arg = e;
}

static struct CdpBlockList *
compile_blocked(const CdpRow *row)
{
	bool		isnull;
	Datum		d = cdp_row_get(row, "blocked", &isnull);
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	CdpStr	   *entries;

	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(d), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	if (n == 0)
		return NULL;
	entries = palloc(n * sizeof(CdpStr));
	for (int i = 0; i < n; i++)
		entries[i] = nulls[i] ? cdp_str("") : cdp_str(TextDatumGetCString(elements[i]));
	return cdp_blocklist_compile(entries, n);
}

static void
load_namespace(const CdpRow *row, void *arg)
{
	CdpPolicy  *p = arg;
	CdpNamespace *ns;
	CdpStr		text;
	bool		isnull;

	p->namespaces = p->namespaces ?
		repalloc(p->namespaces, (p->nnamespaces + 1) * sizeof(CdpNamespace)) :
		palloc(sizeof(CdpNamespace));
	ns = &p->namespaces[p->nnamespaces++];
	memset(ns, 0, sizeof(*ns));
	ns->id = row_int(row, "namespace_id");
	ns->name = row_text(row, "name");
	ns->priority = row_int(row, "priority");
	ns->household = cdp_str_eq(row_text(row, "level"), cdp_str("household"));
	ns->value_limit = row_int(row, "value_limit");
	ns->limit_window = row_interval(row, "limit_window");
	ns->degree = row_int(row, "degree");
	ns->owner = row_bool(row, "owner");
	ns->normaliser = cdp_normaliser_parse(row_text(row, "normaliser").s);
	ns->weight = DatumGetFloat4(cdp_row_get(row, "weight", &isnull));
	ns->blocked = compile_blocked(row);
	text = row_text(row, "valid");
	if (text.s != NULL)
		ns->valid = cdp_pattern_compile(text.s, false);
}

static int
namespace_cmp(const void *a, const void *b)
{
	const CdpNamespace *x = a;
	const CdpNamespace *y = b;

	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	return cdp_str_cmp(x->name, y->name);
}

static void
load_open_key(const CdpRow *row, void *arg)
{
	WorkspaceEntry *e = arg;
	CdpStr	   *key = palloc(sizeof(CdpStr));

	*key = row_text(row, "key");
	e->open_keys = lappend(e->open_keys, key);
}

/* ---------------------------------------------------------------- sources */

static void
load_source(const CdpRow *row, void *arg)
{
	WorkspaceEntry *w = arg;
	SourceEntry *e = palloc0(sizeof(SourceEntry));
	bool		isnull;
	Datum		options;

	e->source.id = row_int(row, "source_id");
	e->source.name = row_text(row, "name");
	e->source.workspace = &w->workspace;
	e->source.kafka = row_text(row, "brokers").s != NULL;
	e->source.paused = row_bool(row, "paused");
	e->format = pstrdup(row_text(row, "format").s);
	options = cdp_row_get(row, "options", &isnull);
	e->options = (Jsonb *) PG_DETOAST_DATUM_COPY(options);
	w->sources = lappend(w->sources, e);
}

static bool
option(Jsonb *options, const char *name, JsonbValue *v)
{
	return JB_ROOT_IS_OBJECT(options) &&
		getKeyJsonValueFromContainer(&options->root, name, strlen(name), v) != NULL &&
		v->type != jbvNull;
}

static CdpStr
option_text(Jsonb *options, const char *name)
{
	JsonbValue	v;

	if (!option(options, name, &v) || v.type != jbvString)
		return CDP_STR_NONE;
	return cdp_str(pnstrdup(v.val.string.val, v.val.string.len));
}

/* true, false, "on", "off", "true", "false"; anything else is the default */
static bool
option_bool(Jsonb *options, const char *name, bool default_value)
{
	JsonbValue	v;
	bool		result;

	if (!option(options, name, &v))
		return default_value;
	if (v.type == jbvBool)
		return v.val.boolean;
	if (v.type == jbvString && parse_bool_with_len(v.val.string.val, v.val.string.len, &result))
		return result;
	return default_value;
}

#define DEFAULT_MAX_FUTURE (24 * USECS_PER_HOUR)

static int64
option_max_future(Jsonb *options)
{
	CdpStr		text = option_text(options, "max_future");
	Interval   *i;

	if (text.s == NULL)
		return DEFAULT_MAX_FUTURE;
	if (pg_strcasecmp(text.s, "infinity") == 0)
		return PG_INT64_MAX;
	i = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text.s),
											  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	return cdp_interval_us(i);
}

static CdpSkew
option_skew(Jsonb *options)
{
	CdpStr		text = option_text(options, "skew");

	if (cdp_str_eq(text, cdp_str("segment")))
		return CDP_SKEW_SEGMENT;
	if (cdp_str_eq(text, cdp_str("none")))
		return CDP_SKEW_NONE;
	return CDP_SKEW_QUANTUM;
}

/* id_space: a name of the user's, or 'source' or 'workspace'; the format knows the default */
static void
compile_id_space(CdpSource *s, Jsonb *options)
{
	s->id_space = option_text(options, "id_space");
	s->id_space_is_source = !s->format->unique_ids;
	if (cdp_str_eq(s->id_space, cdp_str("source")) || cdp_str_eq(s->id_space, cdp_str("workspace")))
	{
		s->id_space_is_source = *s->id_space.s == 's';
		s->id_space = CDP_STR_NONE;
	}
}

/* Fill what depends on format and options; raises when they are wrong. */
static void
compile_source(SourceEntry *e, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	CdpSource  *s = &e->source;

	s->format = cdp_format_find(e->format);
	if (s->format == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source \"%s\" has the unknown format \"%s\"", s->name.s, e->format)));
	s->skew = option_skew(e->options);
	s->max_future = option_max_future(e->options);
	s->trust_received_at = option_bool(e->options, "trust_received_at",
									   strcmp(e->format, "segment") == 0);
	s->alias = option_bool(e->options, "alias", true);
	s->email_from_properties = option_bool(e->options, "email_from_properties", false);
	s->batch = option_bool(e->options, "batch", false);
	compile_id_space(s, e->options);
	if (s->format->compile)
		s->mapping = s->format->compile(e->options);
	e->compiled = true;
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- generations */

static void
table_changed(CdpTable t)
{
	switch (t)
	{
		case CDP_T_WORKSPACE:
		case CDP_T_WORKSPACE_ROLE:
		case CDP_T_SOURCE:
		case CDP_T_NAMESPACE:
		case CDP_T_TRAIT_CLASS:
			stale = true;
			break;
		default:
			break;
	}
}

/* Free what was replaced in the transaction that ends. */
static void
transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	while (current != NULL && current->older != NULL)
	{
		Generation *dead = current->older;

		current->older = dead->older;
		MemoryContextDelete(dead->cxt);
	}
	if (current != NULL && Max(list_length(current->workspaces), list_length(current->roles)) > MANY)
		stale = true;
}

/* What a role may do has changed: in which workspaces it works is looked up again. */
static void
roles_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	stale = true;
}

static void
watch_changes(void)
{
	if (registered)
		return;
	cdp_on_table_change(table_changed);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, roles_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, roles_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(DATABASEOID, roles_changed, (Datum) 0);
	RegisterXactCallback(transaction_end, NULL);
	registered = true;
}

static Generation *
configuration(void)
{
	MemoryContext cxt;
	Generation *g;

	if (current != NULL && !stale)
		return current;
	watch_changes();
	cdp_version_require();
	stale = false;				/* what changes while we read makes it stale again */
	cxt = AllocSetContextCreate(CacheMemoryContext, "cdp configuration", ALLOCSET_SMALL_SIZES);
	g = MemoryContextAllocZero(cxt, sizeof(Generation));
	g->cxt = cxt;
	g->older = current;
	current = g;
	return g;
}

static void
load_belongings(WorkspaceEntry *e)
{
	int32		id = e->workspace.id;
	CdpPolicy  *p = &e->workspace.policy;

	cdp_scan_index(CDP_T_NAMESPACE, "namespace_name_key", "workspace_id", id, load_namespace, p);
	cdp_scan_index(CDP_T_TRAIT_CLASS, "trait_class_pkey", "workspace_id", id, load_open_key, e);
	cdp_scan_index(CDP_T_SOURCE, "source_name_key", "workspace_id", id, load_source, e);
	if (p->nnamespaces > 1)
		qsort(p->namespaces, p->nnamespaces, sizeof(CdpNamespace), namespace_cmp);
}

/* NULL: there is none.  What an error interrupts is freed with the caller's memory. */
static WorkspaceEntry *
read_workspace(Generation *g, int32 id)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "cdp workspace", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	WorkspaceEntry *e = NULL;

	cdp_scan_index(CDP_T_WORKSPACE, "workspace_pkey", "workspace_id", id, load_workspace, &e);
	if (e != NULL)
		load_belongings(e);
	MemoryContextSwitchTo(e ? g->cxt : old);
	if (e == NULL)
		MemoryContextDelete(cxt);
	else
	{
		g->workspaces = lappend(g->workspaces, e);
		MemoryContextSetParent(cxt, g->cxt);
	}
	MemoryContextSwitchTo(old);
	return e;
}

static WorkspaceEntry *
find_workspace(int32 id)
{
	Generation *g = configuration();
	ListCell   *lc;

	foreach(lc, g->workspaces)
	{
		WorkspaceEntry *e = lfirst(lc);

		if (e->workspace.id == id)
			return e;
	}
	return read_workspace(g, id);
}

/* ---------------------------------------------------------------- roles */

/*
 * Membership that the role can use now; being a superuser makes nobody a
 * member of everything.  Everybody works as public, which no role can be
 * called.
 */
static bool
works_as(Oid role, const char *name)
{
	Oid			granted = get_role_oid(name, true);

	if (role == granted || strcmp(name, CDP_EVERYBODY) == 0)
		return true;
	if (!OidIsValid(granted))
		return false;
	return superuser_arg(role) ? is_member_of_role_nosuper(role, granted) : has_privs_of_role(role, granted);
}

static void
load_role(const CdpRow *row, void *arg)
{
	RoleEntry  *e = arg;
	bool		isnull;

	if (works_as(e->role, NameStr(*DatumGetName(cdp_row_get(row, "role_name", &isnull)))))
		e->workspaces = list_append_unique_int(e->workspaces, row_int(row, "workspace_id"));
}

List *
cdp_workspaces_of_role(Oid role)
{
	Generation *g = configuration();
	RoleEntry  *e;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, g->roles)
	{
		e = lfirst(lc);
		if (e->role == role)
			return e->workspaces;
	}
	old = MemoryContextSwitchTo(g->cxt);
	e = palloc0(sizeof(RoleEntry));
	e->role = role;
	cdp_scan_table(CDP_T_WORKSPACE_ROLE, load_role, e);
	g->roles = lappend(g->roles, e);
	MemoryContextSwitchTo(old);
	return e->workspaces;
}

/* ---------------------------------------------------------------- what others ask for */

static void
keep_workspace_of_source(const CdpRow *row, void *arg)
{
	*(int32 *) arg = row_int(row, "workspace_id");
}

static SourceEntry *
source_of_workspace(const WorkspaceEntry *w, int32 source_id)
{
	ListCell   *lc;

	foreach(lc, w->sources)
	{
		SourceEntry *e = lfirst(lc);

		if (e->source.id == source_id)
			return e;
	}
	return NULL;
}

static SourceEntry *
find_source(int32 source_id)
{
	SourceEntry *e;
	WorkspaceEntry *w;
	int32		workspace_id = 0;
	ListCell   *lc;

	foreach(lc, configuration()->workspaces)
		if ((e = source_of_workspace(lfirst(lc), source_id)) != NULL)
			return e;
	cdp_scan_index(CDP_T_SOURCE, "source_pkey", "source_id", source_id, keep_workspace_of_source, &workspace_id);
	w = find_workspace(workspace_id);
	return w ? source_of_workspace(w, source_id) : NULL;
}

CdpSource *
cdp_source_find(int32 source_id)
{
	SourceEntry *e = find_source(source_id);

	if (e == NULL)
		return NULL;
	if (!e->compiled)
		compile_source(e, GetMemoryChunkContext(e));
	return &e->source;
}

static bool
try_to_compile(void *arg)
{
	SourceEntry *e = arg;

	compile_source(e, GetMemoryChunkContext(e));
	return true;
}

/* Of rows that were stored long ago: what one source cannot do must not keep others from being done. */
CdpSource *
cdp_source_usable(int32 source_id)
{
	Generation *g = configuration();
	SourceEntry *e;

	if (list_member_int(g->absent, source_id))
		return NULL;
	e = find_source(source_id);
	if (e == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(g->cxt);

		g->absent = lappend_int(g->absent, source_id);
		MemoryContextSwitchTo(old);
		return NULL;
	}
	if (!e->compiled && !e->unusable)
	{
		ErrorData  *error = cdp_in_subtransaction(try_to_compile, e);

		if (error && ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			ReThrowError(error);
		e->unusable = error != NULL;
	}
	return e->compiled ? &e->source : NULL;
}

CdpSource *
cdp_source_by_id(int32 source_id)
{
	CdpSource  *source = cdp_source_find(source_id);

	if (source == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source %d does not exist", source_id)));
	return source;
}

/* sources of a name */
typedef struct Namesakes
{
	CdpStr		name;
	int			n;
	int32		id;				/* of one of them */
} Namesakes;

static void
count_namesake(const CdpRow *row, void *arg)
{
	Namesakes  *s = arg;

	if (!cdp_str_eq(row_text(row, "name"), s->name))
		return;
	s->id = row_int(row, "source_id");
	s->n++;
}

static int
hint_missing_source(const char *name, Oid role)
{
	if (strcmp(name, CDP_DEFAULT_SOURCE) == 0)
		return errhint("A workspace that was created has none yet: SELECT cdp.create_source('" CDP_DEFAULT_SOURCE "'), or name another source.");
	if (superuser_arg(role))
		return 0;
	return errhint("If it is of a workspace that you do not work in, ask for cdp.grant_workspace(role, workspace).");
}

/* What other workspaces have is as if it were not there. */
int32
cdp_source_id_of_caller(const char *name)
{
	Namesakes	s = {.name = cdp_str(name)};
	ListCell   *lc;

	foreach(lc, cdp_caller_workspaces())
		cdp_scan_index(CDP_T_SOURCE, "source_name_key", "workspace_id", lfirst_int(lc), count_namesake, &s);
	if (s.n == 0 && cdp_caller_is(superuser_arg))
		cdp_scan_table(CDP_T_SOURCE, count_namesake, &s);
	if (s.n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name),
				 hint_missing_source(name, cdp_caller_role())));
	if (s.n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("there is a source \"%s\" in more than one workspace", name),
				 errhint("Use SET ROLE to work as a role that has one, or give the sources different names.")));
	return s.id;
}

CdpNamespace *
cdp_namespace_find(const CdpPolicy *policy, CdpStr name)
{
	for (int i = 0; i < policy->nnamespaces; i++)
		if (cdp_str_eq(policy->namespaces[i].name, name))
			return &policy->namespaces[i];
	return NULL;
}

CdpNamespace *
cdp_namespace_by_id(const CdpPolicy *policy, int32 id)
{
	for (int i = 0; i < policy->nnamespaces; i++)
		if (policy->namespaces[i].id == id)
			return &policy->namespaces[i];
	return NULL;
}

bool
cdp_workspace_exists(int32 workspace_id)
{
	return find_workspace(workspace_id) != NULL;
}

CdpWorkspace *
cdp_workspace_by_id(int32 workspace_id)
{
	WorkspaceEntry *e = find_workspace(workspace_id);

	if (e == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("workspace %d does not exist", workspace_id)));
	return &e->workspace;
}

typedef struct Named
{
	CdpStr		name;
	int32		id;				/* 0: none */
} Named;

static void
keep_named(const CdpRow *row, void *arg)
{
	Named	   *n = arg;

	if (cdp_str_eq(row_text(row, "name"), n->name))
		n->id = row_int(row, "workspace_id");
}

CdpWorkspace *
cdp_workspace_find(const char *name)
{
	Named		n = {.name = cdp_str(name)};

	cdp_version_require();
	cdp_scan_table(CDP_T_WORKSPACE, keep_named, &n);
	return n.id ? cdp_workspace_by_id(n.id) : NULL;
}

int32
cdp_required_workspace(void)
{
	int32		id = cdp_caller_workspace();

	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" works in no workspace", GetUserNameFromId(cdp_caller_role(), false)),
				 errhint("Ask for cdp.grant_workspace(role, workspace); where a function takes a workspace, name it.")));
	return id;
}

CdpWorkspace *
cdp_workspace_by_name(const char *name)
{
	CdpWorkspace *w;

	if (name == NULL)
		return cdp_workspace_by_id(cdp_required_workspace());
	w = cdp_workspace_find(name);
	if (w == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("workspace \"%s\" does not exist", name)));
	return w;
}

static void
keep_id(const CdpRow *row, void *arg)
{
	List	  **ids = arg;

	*ids = lappend_int(*ids, row_int(row, "workspace_id"));
}

List *
cdp_workspace_ids(void)
{
	List	   *ids = NIL;

	cdp_version_require();
	cdp_scan_table(CDP_T_WORKSPACE, keep_id, &ids);
	return ids;
}

bool
cdp_key_is_open(int32 workspace_id, CdpStr key)
{
	WorkspaceEntry *e = find_workspace(workspace_id);
	ListCell   *lc;

	foreach(lc, e ? e->open_keys : NIL)
		if (cdp_str_eq(*(CdpStr *) lfirst(lc), key))
			return true;
	return false;
}

int32
cdp_caller_workspace(void)
{
	List	   *workspaces;

	if (!cdp_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cdp is not preloaded, so it can not protect what it holds"),
				 errhint("Add cdp to shared_preload_libraries and restart the server.")));
	workspaces = cdp_caller_workspaces();
	if (list_length(workspaces) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" works in more than one workspace", GetUserNameFromId(cdp_caller_role(), false)),
				 errhint("Use SET ROLE to work as a role that has one.")));
	return workspaces ? linitial_int(workspaces) : 0;
}
