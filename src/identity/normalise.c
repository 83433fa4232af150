/*
 * normalise.c: from the bytes of an identifier as sent to the value that is
 * hashed, and which values never identify anybody.
 *
 * Everything here is a pure function of its arguments: two servers with other
 * locales, ICU versions or database collations must find the same people.  So
 * there is no towlower(), no collation but C, and the tables below are part of
 * the format: another table makes other identifiers of the same bytes.  A
 * change of what a normaliser returns needs a new CDP_NORMALISER_VERSION and
 * every stored identifier hashed again from its value.
 *
 * Values are UTF-8 and valid (decode has checked).
 *
 *	trim	removes white space at both ends: Unicode's White_Space, and U+FEFF
 *	lower	simple lower case of Latin, Greek and Cyrillic letters where it has
 *			as many bytes: U+0130, U+023A, U+023E and U+1E9E stay as they are,
 *			and so do the phonetic and African letters of Latin Extended-B;
 *			a final sigma is not distinguished
 *	digits	keeps ASCII digits, and a + before the first of them
 *
 * They are applied in this order.
 *
 * Patterns are PostgreSQL's advanced regular expressions under collation C,
 * matched against the whole value.  They are compiled, and found wrong, at
 * configuration time.  Back references are refused, so that a match needs no
 * backtracking and takes time linear in the value.  The usual block pattern, a
 * repeated set of ASCII characters such as ^[0-]*$, does not go through the
 * regular expression engine at all.
 */
#include "postgres.h"

#include "catalog/pg_collation_d.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/memutils.h"

#include "identity.h"

/* characters of a value that are widened on the stack */
#define WIDE_ON_STACK	256

/* ---------------------------------------------------------------- lower */

/* upper-case letters first, first + step, .. last have lower case delta later */
typedef struct CaseRange
{
	uint16		first,
				last;
	int16		step,
				delta;
} CaseRange;

static const CaseRange case_ranges[] = {
	/* Latin-1 Supplement, Latin Extended-A */
	{0x00C0, 0x00D6, 1, 32}, {0x00D8, 0x00DE, 1, 32},
	{0x0100, 0x012E, 2, 1}, {0x0132, 0x0136, 2, 1}, {0x0139, 0x0147, 2, 1},
	{0x014A, 0x0176, 2, 1}, {0x0178, 0x0178, 1, -121}, {0x0179, 0x017D, 2, 1},
	/* Latin Extended-B: Pinyin, Sami, Romanian, Livonian */
	{0x01CD, 0x01DB, 2, 1}, {0x01DE, 0x01EE, 2, 1}, {0x01F8, 0x021E, 2, 1},
	{0x0222, 0x0232, 2, 1},
	/* Greek */
	{0x0386, 0x0386, 1, 38}, {0x0388, 0x038A, 1, 37}, {0x038C, 0x038C, 1, 64},
	{0x038E, 0x038F, 1, 63}, {0x0391, 0x03A1, 1, 32}, {0x03A3, 0x03AB, 1, 32},
	/* Cyrillic */
	{0x0400, 0x040F, 1, 80}, {0x0410, 0x042F, 1, 32}, {0x0460, 0x0480, 2, 1},
	{0x048A, 0x04BE, 2, 1}, {0x04C0, 0x04C0, 1, 15}, {0x04C1, 0x04CD, 2, 1},
	{0x04D0, 0x052E, 2, 1},
	/* Latin Extended Additional */
	{0x1E00, 0x1E94, 2, 1}, {0x1EA0, 0x1EFE, 2, 1},
};

/* Simple lower case of a code point; itself if it has none. */
static pg_wchar
lower_char(pg_wchar c)
{
	for (int i = 0; i < lengthof(case_ranges); i++)
	{
		const CaseRange *r = &case_ranges[i];

		if (c < r->first)
			return c;			/* ranges ascend */
		if (c <= r->last)
			return (c - r->first) % r->step == 0 ? c + r->delta : c;
	}
	return c;
}

