/*
 * view_owner.h: views of another owner show nothing.
 */
#ifndef CDP_VIEW_OWNER_H
#define CDP_VIEW_OWNER_H

extern void cdp_view_owner_hook_install(void);

#endif							/* CDP_VIEW_OWNER_H */
