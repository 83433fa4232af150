/*
 * partitions.c: which partitions a source worker reads, and from where.
 *
 * A partition of ours (number mod n = i):
 *
 *   found in the topic ----> NEW --(bounds and row looked up)--> OK ---+
 *                             ^                                  |     | assigned,
 *                             +--(out of range, row is gone)-----+     | consumed
 *                                                                |
 *            the end lies before the position, or the record     v
 *            before the position is another one             DIVERGED --(row is ok again)--> NEW
 *
 * Topics are looked at every 5 s, every second while something is absent, and
 * at once when somebody waits; so new partitions are picked up, and an absent
 * topic or a broker that is away means waiting, with the reason in the slot.
 * At the same pace the rows are read again: a position that a DBA set is taken.
 *
 * A partition without a row gets one at the start of the log, or at its end
 * with the option start => latest; then all partitions that the topic has get
 * theirs at once, and one that is added later starts at its beginning.  The row
 * wins.  A position below the start of the log is a gap: Kafka deleted records
 * before we read them; it is written down and jumped over.  Holes between
 * offsets are nothing of that kind (compaction, transactions).
 *
 * A topic that was deleted and made again has the same offsets and other
 * records.  The position is of no use there, so each start reads the last record
 * once more and compares its fingerprint, and so does each return of a topic
 * that was away, or of a partition that had an error.  Where that record is gone
 * the partition is flagged unverified, and goes on.  A topic may be made again,
 * and filled beyond the position, so fast that nothing of this is noticed; but
 * its first records are later than all that we read before.  So each look at the
 * topics also asks for the first record that is later than what was read at the
 * look before, which is one request; if it lies before the position of then,
 * and was not known already (time stamps need not be in order), the last record
 * of then is compared.  What was read of the new topic meanwhile
 * stays: it is real, and a duplicate when the topic is adopted from its start.
 */
#include "cdp.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "worker.h"

#define DISCOVER_MS 5000		/* between two looks at the topics */
#define ABSENT_MS 1000			/* the same, while one is absent */
#define RETRY_MS 200			/* the broker did not answer */
#define ENDS_MS 100				/* spent on ends that only a view shows, in one round */

CdpPartition
cdp_part_id(const Worker *w, const Part *part)
{
	const Topic *topic = &w->topics[part->topic];

	return (CdpPartition) {{topic->name, topic->len}, part->partition};
}

Part *
cdp_parts_find(Worker *w, CdpStr name, int32 partition)
{
	for (int t = 0; t < w->ntopics; t++)
	{
		Topic	   *topic = &w->topics[t];

		if (name.len != topic->len || memcmp(name.s, topic->name, name.len) != 0)
			continue;
		return partition >= 0 && partition < topic->size ? topic->parts[partition] : NULL;
	}
	return NULL;
}

static void
note(Worker *w, const char *text)
{
	cdp_slot_error(w->slot, "08000", text ? text : "the broker does not answer");
}

/* ---------------------------------------------------------------- what there is */

/* Its bounds may have moved, or its topic may be another one. */
void
cdp_parts_recheck(Worker *w, Part *part)
{
	if (part->state == CDP_PART_OK)
		part->state = CDP_PART_NEW;
	part->trusted = false;
	w->next_check = 0;
}

/* Also whether the topics are those that we read: it may lead to another cluster. */
void
cdp_parts_restart(Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
		cdp_parts_recheck(w, w->parts[i]);
	w->next_discover = 0;
	w->assign = true;
}

static void
add_part(Worker *w, int t, int32 partition)
{
	Topic	   *topic = &w->topics[t];
	MemoryContext old = MemoryContextSwitchTo(w->cxt);
	Part	   *part = palloc0(sizeof(Part));
	int			at = w->nparts;

	part->topic = t;
	part->partition = partition;
	part->state = CDP_PART_NEW;
	part->end = part->later = part->read.offset = part->next_read.offset = -1;
	part->latest = part->mark_time = CDP_NO_TIME;
	part->counted_from = cdp_ticks();
	if (partition >= topic->size)
	{
		int			size = Max(partition + 1, 2 * topic->size);
		Part	  **parts = palloc0(size * sizeof(Part *));

		if (topic->size > 0)
			memcpy(parts, topic->parts, topic->size * sizeof(Part *));
		topic->parts = parts;
		topic->size = size;
	}
	topic->parts[partition] = part;
	w->parts = w->parts ? repalloc(w->parts, (w->nparts + 1) * sizeof(Part *)) : palloc(sizeof(Part *));
	while (at > 0 && (w->parts[at - 1]->topic > t ||
					  (w->parts[at - 1]->topic == t && w->parts[at - 1]->partition > partition)))
	{
		w->parts[at] = w->parts[at - 1];
		at--;
	}
	w->parts[at] = part;
	w->nparts++;
	MemoryContextSwitchTo(old);
}

