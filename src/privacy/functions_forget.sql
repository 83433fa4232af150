
-- ---------------------------------------------------------------- the right to be forgotten

CREATE FUNCTION cdp.forget(namespace text, value text, reason text, dry_run boolean DEFAULT true, scope text DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_forget';
REVOKE ALL ON FUNCTION cdp.forget(text, text, text, boolean, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.forget(text, text, text, boolean, text) TO cdp_privacy_officer;
COMMENT ON FUNCTION cdp.forget(text, text, text, boolean, text) IS
'Forgets the person with an identifier, in the caller''s workspace and transaction: deletes all that is stored of it, strips its identifiers from events of others, and writes tokens, so that no replay brings it back. namespace, value: an identifier as sent or normalised; namespace profile_id takes a profile id, also one that was merged away. reason: kept with the erasure (cdp.erasure). dry_run: only count. scope: profile (the whole person), fragment (what the identifier was part of before it was joined with others), NULL: profile. Returns found, profile_id, tokens, and rows deleted, stripped and kept, by table; {"found": false} for who is not known. Raises when the identifier is shared, demoted or of a household, when the profile has two values of a namespace limited to one and scope is NULL, in a transaction of isolation level repeatable read or serializable, and when the namespace does not exist.';
