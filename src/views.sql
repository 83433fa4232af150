-- The server.

CREATE OR REPLACE VIEW cdp.stage_stats AS
SELECT s.stage, s.calls, s.rows,
	pg_catalog.round(s.total_ns OPERATOR(pg_catalog./) 1e6, 3) AS total_ms,
	pg_catalog.round(s.total_ns OPERATOR(pg_catalog./) 1e3 OPERATOR(pg_catalog./) NULLIF(s.calls, 0), 3) AS mean_us,
	pg_catalog.round(s.max_ns OPERATOR(pg_catalog./) 1e3, 3) AS max_us
FROM cdp.read_stage_stats() s;
COMMENT ON VIEW cdp.stage_stats IS 'What the stages of the engine cost, since the server started or cdp.reset_stage_stats(); for all databases of the server.';
COMMENT ON COLUMN cdp.stage_stats.stage IS 'decode, admit, resolve, store, fold; apply is the whole batch, commit the end of a worker''s transaction.';
COMMENT ON COLUMN cdp.stage_stats.calls IS 'Batches.';
COMMENT ON COLUMN cdp.stage_stats.rows IS 'Messages or events that the batches held.';
COMMENT ON COLUMN cdp.stage_stats.total_ms IS 'Time, in milliseconds.';
COMMENT ON COLUMN cdp.stage_stats.mean_us IS 'Time of one call, in microseconds.';
COMMENT ON COLUMN cdp.stage_stats.max_us IS 'Longest call, in microseconds.';
REVOKE ALL ON cdp.stage_stats FROM PUBLIC;
GRANT SELECT ON cdp.stage_stats TO cdp_admin, cdp_auditor, pg_monitor;
