/*
 * decode_unit.c: src/event's decoders as SQL functions, without cdp.
 *
 * unit_json compares the scanner with jsonb_in on one text, unit_mutate on
 * many that it makes by damaging some; unit_decode shows what becomes of
 * messages; unit_fuzz damages messages, for a build with sanitizers; the _ns
 * functions measure.
 */
#include "postgres.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event/event.h"

PG_MODULE_MAGIC;

int			cdp_max_message_kb = 1024;

/* the wall clock of these tests */
TimestampTz
cdp_clock(void)
{
	return DirectFunctionCall3(timestamptz_in, CStringGetDatum("2026-06-01 00:00:00+00"), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static CdpStr
str_of(const bytea *b)
{
	return (CdpStr) {VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b)};
}

/* ---------------------------------------------------------------- against jsonb_in */

/* what jsonb_in makes of it; NULL: an error */
static Jsonb *
by_jsonb_in(CdpStr text)
{
	MemoryContext cxt = CurrentMemoryContext;
	Jsonb	   *volatile jb = NULL;

	if (text.len != strnlen(text.s, text.len) || !pg_verify_mbstr(PG_UTF8, text.s, text.len, true))
		return NULL;
	/* jsonb_in looks at no table and takes no lock, so nothing is to be undone */
	PG_TRY();
	{
		jb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(text.s, text.len))));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		FlushErrorState();
	}
	PG_END_TRY();
	return jb;
}

static bool
is_limit(CdpReason r)
{
	return r == CDP_REASON_TOO_DEEP || r == CDP_REASON_TOO_MANY_KEYS || r == CDP_REASON_VALUE_TOO_BIG
		|| r == CDP_REASON_NUMBER_TOO_LONG || r == CDP_REASON_MESSAGE_TOO_BIG;
}

/* 'same', 'both refuse: reason', 'limit: reason', else what differs */
static const char *
compare(CdpStr text)
{
	CdpJson    *j = cdp_json_create(CurrentMemoryContext);
	Jsonb	   *theirs = by_jsonb_in(text);
	CdpReason	r;
	Jsonb	   *ours;

	r = cdp_json_parse(j, text) ? cdp_json_check(j, j->nodes) : j->reason;
	if (r != CDP_REASON_COUNT)
	{
		if (is_limit(r))
			return psprintf("limit: %s", cdp_reason_name(r));
		return psprintf(theirs ? "only we refuse: %s" : "both refuse: %s", cdp_reason_name(r));
	}
	if (theirs == NULL)
		return "only jsonb_in refuses";
	ours = cdp_json_jsonb(j, j->nodes);
	if (VARSIZE(ours) != VARSIZE(theirs) || memcmp(ours, theirs, VARSIZE(ours)) != 0)
		return "differ";
	return "same";
}

PG_FUNCTION_INFO_V1(unit_json);
Datum
unit_json(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(compare(str_of(PG_GETARG_BYTEA_PP(0)))));
}

/* damage: bytes that matter to JSON, in place, inserted or taken out */
static CdpStr
mutate(CdpStr text, pg_prng_state *state)
{
	static const char bytes[] = "{}[]\",:\\u0019.-+eEdDtfn \x80\xC3\xF0\xED\xA0\x1F\x7F\0";
	char	   *out = palloc(text.len * 2 + 64);
	uint32		len = text.len;

	memcpy(out, text.s, len);
	for (int n = 1 + pg_prng_uint64_range(state, 0, 3); n > 0 && len > 0; n--)
	{
		uint32		at = pg_prng_uint64_range(state, 0, len - 1);
		uint32		span = pg_prng_uint64_range(state, 1, 8);
		char		byte = bytes[pg_prng_uint64_range(state, 0, sizeof(bytes) - 2)];

		span = Min(span, len - at);
		switch (pg_prng_uint64_range(state, 0, 3))
		{
			case 0:
				out[at] = byte;
				break;
			case 1:
				memmove(out + at + 1, out + at, len - at);
				out[at] = byte;
				len++;
				break;
			case 2:
				memmove(out + at, out + at + span, len - at - span);
				len -= span;
				break;
			default:			/* say something twice */
				memmove(out + at + span, out + at, len - at);
				len += span;
				break;
		}
	}
	return (CdpStr) {out, len};
}

