-- Walks the catalog, so that no table, partition, view or function of cdp can
-- forget what all of them must have (A20 and A66 of the threat list).  Each rule
-- is a query that returns the offenders.  Then one offender of each kind is
-- planted, and every rule must find it.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = warning;

CREATE TEMP TABLE rule (number serial PRIMARY KEY, name text NOT NULL, query text NOT NULL) ON COMMIT DROP;

CREATE TEMP VIEW data_table AS
	SELECT c.oid, c.relname, c.relkind, c.relispartition, c.relowner, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
		COALESCE(pg_partition_root(c.oid), c.oid) AS root
	FROM pg_class c WHERE c.relnamespace = 'cdp_data'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'm', 't');
CREATE TEMP VIEW data_column AS
	SELECT t.oid, t.relname, root.relname AS root_name, t.relispartition, a.attname, a.attnum, a.atttypid,
		COALESCE(a.attstattarget, -1) AS target, r.class
	FROM data_table t
		JOIN pg_class root ON root.oid = t.root
		JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN cdp_data.data_registry r ON r.table_name = root.relname AND r.column_name = a.attname;
CREATE TEMP VIEW code AS
	SELECT p.*, l.lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'cdp'::regnamespace;
CREATE TEMP VIEW public_view AS
	SELECT c.* FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind = 'v';

INSERT INTO rule (name, query) VALUES
-- tables
('tables belong to cdp_owner',
 $$SELECT relname FROM data_table WHERE relowner <> 'cdp_owner'::regrole$$),
('there are only ordinary and partitioned tables in cdp_data',
 $$SELECT relname FROM data_table WHERE relkind NOT IN ('r', 'p')$$),
('row security is enabled and forced on every table and partition',
 $$SELECT relname FROM data_table WHERE NOT (relrowsecurity AND relforcerowsecurity)$$),
('every table has the one policy, for all commands and roles',
 $$SELECT t.relname FROM data_table t LEFT JOIN pg_policy p ON p.polrelid = t.oid GROUP BY t.oid, t.relname
   HAVING count(p.oid) <> 1
	OR bool_or(p.polcmd <> '*' OR NOT p.polpermissive OR p.polroles <> '{0}' OR p.polwithcheck IS NOT NULL)$$),
('the policy compares workspace_id, or lets nobody in where there is none',
 $$SELECT t.relname, pg_get_expr(p.polqual, p.polrelid) FROM data_table t JOIN pg_policy p ON p.polrelid = t.oid
   WHERE pg_get_expr(p.polqual, p.polrelid) IS DISTINCT FROM
	CASE WHEN EXISTS (SELECT FROM data_column c WHERE c.oid = t.oid AND c.attname = 'workspace_id')
		 THEN '(workspace_id = ( SELECT cdp.current_workspace() AS current_workspace))' ELSE 'false' END$$),
('only tables of the server have no workspace_id, so that cdp.drop_workspace() deletes all that belongs to one',
 $$SELECT relname FROM data_table t WHERE relname NOT IN ('version', 'instance', 'engine_lock', 'data_registry')
   AND NOT EXISTS (SELECT FROM data_column c WHERE c.oid = t.oid AND c.attname = 'workspace_id' AND c.atttypid = 'integer'::regtype)$$),
('every column is in the register',
 $$SELECT relname, attname FROM data_column WHERE class IS NULL$$),
('the register names only columns that exist',
 $$SELECT table_name, column_name FROM cdp_data.data_registry r
   WHERE NOT EXISTS (SELECT FROM data_column c WHERE c.relname = r.table_name AND c.attname = r.column_name)$$),
('columns with identifiers or personal data have no statistics',
 $$SELECT relname, attname FROM data_column WHERE class IN ('identifier', 'personal') AND target <> 0$$),
('no index holds identifiers or personal data',
 $$SELECT i.indexrelid::regclass FROM pg_index i JOIN data_column c ON c.oid = i.indrelid
   WHERE c.class IN ('identifier', 'personal') AND (c.attnum = ANY (i.indkey)
	-- in an expression or a predicate
	OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
		AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = c.attnum))$$),
('every table that holds rows has a primary key',
 $$SELECT relname FROM data_table t
   WHERE relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)$$),
('partitions have the storage options of their siblings',
 $$SELECT root::regclass FROM data_table WHERE relispartition GROUP BY root HAVING count(DISTINCT COALESCE(reloptions, '{}')) > 1$$),
('nothing but the engine runs when events are written: no triggers or rules',
 $$SELECT t.relname FROM data_table t WHERE t.root IN ('cdp_data.event'::regclass, 'cdp_data.message_seen'::regclass)
   AND (EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid) OR EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = t.oid))$$),
('no table of cdp_data is a member of the extension',
 $$SELECT objid::regclass FROM pg_depend WHERE deptype = 'e' AND classid = 'pg_class'::regclass
   AND objid IN (SELECT oid FROM pg_class WHERE relnamespace IN ('cdp'::regnamespace, 'cdp_data'::regnamespace))$$),
('no stored column has a type of an extension',
 $$SELECT relname, attname FROM data_column c JOIN pg_type t ON t.oid = c.atttypid
   WHERE EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.deptype = 'e' AND d.objid IN (t.oid, t.typelem))$$),
('nobody but the owner has a privilege on tables and sequences',
 $$SELECT c.relname, a.grantee FROM pg_class c, aclexplode(c.relacl) a
   WHERE c.relnamespace = 'cdp_data'::regnamespace AND a.grantee <> c.relowner$$),
