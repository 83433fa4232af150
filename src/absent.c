/* TEMPORARY (BASE): lets cdp.so load until the other rooms are there. */
#include "cdp.h"
#include "engine.h"
#include "identity/identity.h"
#define W __attribute__((weak))
W void cdp_workers_init(void);
W void cdp_launcher_wake(void);
W void cdp_workers_init(void) {}
W void cdp_launcher_wake(void) {}
W const CdpFormat *cdp_format_find(const char *name) { return NULL; }