/* what is stored of damaged messages must never crash; outcomes are counted */
PG_FUNCTION_INFO_V1(unit_mutate);
Datum
unit_mutate(PG_FUNCTION_ARGS)
{
	CdpStr		given = str_of(PG_GETARG_BYTEA_PP(0));
	int			rounds = PG_GETARG_INT32(1);
	pg_prng_state state;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "round", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	int			nsame = 0,
				nrefused = 0;

	pg_prng_seed(&state, PG_GETARG_INT64(2));
	for (int i = 0; i < rounds; i++)
	{
		CdpStr		damaged = mutate(given, &state);
		const char *result = compare(damaged);

		CHECK_FOR_INTERRUPTS();
		if (strcmp(result, "same") == 0)
			nsame++;
		else if (strncmp(result, "both", 4) == 0 || strncmp(result, "limit", 5) == 0)
			nrefused++;
		else
			elog(ERROR, "%s: %s", result,
				 TextDatumGetCString(DirectFunctionCall2(binary_encode,
														 PointerGetDatum(cstring_to_text_with_len(damaged.s, damaged.len)),
														 CStringGetTextDatum("escape"))));
		MemoryContextReset(cxt);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%d same, %d refused", nsame, nrefused)));
}

/* ---------------------------------------------------------------- decoders */

static void
init_source(CdpSource *source, const char *format, Jsonb *options)
{
	JsonbValue	v;

	memset(source, 0, sizeof(*source));
	source->format = cdp_format_find(format);
	if (source->format == NULL)
		elog(ERROR, "no such format");
	source->trust_received_at = source->alias = true;
	source->max_future = USECS_PER_DAY;
#define OPTION(name) (getKeyJsonValueFromContainer(&options->root, name, strlen(name), &v) != NULL)
	if (OPTION("distrust"))
		source->trust_received_at = false;
	if (OPTION("no_alias"))
		source->alias = false;
	if (OPTION("infinity"))
		source->max_future = PG_INT64_MAX;
	source->email_from_properties = OPTION("email_from_properties");
	source->batch = OPTION("batch");
	source->skew = OPTION("segment") ? CDP_SKEW_SEGMENT : OPTION("none") ? CDP_SKEW_NONE : CDP_SKEW_QUANTUM;
#undef OPTION
	if (source->format->compile)
		source->mapping = source->format->compile(options);
}

/* names and values of headers, one after the other */
static CdpHeader *
make_headers(ArrayType *texts, int *nheaders)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;
	CdpHeader  *headers;

	deconstruct_array(texts, BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	headers = palloc0((n / 2 + 1) * sizeof(CdpHeader));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			*(i % 2 ? &headers[i / 2].value : &headers[i / 2].name) = str_of(DatumGetByteaPP(values[i]));
	*nheaders = n / 2;
	return headers;
}

static CdpBatch *
make_batch(CdpSource *source, ArrayType *messages, TimestampTz record_time)
{
	CdpBatch   *batch = palloc0(sizeof(CdpBatch));
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(messages, BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &batch->nmessages);
	batch->cxt = CurrentMemoryContext;
	batch->source = source;
	batch->messages = palloc0(batch->nmessages * sizeof(CdpMessage));
	for (int i = 0; i < batch->nmessages; i++)
	{
		CdpMessage *m = &batch->messages[i];

		if (!nulls[i])
			m->body = str_of(DatumGetByteaPP(values[i]));
		m->ordinal = i + 1;
		m->partition = -1;
		m->offset = -1;
		m->record_time = record_time;
	}
	return batch;
}

static Datum
text_or_null(CdpStr s, bool *isnull)
{
	*isnull = s.s == NULL;
	return *isnull ? (Datum) 0 : PointerGetDatum(cstring_to_text_with_len(s.s, s.len));
}

static Datum
time_or_null(TimestampTz t, bool *isnull)
{
	*isnull = t == CDP_NO_TIME;
	return TimestampTzGetDatum(t);
}

static Datum
jsonb_or_null(Jsonb *jb, bool *isnull)
{
	*isnull = jb == NULL;
	return JsonbPGetDatum(jb);
}

static CdpStr
presented_text(const CdpEvent *ev)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < ev->npresented; i++)
		appendStringInfo(&buf, "%s%.*s=%.*s", i ? " " : "",
						 (int) ev->presented[i].namespace_name.len, ev->presented[i].namespace_name.s,
						 (int) ev->presented[i].value.len, ev->presented[i].value.s);
	return (CdpStr) {buf.data, buf.len};
}

