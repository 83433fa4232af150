/*
 * fold.c: a batch's events become the state of their fragments.
 *
 * Everything here is a commutative sum or a least or greatest, so that the
 * order of events does not matter.  Each fragment row is written once a batch,
 * under the lock that resolve.c took, with eval_at = B.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/datetime.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "profile/columns.h"
#include "profile/profile.h"
#include "work.h"

/* bit of the month (UTC) that an instant lies in: months since 1970, modulo 64 */
int64
cdp_month_bit(TimestampTz at)
{
	int			year,
				month,
				day;
	int64		days = at / USECS_PER_DAY;

	if (at % USECS_PER_DAY < 0)
		days--;
	j2date((int) days + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	return (int64) (UINT64CONST(1) << (((year - 1970) * 12 + month - 1) & 63));
}

static void
add_declared(CdpFragment *f, CdpEvent *ev)
{
	if (f->ndeclared == f->maxdeclared)
	{
		f->maxdeclared = Max(4, f->maxdeclared * 2);
		f->declared = f->declared
			? repalloc(f->declared, f->maxdeclared * sizeof(CdpEvent *))
			: palloc(f->maxdeclared * sizeof(CdpEvent *));
	}
	f->declared[f->ndeclared++] = ev;
}

/* do the event's traits belong to the person? */
bool
cdp_declares_traits(const CdpEvent *ev)
{
	return ev->call == CDP_CALL_IDENTIFY && ev->traits != NULL;
}

static void
fold_event(CdpWork *w, CdpEvent *ev)
{
	CdpFragment *f = cdp_work_fragment(w, ev->fragment_id);

	if (f == NULL)
		elog(ERROR, "an event belongs to a fragment that is not locked");
	f->event_count++;
	f->months |= cdp_month_bit(ev->occurred_at);
	f->first_seen = Min(f->first_seen, ev->occurred_at);
	f->last_seen = Max(f->last_seen, ev->occurred_at);
	f->changed = true;
	if (cdp_declares_traits(ev))
		add_declared(f, ev);
}

void
cdp_fold_events(CdpWork *w)
{
	for (int i = 0; i < w->nevents; i++)
		if (w->events[i]->fragment_id)
			fold_event(w, w->events[i]);
	cdp_recompute(w);
	cdp_dirty_store(w);
	for (int i = 0; i < w->nfragments; i++)
	{
		CdpFragment *f = w->fragments[i];

		if (f->ndeclared && (!f->recompute || f->dirty))
			cdp_store_traits(w, f);
	}
}

/* ---------------------------------------------------------------- writing */

static void
fill_profile(CdpWork *w, const CdpFragment *f, Datum *v)
{
	v[PROFILE_FRAGMENT] = Int64GetDatum(f->fragment_id);
	v[PROFILE_ID] = Int64GetDatum(f->profile_id);
	v[PROFILE_CONTEST] = Int64GetDatum(f->contest_id);
	v[PROFILE_EVENT_COUNT] = Int64GetDatum(f->event_count);
	v[PROFILE_MONTHS] = Int64GetDatum(f->months);
	v[PROFILE_FIRST_SEEN] = TimestampTzGetDatum(f->first_seen);
	v[PROFILE_LAST_SEEN] = TimestampTzGetDatum(f->last_seen);
	v[PROFILE_EVAL_AT] = TimestampTzGetDatum(w->batch->instant);
	v[PROFILE_NEXT_DUE] = TimestampTzGetDatum(f->next_due);
	v[PROFILE_WORKSPACE] = Int32GetDatum(w->workspace_id);
}

void
cdp_store_profiles(CdpWork *w)
{
	for (int i = 0; i < w->nfragments; i++)
	{
		CdpFragment *f = w->fragments[i];

		if (f->created)
			fill_profile(w, f, cdp_rel_new_at(w->profile, &f->tid)->tts_values);
		else if (f->changed)
		{
			fill_profile(w, f, cdp_rel_replace(w->profile)->tts_values);
			cdp_rel_update(w->profile, &f->tid);
		}
	}
	cdp_rel_flush(w->profile);
}
