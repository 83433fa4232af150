/*
 * erasure.h: what is shared by the parts of cdp.forget().
 */
#ifndef CDP_ERASURE_H
#define CDP_ERASURE_H

#include "work.h"
#include "privacy/suppress.h"

typedef enum CdpFate
{
	CDP_STAYS,
	CDP_GOES,					/* an identifier: with a token */
	CDP_GOES_QUIETLY,			/* a shared identifier that nobody else presented: without */
	CDP_STRIPPED				/* a link: keeps its other members */
} CdpFate;

typedef struct CdpErasureMember
{
	int64		hash;
	int64		fragment_id;
	int64		refuge;			/* fragment where it stays, when its own goes; 0: there */
	bool		mine;			/* the one who goes presented it */
	int64		other;			/* fragment of another living person that presented it; 0: none */
	int32		check;
	int16		rank;
	char		state;
	CdpFate		fate;
	bool		alone;			/* an event presented it alone */
	bool		has_evidence;	/* a link that is left */
} CdpErasureMember;

/* a row of cdp_data.link */
typedef struct CdpErasureLink
{
	int64		link_id;
	int32		source_id;
	char		kind;
	int64	   *members;		/* strongest first; calls: id, other */
	int			nmembers;
	CdpFate		fate;
	bool		has_events;		/* stored ones, of others */
	TimestampTz first_at,
				last_at;
	int64		first_event_id;
	CdpStr		first_message;
	float4		weight;
} CdpErasureLink;

/* who goes, and what of the people around him is touched */
typedef struct CdpErasurePlan
{
	MemoryContext cxt;
	const CdpWorkspace *workspace;
	TimestampTz watermark;		/* W: events before it were purged */
	int64		target;			/* the fragment that was asked for */
	bool		fragment_only;
	int64		profile_id;
	int64	   *fragments;		/* that go */
	int			nfragments;
	int64	   *others;			/* of the same component, that stay */
	int			nothers;
	CdpErasureMember *members;	/* of all of them, by hash */
	int			nmembers;
	CdpErasureLink *links;		/* by id */
	int			nlinks;
	int64	   *gone;			/* identifiers that go, ascending */
	int			ngone;
	int64	   *tokens;			/* those of them that get one, ascending */
	int			ntokens;
	int64	   *orphans;		/* identifiers that nobody who stays presented with others */
	int			norphans;
	int64	   *emptied;		/* fragments of others that lose all their identifiers, ascending */
	int			nemptied;
	bool		ambiguous;		/* two values of a namespace of limit 1 */
} CdpErasurePlan;

/* rows, by what happens to them */
typedef struct CdpErasureCounts
{
	int64		event,
				event_stripped,
				identifier,
				link,
				link_stripped,
				profile,
				profile_trait,
				decision,
				warning,
				dirty,
				seen,
				quarantine,
				quarantine_stripped,
				parked;
} CdpErasureCounts;

/* ---------------------------------------------------------------- erasure_plan.c */

/* read, in a fresh snapshot; false: the target is gone */
extern bool cdp_erasure_plan(CdpErasurePlan *p);
extern CdpErasureMember *cdp_erasure_member(const CdpErasurePlan *p, int64 hash);

/* others have stored events of the link */
extern void cdp_erasure_note_events(CdpErasurePlan *p, int64 link_id);
extern CdpFate cdp_erasure_anchor(const CdpErasurePlan *p, int64 anchor);

/* whose events those of the link are */
extern int64 cdp_erasure_attributed(const CdpErasurePlan *p, const CdpErasureLink *link);

/* the members that stay; returns how many */
extern int	cdp_erasure_rest(const CdpErasurePlan *p, const CdpErasureLink *link, int64 *rest);

/* anchor of an event of the link once it is stripped */
extern int64 cdp_erasure_new_anchor(const CdpErasurePlan *p, int64 anchor);

/* ---------------------------------------------------------------- erasure.c */

/* the fragments of the plan are locked, and the instant is read; returns the instant of the tokens */
extern TimestampTz cdp_erasure_carry_out(CdpWork *w, CdpErasurePlan *p, CdpErasureCounts *counts);
extern void cdp_erasure_count(CdpErasurePlan *p, CdpErasureCounts *counts);

/* ---------------------------------------------------------------- mentions.c */

/* messages that are set aside, and events of nobody; they are deleted or stripped, or with dry_run counted */
extern void cdp_erase_mentions(const CdpWorkspace *workspace, const int64 *tokens, int ntokens,
							   TimestampTz not_before, bool dry_run, CdpErasureCounts *counts);

/* ---------------------------------------------------------------- complete.c */

/* job of the maintenance worker */
extern bool cdp_erasure_maintain(void);

#endif							/* CDP_ERASURE_H */
