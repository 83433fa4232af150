/*
 * cdp.h: what every room of the house may use.
 *
 * The extension owns code only.  Tables live in schema cdp_data and are made by
 * cdp.setup(); C code looks their OIDs up once per backend (catalog.c) and
 * writes the hot ones directly (table.c), everything else through SPI.
 */
#ifndef CDP_H
#define CDP_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "compat.h"

/* ---------------------------------------------------------------- strings */

/* bytes that somebody else owns; s == NULL means absent */
typedef struct CdpStr
{
	const char *s;
	uint32		len;
} CdpStr;

#define CDP_STR_NONE ((CdpStr) {NULL, 0})

static inline bool
cdp_str_eq(CdpStr a, CdpStr b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.s, b.s, a.len) == 0);
}

/* bytewise, shorter first when equal so far: the "C" order of promise 2 */
static inline int
cdp_str_cmp(CdpStr a, CdpStr b)
{
	uint32		n = Min(a.len, b.len);
	int			c = n ? memcmp(a.s, b.s, n) : 0;

	return c ? c : (a.len > b.len) - (a.len < b.len);
}

static inline CdpStr
cdp_str(const char *cstring)
{
	return (CdpStr) {cstring, (uint32) strlen(cstring)};
}

#define CDP_NO_TIME DT_NOEND	/* "no such time stamp" in our structs */

/* ---------------------------------------------------------------- settings */

extern int	cdp_batch_rows;		/* events per batch at the most */
extern int	cdp_batch_bytes;	/* kB of raw messages per batch */
extern Size cdp_batch_block;	/* bytes of the largest block of memory of a batch; set by workers */
#define CDP_BATCH_SIZES 0, ALLOCSET_DEFAULT_INITSIZE, cdp_batch_block
extern int	cdp_recent_memory;	/* kB in which a source worker remembers people */
extern int	cdp_max_message_kb;
extern int	cdp_parked_limit_mb;
extern int	cdp_recompute_limit;	/* events that a batch reads again for one split or moved event */
extern int	cdp_store_path;		/* CDP_STORE_DIRECT, CDP_STORE_SQL */
extern bool cdp_workers_enabled;
extern char *cdp_key_file;
extern char *cdp_secrets_file;
extern char *cdp_certificate_directory;
extern char *cdp_clock_override;

enum
{
	CDP_STORE_DIRECT, CDP_STORE_SQL
};

/* true when the library was loaded by shared_preload_libraries */
extern bool cdp_preloaded;

/* the batch's instant B while the engine works at it, else 0; the engine clears it on errors too */
extern TimestampTz cdp_engine_instant;

/* cdp.now(): the batch's instant inside the engine, else transaction time */
extern TimestampTz cdp_now(void);

/* the wall clock, or the superuser's override for tests */
extern TimestampTz cdp_clock(void);

/* ---------------------------------------------------------------- catalog.c */

/* tables of cdp_data that C code opens by OID */
typedef enum CdpTable
{
	CDP_T_INSTANCE,
	CDP_T_WORKSPACE,
	CDP_T_WORKSPACE_ROLE,
	CDP_T_SOURCE,
	CDP_T_SOURCE_OFFSET,
	CDP_T_SOURCE_GAP,
	CDP_T_NAMESPACE,
	CDP_T_ENGINE_LOCK,
	CDP_T_EVENT,
	CDP_T_MESSAGE_SEEN,
	CDP_T_QUARANTINE,
	CDP_T_PARKED,
	CDP_T_IDENTIFIER,
	CDP_T_LINK,
	CDP_T_CONTEST,
	CDP_T_DECISION,
	CDP_T_PROFILE,
	CDP_T_PROFILE_TRAIT,
	CDP_T_DIRTY,
	CDP_T_RETENTION_WATERMARK,
	CDP_T_VERSION,
	CDP_T_TRAIT_CLASS,
	CDP_T_SUPPRESSION,
	CDP_T_COUNT
} CdpTable;

extern Oid	cdp_table(CdpTable t);	/* raises "run SELECT cdp.setup()" when absent */
extern bool cdp_is_set_up(void);

