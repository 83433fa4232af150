-- Sources: where messages come from.

CREATE FUNCTION cdp.create_source(name text, brokers text DEFAULT NULL, topics text[] DEFAULT NULL, format text DEFAULT 'segment',
		options jsonb DEFAULT '{}', workspace text DEFAULT NULL, workers integer DEFAULT 1) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_create_source';
REVOKE ALL ON FUNCTION cdp.create_source(text, text, text[], text, jsonb, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.create_source(text, text, text[], text, jsonb, text, integer) TO cdp_admin;
COMMENT ON FUNCTION cdp.create_source(text, text, text[], text, jsonb, text, integer) IS
'Makes a source. brokers (host:port, comma separated) and topics: a Kafka source, which is consumed from the commit on; without both: an SQL source, for cdp.inbox and cdp.ingest(). format: segment, json or cloudevents. options: skew (quantum, segment, none), max_future (an interval or infinity), trust_received_at, alias, email_from_properties, batch (booleans), id_space (a name), start (earliest, latest), mapping (of formats json and cloudevents), client (options of librdkafka), secret (name in the secrets file; without it the source''s name). workspace: NULL is the caller''s. workers: 1 to 64, worker i of n takes the partitions p with p mod n = i. A NOTICE names namespaces of the mapping that do not exist. Raises when the name is taken, brokers cannot be read, an option is unknown or has another type, or a client option is not allowed (secrets never are).';

CREATE FUNCTION cdp.alter_source(name text, brokers text DEFAULT NULL, topics text[] DEFAULT NULL, format text DEFAULT NULL,
		options jsonb DEFAULT NULL, workspace text DEFAULT NULL, workers integer DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_alter_source';
REVOKE ALL ON FUNCTION cdp.alter_source(text, text, text[], text, jsonb, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.alter_source(text, text, text[], text, jsonb, text, integer) TO cdp_admin;
COMMENT ON FUNCTION cdp.alter_source(text, text, text[], text, jsonb, text, integer) IS
'Changes a source; arguments as of cdp.create_source(), NULL leaves what is there, options are replaced as a whole. Positions stay; its workers start again with the new configuration after the commit. Raises when there is no such source, when an argument is wrong, when workspace is not the one it has, and when the default source sql is given brokers.';

CREATE FUNCTION cdp.pause_source(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_pause_source';
REVOKE ALL ON FUNCTION cdp.pause_source(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.pause_source(text) TO cdp_admin;
COMMENT ON FUNCTION cdp.pause_source(text) IS
'Stops the workers of a Kafka source after the commit; positions stay. One may still commit the batch that it is in: they have ended when worker_pid is NULL in cdp.source_status. (A process that cdp.status calls silent is not waited for: what it may still commit is refused where another one advanced the position.) Raises when there is no such source or it has no brokers.';

CREATE FUNCTION cdp.resume_source(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_resume_source';
REVOKE ALL ON FUNCTION cdp.resume_source(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.resume_source(text) TO cdp_admin;
COMMENT ON FUNCTION cdp.resume_source(text) IS
'Lets a paused Kafka source go on from its positions, after the commit. Raises when there is no such source or it has no brokers, and in a restored or copied database before cdp.setup() was run there.';

CREATE FUNCTION cdp.drop_source(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_drop_source';
REVOKE ALL ON FUNCTION cdp.drop_source(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.drop_source(text) TO cdp_admin;
COMMENT ON FUNCTION cdp.drop_source(text) IS
'Drops a source with its positions; its events, gaps and quarantined messages stay. Raises when there is no such source, for the default source sql, and while messages of it are parked.';

CREATE FUNCTION cdp.wait_for_source(name text, timeout interval DEFAULT '60 s') RETURNS boolean
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_wait_for_source';
REVOKE ALL ON FUNCTION cdp.wait_for_source(text, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.wait_for_source(text, interval) TO cdp_admin;
COMMENT ON FUNCTION cdp.wait_for_source(text, interval) IS
'Waits until everything that was in the topics when it was called is committed: true once the position of every partition has passed the end that the worker fetched after the call, and nothing of the source is parked; false when timeout is over first, as with an absent topic or broker. Raises when there is no such source, when it was created or changed in the same transaction, when the library was not preloaded, and on a standby.';

CREATE FUNCTION cdp.set_source_position(name text, topic text, "partition" integer, "position" bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_set_source_position';
REVOKE ALL ON FUNCTION cdp.set_source_position(text, text, integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.set_source_position(text, text, integer, bigint) TO cdp_admin;
COMMENT ON FUNCTION cdp.set_source_position(text, text, integer, bigint) IS
'Lets a source go on from another offset of a partition, back or forward, after the commit. Good messages that are read again change nothing, bad ones come into quarantine again; what is skipped is not a gap. Raises when the source, or a position of that partition, does not exist, and when the partition is diverged.';

CREATE FUNCTION cdp.adopt_source(name text, topic text, "partition" integer, from_offset bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_adopt_source';
REVOKE ALL ON FUNCTION cdp.adopt_source(text, text, integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.adopt_source(text, text, integer, bigint) TO cdp_admin;
COMMENT ON FUNCTION cdp.adopt_source(text, text, integer, bigint) IS
'Takes a topic that was deleted and made again for the continuation of the old one: the diverged partition is consumed from from_offset. Raises when the source, or a diverged partition of that number, does not exist.';

CREATE FUNCTION cdp.source_workers(OUT source_id integer, OUT worker integer, OUT pid integer, OUT state text, OUT started_at timestamptz,
		OUT batches bigint, OUT messages bigint, OUT last_commit_at timestamptz, OUT last_error text, OUT last_sqlstate text, OUT last_error_at timestamptz,
		OUT unlisted integer)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_source_workers';
REVOKE ALL ON FUNCTION cdp.source_workers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.source_workers() TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.source_workers() IS
'What the source workers of the caller''s workspace report in shared memory from their start until their process has ended, or another one took the place of one that is silent: state (starting, waiting, running, failed), batches and messages that were committed, the last error, and how many of its partitions cdp.source_partitions() does not list. Behind cdp.source_status.';

CREATE FUNCTION cdp.source_partitions(OUT source_id integer, OUT topic_no integer, OUT "partition" integer, OUT ready boolean,
		OUT end_position bigint, OUT end_at timestamptz, OUT rate real)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_source_partitions';
REVOKE ALL ON FUNCTION cdp.source_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.source_partitions() TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.source_partitions() IS
'What the source workers of the caller''s workspace know of their partitions (256 of each worker): number of the topic in the source''s list, ready: it is being read, end as the broker said at end_at, records per second. Behind cdp.source_status.';

CREATE FUNCTION cdp.source_errors(OUT source_id integer, OUT worker integer, OUT topic_no integer, OUT last_error text, OUT last_error_at timestamptz)
	RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_source_errors';
REVOKE ALL ON FUNCTION cdp.source_errors() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.source_errors() TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.source_errors() IS
'The last trouble of each source worker of the caller''s workspace with each topic, by its number in the source''s list (16 of them), and with everything (topic_no is NULL). Behind cdp.source_status.';

CREATE FUNCTION cdp.server_status(OUT severity text, OUT item text, OUT message text, OUT hint text) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_server_status';
REVOKE ALL ON FUNCTION cdp.server_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.server_status() TO cdp_admin, cdp_privacy_officer, cdp_auditor, pg_monitor;
COMMENT ON FUNCTION cdp.server_status() IS
'Behind cdp.status: one row for each thing that must hold here, whether it does or not.';
