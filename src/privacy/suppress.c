/*
 * suppress.c: what was forgotten is not taken in again (R47, R48).
 *
 * cdp.forget() leaves a token for each identifier of the person: its hash, and
 * the instant before which it is not to be taken.  A message is as old as its
 * evidence, least(occurred_at, received_at): those of replays, imports and of a
 * device with a fast clock are old.  What is younger makes a new person.
 *
 * Of an event that presents a token's identifier nothing is stored when that is
 * the strongest it presents, or when all that it presents are such; the people
 * who merely presented it, too, keep their event without it.
 *
 * A token is looked for when an identifier has no row.  One that has a row has
 * the token's instant in it (suppressed_before), so that known people cost no
 * look.  cdp.forget() commits the token with the deletion of the row: whoever
 * inserts the row of a new identifier has waited for that, and looks again for a
 * token afterwards; whoever knew the row has its fragment locked, or finds that
 * it is gone, and makes another attempt.
 *
 * An event with two owners (R65.3) is nobody's, and its identifiers have no
 * rows: their tokens are looked for, too, but not again afterwards.  What slips
 * through in that moment is found when the forgetting is completed.
 */
#include "postgres.h"

#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "storage/bufmgr.h"

#include "privacy/columns.h"
#include "privacy/suppress.h"
#include "spi.h"

/* ---------------------------------------------------------------- tokens */

static void
look_with(CdpWork *w, Snapshot snapshot)
{
	w->no_tokens = RelationGetNumberOfBlocks(w->suppression->rel) == 0;
	cdp_rel_look(w->suppression, snapshot);
}

/* NULL: nobody was ever forgotten */
static CdpRel *
tokens(CdpWork *w)
{
	if (w->suppression == NULL)
	{
		w->suppression = cdp_rel_open(cdp_table(CDP_T_SUPPRESSION));
		look_with(w, w->snapshot);
	}
	return w->no_tokens ? NULL : w->suppression;
}

TimestampTz
cdp_token_before(CdpRel *rel, int64 hash, int32 check)
{
	Datum		key = Int64GetDatum(hash);

	if (!cdp_rel_find(rel, &key, 1))
		return DT_NOBEGIN;
	slot_getallattrs(rel->row);
	if (DatumGetInt32(rel->row->tts_values[TOKEN_CHECK]) != check)
		return DT_NOBEGIN;
	return DatumGetTimestampTz(rel->row->tts_values[TOKEN_NOT_BEFORE]);
}

bool
cdp_suppress_look(CdpWork *w, CdpIdent *id)
{
	CdpRel	   *rel = tokens(w);
	TimestampTz not_before = rel ? cdp_token_before(rel, id->hash, id->check) : DT_NOBEGIN;

	if (not_before == DT_NOBEGIN)
		return false;
	w->has_tokens = true;		/* also when an earlier attempt found it */
	if (not_before <= id->suppressed_before)
		return false;
	id->suppressed_before = not_before;
	return true;
}

bool
cdp_suppress_look_again(CdpWork *w)
{
	bool		any = false;

	if (w->suppression == NULL)
		return false;			/* nobody is new */
	look_with(w, GetLatestSnapshot());
	for (int i = 0; i < w->nidents; i++)
		if (!w->idents[i]->known)
			any |= cdp_suppress_look(w, w->idents[i]);
	return any;
}

/* ---------------------------------------------------------------- events */

static bool
is_suppressed(const CdpEvent *ev, const CdpIdent *id)
{
	return ev->evidence_at < id->suppressed_before;
}

/* of a call the strongest may stand last */
static const CdpIdent *
strongest(const CdpEvent *ev)
{
	const CdpIdent *best = ev->idents[0];

	for (int i = 1; i < ev->npresenting; i++)
		if (ev->idents[i]->rank < best->rank)
			best = ev->idents[i];
	return best;
}

static int
count_suppressed(const CdpEvent *ev)
{
	int			n = 0;

	for (int i = 0; i < ev->npresenting; i++)
		n += is_suppressed(ev, ev->idents[i]);
	return n;
}

static void
strip_document(const CdpErased *e, Jsonb **document)
{
	Jsonb	   *stripped = cdp_strip(e, *document);

	if (stripped)
		*document = stripped;
}

static void
strip_payload(CdpWork *w, CdpEvent *ev, int64 *hashes, int n)
{
	CdpErased	e = {.policy = w->policy, .hashes = hashes, .n = n, .source = w->batch->source};

	qsort(hashes, n, sizeof(int64), cdp_int64_order);
	if (cdp_is_erased(&e, ev->user_id))
		ev->user_id = CDP_STR_NONE;
	if (cdp_is_erased(&e, ev->anonymous_id))
		ev->anonymous_id = CDP_STR_NONE;
	strip_document(&e, &ev->properties);
	strip_document(&e, &ev->traits);
	strip_document(&e, &ev->context);
}

static void
strip(CdpWork *w, CdpEvent *ev)
{
	MemoryContext old = MemoryContextSwitchTo(w->batch->cxt);
	CdpIdent  **rest = palloc(ev->npresenting * sizeof(CdpIdent *));
	int64		hashes[CDP_MAX_IDENTIFIERS];
	int			n = 0,
				nhashes = 0;

	for (int i = 0; i < ev->npresenting; i++)
	{
		if (is_suppressed(ev, ev->idents[i]))
			hashes[nhashes++] = ev->idents[i]->hash;
		else
			rest[n++] = ev->idents[i];
	}
	strip_payload(w, ev, hashes, nhashes);
	ev->idents = rest;
	ev->npresenting = n;
	cdp_event_set_anchor(w->batch, ev);
	MemoryContextSwitchTo(old);
}

bool
cdp_suppress_drops(const CdpEvent *ev)
{
	int			n = count_suppressed(ev);

	return n > 0 && (n == ev->npresenting || is_suppressed(ev, strongest(ev)));
}

/* true: the event is not what it was */
static bool
suppress(CdpWork *w, CdpEvent *ev)
{
	if (ev->settled || count_suppressed(ev) == 0)
		return false;
	if (cdp_suppress_drops(ev))
	{
		ev->outcome = CDP_OUT_SUPPRESSED;
		ev->settled = true;
	}
	else
		strip(w, ev);
	return true;
}

static void
look_for_owners(CdpWork *w, CdpEvent *ev)
{
	for (int i = 0; i < ev->npresenting; i++)
		(void) cdp_suppress_look(w, ev->idents[i]);
}

bool
cdp_suppress_events(CdpWork *w)
{
	bool		any = false;

	for (int i = 0; i < w->nevents; i++)
		if (w->events[i]->two_owners)
			look_for_owners(w, w->events[i]);
	if (!w->has_tokens)
		return false;
	for (int i = 0; i < w->nevents; i++)
		any |= suppress(w, w->events[i]);
	for (int i = 0; i < w->nmoves; i++)
		any |= suppress(w, w->moves[i]);
	return any;
}
