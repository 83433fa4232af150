/*
 * traits.c: declared traits, the newest of each key.
 *
 * The value of a top-level key is that of the declaration with the greatest
 * stamp (rank, evidence time, occurred_at, order number, message id, source);
 * nested objects are replaced whole; null is a value, and hides the trait.  So
 * the result is a function of the set of declarations (DESIGN 9.8, R32).
 *
 * A fragment's traits lie in rows of profile_trait, chunks of less than 1.8 kB
 * so that a changed trait rewrites little and nothing is TOASTed; a trait that
 * is larger has a chunk of its own.  Which trait is in which chunk depends on
 * history and is no part of the state.  Only chunks that changed are written.
 *
 * stamps: a version byte, then for each key, in the order in which jsonb keeps
 * them (length, then bytes): rank (1 byte), evidence time, occurred_at, order
 * number (8 each), source (4), length of the message id (2) and its bytes, all
 * in network order.
 *
 * A profile of several fragments is merged on read by the aggregate
 * cdp.merge_traits, by the same rule.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/snapmgr.h"

#include "profile/columns.h"
#include "privacy/suppress.h"
#include "profile/profile.h"
#include "spi.h"

#define CHUNK_BYTES 1800		/* most bytes of a chunk that holds more than one trait */
#define STAMPS_VERSION 1
#define STAMP_BYTES 31			/* of one stamp without its message id */
#define FEW_TRAITS 16			/* so many are found sooner without a hash; a power of two */
#define MAX_CHUNKS 32000		/* chunk is a smallint */

typedef struct Trait
{
	CdpStr		key;
	JsonbValue	value;
	CdpStamp	stamp;
	int			chunk;			/* -1: in none yet */
	Size		size;			/* about, of value and stamp in their chunk */
} Trait;

typedef struct Chunk
{
	Size		size;
	bool		stored,
				changed;
} Chunk;

struct CdpTraitSet
{
	MemoryContext cxt;
	Trait	   *trait;
	int			n,
				max;
	uint32	   *slot;			/* of many, found by hash: number of the trait + 1, or 0 */
	uint32		mask;
	Chunk	   *chunk;
	int			nchunks,
				maxchunks;
	bool		took;			/* something of the last declaration */
};

/* ---------------------------------------------------------------- order */

static int
stamp_cmp(const CdpStamp *a, const CdpStamp *b)
{
	int			c;

	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->evidence_at != b->evidence_at)
		return a->evidence_at < b->evidence_at ? -1 : 1;
	if (a->occurred_at != b->occurred_at)
		return a->occurred_at < b->occurred_at ? -1 : 1;
	if (a->source_seq != b->source_seq)
		return a->source_seq < b->source_seq ? -1 : 1;
	if ((c = cdp_str_cmp(a->message_id, b->message_id)) != 0)
		return c;
	return (a->source_id > b->source_id) - (a->source_id < b->source_id);
}

/* as jsonb orders keys: length, then bytes */
static int
key_cmp(CdpStr a, CdpStr b)
{
	if (a.len != b.len)
		return a.len < b.len ? -1 : 1;
	return memcmp(a.s, b.s, a.len);
}

static int
trait_order(const void *a, const void *b)
{
	return key_cmp((*(Trait *const *) a)->key, (*(Trait *const *) b)->key);
}

/* ---------------------------------------------------------------- the set */

CdpTraitSet *
cdp_traits_begin(MemoryContext cxt)
{
	CdpTraitSet *set = MemoryContextAllocZero(cxt, sizeof(CdpTraitSet));

	set->cxt = cxt;
	set->max = FEW_TRAITS;
	set->trait = MemoryContextAlloc(cxt, set->max * sizeof(Trait));
	return set;
}

static uint32
slot_of(const CdpTraitSet *set, CdpStr key)
{
	return hash_bytes((const unsigned char *) key.s, key.len) & set->mask;
}

static void
note_slot(CdpTraitSet *set, int i)
{
	uint32		at = slot_of(set, set->trait[i].key);

	while (set->slot[at])
		at = (at + 1) & set->mask;
	set->slot[at] = i + 1;
}

