/*
 * holders.h: who holds a lock now, and have they ended?
 */
#ifndef CDP_HOLDERS_H
#define CDP_HOLDERS_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * Transactions, but this one, that write into one of the relations or may be
 * about to (they hold ROW EXCLUSIVE or more).  Zero-ended, for pfree(), in
 * TopMemoryContext.  Prepared transactions are among them.
 */
extern VirtualTransactionId *cdp_holders_note(const Oid *relids, int n);

/* all of those that were noted? waits for nobody */
extern bool cdp_holders_have_ended(const VirtualTransactionId *holders);

#endif							/* CDP_HOLDERS_H */
