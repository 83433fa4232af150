/*
 * ingest.c: cdp.ingest(), cdp.ingest_many() and cdp.replay_quarantine().
 *
 * The functions take messages, apply them in the caller's transaction and
 * return what became of each.  Who may call them is checked against the role
 * of SET ROLE; the engine itself runs as cdp_owner.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "event/quarantine.h"
#include "source/entrance.h"
#include "spi.h"

#define INGEST_ROLE "cdp_ingest"

/* ---------------------------------------------------------------- who may, and where to */

static void
require_role(const CdpSource *source)
{
	Oid			role = cdp_caller_role();

	if (!superuser_arg(role) && !has_privs_of_role(role, get_role_oid(INGEST_ROLE, false)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for source \"%.*s\"", (int) source->name.len, source->name.s),
				 errhint("A role needs membership in cdp_ingest.")));
}

CdpSource *
cdp_entrance_source(const char *name)
{
	CdpSource  *source = cdp_source_by_id(cdp_source_id_of_caller(name ? name : CDP_DEFAULT_SOURCE));

	require_role(source);
	if (source->kafka)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%.*s\" is consumed from Kafka", (int) source->name.len, source->name.s),
				 errhint("Write to a source without brokers; the option id_space lets two sources share message ids.")));
	return source;
}

void
cdp_entrance_message(CdpMessage *msg, CdpStr body, int ordinal)
{
	memset(msg, 0, sizeof(CdpMessage));
	msg->body = body;
	msg->partition = -1;
	msg->offset = -1;
	msg->record_time = CDP_NO_TIME;
	msg->ordinal = ordinal;
}

const char *
cdp_outcome_name(CdpOutcome outcome)
{
	static const char *const names[] = {
		[CDP_OUT_PENDING] = "pending",
		[CDP_OUT_STORED] = "stored",
		[CDP_OUT_DUPLICATE] = "duplicate",
		[CDP_OUT_QUARANTINED] = "quarantined",
		[CDP_OUT_EXPIRED] = "expired",
		[CDP_OUT_SUPPRESSED] = "suppressed",
		[CDP_OUT_TOMBSTONE] = "tombstone",
		[CDP_OUT_PARKED] = "parked",
	};

	return names[outcome];
}

/* ---------------------------------------------------------------- ingest */

PG_FUNCTION_INFO_V1(cdp_sql_ingest);
PG_FUNCTION_INFO_V1(cdp_sql_ingest_many);

static void
put_row(ReturnSetInfo *rsi, int ordinal, const CdpResult *r)
{
	bool		quarantined = r->outcome == CDP_OUT_QUARANTINED;
	Datum		values[4] = {
		Int32GetDatum(ordinal),
		r->message_id ? CStringGetTextDatum(r->message_id) : (Datum) 0,
		CStringGetTextDatum(cdp_outcome_name(r->outcome)),
		quarantined ? CStringGetTextDatum(cdp_reason_name(r->reason)) : (Datum) 0
	};
	bool		nulls[4] = {false, r->message_id == NULL, false, !quarantined};

	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

static CdpStr
json_text(Jsonb *j)
{
	char	   *s = JsonbToCString(NULL, &j->root, VARSIZE(j));

	return cdp_str(s);
}

static const char *
source_argument(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
}

/* elements of an array are numbered by their place in it */
Datum
cdp_sql_ingest(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	CdpMessage	msg;
	CdpResult  *results;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("message must not be null")));
	cdp_entrance_message(&msg, json_text(PG_GETARG_JSONB_P(0)), 1);
	cdp_apply(cdp_entrance_source(source_argument(fcinfo)), &msg, 1, NULL, 0, &results, &n);
	for (int i = 0; i < n; i++)
		put_row(rsi, results[i].item < 0 ? 1 : results[i].item + 1, &results[i]);
	return (Datum) 0;
}

Datum
cdp_sql_ingest_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *elements;
	bool	   *nulls;
	int			n,
				nresults;
	CdpMessage *messages;
	CdpResult  *results;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("messages must not be null")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), JSONBOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	messages = palloc(Max(n, 1) * sizeof(CdpMessage));
	for (int i = 0; i < n; i++)
		cdp_entrance_message(&messages[i], nulls[i] ? cdp_str("") : json_text(DatumGetJsonbP(elements[i])), i + 1);
	cdp_apply(cdp_entrance_source(source_argument(fcinfo)), messages, n, NULL, 0, &results, &nresults);
	for (int i = 0; i < nresults; i++)
		put_row(rsi, results[i].ordinal, &results[i]);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- replay of quarantine */

