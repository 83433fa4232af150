-- The right to be forgotten.
\set VERBOSITY terse
CREATE FUNCTION pg_temp.send(messages jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(outcome, ',' ORDER BY ordinal) FROM cdp.ingest(messages) $$;
-- tables of cdp_data in which a text stands, in whatever column
CREATE FUNCTION pg_temp.places(what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE t regclass; found boolean;
BEGIN
	FOR t IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'cdp_data'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname LOOP
		EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t::text ILIKE $1 OR t::text LIKE $2)', t) INTO found
			USING '%' || what || '%', '%' || encode(what::bytea, 'hex') || '%';
		IF found THEN RETURN NEXT t::text; END IF;
	END LOOP;
END $$;
CREATE FUNCTION pg_temp.brief(answer jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_strip_nulls((answer #- '{erasure_id}' #- '{profile_id}') || jsonb_build_object(
		'deleted', (SELECT jsonb_object_agg(key, value) FROM jsonb_each(answer -> 'deleted') WHERE value <> '0'),
		'stripped', (SELECT jsonb_object_agg(key, value) FROM jsonb_each(answer -> 'stripped') WHERE value <> '0'))) $$;
CREATE FUNCTION pg_temp.error_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; h text;
BEGIN EXECUTE query; RETURN 'no error';
EXCEPTION WHEN OTHERS THEN GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, h = PG_EXCEPTION_HINT; RETURN concat_ws(' | ', SQLSTATE, m, h); END $$;
SELECT pg_temp.send('[
	{"type": "identify", "messageId": "fo-1", "userId": "fo-jane", "anonymousId": "fo-c1", "originalTimestamp": "2026-01-01T00:00:00Z", "traits": {"email": "Jane@Fo.example", "plan": "pro"}},
	{"type": "track", "event": "Order", "messageId": "fo-2", "userId": "fo-jane", "originalTimestamp": "2026-02-02T00:00:00Z"},
	{"type": "track", "event": "Order", "messageId": "fo-3", "anonymousId": "fo-c1", "originalTimestamp": "2026-03-03T00:00:00Z"},
	{"type": "identify", "messageId": "fo-4", "userId": "fo-bob", "anonymousId": "fo-c2", "originalTimestamp": "2026-01-05T00:00:00Z", "traits": {"email": "jane@fo.example", "name": "Bob", "friends": ["jane@fo.example", "x"]}},
	{"type": "track", "event": "Order", "messageId": "fo-5", "userId": "fo-bob", "originalTimestamp": "2026-01-06T00:00:00Z", "properties": {"n": 1}}]');
-- who is meant
SELECT cdp.forget('email', 'jane@fo.example', NULL);
SELECT cdp.forget('email', 'jane@fo.example', '  ');
SELECT cdp.forget('email', NULL, 'asked');
SELECT cdp.forget('no_such', 'x', 'asked');
SELECT cdp.forget('email', 'jane@fo.example', 'asked', scope => 'all');
SELECT cdp.forget('email', 'nobody@fo.example', 'asked');
SELECT cdp.forget('profile_id', '999999999', 'asked');
SELECT cdp.forget('profile_id', 'jane', 'asked');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.forget('email', 'jane@fo.example', 'asked', false);
ROLLBACK;
-- a dry run counts and changes nothing, also where nothing can be changed
BEGIN READ ONLY;
SELECT pg_temp.brief(cdp.forget('email', 'JANE@fo.example', 'asked'));
COMMIT;
SELECT count(*) FROM cdp.event WHERE message_id LIKE 'fo-%';
-- forgotten: nothing of her is left; what the other presented of hers is stripped
SELECT pg_temp.brief(cdp.forget('email', 'JANE@fo.example', 'asked by mail', false));
SELECT pg_temp.places('jane@fo.example'), pg_temp.places('fo-jane'), pg_temp.places('fo-c1');
SELECT message_id, user_id, traits, properties FROM cdp.event WHERE message_id LIKE 'fo-%' ORDER BY 1;
SELECT namespace, value FROM cdp.identifier WHERE value LIKE '%fo-%' ORDER BY 1, 2;
SELECT traits, event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'fo-bob');
SELECT count(*) FROM cdp.verify();
SELECT erased_by = current_user AS by_me, reason, scope, tokens FROM cdp.erasure ORDER BY erasure_id DESC LIMIT 1;
-- again: she is not known
SELECT cdp.forget('email', 'jane@fo.example', 'asked', false);
-- nothing old comes back: not the same message, not one with another id, not one of a device with a fast clock
SELECT pg_temp.send('[
	{"type": "identify", "messageId": "fo-1", "userId": "fo-jane", "anonymousId": "fo-c1", "originalTimestamp": "2026-01-01T00:00:00Z", "traits": {"email": "Jane@Fo.example", "plan": "pro"}},
	{"type": "track", "event": "Order", "messageId": "fo-6", "userId": "fo-jane", "originalTimestamp": "2026-02-02T00:00:00Z"},
	{"type": "track", "event": "Order", "messageId": "fo-7", "anonymousId": "fo-c1", "receivedAt": "2026-03-03T00:00:00Z", "originalTimestamp": "2026-12-03T00:00:00Z"},
	{"type": "track", "event": "Order", "messageId": "fo-8", "userId": "fo-jane", "anonymousId": "fo-new", "originalTimestamp": "2026-02-02T00:00:00Z"}]');
-- a weaker one that somebody else presents is stripped, however he spells it
SELECT pg_temp.send('[
	{"type": "identify", "messageId": "fo-9", "userId": "fo-bob", "originalTimestamp": "2026-01-07T00:00:00Z", "traits": {"email": " JANE@FO.example", "plan": "free"}}]');
SELECT pg_temp.places('jane@fo.example'), pg_temp.places('fo-jane'), pg_temp.places('fo-c1');
SELECT message_id, user_id, traits FROM cdp.event WHERE message_id IN ('fo-6', 'fo-7', 'fo-8', 'fo-9');
SELECT count(*) FROM cdp.verify();
-- what is younger makes a new person, whom old messages do not reach
SELECT pg_temp.send('[{"type": "track", "event": "Back", "messageId": "fo-10", "userId": "fo-jane", "anonymousId": "fo-c1"}]');
SELECT pg_temp.send('[{"type": "track", "event": "Order", "messageId": "fo-11", "userId": "fo-jane", "originalTimestamp": "2026-02-02T00:00:00Z"}]');
SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'fo-jane');
SELECT count(*) FROM cdp.verify();
-- a profile id finds the person, also one that was merged away
SELECT pg_temp.send('[{"type": "page", "messageId": "fo-12", "anonymousId": "fo-a1", "originalTimestamp": "2026-01-01T00:00:00Z"}]');
SELECT pg_temp.send('[{"type": "page", "messageId": "fo-13", "anonymousId": "fo-a2", "originalTimestamp": "2026-01-02T00:00:00Z"}]');
SELECT cdp.find_profile('anonymous_id', 'fo-a2') AS merged \gset
SELECT pg_temp.send('[{"type": "page", "messageId": "fo-14", "userId": "fo-u", "anonymousId": "fo-a1", "originalTimestamp": "2026-01-03T00:00:00Z"},
	{"type": "page", "messageId": "fo-15", "userId": "fo-u", "anonymousId": "fo-a2", "originalTimestamp": "2026-01-04T00:00:00Z"},
	{"type": "alias", "messageId": "fo-16", "userId": "fo-u2", "previousId": "fo-u", "originalTimestamp": "2026-01-05T00:00:00Z"}]');
