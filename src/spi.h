/*
 * spi.h: saved plans for what is not hot, and small conversions.
 */
#ifndef CDP_SPI_H
#define CDP_SPI_H

#include "cdp.h"

#include "executor/spi.h"

#define CDP_SPI_MAX_ARGS 24

/* a statement that is planned once per backend; run as cdp_owner only */
typedef struct CdpSpi
{
	const char *sql;
	int			nargs;
	Oid			types[CDP_SPI_MAX_ARGS];
	SPIPlanPtr	plan;			/* zero at first */
} CdpSpi;

/*
 * Connect, run with a fresh snapshot, return the number of rows; the rows are
 * in SPI_tuptable until cdp_spi_end(); the memory context stays the caller's.  nulls: one character an argument, 'n'
 * for NULL, or NULL.
 */
extern int	cdp_spi_run(CdpSpi *stmt, Datum *args, const char *nulls);
extern void cdp_spi_end(void);

/* the same for statements whose rows nobody reads */
extern int	cdp_spi_exec(CdpSpi *stmt, Datum *args, const char *nulls);

/*
 * Call f for each row of a result that may be large: rows are fetched some at
 * a time, and f runs in a memory context that is emptied between.
 */
typedef void (*CdpSpiRow) (int row, void *arg);
extern void cdp_spi_each(CdpSpi *stmt, Datum *args, CdpSpiRow f, void *arg);

/* column (from 1) of a row of the running result; texts are copied to the context that was current at cdp_spi_run */
extern int64 cdp_spi_int64(int row, int column);
extern Datum cdp_spi_datum(int row, int column, bool *isnull);
extern CdpStr cdp_spi_text(int row, int column, MemoryContext cxt);

/* arguments */
extern Datum cdp_int8_array(const int64 *v, int n);
extern Datum cdp_text(CdpStr s);

extern int	cdp_int64_order(const void *a, const void *b);

/* day (UTC) of an instant, as a date */
extern int32 cdp_day_of(TimestampTz at);

/* first number of the next block of a sequence of cdp_data */
extern int64 cdp_next_block(const char *sequence);

#endif							/* CDP_SPI_H */
