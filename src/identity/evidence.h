/*
 * evidence.h: stored links and decisions as the input of F.
 */
#ifndef CDP_EVIDENCE_H
#define CDP_EVIDENCE_H

#include "identity/fold.h"

struct CdpHashIndex;

typedef struct CdpEvidence
{
	CdpFold    *fold;			/* its links and pairs are filled */
	MemoryContext cxt;			/* in which they live */
	bool		partial;		/* members may be missing: a link joins those that are there */
	struct CdpHashIndex *by_hash;	/* of the fold's identifiers */
	int			maxlinks,
				maxapart;
} CdpEvidence;

/* what to select; the caller adds its condition, and to links ORDER BY l.link_id */
#define CDP_EVIDENCE_LINKS \
	"SELECT l.link_id, l.kind, l.members, l.first_at, l.first_message," \
	" EXISTS (SELECT FROM cdp_data.decision d WHERE d.kind = 'retract' AND d.a = l.link_id)" \
	" FROM cdp_data.link l"
#define CDP_EVIDENCE_DECISIONS \
	"SELECT d.a, d.b, d.kind = 'shared' FROM cdp_data.decision d WHERE d.kind IN ('keep_apart', 'shared')"

/* for a fold that has its identifiers, and keeps them in their places; everything goes to the current context */
extern void cdp_evidence_begin(CdpEvidence *e, CdpFold *fold, bool partial);

/* take the rows of the running SPI result; a result may come in parts */
extern void cdp_evidence_take_links(CdpEvidence *e);
extern void cdp_evidence_take_decisions(CdpEvidence *e);

/* one more link, with no moment yet; NULL: partial, and fewer than two of its members are there */
extern CdpFoldLink *cdp_evidence_add_link(CdpEvidence *e, int64 link_id, CdpLinkKind kind, const int64 *members, int n);

/* of a row of the running SPI result */
extern CdpMoment cdp_evidence_moment(int row, int at_column, int message_column, MemoryContext cxt);

#endif							/* CDP_EVIDENCE_H */