('nobody but the owner has a privilege on the schema',
 $$SELECT a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'cdp_data' AND a.grantee <> n.nspowner$$),
('every table and column has a comment',
 $$SELECT t.relname, NULL FROM data_table t WHERE obj_description(t.oid, 'pg_class') IS NULL
   UNION ALL
   SELECT relname, attname FROM data_column WHERE NOT relispartition AND col_description(oid, attnum) IS NULL$$),
-- views
('views belong to cdp_owner',
 $$SELECT relname FROM public_view WHERE relowner <> 'cdp_owner'::regrole$$),
('views run with the rights of their owner, and are barriers while there are workspaces to separate',
 $$SELECT relname FROM public_view WHERE COALESCE(reloptions, '{}') <>
	CASE WHEN (SELECT count(*) FROM cdp_data.workspace) > 1 THEN '{security_barrier=true}'::text[] ELSE '{}' END$$),
('every view and column has a comment',
 $$SELECT v.relname, NULL FROM public_view v WHERE obj_description(v.oid, 'pg_class') IS NULL
   UNION ALL
   SELECT v.relname, a.attname FROM public_view v JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0
   WHERE col_description(v.oid, a.attnum) IS NULL$$),
('PUBLIC has no privilege on a view',
 $$SELECT v.relname FROM public_view v, aclexplode(v.relacl) a WHERE a.grantee = 0$$),
('there are only views in schema cdp',
 $$SELECT relname FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind <> 'v'$$),
-- functions
('functions belong to cdp_owner',
 $$SELECT oid::regprocedure FROM code WHERE proowner <> 'cdp_owner'::regrole$$),
('every function has a comment',
 $$SELECT oid::regprocedure FROM code WHERE obj_description(oid, 'pg_proc') IS NULL$$),
('PUBLIC may execute nothing',
 $$SELECT p.oid::regprocedure FROM code p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0$$),
('SECURITY DEFINER functions in SQL and plpgsql fix the search path',
 $$SELECT oid::regprocedure FROM code WHERE prosecdef AND lanname IN ('sql', 'plpgsql')
   AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)$$),
('other functions that somebody may call set nothing: it costs time and stops inlining',
 $$SELECT oid::regprocedure FROM code p WHERE NOT prosecdef AND proconfig IS NOT NULL
   AND EXISTS (SELECT FROM aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee <> p.proowner)$$),
('functions are in C, SQL or plpgsql',
 $$SELECT oid::regprocedure FROM code WHERE lanname NOT IN ('c', 'sql', 'plpgsql', 'internal')$$),
('every function is a member of the extension',
 $$SELECT p.oid::regprocedure FROM code p WHERE NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND e.extname = 'cdp')$$),
('the schemas have a comment',
 $$SELECT nspname FROM pg_namespace WHERE nspname IN ('cdp', 'cdp_data') AND obj_description(oid, 'pg_namespace') IS NULL$$),
('no role of cdp can log in, or has more rights than it must',
 $$SELECT rolname FROM pg_roles WHERE rolname IN ('cdp_owner', 'cdp_admin', 'cdp_ingest', 'cdp_analyst', 'cdp_marketer',
	'cdp_privacy_officer', 'cdp_auditor') AND (rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)$$);

SELECT plan((2 * count(*))::integer) FROM rule;
SELECT is_empty(query, name) FROM rule ORDER BY number;

-- one offender of each kind
CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;
CREATE TABLE cdp_data.planted (workspace_id integer, email text, tags public.hstore);
CREATE INDEX ON cdp_data.planted (lower(email));
GRANT SELECT ON cdp_data.planted TO cdp_analyst;
GRANT USAGE ON SCHEMA cdp_data TO cdp_analyst;
INSERT INTO cdp_data.data_registry VALUES ('planted', 'email', 'identifier'), ('planted', 'gone', 'key');
CREATE TABLE cdp_data.planted_policy (workspace_id integer);
CREATE POLICY workspace ON cdp_data.planted_policy USING (true);
CREATE MATERIALIZED VIEW cdp_data.planted_copy AS SELECT 1 AS one;
ALTER TABLE cdp_data.event_first SET (fillfactor = 50);
CREATE TRIGGER planted AFTER INSERT ON cdp_data.event FOR EACH STATEMENT EXECUTE FUNCTION cdp.config_changed();
CREATE TABLE cdp.planted (one integer);
ALTER EXTENSION cdp ADD TABLE cdp.planted;
CREATE VIEW cdp.planted_view WITH (security_invoker = true) AS SELECT 1 AS one;
GRANT SELECT ON cdp.planted_view TO PUBLIC;
CREATE FUNCTION cdp.planted() RETURNS integer LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE FUNCTION cdp.planted_path() RETURNS integer LANGUAGE sql SET search_path = public AS 'SELECT 1';
CREATE LANGUAGE planted HANDLER plpgsql_call_handler;
CREATE FUNCTION cdp.planted_language() RETURNS integer LANGUAGE planted AS 'BEGIN RETURN 1; END';
COMMENT ON SCHEMA cdp IS NULL;
ALTER ROLE cdp_auditor CREATEDB;

SELECT isnt_empty(query, 'found: ' || name) FROM rule ORDER BY number;
SELECT * FROM finish();
ROLLBACK;
