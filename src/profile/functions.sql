-- Finding a person.

CREATE FUNCTION cdp.find_profile(namespace text, value text) RETURNS bigint
	LANGUAGE c STRICT STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cdp_sql_find_profile';
REVOKE ALL ON FUNCTION cdp.find_profile(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.find_profile(text, text) TO cdp_admin, cdp_privacy_officer;
COMMENT ON FUNCTION cdp.find_profile(text, text) IS
'The profile_id of the person with an identifier, as sent or normalised, in the caller''s workspace. Namespace profile_id takes a profile id, also one that was merged away. NULL when there is none. Raises when the namespace does not exist.';

CREATE FUNCTION cdp.has_identifier(fragment_id bigint) RETURNS boolean
	LANGUAGE c STRICT STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_sql_has_identifier';
REVOKE ALL ON FUNCTION cdp.has_identifier(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.has_identifier(bigint) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.has_identifier(bigint) IS
'Whether an identifier that is not demoted belongs to a fragment, in the caller''s workspace. A function, because cdp.profile asks it for the few fragments without events only, which the planner could not know of a subquery.';

CREATE FUNCTION cdp.get_profile(namespace text, value text) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	AS $$
SELECT pg_catalog.jsonb_build_object(
	'profile_id', p.profile_id,
	'workspace', p.workspace,
	'first_seen', p.first_seen,
	'last_seen', p.last_seen,
	'event_count', p.event_count,
	'traits', p.traits,
	'identifiers', (
		SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.-) 'profile_id'
											 ORDER BY i.namespace, i.value), '[]')
		FROM cdp.identifier i WHERE i.profile_id OPERATOR(pg_catalog.=) p.profile_id),
	'events_by_type', (
		SELECT COALESCE(pg_catalog.jsonb_object_agg(c.type, c.n), '{}')
		FROM (SELECT e.type, pg_catalog.count(*) AS n FROM cdp.event e
			  WHERE e.profile_id OPERATOR(pg_catalog.=) p.profile_id GROUP BY e.type) c),
	'last_events', (
		SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(e) ORDER BY e.occurred_at DESC, e.message_id), '[]')
		FROM (SELECT e.occurred_at, e.type, e.name, e.source, e.message_id, e.properties, e.traits FROM cdp.event e
			  WHERE e.profile_id OPERATOR(pg_catalog.=) p.profile_id
			  ORDER BY e.occurred_at DESC, e.message_id LIMIT 10) e))
FROM cdp.profile p
WHERE p.profile_id OPERATOR(pg_catalog.=) (SELECT cdp.find_profile(namespace, value))
$$;
REVOKE ALL ON FUNCTION cdp.get_profile(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.get_profile(text, text) TO cdp_admin, cdp_privacy_officer;
COMMENT ON FUNCTION cdp.get_profile(text, text) IS
'All that is known of the person with an identifier, as one document: profile_id, workspace, first_seen, last_seen, event_count, traits, identifiers, events_by_type, last_events (ten at the most). Arguments and errors as in cdp.find_profile; NULL when there is none.';
