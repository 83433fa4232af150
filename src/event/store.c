/*
 * store.c: events, and the evidence that they are for identity.
 *
 * Events are written with table_multi_insert into the leaf of their instant,
 * in key order; with cdp.store = 'sql' by an INSERT into the parent, which any
 * storage understands.  Nothing else writes events, but for two updates: a
 * delivery that defines earlier times moves its event (move.c), and a split
 * changes the fragment (component.c).
 *
 * A link is written when it is new, when an earlier event presented it, or
 * when the day of its last evidence changes; the same for an identifier that
 * was presented alone.  All of it happens under the profile locks, and the
 * guard of a row that is written is written, too (identity/recent.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event/columns.h"
#include "event/leaf.h"
#include "identity/columns.h"
#include "spi.h"
#include "work.h"

#define EVENT_BLOCK 1024		/* increment of cdp_data.event_id_seq */

static int64
new_event_id(void)
{
	static int64 next = 0;
	static int	left = 0;

	if (left == 0)
	{
		next = cdp_next_block("event_id_seq");
		left = EVENT_BLOCK;
	}
	left--;
	return next++;
}

/* ---------------------------------------------------------------- events */

static void
put_time(TupleTableSlot *row, int column, TimestampTz at)
{
	row->tts_isnull[column] = at == CDP_NO_TIME;
	row->tts_values[column] = TimestampTzGetDatum(at);
}

static void
put_text(TupleTableSlot *row, int column, CdpStr s)
{
	row->tts_isnull[column] = s.s == NULL;
	row->tts_values[column] = s.s ? cdp_text(s) : (Datum) 0;
}

static void
put_jsonb(TupleTableSlot *row, int column, Jsonb *j)
{
	row->tts_isnull[column] = j == NULL;
	row->tts_values[column] = PointerGetDatum(j);
}

int16
cdp_event_flags(const CdpEvent *ev)
{
	return (ev->future_clamped ? CDP_EVENT_CLAMPED : 0) |
		(ev->derived_id ? CDP_EVENT_DERIVED_ID : 0) |
		(ev->two_owners ? CDP_EVENT_TWO_OWNERS : 0);
}

static void
fill_event(CdpWork *w, CdpEvent *ev, TupleTableSlot *row)
{
	Datum	   *v = row->tts_values;
	bool		kafka = ev->msg->partition >= 0;

	v[EVENT_FRAGMENT] = Int64GetDatum(ev->fragment_id);
	v[EVENT_OCCURRED_AT] = TimestampTzGetDatum(ev->occurred_at);
	v[EVENT_ID] = Int64GetDatum(ev->event_id);
	v[EVENT_RECEIVED_AT] = TimestampTzGetDatum(ev->received_at);
	v[EVENT_KNOWN_AT] = TimestampTzGetDatum(w->batch->instant);
	put_time(row, EVENT_ORIGINAL_AT, ev->original_at);
	put_time(row, EVENT_SENT_AT, ev->sent_at);
	v[EVENT_ANCHOR] = Int64GetDatum(ev->anchor);
	v[EVENT_SOURCE_SEQ] = Int64GetDatum(ev->source_seq);
	v[EVENT_OFFSET] = Int64GetDatum(ev->msg->offset);
	v[EVENT_PARTITION] = Int32GetDatum(ev->msg->partition);
	row->tts_isnull[EVENT_OFFSET] = row->tts_isnull[EVENT_PARTITION] = !kafka;
	v[EVENT_WORKSPACE] = Int32GetDatum(w->workspace_id);
	v[EVENT_SOURCE] = Int32GetDatum(w->batch->source->id);
	v[EVENT_FLAGS] = Int16GetDatum(cdp_event_flags(ev));
	put_text(row, EVENT_MESSAGE_ID, ev->message_id);
	put_text(row, EVENT_TYPE, ev->type);
	put_text(row, EVENT_NAME, ev->name);
	put_text(row, EVENT_TOPIC, ev->msg->topic);
	put_text(row, EVENT_USER_ID, ev->user_id);
	put_text(row, EVENT_ANONYMOUS_ID, ev->anonymous_id);
	put_jsonb(row, EVENT_PROPERTIES, ev->properties);
	put_jsonb(row, EVENT_TRAITS, ev->traits);
	put_jsonb(row, EVENT_CONTEXT, ev->context);
}

/* key order: (fragment_id, occurred_at, event_id) */
static int
event_order(const void *pa, const void *pb)
{
	const CdpEvent *a = *(CdpEvent *const *) pa;
	const CdpEvent *b = *(CdpEvent *const *) pb;

	if (a->fragment_id != b->fragment_id)
		return a->fragment_id < b->fragment_id ? -1 : 1;
	if (a->occurred_at != b->occurred_at)
		return a->occurred_at < b->occurred_at ? -1 : 1;
	return (a->event_id > b->event_id) - (a->event_id < b->event_id);
}

