/*
 * look.c: what a source worker asks the cluster, and when.
 *
 * A look asks for the partitions of each topic, then for the bounds of every
 * partition, and for records that should not be there (see partitions.c); of all
 * partitions that one broker leads at once.  An answer may take longer than a
 * call of the transport: then the look is left as it is, messages are consumed,
 * and a moment later the same question is asked again.  So a cluster far away
 * makes a look longer, and nothing else.
 *
 * A look begins every 5 s, every second while something is absent, and at once
 * when somebody waits; so new partitions are picked up, and an absent topic or a
 * broker that is away means waiting, with the reason in the slot.  At its
 * beginning the rows are read again: a position that a DBA set is taken.
 *
 * Looks are numbered, and the number is the tag of their questions.  A request
 * of wait_for_source is served by looks that begin after it was taken: all
 * answers of one of them must have come, and the positions must have passed the
 * ends that the first of them found.
 */
#include "cdp.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "worker.h"

#define LOOK_MS 5000			/* from the end of a look to the next */
#define ABSENT_MS 1000			/* the same, while something is absent */
#define RETRY_MS 200			/* no answer about a partition that is new */
#define PENDING_MS 20			/* an answer is under way */
#define MISSING_LOOKS 3			/* a partition that so many did not find is gone */

/* ---------------------------------------------------------------- topics */

/* What is ours of partitions that a topic has, and of those that it has no more. */
static void
take_partitions(Worker *w, int t, const CdpPartition *found, int n)
{
	Topic	   *topic = &w->topics[t];

	for (int p = 0; p < topic->size; p++)
	{
		if (topic->parts[p] && !topic->present)
			cdp_parts_recheck(w, topic->parts[p]);	/* it may have been made again */
		if (topic->parts[p])
			topic->parts[p]->leader = -1;
	}
	if (topic->answered == 0)
		cdp_parts_recall(w, t, n);
	topic->policy_asked &= topic->present;
	topic->present = true;
	topic->answered = w->look;
	topic->nparts = n;
	for (int i = 0; i < n; i++)
	{
		int32		p = found[i].partition;
		Part	   *part;

		if (p % w->nworkers != w->worker)
			continue;
		part = p < topic->size && topic->parts[p] ? topic->parts[p] : cdp_part_add(w, t, p);
		part->leader = found[i].leader;
		part->missing = 0;
		if (part->leader < 0)
			cdp_note(w, t, psprintf("partition %d of topic \"%s\" has no leader", p, topic->name));
	}
	for (int p = n; p < topic->size; p++)
		if (topic->parts[p] && ++topic->parts[p]->missing >= MISSING_LOOKS)
			cdp_part_gone(w, topic->parts[p]);
}

/* False: not yet. */
static bool
look_for_topic(Worker *w, int t)
{
	Topic	   *topic = &w->topics[t];
	CdpPartition *found;
	const char *error;
	int			n;

	switch (w->transport->partitions(w->consumer, topic->name, w->look, &found, &n, &error))
	{
		case CDP_NOT_YET:
			return false;
		case CDP_NO_ANSWER:
			topic->present = false;
			cdp_note(w, t, error);
			break;
		case CDP_ANSWERED:
			take_partitions(w, t, found, n);
	}
	topic->asked = w->look;
	return true;
}

