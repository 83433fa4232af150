/*
 * held.h: whom does somebody else hold?
 */
#ifndef CDP_HELD_H
#define CDP_HELD_H

#include "engine.h"

/* marks events of held people as parked, without waiting; returns how many; raises when a whole table is locked */
extern int	cdp_park_held(CdpEvent **events, int n);

#endif							/* CDP_HELD_H */