PG_FUNCTION_INFO_V1(cdp_sql_replay_quarantine);

static CdpSpi lock_plan = {
	"SELECT FROM cdp_data.quarantine q WHERE q.quarantine_id = ANY ($1) AND q.workspace_id = $2"
	" ORDER BY q.quarantine_id FOR UPDATE",
	2, {INT8ARRAYOID, INT4OID}
};

static CdpSpi take_plan = {
	"SELECT q.source_id, q.topic, q.\"partition\", q.\"offset\", q.record_time, q.body, q.key, q.headers, q.shared"
	" FROM cdp_data.quarantine q WHERE q.quarantine_id = $1 AND q.workspace_id = $2",
	2, {INT8OID, INT4OID}
};

static CdpSpi done_plan = {"DELETE FROM cdp_data.quarantine WHERE quarantine_id = $1", 1, {INT8OID}};

static CdpSpi failed_plan = {
	"UPDATE cdp_data.quarantine SET reason = $2, detail = $3, attempts = attempts + 1 WHERE quarantine_id = $1",
	3, {INT8OID, TEXTOID, TEXTOID}
};

typedef struct Quarantined
{
	int64		id;
	int32		source_id;
	CdpMessage	msg;
	CdpStr		headers;		/* as they are stored */
} Quarantined;

/* In the order of ids, whatever order they were given in: others may replay some of them, too. */
static bool
lock_quarantined(Datum ids, int32 workspace)
{
	Datum		args[2] = {ids, Int32GetDatum(workspace)};
	CdpUserContext user;

	if (!cdp_workspace_hold(workspace))
		return false;
	cdp_become_owner(&user);
	cdp_spi_exec(&lock_plan, args, NULL);
	cdp_become_caller(&user);
	return true;
}

/* a row of quarantine as a message; false: there is none in that workspace */
static bool
take_quarantined(int64 id, int32 workspace, Quarantined *q)
{
	CdpMessage *msg = &q->msg;
	Datum		args[2] = {Int64GetDatum(id), Int32GetDatum(workspace)};
	MemoryContext cxt = CurrentMemoryContext;
	CdpUserContext user;
	bool		found,
				isnull;

	cdp_become_owner(&user);
	found = cdp_spi_run(&take_plan, args, NULL) == 1;
	if (found)
	{
		Datum		d;

		q->id = id;
		q->source_id = DatumGetInt32(cdp_spi_datum(0, 1, &isnull));
		cdp_entrance_message(msg, cdp_spi_text(0, 6, cxt), 1);
		msg->topic = cdp_spi_text(0, 2, cxt);
		d = cdp_spi_datum(0, 3, &isnull);
		if (!isnull)
		{
			msg->partition = DatumGetInt32(d);
			msg->offset = cdp_spi_int64(0, 4);
		}
		d = cdp_spi_datum(0, 5, &isnull);
		msg->record_time = isnull ? CDP_NO_TIME : DatumGetTimestampTz(d);
		msg->key = cdp_spi_text(0, 7, cxt);
		q->headers = cdp_spi_text(0, 8, cxt);
		cdp_read_headers(msg, q->headers);
		msg->shared = cdp_spi_text(0, 9, cxt);
		msg->quarantine_id = id;
	}
	cdp_spi_end();
	cdp_become_caller(&user);
	return found;
}

/* The server's errors about its state and resources quote no values; those about files may. */
static bool
quotes_nothing(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
		case ERRCODE_OPERATOR_INTERVENTION:
			return true;
		default:
			return false;
	}
}

/*
 * What cannot be computed is often quoted in the error, and is personal data: it
 * is for no log.  What is wrong with the expression itself was said when it was prepared.
 */
static void
refuse_repair(int64 id, const ErrorData *error)
{
	bool		shown = quotes_nothing(error);

	ereport(ERROR,
			(errcode(error->sqlerrcode),
			 shown ? errmsg_internal("%s", error->message) : errmsg("repair of row %lld of cdp.quarantine failed", (long long) id),
			 shown ? 0 : errhint("Evaluate the expression on that row alone to see the error, which may show what is in the message."),
			 errcontext("repair of row %lld of cdp.quarantine", (long long) id)));
}

/*
 * The caller's expression over body, body_text and headers, run with the
 * caller's rights; NULL: leave the row.
 */
