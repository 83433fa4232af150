/*
 * offsets.c: positions in cdp_data.source_offset, and what was lost upstream.
 *
 * The engine advances positions, in the transaction that stores the events and
 * on condition that they are what the worker thinks they are.  Here is the
 * rest: a first row for a partition, the jump over what Kafka deleted before we
 * read it, and the state of a partition whose topic is not the one we read.
 * All of it is conditional in the same way, so that two workers that think they
 * own a partition (one of them stopped for a while, say) cannot both act.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "launcher.h"

/*
 * Run one statement as cdp_owner with SPI, which is connected.  Raises unless
 * it succeeds; returns how many rows it touched.
 */
uint64
cdp_owner_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	CdpUserContext save;
	int			rc;

	cdp_become_owner(&save);
	rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	cdp_become_caller(&save);
	if (rc < 0)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/* The same for a SELECT that sees what the active snapshot sees, no more. */
uint64
cdp_owner_read(const char *sql, int nargs, Oid *types, Datum *values)
{
	CdpUserContext save;
	int			rc;

	cdp_become_owner(&save);
	rc = SPI_execute_with_args(sql, nargs, types, values, NULL, true, 0);
	cdp_become_caller(&save);
	if (rc < 0)
		elog(ERROR, "cdp: \"%s\" failed: %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

/* cdp_owner_query() with source, topic and partition as $1 to $3, and two numbers as $4 and $5. */
static uint64
partition_query(const char *sql, int32 source_id, const char *topic, int32 partition, int64 a, int64 b)
{
	Oid			types[] = {INT4OID, TEXTOID, INT4OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(source_id), CStringGetTextDatum(topic),
	Int32GetDatum(partition), Int64GetDatum(a), Int64GetDatum(b)};

	return cdp_owner_query(sql, lengthof(types), types, values, NULL);
}

static Datum
first_row(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

/* What is committed about a partition. */
CdpPosition
cdp_position_read(int32 source_id, const char *topic, int32 partition)
{
	CdpPosition p = {0};
	bool		isnull;

	SPI_connect();
	p.found = partition_query("SELECT position, state OPERATOR(pg_catalog.=) 'diverged',"
							  " coalesce(last_record_offset, -1), last_record_time, last_record_hash"
							  " FROM cdp_data.source_offset"
							  " WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
							  " AND partition OPERATOR(pg_catalog.=) $3"
							  " AND $4 OPERATOR(pg_catalog.=) $5",
							  source_id, topic, partition, 0, 0) == 1;
	if (p.found)
	{
		p.position = DatumGetInt64(first_row(1, &isnull));
		p.diverged = DatumGetBool(first_row(2, &isnull));
		p.last_offset = DatumGetInt64(first_row(3, &isnull));
		p.last_time = DatumGetTimestampTz(first_row(4, &isnull));
		if (isnull)
			p.last_time = CDP_NO_TIME;
		p.last_hash = DatumGetInt64(first_row(5, &isnull));
	}
	SPI_finish();
	return p;
}

/* A first row, where there is none; nothing if the source was dropped meanwhile. */
void
cdp_position_create(int32 source_id, const char *topic, int32 partition, int64 position)
{
	SPI_connect();
	partition_query("INSERT INTO cdp_data.source_offset (source_id, topic, partition, workspace_id, position)"
					" SELECT source_id, $2, $3, workspace_id, $4 FROM cdp_data.source"
					" WHERE source_id OPERATOR(pg_catalog.=) $1 AND $5 OPERATOR(pg_catalog.=) $5"
					" FOR KEY SHARE ON CONFLICT DO NOTHING",
					source_id, topic, partition, position, 0);
	SPI_finish();
}

/* One more than the highest partition of a topic that has a row; 0: none has. */
int32
cdp_topic_rows_end(int32 source_id, const char *topic)
{
	bool		isnull;
	int32		end;

	SPI_connect();
	partition_query("SELECT coalesce(pg_catalog.max(partition), -1) FROM cdp_data.source_offset"
					" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
					" AND partition OPERATOR(pg_catalog.>=) $3 AND $4 OPERATOR(pg_catalog.=) $5",
					source_id, topic, 0, 0, 0);
	end = DatumGetInt32(first_row(1, &isnull)) + 1;
	SPI_finish();
	return end;
}

/*
 * Kafka deleted [from_offset, to_offset) before we read it: write that down and
 * go on behind it.  False if the position is not from_offset any more.
 */
bool
cdp_position_skip_gap(int32 source_id, const char *topic, int32 partition,
					  int64 from_offset, int64 to_offset)
{
	bool		moved;

	SPI_connect();
	moved = partition_query("UPDATE cdp_data.source_offset"
							" SET position = $5, last_record_offset = NULL, last_record_time = NULL, last_record_hash = NULL"
							" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
							" AND partition OPERATOR(pg_catalog.=) $3 AND position OPERATOR(pg_catalog.=) $4",
							source_id, topic, partition, from_offset, to_offset) == 1;
	if (moved)
		partition_query("INSERT INTO cdp_data.source_gap"
						" (source_id, topic, partition, workspace_id, from_offset, to_offset, found_at)"
						" SELECT source_id, topic, partition, workspace_id, $4, $5, pg_catalog.now()"
						" FROM cdp_data.source_offset"
						" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
						" AND partition OPERATOR(pg_catalog.=) $3",
						source_id, topic, partition, from_offset, to_offset);
	SPI_finish();
	return moved;
}

/* The partition is no more.  False if the position is another one. */
bool
cdp_position_forget(int32 source_id, const char *topic, int32 partition, int64 position)
{
	bool		forgotten;

	SPI_connect();
	forgotten = partition_query("DELETE FROM cdp_data.source_offset"
								" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
								" AND partition OPERATOR(pg_catalog.=) $3 AND position OPERATOR(pg_catalog.=) $4"
								" AND $5 OPERATOR(pg_catalog.=) $5",
								source_id, topic, partition, position, 0) == 1;
	SPI_finish();
	return forgotten;
}

/* ok, unverified or diverged; nothing if the position is another one. */
void
cdp_position_set_state(int32 source_id, const char *topic, int32 partition, int64 position,
					   const char *state)
{
	Oid			types[] = {INT4OID, TEXTOID, INT4OID, TEXTOID, INT8OID};
	Datum		values[] = {Int32GetDatum(source_id), CStringGetTextDatum(topic),
	Int32GetDatum(partition), CStringGetTextDatum(state), Int64GetDatum(position)};

	SPI_connect();
	cdp_owner_query("UPDATE cdp_data.source_offset SET state = $4"
					" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
					" AND partition OPERATOR(pg_catalog.=) $3 AND state OPERATOR(pg_catalog.<>) $4"
					" AND position OPERATOR(pg_catalog.=) $5",
					lengthof(types), types, values, NULL);
	SPI_finish();
}

/* Bytes of the messages of a source that are parked. */
int64
cdp_parked_bytes(int32 source_id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(source_id)};
	bool		isnull;
	int64		bytes;

	SPI_connect();
	cdp_owner_query("SELECT coalesce(pg_catalog.sum(pg_catalog.octet_length(body)), 0)::pg_catalog.int8"
					" FROM cdp_data.parked WHERE source_id OPERATOR(pg_catalog.=) $1",
					lengthof(types), types, values, NULL);
	bytes = DatumGetInt64(first_row(1, &isnull));
	SPI_finish();
	return bytes;
}

/*
 * Fingerprint of a record: its key, body and time stamp.  A topic that was
 * deleted and made again has another record at the same offset.
 */
int64
cdp_record_hash(int32 workspace_id, const CdpMessage *msg)
{
	CdpHasher	h;
	uint64		hash[2];

	cdp_hasher_init(&h, 'R', workspace_id);
	cdp_hasher_int64(&h, msg->record_time);
	cdp_hasher_int64(&h, msg->body.s ? 1 : 0);
	cdp_hasher_bytes(&h, msg->key.s, msg->key.len);
	cdp_hasher_bytes(&h, msg->body.s, msg->body.len);
	cdp_hasher_done(&h, hash);
	return (int64) hash[0];
}
