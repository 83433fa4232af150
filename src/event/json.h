/*
 * json.h: bytes to a tape of values, and from the tape to jsonb.
 */
#ifndef CDP_JSON_H
#define CDP_JSON_H

#include "engine.h"

#define CDP_JSON_MAX_DEPTH		64	/* levels of one event */
#define CDP_JSON_MAX_KEYS		1000	/* keys of one event, at all levels */
#define CDP_JSON_MAX_DIGITS		64	/* digits of a number, and its largest exponent */
#define CDP_JSON_MAX_STRING		(256 * 1024)	/* bytes of a string, unescaped */
#define CDP_JSON_MAX_NODES		(2 * 1024 * 1024)	/* values and keys of one message */

typedef enum CdpJsonKind
{
	CDP_JSON_NULL,
	CDP_JSON_FALSE,
	CDP_JSON_TRUE,
	CDP_JSON_NUMBER,
	CDP_JSON_STRING,
	CDP_JSON_BAD,				/* a string or number that breaks a limit; n is the reason */
	CDP_JSON_ARRAY,
	CDP_JSON_OBJECT
} CdpJsonKind;

/*
 * One value, or one key (a string before its value).  A container's children
 * follow it on the tape, then comes its next sibling.
 */
typedef struct CdpJsonNode
{
	const char *s;				/* string: unescaped; number: its text; container: first byte */
	uint32		len;
	uint32		kind:4,
				skip:1,			/* cdp_json_jsonb leaves this member out */
				n:27;			/* container: children; BAD: reason */
	union
	{
		uint32		next;		/* container: index of what follows it */
		uint32		raw_at;		/* scalar: place of its first byte in the text */
	};
	union
	{
		uint32		keys;		/* container: keys in it, at all levels */
		uint32		raw_len;	/* scalar */
	};
} CdpJsonNode;

typedef struct CdpJson
{
	MemoryContext cxt;			/* what results live in */

	const char *start,			/* the text */
			   *end;
	CdpJsonNode *nodes;			/* the tape; nodes[0] is the whole */
	uint32		nnodes,
				maxnodes;
	uint32		nkeys;			/* so far */
	uint32		depth,
				max_depth;		/* of the whole text */
	uint32		nbad;			/* BAD nodes */
	CdpReason	reason;			/* why the text is refused as a whole */

	/* arena: unescaped strings, jsonb, small arrays of the decoders */
	char	   *free,
			   *limit;
	Size		block_size;

	/* jsonb in the making */
	char	   *out;			/* next byte */
	const CdpJsonNode **members;	/* stack of keys */
	uint32		nmembers,
				maxmembers;
} CdpJson;

extern CdpJson *cdp_json_create(MemoryContext cxt);
extern void cdp_json_free(CdpJson *j);	/* not the arena: results live on */

/* false: not one JSON text in UTF-8, j->reason says why */
extern bool cdp_json_parse(CdpJson *j, CdpStr text);

/*
 * An object that nobody wrote: members with these texts as values, and one
 * with the value that json has (json.s == NULL: there is none).  False as
 * above; what is wrong with a text costs as much as in a string of JSON.
 */
extern bool cdp_json_assemble(CdpJson *j, const CdpHeader *texts, int n, CdpStr name, CdpStr json);

/*
 * One more text behind what is on the tape; NULL: refused, as above.  Other
 * pointers to nodes are invalid then; cdp_json_raw is for the first text only.
 */
extern const CdpJsonNode *cdp_json_append(CdpJson *j, CdpStr text);

/* does the value break a limit of one event?  CDP_REASON_COUNT: no */
extern CdpReason cdp_json_check(CdpJson *j, const CdpJsonNode *value);

/* the value's own bytes */
extern CdpStr cdp_json_raw(const CdpJson *j, const CdpJsonNode *value);

/* member of an object, the last one of that key; NULL: none, or no object */
extern const CdpJsonNode *cdp_json_member(const CdpJson *j, const CdpJsonNode *object, CdpStr key);

/*
 * The value as jsonb in the arena, byte for byte what jsonb_in makes of its
 * text; only for values that cdp_json_check lets pass.
 */
extern Jsonb *cdp_json_jsonb(CdpJson *j, const CdpJsonNode *value);

/* an object of these members (their keys; later ones win) */
extern Jsonb *cdp_json_object(CdpJson *j, const CdpJsonNode **keys, uint32 nkeys);

/* give back the jsonb that was made last */
extern void cdp_json_forget(CdpJson *j, Jsonb *last);

/* arena memory, MAXALIGNed; reserve may be followed by a smaller commit, nothing between */
extern char *cdp_json_reserve(CdpJson *j, Size size);
extern void cdp_json_commit(CdpJson *j, char *end);

static inline char *
cdp_json_alloc(CdpJson *j, Size size)
{
	char	   *p = cdp_json_reserve(j, size);

	cdp_json_commit(j, p + size);
	return p;
}

static inline bool
cdp_json_is_container(const CdpJsonNode *node)
{
	return node->kind >= CDP_JSON_ARRAY;
}

/* what follows the value on the tape */
static inline const CdpJsonNode *
cdp_json_after(const CdpJson *j, const CdpJsonNode *value)
{
	return cdp_json_is_container(value) ? j->nodes + value->next : value + 1;
}

/* walk the members of an object: key, then key + 1 is the value; any other node has none */
#define CDP_JSON_FOREACH_MEMBER(j, object, key) \
	for (const CdpJsonNode *key = (object) + 1, \
		 *key##_end = (object)->kind == CDP_JSON_OBJECT ? (j)->nodes + (object)->next : (object) + 1; \
		 key < key##_end; \
		 key = cdp_json_after(j, key + 1))

/* walk the elements of an array */
#define CDP_JSON_FOREACH_ELEMENT(j, array, element) \
	for (const CdpJsonNode *element = (array) + 1, \
		 *element##_end = (array)->kind == CDP_JSON_ARRAY ? (j)->nodes + (array)->next : (array) + 1; \
		 element < element##_end; \
		 element = cdp_json_after(j, element))

#endif							/* CDP_JSON_H */
