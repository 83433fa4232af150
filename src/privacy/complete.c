/*
 * complete.c: what batches of that time may have left behind is deleted, too.
 *
 * A batch that began before cdp.forget() committed may have put a message into
 * quarantine, or stored an event of nobody, that the forgetting did not see.
 * The maintenance worker notes who holds engine_lock when it meets a new row of
 * cdp_data.erasure; when all of them have ended it searches once more, deletes
 * again what has the forgotten fragments, and sets completed_at.  It waits for
 * nobody: it looks each second.
 *
 * The note is in this process only.  After a crash or restart it is made anew,
 * by when the batches of old are over.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "holders.h"
#include "privacy/erasure.h"
#include "spi.h"

typedef struct Pending
{
	int64		erasure_id;
	int32		workspace_id;
	TimestampTz erased_at;
	int64	   *tokens;
	int			ntokens;
	Datum		fragments;
} Pending;

/* erasures that had committed when the note was made, and who may still leave something of them */
static VirtualTransactionId *holders = NULL;
static int64 *noted;
static int	nnoted;

/* ---------------------------------------------------------------- batches of that time */

static void
make_note(const Pending *pending, int n)
{
	Oid			engine_lock = cdp_table(CDP_T_ENGINE_LOCK);

	noted = MemoryContextAlloc(TopMemoryContext, n * sizeof(int64));
	for (nnoted = 0; nnoted < n; nnoted++)
		noted[nnoted] = pending[nnoted].erasure_id;
	holders = cdp_holders_note(&engine_lock, 1);
}

static void
drop_note(void)
{
	pfree(holders);
	pfree(noted);
	holders = NULL;
}

/* ids are in order, but not in that of their commits */
static bool
is_noted(const Pending *p)
{
	return bsearch(&p->erasure_id, noted, nnoted, sizeof(int64), cdp_int64_order) != NULL;
}

/* ---------------------------------------------------------------- again */

static CdpSpi pending_plan = {
	"SELECT e.erasure_id, e.workspace_id, e.erased_at, e.tokens, e.fragments FROM cdp_data.erasure e"
	" WHERE e.completed_at IS NULL ORDER BY e.erasure_id",
	0, {0}
};

static Pending *
read_pending(int *n)
{
	MemoryContext cxt = CurrentMemoryContext;
	Pending    *pending;
	bool		isnull;

	*n = cdp_spi_run(&pending_plan, NULL, NULL);
	pending = MemoryContextAlloc(cxt, Max(*n, 1) * sizeof(Pending));
	for (int i = 0; i < *n; i++)
	{
		Pending    *p = &pending[i];
		ArrayType  *tokens;

		p->erasure_id = cdp_spi_int64(i, 1);
		p->workspace_id = DatumGetInt32(cdp_spi_datum(i, 2, &isnull));
		p->erased_at = cdp_spi_int64(i, 3);
		tokens = DatumGetArrayTypePCopy(cdp_spi_datum(i, 4, &isnull));
		p->tokens = (int64 *) ARR_DATA_PTR(tokens);
		p->ntokens = ArrayGetNItems(ARR_NDIM(tokens), ARR_DIMS(tokens));
		p->fragments = PointerGetDatum(DatumGetArrayTypePCopy(cdp_spi_datum(i, 5, &isnull)));
	}
	cdp_spi_end();
	return pending;
}

static CdpSpi again_plans[] = {
	{"DELETE FROM cdp_data.event WHERE fragment_id = ANY ($1)", 1, {INT8ARRAYOID}},
	{"DELETE FROM cdp_data.profile_trait WHERE fragment_id = ANY ($1)", 1, {INT8ARRAYOID}},
	{"DELETE FROM cdp_data.dirty WHERE fragment_id = ANY ($1)", 1, {INT8ARRAYOID}},
	{"DELETE FROM cdp_data.profile WHERE fragment_id = ANY ($1)", 1, {INT8ARRAYOID}}
};

static CdpSpi completed_plan = {
	"UPDATE cdp_data.erasure SET completed_at = $2 WHERE erasure_id = $1", 2, {INT8OID, TIMESTAMPTZOID}
};

static void
complete(Pending *p)
{
	CdpErasureCounts counts = {0};
	Datum		args[2] = {Int64GetDatum(p->erasure_id), TimestampTzGetDatum(cdp_clock())};

	cdp_erase_mentions(cdp_workspace_by_id(p->workspace_id), p->tokens, p->ntokens, p->erased_at, false, &counts);
	for (int i = 0; i < lengthof(again_plans); i++)
		cdp_spi_exec(&again_plans[i], &p->fragments, NULL);
	cdp_spi_exec(&completed_plan, args, NULL);
}

/* ---------------------------------------------------------------- the job */

static void
complete_pending(void)
{
	int			n;
	Pending    *pending = read_pending(&n);

	if (holders == NULL && n > 0)
		make_note(pending, n);
	if (holders == NULL || !cdp_holders_have_ended(holders))
		return;
	for (int i = 0; i < n; i++)
		if (is_noted(&pending[i]) && cdp_workspace_try_hold(pending[i].workspace_id))
			complete(&pending[i]);
	drop_note();
}

bool
cdp_erasure_maintain(void)
{
	CdpUserContext user;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	cdp_become_owner(&user);
	complete_pending();
	cdp_become_caller(&user);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return true;
}
