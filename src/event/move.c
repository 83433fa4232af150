/*
 * move.c: an earlier delivery of a message gives its event other times (R25).
 *
 * seen.c finds such duplicates; here, under the profile locks and before it is
 * settled who is who, the stored event and its row in message_seen get the new
 * times.  The event's fragment is computed again (recompute.c, dirty.c).  The
 * event may have been the first that presented its link, or its identifier
 * alone: the least evidence time of that anchor is read again from all its
 * events, unless it was of another one that was purged since, and stays; that
 * one may have had the same message id.  The row of the link or identifier may
 * lie elsewhere than the event (a demoted identifier leads the link, say), and
 * its guard is written, too.
 *
 * The delivery itself is no evidence: its source may be another than the one
 * that the event, and so the link, is stored for, and when another batch had a
 * delivery that is still less, it defines nothing.  Nor does one that presents
 * others than the event did, because the rules or the source's options changed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/timestamp.h"

#include "event/columns.h"
#include "profile/dirty.h"
#include "spi.h"
#include "work.h"

/* events that were moved */
typedef struct Moved
{
	int64	   *fragments;		/* where they lie */
	int64	   *anchors;
	int64	   *guarded;		/* identifiers that lead their links, or were alone */
	Datum	   *messages;		/* ids */
	Datum	   *before;			/* their evidence times were */
	int			n;
} Moved;

/* ---------------------------------------------------------------- the event */

static CdpSpi move_event_plan = {
	"UPDATE cdp_data.event SET occurred_at = $3, received_at = $4, sent_at = $5, flags = $6"
	" WHERE fragment_id = ANY ($1) AND occurred_at = $7 AND event_id = $2 AND anchor = $8"
	" RETURNING fragment_id",
	8, {INT8ARRAYOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT2OID, TIMESTAMPTZOID, INT8OID}
};

static CdpSpi move_seen_plan = {
	"UPDATE cdp_data.message_seen SET occurred_at = $2, received_at = $3 WHERE key = $1",
	3, {UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
};

static CdpSpi read_seen_plan = {
	"SELECT s.occurred_at, s.received_at FROM cdp_data.message_seen s WHERE s.key = $1 FOR UPDATE",
	1, {UUIDOID}
};

/*
 * Does this delivery still come before the one that is stored?  The row of
 * message_seen is locked, since an event of nobody has no profile to lock.
 * *evidence_at is set to what the stored one says.
 */
static bool
still_moves(CdpEvent *ev, TimestampTz *evidence_at)
{
	Datum		key = PointerGetDatum(ev->seen_key);
	bool		moves = cdp_spi_run(&read_seen_plan, &key, NULL) == 1 && ev->received_at < cdp_spi_int64(0, 2);

	if (moves)
	{
		ev->moved_from = cdp_spi_int64(0, 1);
		*evidence_at = Min(ev->moved_from, cdp_spi_int64(0, 2));
	}
	cdp_spi_end();
	return moves;
}

/* where the event may lie: the fragments of its identifiers, or nobody's */
static Datum
fragments_of_event(const CdpEvent *ev)
{
	int64		ids[CDP_MAX_IDENTIFIERS + 1];
	int			n = 0;

	for (int i = 0; i < ev->nidents; i++)
		ids[n++] = ev->idents[i]->fragment_id;
	ids[n++] = 0;
	return cdp_int8_array(ids, n);
}

/* false: it was purged or forgotten, or presented others than it would today, so there is nothing to move */
static bool
move_event(CdpEvent *ev, int64 *fragment_id)
{
	Datum		args[8] = {fragments_of_event(ev), Int64GetDatum(ev->event_id),
		TimestampTzGetDatum(ev->occurred_at), TimestampTzGetDatum(ev->received_at),
		TimestampTzGetDatum(ev->sent_at), Int16GetDatum(cdp_event_flags(ev)), TimestampTzGetDatum(ev->moved_from),
	Int64GetDatum(ev->anchor)};
	bool		found = cdp_spi_run(&move_event_plan, args, ev->sent_at == CDP_NO_TIME ? "    n   " : NULL) == 1;

	*fragment_id = found ? cdp_spi_int64(0, 1) : 0;
	cdp_spi_end();
	return found;
}

static void
move_seen(CdpEvent *ev)
{
	Datum		args[3] = {PointerGetDatum(ev->seen_key), TimestampTzGetDatum(ev->occurred_at),
	TimestampTzGetDatum(ev->received_at)};

	cdp_spi_exec(&move_seen_plan, args, NULL);
}

static void
move(CdpWork *w, CdpEvent *ev, Moved *moved)
{
	const CdpIdent *led = ev->link ? ev->link->members[0] : ev->nidents ? ev->idents[0] : NULL;
	int64		fragment_id;
	TimestampTz evidence_at;
	CdpFragment *f;

	if (!still_moves(ev, &evidence_at) || !move_event(ev, &fragment_id))
		return;
	move_seen(ev);
	if (fragment_id && (f = cdp_work_fragment(w, fragment_id)) != NULL)
		cdp_mark_recompute(&f, 1, "moved");
	if (led == NULL)
		return;
	f = cdp_work_fragment(w, led->fragment_id);
	f->changed = f->rearranged = true;
	moved->fragments[moved->n] = fragment_id;
	moved->anchors[moved->n] = ev->anchor;
	moved->guarded[moved->n] = led->hash;
	moved->before[moved->n] = TimestampTzGetDatum(evidence_at);
	moved->messages[moved->n++] = cdp_text(ev->message_id);
}

/* ---------------------------------------------------------------- its evidence */

static CdpSpi links_plan = {
	"WITH least AS (SELECT DISTINCT ON (e.anchor, e.source_id) e.anchor, e.source_id,"
	"   least(e.occurred_at, e.received_at) AS at, e.message_id, e.event_id"
	"  FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) AND e.anchor = ANY ($2)"
	"  ORDER BY e.anchor, e.source_id, least(e.occurred_at, e.received_at), e.message_id)"
	" UPDATE cdp_data.link l SET first_at = m.at, first_message = m.message_id, first_event_id = m.event_id"
	" FROM least m, ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5))"
	" AS g(anchor, guarded, message, before)"
	" WHERE g.anchor = m.anchor AND l.identifier_id = g.guarded AND l.link_id = m.anchor"
	"  AND l.source_id = m.source_id AND (l.first_at <> m.at OR l.first_message <> m.message_id)"
	"  AND ((l.first_message = g.message AND l.first_at = g.before) OR (m.at, m.message_id) < (l.first_at, l.first_message))",
	5, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}
};