/* the last trait is new; twice as many slots as there is room for traits */
static void
note_trait(CdpTraitSet *set)
{
	if (set->n <= FEW_TRAITS)
		return;
	if (set->slot && set->mask + 1 == 2 * (uint32) set->max)
	{
		note_slot(set, set->n - 1);
		return;
	}
	if (set->slot)
		pfree(set->slot);
	set->mask = 2 * (uint32) set->max - 1;
	set->slot = MemoryContextAllocZero(set->cxt, 2 * set->max * sizeof(uint32));
	for (int i = 0; i < set->n; i++)
		note_slot(set, i);
}

static Trait *
find_trait(CdpTraitSet *set, CdpStr key)
{
	if (set->n > FEW_TRAITS)
	{
		for (uint32 at = slot_of(set, key); set->slot[at]; at = (at + 1) & set->mask)
			if (cdp_str_eq(set->trait[set->slot[at] - 1].key, key))
				return &set->trait[set->slot[at] - 1];
		return NULL;
	}
	for (int i = 0; i < set->n; i++)
		if (cdp_str_eq(set->trait[i].key, key))
			return &set->trait[i];
	return NULL;
}

static Trait *
new_trait(CdpTraitSet *set, CdpStr key)
{
	Trait	   *t;

	if (set->n == set->max)
	{
		set->max *= 2;
		set->trait = repalloc(set->trait, set->max * sizeof(Trait));
	}
	t = &set->trait[set->n++];
	memset(t, 0, sizeof(Trait));
	t->key = key;
	t->chunk = -1;
	note_trait(set);
	return t;
}

static Chunk *
need_chunk(CdpTraitSet *set, int chunk)
{
	if (chunk >= set->maxchunks)
	{
		int			max = Max(8, Max(chunk + 1, set->maxchunks * 2));

		set->chunk = set->chunk
			? repalloc(set->chunk, max * sizeof(Chunk))
			: MemoryContextAlloc(set->cxt, max * sizeof(Chunk));
		memset(set->chunk + set->maxchunks, 0, (max - set->maxchunks) * sizeof(Chunk));
		set->maxchunks = max;
	}
	set->nchunks = Max(set->nchunks, chunk + 1);
	return &set->chunk[chunk];
}

static Size
value_size(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return v->val.string.len;
		case jbvNumeric:
			return VARSIZE_ANY(v->val.numeric);
		case jbvBinary:
			return v->val.binary.len;
		default:
			return 0;
	}
}

static void
set_value(Trait *t, const JsonbValue *value, const CdpStamp *stamp)
{
	t->value = *value;
	t->stamp = *stamp;
	t->size = t->key.len + value_size(value) + 8 + STAMP_BYTES + stamp->message_id.len;
}

/* ---------------------------------------------------------------- reading */

static CdpStamp
read_stamp(StringInfo in)
{
	CdpStamp	s;

	s.rank = pq_getmsgbyte(in);
	s.evidence_at = pq_getmsgint64(in);
	s.occurred_at = pq_getmsgint64(in);
	s.source_seq = pq_getmsgint64(in);
	s.source_id = pq_getmsgint(in, 4);
	s.message_id.len = pq_getmsgint(in, 2);
	s.message_id.s = pq_getmsgbytes(in, s.message_id.len);
	return s;
}

/* call for every top-level member, in jsonb's order */
typedef void (*MemberFunction) (CdpTraitSet *set, CdpStr key, const JsonbValue *value, void *arg);

static void
each_member(CdpTraitSet *set, Jsonb *object, MemberFunction f, void *arg)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	CdpStr		key = CDP_STR_NONE;

	token = JsonbIteratorNext(&it, &v, false);
	if (token != WJB_BEGIN_OBJECT)
		return;
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
			key = (CdpStr) {v.val.string.val, v.val.string.len};
		else if (token == WJB_VALUE)
			f(set, key, &v, arg);
	}
}

typedef struct StoredArg
{
	StringInfoData in;
	int			chunk;
} StoredArg;

