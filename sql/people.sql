-- People: visitors become customers, traits, merged profiles and what finds them.
\set VERBOSITY terse
CREATE FUNCTION pg_temp.send(message jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(outcome, ',') FROM cdp.ingest(message) $$;
-- two anonymous browsers, then a sign-in in each: one person
SELECT pg_temp.send('{"type": "page", "anonymousId": "pe-a1", "messageId": "pe-1", "originalTimestamp": "2026-03-01T09:00:00Z"}');
SELECT pg_temp.send('{"type": "page", "anonymousId": "pe-a2", "messageId": "pe-2", "originalTimestamp": "2026-03-02T09:00:00Z"}');
SELECT cdp.find_profile('anonymous_id', 'pe-a1') AS first, cdp.find_profile('anonymous_id', 'pe-a2') AS second \gset
SELECT :'first' <> :'second' AS two_people;
SELECT pg_temp.send('{"type": "identify", "anonymousId": "pe-a1", "userId": "pe-u", "messageId": "pe-3", "originalTimestamp": "2026-03-03T09:00:00Z", "traits": {"plan": "free", "email": "Pe@Example.com"}}');
SELECT pg_temp.send('{"type": "identify", "anonymousId": "pe-a2", "userId": "pe-u", "messageId": "pe-4", "originalTimestamp": "2026-03-04T09:00:00Z", "traits": {"plan": "pro", "nick": "P"}}');
SELECT count(DISTINCT profile_id) FROM cdp.identifier WHERE value LIKE 'pe-%';
SELECT namespace, value, first_day, last_day, state FROM cdp.identifier WHERE profile_id = cdp.find_profile('user_id', 'pe-u') ORDER BY 1, 2;
SELECT first_seen AT TIME ZONE 'UTC' AS first_seen, last_seen AT TIME ZONE 'UTC' AS last_seen, event_count, traits
FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'pe-u');
-- the same person by any identifier, by its id, and by an id that was merged away
SELECT cdp.find_profile('email', 'pe@example.com') = cdp.find_profile('user_id', 'pe-u') AS by_email,
	cdp.find_profile('profile_id', :'first') = cdp.find_profile('user_id', 'pe-u') AS by_first_id,
	cdp.find_profile('profile_id', :'second') = cdp.find_profile('user_id', 'pe-u') AS by_second_id;
SELECT cdp.find_profile('profile_id', '999999999999');
SELECT cdp.find_profile('profile_id', 'no number');
SELECT key FROM jsonb_object_keys(cdp.get_profile('user_id', 'pe-u')) key ORDER BY 1;
SELECT cdp.get_profile('user_id', 'pe-nobody');
-- traits: the last writer by evidence time wins, whatever the arrival; null takes a trait away
SELECT pg_temp.send('{"type": "identify", "userId": "pe-u", "messageId": "pe-5", "originalTimestamp": "2026-03-02T12:00:00Z", "traits": {"plan": "older", "nick": null, "city": "Utrecht"}}');
SELECT traits FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'pe-u');
SELECT pg_temp.send('{"type": "identify", "userId": "pe-u", "messageId": "pe-6", "originalTimestamp": "2026-03-05T12:00:00Z", "traits": {"nick": null}}');
SELECT traits FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'pe-u');
SELECT pg_temp.send('{"type": "identify", "userId": "pe-u", "messageId": "pe-7", "originalTimestamp": "2026-03-04T12:00:00Z", "traits": {"nick": "late"}}');
SELECT traits ? 'nick' AS has_nick FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'pe-u');
-- big traits have chunks of their own
SELECT pg_temp.send(jsonb_build_object('type', 'identify', 'userId', 'pe-big', 'messageId', 'pe-8', 'traits',
	(SELECT jsonb_object_agg('t' || n, repeat(n::text, 2500)) FROM generate_series(1, 5) n)));
SELECT count(*), sum(length(value)) FROM cdp.profile, jsonb_each_text(traits) WHERE profile_id = cdp.find_profile('user_id', 'pe-big');
-- an alias: two user ids that are one person
SELECT pg_temp.send('{"type": "track", "userId": "pe-old", "event": "x", "messageId": "pe-9"}');
SELECT pg_temp.send('{"type": "alias", "userId": "pe-new", "previousId": "pe-old", "messageId": "pe-10"}');
SELECT cdp.find_profile('user_id', 'pe-new') = cdp.find_profile('user_id', 'pe-old') AS one_person;
-- without alias a browser with two customers belongs to the one it knew first (policy demote)
SELECT pg_temp.send('{"type": "track", "userId": "pe-x", "anonymousId": "pe-shared", "event": "x", "messageId": "pe-11", "originalTimestamp": "2026-03-01T00:00:00Z"}');
SELECT pg_temp.send('{"type": "track", "userId": "pe-y", "anonymousId": "pe-shared", "event": "x", "messageId": "pe-12", "originalTimestamp": "2026-03-02T00:00:00Z"}');
SELECT cdp.find_profile('user_id', 'pe-x') = cdp.find_profile('anonymous_id', 'pe-shared') AS with_x,
	cdp.find_profile('user_id', 'pe-y') = cdp.find_profile('anonymous_id', 'pe-shared') AS with_y;
