/*
 * engine.c: the hall of the house.
 *
 * cdp_apply() is the way in: messages of one source, in the caller's
 * transaction (at the end of this file is a side door for what is no append).
 * decode and admit run once and touch no table.  Then the events are applied in
 * a subtransaction, stage by stage; attempt() reads like the picture in the
 * design.
 *
 * When an attempt fails:
 *	- what had to be locked grew, or another batch was first (unique_violation,
 *	  deadlock): again, with fresh eyes;
 *	- somebody holds a row beyond lock_timeout: a worker parks the messages of
 *	  the people who are held, a client gets the error; so does a worker when
 *	  somebody locks a table;
 *	- the server or the caller is the cause (disk, memory, cancel, shutdown,
 *	  lost tables): the error goes up, and no message is blamed;
 *	- anything else: once more, then half of the events, until the one that
 *	  cannot be applied is alone.  It goes to quarantine.
 *
 * The batch's instant B is read after the last lock and is later than every
 * eval_at that was locked.  engine_lock is held ROW EXCLUSIVE to the end of the
 * transaction: others wait for its holders, nobody locks it out.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "event/quarantine.h"
#include "identity/held.h"
#include "identity/recent.h"
#include "privacy/purge.h"
#include "privacy/suppress.h"
#include "source/advance.h"
#include "stats.h"
#include "work.h"

#define MAX_RACES 100			/* attempts of one batch that others may spoil */
#define MAX_STEP_BACK_MS 250	/* longest pause after a deadlock */
#define MAX_DEADLOCKS 3			/* more, after an earlier batch in the transaction, mean that it holds what others need */

static uint32 attempt_number = 0;
static LocalTransactionId applied_in = InvalidLocalTransactionId;	/* transaction of the last batch */

/* ---------------------------------------------------------------- one attempt */

/* switches to the attempt's context */
static void
open_work(CdpWork *w, CdpBatch *batch, const CdpWorkspace *workspace)
{
	w->batch = batch;
	w->cxt = AllocSetContextCreate(batch->cxt, "cdp attempt", CDP_BATCH_SIZES);
	MemoryContextSwitchTo(w->cxt);
	w->workspace_id = workspace->id;
	w->policy = &workspace->policy;
	w->attempt = ++attempt_number;
	w->identifier = cdp_rel_open(cdp_table(CDP_T_IDENTIFIER));
	w->link = cdp_rel_open(cdp_table(CDP_T_LINK));
	w->profile = cdp_rel_open(cdp_table(CDP_T_PROFILE));
	w->trait = cdp_rel_open(cdp_table(CDP_T_PROFILE_TRAIT));
}

static void
begin_work(CdpWork *w, CdpBatch *batch, CdpEvent **events, int n)
{
	open_work(w, batch, batch->source->workspace);
	w->events = palloc(Max(n, 1) * sizeof(CdpEvent *));
	for (int i = 0; i < n; i++)
	{
		if (events[i]->settled)
			continue;
		events[i]->outcome = CDP_OUT_PENDING;
		w->events[w->nevents++] = events[i];
	}
}

static void
end_work(CdpWork *w)
{
	if (w->suppression)
		cdp_rel_close(w->suppression);
	cdp_rel_close(w->trait);
	cdp_rel_close(w->profile);
	cdp_rel_close(w->link);
	cdp_rel_close(w->identifier);
	if (w->snapshot)
		UnregisterSnapshot(w->snapshot);
}

/* B: the clock, read once, after the last lock; later than all that was evaluated before */
void
cdp_read_instant(CdpWork *w)
{
	TimestampTz b = Max(cdp_clock_above_floor(), w->batch->instant);

	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->eval_at != DT_NOBEGIN && w->fragments[i]->eval_at >= b)
			b = w->fragments[i]->eval_at + 1;
	cdp_clock_raise(b);
	w->batch->instant = cdp_engine_instant = b;
}

static void
store(CdpWork *w)
{
	cdp_store_events(w);
	cdp_store_links(w);
	cdp_seen_store(w);
}

static void
fold(CdpWork *w)
{
	cdp_rel_look(w->trait, GetLatestSnapshot());
	cdp_fold_events(w);
	cdp_store_profiles(w);
}

