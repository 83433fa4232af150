-- Everything belongs to cdp_owner, which is no superuser: SECURITY DEFINER
-- functions run with its rights.
DO $$
DECLARE
	f pg_catalog.regprocedure;
BEGIN
	FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p
			 WHERE p.pronamespace OPERATOR(pg_catalog.=) 'cdp'::pg_catalog.regnamespace
	LOOP
		EXECUTE pg_catalog.format('ALTER ROUTINE %s OWNER TO cdp_owner', f);
	END LOOP;
END
$$;

-- Steps of triggers, set-up and other functions stand beside what users call;
-- their comments say which they are: nobody was granted them, superusers need
-- them neither.
DO $$
DECLARE
	f record;
BEGIN
	FOR f IN SELECT p.oid::pg_catalog.regprocedure AS name, pg_catalog.obj_description(p.oid, 'pg_proc') AS what
			 FROM pg_catalog.pg_proc p
			 WHERE p.pronamespace OPERATOR(pg_catalog.=) 'cdp'::pg_catalog.regnamespace
				 AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(p.proacl) a WHERE a.grantee OPERATOR(pg_catalog.<>) p.proowner)
				 AND pg_catalog.strpos(pg_catalog.obj_description(p.oid, 'pg_proc'), 'Superusers only') OPERATOR(pg_catalog.=) 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON ROUTINE %s IS %L', f.name, 'Internal: ' OPERATOR(pg_catalog.||) f.what);
	END LOOP;
END
$$;
