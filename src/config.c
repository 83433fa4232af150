/*
 * config.c: workspaces, namespaces and sources, as every backend keeps them.
 *
 * The tables are small and read whole, by cdp_scan_table().  A statement
 * trigger on each of them (catalog.c) sends a relcache message, so that every
 * change is seen by every backend at its next look, whether it came through a
 * function, plain SQL or a restore, and is forgotten again when it rolls back.
 *
 * One load is a generation with a memory context of its own.  Whoever holds a
 * pointer into it keeps it to the end of the transaction: a generation that
 * was replaced is freed only then.  A source's options are compiled when it is
 * first asked for, so that a source that can not be compiled hurts nobody else.
 */
#include "cdp.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "engine.h"
#include "identity/identity.h"

typedef struct SourceEntry
{
	CdpSource	source;			/* first: what others see */
	bool		compiled;
	char	   *format;
	Jsonb	   *options;
} SourceEntry;

typedef struct RoleEntry
{
	NameData	role;
	int32		workspace_id;
} RoleEntry;

typedef struct OpenKey
{
	int32		workspace_id;
	CdpStr		key;
} OpenKey;

typedef struct Generation
{
	MemoryContext cxt;
	uint64		number;
	List	   *workspaces;		/* CdpWorkspace */
	List	   *sources;		/* SourceEntry */
	List	   *roles;			/* RoleEntry */
	List	   *open_keys;		/* OpenKey */
	struct Generation *older;	/* replaced in this transaction */
} Generation;

static Generation *current = NULL;
static bool stale = true;
static bool registered = false;
static uint64 loads = 0;

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
	Generation *g = arg;
	CdpWorkspace *w = palloc0(sizeof(CdpWorkspace));

	w->id = row_int(row, "workspace_id");
	w->name = row_text(row, "name");
	w->policy.workspace_id = w->id;
	w->policy.kind = policy_kind(row_text(row, "identity_policy"));
	g->workspaces = lappend(g->workspaces, w);
}

static CdpWorkspace *
find_workspace(const Generation *g, int32 id)
{
	ListCell   *lc;

	foreach(lc, g->workspaces)
	{
		CdpWorkspace *w = lfirst(lc);

		if (w->id == id)
			return w;
	}
	return NULL;
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
	CdpWorkspace *w = find_workspace(arg, row_int(row, "workspace_id"));
	CdpNamespace *ns;
	CdpStr		text;
	bool		isnull;

	if (w == NULL)
		return;
	w->policy.namespaces = w->policy.namespaces ?
		repalloc(w->policy.namespaces, (w->policy.nnamespaces + 1) * sizeof(CdpNamespace)) :
		palloc(sizeof(CdpNamespace));
	ns = &w->policy.namespaces[w->policy.nnamespaces++];
	memset(ns, 0, sizeof(*ns));
	ns->id = DatumGetInt16(cdp_row_get(row, "namespace_id", &isnull));
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
sort_namespaces(Generation *g)
{
	ListCell   *lc;

	foreach(lc, g->workspaces)
	{
		CdpPolicy  *p = &((CdpWorkspace *) lfirst(lc))->policy;

		if (p->nnamespaces > 1)
			qsort(p->namespaces, p->nnamespaces, sizeof(CdpNamespace), namespace_cmp);
	}
}

static void
load_role(const CdpRow *row, void *arg)
{
	Generation *g = arg;
	RoleEntry  *r = palloc0(sizeof(RoleEntry));
	bool		isnull;

	r->role = *DatumGetName(cdp_row_get(row, "role_name", &isnull));
	r->workspace_id = row_int(row, "workspace_id");
	g->roles = lappend(g->roles, r);
}

static void
load_open_key(const CdpRow *row, void *arg)
{
	Generation *g = arg;
	OpenKey    *k = palloc0(sizeof(OpenKey));

	k->workspace_id = row_int(row, "workspace_id");
	k->key = row_text(row, "key");
	g->open_keys = lappend(g->open_keys, k);
}

/* ---------------------------------------------------------------- sources */

static void
load_source(const CdpRow *row, void *arg)
{
	Generation *g = arg;
	CdpWorkspace *w = find_workspace(g, row_int(row, "workspace_id"));
	SourceEntry *e;
	bool		isnull;
	Datum		options;

	if (w == NULL)
		return;
	e = palloc0(sizeof(SourceEntry));
	e->source.id = row_int(row, "source_id");
	e->source.name = row_text(row, "name");
	e->source.workspace = w;
	e->source.kafka = row_text(row, "brokers").s != NULL;
	e->source.paused = row_bool(row, "paused");
	e->format = pstrdup(row_text(row, "format").s);
	options = cdp_row_get(row, "options", &isnull);
	e->options = (Jsonb *) PG_DETOAST_DATUM_COPY(options);
	g->sources = lappend(g->sources, e);
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
}

static Generation *
load(void)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "cdp configuration",
											  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Generation *g = palloc0(sizeof(Generation));

	g->cxt = cxt;
	g->number = ++loads;
	cdp_scan_table(CDP_T_WORKSPACE, load_workspace, g);
	cdp_scan_table(CDP_T_NAMESPACE, load_namespace, g);
	cdp_scan_table(CDP_T_WORKSPACE_ROLE, load_role, g);
	cdp_scan_table(CDP_T_TRAIT_CLASS, load_open_key, g);
	cdp_scan_table(CDP_T_SOURCE, load_source, g);
	sort_namespaces(g);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(cxt, CacheMemoryContext);
	return g;
}

