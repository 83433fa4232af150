/*
 * mask.c: what a reader sees who may not see values.
 *
 * The views are the same for everybody; their output columns ask whether
 * the row's workspace is values_workspace(), and, if not, show a pseudonym or a reduced document.  Nothing
 * here filters rows.
 *
 * Masked until somebody says otherwise: of traits only keys that were
 * classified as open remain (cdp.classify_trait), of a context only members
 * that describe the device or campaign, of properties everything but the keys
 * that usually carry identifiers.  The last is a convenience with a known
 * limit: an identifier under an innocent key of properties is shown.
 */
#include "cdp.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "catalog.h"
#include "key.h"
#include "spi.h"

/* roles that see values; they are there from CREATE EXTENSION on */
static const char *const seeing_roles[] = {"cdp_admin", "cdp_privacy_officer"};

/* members of a context that speak of no person */
static const char *const open_context[] = {
	"app", "campaign", "category", "channel", "library", "locale", "os", "screen", "timezone", "version"
};

/* keys of properties, in lower case without separators, wherever they are, also in the plural */
static const char *const personal_keys[] = {
	"address", "address1", "address2", "anonymousid", "birthdate", "birthday", "cardnumber", "creditcard",
	"customerid", "dateofbirth", "dob", "fax", "firstname", "fullname", "givenname", "familyname", "iban", "ip",
	"ipaddress", "lastname", "lat", "latitude", "lng", "location", "login", "lon", "longitude", "mail",
	"middlename", "mobile", "msisdn", "nickname", "passport", "postalcode", "postcode", "ssn", "street",
	"streetaddress", "surname", "tel", "telephone", "token", "userid", "username", "zip", "zipcode"
};

/* parts of such keys */
static const char *const personal_parts[] = {"email", "phone", "password", "secret"};

static bool
sees_values(Oid caller)
{
	if (superuser_arg(caller))
		return true;
	for (int i = 0; i < lengthof(seeing_roles); i++)
	{
		Oid			role = get_role_oid(seeing_roles[i], true);

		if (OidIsValid(role) && has_privs_of_role(caller, role))
			return true;
	}
	return false;
}

int32
cdp_values_workspace(void)
{
	int32		workspace = cdp_caller_workspace();

	return workspace != 0 && cdp_caller_is(sees_values) ? workspace : 0;
}

/* ---------------------------------------------------------------- documents */

typedef bool (*KeepKey) (CdpStr key, int depth, int32 workspace_id);