static void
take_stored(CdpTraitSet *set, CdpStr key, const JsonbValue *value, void *varg)
{
	StoredArg  *arg = varg;
	CdpStamp	stamp = read_stamp(&arg->in);
	Trait	   *t = find_trait(set, key);

	/* the same key in two fragments: the newer one */
	if (t && stamp_cmp(&stamp, &t->stamp) <= 0)
		return;
	if (t == NULL)
		t = new_trait(set, key);
	set_value(t, value, &stamp);
	t->chunk = arg->chunk;
	need_chunk(set, arg->chunk)->size += t->size;
}

static void
open_stamps(StringInfo in, bytea *stamps)
{
	in->data = VARDATA_ANY(stamps);
	in->len = VARSIZE_ANY_EXHDR(stamps);
	if (pq_getmsgbyte(in) != STAMPS_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stamps of a trait chunk have an unknown version")));
}

/* traits and stamps must live as long as the set */
void
cdp_traits_add_chunk(CdpTraitSet *set, int chunk, Jsonb *traits, bytea *stamps)
{
	StoredArg	arg = {.chunk = chunk};

	open_stamps(&arg.in, stamps);
	need_chunk(set, chunk)->stored = true;
	each_member(set, traits, take_stored, &arg);
}

/* ---------------------------------------------------------------- declaring */

/* a chunk with room for this much, or a new one */
static int
choose_chunk(CdpTraitSet *set, Size size)
{
	for (int i = 0; i < set->nchunks; i++)
		if (set->chunk[i].size == 0 || set->chunk[i].size + size <= CHUNK_BYTES)
			return i;
	if (set->nchunks >= MAX_CHUNKS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a profile has too many traits")));
	return set->nchunks;
}

static void
leave_chunk(CdpTraitSet *set, Trait *t)
{
	if (t->chunk < 0)
		return;
	set->chunk[t->chunk].size -= t->size;
	set->chunk[t->chunk].changed = true;
}

static void
take_declared(CdpTraitSet *set, CdpStr key, const JsonbValue *value, void *arg)
{
	const CdpStamp *stamp = arg;
	Trait	   *t = find_trait(set, key);
	Chunk	   *c;

	if (t && stamp_cmp(stamp, &t->stamp) <= 0)
		return;
	if (t == NULL)
		t = new_trait(set, key);
	set->took = true;
	leave_chunk(set, t);
	set_value(t, value, stamp);
	if (t->chunk < 0 || (set->chunk[t->chunk].size && set->chunk[t->chunk].size + t->size > CHUNK_BYTES))
		t->chunk = choose_chunk(set, t->size);
	c = need_chunk(set, t->chunk);
	c->size += t->size;
	c->changed = true;
}

bool
cdp_traits_declare(CdpTraitSet *set, Jsonb *traits, const CdpStamp *stamp)
{
	set->took = false;
	each_member(set, traits, take_declared, (void *) stamp);
	return set->took;
}

/* ---------------------------------------------------------------- what was declared before an instant */

typedef struct KeepArg
{
	StringInfoData in;
	TimestampTz before;
	const CdpErased *erased;
} KeepArg;

static void
keep_old(CdpTraitSet *set, CdpStr key, const JsonbValue *value, void *varg)
{
	KeepArg    *arg = varg;
	CdpStamp	stamp = read_stamp(&arg->in);

	if (stamp.occurred_at >= arg->before)
		return;
	if (arg->erased)
	{
		CdpErased	erased = *arg->erased;

		erased.source = cdp_source_usable(stamp.source_id);
		if (cdp_member_is_erased(&erased, key, value))
			return;
	}
	take_declared(set, key, value, &stamp);
}

void
cdp_traits_keep(CdpTraitSet *set, Jsonb *traits, bytea *stamps, TimestampTz before, const CdpErased *erased)
{
	KeepArg		arg = {.before = before, .erased = erased};

	open_stamps(&arg.in, stamps);
	each_member(set, traits, keep_old, &arg);
}

/* ---------------------------------------------------------------- writing */

static void
write_stamp(StringInfo out, const CdpStamp *s)
{
	pq_sendbyte(out, s->rank);
	pq_sendint64(out, s->evidence_at);
	pq_sendint64(out, s->occurred_at);
	pq_sendint64(out, s->source_seq);
	pq_sendint32(out, s->source_id);
	pq_sendint16(out, s->message_id.len);
	appendBinaryStringInfo(out, s->message_id.s, s->message_id.len);
}

static void
push_trait(JsonbParseState **state, const Trait *t)
{
	JsonbValue	key,
				value = t->value;

	key.type = jbvString;
	key.val.string.val = (char *) t->key.s;
	key.val.string.len = t->key.len;
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, &value);
}

/* members of a chunk (or of all: -1), in jsonb's order */
static int
traits_of_chunk(CdpTraitSet *set, int chunk, Trait ***out)
{
	int			n = 0;

	*out = palloc(Max(set->n, 1) * sizeof(Trait *));
	for (int i = 0; i < set->n; i++)
		if (chunk < 0 || set->trait[i].chunk == chunk)
			(*out)[n++] = &set->trait[i];
	qsort(*out, n, sizeof(Trait *), trait_order);
	return n;
}

static Datum
encode_stamps(Trait **t, int n)
{
	StringInfoData out;

	pq_begintypsend(&out);
	pq_sendbyte(&out, STAMPS_VERSION);
	for (int i = 0; i < n; i++)
		write_stamp(&out, &t[i]->stamp);
	return PointerGetDatum(pq_endtypsend(&out));
}

static Datum
encode_values(Trait **t, int n, bool skip_null)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
		if (!skip_null || t[i]->value.type != jbvNull)
			push_trait(&state, t[i]);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static void
store_chunk(CdpTraitSet *set, int chunk, CdpRel *rel, int64 fragment_id, int32 workspace_id)
{
	Trait	  **t;
	int			n = traits_of_chunk(set, chunk, &t);
	Datum		key[2] = {Int64GetDatum(fragment_id), Int16GetDatum(chunk)};
	TupleTableSlot *row;

	if (set->chunk[chunk].stored)
	{
		if (!cdp_rel_find(rel, key, 2))
			elog(ERROR, "a trait chunk of a locked fragment is gone");
		row = cdp_rel_edit(rel);
	}
	else
		row = cdp_rel_new(rel);
	row->tts_values[TRAIT_FRAGMENT] = key[0];
	row->tts_values[TRAIT_CHUNK] = key[1];
	row->tts_values[TRAIT_WORKSPACE] = Int32GetDatum(workspace_id);
	row->tts_values[TRAIT_TRAITS] = encode_values(t, n, false);
	row->tts_values[TRAIT_STAMPS] = encode_stamps(t, n);
	if (set->chunk[chunk].stored)
		cdp_rel_update(rel, &rel->row->tts_tid);
}

void
cdp_traits_store(CdpTraitSet *set, CdpRel *rel, int64 fragment_id, int32 workspace_id)
{
	for (int i = 0; i < set->nchunks; i++)
		if (set->chunk[i].changed)
			store_chunk(set, i, rel, fragment_id, workspace_id);
}

/* ---------------------------------------------------------------- the stage */

static void
load_chunks(CdpTraitSet *set, CdpRel *rel, int64 fragment_id)
{
	Datum		key = Int64GetDatum(fragment_id);

	for (bool more = cdp_rel_find(rel, &key, 1); more; more = cdp_rel_next(rel))
	{
		Datum	   *v = rel->row->tts_values;

		slot_getallattrs(rel->row);
		cdp_traits_add_chunk(set, DatumGetInt16(v[TRAIT_CHUNK]),
							 DatumGetJsonbPCopy(v[TRAIT_TRAITS]), DatumGetByteaPCopy(v[TRAIT_STAMPS]));
	}
}

static CdpStamp
stamp_of(CdpWork *w, const CdpEvent *ev)
{
	return (CdpStamp) {1, ev->evidence_at, ev->occurred_at, ev->source_seq, ev->message_id, w->batch->source->id};
}

void
cdp_store_traits(CdpWork *w, CdpFragment *f)
{
	CdpTraitSet *set = cdp_traits_begin(CurrentMemoryContext);

	if (!f->created)
		load_chunks(set, w->trait, f->fragment_id);
	for (int i = 0; i < f->ndeclared; i++)
	{
		CdpStamp	stamp = stamp_of(w, f->declared[i]);

		cdp_traits_declare(set, f->declared[i]->traits, &stamp);
	}
	cdp_traits_store(set, w->trait, f->fragment_id, w->workspace_id);
}

/* ---------------------------------------------------------------- the aggregates */

PG_FUNCTION_INFO_V1(cdp_merge_traits_step);
PG_FUNCTION_INFO_V1(cdp_merge_traits_final);
PG_FUNCTION_INFO_V1(cdp_declare_traits_step);
PG_FUNCTION_INFO_V1(cdp_stamped_traits_final);

/* the aggregate's set; switches to the context that it lives in */
static CdpTraitSet *
aggregate_set(FunctionCallInfo fcinfo, MemoryContext *old)
{
	MemoryContext cxt;

	if (!AggCheckCallContext(fcinfo, &cxt))
		elog(ERROR, "function is for aggregates");
	*old = MemoryContextSwitchTo(cxt);
	return PG_ARGISNULL(0) ? cdp_traits_begin(cxt) : (CdpTraitSet *) PG_GETARG_POINTER(0);
}

Datum
cdp_merge_traits_step(PG_FUNCTION_ARGS)
{
	MemoryContext old;
	CdpTraitSet *set = aggregate_set(fcinfo, &old);

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
		cdp_traits_add_chunk(set, 0, (Jsonb *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(1)),
							 (bytea *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(2)));
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(set);
}

/* (state, traits, evidence_at, occurred_at, source_seq, message_id, source_id) */
static void
declare_arguments(FunctionCallInfo fcinfo, CdpTraitSet *set, Jsonb *traits)
{
	text	   *id = (text *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(5));
	CdpStamp	stamp = {1, PG_GETARG_TIMESTAMPTZ(2), PG_GETARG_TIMESTAMPTZ(3), PG_GETARG_INT64(4),
	{VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)}, PG_GETARG_INT32(6)};

	cdp_traits_declare(set, traits, &stamp);
}