/* raises when library, extension and tables are of different versions; cheap once checked */
extern void cdp_version_require(void);
extern Oid	cdp_owner_role(void);
extern void cdp_owner_require(void);	/* raises when the tables belong to somebody else */
extern Oid	cdp_caller_role(void);	/* whose workspace, masks and rights count */
extern bool cdp_caller_is_known(void);	/* false: that would raise */
typedef bool (*CdpRoleTest) (Oid role);
extern bool cdp_caller_is(CdpRoleTest test);	/* the caller, and who lends rights to a function that it has come through */

/* setup.c: whose data is it? */
typedef enum CdpAttachment
{
	CDP_ATTACHED_NOWHERE,		/* no row of cdp_data.instance: a restore is under way */
	CDP_ATTACHED_ELSEWHERE,		/* of another server or database: restored, or a copy */
	CDP_ATTACHED_HERE
} CdpAttachment;

extern CdpAttachment cdp_attachment(void);

/* run what follows as cdp_owner with row security not forced and a search path of ours; pair them */
typedef struct CdpUserContext
{
	Oid			userid;
	int			sec_context;
	int			path;			/* of cdp_push_safe_path(); 0: the path was safe */
} CdpUserContext;

extern void cdp_become_owner(CdpUserContext *save);
extern void cdp_become_stats_reader(CdpUserContext *save);
extern void cdp_become_caller(const CdpUserContext *save);

/* ---------------------------------------------------------------- configuration cache (config.c) */

typedef enum CdpPolicyKind
{
	CDP_POLICY_COMPONENTS,
	CDP_POLICY_DEMOTE
} CdpPolicyKind;

#define CDP_NORM_TRIM	0x01
#define CDP_NORM_LOWER	0x02
#define CDP_NORM_DIGITS	0x04	/* keep digits and one leading + */

typedef struct CdpNamespace
{
	int32		id;				/* cdp_data.namespace.namespace_id, > 0 */
	CdpStr		name;
	int			priority;		/* 1 is strongest */
	bool		household;		/* level */
	int			value_limit;	/* values a profile may have, 0 = no limit */
	int64		limit_window;	/* microseconds, 0 = ever */
	int			degree;			/* distinct owners before it is shared, 0 = no guard */
	bool		owner;
	int			normaliser;		/* CDP_NORM_ bits */
	struct CdpBlockList *blocked;	/* compiled, NULL if none (identity/normalise.c) */
	struct CdpPattern *valid;	/* compiled, NULL if any value is valid */
	float4		weight;
} CdpNamespace;

typedef struct CdpPolicy
{
	int32		workspace_id;
	CdpPolicyKind kind;
	int			nnamespaces;
	CdpNamespace *namespaces;	/* sorted by (priority, name): index = rank */
} CdpPolicy;

typedef struct CdpWorkspace
{
	int32		id;
	CdpStr		name;
	CdpPolicy	policy;
} CdpWorkspace;

struct CdpFormat;

typedef enum CdpSkew
{
	CDP_SKEW_QUANTUM,			/* 5-minute quantum, the default */
	CDP_SKEW_SEGMENT,			/* the strict Segment formula */
	CDP_SKEW_NONE
} CdpSkew;

typedef struct CdpSource
{
	int32		id;
	CdpStr		name;
	CdpWorkspace *workspace;
	const struct CdpFormat *format;
	bool		kafka;			/* has brokers */
	bool		paused;
	CdpSkew		skew;
	int64		max_future;		/* microseconds; PG_INT64_MAX = infinity */
	bool		trust_received_at;	/* take receivedAt from the payload */
	bool		alias;			/* alias calls link (default) */
	bool		email_from_properties;
	bool		batch;			/* a JSON array is many cloud events */
	bool		id_space_is_source; /* else the workspace, or id_space */
	CdpStr		id_space;
	void	   *mapping;		/* compiled by the format, NULL if it has none */
} CdpSource;

/*
 * What these return is valid to the end of the transaction (also when the
 * configuration is loaded again meanwhile: then the next call returns the new
 * one).  They raise when the thing is unknown, but the two namespace functions
 * return NULL.
 */
