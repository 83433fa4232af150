-- A bad message costs itself only: test/data/events/malformed.ndjson, repair and replay.
\set VERBOSITY terse
\set content `cat "$PG_ABS_SRCDIR/test/data/events/malformed.ndjson"`
SELECT cdp.create_source('bad');
CREATE TEMP TABLE lines AS SELECT line, n FROM regexp_split_to_table(:'content', '\n') WITH ORDINALITY AS t(line, n);
SELECT count(*) FROM lines;
INSERT INTO cdp.inbox (message, source) SELECT line, 'bad' FROM lines ORDER BY n;
-- line 7 has no messageId, which is no fault; the array counts once for each element
SELECT name, message_id IS NOT NULL AS has_id FROM cdp.event WHERE source = 'bad';
SELECT reason, body_text, attempts, topic, "partition", "offset" FROM cdp.quarantine WHERE source = 'bad' ORDER BY id;
-- alone, first, last, many in a row; whatever the bytes
SELECT outcome, reason, count(*) FROM cdp.ingest_many(ARRAY(
	SELECT CASE WHEN n IN (0, 1001) THEN format('{"type": "track", "userId": "bad-1", "event": "x", "messageId": "bad-%s"}', n)
		ELSE '{"type": "telepathy"}' END::jsonb
	FROM generate_series(0, 1001) n), 'bad') GROUP BY 1, 2 ORDER BY 1;
CREATE TEMP TABLE poison (what text, message text);
INSERT INTO poison VALUES
	('white space', E' \t\n'),
	('cut off', '{"type": "track", "userId": "bad-2", "event": "x"'),
	('two values', '{} {}'),
	('nul character', '{"type": "track", "userId": "bad-2", "event": "a\u0000b"}'),
	('half a pair', '{"type": "track", "userId": "bad-2", "event": "\ud800"}'),
	('deep', '{"type": "track", "userId": "bad-2", "event": "x", "properties": ' || repeat('[', 9000) || repeat(']', 9000) || '}'),
	('keys', '{"type": "track", "userId": "bad-2", "event": "x", "properties": {'
		|| (SELECT string_agg(format('"k%s": 1', n), ', ') FROM generate_series(1, 1001) n) || '}}'),
	('number', '{"type": "track", "userId": "bad-2", "event": "x", "properties": {"n": ' || repeat('9', 65) || '}}'),
	('exponent', '{"type": "track", "userId": "bad-2", "event": "x", "properties": {"n": 1e999999}}'),
	('value', '{"type": "track", "userId": "bad-2", "event": "x", "properties": {"v": "' || repeat('v', 262145) || '"}}'),
	('message', '{"type": "track", "userId": "bad-2", "event": "x", "properties": {"v": "' || repeat('v', 1100000) || '"}}'),
	('trait', '{"type": "identify", "userId": "bad-2", "traits": {"t": "' || repeat('t', 33000) || '"}}'),
	('identifier', '{"type": "track", "userId": "' || repeat('u', 1025) || '", "event": "x"}'),
	('message id', '{"type": "track", "userId": "bad-2", "event": "x", "messageId": "' || repeat('m', 256) || '"}'),
	('old', '{"type": "track", "userId": "bad-2", "event": "x", "originalTimestamp": "1969-12-31T23:59:59Z"}'),
	('no call', '{"userId": "bad-2", "event": "x"}'),
	('field', '{"type": "track", "userId": "bad-2", "event": "x", "properties": [1]}');
TRUNCATE cdp_data.quarantine;
INSERT INTO cdp.inbox (message, source) SELECT message, 'bad' FROM poison;
SELECT what, reason FROM poison LEFT JOIN cdp.quarantine ON body_text = message ORDER BY 1;
SELECT count(*) FROM cdp.event WHERE user_id = 'bad-2';
-- repair: an expression over body and body_text with the caller's rights
INSERT INTO cdp.inbox (message, source) VALUES
	('{"type": "telepathy", "userId": "bad-3", "messageId": "bad-r1", "event": "x"}', 'bad'),
	('{"type": "telepathy", "userId": "bad-3", "messageId": "bad-r2", "event": "x"}', 'bad');
