/*
 * sources.c: create, alter, pause, resume and drop a source, and set its
 * positions, from SQL.
 *
 * What can be wrong with a source is said here, when it is made: options are
 * an allow-list of names with a check each, and those of the Kafka client go
 * through options.c, so no secret gets into the table.  Whether brokers answer,
 * topics exist and the secrets file has what is needed is the worker's
 * business: they may come later.
 *
 * A change is a row of cdp_data.source; the workers hear of it when it commits.
 * Execution is granted to cdp_admin; who is no superuser works on sources of
 * the workspaces that were granted to him, and learns nothing of others: names
 * are unique in a workspace only.  The table is written as cdp_owner.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "engine.h"
#include "launcher.h"

#define MAX_NAME 63				/* characters */
#define MAX_TOPIC 249			/* Kafka's limit */
#define MAX_PORT_DIGITS 5
#define HEX_DIGITS "0123456789abcdefABCDEF"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define MAX_WORKERS 64

/* ---------------------------------------------------------------- options */

typedef enum OptionKind
{
	OPTION_BOOL,
	OPTION_NAME,
	OPTION_SKEW,
	OPTION_START,
	OPTION_INTERVAL,
	OPTION_OBJECT,
	OPTION_SECRET,
	OPTION_CLIENT
} OptionKind;

static const struct
{
	const char *name;
	OptionKind	kind;
}			known_options[] = {
	{"skew", OPTION_SKEW},
	{"max_future", OPTION_INTERVAL},
	{"trust_received_at", OPTION_BOOL},
	{"alias", OPTION_BOOL},
	{"email_from_properties", OPTION_BOOL},
	{"batch", OPTION_BOOL},
	{"id_space", OPTION_NAME},
	{"start", OPTION_START},
	{"mapping", OPTION_OBJECT},
	{"secret", OPTION_SECRET},
	{"client", OPTION_CLIENT}
};

static void
refuse_option(const char *name, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value of source option \"%s\"", name),
			 errdetail("It must be %s.", expected)));
}

static char *
value_text(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

static bool
is_one_of(const JsonbValue *v, const char *a, const char *b, const char *c)
{
	CdpStr		s;

	if (v->type != jbvString)
		return false;
	s = (CdpStr) {v->val.string.val, v->val.string.len};
	return cdp_str_eq(s, cdp_str(a)) || cdp_str_eq(s, cdp_str(b)) || cdp_str_eq(s, cdp_str(c));
}

/* callback: which option it is whose value interval_in() refuses */
static void
option_context(void *name)
{
	errcontext("value of source option \"%s\"", (const char *) name);
}

/* Raises in the words of interval's input function when it is none. */
static Interval *
interval_value(const char *name, const JsonbValue *v)
{
	ErrorContextCallback context = {error_context_stack, option_context, unconstify(char *, name)};
	Datum		i;

	error_context_stack = &context;
	i = DirectFunctionCall3(interval_in, CStringGetDatum(value_text(v)), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	error_context_stack = context.previous;
	return DatumGetIntervalP(i);
}

static void
check_interval(const char *name, const JsonbValue *v)
{
	Interval   *i;

	if (is_one_of(v, "infinity", "infinity", "infinity"))
		return;
	if (v->type != jbvString)
		refuse_option(name, "an interval or \"infinity\"");
	i = interval_value(name, v);
	if (i->time < 0 || i->day < 0 || i->month < 0)
		refuse_option(name, "an interval that is not negative, or \"infinity\"");
}

static void
check_client_option(const char *name, const JsonbValue *v)
{
	const char *value;
	const char *why;

	if (v->type == jbvString)
		value = value_text(v);
	else if (v->type == jbvNumeric)
		value = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
	else if (v->type == jbvBool)
		value = v->val.boolean ? "true" : "false";
	else
		value = NULL;
	why = value ? cdp_kafka_option_error(name, value) : "Its value must be a string, a number or a boolean.";
	if (why)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid client option \"%s\"", name),
				 errdetail("%s", why)));
}

static const char *
protocol_of(const JsonbValue *client)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(client->val.binary.data, "security.protocol", strlen("security.protocol"), &v) &&
		v.type == jbvString)
		return value_text(&v);
	return "plaintext";
}

/* Who gives a CA or a user, but forgets the protocol, would get neither. */
static void
check_protocol(const char *name, const char *protocol)
{
	bool		used = true;

	if (strncmp(name, "sasl.", 5) == 0)
		used = strncmp(protocol, "sasl_", 5) == 0;
	else if (strncmp(name, "ssl.", 4) == 0)
		used = strcmp(protocol, "ssl") == 0 || strcmp(protocol, "sasl_ssl") == 0;
	if (!used)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("client option \"%s\" has no effect with security.protocol \"%s\"", name, protocol)));
}

