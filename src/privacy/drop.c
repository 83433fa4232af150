/*
 * drop.c: partitions that lie below the watermark of every workspace.
 *
 * They are the first ones of their table.  The months among them are dropped,
 * and the first partition then reaches from the beginning to where they ended:
 * no gap, so that a new workspace may still bring history of any age.
 *
 * Of event, a month below the least `cleared` of all workspaces is empty for
 * certain, and stays so, however large the file is.  Sooner, in the purge itself,
 * a month is read once more under the lock, since a batch that does not know W
 * may have written into it a moment ago; so a larger one is left to the
 * maintenance worker.  A month of message_seen may hold ids of later events,
 * whose own stamp lies below W: these few rows move to the first partition,
 * whose filter goes (event/filter.c).
 *
 * The lock is ACCESS EXCLUSIVE on the parent.  While it is waited for all batches
 * queue behind, so lock_timeout must be shorter than theirs.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "event/filter.h"
#include "event/leaf.h"
#include "privacy/sweep.h"
#include "spi.h"

#define MOST_MOVED 10000		/* rows of a month that may move to the first partition */

static CdpSpi least_plan = {
	"SELECT pg_catalog.min(coalesce(CASE WHEN w.workspace_id = $1 THEN greatest(r.watermark, $2)"
	"  WHEN $3 THEN r.cleared ELSE r.watermark END, '-infinity'))"
	" FROM cdp_data.workspace w"
	" LEFT JOIN cdp_data.retention_watermark r ON r.workspace_id = w.workspace_id AND r.class = 'event'",
	3, {INT4OID, TIMESTAMPTZOID, BOOLOID}
};

TimestampTz
cdp_least_watermark(int32 workspace_id, TimestampTz watermark, bool cleared)
{
	Datum		args[3] = {Int32GetDatum(workspace_id), TimestampTzGetDatum(watermark), BoolGetDatum(cleared)};
	TimestampTz least;

	(void) cdp_spi_run(&least_plan, args, NULL);
	least = cdp_spi_int64(0, 1);
	cdp_spi_end();
	return least;
}

List *
cdp_partitions_below(CdpTable table, TimestampTz instant)
{
	CdpLeaves  *leaves = cdp_leaves_open(cdp_table(table));
	List	   *names = NIL;

	for (int i = 1; i < leaves->n && leaves->leaf[i].to <= instant; i++)
		names = lappend(names, get_rel_name(leaves->leaf[i].relid));
	cdp_leaves_close(leaves);
	return names;
}

/* rows of a leaf, counted up to one more than most */
static int64
rows_of(const char *leaf, int64 most)
{
	int64		rows;

	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute(psprintf("SELECT FROM cdp_data.%s LIMIT %lld", quote_identifier(leaf), (long long) most + 1),
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "cannot read partition \"%s\"", leaf);
	rows = (int64) SPI_processed;
	SPI_finish();
	return rows;
}

/* what is to be dropped; read before anything is locked */
typedef struct Doomed
{
	bool		frozen;
	BlockNumber most_pages;
	Oid			first;
	const char *first_name;
	List	   *months;			/* names of the partitions that follow it */
	TimestampTz upper;			/* where the last of them ends */
} Doomed;

static bool
may_go(CdpLeaves *leaves, CdpLeaf *leaf, const Doomed *d)
{
	return RelationGetNumberOfBlocks(cdp_leaf_rel(leaves, leaf)->rel) <= d->most_pages &&
		rows_of(get_rel_name(leaf->relid), MOST_MOVED) <= (d->frozen ? 0 : MOST_MOVED);
}

/* false: there is nothing to do, or too much */
static bool
choose(CdpLeaves *leaves, TimestampTz instant, Doomed *d)
{
	CdpLeaf    *first = &leaves->leaf[0];
	BlockNumber pages;

	if (leaves->n == 0 || first->to > instant)
		return false;
	d->first = first->relid;
	d->first_name = get_rel_name(first->relid);
	d->upper = first->to;
	pages = RelationGetNumberOfBlocks(cdp_leaf_rel(leaves, first)->rel);
	for (int i = 1; i < leaves->n && leaves->leaf[i].to <= instant && may_go(leaves, &leaves->leaf[i], d); i++)
	{
		d->months = lappend(d->months, get_rel_name(leaves->leaf[i].relid));
		d->upper = leaves->leaf[i].to;
	}
	return pages <= d->most_pages && (d->months != NIL || (pages > 0 && rows_of(d->first_name, 0) == 0));
}

static Datum
text_array(List *names)
{
	Datum	   *d = palloc(Max(list_length(names), 1) * sizeof(Datum));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, names)
		d[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(d, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static CdpSpi drop_plan = {
	"SELECT cdp.drop_first_partitions($1, $2, $3, $4)",
	4, {TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, BOOLOID}
};

List *
cdp_drop_partitions(CdpTable table, TimestampTz instant, bool cleared, BlockNumber most_pages)
{
	Doomed		d = {cleared && table == CDP_T_EVENT, most_pages};
	CdpLeaves  *leaves = cdp_leaves_open(cdp_table(table));
	bool		chosen = choose(leaves, instant, &d);
	Datum		args[4];

	cdp_leaves_close(leaves);
	if (!chosen)
		return NIL;
	args[0] = CStringGetTextDatum(table == CDP_T_EVENT ? "event" : "message_seen");
	args[1] = text_array(d.months);
	args[2] = TimestampTzGetDatum(d.upper);
	args[3] = BoolGetDatum(d.frozen);
	(void) cdp_spi_exec(&drop_plan, args, NULL);
	cdp_filter_forget(d.first);
	return d.months;
}