/* Bytes of the character that begins with this byte. */
static inline int
utf8_length(unsigned char c)
{
	return c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

/* True if lower would leave the value as it is, looking at ASCII only. */
static bool
is_plain_lower(CdpStr v)
{
	for (uint32 i = 0; i < v.len; i++)
	{
		unsigned char c = v.s[i];

		if (c >= 0x80 || (c >= 'A' && c <= 'Z'))
			return false;
	}
	return true;
}

/* Lower case; as long as the value. */
static void
lower_into(char *dst, CdpStr v)
{
	uint32		i = 0;

	while (i < v.len)
	{
		unsigned char c = v.s[i];
		int			n = utf8_length(c);

		if (n == 1)
			dst[i] = (c >= 'A' && c <= 'Z') ? c + ('a' - 'A') : c;
		else if (i + n > v.len || n == 4)
		{
			n = Min(n, v.len - i);
			memcpy(dst + i, v.s + i, n);
		}
		else
			unicode_to_utf8(lower_char(utf8_to_unicode((const unsigned char *) v.s + i)),
							(unsigned char *) dst + i);
		i += n;
	}
}

/* ---------------------------------------------------------------- trim, digits */

static bool
is_space(pg_wchar c)
{
	if (c < 0x80)
		return c == ' ' || (c >= '\t' && c <= '\r');
	return c == 0x0085 || c == 0x00A0 || c == 0x1680 ||
		(c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
		c == 0x202F || c == 0x205F || c == 0x3000 || c == 0xFEFF;
}

/* The code point of the character of n bytes at p. */
static pg_wchar
char_at(const char *p, int n)
{
	return n == 1 ? (unsigned char) *p : utf8_to_unicode((const unsigned char *) p);
}

static CdpStr
trim(CdpStr v)
{
	while (v.len > 0)
	{
		int			n = utf8_length(v.s[0]);

		if (n > v.len || !is_space(char_at(v.s, n)))
			break;
		v.s += n;
		v.len -= n;
	}
	while (v.len > 0)
	{
		uint32		at = v.len - 1;

		while (at > 0 && (v.s[at] & 0xC0) == 0x80)
			at--;
		if (utf8_length(v.s[at]) != v.len - at || !is_space(char_at(v.s + at, v.len - at)))
			break;
		v.len = at;
	}
	return v;
}

/* Keep digits and one + before them; a + alone is nothing. */
static CdpStr
digits(CdpStr v)
{
	char	   *dst = palloc(v.len + 1);
	uint32		n = 0;

	for (uint32 i = 0; i < v.len; i++)
		if ((v.s[i] >= '0' && v.s[i] <= '9') || (v.s[i] == '+' && n == 0))
			dst[n++] = v.s[i];
	if (n == 1 && dst[0] == '+')
		n = 0;
	return (CdpStr) {dst, n};
}

/*
 * The value that is compared, hashed and stored.  Either the input itself or a
 * copy in the current context.
 */
CdpStr
cdp_normalise(const CdpNamespace *ns, CdpStr value)
{
	if (ns->normaliser & CDP_NORM_TRIM)
		value = trim(value);
	if ((ns->normaliser & CDP_NORM_LOWER) && !is_plain_lower(value))
	{
		char	   *dst = palloc(value.len + 1);

		lower_into(dst, value);
		value.s = dst;
	}
	if (ns->normaliser & CDP_NORM_DIGITS)
		value = digits(value);
	return value;
}

/* The bit of one normaliser's name; -1 when there is none such. */
static int
normaliser_bit(CdpStr name)
{
	if (cdp_str_eq(name, cdp_str("trim")))
		return CDP_NORM_TRIM;
	if (cdp_str_eq(name, cdp_str("lower")))
		return CDP_NORM_LOWER;
	if (cdp_str_eq(name, cdp_str("digits")))
		return CDP_NORM_DIGITS;
	return -1;
}

/* Bits of a comma separated list, or 0 for 'none'; -1 when a name is unknown. */
int
cdp_normaliser_parse(const char *name)
{
	int			bits = 0;

	if (strcmp(name, "none") == 0)
		return 0;
	for (;;)
	{
		const char *comma = strchrnul(name, ',');
		int			bit = normaliser_bit(trim((CdpStr) {name, comma - name}));

		if (bit < 0)
			return -1;
		bits |= bit;
		if (*comma == '\0')
			return bits;
		name = comma + 1;
	}
}

/* ---------------------------------------------------------------- patterns */

typedef struct CdpPattern
{
	/* a repeated set of ASCII characters: the value is looked up byte by byte */
	bool		repeated_set;
	bool		empty_matches;
	uint64		set[2];

	/* all others */
	regex_t		regex;
	MemoryContextCallback free_regex;
} CdpPattern;

static inline void
set_add(uint64 *set, unsigned char c)
{
	set[c >> 6] |= UINT64CONST(1) << (c & 63);
}

static inline bool
set_has(const uint64 *set, unsigned char c)
{
	return c < 0x80 && (set[c >> 6] & (UINT64CONST(1) << (c & 63)));
}

/*
 * Read the inside of [..] up to and with its ].  Returns what follows, or NULL
 * when it is not a plain set of ASCII characters and ascending ranges.
 */
static const char *
parse_set(const char *p, uint64 *set)
{
	const char *start = p;

	while (*p != ']' || p == start)
	{
		unsigned char c = *p++,
					last = c;

		if (c == '\0' || c >= 0x80 || strchr("[]\\^", c))
			return NULL;
		if (c != '-' && p[0] == '-' && p[1] != ']')
		{
			last = p[1];
			if (last < c || last >= 0x80 || strchr("[\\^-", last) || p[2] == '-')
				return NULL;
			p += 2;
		}
		else if (c == '-' && p - 1 != start && *p != ']')
			return NULL;
		for (int i = c; i <= last; i++)
			set_add(set, i);
	}
	return p + 1;
}

/* True if the pattern is ^[..]*$ or ^[..]+$, with or without anchors. */
static bool
parse_repeated_set(CdpPattern *pattern, const char *p)
{
	if (*p == '^')
		p++;
	if (*p++ != '[')
		return false;
	p = parse_set(p, pattern->set);
	if (p == NULL || (*p != '*' && *p != '+'))
		return false;
	pattern->empty_matches = *p++ == '*';
	if (*p == '$')
		p++;
	return *p == '\0';
}

static bool
repeated_set_match(const CdpPattern *pattern, CdpStr value)
{
	for (uint32 i = 0; i < value.len; i++)
		if (!set_has(pattern->set, value.s[i]))
			return false;
	return value.len > 0 || pattern->empty_matches;
}

/* Compile, or raise.  The pattern is not shown: it may hold somebody's e-mail. */
static void
compile_regex(regex_t *regex, const char *pattern, bool ignore_case)
{
	int			len = strlen(pattern);
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (len + 1));
	int			nwide = pg_mb2wchar_with_len(pattern, wide, len);
	int			flags = REG_ADVANCED | REG_NOSUB | (ignore_case ? REG_ICASE : 0);
	int			result = pg_regcomp(regex, wide, nwide, flags, C_COLLATION_OID);

	if (result != REG_OKAY)
	{
		char		message[100];

		CHECK_FOR_INTERRUPTS(); /* cancelled: not the fault of the pattern */
		pg_regerror(result, regex, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("invalid identifier pattern: %s", message)));
	}
	pfree(wide);
}

