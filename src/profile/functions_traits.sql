CREATE FUNCTION cdp.merge_traits_step(internal, jsonb, bytea) RETURNS internal
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_merge_traits_step';
REVOKE ALL ON FUNCTION cdp.merge_traits_step(internal, jsonb, bytea) FROM PUBLIC;
COMMENT ON FUNCTION cdp.merge_traits_step(internal, jsonb, bytea) IS
'State function of cdp.merge_traits(): takes one chunk of traits with its stamps. Raises if the stamps have an unknown version.';

CREATE FUNCTION cdp.merge_traits_final(internal) RETURNS jsonb
	LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cdp_merge_traits_final';
REVOKE ALL ON FUNCTION cdp.merge_traits_final(internal) FROM PUBLIC;
COMMENT ON FUNCTION cdp.merge_traits_final(internal) IS
'Final function of cdp.merge_traits(): the traits as one object, without those whose newest value is null.';

CREATE AGGREGATE cdp.merge_traits(traits jsonb, stamps bytea) (
	SFUNC = cdp.merge_traits_step,
	STYPE = internal,
	FINALFUNC = cdp.merge_traits_final,
	PARALLEL = SAFE
);
REVOKE ALL ON FUNCTION cdp.merge_traits(jsonb, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.merge_traits(jsonb, bytea) TO cdp_admin, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor;
COMMENT ON AGGREGATE cdp.merge_traits(jsonb, bytea) IS
'Traits of a profile from the chunks of its fragments: of each key the value with the greatest stamp, without nulls; {} for no chunk. traits, stamps: as in cdp_data.profile_trait.';