/* Ask the broker which partitions a topic has; ours that are new are added. */
static void
discover_topic(Worker *w, int t)
{
	Topic	   *topic = &w->topics[t];
	CdpPartition *found;
	const char *error = NULL;
	int			n = w->transport->partitions(w->consumer, &topic->name, 1, &found, &error);
	bool		back = n > 0 && !topic->present;

	topic->present = n > 0;
	if (n <= 0)
	{
		note(w, n < 0 ? error : "the topic has no partitions");
		return;
	}
	for (int p = 0; back && p < topic->size; p++)
		if (topic->parts[p])
			cdp_parts_recheck(w, topic->parts[p]);	/* it may have been made again */
	topic->present_request = w->request;
	topic->nparts = n;
	for (int i = 0; i < n; i++)
	{
		int32		p = found[i].partition;

		if (p % w->nworkers == w->worker && (p >= topic->size || topic->parts[p] == NULL))
			add_part(w, t, p);
	}
}

static bool
all_present(const Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
		if (!w->topics[t].present)
			return false;
	return true;
}

static bool
any_state(const Worker *w, CdpPartitionState state)
{
	for (int i = 0; i < w->nparts; i++)
		if (w->parts[i]->state == state)
			return true;
	return false;
}

/* ---------------------------------------------------------------- positions */

/* In a transaction. */
static void
set_diverged(Worker *w, Part *part, const char *why)
{
	const char *topic = w->topics[part->topic].name;

	cdp_position_set_state(w->source_id, topic, part->partition, part->position, "diverged");
	part->state = CDP_PART_DIVERGED;
	w->assign = true;
	cdp_part_report_diverged(w, part, why);
}

void
cdp_part_report_diverged(Worker *w, const Part *part, const char *why)
{
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("partition %d of topic \"%s\" of source \"%s\" is not the one that was read before",
					part->partition, w->topics[part->topic].name, w->name),
			 errdetail("%s", why),
			 errhint("If the topic was made again, adopt it with cdp.adopt_source().")));
	note(w, "the topic is not the one that was read before");
}

static void
create_rows(Worker *w, const Topic *topic, const int64 *positions, int n)
{
	cdp_worker_begin();
	for (int p = 0; p < n; p++)
		cdp_position_create(w->source_id, topic->name, p, positions[p]);
	cdp_worker_commit();
}

/* start => latest: rows at the end for all partitions of a topic that nothing was read of yet. */
static bool
start_at_end(Worker *w, const Topic *topic)
{
	int64	   *ends = palloc(topic->nparts * sizeof(int64));
	bool		known;

	cdp_worker_begin();
	known = cdp_topic_has_positions(w->source_id, topic->name);
	cdp_worker_commit();
	for (int32 p = 0; p < topic->nparts && !known; p++)
	{
		CdpPartition id = {{topic->name, topic->len}, p};
		const char *error = NULL;
		int64		low;

		if (w->transport->offsets(w->consumer, &id, &low, &ends[p], &error))
			continue;
		note(w, error);
		pfree(ends);
		return false;
	}
	if (!known)
		create_rows(w, topic, ends, topic->nparts);
	pfree(ends);
	return true;
}

/* In a transaction: the row wins; where there is none, one at the start of the log. */
static CdpPosition
read_or_create(Worker *w, const Part *part, int64 low)
{
	const char *topic = w->topics[part->topic].name;
	CdpPosition row = cdp_position_read(w->source_id, topic, part->partition);

	if (row.found)
		return row;
	cdp_position_create(w->source_id, topic, part->partition, low);
	return cdp_position_read(w->source_id, topic, part->partition);
}

/* In a transaction.  False: somebody else moved the position meanwhile. */
static bool
skip_gap(Worker *w, Part *part, int64 low)
{
	const char *topic = w->topics[part->topic].name;

	if (!cdp_position_skip_gap(w->source_id, topic, part->partition, part->position, low))
		return false;
	ereport(WARNING,
			(errmsg("Kafka deleted offsets %lld to %lld of partition %d of topic \"%s\" before source \"%s\" read them",
					(long long) part->position, (long long) low - 1, part->partition, topic, w->name),
			 errhint("See cdp.source_gap.")));
	part->position = low;
	return true;
}

