-- Workspaces, who works in which, and who sees values.

CREATE FUNCTION cdp.current_workspace() RETURNS integer
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_current_workspace';
REVOKE ALL ON FUNCTION cdp.current_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.current_workspace() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.current_workspace() IS
'The workspace that the calling role (that of SET ROLE) works in: the only one, while there is one; else the one it was granted, NULL if none. Raises when it was granted more than one, and when the library was not preloaded.';

CREATE FUNCTION cdp.create_workspace(name text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_create_workspace';
REVOKE ALL ON FUNCTION cdp.create_workspace(text) FROM PUBLIC;
COMMENT ON FUNCTION cdp.create_workspace(text) IS
'Makes a workspace with the default namespaces. From the second on, only roles that were granted a workspace see anything; a NOTICE lists those who do not. Superusers only. Raises when the name is taken.';

CREATE FUNCTION cdp.grant_workspace(role name, workspace text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_grant_workspace';
REVOKE ALL ON FUNCTION cdp.grant_workspace(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.grant_workspace(name, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.grant_workspace(name, text) IS
'Lets a role, and roles that inherit from it, work in a workspace. Superusers may grant any, cdp_admin the one it works in. Raises when role or workspace do not exist.';

CREATE FUNCTION cdp.revoke_workspace(role name, workspace text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_revoke_workspace';
REVOKE ALL ON FUNCTION cdp.revoke_workspace(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.revoke_workspace(name, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.revoke_workspace(name, text) IS
'Takes back what cdp.grant_workspace gave. Superusers may revoke any, cdp_admin the one it works in. Raises when role or workspace do not exist.';

-- ---------------------------------------------------------------- retention

CREATE FUNCTION cdp.purge_before(instant timestamptz, class text DEFAULT NULL, dry_run boolean DEFAULT true) RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_purge_before';
REVOKE ALL ON FUNCTION cdp.purge_before(timestamptz, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.purge_before(timestamptz, text, boolean) TO cdp_admin, cdp_privacy_officer;
COMMENT ON FUNCTION cdp.purge_before(timestamptz, text, boolean) IS
'Deletes the events of the caller''s workspace that happened before an instant, with the ids of their messages, and raises the watermark to it: from then on such events are refused as expired, whatever brings them. Links, identifiers and declared traits stay. An instant below the watermark purges up to the watermark. class: event, or NULL for all classes (there is no other so far). dry_run: only count. Returns workspace, class, watermark, dry_run, people (who had such events), event and message_seen (rows by partition), dropped (months that were dropped; of a dry run: those that may be), and, unless it is a dry run, complete (whether all was done at once), held_people (whom an open transaction holds), left (months whose lock was not to be had): the maintenance worker does these later. Raises when the instant is null, infinite or in the future, for another class, in a transaction that is not READ COMMITTED, and for a role without a workspace.';

-- ---------------------------------------------------------------- masks

CREATE FUNCTION cdp.sees_values() RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_sees_values';
REVOKE ALL ON FUNCTION cdp.sees_values() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.sees_values() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.sees_values() IS
'Whether the calling role sees values in the views: superusers and members of cdp_admin and cdp_privacy_officer do; others see pseudonyms and classified keys.';

CREATE FUNCTION cdp.pseudonym(identifier_id bigint) RETURNS text
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_pseudonym';
REVOKE ALL ON FUNCTION cdp.pseudonym(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.pseudonym(bigint) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.pseudonym(bigint) IS
'What is shown in place of an identifier: 16 hexadecimal digits, the same each time, from which the identifier can not be computed. Raises when the key file is missing.';

CREATE FUNCTION cdp.mask_traits(document jsonb) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_traits';
REVOKE ALL ON FUNCTION cdp.mask_traits(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_traits(jsonb) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_traits(jsonb) IS 'Traits with the keys that were classified as open (cdp.classify_trait) only.';

CREATE FUNCTION cdp.mask_context(document jsonb) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_context';
REVOKE ALL ON FUNCTION cdp.mask_context(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_context(jsonb) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_context(jsonb) IS 'A context with the members that speak of software, locale and campaign only.';

CREATE FUNCTION cdp.mask_properties(document jsonb) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_properties';
REVOKE ALL ON FUNCTION cdp.mask_properties(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_properties(jsonb) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_properties(jsonb) IS
'Properties without the keys that usually carry identifiers (e-mail, phone, name, address, ip and the like), unless they were classified as open.';

CREATE FUNCTION cdp.utf8_text(bytes bytea) RETURNS text
	LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_utf8_text';
REVOKE ALL ON FUNCTION cdp.utf8_text(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.utf8_text(bytea) TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.utf8_text(bytea) IS 'The bytes as text; NULL if they are not valid UTF-8 or hold a zero byte.';

CREATE FUNCTION cdp.classify_trait(key text, class text DEFAULT 'open') RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF key IS NULL OR cdp.current_workspace() IS NULL THEN
		RAISE EXCEPTION 'the key is null, or you work in no workspace' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF class = 'personal' THEN
		DELETE FROM cdp_data.trait_class t WHERE t.key OPERATOR(pg_catalog.=) classify_trait.key;
	ELSIF class = 'open' THEN
		INSERT INTO cdp_data.trait_class (workspace_id, key, class)
			VALUES (cdp.current_workspace(), key, class) ON CONFLICT DO NOTHING;
	ELSE
		RAISE EXCEPTION 'unknown class "%"', class
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is open or personal.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION cdp.classify_trait(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.classify_trait(text, text) TO cdp_privacy_officer, cdp_admin;
COMMENT ON FUNCTION cdp.classify_trait(text, text) IS
'Says whether a top-level key of traits and properties is shown to those who see no values: open, or personal (as every key is at first). In the caller''s workspace. Raises on another class.';