/* False: not yet. */
static bool
look_for_topics(Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
	{
		if (w->topics[t].asked < w->look && !look_for_topic(w, t))
			return false;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * Of a compacted topic nobody sees what is lost, so cdp.status says that it is
 * one.  Asked once; a broker need not let us know.  False: not yet.
 */
static bool
look_for_policies(Worker *w)
{
	for (int t = 0; t < Min(w->ntopics, CDP_SLOT_TOPICS); t++)
	{
		Topic	   *topic = &w->topics[t];
		bool		compacted;

		if (!topic->present || topic->policy_asked)
			continue;
		if (w->transport->compacted(w->consumer, topic->name, w->look, &compacted) == CDP_NOT_YET)
			return false;
		topic->policy_asked = true;
		cdp_slot_compacted(w->slot, t, compacted);
	}
	return true;
}

/* ---------------------------------------------------------------- start => latest */

/* The ends of all partitions of a topic, those of other workers, too, for their first rows.  False: not yet. */
static bool
start_at_end(Worker *w, int t)
{
	Topic	   *topic = &w->topics[t];
	int			n = topic->nparts;
	CdpPartition *ids = palloc(n * sizeof(CdpPartition));
	int64	   *lows = palloc(n * sizeof(int64));
	int64	   *ends = palloc(n * sizeof(int64));
	const char *error;
	CdpAnswer	answer;

	for (int p = 0; p < n; p++)
		ids[p] = (CdpPartition) {{topic->name, topic->len}, p};
	answer = w->transport->offsets(w->consumer, ids, n, w->look, lows, ends, &error);
	if (error)
		cdp_note(w, t, error);
	else if (answer == CDP_ANSWERED)
		cdp_topic_start(w, topic, ends);
	return answer != CDP_NOT_YET;
}

/* Topics that nothing was read of yet start at their end.  False: not yet. */
static bool
start_topics(Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
		if (w->topics[t].present && !cdp_topic_is_started(w, &w->topics[t]) && !start_at_end(w, t))
			return false;
	return true;
}

/* ---------------------------------------------------------------- partitions */

typedef bool (*PartTest) (const Worker *w, const Part *part);
typedef CdpAnswer (*PartsAsk) (Worker *w, Part **parts, int n);

static bool
is_asked(const Worker *w, const Part *part, PartTest wanted)
{
	return part->leader >= 0 && w->topics[part->topic].present && wanted(w, part);
}

/* The lowest leader above after of the partitions that are wanted; -1: none. */
static int32
next_leader(const Worker *w, PartTest wanted, int32 after)
{
	int32		next = -1;

	for (int i = 0; i < w->nparts; i++)
	{
		const Part *part = w->parts[i];

		if (part->leader > after && (next < 0 || part->leader < next) && is_asked(w, part, wanted))
			next = part->leader;
	}
	return next;
}

/*
 * Ask about the partitions that are wanted, those of one leader at a time, so
 * that a broker that is away harms the others little.  False: not yet.
 */
static bool
ask_each_leader(Worker *w, PartTest wanted, PartsAsk ask)
{
	Part	  **parts = palloc(Max(w->nparts, 1) * sizeof(Part *));
	int32		leader = -1;

	while ((leader = next_leader(w, wanted, leader)) >= 0)
	{
		int			n = 0;

		for (int i = 0; i < w->nparts; i++)
			if (w->parts[i]->leader == leader && is_asked(w, w->parts[i], wanted))
				parts[n++] = w->parts[i];
		if (ask(w, parts, n) == CDP_NOT_YET)
			return false;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

static CdpPartition *
part_ids(const Worker *w, Part **parts, int n)
{
	CdpPartition *ids = palloc(n * sizeof(CdpPartition));

	for (int i = 0; i < n; i++)
		ids[i] = cdp_part_id(w, parts[i]);
	return ids;
}

static void
take_bounds(Worker *w, Part *part, int64 low, int64 high)
{
	part->bounds_answered = w->look;
	part->end = high;
	part->end_at = GetCurrentTimestamp();
	if (part->wait_look < w->request_look && w->look >= w->request_look)
	{
		part->wait_look = w->look;
		part->wait_end = high;
	}
	if (part->state == CDP_PART_OK && high < part->position)
		cdp_parts_recheck(w, part); /* what can that be but another topic? */
	else if (part->state == CDP_PART_NEW)
		cdp_part_place(w, part, low, high);
}

static CdpAnswer
ask_bounds(Worker *w, Part **parts, int n)
{
	int64	   *lows = palloc(n * sizeof(int64));
	int64	   *highs = palloc(n * sizeof(int64));
	const char *error;
	CdpAnswer	answer;

	answer = w->transport->offsets(w->consumer, part_ids(w, parts, n), n, w->look, lows, highs, &error);
	if (error)
		cdp_note(w, parts[0]->topic, error);
	if (answer == CDP_NOT_YET)
		return answer;
	for (int i = 0; i < n; i++)
	{
		parts[i]->bounds_asked = w->look;
		if (answer == CDP_ANSWERED && lows[i] >= 0 && highs[i] >= 0)
			take_bounds(w, parts[i], lows[i], highs[i]);
	}
	return answer;
}

static bool
may_be_placed(const Worker *w, const Part *part)
{
	return part->state == CDP_PART_NEW && (!w->from_latest || w->topics[part->topic].started);
}

static bool
wants_bounds(const Worker *w, const Part *part)
{
	return part->bounds_asked < w->look && (part->state != CDP_PART_NEW || may_be_placed(w, part));
}

static bool
wants_later(const Worker *w, const Part *part)
{
	return part->later_asked < w->look && part->state == CDP_PART_OK && part->mark_time != CDP_NO_TIME;
}

/* Ask for the first record that is later than the mark. */
static CdpAnswer
ask_later(Worker *w, Part **parts, int n)
{
	TimestampTz *times = palloc(n * sizeof(TimestampTz));
	int64	   *offsets = palloc(n * sizeof(int64));
	const char *error;
	CdpAnswer	answer;

	for (int i = 0; i < n; i++)
		times[i] = parts[i]->mark_time;
	answer = w->transport->later(w->consumer, part_ids(w, parts, n), times, n, w->look, offsets, &error);
	if (error)
		cdp_note(w, parts[0]->topic, error);
	if (answer == CDP_NOT_YET)
		return answer;
	for (int i = 0; i < n; i++)
	{
		parts[i]->later_asked = w->look;
		if (answer != CDP_ANSWERED)
			continue;
		parts[i]->later_answered = w->look;
		cdp_part_take_later(w, parts[i], offsets[i]);
	}
	return answer;
}

/* ---------------------------------------------------------------- a look */

static bool
all_present(const Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
		if (!w->topics[t].present)
			return false;
	return true;
}

static bool
any_new(const Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
		if (w->parts[i]->state == CDP_PART_NEW)
			return true;
	return false;
}

static bool
any_leaderless(const Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
		if (w->parts[i]->leader < 0)
			return true;
	return false;
}

/* More is not parked before some of it is applied: the source waits. */
static void
look_at_parked(Worker *w)
{
	bool		before = w->parked_full;

	cdp_worker_begin();
	w->parked_full = cdp_parked_bytes(w->source_id) >= (int64) cdp_parked_limit_mb * 1024 * 1024;
	cdp_worker_commit();
	if (w->parked_full)
		cdp_note(w, -1, "messages are parked up to cdp.parked_limit, because a client holds the people they speak of");
	if (w->parked_full != before)
		ereport(LOG,
				(errmsg(w->parked_full ? "source \"%s\" waits, its parked messages have reached cdp.parked_limit" :
						"source \"%s\" goes on, its parked messages are below cdp.parked_limit", w->name)));
}

static void
begin_look(Worker *w)
{
	w->look++;
	w->looking = true;
	w->next_look = PG_INT64_MAX;
	w->next_step = 0;
	look_at_parked(w);
	cdp_parts_reread(w);
}

/* Who asked for a look meanwhile has set next_look. */
static void
end_look(Worker *w)
{
	bool		complete = all_present(w) && !w->parked_full && !any_new(w) && !any_leaderless(w) &&
	(w->request <= w->reached || cdp_look_is_answered(w));

	w->looking = false;
	w->next_look = Min(w->next_look, cdp_ticks() + (complete ? LOOK_MS : ABSENT_MS));
}

/* False: not yet. */
static bool
look_further(Worker *w)
{
	if (!look_for_topics(w) || (w->from_latest && !start_topics(w)) ||
		!ask_each_leader(w, wants_bounds, ask_bounds) ||
		!ask_each_leader(w, wants_later, ask_later) || !look_for_policies(w))
		return false;
	end_look(w);
	return true;
}

/* ---------------------------------------------------------------- what the loop calls */

void
cdp_look(Worker *w)
{
	int64		now = cdp_ticks();
	bool		answered;

	if (w->reread)
	{
		cdp_parts_reread(w);
		w->reread = false;
		w->assign = true;		/* what was handed out is to be read again */
	}
	if (!w->looking && w->next_look <= now)
		begin_look(w);
	if (w->next_step <= now)
	{
		answered = !w->looking || look_further(w);
		if (answered && any_new(w))
			answered = ask_each_leader(w, may_be_placed, ask_bounds);
		w->next_step = cdp_ticks() + (answered ? RETRY_MS : PENDING_MS);
	}
	if (w->assign)
		cdp_parts_assign(w);
}

int64
cdp_look_next(const Worker *w)
{
	int64		next = w->looking ? PG_INT64_MAX : w->next_look;

	return w->looking || w->assign || any_new(w) ? Min(w->next_step, next) : next;
}

/* Somebody wants to know; request is that of wait_for_source. */
void
cdp_look_request(Worker *w, uint64 request)
{
	if (request > w->request)
	{
		w->request = request;
		w->request_look = w->look + 1;
	}
	w->next_look = 0;
}

bool
cdp_look_is_ready(const Worker *w)
{
	return all_present(w) && !w->assign && !w->parked_full && !any_new(w);
}

/* Looks since the request have told all that it wants to know. */
bool
cdp_look_is_answered(const Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
		if (!w->topics[t].present || w->topics[t].answered < w->request_look)
			return false;
	for (int i = 0; i < w->nparts; i++)
	{
		const Part *part = w->parts[i];

		if (part->state != CDP_PART_OK || part->wait_look < w->request_look ||
			(part->mark_time != CDP_NO_TIME && part->later_answered < w->request_look))
			return false;
	}
	return true;
}

bool
cdp_look_is_reached(const Worker *w)
{
	if (!cdp_look_is_answered(w))
		return false;
	for (int i = 0; i < w->nparts; i++)
		if (w->parts[i]->verify || w->parts[i]->position < w->parts[i]->wait_end)
			return false;
	return true;
}
