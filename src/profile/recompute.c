/*
 * recompute.c: the state of fragments from their stored events.
 *
 * For what is not an append: a split moved events to another fragment, an
 * earlier delivery moved an event in time, or events were purged.  The fragments are locked and the
 * batch's own events are stored, so that what is read is all there is.  The
 * counters go into the fragment and are written with it; traits are written
 * here.  Large fragments are left to the maintenance worker (dirty.c), which
 * comes here, too.
 *
 * Below the watermark there are no events, but the traits that they declared
 * stay: an entry whose event occurred before W is kept as it is stored, and
 * what the stored events declare is merged with it.  After a split it stays
 * with the fragment that it was in.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "privacy/purge.h"
#include "profile/profile.h"
#include "spi.h"

/* ---------------------------------------------------------------- counters */

static CdpSpi counters_plan = {
	"SELECT e.fragment_id, pg_catalog.min(e.occurred_at), pg_catalog.max(e.occurred_at), pg_catalog.count(*)"
	" FROM cdp_data.event e WHERE e.fragment_id = ANY ($1)"
	" GROUP BY e.fragment_id, pg_catalog.date_trunc('month', e.occurred_at, 'UTC')",
	1, {INT8ARRAYOID}
};

static void
recompute_counters(CdpWork *w, Datum ids)
{
	int			n = cdp_spi_run(&counters_plan, &ids, NULL);

	for (int i = 0; i < n; i++)
	{
		CdpFragment *f = cdp_work_fragment(w, cdp_spi_int64(i, 1));
		TimestampTz first = cdp_spi_int64(i, 2);

		f->event_count += cdp_spi_int64(i, 4);
		f->months |= cdp_month_bit(first);
		f->first_seen = Min(f->first_seen, first);
		f->last_seen = Max(f->last_seen, cdp_spi_int64(i, 3));
	}
	cdp_spi_end();
}

/* ---------------------------------------------------------------- traits */

/* the newest first, so that few of them have to be kept */
static CdpSpi declarations_plan = {
	"SELECT e.fragment_id, e.traits, e.occurred_at, e.received_at, e.source_seq, e.message_id, e.source_id"
	" FROM cdp_data.event e WHERE e.fragment_id = ANY ($1) AND e.type = 'identify' AND e.traits IS NOT NULL"
	" ORDER BY e.fragment_id, least(e.occurred_at, e.received_at) DESC",
	1, {INT8ARRAYOID}
};

static CdpSpi stored_plan = {
	"SELECT t.fragment_id, t.traits, t.stamps FROM cdp_data.profile_trait t WHERE t.fragment_id = ANY ($1)",
	1, {INT8ARRAYOID}
};

static CdpSpi drop_traits_plan = {
	"DELETE FROM cdp_data.profile_trait WHERE fragment_id = ANY ($1)",
	1, {INT8ARRAYOID}
};

/* traits outlive the events that declared them: what was declared below W stays */
static void
keep_purged(CdpWork *w, Datum ids)
{
	TimestampTz watermark = cdp_watermark(w->workspace_id);
	int			n;
	bool		isnull;

	if (watermark == DT_NOBEGIN)
		return;
	n = cdp_spi_run(&stored_plan, &ids, NULL);
	for (int i = 0; i < n; i++)
	{
		CdpFragment *f = cdp_work_fragment(w, cdp_spi_int64(i, 1));

		if (f->kept == NULL)
			f->kept = cdp_traits_begin(w->cxt);
		cdp_traits_keep(f->kept, DatumGetJsonbPCopy(cdp_spi_datum(i, 2, &isnull)),
						DatumGetByteaPCopy(cdp_spi_datum(i, 3, &isnull)), watermark, w->erased);
	}
	cdp_spi_end();
}

typedef struct Declared
{
	CdpWork    *w;
	CdpTraitSet *set;			/* of the fragment at hand; NULL: of none yet */
	int64		fragment_id;
} Declared;

static void
store_declared(Declared *d)
{
	MemoryContext old = MemoryContextSwitchTo(d->w->cxt);

	if (d->set)
		cdp_traits_store(d->set, d->w->trait, d->fragment_id, d->w->workspace_id);
	MemoryContextSwitchTo(old);
}

/* first the set of the one before is written */
static void
next_fragment(Declared *d, int64 fragment_id)
{
	CdpFragment *f = cdp_work_fragment(d->w, fragment_id);

	store_declared(d);
	d->set = f->kept ? f->kept : cdp_traits_begin(d->w->cxt);
	f->kept = NULL;
	d->fragment_id = fragment_id;
}

static void
take_declaration(int row, void *arg)
{
	Declared   *d = arg;
	MemoryContext old;
	Jsonb	   *traits;
	CdpStamp	stamp = {.rank = 1};
	bool		isnull;

	if (d->set == NULL || cdp_spi_int64(row, 1) != d->fragment_id)
		next_fragment(d, cdp_spi_int64(row, 1));
	stamp.occurred_at = cdp_spi_int64(row, 3);
	stamp.evidence_at = Min(stamp.occurred_at, cdp_spi_int64(row, 4));
	stamp.source_seq = cdp_spi_int64(row, 5);
	stamp.source_id = DatumGetInt32(cdp_spi_datum(row, 7, &isnull));
	old = MemoryContextSwitchTo(d->w->cxt);
	stamp.message_id = cdp_spi_text(row, 6, d->w->cxt);
	traits = DatumGetJsonbPCopy(cdp_spi_datum(row, 2, &isnull));
	MemoryContextSwitchTo(old);
	if (cdp_traits_declare(d->set, traits, &stamp))
		return;
	pfree(traits);
	pfree((char *) stamp.message_id.s);
}

static void
recompute_traits(CdpWork *w, Datum ids)
{
	Declared	d = {w};

	keep_purged(w, ids);
	cdp_spi_exec(&drop_traits_plan, &ids, NULL);
	cdp_spi_each(&declarations_plan, &ids, take_declaration, &d);
	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->kept)
			next_fragment(&d, w->fragments[i]->fragment_id);
	store_declared(&d);
	cdp_rel_flush(w->trait);
}

/* ---------------------------------------------------------------- all of it */

static void
reset(CdpFragment *f)
{
	f->event_count = f->months = 0;
	f->first_seen = DT_NOEND;
	f->last_seen = DT_NOBEGIN;
	f->changed = true;
}

/* ids of the marked fragments, without those that are left for later; returns how many */
static int
marked(CdpWork *w, Datum *ids)
{
	int64	   *v = palloc(Max(w->nfragments, 1) * sizeof(int64));
	int			n = 0;

	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->recompute && !w->fragments[i]->dirty)
			v[n++] = w->fragments[i]->fragment_id;
	*ids = cdp_int8_array(v, n);
	return n;
}

void
cdp_recompute(CdpWork *w)
{
	Datum		ids;

	if (marked(w, &ids) == 0)
		return;
	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->recompute && !w->fragments[i]->dirty)
			reset(w->fragments[i]);
	CommandCounterIncrement();
	recompute_counters(w, ids);
	recompute_traits(w, ids);
}

void
cdp_recount(CdpWork *w, CdpFragment **fragments, int n)
{
	int64	   *ids = palloc(Max(n, 1) * sizeof(int64));

	for (int i = 0; i < n; i++)
	{
		reset(fragments[i]);
		ids[i] = fragments[i]->fragment_id;
	}
	if (n > 0)
		recompute_counters(w, cdp_int8_array(ids, n));
}
