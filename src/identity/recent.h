/*
 * recent.h: what is remembered of the people that were met last.
 */
#ifndef CDP_RECENT_H
#define CDP_RECENT_H

#include "work.h"

/* from now on this process remembers, in cdp.recent_memory; in a worker once, in a session to the end of the transaction */
extern void cdp_recent_start(void);
extern void cdp_recent_start_in_transaction(void);

/* What is remembered may not hold: rows are changed by other means than a batch. */
extern void cdp_recent_forget(void);

/* Fill in what the identifier's row says, without looking, and id->era. False: not remembered. */
extern bool cdp_recent_identifier(CdpIdent *id);

/* Where the fragment's row was last; invalid: not remembered. */
extern ItemPointerData cdp_recent_place(int64 fragment_id);

/* The row is locked, and xmin wrote it: if that was us, what we remember holds, and f->era is set. */
extern void cdp_recent_confirm(CdpFragment *f, TransactionId xmin);

/* The identifier's fragment is locked. False: what was recalled of it may be old and is forgotten; read it. */
extern bool cdp_recent_holds(const CdpFragment *guard, CdpIdent *id);

/* Fill in what the link's row says; its guard is the fragment of its strongest member. */
extern bool cdp_recent_link(const CdpFragment *guard, CdpLink *link, int32 source_id);

/* At the end of an attempt: all rows are written. */
extern void cdp_recent_remember(CdpWork *w);

#endif							/* CDP_RECENT_H */
