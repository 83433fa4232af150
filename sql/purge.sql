-- cdp.purge_before(): what happened before an instant goes and does not come back; links and declared traits stay.
\set VERBOSITY terse
SET timezone = 'UTC';
-- the times are of another century, so that nothing of the other tests is touched
SELECT outcome, count(*) FROM cdp.ingest('[
	{"type": "identify", "userId": "pu-a", "anonymousId": "pu-x", "messageId": "pu-1", "originalTimestamp": "1994-01-01T09:00:00Z", "traits": {"plan": "free", "city": "Oslo"}},
	{"type": "track", "userId": "pu-a", "event": "x", "messageId": "pu-2", "originalTimestamp": "1994-02-01T09:00:00Z"},
	{"type": "identify", "userId": "pu-a", "messageId": "pu-3", "originalTimestamp": "1994-03-01T09:00:00Z", "traits": {"plan": "pro"}},
	{"type": "track", "userId": "pu-a", "event": "x", "messageId": "pu-4", "originalTimestamp": "1994-04-01T00:00:00Z"},
	{"type": "track", "userId": "pu-b", "event": "x", "messageId": "pu-5", "originalTimestamp": "1994-02-01T09:00:00Z"},
	{"type": "track", "userId": "pu-a", "anonymousId": "pu-y", "event": "x", "messageId": "pu-6", "originalTimestamp": "1994-02-02T09:00:00Z"},
	{"type": "track", "userId": "pu-c", "event": "x", "messageId": "pu-7", "originalTimestamp": "1994-05-01T09:00:00Z"},
	{"type": "track", "userId": " ", "anonymousId": "null", "event": "x", "messageId": "pu-8", "originalTimestamp": "1994-02-01T09:00:00Z"}]')
GROUP BY 1;
CREATE VIEW pu_people AS
SELECT i.value, p.event_count, p.first_seen, p.last_seen, p.traits FROM cdp.identifier i JOIN cdp.profile p USING (profile_id)
WHERE i.value LIKE 'pu-%';
SELECT * FROM pu_people ORDER BY value;

-- only counted
SELECT jsonb_pretty(cdp.purge_before('1994-03-01'));
SELECT count(*) FROM cdp_data.retention_watermark;
SELECT count(*) FROM cdp.event WHERE message_id LIKE 'pu-%';

-- what is not understood
SELECT cdp.purge_before(NULL);
SELECT cdp.purge_before('infinity');
SELECT cdp.purge_before('-infinity', dry_run => false);
SELECT cdp.purge_before(cdp.now() + interval '1 second', dry_run => false);
SELECT cdp.purge_before('1994-03-01', 'consent');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.purge_before('1994-03-01', dry_run => false);
ROLLBACK;
BEGIN READ ONLY;
SELECT cdp.purge_before('1994-03-01')->'people' AS people;
SELECT cdp.purge_before('1994-03-01', dry_run => false);
ROLLBACK;

-- taken back
BEGIN;
SELECT cdp.purge_before('1994-03-01', dry_run => false)->'people' AS people;
SELECT count(*) FROM cdp.event WHERE message_id LIKE 'pu-%';
SELECT count(*) FROM cdp.verify();
ROLLBACK;
SELECT count(*) FROM cdp.event WHERE message_id LIKE 'pu-%';

-- done: the browsers still belong to their person, whose traits stay, and the counters are of what is left
SELECT jsonb_pretty(cdp.purge_before('1994-03-01', 'event', false));
SELECT message_id, occurred_at FROM cdp.event WHERE message_id LIKE 'pu-%' ORDER BY 1;
SELECT * FROM pu_people ORDER BY value;
SELECT count(*) FROM cdp_data.message_seen WHERE occurred_at < '1994-03-01';
SELECT count(*) FROM cdp.verify();

-- again, and to an earlier instant: nothing changes
SELECT cdp.purge_before('1994-03-01', dry_run => false) AS again;
SELECT cdp.purge_before('1990-01-01', dry_run => false)->'watermark' AS earlier, cdp.purge_before('1990-01-01')->'watermark' AS asked;

-- nothing comes back: neither what was stored, nor what is late
SELECT message_id, outcome FROM cdp.ingest('[
	{"type": "identify", "userId": "pu-a", "anonymousId": "pu-x", "messageId": "pu-1", "originalTimestamp": "1994-01-01T09:00:00Z", "traits": {"plan": "free", "city": "Oslo"}},
	{"type": "track", "userId": "pu-new", "event": "x", "messageId": "pu-9", "originalTimestamp": "1994-02-28T23:59:59.999999Z"},
	{"type": "identify", "userId": "pu-a", "messageId": "pu-3", "originalTimestamp": "1994-03-01T09:00:00Z", "traits": {"plan": "pro"}},
	{"type": "track", "userId": "pu-b", "event": "x", "messageId": "pu-10", "originalTimestamp": "1994-03-01T00:00:00Z"}]');
INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "pu-b", "event": "x", "messageId": "pu-5", "originalTimestamp": "1994-02-01T09:00:00Z"}');
SELECT cdp.find_profile('user_id', 'pu-new') AS nobody;
SELECT * FROM pu_people WHERE value = 'pu-b';
SELECT count(*) FROM cdp.verify();

