/*
 * compat.h: every #if PG_VERSION_NUM of the project.  The rest of the code
 * reads as if only one server version existed (15 is the development version).
 */
#ifndef CDP_COMPAT_H
#define CDP_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM < 150000
#error "cdp needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* DecodeDateTime got one more argument in 16 */
#if PG_VERSION_NUM >= 160000
#define cdp_decode_datetime(field, ftype, nfields, dtype, tm, fsec, tz) \
	DecodeDateTime(field, ftype, nfields, dtype, tm, fsec, tz, &(DateTimeErrorExtra) {0})
#else
#define cdp_decode_datetime(field, ftype, nfields, dtype, tm, fsec, tz) \
	DecodeDateTime(field, ftype, nfields, dtype, tm, fsec, tz)
#endif

#endif							/* CDP_COMPAT_H */
