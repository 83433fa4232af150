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