static Generation *
configuration(void)
{
	Generation *g;

	if (current != NULL && !stale)
		return current;
	if (!registered)
	{
		cdp_on_table_change(table_changed);
		RegisterXactCallback(transaction_end, NULL);
		registered = true;
	}
	cdp_version_require();

	/* what changes while we read makes it stale again */
	stale = false;
	PG_TRY();
	{
		g = load();
	}
	PG_CATCH();
	{
		stale = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	g->older = current;
	current = g;
	return g;
}

uint64
cdp_config_generation(void)
{
	return configuration()->number;
}

/* ---------------------------------------------------------------- what others ask for */

CdpSource *
cdp_source_find(int32 source_id)
{
	Generation *g = configuration();
	ListCell   *lc;

	foreach(lc, g->sources)
	{
		SourceEntry *e = lfirst(lc);

		if (e->source.id != source_id)
			continue;
		if (!e->compiled)
			compile_source(e, g->cxt);
		return &e->source;
	}
	return NULL;
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

/* Sources of a name, in all workspaces or in those that the role works in; *id is one of them. */
static int
count_sources(const char *name, bool all, Oid role, int32 *id)
{
	ListCell   *lc;
	int			n = 0;

	foreach(lc, configuration()->sources)
	{
		SourceEntry *e = lfirst(lc);

		if (!cdp_str_eq(e->source.name, cdp_str(name)) ||
			!(all || cdp_role_has_workspace(role, e->source.workspace->id)))
			continue;
		*id = e->source.id;
		n++;
	}
	return n;
}

/* What other workspaces have is as if it were not there. */
int32
cdp_source_id_of_caller(const char *name)
{
	Oid			role = cdp_caller_role();
	int32		id = 0;
	int			n = count_sources(name, false, role, &id);

	if (n == 0 && superuser_arg(role))
		n = count_sources(name, true, role, &id);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name),
				 superuser_arg(role) ? 0 : errhint("If it is of a workspace that you do not work in, ask for cdp.grant_workspace().")));
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("there is a source \"%s\" in more than one workspace", name),
				 errhint("Use SET ROLE to work as a role that has one.")));
	return id;
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
cdp_namespace_by_id(const CdpPolicy *policy, int16 id)
{
	for (int i = 0; i < policy->nnamespaces; i++)
		if (policy->namespaces[i].id == id)
			return &policy->namespaces[i];
	return NULL;
}

bool
cdp_workspace_exists(int32 workspace_id)
{
	return find_workspace(configuration(), workspace_id) != NULL;
}

CdpWorkspace *
cdp_workspace_by_id(int32 workspace_id)
{
	CdpWorkspace *w = find_workspace(configuration(), workspace_id);

	if (w == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("workspace %d does not exist", workspace_id)));
	return w;
}

static void
refuse_no_workspace(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("role \"%s\" works in no workspace", GetUserNameFromId(cdp_caller_role(), false)),
			 errhint("Ask for cdp.grant_workspace(), or name the workspace.")));
}

CdpWorkspace *
cdp_workspace_find(const char *name)
{
	ListCell   *lc;

	foreach(lc, configuration()->workspaces)
	{
		CdpWorkspace *w = lfirst(lc);

		if (cdp_str_eq(w->name, cdp_str(name)))
			return w;
	}
	return NULL;
}

CdpWorkspace *
cdp_workspace_by_name(const char *name)
{
	CdpWorkspace *w;

	if (name == NULL)
	{
		int32		id = cdp_caller_workspace();

		if (id == 0)
			refuse_no_workspace();
		return cdp_workspace_by_id(id);
	}
	w = cdp_workspace_find(name);
	if (w == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("workspace \"%s\" does not exist", name)));
	return w;
}

List *
cdp_workspace_ids(void)
{
	List	   *ids = NIL;
	ListCell   *lc;

	foreach(lc, configuration()->workspaces)
		ids = lappend_int(ids, ((CdpWorkspace *) lfirst(lc))->id);
	return ids;
}

bool
cdp_key_is_open(int32 workspace_id, CdpStr key)
{
	ListCell   *lc;

	foreach(lc, configuration()->open_keys)
	{
		OpenKey    *k = lfirst(lc);

		if (k->workspace_id == workspace_id && cdp_str_eq(k->key, key))
			return true;
	}
	return false;
}

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

bool
cdp_role_has_workspace(Oid role, int32 workspace_id)
{
	Generation *g = configuration();
	ListCell   *lc;

	foreach(lc, g->roles)
	{
		RoleEntry  *r = lfirst(lc);

		if (r->workspace_id == workspace_id && works_as(role, NameStr(r->role)))
			return true;
	}
	return false;
}

int32
cdp_caller_workspace(void)
{
	Generation *g;
	Oid			role = cdp_caller_role();
	ListCell   *lc;
	int32		found = 0;

	if (!cdp_preloaded)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cdp is not preloaded, so it can not protect what it holds"),
				 errhint("Add cdp to shared_preload_libraries and restart the server.")));
	g = configuration();
	foreach(lc, g->workspaces)
	{
		int32		id = ((CdpWorkspace *) lfirst(lc))->id;

		if (!cdp_role_has_workspace(role, id))
			continue;
		if (found != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("role \"%s\" works in more than one workspace", GetUserNameFromId(role, false)),
					 errhint("Use SET ROLE to work as a role that has one.")));
		found = id;
	}
	return found;
}