static CdpStr
repair(SPIPlanPtr plan, Quarantined *q)
{
	MemoryContext cxt = CurrentMemoryContext;
	CdpStr		given[2] = {q->msg.body, q->headers};
	Datum		args[2];
	char		nulls[3] = "  ";
	CdpStr		out;
	ErrorData  *error;
	volatile int rc = 0;

	for (int i = 0; i < lengthof(args); i++)
	{
		args[i] = given[i].s ? cdp_text(given[i]) : (Datum) 0;	/* text and bytea look alike */
		nulls[i] = given[i].s ? ' ' : 'n';
	}

	PG_TRY();
	{
		rc = SPI_execute_plan(plan, args, nulls, false, 2);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		refuse_repair(q->id, error);
	}
	PG_END_TRY();
	if (rc != SPI_OK_SELECT || SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("repair is not one expression"),
				 errhint("Give an SQL expression over body (bytea), body_text (text) and headers (jsonb) that returns text.")));
	out = cdp_spi_text(0, 1, cxt);
	SPI_freetuptable(SPI_tuptable);
	return out;
}

static SPIPlanPtr
prepare_repair(const char *expression)
{
	Oid			types[2] = {BYTEAOID, BYTEAOID};
	SPIPlanPtr	plan;

	plan = SPI_prepare(psprintf("SELECT (%s\n)::pg_catalog.text FROM (SELECT $1 AS body, cdp.utf8_text($1) AS body_text,"
								" cdp.header_object($2) AS headers) q", expression), lengthof(types), types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* the row goes when everything of it was taken; else it stays, with the newest reason */
static void
settle_row(int64 id, const CdpResult *results, int n)
{
	CdpUserContext user;
	const CdpResult *bad = NULL;

	/* elements of an array that were refused have rows of their own now */
	for (int i = 0; i < n && bad == NULL; i++)
		if (results[i].outcome == CDP_OUT_QUARANTINED && results[i].item < 0)
			bad = &results[i];
	cdp_become_owner(&user);
	if (bad == NULL)
	{
		Datum		arg = Int64GetDatum(id);

		cdp_spi_exec(&done_plan, &arg, NULL);
	}
	else
	{
		Datum		args[3] = {Int64GetDatum(id), CStringGetTextDatum(cdp_reason_name(bad->reason)),
		bad->detail ? CStringGetTextDatum(bad->detail) : (Datum) 0};

		cdp_spi_exec(&failed_plan, args, bad->detail ? NULL : "  n");
	}
	cdp_become_caller(&user);
}

static void
replay_one(ReturnSetInfo *rsi, int64 id, int32 workspace, SPIPlanPtr plan)
{
	Quarantined q;
	CdpResult  *results;
	int			n;
	CdpSource  *source;

	if (!take_quarantined(id, workspace, &q))
		return;
	source = cdp_source_find(q.source_id);
	if (source == NULL)
	{
		ereport(NOTICE,
				(errmsg("quarantined message %lld stays: its source was dropped", (long long) id)));
		return;
	}
	if (plan)
	{
		q.msg.body = repair(plan, &q);
		q.msg.repaired = true;
		if (q.msg.body.s == NULL)
			return;
	}
	cdp_apply(source, &q.msg, 1, NULL, 0, &results, &n);
	settle_row(id, results, n);
	for (int i = 0; i < n; i++)
	{
		bool		bad = results[i].outcome == CDP_OUT_QUARANTINED;
		Datum		values[4] = {
			Int64GetDatum(id),
			results[i].message_id ? CStringGetTextDatum(results[i].message_id) : (Datum) 0,
			CStringGetTextDatum(cdp_outcome_name(results[i].outcome)),
			bad ? CStringGetTextDatum(cdp_reason_name(results[i].reason)) : (Datum) 0
		};
		bool		nulls[4] = {false, results[i].message_id == NULL, false, !bad};

		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
}

Datum
cdp_sql_replay_quarantine(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *ids;
	bool	   *nulls;
	int			n;
	SPIPlanPtr	plan = NULL;
	int32		workspace = cdp_required_workspace();	/* once: the expression may change the role */

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0) || !lock_quarantined(PG_GETARG_DATUM(0), workspace))
		return (Datum) 0;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &ids, &nulls, &n);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (!PG_ARGISNULL(1))
		plan = prepare_repair(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			replay_one(rsi, DatumGetInt64(ids[i]), workspace, plan);
	SPI_finish();
	return (Datum) 0;
}