-- two user ids that an alias made one need no scope; a fragment alone leaves the rest
BEGIN;
SELECT pg_temp.brief(cdp.forget('anonymous_id', 'fo-a1', 'asked', false, 'fragment'));
SELECT message_id FROM cdp.event WHERE message_id LIKE 'fo-1_' AND message_id > 'fo-11' ORDER BY 1;
SELECT count(*) FROM cdp.verify();
ROLLBACK;
SELECT pg_temp.brief(cdp.forget('profile_id', :'merged', 'asked', false));
SELECT pg_temp.places('fo-a1'), pg_temp.places('fo-a2'), pg_temp.places('fo-u');
SELECT count(*) FROM cdp.verify();
-- messages that are set aside: what cannot be read and mentions her goes; what is another's loses the mention
SELECT pg_temp.send('[
	{"type": "identify", "messageId": "fo-20", "userId": "fo-kim", "originalTimestamp": "2026-01-01T00:00:00Z", "traits": {"email": "kim@fo.example"}},
	{"type": "track", "event": "a", "messageId": "fo-21", "userId": "fo-lee", "originalTimestamp": "2026-01-01T00:00:00Z"},
	{"type": "track", "event": "a", "messageId": "fo-20", "userId": "fo-kim", "originalTimestamp": "2026-01-01T00:00:00Z"},
	{"type": "track", "event": "b", "messageId": "fo-21", "userId": "fo-lee", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"traits": {"email": "KIM@fo.example"}}},
	{"type": "nonsense", "messageId": "fo-22", "userId": "fo-kim"},
	{"type": "identify", "messageId": "fo-23", "userId": "fo-two", "originalTimestamp": "2026-01-02T00:00:00Z", "traits": {"email": "other@fo.example"}, "context": {"traits": {"email": "kim@fo.example"}}}]');
