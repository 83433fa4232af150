-- Attacks on the walls between workspaces and around values.  The numbers are
-- those of the threat list; A20 and A66 are rules of lint.sql, A63, A69 and A74 are
-- in test/t/attacks.py.  An attack is a query and the role that runs it: it
-- must give nothing, or be refused.  Then the wall is broken on purpose and the
-- same query must give something, so that no test here is blind.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = error;

-- ---------------------------------------------------------------- how an attack is judged

-- What a role gets from a query, as text; an error that is no refusal is something, too.
CREATE FUNCTION attempt(who name, query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	PERFORM set_config('role', who, true);
	FOR r IN EXECUTE query LOOP
		RETURN NEXT r::text;
	END LOOP;
	PERFORM set_config('role', 'none', true);
EXCEPTION WHEN OTHERS THEN
	IF SQLSTATE NOT IN ('42501', '42602', '42703', '55000', '0A000') OR SQLERRM ~ 'victim' THEN
		RETURN NEXT format('%s: %s', SQLSTATE, SQLERRM);
	END IF;
END
$$;

CREATE FUNCTION got_after(breach text, who name, query text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	got text[];
BEGIN
	EXECUTE breach;
	got := ARRAY(SELECT attempt(who, query));
	RAISE EXCEPTION 'undo' USING ERRCODE = 'XX999';
EXCEPTION WHEN SQLSTATE 'XX999' THEN
	RETURN got;
END
$$;

-- Behind two walls, either of which is enough: SELECT break_walls() breaks both.
CREATE FUNCTION holds(attack text, who name, query text, breach text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	wall text;
BEGIN
	RETURN NEXT is(ARRAY(SELECT attempt(who, query)), '{}', attack);
	IF breach = 'SELECT break_walls()' THEN
		FOREACH wall IN ARRAY '{break_row_security,break_conditions}'::text[] LOOP
			RETURN NEXT is(got_after(format('SELECT %s()', wall), who, query), '{}', format('%s, after %s', attack, wall));
		END LOOP;
	END IF;
	RETURN NEXT isnt(got_after(breach, who, query), '{}', 'seen: ' || attack);
END
$$;

-- Runs a statement that returns no rows.
CREATE FUNCTION run(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
END
$$;

-- ---------------------------------------------------------------- two workspaces with the same people

CREATE ROLE an_a IN ROLE cdp_analyst;
CREATE ROLE mk_a IN ROLE cdp_marketer;
CREATE ROLE au_a IN ROLE cdp_auditor;
CREATE ROLE of_a IN ROLE cdp_privacy_officer;
CREATE ROLE ad_a IN ROLE cdp_admin;
CREATE ROLE in_a IN ROLE cdp_ingest;
CREATE ROLE of_b IN ROLE cdp_privacy_officer;
CREATE ROLE in_b IN ROLE cdp_ingest;
CREATE ROLE an_b IN ROLE cdp_analyst;
CREATE ROLE mallory IN ROLE cdp_ingest, cdp_analyst;
CREATE ROLE nob;
SELECT cdp.create_workspace('victims');
SELECT cdp.grant_workspace(r, 'default') FROM unnest('{an_a,mk_a,au_a,of_a,ad_a,in_a,mallory}'::name[]) r;
SELECT cdp.grant_workspace(r, 'victims') FROM unnest('{of_b,in_b,an_b}'::name[]) r;
SELECT cdp.create_source('sql', workspace => 'victims');
SELECT cdp.create_source('victim_web', brokers => 'localhost:1', topics => '{victim_topic}', workspace => 'victims');

-- Ada is known to both, the victim to one; whatever is of the victims' workspace has their name, or a number that is nobody else's
SELECT setval('cdp_data.fragment_id_seq', 9000000), setval('cdp_data.event_id_seq', 9000000);
ALTER SEQUENCE cdp_data.quarantine_quarantine_id_seq RESTART 9000000;
SET LOCAL ROLE in_b;
SELECT count(*) FROM cdp.ingest('[
	{"type": "identify", "userId": "victim", "messageId": "victim1", "traits": {"email": "victim@b.example", "phone": "+victim"},
		"context": {"library": {"name": "victim.js"}}},
	{"type": "track", "userId": "victim", "event": "Victim Signed", "messageId": "victim2", "properties": {"plan": "victim"}},
	{"type": "identify", "userId": "victims-ada", "messageId": "victim3", "traits": {"email": "ada@example.com"}},
	{"type": "telepathy", "userId": "victim", "messageId": "victim4"}]');
RESET ROLE;
INSERT INTO cdp_data.source_gap (gap_id, source_id, topic, "partition", workspace_id, from_offset, to_offset, found_at)
	SELECT 9000000, s.source_id, 'victim_topic', 0, s.workspace_id, 1, 2, now() FROM cdp_data.source s WHERE s.name = 'victim_web';
INSERT INTO cdp_data.source_offset (source_id, topic, "partition", workspace_id, "position", state)
	SELECT s.source_id, 'victim_topic', 0, s.workspace_id, 9000000, 'diverged' FROM cdp_data.source s WHERE s.name = 'victim_web';
INSERT INTO cdp_data.parked (source_id, workspace_id, parked_at, body) SELECT s.source_id, s.workspace_id, now() - interval '1 hour', ''
	FROM cdp_data.source s WHERE s.name = 'victim_web';
INSERT INTO cdp_data.identity_warning (warning_id, workspace_id, kind, identifier_id, namespace_id, link_id, warned_at)
	SELECT 9000000, i.workspace_id, 'demoted', i.identifier_id, i.namespace_id, 1, now() FROM cdp_data.identifier i WHERE i.value = 'victim';
INSERT INTO cdp_data.erasure (erasure_id, workspace_id, erased_at, erased_by, reason, scope, tokens, fragments)
	SELECT 9000000, w.workspace_id, now(), 'victim', 'victim', 'profile', '{1}', '{1}' FROM cdp_data.workspace w WHERE w.name = 'victims';

SET LOCAL ROLE in_a;
SELECT count(*) FROM cdp.ingest('[{"type": "identify", "userId": "ada", "messageId": "own1", "traits": {"email": "ada@example.com"}},
	{"type": "track", "userId": "ada", "event": "Signed", "messageId": "own2", "properties": {"email": "ada@example.com", "plan": "pro"}}]');
RESET ROLE;
CREATE TEMP TABLE person AS SELECT
	(SELECT i.fragment_id FROM cdp_data.identifier i WHERE i.value = 'victim') AS victim,
	(SELECT i.fragment_id FROM cdp_data.identifier i WHERE i.value = 'ada') AS ada;
GRANT SELECT ON person TO PUBLIC;

-- Walls, to be broken.
CREATE FUNCTION break_row_security() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t regclass;
BEGIN
	FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'cdp_data'::regnamespace AND relkind IN ('r', 'p') LOOP
		EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', t);
	END LOOP;
END
$$;
CREATE FUNCTION break_conditions() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v record;
BEGIN
	FOR v IN SELECT relname, regexp_replace(pg_get_viewdef(oid), '\(?\w+\.workspace_id = \( SELECT cdp\.current_workspace\(\) AS current_workspace\)\)?', 'true', 'g') AS open
		FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind = 'v' AND pg_get_viewdef(oid) LIKE '%current_workspace()%' LOOP
		EXECUTE format('CREATE OR REPLACE VIEW cdp.%I AS %s', v.relname, v.open);
	END LOOP;
END
$$;
CREATE FUNCTION break_walls() RETURNS void LANGUAGE sql AS 'SELECT break_row_security(), break_conditions()';
CREATE FUNCTION break_schema() RETURNS void LANGUAGE sql AS $$
	GRANT USAGE ON SCHEMA cdp_data TO PUBLIC;
	GRANT ALL ON ALL TABLES IN SCHEMA cdp_data TO PUBLIC;
	GRANT USAGE ON ALL SEQUENCES IN SCHEMA cdp_data TO PUBLIC;
$$;

-- Whether a text names something of the other workspace.
SELECT set_config('regress.foreign', format('victim|\m(9000000|%s)\M', string_agg(n::text, '|')), true) IS NOT NULL
FROM cdp_data.workspace w CROSS JOIN LATERAL (SELECT p.fragment_id FROM cdp_data.profile p WHERE p.workspace_id = w.workspace_id
	UNION SELECT e.event_id FROM cdp_data.event e WHERE e.workspace_id = w.workspace_id) x(n) WHERE w.name = 'victims';
CREATE FUNCTION is_foreign(value text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT value ~* current_setting('regress.foreign')$$;

SELECT * FROM no_plan();
SELECT ok(is_foreign(victim::text) AND NOT is_foreign(ada::text), 'the victim is known by number, too') FROM person;

-- ---------------------------------------------------------------- tenancy and row security

-- A01: the tables themselves
CREATE FUNCTION readable() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'cdp_data' AND c.relkind IN ('r', 'p', 'S', 'v', 'm') LOOP
		BEGIN
			EXECUTE format(CASE t.relkind WHEN 'S' THEN 'SELECT nextval(''cdp_data.%I'')' ELSE 'SELECT count(*) FROM cdp_data.%I' END, t.relname);
			RETURN NEXT t.relname;
		EXCEPTION WHEN insufficient_privilege THEN
		END;
	END LOOP;
END
$$;
SELECT holds(format('A01: no table or sequence can be read (%s)', r), r, 'SELECT * FROM readable()', 'SELECT break_schema()')
FROM unnest('{an_a,mk_a,au_a,of_a,ad_a,in_a,nob}'::name[]) r;

-- A03: settings
SELECT holds('A03: no setting chooses the workspace: ' || setting, 'of_a',
	format('SELECT p.profile_id FROM set_config(%L, ''victims'', true) s, cdp.profile p, person WHERE p.profile_id = person.victim', setting),
	'SELECT break_walls()')
FROM unnest('{app.workspace,workspace.name}'::text[]) setting;
SELECT is_empty(format($$SELECT * FROM attempt('of_a', 'SELECT set_config(''cdp.%s'', ''victims'', true)')$$, setting), 'A03: there is no such setting: cdp.' || setting)
FROM unnest('{workspace,current_workspace,workspace_id,tenant}'::text[]) setting;
SELECT is_empty($$SELECT * FROM attempt('of_a', 'SELECT run(''ALTER ROLE of_a SET cdp.workspace = victims'')')$$, 'A03: nor for a role');
-- one that was planned for another role
CREATE FUNCTION planned() RETURNS SETOF bigint LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT profile_id FROM cdp.profile; END';
SELECT isnt_empty($$SELECT * FROM attempt('of_b', 'SELECT 1 FROM planned() p, person WHERE p = person.victim')$$, 'A03: a statement is planned for one role');
SELECT isnt_empty($$SELECT * FROM attempt('of_b', 'SELECT 1 FROM generate_series(1, 9) g, LATERAL (SELECT g, p FROM planned() p) x')$$, 'A03: and kept');
SELECT holds('A03: another role gets its own from it', 'of_a', 'SELECT p FROM planned() p, person WHERE p = person.victim', 'SELECT break_walls()');

-- A03: a role that changes while the statement runs: the row's own workspace says whether its values are shown
CREATE ROLE two_roles;
GRANT an_b, ad_a TO two_roles;
CREATE FUNCTION midway(at_first text) RETURNS SETOF text LANGUAGE plpgsql
	SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off SET enable_memoize = off AS $$
BEGIN
	PERFORM set_config('role', at_first, true);
	RETURN QUERY SELECT to_jsonb(v)::text FROM generate_series(1, 2) g,
		LATERAL (SELECT set_config('role', CASE g WHEN 1 THEN at_first ELSE 'ad_a' END, true) r OFFSET 0) s,
		LATERAL (SELECT * FROM cdp.event e WHERE e.message_id LIKE CASE WHEN g = 2 THEN 'victim%' ELSE '' END OFFSET 0) v;
END
$$;
SELECT is_empty($$SELECT m FROM midway('an_b') m WHERE m ~ 'b\.example'$$, 'A03: nobody sees values of one workspace with rights in another');
RESET ROLE;
SELECT isnt_empty($$SELECT m FROM midway('of_b') m WHERE m ~ 'b\.example'$$, 'A03: with rights in it one sees them');
RESET ROLE;
-- nor with what was classified in another
SELECT isnt_empty($$SELECT * FROM attempt('ad_a', 'SELECT cdp.classify_trait(''email'')')$$, 'A03: e-mail is open in one workspace');
SELECT is_empty($$SELECT m FROM midway('an_b') m WHERE m ~ 'b\.example'$$, 'A03: and not in the other one, whose rows are read');
RESET ROLE;
SELECT isnt_empty($$SELECT * FROM attempt('an_a', 'SELECT 1 FROM cdp.event WHERE traits ? ''email''')$$, 'A03: where it is open it is shown');
SELECT isnt_empty($$SELECT * FROM attempt('ad_a', 'SELECT cdp.classify_trait(''email'', ''personal'')')$$, 'A03: it is closed again');

-- A05: row security off
SELECT holds('A05: row security can not be turned off', 'of_a',
	'SELECT 1 FROM (SELECT set_config(''row_security'', ''off'', true)) s, planned() p, person WHERE p = person.victim', 'SELECT break_walls()');

-- A12: writing into the other workspace
SELECT cdp.grant_workspace('cdp_owner', 'default');
CREATE FUNCTION break_views() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v name;
BEGIN
	FOREACH v IN ARRAY '{profile,event,identifier,inbox}'::name[] LOOP
		EXECUTE format('DROP VIEW cdp.%I CASCADE', v);
		EXECUTE format('CREATE TABLE cdp.%I (profile_id bigint, workspace text, message text, source text)', v);
		EXECUTE format('GRANT ALL ON cdp.%I TO PUBLIC', v);
	END LOOP;
END
$$;
SELECT holds('A12: nobody writes through a view: ' || statement, 'mk_a', format('SELECT run(%L)', statement), 'SELECT break_views()')
FROM (VALUES
	('INSERT INTO cdp.profile (profile_id, workspace) VALUES (1, ''victims'')'),
	('UPDATE cdp.profile SET workspace = ''victims'''),
	('DELETE FROM cdp.event'),
	('MERGE INTO cdp.identifier i USING person ON i.profile_id = person.victim WHEN MATCHED THEN DELETE'),
	('INSERT INTO cdp.inbox (message, source) VALUES (''{}'', ''victim_web'')')) v(statement);
SELECT holds('A12: not even the owner of the tables gets there: ' || statement, 'cdp_owner', statement, 'SELECT break_row_security()')
FROM (VALUES
	('INSERT INTO cdp_data.dirty SELECT 1, workspace_id + 1, ''moved'', now() FROM cdp_data.workspace ORDER BY 1 LIMIT 1 RETURNING 1'),
	('INSERT INTO cdp_data.dirty SELECT 1, workspace_id + 1, ''moved'', now() FROM cdp_data.workspace ORDER BY 1 LIMIT 1 ON CONFLICT (fragment_id) DO UPDATE SET cause = ''x'' RETURNING 1'),
	('UPDATE cdp_data.profile SET workspace_id = workspace_id + 1 RETURNING 1'),
	('SELECT 1 FROM cdp_data.profile p, person WHERE p.fragment_id = person.victim'),
	('DELETE FROM cdp_data.event e USING person WHERE e.fragment_id = person.victim RETURNING 1'),
	('SELECT run(''MERGE INTO cdp_data.profile p USING person ON p.fragment_id = person.ada WHEN MATCHED THEN UPDATE SET workspace_id = p.workspace_id + 1'')'),
	('SELECT 1 FROM cdp_data.instance')) v(statement);

-- A13, A15: functions and errors of the caller's, before the filter
CREATE FUNCTION spy(condition text, wanted text DEFAULT current_setting('regress.foreign')) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	c record;
BEGIN
	PERFORM set_config('regress.wanted', wanted, true);
	-- cheaper than anything else, so that the planner would like to run it first
	CREATE FUNCTION pg_temp.tell(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
		'BEGIN IF value ~* current_setting(''regress.wanted'') THEN PERFORM set_config(''regress.told'', value, true); END IF; RETURN true; END';
	FOR c IN SELECT t.relname, a.attname FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
			CROSS JOIN LATERAL (SELECT quote_ident(attname) AS attname FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0
				UNION ALL SELECT 'v') a
		WHERE n.nspname = 'cdp' AND t.relkind = 'v' AND has_table_privilege(t.oid, 'SELECT') LOOP
		PERFORM set_config('regress.told', '', true);
		BEGIN
			EXECUTE format('SELECT * FROM cdp.%I v WHERE %s', c.relname, replace(condition, 'VALUE', c.attname || '::text'));
		EXCEPTION WHEN division_by_zero THEN
			RETURN NEXT format('%s.%s: error', c.relname, c.attname);
		END;
		IF current_setting('regress.told') <> '' THEN
			RETURN NEXT format('%s.%s: %s', c.relname, c.attname, current_setting('regress.told'));
		END IF;
	END LOOP;
	DROP FUNCTION pg_temp.tell(text);
END
$$;
SELECT holds(format('A13: a function of the caller''s sees nothing of the other workspace (%s)', r), r,
	'SELECT * FROM spy(''pg_temp.tell(VALUE)'')', 'SELECT break_walls()')
FROM unnest('{an_a,mk_a,au_a,of_a,ad_a}'::name[]) r;
SELECT holds(format('A13: nor an unmasked value (%s)', r), r,
	'SELECT * FROM spy(''pg_temp.tell(VALUE)'', ''ada@example|\mada\M'')', format('GRANT cdp_privacy_officer TO %I', r))
FROM unnest('{an_a,mk_a}'::name[]) r;
SELECT holds(format('A15: no error comes from rows of the other workspace (%s)', r), r,
	'SELECT * FROM spy(''1 / (CASE WHEN public.is_foreign(VALUE) THEN 0 ELSE 1 END) = 1'')', 'SELECT break_walls()')
FROM unnest('{an_a,mk_a,au_a,of_a,ad_a}'::name[]) r;
SELECT set_config('max_parallel_workers_per_gather', '2', true), set_config('parallel_setup_cost', '0', true),
	set_config('parallel_tuple_cost', '0', true), set_config('min_parallel_table_scan_size', '0', true);
SELECT holds('A13: nor does a query with parallel workers', 'of_a', 'SELECT e.message_id FROM cdp.event e WHERE e.message_id LIKE ''victim%''', 'SELECT break_walls()');
SELECT set_config('max_parallel_workers_per_gather', '0', true);

-- A13: nor what the server runs for the owner of a table, whoever has it run, as autovacuum does with ANALYZE
CREATE SCHEMA own AUTHORIZATION an_a;
SET LOCAL ROLE an_a;
CREATE MATERIALIZED VIEW own.seen AS SELECT concat(p.profile_id, p.traits, i.value) AS line FROM cdp.profile p JOIN cdp.identifier i USING (profile_id);
CREATE TABLE own.told (line text);
CREATE TABLE own.bait (one integer);
CREATE FUNCTION own.tell(one integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN one; END';
CREATE INDEX ON own.bait (own.tell(one));
INSERT INTO own.bait VALUES (1);
CREATE OR REPLACE FUNCTION own.tell(one integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS
	'BEGIN INSERT INTO own.told SELECT concat(p.profile_id, p.traits, i.value) FROM cdp.profile p JOIN cdp.identifier i USING (profile_id); RETURN one; END';
RESET ROLE;
SELECT cdp.grant_workspace(session_user, 'victims');
REFRESH MATERIALIZED VIEW own.seen;
ANALYZE own.bait;
SELECT cdp.revoke_workspace(session_user, 'victims');
SELECT isnt_empty(format('SELECT * FROM own.%s', t), 'A13: a superuser has it run: ' || t) FROM unnest('{seen,told}'::name[]) t;
SELECT is_empty(format('SELECT * FROM own.%s WHERE is_foreign(line) OR line ~ ''ada@''', t), 'A13: and lends no sight: ' || t)
FROM unnest('{seen,told}'::name[]) t;

-- A13: nor a trigger of a foreign key's action, where PostgreSQL does not force row security; nor what was planned there
CREATE FUNCTION cascaded() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	v name;
BEGIN
	CREATE TEMP TABLE cascade_from (id integer PRIMARY KEY);
	CREATE TEMP TABLE cascade_to (id integer REFERENCES cascade_from ON DELETE CASCADE);
	CREATE TEMP TABLE loot (line text);
	CREATE FUNCTION pg_temp.grab() RETURNS trigger LANGUAGE plpgsql AS $f$
	DECLARE
		v name;
	BEGIN
		FOR v IN SELECT relname FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind = 'v' AND has_table_privilege(oid, 'SELECT') LOOP
			BEGIN
				EXECUTE format('PREPARE kept_%1$s AS SELECT to_jsonb(v)::text FROM cdp.%1$I v', v);
				EXECUTE format('INSERT INTO loot SELECT to_jsonb(v)::text FROM cdp.%I v', v);
			EXCEPTION WHEN insufficient_privilege THEN
				NULL;
			END;
		END LOOP;
		RETURN old;
	END $f$;
	CREATE TRIGGER grab BEFORE DELETE ON cascade_to FOR EACH ROW EXECUTE FUNCTION pg_temp.grab();
	INSERT INTO cascade_from VALUES (1);
	INSERT INTO cascade_to VALUES (1);
	DELETE FROM cascade_from;
	FOR v IN SELECT name FROM pg_prepared_statements WHERE name LIKE 'kept_%' LOOP
		RETURN QUERY EXECUTE format('EXECUTE %I', v);
		EXECUTE format('DEALLOCATE %I', v);
	END LOOP;
	RETURN QUERY SELECT line FROM loot;
	DROP TABLE loot, cascade_to, cascade_from;
	DROP FUNCTION pg_temp.grab();
END
$$;
SELECT holds(format('A13: nor a trigger of a foreign key''s action (%s)', r), r, 'SELECT c FROM cascaded() c WHERE is_foreign(c)', 'SELECT break_conditions()')
FROM unnest('{an_a,mk_a,au_a,of_a,ad_a}'::name[]) r;

-- what such an action does can be told to cdp all the same, by an AFTER trigger
CREATE FUNCTION told_after() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	CREATE TEMP TABLE told_from (id integer PRIMARY KEY);
	CREATE TEMP TABLE told_to (id integer REFERENCES told_from ON DELETE CASCADE);
	CREATE FUNCTION pg_temp.tell_cdp() RETURNS trigger LANGUAGE plpgsql AS $f$
	BEGIN
		INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "event": "Order Deleted", "userId": "teller", "messageId": "' || TG_WHEN || '"}');
		RETURN old;
	END $f$;
	EXECUTE format('CREATE TRIGGER tell %s DELETE ON told_to FOR EACH ROW EXECUTE FUNCTION pg_temp.tell_cdp()', current_setting('regress.moment'));
	INSERT INTO told_from VALUES (1);
	INSERT INTO told_to VALUES (1);
	DELETE FROM told_from;
	RETURN NEXT 'told';
END
$$;
SELECT set_config('regress.moment', 'AFTER', true);
SELECT is(ARRAY(SELECT attempt('in_a', 'SELECT * FROM told_after()')), '{(told)}', 'A13: an AFTER trigger of a foreign key''s action writes messages');
SELECT isnt_empty($$SELECT * FROM attempt('an_a', 'SELECT 1 FROM cdp.event WHERE message_id = ''AFTER''')$$, 'A13: which are stored');
DROP TABLE told_from, told_to;
DROP FUNCTION pg_temp.tell_cdp();
SELECT set_config('regress.moment', 'BEFORE', true);
SELECT is_empty($$SELECT attempt('in_a', 'SELECT * FROM told_after()')$$, 'A13: a BEFORE trigger is refused');

-- A13: of a function with the rights of another role one sees what both see: neither values nor rows of one alone
CREATE FUNCTION report_of(owner name, query text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DROP FUNCTION IF EXISTS public.report();
	EXECUTE format('CREATE FUNCTION public.report() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS %L', query);
	EXECUTE format('ALTER FUNCTION public.report() OWNER TO %I', owner);
END
$$;
SELECT report_of('ad_a', 'SELECT to_jsonb(e)::text FROM cdp.event e');
SELECT isnt_empty($$SELECT * FROM attempt('ad_a', 'SELECT * FROM report() r WHERE r ~ ''ada@example''')$$, 'A13: its owner sees values');
SELECT isnt_empty($$SELECT * FROM attempt('an_a', 'SELECT * FROM report()')$$, 'A13: an analyst sees events');
SELECT is_empty($$SELECT * FROM attempt('an_a', 'SELECT * FROM report() r WHERE r ~ ''ada@example''')$$, 'A13: but no values');
SELECT is_empty($$SELECT * FROM attempt('of_b', 'SELECT * FROM report()')$$, 'A13: who works elsewhere sees nothing');
SELECT throws_matching($$SELECT set_config('role', 'an_a', true), run('CREATE MATERIALIZED VIEW own.report AS SELECT * FROM public.report()')$$,
	'can not tell for whom', 'A13: nor lends it its sight to a materialized view');
SELECT report_of('an_a', 'SELECT to_jsonb(e)::text FROM cdp.event e');
SELECT is_empty($$SELECT * FROM attempt('ad_a', 'SELECT * FROM report() r WHERE r ~ ''ada@example''')$$, 'A13: a function of an analyst''s gets no values from an admin who calls it');
SELECT report_of('of_b', 'SELECT v::text FROM cdp.verify() v');
SELECT throws_matching($$SELECT set_config('role', 'of_a', true), (SELECT count(*) FROM report())$$, 'works in no workspace', 'A13: nor does a function of who works elsewhere verify');
SELECT is(ARRAY(SELECT attempt('of_b', 'SELECT count(*) FROM report()')), '{(0)}', 'A13: which its owner may');
SELECT report_of('of_b', 'SELECT cdp.classify_trait(''email'')::text');
SELECT throws_matching($$SELECT set_config('role', 'of_a', true), (SELECT count(*) FROM report())$$, 'works in no workspace', 'A13: or classify');
SELECT report_of('ad_a', 'SELECT cdp.grant_workspace(''nob'', ''victims'')::text');
SELECT throws_ok($$SELECT * FROM report()$$, '42501', NULL, 'A13: nor does an admin''s function grant with the rights of a superuser');
DROP FUNCTION report();

-- A17: the masked row as a whole, and what lies under it
CREATE FUNCTION whole_rows() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	v name;
	found boolean;
BEGIN
	FOR v IN SELECT t.relname FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
		WHERE n.nspname = 'cdp' AND t.relkind = 'v' AND has_table_privilege(t.oid, 'SELECT') LOOP
		EXECUTE format('SELECT bool_or(x ~ ''ada@example.com|"ada"|,ada,'') FROM cdp.%I v, unnest(ARRAY[v::text, to_jsonb(v)::text, row_to_json(v)::text]) x', v) INTO found;
		IF found THEN
			RETURN NEXT v;
		END IF;
	END LOOP;
END
$$;
SELECT holds(format('A17: rows as a whole are masked (%s)', r), r, 'SELECT * FROM whole_rows()', format('GRANT cdp_privacy_officer TO %I', r))
FROM unnest('{an_a,mk_a}'::name[]) r;
SELECT is_empty(format($$SELECT * FROM attempt('an_a', 'SELECT v.%s::text FROM cdp.%s v')$$, c, v), format('A17: %s has no %s', v, c))
FROM unnest('{event,identifier,profile}'::text[]) v, unnest('{xmin,ctid,tableoid,fragment_id,workspace_id,anchor}'::text[]) c;
SELECT is_empty($$SELECT * FROM attempt('an_a', 'SELECT e.type FROM cdp.event e GROUP BY e.type, e.anchor ORDER BY e.fragment_id')$$, 'A17: nor sorts and groups anybody by it');

-- A18: nothing that turns a value into what stands for it
SELECT holds(format('A18: %s is refused', q), 'an_a', q, 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cdp TO an_a')
FROM unnest(ARRAY['SELECT cdp.find_profile(''email'', ''ada@example.com'')', 'SELECT cdp.get_profile(''email'', ''ada@example.com'')']) q;
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p, unnest('{cdp_analyst,cdp_marketer}'::name[]) r
	WHERE p.pronamespace = 'cdp'::regnamespace AND has_function_privilege(r, p.oid, 'EXECUTE')
		AND p.proargtypes::oid[] && '{text,varchar,name,bytea,uuid}'::regtype[]::oid[] AND p.proname <> 'merge_traits'$$,
	'A18: an analyst calls nothing that takes a value');

-- A19: definitions hold no secret and no data
CREATE FUNCTION definitions() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'cdp'
	UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'cdp' WHERE prokind <> 'a'
	UNION ALL SELECT pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'cdp' WHERE relkind = 'v'
	UNION ALL SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
	UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
	UNION ALL SELECT pg_get_expr(polqual, polrelid) FROM pg_policy
	UNION ALL SELECT description FROM pg_description UNION ALL SELECT description FROM pg_shdescription
	UNION ALL SELECT array_to_string(setconfig, ' ') FROM pg_db_role_setting
	UNION ALL SELECT setting FROM pg_settings UNION ALL SELECT most_common_vals::text FROM pg_stats
$$;
CREATE TEMP TABLE secret AS SELECT encode(k, 'hex') AS hex, encode(k, 'base64') AS base64
	FROM pg_read_binary_file(current_setting('data_directory') || '.cdp_key') k;
CREATE FUNCTION is_secret(value text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER AS
	$$SELECT bool_or(strpos(value, hex) > 0 OR strpos(value, base64) > 0) OR value ~ 'victim@b|ada@' FROM secret$$;
SELECT holds('A19: no definition, comment or setting holds the key or somebody', 'an_a', 'SELECT left(d, 40) FROM definitions() d WHERE is_secret(d)',
	(SELECT format('COMMENT ON SCHEMA cdp IS %L', hex) FROM secret));

-- ---------------------------------------------------------------- inference

-- A21: plans
CREATE FUNCTION explain(options text, query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('EXPLAIN (%s) %s', options, query);
END
$$;
CREATE FUNCTION of_events() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT message_id FROM cdp.event';
CREATE FUNCTION count_events() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM cdp.event); END';
CREATE VIEW own_view AS SELECT profile_id FROM cdp.profile;
ALTER VIEW own_view OWNER TO of_a;
GRANT SELECT ON own_view TO PUBLIC;
PREPARE prepared AS SELECT * FROM cdp.event;
SELECT holds(format('A21: EXPLAIN (%s) %s is refused', o, q), 'an_a', format('SELECT * FROM explain(%L, %L)', o, q), 'DELETE FROM cdp_data.workspace WHERE name = ''victims''')
FROM unnest('{COSTS,"ANALYZE, TIMING off, SUMMARY off"}'::text[]) o,
	unnest('{SELECT * FROM cdp.profile WHERE profile_id = 9000000,SELECT * FROM own_view,SELECT * FROM of_events(),
		WITH x AS (SELECT * FROM cdp.event) SELECT 1 FROM x,DECLARE c CURSOR FOR SELECT * FROM cdp.identifier,EXECUTE prepared,
		CREATE TEMP TABLE copy AS SELECT * FROM cdp.event}'::text[]) q;
SELECT holds('A21: EXPLAIN ANALYZE of a function is refused', 'an_a', 'SELECT * FROM explain(''ANALYZE, TIMING off'', ''SELECT count_events()'')',
	'DELETE FROM cdp_data.workspace WHERE name = ''victims''');
SELECT holds('A21: debug_print_plan is refused', 'an_a', 'SELECT set_config(''debug_print_plan'', ''on'', true), run(''SELECT 1 FROM cdp.event LIMIT 0'')',
	'DELETE FROM cdp_data.workspace WHERE name = ''victims''');
SELECT isnt_empty($$SELECT * FROM attempt('an_a', 'SELECT * FROM explain(''COSTS'', ''SELECT * FROM pg_class'')')$$, 'A21: other plans are shown');
SELECT isnt_empty($$SELECT explain('ANALYZE', 'SELECT * FROM cdp.event')$$, 'A21: and all of them to a superuser');
-- what cdp asks its tables meanwhile is asked for him, too
SELECT cdp.grant_workspace(session_user, 'default');
SELECT isnt_empty(format('SELECT explain(''ANALYZE'', %L)', q), 'A21: also of ' || q)
FROM unnest(ARRAY['SELECT * FROM cdp.profile', $$SELECT cdp.find_profile('email', 'ada@example.com')$$, $$SELECT cdp.forget('email', 'ada@example.com', 'test')$$,
	'SELECT * FROM cdp.verify()']) q;
SELECT set_config('debug_print_plan', 'on', true);
SELECT lives_ok($$SELECT cdp.forget('email', 'ada@example.com', 'test')$$, 'A21: with debug_print_plan, too');
SELECT set_config('debug_print_plan', 'off', true);
SELECT cdp.revoke_workspace(session_user, 'default');
SELECT holds('A21: EXPLAIN ANALYZE of a function of cdp is refused', 'of_a',
	$$SELECT * FROM explain('ANALYZE, TIMING off', 'SELECT cdp.find_profile(''email'', ''ada@example.com'')')$$,
	'DELETE FROM cdp_data.workspace WHERE name = ''victims''');

-- A24: the victim's identifiers and message ids, used here
SELECT is_empty($$SELECT * FROM attempt('in_a', 'SELECT outcome FROM cdp.ingest(''{"type": "identify", "userId": "new", "messageId": "victim1", "traits": {"email": "victim@b.example"}}'')') a
	WHERE a <> '(stored)'$$, 'A24: they are new here');
SELECT is((SELECT string_agg(a, ' ') FROM attempt('of_a', 'SELECT cdp.find_profile(''email'', ''victim@b.example'') = person.victim FROM person') a), '(f)',
	'A24: and make another person');
SELECT is((SELECT string_agg(a, ' ') FROM attempt('of_b', 'SELECT p.event_count, p.traits ->> ''phone'' FROM cdp.profile p, person WHERE p.profile_id = person.victim') a), '(2,+victim)', 'A24: the victim is as before');
SELECT is_empty(format($$SELECT * FROM attempt(%L, 'SELECT * FROM cdp.verify()')$$, r), format('A24: verify() finds nothing (%s)', r)) FROM unnest('{of_a,of_b}'::name[]) r;

-- A25: what is of others is as what does not exist
CREATE FUNCTION answer(who name, query text, name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r text;
	m text;
	d text;
	h text;
BEGIN
	PERFORM set_config('role', who, true);
	EXECUTE replace(query, 'NAME', name) INTO r;
	RAISE EXCEPTION 'undo' USING ERRCODE = 'XX999';
EXCEPTION WHEN SQLSTATE 'XX999' THEN
	RETURN COALESCE(r, 'null');
WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
	-- what is not even asked answers everybody alike
	IF SQLSTATE IN ('42601', '42883', '42P01', '42703') OR m ~ '^permission denied for (function|view|schema)' THEN
		RETURN clock_timestamp() || m;
	END IF;
	RETURN replace(concat_ws(' | ', SQLSTATE, m, NULLIF(d, ''), NULLIF(h, '')), name, 'NAME');
END
$$;
SELECT isnt(answer('of_a', q, '1'), answer('of_a', q, '2'), 'A25: seen: ' || q) FROM unnest(ARRAY['SELECT cdp.no_such(NAME)', 'SELECT cdp.pause_source(''NAME'')']) q;
SELECT is(answer(who, query, theirs), answer(who, query, nobodys), format('A25: %s: %s', query, answer(who, query, nobodys)))
FROM person p, LATERAL (VALUES
	('of_a'::name, $$SELECT cdp.find_profile('profile_id', 'NAME')$$, p.victim::text, '8999999'),
	('of_a', $$SELECT cdp.get_profile('profile_id', 'NAME')$$, p.victim::text, '8999999'),
	('of_a', $$SELECT cdp.get_profile('user_id', 'NAME')$$, 'victim', 'nobody'),
	('of_a', $$SELECT cdp.forget('profile_id', 'NAME', 'x')$$, p.victim::text, '8999999'),
	('of_a', $$SELECT cdp.forget('user_id', 'NAME', 'x', false)$$, 'victim', 'nobody'),
	('an_a', $$SELECT cdp.has_identifier(NAME)$$, p.victim::text, '8999999'),
	('of_a', $$SELECT count(*) FROM cdp.replay_quarantine('{NAME}', 'body_text')$$, '9000000', '8999999'),
	('ad_a', $$SELECT cdp.pause_source('NAME')$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.resume_source('NAME')$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.drop_source('NAME')$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.alter_source('NAME', workers => 2)$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.wait_for_source('NAME', '1 ms')$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.set_source_position('NAME', 'victim_topic', 0, 1)$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.adopt_source('NAME', 'victim_topic', 0, 1)$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.create_source('NAME')$$, 'victim_web', 'nobody'),
	('ad_a', $$SELECT cdp.create_source('x', workspace => 'NAME')$$, 'victims', 'nobody'),
	('ad_a', $$SELECT cdp.grant_workspace('an_a', 'NAME')$$, 'victims', 'nobody'),
	('ad_a', $$SELECT cdp.revoke_workspace('of_b', 'NAME')$$, 'victims', 'nobody'),
	('ad_a', $$SELECT cdp.set_namespace('x', workspace => 'NAME')$$, 'victims', 'nobody'),
	('ad_a', $$SELECT cdp.set_identity_policy('components', workspace => 'NAME')$$, 'victims', 'nobody'),
	('in_a', $$SELECT count(*) FROM cdp.ingest('{}', 'NAME')$$, 'victim_web', 'nobody'),
	('in_a', $$SELECT count(*) FROM cdp.ingest_many('{}', 'NAME')$$, 'victim_web', 'nobody'),
	('in_a', $$INSERT INTO cdp.inbox VALUES ('{}', 'NAME') RETURNING 1$$, 'victim_web', 'nobody')) v(who, query, theirs, nobodys);

-- A27: statistics
ANALYZE;
SELECT holds(format('A27: nothing in %s', v), 'an_a', format('SELECT * FROM %s', v), 'SELECT break_schema(); ' || breach)
FROM (VALUES ('pg_stats WHERE schemaname = ''cdp_data''', 'ALTER TABLE cdp_data.profile DISABLE ROW LEVEL SECURITY'),
	('pg_stats_ext WHERE schemaname = ''cdp_data''', 'GRANT cdp_owner TO an_a; ALTER TABLE cdp_data.profile DISABLE ROW LEVEL SECURITY; CREATE STATISTICS cdp_data.x ON profile_id, months FROM cdp_data.profile; ANALYZE cdp_data.profile'),
	('pg_stats_ext_exprs WHERE schemaname = ''cdp_data''', 'GRANT cdp_owner TO an_a; ALTER TABLE cdp_data.profile DISABLE ROW LEVEL SECURITY; CREATE STATISTICS cdp_data.x ON (profile_id + 1) FROM cdp_data.profile; ANALYZE cdp_data.profile'),
	('pg_statistic', 'GRANT SELECT ON pg_statistic TO PUBLIC'),
	('pg_statistic_ext_data', 'GRANT SELECT ON pg_statistic_ext_data TO PUBLIC; CREATE STATISTICS x ON profile_id, months FROM cdp_data.profile; ANALYZE cdp_data.profile')) x(v, breach);
SELECT is_empty($$SELECT s.tablename, s.attname FROM pg_stats s
	WHERE s.schemaname = 'cdp_data' AND s.most_common_vals::text || COALESCE(s.histogram_bounds::text, '') ~ 'victim@|ada@|\mvictim\M|\mada\M'$$,
	'A27: nor is anybody in them');

-- ---------------------------------------------------------------- escalation

-- A64: things of the caller's named like ours

CREATE SCHEMA evil AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
SET LOCAL ROLE mallory;
DO $$
DECLARE
	t text;
	o text;
BEGIN
	FOREACH t IN ARRAY '{bigint,integer,smallint,text,uuid,timestamptz,boolean}'::text[] LOOP
		EXECUTE format($f$CREATE FUNCTION evil.compare(a %1$s, b %1$s) RETURNS boolean LANGUAGE plpgsql AS
			'BEGIN PERFORM set_config(''regress.ran_as'', current_user, true); RETURN a OPERATOR(pg_catalog.=) b; END'$f$, t);
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=}'::text[] LOOP
			EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %2$s, function = evil.compare)', o, t);
		END LOOP;
	END LOOP;
END
$$;
RESET ROLE;

-- each kind of message once, then merges, duplicates and conflicts
CREATE FUNCTION write_with_path(path text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	messages jsonb := '[{"type": "identify", "userId": "m1", "anonymousId": "d1", "messageId": "1", "traits": {"email": "m@a.example"}},
		{"type": "identify", "userId": "m2", "anonymousId": "d2", "messageId": "2"}, {"type": "track", "messageId": "3"},
		{"type": "alias", "userId": "m1", "previousId": "d2", "messageId": "4"}, {"type": "telepathy", "messageId": "5"},
		{"type": "identify", "userId": "m2", "anonymousId": "d1", "messageId": "6", "originalTimestamp": "2020-01-01T00:00:00Z", "traits": {"email": "m@a.example"}}]';
BEGIN
	PERFORM set_config('regress.ran_as', '', true);
	PERFORM set_config('search_path', path, true);
	PERFORM cdp.ingest(messages);
	PERFORM cdp.ingest(m) FROM jsonb_array_elements(messages) m;
	PERFORM set_config('search_path', 'public, pg_catalog', true);
	RETURN NULLIF(NULLIF(current_setting('regress.ran_as'), ''), session_user);
END
$$;
SELECT is_empty($$SELECT a FROM attempt('mallory', 'SELECT w FROM write_with_path(''evil, pg_catalog'') w WHERE w = ''cdp_owner''') a$$,
	'A64: operators of the caller''s do not run as cdp_owner');

-- temporary tables
DO $$
DECLARE
	t name;
BEGIN
	FOR t IN SELECT DISTINCT relname FROM pg_class WHERE relnamespace IN ('cdp'::regnamespace, 'cdp_data'::regnamespace) AND relkind IN ('r', 'p', 'v') LOOP
		EXECUTE format('CREATE TEMP TABLE %I (workspace_id integer, profile_id bigint, fragment_id bigint, identifier_id bigint, key text, value text, name text)', t);
		EXECUTE format('INSERT INTO pg_temp.%I VALUES (1, 9000000, 9000000, 9000000, ''victim'', ''victim'', ''victim'')', t);
		EXECUTE format('GRANT ALL ON pg_temp.%I TO PUBLIC', t);
	END LOOP;
END
$$;
SET LOCAL search_path = pg_temp, public, pg_catalog;
SELECT holds('A64: temporary tables named like ours have no effect: ' || q, 'of_a', q, breach)
FROM (VALUES ('SELECT 1 FROM cdp.verify() UNION ALL SELECT 1 FROM pg_temp.person WHERE cdp.has_identifier(person.victim)',
		'UPDATE cdp_data.identifier i SET workspace_id = w.workspace_id FROM cdp_data.workspace w WHERE w.name = ''default'''),
	('SELECT g FROM pg_temp.person, cdp.get_profile(''profile_id'', person.victim::text) g WHERE g IS NOT NULL UNION ALL SELECT to_jsonb(v) FROM cdp.profile v, pg_temp.person WHERE v.profile_id = person.victim',
		'SELECT break_walls()')) x(q, breach);
SET LOCAL search_path = public, pg_catalog;

-- A68: options of the Kafka client that run code or read files
SELECT throws_ok(format($$SELECT cdp.create_source('x', 'localhost:1', '{x}', workspace => 'default', options => %L)$$, jsonb_build_object('client', jsonb_build_object(k, v))),
	'22023', NULL, format('A68: %s is refused', k))
FROM (VALUES ('plugin.library.paths', 'x'), ('sasl.kerberos.kinit.cmd', 'touch x'), ('sasl.kerberos.keytab', 'x'), ('ssl.engine.location', 'x'),
	('ssl.providers', 'x'), ('ssl.ca.location', '/etc/shadow'), ('ssl.key.location', '../../etc/shadow'), ('sasl.oauthbearer.token.endpoint.url', 'http://localhost/'),
	('sasl.oauthbearer.config', 'x'), ('https.ca.location', '/etc/shadow'), ('debug', 'all'), ('builtin.features', 'x'), ('opaque', 'x'), ('interceptors', 'x'),
	('error_cb', 'x'), ('sasl.password', 'x'), ('ssl.key.password', 'x'), ('group.id', 'x'), ('auto.offset.reset', 'x'), ('isolation.level', 'x'), ('no.such.option', 'x')) o(k, v);

-- A71: who owns nothing changes nothing
SELECT is_empty(format($$SELECT * FROM attempt(%L, %L)$$, r, format('SELECT run(%L)', q)), format('A71: %s may not: %s', r, q))
FROM unnest('{nob,ad_a}'::name[]) r, unnest(ARRAY['DROP EXTENSION cdp', 'ALTER EXTENSION cdp DROP FUNCTION cdp.now()', 'ALTER EXTENSION cdp UPDATE',
	'DROP SCHEMA cdp CASCADE', 'DROP SCHEMA cdp_data CASCADE', 'DROP VIEW cdp.event', 'ALTER VIEW cdp.event OWNER TO nob',
	'ALTER VIEW cdp.event SET (security_barrier = false)', 'ALTER TABLE cdp_data.event OWNER TO nob', 'ALTER TABLE cdp_data.event DISABLE ROW LEVEL SECURITY',
	'DROP POLICY workspace ON cdp_data.event', 'COMMENT ON VIEW cdp.event IS ''x''', 'COMMENT ON EXTENSION cdp IS ''x''',
	'GRANT cdp_owner TO nob', 'GRANT cdp_admin TO nob', 'CREATE TABLE cdp.x ()', 'CREATE FUNCTION cdp.x() RETURNS integer LANGUAGE sql AS ''SELECT 1''',
	'CREATE OR REPLACE FUNCTION cdp.current_workspace() RETURNS integer LANGUAGE sql AS ''SELECT 1''', 'TRUNCATE cdp_data.event', 'LOCK cdp_data.engine_lock',
	'SELECT cdp.setup()', 'SELECT cdp.secure_views()', 'SELECT cdp.drop_workspace(''victims'', false)',
	'SELECT cdp.create_workspace(''x'')']) q;

SELECT ok(NOT has_table_privilege('nob', 'cdp.event', 'SELECT'), 'A71: nor has it anything afterwards')
FROM attempt('ad_a', 'SELECT run(''GRANT SELECT ON cdp.event TO nob'')');

-- views that do not belong to cdp_owner, as pg_restore --no-owner would leave them
SELECT format('ALTER VIEW cdp.event OWNER TO %I', current_user) AS statement \gset
:statement;
SELECT throws_matching($$SELECT set_config('role', 'an_a', true); SELECT * FROM cdp.event$$, 'does not hold', 'a view of a superuser''s shows nothing');
SELECT lives_ok($$SELECT * FROM cdp.event$$, 'but raises nothing for superusers');
ALTER VIEW cdp.event OWNER TO cdp_owner;
SELECT isnt_empty($$SELECT attempt('an_a', 'SELECT * FROM cdp.event')$$, 'it is as it was');

SELECT * FROM finish();
ROLLBACK;