static void
require_option(const JsonbValue *client, const char *name, const char *synonym, const char *protocol)
{
	JsonbValue	v;

	if (getKeyJsonValueFromContainer(client->val.binary.data, name, strlen(name), &v) == NULL &&
		getKeyJsonValueFromContainer(client->val.binary.data, synonym, strlen(synonym), &v) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("client option \"%s\" is needed with security.protocol \"%s\"", name, protocol)));
}

static void
check_client(const JsonbValue *client)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;
	const char *protocol;

	if (client->type != jbvBinary || !JsonContainerIsObject(client->val.binary.data))
		refuse_option("client", "an object of librdkafka options");
	protocol = protocol_of(client);
	it = JsonbIteratorInit(client->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value_text(&v);
		else if (token == WJB_VALUE)
		{
			check_client_option(name, &v);
			check_protocol(name, protocol);
		}
	}
	if (strncmp(protocol, "sasl_", 5) == 0)
	{
		/* without a mechanism the library takes GSSAPI, which runs a command */
		require_option(client, "sasl.mechanism", "sasl.mechanisms", protocol);
		require_option(client, "sasl.username", "sasl.username", protocol);
	}
}

static void
check_value(const char *name, OptionKind kind, const JsonbValue *v, bool kafka)
{
	if (!kafka && (kind == OPTION_SECRET || kind == OPTION_CLIENT))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source option \"%s\" is of sources with brokers only", name)));
	switch (kind)
	{
		case OPTION_BOOL:
			if (v->type != jbvBool && !is_one_of(v, "on", "off", "off"))
				refuse_option(name, "true, false, \"on\" or \"off\"");
			break;
		case OPTION_NAME:
		case OPTION_SECRET:
			if (v->type != jbvString || v->val.string.len == 0 || v->val.string.len > MAX_NAME)
				refuse_option(name, "a string of 1 to 63 bytes");
			break;
		case OPTION_SKEW:
			if (!is_one_of(v, "quantum", "segment", "none"))
				refuse_option(name, "\"quantum\", \"segment\" or \"none\"");
			break;
		case OPTION_START:
			if (!is_one_of(v, "earliest", "latest", "latest"))
				refuse_option(name, "\"earliest\" or \"latest\"");
			break;
		case OPTION_INTERVAL:
			check_interval(name, v);
			break;
		case OPTION_OBJECT:
			if (v->type != jbvBinary || !JsonContainerIsObject(v->val.binary.data))
				refuse_option(name, "an object");
			break;
		case OPTION_CLIENT:
			check_client(v);
			break;
	}
}

static void
check_option(const char *name, const JsonbValue *v, bool kafka)
{
	for (int i = 0; i < lengthof(known_options); i++)
	{
		if (strcmp(known_options[i].name, name) == 0)
		{
			check_value(name, known_options[i].kind, v, kafka);
			return;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown source option \"%s\"", name),
			 errhint("Options of the Kafka client go into the object \"client\".")));
}

static void
check_options(Jsonb *options, const CdpFormat *format, bool kafka)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source options must be a JSON object")));
	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = value_text(&v);
		else if (token == WJB_VALUE)
			check_option(name, &v, kafka);
	}
	if (format->compile)
		(void) format->compile(options);
	else if (getKeyJsonValueFromContainer(&options->root, "mapping", strlen("mapping"), &v))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("format \"%s\" has no mapping", format->name),
				 errhint("Formats json and cloudevents have one.")));
}

/* ---------------------------------------------------------------- brokers and topics */

/* host or host:port, where an IPv6 address is in brackets: librdkafka passes over what it cannot read, or reads another port. */
static bool
is_broker(const char *s)
{
	bool		in_brackets = *s == '[';
	size_t		len = strspn(s += in_brackets, in_brackets ? HEX_DIGITS ":." : LETTERS "0123456789._-");

	if (len == 0 || (in_brackets && s[len++] != ']'))
		return false;
	s += len;
	if (*s == '\0')
		return true;
	len = strspn(++s, "0123456789");
	return s[-1] == ':' && len > 0 && len <= MAX_PORT_DIGITS && s[len] == '\0' && atoi(s) > 0 && atoi(s) <= PG_UINT16_MAX;
}

static void
check_brokers(char *list)
{
	char	   *broker;

	while ((broker = strsep(&list, ",")) != NULL)
	{
		broker += strspn(broker, " ");
		for (char *end = broker + strlen(broker); end > broker && end[-1] == ' '; end--)
			end[-1] = '\0';
		if (!is_broker(broker))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid broker \"%s\"", broker),
					 errhint("Write brokers as host:port, separated by commas.")));
	}
}

