/*
 * quarantine.c: messages that are set aside, in the same commit as the rest.
 *
 * Quarantine is for what cannot be stored: the bytes, where they came from and
 * a reason, one row per message or per element of an array, with what else its
 * format needs to read it again: key and headers, what an envelope said for all.  Parked are good
 * messages whose person a client holds; a worker applies them a moment later
 * from the bytes that were kept.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "event/quarantine.h"
#include "spi.h"

/* 0: there are none */
static Datum
bytes_datum(CdpStr s)
{
	bytea	   *b;

	if (s.s == NULL)
		return (Datum) 0;
	b = palloc(VARHDRSZ + s.len);
	SET_VARSIZE(b, VARHDRSZ + s.len);
	memcpy(VARDATA(b), s.s, s.len);
	return PointerGetDatum(b);
}

/* ---------------------------------------------------------------- headers */

static void
put_sized(StringInfo out, CdpStr s)
{
	pq_sendint32(out, s.s ? (int32) s.len : -1);
	if (s.s)
		appendBinaryStringInfo(out, s.s, s.len);
}

static CdpStr
get_sized(StringInfo in)
{
	int32		len = pq_getmsgint(in, 4);

	return len < 0 ? CDP_STR_NONE : (CdpStr) {pq_getmsgbytes(in, len), len};
}

static Datum
encode_headers(const CdpMessage *msg)
{
	StringInfoData out;

	pq_begintypsend(&out);
	for (int i = 0; i < msg->nheaders; i++)
	{
		put_sized(&out, msg->headers[i].name);
		put_sized(&out, msg->headers[i].value);
	}
	return PointerGetDatum(pq_endtypsend(&out));
}

void
cdp_read_headers(CdpMessage *msg, CdpStr bytes)
{
	StringInfoData in = {.data = (char *) bytes.s, .len = bytes.len};
	int			max = 0;

	while (in.cursor < in.len)
	{
		if (msg->nheaders == max)
		{
			max = Max(8, max * 2);
			msg->headers = msg->headers
				? repalloc(msg->headers, max * sizeof(CdpHeader))
				: palloc(max * sizeof(CdpHeader));
		}
		msg->headers[msg->nheaders].name = get_sized(&in);
		msg->headers[msg->nheaders++].value = get_sized(&in);
	}
}

PG_FUNCTION_INFO_V1(cdp_sql_header_object);

static bool
is_text(CdpStr s)
{
	return s.s != NULL && memchr(s.s, '\0', s.len) == NULL && pg_verify_mbstr(PG_UTF8, s.s, s.len, true);
}

