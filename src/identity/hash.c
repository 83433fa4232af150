/*
 * hash.c: the 64-bit ids of identifiers and links.
 *
 * Both are keyed SipHash-128 (key.c) over length-prefixed fields, workspace
 * first, so that no two workspaces share an identifier and nobody without the
 * key can find a value by trying.  They are functions of what was presented
 * only: neither namespace numbers nor priorities go in, so another database
 * with the same key, or another order of priorities, gives the same ids.
 *
 * 0 is never returned: as an anchor or a fragment it means nobody.
 */
#include "postgres.h"

#include "identity.h"

/* domains of CdpHasher: what kind of thing is hashed */
#define DOMAIN_IDENTIFIER	'i'
#define DOMAIN_LINK			'l'

static inline int64
not_zero(uint64 hash)
{
	return hash != 0 ? (int64) hash : 1;
}

/*
 * hash: the key of cdp_data.identifier.  check: 32 bits more, which turn a
 * collision of two values into a refusal instead of a merge.
 */
void
cdp_ident_hash(int32 workspace_id, const CdpNamespace *ns, CdpStr value,
			   int64 *hash, int32 *check)
{
	CdpHasher	h;
	uint64		out[2];

	cdp_hasher_init(&h, DOMAIN_IDENTIFIER, workspace_id);
	cdp_hasher_bytes(&h, ns->name.s, ns->name.len);
	cdp_hasher_bytes(&h, value.s, value.len);
	cdp_hasher_done(&h, out);
	*hash = not_zero(out[0]);
	*check = (int32) (uint32) out[1];
}

/* Ascending order of the few members of a set. */
static void
sort_members(int64 *members, int n)
{
	for (int i = 1; i < n; i++)
	{
		int64		m = members[i];
		int			j = i;

		for (; j > 0 && members[j - 1] > m; j--)
			members[j] = members[j - 1];
		members[j] = m;
	}
}

/*
 * The id of a link: the anchor of the events that presented it.  members are
 * hashes of identifiers.  An observed link or an alias is a set, whatever the
 * order; a call has a direction: id, other.
 */
int64
cdp_link_hash(int32 workspace_id, CdpLinkKind kind, const int64 *members, int n)
{
	CdpHasher	h;
	uint64		out[2];
	char		kind_byte = (char) kind;
	int64		sorted[CDP_MAX_IDENTIFIERS];

	Assert(n <= CDP_MAX_IDENTIFIERS);
	memcpy(sorted, members, n * sizeof(int64));
	if (kind == CDP_LINK_OBSERVED || kind == CDP_LINK_ALIAS)
		sort_members(sorted, n);

	cdp_hasher_init(&h, DOMAIN_LINK, workspace_id);
	cdp_hasher_bytes(&h, &kind_byte, 1);
	for (int i = 0; i < n; i++)
		cdp_hasher_int64(&h, sorted[i]);
	cdp_hasher_done(&h, out);
	return not_zero(out[0]);
}
