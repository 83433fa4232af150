-- Formats json and cloudevents: what a mapping may say, and what becomes of messages.
\set VERBOSITY default
\set SHOW_CONTEXT never
-- a mapping that is wrong is said so when the source is made
SELECT cdp.create_source('odd', format => 'json');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"message_id": "$.id"}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": ["$.id"]}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "message_id": "id"}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "message_id": {"constant": "id"}}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.ids[first]"}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "who": "$.w"}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "type": "page"}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "type": {"constant": "order"}}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"user_id": "$.u", "type": {"path": "$.kind", "calls": {"signup": "register"}}}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"identifiers": [{"namespace": "email"}]}}');
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"call": {"merge": {}}}}');
SELECT cdp.create_source('odd', format => 'segment', options => '{"mapping": {"user_id": "$.u"}}');
-- a namespace may be declared later
BEGIN;
SELECT cdp.create_source('odd', format => 'json', options => '{"mapping": {"identifiers": [{"namespace": "emial", "value": "$.e"}, {"namespace": "email", "value": "$.f"}],
	"call": {"alias": {"id": {"namespace": "member", "value": "$.a"}, "other": {"namespace": "user_id", "value": "$.b"}}}}}');
ROLLBACK;
-- one that is right: a topic that was there before us
SELECT cdp.create_source('legacy', format => 'json', options => '{"mapping": {"message_id": "$.order_no", "name": "$.what", "time": "$.placed", "order": "$.line",
	"user_id": "$.customer.id", "identifiers": [{"namespace": "email", "value": "$.customer.mails[0]"}], "type": {"path": "$.what", "calls": {"registered": "identify"}},
	"traits": "$.customer.profile"}}');
SELECT cdp.alter_source('legacy', options => '{"mapping": {"user_id": "customer"}}');
INSERT INTO cdp.inbox (message, source) VALUES
	('{"order_no": 7001, "line": 1, "what": "ordered", "placed": 1772445600, "customer": {"id": "legacy-1", "mails": ["Bo@Example.com"], "vip": true}, "total": 20.5}', 'legacy'),
	('{"order_no": 7002, "what": "registered", "placed": "2026-03-02T10:00:01Z", "customer": {"id": "legacy-1", "profile": {"plan": "pro"}}}', 'legacy'),
	('{"order_no": 7003, "what": "ordered", "placed": "soon", "customer": {"id": "legacy-1"}}', 'legacy'),
	('{"order_no": 7004, "what": "ordered", "buyer": "legacy-2"}', 'legacy');
SELECT message_id, type, name, user_id, properties, traits FROM cdp.event WHERE source = 'legacy' ORDER BY message_id;
SELECT namespace, value FROM cdp.identifier WHERE profile_id = cdp.find_profile('email', 'bo@example.com') ORDER BY 1;
SELECT traits FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'legacy-1');
SELECT reason, detail FROM cdp.quarantine WHERE source = 'legacy' ORDER BY id;
-- another mapping affects later messages only: what is stored stays, and comes again as the same message
SELECT cdp.alter_source('legacy', options => '{"mapping": {"message_id": "$.order_no", "name": {"constant": "Order"}, "user_id": "$.customer.id", "anonymous_id": "$.buyer"}}');
SELECT outcome FROM cdp.ingest('{"order_no": 7001, "line": 1, "what": "ordered", "placed": 1772445600, "customer": {"id": "legacy-1", "mails": ["Bo@Example.com"], "vip": true}, "total": 20.5}', 'legacy');
SELECT outcome FROM cdp.ingest('{"order_no": 7002, "what": "registered", "placed": "2026-03-02T10:00:01Z", "customer": {"id": "legacy-1", "profile": {"plan": "pro"}}}', 'legacy');
-- and quarantine is replayed with it
SELECT message_id, outcome, reason FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE source = 'legacy' AND body_text LIKE '%700_, "what"%')) ORDER BY 1;
SELECT message_id, name, user_id, anonymous_id, properties FROM cdp.event WHERE source = 'legacy' ORDER BY message_id;
-- format cloudevents: from SQL the structured form, and arrays of it by option
SELECT cdp.create_source('odd', format => 'cloudevents', options => '{"mapping": {"message_id": "$.id"}}');
SELECT cdp.create_source('odd', format => 'cloudevents', options => '{"batch": "yes"}');
SELECT cdp.create_source('cloud', format => 'cloudevents');
SELECT outcome, message_id FROM cdp.ingest('{"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.ordered", "time": "2026-03-01T10:00:00Z", "subject": "cloud-1", "sequence": 7, "data": {"total": 20.5}}', 'cloud');
SELECT message_id, type, name, user_id, properties, context, occurred_at = '2026-03-01T10:00:00Z' AS on_time FROM cdp.event WHERE source = 'cloud';
-- the same event, whatever it went through; another source is another event; another body is none
SELECT outcome, reason, message_id FROM cdp.ingest_many(ARRAY[
	'{"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.ordered", "time": "2026-03-01T11:00:00+01:00", "subject": "cloud-1", "sequence": 7, "traceparent": "00-1", "data": {"total": 20.5}}',
	'{"specversion": "1.0", "id": "1", "source": "/till", "type": "com.example.ordered", "subject": "cloud-1", "data": "text"}',
	'{"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.ordered", "subject": "cloud-1", "data": {"total": 21}}',
	'[{"specversion": "1.0", "id": "2", "source": "/shop", "type": "com.example.paid", "subject": "cloud-1"}]',
	'{"specversion": "1.0", "id": "3", "source": "/shop", "type": "com.example.registered", "data": {"person": {"mail": "cloud-1@example.com", "plan": "pro"}}}']::jsonb[], 'cloud') ORDER BY ordinal;
-- ids are of the workspace: another source, of the same format, knows them
SELECT cdp.create_source('cloud2', format => 'cloudevents', options => '{"batch": true}');
SELECT ordinal, outcome, message_id FROM cdp.ingest('[{"specversion": "1.0", "id": "1", "source": "/till", "type": "com.example.ordered", "subject": "cloud-1", "data": "text"},
	{"specversion": "1.0", "id": "4", "source": "/shop", "type": "com.example.paid", "subject": "cloud-1"}, {"id": "5", "source": "/shop"}]', 'cloud2');
SELECT cdp.alter_source('cloud', options => '{"batch": true, "mapping": {"user_id": "$.subject", "identifiers": [{"namespace": "email", "value": "$.data.person.mail"}],
	"type": {"path": "$.type", "calls": {"com.example.registered": "identify"}}, "traits": "$.data.person"}}');
SELECT outcome, reason, message_id FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine WHERE source = 'cloud' ORDER BY id)) ORDER BY message_id;
SELECT message_id, type, name, user_id, properties, traits, context FROM cdp.event WHERE source LIKE 'cloud_' OR source = 'cloud' ORDER BY message_id;
SELECT traits FROM cdp.profile WHERE profile_id = cdp.find_profile('email', 'cloud-1@example.com');
SELECT source, reason, detail, body_text FROM cdp.quarantine WHERE source LIKE 'cloud%' ORDER BY id;
SELECT count(*) FROM cdp.verify();