/* ordinal, item, reason, detail, raw, message_id, then the columns of an event, and shared */
#define UNIT_COLUMNS 23

static void
put_reject(Tuplestorestate *store, TupleDesc desc, const CdpReject *r)
{
	Datum		v[UNIT_COLUMNS];
	bool		n[UNIT_COLUMNS];

	memset(n, true, sizeof(n));
	n[0] = n[1] = n[2] = false;
	v[0] = Int32GetDatum(r->msg->ordinal);
	v[1] = Int32GetDatum(r->item);
	v[2] = CStringGetTextDatum(cdp_reason_name(r->reason));
	v[3] = text_or_null(r->detail ? cdp_str(r->detail) : CDP_STR_NONE, &n[3]);
	v[4] = text_or_null(r->raw, &n[4]);	/* bytea and text look alike */
	v[5] = text_or_null(r->message_id, &n[5]);
	v[22] = text_or_null(r->shared, &n[22]);
	tuplestore_putvalues(store, desc, v, n);
}

static void
put_event(Tuplestorestate *store, TupleDesc desc, CdpSource *source, CdpEvent *ev)
{
	Datum		v[UNIT_COLUMNS];
	bool		n[UNIT_COLUMNS];

	memset(n, false, sizeof(n));
	cdp_event_times(source, ev);
	v[0] = Int32GetDatum(ev->msg->ordinal);
	v[1] = Int32GetDatum(ev->item);
	n[2] = n[3] = true;
	v[4] = text_or_null(ev->raw, &n[4]);
	v[5] = text_or_null(ev->message_id, &n[5]);
	v[6] = text_or_null(ev->type, &n[6]);
	v[7] = text_or_null(ev->name, &n[7]);
	v[8] = text_or_null(ev->user_id, &n[8]);
	v[9] = text_or_null(ev->anonymous_id, &n[9]);
	v[10] = time_or_null(ev->original_at, &n[10]);
	v[11] = time_or_null(ev->sent_at, &n[11]);
	v[12] = time_or_null(ev->received_at, &n[12]);
	v[13] = time_or_null(ev->occurred_at, &n[13]);
	v[14] = BoolGetDatum(ev->future_clamped);
	v[15] = Int64GetDatum(ev->source_seq);
	v[16] = jsonb_or_null(ev->properties, &n[16]);
	v[17] = jsonb_or_null(ev->traits, &n[17]);
	v[18] = jsonb_or_null(ev->context, &n[18]);
	v[19] = CStringGetTextDatum(psprintf("%c", ev->link_kind));
	v[20] = text_or_null(presented_text(ev), &n[20]);
	v[21] = Int64GetDatum((int64) ev->fingerprint);
	v[22] = text_or_null(ev->shared, &n[22]);
	tuplestore_putvalues(store, desc, v, n);
}

