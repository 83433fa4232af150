-- The SQL entrance: cdp.ingest, cdp.ingest_many, cdp.inbox.
\set VERBOSITY terse
-- every kind of outcome, one row each
SELECT * FROM cdp.ingest('{"type": "track", "userId": "in-1", "event": "Seen", "messageId": "in-1"}');
SELECT * FROM cdp.ingest('{"type": "track", "userId": "in-1", "event": "Seen", "messageId": "in-1"}');
SELECT * FROM cdp.ingest('{"type": "track", "userId": "in-1", "event": "Other", "messageId": "in-1"}');
SELECT * FROM cdp.ingest('{"type": "track", "event": "Seen", "messageId": "in-2"}');
SELECT * FROM cdp.ingest('{"type": "telepathy", "userId": "in-1", "messageId": "in-3"}');
SELECT * FROM cdp.ingest(NULL);
-- transport fields do not make another body
SELECT outcome FROM cdp.ingest('{"type": "track", "userId": "in-1", "event": "Seen", "messageId": "in-1", "sentAt": "2026-03-01T00:00:00Z"}');
-- an array is many messages, a bad element costs itself
SELECT * FROM cdp.ingest('[{"type": "track", "userId": "in-1", "event": "A", "messageId": "in-4"}, 7,
	{"type": "page", "anonymousId": "in-a", "messageId": "in-5"}]') ORDER BY ordinal;
SELECT ordinal, message_id, outcome FROM cdp.ingest_many(ARRAY[
	'{"type": "track", "userId": "in-1", "event": "B", "messageId": "in-6"}',
	'{"type": "track", "userId": "in-1", "event": "B", "messageId": "in-6"}',
	'{"batch": [{"type": "track", "userId": "in-2", "event": "C", "messageId": "in-7"}]}']::jsonb[]) ORDER BY ordinal;
SELECT count(*) FROM cdp.ingest_many('{}');
-- a row without id gets a fresh one: the same twice is two events
INSERT INTO cdp.inbox (message) SELECT '{"type": "track", "userId": "in-fresh", "event": "Seen"}' FROM generate_series(1, 2);
SELECT count(*), count(DISTINCT message_id) FROM cdp.event WHERE user_id = 'in-fresh';
-- visible at once, gone with ROLLBACK and ROLLBACK TO
BEGIN;
INSERT INTO cdp.inbox VALUES ('{"type": "track", "userId": "in-3", "event": "D", "messageId": "in-8"}', 'sql');
SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'in-3');
SAVEPOINT s;
INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "in-3", "event": "D", "messageId": "in-9"}');
SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'in-3');
ROLLBACK TO s;
SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'in-3');
ROLLBACK;
SELECT cdp.find_profile('user_id', 'in-3');
-- in a caught exception, and in a nested statement
DO $$
BEGIN
	BEGIN
		INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "in-4", "event": "E", "messageId": "in-10"}');
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "in-4", "event": "F", "messageId": "in-11"}');
	END;
END $$;
SELECT name FROM cdp.event WHERE user_id = 'in-4';
CREATE FUNCTION pg_temp.nested(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO cdp.inbox (message) VALUES (format('{"type": "track", "userId": "in-5", "event": "inner", "messageId": "%s"}', $1));
	RETURN format('{"type": "track", "userId": "in-5", "event": "outer", "messageId": "outer %s"}', $1);
END $$;
INSERT INTO cdp.inbox (message) SELECT pg_temp.nested('in-' || n) FROM generate_series(12, 14) n;
SELECT name, count(*) FROM cdp.event WHERE user_id = 'in-5' GROUP BY 1 ORDER BY 1;
-- statements of every kind
INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "in-6", "event": "G", "messageId": "in-15"}') ON CONFLICT DO NOTHING;
INSERT INTO cdp.inbox (message) SELECT '' WHERE false;
COPY cdp.inbox (message) FROM stdin WITH (FORMAT csv, QUOTE e'\x01', DELIMITER e'\x02');
{"type": "track", "userId": "in-6", "event": "H, \"quoted\"", "messageId": "in-16"}
not json
{"type": "track", "userId": "in-6", "event": "I", "messageId": "in-17"}
\.
SELECT name FROM cdp.event WHERE user_id = 'in-6' ORDER BY message_id;
SELECT reason, body_text FROM cdp.quarantine WHERE body_text = 'not json';
-- a statement of many rows, more than one block of the inbox holds
INSERT INTO cdp.inbox (message)
	SELECT format('{"type": "track", "userId": "in-many-%s", "event": "%s", "messageId": "in-many-%s"}', n % 100, repeat('e', 400), n)
	FROM generate_series(1, 3000) n;
SELECT count(*), sum(event_count) FROM cdp.profile
WHERE profile_id IN (SELECT profile_id FROM cdp.identifier WHERE value LIKE 'in-many-%');
-- the inbox is no table
UPDATE cdp.inbox SET source = 'x';
DELETE FROM cdp.inbox;
SELECT count(*) FROM cdp.inbox;
-- sources that cannot be written to
SELECT * FROM cdp.ingest('{}', 'nobody');
INSERT INTO cdp.inbox VALUES ('{}', 'nobody');
-- the portable path stores the same
SET cdp.store = 'sql';
SELECT outcome FROM cdp.ingest('{"type": "identify", "userId": "in-7", "messageId": "in-18", "traits": {"plan": "free"}, "originalTimestamp": "2026-03-01T09:00:00Z"}');
SET cdp.store = 'direct';
SELECT outcome FROM cdp.ingest('{"type": "identify", "userId": "in-8", "messageId": "in-19", "traits": {"plan": "free"}, "originalTimestamp": "2026-03-01T09:00:00Z"}');
RESET cdp.store;
SELECT user_id, type, name, occurred_at AT TIME ZONE 'UTC' AS occurred_at, traits FROM cdp.event WHERE user_id IN ('in-7', 'in-8') ORDER BY 1;
SELECT count(*) FROM cdp.verify();
