-- Install script of the extension cdp, assembled from the folders of src.
-- It makes code only: roles, the schema cdp, functions.  Tables, policies,
-- triggers and views are made by cdp.setup().

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION cdp" to load this file. \quit

-- bodies speak of tables that cdp.setup() makes later
SET LOCAL check_function_bodies = off;

-- Roles belong to the server, not to the extension: they are there before a
-- restore needs them, and stay after DROP EXTENSION.
DO $$
DECLARE
	role text;
BEGIN
	FOREACH role IN ARRAY ARRAY['cdp_owner', 'cdp_admin', 'cdp_ingest', 'cdp_analyst', 'cdp_marketer',
		'cdp_privacy_officer', 'cdp_auditor']
	LOOP
		IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) role) THEN
			BEGIN
				EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
			EXCEPTION WHEN duplicate_object OR unique_violation THEN
				NULL;			-- made by CREATE EXTENSION in another database meanwhile
			END;
		END IF;
	END LOOP;
	IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) 'cdp_owner'
			   AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole)) THEN
		RAISE EXCEPTION 'role "cdp_owner" exists and has more rights than it may have'
			USING ERRCODE = 'invalid_role_specification',
				DETAIL = 'It owns everything of cdp, so it must not be a superuser, bypass row security, log in or create roles.',
				HINT = 'Drop the role, or ALTER ROLE cdp_owner NOSUPERUSER NOBYPASSRLS NOLOGIN NOCREATEROLE.';
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.pg_auth_members m
			   WHERE m.roleid OPERATOR(pg_catalog.=) 'cdp_owner'::pg_catalog.regrole::pg_catalog.oid) THEN
		RAISE EXCEPTION 'role "cdp_owner" has members'
			USING ERRCODE = 'invalid_role_specification',
				DETAIL = 'It owns everything of cdp, so who is a member of it reads everything.',
				HINT = 'REVOKE cdp_owner from them.';
	END IF;
END
$$;

-- plain CREATE: a schema that somebody made before is not adopted
CREATE SCHEMA cdp AUTHORIZATION cdp_owner;
COMMENT ON SCHEMA cdp IS 'Customer data platform: functions and views.';
GRANT USAGE ON SCHEMA cdp TO cdp_admin, cdp_ingest, cdp_analyst, cdp_marketer, cdp_privacy_officer, cdp_auditor, pg_monitor;