static CdpTry
attempt(CdpWork *w, CdpHints *hints)
{
	instr_time	t = cdp_stage_start();
	CdpTry		result;
	int			n = w->nevents;

	cdp_seen_check(w);
	result = cdp_resolve(w, hints);
	cdp_stage_stop(CDP_STAGE_RESOLVE, t, n);
	if (result != CDP_TRY_DONE)
		return result;
	cdp_read_instant(w);
	t = cdp_stage_start();
	store(w);
	cdp_stage_stop(CDP_STAGE_STORE, t, w->nevents);
	t = cdp_stage_start();
	fold(w);
	cdp_recent_remember(w);
	cdp_stage_stop(CDP_STAGE_FOLD, t, w->nevents);
	for (int i = 0; i < w->nevents; i++)
		w->events[i]->outcome = CDP_OUT_STORED;
	return CDP_TRY_DONE;
}

/* ---------------------------------------------------------------- in a subtransaction */

typedef enum Verdict
{
	APPLIED,
	SPOILED,					/* a race: again */
	HELD,						/* lock_timeout */
	FAILED						/* perhaps the fault of an event */
} Verdict;

/* the cause lies with the server or the caller, not with any message */
static bool
is_beyond_us(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
		case ERRCODE_CONFIG_FILE_ERROR:
			return true;
		default:
			return sqlstate == ERRCODE_QUERY_CANCELED || sqlstate == ERRCODE_DATA_CORRUPTED ||
				sqlstate == ERRCODE_INDEX_CORRUPTED;
	}
}

static Verdict
judge(const ErrorData *e)
{
	switch (e->sqlerrcode)
	{
		case ERRCODE_UNIQUE_VIOLATION:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
			return SPOILED;
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return HELD;
		default:
			return FAILED;
	}
}

typedef struct Attempt
{
	CdpWork    *w;
	CdpBatch   *batch;
	CdpEvent  **events;
	int			n;
	CdpHints   *hints;
	bool		applied;
} Attempt;

static bool
apply(void *arg)
{
	Attempt    *a = arg;

	begin_work(a->w, a->batch, a->events, a->n);
	a->applied = attempt(a->w, a->hints) == CDP_TRY_DONE;
	if (a->applied)
		end_work(a->w);
	return a->applied;
}

/* one attempt; *error is set unless it was applied or ended by itself */
static Verdict
try_events(CdpBatch *batch, CdpEvent **events, int n, CdpHints *hints, ErrorData **error)
{
	CdpWork    *w = MemoryContextAllocZero(batch->cxt, sizeof(CdpWork));
	Attempt		a = {w, batch, events, n, hints};

	*error = cdp_in_subtransaction(apply, &a);
	cdp_engine_instant = 0;
	if (w->cxt)
		MemoryContextDelete(w->cxt);
	pfree(w);
	if (*error)
		return judge(*error);
	return a.applied ? APPLIED : SPOILED;
}

/* ---------------------------------------------------------------- again, in halves, or not at all */

/* the log tells of the first one of a batch only: there may be thousands */
static void
quarantine_alone(CdpBatch *batch, CdpEvent *ev, const ErrorData *e)
{
	ev->outcome = CDP_OUT_QUARANTINED;
	ev->reason = CDP_REASON_APPLY_FAILED;
	ev->detail = psprintf("SQLSTATE %s", unpack_sql_state(e->sqlerrcode));
	ev->settled = true;
	if (batch->nfailed++ > 0)
		return;
	ereport(LOG,
			(errcode(e->sqlerrcode),
			 errmsg("a message could not be applied and went to quarantine"),
			 errdetail_log("SQLSTATE %s in %s.", unpack_sql_state(e->sqlerrcode), e->funcname ? e->funcname : "?")));
}

static void
park_alone(CdpEvent *ev)
{
	ev->outcome = CDP_OUT_PARKED;
	ev->settled = true;
}

static void apply_events(CdpBatch *batch, CdpEvent **events, int n, bool may_park);

static void
apply_halves(CdpBatch *batch, CdpEvent **events, int n, bool may_park)
{
	apply_events(batch, events, n / 2, may_park);
	apply_events(batch, events + n / 2, n - n / 2, may_park);
}

/* what to do when somebody holds a row, or an event cannot be applied */
static void
give_way(CdpBatch *batch, CdpEvent **events, int n, bool may_park, Verdict verdict, ErrorData *e)
{
	if (verdict == HELD && !may_park)
		ReThrowError(e);
	if (verdict == HELD && cdp_park_held(events, n) > 0)
		apply_events(batch, events, n, may_park);
	else if (n > 1)
		apply_halves(batch, events, n, may_park);
	else if (verdict == HELD)
		park_alone(events[0]);
	else
		quarantine_alone(batch, events[0], e);
}

/* moves the events that still are to be applied to the front; returns how many */
static int
drop_settled(CdpEvent **events, int n)
{
	int			kept = 0;

	for (int i = 0; i < n; i++)
		if (!events[i]->settled)
			events[kept++] = events[i];
	return kept;
}

