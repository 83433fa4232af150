-- What the roles see: masks, workspaces, and that there is no way around them.
-- Rows are planted in the tables, so that nothing here depends on the engine.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = warning;
CREATE ROLE regress_analyst IN ROLE cdp_analyst;
CREATE ROLE regress_officer IN ROLE cdp_privacy_officer;
CREATE ROLE regress_admin IN ROLE cdp_admin;
CREATE ROLE regress_ingest IN ROLE cdp_ingest;
CREATE ROLE regress_nobody;
CREATE ROLE regress_both;
GRANT regress_analyst, regress_officer TO regress_both;

CREATE FUNCTION plant(workspace integer, person bigint, email text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp_data.profile VALUES (person, person, 0, 1, 0, '2025-01-01', '2025-01-01', now(), 'infinity', workspace);
	INSERT INTO cdp_data.identifier (identifier_id, fragment_id, "check", workspace_id, first_day, last_day, namespace_id, state, value)
		SELECT person * 100, person, 1, workspace, '2025-01-01', '2025-01-01', n.namespace_id, 'l', email
		FROM cdp_data.namespace n WHERE n.workspace_id = workspace AND n.name = 'email';
	INSERT INTO cdp_data.event (fragment_id, occurred_at, event_id, received_at, known_at, anchor, source_seq, workspace_id, source_id,
			flags, message_id, type, user_id, anonymous_id, properties, traits, context)
		VALUES (person, '2025-01-01', person, '2025-01-01', now(), person * 100, 0, workspace, 1, 0, 'm' || person, 'identify', email, 'a' || email,
			jsonb_build_object('plan', 'pro', 'E_Mail', email, 'mails', jsonb_build_array(email), 'Addresses', email, 'name', email, 'items', jsonb_build_array(jsonb_build_object('name', 'shoe', 'phone', email))),
			jsonb_build_object('plan', 'pro', 'email', email),
			jsonb_build_object('ip', '192.0.2.1', 'library', jsonb_build_object('name', 'analytics.js'), 'traits', jsonb_build_object('email', email)));
	INSERT INTO cdp_data.quarantine (workspace_id, source_id, reason, quarantined_at, body)
		VALUES (workspace, 1, 'invalid_json', now(), convert_to('{' || email, 'UTF8')), (workspace, 1, 'invalid_encoding', now(), '\xff00');
$$;
SELECT plant(workspace_id, 1000, 'person@a.example') FROM cdp_data.workspace WHERE name = 'default';

SELECT plan(112);

-- ---------------------------------------------------------------- one workspace
SELECT is(cdp.current_workspace(), (SELECT workspace_id FROM cdp_data.workspace), 'a superuser works in the only workspace');
SELECT is((SELECT value FROM cdp.identifier WHERE profile_id = 1000), 'person@a.example', 'and sees values');
SELECT is((SELECT body_text FROM cdp.quarantine WHERE reason = 'invalid_json'), '{person@a.example', 'and the bodies of quarantine');
SELECT is((SELECT body_text FROM cdp.quarantine WHERE reason = 'invalid_encoding'), NULL, 'of which some are no text');

SET LOCAL ROLE regress_officer;
SELECT is((SELECT value FROM cdp.identifier WHERE profile_id = 1000), 'person@a.example', 'the privacy officer sees values');
SELECT is((SELECT traits ->> 'email' FROM cdp.event WHERE profile_id = 1000), 'person@a.example', 'and traits');
SELECT is((SELECT count(*) FROM cdp.quarantine WHERE body IS NOT NULL), 2::bigint, 'and bodies');
SELECT throws_ok($$SELECT * FROM cdp_data.event$$, '42501', NULL, 'but no table');

SET LOCAL ROLE regress_analyst;
SELECT is(cdp.current_workspace(), 1, 'an analyst works in the only workspace without a grant');
SELECT matches((SELECT value FROM cdp.identifier WHERE profile_id = 1000), '^[0-9a-f]{16}$', 'and sees a pseudonym for an identifier');
SELECT is((SELECT user_id || anonymous_id FROM cdp.event WHERE profile_id = 1000), NULL, 'no ids in events');
SELECT is((SELECT traits FROM cdp.event WHERE profile_id = 1000), '{}', 'no trait that nobody classified');
SELECT is((SELECT context FROM cdp.event WHERE profile_id = 1000), '{"library": {"name": "analytics.js"}}', 'of the context what speaks of software');
SELECT is((SELECT properties FROM cdp.event WHERE profile_id = 1000), '{"plan": "pro", "items": [{"name": "shoe"}]}',
		  'of the properties what is no identifier');
SELECT is((SELECT count(*) FROM cdp.event e WHERE e::text LIKE '%person@a%'), 0::bigint, 'nor anything in the row as a whole');
SELECT is((SELECT count(*) FROM cdp.identifier e WHERE to_jsonb(e)::text LIKE '%person@a%'), 0::bigint, 'nor in an identifier as a whole');
SELECT throws_ok($$SELECT * FROM cdp.quarantine$$, '42501', NULL, 'an analyst has no quarantine');
SELECT throws_ok($$SELECT cdp.find_profile('email', 'person@a.example')$$, '42501', NULL, 'and can not ask whether an address is known');
SELECT throws_ok($$SELECT cdp.get_profile('email', 'person@a.example')$$, '42501', NULL, 'nor for a person by it');
SELECT throws_ok($$SELECT cdp.classify_trait('email')$$, '42501', NULL, 'nor classify');
SELECT throws_ok($$SELECT cdp.set_namespace('x')$$, '42501', NULL, 'nor set rules');
SELECT throws_ok($$SELECT cdp.secure_views()$$, '42501', NULL, 'nor call the steps of setup');
SELECT throws_ok($$SELECT cdp.setup()$$, '42501', NULL, 'nor setup');
SELECT throws_ok($$SELECT count(*) FROM cdp_data.identifier$$, '42501', NULL, 'nor read a table');
SELECT throws_ok($$SELECT nextval('cdp_data.fragment_id_seq')$$, '42501', NULL, 'nor a sequence');
SELECT throws_ok($$SET cdp.clock = '2025-01-01 00:00:00+00'$$, '55P02', NULL, 'nor set the clock');
SELECT throws_ok($$SET cdp.store = 'sql'$$, '42501', NULL, 'nor choose how events are written');
SELECT throws_ok($$SET cdp.workspace = 'b'$$, '42602', NULL, 'there is no setting for the workspace');

SET LOCAL ROLE regress_officer;
SELECT lives_ok($$SELECT cdp.classify_trait('plan')$$, 'the privacy officer classifies a key');
SET LOCAL ROLE regress_analyst;
SELECT is((SELECT traits FROM cdp.event WHERE profile_id = 1000), '{"plan": "pro"}', 'and the analyst sees that one');
SET LOCAL ROLE regress_officer;
SELECT lives_ok($$SELECT cdp.classify_trait('plan', 'personal')$$, 'the privacy officer takes it back');
SET LOCAL ROLE regress_analyst;
SELECT is((SELECT traits FROM cdp.event WHERE profile_id = 1000), '{}', 'and it is gone');

SET LOCAL ROLE regress_ingest;
SELECT throws_ok($$SELECT * FROM cdp.event$$, '42501', NULL, 'an ingest role reads no events');
SELECT throws_ok($$SELECT * FROM cdp.profile$$, '42501', NULL, 'nor people');
SET LOCAL ROLE regress_nobody;
SELECT throws_ok($$SELECT * FROM cdp.event$$, '42501', NULL, 'who has no role of cdp reads nothing');
SELECT throws_ok($$SELECT cdp.current_workspace()$$, '42501', NULL, 'and calls nothing');

-- ---------------------------------------------------------------- two workspaces
RESET ROLE;
SELECT throws_ok($$SELECT cdp.create_workspace('default')$$, '42710', 'workspace "default" already exists', 'the name of a workspace is taken once');
SELECT throws_ok($$SELECT cdp.create_workspace('')$$, '42602', NULL, 'and not empty');
SELECT lives_ok($$SELECT cdp.create_workspace('b')$$, 'a second workspace is made');
SELECT plant(workspace_id, 2000, 'victim@b.example') FROM cdp_data.workspace WHERE name = 'b';
SELECT is(cdp.current_workspace(), NULL, 'now a superuser has none');
SELECT is((SELECT count(*) FROM cdp.event), 0::bigint, 'and sees nothing');
SELECT is((SELECT count(*) FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind = 'v'
		   AND NOT COALESCE('security_barrier=true' = ANY (reloptions), false)), 0::bigint, 'the views became barriers');
SELECT lives_ok($$SELECT cdp.grant_workspace('regress_analyst', 'default'), cdp.grant_workspace('regress_officer', 'b')$$, 'roles are granted one each');
SELECT throws_ok($$SELECT cdp.grant_workspace('regress_absent', 'b')$$, '42704', NULL, 'only roles that exist');
SELECT throws_ok($$SELECT cdp.grant_workspace('regress_analyst', 'absent')$$, '42704', NULL, 'and workspaces');

SET LOCAL ROLE regress_analyst;
SELECT results_eq($$SELECT profile_id FROM cdp.profile$$, ARRAY[1000::bigint], 'an analyst sees the people of the own workspace');
SELECT is((SELECT count(*) FROM cdp.event WHERE profile_id = 2000), 0::bigint, 'and no event of another');
SELECT is((SELECT count(DISTINCT workspace) FROM cdp.namespace), 1::bigint, 'and no rule of another');
-- a cheap function of the reader's must not see rows that the view hides
CREATE FUNCTION pg_temp.tell(bigint) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
	$$BEGIN IF $1 = 2000 THEN RAISE EXCEPTION 'seen' USING ERRCODE = 'XX999'; END IF; RETURN true; END$$;
SELECT lives_ok($$SELECT * FROM cdp.profile WHERE pg_temp.tell(profile_id)$$, 'a leaky function sees no person of another workspace');
SELECT lives_ok($$SELECT * FROM cdp.event WHERE pg_temp.tell(event_id)$$, 'nor an event');
SET LOCAL row_security = off;
SELECT throws_ok($$SELECT * FROM cdp.profile$$, '42501', NULL, 'row_security = off raises');
SET LOCAL row_security = on;
SELECT is((SELECT count(*) FROM pg_stats WHERE schemaname = 'cdp_data'), 0::bigint, 'there are no statistics to read');

SET LOCAL ROLE regress_officer;
SELECT results_eq($$SELECT profile_id FROM cdp.profile$$, ARRAY[2000::bigint], 'the officer of the other workspace sees its people');
SELECT is(cdp.find_profile('profile_id', '1000'), NULL, 'and does not find the people of the first by number');
SELECT is(cdp.find_profile('profile_id', '2000'), 2000::bigint, 'but the own ones');

SET LOCAL ROLE regress_both;
SELECT throws_ok($$SELECT count(*) FROM cdp.profile$$, '42501', NULL, 'who inherits two workspaces has to choose');
SET LOCAL ROLE regress_admin;
SELECT is((SELECT count(*) FROM cdp.profile), 0::bigint, 'an admin without a grant sees nothing');
SELECT is((SELECT severity FROM cdp.status WHERE item = 'workspace'), 'warning', 'and cdp.status says so');
SELECT throws_ok($$SELECT cdp.grant_workspace('regress_admin', 'b')$$, '42501', NULL, 'and can not grant itself a workspace');
SELECT throws_ok($$SELECT cdp.set_namespace('x', workspace => 'b')$$, '42501', NULL, 'nor set rules in one');


-- ---------------------------------------------------------------- a workspace is dropped
RESET ROLE;
CREATE TEMP TABLE of AS SELECT min(workspace_id) FILTER (WHERE name = 'default') AS a, min(workspace_id) FILTER (WHERE name = 'b') AS b
	FROM cdp_data.workspace;
GRANT SELECT ON of TO PUBLIC;
CREATE FUNCTION rows_of(workspace integer) RETURNS TABLE (table_name name, n bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR table_name IN SELECT c.table_name FROM information_schema.columns c
		WHERE c.table_schema = 'cdp_data' AND c.column_name = 'workspace_id'
			AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = format('cdp_data.%I', c.table_name)::regclass) LOOP
		EXECUTE format('SELECT count(*) FROM cdp_data.%I WHERE workspace_id = $1', table_name) INTO n USING workspace;
		RETURN NEXT;
	END LOOP;
END
$$;
CREATE FUNCTION plant_rest(ws integer) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp_data.trait_class VALUES (ws, 'plan', 'open');
	INSERT INTO cdp_data.source (workspace_id, name, brokers, topics, format) VALUES (ws, 'web', 'localhost:1', '{web}', 'segment');
	INSERT INTO cdp_data.source_offset (source_id, topic, "partition", workspace_id, "position") VALUES (ws, 'web', 0, ws, 1);
	INSERT INTO cdp_data.source_gap (source_id, topic, "partition", workspace_id, from_offset, to_offset, found_at) VALUES (ws, 'web', 0, ws, 0, 1, now());
	INSERT INTO cdp_data.parked (workspace_id, source_id, parked_at, body) VALUES (ws, ws, now(), '{}');
	INSERT INTO cdp_data.message_seen VALUES (gen_random_uuid(), '2025-01-01', 1, '2025-01-01', '2025-01-01', 0, ws, ws);
	INSERT INTO cdp_data.link VALUES (ws, ws, 1, 'o', 1, ws, '2025-01-01', '2025-01-01', 1, '', '{}');
	INSERT INTO cdp_data.identity_warning (workspace_id, kind, identifier_id, namespace_id, link_id, warned_at) VALUES (ws, 'demoted', ws, 1, ws, now());
	INSERT INTO cdp_data.contest VALUES (ws, ws, 1, now());
	INSERT INTO cdp_data.decision (workspace_id, kind, a, b, decided_at, decided_by) VALUES (ws, 'shared', ws, NULL, now(), 'x');
	INSERT INTO cdp_data.profile_trait VALUES (ws, 0, ws, '{}', '\x01');
	INSERT INTO cdp_data.dirty VALUES (ws, ws, 'moved', now());
	INSERT INTO cdp_data.retention_watermark VALUES (ws, 'event', '2020-01-01');
	INSERT INTO cdp_data.suppression VALUES (ws, '2020-01-01', ws, 1);
	INSERT INTO cdp_data.erasure (workspace_id, erased_at, erased_by, reason, scope, tokens, fragments) VALUES (ws, now(), 'x', '', 'profile', '{}', '{}');
$$;
SELECT plant_rest(a), plant_rest(b) FROM of;
CREATE TEMP TABLE before AS SELECT r.* FROM of, rows_of(a) r;

SELECT is_empty($$SELECT r.table_name FROM of, rows_of(b) r WHERE n = 0$$, 'every table holds something of b: a new one needs a row here');
SELECT throws_ok($$SELECT cdp.drop_workspace('absent')$$, '42704', NULL, 'only workspaces that exist are dropped');
SELECT is(cdp.drop_workspace('b') -> 'dry_run', 'true', 'at first nothing happens');
SELECT is(cdp.drop_workspace('b') #>> '{rows,event}', '1', 'but the rows are counted');
SELECT is_empty($$SELECT r.table_name FROM of, rows_of(b) r WHERE n = 0$$, 'and are still there');
SET LOCAL ROLE regress_officer;
SELECT throws_ok($$SELECT cdp.drop_workspace('b', false)$$, '42501', NULL, 'a privacy officer drops none');
RESET ROLE;
SAVEPOINT kept;
SELECT bag_eq($$SELECT key COLLATE "C", value::bigint FROM jsonb_each_text(cdp.drop_workspace('b', false) -> 'rows')$$,
	$$SELECT table_name::text, n FROM before WHERE table_name <> 'source' UNION ALL SELECT 'source', 1$$, 'all of b is deleted');
SELECT is_empty($$SELECT r.table_name FROM of, rows_of(b) r WHERE n > 0$$, 'nothing of it is left in any table');
SELECT is_empty($$SELECT * FROM before EXCEPT SELECT r.* FROM of, rows_of(a) r$$, 'and nothing of the other one is gone');
SELECT throws_ok($$SELECT cdp.drop_workspace('b')$$, '42704', NULL, 'b is unknown now');
SELECT throws_ok($$SELECT * FROM cdp.ingest('{}', 'web')$$, '55000', NULL, 'of two sources of one name there is one');
SELECT throws_ok($$SELECT cdp.drop_workspace('default', false)$$, '55000', NULL, 'the last workspace can not be dropped');
SELECT is(cdp.current_workspace(), NULL, 'one workspace is left, but nobody works in it who was not granted it');
SET LOCAL ROLE regress_officer;
SELECT is((SELECT count(*) FROM cdp.profile), 0::bigint, 'who worked in the other one does not see it');
SET LOCAL ROLE regress_analyst;
SELECT results_eq($$SELECT profile_id FROM cdp.profile$$, ARRAY[1000::bigint], 'who was granted it does');
RESET ROLE;
SELECT lives_ok($$SELECT cdp.grant_workspace('public', 'default')$$, 'it can be granted to everybody again');
SELECT is(cdp.current_workspace(), a, 'and a superuser works in it') FROM of;
SELECT lives_ok($$SELECT cdp.revoke_workspace('public', 'default')$$, 'that can be taken back');
SELECT lives_ok($$SELECT cdp.create_workspace('b')$$, 'the name is free');
SELECT cmp_ok(workspace_id, '>', b, 'but the number was never used') FROM of, cdp_data.workspace WHERE name = 'b';
SELECT throws_ok($$SELECT cdp.grant_workspace('public', 'b')$$, '55000', NULL, 'of two, none is granted to everybody');
SELECT is_empty($$SELECT r.table_name FROM of, rows_of(b) r WHERE n > 0$$, 'and nothing comes back');
ROLLBACK TO kept;
SELECT is_empty($$SELECT r.table_name FROM of, rows_of(b) r WHERE n = 0$$, 'rolled back, all is there');
SET LOCAL ROLE regress_officer;
SELECT results_eq($$SELECT profile_id FROM cdp.profile$$, ARRAY[2000::bigint], 'and is seen');
RESET ROLE;
SELECT lives_ok($$SELECT cdp.drop_workspace('default', false)$$, 'the first workspace is like any other');
SELECT throws_ok($$SELECT * FROM cdp.ingest('{}')$$, '42704', NULL, 'the source sql went with it');
SELECT lives_ok($$SELECT cdp.create_source('sql', workspace => 'b')$$, 'another one can have its own');
SELECT lives_ok($$SELECT * FROM cdp.ingest('{}')$$, 'which is the default then');
ROLLBACK TO kept;

-- ---------------------------------------------------------------- names of sources
SELECT throws_ok($$SELECT cdp.pause_source('web')$$, '42501', NULL, 'a superuser who works in none of two can not mean one');
GRANT regress_analyst TO regress_admin;
SET LOCAL ROLE regress_admin;
SELECT lives_ok($$SELECT cdp.pause_source('web')$$, 'an admin means that of the own workspace');
RESET ROLE;
SELECT results_eq($$SELECT workspace_id, paused FROM cdp_data.source WHERE name = 'web' ORDER BY 1$$,
	$$SELECT a, true FROM of UNION ALL SELECT b, false FROM of$$, 'and no other');
SET LOCAL ROLE regress_admin;
SELECT throws_ok($$SELECT cdp.create_source('web')$$, '42710', NULL, 'a name is taken once in a workspace');
SELECT throws_ok($$SELECT cdp.create_source('x', workspace => 'b')$$, '42501', NULL, 'an admin makes none elsewhere');

-- ---------------------------------------------------------------- what an admin grants
SELECT lives_ok($$SELECT cdp.grant_workspace('regress_nobody', 'default')$$, 'an admin grants the own workspace');
SELECT throws_ok($$SELECT cdp.grant_workspace('regress_officer', 'default')$$, '42501', NULL, 'but not to who works in another one: that would lock him out');
SELECT throws_ok($$SELECT cdp.grant_workspace('cdp_privacy_officer', 'default')$$, '42501', NULL, 'nor to a group that he is in');
SELECT throws_ok($$SELECT cdp.grant_workspace('public', 'default')$$, '42501', NULL, 'nor to everybody');

-- ---------------------------------------------------------------- who works where
SELECT results_eq($$SELECT workspace, roles FROM cdp.workspace$$, $$VALUES ('default', '{regress_analyst,regress_nobody}'::name[])$$, 'an admin sees the own workspace and its roles');
SET LOCAL ROLE regress_analyst;
SELECT throws_ok($$SELECT * FROM cdp.workspace$$, '42501', NULL, 'an analyst sees none');
SELECT throws_ok($$SELECT cdp.required_workspace()$$, '42501', NULL, 'nor calls the steps of functions');
RESET ROLE;
SELECT bag_eq($$SELECT workspace FROM cdp.workspace$$, $$VALUES ('default'), ('b')$$, 'a superuser sees all of them');
SELECT throws_ok($$SELECT count(*) FROM cdp.verify()$$, '42501', 'role "' || current_user || '" works in no workspace', 'verify() of no workspace finds nothing wrong, so it refuses');
SELECT throws_ok($$SELECT cdp.classify_trait('plan')$$, '42501', NULL, 'nobody classifies in no workspace');
SELECT throws_ok($$SELECT * FROM cdp.replay_quarantine('{1}')$$, '42501', NULL, 'nor replays');
SELECT results_eq($$SELECT severity FROM cdp.status WHERE item = 'workspace'$$, $$VALUES ('info')$$, 'cdp.status says so');
SELECT is_empty($$SELECT * FROM cdp.status WHERE item LIKE 'workspace %'$$, 'and nothing else on workspaces');
CREATE ROLE regress_gone;
SELECT lives_ok($$SELECT cdp.grant_workspace('regress_gone', 'b')$$, 'a role is granted one');
DROP ROLE regress_gone;
SELECT results_eq($$SELECT severity, item, message FROM cdp.status WHERE item LIKE 'workspace %'$$,
	$$VALUES ('warning', 'workspace b', 'role "regress_gone", which was granted it, does not exist')$$, 'cdp.status names a grant to a role that was dropped');
SET LOCAL ROLE regress_admin;
SELECT is_empty($$SELECT * FROM cdp.status WHERE item LIKE 'workspace %'$$, 'but not to who works elsewhere');
RESET ROLE;
SELECT lives_ok($$SELECT cdp.revoke_workspace('regress_gone', 'b')$$, 'it can be revoked');
SELECT is_empty($$SELECT * FROM cdp.status WHERE item LIKE 'workspace %'$$, 'and is gone');
SELECT throws_ok($$SELECT cdp.revoke_workspace('regress_gone', 'b')$$, '42704', NULL, 'once');

SELECT * FROM finish();
ROLLBACK;