-- a tablet at the door belongs to nobody from the third customer on, also when it is one person so far who has the three
BEGIN;
SELECT cdp.set_namespace('pe_tablet', priority => 90, degree => 2);
SELECT cdp.set_namespace('pe_card', priority => 80, value_limit => NULL, owner => true);
SELECT pg_temp.send('{"type": "track", "event": "x", "userId": "pe-k", "messageId": "pe-20", "context": {"externalIds": [{"id": "pe-c1", "type": "pe_card"}, {"id": "pe-c2", "type": "pe_card"}, {"id": "pe-c3", "type": "pe_card"}]}}');
SELECT pg_temp.send(jsonb_build_object('type', 'track', 'event', 'x', 'messageId', 'pe-2' || n, 'context', jsonb_build_object('externalIds',
	jsonb_build_array(jsonb_build_object('id', 'pe-c' || n, 'type', 'pe_card'), jsonb_build_object('id', 'pe-t', 'type', 'pe_tablet'))))) FROM generate_series(1, 3) n;
SELECT namespace, value, state, profile_id = cdp.find_profile('user_id', 'pe-k') AS with_k FROM cdp.identifier WHERE namespace IN ('pe_card', 'pe_tablet') AND value LIKE 'pe-%' ORDER BY 1, 2;
SELECT count(*) FROM cdp.verify();
ROLLBACK;
-- one message of a batch makes a person two, another one of it, which ties what was one before, says who goes where
BEGIN;
SELECT cdp.set_namespace('pe_door', priority => 91, value_limit => NULL);
SELECT pg_temp.send('{"type": "page", "anonymousId": "pe-b1", "messageId": "pe-28", "originalTimestamp": "2026-03-05T00:00:00Z"}');
SELECT pg_temp.send('{"type": "track", "event": "x", "messageId": "pe-29", "originalTimestamp": "2026-03-05T00:00:00Z", "context": {"externalIds": [{"id": "pe-d2", "type": "pe_door"}, {"id": "pe-d3", "type": "pe_door"}]}}');
SELECT pg_temp.send('{"type": "track", "event": "x", "anonymousId": "pe-b2", "messageId": "pe-30", "originalTimestamp": "2026-03-05T00:00:00Z", "context": {"externalIds": [{"id": "pe-d1", "type": "pe_door"}]}}');
SELECT pg_temp.send('{"type": "track", "event": "x", "userId": "pe-m", "anonymousId": "pe-b1", "messageId": "pe-31", "originalTimestamp": "2026-03-02T00:00:00Z", "context": {"externalIds": [{"id": "pe-d1", "type": "pe_door"}]}}');
SELECT pg_temp.send('{"type": "track", "event": "x", "anonymousId": "pe-b1", "messageId": "pe-32", "originalTimestamp": "2026-03-03T00:00:00Z", "context": {"externalIds": [{"id": "pe-d2", "type": "pe_door"}]}}');
SELECT outcome FROM cdp.ingest_many(ARRAY['{"type": "track", "event": "x", "userId": "pe-n", "anonymousId": "pe-b1", "messageId": "pe-33", "originalTimestamp": "2026-03-01T00:00:00Z"}',
	'{"type": "track", "event": "x", "anonymousId": "pe-b2", "messageId": "pe-34", "originalTimestamp": "2026-03-04T00:00:00Z", "context": {"externalIds": [{"id": "pe-d2", "type": "pe_door"}]}}']::jsonb[]);
SELECT string_agg(value, ' ' ORDER BY value COLLATE "C") FROM cdp.identifier WHERE value ~ '^pe-([mn]|[bd][123])$' GROUP BY profile_id ORDER BY 1;
SELECT count(*) FROM cdp.verify();
ROLLBACK;
-- group traits do not touch the person
SELECT pg_temp.send('{"type": "group", "userId": "pe-z", "groupId": "g-1", "messageId": "pe-13", "traits": {"industry": "shoes", "email": "info@shop.example"}}');
SELECT traits FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'pe-z');
SELECT count(*) FROM cdp.identifier WHERE value = 'info@shop.example';
SELECT count(*) FROM cdp.verify();
