/*
 * quarantine.c: messages that are set aside, in the same commit as the rest.
 *
 * Quarantine is for what cannot be stored: the bytes, where they came from and
 * a reason, one row per message or per element of an array.  Parked are good
 * messages whose person a client holds; a worker applies them a moment later
 * from the bytes that were kept.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "event/quarantine.h"
#include "spi.h"

static Datum
bytes_datum(CdpStr s)
{
	bytea	   *b = palloc(VARHDRSZ + s.len);

	SET_VARSIZE(b, VARHDRSZ + s.len);
	memcpy(VARDATA(b), s.s, s.len);
	return PointerGetDatum(b);
}

/* ---------------------------------------------------------------- quarantine */

static CdpSpi quarantine_plan = {
	"INSERT INTO cdp_data.quarantine (workspace_id, source_id, \"partition\", \"offset\", item, topic, reason, detail,"
	" quarantined_at, record_time, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
	11, {INT4OID, INT4OID, INT4OID, INT8OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BYTEAOID}
};

static void
quarantine_one(CdpBatch *batch, const CdpMessage *msg, int item, CdpStr raw, CdpReason reason, const char *detail)
{
	bool		kafka = msg->partition >= 0;
	Datum		args[11] = {
		Int32GetDatum(batch->source->workspace->id), Int32GetDatum(batch->source->id),
		Int32GetDatum(msg->partition), Int64GetDatum(msg->offset), Int32GetDatum(item),
		msg->topic.s ? cdp_text(msg->topic) : (Datum) 0, CStringGetTextDatum(cdp_reason_name(reason)),
		detail ? CStringGetTextDatum(detail) : (Datum) 0, TimestampTzGetDatum(batch->instant),
		TimestampTzGetDatum(msg->record_time), raw.s ? bytes_datum(raw) : (Datum) 0
	};
	char		nulls[12] = "           ";

	if (msg->quarantine_id && item < 0)
		return;					/* it is there already */
	if (!kafka)
		nulls[2] = nulls[3] = 'n';
	if (item < 0)
		nulls[4] = 'n';
	if (msg->topic.s == NULL)
		nulls[5] = 'n';
	if (detail == NULL)
		nulls[7] = 'n';
	if (msg->record_time == CDP_NO_TIME)
		nulls[9] = 'n';
	if (raw.s == NULL)
		nulls[10] = 'n';
	cdp_spi_exec(&quarantine_plan, args, nulls);
}

void
cdp_quarantine_store(CdpBatch *batch)
{
	for (int i = 0; i < batch->nrejects; i++)
	{
		CdpReject  *r = &batch->rejects[i];

		quarantine_one(batch, r->msg, r->item, r->raw, r->reason, r->detail);
	}
	for (int i = 0; i < batch->nevents; i++)
	{
		CdpEvent   *ev = &batch->events[i];

		if (ev->outcome == CDP_OUT_QUARANTINED)
			quarantine_one(batch, ev->msg, ev->item, ev->raw, ev->reason, ev->detail);
	}
}

/* ---------------------------------------------------------------- parked: headers */

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

static void
decode_headers(CdpMessage *msg, CdpStr bytes)
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

/* ---------------------------------------------------------------- parked */

static CdpSpi park_plan = {
	"INSERT INTO cdp_data.parked (workspace_id, source_id, \"partition\", \"offset\", topic, parked_at, record_time,"
	" log_append_time, items, key, headers, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
	12, {INT4OID, INT4OID, INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, INT4ARRAYOID,
	BYTEAOID, BYTEAOID, BYTEAOID}
};

/* the whole message, so that what its elements share is there when they are applied */
static void
park_message(CdpBatch *batch, const CdpMessage *msg, Datum *items, int nitems)
{
	Datum		args[12] = {
		Int32GetDatum(batch->source->workspace->id), Int32GetDatum(batch->source->id),
		Int32GetDatum(msg->partition), Int64GetDatum(msg->offset), msg->topic.s ? cdp_text(msg->topic) : (Datum) 0,
		TimestampTzGetDatum(cdp_clock()), TimestampTzGetDatum(msg->record_time), BoolGetDatum(msg->log_append_time),
		nitems ? PointerGetDatum(construct_array(items, nitems, INT4OID, 4, true, TYPALIGN_INT)) : (Datum) 0,
		msg->key.s ? bytes_datum(msg->key) : (Datum) 0, msg->nheaders ? encode_headers(msg) : (Datum) 0,
		bytes_datum(msg->body)
	};
	char		nulls[13] = "            ";

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
	" RETURNING p.body, p.topic, p.partition, p.offset, p.record_time, p.log_append_time, p.items, p.key, p.headers",
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
	decode_headers(m, cdp_spi_text(row, 9, cxt));
	m->ordinal = row + 1;
}

int
cdp_unpark(CdpSource *source, int max)
{
	Datum		args[2] = {Int32GetDatum(source->id), Int32GetDatum(max)};
	MemoryContext cxt = CurrentMemoryContext;
	CdpUserContext user;
	CdpMessage *messages;
	int			n;

	if (!cdp_workspace_hold(source->workspace->id))
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
