/*
 * mentions.c: forgotten identifiers in messages that are set aside, and in events of nobody.
 *
 * A message in quarantine or parked has no columns that say who it is about, so
 * all of the workspace's are searched: for quoted texts and bare words that,
 * normalised and hashed, are one of the identifiers.  No value is needed, so the
 * search can be repeated when the values are gone.  Most words are met again in
 * the next message, so verdicts are remembered.
 *
 * A message that mentions one is decoded.  If the engine would drop it, it goes;
 * if it would strip it, or it says something newer, the words in a quarantined
 * one are blanked, so that it can be replayed without them; a parked one is left
 * to the engine, which applies it in a moment.  What cannot be decoded, and what
 * is of a source that this library does not understand, goes when it mentions one.
 *
 * Events with two owners (R65.3) are nobody's; they are searched and stripped.
 *
 * What a batch is about to put into quarantine is searched in the same way, for
 * whatever has a token: a replay would set it aside once more.  What cannot be
 * read is as old as its record; when it has none, it counts as old.
 *
 * Rows that a running batch is taking away are passed over: the engine knows
 * the tokens when it applies them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event/columns.h"
#include "event/json.h"
#include "event/quarantine.h"
#include "privacy/erasure.h"
#include "spi.h"

#define VERDICTS 8192			/* words that are remembered */

typedef struct Verdict
{
	uint64		word;			/* its hash; 0: none */
	bool		erased;
} Verdict;

typedef struct Search
{
	MemoryContext cxt;
	const CdpWorkspace *workspace;
	CdpErased	erased;
	TimestampTz not_before;
	bool		dry_run;
	CdpErasureCounts *counts;
	Verdict    *verdicts;
	List	   *rows;			/* of Row, or CdpStripped: to be changed */
} Search;

/* ---------------------------------------------------------------- words */

static bool
word_is_erased(Search *s, CdpStr word, bool named)
{
	uint64		h = hash_bytes_extended((const unsigned char *) word.s, word.len, (uint64) s->erased.age * 2 + named);
	Verdict    *v = &s->verdicts[h % VERDICTS];

	if (v->word != h)
		*v = (Verdict) {h, cdp_mentions_erased(&s->erased, word, named)};
	return v->erased;
}

static bool
is_delimiter(char c)
{
	return (unsigned char) c <= ' ' || strchr(",:;{}[]()\"'<>&?=/\\", c) != NULL;
}

typedef void (*Found) (CdpStr word);

static bool
take_word(Search *s, CdpStr word, bool named, Found found)
{
	if (word.len == 0 || !word_is_erased(s, word, named))
		return false;
	if (found)
		found(word);
	return true;
}

/* bare words of a text without quotes; calls found for each; true: there was one */
static bool
search_words(Search *s, CdpStr text, bool named, Found found)
{
	bool		any = false;

	for (uint32 from = 0, to; from < text.len; from = to + 1)
	{
		for (to = from; to < text.len && !is_delimiter(text.s[to]); to++)
			;
		any |= take_word(s, (CdpStr) {text.s + from, to - from}, named, found);
	}
	return any;
}

/* what stands between two quotes is a key when a colon follows: its value is what comes next */
static bool
is_colon(CdpStr part)
{
	uint32		i = 0;

	while (i < part.len && (unsigned char) part.s[i] <= ' ')
		i++;
	return i < part.len && part.s[i] == ':';
}

/* what a string of JSON says that is written so; s == NULL: it is none */
static CdpStr
unescaped(CdpStr part)
{
	CdpJson    *j = cdp_json_create(CurrentMemoryContext);
	char	   *quoted = palloc(part.len + 2);
	CdpStr		text = CDP_STR_NONE;

	quoted[0] = quoted[part.len + 1] = '"';
	memcpy(quoted + 1, part.s, part.len);
	if (cdp_json_parse(j, (CdpStr) {quoted, part.len + 2}) && j->nodes[0].kind == CDP_JSON_STRING)
		text = (CdpStr) {j->nodes[0].s, j->nodes[0].len};
	cdp_json_free(j);
	return text;
}