/* As an object of texts, for people to read. */
Datum
cdp_sql_header_object(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	CdpMessage	msg = {0};
	JsonbParseState *state = NULL;

	cdp_read_headers(&msg, (CdpStr) {VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes)});
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < msg.nheaders; i++)
	{
		CdpHeader  *h = &msg.headers[i];
		JsonbValue	v = {.type = jbvString};

		if (!is_text(h->name))
			continue;
		v.val.string.val = unconstify(char *, h->name.s);
		v.val.string.len = h->name.len;
		(void) pushJsonbValue(&state, WJB_KEY, &v);
		v.type = is_text(h->value) ? jbvString : jbvNull;
		v.val.string.val = unconstify(char *, h->value.s);
		v.val.string.len = h->value.len;
		(void) pushJsonbValue(&state, WJB_VALUE, &v);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* ---------------------------------------------------------------- quarantine */

static CdpSpi quarantine_plan = {
	"INSERT INTO cdp_data.quarantine (workspace_id, source_id, \"partition\", \"offset\", item, topic, reason, detail,"
	" quarantined_at, record_time, body, key, headers, shared)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
	14, {INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BYTEAOID,
	BYTEAOID, BYTEAOID, BYTEAOID}
};

/* what was refused: a message or an element of one, and what goes with it */
typedef struct Refused
{
	const CdpMessage *msg;
	int			item;
	CdpStr		raw,
				shared;
	CdpReason	reason;
	const char *detail;
} Refused;

static void
quarantine_one(CdpBatch *batch, Refused r)
{
	static const int optional[] = {5, 7, 10, 11, 12, 13};
	const CdpMessage *msg = r.msg;
	bool		kafka = msg->partition >= 0;
	bool		headers = batch->source->format->in_headers != NULL;	/* else they say nothing, but may be personal */
	Datum		args[14] = {
		Int32GetDatum(batch->source->workspace->id), Int32GetDatum(batch->source->id),
		Int32GetDatum(msg->partition), Int64GetDatum(msg->offset), Int32GetDatum(r.item),
		msg->topic.s ? cdp_text(msg->topic) : (Datum) 0, CStringGetTextDatum(cdp_reason_name(r.reason)),
		r.detail ? CStringGetTextDatum(r.detail) : (Datum) 0, TimestampTzGetDatum(batch->instant),
		TimestampTzGetDatum(msg->record_time), bytes_datum(r.raw),
		headers ? bytes_datum(msg->key) : (Datum) 0, headers && msg->nheaders ? encode_headers(msg) : (Datum) 0,
		bytes_datum(r.shared)
	};
	char		nulls[15] = "              ";

	if (msg->quarantine_id && r.item < 0)
		return;					/* it is there already */
	if (!kafka)
		nulls[2] = nulls[3] = 'n';
	if (r.item < 0)
		nulls[4] = 'n';
	if (msg->record_time == CDP_NO_TIME)
		nulls[9] = 'n';
	for (int i = 0; i < lengthof(optional); i++)
		if (args[optional[i]] == (Datum) 0)
			nulls[optional[i]] = 'n';
	cdp_spi_exec(&quarantine_plan, args, nulls);
}

void
cdp_quarantine_store(CdpBatch *batch)
{
	for (int i = 0; i < batch->nrejects; i++)
	{
		CdpReject  *r = &batch->rejects[i];

		if (!r->suppressed)
			quarantine_one(batch, (Refused) {r->msg, r->item, r->raw, r->shared, r->reason, r->detail});
	}
	for (int i = 0; i < batch->nevents; i++)
	{
		CdpEvent   *ev = &batch->events[i];

		if (ev->outcome == CDP_OUT_QUARANTINED)
			quarantine_one(batch, (Refused) {ev->msg, ev->item, ev->raw, ev->shared, ev->reason, ev->detail});
	}
}

/* ---------------------------------------------------------------- parked */

static CdpSpi park_plan = {
	"INSERT INTO cdp_data.parked (workspace_id, source_id, \"partition\", \"offset\", topic, parked_at, record_time,"
	" log_append_time, items, key, headers, body, attempts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
	13, {INT4OID, INT4OID, INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, INT4ARRAYOID,
	BYTEAOID, BYTEAOID, BYTEAOID, INT4OID}
};

/* the whole message, so that what its elements share is there when they are applied */
static void
park_message(CdpBatch *batch, const CdpMessage *msg, Datum *items, int nitems)
{
	Datum		args[13] = {
		Int32GetDatum(batch->source->workspace->id), Int32GetDatum(batch->source->id),
		Int32GetDatum(msg->partition), Int64GetDatum(msg->offset), msg->topic.s ? cdp_text(msg->topic) : (Datum) 0,
		TimestampTzGetDatum(msg->parked ? msg->parked_at : cdp_clock()), TimestampTzGetDatum(msg->record_time), BoolGetDatum(msg->log_append_time),
		nitems ? PointerGetDatum(construct_array(items, nitems, INT4OID, 4, true, TYPALIGN_INT)) : (Datum) 0,
		bytes_datum(msg->key), msg->nheaders ? encode_headers(msg) : (Datum) 0,
		bytes_datum(msg->body), Int32GetDatum(msg->parked)
	};
	char		nulls[14] = "             ";

	if (msg->topic.s == NULL)
		nulls[4] = 'n';
	if (msg->record_time == CDP_NO_TIME)
		nulls[6] = 'n';
	if (nitems == 0)
		nulls[8] = 'n';
	if (msg->key.s == NULL)
		nulls[9] = 'n';
	if (msg->nheaders == 0)
		nulls[10] = 'n';
	if (msg->body.s == NULL)
		nulls[11] = 'n';
	cdp_spi_exec(&park_plan, args, nulls);
}

/* events of one message stand together: decode made them one after the other */
void
cdp_park_store(CdpBatch *batch)
{
	Datum	   *items = palloc(Max(batch->nevents, 1) * sizeof(Datum));

	for (int from = 0, to; from < batch->nevents; from = to)
	{
		const CdpMessage *msg = batch->events[from].msg;
		bool		any = false;
		int			n = 0;

		for (to = from; to < batch->nevents && batch->events[to].msg == msg; to++)
		{
			if (batch->events[to].outcome != CDP_OUT_PARKED)
				continue;
			any = true;
			if (batch->events[to].item >= 0)
				items[n++] = Int32GetDatum(batch->events[to].item);
		}
		if (any)
			park_message(batch, msg, items, n);
	}
	pfree(items);
}

static CdpSpi unpark_plan = {
	"DELETE FROM cdp_data.parked p WHERE p.parked_id IN (SELECT q.parked_id FROM cdp_data.parked q"
	" WHERE q.source_id = $1 ORDER BY q.parked_id FOR UPDATE SKIP LOCKED LIMIT $2)"
	" RETURNING p.body, p.topic, p.partition, p.offset, p.record_time, p.log_append_time, p.items, p.key, p.headers,"
	" p.attempts, p.parked_at",
	2, {INT4OID, INT4OID}
};

static void
read_items(CdpMessage *m, int row)
{
	bool		isnull;
	Datum		d = cdp_spi_datum(row, 7, &isnull);
	ArrayType  *a;

	if (isnull)
		return;
	a = DatumGetArrayTypePCopy(d);
	m->nitems = ArrayGetNItems(ARR_NDIM(a), ARR_DIMS(a));
	m->items = (int *) ARR_DATA_PTR(a);
}

static void
read_parked(CdpMessage *m, int row, MemoryContext cxt)
{
	bool		isnull;
	Datum		d;

	m->body = cdp_spi_text(row, 1, cxt);
	m->topic = cdp_spi_text(row, 2, cxt);
	m->partition = DatumGetInt32(cdp_spi_datum(row, 3, &isnull));
	m->offset = cdp_spi_int64(row, 4);
	d = cdp_spi_datum(row, 5, &isnull);
	m->record_time = isnull ? CDP_NO_TIME : DatumGetTimestampTz(d);
	m->log_append_time = DatumGetBool(cdp_spi_datum(row, 6, &isnull));
	read_items(m, row);
	m->key = cdp_spi_text(row, 8, cxt);
	cdp_read_headers(m, cdp_spi_text(row, 9, cxt));
	m->ordinal = row + 1;
	m->parked = DatumGetInt32(cdp_spi_datum(row, 10, &isnull)) + 1;
	m->parked_at = cdp_spi_int64(row, 11);
}

int
cdp_unpark(CdpSource *source, int max)
{
	Datum		args[2] = {Int32GetDatum(source->id), Int32GetDatum(max)};
	MemoryContext cxt = CurrentMemoryContext;
	CdpUserContext user;
	CdpMessage *messages;
	int			n;

	if (!cdp_workspace_try_hold(source->workspace->id))
		return 0;
	cdp_become_owner(&user);
	n = cdp_spi_run(&unpark_plan, args, NULL);
	messages = MemoryContextAllocZero(cxt, Max(n, 1) * sizeof(CdpMessage));
	for (int i = 0; i < n; i++)
		read_parked(&messages[i], i, cxt);
	cdp_spi_end();
	cdp_become_caller(&user);
	if (n)
		cdp_apply(source, messages, n, NULL, 0, NULL, NULL);
	return n;
}
