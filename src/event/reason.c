/*
 * reason.c: the names of the reasons (engine.h has the one list).
 */
#include "postgres.h"

#include "engine.h"

const char *
cdp_reason_name(CdpReason r)
{
	static const char *const names[CDP_REASON_COUNT] = {
#define X(symbol, name, what) name,
		CDP_REASONS(X)
#undef X
	};

	Assert((unsigned) r < CDP_REASON_COUNT);
	return names[r];
}
