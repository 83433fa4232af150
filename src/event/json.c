/*
 * json.c: one pass over the bytes of a message, then jsonb of what is stored.
 *
 * PostgreSQL 15 has no soft errors, and a message that cannot be read must
 * cost only itself; so this scanner throws nothing (but out of memory) and
 * touches no table.  It is strict: what it accepts is what jsonb_in accepts,
 * less our limits, and what it builds is what jsonb_in builds, byte for byte
 * (test/unit/decode_json compares them).
 *
 * The scanner writes a tape: one CdpJsonNode per key and value, a container
 * before its children.  It is not recursive: an open container keeps the index
 * of its parent in its node, so nesting costs tape only.  Strings without
 * escapes stay where they are in the message; others are copied to the arena.
 *
 * Two kinds of faults.  What breaks the structure (or is not UTF-8 outside of
 * a string) refuses the text as a whole.  What is wrong with one string or
 * number, and the limits per event, is only noted: in an array of events it
 * costs the one event that it is in (cdp_json_check).
 *
 * Jsonb is written straight into its binary form (see utils/jsonb.h), bottom
 * up in one go, into arena memory of a size that bounds it.  Numbers without
 * exponent are written as numeric.c's short form; this and the JEntries are
 * on-disk formats, which outlive versions of the server.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "event/json.h"

#define NO_PARENT UINT32_MAX

#define INITIAL_NODES 256
#define KEPT_NODES (64 * 1024)	/* a bigger tape is given back after its message */
#define INITIAL_MEMBERS 256
#ifndef FIRST_BLOCK				/* the fuzzer has blocks of what is asked for */
#define FIRST_BLOCK (8 * 1024)	/* bytes of arena, doubled with every block */
#define LARGEST_BLOCK (256 * 1024)
#endif

/* below this many members, insertion sort */
#define SMALL_OBJECT 16

/* JEntry, padding, container or numeric header and one digit more than the text has: see emit_numeric */
#define NODE_OVERHEAD 32

/* ---------------------------------------------------------------- arena */

CdpJson *
cdp_json_create(MemoryContext cxt)
{
	CdpJson    *j = MemoryContextAllocZero(cxt, sizeof(CdpJson));

	j->cxt = cxt;
	j->maxnodes = INITIAL_NODES;
	j->nodes = MemoryContextAlloc(cxt, j->maxnodes * sizeof(CdpJsonNode));
	j->maxmembers = INITIAL_MEMBERS;
	j->members = MemoryContextAlloc(cxt, j->maxmembers * sizeof(CdpJsonNode *));
	j->block_size = FIRST_BLOCK;
	return j;
}

void
cdp_json_free(CdpJson *j)
{
	pfree(j->nodes);
	pfree(j->members);
	pfree(j);
}

char *
cdp_json_reserve(CdpJson *j, Size size)
{
	if (unlikely((Size) (j->limit - j->free) < size))
	{
		Size		block = Max(size, j->block_size);

		j->free = MemoryContextAllocHuge(j->cxt, block);
		j->limit = j->free + block;
		j->block_size = Min(j->block_size * 2, LARGEST_BLOCK);
	}
	return j->free;
}

void
cdp_json_commit(CdpJson *j, char *end)
{
	Assert(end <= j->limit);
	j->free = Min((char *) MAXALIGN(end), j->limit);
}

void
cdp_json_forget(CdpJson *j, Jsonb *last)
{
	j->free = (char *) last;
}

/* ---------------------------------------------------------------- scanner: tokens */

/* the text as a whole is refused; returns NULL for the caller to return */
static const char *
refuse(CdpJson *j, CdpReason reason)
{
	j->reason = reason;
	return NULL;
}

static void
mark_bad(CdpJson *j, CdpJsonNode *node, CdpReason reason)
{
	if (node->kind == CDP_JSON_BAD)
		return;
	node->kind = CDP_JSON_BAD;
	node->n = reason;
	j->nbad++;
}