PG_FUNCTION_INFO_V1(unit_decode);
Datum
unit_decode(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	CdpSource	source;
	CdpBatch   *batch;
	TimestampTz record_time = PG_ARGISNULL(3) ? CDP_NO_TIME : PG_GETARG_TIMESTAMPTZ(3);

	InitMaterializedSRF(fcinfo, 0);
	init_source(&source, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_JSONB_P(1));
	batch = make_batch(&source, PG_GETARG_ARRAYTYPE_P(2), record_time);
	for (int i = 0; i < batch->nmessages; i++)
	{
		if (!PG_ARGISNULL(4))
			batch->messages[i].headers = make_headers(PG_GETARG_ARRAYTYPE_P(4), &batch->messages[i].nheaders);
		if (!PG_ARGISNULL(5))
			batch->messages[i].key = str_of(PG_GETARG_BYTEA_PP(5));
		batch->messages[i].repaired = PG_GETARG_BOOL(6);
	}
	cdp_decode(batch);
	for (int i = 0; i < batch->nevents; i++)
		put_event(rsinfo->setResult, rsinfo->setDesc, &source, &batch->events[i]);
	for (int i = 0; i < batch->nrejects; i++)
		put_reject(rsinfo->setResult, rsinfo->setDesc, &batch->rejects[i]);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- fuzzing */

#ifdef UNIT_SANITIZED

#define POOL 256				/* messages to damage: those given, then such as became events */
#define MAX_POOLED (64 * 1024)
#define INPUT "fuzz.input"		/* in the data directory: the message at hand, for who looks for the cause */

/* its own malloc, so that a sanitizer sees whoever reads past its end */
static CdpStr
exact(CdpStr s)
{
	char	   *copy = malloc(Max(s.len, 1));

	memcpy(copy, s.s, s.len);
	return (CdpStr) {copy, s.len};
}

static void
write_input(int fd, const CdpMessage *msg)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < msg->nheaders; i++)
	{
		appendBinaryStringInfo(&buf, msg->headers[i].name.s, msg->headers[i].name.len);
		appendStringInfoString(&buf, ": ");
		appendBinaryStringInfo(&buf, msg->headers[i].value.s, msg->headers[i].value.len);
		appendStringInfoChar(&buf, '\n');
	}
	appendBinaryStringInfo(&buf, msg->body.s, msg->body.len);
	if (ftruncate(fd, 0) != 0 || pwrite(fd, buf.data, buf.len, 0) != buf.len)
		elog(ERROR, "could not write %s", INPUT);
}

/* every byte is looked at; jsonb is printed, which walks all of it */
static uint64
touch(const CdpEvent *ev)
{
	uint64		sum = 0;
	CdpStr		texts[] = {ev->type, ev->name, ev->message_id, ev->user_id, ev->anonymous_id, ev->raw, ev->shared};
	Jsonb	   *documents[] = {ev->properties, ev->traits, ev->context};

	for (int i = 0; i < lengthof(texts); i++)
		for (uint32 k = 0; k < texts[i].len; k++)
			sum += (unsigned char) texts[i].s[k];
	for (int i = 0; i < ev->npresented; i++)
	{
		sum = cdp_fingerprint_text(sum, ev->presented[i].namespace_name);
		sum = cdp_fingerprint_text(sum, ev->presented[i].value);
	}
	for (int i = 0; i < lengthof(documents); i++)
		if (documents[i])
			sum += strlen(JsonbToCString(NULL, &documents[i]->root, VARSIZE(documents[i])));
	return sum;
}

static void
check_batch(const CdpBatch *batch, const CdpMessage *msg)
{
	if (batch->nevents + batch->nrejects + batch->ntombstones == 0)
		elog(ERROR, "a message became nothing");
	for (int i = 0; i < batch->nevents; i++)
	{
		const CdpEvent *ev = &batch->events[i];

		if (ev->npresented < 1 || ev->npresented > CDP_MAX_IDENTIFIERS || ev->message_id.len > 1024 || ev->type.s == NULL)
			elog(ERROR, "an event is beyond the limits");
		if (ev->raw.len > 0 && (ev->raw.s < msg->body.s || ev->raw.s + ev->raw.len > msg->body.s + msg->body.len))
			elog(ERROR, "the bytes of an event are not in its message");
		(void) touch(ev);
	}
	for (int i = 0; i < batch->nrejects; i++)
		if (batch->rejects[i].reason >= CDP_REASON_COUNT)
			elog(ERROR, "a reject has no reason");
}

