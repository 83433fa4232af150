/*
 * catalog.h: small helpers of the frame (catalog.c, key.c, config.c, setup.c).
 */
#ifndef CDP_CATALOG_H
#define CDP_CATALOG_H

#include "cdp.h"

#include "access/htup.h"
#include "access/tupdesc.h"

/* layout of cdp_data that this library works with (cdp_data.version) */
#define CDP_LAYOUT_VERSION 1
/* SQL objects that this library works with (pg_extension.extversion) */
#define CDP_EXTENSION_VERSION "1.0.0"

#define CDP_SCHEMA "cdp"
#define CDP_DATA_SCHEMA "cdp_data"
#define CDP_OWNER_ROLE "cdp_owner"

/* one row of a small table; what is wanted of it by column name */
typedef struct CdpRow
{
	HeapTuple	tuple;
	TupleDesc	desc;
} CdpRow;

typedef void (*CdpRowFunction) (const CdpRow *row, void *arg);

/* call f for each row, seen by a fresh snapshot, without SQL or row security */
extern void cdp_scan_table(CdpTable t, CdpRowFunction f, void *arg);

/* the same for the rows with this integer in the column, which is the first one of the index */
extern void cdp_scan_index(CdpTable t, const char *index, const char *column, int32 value,
						   CdpRowFunction f, void *arg);

/* raises when the column does not exist */
extern Datum cdp_row_get(const CdpRow *row, const char *column, bool *isnull);

/* the table whose relcache entry was invalidated, or CDP_T_COUNT for all of them */
typedef void (*CdpTableCallback) (CdpTable t);
extern void cdp_on_table_change(CdpTableCallback f);

/* cached OIDs are looked up again */
extern void cdp_catalog_forget(void);

#endif							/* CDP_CATALOG_H */
