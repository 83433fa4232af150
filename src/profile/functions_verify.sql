-- cdp.verify(): what is stored against what follows from it.

CREATE FUNCTION cdp.expected_identifiers(workspace_id integer)
	RETURNS TABLE (identifier_id bigint, profile integer, state "char")
	LANGUAGE c STRICT STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_expected_identifiers';
REVOKE ALL ON FUNCTION cdp.expected_identifiers(integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.expected_identifiers(integer) IS
'For cdp.verify(): F over all links and decisions of a workspace. Returns each identifier with the number of its profile (NULL: in none) and its state.';

CREATE FUNCTION cdp.expected_links(workspace_id integer)
	RETURNS TABLE (link_id bigint, identifier_id bigint)
	LANGUAGE c STRICT STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_expected_links';
REVOKE ALL ON FUNCTION cdp.expected_links(integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.expected_links(integer) IS
'For cdp.verify(): F over all links and decisions of a workspace. Returns for each link the identifier that its events are attributed to; NULL: nobody.';

CREATE FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_declare_traits_step';
REVOKE ALL ON FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer) IS
'State function of cdp.declared_traits(): takes one declaration.';

CREATE FUNCTION cdp.stamped_traits_final(internal) RETURNS jsonb
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_stamped_traits_final';
REVOKE ALL ON FUNCTION cdp.stamped_traits_final(internal) FROM PUBLIC;
COMMENT ON FUNCTION cdp.stamped_traits_final(internal) IS
'Final function of cdp.declared_traits() and cdp.stored_traits(): {key: [value, stamp]}, nulls included.';

CREATE AGGREGATE cdp.declared_traits(traits jsonb, evidence_at timestamptz, occurred_at timestamptz, source_seq bigint, message_id text, source_id integer) (
	SFUNC = cdp.declare_traits_step, STYPE = internal, FINALFUNC = cdp.stamped_traits_final, PARALLEL = SAFE
);
REVOKE ALL ON FUNCTION cdp.declared_traits(jsonb, timestamptz, timestamptz, bigint, text, integer) FROM PUBLIC;
COMMENT ON AGGREGATE cdp.declared_traits(jsonb, timestamptz, timestamptz, bigint, text, integer) IS
'For cdp.verify(): traits as they follow from identify events, with their stamps.';

CREATE AGGREGATE cdp.stored_traits(traits jsonb, stamps bytea) (
	SFUNC = cdp.merge_traits_step, STYPE = internal, FINALFUNC = cdp.stamped_traits_final, PARALLEL = SAFE
);
REVOKE ALL ON FUNCTION cdp.stored_traits(jsonb, bytea) FROM PUBLIC;
COMMENT ON AGGREGATE cdp.stored_traits(jsonb, bytea) IS
'For cdp.verify(): traits as they are stored in chunks, with their stamps.';

CREATE FUNCTION cdp.expected_events(workspace_id integer, wrong bigint[])
	RETURNS TABLE (event_id bigint, occurred_at timestamptz, fragment_id bigint)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH home AS MATERIALIZED (
		SELECT a.anchor, a.identifier_id, i.fragment_id
		FROM (SELECT l.link_id AS anchor, l.identifier_id FROM cdp.expected_links($1) l
			UNION ALL SELECT i.identifier_id, i.identifier_id FROM cdp_data.identifier i WHERE i.workspace_id = $1) a
			LEFT JOIN cdp_data.identifier i ON i.identifier_id = a.identifier_id
	)
	SELECT e.event_id, e.occurred_at,
		CASE WHEN h.identifier_id = ANY (wrong) THEN e.fragment_id ELSE coalesce(h.fragment_id, 0) END
	FROM cdp_data.event e
		LEFT JOIN home h ON h.anchor = e.anchor
	WHERE e.workspace_id = $1;
END
$$;
REVOKE ALL ON FUNCTION cdp.expected_events(integer, bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION cdp.expected_events(integer, bigint[]) IS
'For cdp.verify(): each event of a workspace with the fragment that it should lie in: that of the identifier it is attributed to; where that identifier is one of wrong (identifier_ids), the fragment that it lies in.';

CREATE FUNCTION cdp.verify()
	RETURNS TABLE (table_name text, key text, column_name text, stored text, expected text)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	ws integer := cdp.current_workspace();
	wrong bigint[];
BEGIN
	-- who is who: profiles are matched with F's by their largest overlap, so that a wrong identifier is one row
	RETURN QUERY
	WITH both_sides AS MATERIALIZED (
		SELECT i.identifier_id, i.state, p.profile_id, e.profile AS want, e.state AS want_state
		FROM cdp_data.identifier i
			LEFT JOIN cdp_data.profile p ON p.fragment_id = i.fragment_id AND i.state <> 'd'
			LEFT JOIN cdp.expected_identifiers(ws) e ON e.identifier_id = i.identifier_id
		WHERE i.workspace_id = ws
	), overlap AS (
		SELECT b.profile_id, b.want, count(*) AS n FROM both_sides b
		WHERE b.profile_id IS NOT NULL AND b.want IS NOT NULL GROUP BY b.profile_id, b.want
	), best_want AS (
		SELECT DISTINCT ON (o.profile_id) o.profile_id, o.want FROM overlap o ORDER BY o.profile_id, o.n DESC, o.want
	), best_profile AS (
		SELECT DISTINCT ON (o.want) o.want, o.profile_id FROM overlap o ORDER BY o.want, o.n DESC, o.profile_id
	)
	SELECT 'identifier'::text, b.identifier_id::text,
		CASE WHEN b.state <> b.want_state THEN 'state' ELSE 'fragment_id' END,
		CASE WHEN b.state <> b.want_state THEN b.state::text ELSE 'profile ' || coalesce(b.profile_id::text, 'none') END,
		CASE WHEN b.state <> b.want_state THEN b.want_state::text ELSE 'profile ' || coalesce(bp.profile_id::text, 'of its own') END
	FROM both_sides b
		LEFT JOIN best_want bw ON bw.profile_id = b.profile_id
		LEFT JOIN best_profile bp ON bp.want = b.want
	WHERE b.state <> b.want_state
		OR (b.want IS NOT NULL AND (b.profile_id IS DISTINCT FROM bp.profile_id OR bw.want IS DISTINCT FROM b.want));

	-- (the same once more, for what follows: an identifier that was reported explains its events)
	WITH both_sides AS MATERIALIZED (
		SELECT i.identifier_id, i.state, p.profile_id, e.profile AS want, e.state AS want_state
		FROM cdp_data.identifier i
			LEFT JOIN cdp_data.profile p ON p.fragment_id = i.fragment_id AND i.state <> 'd'
			LEFT JOIN cdp.expected_identifiers(ws) e ON e.identifier_id = i.identifier_id
		WHERE i.workspace_id = ws
	), overlap AS (
		SELECT b.profile_id, b.want, count(*) AS n FROM both_sides b
		WHERE b.profile_id IS NOT NULL AND b.want IS NOT NULL GROUP BY b.profile_id, b.want
	), best_want AS (
		SELECT DISTINCT ON (o.profile_id) o.profile_id, o.want FROM overlap o ORDER BY o.profile_id, o.n DESC, o.want
	), best_profile AS (
		SELECT DISTINCT ON (o.want) o.want, o.profile_id FROM overlap o ORDER BY o.want, o.n DESC, o.profile_id
	)
	SELECT pg_catalog.array_agg(b.identifier_id) INTO wrong
	FROM both_sides b
		LEFT JOIN best_want bw ON bw.profile_id = b.profile_id
		LEFT JOIN best_profile bp ON bp.want = b.want
	WHERE b.state <> b.want_state
		OR (b.want IS NOT NULL AND (b.profile_id IS DISTINCT FROM bp.profile_id OR bw.want IS DISTINCT FROM b.want));

	-- the id of a profile is the least of its fragments that somebody belongs to
	RETURN QUERY
	SELECT 'profile'::text, p.fragment_id::text, 'profile_id'::text, p.profile_id::text, q.least::text
	FROM cdp_data.profile p
		JOIN (SELECT r.profile_id, min(r.fragment_id) AS least FROM cdp_data.profile r
			WHERE r.workspace_id = ws GROUP BY r.profile_id) q ON q.profile_id = p.profile_id
	WHERE p.workspace_id = ws AND p.profile_id <> q.least AND p.fragment_id = q.least;

	-- events lie with the identifier that they are attributed to
	RETURN QUERY
	SELECT 'event'::text, e.event_id::text, 'fragment_id'::text, e.fragment_id::text, x.fragment_id::text
	FROM cdp_data.event e
		JOIN cdp.expected_events(ws, wrong) x ON x.event_id = e.event_id AND x.occurred_at = e.occurred_at
	WHERE e.workspace_id = ws AND e.fragment_id <> x.fragment_id;

	-- counters
	RETURN QUERY
	SELECT 'profile'::text, p.fragment_id::text, c.column_name, c.stored, c.expected
	FROM cdp_data.profile p
		LEFT JOIN (SELECT x.fragment_id, count(*) AS n, min(x.occurred_at) AS least, max(x.occurred_at) AS greatest
			FROM cdp.expected_events(ws, wrong) x GROUP BY x.fragment_id) q ON q.fragment_id = p.fragment_id
		CROSS JOIN LATERAL (VALUES
			('event_count', p.event_count::text, coalesce(q.n, 0)::text),
			('first_seen', p.first_seen::text, coalesce(q.least, 'infinity')::text),
			('last_seen', p.last_seen::text, coalesce(q.greatest, '-infinity')::text)) AS c(column_name, stored, expected)
	WHERE p.workspace_id = ws AND c.stored <> c.expected;

	-- declared traits
	RETURN QUERY
	WITH stored AS (
		SELECT t.fragment_id, cdp.stored_traits(t.traits, t.stamps) AS traits
		FROM cdp_data.profile_trait t WHERE t.workspace_id = ws GROUP BY t.fragment_id
	), declared AS (
		SELECT x.fragment_id, cdp.declared_traits(e.traits, least(e.occurred_at, e.received_at), e.occurred_at,
			e.source_seq, e.message_id, e.source_id) AS traits
		FROM cdp_data.event e
			JOIN cdp.expected_events(ws, wrong) x ON x.event_id = e.event_id AND x.occurred_at = e.occurred_at
		WHERE e.workspace_id = ws AND e.type = 'identify' AND e.traits IS NOT NULL AND x.fragment_id <> 0
		GROUP BY x.fragment_id
	)
	SELECT 'profile_trait'::text, coalesce(s.fragment_id, d.fragment_id)::text, k.key,
		CASE WHEN cdp.sees_values() THEN (s.traits -> k.key)::text ELSE 'another value or stamp' END,
		CASE WHEN cdp.sees_values() THEN (d.traits -> k.key)::text ELSE 'what the events declare' END
	FROM stored s
		FULL JOIN declared d ON d.fragment_id = s.fragment_id
		CROSS JOIN LATERAL (SELECT jsonb_object_keys(s.traits) AS key UNION SELECT jsonb_object_keys(d.traits)) k
	WHERE s.traits IS DISTINCT FROM d.traits AND (s.traits -> k.key) IS DISTINCT FROM (d.traits -> k.key);

	-- evidence: the least moment of each link and of each identifier that was alone
	RETURN QUERY
	WITH least AS (
		SELECT DISTINCT ON (e.anchor, e.source_id) e.anchor, e.source_id,
			least(e.occurred_at, e.received_at) AS at, e.message_id
		FROM cdp_data.event e WHERE e.workspace_id = ws AND e.anchor <> 0
		ORDER BY e.anchor, e.source_id, least(e.occurred_at, e.received_at), e.message_id
	), links AS (
		SELECT m.anchor, m.source_id, m.at, m.message_id, l.first_at, l.first_message
		FROM least m LEFT JOIN cdp_data.link l ON l.link_id = m.anchor AND l.source_id = m.source_id
		WHERE NOT EXISTS (SELECT FROM cdp_data.identifier i WHERE i.identifier_id = m.anchor)
	), alone AS (
		SELECT DISTINCT ON (m.anchor) m.anchor, m.at, m.message_id, i.alone_at, i.alone_message
		FROM least m JOIN cdp_data.identifier i ON i.identifier_id = m.anchor
		ORDER BY m.anchor, m.at, m.message_id
	)
	SELECT 'link'::text, l.anchor::text, 'first_at'::text, l.first_at::text || ' ' || l.first_message, l.at::text || ' ' || l.message_id
	FROM links l
	WHERE l.first_at IS NULL OR (l.at, l.message_id) < (l.first_at, l.first_message)
	UNION ALL
	SELECT 'identifier'::text, a.anchor::text, 'alone_at'::text, a.alone_at::text || ' ' || a.alone_message, a.at::text || ' ' || a.message_id
	FROM alone a
	WHERE a.alone_at IS NULL OR (a.at, a.message_id) < (a.alone_at, a.alone_message);

	-- every stored event is known by its message id, once
	RETURN QUERY
	SELECT 'message_seen'::text, e.event_id::text, 'event_id'::text, NULL::text, e.message_id
	FROM cdp_data.event e
	WHERE e.workspace_id = ws
		AND NOT EXISTS (SELECT FROM cdp_data.message_seen s WHERE s.event_id = e.event_id AND s.occurred_at = e.occurred_at);
END
$$;
REVOKE ALL ON FUNCTION cdp.verify() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.verify() TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.verify() IS
'Recomputes people, their events, counters and traits of the caller''s workspace from what is stored, in one snapshot, and returns the differences: table, key (identifier_id, fragment_id, event_id or link_id), column, stored and expected value. No row: all is well. Trait values only for who may see values. Reads everything; takes seconds a million events.';