/*
 * The victim of a deadlock lets the others go first: rows that are free again
 * go to whoever asks next, and asking at once would make the same deadlock.
 */
static void
step_back(int races)
{
	long		ms = 1 + (long) (pg_prng_double(&pg_global_prng_state) * Min(MAX_STEP_BACK_MS, 2 << Min(races, 10)));

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, cdp_wait_event("CdpStepBack"));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
apply_events(CdpBatch *batch, CdpEvent **events, int n, bool may_park)
{
	CdpHints	hints = {.cxt = batch->cxt};
	int			failures = 0,
				deadlocks = 0;
	bool		alone = applied_in != cdp_my_lxid() && !batch->applied;

	n = drop_settled(events, n);
	for (int races = 0; n > 0;)
	{
		ErrorData  *e;
		Verdict		verdict = try_events(batch, events, n, &hints, &e);

		if (verdict == APPLIED)
		{
			batch->applied = true;
			return;
		}
		if (e && is_beyond_us(e->sqlerrcode) && verdict == FAILED)
			ReThrowError(e);
		if (verdict == SPOILED)
		{
			if (e && e->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED && !alone && ++deadlocks >= MAX_DEADLOCKS)
				ReThrowError(e);
			if (++races < MAX_RACES)
			{
				if (e && e->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
					step_back(races);
				continue;
			}
			if (e)
				ReThrowError(e);
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("the people of this batch changed during each of %d attempts", MAX_RACES)));
		}
		if (verdict == FAILED && ++failures < 2)
			continue;
		give_way(batch, events, n, may_park, verdict, e);
		return;
	}
}

/* ---------------------------------------------------------------- results */

static void
put_result(CdpResult *r, const CdpMessage *msg, int item, CdpOutcome outcome, CdpReason reason, const char *detail,
		   CdpStr id)
{
	r->ordinal = msg->ordinal;
	r->item = item;
	r->outcome = outcome;
	r->reason = reason;
	r->detail = detail ? pstrdup(detail) : NULL;
	r->message_id = id.s ? pnstrdup(id.s, id.len) : NULL;
}

static int
result_order(const void *pa, const void *pb)
{
	const CdpResult *a = pa,
			   *b = pb;

	if (a->ordinal != b->ordinal)
		return a->ordinal < b->ordinal ? -1 : 1;
	return (a->item > b->item) - (a->item < b->item);
}

static void
collect_results(CdpBatch *batch, CdpResult **results, int *nresults)
{
	int			n = 0;
	CdpResult  *r = palloc(Max(batch->nevents + batch->nrejects, 1) * sizeof(CdpResult));

	for (int i = 0; i < batch->nevents; i++)
	{
		CdpEvent   *ev = &batch->events[i];

		put_result(&r[n++], ev->msg, ev->item, ev->outcome, ev->reason, ev->detail, ev->message_id);
	}
	for (int i = 0; i < batch->nrejects; i++)
	{
		CdpReject  *rej = &batch->rejects[i];

		put_result(&r[n++], rej->msg, rej->item, rej->suppressed ? CDP_OUT_SUPPRESSED : CDP_OUT_QUARANTINED,
				   rej->reason, rej->detail, rej->message_id);
	}
	qsort(r, n, sizeof(CdpResult), result_order);
	*results = r;
	*nresults = n;
}

/* ---------------------------------------------------------------- the way in */

void
cdp_require_read_committed(const char *what)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdp cannot %s in a transaction of isolation level repeatable read or serializable", what),
				 errdetail("A batch must see what others committed while it waited for them."),
				 errhint("Use READ COMMITTED, the default.")));
	PreventCommandIfReadOnly(what);
	PreventCommandIfParallelMode(what);
}

static CdpBatch *
make_batch(CdpSource *source, CdpMessage *messages, int n)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "cdp batch", CDP_BATCH_SIZES);
	CdpBatch   *batch = MemoryContextAllocZero(cxt, sizeof(CdpBatch));

	batch->cxt = cxt;
	batch->source = source;
	batch->messages = messages;
	batch->nmessages = n;
	return batch;
}

static bool
is_wanted(const CdpMessage *msg, int item)
{
	if (msg->items == NULL)
		return true;
	for (int i = 0; i < msg->nitems; i++)
		if (msg->items[i] == item)
			return true;
	return false;
}