extern CdpSource *cdp_source_by_id(int32 source_id);
extern CdpSource *cdp_source_find(int32 source_id); /* NULL: it was dropped */
extern CdpSource *cdp_source_usable(int32 source_id);	/* or this library does not understand it */
extern CdpNamespace *cdp_namespace_find(const CdpPolicy *policy, CdpStr name);
extern CdpNamespace *cdp_namespace_by_id(const CdpPolicy *policy, int32 id);
extern CdpWorkspace *cdp_workspace_by_id(int32 workspace_id);
extern bool cdp_workspace_exists(int32 workspace_id);

/*
 * Names are of the workspaces that the caller works in.  A superuser may mean
 * a source of any, if only one has that name.
 */
extern int32 cdp_source_id_of_caller(const char *name);

extern CdpWorkspace *cdp_workspace_find(const char *name);	/* NULL: there is none */

/* NULL: the caller's (cdp_caller_workspace) */
extern CdpWorkspace *cdp_workspace_by_name(const char *name);

/* the same, held; raises when the caller is no superuser and does not work in it (privacy/workspace.c) */
extern CdpWorkspace *cdp_workspace_of_caller(const char *name);

/* to the end of the transaction nobody drops the workspace; false: somebody did (privacy/workspace.c) */
extern bool cdp_workspace_hold(int32 workspace_id);

/* the same without waiting for who drops it: false then, too */
extern bool cdp_workspace_try_hold(int32 workspace_id);
extern List *cdp_workspace_ids(void);	/* of all, integers */

/* a top-level key of traits that is shown to those who see no values */
extern bool cdp_key_is_open(int32 workspace_id, CdpStr key);

/* the workspace the calling role works in, 0: none; raises when there are two, or the library is not preloaded */
extern int32 cdp_caller_workspace(void);
extern int32 cdp_required_workspace(void);	/* raises when there is none */
extern int32 cdp_values_workspace(void);	/* the same if the caller sees its values, else 0 */

/* a row of workspace_role for everybody: while there is one workspace */
#define CDP_EVERYBODY "public"
#define CDP_DEFAULT_SOURCE "sql"

extern List *cdp_caller_workspaces(void);	/* ids */
extern List *cdp_workspaces_of_role(Oid role);	/* ids */

extern int64 cdp_interval_us(const Interval *i);	/* a month is 30 days; at most 146,000 years */

/* the reserved namespace: profile ids, merged-away ones too */
#define CDP_PROFILE_ID_NAMESPACE "profile_id"

/* false: that is no profile id (profile/find.c) */
extern bool cdp_parse_profile_id(CdpStr value, int64 *id);

/* profile_id of the person with an identifier (strings end in a zero byte), 0: none (profile/find.c) */
extern int64 cdp_find_profile(const CdpWorkspace *workspace, CdpStr namespace_name, CdpStr value);

/* ---------------------------------------------------------------- subtransaction.c */

/* true: what it did stays, false: it is rolled back, as with an error */
typedef bool (*CdpInSubtransaction) (void *arg);

/* the error that the function raised, copied where the caller allocates; NULL: none */
extern ErrorData *cdp_in_subtransaction(CdpInSubtransaction function, void *arg);

/* ---------------------------------------------------------------- key.c */

/* both raise, naming the file, when the key file is missing or wrong */
extern void cdp_key_require(void);
extern void cdp_key_hash128(uint64 out[2], const void *data, size_t len);

/* a streaming feeder for the same hash: fields are length-prefixed */
typedef struct CdpHasher
{
	char	   *buf;
	uint32		len,
				cap;
	char		inl[256];
} CdpHasher;

extern void cdp_hasher_init(CdpHasher *h, char domain, int32 workspace_id);
extern void cdp_hasher_bytes(CdpHasher *h, const void *p, uint32 len);
extern void cdp_hasher_int64(CdpHasher *h, int64 v);
extern void cdp_hasher_done(CdpHasher *h, uint64 out[2]);

#endif							/* CDP_H */
