/*
 * identity.h: from presented identifiers to fragments.
 */
#ifndef CDP_IDENTITY_H
#define CDP_IDENTITY_H

#include "engine.h"
#include "fold.h"

#include "storage/itemptr.h"

/* ---------------------------------------------------------------- normalise.c */

/* of the tables in normalise.c: another version makes other identifiers of the same bytes */
#define CDP_NORMALISER_VERSION 1

extern struct CdpPattern *cdp_pattern_compile(const char *pattern, bool ignore_case);	/* raises */

/* blocked: exact values; "i:" ignores case; "re:" is a full-match pattern */
extern struct CdpBlockList *cdp_blocklist_compile(CdpStr *entries, int n);	/* raises */
extern bool cdp_blocklist_match(const struct CdpBlockList *list, CdpStr value);
extern bool cdp_pattern_match(const struct CdpPattern *p, CdpStr value);	/* the whole value */
extern int	cdp_normaliser_parse(const char *name); /* 'trim,lower' -> bits; -1 when unknown */

/* normalised copy in the current context (or the input itself when nothing changes) */
extern CdpStr cdp_normalise(const CdpNamespace *ns, CdpStr value);

/* ---------------------------------------------------------------- hash.c */

struct CdpIdent
{
	int64		hash;			/* key of cdp_data.identifier */
	int32		check;			/* 32 more bits */
	CdpNamespace *ns;
	int16		rank;			/* index in the policy */
	CdpStr		value;			/* normalised */

	/* resolve: what follows is of one attempt */
	uint32		attempt;		/* number of the attempt that filled it */
	bool		known;			/* has a row */
	uint32		era;			/* that it is remembered from (recent.c); 0: it was read */
	char		state;			/* of the row: 'l'ive, 's'hared, 'd'emoted */
	ItemPointerData tid;		/* of the row when it was read */
	int64		fragment_id;	/* 0: none yet */
	CdpMoment	alone;			/* least of the batch */
	CdpMoment	stored_alone;
	int32		stored_first_day,	/* DateADT */
				stored_last_day;
	TimestampTz suppressed_before;	/* evidence before it is of somebody who was forgotten; DT_NOBEGIN: none; kept between
									 * attempts */
	TimestampTz first_at,		/* least and greatest evidence time in the batch */
				last_at;
	int			index;			/* in the attempt's list */
};

struct CdpLink
{
	int64		link_id;
	CdpLinkKind kind;
	int			nmembers;
	CdpIdent  **members;

	/* resolve: what follows is of one attempt */
	uint32		attempt;
	CdpMoment	first;			/* of the batch */
	TimestampTz last_at;
	CdpEvent   *first_event;
	bool		known;			/* this source has presented it before */
	ItemPointerData tid;		/* of the row when it was read */
	CdpMoment	stored_first;
	TimestampTz stored_last;
	CdpIdent   *attributed;		/* whose events they are; NULL: nobody's */
};

/* the identifier of the batch with this hash, NULL if it has none (event/admit.c) */
extern CdpIdent *cdp_batch_ident(CdpBatch *batch, int64 hash);
extern CdpLink *cdp_batch_link(CdpBatch *batch, int64 link_id);

extern void cdp_ident_hash(int32 workspace_id, const CdpNamespace *ns, CdpStr value,
						   int64 *hash, int32 *check);
extern int64 cdp_link_hash(int32 workspace_id, CdpLinkKind kind, const int64 *members, int n);

#endif							/* CDP_IDENTITY_H */
