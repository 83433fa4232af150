-- Sources: configuration, positions, gaps, and the state of the server.

CREATE OR REPLACE VIEW cdp.source AS
SELECT s.name AS source,
	w.name AS workspace,
	s.brokers,
	s.topics,
	s.format,
	s.options,
	s.workers,
	s.paused,
	s.created_at
FROM cdp_data.source s
	JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) s.workspace_id
WHERE s.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.source IS 'Where messages come from.';
COMMENT ON COLUMN cdp.source.source IS 'Name.';
COMMENT ON COLUMN cdp.source.workspace IS 'Workspace that its events belong to.';
COMMENT ON COLUMN cdp.source.brokers IS 'host:port, comma separated; NULL: an SQL source.';
COMMENT ON COLUMN cdp.source.topics IS 'Topics; NULL: an SQL source.';
COMMENT ON COLUMN cdp.source.format IS 'Decoder of its messages.';
COMMENT ON COLUMN cdp.source.options IS 'Options, as of cdp.create_source().';
COMMENT ON COLUMN cdp.source.workers IS 'Workers that share its partitions.';
COMMENT ON COLUMN cdp.source.paused IS 'No worker consumes it.';
COMMENT ON COLUMN cdp.source.created_at IS 'When it was made.';
REVOKE ALL ON cdp.source FROM PUBLIC;
GRANT SELECT ON cdp.source TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;

CREATE OR REPLACE VIEW cdp.source_status AS
SELECT s.name AS source,
	w.name AS workspace,
	t.topic,
	o."partition",
	o."position",
	p.end_position,
	CASE WHEN p.end_position IS NOT NULL THEN GREATEST(p.end_position OPERATOR(pg_catalog.-) o."position", 0) END AS lag,
	CASE WHEN p.end_position OPERATOR(pg_catalog.<=) o."position" THEN 0
		WHEN o.last_record_time IS NOT NULL
		THEN GREATEST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) o.last_record_time), 0)
	END AS lag_seconds,
	CASE WHEN p.ready IS NOT NULL OR x.unlisted OPERATOR(pg_catalog.>) 0 THEN p.rate ELSE 0 END AS rate,
	CASE WHEN s.paused THEN 'paused'
		WHEN o.state OPERATOR(pg_catalog.=) 'diverged' THEN 'diverged'
		WHEN x.state IS NULL THEN 'stopped'
		WHEN x.state IN ('starting', 'failed') OR o."partition" IS NULL THEN x.state
		WHEN COALESCE(p.ready, x.state OPERATOR(pg_catalog.=) 'running' AND x.unlisted OPERATOR(pg_catalog.>) 0) THEN 'running'
		ELSE 'waiting'
	END AS state,
	x.pid AS worker_pid,
	o.updated_at AS last_commit_at,
	CASE WHEN e.last_error_at OPERATOR(pg_catalog.<) g.last_error_at THEN g.last_error ELSE COALESCE(e.last_error, g.last_error) END AS last_error,
	GREATEST(e.last_error_at, g.last_error_at) AS last_error_at,
	COALESCE(s.options OPERATOR(pg_catalog.#>>) '{client,security.protocol}', 'plaintext') AS security,
	o.tombstones
FROM cdp_data.source s
	JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) s.workspace_id
	CROSS JOIN LATERAL pg_catalog.unnest(s.topics) WITH ORDINALITY AS t(topic, number)
	LEFT JOIN cdp_data.source_offset o
		ON o.source_id OPERATOR(pg_catalog.=) s.source_id AND o.topic OPERATOR(pg_catalog.=) t.topic
	-- of a broker that is away nobody knows what it holds now, and a diverged partition is not the one that was read
	LEFT JOIN (SELECT q.source_id, q.topic_no, q."partition", q.ready, q.rate,
			CASE WHEN q.end_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '30 s'::pg_catalog.interval)
				THEN q.end_position END AS end_position
		FROM cdp.source_partitions() q) p
		ON p.source_id OPERATOR(pg_catalog.=) s.source_id AND p.topic_no OPERATOR(pg_catalog.=) t.number
		AND p."partition" OPERATOR(pg_catalog.=) o."partition" AND o.state OPERATOR(pg_catalog.<>) 'diverged'
	LEFT JOIN cdp.source_workers() x
		ON x.source_id OPERATOR(pg_catalog.=) s.source_id
		AND x.worker OPERATOR(pg_catalog.=) (COALESCE(o."partition", 0) OPERATOR(pg_catalog.%) s.workers)
	LEFT JOIN cdp.source_errors() e
		ON e.source_id OPERATOR(pg_catalog.=) x.source_id AND e.worker OPERATOR(pg_catalog.=) x.worker
		AND e.topic_no OPERATOR(pg_catalog.=) t.number
	LEFT JOIN cdp.source_errors() g
		ON g.source_id OPERATOR(pg_catalog.=) x.source_id AND g.worker OPERATOR(pg_catalog.=) x.worker AND g.topic_no IS NULL