/* In a transaction: compare the row with the log, [low, high). */
static void
place_part(Worker *w, Part *part, int64 low, int64 high)
{
	CdpPosition row = read_or_create(w, part, low);

	if (!row.found)
		return;					/* the source was dropped */
	part->position = row.position;
	part->read = (Record) {row.last_offset, row.last_hash};
	if (part->latest == CDP_NO_TIME || row.last_offset < 0)
	{
		part->latest = row.last_time;
		cdp_part_mark(part);
	}
	part->known = part->suspect ? part->mark_read : part->read;
	part->suspect = false;
	part->verify = part->known.offset >= low && !part->trusted;
	if (row.diverged)
		part->state = CDP_PART_DIVERGED;
	else if (row.position > high)
		set_diverged(w, part, "The topic ends before the position that was reached.");
	else if (row.position >= low || skip_gap(w, part, low))
	{
		if (part->known.offset >= 0 && part->known.offset < low)
			cdp_position_set_state(w->source_id, w->topics[part->topic].name, part->partition,
								   part->position, "unverified");
		part->state = CDP_PART_OK;
		w->assign = true;
	}
}

static void
check_part(Worker *w, Part *part)
{
	const Topic *topic = &w->topics[part->topic];
	CdpPartition id = cdp_part_id(w, part);
	const char *error = NULL;
	int64		low,
				high;

	if (w->from_latest && !start_at_end(w, topic))
		return;
	if (!w->transport->offsets(w->consumer, &id, &low, &high, &error))
	{
		note(w, error);
		return;
	}
	part->end = high;
	part->end_at = GetCurrentTimestamp();
	cdp_worker_begin();
	place_part(w, part, low, high);
	cdp_worker_commit();
}