static void
check_topic(const char *topic)
{
	size_t		len = strlen(topic);

	if (len == 0 || len > MAX_TOPIC || strcmp(topic, ".") == 0 || strcmp(topic, "..") == 0 ||
		strspn(topic, LETTERS "0123456789._-") != len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic name \"%s\"", topic),
				 errdetail("A topic has 1 to %d letters, digits, dots, underscores and hyphens.", MAX_TOPIC)));
}

static void
check_topics(ArrayType *topics)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(topics, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a Kafka source needs at least one topic")));
	for (int i = 0; i < n; i++)
	{
		const char *topic = nulls[i] ? "" : TextDatumGetCString(values[i]);

		check_topic(topic);
		for (int j = 0; j < i; j++)
			if (strcmp(topic, TextDatumGetCString(values[j])) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("topic \"%s\" is given twice", topic)));
	}
}

/* ---------------------------------------------------------------- a source */

typedef struct Source
{
	int32		id;
	int32		workspace_id;
	bool		kafka;
	Datum		values[6];		/* brokers, topics, format, options, workers, paused */
	char		nulls[6];
} Source;

enum
{
	COL_BROKERS, COL_TOPICS, COL_FORMAT, COL_OPTIONS, COL_WORKERS, COL_PAUSED
};

static void
check_source(const Source *s)
{
	bool		kafka = s->nulls[COL_BROKERS] == ' ';
	int32		workers = DatumGetInt32(s->values[COL_WORKERS]);
	char	   *format = TextDatumGetCString(s->values[COL_FORMAT]);
	const CdpFormat *f = cdp_format_find(format);

	if (workers < 1 || workers > MAX_WORKERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("workers must be between 1 and %d", MAX_WORKERS)));
	if (kafka != (s->nulls[COL_TOPICS] == ' '))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a source has both brokers and topics, or neither"),
				 errdetail("Without them it is an SQL source.")));
	if (kafka)
	{
		check_brokers(TextDatumGetCString(s->values[COL_BROKERS]));
		check_topics(DatumGetArrayTypeP(s->values[COL_TOPICS]));
	}
	else if (workers != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an SQL source has no workers"),
				 errdetail("Whoever writes to it applies his messages himself.")));
	if (f == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown format \"%s\"", format),
				 errhint("Formats are segment, json and cloudevents.")));
	check_options(DatumGetJsonbP(s->values[COL_OPTIONS]), f, kafka);
}

static Datum
result(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

/* The row, locked; SPI is connected.  Raises when there is none that the caller may mean. */
static Source
lock_source(const char *name)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(cdp_source_id_of_caller(name))};
	Source		s = {0};
	bool		isnull;

	if (cdp_owner_query("SELECT source_id, workspace_id, brokers, topics, format, options, workers, paused"
						" FROM cdp_data.source WHERE source_id OPERATOR(pg_catalog.=) $1 FOR UPDATE",
						1, types, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", name)));
	s.id = DatumGetInt32(result(1, &isnull));
	s.workspace_id = DatumGetInt32(result(2, &isnull));
	for (int i = 0; i < lengthof(s.values); i++)
	{
		s.values[i] = result(3 + i, &isnull);
		s.nulls[i] = isnull ? 'n' : ' ';
	}
	s.kafka = s.nulls[COL_BROKERS] == ' ';
	return s;
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a source must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (name[0] == '\0' || pg_mbstrlen(name) > MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("the name of a source must have 1 to %d characters", MAX_NAME)));
	return name;
}

/* Arguments 1 to 4 and 6 of create_source and alter_source; NULL leaves what is there. */
static void
take_arguments(FunctionCallInfo fcinfo, Source *s)
{
	static const int arguments[] = {1, 2, 3, 4, 6};

	for (int i = 0; i < lengthof(arguments); i++)
	{
		if (PG_ARGISNULL(arguments[i]))
			continue;
		s->values[i] = PG_GETARG_DATUM(arguments[i]);
		s->nulls[i] = ' ';
	}
}

static void
warn_not_preloaded(bool kafka)
{
	if (kafka && !cdp_preloaded)
		ereport(WARNING,
				(errmsg("nothing will consume this source"),
				 errhint("Add cdp to shared_preload_libraries and restart the server.")));
}