static inline const char *
skip_space(const CdpJson *j, const char *p)
{
	while (p < j->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

static bool
grow_tape(CdpJson *j)
{
	if (j->maxnodes >= CDP_JSON_MAX_NODES)
	{
		j->reason = CDP_REASON_MESSAGE_TOO_BIG;
		return false;
	}
	j->maxnodes *= 2;
	j->nodes = repalloc_huge(j->nodes, j->maxnodes * sizeof(CdpJsonNode));
	return true;
}

/* a new node at the end of the tape; NULL: there are too many */
static inline CdpJsonNode *
push(CdpJson *j, CdpJsonKind kind)
{
	CdpJsonNode *node;

	if (unlikely(j->nnodes == j->maxnodes) && !grow_tape(j))
		return NULL;
	node = &j->nodes[j->nnodes++];
	node->kind = kind;
	node->skip = 0;
	node->n = 0;
	return node;
}

/* is any of the eight bytes '"', '\\', below 0x20 or above 0x7F?  (false positives are harmless) */
static inline bool
has_special(uint64 w)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 highs = UINT64CONST(0x8080808080808080);
	uint64		quote = w ^ (ones * '"');
	uint64		slash = w ^ (ones * '\\');

	return ((w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & highs) != 0;
}

/* the first byte that is not plain ASCII inside a string, or the end */
static inline const char *
skip_plain(const char *p, const char *end)
{
	while (end - p >= 8)
	{
		uint64		w;

		memcpy(&w, p, 8);
		if (has_special(w))
			break;
		p += 8;
	}
	while (p < end && *p != '"' && *p != '\\' && (unsigned char) *p >= 0x20 && (unsigned char) *p < 0x80)
		p++;
	return p;
}

/* four hexadecimal digits, -1: they are not */
static int
hex4(const char *p, const char *end)
{
	int			v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		int			c = (unsigned char) p[i];

		if (c >= '0' && c <= '9')
			v = v * 16 + c - '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = v * 16 + (c | 0x20) - 'a' + 10;
		else
			return -1;
	}
	return v;
}

/*
 * \uXXXX at *p (after the u), a pair if it is the first half of one; appends
 * UTF-8 to *out.  False: not hexadecimal.  What jsonb cannot hold marks the
 * node.
 */
static bool
unescape_unicode(CdpJson *j, CdpJsonNode *node, const char **p, const char *end, char **out)
{
	int			c = hex4(*p, end);
	int			low;

	if (c < 0)
		return false;
	*p += 4;
	if (c >= 0xD800 && c <= 0xDBFF && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u')
	{
		low = hex4(*p + 2, end);
		if (low >= 0xDC00 && low <= 0xDFFF)
		{
			c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
			*p += 6;
		}
	}
	if (c == 0)
		mark_bad(j, node, CDP_REASON_NUL_CHARACTER);
	else if (c >= 0xD800 && c <= 0xDFFF)
		mark_bad(j, node, CDP_REASON_LONE_SURROGATE);
	else
	{
		unicode_to_utf8((pg_wchar) c, (unsigned char *) *out);
		*out += pg_utf_mblen((unsigned char *) *out);
	}
	return true;
}

/* one escape at *p (after the backslash); false: there is none of that kind */
static bool
unescape_one(CdpJson *j, CdpJsonNode *node, const char **p, const char *end, char **out)
{
	char		c = *(*p)++;

	switch (c)
	{
		case '"':
		case '\\':
		case '/':
			break;
		case 'b':
			c = '\b';
			break;
		case 'f':
			c = '\f';
			break;
		case 'n':
			c = '\n';
			break;
		case 'r':
			c = '\r';
			break;
		case 't':
			c = '\t';
			break;
		case 'u':
			return unescape_unicode(j, node, p, end, out);
		default:
			return false;
	}
	*(*out)++ = c;
	return true;
}

/* copy the string [p, end) to the arena without its escapes; false: invalid escape */
static bool
unescape(CdpJson *j, CdpJsonNode *node, const char *p, const char *end)
{
	char	   *copy = cdp_json_reserve(j, end - p);
	char	   *out = copy;

	while (p < end)
	{
		const char *q = memchr(p, '\\', end - p);
		Size		n = (q ? q : end) - p;

		memcpy(out, p, n);
		out += n;
		p += n;
		if (q == NULL)
			break;
		p++;
		if (!unescape_one(j, node, &p, end, &out))
			return false;
	}
	node->s = copy;
	node->len = out - copy;
	cdp_json_commit(j, out);
	return true;
}

/*
 * A character above 0x7F; the bytes that are not one are stepped over singly.
 */
static const char *
scan_multibyte(CdpJson *j, CdpJsonNode *node, const char *p)
{
	int			n = pg_utf_mblen((const unsigned char *) p);

	if (j->end - p >= n && pg_utf8_islegal((const unsigned char *) p, n))
		return p + n;
	mark_bad(j, node, CDP_REASON_INVALID_ENCODING);
	return p + 1;
}

/* the rest of a string that is not all plain ASCII, from p on */
static const char *
scan_string_slowly(CdpJson *j, CdpJsonNode *node, const char *p)
{
	bool		escaped = false;

	for (;;)
	{
		p = skip_plain(p, j->end);
		if (p == j->end)
			return refuse(j, CDP_REASON_INVALID_JSON);
		if (*p == '"')
			break;
		if (*p == '\\')
		{
			escaped = true;
			if (j->end - p < 2)
				return refuse(j, CDP_REASON_INVALID_JSON);
			/* an escaped byte above 0x7F is refused by unescape */
			p += 2;
		}
		else if ((unsigned char) *p < 0x20)
			return refuse(j, CDP_REASON_INVALID_JSON);
		else
			p = scan_multibyte(j, node, p);
	}
	node->len = p - node->s;
	if (escaped && !unescape(j, node, node->s, p))
		return refuse(j, CDP_REASON_INVALID_JSON);
	return p;
}

/* a string whose opening quote is at p */
static inline const char *
scan_string(CdpJson *j, const char *p)
{
	CdpJsonNode *node = push(j, CDP_JSON_STRING);
	const char *at = p++;

	if (unlikely(node == NULL))
		return NULL;
	node->s = p;
	node->raw_at = at - j->start;
	p = skip_plain(p, j->end);
	if (likely(p < j->end && *p == '"'))
		node->len = p - node->s;
	else if ((p = scan_string_slowly(j, node, p)) == NULL)
		return NULL;
	node->raw_len = p + 1 - at;
	if (unlikely(node->len > CDP_JSON_MAX_STRING))
		mark_bad(j, node, CDP_REASON_VALUE_TOO_BIG);
	return p + 1;
}

static inline const char *
skip_digits(const char *p, const char *end)
{
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p;
}

/* the exponent at p (after the e); *large: beyond the limit.  NULL: there is none */
static const char *
scan_exponent(const char *p, const char *end, bool *large)
{
	const char *digits;
	int			v = 0;

	if (p < end && (*p == '+' || *p == '-'))
		p++;
	digits = p;
	p = skip_digits(p, end);
	for (; digits < p && v <= CDP_JSON_MAX_DIGITS; digits++)
		v = v * 10 + *digits - '0';
	*large = v > CDP_JSON_MAX_DIGITS;
	return p[-1] >= '0' && p[-1] <= '9' ? p : NULL;
}

/* the number that begins at p, NULL if none does */
static const char *
scan_number_text(const char *p, const char *end, bool *too_long)
{
	const char *digits;
	int			ndigits;

	if (*p == '-')
		p++;
	digits = p;
	p = skip_digits(p, end);
	ndigits = p - digits;
	if (ndigits == 0 || (ndigits > 1 && *digits == '0'))
		return NULL;
	if (p < end && *p == '.')
	{
		digits = ++p;
		p = skip_digits(p, end);
		if (p == digits)
			return NULL;
		ndigits += p - digits;
	}
	if (p < end && (*p == 'e' || *p == 'E'))
		p = scan_exponent(p + 1, end, too_long);
	if (ndigits > CDP_JSON_MAX_DIGITS)
		*too_long = true;
	return p;
}

static const char *
scan_number(CdpJson *j, const char *p)
{
	CdpJsonNode *node = push(j, CDP_JSON_NUMBER);
	bool		too_long = false;

	if (node == NULL)
		return NULL;
	node->s = p;
	node->raw_at = p - j->start;
	p = scan_number_text(p, j->end, &too_long);
	if (p == NULL)
		return refuse(j, CDP_REASON_INVALID_JSON);
	node->len = p - node->s;
	node->raw_len = node->len;
	if (too_long)
		mark_bad(j, node, CDP_REASON_NUMBER_TOO_LONG);
	return p;
}

static const char *
scan_literal(CdpJson *j, const char *p, const char *word, CdpJsonKind kind)
{
	Size		len = strlen(word);
	CdpJsonNode *node;

	if ((Size) (j->end - p) < len || memcmp(p, word, len) != 0)
		return refuse(j, CDP_REASON_INVALID_JSON);
	node = push(j, kind);
	if (node == NULL)
		return NULL;
	node->s = p;
	node->len = len;
	node->raw_at = p - j->start;
	node->raw_len = len;
	return p + len;
}

/* ---------------------------------------------------------------- scanner: structure */

/* key and colon; p is at the quote or what stands in its place */
static inline const char *
scan_key(CdpJson *j, const char *p)
{
	if (p == j->end || *p != '"')
		return refuse(j, CDP_REASON_INVALID_JSON);
	p = scan_string(j, p);
	if (p == NULL)
		return NULL;
	j->nkeys++;
	p = skip_space(j, p);
	if (p == j->end || *p != ':')
		return refuse(j, CDP_REASON_INVALID_JSON);
	return p + 1;
}

/* while it is open: next is the parent's index, keys what was counted before it */
static const char *
open_container(CdpJson *j, const char *p, CdpJsonKind kind, uint32 *open)
{
	CdpJsonNode *node = push(j, kind);

	if (node == NULL)
		return NULL;
	node->s = p;
	node->next = *open;
	node->keys = j->nkeys;
	*open = node - j->nodes;
	j->depth++;
	j->max_depth = Max(j->max_depth, j->depth);
	return p + 1;
}

static const char *
close_container(CdpJson *j, const char *p, uint32 *open)
{
	CdpJsonNode *node = &j->nodes[*open];

	*open = node->next;
	node->next = j->nnodes;
	node->keys = j->nkeys - node->keys;
	node->len = p + 1 - node->s;
	j->depth--;
	return p + 1;
}

/*
 * A scalar, or the beginning of a container; *inside tells that a first
 * child may follow.
 */
static inline const char *
scan_value(CdpJson *j, const char *p, uint32 *open, bool *inside)
{
	*inside = false;
	if (p == j->end)
		return refuse(j, CDP_REASON_INVALID_JSON);
	if (*open != NO_PARENT)
		j->nodes[*open].n++;
	switch (*p)
	{
		case '"':
			return scan_string(j, p);
		case '{':
			*inside = true;
			return open_container(j, p, CDP_JSON_OBJECT, open);
		case '[':
			*inside = true;
			return open_container(j, p, CDP_JSON_ARRAY, open);
		case 't':
			return scan_literal(j, p, "true", CDP_JSON_TRUE);
		case 'f':
			return scan_literal(j, p, "false", CDP_JSON_FALSE);
		case 'n':
			return scan_literal(j, p, "null", CDP_JSON_NULL);
		default:
			return scan_number(j, p);
	}
}

/* close what ends at p; then p is at a comma, or at the end of the text (*open: none) */
static inline const char *
scan_ends(CdpJson *j, const char *p, uint32 *open)
{
	for (;;)
	{
		p = skip_space(j, p);
		if (*open == NO_PARENT)
			return p == j->end ? p : refuse(j, CDP_REASON_INVALID_JSON);
		if (p == j->end)
			return refuse(j, CDP_REASON_INVALID_JSON);
		if (*p == ',')
			return p;
		if (*p != (j->nodes[*open].kind == CDP_JSON_OBJECT ? '}' : ']'))
			return refuse(j, CDP_REASON_INVALID_JSON);
		p = close_container(j, p, open);
	}
}

/* the whole text; false: refused */
static bool
scan_text(CdpJson *j)
{
	const char *p = j->start;
	uint32		open = NO_PARENT;

	for (;;)
	{
		bool		inside;

		p = scan_value(j, skip_space(j, p), &open, &inside);
		if (p == NULL)
			return false;
		if (inside)
		{
			p = skip_space(j, p);
			inside = p < j->end && *p != '}' && *p != ']';
		}
		if (!inside)
		{
			p = scan_ends(j, p, &open);
			if (p == NULL)
				return false;
			if (open == NO_PARENT)
				return true;
			p = skip_space(j, p + 1);
		}
		if (j->nodes[open].kind == CDP_JSON_OBJECT && (p = scan_key(j, p)) == NULL)
			return false;
	}
}

static void
begin_text(CdpJson *j, CdpStr text)
{
	if (j->maxnodes > KEPT_NODES)
	{
		pfree(j->nodes);
		j->maxnodes = INITIAL_NODES;
		j->nodes = MemoryContextAlloc(j->cxt, j->maxnodes * sizeof(CdpJsonNode));
	}
	j->start = text.s;
	j->end = text.s + text.len;
	j->nnodes = j->nkeys = j->depth = j->max_depth = j->nbad = 0;
}

/*
 * The scanner stops at the first fault; "not UTF-8" explains more than where
 * it stopped.
 */
static bool
end_text(CdpJson *j, CdpStr text, bool ok)
{
	if (!ok && j->reason == CDP_REASON_INVALID_JSON && !pg_verify_mbstr(PG_UTF8, text.s, text.len, true))
		j->reason = CDP_REASON_INVALID_ENCODING;
	return ok;
}

bool
cdp_json_parse(CdpJson *j, CdpStr text)
{
	begin_text(j, text);
	return end_text(j, text, scan_text(j));
}

/* a string that was not JSON; false: no room */
static bool
push_text(CdpJson *j, CdpStr text)
{
	CdpJsonNode *node = push(j, CDP_JSON_STRING);

	if (node == NULL)
		return false;
	node->s = text.s;
	node->len = text.len;
	node->raw_at = node->raw_len = 0;
	if (text.len > CDP_JSON_MAX_STRING)
		mark_bad(j, node, CDP_REASON_VALUE_TOO_BIG);
	else if (memchr(text.s, '\0', text.len) != NULL)
		mark_bad(j, node, CDP_REASON_NUL_CHARACTER);
	else if (!pg_verify_mbstr(PG_UTF8, text.s, text.len, true))
		mark_bad(j, node, CDP_REASON_INVALID_ENCODING);
	return true;
}

bool
cdp_json_assemble(CdpJson *j, const CdpHeader *texts, int n, CdpStr name, CdpStr json)
{
	uint32		len = name.len + json.len;
	CdpJsonNode *root;

	begin_text(j, json);
	if (push(j, CDP_JSON_OBJECT) == NULL)
		return false;
	for (int i = 0; i < n; i++)
	{
		if (!push_text(j, texts[i].name) || !push_text(j, texts[i].value))
			return false;
		len += texts[i].name.len + texts[i].value.len;
	}
	j->nkeys = n;
	j->depth = j->max_depth = 1;
	if (json.s)
	{
		j->nkeys++;
		if (!push_text(j, name) || !end_text(j, json, scan_text(j)))
			return false;
	}
	root = j->nodes;
	root->s = json.s;
	root->len = len;
	root->n = j->nkeys > n ? n + 1 : n;
	root->next = j->nnodes;
	root->keys = j->nkeys;
	return true;
}

const CdpJsonNode *
cdp_json_append(CdpJson *j, CdpStr text)
{
	const char *start = j->start,
			   *end = j->end;
	uint32		at = j->nnodes;
	bool		ok;

	j->start = text.s;
	j->end = text.s + text.len;
	j->depth = 0;
	ok = scan_text(j);
	j->start = start;
	j->end = end;
	return ok ? j->nodes + at : NULL;
}

/* ---------------------------------------------------------------- reading the tape */

CdpStr
cdp_json_raw(const CdpJson *j, const CdpJsonNode *value)
{
	if (cdp_json_is_container(value))
		return (CdpStr) {value->s, value->len};
	return (CdpStr) {j->start + value->raw_at, value->raw_len};
}

const CdpJsonNode *
cdp_json_member(const CdpJson *j, const CdpJsonNode *object, CdpStr key)
{
	const CdpJsonNode *found = NULL;

	if (object == NULL)
		return NULL;
	CDP_JSON_FOREACH_MEMBER(j, object, k)
	{
		if (k->len == key.len && memcmp(k->s, key.s, key.len) == 0)
			found = k + 1;
	}
	return found;
}

/* is something in it nested deeper than this many levels? */
static bool
deeper_than(const CdpJson *j, const CdpJsonNode *value, int levels)
{
	const CdpJsonNode *child = value + 1;

	if (!cdp_json_is_container(value))
		return false;
	if (levels == 0)
		return true;
	for (uint32 i = 0; i < value->n; i++)
	{
		if (value->kind == CDP_JSON_OBJECT)
			child++;
		if (deeper_than(j, child, levels - 1))
			return true;
		child = cdp_json_after(j, child);
	}
	return false;
}

CdpReason
cdp_json_check(CdpJson *j, const CdpJsonNode *value)
{
	if (j->nbad > 0)
	{
		const CdpJsonNode *end = cdp_json_after(j, value);

		for (const CdpJsonNode *n = value; n < end; n++)
			if (n->kind == CDP_JSON_BAD)
				return (CdpReason) n->n;
	}
	if (cdp_json_is_container(value) && value->keys > CDP_JSON_MAX_KEYS)
		return CDP_REASON_TOO_MANY_KEYS;
	if (j->max_depth > CDP_JSON_MAX_DEPTH && deeper_than(j, value, CDP_JSON_MAX_DEPTH))
		return CDP_REASON_TOO_DEEP;
	return CDP_REASON_COUNT;
}

/* ---------------------------------------------------------------- jsonb: numbers */

/* numeric.c's NumericShort */
#define NUMERIC_DIGITS_PER_GROUP 4
#define NUMERIC_SHORT_FLAG		0x8000
#define NUMERIC_SHORT_NEGATIVE	0x2000
#define NUMERIC_SHORT_SCALE_SHIFT 7
#define NUMERIC_SHORT_SCALE_MAX 63
#define NUMERIC_SHORT_WEIGHT_NEGATIVE 0x0040
#define NUMERIC_SHORT_WEIGHT_MASK 0x003F
#define NUMERIC_SHORT_GROUPS	(CDP_JSON_MAX_DIGITS / NUMERIC_DIGITS_PER_GROUP + 2)

typedef struct ShortNumeric
{
	int32		vl_len_;
	uint16		header;
	int16		digits[FLEXIBLE_ARRAY_MEMBER];
} ShortNumeric;

/* decimal digits to groups of four; the last one is filled up with zeros */
static int
group_digits(const char *s, int n, int first, int16 *groups)
{
	int			ngroups = 0;
	int			size = first;

	while (n > 0)
	{
		int			v = 0;

		for (int i = 0; i < size; i++)
			v = v * 10 + (i < n ? s[i] - '0' : 0);
		groups[ngroups++] = v;
		s += size;
		n -= size;
		size = NUMERIC_DIGITS_PER_GROUP;
	}
	return ngroups;
}

/* write sign, groups and scale as numeric.c's make_result does */
static void
write_short_numeric(CdpJson *j, int16 *groups, int n, int weight, int scale, bool negative)
{
	ShortNumeric *num = (ShortNumeric *) j->out;

	for (; n > 0 && groups[0] == 0; groups++, n--)
		weight--;
	while (n > 0 && groups[n - 1] == 0)
		n--;
	if (n == 0)
	{
		weight = 0;
		negative = false;
	}
	num->header = NUMERIC_SHORT_FLAG | (negative ? NUMERIC_SHORT_NEGATIVE : 0)
		| scale << NUMERIC_SHORT_SCALE_SHIFT
		| (weight < 0 ? NUMERIC_SHORT_WEIGHT_NEGATIVE : 0)
		| (weight & NUMERIC_SHORT_WEIGHT_MASK);
	memcpy(num->digits, groups, n * sizeof(int16));
	SET_VARSIZE(num, offsetof(ShortNumeric, digits) + n * sizeof(int16));
	j->out += VARSIZE(num);
}

/* anything else goes through numeric_in; within our limits it cannot raise */
static void
write_any_numeric(CdpJson *j, const CdpJsonNode *node)
{
	char		text[CDP_JSON_MAX_DIGITS * 2 + 16];
	char	   *copy = node->len < sizeof(text) ? text : palloc(node->len + 1);
	Datum		num;

	/* the digits are limited, the zeros of an exponent are not */
	memcpy(copy, node->s, node->len);
	copy[node->len] = '\0';
	num = DirectFunctionCall3(numeric_in, CStringGetDatum(copy), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	memcpy(j->out, DatumGetPointer(num), VARSIZE_ANY(DatumGetPointer(num)));
	j->out += VARSIZE_ANY(DatumGetPointer(num));
	pfree(DatumGetPointer(num));
	if (copy != text)
		pfree(copy);
}

static void
write_numeric(CdpJson *j, const CdpJsonNode *node)
{
	bool		negative = node->s[0] == '-';
	const char *s = node->s + negative;
	const char *end = node->s + node->len;
	const char *point = skip_digits(s, end);
	int			nint = point - s;
	int			scale = point < end ? end - point - 1 : 0;
	int16		groups[2 * NUMERIC_SHORT_GROUPS];
	int			n;

	if (scale > NUMERIC_SHORT_SCALE_MAX || memchr(point, 'e', end - point) || memchr(point, 'E', end - point))
	{
		write_any_numeric(j, node);
		return;
	}
	n = group_digits(s, nint, (nint - 1) % NUMERIC_DIGITS_PER_GROUP + 1, groups);
	if (scale > 0)
		n += group_digits(point + 1, scale, NUMERIC_DIGITS_PER_GROUP, groups + n);
	write_short_numeric(j, groups, n, (nint - 1) / NUMERIC_DIGITS_PER_GROUP, scale, negative);
}

/* ---------------------------------------------------------------- jsonb: values */

static JEntry emit_value(CdpJson *j, const CdpJsonNode *node);

static inline void
pad_to_int(CdpJson *j)
{
	while ((uintptr_t) j->out % sizeof(int32) != 0)
		*j->out++ = 0;
}

static inline JEntry
emit_string(CdpJson *j, const CdpJsonNode *node)
{
	memcpy(j->out, node->s, node->len);
	j->out += node->len;
	return JENTRY_ISSTRING | node->len;
}

static JEntry
emit_numeric(CdpJson *j, const CdpJsonNode *node)
{
	char	   *start = j->out;

	pad_to_int(j);
	write_numeric(j, node);
	return JENTRY_ISNUMERIC | (JEntry) (j->out - start);
}

/* header and room for the children's JEntries */
static inline JEntry *
emit_header(CdpJson *j, uint32 header, uint32 nentries)
{
	JEntry	   *entries;

	*(uint32 *) j->out = header;
	entries = (JEntry *) (j->out + sizeof(uint32));
	j->out = (char *) (entries + nentries);
	return entries;
}

/* child number i has been written: its entry, with an offset every so often */
static inline void
set_entry(JEntry *entries, uint32 i, JEntry entry, uint32 *total)
{
	*total += JBE_OFFLENFLD(entry);
	if (i % JB_OFFSET_STRIDE == 0)
		entry = (entry & JENTRY_TYPEMASK) | *total | JENTRY_HAS_OFF;
	entries[i] = entry;
}

static void
emit_array(CdpJson *j, const CdpJsonNode *node)
{
	JEntry	   *entries = emit_header(j, JB_FARRAY | node->n, node->n);
	uint32		total = 0;
	uint32		i = 0;

	CDP_JSON_FOREACH_ELEMENT(j, node, e)
		set_entry(entries, i++, emit_value(j, e), &total);
}

/* jsonb's order of keys: by length, then bytewise */
static inline int
key_cmp(const CdpJsonNode *a, const CdpJsonNode *b)
{
	if (a->len != b->len)
		return a->len < b->len ? -1 : 1;
	return memcmp(a->s, b->s, a->len);
}

/* equal keys in the order of the tape */
static int
key_place_cmp(const void *a, const void *b)
{
	const CdpJsonNode *x = *(const CdpJsonNode *const *) a;
	const CdpJsonNode *y = *(const CdpJsonNode *const *) b;
	int			c = key_cmp(x, y);

	return c ? c : (x > y) - (x < y);
}

static void
sort_keys(const CdpJsonNode **keys, uint32 n)
{
	if (n > SMALL_OBJECT)
	{
		qsort(keys, n, sizeof(*keys), key_place_cmp);
		return;
	}
	for (uint32 i = 1; i < n; i++)
	{
		const CdpJsonNode *key = keys[i];
		uint32		k = i;

		for (; k > 0 && key_cmp(keys[k - 1], key) > 0; k--)
			keys[k] = keys[k - 1];
		keys[k] = key;
	}
}

/* of equal keys the last one stays */
static uint32
unique_keys(const CdpJsonNode **keys, uint32 n)
{
	uint32		kept = 0;

	for (uint32 i = 0; i < n; i++)
	{
		if (kept > 0 && key_cmp(keys[kept - 1], keys[i]) == 0)
			kept--;
		keys[kept++] = keys[i];
	}
	return kept;
}

/* an object of these members; keys is sorted in place */
static void
emit_object(CdpJson *j, const CdpJsonNode **keys, uint32 n)
{
	JEntry	   *entries;
	uint32		total = 0;

	sort_keys(keys, n);
	n = unique_keys(keys, n);
	entries = emit_header(j, JB_FOBJECT | n, n * 2);
	for (uint32 i = 0; i < n; i++)
		set_entry(entries, i, emit_string(j, keys[i]), &total);
	for (uint32 i = 0; i < n; i++)
		set_entry(entries, n + i, emit_value(j, keys[i] + 1), &total);
}

static void
emit_container(CdpJson *j, const CdpJsonNode *node)
{
	uint32		first = j->nmembers;

	if (node->kind == CDP_JSON_ARRAY)
	{
		emit_array(j, node);
		return;
	}
	CDP_JSON_FOREACH_MEMBER(j, node, key)
	{
		if (!key[1].skip)
			j->members[j->nmembers++] = key;
	}
	emit_object(j, j->members + first, j->nmembers - first);
	j->nmembers = first;
}

/* recursive; the depth was checked */
static JEntry
emit_value(CdpJson *j, const CdpJsonNode *node)
{
	char	   *start = j->out;

	switch ((CdpJsonKind) node->kind)
	{
		case CDP_JSON_NULL:
			return JENTRY_ISNULL;
		case CDP_JSON_FALSE:
			return JENTRY_ISBOOL_FALSE;
		case CDP_JSON_TRUE:
			return JENTRY_ISBOOL_TRUE;
		case CDP_JSON_NUMBER:
			return emit_numeric(j, node);
		case CDP_JSON_STRING:
			return emit_string(j, node);
		case CDP_JSON_ARRAY:
		case CDP_JSON_OBJECT:
			pad_to_int(j);
			emit_container(j, node);
			return JENTRY_ISCONTAINER | (JEntry) (j->out - start);
		case CDP_JSON_BAD:
			break;
	}
	elog(ERROR, "JSON value was not checked");
}

/* ---------------------------------------------------------------- jsonb: the whole */

/* room for jsonb of values of so many bytes and nodes; the stack of members */
static Jsonb *
begin_jsonb(CdpJson *j, Size bytes, uint32 nnodes)
{
	Size		bound = VARHDRSZ + bytes + (Size) (nnodes + 2) * NODE_OVERHEAD;
	Jsonb	   *jb = (Jsonb *) cdp_json_reserve(j, bound);

	if (j->maxmembers < nnodes)
	{
		j->maxmembers = Max(nnodes, j->maxmembers * 2);
		j->members = repalloc(j->members, j->maxmembers * sizeof(CdpJsonNode *));
	}
	j->nmembers = 0;
	j->out = (char *) &jb->root;
	return jb;
}

static Jsonb *
end_jsonb(CdpJson *j, Jsonb *jb)
{
	SET_VARSIZE(jb, j->out - (char *) jb);
	cdp_json_commit(j, j->out);
	return jb;
}

static void
emit_scalar_root(CdpJson *j, const CdpJsonNode *value)
{
	JEntry	   *entries = emit_header(j, JB_FSCALAR | JB_FARRAY | 1, 1);
	uint32		total = 0;

	set_entry(entries, 0, emit_value(j, value), &total);
}

Jsonb *
cdp_json_jsonb(CdpJson *j, const CdpJsonNode *value)
{
	Jsonb	   *jb = begin_jsonb(j, value->len, cdp_json_after(j, value) - value);

	if (cdp_json_is_container(value))
		emit_container(j, value);
	else
		emit_scalar_root(j, value);
	return end_jsonb(j, jb);
}

Jsonb *
cdp_json_object(CdpJson *j, const CdpJsonNode **keys, uint32 nkeys)
{
	Size		bytes = 0;
	uint32		nnodes = 0;
	Jsonb	   *jb;

	for (uint32 i = 0; i < nkeys; i++)
	{
		bytes += keys[i]->len + keys[i][1].len;
		nnodes += cdp_json_after(j, keys[i] + 1) - keys[i];
	}
	jb = begin_jsonb(j, bytes, nnodes);
	emit_object(j, keys, nkeys);
	return end_jsonb(j, jb);
}