typedef CdpEvent *EventPointer;

#define ST_SORT sort_events
#define ST_ELEMENT_TYPE EventPointer
#define ST_COMPARE(a, b) event_order(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static void
store_direct(CdpWork *w, CdpEvent **events, int n)
{
	CdpLeaves  *leaves = cdp_leaves_open(cdp_table(CDP_T_EVENT));

	for (int i = 0; i < n; i++)
	{
		CdpLeaf    *leaf = cdp_leaf_of(leaves, events[i]->occurred_at);

		fill_event(w, events[i], cdp_rel_new(cdp_leaf_rel(leaves, leaf)));
	}
	cdp_leaves_close(leaves);
}

/* the portable path: one row a statement, through whatever the table is */
static CdpSpi event_plan = {
	"INSERT INTO cdp_data.event (fragment_id, occurred_at, event_id, received_at, known_at, original_at, sent_at,"
	" anchor, source_seq, \"offset\", \"partition\", workspace_id, source_id, flags, message_id, type, name, topic,"
	" user_id, anonymous_id, properties, traits, context) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,"
	" $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)",
	EVENT_COLUMNS,
	{INT8OID, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,
		INT8OID, INT8OID, INT4OID, INT4OID, INT4OID, INT2OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	JSONBOID, JSONBOID, JSONBOID}
};

static void
store_sql(CdpWork *w, CdpEvent **events, int n)
{
	Relation	parent = table_open(cdp_table(CDP_T_EVENT), RowExclusiveLock);
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(parent), &TTSOpsVirtual);
	char		nulls[EVENT_COLUMNS + 1] = {0};

	for (int i = 0; i < n; i++)
	{
		memset(row->tts_isnull, false, EVENT_COLUMNS * sizeof(bool));
		fill_event(w, events[i], row);
		for (int c = 0; c < EVENT_COLUMNS; c++)
			nulls[c] = row->tts_isnull[c] ? 'n' : ' ';
		cdp_spi_exec(&event_plan, row->tts_values, nulls);
	}
	ExecDropSingleTupleTableSlot(row);
	table_close(parent, NoLock);
}

static int64
fragment_of(const CdpEvent *ev)
{
	if (ev->link)
		return ev->link->attributed ? ev->link->attributed->fragment_id : 0;
	return ev->nidents ? ev->idents[0]->fragment_id : 0;
}

void
cdp_store_events(CdpWork *w)
{
	CdpEvent  **order = palloc(Max(w->nevents, 1) * sizeof(CdpEvent *));

	for (int i = 0; i < w->nevents; i++)
	{
		w->events[i]->fragment_id = fragment_of(w->events[i]);
		w->events[i]->event_id = new_event_id();
		order[i] = w->events[i];
	}
	sort_events(order, w->nevents);
	if (cdp_store_path == CDP_STORE_SQL)
		store_sql(w, order, w->nevents);
	else
		store_direct(w, order, w->nevents);
	pfree(order);
}

/* ---------------------------------------------------------------- links */

static Datum
members_array(const CdpLink *link)
{
	int64		hashes[CDP_MAX_IDENTIFIERS];

	for (int i = 0; i < link->nmembers; i++)
		hashes[i] = link->members[i]->hash;
	return cdp_int8_array(hashes, link->nmembers);
}

static float4
link_weight(const CdpLink *link)
{
	float4		weight = 1;

	for (int i = 0; i < link->nmembers; i++)
		weight = Min(weight, link->members[i]->ns->weight);
	return weight;
}

/* the fragment of the identifier whose row, or whose link's, is written */
static void
write_guard(CdpWork *w, const CdpIdent *id)
{
	cdp_work_fragment(w, id->fragment_id)->changed = true;
}

static void
note_stored(CdpLink *link, ItemPointer tid)
{
	if (!link->known || cdp_moment_cmp(&link->first, &link->stored_first) < 0)
		link->stored_first = link->first;
	if (!link->known || link->last_at > link->stored_last)
		link->stored_last = link->last_at;
	if (tid)
		link->tid = *tid;
}