/* A name that nobody declared is taken, since it may be declared later; but a slip of the pen would cost all its identifiers. */
static void
note_undeclared(int32 workspace_id, Datum options)
{
	Oid			types[2] = {INT4OID, JSONBOID};
	Datum		values[2] = {Int32GetDatum(workspace_id), options};
	uint64		n;

	SPI_connect();
	n = cdp_owner_query("SELECT DISTINCT m.name FROM (SELECT pg_catalog.jsonb_path_query($2, p) OPERATOR(pg_catalog.#>>) '{}' AS name"
						" FROM pg_catalog.unnest('{$.mapping.identifiers[*].namespace,$.mapping.call.*.*.namespace}'::pg_catalog.jsonpath[]) p) m"
						" WHERE NOT EXISTS (SELECT FROM cdp_data.namespace n WHERE n.workspace_id OPERATOR(pg_catalog.=) $1"
						" AND n.name OPERATOR(pg_catalog.=) m.name) ORDER BY m.name",
						lengthof(types), types, values, NULL);
	for (int i = 0; i < n; i++)
		ereport(NOTICE,
				(errmsg("namespace \"%s\" of mapping does not exist",
						SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1)),
				 errhint("Make it with cdp.set_namespace(); until then its identifiers are left out.")));
	SPI_finish();
}

/* ---------------------------------------------------------------- SQL functions */

static void
insert_source(const char *name, const Source *s)
{
	Oid			types[7] = {INT4OID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, INT4OID};
	Datum		values[7] = {Int32GetDatum(s->workspace_id), CStringGetTextDatum(name)};
	char		nulls[8] = "       ";

	memcpy(&values[2], s->values, 5 * sizeof(Datum));
	memcpy(&nulls[2], s->nulls, 5);
	SPI_connect();
	if (cdp_owner_query("INSERT INTO cdp_data.source (workspace_id, name, brokers, topics, format, options, workers)"
						" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (workspace_id, name) DO NOTHING",
						lengthof(types), types, values, nulls) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("source \"%s\" already exists", name)));
	SPI_finish();
}

PG_FUNCTION_INFO_V1(cdp_sql_create_source);

Datum
cdp_sql_create_source(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Source		s = {.nulls = {'n', 'n', ' ', ' ', ' ', ' '}};

	cdp_version_require();
	s.values[COL_FORMAT] = CStringGetTextDatum("segment");
	s.values[COL_OPTIONS] = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	s.values[COL_WORKERS] = Int32GetDatum(1);
	take_arguments(fcinfo, &s);
	s.workspace_id = cdp_workspace_of_caller(PG_ARGISNULL(5) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(5)))->id;
	check_source(&s);
	warn_not_preloaded(s.nulls[COL_BROKERS] == ' ');
	insert_source(name, &s);
	note_undeclared(s.workspace_id, s.values[COL_OPTIONS]);
	cdp_launcher_wake();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_alter_source);

Datum
cdp_sql_alter_source(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Oid			types[6] = {INT4OID, TEXTOID, TEXTARRAYOID, TEXTOID, JSONBOID, INT4OID};
	Datum		values[6];
	char		nulls[7] = "      ";
	Source		s;

	cdp_version_require();
	SPI_connect();
	s = lock_source(name);
	take_arguments(fcinfo, &s);
	if (!PG_ARGISNULL(5) &&
		cdp_workspace_of_caller(text_to_cstring(PG_GETARG_TEXT_PP(5)))->id != s.workspace_id)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a source cannot be moved to another workspace"),
				 errhint("Create another source in that workspace.")));
	check_source(&s);
	if (!s.kafka && s.nulls[COL_BROKERS] == ' ' && strcmp(name, CDP_DEFAULT_SOURCE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("source \"%s\" cannot be given brokers", name),
				 errdetail("It is the one that cdp.ingest() and cdp.inbox use when no source is named.")));
	values[0] = Int32GetDatum(s.id);
	memcpy(&values[1], s.values, 5 * sizeof(Datum));
	memcpy(&nulls[1], s.nulls, 5);
	cdp_owner_query("UPDATE cdp_data.source SET brokers = $2, topics = $3, format = $4, options = $5, workers = $6"
					" WHERE source_id OPERATOR(pg_catalog.=) $1",
					lengthof(types), types, values, nulls);
	note_undeclared(s.workspace_id, s.values[COL_OPTIONS]);
	SPI_finish();
	cdp_launcher_wake();
	PG_RETURN_VOID();
}

/* Nothing would consume it, and cdp.setup() would pause it again. */
static void
require_attached(void)
{
	if (cdp_attachment() != CDP_ATTACHED_HERE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this data comes from another server or database"),
				 errhint("Run SELECT cdp.setup() as a superuser first.")));
}