static void
check_new_parts(Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
	{
		if (w->parts[i]->state == CDP_PART_NEW)
			check_part(w, w->parts[i]);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Take what the table says of a partition that is known. */
static void
reread_part(Worker *w, Part *part)
{
	CdpPosition row = cdp_position_read(w->source_id, w->topics[part->topic].name, part->partition);
	bool		diverged = part->state == CDP_PART_DIVERGED;

	if (part->state == CDP_PART_NEW)
		return;
	if (row.found && row.diverged == diverged && row.position == part->position)
		return;
	part->state = CDP_PART_NEW;
	w->assign = true;
	w->next_check = 0;
}

static void
reread_all(Worker *w)
{
	cdp_worker_begin();
	for (int i = 0; i < w->nparts; i++)
		reread_part(w, w->parts[i]);
	cdp_worker_commit();
}

/* ---------------------------------------------------------------- made again? */

void
cdp_part_mark(Part *part)
{
	part->mark_time = part->latest;
	part->mark = part->position;
	part->mark_read = part->read;
}

/* The answer for a partition: is there reason to compare its last record? */
static void
take_later(Worker *w, Part *part, int64 later)
{
	if (later >= 0 && later < part->mark && later != part->later)
	{
		part->later = later;
		part->suspect = true;
		cdp_parts_recheck(w, part);
	}
	else
		cdp_part_mark(part);
}

/* Ask for the first record that is later than the mark, of all partitions at once. */
static void
look_for_later(Worker *w)
{
	CdpPartition *ids = palloc(Max(w->nparts, 1) * sizeof(CdpPartition));
	TimestampTz *times = palloc(Max(w->nparts, 1) * sizeof(TimestampTz));
	int64	   *offsets = palloc(Max(w->nparts, 1) * sizeof(int64));
	Part	  **asked = palloc(Max(w->nparts, 1) * sizeof(Part *));
	const char *error = NULL;
	int			n = 0;

	for (int i = 0; i < w->nparts; i++)
	{
		Part	   *part = w->parts[i];

		if (part->state != CDP_PART_OK || part->verify || part->mark_time == CDP_NO_TIME ||
			!w->topics[part->topic].present)
			continue;
		ids[n] = cdp_part_id(w, part);
		times[n] = part->mark_time;
		asked[n++] = part;
	}
	w->look_later = n > 0 && !w->transport->later(w->consumer, ids, times, n, offsets, &error);
	if (w->look_later)
		note(w, error);
	for (int i = 0; i < n && !w->look_later; i++)
		take_later(w, asked[i], offsets[i]);
	pfree(ids);
	pfree(times);
	pfree(offsets);
	pfree(asked);
}

/* ---------------------------------------------------------------- assign */

static void
assign(Worker *w)
{
	CdpPartition *ids = palloc(Max(w->nparts, 1) * sizeof(CdpPartition));
	int64	   *positions = palloc(Max(w->nparts, 1) * sizeof(int64));
	const char *error = NULL;
	int			n = 0;

	for (int i = 0; i < w->nparts; i++)
	{
		Part	   *part = w->parts[i];

		if (part->state != CDP_PART_OK)
			continue;
		ids[n] = cdp_part_id(w, part);
		positions[n++] = part->verify ? part->known.offset : part->position;
	}
	if (w->transport->assign(w->consumer, ids, positions, n, &error))
		w->assign = false;
	else
		note(w, error);
	pfree(ids);
	pfree(positions);
}

/* ---------------------------------------------------------------- ends */

static bool
ask_end(Worker *w, Part *part)
{
	CdpPartition id = cdp_part_id(w, part);
	const char *error = NULL;
	int64		low;

	if (!w->transport->offsets(w->consumer, &id, &low, &part->end, &error))
	{
		note(w, error);
		return false;
	}
	part->end_at = GetCurrentTimestamp();
	return true;
}

/* Somebody waits: the ends as they are after the request was made. */
static void
ask_ends_for_request(Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
	{
		Part	   *part = w->parts[i];

		if (part->state != CDP_PART_OK || part->end_request >= w->request)
			continue;
		if (!ask_end(w, part))
			return;
		part->wait_end = part->end;
		part->end_request = w->request;
		CHECK_FOR_INTERRUPTS();
	}
}

/* For the views: as many as there is time for, the oldest first in turn. */
static void
ask_some_ends(Worker *w)
{
	static int	turn = 0;
	int64		until = cdp_ticks() + ENDS_MS;

	for (int i = 0; i < w->nparts && cdp_ticks() < until; i++)
	{
		Part	   *part = w->parts[turn++ % w->nparts];

		if (part->state == CDP_PART_OK && !ask_end(w, part))
			return;
	}
}

bool
cdp_parts_reached(const Worker *w)
{
	if (w->look_later)
		return false;
	for (int t = 0; t < w->ntopics; t++)
		if (!w->topics[t].present || w->topics[t].present_request < w->request)
			return false;
	for (int i = 0; i < w->nparts; i++)
	{
		const Part *part = w->parts[i];

		if (part->state != CDP_PART_OK || part->verify || part->end_request < w->request ||
			part->position < part->wait_end)
			return false;
	}
	return true;
}

/* ---------------------------------------------------------------- the round */

bool
cdp_parts_ready(const Worker *w)
{
	return all_present(w) && !w->assign && !w->parked_full && !any_state(w, CDP_PART_NEW);
}

static bool
request_open(const Worker *w)
{
	if (w->request <= w->reached)
		return false;
	if (w->look_later)
		return true;
	for (int t = 0; t < w->ntopics; t++)
		if (w->topics[t].present_request < w->request)
			return true;
	for (int i = 0; i < w->nparts; i++)
		if (w->parts[i]->end_request < w->request)
			return true;
	return false;
}

int64
cdp_parts_next_round(const Worker *w)
{
	bool		impatient = w->assign || w->reread || any_state(w, CDP_PART_NEW) ||
	(all_present(w) && request_open(w));

	return impatient ? Min(w->next_check, w->next_discover) : w->next_discover;
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
		note(w, "messages are parked up to cdp.parked_limit, because a client holds the people they speak of");
	if (w->parked_full != before)
		ereport(LOG,
				(errmsg(w->parked_full ? "source \"%s\" waits, its parked messages have reached cdp.parked_limit" :
						"source \"%s\" goes on, its parked messages are below cdp.parked_limit", w->name)));
}

static void
discover(Worker *w)
{
	for (int t = 0; t < w->ntopics; t++)
	{
		discover_topic(w, t);
		CHECK_FOR_INTERRUPTS();
	}
	look_at_parked(w);
	if (w->nparts > 0)
	{
		reread_all(w);
		w->look_later = true;
		ask_some_ends(w);
	}
	w->next_check = 0;
	w->next_discover = cdp_ticks() + (all_present(w) && !w->parked_full ? DISCOVER_MS : ABSENT_MS);
}

void
cdp_parts_round(Worker *w)
{
	int64		now = cdp_ticks();

	if (w->reread)
	{
		reread_all(w);
		w->reread = false;
		w->assign = true;
	}
	if (w->next_discover <= now)
		discover(w);
	if (w->next_check <= now)
	{
		if (w->look_later)
			look_for_later(w);
		if (any_state(w, CDP_PART_NEW))
			check_new_parts(w);
		if (request_open(w))
			ask_ends_for_request(w);
		w->next_check = cdp_ticks() + RETRY_MS;
	}
	if (w->assign)
		assign(w);
}
