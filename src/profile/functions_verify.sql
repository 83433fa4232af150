-- cdp.verify(): what is stored against what follows from it.

CREATE FUNCTION cdp.expected_people(workspace_id integer)
	RETURNS TABLE (anchor bigint, identifier_id bigint, profile integer, state "char")
	LANGUAGE c STRICT STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_expected_people';
REVOKE ALL ON FUNCTION cdp.expected_people(integer) FROM PUBLIC;
COMMENT ON FUNCTION cdp.expected_people(integer) IS
'For cdp.verify(): F over all links and decisions of a workspace. Returns a row for each identifier and each link: its id, which is the anchor of its events, and the identifier that these are attributed to (NULL: nobody); of an identifier also the number of its profile (NULL: in none) and its state, which are NULL of a link.';

CREATE FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer, bytea) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_declare_traits_step';
REVOKE ALL ON FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer, bytea) FROM PUBLIC;
COMMENT ON FUNCTION cdp.declare_traits_step(internal, jsonb, timestamptz, timestamptz, bigint, text, integer, bytea) IS
'State function of cdp.declared_traits(): takes one declaration, or what outlived its events. Raises if the stamps have an unknown version.';

CREATE FUNCTION cdp.stamped_traits_final(internal) RETURNS jsonb
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_stamped_traits_final';
REVOKE ALL ON FUNCTION cdp.stamped_traits_final(internal) FROM PUBLIC;
COMMENT ON FUNCTION cdp.stamped_traits_final(internal) IS
'Final function of cdp.declared_traits() and cdp.stored_traits(): {key: [value, stamp]}, nulls included.';

CREATE AGGREGATE cdp.declared_traits(traits jsonb, evidence_at timestamptz, occurred_at timestamptz, source_seq bigint, message_id text, source_id integer, stamps bytea) (
	SFUNC = cdp.declare_traits_step, STYPE = internal, FINALFUNC = cdp.stamped_traits_final, PARALLEL = SAFE
);
REVOKE ALL ON FUNCTION cdp.declared_traits(jsonb, timestamptz, timestamptz, bigint, text, integer, bytea) FROM PUBLIC;
COMMENT ON AGGREGATE cdp.declared_traits(jsonb, timestamptz, timestamptz, bigint, text, integer, bytea) IS
'For cdp.verify(): traits as they follow from identify events (stamps is NULL), with their stamps; and from stored chunks, of which what was declared before occurred_at counts, since its events were purged.';

CREATE AGGREGATE cdp.stored_traits(traits jsonb, stamps bytea) (
	SFUNC = cdp.merge_traits_step, STYPE = internal, FINALFUNC = cdp.stamped_traits_final, PARALLEL = SAFE
);
REVOKE ALL ON FUNCTION cdp.stored_traits(jsonb, bytea) FROM PUBLIC;
COMMENT ON AGGREGATE cdp.stored_traits(jsonb, bytea) IS
'For cdp.verify(): traits as they are stored in chunks, with their stamps.';

CREATE FUNCTION cdp.require_verify() RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_require_verify';
REVOKE ALL ON FUNCTION cdp.require_verify() FROM PUBLIC;
COMMENT ON FUNCTION cdp.require_verify() IS 'For cdp.verify_workspace(): raises unless cdp.verify() has called it.';

CREATE FUNCTION cdp.verify_workspace(ws integer, sees_values boolean)
	RETURNS TABLE (table_name text, key text, column_name text, stored text, expected text)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
	-- without statistics the planner would loop over half a million events for each of them; the traits of one
	-- group at a time fit, those of all do not; and compiling takes longer than a small database
	SET enable_nestloop = off SET enable_hashagg = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
	verifying boolean := cdp.require_verify();
	-- of what happened before it, the events are gone and links and declared traits are all that is left
	since timestamptz := coalesce((SELECT max(w.watermark) FROM cdp_data.retention_watermark w
		WHERE w.workspace_id = ws AND w.class = 'event'), '-infinity');
	-- before this one for certain; between them a purge may not have come to its end
	cleared timestamptz := coalesce((SELECT max(w.cleared) FROM cdp_data.retention_watermark w
		WHERE w.workspace_id = ws AND w.class = 'event'), '-infinity');
