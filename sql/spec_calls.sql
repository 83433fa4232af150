-- The six calls of the Segment format on test/data/events/spec_calls.ndjson, against its expected.json.
\set VERBOSITY terse
\set content `cat "$PG_ABS_SRCDIR/test/data/events/spec_calls.ndjson"`
SELECT cdp.create_source('spec', options => '{"skew": "segment", "max_future": "infinity"}');
CREATE TEMP TABLE lines AS SELECT line, n FROM regexp_split_to_table(:'content', '\n') WITH ORDINALITY AS t(line, n) WHERE line <> '';
SELECT count(*) AS messages, count(DISTINCT line::jsonb->>'messageId') AS distinct_message_ids FROM lines;
INSERT INTO cdp.inbox (message, source) SELECT line, 'spec' FROM lines ORDER BY n;
SELECT count(*) FROM cdp.quarantine WHERE source = 'spec';
-- 25 messages, one of them a duplicate
SELECT type, count(*) FROM cdp.event WHERE source = 'spec' GROUP BY 1 ORDER BY 1;
-- timestamp = receivedAt - (sentAt - originalTimestamp)
SELECT message_id, to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS occurred_at
FROM cdp.event WHERE source = 'spec' AND message_id IN ('m-005', 'm-009', 'm-011', 'm-015') ORDER BY 1;
-- four people
SELECT array_agg(namespace || ':' || value ORDER BY value) AS identifiers
FROM cdp.identifier
WHERE namespace IN ('user_id', 'anonymous_id') AND profile_id IN (SELECT profile_id FROM cdp.event WHERE source = 'spec')
GROUP BY profile_id ORDER BY 1;
SELECT traits->>'plan' AS plan, traits->>'email' AS email FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'u-1');
-- the same once more, backwards: nothing changes
CREATE TEMP TABLE before AS SELECT * FROM cdp.event WHERE source = 'spec';
INSERT INTO cdp.inbox (message, source) SELECT line, 'spec' FROM lines ORDER BY n DESC;
SELECT count(*) FROM (TABLE before EXCEPT SELECT * FROM cdp.event) d;
SELECT count(*) FROM cdp.event WHERE source = 'spec';
SELECT count(*) FROM cdp.verify();
