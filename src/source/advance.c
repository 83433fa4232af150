/*
 * advance.c: a worker's positions, fenced.
 *
 * Each batch of a worker first locks the rows of its partitions, NOWAIT, and
 * compares the positions with those it read from; another owner of a
 * partition, or a DBA who set a position, makes the batch end before it has
 * cost anything.  The rows are updated in the same transaction as the events.
 * Rows are taken in (topic, partition) order.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "source/advance.h"
#include "spi.h"

static CdpSpi lock_plan = {
	"SELECT o.position FROM cdp_data.source_offset o"
	" WHERE o.source_id = $1 AND o.topic = $2 AND o.partition = $3 FOR NO KEY UPDATE NOWAIT",
	3, {INT4OID, TEXTOID, INT4OID}
};

static CdpSpi advance_plan = {
	"UPDATE cdp_data.source_offset o SET position = $4, updated_at = $5, tombstones = o.tombstones + $7,"
	" last_record_offset = coalesce($8, o.last_record_offset),"
	" last_record_time = CASE WHEN $8 IS NULL THEN o.last_record_time ELSE $9 END,"
	" last_record_hash = coalesce($10, o.last_record_hash)"
	" WHERE o.source_id = $1 AND o.topic = $2 AND o.partition = $3 AND o.position = $6",
	10, {INT4OID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID}
};

static int
advance_order(const void *pa, const void *pb)
{
	const CdpAdvance *a = pa,
			   *b = pb;
	int			c = cdp_str_cmp(a->topic, b->topic);

	return c ? c : (a->partition > b->partition) - (a->partition < b->partition);
}

static void
refuse(const CdpAdvance *a)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("position of partition %d is not the expected one", a->partition),
			 errdetail("Another worker consumed the partition, or its position was set.")));
}

void
cdp_advance_begin(const CdpSource *source, CdpAdvance *a, int n)
{
	qsort(a, n, sizeof(CdpAdvance), advance_order);
	for (int i = 0; i < n; i++)
	{
		Datum		args[3] = {Int32GetDatum(source->id), cdp_text(a[i].topic), Int32GetDatum(a[i].partition)};
		bool		ok = cdp_spi_run(&lock_plan, args, NULL) == 1 && cdp_spi_int64(0, 1) == a[i].expected;

		cdp_spi_end();
		if (!ok)
			refuse(&a[i]);
	}
}

void
cdp_advance_end(const CdpSource *source, const CdpAdvance *a, int n)
{
	for (int i = 0; i < n; i++)
	{
		bool		known = a[i].last_offset >= 0;
		const char *nulls = !known ? "       nnn" : a[i].last_time == CDP_NO_TIME ? "        n " : NULL;
		Datum		args[10] = {Int32GetDatum(source->id), cdp_text(a[i].topic), Int32GetDatum(a[i].partition),
			Int64GetDatum(a[i].next), TimestampTzGetDatum(cdp_clock()), Int64GetDatum(a[i].expected),
			Int64GetDatum(a[i].ntombstones), Int64GetDatum(a[i].last_offset),
		TimestampTzGetDatum(a[i].last_time), Int64GetDatum(a[i].last_hash)};

		if (cdp_spi_exec(&advance_plan, args, nulls) != 1)
			refuse(&a[i]);
	}
}
