/*
 * fold.h: F(links, decisions), the pure function that says who is one person.
 *
 * No table, no SPI, no clock: memory in, memory out (palloc in the current
 * context only), so that ingest, verify, rebuild and simulation share it.
 * Semantics to the letter: specs/correctness.md R1 to R6, R11, R65.
 */
#ifndef CDP_FOLD_H
#define CDP_FOLD_H

#include "engine.h"

/* (evidence time, message id): the order of links; at == CDP_NO_TIME: never */
typedef struct CdpMoment
{
	TimestampTz at;
	CdpStr		message_id;
} CdpMoment;

extern int	cdp_moment_cmp(const CdpMoment *a, const CdpMoment *b); /* never sorts last */

typedef struct CdpFoldIdent
{
	int64		hash;
	int16		rank;			/* index into policy->namespaces: (priority, name) order */
	CdpStr		value;			/* normalised */
	CdpMoment	alone;			/* least moment of events that presented it alone */
	bool		sticky;			/* in: decided shared before; out: or its degree says so, to be decided */
	/* result */
	int			profile;		/* 0..nprofiles-1, or -1: demoted, in no profile */
	bool		shared;			/* sticky, or a hub of a component beyond the bound: an anonymous profile of its own */
} CdpFoldIdent;

typedef struct CdpFoldLink
{
	int64		link_id;
	CdpLinkKind kind;
	bool		retracted;
	int			nmembers;
	int		   *members;		/* indices into idents; strongest first, calls: id, other */
	CdpMoment	first;			/* least moment over its sources */
	/* result */
	int			attributed;		/* index of the identifier whose profile its events belong to; -1: none */
} CdpFoldLink;

typedef struct CdpFoldPair
{
	int			a,
				b;				/* keep apart: indices into idents */
} CdpFoldPair;

typedef struct CdpFoldWarning
{
	const char *kind;			/* "demoted", "already identified", "held" */
	int			ident;			/* of a held component: its strongest */
	int			rank;			/* namespace whose limit broke, -1: none (keep_apart) */
	int64		link_id;		/* 0: none */
} CdpFoldWarning;

typedef struct CdpFold
{
	const CdpPolicy *policy;
	CdpFoldIdent *idents;
	int			nidents;
	CdpFoldLink *links;			/* nmembers >= 2; events of one identifier are idents[].alone */
	int			nlinks;
	CdpFoldPair *apart;
	int			napart;
	/* result */
	bool		contested;		/* false: plain union-find was exact */
	int			nprofiles;
	CdpFoldWarning *warnings;
	int			nwarnings;
} CdpFold;

/*
 * Partition one or many components.  Components that break nothing are joined
 * by union-find; the others are folded in the policy's order.  contested tells
 * whether any component was.
 */
extern void cdp_fold(CdpFold *fold);

/* (priority, namespace name, value bytewise): R65.2 */
extern int	cdp_fold_ident_cmp(const CdpFoldIdent *a, const CdpFoldIdent *b);

#endif							/* CDP_FOLD_H */