CREATE TEMP TABLE broken AS SELECT id, body_text FROM cdp.quarantine WHERE body_text LIKE '%"bad-r%' ORDER BY id;
SELECT outcome, reason, message_id FROM cdp.replay_quarantine((SELECT array_agg(id) FROM broken)) ORDER BY message_id;
SELECT attempts, reason FROM cdp.quarantine JOIN broken USING (id) ORDER BY id;
-- an expression that fails says for which row
DO $$
DECLARE
	context text;
BEGIN
	PERFORM cdp.replay_quarantine((SELECT array_agg(id) FROM broken), '(1 / 0)::text');
EXCEPTION WHEN division_by_zero THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RAISE NOTICE '%', (SELECT string_agg(id::text, ' ') = '' || min(id) FROM broken WHERE context LIKE '%repair of row ' || id || ' of cdp.quarantine%');
END
$$;
-- and not what is in it
DO $$
DECLARE
	expression text;
BEGIN
	FOREACH expression IN ARRAY ARRAY['body_text::regclass::text', 'to_tsquery(''a b '' || body_text)::text', '(body_text::integer)::text'] LOOP
		BEGIN
			PERFORM cdp.replay_quarantine((SELECT array_agg(id) FROM broken), expression);
		EXCEPTION WHEN OTHERS THEN
			RAISE NOTICE '% %', SQLSTATE, regexp_replace(SQLERRM, '[0-9]+', 'N');
		END;
	END LOOP;
END
$$;
SELECT outcome, reason, message_id FROM cdp.replay_quarantine((SELECT array_agg(id) FROM broken),
	$$CASE WHEN body_text LIKE '%bad-r1%' THEN replace(body_text, 'telepathy', 'track') END$$);
SELECT count(*) FROM cdp.quarantine JOIN broken USING (id);
SELECT count(*) FROM cdp.replay_quarantine((SELECT array_agg(id) FROM broken), $$replace(body_text, 'telepathy', 'track')$$);
SELECT count(*) FROM cdp.replay_quarantine((SELECT array_agg(id) FROM broken), $$replace(body_text, 'telepathy', 'track')$$);
SELECT message_id FROM cdp.event WHERE user_id = 'bad-3' ORDER BY 1;
-- an element of an envelope is replayed with what the envelope said for all, also when a repair makes it many
SELECT ordinal, outcome, reason FROM cdp.ingest('{"batch": [{"type": "track", "event": "x", "messageId": "bad-e1", "timestamp": "2026-03-01T00:00:00Z"},
	{"type": "telepathy", "event": "x", "messageId": "bad-e2", "userId": "bad-4", "context": {"page": {"path": "/"}}}, {"type": "track", "event": "x", "messageId": "bad-e3", "userId": "bad-4"}],
	"sentAt": "2026-03-01T10:00:00Z", "receivedAt": "2026-03-01T10:00:01Z", "context": {"ip": "192.0.2.1", "os": {"name": "iOS"}, "device": {"id": "bad-device"}}}', 'bad');
SELECT outcome, reason FROM cdp.ingest('{"batch": [7], "context": {"traits": {"email": "bad-4@example.com"}}}', 'bad');
SELECT outcome, reason, message_id FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE body_text LIKE '%bad-e%' ORDER BY id), $$replace(body_text, 'telepathy', 'track')$$);
SELECT outcome, reason, message_id FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE body_text = '7'),
	$$'[{"type": "page", "messageId": "bad-e4"}, 8, {"type": "page", "messageId": "bad-e5"}]'$$);
SELECT outcome, message_id FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE body_text = '8'), $$'{"type": "page", "messageId": "bad-e6"}'$$);
SELECT message_id, sent_at AT TIME ZONE 'UTC' AS sent_at, received_at AT TIME ZONE 'UTC' AS received_at, context FROM cdp.event WHERE message_id LIKE 'bad-e%' AND sent_at IS NOT NULL ORDER BY 1;
SELECT message_id, context, profile_id = cdp.find_profile('email', 'bad-4@example.com') AS found FROM cdp.event WHERE message_id LIKE 'bad-e%' AND sent_at IS NULL ORDER BY 1;
SELECT count(*) FROM cdp.quarantine WHERE body_text LIKE '%bad-e%' OR body_text IN ('7', '8');
SELECT * FROM cdp.replay_quarantine('{1}', 'this is no SQL');
SELECT count(*) FROM cdp.verify();
