-- What helps to look at the ids of messages, and at their headers.

CREATE FUNCTION cdp.read_filters(OUT leaf oid, OUT ready boolean, OUT keys bigint, OUT bytes bigint) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_filters';
REVOKE ALL ON FUNCTION cdp.read_filters() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.read_filters() TO cdp_admin, cdp_auditor, pg_monitor;
COMMENT ON FUNCTION cdp.read_filters() IS
'Filters over the ids of stored messages in this database: OID of the partition of message_seen, whether it is used yet, keys added, bytes of cdp.filter_memory. A partition without a row is asked for each message, or empty.';

CREATE FUNCTION cdp.header_object(headers bytea) RETURNS jsonb
	LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_header_object';
REVOKE ALL ON FUNCTION cdp.header_object(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.header_object(bytea) TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.header_object(bytea) IS
'The headers of a record, as quarantine keeps them, as an object of texts: of equal names the last one; null for a value that is absent or no UTF-8 text. A name that is no UTF-8 text is left out.';
