/*
 * seen.c: every message once.
 *
 * The key of a message is a keyed hash of workspace, id space and id.  It is
 * looked for where the message's own time stamp puts it, and then in the other
 * partitions of message_seen, so that a repeated id is found whatever its
 * stamp; filters (filter.c) say which of them need not be asked.  A look waits
 * for another batch that is just storing the same id (dirty snapshot).
 *
 * Two batches that store the same id at once.  In one partition its primary key
 * stops the second.  In two partitions: a batch adds its keys to the filters,
 * writes its rows with their index entries, and then asks the other partitions
 * once more.  Of two batches one wrote its index entry first; the other looks
 * after that, so the filter, which knew the key before the entry was there, lets
 * it look, and it finds the row, waits for its transaction, and if that commits
 * makes another attempt, which sees a stored message.  Should both wait for each
 * other, PostgreSQL ends one as a deadlock, and it makes another attempt, too.
 * Nothing of this rests on the filter: where there is none, the index is asked.
 *
 * A known id is a duplicate when its body is the same, or a conflict.  The
 * delivery with the least (received_at, topic, partition, offset) defines the
 * event's times: a duplicate that is less moves the event (R25).
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "event/columns.h"
#include "event/leaf.h"
#include "work.h"

/* ---------------------------------------------------------------- within the batch */

static int
key_order(const void *pa, const void *pb)
{
	const CdpEvent *a = *(CdpEvent *const *) pa;
	const CdpEvent *b = *(CdpEvent *const *) pb;
	int			c = memcmp(a->seen_key, b->seen_key, sizeof(a->seen_key));

	if (c == 0)
		c = (a > b) - (a < b);	/* order of arrival: both are in batch->events */
	return c;
}

typedef CdpEvent *EventPointer;

#define ST_SORT sort_by_key
#define ST_ELEMENT_TYPE EventPointer
#define ST_COMPARE(a, b) key_order(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* (received_at, topic, partition, offset) of two deliveries of one message */
static int
delivery_cmp(const CdpEvent *a, const CdpEvent *b)
{
	int			c;

	if (a->received_at != b->received_at)
		return a->received_at < b->received_at ? -1 : 1;
	c = cdp_str_cmp(a->msg->topic, b->msg->topic);
	if (c == 0)
		c = (a->msg->partition > b->msg->partition) - (a->msg->partition < b->msg->partition);
	if (c == 0)
		c = (a->msg->offset > b->msg->offset) - (a->msg->offset < b->msg->offset);
	return c;
}

static void
conflict(CdpEvent *ev)
{
	ev->outcome = CDP_OUT_QUARANTINED;
	ev->reason = CDP_REASON_ID_CONFLICT;
}

/*
 * Of the events first..last with one key, keep the delivery that defines the
 * times; those with another body than the first to arrive are conflicts.
 */
static CdpEvent *
settle_repeats(CdpEvent **first, int n)
{
	CdpEvent   *keep = first[0];

	for (int i = 1; i < n; i++)
	{
		CdpEvent   *ev = first[i];

		if (ev->fingerprint != first[0]->fingerprint)
			conflict(ev);
		else if (delivery_cmp(ev, keep) < 0)
		{
			keep->outcome = CDP_OUT_DUPLICATE;
			keep = ev;
		}
		else
			ev->outcome = CDP_OUT_DUPLICATE;
	}
	return keep;
}

/* sorts w->events by key and drops repeats */
static void
drop_repeats(CdpWork *w)
{
	int			kept = 0;

	sort_by_key(w->events, w->nevents);
	for (int i = 0; i < w->nevents;)
	{
		int			n = 1;

		while (i + n < w->nevents &&
			   memcmp(w->events[i]->seen_key, w->events[i + n]->seen_key, sizeof(w->events[i]->seen_key)) == 0)
			n++;
		w->events[kept++] = settle_repeats(w->events + i, n);
		i += n;
	}
	w->nevents = kept;
}

/* ---------------------------------------------------------------- against what is stored */

typedef void (*Found) (CdpWork *w, CdpEvent *ev, CdpLeaf *leaf);

/* Asks one leaf; found is called with the row in leaf->rel. */
static void
ask(CdpWork *w, CdpEvent *ev, CdpLeaf *leaf, Found found)
{
	Datum		key = UUIDPGetDatum((pg_uuid_t *) ev->seen_key);

	CHECK_FOR_INTERRUPTS();
	if (cdp_rel_find_settled(cdp_leaf_rel(w->seen, leaf), &key, 1))
		found(w, ev, leaf);
}

/* events that are still pending, may lie in the leaf, and whose key the filter, if it is to be used, does not exclude */
static int
suspects(CdpWork *w, const CdpLeaf *leaf, bool at_home, bool use_filter, CdpEvent **suspect)
{
	int			n = 0;

	for (int i = 0; i < w->nevents; i++)
	{
		CdpEvent   *ev = w->events[i];

		if (ev->outcome == CDP_OUT_PENDING && (at_home || !cdp_leaf_holds(leaf, ev->stamp)) &&
			!(use_filter && cdp_filter_lacks(&leaf->filter, ev->seen_key)))
			suspect[n++] = ev;
	}
	return n;
}

