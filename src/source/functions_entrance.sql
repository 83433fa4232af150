-- The SQL entrance.

CREATE FUNCTION cdp.inbox_begin() RETURNS trigger
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'cdp_inbox_begin';
REVOKE ALL ON FUNCTION cdp.inbox_begin() FROM PUBLIC;
COMMENT ON FUNCTION cdp.inbox_begin() IS 'Trigger of cdp.inbox, before a statement: makes room for its rows.';

CREATE FUNCTION cdp.inbox_row() RETURNS trigger
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'cdp_inbox_row';
REVOKE ALL ON FUNCTION cdp.inbox_row() FROM PUBLIC;
COMMENT ON FUNCTION cdp.inbox_row() IS 'Trigger of cdp.inbox, instead of a row: takes the message. Raises when the source does not exist or the role may not write to it.';

CREATE FUNCTION cdp.inbox_end() RETURNS trigger
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'cdp_inbox_end';
REVOKE ALL ON FUNCTION cdp.inbox_end() FROM PUBLIC;
COMMENT ON FUNCTION cdp.inbox_end() IS 'Trigger of cdp.inbox, after a statement: applies its rows, as one batch.';

CREATE FUNCTION cdp.ingest(message jsonb, source text DEFAULT NULL)
	RETURNS TABLE (ordinal integer, message_id text, outcome text, reason text)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_ingest';
REVOKE ALL ON FUNCTION cdp.ingest(jsonb, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.ingest(jsonb, text) TO cdp_ingest;
COMMENT ON FUNCTION cdp.ingest(jsonb, text) IS
'Applies one message, or an array of messages, in the caller''s transaction. source: an SQL source, NULL: sql. Returns a row a message: its place in the array from 1, its id, its outcome (stored, duplicate, quarantined, expired, suppressed) and the reason when it was quarantined. Raises when the source does not exist, has brokers, or the role is not of cdp_ingest and of the source''s workspace; never for what is in a message.';

CREATE FUNCTION cdp.ingest_many(messages jsonb[], source text DEFAULT NULL)
	RETURNS TABLE (ordinal integer, message_id text, outcome text, reason text)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_ingest_many';
REVOKE ALL ON FUNCTION cdp.ingest_many(jsonb[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.ingest_many(jsonb[], text) TO cdp_ingest;
COMMENT ON FUNCTION cdp.ingest_many(jsonb[], text) IS
'Applies messages as one batch in the caller''s transaction. source: an SQL source, NULL: sql. Returns and raises as cdp.ingest; ordinal is the place in messages, from 1.';

CREATE FUNCTION cdp.replay_quarantine(ids bigint[], repair text DEFAULT NULL)
	RETURNS TABLE (id bigint, message_id text, outcome text, reason text)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_replay_quarantine';
REVOKE ALL ON FUNCTION cdp.replay_quarantine(bigint[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.replay_quarantine(bigint[], text) TO cdp_admin, cdp_privacy_officer;
COMMENT ON FUNCTION cdp.replay_quarantine(bigint[], text) IS
'Applies messages of the quarantine again. ids: of the view cdp.quarantine; unknown ones, and those of other workspaces, are passed over. repair: an SQL expression over body (bytea), body_text (text, NULL if not UTF-8) and headers (jsonb, NULL if there were none) that returns the message as text, run with the caller''s rights; NULL as its result leaves the row as it is. A row whose message is taken goes away; one that is refused again stays, with the new reason and one more attempt. Returns a row for each message that was tried. Raises when repair is not one expression.';