static void
insert_link(CdpWork *w, CdpLink *link)
{
	TupleTableSlot *row = cdp_rel_new_at(w->link, &link->tid);
	Datum	   *v = row->tts_values;

	v[LINK_IDENTIFIER] = Int64GetDatum(link->members[0]->hash);
	v[LINK_ID] = Int64GetDatum(link->link_id);
	v[LINK_SOURCE] = Int32GetDatum(w->batch->source->id);
	v[LINK_KIND] = CharGetDatum(link->kind);
	v[LINK_WEIGHT] = Float4GetDatum(link_weight(link));
	v[LINK_WORKSPACE] = Int32GetDatum(w->workspace_id);
	v[LINK_FIRST_AT] = TimestampTzGetDatum(link->first.at);
	v[LINK_LAST_AT] = TimestampTzGetDatum(link->last_at);
	v[LINK_FIRST_EVENT] = Int64GetDatum(link->first_event->event_id);
	v[LINK_FIRST_MESSAGE] = cdp_text(link->first.message_id);
	v[LINK_MEMBERS] = members_array(link);
	note_stored(link, NULL);
}

/* an earlier first, or another day of the last evidence? */
static bool
link_tells_more(const CdpLink *link)
{
	return cdp_moment_cmp(&link->first, &link->stored_first) < 0 ||
		cdp_day_of(link->last_at) > cdp_day_of(link->stored_last);
}

static void
update_link(CdpWork *w, CdpLink *link)
{
	Datum		key[4] = {Int64GetDatum(link->members[0]->hash), Int64GetDatum(link->link_id),
	Int32GetDatum(w->batch->source->id), CharGetDatum(link->kind)};
	TupleTableSlot *row;

	if (!cdp_rel_find_at(w->link, key, 4, &link->tid))
		elog(ERROR, "a link of a locked component is gone");
	row = cdp_rel_edit(w->link);
	if (cdp_moment_cmp(&link->first, &link->stored_first) < 0)
	{
		row->tts_values[LINK_FIRST_AT] = TimestampTzGetDatum(link->first.at);
		row->tts_values[LINK_FIRST_MESSAGE] = cdp_text(link->first.message_id);
		row->tts_values[LINK_FIRST_EVENT] = Int64GetDatum(link->first_event->event_id);
	}
	if (link->last_at > link->stored_last)
		row->tts_values[LINK_LAST_AT] = TimestampTzGetDatum(link->last_at);
	cdp_rel_update(w->link, &w->link->row->tts_tid);
	note_stored(link, &w->link->row->tts_tid);
}

/* ---------------------------------------------------------------- identifiers */

static bool
identifier_tells_more(const CdpIdent *id)
{
	return cdp_moment_cmp(&id->alone, &id->stored_alone) < 0 ||
		cdp_day_of(id->first_at) < id->stored_first_day || cdp_day_of(id->last_at) > id->stored_last_day;
}

static void
update_identifier(CdpWork *w, CdpIdent *id)
{
	Datum		key = Int64GetDatum(id->hash);
	TupleTableSlot *row;

	if (!cdp_rel_find_at(w->identifier, &key, 1, &id->tid))
		elog(ERROR, "an identifier of a locked fragment is gone");
	row = cdp_rel_edit(w->identifier);
	if (cdp_moment_cmp(&id->alone, &id->stored_alone) < 0)
	{
		row->tts_values[IDENTIFIER_ALONE_AT] = TimestampTzGetDatum(id->alone.at);
		row->tts_values[IDENTIFIER_ALONE_MESSAGE] = cdp_text(id->alone.message_id);
		row->tts_isnull[IDENTIFIER_ALONE_AT] = row->tts_isnull[IDENTIFIER_ALONE_MESSAGE] = false;
		id->stored_alone = id->alone;
	}
	id->stored_first_day = Min(cdp_day_of(id->first_at), id->stored_first_day);
	id->stored_last_day = Max(cdp_day_of(id->last_at), id->stored_last_day);
	row->tts_values[IDENTIFIER_FIRST_DAY] = DateADTGetDatum(id->stored_first_day);
	row->tts_values[IDENTIFIER_LAST_DAY] = DateADTGetDatum(id->stored_last_day);
	cdp_rel_update(w->identifier, &w->identifier->row->tts_tid);
	id->tid = w->identifier->row->tts_tid;
}

void
cdp_store_links(CdpWork *w)
{
	CommandCounterIncrement();
	cdp_rel_look(w->link, GetLatestSnapshot());
	for (int i = 0; i < w->nlinks; i++)
	{
		if (w->links[i]->known && !link_tells_more(w->links[i]))
			continue;
		write_guard(w, w->links[i]->members[0]);
		if (w->links[i]->known)
			update_link(w, w->links[i]);
		else
			insert_link(w, w->links[i]);
	}
	cdp_rel_flush(w->link);
	cdp_rel_look(w->identifier, GetLatestSnapshot());
	for (int i = 0; i < w->nidents; i++)
		if (w->idents[i]->known && identifier_tells_more(w->idents[i]))
		{
			write_guard(w, w->idents[i]);
			update_identifier(w, w->idents[i]);
		}
}
