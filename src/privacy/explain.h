/*
 * explain.h: plans are not shown to who may not see all rows.
 */
#ifndef CDP_EXPLAIN_H
#define CDP_EXPLAIN_H

extern void cdp_explain_hook_install(void);

#endif							/* CDP_EXPLAIN_H */
