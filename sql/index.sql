-- Indexes of a DBA's own: the engine writes rows without SQL, and keeps them all.
\set VERBOSITY terse
-- an event a transaction: what of an update the heap keeps in its page, some indexes need not know
CREATE PROCEDURE pg_temp.send(person text, events int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..events LOOP
		PERFORM cdp.ingest(jsonb_build_object('type', 'track', 'event', 'x', 'userId', 'ix-' || person,
			'messageId', format('ix-%s-%s', person, n), 'originalTimestamp', timestamptz '2026-03-01 UTC' + n * interval '1 s'));
		COMMIT;
	END LOOP;
END
$$;
-- what an index returns, in its order and by bitmap, against what the table holds
CREATE FUNCTION pg_temp.allow(scan text) RETURNS void LANGUAGE sql AS $$
	SELECT set_config(s, CASE WHEN s ~ scan THEN 'on' ELSE 'off' END, true)
	FROM unnest('{enable_seqscan, enable_indexscan, enable_indexonlyscan, enable_bitmapscan}'::text[]) s $$;
CREATE FUNCTION pg_temp.differences() RETURNS TABLE (condition text, how text, missing bigint, too_many bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR condition, how IN
		SELECT c, h FROM unnest(ARRAY['fragment_id > 0', 'event_count > 2', 'last_seen >= ''2026-03-01 UTC''',
			'last_seen AT TIME ZONE ''UTC'' >= ''2026-03-01''']) c, unnest('{index, bitmap}'::text[]) h
	LOOP
		PERFORM pg_temp.allow('seq');
		EXECUTE 'CREATE TEMP TABLE of_table AS SELECT fragment_id FROM cdp_data.profile WHERE ' || condition;
		PERFORM pg_temp.allow(how);
		EXECUTE 'CREATE TEMP TABLE of_index AS SELECT fragment_id FROM cdp_data.profile WHERE ' || condition;
		SELECT count(*) INTO missing FROM (TABLE of_table EXCEPT ALL TABLE of_index) d;
		SELECT count(*) INTO too_many FROM (TABLE of_index EXCEPT ALL TABLE of_table) d;
		DROP TABLE of_table, of_index;
		RETURN NEXT;
	END LOOP;
END
$$;
-- the places of old versions become free, and new people take them
CREATE FUNCTION pg_temp.newcomers(name text) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM cdp.ingest((SELECT jsonb_agg(jsonb_build_object('type', 'page', 'userId', 'ix-' || name || n, 'messageId', 'ix-' || name || n))
		FROM generate_series(1, 100) n)) WHERE outcome = 'stored' $$;
-- one that summarizes: from PostgreSQL 16 on it alone learns of an update
CREATE INDEX profile_last_seen ON cdp_data.profile USING brin (last_seen);
CALL pg_temp.send('a', 20);
CALL pg_temp.send('b', 20);
VACUUM cdp_data.profile;
SELECT pg_temp.newcomers('brin');
SELECT * FROM pg_temp.differences() ORDER BY condition, how;
-- partial, and on an expression
CREATE INDEX profile_busy ON cdp_data.profile (event_count) WHERE event_count > 2;
CREATE INDEX profile_day ON cdp_data.profile ((last_seen AT TIME ZONE 'UTC')) INCLUDE (event_count);
CALL pg_temp.send('c', 20);
VACUUM cdp_data.profile;
SELECT pg_temp.newcomers('btree');
SELECT * FROM pg_temp.differences() ORDER BY condition, how;
SELECT * FROM cdp.verify();
DROP INDEX cdp_data.profile_last_seen, cdp_data.profile_busy, cdp_data.profile_day;
