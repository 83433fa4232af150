-- What CREATE EXTENSION and cdp.setup() make, and what happens without them.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION cdp;
-- the extension owns code only: no table, no sequence, no view
SELECT count(*) AS relations
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cdp')
	AND deptype = 'e' AND classid = 'pg_class'::regclass;
-- before the set-up everything says what to do
SELECT * FROM cdp.ingest('{"type": "track", "userId": "u", "event": "x"}');
SELECT cdp.create_source('early');
-- in a session of its own, since the first set-up of a server tells where it made the key file
\setenv PGDATABASE :DBNAME
\! psql -X -q -c 'SELECT cdp.setup()' >/dev/null 2>&1
-- again: nothing changes
CREATE TEMP TABLE before AS SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'cdp_data'::regnamespace;
SELECT cdp.setup();
SELECT count(*) FROM before FULL JOIN
	(SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'cdp_data'::regnamespace) after USING (relname, relfilenode)
WHERE before.relname IS NULL OR after.relname IS NULL;
-- only a superuser may
SET ROLE cdp_admin;
SELECT cdp.setup();
RESET ROLE;
-- what is there from the first moment
SELECT name, priority, level, value_limit, limit_window, owner, normaliser FROM cdp.namespace ORDER BY priority, name;
SELECT source, brokers, topics, format, paused FROM cdp.source;
SELECT count(*) FROM cdp.event;
SELECT count(*) FROM cdp.profile;
SELECT count(*) FROM cdp.verify();
-- DROP EXTENSION keeps the data, and the set-up finds it again
SELECT outcome FROM cdp.ingest('{"type": "identify", "userId": "kept", "messageId": "kept-1", "traits": {"plan": "old"}}');
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
SELECT cdp.setup();
SELECT message_id, user_id FROM cdp.event;
SELECT traits FROM cdp.profile;
SELECT outcome FROM cdp.ingest('{"type": "identify", "userId": "kept", "messageId": "kept-1", "traits": {"plan": "old"}}');
SELECT count(*) FROM cdp.verify();