/* of a message that was parked: the elements that were not applied or refused then */
static void
keep_wanted_items(CdpBatch *batch)
{
	int			kept = 0;

	for (int i = 0; i < batch->nevents; i++)
		if (is_wanted(batch->events[i].msg, batch->events[i].item))
			batch->events[kept++] = batch->events[i];
	batch->nevents = kept;
	kept = 0;
	for (int i = 0; i < batch->nrejects; i++)
		if (is_wanted(batch->rejects[i].msg, batch->rejects[i].item))
			batch->rejects[kept++] = batch->rejects[i];
	batch->nrejects = kept;
}

static void
prepare(CdpBatch *batch)
{
	instr_time	t = cdp_stage_start();

	cdp_decode(batch);
	keep_wanted_items(batch);
	cdp_stage_stop(CDP_STAGE_DECODE, t, batch->nmessages);
	t = cdp_stage_start();
	cdp_admit(batch);
	cdp_stage_stop(CDP_STAGE_ADMIT, t, batch->nevents);
}

static void
apply_batch(CdpBatch *batch, bool may_park)
{
	CdpEvent  **events = MemoryContextAlloc(batch->cxt, Max(batch->nevents, 1) * sizeof(CdpEvent *));
	int			n = 0;

	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].outcome == CDP_OUT_PENDING)
			events[n++] = &batch->events[i];
	apply_events(batch, events, n, may_park);
	if (batch->instant == 0)
		batch->instant = cdp_clock();
	cdp_suppress_refused(batch);
	cdp_quarantine_store(batch);
	cdp_park_store(batch);
}

/* To the end of the transaction its workspace is there; the source as it is now. */
static CdpSource *
hold_source(const CdpSource *source)
{
	CdpSource  *held = cdp_workspace_hold(source->workspace->id) ? cdp_source_find(source->id) : NULL;

	if (held == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", source->name.s)));
	return held;
}

void
cdp_apply(CdpSource *source, CdpMessage *messages, int nmessages, CdpAdvance *advances, int nadvances,
		  CdpResult **results, int *nresults)
{
	instr_time	t = cdp_stage_start();
	MemoryContext cxt = CurrentMemoryContext;
	CdpUserContext user;
	CdpBatch   *batch;

	cdp_require_read_committed("ingest");
	cdp_version_require();
	cdp_key_require();
	LockRelationOid(cdp_table(CDP_T_ENGINE_LOCK), RowExclusiveLock);
	source = hold_source(source);
	if (MyBackendType != B_BG_WORKER && applied_in == cdp_my_lxid() && nmessages > 1)
		cdp_recent_start_in_transaction();
	batch = make_batch(source, messages, nmessages);
	batch->watermark = cdp_watermark(source->workspace->id);
	MemoryContextSwitchTo(batch->cxt);
	cdp_become_owner(&user);
	if (advances)
		cdp_advance_begin(source, advances, nadvances);
	prepare(batch);
	apply_batch(batch, MyBackendType == B_BG_WORKER);
	if (advances)
		cdp_advance_end(source, advances, nadvances);
	cdp_become_caller(&user);
	MemoryContextSwitchTo(cxt);
	if (results)
		collect_results(batch, results, nresults);
	MemoryContextDelete(batch->cxt);
	applied_in = cdp_my_lxid();
	CommandCounterIncrement();
	cdp_stage_stop(CDP_STAGE_APPLY, t, nmessages);
}

/* ---------------------------------------------------------------- what is no append */

void
cdp_apply_other(int32 workspace_id, void (*change) (CdpWork *w, void *arg), void *arg)
{
	CdpBatch	batch = {.cxt = CurrentMemoryContext};
	CdpWork		w = {0};
	CdpUserContext user;

	cdp_version_require();
	LockRelationOid(cdp_table(CDP_T_ENGINE_LOCK), RowExclusiveLock);
	if (!cdp_workspace_hold(workspace_id))
		return;
	cdp_become_owner(&user);
	open_work(&w, &batch, cdp_workspace_by_id(workspace_id));
	cdp_batch_begin(&batch);
	cdp_index_fragments(&w);
	w.snapshot = RegisterSnapshot(GetLatestSnapshot());
	change(&w, arg);
	end_work(&w);
	cdp_engine_instant = 0;
	cdp_become_caller(&user);
	MemoryContextSwitchTo(batch.cxt);
	MemoryContextDelete(w.cxt);
}

static void
recompute(CdpWork *w, void *arg)
{
	cdp_work_add_fragment(w, *(int64 *) arg)->recompute = true;
	if (!cdp_lock_fragments(w))
		return;
	cdp_read_instant(w);
	cdp_recompute(w);
	cdp_store_profiles(w);
}

void
cdp_apply_recompute(int32 workspace_id, int64 fragment_id)
{
	cdp_apply_other(workspace_id, recompute, &fragment_id);
}
