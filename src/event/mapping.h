/*
 * mapping.h: where the fields of an event are in a message of any shape.
 */
#ifndef CDP_MAPPING_H
#define CDP_MAPPING_H

#include "event/event.h"

typedef enum CdpField
{
	CDP_FIELD_MESSAGE_ID,
	CDP_FIELD_TYPE,
	CDP_FIELD_NAME,
	CDP_FIELD_TIME,
	CDP_FIELD_SENT_AT,
	CDP_FIELD_RECEIVED_AT,
	CDP_FIELD_ORDER,
	CDP_FIELD_USER_ID,
	CDP_FIELD_ANONYMOUS_ID,
	CDP_FIELD_IDENTIFIERS,
	CDP_FIELD_CALL,
	CDP_FIELD_PROPERTIES,		/* from here on: objects, kept whole */
	CDP_FIELD_TRAITS,
	CDP_FIELD_CONTEXT,
	CDP_FIELD_COUNT
} CdpField;

typedef struct CdpStep
{
	CdpStr		member;			/* s == NULL: an element of an array */
	int			element;
} CdpStep;

typedef struct CdpPath
{
	int			nsteps;			/* 0: no path */
	CdpStep    *steps;
	bool		covered;		/* it leads into a mapped object, which is kept whole */
} CdpPath;

/* an identifier whose namespace the mapping names */
typedef struct CdpMappedIdentifier
{
	CdpStr		namespace_name;
	CdpPath		value;
} CdpMappedIdentifier;

/* a value of the message's own type, and the call that it stands for */
typedef struct CdpMappedCall
{
	CdpStr		value;
	CdpCall		call;
	CdpStr		type;
} CdpMappedCall;

typedef struct CdpMapping
{
	CdpPath		paths[CDP_FIELD_COUNT];
	CdpJsonNode constants[CDP_FIELD_COUNT]; /* type and name: kind STRING, s == NULL: none */

	CdpMappedCall *calls;		/* translation of type; values that are not in it are track */
	int			ncalls;
	CdpMappedIdentifier *identifiers;
	int			nidentifiers;
	CdpLinkKind call_kind;		/* of the two next; 0: none */
	CdpMappedIdentifier call_id,
				call_other;
} CdpMapping;

/* mapping.c: the option `mapping`, NULL: there is none; raises what is wrong with it */
extern void cdp_mapping_compile(CdpMapping *m, Jsonb *options);
extern void cdp_mapping_set_path(CdpMapping *m, CdpField field, const char *path);
extern void cdp_mapping_finish(CdpMapping *m);	/* once all paths are set */
extern bool cdp_mapping_says_who(const CdpMapping *m);
extern bool cdp_mapping_names_identifier(const CdpMapping *m, CdpStr key);	/* does an identifier stand under that key? */

static inline bool
cdp_mapping_has(const CdpMapping *m, CdpField f)
{
	return m->paths[f].nsteps > 0;
}

/* ---------------------------------------------------------------- mapped.c */

/* one event in the making, and the values of its fields; NULL: absent */
typedef struct CdpMapped
{
	CdpDraft	d;
	const CdpMapping *m;
	const CdpJsonNode *root;
	const CdpJsonNode *fields[CDP_FIELD_COUNT];
	const CdpJsonNode *identifiers[CDP_MAX_IDENTIFIERS];
	const CdpJsonNode *call_id,
			   *call_other;
} CdpMapped;

/* the fields of root, which may be anything */
extern void cdp_mapped_find(CdpMapped *c, const CdpMapping *m, const CdpJsonNode *root);

/* leave a member of root, however often it is there, out of what becomes jsonb */
extern void cdp_mapped_take(CdpMapped *c, CdpStr name);

/* fill the event; root is an object that was checked.  False: the draft has failed. */
extern bool cdp_mapped_decode(CdpMapped *c);

#endif							/* CDP_MAPPING_H */