SELECT count(*) FROM cdp.quarantine WHERE body_text LIKE '%fo-2%';
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-kim', 'asked', true));
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-kim', 'asked', false));
SELECT body_text FROM cdp.quarantine WHERE body_text LIKE '%fo-2%' ORDER BY 1;
SELECT pg_temp.places('kim@fo.example'), pg_temp.places('fo-kim');
SELECT count(*) FROM cdp.verify();
-- nor are they set aside once more; of another one without the mention, and whole when it is younger
SELECT pg_temp.send('[
	{"type": "track", "event": "a", "messageId": "fo-20", "userId": "fo-kim", "originalTimestamp": "2026-01-01T00:00:00Z"},
	{"type": "track", "event": "b", "messageId": "fo-21", "userId": "fo-lee", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"traits": {"email": "KIM@fo.example"}}},
	{"type": "nonsense", "messageId": "fo-22", "userId": "fo-kim"},
	{"type": "track", "event": "b", "messageId": "fo-21", "userId": "fo-lee", "context": {"traits": {"email": "kim@fo.example", "age": 7}}},
	{"type": "nonsense", "messageId": "fo-24", "userId": "fo-lee"}]');
SELECT body_text FROM cdp.quarantine WHERE body_text LIKE '%fo-2%' AND reason <> 'unknown_type' ORDER BY quarantined_at, 1;
DELETE FROM cdp_data.quarantine WHERE body LIKE '%kim@fo.example%'::bytea;
-- however it is written
SELECT pg_temp.send('[{"type": "identify", "messageId": "fo-25", "userId": "fo-Zoë/1", "originalTimestamp": "2026-01-01T00:00:00Z"}]');
INSERT INTO cdp.inbox (message) VALUES
	('{"type": "nonsense", "messageId": "fo-26", "userId": "fo-Zo\u00eb\/1"}'),
	('{"type": "track", "event": "b", "messageId": "fo-21", "userId": "fo-lee", "originalTimestamp": "1999-01-01T00:00:00Z", "properties": {"a": "fo-Zo\u00eb/1"}}'),
	('{"type": "nonsense", "messageId": "fo-27", "body": "{\"userId\": \"fo-Zo\\u00eb/1\", \"n\": 1}", "other": "{\"userId\": \"fo-Zo\u00eb/1\", \"n\": 1}"}'),
	('{"type": "track", "event": "b", "messageId": "fo-21", "userId": "fo-lee", "properties": {"a": "say \"hi\" to {\"user\": \"fo-Zo\u00eb/1\"}", "b": "\"c\""}}');
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-Zoë/1', 'asked', false));
SELECT body_text FROM cdp.quarantine WHERE body_text LIKE '%fo-Z%' OR body_text LIKE '%"b"%c%' ORDER BY 1;
-- the profile id of a shared identifier selects nobody, either
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT cdp.set_namespace('fo_kiosk', degree => 1);
SELECT pg_temp.send('[
	{"type": "track", "event": "a", "messageId": "fo-30", "userId": "fo-sue", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"externalIds": [{"type": "fo_kiosk", "id": "fo-hall"}]}},
	{"type": "track", "event": "a", "messageId": "fo-31", "userId": "fo-tom", "originalTimestamp": "2026-01-02T00:00:00Z", "context": {"externalIds": [{"type": "fo_kiosk", "id": "fo-hall"}]}},
	{"type": "track", "event": "a", "messageId": "fo-32", "originalTimestamp": "2026-01-03T00:00:00Z", "context": {"externalIds": [{"type": "fo_kiosk", "id": "fo-hall"}]}}]');
