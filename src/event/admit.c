/*
 * admit.c: the last stage that touches no table.
 *
 * What can be known from the message and the configuration alone is decided
 * here: its times, its key for de-duplication, which of its identifiers count,
 * and its anchor.  Each identifier is normalised and hashed once a batch.
 *
 * An event whose identifiers are all blocked or invalid, or that has two
 * values of a namespace of limit 1 (R65.3), is stored without a person.
 * An event that occurred before the watermark W is refused as expired; no
 * other time is ever a reason (DESIGN 9.6).
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"

#include "event/event.h"
#include "identity/identity.h"
#include "engine.h"

typedef struct IdentEntry
{
	int64		hash;
	uint32		status;
	CdpIdent   *ident;
} IdentEntry;

#define SH_PREFIX ident_hash
#define SH_ELEMENT_TYPE IdentEntry
#define SH_KEY_TYPE int64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key) ^ (uint32) ((key) >> 32))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

typedef struct LinkEntry
{
	int64		hash;
	uint32		status;
	CdpLink    *link;
} LinkEntry;

#define SH_PREFIX link_hash
#define SH_ELEMENT_TYPE LinkEntry
#define SH_KEY_TYPE int64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key) ^ (uint32) ((key) >> 32))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

struct CdpIdentTable
{
	ident_hash_hash *hash;
};

struct CdpLinkTable
{
	link_hash_hash *hash;
};

CdpIdent *
cdp_batch_ident(CdpBatch *batch, int64 hash)
{
	IdentEntry *entry = ident_hash_lookup(batch->idents->hash, hash);

	return entry ? entry->ident : NULL;
}

CdpLink *
cdp_batch_link(CdpBatch *batch, int64 link_id)
{
	LinkEntry  *entry = link_hash_lookup(batch->links->hash, link_id);

	return entry ? entry->link : NULL;
}

/* ---------------------------------------------------------------- identifiers */

static CdpIdent *
intern_ident(CdpBatch *batch, CdpNamespace *ns, CdpStr value, bool *collides)
{
	const CdpPolicy *policy = &batch->source->workspace->policy;
	int64		hash;
	int32		check;
	IdentEntry *entry;
	bool		found;

	cdp_ident_hash(policy->workspace_id, ns, value, &hash, &check);
	entry = ident_hash_insert(batch->idents->hash, hash, &found);
	if (!found)
	{
		CdpIdent   *id = palloc0(sizeof(CdpIdent));

		id->hash = hash;
		id->check = check;
		id->ns = ns;
		id->rank = ns - policy->namespaces;
		id->value = value;
		id->suppressed_before = DT_NOBEGIN;
		entry->ident = id;
	}
	*collides = entry->ident->check != check;
	return entry->ident;
}

/* does this value count? */
static bool
value_counts(const CdpNamespace *ns, CdpStr value)
{
	if (value.len == 0)
		return false;
	if (ns->blocked && cdp_blocklist_match(ns->blocked, value))
		return false;
	return ns->valid == NULL || cdp_pattern_match(ns->valid, value);
}

static int
ident_order(const void *pa, const void *pb)
{
	const CdpIdent *a = *(CdpIdent *const *) pa;
	const CdpIdent *b = *(CdpIdent *const *) pb;

	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return cdp_str_cmp(a->value, b->value);
}

static bool
already_there(CdpIdent **idents, int n, const CdpIdent *id)
{
	for (int i = 0; i < n; i++)
		if (idents[i] == id)
			return true;
	return false;
}

/*
 * The identifiers of an event that count, distinct, the strongest first (of a
 * call: id, other).  A call whose id or other does not count links nothing;
 * one whose id does not count is nobody's (D09).
 */
static void
collect_idents(CdpBatch *batch, CdpEvent *ev)
{
	const CdpPolicy *policy = &batch->source->workspace->policy;
	bool		call = ev->link_kind == CDP_LINK_CALL_IDENTIFY || ev->link_kind == CDP_LINK_CALL_ALIAS;

	ev->idents = palloc(ev->npresented * sizeof(CdpIdent *));
	for (int i = 0; i < ev->npresented; i++)
	{
		CdpNamespace *ns = cdp_namespace_find(policy, ev->presented[i].namespace_name);
		CdpStr		value;
		CdpIdent   *id;
		bool		collides;

		if (ns == NULL || ns->household)
			continue;
		value = cdp_normalise(ns, ev->presented[i].value);
		if (!value_counts(ns, value))
		{
			if (call && i == 0)
				return;
			continue;
		}
		id = intern_ident(batch, ns, value, &collides);
		if (collides)
		{
			ev->outcome = CDP_OUT_QUARANTINED;
			ev->reason = CDP_REASON_HASH_COLLISION;
			return;
		}
		if (!already_there(ev->idents, ev->npresenting, id))
			ev->idents[ev->npresenting++] = id;
	}
	if (!call && ev->npresenting > 1)
		qsort(ev->idents, ev->npresenting, sizeof(CdpIdent *), ident_order);
}

/* R65.3: two values of a namespace of limit 1 without a window; an alias is the exception */
static bool
has_two_owners(const CdpEvent *ev)
{
	if (ev->link_kind != CDP_LINK_OBSERVED)
		return false;
	for (int i = 1; i < ev->npresenting; i++)
		if (ev->idents[i]->rank == ev->idents[i - 1]->rank &&
			ev->idents[i]->ns->value_limit == 1 && ev->idents[i]->ns->limit_window == 0)
			return true;
	return false;
}

