/*
 * slot.c: the process side of a slot: how a worker takes it, what it reports
 * there, and how it ends.
 *
 * A worker exits with code 0 when it was asked to stop, or finds that there is
 * nothing for it to do, and with 1 when it failed.  The postmaster never
 * restarts it: the launcher does, after a back-off that grows with failures in
 * a row and is forgotten when the worker reports that it is healthy.  The same
 * error again is not logged again.
 */
#include "cdp.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "launcher.h"

static bool ended_well = false;

/* ---------------------------------------------------------------- take and leave */

static void
slot_leave(int code, Datum arg)
{
	CdpSlot    *slot = (CdpSlot *) DatumGetPointer(arg);

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	if (slot->pid == MyProcPid)
	{
		bool		asked = slot->stop_deadline != 0;

		slot->state = CDP_SLOT_DOWN;
		slot->pid = 0;
		slot->latch = NULL;
		slot->stop_deadline = 0;
		slot->failures = asked || ended_well ? 0 : slot->failures + 1;
		slot->next_start = cdp_backoff_until(slot->failures);
		if (slot->condition != CDP_COND_ABSENT)
			slot->condition = CDP_COND_STARTING;
		if (cdp_workers->launcher_latch)
			SetLatch(cdp_workers->launcher_latch);
	}
	LWLockRelease(cdp_workers->lock);
	ConditionVariableBroadcast(&cdp_workers->progress);
}

/* The start that the launcher asked for, and no other, may take the slot. */
static bool
slot_take(CdpSlot *slot, uint32 token)
{
	bool		mine;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	mine = slot->state == CDP_SLOT_STARTING && slot->token == token;
	if (mine)
	{
		slot->state = CDP_SLOT_UP;
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->condition = CDP_COND_STARTING;
		slot->running_generation = slot->generation;
		slot->alive_at = cdp_ticks();
		slot->started_at = GetCurrentTimestamp();
		slot->nparts = slot->unlisted = 0;
		slot->compacted = 0;
		memset(slot->topic_trouble, 0, sizeof(slot->topic_trouble));	/* the topics may be others */
	}
	LWLockRelease(cdp_workers->lock);
	return mine;
}

/* Whatever the database, a role or the configuration file says. */
void
cdp_force_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"synchronous_commit", "off"},	/* positions are lost together with the data */
		{"statement_timeout", "0"},
		{"lock_timeout", "250ms"},
		{"deadlock_timeout", "50ms"},	/* so that the worker is the victim, not a client */
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{"transaction_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"role", "none"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		{"array_nulls", "on"},
		{"plpgsql.variable_conflict", "error"},
		{"plpgsql.extra_errors", "none"},
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO"},
		{"IntervalStyle", "postgres"},
		{"log_min_error_statement", "panic"},	/* statements could carry personal data */
		{"log_parameter_max_length_on_error", "0"},
		{"log_min_duration_statement", "-1"},
		{"debug_print_parse", "off"},	/* so could trees and plans */
		{"debug_print_rewritten", "off"},
		{"debug_print_plan", "off"},
		{"auto_explain.log_min_duration", "-1"},
		{"exit_on_error", "off"},
		{"jit", "off"}
	};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

CdpSlot *
cdp_slot_attach(Datum arg)
{
	CdpSlot    *slot = &cdp_workers->slots[DatumGetInt32(arg)];
	uint32		token;

	memcpy(&token, MyBgworkerEntry->bgw_extra, sizeof(token));
	on_shmem_exit(slot_leave, PointerGetDatum(slot));
	if (!slot_take(slot, token))
		proc_exit(0);			/* the launcher gave up waiting for this start */
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(slot->database, InvalidOid, 0);
	cdp_force_settings();
	return slot;
}

/* ---------------------------------------------------------------- report */

/* The configuration changed, the database must be free of workers, or nobody wants this one any more. */
bool
cdp_slot_stop_requested(const CdpSlot *slot)
{
	bool		stop;

	LWLockAcquire(cdp_workers->lock, LW_SHARED);
	stop = slot->stop_deadline != 0;
	LWLockRelease(cdp_workers->lock);
	return stop;
}