static bool search_text(Search *s, CdpStr text, bool named, Found found);

/* of a text with escapes nobody knows which of its bytes say a word, so all of it is found; it may be a document itself */
static bool
search_escaped(Search *s, CdpStr part, bool named, Found found)
{
	CdpStr		text;

	if (memchr(part.s, '\\', part.len) == NULL)
		return false;
	text = unescaped(part);
	if (text.s == NULL || !(take_word(s, text, named, NULL) || search_text(s, text, named, NULL)))
		return false;
	if (found)
		found(part);
	return true;
}

static uint32
end_of_part(CdpStr text, uint32 from)
{
	while (from < text.len && text.s[from] != '"')
		from += text.s[from] == '\\' ? 2 : 1;
	return Min(from, text.len);
}

/* what stands between two quotes, and the words in it */
static bool
search_text(Search *s, CdpStr text, bool named, Found found)
{
	bool		any = false;
	CdpStr		before = CDP_STR_NONE;

	for (uint32 from = 0, to; from < text.len; from = to + 1)
	{
		CdpStr		part;

		to = end_of_part(text, from);
		part = (CdpStr) {text.s + from, to - from};
		if (is_colon(part))
			named = before.s && cdp_names_identifier(&s->erased, before);
		before = part;
		any |= take_word(s, part, named, found) || search_escaped(s, part, named, found) || search_words(s, part, named, found);
	}
	return any;
}

/* ---------------------------------------------------------------- what the engine would do */

typedef enum Judgement
{
	UNREADABLE, WOULD_DROP, WOULD_TAKE
} Judgement;

/* an event whose time says nothing about the forgetting is newer */
static bool
would_drop(const Search *s, CdpEvent *ev)
{
	for (int i = 0; i < ev->npresenting; i++)
		if (bsearch(&ev->idents[i]->hash, s->erased.hashes, s->erased.n, sizeof(int64), cdp_int64_order))
			ev->idents[i]->suppressed_before = s->not_before;
	return cdp_suppress_drops(ev);
}

/* of a message with many events: all of them? */
static Judgement
judge(const Search *s, CdpSource *source, CdpMessage *msg)
{
	CdpBatch	batch = {.cxt = CurrentMemoryContext, .source = source, .messages = msg, .nmessages = 1,
	.watermark = DT_NOBEGIN};

	if (batch.source == NULL)
		return UNREADABLE;
	cdp_decode(&batch);
	cdp_admit(&batch);
	if (batch.nevents == 0)
		return UNREADABLE;
	for (int i = 0; i < batch.nevents; i++)
		if (batch.events[i].outcome == CDP_OUT_PENDING && !would_drop(s, &batch.events[i]))
			return WOULD_TAKE;
	return WOULD_DROP;
}

/* ---------------------------------------------------------------- quarantine and parked */

/* columns of a message that may hold something */
enum
{
	PART_BODY, PART_KEY, PART_HEADERS, PART_SHARED, PARTS
};

typedef struct Row
{
	int64		id;
	bool		goes;
	CdpStr		parts[PARTS];	/* blanked, when it stays */
} Row;

#define PLACE_COLUMNS "x.source_id, x.topic, x.\"partition\", x.\"offset\", x.record_time, x.body, x.key, x.headers"

static CdpSpi quarantine_plan = {
	"SELECT x.quarantine_id, " PLACE_COLUMNS ", x.shared FROM cdp_data.quarantine x WHERE x.workspace_id = $1",
	1, {INT4OID}
};

static CdpSpi parked_plan = {
	"SELECT x.parked_id, " PLACE_COLUMNS ", NULL::pg_catalog.bytea FROM cdp_data.parked x WHERE x.workspace_id = $1",
	1, {INT4OID}
};