/* a message of the pool, damaged or spliced with another one; sometimes as it is */
static CdpStr
next_body(const CdpStr *pool, int n, pg_prng_state *state)
{
	CdpStr		a = pool[pg_prng_uint64_range(state, 0, n - 1)];
	CdpStr		b = pool[pg_prng_uint64_range(state, 0, n - 1)];
	uint32		head = pg_prng_uint64_range(state, 0, a.len);
	uint32		tail = pg_prng_uint64_range(state, 0, b.len);
	char	   *spliced;

	switch (pg_prng_uint64_range(state, 0, 7))
	{
		case 0:
			return a;
		case 1:
			spliced = palloc(head + tail + 1);
			memcpy(spliced, a.s, head);
			memcpy(spliced + head, b.s + b.len - tail, tail);
			return (CdpStr) {spliced, head + tail};
		default:
			return mutate(a, state);
	}
}

/* the same headers, one of them damaged or gone */
static void
next_headers(CdpMessage *msg, const CdpHeader *headers, int n, pg_prng_state *state)
{
	int			at = n > 0 ? pg_prng_uint64_range(state, 0, n - 1) : 0;

	msg->headers = palloc((n + 1) * sizeof(CdpHeader));
	msg->nheaders = n;
	for (int i = 0; i < n; i++)
	{
		bool		name = i == at && pg_prng_uint64_range(state, 0, 7) == 0;
		bool		value = i == at && pg_prng_uint64_range(state, 0, 1) == 0;

		msg->headers[i].name = exact(name ? mutate(headers[i].name, state) : headers[i].name);
		msg->headers[i].value = exact(value ? mutate(headers[i].value, state) : headers[i].value);
	}
	if (n > 0 && pg_prng_uint64_range(state, 0, 15) == 0)
	{
		free((char *) msg->headers[at].value.s);
		msg->headers[at].value = CDP_STR_NONE;
	}
}

/* one message through the decoder; true: it became events */
static bool
fuzz_one(CdpSource *source, MemoryContext cxt, CdpMessage *msg, int64 *counts)
{
	CdpBatch	batch = {.cxt = cxt,.source = source,.messages = msg,.nmessages = 1};

	cdp_decode(&batch);
	for (int i = 0; i < batch.nevents; i++)
		cdp_event_times(source, &batch.events[i]);
	check_batch(&batch, msg);
	counts[0]++;
	counts[1] += batch.nevents;
	counts[2] += batch.nrejects;
	return batch.nevents > 0;
}

static void
free_message(CdpMessage *msg)
{
	for (int i = 0; i < msg->nheaders; i++)
	{
		free((char *) msg->headers[i].name.s);
		free((char *) msg->headers[i].value.s);
	}
	free((char *) msg->body.s);
	free((char *) msg->key.s);
	free((char *) msg->shared.s);
}

/* what became events is damaged further */
static void
keep_in_pool(CdpStr *pool, int *npool, int given, CdpStr body, pg_prng_state *state)
{
	int			at = *npool;

	if (body.len > MAX_POOLED || given >= POOL)
		return;
	if (*npool < POOL)
		(*npool)++;
	else
	{
		at = pg_prng_uint64_range(state, given, POOL - 1);
		free((char *) pool[at].s);
	}
	pool[at] = exact(body);
}

static double
seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}


