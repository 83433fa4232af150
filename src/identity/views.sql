-- Namespaces and identifiers.

CREATE OR REPLACE VIEW cdp.namespace AS
SELECT w.name AS workspace,
	n.name,
	n.priority,
	n.level,
	n.value_limit,
	n.limit_window,
	n.degree,
	n.owner,
	n.normaliser,
	n.valid,
	n.blocked,
	n.weight
FROM cdp_data.namespace n
	JOIN cdp_data.workspace w ON w.workspace_id OPERATOR(pg_catalog.=) n.workspace_id
WHERE n.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.namespace IS 'Kinds of identifiers and their rules; set with cdp.set_namespace().';
COMMENT ON COLUMN cdp.namespace.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.namespace.name IS 'Name, as in identifiers.';
COMMENT ON COLUMN cdp.namespace.priority IS '1 is the strongest; ties by name.';
COMMENT ON COLUMN cdp.namespace.level IS 'individual, or household: never joins people.';
COMMENT ON COLUMN cdp.namespace.value_limit IS 'Values that a profile may have; NULL: any number.';
COMMENT ON COLUMN cdp.namespace.limit_window IS 'The limit counts values that were first presented within this time of each other; NULL: ever.';
COMMENT ON COLUMN cdp.namespace.degree IS 'Distinct owners that an identifier may be seen with before it is shared; NULL: no guard.';
COMMENT ON COLUMN cdp.namespace.owner IS 'Its values count as owners for the degree guard.';
COMMENT ON COLUMN cdp.namespace.normaliser IS 'Comma separated: trim, lower, digits; or none.';
COMMENT ON COLUMN cdp.namespace.valid IS 'Regular expression that a whole value must match; NULL: any.';
COMMENT ON COLUMN cdp.namespace.blocked IS 'Values that never identify anybody: exact, i:… without regard to case, re:… full-match pattern.';
COMMENT ON COLUMN cdp.namespace.weight IS 'How certain a link by this namespace is, 0 to 1.';
REVOKE ALL ON cdp.namespace FROM PUBLIC;
GRANT SELECT ON cdp.namespace TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;

CREATE OR REPLACE VIEW cdp.identifier AS
SELECT p.profile_id,
	n.name AS namespace,
	CASE WHEN i.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN i.value ELSE cdp.pseudonym(i.identifier_id) END AS value,
	i.first_day,
	i.last_day,
	CASE i.state WHEN 'l' THEN 'live' WHEN 's' THEN 'shared' WHEN 'd' THEN 'demoted' END AS state
FROM cdp_data.identifier i
	JOIN cdp_data.namespace n ON n.namespace_id OPERATOR(pg_catalog.=) i.namespace_id
	-- a condition of the join, so that the identifiers of a person are found by index
	LEFT JOIN cdp_data.profile p ON p.fragment_id OPERATOR(pg_catalog.=) i.fragment_id
		AND i.state OPERATOR(pg_catalog.<>) 'd'
WHERE i.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.identifier IS 'Identifiers, each with the person it belongs to now.';
COMMENT ON COLUMN cdp.identifier.profile_id IS 'The person; NULL for a demoted identifier, which belongs to nobody.';
COMMENT ON COLUMN cdp.identifier.namespace IS 'Namespace.';
COMMENT ON COLUMN cdp.identifier.value IS 'The value, normalised; a pseudonym for who sees no values.';
COMMENT ON COLUMN cdp.identifier.first_day IS 'Day (UTC) of the first event that presented it.';
COMMENT ON COLUMN cdp.identifier.last_day IS 'Day (UTC) of the last event that presented it.';
COMMENT ON COLUMN cdp.identifier.state IS 'live; shared: seen with too many owners, links nobody; demoted: no link brings it into a profile.';
REVOKE ALL ON cdp.identifier FROM PUBLIC;
GRANT SELECT ON cdp.identifier TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer;

CREATE OR REPLACE VIEW cdp.identity_warning AS
SELECT x.warning_id,
	(SELECT w.name FROM cdp_data.workspace w WHERE w.workspace_id OPERATOR(pg_catalog.=) x.workspace_id) AS workspace,
	x.kind OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) n.name OPERATOR(pg_catalog.||) ':' OPERATOR(pg_catalog.||)
		CASE WHEN x.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.values_workspace()) THEN i.value ELSE cdp.pseudonym(x.identifier_id) END
		OPERATOR(pg_catalog.||) COALESCE(' (' OPERATOR(pg_catalog.||) b.name OPERATOR(pg_catalog.||) ')', '') AS warning,
	x.warned_at
FROM cdp_data.identity_warning x
	JOIN cdp_data.identifier i ON i.identifier_id OPERATOR(pg_catalog.=) x.identifier_id
	JOIN cdp_data.namespace n ON n.namespace_id OPERATOR(pg_catalog.=) i.namespace_id
	LEFT JOIN cdp_data.namespace b ON b.namespace_id OPERATOR(pg_catalog.=) x.namespace_id
WHERE x.workspace_id OPERATOR(pg_catalog.=) (SELECT cdp.current_workspace());
COMMENT ON VIEW cdp.identity_warning IS 'What was left out or refused while people were told apart, each finding once; a log, and dependent on the order of arrival.';
COMMENT ON COLUMN cdp.identity_warning.warning_id IS 'Key, in order of the findings.';
COMMENT ON COLUMN cdp.identity_warning.workspace IS 'Workspace.';
COMMENT ON COLUMN cdp.identity_warning.warning IS 'demoted namespace:value (namespace whose limit would have been broken); already identified namespace:value; held namespace:value (too many people hang together by it: nothing is joined). A pseudonym in place of the value for who sees no values.';
COMMENT ON COLUMN cdp.identity_warning.warned_at IS 'When it was found first.';
REVOKE ALL ON cdp.identity_warning FROM PUBLIC;
GRANT SELECT ON cdp.identity_warning TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer;