/* the message points into the parts */
static void
read_message(CdpMessage *msg, CdpStr *parts, int row)
{
	bool		isnull;
	Datum		d;

	for (int i = 0; i < PARTS; i++)
		parts[i] = cdp_spi_text(row, 7 + i, CurrentMemoryContext);
	*msg = (CdpMessage) {.body = parts[PART_BODY], .key = parts[PART_KEY], .shared = parts[PART_SHARED],
								 .partition = -1, .offset = -1, .record_time = CDP_NO_TIME};
	cdp_read_headers(msg, parts[PART_HEADERS]);
	msg->topic = cdp_spi_text(row, 3, CurrentMemoryContext);
	d = cdp_spi_datum(row, 4, &isnull);
	if (!isnull)
	{
		msg->partition = DatumGetInt32(d);
		msg->offset = cdp_spi_int64(row, 5);
	}
	d = cdp_spi_datum(row, 6, &isnull);
	if (!isnull)
		msg->record_time = DatumGetTimestampTz(d);
}

/* a header; that of an attribute of a cloud event has a prefix */
static bool
names_identifier(const Search *s, CdpStr name)
{
	CdpStr		attribute = {name.s + 3, name.len - 3};

	return cdp_names_identifier(&s->erased, name) ||
		(name.len > 3 && pg_strncasecmp(name.s, "ce_", 3) == 0 && cdp_names_identifier(&s->erased, attribute));
}

static bool
search_message(Search *s, const CdpMessage *msg, Found found)
{
	bool		any = search_text(s, msg->body, false, found);

	any |= search_text(s, msg->key, true, found);
	any |= search_text(s, msg->shared, false, found);
	for (int i = 0; i < msg->nheaders; i++)
		any |= search_text(s, msg->headers[i].value, names_identifier(s, msg->headers[i].name), found);
	return any;
}

/* in quotes a blank text says nothing, as an absent one */
static void
blank(CdpStr word)
{
	memset((char *) word.s, ' ', word.len);
}

static void
remember(Search *s, int64 id, bool goes, const CdpStr *parts)
{
	MemoryContext old = MemoryContextSwitchTo(s->cxt);
	Row		   *row = palloc0(sizeof(Row));

	row->id = id;
	row->goes = goes;
	for (int i = 0; i < PARTS && !goes; i++)
		if (parts[i].s)
			row->parts[i] = (CdpStr) {memcpy(palloc(parts[i].len + 1), parts[i].s, parts[i].len), parts[i].len};
	s->rows = lappend(s->rows, row);
	MemoryContextSwitchTo(old);
}

static void
search_quarantine(int i, void *arg)
{
	Search	   *s = arg;
	CdpSource  *source;
	CdpStr		parts[PARTS];
	CdpMessage	msg;
	bool		isnull,
				goes;

	source = cdp_source_usable(DatumGetInt32(cdp_spi_datum(i, 2, &isnull)));
	s->erased.source = source;
	read_message(&msg, parts, i);
	if (!search_message(s, &msg, NULL))
		return;
	goes = judge(s, source, &msg) != WOULD_TAKE;
	if (!goes)
		(void) search_message(s, &msg, blank);
	remember(s, cdp_spi_int64(i, 1), goes, parts);
}

static void
search_parked(int i, void *arg)
{
	Search	   *s = arg;
	CdpSource  *source;
	CdpStr		parts[PARTS];
	CdpMessage	msg;
	bool		isnull;

	source = cdp_source_usable(DatumGetInt32(cdp_spi_datum(i, 2, &isnull)));
	s->erased.source = source;
	read_message(&msg, parts, i);
	if (search_message(s, &msg, NULL) &&
		(source == NULL || judge(s, source, &msg) == WOULD_DROP))
		remember(s, cdp_spi_int64(i, 1), true, parts);
}

static CdpSpi blank_plan = {
	"UPDATE cdp_data.quarantine SET body = $2, key = $3, headers = $4, shared = $5 WHERE quarantine_id = $1",
	1 + PARTS, {INT8OID, BYTEAOID, BYTEAOID, BYTEAOID, BYTEAOID}
};
static CdpSpi unquarantine_plan = {"DELETE FROM cdp_data.quarantine WHERE quarantine_id = $1", 1, {INT8OID}};
static CdpSpi unpark_plan = {
	"DELETE FROM cdp_data.parked p WHERE p.parked_id ="
	" (SELECT q.parked_id FROM cdp_data.parked q WHERE q.parked_id = $1 FOR UPDATE SKIP LOCKED)",
	1, {INT8OID}
};

