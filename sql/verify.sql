-- cdp.verify(): an error is one row, whatever it is; what is yet to be computed is none; it only reads.
\set VERBOSITY terse
SELECT count(*) AS stored FROM cdp.ingest('[
	{"type": "identify", "userId": "ve-a", "anonymousId": "ve-x", "messageId": "ve-1", "originalTimestamp": "2026-03-01T09:00:00Z", "traits": {"plan": "free", "city": "Oslo"}},
	{"type": "track", "userId": "ve-a", "event": "x", "messageId": "ve-2", "originalTimestamp": "2026-03-02T09:00:00Z"},
	{"type": "track", "userId": "ve-b", "event": "x", "messageId": "ve-3", "originalTimestamp": "2026-03-03T09:00:00Z"},
	{"type": "track", "userId": "ve-b", "anonymousId": "ve-y", "event": "x", "messageId": "ve-4", "originalTimestamp": "2026-03-04T09:00:00Z"},
	{"type": "track", "userId": "ve-c", "event": "x", "messageId": "ve-5", "originalTimestamp": "2026-03-05T09:00:00Z"}]')
WHERE outcome = 'stored';
SELECT cdp.find_profile('user_id', 've-a') AS a, cdp.find_profile('user_id', 've-b') AS b \gset
-- make a change, ask cdp.verify(), and take the change back; a fragment may be dirty meanwhile
CREATE FUNCTION pg_temp.plant(change text, dirty bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	changed bigint;
	found text;
BEGIN
	EXECUTE change;
	GET DIAGNOSTICS changed = ROW_COUNT;
	INSERT INTO cdp_data.dirty SELECT dirty, cdp.current_workspace(), 'moved', now() WHERE dirty IS NOT NULL;
	SELECT string_agg(table_name || '.' || column_name, ', ' ORDER BY table_name, column_name) INTO found FROM cdp.verify();
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	RETURN changed || ' changed: ' || coalesce(found, 'nothing');
END
$$;
SELECT what, pg_temp.plant(format(change, :a, :b)) AS found, pg_temp.plant(format(change, :a, :b), :a) AS where_a_is_dirty FROM (VALUES
	(1, 'a count', 'UPDATE cdp_data.profile SET event_count = event_count + 1 WHERE fragment_id = %1$s'),
	(2, 'an instant', 'UPDATE cdp_data.profile SET last_seen = last_seen + interval ''1 s'' WHERE fragment_id = %1$s'),
	(3, 'a trait', 'UPDATE cdp_data.profile_trait SET traits = jsonb_set(traits, ''{plan}'', ''"pro"'') WHERE fragment_id = %1$s'),
	(4, 'both traits', 'DELETE FROM cdp_data.profile_trait WHERE fragment_id = %1$s'),
	(5, 'the moment of a link', 'UPDATE cdp_data.link SET first_at = first_at + interval ''1 s'' WHERE first_message = ''ve-1'''),
	(16, 'a month', 'UPDATE cdp_data.profile SET months = months # 2 WHERE fragment_id = %1$s'),
	(13, 'an earlier moment of a link', 'UPDATE cdp_data.link SET first_at = first_at - interval ''1 s'' WHERE first_message = ''ve-1'''),
	(14, 'an earlier moment alone', 'UPDATE cdp_data.identifier SET alone_at = alone_at - interval ''1 s'' WHERE alone_message = ''ve-2'''),
	(15, 'a link that nobody presented', 'INSERT INTO cdp_data.link SELECT identifier_id, link_id, source_id + 1000, kind, weight, workspace_id, first_at, last_at, first_event_id, first_message, members FROM cdp_data.link WHERE first_message = ''ve-1'''),
	(16, 'no link', 'DELETE FROM cdp_data.link WHERE first_message = ''ve-1'''),
	(17, 'nothing alone', 'UPDATE cdp_data.identifier SET alone_at = NULL, alone_message = NULL WHERE alone_message = ''ve-2'''),
	(18, 'no profile', 'DELETE FROM cdp_data.profile WHERE fragment_id = %1$s'),
	(19, 'nobody', 'DELETE FROM cdp_data.identifier WHERE value = ''ve-c'''),
	(20, 'a profile of others', 'UPDATE cdp_data.profile SET workspace_id = 0 WHERE fragment_id = %1$s'),
	(21, 'an identifier of others', 'UPDATE cdp_data.identifier SET workspace_id = 0 WHERE value = ''ve-c'''),
	(6, 'a moment alone', 'UPDATE cdp_data.identifier SET alone_at = alone_at + interval ''1 s'' WHERE alone_message = ''ve-2'''),
	(7, 'an event of a lies with b', 'UPDATE cdp_data.event SET fragment_id = %2$s WHERE message_id = ''ve-2'''),
	(8, 'an event of b is to be moved', 'WITH e AS (UPDATE cdp_data.event SET fragment_id = %1$s WHERE message_id = ''ve-3'')
		UPDATE cdp_data.profile SET event_count = 1, first_seen = last_seen WHERE fragment_id = %2$s'),
	(9, 'an unknown message', 'DELETE FROM cdp_data.message_seen WHERE event_id = (SELECT event_id FROM cdp_data.event WHERE message_id = ''ve-2'')'),
	(10, 'a state', 'UPDATE cdp_data.identifier SET state = ''s'' WHERE value = ''ve-y'''),
	(11, 'a browser of b is with a', 'UPDATE cdp_data.identifier SET fragment_id = %1$s WHERE value = ''ve-y'''),
	(12, 'no browser', 'DELETE FROM cdp_data.identifier WHERE value = ''ve-y''')
	) AS plan(n, what, change)
ORDER BY n;
BEGIN READ ONLY;
SELECT count(*) FROM cdp.verify();
COMMIT;