SELECT profile_id AS kiosk FROM cdp.event WHERE message_id = 'fo-32' \gset
SELECT cdp.forget('fo_kiosk', 'fo-hall', 'asked');
SELECT cdp.forget('profile_id', :'kiosk', 'asked', false);
SELECT count(*) FROM cdp.event WHERE message_id = 'fo-32';
ROLLBACK;
BEGIN;
-- nor does one of a household, which is everybody's who lives there
SELECT cdp.set_namespace('fo_home', level => 'household');
SELECT pg_temp.send('[{"type": "track", "event": "a", "messageId": "fo-33", "userId": "fo-sue", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"externalIds": [{"type": "fo_home", "id": "fo-street"}]}}]');
SELECT cdp.forget('fo_home', 'fo-street', 'asked', false);
SELECT cdp.forget('fo_home', 'fo-nowhere', 'asked');
SELECT count(*) FROM cdp.event WHERE message_id = 'fo-33';
ROLLBACK;
-- two values of a namespace that is limited to one: whole or part has to be said (no rule of today lets it come so far: the limit is planted)
BEGIN;
SELECT cdp.set_namespace('fo_card');
SELECT pg_temp.send('[
	{"type": "track", "event": "a", "messageId": "fo-34", "anonymousId": "fo-d1", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-k1"}]}},
	{"type": "track", "event": "a", "messageId": "fo-35", "anonymousId": "fo-d2", "originalTimestamp": "2026-01-02T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-k2"}]}}]');
SELECT pg_temp.send('[{"type": "track", "event": "a", "messageId": "fo-36", "userId": "fo-may", "anonymousId": "fo-d1", "originalTimestamp": "2026-01-03T00:00:00Z"}]');
SELECT pg_temp.send('[{"type": "track", "event": "a", "messageId": "fo-37", "userId": "fo-may", "anonymousId": "fo-d2", "originalTimestamp": "2026-01-03T00:00:00Z"}]');
SELECT pg_temp.brief(cdp.forget('anonymous_id', 'fo-d1', 'asked'));
UPDATE cdp_data.namespace SET value_limit = 1 WHERE name = 'fo_card';
SELECT regexp_replace(message, 'profile [0-9]+', 'profile …') FROM pg_temp.error_of($$SELECT cdp.forget('anonymous_id', 'fo-d1', 'asked')$$) message;
SELECT regexp_replace(message, 'profile [0-9]+', 'profile …') FROM pg_temp.error_of($$SELECT cdp.forget('user_id', 'fo-may', 'asked', false)$$) message;
SELECT pg_temp.brief(cdp.forget('anonymous_id', 'fo-d1', 'asked', scope => 'fragment'));
SELECT pg_temp.brief(cdp.forget('anonymous_id', 'fo-d1', 'asked', false, 'profile'));
SELECT count(*) FROM cdp.event WHERE message_id BETWEEN 'fo-34' AND 'fo-37';
ROLLBACK;
\set ON_ERROR_ROLLBACK off
-- who has too many identifiers to be one person is held: what nobody else presented goes with a token
BEGIN;
SELECT cdp.set_namespace('fo_card', value_limit => 1);
INSERT INTO cdp.inbox (message) SELECT format('{"type": "track", "event": "a", "messageId": "fo-5-%1$s", "userId": "fo-rich", "originalTimestamp": "2026-01-01T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-c-%1$s"}]}}', n)
	FROM generate_series(1, 2100) n;
SELECT pg_temp.send('[{"type": "track", "event": "a", "messageId": "fo-50", "originalTimestamp": "2026-01-03T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-c-7"}]}}]');
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-rich', 'asked'));
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-rich', 'asked', false));
SELECT count(*) FROM cdp.profile p WHERE NOT EXISTS (SELECT FROM cdp.identifier i WHERE i.profile_id = p.profile_id);
SELECT pg_temp.send('[
	{"type": "track", "event": "a", "messageId": "fo-51", "originalTimestamp": "2026-01-03T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-c-7"}]}},
	{"type": "track", "event": "a", "messageId": "fo-52", "originalTimestamp": "2026-01-03T00:00:00Z", "context": {"externalIds": [{"type": "fo_card", "id": "fo-c-8"}]}}]');