/* Nobody restarts a worker that ends like this but for a new reason. */
void
cdp_slot_end(void)
{
	ended_well = true;
	proc_exit(0);
}

void
cdp_slot_condition(CdpSlot *slot, CdpCondition condition)
{
	if (slot->condition == condition)
		return;					/* nobody else writes it while we live */
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	slot->condition = condition;
	if (slot->kind == CDP_WORKER_MAINTENANCE && cdp_workers->launcher_latch)
		SetLatch(cdp_workers->launcher_latch);	/* the next database may be probed */
	LWLockRelease(cdp_workers->lock);
}

/* A broker may have said it: what is no text becomes question marks. */
static void
copy_error(char *to, const char *text)
{
	int			left = strlen(text);
	int			n = 0;

	while (left > 0)
	{
		int			len = pg_utf_mblen((const unsigned char *) text);
		bool		good = len <= left && (unsigned char) *text >= ' ' && pg_utf8_islegal((const unsigned char *) text, len);

		if (!good)
			len = 1;
		if (n + len >= CDP_SLOT_ERROR)
			break;
		memcpy(to + n, good ? text : "?", len);
		n += len;
		text += len;
		left -= len;
	}
	to[n] = '\0';
}

/* Trouble with one topic, by its number, or (-1) with everything. */
void
cdp_slot_topic_error(CdpSlot *slot, int topic, const char *sqlstate, const char *text)
{
	CdpTrouble *trouble = topic >= 0 && topic < CDP_SLOT_TOPICS ? &slot->topic_trouble[topic] : &slot->trouble;

	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	slot->last_error_at = trouble->at = GetCurrentTimestamp();
	copy_error(slot->last_error, text);
	copy_error(trouble->text, text);
	strlcpy(slot->last_sqlstate, sqlstate, sizeof(slot->last_sqlstate));
	LWLockRelease(cdp_workers->lock);
}

void
cdp_slot_error(CdpSlot *slot, const char *sqlstate, const char *text)
{
	cdp_slot_topic_error(slot, -1, sqlstate, text);
}

/* Is a topic, by its number, compacted? */
void
cdp_slot_compacted(CdpSlot *slot, int topic, bool compacted)
{
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	slot->compacted = (slot->compacted & ~(1u << topic)) | (uint32) compacted << topic;
	LWLockRelease(cdp_workers->lock);
}

/* It works: failures before this moment are history. */
void
cdp_slot_healthy(CdpSlot *slot)
{
	int			failures = slot->failures;

	if (failures == 0)
		return;
	LWLockAcquire(cdp_workers->lock, LW_EXCLUSIVE);
	slot->failures = 0;
	LWLockRelease(cdp_workers->lock);
	ereport(LOG, (errmsg("%s works again", MyBgworkerEntry->bgw_name)));
}

/* Somebody was in the way, and will not be for ever: again, a moment later. */
bool
cdp_error_passes(const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
			return true;
		default:
			return false;
	}
}

/*
 * What may be shown and logged of an error.  The text of a data exception
 * quotes the value, which may be personal data; other primary texts name
 * objects only, and details are never shown.
 */
const char *
cdp_error_text(const ErrorData *error)
{
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION)
		return "a value was refused by its data type";
	return error->message;
}

/* The process ends because of error, which was copied; the transaction is over. */
void
cdp_slot_fail(CdpSlot *slot, ErrorData *error)
{
	const char *text = cdp_error_text(error);
	const char *sqlstate = unpack_sql_state(error->sqlerrcode);
	char		shown[CDP_SLOT_ERROR];
	bool		repeated;

	copy_error(shown, text);
	repeated = slot->failures > 0 && strcmp(slot->last_sqlstate, sqlstate) == 0 && strcmp(slot->last_error, shown) == 0;
	cdp_slot_error(slot, sqlstate, text);
	ereport(repeated ? DEBUG1 : LOG,
			(errmsg("%s failed: %s", MyBgworkerEntry->bgw_name, text),
			 errdetail_log("SQLSTATE %s.", sqlstate),
			 error->context && text == error->message ? errcontext("%s", error->context) : 0,
			 errhidestmt(true)));
	proc_exit(1);
}