/* the same, and stamps: not NULL for a stored chunk, of which what was declared before occurred_at counts */
Datum
cdp_declare_traits_step(PG_FUNCTION_ARGS)
{
	MemoryContext old;
	CdpTraitSet *set = aggregate_set(fcinfo, &old);
	Jsonb	   *traits = (Jsonb *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(1));

	if (PG_ARGISNULL(7))
		declare_arguments(fcinfo, set, traits);
	else
		cdp_traits_keep(set, traits, (bytea *) PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(7)), PG_GETARG_TIMESTAMPTZ(3), NULL);
	MemoryContextSwitchTo(old);
	PG_RETURN_POINTER(set);
}

Datum
cdp_merge_traits_final(PG_FUNCTION_ARGS)
{
	CdpTraitSet empty = {0};
	CdpTraitSet *set = PG_ARGISNULL(0) ? &empty : (CdpTraitSet *) PG_GETARG_POINTER(0);
	Trait	  **t;
	int			n = traits_of_chunk(set, -1, &t);

	PG_RETURN_DATUM(encode_values(t, n, true));
}

static void
push_text(JsonbParseState **state, JsonbIteratorToken token, CdpStr s)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = (char *) s.s;
	v.val.string.len = s.len;
	pushJsonbValue(state, token, &v);
}

/* {key: [value, stamp as text]}, nulls included: two sets are equal when this is */
Datum
cdp_stamped_traits_final(PG_FUNCTION_ARGS)
{
	CdpTraitSet empty = {0};
	CdpTraitSet *set = PG_ARGISNULL(0) ? &empty : (CdpTraitSet *) PG_GETARG_POINTER(0);
	JsonbParseState *state = NULL;
	Trait	  **t;
	int			n = traits_of_chunk(set, -1, &t);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		CdpStamp   *s = &t[i]->stamp;
		JsonbValue	value = t[i]->value;

		push_text(&state, WJB_KEY, t[i]->key);
		pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
		pushJsonbValue(&state, WJB_ELEM, &value);
		push_text(&state, WJB_ELEM,
				  cdp_str(psprintf("%d %lld %lld %lld %d %.*s", s->rank, (long long) s->evidence_at,
								   (long long) s->occurred_at, (long long) s->source_seq, s->source_id,
								   (int) s->message_id.len, s->message_id.s)));
		pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	}
	PG_RETURN_DATUM(JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL))));
}