static void
blank_row(const Row *row)
{
	Datum		args[1 + PARTS] = {Int64GetDatum(row->id)};
	char		nulls[2 + PARTS] = {' '};

	for (int i = 0; i < PARTS; i++)
	{
		args[1 + i] = row->parts[i].s ? cdp_text(row->parts[i]) : (Datum) 0;	/* text and bytea look alike */
		nulls[1 + i] = row->parts[i].s ? ' ' : 'n';
	}
	cdp_spi_exec(&blank_plan, args, nulls);
}

static void
erase_quarantined(Search *s)
{
	ListCell   *lc;

	foreach(lc, s->rows)
	{
		const Row  *row = lfirst(lc);
		Datum		arg = Int64GetDatum(row->id);

		if (row->goes)
			s->counts->quarantine++;
		else
			s->counts->quarantine_stripped++;
		if (s->dry_run)
			continue;
		if (row->goes)
			cdp_spi_exec(&unquarantine_plan, &arg, NULL);
		else
			blank_row(row);
	}
}

static void
erase_parked(Search *s)
{
	ListCell   *lc;

	foreach(lc, s->rows)
	{
		Datum		arg = Int64GetDatum(((Row *) lfirst(lc))->id);

		s->counts->parked += s->dry_run ? 1 : cdp_spi_exec(&unpark_plan, &arg, NULL);
	}
}

/* ---------------------------------------------------------------- what is about to be set aside */

static CdpStr
copy_of(CdpStr s)
{
	return s.s ? (CdpStr) {memcpy(palloc(s.len + 1), s.s, s.len), s.len} : s;
}

/* the parts of a message that quarantine keeps */
static CdpMessage *
copy_parts(const CdpMessage *msg, CdpStr raw, CdpStr shared, bool has_headers)
{
	CdpMessage *copy = palloc(sizeof(CdpMessage));

	*copy = *msg;
	copy->body = copy_of(raw);
	copy->shared = copy_of(shared);
	copy->key = has_headers ? copy_of(msg->key) : CDP_STR_NONE;
	copy->nheaders = has_headers ? msg->nheaders : 0;
	copy->headers = palloc(Max(copy->nheaders, 1) * sizeof(CdpHeader));
	for (int i = 0; i < copy->nheaders; i++)
		copy->headers[i] = (CdpHeader) {msg->headers[i].name, copy_of(msg->headers[i].value)};
	return copy;
}

/* does it mention somebody who was forgotten after that?  Most mention nobody who has a token at all. */
static bool
is_older(Search *s, const CdpMessage *msg, TimestampTz age)
{
	s->erased.age = DT_NOBEGIN;
	if (!search_message(s, msg, NULL))
		return false;
	s->erased.age = age;
	return search_message(s, msg, NULL);
}

static void
suppress_event(Search *s, CdpEvent *ev, bool has_headers)
{
	CdpMessage *copy = copy_parts(ev->msg, ev->raw, ev->shared, has_headers);

	if (!is_older(s, copy, ev->evidence_at))
		return;
	for (int i = 0; i < ev->npresenting; i++)
		ev->idents[i]->suppressed_before = cdp_token_before(s->erased.tokens, ev->idents[i]->hash, ev->idents[i]->check);
	if (cdp_suppress_drops(ev))
	{
		ev->outcome = CDP_OUT_SUPPRESSED;
		return;
	}
	(void) search_message(s, copy, blank);
	ev->msg = copy;
	ev->raw = copy->body;
	ev->shared = copy->shared;
}

