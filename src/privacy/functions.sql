-- Who works in which workspace, and who sees values.

CREATE FUNCTION cdp.current_workspace() RETURNS integer
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_current_workspace';
REVOKE ALL ON FUNCTION cdp.current_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.current_workspace() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.current_workspace() IS
'The workspace that the calling role (that of SET ROLE) works in: the only one, while there is one; else the one it was granted, NULL if none. Raises when it was granted more than one, and when the library was not preloaded.';

CREATE FUNCTION cdp.sees_values() RETURNS boolean
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_sees_values';
REVOKE ALL ON FUNCTION cdp.sees_values() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.sees_values() TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.sees_values() IS
'Whether the calling role sees values in the views: superusers and members of cdp_admin and cdp_privacy_officer do; others see pseudonyms and classified keys.';
