/*
 * advance.h: positions of a worker, locked and compared first, advanced last.
 */
#ifndef CDP_ADVANCE_H
#define CDP_ADVANCE_H

#include "engine.h"

/* both raise object_not_in_prerequisite_state when a position is not the expected one */
extern void cdp_advance_begin(const CdpSource *source, CdpAdvance *advances, int n);
extern void cdp_advance_end(const CdpSource *source, const CdpAdvance *advances, int n);

#endif							/* CDP_ADVANCE_H */