/* Raise for a pattern that is wrong by itself or would need backtracking. */
static void
check_regex(const char *pattern, bool ignore_case)
{
	regex_t		regex;
	bool		backref;

	compile_regex(&regex, pattern, ignore_case);
	backref = (regex.re_info & REG_UBACKREF) != 0;
	pg_regfree(&regex);
	if (backref)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("invalid identifier pattern: back references are not supported"),
				 errdetail("An identifier pattern is matched in time linear in the value.")));
}

static void
free_regex(void *regex)
{
	pg_regfree(regex);
}

/*
 * A pattern in the current context, for cdp_pattern_match.  Raises for a wrong
 * one.  ignore_case: ASCII letters only, as collation C does.
 */
struct CdpPattern *
cdp_pattern_compile(const char *pattern, bool ignore_case)
{
	CdpPattern *result = palloc0(sizeof(CdpPattern));

	check_regex(pattern, ignore_case);
	if (!ignore_case && parse_repeated_set(result, pattern))
		result->repeated_set = true;
	else
	{
		char	   *whole = psprintf("^(?:%s)$", pattern);

		compile_regex(&result->regex, whole, ignore_case);
		result->free_regex.func = free_regex;
		result->free_regex.arg = &result->regex;
		MemoryContextRegisterResetCallback(CurrentMemoryContext, &result->free_regex);
		pfree(whole);
	}
	return result;
}

static bool
regex_match(const CdpPattern *pattern, const pg_wchar *wide, int nwide)
{
	int			result = pg_regexec(unconstify(regex_t *, &pattern->regex),
									wide, nwide, 0, NULL, 0, NULL, 0);

	if (result == REG_OKAY || result == REG_NOMATCH)
		return result == REG_OKAY;

	/* cancelled, or out of memory: never the fault of the value */
	CHECK_FOR_INTERRUPTS();
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("could not match an identifier pattern")));
}

