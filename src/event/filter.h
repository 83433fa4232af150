/*
 * filter.h: which message ids a partition of message_seen certainly lacks.
 */
#ifndef CDP_FILTER_H
#define CDP_FILTER_H

#include "postgres.h"

#include "port/atomics.h"

/* 256 bits: all that one key touches */
typedef struct CdpFilterLine
{
	pg_atomic_uint64 word[4];
} CdpFilterLine;

struct CdpFilterSlot;

/* a leaf's filter as one batch found it; slot == NULL: there was none */
typedef struct CdpFilter
{
	struct CdpFilterSlot *slot;
	CdpFilterLine *lines;
	uint32		nlines;
	uint32		generation;
	bool		ready;			/* else it is being built: it takes keys and answers nothing */
} CdpFilter;

/* what a key touches of each word of its line */
static inline uint64
cdp_filter_mask(uint64 bits, int word)
{
	return (UINT64CONST(1) << (bits >> (12 * word) & 63)) | (UINT64CONST(1) << (bits >> (12 * word + 6) & 63));
}

/* keys that follow each other in memcmp order have lines that do, too */
static inline CdpFilterLine *
cdp_filter_line(const CdpFilter *f, const unsigned char *key)
{
	uint64		high = (uint64) key[0] << 24 | (uint64) key[1] << 16 | (uint64) key[2] << 8 | key[3];

	return &f->lines[high * f->nlines >> 32];
}

static inline uint64
cdp_filter_bits(const unsigned char *key)
{
	uint64		bits;

	memcpy(&bits, key + 8, sizeof(bits));
	return bits;
}

/* true: the leaf lacks the key, if cdp_filter_stands() says so afterwards; the filter must be ready */
static inline bool
cdp_filter_lacks(const CdpFilter *f, const unsigned char *key)
{
	CdpFilterLine *line = cdp_filter_line(f, key);
	uint64		bits = cdp_filter_bits(key);

	for (int i = 0; i < 4; i++)
	{
		uint64		mask = cdp_filter_mask(bits, i);

		if ((pg_atomic_read_u64(&line->word[i]) & mask) != mask)
			return true;
	}
	return false;
}

/* were the answers since the filter was found those of this leaf? */
extern bool cdp_filter_stands(const CdpFilter *f);

/* before a row with the key is written into the leaf; nothing without a filter */
extern void cdp_filter_add(const CdpFilter *f, const unsigned char *key);

/*
 * Sets the filter of every leaf of message_seen.  The parent must be locked
 * (ROW EXCLUSIVE), and stay so to the end of the transaction.
 */
struct CdpLeaves;
extern void cdp_filter_find(struct CdpLeaves *leaves);

/* somebody else than a batch writes into the leaf (or the parent): its filter goes, in time before he commits */
extern void cdp_filter_forget(Oid relid);

/* from _PG_init, when preloading */
extern void cdp_filter_init(void);

/*
 * For the maintenance worker, outside a transaction and connected to a
 * database that is set up: builds filters that are missing, for a short while.
 * False: something is locked or still runs; try again later.
 */
extern bool cdp_filter_maintain(void);

#endif							/* CDP_FILTER_H */
