"""A64: what a caller names like something of PostgreSQL or of ours never runs with more rights than the caller's own.

A schema holds a function, an operator and a domain of the name of each one of pg_catalog, pg_temp a domain of the name of each type
and a view of the name of each view; they come first in the caller's search path, and complain when they run as anybody but the
caller.  Every view is then read, and every function called, by each role, in a session that has planned nothing yet.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import calls     # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

import psycopg                         # noqa: E402
from psycopg.types.json import Jsonb   # noqa: E402

ROLES = ('analyst', 'marketer', 'auditor', 'privacy_officer', 'admin', 'ingest', 'monitor')
TRAPPED = 'trapped: runs as'

SHADOWS = f"""
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE FUNCTION evil.trap() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF current_user <> session_user THEN
        RAISE WARNING '{TRAPPED} %', current_user;
    END IF;
    RETURN true;
END
$$;
-- what cannot be made (arguments of type internal, ..) cannot be called either
CREATE FUNCTION evil.make(statement text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
END
$$;
DO $do$
DECLARE
    made text;
BEGIN
    FOR made IN
        SELECT format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS ''BEGIN PERFORM evil.trap(); RETURN NULL; END''',
                proname, pg_get_function_identity_arguments(oid), pg_get_function_result(oid))
            FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND NOT proretset
                AND pg_get_function_result(oid) !~ 'internal|record|handler|trigger|void|cstring|any'
                AND pg_get_function_identity_arguments(oid) !~ 'internal|cstring|OUT'
        UNION ALL
        SELECT format('CREATE OPERATOR evil.%s (function = evil.%s, rightarg = %s%s)', o.oprname, p.proname, o.oprright::regtype,
                CASE WHEN o.oprleft <> 0 THEN format(', leftarg = %s', o.oprleft::regtype) ELSE '' END)
            FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oprnamespace = 'pg_catalog'::regnamespace
    LOOP
        PERFORM evil.make(made);
    END LOOP;
END
$do$;
CREATE FUNCTION evil.plant_mine() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $do$
DECLARE
    made text;
BEGIN
    FOR made IN
        SELECT format('CREATE DOMAIN pg_temp.%I AS pg_catalog.%1$I CHECK (evil.trap())', typname)
            FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0
        UNION ALL
        SELECT format('CREATE VIEW pg_temp.%I AS SELECT v.* FROM %s v WHERE evil.trap()', relname, oid::regclass)
            FROM pg_class WHERE relnamespace IN ('pg_catalog'::regnamespace, 'cdp'::regnamespace) AND relkind = 'v'
    LOOP
        PERFORM evil.make(made);
    END LOOP;
END
$do$;
"""


def fill(server):
    """A source, people, something in quarantine, roles with a session of their own."""
    server.rows("SELECT cdp.create_source('shop', brokers => 'localhost:1', topics => '{shop}')")
    server.rows('SELECT cdp.ingest(%s)', Jsonb([segment.identify('m', userId='u-7', anonymousId='a-9', traits={'email': 'u8@shop.example'}),
                                                 segment.track('t', userId='u-7'), {'type': 'telepathy', 'userId': 'u-7'}]))
    for role in ROLES:
        server.rows(f"CREATE ROLE {role} LOGIN IN ROLE {'pg_monitor' if role == 'monitor' else 'cdp_' + role}")
    server.rows("SELECT cdp.create_workspace('other')")
    server.rows("SELECT cdp.grant_workspace(r, 'default') FROM unnest(%s::name[]) r", [role for role in ROLES if role != 'monitor'])


def hold(server):
    """Two snapshots, of a session and of a prepared transaction, so that whoever looks for such things finds some."""
    session = server.connect()
    session.autocommit = False
    session.execute('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ')
    session.execute('SELECT 1')
    with server.connect() as other:
        for statement in ('BEGIN', 'CREATE TABLE public.prepared ()', "PREPARE TRANSACTION 'held'"):
            other.execute(statement)
    return session


def statements(server):
    """Every view is read and every function called."""
    views = [name for name, in server.rows("SELECT relname FROM pg_class WHERE relnamespace = 'cdp'::regnamespace AND relkind = 'v' ORDER BY 1")]
    plain = [name for name, in server.rows(
        """SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'cdp'::regnamespace AND prokind = 'f'
           AND pronargs = pronargdefaults AND prorettype <> 'trigger'::regtype ORDER BY 1""") if name not in ('setup', 'migrate')]
    return ([f'SELECT * FROM cdp.{name}' for name in views] + [f'SELECT * FROM cdp.{name}()' for name in plain] +
            [f'SELECT {question}' for question in calls.QUESTIONS] + [sql for sql in calls.CHANGES if not sql.startswith('COPY')] +
            ["SELECT cdp.has_identifier(1)", "SELECT id, r.outcome FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine), 'body_text') r",
             "SELECT cdp.get_profile('user_id', 'u-7')"])


def outcomes(server, role, listed, path=None):
    """{statement: SQLSTATE or None} of a new session; with a path, of one that shadows everything."""
    found = {}
    with server.connect(user=role) as session:
        if path:
            session.execute('SELECT evil.plant_mine()')
            session.execute(f'SET search_path = {path}')
        for sql in listed:
            try:
                with session.transaction(force_rollback=True):
                    session.execute(sql)
                found[sql] = None
            except psycopg.Error as e:
                found[sql] = e.sqlstate
    return found


def check_role(server, role, listed):
    """Nothing traps, and everything does what it did."""
    plain = outcomes(server, role, listed)
    for path in ('pg_temp, evil, pg_catalog', 'evil, pg_catalog, pg_temp'):
        mark = server.log_mark()
        shadowed = outcomes(server, role, listed, path)
        tap.same(sorted({line.split(TRAPPED)[1] for line in server.log_after(mark).splitlines() if TRAPPED in line}), [],
                 f'A64: nothing of {role} runs as somebody else, with {path}')
        tap.same({sql: (plain[sql], code) for sql, code in shadowed.items() if code != plain[sql]}, {}, f'A64: and everything does what it did ({role})')


def check_trap(server):
    """A function that trusts the caller's path is trapped: by a type, an operator, a function."""
    for expression in ("1::text", "1 = 2", "lower('a')"):
        server.rows('CREATE FUNCTION public.trusting() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS '
                    f'$$BEGIN RETURN {expression}; END$$')
        mark = server.log_mark()
        outcomes(server, 'analyst', ['SELECT public.trusting()'], 'pg_temp, evil, pg_catalog')
        tap.ok(TRAPPED + ' postgres' in server.log_after(mark), f'A64: a function that trusts the path is found: {expression}')
        server.rows('DROP FUNCTION public.trusting()')


def main():
    """One server."""
    inst = postgres.installation()
    server = postgres.Server(inst, machine.fresh_directory('shadows'), max_prepared_transactions=2).start()
    server.create_database()
    fill(server)
    server.rows(SHADOWS)
    tap.same(calls.left_out(server), [], 'no function is left out')
    listed = statements(server)
    holder = hold(server)
    for role in ROLES:
        check_role(server, role, listed)
    holder.close()
    check_trap(server)
    server.stop()


tap.main(main)
