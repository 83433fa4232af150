-- Who may use which view and function.  A view or function that is not in the
-- lists here fails: its rights must be decided, not inherited.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = warning;

-- role without cdp_, and what it may do
CREATE TEMP VIEW view_right AS
	SELECT c.relname::text COLLATE "default" AS object,
		regexp_replace(a.grantee::regrole::text, '^cdp_', '') || ':' || lower(a.privilege_type) AS who
	FROM pg_class c, aclexplode(c.relacl) a
	WHERE c.relnamespace = 'cdp'::regnamespace AND a.grantee <> c.relowner;
CREATE TEMP VIEW function_right AS
	SELECT p.proname::text COLLATE "default" AS object, COALESCE(regexp_replace(NULLIF(a.grantee, 0)::regrole::text, '^cdp_', ''), 'PUBLIC') AS who
	FROM pg_proc p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
	WHERE p.pronamespace = 'cdp'::regnamespace AND a.grantee <> p.proowner;

SELECT plan(8);

SELECT results_eq(
	$$SELECT object, string_agg(who, ' ' ORDER BY who COLLATE "C") FROM view_right GROUP BY object ORDER BY object COLLATE "C"$$,
	$$VALUES
	('erasure', 'auditor:select privacy_officer:select'),
	('event', 'admin:select analyst:select marketer:select privacy_officer:select'),
	('identifier', 'admin:select analyst:select marketer:select privacy_officer:select'),
	('identity_warning', 'admin:select analyst:select marketer:select privacy_officer:select'),
	('inbox', 'ingest:insert'),
	('namespace', 'admin:select analyst:select auditor:select marketer:select privacy_officer:select'),
	('profile', 'admin:select analyst:select marketer:select privacy_officer:select'),
	('quarantine', 'admin:select auditor:select privacy_officer:select'),
	('source', 'admin:select analyst:select auditor:select marketer:select privacy_officer:select'),
	('source_gap', 'admin:select analyst:select auditor:select marketer:select privacy_officer:select'),
	('source_status', 'admin:select analyst:select auditor:select marketer:select privacy_officer:select'),
	('stage_stats', 'admin:select auditor:select pg_monitor:select'),
	('status', 'admin:select auditor:select pg_monitor:select privacy_officer:select'),
	('workspace', 'admin:select auditor:select privacy_officer:select')$$,
	'the rights on views are these');

SELECT results_eq(
	$$SELECT object, string_agg(DISTINCT who, ' ' ORDER BY who) FROM function_right GROUP BY object ORDER BY object COLLATE "C"$$,
	$$VALUES
	('adopt_source', 'admin'),
	('alter_source', 'admin'),
	('classify_trait', 'admin privacy_officer'),
	('create_source', 'admin'),
	('current_workspace', 'admin analyst auditor ingest marketer privacy_officer'),
	('drop_source', 'admin'),
	('find_profile', 'admin privacy_officer'),
	('forget', 'privacy_officer'),
	('get_profile', 'admin privacy_officer'),
	('grant_workspace', 'admin'),
	('has_identifier', 'admin analyst auditor marketer privacy_officer'),
	('header_object', 'admin auditor privacy_officer'),
	('ingest', 'ingest'),
	('ingest_many', 'ingest'),
	('mask_context', 'admin analyst auditor marketer privacy_officer'),
	('mask_properties', 'admin analyst auditor marketer privacy_officer'),
	('mask_traits', 'admin analyst auditor marketer privacy_officer'),
	('merge_traits', 'admin analyst auditor marketer privacy_officer'),
	('now', 'admin analyst auditor ingest marketer privacy_officer'),
	('pause_source', 'admin'),
	('pseudonym', 'admin analyst auditor marketer privacy_officer'),
	('purge_before', 'admin privacy_officer'),
	('read_filters', 'admin auditor pg_monitor'),
	('read_stage_stats', 'admin auditor pg_monitor'),
	('read_workspaces', 'admin auditor privacy_officer'),
	('replay_quarantine', 'admin privacy_officer'),
	('reset_stage_stats', 'admin'),
	('resume_source', 'admin'),
	('revoke_workspace', 'admin'),
	('server_status', 'admin auditor pg_monitor privacy_officer'),
	('set_identity_policy', 'admin'),
	('set_namespace', 'admin'),
	('set_source_position', 'admin'),
	('source_errors', 'admin analyst auditor marketer privacy_officer'),
	('source_partitions', 'admin analyst auditor marketer privacy_officer'),
	('source_workers', 'admin analyst auditor marketer privacy_officer'),
	('utf8_text', 'admin auditor privacy_officer'),
	('values_workspace', 'admin analyst auditor ingest marketer privacy_officer'),
	('verify', 'admin auditor privacy_officer'),
	('wait_for_source', 'admin')$$,
	'the rights on functions are these; all others may be called by nobody');

SELECT results_eq(
	$$SELECT p.proname::text COLLATE "default" FROM pg_proc p WHERE p.pronamespace = 'cdp'::regnamespace
		AND NOT EXISTS (SELECT FROM function_right r WHERE r.object = p.proname) AND obj_description(p.oid) NOT LIKE 'Internal: %'
	  ORDER BY p.proname COLLATE "C"$$,
	$$VALUES ('create_workspace'), ('drop_workspace'), ('migrate'), ('setup')$$,
	'what is for superusers is this; the others say that they are internal');

SELECT is_empty(
	$$SELECT r.rolname FROM pg_roles r
	  WHERE r.rolname LIKE 'cdp\_%' AND r.rolname <> 'cdp_owner' AND has_schema_privilege(r.oid, 'cdp_data', 'USAGE, CREATE')$$,
	'no role of cdp may look into cdp_data');
SELECT is_empty(
	$$SELECT r.rolname FROM pg_roles r
	  WHERE r.rolname LIKE 'cdp\_%' AND r.rolname <> 'cdp_owner' AND has_schema_privilege(r.oid, 'cdp', 'CREATE')$$,
	'nor make something in cdp');
SELECT is_empty(
	$$SELECT r.rolname FROM pg_roles r, pg_class c
	  WHERE r.rolname IN ('cdp_admin', 'cdp_ingest', 'cdp_analyst', 'cdp_marketer', 'cdp_privacy_officer', 'cdp_auditor')
		AND c.relnamespace = 'cdp_data'::regnamespace AND c.relkind IN ('r', 'p')
		AND has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')$$,
	'nor touch a table');
SELECT is_empty(
	$$SELECT m.roleid::regrole, m.member::regrole FROM pg_auth_members m
	  WHERE m.roleid::regrole::text LIKE 'cdp\_%' AND m.member::regrole::text LIKE 'cdp\_%'$$,
	'no role of cdp is a member of another');
SELECT ok(NOT has_schema_privilege('public', 'cdp', 'USAGE'), 'PUBLIC does not see the schema');

SELECT * FROM finish();
ROLLBACK;