static CdpSpi alone_plan = {
	"WITH least AS (SELECT DISTINCT ON (e.anchor) e.anchor, least(e.occurred_at, e.received_at) AS at, e.message_id"
	"  FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) AND e.anchor = ANY ($2)"
	"  ORDER BY e.anchor, least(e.occurred_at, e.received_at), e.message_id)"
	" UPDATE cdp_data.identifier i SET alone_at = m.at, alone_message = m.message_id"
	" FROM least m, ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) AS g(guarded, message, before)"
	" WHERE i.identifier_id = m.anchor AND g.guarded = m.anchor"
	"  AND (i.alone_at IS DISTINCT FROM m.at OR i.alone_message IS DISTINCT FROM m.message_id)"
	"  AND (i.alone_at IS NULL OR (i.alone_message = g.message AND i.alone_at = g.before) OR (m.at, m.message_id) < (i.alone_at, i.alone_message))",
	5, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}
};

static void
recompute_evidence(const Moved *moved)
{
	Datum		args[5] = {cdp_int8_array(moved->fragments, moved->n), cdp_int8_array(moved->anchors, moved->n),
		cdp_int8_array(moved->guarded, moved->n),
		PointerGetDatum(construct_array(moved->messages, moved->n, TEXTOID, -1, false, TYPALIGN_INT)),
	PointerGetDatum(construct_array(moved->before, moved->n, TIMESTAMPTZOID, 8, true, TYPALIGN_DOUBLE))};

	cdp_spi_exec(&links_plan, args, NULL);
	cdp_spi_exec(&alone_plan, args, NULL);
	CommandCounterIncrement();
}

/* ---------------------------------------------------------------- all of them */

void
cdp_store_moves(CdpWork *w)
{
	Moved		moved;

	if (w->nmoves == 0)
		return;
	moved.n = 0;
	moved.fragments = palloc(w->nmoves * sizeof(int64));
	moved.anchors = palloc(w->nmoves * sizeof(int64));
	moved.guarded = palloc(w->nmoves * sizeof(int64));
	moved.messages = palloc(w->nmoves * sizeof(Datum));
	moved.before = palloc(w->nmoves * sizeof(Datum));
	for (int i = 0; i < w->nmoves; i++)
		move(w, w->moves[i], &moved);
	CommandCounterIncrement();
	if (moved.n)
		recompute_evidence(&moved);
}
