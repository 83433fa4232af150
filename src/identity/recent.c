/*
 * recent.c: what is remembered of the people that were met last.
 *
 * Most events are of people whose identifiers and links the worker has read or
 * written a moment ago.  It keeps what those rows said, and where they are, in
 * three tables of fixed size in its own memory, and need not look them up.
 *
 * What holds it together: whoever changes or deletes a row of identifier, or of
 * link, rewrites or deletes the profile row of its guard in the same
 * transaction, under its lock.  The guard of an identifier is its fragment, that
 * of a link the fragment of its strongest member.  So once the guard is locked,
 * and its version is still the one that we wrote (its xmin is the subtransaction
 * of that attempt), all that we remember of it is what the tables say.  Else
 * nothing is, the guard is forgotten, and resolve.c reads again.
 *
 * Entries are not taken back when a transaction aborts: they hold under an xmin
 * that no visible row will ever have.  Each entry belongs to an era of its
 * guard: a new one begins when the guard is remembered anew, so that an entry
 * from before an interruption is not believed again.
 *
 * A set has WAYS entries; the one that was used longest ago makes room.  Where
 * a row is (tid) is a hint that is checked by whoever follows it.
 *
 * A source worker remembers as long as it lives; a session in a transaction of
 * several batches (a long COPY), to its end: there a look-up passes all versions
 * that the transaction has made of a row, since none of them can be pruned yet.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "utils/memutils.h"

#include "identity/recent.h"

#define WAYS 4					/* entries that a key may be in */
#define LEAST_BITS 6
#define LONGEST_MEMORY (UINT64CONST(1) << 30)	/* transactions until all is forgotten, before an xid can return */

typedef struct Head
{
	int64		key;
	uint32		era;			/* 0: empty */
	uint32		used;			/* number of the batch that used it last */
} Head;

typedef struct FragmentEntry
{
	Head		head;
	TransactionId xmin;
	ItemPointerData tid;
} FragmentEntry;

typedef struct IdentifierEntry
{
	Head		head;
	int64		fragment_id;
	TimestampTz alone_at;
	int32		check;
	int32		first_day,
				last_day;
	ItemPointerData tid;
} IdentifierEntry;

typedef struct LinkEntry
{
	Head		head;
	TimestampTz first_at,
				last_at;
	int32		source_id;
	ItemPointerData tid;
	char		kind;
} LinkEntry;

typedef struct Table
{
	char	   *entries;
	Size		width;
	int			bits;			/* 2 ^ bits sets */
} Table;

static MemoryContext cxt = NULL;
static Table fragments = {.width = sizeof(FragmentEntry)};
static Table identifiers = {.width = sizeof(IdentifierEntry)};
static Table links = {.width = sizeof(LinkEntry)};
static uint32 last_era = 0;
static uint32 now = 0;			/* number of the batch */
static uint64 remembered_since; /* full transaction id */

/* ---------------------------------------------------------------- tables of fixed size */

/*
 * resolve.c and store.c go through identifiers and links by hash, through
 * fragments by id: so do these, or each entry would cost a miss of the cache.
 */
static uint32
set_by_hash(const Table *t, int64 hash)
{
	return (uint32) (((uint64) hash ^ PG_INT64_MIN) >> (64 - t->bits));
}

static uint32
set_by_id(const Table *t, int64 id)
{
	return (uint32) id & ((1U << t->bits) - 1);
}

static Head *
first_of_set(const Table *t, uint32 set)
{
	return (Head *) (t->entries + (Size) set * WAYS * t->width);
}

static Head *
next_of_set(const Table *t, Head *h)
{
	return (Head *) ((char *) h + t->width);
}

static void *
find(const Table *t, uint32 set, int64 key)
{
	Head	   *h = first_of_set(t, set);

	for (int i = 0; i < WAYS; i++, h = next_of_set(t, h))
		if (h->key == key && h->era != 0)
		{
			h->used = now;
			return h;
		}
	return NULL;
}

/* the key's entry, or the one that makes room for it */
static void *
put(const Table *t, uint32 set, int64 key, uint32 era)
{
	Head	   *h = first_of_set(t, set),
			   *oldest = h;

	for (int i = 0; i < WAYS; i++, h = next_of_set(t, h))
	{
		if (h->key == key)
		{
			oldest = h;
			break;
		}
		if (oldest->era != 0 && (h->era == 0 || now - h->used > now - oldest->used))
			oldest = h;
	}
	oldest->key = key;
	oldest->era = era;
	oldest->used = now;
	return oldest;
}

static FragmentEntry *
find_fragment(int64 fragment_id)
{
	return cxt ? find(&fragments, set_by_id(&fragments, fragment_id), fragment_id) : NULL;
}

static IdentifierEntry *
find_identifier(int64 hash)
{
	return cxt ? find(&identifiers, set_by_hash(&identifiers, hash), hash) : NULL;
}

/* beside those of the same leader */
static LinkEntry *
find_link(const CdpLink *link)
{
	return cxt ? find(&links, set_by_hash(&links, link->members[0]->hash), link->link_id) : NULL;
}

