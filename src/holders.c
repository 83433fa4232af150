/*
 * holders.c: who holds a lock now, and have they ended?
 *
 * Whoever changes what writers must know (a filter, the watermark, who was
 * forgotten) waits, as CREATE INDEX CONCURRENTLY does, for the writers that may
 * not know it yet: first the change is there for all to see, then those who hold
 * a lock are noted, and when all of these have ended, everybody else who wrote
 * locked after the change, looked for it after the lock, and knew it.  Of a batch
 * of the engine that is the lock on engine_lock, which each takes first.
 *
 * Nothing is queued and nobody is waited for: the maintenance worker looks again
 * each second.  Its notes are lost when it ends; it then notes those who are
 * there, which are as many or more of the old ones that still run.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "holders.h"

static int
count_vxids(const VirtualTransactionId *v)
{
	int			n = 0;

	while (VirtualTransactionIdIsValid(v[n]))
		n++;
	return n;
}

VirtualTransactionId *
cdp_holders_note(const Oid *relids, int n)
{
	VirtualTransactionId *all = MemoryContextAllocZero(TopMemoryContext, sizeof(VirtualTransactionId));
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		LOCKTAG		tag;
		VirtualTransactionId *v;
		int			m;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, relids[i]);
		v = GetLockConflicts(&tag, ShareLock, NULL);	/* conflicts with all who write */
		m = count_vxids(v);
		all = repalloc(all, (count + m + 1) * sizeof(VirtualTransactionId));
		memcpy(all + count, v, (m + 1) * sizeof(VirtualTransactionId)); /* with the end mark */
		count += m;
	}
	return all;
}

bool
cdp_holders_have_ended(const VirtualTransactionId *holders)
{
	for (const VirtualTransactionId *v = holders; VirtualTransactionIdIsValid(*v); v++)
		if (!VirtualXactLock(*v, false))
			return false;
	return true;
}
