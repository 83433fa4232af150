-- People.

CREATE OR REPLACE VIEW cdp.profile AS
SELECT p.profile_id,
	(SELECT w.name FROM cdp_data.workspace w WHERE w.workspace_id OPERATOR(pg_catalog.=) p.workspace_id) AS workspace,
	COALESCE(
		(SELECT CASE WHEN (SELECT cdp.sees_values())
					 THEN cdp.merge_traits(t.traits, t.stamps)
					 ELSE cdp.mask_traits(cdp.merge_traits(t.traits, t.stamps)) END
		 FROM cdp_data.profile f
			JOIN cdp_data.profile_trait t ON t.fragment_id OPERATOR(pg_catalog.=) f.fragment_id
		 WHERE f.profile_id OPERATOR(pg_catalog.=) p.profile_id),
		'{}') AS traits,
	NULLIF(pg_catalog.min(p.first_seen), 'infinity') AS first_seen,
	NULLIF(pg_catalog.max(p.last_seen), '-infinity') AS last_seen,
	pg_catalog.sum(p.event_count)::bigint AS event_count
FROM cdp_data.profile p
GROUP BY p.profile_id, p.workspace_id
-- a fragment whose events and identifiers went elsewhere is nobody
HAVING pg_catalog.max(p.event_count) OPERATOR(pg_catalog.>) 0
	OR EXISTS (SELECT FROM cdp_data.profile f
				JOIN cdp_data.identifier i ON i.fragment_id OPERATOR(pg_catalog.=) f.fragment_id
			   WHERE f.profile_id OPERATOR(pg_catalog.=) p.profile_id AND i.state OPERATOR(pg_catalog.<>) 'd');
COMMENT ON VIEW cdp.profile IS 'People as we know them: the fragments that are one.';
COMMENT ON COLUMN cdp.profile.profile_id IS 'The person; a label that a merge may change. A merged-away one still finds the person with cdp.find_profile(''profile_id'', …).';
COMMENT ON COLUMN cdp.profile.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.profile.traits IS 'Declared traits, the last value of each; {} if none. Only keys classified as open for who sees no values.';
COMMENT ON COLUMN cdp.profile.first_seen IS 'When the first stored event happened; NULL: no event.';
COMMENT ON COLUMN cdp.profile.last_seen IS 'When the last stored event happened; NULL: no event.';
COMMENT ON COLUMN cdp.profile.event_count IS 'Stored events.';
REVOKE ALL ON cdp.profile FROM PUBLIC;
GRANT SELECT ON cdp.profile TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer;
