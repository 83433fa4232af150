-- Who may do and see what.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE ROLE regress_cdp_ingest IN ROLE cdp_ingest;
CREATE ROLE regress_cdp_analyst IN ROLE cdp_analyst;
CREATE ROLE regress_cdp_officer IN ROLE cdp_privacy_officer;
CREATE ROLE regress_cdp_nobody;
SELECT outcome FROM cdp.ingest('{"type": "identify", "userId": "pr-1", "messageId": "pr-1", "traits": {"email": "pr@example.com"},
	"context": {"ip": "203.0.113.7"}}');
-- cdp_ingest writes and reads nothing
SET ROLE regress_cdp_ingest;
SELECT outcome FROM cdp.ingest('{"type": "track", "userId": "pr-1", "event": "x", "messageId": "pr-2"}');
INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "pr-1", "event": "x", "messageId": "pr-3"}');
SELECT count(*) FROM cdp.event;
SELECT count(*) FROM cdp.profile;
SELECT count(*) FROM cdp.quarantine;
SELECT cdp.find_profile('user_id', 'pr-1');
-- an analyst sees pseudonyms, and nothing that names a person
SET ROLE regress_cdp_analyst;
SELECT count(*) FROM cdp.event WHERE user_id = 'pr-1';
SELECT count(*) FROM cdp.event WHERE name = 'x' AND message_id IN ('pr-2', 'pr-3');
SELECT count(*) FROM cdp.identifier WHERE value IN ('pr-1', 'pr@example.com');
SELECT traits FROM cdp.event WHERE message_id = 'pr-1';
SELECT context ? 'ip' FROM cdp.event WHERE message_id = 'pr-1';
SELECT count(*) FROM cdp.quarantine WHERE body IS NOT NULL OR body_text IS NOT NULL;
SELECT outcome FROM cdp.ingest('{"type": "track", "userId": "pr-1", "event": "x", "messageId": "pr-4"}');
SELECT cdp.set_namespace('mine');
-- a privacy officer sees values
SET ROLE regress_cdp_officer;
SELECT count(*) FROM cdp.identifier WHERE value IN ('pr-1', 'pr@example.com');
-- nobody reads the tables
SELECT count(*) FROM cdp_data.identifier;
SET ROLE regress_cdp_nobody;
SELECT count(*) FROM cdp.event;
SELECT cdp.ingest('{}');
SELECT cdp.find_profile('user_id', 'pr-1');
SELECT * FROM cdp.verify();
RESET ROLE;
DROP ROLE regress_cdp_ingest, regress_cdp_analyst, regress_cdp_officer, regress_cdp_nobody;
