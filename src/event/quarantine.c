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

/* ---------------------------------------------------------------- parked */

static CdpSpi park_plan = {
	"INSERT INTO cdp_data.parked (workspace_id, source_id, \"partition\", \"offset\", topic, parked_at, record_time,"
	" log_append_time, body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	9, {INT4OID, INT4OID, INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, BYTEAOID}
};

void
cdp_park_store(CdpBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
	{
		CdpEvent   *ev = &batch->events[i];
		char		nulls[10] = "         ";

		if (ev->outcome == CDP_OUT_PARKED)
		{
			Datum		args[9] = {
				Int32GetDatum(batch->source->workspace->id), Int32GetDatum(batch->source->id),
				Int32GetDatum(ev->msg->partition), Int64GetDatum(ev->msg->offset),
				ev->msg->topic.s ? cdp_text(ev->msg->topic) : (Datum) 0, TimestampTzGetDatum(cdp_clock()),
				TimestampTzGetDatum(ev->msg->record_time), BoolGetDatum(ev->msg->log_append_time),
				bytes_datum(ev->raw)
			};

			if (ev->msg->topic.s == NULL)
				nulls[4] = 'n';
			if (ev->msg->record_time == CDP_NO_TIME)
				nulls[6] = 'n';
			cdp_spi_exec(&park_plan, args, nulls);
		}
	}
}

static CdpSpi unpark_plan = {
	"DELETE FROM cdp_data.parked p WHERE p.parked_id IN (SELECT q.parked_id FROM cdp_data.parked q"
	" WHERE q.source_id = $1 ORDER BY q.parked_id FOR UPDATE SKIP LOCKED LIMIT $2)"
	" RETURNING p.body, p.topic, p.partition, p.offset, p.record_time, p.log_append_time",
	2, {INT4OID, INT4OID}
};

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
