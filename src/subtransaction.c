/*
 * subtransaction.c: what may fail without ending the transaction around it.
 *
 * An error that leaves an open subtransaction behind does not end the caller's
 * transaction: his session stays aborted until ROLLBACK, even in autocommit
 * mode.  So whoever needs a subtransaction runs a function in one by this, and
 * throws the error that it gets back again, if it is not his to deal with,
 * when the subtransaction is over.
 */
#include "cdp.h"

#include "access/xact.h"
#include "utils/resowner.h"

ErrorData *
cdp_in_subtransaction(CdpInSubtransaction function, void *arg)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	bool		keep;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		keep = function(arg);
		MemoryContextSwitchTo(cxt);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return error;
}