-- traits that outlived their events stay when the person is computed again: an earlier delivery moves an event
SELECT outcome FROM cdp.ingest('[{"type": "identify", "userId": "pu-a", "messageId": "pu-11", "originalTimestamp": "1994-06-01T09:00:00Z", "receivedAt": "1994-06-01T12:00:00Z", "traits": {"plan": "max", "size": 1}}]');
SELECT outcome FROM cdp.ingest('[{"type": "identify", "userId": "pu-a", "messageId": "pu-11", "originalTimestamp": "1994-06-01T09:00:00Z", "receivedAt": "1994-06-01T10:00:00Z", "traits": {"plan": "max", "size": 1}}]');
SELECT * FROM pu_people WHERE value = 'pu-a';
SELECT count(*) FROM cdp.verify();

-- cdp.verify() knows what may be left
UPDATE cdp_data.retention_watermark SET cleared = watermark;
BEGIN;
UPDATE cdp_data.retention_watermark SET watermark = '1994-04-01T00:00:01Z', cleared = watermark;
SELECT count(*) AS not_yet_swept FROM cdp.verify();
UPDATE cdp_data.retention_watermark SET cleared = '1994-04-01T00:00:01Z';
SELECT table_name, column_name, stored, expected FROM cdp.verify() ORDER BY 1, 3;
ROLLBACK;
BEGIN;
UPDATE cdp_data.profile_trait SET traits = jsonb_set(traits, '{city}', '"Bergen"') WHERE traits ? 'city' AND fragment_id = cdp.find_profile('user_id', 'pu-a');
SELECT count(*) AS of_a_purged_event FROM cdp.verify();
UPDATE cdp_data.profile_trait SET traits = jsonb_set(traits, '{size}', '2') WHERE traits ? 'size' AND fragment_id = cdp.find_profile('user_id', 'pu-a');
SELECT table_name, column_name FROM cdp.verify();
ROLLBACK;

-- who may
SET ROLE cdp_analyst;
SELECT cdp.purge_before('1994-03-01');
RESET ROLE;
SET ROLE cdp_privacy_officer;
SELECT cdp.purge_before('1994-05-01')->'people' AS people;
RESET ROLE;

-- somebody is forgotten whose e-mail another declared, too, in an event that was purged
SELECT outcome FROM cdp.ingest('[
	{"type": "identify", "userId": "pu-o", "messageId": "pu-20", "originalTimestamp": "1994-03-05T00:00:00Z", "traits": {"email": "pu-o@x.example"}},
	{"type": "identify", "userId": "pu-p", "messageId": "pu-21", "originalTimestamp": "1994-03-06T00:00:00Z", "traits": {"email": "PU-O@x.example", "city": "Rome", "contact": {"email": "pu-o@x.example"}}}]');
SELECT cdp.purge_before('1994-03-10', dry_run => false)->'people' AS people;
SELECT cdp.forget('user_id', 'pu-o', 'asked', false)->'stripped' AS stripped;
SELECT * FROM pu_people WHERE value IN ('pu-o', 'pu-p', 'pu-o@x.example') ORDER BY value;
SELECT count(*) FROM cdp.verify();

-- the trait that a visitor declared is the visitor's, also when a stronger identifier came later and has to leave again
SELECT outcome FROM cdp.ingest('{"type": "identify", "anonymousId": "pu-v", "messageId": "pu-30", "originalTimestamp": "1994-03-12T00:00:00Z", "traits": {"city": "Bern"}}');
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-q", "anonymousId": "pu-v", "messageId": "pu-31", "originalTimestamp": "1994-04-10T00:00:00Z"}');
SELECT cdp.purge_before('1994-03-15', dry_run => false)->'people' AS people;
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-r", "anonymousId": "pu-v", "messageId": "pu-32", "originalTimestamp": "1994-04-05T00:00:00Z"}');
SELECT * FROM pu_people WHERE value IN ('pu-q', 'pu-r', 'pu-v') ORDER BY value;
SELECT count(*) FROM cdp.verify();

-- what a purged event said of who is who stays, also when another event of its message id is moved
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-s", "anonymousId": "pu-w", "messageId": "pu-40", "originalTimestamp": "1994-03-20T00:00:00Z"}');
SELECT cdp.purge_before('1994-03-25', dry_run => false)->'people' AS people;
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-s", "anonymousId": "pu-w", "messageId": "pu-40", "originalTimestamp": "1994-04-20T00:00:00Z", "receivedAt": "1994-04-22T00:00:00Z"}');
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-s", "anonymousId": "pu-w", "messageId": "pu-40", "originalTimestamp": "1994-04-20T00:00:00Z", "receivedAt": "1994-04-19T00:00:00Z"}');
SELECT outcome FROM cdp.ingest('{"type": "track", "event": "x", "userId": "pu-t", "anonymousId": "pu-w", "messageId": "pu-41", "originalTimestamp": "1994-04-01T00:00:00Z"}');
SELECT received_at, cdp.find_profile('anonymous_id', 'pu-w') = cdp.find_profile('user_id', 'pu-s') AS with_s FROM cdp.event WHERE message_id = 'pu-40';
SELECT count(*) FROM cdp.verify();

DROP VIEW pu_people;