/* (format, options, messages, headers, seconds, seed): how many messages, events, rejects */
PG_FUNCTION_INFO_V1(unit_fuzz);
Datum
unit_fuzz(PG_FUNCTION_ARGS)
{
	CdpSource	source;
	CdpStr		pool[POOL];
	int			npool = 0,
				given,
				nheaders,
				mark;
	CdpHeader  *headers = make_headers(PG_GETARG_ARRAYTYPE_P(3), &nheaders);
	pg_prng_state state;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	double		end = seconds_now() + PG_GETARG_FLOAT8(4);
	int64		counts[3] = {0};
	Datum	   *values;
	bool	   *nulls;
	int			fd = open(INPUT, O_CREAT | O_WRONLY, 0600);

	init_source(&source, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_JSONB_P(1));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), BYTEAOID, -1, false, TYPALIGN_INT, &values, &nulls, &given);
	for (; npool < Min(given, POOL); npool++)
		pool[npool] = exact(str_of(DatumGetByteaPP(values[npool])));
	pg_prng_seed(&state, PG_GETARG_INT64(5));
	mark = unit_mark();
	while (seconds_now() < end)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);
		CdpMessage	msg = {.partition = -1,.offset = -1,.record_time = CDP_NO_TIME};

		msg.body = exact(next_body(pool, npool, &state));
		next_headers(&msg, headers, nheaders, &state);
		if (pg_prng_uint64_range(&state, 0, 7) == 0)
			msg.key = exact(pool[pg_prng_uint64_range(&state, 0, npool - 1)]);
		if (pg_prng_uint64_range(&state, 0, 7) == 0)
			msg.shared = exact(next_body(pool, npool, &state));
		msg.repaired = pg_prng_uint64_range(&state, 0, 7) == 0;
		write_input(fd, &msg);
		if (fuzz_one(&source, cxt, &msg, counts))
			keep_in_pool(pool, &npool, given, msg.body, &state);
		free_message(&msg);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
		unit_free_to(mark);
		CHECK_FOR_INTERRUPTS();
	}
	close(fd);
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(INT64_FORMAT " messages, " INT64_FORMAT " events, " INT64_FORMAT " rejects",
											  counts[0], counts[1], counts[2])));
}
#endif

/* ns per event: these messages as batches, so many times */
PG_FUNCTION_INFO_V1(unit_decode_ns);
Datum
unit_decode_ns(PG_FUNCTION_ARGS)
{
	CdpSource	source;
	CdpBatch   *batch;
	CdpBatch	empty;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "batch", ALLOCSET_DEFAULT_SIZES);
	struct timespec a,
				b;
	int64		nevents = 0;

	init_source(&source, text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_JSONB_P(1));
	batch = make_batch(&source, PG_GETARG_ARRAYTYPE_P(2), CDP_NO_TIME);
	batch->cxt = cxt;
	empty = *batch;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < PG_GETARG_INT32(3); i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		*batch = empty;
		cdp_decode(batch);
		for (int k = 0; k < batch->nevents; k++)
			cdp_event_times(&source, &batch->events[k]);
		nevents += batch->nevents;
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	PG_RETURN_FLOAT8(((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / Max(nevents, 1));
}

/* ns per text of jsonb_in, to compare with */
PG_FUNCTION_INFO_V1(unit_jsonb_in_ns);
Datum
unit_jsonb_in_ns(PG_FUNCTION_ARGS)
{
	char	   *given = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			rounds = PG_GETARG_INT32(1);
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "round", ALLOCSET_DEFAULT_SIZES);
	struct timespec a,
				b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < rounds; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(cxt);

		(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(given));
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	PG_RETURN_FLOAT8(((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / rounds);
}

/* ---------------------------------------------------------------- times */

PG_FUNCTION_INFO_V1(unit_time);
Datum
unit_time(PG_FUNCTION_ARGS)
{
	TimestampTz t;
	CdpReason	why;

	if (!cdp_parse_time(str_of((bytea *) PG_GETARG_TEXT_PP(0)), &t, &why))
		PG_RETURN_TEXT_P(cstring_to_text(cdp_reason_name(why)));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(INT64_FORMAT, t)));
}