BEGIN
	-- one query: the people are folded once, the events are read once
	RETURN QUERY
	WITH people AS MATERIALIZED (
		SELECT f.anchor, f.identifier_id, f.profile, f.state FROM cdp.expected_people(ws) f
	),

	-- who is who: profiles are matched with F's by their largest overlap, so that a wrong identifier is one row
	both_sides AS MATERIALIZED (
		SELECT i.identifier_id, i.fragment_id, i.state, p.profile_id, f.profile AS want, f.state AS want_state
		FROM cdp_data.identifier i
			LEFT JOIN cdp_data.profile p ON p.fragment_id = i.fragment_id AND p.workspace_id = ws AND i.state <> 'd'
			LEFT JOIN people f ON f.anchor = i.identifier_id AND f.state IS NOT NULL
		WHERE i.workspace_id = ws
	), overlap AS MATERIALIZED (
		SELECT b.profile_id, b.want, count(*) AS n FROM both_sides b
		WHERE b.profile_id IS NOT NULL AND b.want IS NOT NULL GROUP BY b.profile_id, b.want
	), best_want AS (
		SELECT DISTINCT ON (o.profile_id) o.profile_id, o.want FROM overlap o ORDER BY o.profile_id, o.n DESC, o.want
	), best_profile AS (
		-- of two that overlap alike, the one that is nobody else
		SELECT DISTINCT ON (o.want) o.want, o.profile_id
		FROM overlap o JOIN best_want bw ON bw.profile_id = o.profile_id
		ORDER BY o.want, o.n DESC, bw.want <> o.want, o.profile_id
	), wrong AS MATERIALIZED (
		SELECT b.identifier_id, b.fragment_id, b.state, b.want_state, b.profile_id, bp.profile_id AS want_profile_id
		FROM both_sides b
			LEFT JOIN best_want bw ON bw.profile_id = b.profile_id
			LEFT JOIN best_profile bp ON bp.want = b.want
		WHERE b.state <> b.want_state
			OR (b.want IS NOT NULL AND (b.profile_id IS DISTINCT FROM bp.profile_id OR bw.want IS DISTINCT FROM b.want))
	),

	-- each event with the fragment that it should lie in: that of the identifier it is attributed to.  Where that
	-- identifier is wrong it explains its events, and those of a dirty fragment are yet to be computed: they lie well
	home AS (
		SELECT f.anchor, b.fragment_id, w.identifier_id IS NOT NULL AS explained
		FROM people f
			LEFT JOIN both_sides b ON b.identifier_id = f.identifier_id
			LEFT JOIN wrong w ON w.identifier_id = f.identifier_id
	), dirty AS (
		SELECT d.fragment_id FROM cdp_data.dirty d WHERE d.workspace_id = ws
	), placed AS MATERIALIZED (
		SELECT e.event_id, e.fragment_id, e.occurred_at, e.anchor, e.source_id, e.source_seq, e.message_id,
			least(e.occurred_at, e.received_at) AS evidence_at, CASE WHEN e.type = 'identify' THEN e.traits END AS traits,
			d.fragment_id IS NOT NULL AS dirty,
			CASE WHEN h.explained OR d.fragment_id IS NOT NULL THEN e.fragment_id ELSE coalesce(h.fragment_id, 0) END AS home_id
		FROM cdp_data.event e
			LEFT JOIN home h ON h.anchor = e.anchor
			LEFT JOIN dirty d ON d.fragment_id = e.fragment_id
		WHERE e.workspace_id = ws
	),

	-- rows that are missing: they are reported, and explain whatever else is amiss with these people
	lost AS MATERIALIZED (
		SELECT m.identifier_id, min(l.link_id) AS link_id
		FROM cdp_data.link l CROSS JOIN LATERAL unnest(l.members) AS m(identifier_id)
		WHERE l.workspace_id = ws AND NOT EXISTS (SELECT FROM cdp_data.identifier i WHERE i.identifier_id = m.identifier_id AND i.workspace_id = ws)
		GROUP BY m.identifier_id
	), rootless AS MATERIALIZED (
		SELECT DISTINCT i.fragment_id FROM cdp_data.identifier i
		WHERE i.workspace_id = ws AND NOT EXISTS (SELECT FROM cdp_data.profile p WHERE p.fragment_id = i.fragment_id AND p.workspace_id = ws)
	), maimed AS (
		SELECT x.fragment_id FROM placed x
		WHERE x.anchor <> 0 AND NOT EXISTS (SELECT FROM people f WHERE f.anchor = x.anchor)
		UNION SELECT x.fragment_id FROM lost y JOIN placed x ON x.anchor = y.link_id
		UNION SELECT r.fragment_id FROM rootless r
	), excused AS MATERIALIZED (
		SELECT m.fragment_id FROM maimed m
		UNION SELECT q.fragment_id FROM maimed m
			JOIN cdp_data.profile p ON p.fragment_id = m.fragment_id AND p.workspace_id = ws
			JOIN cdp_data.profile q ON q.profile_id = p.profile_id AND q.workspace_id = ws
	),

	-- the counters and traits that follow
	counted AS (
		SELECT x.home_id, count(*) AS n, min(x.occurred_at) AS least, max(x.occurred_at) AS greatest,
			-- as cdp_month_bit() in fold.c
			bit_or(1::bigint << (((date_part('year', x.occurred_at AT TIME ZONE 'UTC') - 1970) * 12
				+ date_part('month', x.occurred_at AT TIME ZONE 'UTC') - 1)::integer & 63)) AS months
		FROM placed x GROUP BY x.home_id
	), stored AS (
		SELECT t.fragment_id, cdp.stored_traits(t.traits, t.stamps) AS traits
		FROM cdp_data.profile_trait t WHERE t.workspace_id = ws GROUP BY t.fragment_id
	), declared AS (
		SELECT y.home_id, cdp.declared_traits(y.traits, y.evidence_at, y.occurred_at, y.source_seq, y.message_id, y.source_id, y.stamps) AS traits
		FROM (SELECT x.home_id, x.traits, x.evidence_at, x.occurred_at, x.source_seq, x.message_id, x.source_id, NULL::bytea AS stamps
			FROM placed x WHERE x.traits IS NOT NULL AND x.home_id <> 0
			UNION ALL SELECT t.fragment_id, t.traits, NULL, since, NULL, NULL, NULL, t.stamps
			FROM cdp_data.profile_trait t WHERE t.workspace_id = ws AND since > '-infinity') y
		GROUP BY y.home_id
	),

	-- the evidence that follows: the least moment of each link and of each identifier that was alone
	least AS MATERIALIZED (
		SELECT DISTINCT ON (x.anchor, x.source_id) x.anchor, x.source_id, x.evidence_at AS at, x.message_id
		FROM placed x WHERE x.anchor <> 0
		ORDER BY x.anchor, x.source_id, x.evidence_at, x.message_id
	), links AS (
		SELECT m.anchor, m.source_id, m.at, m.message_id, l.first_at, l.first_message
		FROM least m LEFT JOIN cdp_data.link l ON l.link_id = m.anchor AND l.source_id = m.source_id AND l.workspace_id = ws
		WHERE NOT EXISTS (SELECT FROM cdp_data.identifier i WHERE i.identifier_id = m.anchor AND i.workspace_id = ws)
	), alone AS (
		SELECT DISTINCT ON (m.anchor) m.anchor, m.at, m.message_id, i.alone_at, i.alone_message
		FROM least m JOIN cdp_data.identifier i ON i.identifier_id = m.anchor AND i.workspace_id = ws
		ORDER BY m.anchor, m.at, m.message_id
	)

	SELECT 'identifier'::text, w.identifier_id::text,
		CASE WHEN w.state <> w.want_state THEN 'state' ELSE 'fragment_id' END,
		CASE WHEN w.state <> w.want_state THEN w.state::text ELSE 'profile ' || coalesce(w.profile_id::text, 'none') END,
		CASE WHEN w.state <> w.want_state THEN w.want_state::text ELSE 'profile ' || coalesce(w.want_profile_id::text, 'of its own') END
	FROM wrong w
	WHERE NOT EXISTS (SELECT FROM excused x WHERE x.fragment_id = w.fragment_id)
		AND NOT EXISTS (SELECT FROM alone a WHERE a.anchor = w.identifier_id AND a.alone_at IS NULL)

	UNION ALL
	SELECT 'identifier', y.identifier_id::text, 'identifier_id', NULL, 'a member of link ' || y.link_id FROM lost y

	UNION ALL
	SELECT 'profile', r.fragment_id::text, 'fragment_id', NULL, 'the fragment of an identifier' FROM rootless r

	UNION ALL
	-- the id of a profile is the least of its fragments that somebody belongs to
	SELECT 'profile', p.fragment_id::text, 'profile_id', p.profile_id::text, q.least::text
	FROM cdp_data.profile p
		JOIN (SELECT r.profile_id, min(r.fragment_id) AS least FROM cdp_data.profile r
			WHERE r.workspace_id = ws GROUP BY r.profile_id) q ON q.profile_id = p.profile_id
	WHERE p.workspace_id = ws AND p.profile_id <> q.least AND p.fragment_id = q.least
		AND NOT EXISTS (SELECT FROM excused x WHERE x.fragment_id = p.fragment_id)

	UNION ALL
	SELECT 'event', x.event_id::text, 'fragment_id', x.fragment_id::text, x.home_id::text
	FROM placed x
	WHERE x.fragment_id <> x.home_id AND NOT EXISTS (SELECT FROM excused y WHERE y.fragment_id = x.fragment_id)

	UNION ALL
	SELECT 'profile', p.fragment_id::text, c.column_name, c.stored, c.expected
	FROM cdp_data.profile p
		LEFT JOIN counted q ON q.home_id = p.fragment_id
		CROSS JOIN LATERAL (VALUES
			('event_count', p.event_count::text, coalesce(q.n, 0)::text),
			('months', p.months::text, coalesce(q.months, 0)::text),
			('first_seen', p.first_seen::text, coalesce(q.least, 'infinity')::text),
			('last_seen', p.last_seen::text, coalesce(q.greatest, '-infinity')::text)) AS c(column_name, stored, expected)
	WHERE p.workspace_id = ws AND c.stored <> c.expected
		AND NOT EXISTS (SELECT FROM dirty d WHERE d.fragment_id = p.fragment_id)
		AND NOT EXISTS (SELECT FROM excused x WHERE x.fragment_id = p.fragment_id)

	UNION ALL
	SELECT 'profile_trait', coalesce(s.fragment_id, d.home_id)::text, k.key,
		CASE WHEN sees_values THEN (s.traits -> k.key)::text ELSE 'another value or stamp' END,
		CASE WHEN sees_values THEN (d.traits -> k.key)::text ELSE 'what the events declare' END
	FROM stored s
		FULL JOIN declared d ON d.home_id = s.fragment_id
		CROSS JOIN LATERAL (SELECT jsonb_object_keys(s.traits) AS key UNION SELECT jsonb_object_keys(d.traits)) k
	WHERE s.traits IS DISTINCT FROM d.traits AND (s.traits -> k.key) IS DISTINCT FROM (d.traits -> k.key)
		AND NOT EXISTS (SELECT FROM dirty y WHERE y.fragment_id = coalesce(s.fragment_id, d.home_id))
		AND NOT EXISTS (SELECT FROM excused x WHERE x.fragment_id = coalesce(s.fragment_id, d.home_id))

	UNION ALL
	SELECT 'link', l.anchor::text, 'first_at', l.first_at::text || ' ' || l.first_message, l.at::text || ' ' || l.message_id
	FROM links l
	WHERE l.first_at IS NULL OR (l.at, l.message_id) < (l.first_at, l.first_message)
		OR ((l.at, l.message_id) > (l.first_at, l.first_message) AND l.first_at >= since)

	UNION ALL
	SELECT 'link', l.link_id::text, 'first_at', l.first_at::text || ' ' || l.first_message, NULL
	FROM cdp_data.link l
	WHERE l.workspace_id = ws AND l.first_at >= since
		AND NOT EXISTS (SELECT FROM least m WHERE m.anchor = l.link_id AND m.source_id = l.source_id)

	UNION ALL
	SELECT 'identifier', a.anchor::text, 'alone_at', a.alone_at::text || ' ' || a.alone_message, a.at::text || ' ' || a.message_id
	FROM alone a
	WHERE a.alone_at IS NULL OR (a.at, a.message_id) < (a.alone_at, a.alone_message)
		OR ((a.at, a.message_id) > (a.alone_at, a.alone_message) AND a.alone_at >= since)

	UNION ALL
	SELECT 'identifier', i.identifier_id::text, 'alone_at', i.alone_at::text || ' ' || i.alone_message, NULL
	FROM cdp_data.identifier i
	WHERE i.workspace_id = ws AND i.alone_at >= since
		AND NOT EXISTS (SELECT FROM least m WHERE m.anchor = i.identifier_id)

	UNION ALL
	-- every stored event is known by its message id, once
	SELECT 'message_seen', x.event_id::text, 'event_id', NULL, x.message_id
	FROM placed x
	WHERE NOT EXISTS (SELECT FROM cdp_data.message_seen s WHERE s.event_id = x.event_id AND s.occurred_at = x.occurred_at AND s.workspace_id = ws)

	UNION ALL
	-- what was purged is gone
	SELECT 'event', x.event_id::text, 'occurred_at', x.occurred_at::text, 'not before ' || cleared
	FROM placed x WHERE x.occurred_at < cleared

	UNION ALL
	SELECT 'message_seen', s.event_id::text, 'occurred_at', s.occurred_at::text, 'not before ' || cleared
	FROM cdp_data.message_seen s WHERE s.workspace_id = ws AND s.occurred_at < cleared;
END
$$;
REVOKE ALL ON FUNCTION cdp.verify_workspace(integer, boolean) FROM PUBLIC;
COMMENT ON FUNCTION cdp.verify_workspace(integer, boolean) IS
'For cdp.verify(), which decides for whom: the differences in workspace ws, and whether values of traits are shown.';

CREATE FUNCTION cdp.verify()
	RETURNS TABLE (table_name text, key text, column_name text, stored text, expected text)
	LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cdp_sql_verify';
REVOKE ALL ON FUNCTION cdp.verify() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.verify() TO cdp_admin, cdp_privacy_officer, cdp_auditor;
COMMENT ON FUNCTION cdp.verify() IS
'Recomputes people, their events, counters and traits of the caller''s workspace from what is stored, in one snapshot, and returns the differences: table, key (identifier_id, fragment_id, event_id or link_id), column, stored and expected value. No row: all is well. Fragments in cdp_data.dirty are yet to be computed, and no difference. Trait values only for who may see values. Reads everything, and writes nothing but temporary files beyond work_mem: it runs on a standby, too. Takes about 10 seconds a million events. Raises for a role without a workspace.';