static void
suppress_all(Search *s, CdpBatch *batch)
{
	bool		has_headers = batch->source->format->in_headers != NULL;

	for (int i = 0; i < batch->nrejects; i++)
	{
		CdpReject  *r = &batch->rejects[i];

		r->suppressed = is_older(s, copy_parts(r->msg, r->raw, r->shared, has_headers),
								 r->msg->record_time == CDP_NO_TIME ? DT_NOBEGIN : r->msg->record_time);
	}
	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].outcome == CDP_OUT_QUARANTINED)
			suppress_event(s, &batch->events[i], has_headers);
}

static bool
refuses_any(const CdpBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].outcome == CDP_OUT_QUARANTINED)
			return true;
	return batch->nrejects > 0;
}

void
cdp_suppress_refused(CdpBatch *batch)
{
	Search		s = {.cxt = batch->cxt, .workspace = batch->source->workspace, .erased = {.policy = &batch->source->workspace->policy,
	.source = batch->source}};

	if (!refuses_any(batch))
		return;
	s.erased.tokens = cdp_rel_open(cdp_table(CDP_T_SUPPRESSION));
	if (RelationGetNumberOfBlocks(s.erased.tokens->rel) > 0)
	{
		cdp_rel_look(s.erased.tokens, GetLatestSnapshot());
		s.verdicts = palloc0(VERDICTS * sizeof(Verdict));
		suppress_all(&s, batch);
	}
	cdp_rel_close(s.erased.tokens);
}

/* ---------------------------------------------------------------- events of nobody */

static CdpSpi nobody_plan = {
	"SELECT e.occurred_at, e.event_id, e.user_id, e.anonymous_id, e.properties, e.traits, e.context"
	", e.source_id FROM cdp_data.event e WHERE e.fragment_id = 0 AND e.workspace_id = $1 AND (e.flags & $2) <> 0"
	" AND least(e.occurred_at, e.received_at) < $3",
	3, {INT4OID, INT2OID, TIMESTAMPTZOID}
};

/* few of many mention one: only these are kept */
static void
search_nobody(int row, void *arg)
{
	Search	   *s = arg;
	CdpStripped stripped = {.occurred_at = cdp_spi_int64(row, 1), .event_id = cdp_spi_int64(row, 2)};
	MemoryContext old;
	bool		isnull;

	s->erased.source = cdp_source_usable(DatumGetInt32(cdp_spi_datum(row, 8, &isnull)));
	if (!cdp_strip_columns(&s->erased, row, 3, &stripped))
		return;
	old = MemoryContextSwitchTo(s->cxt);
	(void) cdp_strip_columns(&s->erased, row, 3, &stripped);
	s->rows = lappend(s->rows, memcpy(palloc(sizeof(CdpStripped)), &stripped, sizeof(CdpStripped)));
	MemoryContextSwitchTo(old);
}

static void
strip_nobody(Search *s)
{
	ListCell   *lc;

	foreach(lc, s->rows)
	{
		s->counts->event_stripped++;
		if (!s->dry_run)
			cdp_strip_store(lfirst(lc));
	}
}

/* ---------------------------------------------------------------- all of it */

static void
run(Search *s, CdpSpi *plan, Datum *args, CdpSpiRow look, void (*change) (Search *s))
{
	s->rows = NIL;
	cdp_spi_each(plan, args, look, s);
	change(s);
}

void
cdp_erase_mentions(const CdpWorkspace *workspace, const int64 *tokens, int ntokens, TimestampTz not_before,
				   bool dry_run, CdpErasureCounts *counts)
{
	Search		s = {.cxt = CurrentMemoryContext, .workspace = workspace, .erased = {&workspace->policy, tokens, ntokens},
	.not_before = not_before, .dry_run = dry_run, .counts = counts};
	Datum		args[3] = {Int32GetDatum(workspace->id), Int16GetDatum(CDP_EVENT_TWO_OWNERS),
	TimestampTzGetDatum(not_before)};

	if (ntokens == 0)
		return;
	s.verdicts = palloc0(VERDICTS * sizeof(Verdict));
	run(&s, &quarantine_plan, args, search_quarantine, erase_quarantined);
	run(&s, &parked_plan, args, search_parked, erase_parked);
	run(&s, &nobody_plan, args, search_nobody, strip_nobody);
	pfree(s.verdicts);
}
