/*
 * cdp.c: entry of the library: settings, the clock, and who is initialised.
 *
 * The library works in two ways.  Preloaded by shared_preload_libraries it has
 * shared memory, workers and hooks; loaded on demand (CREATE EXTENSION, a
 * restore) it has none of them, and everything that protects data refuses to
 * work (cdp_preloaded), so that views and policies fail closed.
 *
 * The clock.  Decisions see one instant: the batch's instant B inside the
 * engine, the time of the transaction elsewhere.  cdp_clock() is the only
 * place that reads the wall clock; the setting cdp.clock replaces it, for
 * tests, in all backends and workers of the server at once.
 */
#include "cdp.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event/filter.h"
#include "privacy/explain.h"
#include "privacy/view_owner.h"
#include "source/launcher.h"
#include "clock.h"
#include "stats.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

#define KB_PER_MB 1024

int			cdp_batch_rows = 20000;
int			cdp_batch_bytes = 16 * KB_PER_MB;
Size		cdp_batch_block = ALLOCSET_DEFAULT_MAXSIZE;
int			cdp_recent_memory = 32 * KB_PER_MB;
int			cdp_max_message_kb = 1 * KB_PER_MB;
int			cdp_parked_limit_mb = 1024;
int			cdp_recompute_limit = 10000;
int			cdp_store_path = CDP_STORE_DIRECT;
bool		cdp_workers_enabled = true;
char	   *cdp_key_file = NULL;
char	   *cdp_secrets_file = NULL;
char	   *cdp_certificate_directory = NULL;
char	   *cdp_clock_override = NULL;

bool		cdp_preloaded = false;
TimestampTz cdp_engine_instant = 0;

/* cdp.clock, parsed; CDP_NO_TIME when it is not set */
static TimestampTz clock_override = CDP_NO_TIME;

static const struct config_enum_entry store_paths[] = {
	{"direct", CDP_STORE_DIRECT, false},
	{"sql", CDP_STORE_SQL, false},
	{NULL, 0, false}
};

/* ---------------------------------------------------------------- the clock */

/* Parse a time stamp with an explicit zone, without throwing. */
static bool
parse_instant(const char *text, TimestampTz *result)
{
	char		work[MAXDATELEN + MAXDATEFIELDS];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nfields,
				dtype,
				tz;
	fsec_t		fsec;
	struct pg_tm tm;

	if (ParseDateTime(text, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nfields) != 0 ||
		cdp_decode_datetime(field, ftype, nfields, &dtype, &tm, &fsec, &tz) != 0 ||
		dtype != DTK_DATE)
		return false;
	return tm2timestamp(&tm, fsec, &tz, result) == 0;
}

static bool
check_clock(char **newval, void **extra, GucSource source)
{
	TimestampTz *parsed = cdp_guc_malloc(sizeof(TimestampTz));

	if (parsed == NULL)
		return false;
	*parsed = CDP_NO_TIME;
	*extra = parsed;
	if (*newval == NULL || **newval == '\0' || parse_instant(*newval, parsed))
		return true;
	GUC_check_errdetail("The value is not a time stamp.");
	GUC_check_errhint("Write it as '2025-01-31 12:00:00+00', or leave it empty for the real clock.");
	return false;
}

static void
assign_clock(const char *newval, void *extra)
{
	clock_override = extra ? *(TimestampTz *) extra : CDP_NO_TIME;
}

TimestampTz
cdp_clock(void)
{
	return clock_override == CDP_NO_TIME ? GetCurrentTimestamp() : clock_override;
}

TimestampTz
cdp_now(void)
{
	if (cdp_engine_instant != 0)
		return cdp_engine_instant;
	if (clock_override != CDP_NO_TIME)
		return clock_override;
	return GetCurrentTransactionStartTimestamp();
}

PG_FUNCTION_INFO_V1(cdp_sql_now);

Datum
cdp_sql_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(cdp_now());
}

/* ---------------------------------------------------------------- settings */

static void
define_limits(void)
{
	DefineCustomIntVariable("cdp.batch_rows",
							"Messages that are applied together at the most.",
							NULL, &cdp_batch_rows, 20000, 1, 100000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.batch_bytes",
							"Bytes of messages that are applied together at the most.",
							NULL, &cdp_batch_bytes, 16 * KB_PER_MB, 64, 256 * KB_PER_MB,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.recent_memory",
							"Memory in which a source worker remembers the people it met last.",
							"A worker reads it when it starts.",
							&cdp_recent_memory, 32 * KB_PER_MB, 0, 1024 * KB_PER_MB,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.max_message_size",
							"Longer messages go to quarantine.",
							NULL, &cdp_max_message_kb, 1 * KB_PER_MB, 1, 16 * KB_PER_MB,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.parked_limit",
							"Bytes of parked messages at which a source waits.",
							"Messages are parked while a client holds the people they speak of.",
							&cdp_parked_limit_mb, 1024, 1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.recompute_limit",
							"Events of a person above which the maintenance worker, not the batch, computes the person again.",
							"For developers and tests.",
							&cdp_recompute_limit, 10000, 0, INT_MAX,
							PGC_SUSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

static void
define_paths(void)
{
	DefineCustomStringVariable("cdp.key_file",
							   "File that holds the key of the identifiers' hashes.",
							   "Empty: beside the data directory, with .cdp_key added to its name.",
							   &cdp_key_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("cdp.secrets_file",
							   "File that holds the passwords of Kafka sources.",
							   "Empty: beside the data directory, with .cdp_secrets added to its name.",
							   &cdp_secrets_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("cdp.certificate_directory",
							   "Directory of the certificates and client keys that Kafka sources may name.",
							   "Empty: beside the data directory, with .cdp_certificates added to its name.",
							   &cdp_certificate_directory, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
}

static void
define_switches(void)
{
	DefineCustomEnumVariable("cdp.store",
							 "How events are written: direct (into the tables) or sql (by INSERT).",
							 NULL, &cdp_store_path, CDP_STORE_DIRECT, store_paths,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("cdp.workers",
							 "Workers run in this database.",
							 "ALTER DATABASE ... SET cdp.workers = off keeps a database out.",
							 &cdp_workers_enabled, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("cdp.clock",
							   "Time stamp that replaces the clock, for tests; empty: the real clock.",
							   NULL, &cdp_clock_override, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_clock, assign_clock, NULL);
}

void
_PG_init(void)
{
	cdp_preloaded = process_shared_preload_libraries_in_progress;

	define_limits();
	define_switches();
	define_paths();
	if (cdp_preloaded)
	{
		cdp_stats_init();
		cdp_filter_init();
		cdp_clock_init();
		cdp_workers_init();
		cdp_explain_hook_install();
		cdp_view_owner_hook_install();
	}
	MarkGUCPrefixReserved("cdp");
}
