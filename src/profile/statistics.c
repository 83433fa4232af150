/*
 * statistics.c: planner statistics that follow bulk loads.
 *
 * A source that begins with a million messages fills tables that the planner
 * knows nothing of until autovacuum comes by, and the first query of a view
 * then takes a plan for an empty table.  So the maintenance worker looks once
 * a second (no WAL, a few lseeks) whether one of the tables that the views
 * join has more than twice the pages of its last ANALYZE, and analyzes it.
 * Columns with personal data have no statistics, whoever analyzes.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "profile/statistics.h"

#define GROWTH 2				/* times the pages of the last ANALYZE */
#define LEAST_PAGES 100			/* smaller tables are planned well enough */

static const struct
{
	CdpTable	table;
	const char *analyze;
}			tables[] = {
	{CDP_T_PROFILE, "ANALYZE cdp_data.profile"},
	{CDP_T_PROFILE_TRAIT, "ANALYZE cdp_data.profile_trait"},
	{CDP_T_IDENTIFIER, "ANALYZE cdp_data.identifier"},
	{CDP_T_LINK, "ANALYZE cdp_data.link"}
};

static bool
has_grown(Oid relid)
{
	Relation	rel;
	BlockNumber now,
				then;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	rel = table_open(relid, NoLock);
	now = RelationGetNumberOfBlocks(rel);
	then = Max(rel->rd_rel->relpages, 0);
	table_close(rel, AccessShareLock);
	return now > LEAST_PAGES && now > GROWTH * then;
}

static void
analyze(const char *command)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT || SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "\"%s\" failed", command);
	SPI_finish();
	PopActiveSnapshot();
}

bool
cdp_statistics_maintain(void)
{
	for (int i = 0; i < (int) lengthof(tables); i++)
	{
		StartTransactionCommand();
		if (has_grown(cdp_table(tables[i].table)))
			analyze(tables[i].analyze);
		CommitTransactionCommand();
	}
	return true;
}