SELECT value FROM cdp.identifier WHERE namespace = 'fo_card';
SELECT count(*) FROM cdp.verify();
ROLLBACK;
-- what is stored is of the past, also when the device's clock was fast: an event of two owners, and a message that is set aside
SELECT pg_temp.send('[
	{"type": "identify", "messageId": "fo-40", "userId": "fo-max", "anonymousId": "fo-dev", "originalTimestamp": "2026-01-01T00:00:00Z"},
	{"type": "track", "event": "a", "messageId": "fo-41", "userId": "fo-una", "originalTimestamp": "2099-01-01T00:00:00Z", "anonymousId": "fo-dev", "context": {"externalIds": [{"type": "user_id", "id": "fo-max", "collection": "users", "encoding": "none"}]}},
	{"type": "track", "event": "b", "messageId": "fo-40", "userId": "fo-max", "originalTimestamp": "2099-01-01T00:00:00Z"}]');
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-max', 'asked', false));
SELECT pg_temp.places('fo-max'), pg_temp.places('fo-dev');
-- the tokens hold as long as the same values make the same identifiers
SELECT cdp.set_namespace('ga_client_id', normaliser => 'lower');
SELECT cdp.set_namespace('ga_client_id', level => 'household');
-- who may
SET ROLE cdp_analyst;
SELECT cdp.forget('user_id', 'fo-lee', 'asked');
SELECT count(*) FROM cdp.erasure;
SET ROLE cdp_privacy_officer;
SELECT pg_temp.brief(cdp.forget('user_id', 'fo-lee', 'asked', false));
RESET ROLE;
-- a short value, under a key of which only the source's mapping says that it is an identifier
SELECT cdp.create_source('fo_legacy', format => 'json', options => '{"mapping": {"user_id": "$.cust", "time": "$.at", "name": "$.what", "anonymous_id": "$.seen.on"}}');
CREATE FUNCTION pg_temp.legacy(messages jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', outcome, reason), ', ' ORDER BY ordinal) FROM cdp.ingest_many(ARRAY(SELECT jsonb_array_elements(messages)), 'fo_legacy') $$;
SELECT pg_temp.legacy('[{"what": "bought", "at": "2026-01-01T00:00:00Z", "cust": "c-9", "seen": {"on": "t-1"}},
	{"what": "bought", "at": "garbage", "cust": "c-9"}, {"what": "bought", "at": "rubbish", "seen": {"on": ["t-1"]}},
	{"what": "bought", "at": "waste", "cust": "c-8", "size": "c-9"}]');
SELECT pg_temp.brief(cdp.forget('user_id', 'c-9', 'asked', false));
SELECT body_text FROM cdp.quarantine WHERE source = 'fo_legacy' ORDER BY id;
SELECT pg_temp.legacy('[{"what": "bought", "at": "2026-01-01T00:00:00Z", "cust": "c-9"}, {"what": "bought", "at": "garbage", "cust": "c-9"},
	{"what": "bought", "at": "garbage", "cust": "c-10"}]');
SELECT cdp.create_source('fo_cloud', brokers => 'localhost:1', topics => '{x}', format => 'cloudevents', options => '{"mapping": {"user_id": "$.subject"}}');
SELECT cdp.pause_source('fo_cloud');
INSERT INTO cdp_data.quarantine (workspace_id, source_id, reason, quarantined_at, body) SELECT workspace_id, source_id, 'invalid_time', now(),
	'{"specversion": "1.0", "id": "q", "source": "/a", "type": "t", "time": "bad", "subject": "c-77"}' FROM cdp_data.source WHERE name = 'fo_cloud';
SELECT pg_temp.send('[{"type": "page", "messageId": "fo-60", "userId": "c-77", "originalTimestamp": "2026-01-01T00:00:00Z"}]');
SELECT pg_temp.brief(cdp.forget('user_id', 'c-77', 'asked', false));
-- of a source that this library does not understand, as by general names
INSERT INTO cdp_data.quarantine (workspace_id, source_id, reason, quarantined_at, body) SELECT workspace_id, source_id, 'invalid_time', now(),
	'{"specversion": "1.0", "id": "q", "source": "/a", "type": "t", "time": "bad", "subject": "c-78", "data": {"userId": "c-78"}}' FROM cdp_data.source WHERE name = 'fo_cloud';
INSERT INTO cdp_data.parked (workspace_id, source_id, "partition", "offset", topic, parked_at, attempts, body) SELECT workspace_id, source_id, 0, 7, 'x', now(), 1,
	'{"specversion": "1.0", "id": "p", "source": "/a", "type": "t", "data": {"userId": "c-78"}}' FROM cdp_data.source WHERE name = 'fo_cloud';
SELECT pg_temp.legacy('[{"what": "bought", "at": "2026-01-01T00:00:00Z", "cust": "c-78"}]');
UPDATE cdp_data.source SET format = 'morse' WHERE name IN ('fo_cloud', 'fo_legacy');
SELECT pg_temp.send('[{"type": "page", "messageId": "fo-61", "userId": "c-78", "originalTimestamp": "2026-01-01T00:00:00Z"}]');
SELECT pg_temp.brief(cdp.forget('user_id', 'c-78', 'asked', false));
SELECT body_text FROM cdp.quarantine WHERE source = 'fo_cloud' ORDER BY id;
SELECT count(*) FROM cdp_data.parked;
UPDATE cdp_data.source SET format = CASE name WHEN 'fo_cloud' THEN 'cloudevents' ELSE 'json' END WHERE name IN ('fo_cloud', 'fo_legacy');
SELECT cdp.drop_source('fo_legacy'), cdp.drop_source('fo_cloud');