WHERE s.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.source_status IS 'Every partition of the Kafka sources: how far it is, and what its worker does; a topic of which nothing was read yet has one row without partition. A worker shows 256 partitions in detail: of more, what the broker would say (end_position, lag, rate) is NULL.';
COMMENT ON COLUMN cdp.source_status.source IS 'Source.';
COMMENT ON COLUMN cdp.source_status.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.source_status.topic IS 'Topic.';
COMMENT ON COLUMN cdp.source_status."partition" IS 'Partition of the topic.';
COMMENT ON COLUMN cdp.source_status."position" IS 'Offset of the next record to be read; all before it is committed.';
COMMENT ON COLUMN cdp.source_status.end_position IS 'End of the partition as the broker said at most some seconds ago; NULL: not known.';
COMMENT ON COLUMN cdp.source_status.lag IS 'Offsets between position and end; NULL: not known.';
COMMENT ON COLUMN cdp.source_status.lag_seconds IS 'Age in seconds of the last record that was read, 0 when nothing is left to read; NULL: not known.';
COMMENT ON COLUMN cdp.source_status.rate IS 'Records per second, over the last seconds; NULL: not known.';
COMMENT ON COLUMN cdp.source_status.state IS 'running; waiting: for a broker, a topic or a lock, see last_error; starting; failed: comes back within 20 s; paused; diverged: the topic is not the one that was read before; stopped: no worker is planned, see cdp.status.';
COMMENT ON COLUMN cdp.source_status.worker_pid IS 'Process that reads it.';
COMMENT ON COLUMN cdp.source_status.last_commit_at IS 'Instant of the last batch.';
COMMENT ON COLUMN cdp.source_status.last_error IS 'Last trouble of its worker with this topic, or with everything; it stays when the trouble is over, see state.';
COMMENT ON COLUMN cdp.source_status.last_error_at IS 'When.';
COMMENT ON COLUMN cdp.source_status.security IS 'How its brokers are reached: plaintext, ssl, sasl_plaintext (with a password, not encrypted) or sasl_ssl.';
COMMENT ON COLUMN cdp.source_status.tombstones IS 'Records without a value that were passed; one that is read again is counted again.';
REVOKE ALL ON cdp.source_status FROM PUBLIC;
GRANT SELECT ON cdp.source_status TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;

CREATE OR REPLACE VIEW cdp.source_gap AS
SELECT g.gap_id AS id,
	w.name AS workspace,
	s.name AS source,
	g.topic,
	g."partition",
	g.from_offset,
	g.to_offset,
	g.to_offset OPERATOR(pg_catalog.-) g.from_offset AS missing,
	g.found_at
FROM cdp_data.source_gap g
	JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) g.workspace_id
	LEFT JOIN cdp_data.source s ON s.source_id OPERATOR(pg_catalog.=) g.source_id
WHERE g.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.source_gap IS 'What Kafka deleted before it was read.';
COMMENT ON COLUMN cdp.source_gap.id IS 'Key.';
COMMENT ON COLUMN cdp.source_gap.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.source_gap.source IS 'Source; NULL when it was dropped.';
COMMENT ON COLUMN cdp.source_gap.topic IS 'Topic.';
COMMENT ON COLUMN cdp.source_gap."partition" IS 'Partition of the topic.';
COMMENT ON COLUMN cdp.source_gap.from_offset IS 'First offset that is missing.';
COMMENT ON COLUMN cdp.source_gap.to_offset IS 'First offset that is there again.';
COMMENT ON COLUMN cdp.source_gap.missing IS 'Offsets between them; with compaction or transactions fewer records.';
COMMENT ON COLUMN cdp.source_gap.found_at IS 'When the worker found it.';
REVOKE ALL ON cdp.source_gap FROM PUBLIC;
GRANT SELECT ON cdp.source_gap TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;

CREATE OR REPLACE VIEW cdp.status AS
SELECT s.severity, s.item, s.message, s.hint
FROM cdp.server_status() s;
COMMENT ON VIEW cdp.status IS 'What must hold on this server and in this database: whether it does, and what to do if not.';
COMMENT ON COLUMN cdp.status.severity IS 'ok, info, warning or error.';
COMMENT ON COLUMN cdp.status.item IS 'What was looked at.';
COMMENT ON COLUMN cdp.status.message IS 'How it is.';
COMMENT ON COLUMN cdp.status.hint IS 'What to do; NULL: nothing.';
REVOKE ALL ON cdp.status FROM PUBLIC;
GRANT SELECT ON cdp.status TO cdp_admin, cdp_privacy_officer, cdp_auditor, pg_monitor;