static void
set_paused(const char *name, bool paused)
{
	Oid			types[2] = {INT4OID, BOOLOID};
	Datum		values[2];
	Source		s;

	cdp_version_require();
	SPI_connect();
	s = lock_source(name);
	if (!s.kafka)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" has no brokers", name),
				 errdetail("Nothing consumes an SQL source.")));
	if (!paused)
		require_attached();
	values[0] = Int32GetDatum(s.id);
	values[1] = BoolGetDatum(paused);
	cdp_owner_query("UPDATE cdp_data.source SET paused = $2 WHERE source_id OPERATOR(pg_catalog.=) $1",
					lengthof(types), types, values, NULL);
	SPI_finish();
	if (!paused)
		warn_not_preloaded(true);
	cdp_launcher_wake();
}

PG_FUNCTION_INFO_V1(cdp_sql_pause_source);

Datum
cdp_sql_pause_source(PG_FUNCTION_ARGS)
{
	set_paused(name_argument(fcinfo), true);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_resume_source);

Datum
cdp_sql_resume_source(PG_FUNCTION_ARGS)
{
	set_paused(name_argument(fcinfo), false);
	PG_RETURN_VOID();
}

/* Parked messages are good ones: they may not vanish with their source. */
static void
require_nothing_parked(const char *name, Oid *types, Datum *values)
{
	if (cdp_owner_query("SELECT 1 FROM cdp_data.parked WHERE source_id OPERATOR(pg_catalog.=) $1 LIMIT 1",
						1, types, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("source \"%s\" has parked messages", name),
				 errhint("They are applied as soon as nobody holds the people they speak of; try again then.")));
}

PG_FUNCTION_INFO_V1(cdp_sql_drop_source);

Datum
cdp_sql_drop_source(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	Source		s;

	cdp_version_require();
	if (strcmp(name, CDP_DEFAULT_SOURCE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("source \"%s\" cannot be dropped", name),
				 errdetail("It is the one that cdp.ingest() and cdp.inbox use when no source is named.")));
	SPI_connect();
	s = lock_source(name);
	values[0] = Int32GetDatum(s.id);
	cdp_owner_query("DELETE FROM cdp_data.source_offset WHERE source_id OPERATOR(pg_catalog.=) $1",
					1, types, values, NULL);
	require_nothing_parked(name, types, values);
	cdp_owner_query("DELETE FROM cdp_data.source WHERE source_id OPERATOR(pg_catalog.=) $1",
					1, types, values, NULL);
	SPI_finish();
	cdp_launcher_wake();
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- positions by hand */

/*
 * Set the position of a partition that has one; what was read before it is no
 * longer known by its fingerprint.  adopt: a diverged one, in a new epoch.
 */
static void
set_position(FunctionCallInfo fcinfo, bool adopt)
{
	char	   *name = name_argument(fcinfo);
	Oid			types[4] = {INT4OID, TEXTOID, INT4OID, INT8OID};
	Datum		values[4] = {0, PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), PG_GETARG_DATUM(3)};

	if (PG_GETARG_INT64(3) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a position must not be negative")));
	cdp_version_require();
	SPI_connect();
	values[0] = Int32GetDatum(lock_source(name).id);
	if (cdp_owner_query(adopt ?
						"UPDATE cdp_data.source_offset SET position = $4, last_record_offset = NULL,"
						" last_record_time = NULL, last_record_hash = NULL, state = 'ok', source_epoch = source_epoch OPERATOR(pg_catalog.+) 1"
						" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
						" AND partition OPERATOR(pg_catalog.=) $3 AND state OPERATOR(pg_catalog.=) 'diverged'" :
						"UPDATE cdp_data.source_offset SET position = $4, last_record_offset = NULL,"
						" last_record_time = NULL, last_record_hash = NULL"
						" WHERE source_id OPERATOR(pg_catalog.=) $1 AND topic OPERATOR(pg_catalog.=) $2"
						" AND partition OPERATOR(pg_catalog.=) $3 AND state OPERATOR(pg_catalog.<>) 'diverged'",
						lengthof(types), types, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" has no such partition, or it is %sdiverged", name, adopt ? "not " : ""),
				 errhint("See cdp.source_status. A diverged partition goes on with cdp.adopt_source(), from any position.")));
	SPI_finish();
	cdp_launcher_wake();
}

PG_FUNCTION_INFO_V1(cdp_sql_set_source_position);

Datum
cdp_sql_set_source_position(PG_FUNCTION_ARGS)
{
	set_position(fcinfo, false);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(cdp_sql_adopt_source);

Datum
cdp_sql_adopt_source(PG_FUNCTION_ARGS)
{
	set_position(fcinfo, true);
	PG_RETURN_VOID();
}