/* ---------------------------------------------------------------- links */

static CdpLink *
intern_link(CdpBatch *batch, CdpEvent *ev)
{
	int64		members[CDP_MAX_IDENTIFIERS];
	LinkEntry  *entry;
	bool		found;
	int64		id;

	for (int i = 0; i < ev->nidents; i++)
		members[i] = ev->idents[i]->hash;
	id = cdp_link_hash(batch->source->workspace->id, ev->link_kind, members, ev->nidents);
	entry = link_hash_insert(batch->links->hash, id, &found);
	if (!found)
	{
		CdpLink    *link = palloc0(sizeof(CdpLink));

		link->link_id = id;
		link->kind = ev->link_kind;
		link->nmembers = ev->nidents;
		link->members = ev->idents;
		entry->link = link;
	}
	return entry->link;
}

/* an event that had two owners stays nobody's, also when one of them was stripped */
void
cdp_event_set_anchor(CdpBatch *batch, CdpEvent *ev)
{
	ev->two_owners = ev->two_owners || has_two_owners(ev);
	ev->nidents = ev->two_owners ? 0 : ev->npresenting;
	ev->link = NULL;
	if (ev->nidents == 0)
		ev->anchor = 0;
	else if (ev->nidents == 1)
		ev->anchor = ev->idents[0]->hash;
	else
	{
		ev->link = intern_link(batch, ev);
		ev->anchor = ev->link->link_id;
	}
}

/* ---------------------------------------------------------------- keys */

/*
 * Digest that stands in for a missing message id: the record's place, time and
 * bytes, so that a replay finds it again and a recreated topic does not.  A row
 * of SQL has no place: it gets a fresh id.
 */
static void
derive_message_id(CdpBatch *batch, CdpEvent *ev)
{
	CdpHasher	h;
	uint64		out[2];

	ev->derived_id = true;
	if (ev->msg->partition < 0)
	{
		out[0] = pg_prng_uint64(&pg_global_prng_state);
		out[1] = pg_prng_uint64(&pg_global_prng_state);
	}
	else
	{
		cdp_hasher_init(&h, 'd', batch->source->workspace->id);
		cdp_hasher_bytes(&h, ev->msg->topic.s, ev->msg->topic.len);
		cdp_hasher_int64(&h, ev->msg->partition);
		cdp_hasher_int64(&h, ev->msg->offset);
		cdp_hasher_int64(&h, ev->msg->record_time);
		cdp_hasher_int64(&h, ev->item);
		cdp_hasher_bytes(&h, ev->raw.s, ev->raw.len);
		cdp_hasher_done(&h, out);
	}
	ev->message_id = cdp_str(psprintf("derived-" UINT64_FORMAT "-" UINT64_FORMAT, out[0], out[1]));
}

void
cdp_seen_key(int32 workspace_id, const CdpSource *source, CdpStr message_id, uint8 *key)
{
	CdpHasher	h;
	uint64		out[2];

	cdp_hasher_init(&h, 'm', workspace_id);
	if (source && source->id_space.s)
		cdp_hasher_bytes(&h, source->id_space.s, source->id_space.len);
	else if (source && source->id_space_is_source)
		cdp_hasher_bytes(&h, source->name.s, source->name.len);
	else
		cdp_hasher_bytes(&h, "", 0);
	cdp_hasher_bytes(&h, message_id.s, message_id.len);
	cdp_hasher_done(&h, out);
	memcpy(key, out, sizeof(out));
}

static void
set_seen_key(CdpBatch *batch, CdpEvent *ev)
{
	CdpHasher	h;
	uint64		out[2];

	cdp_seen_key(batch->source->workspace->id, batch->source, ev->message_id, ev->seen_key);

	/* the stored fingerprint must not be a hash that anybody can compute */
	cdp_hasher_init(&h, 'f', batch->source->workspace->id);
	cdp_hasher_int64(&h, (int64) ev->fingerprint);
	cdp_hasher_done(&h, out);
	ev->fingerprint = out[0];
}

/* ---------------------------------------------------------------- the stage */

static void
admit_event(CdpBatch *batch, CdpEvent *ev)
{
	cdp_event_times(batch->source, ev);
	if (ev->message_id.s == NULL)
		derive_message_id(batch, ev);
	if (ev->occurred_at < batch->watermark)
	{
		ev->outcome = CDP_OUT_EXPIRED;
		return;
	}
	collect_idents(batch, ev);
	if (ev->outcome != CDP_OUT_PENDING)
		return;
	cdp_event_set_anchor(batch, ev);
	set_seen_key(batch, ev);
}

/* no identifier and no link is known yet; in batch->cxt */
void
cdp_batch_begin(CdpBatch *batch)
{
	batch->idents = palloc(sizeof(struct CdpIdentTable));
	batch->idents->hash = ident_hash_create(batch->cxt, Max(batch->nevents, 16), NULL);
	batch->links = palloc(sizeof(struct CdpLinkTable));
	batch->links->hash = link_hash_create(batch->cxt, Max(batch->nevents / 2, 16), NULL);
}

void
cdp_admit(CdpBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->cxt);

	cdp_batch_begin(batch);
	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].outcome == CDP_OUT_PENDING)
			admit_event(batch, &batch->events[i]);
	MemoryContextSwitchTo(old);
}
