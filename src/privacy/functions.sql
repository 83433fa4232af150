-- Workspaces, who works in which, and who sees values.

CREATE FUNCTION cdp.current_workspace() RETURNS integer
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_current_workspace';
REVOKE ALL ON FUNCTION cdp.current_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.current_workspace() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.current_workspace() IS
'The workspace that the calling role (that of SET ROLE) works in: the one it was granted, or that everybody was granted; NULL if none. Raises when it was granted more than one, and when the library was not preloaded.';

CREATE FUNCTION cdp.required_workspace() RETURNS integer
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_required_workspace';
REVOKE ALL ON FUNCTION cdp.required_workspace() FROM PUBLIC;
COMMENT ON FUNCTION cdp.required_workspace() IS
'For functions of cdp: as cdp.current_workspace(), but raises when the calling role works in none.';

CREATE FUNCTION cdp.read_workspaces(OUT workspace_id integer, OUT workspace text, OUT identity_policy text, OUT roles name[], OUT created_at timestamptz)
	RETURNS SETOF record
	LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_read_workspaces';
REVOKE ALL ON FUNCTION cdp.read_workspaces() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.read_workspaces() TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.read_workspaces() IS
'Behind cdp.workspace: all workspaces for superusers, for others those that they work in.';

CREATE FUNCTION cdp.create_workspace(name text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_create_workspace';
REVOKE ALL ON FUNCTION cdp.create_workspace(text) FROM PUBLIC;
COMMENT ON FUNCTION cdp.create_workspace(text) IS
'Makes a workspace with the default namespaces. From the second on, only roles that were granted a workspace see anything; NOTICEs list those who can not read or write any more. Superusers only. Raises when the name is taken.';

CREATE FUNCTION cdp.drop_workspace_rows(dropped integer, dry_run boolean) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	AS $$
DECLARE
	target name;
	n bigint;
	counts jsonb := '{}';
BEGIN
	IF NOT dry_run THEN
		-- who adds rows outside of batches locks it (cdp.classify_trait)
		PERFORM FROM cdp_data.workspace w WHERE w.workspace_id = dropped FOR UPDATE;
	END IF;
	-- sources first: who adds positions or gaps to one locks it; the workspace itself last
	FOR target IN
		SELECT c.relname FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'workspace_id' AND NOT a.attisdropped
		WHERE c.relnamespace = 'cdp_data'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		ORDER BY c.relname = 'workspace', c.relname <> 'source', c.relname <> 'source_offset', c.relname
	LOOP
		IF dry_run THEN
			EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FROM cdp_data.%I WHERE workspace_id = $1', target) INTO n USING dropped;
		ELSE
			EXECUTE pg_catalog.format('DELETE FROM cdp_data.%I WHERE workspace_id = $1', target) USING dropped;
			GET DIAGNOSTICS n = ROW_COUNT;
		END IF;
		IF n > 0 THEN
			counts := counts || pg_catalog.jsonb_build_object(target, n);
		END IF;
	END LOOP;
	RETURN pg_catalog.jsonb_build_object('dry_run', dry_run, 'rows', counts);
END
$$;
REVOKE ALL ON FUNCTION cdp.drop_workspace_rows(integer, boolean) FROM PUBLIC;
COMMENT ON FUNCTION cdp.drop_workspace_rows(integer, boolean) IS
'Second half of cdp.drop_workspace: counts or deletes the rows of a workspace in every table of cdp_data that has a workspace_id.';

CREATE FUNCTION cdp.drop_workspace(name text, dry_run boolean DEFAULT true) RETURNS jsonb
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_drop_workspace';
REVOKE ALL ON FUNCTION cdp.drop_workspace(text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION cdp.drop_workspace(text, boolean) IS
'Deletes a workspace with everything that belongs to it: people, events, sources with their positions, quarantine, rules and grants. dry_run: change nothing. Returns {"dry_run": …, "rows": {table: number of its rows}}. Waits for open transactions that wrote to the workspace; its sources end at the commit. Superusers only. Raises when there is no such workspace, and when it is the only one.';

CREATE FUNCTION cdp.grant_workspace(role name, workspace text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_grant_workspace';
REVOKE ALL ON FUNCTION cdp.grant_workspace(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.grant_workspace(name, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.grant_workspace(name, text) IS
'Lets a role, and roles that inherit from it, work in a workspace; public: everybody, while it is the only workspace, as at first. Superusers may grant any to any, cdp_admin the one it works in, to roles that work in no other. Raises when role or workspace do not exist.';

CREATE FUNCTION cdp.revoke_workspace(role name, workspace text) RETURNS void
	LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_revoke_workspace';
REVOKE ALL ON FUNCTION cdp.revoke_workspace(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.revoke_workspace(name, text) TO cdp_admin;
COMMENT ON FUNCTION cdp.revoke_workspace(name, text) IS
'Takes back what cdp.grant_workspace gave, also from a role that was dropped since. Superusers may revoke any, cdp_admin the one it works in. Raises when the workspace does not exist, and when the role neither exists nor was granted it.';

-- ---------------------------------------------------------------- retention

CREATE FUNCTION cdp.purge_before(instant timestamptz, class text DEFAULT NULL, dry_run boolean DEFAULT true) RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_purge_before';
REVOKE ALL ON FUNCTION cdp.purge_before(timestamptz, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.purge_before(timestamptz, text, boolean) TO cdp_admin, cdp_privacy_officer;
COMMENT ON FUNCTION cdp.purge_before(timestamptz, text, boolean) IS
'Deletes the events of the caller''s workspace that happened before an instant, with the ids of their messages, and raises the watermark to it: from then on such events are refused as expired, whatever brings them. Links, identifiers and declared traits stay. An instant below the watermark purges up to the watermark. class: event, or NULL for all classes (there is no other so far). dry_run: only count. Returns workspace, class, watermark, dry_run, people (who had such events), event and message_seen (rows by partition), dropped (months that were dropped; of a dry run: those that may be), and, unless it is a dry run, complete (whether all was done at once), held_people (whom an open transaction holds), left (months whose lock was not to be had): the maintenance worker does these later. Raises when the instant is null, infinite or in the future, for another class, in a transaction that is not READ COMMITTED, for a role without a workspace, and, unless it is a dry run, when the clock was set forward by more than an hour since the server started.';

-- ---------------------------------------------------------------- masks

CREATE FUNCTION cdp.values_workspace() RETURNS integer
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_values_workspace';
REVOKE ALL ON FUNCTION cdp.values_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.values_workspace() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.values_workspace() IS
'The workspace whose values the calling role sees in the views: cdp.current_workspace() for superusers and members of cdp_admin and cdp_privacy_officer, NULL for others, who see pseudonyms and classified keys.';

CREATE FUNCTION cdp.pseudonym(identifier_id bigint) RETURNS text
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_pseudonym';
REVOKE ALL ON FUNCTION cdp.pseudonym(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.pseudonym(bigint) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.pseudonym(bigint) IS
'What is shown in place of an identifier: 16 hexadecimal digits, the same each time, from which the identifier can not be computed. Raises when the key file is missing.';

CREATE FUNCTION cdp.mask_traits(document jsonb, workspace_id integer) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_traits';
REVOKE ALL ON FUNCTION cdp.mask_traits(jsonb, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_traits(jsonb, integer) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_traits(jsonb, integer) IS 'Traits with the keys only that were classified as open (cdp.classify_trait) in workspace workspace_id; none, if the caller does not work in that one.';

CREATE FUNCTION cdp.mask_context(document jsonb) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_context';
REVOKE ALL ON FUNCTION cdp.mask_context(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_context(jsonb) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_context(jsonb) IS 'A context with the members that speak of software, locale and campaign only.';

CREATE FUNCTION cdp.mask_properties(document jsonb, workspace_id integer) RETURNS jsonb
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_mask_properties';
REVOKE ALL ON FUNCTION cdp.mask_properties(jsonb, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.mask_properties(jsonb, integer) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.mask_properties(jsonb, integer) IS
'Properties without the keys that usually carry identifiers (e-mail, phone, name, address, ip and the like), unless they were classified as open in workspace workspace_id, which has to be the caller''s.';

CREATE FUNCTION cdp.utf8_text(bytes bytea) RETURNS text
	LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_utf8_text';
REVOKE ALL ON FUNCTION cdp.utf8_text(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.utf8_text(bytea) TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.utf8_text(bytea) IS 'The bytes as text; NULL if they are not valid UTF-8 or hold a zero byte.';

CREATE FUNCTION cdp.classify_trait(key text, class text DEFAULT 'open') RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_classify_trait';
REVOKE ALL ON FUNCTION cdp.classify_trait(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.classify_trait(text, text) TO cdp_privacy_officer, cdp_admin;
COMMENT ON FUNCTION cdp.classify_trait(text, text) IS
'Says whether a top-level key of traits and properties is shown to those who see no values: open, or personal (as every key is at first). In the caller''s workspace. Raises on another class, on null, and for a role without a workspace.';
