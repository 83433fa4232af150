-- Attacks on the walls between workspaces and around values.  The numbers are
-- those of the threat list.  An attack is a query and the role that runs it: it
-- must give nothing, or be refused.  Then the wall is broken on purpose and the
-- same query must give something, so that no test here is blind.
\set ON_ERROR_STOP 1
BEGIN;
SET LOCAL search_path = public, pg_catalog;
SET LOCAL client_min_messages = warning;

-- ---------------------------------------------------------------- how an attack is judged

-- What a role gets from a query, as text; an error that is no refusal is something, too.
CREATE FUNCTION attempt(who name, query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	PERFORM set_config('role', who, true);
	FOR r IN EXECUTE query LOOP
		RETURN NEXT r::text;
	END LOOP;
	PERFORM set_config('role', 'none', true);
EXCEPTION WHEN OTHERS THEN
	IF SQLSTATE NOT IN ('42501', '42602', '42703') OR SQLERRM ~ 'victim' THEN
		RETURN NEXT format('%s: %s', SQLSTATE, SQLERRM);
	END IF;
END
$$;

CREATE FUNCTION holds(attack text, who name, query text, breach text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	got text[] := ARRAY(SELECT attempt(who, query));
BEGIN
	RETURN NEXT is(got, '{}', attack);
	BEGIN
		EXECUTE breach;
		got := ARRAY(SELECT attempt(who, query));
		RAISE EXCEPTION 'undo' USING ERRCODE = 'XX999';
	EXCEPTION WHEN SQLSTATE 'XX999' THEN
	END;
	RETURN NEXT isnt(got, '{}', 'seen: ' || attack);
END
$$;

-- Runs a statement that returns no rows.
CREATE FUNCTION run(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
END
$$;

-- ---------------------------------------------------------------- two workspaces with the same people

CREATE ROLE an_a IN ROLE cdp_analyst;
CREATE ROLE in_a IN ROLE cdp_ingest;
CREATE ROLE in_b IN ROLE cdp_ingest;
CREATE ROLE mallory IN ROLE cdp_ingest;
SELECT cdp.create_workspace('b');
SELECT cdp.grant_workspace(r, 'default') FROM unnest('{an_a,in_a,mallory}'::name[]) r;
SELECT cdp.grant_workspace(r, 'b') FROM unnest('{in_b}'::name[]) r;

SELECT * FROM no_plan();

-- ---------------------------------------------------------------- A64: things of the caller's named like ours

CREATE SCHEMA evil AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
SET LOCAL ROLE mallory;
DO $$
DECLARE
	t text;
	o text;
BEGIN
	FOREACH t IN ARRAY '{bigint,integer,smallint,text,uuid,timestamptz,boolean}'::text[] LOOP
		EXECUTE format($f$CREATE FUNCTION evil.compare(a %1$s, b %1$s) RETURNS boolean LANGUAGE plpgsql AS
			'BEGIN PERFORM set_config(''regress.ran_as'', current_user, true); RETURN a OPERATOR(pg_catalog.=) b; END'$f$, t);
		FOREACH o IN ARRAY '{=,<>,<,>,<=,>=}'::text[] LOOP
			EXECUTE format('CREATE OPERATOR evil.%s (leftarg = %s, rightarg = %2$s, function = evil.compare)', o, t);
		END LOOP;
	END LOOP;
END
$$;
RESET ROLE;

-- each kind of message once, then merges, duplicates and conflicts
CREATE FUNCTION write_with_path(path text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	messages jsonb := '[{"type": "identify", "userId": "m1", "anonymousId": "d1", "messageId": "1", "traits": {"email": "m@a.example"}},
		{"type": "identify", "userId": "m2", "anonymousId": "d2", "messageId": "2"}, {"type": "track", "messageId": "3"},
		{"type": "alias", "userId": "m1", "previousId": "d2", "messageId": "4"}, {"type": "telepathy", "messageId": "5"},
		{"type": "identify", "userId": "m2", "anonymousId": "d1", "messageId": "6", "originalTimestamp": "2020-01-01T00:00:00Z", "traits": {"email": "m@a.example"}}]';
BEGIN
	PERFORM set_config('regress.ran_as', '', true);
	PERFORM set_config('search_path', path, true);
	PERFORM cdp.ingest(messages);
	PERFORM cdp.ingest(m) FROM jsonb_array_elements(messages) m;
	PERFORM set_config('search_path', 'public, pg_catalog', true);
	RETURN NULLIF(NULLIF(current_setting('regress.ran_as'), ''), session_user);
END
$$;
SELECT is_empty($$SELECT a FROM attempt('mallory', 'SELECT w FROM write_with_path(''evil, pg_catalog'') w WHERE w = ''cdp_owner''') a$$,
	'A64: operators of the caller''s do not run as cdp_owner');

SELECT * FROM finish();
ROLLBACK;
