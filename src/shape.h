/*
 * shape.h: whether a table that is written without SQL is as cdp made it.
 */
#ifndef CDP_SHAPE_H
#define CDP_SHAPE_H

#include "catalog.h"
#include "utils/relcache.h"

/*
 * Raises object_not_in_prerequisite_state unless the columns and the primary
 * key are where cdp made them, and nothing hangs on the table that only SQL
 * would run.  parent: of a partition, else NULL.  Returns how many columns are
 * ours; others may follow, which take NULL.
 */
extern int	cdp_shape_require(Relation rel, Relation parent);

/* the same of all such tables and their partitions, for cdp.status */
extern void cdp_shapes_require(void);

#endif							/* CDP_SHAPE_H */
