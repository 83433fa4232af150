-- What is left of who was forgotten: every table that can hold something of a
-- person holds something of this one, in each of its columns by which that can
-- be known; then nothing does, but the tokens.  A new table needs a row here.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = warning;

-- numbers that are nobody else's
SELECT setval('cdp_data.fragment_id_seq', 7000000000), setval('cdp_data.event_id_seq', 8000000000);

CREATE FUNCTION send(messages jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', outcome, reason), ',' ORDER BY ordinal) FROM cdp.ingest(messages) $$;

SELECT * FROM no_plan();
SELECT is(send('{"type": "page", "messageId": "left-0", "anonymousId": "left-phone", "originalTimestamp": "2026-01-01T00:00:00Z"}'), 'stored', 'somebody');
SELECT is(send('[
	{"type": "identify", "messageId": "left-1", "userId": "left-user", "anonymousId": "left-device", "originalTimestamp": "2026-01-01T00:00:00Z",
		"traits": {"email": "left@x.example", "plan": "pro"}},
	{"type": "telepathy", "messageId": "left-3", "userId": "left-user"},
	{"type": "track", "event": "Other", "messageId": "stay-1", "userId": "stay-user", "originalTimestamp": "2026-02-02T00:00:00Z"},
	{"type": "identify", "messageId": "stay-2", "userId": "stay-user", "originalTimestamp": "2026-02-03T00:00:00Z", "context": {"traits": {"email": "left@x.example"}}}]'),
	'stored,quarantined unknown_type,stored,stored', 'two more, one of whom is ..');
SELECT is(send('{"type": "track", "event": "Left", "messageId": "left-2", "userId": "left-user", "anonymousId": "left-phone", "originalTimestamp": "2026-02-02T00:00:00Z"}'), 'stored', '.. that one');

-- what the numbers of the person are: identifiers and links by their hash, fragments, events
CREATE TEMP TABLE number_of AS
	SELECT i.identifier_id AS id, i.value AS what FROM cdp_data.identifier i WHERE i.value LIKE 'left%'
	UNION SELECT l.link_id, CASE WHEN count(*) = cardinality(l.members) THEN 'link' ELSE 'shared link' END
		FROM cdp_data.link l JOIN cdp_data.identifier i ON i.identifier_id = ANY (l.members) WHERE i.value LIKE 'left%' GROUP BY l.link_id, l.members
	UNION SELECT p.fragment_id, 'fragment' FROM cdp_data.profile p WHERE p.profile_id = (SELECT cdp.find_profile('user_id', 'left-user'))
	UNION SELECT e.event_id, 'event' FROM cdp_data.event e WHERE e.message_id LIKE 'left%';
SELECT bag_eq($$SELECT what FROM number_of WHERE what LIKE 'left%'$$, $$VALUES ('left-user'), ('left-device'), ('left-phone'), ('left@x.example')$$, 'the identifiers');
SELECT cmp_ok(count(*), '>=', 2::bigint, 'it has fragments that were joined') FROM number_of WHERE what = 'fragment';
SELECT is(count(*), 3::bigint, 'and events') FROM number_of WHERE what = 'event';

-- rows that such a person may have, and this one has not yet
CREATE FUNCTION one(name text) RETURNS bigint LANGUAGE sql AS $$SELECT min(id) FROM number_of WHERE what = name$$;
INSERT INTO cdp_data.parked (workspace_id, source_id, parked_at, body)
	SELECT workspace_id, source_id, now(), '{"type": "track", "event": "a", "messageId": "left-4", "userId": "left-user"}' FROM cdp_data.source WHERE name = 'sql';
INSERT INTO cdp_data.identity_warning (workspace_id, kind, identifier_id, namespace_id, link_id, warned_at)
	SELECT workspace_id, 'demoted', one('left-device'), 1, one('link'), now() FROM cdp_data.workspace;
INSERT INTO cdp_data.decision (workspace_id, kind, a, b, decided_at, decided_by, reason)
	SELECT workspace_id, x.* FROM cdp_data.workspace, (VALUES ('retract', one('link'), NULL, now(), 'x', ''), ('keep_apart', 1, one('left-user'), now(), 'x', ''),
		('shared', one('left-phone'), NULL, now(), 'x', '')) x;
INSERT INTO cdp_data.dirty SELECT one('fragment'), workspace_id, 'moved', now() FROM cdp_data.workspace ON CONFLICT DO NOTHING;

-- columns of numbers that may name a person; a key of its own names none
CREATE TEMP VIEW numbers AS
	SELECT r.table_name, r.column_name FROM cdp_data.data_registry r JOIN pg_attribute a ON a.attrelid = format('cdp_data.%I', r.table_name)::regclass AND a.attname = r.column_name
	WHERE a.atttypid IN ('bigint'::regtype, 'bigint[]'::regtype) AND r.class IN ('key', 'pseudonym');
CREATE TEMP VIEW words AS
	SELECT r.table_name, r.column_name FROM cdp_data.data_registry r WHERE r.class IN ('identifier', 'personal');
CREATE FUNCTION traces() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	c record;
	found boolean;
BEGIN
	FOR c IN SELECT table_name, column_name, true AS number FROM numbers UNION ALL SELECT table_name, column_name, false FROM words LOOP
		EXECUTE format(CASE WHEN c.number THEN 'SELECT EXISTS (SELECT FROM cdp_data.%I t, number_of n WHERE n.id = ANY (ARRAY[]::bigint[] || t.%I))'
				ELSE 'SELECT EXISTS (SELECT FROM cdp_data.%I t WHERE t.%2$I::text LIKE ''%%left%%'' OR t.%2$I::text LIKE ''%%6c656674%%'')' END,
			c.table_name, c.column_name) INTO found;
		IF found THEN
			RETURN NEXT c.table_name || '.' || c.column_name;
		END IF;
	END LOOP;
END
$$;
CREATE TEMP TABLE before AS SELECT t FROM traces() t;
CREATE TEMP TABLE seen_before AS SELECT key, stamp, event_id FROM cdp_data.message_seen s WHERE s.event_id IN (SELECT id FROM number_of);

-- of these it is known that nobody is in them: configuration, positions, and what forgetting itself writes
SELECT is_empty($$SELECT DISTINCT r.table_name FROM cdp_data.data_registry r
	WHERE r.table_name NOT IN ('version', 'instance', 'engine_lock', 'data_registry', 'workspace', 'workspace_role', 'trait_class', 'source', 'source_offset', 'source_gap',
		'namespace', 'retention_watermark', 'contest', 'suppression', 'erasure')
		AND NOT EXISTS (SELECT FROM before b WHERE b.t LIKE r.table_name || '.%')$$, 'every other table holds something of the person: a new one needs a row here');
SELECT bag_has($$SELECT t FROM before$$, $$VALUES ('event.fragment_id'), ('event.event_id'), ('event.anchor'), ('event.user_id'), ('event.anonymous_id'), ('event.traits'),
	('event.context'), ('identifier.identifier_id'), ('identifier.fragment_id'), ('identifier.value'), ('link.identifier_id'), ('link.link_id'), ('link.members'),
	('link.first_event_id'), ('profile.fragment_id'), ('profile.profile_id'), ('profile_trait.fragment_id'), ('profile_trait.traits'), ('message_seen.identifier_id'),
	('message_seen.event_id'), ('quarantine.body'), ('parked.body'), ('dirty.fragment_id'), ('decision.a'), ('decision.b'), ('identity_warning.identifier_id'),
	('identity_warning.link_id')$$, 'in all the columns that can');

CREATE TEMP TABLE answer AS SELECT cdp.forget('email', 'LEFT@x.example', 'asked', false) AS a;
SELECT is(a -> 'deleted' ->> 'parked', '1', 'a parked message goes') FROM answer;
SELECT is(a -> 'deleted' ->> 'decision', '3', 'decisions about the person go') FROM answer;
SELECT is(a -> 'stripped' ->> 'event', '1', 'another one''s event is stripped') FROM answer;
SELECT bag_eq($$SELECT * FROM traces()$$, $$VALUES ('suppression.identifier_id'), ('erasure.tokens'), ('erasure.fragments')$$, 'nothing is left but the tokens');
SELECT is((SELECT count(*) FROM seen_before), 3::bigint, 'the ids of three messages were known');
SELECT is((SELECT count(*) FROM seen_before b JOIN cdp_data.message_seen s USING (key, stamp) WHERE s.identifier_id = 0 AND s.event_id = 0), 3::bigint,
	'they are known still, and point to nobody');
SELECT is((a -> 'kept' ->> 'message_seen')::integer, 3, 'and are counted') FROM answer;
SELECT isnt_empty($$SELECT * FROM cdp.event WHERE user_id = 'stay-user'$$, 'the other person is there');

SELECT * FROM finish();
ROLLBACK;
