/*
 * seen.c: every message once.
 *
 * The key of a message is a keyed hash of workspace, id space and id.  It is
 * looked for where the message's own time stamp puts it, and then in the other
 * partitions of message_seen, so that a repeated id is found whatever its
 * stamp.  A look waits for another batch that is just storing the same id
 * (dirty snapshot, key order), so that two deliveries at once cannot both be
 * first; the rest of the race ends in unique_violation and another attempt.
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

#include "event/leaf.h"
#include "work.h"

enum
{
	SEEN_KEY, SEEN_STAMP, SEEN_FINGERPRINT, SEEN_OCCURRED, SEEN_RECEIVED, SEEN_IDENTIFIER, SEEN_EVENT, SEEN_WORKSPACE
};

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

	qsort(w->events, w->nevents, sizeof(CdpEvent *), key_order);
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

static CdpRel *
find_seen(CdpLeaves *leaves, CdpEvent *ev)
{
	Datum		key = UUIDPGetDatum((pg_uuid_t *) ev->seen_key);
	CdpLeaf    *home = cdp_leaf_of(leaves, ev->stamp);

	if (cdp_rel_find_settled(cdp_leaf_rel(leaves, home), &key, 1))
		return home->rel;
	for (int i = 0; i < leaves->n; i++)
	{
		CdpLeaf    *leaf = &leaves->leaf[i];

		if (leaf == home || !cdp_leaf_may_hold(leaves, leaf))
			continue;
		if (cdp_rel_find_settled(cdp_leaf_rel(leaves, leaf), &key, 1))
			return leaf->rel;
	}
	return NULL;
}

/* is this delivery less than the one that is stored? */
static bool
defines_times(CdpEvent *ev, TupleTableSlot *seen)
{
	return ev->received_at < DatumGetTimestampTz(seen->tts_values[SEEN_RECEIVED]);
}

/* false: the event is known and w->events loses it */
static bool
judge(CdpWork *w, CdpEvent *ev, CdpRel *seen)
{
	TupleTableSlot *row = seen->row;

	slot_getallattrs(row);
	if ((uint64) DatumGetInt64(row->tts_values[SEEN_FINGERPRINT]) != ev->fingerprint)
		conflict(ev);
	else
	{
		ev->outcome = CDP_OUT_DUPLICATE;
		if (ev->refold == CDP_REFOLD_NOW)
			w->moves[w->nmoves++] = ev;
		else if (defines_times(ev, row))
		{
			ev->event_id = DatumGetInt64(row->tts_values[SEEN_EVENT]);
			ev->moved_from = DatumGetTimestampTz(row->tts_values[SEEN_OCCURRED]);
			ev->moved_evidence = Min(ev->moved_from, DatumGetTimestampTz(row->tts_values[SEEN_RECEIVED]));
			w->moves[w->nmoves++] = ev;
		}
	}
	return false;
}

void
cdp_seen_check(CdpWork *w)
{
	CdpLeaves  *leaves;
	int			kept = 0;

	drop_repeats(w);
	w->moves = palloc(w->nevents * sizeof(CdpEvent *));
	leaves = w->seen = cdp_leaves_open(cdp_table(CDP_T_MESSAGE_SEEN));
	for (int i = 0; i < w->nevents; i++)
	{
		CdpEvent   *ev = w->events[i];
		CdpRel	   *seen = find_seen(leaves, ev);

		if (seen == NULL || judge(w, ev, seen))
			w->events[kept++] = ev;
		CHECK_FOR_INTERRUPTS();
	}
	w->nevents = kept;
}

/* ---------------------------------------------------------------- remembering */

/* w->events is still in key order */
void
cdp_seen_store(CdpWork *w)
{
	for (int i = 0; i < w->nevents; i++)
	{
		CdpEvent   *ev = w->events[i];
		CdpLeaf    *leaf = cdp_leaf_of(w->seen, ev->stamp);
		TupleTableSlot *row = cdp_rel_new(cdp_leaf_rel(w->seen, leaf));

		row->tts_values[SEEN_KEY] = UUIDPGetDatum((pg_uuid_t *) ev->seen_key);
		row->tts_values[SEEN_STAMP] = TimestampTzGetDatum(ev->stamp);
		row->tts_values[SEEN_FINGERPRINT] = Int64GetDatum((int64) ev->fingerprint);
		row->tts_values[SEEN_OCCURRED] = TimestampTzGetDatum(ev->occurred_at);
		row->tts_values[SEEN_RECEIVED] = TimestampTzGetDatum(ev->received_at);
		row->tts_values[SEEN_IDENTIFIER] = Int64GetDatum(ev->nidents ? ev->idents[0]->hash : 0);
		row->tts_values[SEEN_EVENT] = Int64GetDatum(ev->event_id);
		row->tts_values[SEEN_WORKSPACE] = Int32GetDatum(w->workspace_id);
	}
	cdp_leaves_close(w->seen);
	w->seen = NULL;
}