/* True if the pattern matches the whole value.  Never raises for a value. */
bool
cdp_pattern_match(const struct CdpPattern *p, CdpStr value)
{
	pg_wchar	stack[WIDE_ON_STACK + 1];
	pg_wchar   *wide = stack;
	bool		result;

	if (p->repeated_set)
		return repeated_set_match(p, value);

	if (value.len > WIDE_ON_STACK)
		wide = palloc(sizeof(pg_wchar) * (value.len + 1));
	result = regex_match(p, wide, pg_mb2wchar_with_len(value.s, wide, value.len));
	if (wide != stack)
		pfree(wide);
	return result;
}

/* ---------------------------------------------------------------- block lists */

/* values in (length, bytewise) order, and a bit for each length there is */
typedef struct ValueSet
{
	uint64		lengths;
	int			n;
	CdpStr	   *values;
} ValueSet;

typedef struct CdpBlockList
{
	ValueSet	exact,
				folded;			/* in lower case */
	int			npatterns;
	CdpPattern **patterns;
} CdpBlockList;

static inline uint64
length_bit(uint32 len)
{
	return UINT64CONST(1) << Min(len, 63);
}

static int
value_cmp(const void *a, const void *b)
{
	const CdpStr *x = a,
			   *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->len ? memcmp(x->s, y->s, x->len) : 0;
}

static bool
value_set_has(const ValueSet *set, CdpStr value)
{
	if (!(set->lengths & length_bit(value.len)))
		return false;
	return bsearch(&value, set->values, set->n, sizeof(CdpStr), value_cmp) != NULL;
}

static void
value_set_add(ValueSet *set, CdpStr value, bool lower)
{
	char	   *copy = palloc(value.len + 1);

	if (lower)
		lower_into(copy, value);
	else if (value.len > 0)
		memcpy(copy, value.s, value.len);
	set->values[set->n++] = (CdpStr) {copy, value.len};
	set->lengths |= length_bit(value.len);
}

/* True, and moved behind it, if the entry begins with this prefix. */
static bool
strip_prefix(CdpStr *entry, const char *prefix)
{
	uint32		n = strlen(prefix);

	if (entry->len < n || memcmp(entry->s, prefix, n) != 0)
		return false;
	entry->s += n;
	entry->len -= n;
	return true;
}

/*
 * A block list in the current context: exact values, "i:" values without regard
 * to case, "re:" patterns of whole values.  Raises for a wrong pattern.
 */
struct CdpBlockList *
cdp_blocklist_compile(CdpStr *entries, int n)
{
	CdpBlockList *list = palloc0(sizeof(CdpBlockList));

	list->exact.values = palloc(sizeof(CdpStr) * Max(n, 1));
	list->folded.values = palloc(sizeof(CdpStr) * Max(n, 1));
	list->patterns = palloc(sizeof(CdpPattern *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		CdpStr		entry = entries[i];

		if (strip_prefix(&entry, "re:"))
			list->patterns[list->npatterns++] =
				cdp_pattern_compile(pnstrdup(entry.s, entry.len), false);
		else if (strip_prefix(&entry, "i:"))
			value_set_add(&list->folded, entry, true);
		else
			value_set_add(&list->exact, entry, false);
	}
	qsort(list->exact.values, list->exact.n, sizeof(CdpStr), value_cmp);
	qsort(list->folded.values, list->folded.n, sizeof(CdpStr), value_cmp);
	return list;
}

static bool
folded_match(const ValueSet *set, CdpStr value)
{
	char		stack[WIDE_ON_STACK];
	char	   *folded = stack;
	bool		result;

	/* lower case has as many bytes, so the length decides nearly always */
	if (!(set->lengths & length_bit(value.len)))
		return false;
	if (value.len > sizeof(stack))
		folded = palloc(value.len);
	lower_into(folded, value);
	result = value_set_has(set, (CdpStr) {folded, value.len});
	if (folded != stack)
		pfree(folded);
	return result;
}

/* True if the (normalised) value identifies nobody.  Never raises for a value. */
bool
cdp_blocklist_match(const struct CdpBlockList *list, CdpStr value)
{
	if (value_set_has(&list->exact, value) || folded_match(&list->folded, value))
		return true;
	for (int i = 0; i < list->npatterns; i++)
		if (cdp_pattern_match(list->patterns[i], value))
			return true;
	return false;
}
