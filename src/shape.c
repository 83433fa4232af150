/*
 * shape.c: whether a table that is written without SQL is as cdp made it.
 *
 * The engine forms rows by place, so a table whose columns somebody dropped,
 * retyped or ordered differently (a partition made by hand) would take garbage,
 * or crash the server.  And triggers, rules and generated columns would not
 * run.  So each time such a table is opened, its descriptor is compared with
 * what the code knows, about 1 us a table and batch; the lock that the caller
 * holds keeps it as it is to the end of the transaction.
 *
 * The error is one that is blamed on no message: a source waits until somebody
 * has taken the change back.  Columns that were added behind ours do no harm;
 * rows of ours have NULL there.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "rewrite/prs2lock.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "event/columns.h"
#include "identity/columns.h"
#include "privacy/columns.h"
#include "profile/columns.h"
#include "shape.h"

static const Oid event_types[] = {EVENT_TYPES};
static const Oid seen_types[] = {SEEN_TYPES};
static const Oid identifier_types[] = {IDENTIFIER_TYPES};
static const Oid link_types[] = {LINK_TYPES};
static const Oid profile_types[] = {PROFILE_TYPES};
static const Oid trait_types[] = {TRAIT_TYPES};
static const Oid token_types[] = {TOKEN_TYPES};

StaticAssertDecl(lengthof(event_types) == EVENT_COLUMNS, "columns of event");
StaticAssertDecl(lengthof(seen_types) == SEEN_COLUMNS, "columns of message_seen");
StaticAssertDecl(lengthof(identifier_types) == IDENTIFIER_COLUMNS, "columns of identifier");
StaticAssertDecl(lengthof(link_types) == LINK_COLUMNS, "columns of link");
StaticAssertDecl(lengthof(profile_types) == PROFILE_COLUMNS, "columns of profile");
StaticAssertDecl(lengthof(trait_types) == TRAIT_COLUMNS, "columns of profile_trait");
StaticAssertDecl(lengthof(token_types) == TOKEN_COLUMNS, "columns of suppression");

typedef struct Shape
{
	CdpTable	table;
	const Oid  *types;
	int			ncolumns;
	int			nkeys;			/* the first columns are the primary key */
} Shape;

static const Shape shapes[] = {
	{CDP_T_EVENT, event_types, EVENT_COLUMNS, 3},
	{CDP_T_MESSAGE_SEEN, seen_types, SEEN_COLUMNS, 1},
	{CDP_T_IDENTIFIER, identifier_types, IDENTIFIER_COLUMNS, 1},
	{CDP_T_LINK, link_types, LINK_COLUMNS, 4},
	{CDP_T_PROFILE, profile_types, PROFILE_COLUMNS, 1},
	{CDP_T_PROFILE_TRAIT, trait_types, TRAIT_COLUMNS, 2},
	{CDP_T_SUPPRESSION, token_types, TOKEN_COLUMNS, 1}
};

static const Shape *
shape_of(Oid relid)
{
	for (int i = 0; i < lengthof(shapes); i++)
		if (cdp_table(shapes[i].table) == relid)
			return &shapes[i];
	elog(ERROR, "relation %u is not written without SQL", relid);
}

static void
refuse(Relation rel, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" is not as cdp made it", RelationGetRelationName(rel)),
			 errdetail("%s", detail),
			 errhint("Take the change back: cdp writes this table without SQL.")));
}

static void
require_columns(Relation rel, TupleDesc names, const Shape *shape)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute a = TupleDescAttr(desc, i);

		if (i >= shape->ncolumns && !a->attisdropped && (a->attnotnull || a->attgenerated))
			refuse(rel, psprintf("Column \"%s\" was added, and is NOT NULL or generated.", NameStr(a->attname)));
		if (i < shape->ncolumns && (a->attisdropped || a->atttypid != shape->types[i] ||
									strcmp(NameStr(a->attname), NameStr(TupleDescAttr(names, i)->attname)) != 0))
			refuse(rel, psprintf("Column %d was dropped, or has another type or place.", i + 1));
	}
	if (desc->natts < shape->ncolumns)
		refuse(rel, "A column is missing.");
}

static bool
has_row_trigger(const TriggerDesc *t)
{
	return t && (t->trig_insert_before_row || t->trig_insert_after_row || t->trig_update_before_row ||
				 t->trig_update_after_row);
}

/* its columns are the first ones, in their order: that is how rows are looked for */
static bool
has_key_of(Oid index, int nkeys)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	bool		same;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	same = form->indnkeyatts == nkeys;
	for (int i = 0; same && i < nkeys; i++)
		same = form->indkey.values[i] == i + 1;
	ReleaseSysCache(tuple);
	return same;
}

/* The list of indexes was loaded by who asks for the primary key. */
static void
require_key(Relation rel, const Shape *shape)
{
	Oid			pk = cdp_primary_key_index(rel);

	if (!OidIsValid(pk))
		refuse(rel, "It has no primary key.");
	if (!has_key_of(pk, shape->nkeys))
		refuse(rel, "It has another primary key.");
}

int
cdp_shape_require(Relation rel, Relation parent)
{
	Relation	made = parent ? parent : rel;
	const Shape *shape = shape_of(RelationGetRelid(made));

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		refuse(rel, "It is no ordinary table.");
	if (parent)
		require_columns(parent, RelationGetDescr(parent), shape);
	require_columns(rel, RelationGetDescr(made), shape);
	require_key(rel, shape);
	if (rel->rd_rules || has_row_trigger(rel->trigdesc))
		refuse(rel, "It has a trigger or a rule, which would not run.");
	return shape->ncolumns;
}

static void
require_partitions(Relation parent)
{
	ListCell   *lc;

	foreach(lc, find_inheritance_children(RelationGetRelid(parent), AccessShareLock))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);

		cdp_shape_require(rel, parent);
		table_close(rel, AccessShareLock);
	}
}

void
cdp_shapes_require(void)
{
	for (int i = 0; i < lengthof(shapes); i++)
	{
		Relation	rel = table_open(cdp_table(shapes[i].table), AccessShareLock);

		if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
			require_partitions(rel);
		else
			cdp_shape_require(rel, NULL);
		table_close(rel, AccessShareLock);
	}
}