/* Asks every leaf for the events; at_home: for those that belong to it, too. */
static void
ask_all(CdpWork *w, bool at_home, Found found)
{
	CdpEvent  **suspect = palloc(Max(w->nevents, 1) * sizeof(CdpEvent *));

	for (int l = 0; l < w->seen->n; l++)
	{
		CdpLeaf    *leaf = &w->seen->leaf[l];
		bool		use_filter = leaf->filter.ready;
		int			n = suspects(w, leaf, at_home, use_filter, suspect);

		if (use_filter && !cdp_filter_stands(&leaf->filter))
			n = suspects(w, leaf, at_home, false, suspect);
		if (n == 0 || cdp_leaf_is_empty(w->seen, leaf))
			continue;
		for (int i = 0; i < n; i++)
			ask(w, suspect[i], leaf, found);
	}
	pfree(suspect);
}

/* is this delivery less than the one that is stored? */
static bool
defines_times(CdpEvent *ev, TupleTableSlot *seen)
{
	return ev->received_at < DatumGetTimestampTz(seen->tts_values[SEEN_RECEIVED]);
}

/* the event will change the row that was found; who builds a filter may miss its new place */
static void
note_move(CdpWork *w, CdpEvent *ev, CdpLeaf *leaf)
{
	cdp_filter_add(&leaf->filter, ev->seen_key);
	w->moves[w->nmoves++] = ev;
}

/* The event is known; it will not be stored. */
static void
judge(CdpWork *w, CdpEvent *ev, CdpLeaf *leaf)
{
	TupleTableSlot *row = leaf->rel->row;

	slot_getallattrs(row);
	if ((uint64) DatumGetInt64(row->tts_values[SEEN_FINGERPRINT]) != ev->fingerprint)
		conflict(ev);
	else
	{
		ev->outcome = CDP_OUT_DUPLICATE;
		if (defines_times(ev, row))
		{
			ev->event_id = DatumGetInt64(row->tts_values[SEEN_EVENT]);
			ev->moved_from = DatumGetTimestampTz(row->tts_values[SEEN_OCCURRED]);
			note_move(w, ev, leaf);
		}
	}
}

void
cdp_seen_check(CdpWork *w)
{
	int			kept = 0;

	drop_repeats(w);
	w->moves = palloc(w->nevents * sizeof(CdpEvent *));
	w->seen = cdp_leaves_open(cdp_table(CDP_T_MESSAGE_SEEN));
	cdp_filter_find(w->seen);
	ask_all(w, true, judge);
	for (int i = 0; i < w->nevents; i++)
		if (w->events[i]->outcome == CDP_OUT_PENDING)
			w->events[kept++] = w->events[i];
	w->nevents = kept;
}

/* ---------------------------------------------------------------- remembering */

/* It was not there when we asked first. */
static void
another_was_first(CdpWork *w, CdpEvent *ev, CdpLeaf *leaf)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("another batch stored a message of this batch at the same time")));
}

/* rows of the leaves, with their index entries */
static void
write_rows(CdpLeaves *leaves)
{
	for (int i = 0; i < leaves->n; i++)
		if (leaves->leaf[i].rel)
			cdp_rel_flush(leaves->leaf[i].rel);
	pg_memory_barrier();
}

/* w->events is still in key order */
void
cdp_seen_store(CdpWork *w)
{
	for (int i = 0; i < w->nevents; i++)
	{
		CdpEvent   *ev = w->events[i];
		CdpLeaf    *leaf = cdp_leaf_of(w->seen, ev->stamp);
		TupleTableSlot *row;

		cdp_filter_add(&leaf->filter, ev->seen_key);
		row = cdp_rel_new(cdp_leaf_rel(w->seen, leaf));
		row->tts_values[SEEN_KEY] = UUIDPGetDatum((pg_uuid_t *) ev->seen_key);
		row->tts_values[SEEN_STAMP] = TimestampTzGetDatum(ev->stamp);
		row->tts_values[SEEN_FINGERPRINT] = Int64GetDatum((int64) ev->fingerprint);
		row->tts_values[SEEN_OCCURRED] = TimestampTzGetDatum(ev->occurred_at);
		row->tts_values[SEEN_RECEIVED] = TimestampTzGetDatum(ev->received_at);
		row->tts_values[SEEN_IDENTIFIER] = Int64GetDatum(ev->nidents ? ev->idents[0]->hash : 0);
		row->tts_values[SEEN_EVENT] = Int64GetDatum(ev->event_id);
		row->tts_values[SEEN_WORKSPACE] = Int32GetDatum(w->workspace_id);
	}
	write_rows(w->seen);
	ask_all(w, false, another_was_first);
	cdp_leaves_close(w->seen);
	w->seen = NULL;
}
