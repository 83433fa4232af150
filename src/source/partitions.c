/*
 * partitions.c: which partitions a source worker reads, and from where.  What
 * there is, is found in looks (look.c).
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
 * the partition is flagged unverified, and goes on.
 *
 * A topic may be made again, and filled beyond the position, so fast that
 * nothing of this is noticed; but its first records are later than all that we
 * read before.  So each look also asks for the first record that is later than
 * what was read at the look before (the mark).  If it lies before the position
 * of then, and was not known already (time stamps need not be in order), the
 * last record of then is compared.  What was read of the new topic meanwhile
 * stays: it is real, and a duplicate when the topic is adopted from its start.
 *
 * A partition that a topic has no more was one of a topic that was made again
 * with fewer: it is diverged, too; if nothing is known of what was read there
 * (it was adopted, or empty), it and its row are forgotten.  A worker that did not
 * see it knows it from its row.
 */
#include "cdp.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "worker.h"

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

/* Trouble with a topic, or (-1) with everything. */
void
cdp_note(Worker *w, int topic, const char *text)
{
	cdp_slot_topic_error(w->slot, topic, "08000", text);
}

/* ---------------------------------------------------------------- what there is */

/* Its bounds may have moved, or its topic may be another one. */
void
cdp_parts_recheck(Worker *w, Part *part)
{
	if (part->state == CDP_PART_OK)
		part->state = CDP_PART_NEW;
	part->trusted = false;
	w->next_step = 0;
}

/* Also whether the topics are those that we read: it may lead to another cluster. */
void
cdp_parts_restart(Worker *w)
{
	for (int i = 0; i < w->nparts; i++)
		cdp_parts_recheck(w, w->parts[i]);
	w->next_look = 0;
	w->assign = true;
}

Part *
cdp_part_add(Worker *w, int t, int32 partition)
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
	part->leader = -1;
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
	return part;
}

static void
remove_part(Worker *w, Part *part)
{
	int			at = 0;

	while (w->parts[at] != part)
		at++;
	memmove(&w->parts[at], &w->parts[at + 1], (w->nparts - at - 1) * sizeof(Part *));
	w->nparts--;
	w->topics[part->topic].parts[part->partition] = NULL;
	w->assign = true;
	pfree(part);
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
	cdp_note(w, part->topic, "the topic is not the one that was read before");
}

/* start => latest: does the topic have rows, be it by another worker? */
bool
cdp_topic_is_started(Worker *w, Topic *topic)
{
	if (topic->started)
		return true;
	cdp_worker_begin();
	topic->started = cdp_topic_rows_end(w->source_id, topic->name) > 0;
	cdp_worker_commit();
	return topic->started;
}

/* Rows for all partitions that the topic has. */
void
cdp_topic_start(Worker *w, Topic *topic, const int64 *positions)
{
	cdp_worker_begin();
	for (int p = 0; p < topic->nparts; p++)
		cdp_position_create(w->source_id, topic->name, p, positions[p]);
	cdp_worker_commit();
	topic->started = true;
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
place(Worker *w, Part *part, int64 low, int64 high)
{
	CdpPosition row = read_or_create(w, part, low);

	if (!row.found)
		return;					/* the source was dropped */
	part->position = row.position;
	part->read = (Record) {row.last_offset, row.last_hash};
	if (part->latest == CDP_NO_TIME || row.last_offset < 0)
	{
		part->latest = row.last_time;
		cdp_part_mark(w, part);
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

void
cdp_part_place(Worker *w, Part *part, int64 low, int64 high)
{
	cdp_worker_begin();
	place(w, part, low, high);
	cdp_worker_commit();
}

/* In a transaction.  True: nothing is left of it. */
static bool
is_forgotten(Worker *w, Part *part)
{
	const char *topic = w->topics[part->topic].name;
	CdpPosition row = cdp_position_read(w->source_id, topic, part->partition);

	if (!row.found)
		return true;
	part->position = row.position;
	if (row.diverged)
		part->state = CDP_PART_DIVERGED;
	else if (row.last_offset >= 0)
		set_diverged(w, part, "The topic has no such partition any more.");
	else
		return cdp_position_forget(w->source_id, topic, part->partition, row.position);
	return false;
}

/* What was read of partitions from number first on, which the topic did not have when this worker first saw it, is found missing. */
void
cdp_parts_recall(Worker *w, int t, int32 first)
{
	int32		end;

	cdp_worker_begin();
	end = cdp_topic_rows_end(w->source_id, w->topics[t].name);
	cdp_worker_commit();
	for (int32 p = first; p < end; p++)
		if (p % w->nworkers == w->worker)
			cdp_part_add(w, t, p);
}

/* The topic has no such partition any more. */
void
cdp_part_gone(Worker *w, Part *part)
{
	bool		forgotten;

	cdp_worker_begin();
	forgotten = is_forgotten(w, part);
	cdp_worker_commit();
	if (forgotten)
		remove_part(w, part);
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
	w->next_step = 0;
}

/* Positions as they are committed. */
void
cdp_parts_reread(Worker *w)
{
	cdp_worker_begin();
	for (int i = 0; i < w->nparts; i++)
		reread_part(w, w->parts[i]);
	cdp_worker_commit();
}

/* ---------------------------------------------------------------- made again? */

/* What is so now, as of the last look. */
void
cdp_part_mark(const Worker *w, Part *part)
{
	part->later_asked = part->later_answered = w->look;
	part->mark_time = part->latest;
	part->mark = part->position;
	part->mark_read = part->read;
}

/* Where the first record lies that is later than the mark: is there reason to compare? */
void
cdp_part_take_later(Worker *w, Part *part, int64 later)
{
	if (later >= 0 && later < part->mark && later != part->later)
	{
		part->later = later;
		part->suspect = true;
		cdp_parts_recheck(w, part);
	}
	else
		cdp_part_mark(w, part);
}

/* ---------------------------------------------------------------- assign */

void
cdp_parts_assign(Worker *w)
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
		cdp_note(w, -1, error);
	pfree(ids);
	pfree(positions);
}
