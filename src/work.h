/*
 * work.h: one attempt to apply events of a batch.
 *
 * The batch is decoded once; an attempt may fail (a race, a poison message)
 * and be made again, or with half of the events.  Everything that looking at
 * tables finds out lives in the attempt's own context.
 */
#ifndef CDP_WORK_H
#define CDP_WORK_H

#include "engine.h"
#include "table.h"
#include "identity/identity.h"

#include "access/attnum.h"

/* a fragment that the attempt has locked, or made */
typedef struct CdpFragment
{
	int64		fragment_id;
	bool		created;		/* not in the table yet */
	ItemPointerData tid;
	/* the row, changed in place */
	int64		profile_id,
				contest_id,
				event_count,
				months;
	TimestampTz first_seen,
				last_seen,
				eval_at,
				next_due;
	/* what the attempt does to it */
	bool		stable;			/* locked version is the one that our first snapshot saw */
	bool		planned;		/* of a component that is examined; found with these two: */
	int64		planned_profile_id,
				planned_contest_id;
	bool		changed;
	bool		recompute;		/* computed again from its events, once all are stored */
	bool		rearranged;		/* its identifiers may have gone elsewhere */
	uint32		era;			/* of what is remembered of it and holds (identity/recent.c); 0: nothing */
	struct CdpTraitSet *kept;	/* recompute: traits whose events were purged */
	const char *dirty;			/* but by the maintenance worker: cdp_data.dirty.cause */
	struct CdpEvent **declared; /* events of the batch that declare traits */
	int			ndeclared,
				maxdeclared;
} CdpFragment;

/* identifiers and fragments that the batch ties together */
typedef struct CdpGroup
{
	CdpIdent  **idents;			/* presented in this attempt */
	int			nidents;
	CdpLink   **links;
	int			nlinks;
	bool		has_new;		/* an identifier without a row */
	bool		has_known;
	bool		has_move;		/* evidence of it changes its time */
	bool		examine;		/* may change who is who: its whole component is locked */
	int64		home;			/* fragment of its new identifiers */
	int			merged_into;	/* index of the group that took it in; its own: none */
	int			next_merged;	/* chain of the groups that are one, from the first; -1: end */
} CdpGroup;

typedef struct CdpWork
{
	CdpBatch   *batch;
	MemoryContext cxt;
	int32		workspace_id;
	const CdpPolicy *policy;

	CdpEvent  **events;			/* to be stored: not duplicates; in order of the batch */
	int			nevents;
	CdpEvent  **moves;			/* duplicates that define earlier times (R25) */
	int			nmoves;
	CdpIdent  **idents;			/* distinct, by hash */
	int			nidents;
	CdpLink   **links;			/* distinct, by (first member, id) */
	int			nlinks;
	CdpGroup   *groups;
	int			ngroups;
	int		   *group_of;		/* per identifier index */

	CdpFragment **fragments;	/* by id; the locked ones and the new ones */
	int			nfragments,
				maxfragments;
	struct CdpFragmentIndex *by_id;

	CdpRel	   *identifier,
			   *link,
			   *profile,
			   *trait;
	Snapshot	snapshot;		/* of the reads before the locks */
	uint32		attempt;
	const struct CdpErased *erased; /* what forgetting takes away of others; NULL: nothing (privacy/suppress.h) */
	bool		refold;			/* a link or identifier was taken away: union-find does not do */
	CdpRel	   *suppression;	/* opened when it is asked first */
	bool		no_tokens,		/* it is empty */
				has_tokens;		/* an identifier of the attempt has one */
	struct CdpLeaves *seen;		/* partitions of message_seen, between check and store */
} CdpWork;

/* why an attempt did not end well */
typedef enum CdpTry
{
	CDP_TRY_DONE,
	CDP_TRY_AGAIN				/* what had to be locked grew: start again, knowing more */
} CdpTry;

/* fragments whose component must be examined whatever the plan says; survives attempts */
typedef struct CdpHints
{
	MemoryContext cxt;
	int64	   *fragments;
	int			n,
				max;
} CdpHints;

extern void cdp_hint(CdpHints *hints, int64 fragment_id);
extern bool cdp_hinted(const CdpHints *hints, int64 fragment_id);

extern CdpFragment *cdp_work_fragment(CdpWork *w, int64 fragment_id);	/* NULL: not locked */
extern CdpFragment *cdp_work_add_fragment(CdpWork *w, int64 fragment_id);
extern CdpFragment *cdp_work_create_fragment(CdpWork *w);	/* a new one, written with the attempt */
extern int64 cdp_new_fragment_id(void);

/* event/seen.c: drop duplicates, find conflicts and moves; later remember what was stored */
extern void cdp_seen_check(CdpWork *w);
extern void cdp_seen_store(CdpWork *w);

/* identity/resolve.c */
extern CdpTry cdp_resolve(CdpWork *w, CdpHints *hints);

/* B: the clock, read once, after the last lock (engine.c) */
extern void cdp_read_instant(CdpWork *w);

/* for who resolves nothing: before the first fragment is added, and to lock them all; false: one is gone */
extern void cdp_index_fragments(CdpWork *w);
extern bool cdp_lock_fragments(CdpWork *w);

/* identity/component.c: decide who is who in the components that are examined */
extern void cdp_settle_components(CdpWork *w);

/* event/store.c */
extern int16 cdp_event_flags(const CdpEvent *ev);
extern void cdp_store_events(CdpWork *w);
extern void cdp_store_links(CdpWork *w);

/* event/move.c */
extern void cdp_store_moves(CdpWork *w);

/* profile/fold.c */
extern void cdp_fold_events(CdpWork *w);
extern void cdp_store_profiles(CdpWork *w);

/* profile/dirty.c: these fragments must be computed again, each with what the others had */
extern void cdp_mark_recompute(CdpFragment **fragments, int n, const char *cause);

/* remember those that are too large for the batch */
extern void cdp_dirty_store(CdpWork *w);

/* profile/recompute.c: fragments marked so and not left for later, from stored events; they must be locked */
extern void cdp_recompute(CdpWork *w);

/* the counters of these alone: they must be locked, and are marked as changed */
extern void cdp_recount(CdpWork *w, CdpFragment **fragments, int n);

/* profile/traits.c */
extern void cdp_store_traits(CdpWork *w, CdpFragment *f);

#endif							/* CDP_WORK_H */