static void
make_table(Table *t, int bits)
{
	t->bits = bits;
	t->entries = MemoryContextAllocExtended(cxt, ((Size) WAYS << bits) * t->width, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/* room for two identifiers and two links a person */
static void
start(MemoryContext parent)
{
	Size		set = WAYS * (sizeof(FragmentEntry) + 2 * sizeof(IdentifierEntry) + 2 * sizeof(LinkEntry));
	int			bits = 0;

	while (set << (bits + 1) <= (Size) cdp_recent_memory * 1024)
		bits++;
	if (bits < LEAST_BITS)
		return;
	cxt = AllocSetContextCreate(parent, "cdp recent people", ALLOCSET_DEFAULT_SIZES);
	make_table(&fragments, bits);
	make_table(&identifiers, bits + 1);
	make_table(&links, bits + 1);
}

void
cdp_recent_start(void)
{
	start(TopMemoryContext);
}

/* the memory goes with the transaction's */
static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		cxt = NULL;
}

void
cdp_recent_start_in_transaction(void)
{
	static bool registered = false;

	if (cxt != NULL)
		return;
	if (!registered)
		RegisterXactCallback(end_of_transaction, NULL);
	registered = true;
	start(TopTransactionContext);
}

/* ---------------------------------------------------------------- recalling */

bool
cdp_recent_identifier(CdpIdent *id)
{
	IdentifierEntry *e = find_identifier(id->hash);

	/* in the same moment, message ids decide, and they are not here */
	if (e == NULL || e->check != id->check || (e->alone_at == id->alone.at && e->alone_at != CDP_NO_TIME))
		return false;
	id->era = e->head.era;
	id->known = true;
	id->tid = e->tid;
	id->fragment_id = e->fragment_id;
	id->state = 'l';
	id->stored_alone = (CdpMoment) {e->alone_at, CDP_STR_NONE};
	id->stored_first_day = e->first_day;
	id->stored_last_day = e->last_day;
	return true;
}

bool
cdp_recent_holds(const CdpFragment *guard, CdpIdent *id)
{
	IdentifierEntry *e;

	if (id->era == 0 || id->era == guard->era)
		return true;
	id->era = 0;
	if ((e = find_identifier(id->hash)) != NULL)
		e->head.era = 0;
	return false;
}

ItemPointerData
cdp_recent_place(int64 fragment_id)
{
	FragmentEntry *e = find_fragment(fragment_id);
	ItemPointerData nowhere;

	ItemPointerSetInvalid(&nowhere);
	return e ? e->tid : nowhere;
}

void
cdp_recent_confirm(CdpFragment *f, TransactionId xmin)
{
	FragmentEntry *e = find_fragment(f->fragment_id);

	if (e == NULL)
		return;
	if (e->xmin == xmin)
		f->era = e->head.era;
	else
		e->head.era = 0;
}

bool
cdp_recent_link(const CdpFragment *guard, CdpLink *link, int32 source_id)
{
	LinkEntry  *e;

	/* a moved event may have changed the row a moment ago */
	if (guard->era == 0 || guard->rearranged || (e = find_link(link)) == NULL || e->head.era != guard->era ||
		e->source_id != source_id || e->kind != link->kind || e->first_at == link->first.at)
		return false;
	link->known = true;
	link->tid = e->tid;
	link->stored_first = (CdpMoment) {e->first_at, CDP_STR_NONE};
	link->stored_last = e->last_at;
	return true;
}

/* ---------------------------------------------------------------- remembering */

void
cdp_recent_forget(void)
{
	for (uint32 i = 0; cxt && i < (uint32) WAYS << fragments.bits; i++)
		((FragmentEntry *) fragments.entries)[i].head.era = 0;
}

/* before its number can be another transaction's */
static void
forget_all_in_time(void)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (next - remembered_since < LONGEST_MEMORY)
		return;
	remembered_since = next;
	cdp_recent_forget();
}

/* a fragment whose row this attempt wrote; of what was rearranged, we do not know every row */
static void
remember_fragment(CdpFragment *f, TransactionId xmin)
{
	FragmentEntry *e;

	if (f->rearranged)
	{
		f->era = 0;
		return;
	}
	if (f->era == 0)
		f->era = ++last_era ? last_era : ++last_era;
	e = put(&fragments, set_by_id(&fragments, f->fragment_id), f->fragment_id, f->era);
	e->xmin = xmin;
	e->tid = f->tid;
}

static void
remember_identifier(const CdpIdent *id, uint32 era)
{
	IdentifierEntry *e = put(&identifiers, set_by_hash(&identifiers, id->hash), id->hash, era);

	e->fragment_id = id->fragment_id;
	e->alone_at = id->stored_alone.at;
	e->check = id->check;
	e->first_day = id->stored_first_day;
	e->last_day = id->stored_last_day;
	e->tid = id->tid;
}

static void
remember_link(const CdpLink *link, uint32 era, int32 source_id)
{
	LinkEntry  *e = put(&links, set_by_hash(&links, link->members[0]->hash), link->link_id, era);

	e->first_at = link->stored_first.at;
	e->last_at = link->stored_last;
	e->source_id = source_id;
	e->tid = link->tid;
	e->kind = link->kind;
}

/* an identifier's era is that of its fragment now; 0: not to be remembered */
static void
set_eras(CdpWork *w)
{
	for (int i = 0; i < w->nidents; i++)
	{
		CdpFragment *f = cdp_work_fragment(w, w->idents[i]->fragment_id);

		w->idents[i]->era = f ? f->era : 0;
	}
}

void
cdp_recent_remember(CdpWork *w)
{
	TransactionId xmin;

	if (cxt == NULL)
		return;
	now++;
	forget_all_in_time();
	xmin = GetCurrentTransactionId();
	for (int i = 0; i < w->nfragments; i++)
		if (w->fragments[i]->created || w->fragments[i]->changed)
			remember_fragment(w->fragments[i], xmin);
	set_eras(w);
	for (int i = 0; i < w->nidents; i++)
		if (w->idents[i]->era && w->idents[i]->state == 'l' && w->idents[i]->suppressed_before == DT_NOBEGIN)
			remember_identifier(w->idents[i], w->idents[i]->era);
	for (int i = 0; i < w->nlinks; i++)
		if (w->links[i]->members[0]->era)
			remember_link(w->links[i], w->links[i]->members[0]->era, w->batch->source->id);
}