/* Copy of an object without the keys that are not to be kept; depth 1 is the top; workspace_id: whose open keys, 0: none. */
static Jsonb *
filter_object(Jsonb *in, KeepKey keep, int32 workspace_id)
{
	JsonbIterator *it = JsonbIteratorInit(&in->root);
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;
	JsonbValue	v;
	JsonbIteratorToken r;
	int			depth = 0;

	while ((r = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (r == WJB_BEGIN_OBJECT)
			depth++;
		else if (r == WJB_END_OBJECT)
			depth--;
		else if (r == WJB_KEY &&
				 !keep((CdpStr) {v.val.string.val, v.val.string.len}, depth, workspace_id))
		{
			(void) JsonbIteratorNext(&it, &v, true);
			continue;
		}
		result = pushJsonbValue(&state, r, r < WJB_BEGIN_ARRAY ? &v : NULL);
	}
	return JsonbValueToJsonb(result);
}

static Datum
filter_argument(FunctionCallInfo fcinfo, KeepKey keep, int32 workspace_id)
{
	Jsonb	   *in = PG_GETARG_JSONB_P(0);

	if (!JB_ROOT_IS_OBJECT(in))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(filter_object(in, keep, workspace_id));
}

/* What is open in the row's workspace, and not in one that the caller came to in the middle of the statement. */
static int32
own_workspace_argument(FunctionCallInfo fcinfo)
{
	int32		workspace = PG_GETARG_INT32(1);

	return workspace == cdp_caller_workspace() ? workspace : 0;
}

static bool
keep_trait(CdpStr key, int depth, int32 workspace_id)
{
	return depth > 1 || cdp_key_is_open(workspace_id, key);
}

#define MAX_PERSONAL_KEY 64		/* longer keys are compared by their beginning */

/* Lower case, letters and digits only. */
static void
plain_key(CdpStr key, char *plain)
{
	int			n = 0;

	for (uint32 i = 0; i < key.len && n < MAX_PERSONAL_KEY; i++)
		if (isalnum((unsigned char) key.s[i]))
			plain[n++] = pg_ascii_tolower((unsigned char) key.s[i]);
	plain[n] = '\0';
}

/* the same word, or its plural? */
static bool
is_word(const char *plain, const char *word)
{
	size_t		n = strlen(word);

	if (strncmp(plain, word, n) != 0)
		return false;
	return plain[n] == '\0' || strcmp(plain + n, "s") == 0 || strcmp(plain + n, "es") == 0;
}

static bool
is_personal(CdpStr key, int depth)
{
	char		plain[MAX_PERSONAL_KEY + 1];

	plain_key(key, plain);
	if (depth == 1 && is_word(plain, "name"))
		return true;
	for (int i = 0; i < lengthof(personal_keys); i++)
		if (is_word(plain, personal_keys[i]))
			return true;
	for (int i = 0; i < lengthof(personal_parts); i++)
		if (strstr(plain, personal_parts[i]) != NULL)
			return true;
	return false;
}

static bool
keep_context(CdpStr key, int depth, int32 workspace_id)
{
	if (depth > 1)
		return !is_personal(key, depth);
	for (int i = 0; i < lengthof(open_context); i++)
		if (cdp_str_eq(key, cdp_str(open_context[i])))
			return true;
	return false;
}

static bool
keep_property(CdpStr key, int depth, int32 workspace_id)
{
	return !is_personal(key, depth) || (depth == 1 && cdp_key_is_open(workspace_id, key));
}

/* ---------------------------------------------------------------- SQL functions */

PG_FUNCTION_INFO_V1(cdp_sql_values_workspace);

/* A row is masked by its own workspace: the role may change while the statement runs. */
Datum
cdp_sql_values_workspace(PG_FUNCTION_ARGS)
{
	int32		workspace = cdp_values_workspace();

	if (workspace == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(workspace);
}

PG_FUNCTION_INFO_V1(cdp_sql_mask_traits);

Datum
cdp_sql_mask_traits(PG_FUNCTION_ARGS)
{
	return filter_argument(fcinfo, keep_trait, own_workspace_argument(fcinfo));
}

PG_FUNCTION_INFO_V1(cdp_sql_mask_context);

Datum
cdp_sql_mask_context(PG_FUNCTION_ARGS)
{
	return filter_argument(fcinfo, keep_context, 0);
}

PG_FUNCTION_INFO_V1(cdp_sql_mask_properties);

Datum
cdp_sql_mask_properties(PG_FUNCTION_ARGS)
{
	return filter_argument(fcinfo, keep_property, own_workspace_argument(fcinfo));
}

PG_FUNCTION_INFO_V1(cdp_sql_pseudonym);

Datum
cdp_sql_pseudonym(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%016llx",
											  (unsigned long long) cdp_key_pseudonym(PG_GETARG_INT64(0)))));
}

PG_FUNCTION_INFO_V1(cdp_sql_utf8_text);

/* The bytes as text, NULL if they are none. */
Datum
cdp_sql_utf8_text(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	const char *s = VARDATA_ANY(bytes);
	int			len = VARSIZE_ANY_EXHDR(bytes);

	if (memchr(s, '\0', len) != NULL || !pg_verify_mbstr(PG_UTF8, s, len, true))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(s, len));
}

/* ---------------------------------------------------------------- what is open */

static CdpSpi open_plan = {
	"INSERT INTO cdp_data.trait_class (workspace_id, key, class) VALUES ($1, $2, 'open') ON CONFLICT DO NOTHING",
	2, {INT4OID, TEXTOID}
};

static CdpSpi personal_plan = {
	"DELETE FROM cdp_data.trait_class WHERE workspace_id = $1 AND key = $2",
	2, {INT4OID, TEXTOID}
};

static CdpSpi *
plan_of_class(const char *class)
{
	if (strcmp(class, "open") == 0)
		return &open_plan;
	if (strcmp(class, "personal") == 0)
		return &personal_plan;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown class \"%s\"", class),
			 errhint("It is open or personal.")));
}

PG_FUNCTION_INFO_V1(cdp_sql_classify_trait);

Datum
cdp_sql_classify_trait(PG_FUNCTION_ARGS)
{
	int32		workspace = cdp_required_workspace();
	CdpUserContext user;
	CdpSpi	   *plan;
	Datum		args[2] = {Int32GetDatum(workspace), PG_GETARG_DATUM(0)};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("key and class must not be null")));
	plan = plan_of_class(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	if (!cdp_workspace_hold(workspace))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the workspace of role \"%s\" was dropped", GetUserNameFromId(cdp_caller_role(), false))));
	cdp_become_owner(&user);
	cdp_spi_exec(plan, args, NULL);
	cdp_become_caller(&user);
	PG_RETURN_VOID();
}
