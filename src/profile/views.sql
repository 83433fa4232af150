-- People.

-- Traits are merged apart and joined, so that a reader of all people gets one
-- pass over each table, and one who wants no traits does not read them.
CREATE OR REPLACE VIEW cdp.profile AS
SELECT p.profile_id,
	(SELECT w.name FROM cdp_data.workspace w WHERE w.workspace_id OPERATOR(pg_catalog.=) p.workspace_id) AS workspace,
	COALESCE(CASE WHEN p.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN t.traits ELSE cdp.mask_traits(t.traits, p.workspace_id) END, '{}') AS traits,
	NULLIF(p.first_seen, 'infinity') AS first_seen,
	NULLIF(p.last_seen, '-infinity') AS last_seen,
	p.event_count
FROM (SELECT f.profile_id, f.workspace_id,
			pg_catalog.min(f.first_seen) AS first_seen,
			pg_catalog.max(f.last_seen) AS last_seen,
			pg_catalog.sum(f.event_count)::bigint AS event_count
	  FROM cdp_data.profile f
	  WHERE f.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace())
	  GROUP BY f.profile_id, f.workspace_id
	  -- fragments whose events and identifiers went elsewhere are nobody
	  HAVING pg_catalog.bool_or(f.event_count OPERATOR(pg_catalog.>) 0
								OR cdp.has_identifier(f.fragment_id))) p
	LEFT JOIN (SELECT f.profile_id, cdp.merge_traits(c.traits, c.stamps) AS traits
			   FROM cdp_data.profile f
				   JOIN cdp_data.profile_trait c ON c.fragment_id OPERATOR(pg_catalog.=) f.fragment_id
			   WHERE f.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace())
			   GROUP BY f.profile_id) t ON t.profile_id OPERATOR(pg_catalog.=) p.profile_id;
COMMENT ON VIEW cdp.profile IS 'People as we know them: the fragments that are one.';
COMMENT ON COLUMN cdp.profile.profile_id IS 'The person; a label that a merge may change. A merged-away one still finds the person with cdp.find_profile(''profile_id'', …).';
COMMENT ON COLUMN cdp.profile.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.profile.traits IS 'Declared traits, the last value of each; {} if none. Only keys classified as open for who sees no values.';
COMMENT ON COLUMN cdp.profile.first_seen IS 'When the first stored event happened; NULL: no event.';
COMMENT ON COLUMN cdp.profile.last_seen IS 'When the last stored event happened; NULL: no event.';
COMMENT ON COLUMN cdp.profile.event_count IS 'Stored events.';
REVOKE ALL ON cdp.profile FROM PUBLIC;
GRANT SELECT ON cdp.profile TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer;
