/*
 * identity.h: from presented identifiers to fragments.
 */
#ifndef CDP_IDENTITY_H
#define CDP_IDENTITY_H

#include "engine.h"
#include "fold.h"

/* ---------------------------------------------------------------- normalise.c */

extern struct CdpPattern *cdp_pattern_compile(const char *pattern, bool ignore_case);	/* raises */
/* blocked: exact values; "i:" ignores case; "re:" is a full-match pattern */
extern struct CdpBlockList *cdp_blocklist_compile(CdpStr *entries, int n);	/* raises */
extern bool cdp_blocklist_match(const struct CdpBlockList *list, CdpStr value);
extern bool cdp_pattern_match(const struct CdpPattern *p, CdpStr value);	/* the whole value */
extern int	cdp_normaliser_parse(const char *name);	/* 'trim,lower' -> bits; -1 when unknown */

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

	/* resolve */
	bool		known;			/* has a row */
	char		state;			/* of the row: 'l'ive, 's'hared, 'd'emoted */
	int64		fragment_id;	/* 0: none yet */
	CdpMoment	alone;			/* least of the batch */
	TimestampTz first_at,		/* least and greatest evidence time in the batch */
				last_at;
};

struct CdpLink
{
	int64		link_id;
	CdpLinkKind kind;
	int			nmembers;
	CdpIdent  **members;
	CdpMoment	first;			/* of the batch */
	TimestampTz last_at;
	int64		nseen;
	CdpEvent   *first_event;

	/* resolve */
	bool		known;
};

extern void cdp_ident_hash(int32 workspace_id, const CdpNamespace *ns, CdpStr value,
						   int64 *hash, int32 *check);
extern int64 cdp_link_hash(int32 workspace_id, CdpLinkKind kind, const int64 *members, int n);

#endif							/* CDP_IDENTITY_H */
