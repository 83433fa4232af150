"""Attacks that need sessions, databases or a server of their own; the others are in test/pgtap/attacks.sql."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

import psycopg                         # noqa: E402
from psycopg.types.json import Jsonb   # noqa: E402

ROLES = ('analyst', 'marketer', 'auditor', 'privacy_officer', 'admin', 'ingest')


def refused(connection, sql, name, code='42501'):
    """The statement must fail in this way; returns the error."""
    try:
        connection.execute(sql)
        tap.ok(False, name, 'no error')
    except psycopg.Error as e:
        tap.same(e.sqlstate, code, name)
        return e
    return None


def check_schema_of_others(server):
    """A63: what was made before CREATE EXTENSION and cdp.setup() is not adopted."""
    server.rows('CREATE ROLE owning LOGIN CREATEDB', dbname='postgres')
    for made, schema in (('CREATE SCHEMA cdp', 'cdp'),
                         ('CREATE SCHEMA cdp; CREATE FUNCTION cdp.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT now()$$', 'cdp'),
                         ('CREATE SCHEMA cdp; CREATE TABLE cdp.event (x integer)', 'cdp'),
                         ('CREATE SCHEMA cdp_data', 'cdp_data'),
                         ('CREATE SCHEMA cdp_data; CREATE TABLE cdp_data.version (version integer, applied_at timestamptz)', 'cdp_data')):
        server.rows('CREATE DATABASE planted OWNER owning', dbname='postgres')
        with server.connect('planted', user='owning') as c:
            c.execute(made)
        with server.connect('planted') as c:
            if schema == 'cdp':
                refused(c, 'CREATE EXTENSION cdp', f'A63: refused after {made}', '42P06')
            else:
                c.execute('CREATE EXTENSION cdp')
                tap.ok('--no-owner' in refused(c, 'SELECT cdp.setup()', f'A63: setup refuses after {made}').diag.message_hint, 'A63: and names the usual cause')
            c.execute(f'DROP SCHEMA {schema} CASCADE')
            c.execute('CREATE EXTENSION IF NOT EXISTS cdp')
            c.execute('SELECT cdp.setup()')
            tap.same(c.execute("SELECT count(*) FROM cdp.source").fetchone()[0], 1, 'A63: and works when it is gone')
        server.rows('DROP DATABASE planted WITH (FORCE)', dbname='postgres')


def check_owner_with_members(server):
    """A role that somebody put into cdp_owner before."""
    server.rows('GRANT cdp_owner TO owning', dbname='postgres')
    server.rows('CREATE DATABASE planted', dbname='postgres')
    with server.connect('planted') as c:
        refused(c, 'CREATE EXTENSION cdp', 'A63: cdp_owner must have no members', '0P000')
    server.rows('DROP DATABASE planted', dbname='postgres')
    server.rows('REVOKE cdp_owner FROM owning', dbname='postgres')


# statements with a %s: a regclass, a regprocedure, a policy or bounds that were put together with %L before, looked at one by one
REVIEWED = {
    'ALTER TABLE %s OWNER TO cdp_owner', 'ALTER TABLE %s ENABLE ROW LEVEL SECURITY', 'ALTER TABLE %s FORCE ROW LEVEL SECURITY',
    'CREATE POLICY workspace ON %s USING (%s)', 'ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', 'REVOKE ALL ON TABLE %s FROM PUBLIC',
    'ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION lz4', 'ALTER TABLE cdp_data.%I ADD CONSTRAINT %I CHECK (%s)',
    'ALTER TABLE cdp_data.%I ATTACH PARTITION cdp_data.%I FOR VALUES FROM (%s) TO (%s)', 'ALTER VIEW %s SET (security_barrier = true)',
    'ALTER VIEW %s RESET (security_barrier)', 'ALTER ROUTINE %s OWNER TO cdp_owner', 'COMMENT ON ROUTINE %s IS %L'}


def by_hand(script):
    """Statements that are put together otherwise than by %I and %L."""
    found = []
    for rest in re.findall(r"\bEXECUTE\s+(?!FUNCTION\b|PROCEDURE\b|ON\b)(.{0,200})", script, re.DOTALL):
        template = re.match(r"pg_catalog\.format\('((?:[^']|'')*)'", rest)
        if not template or ('%s' in template[1] and template[1] not in REVIEWED):
            found.append(rest.splitlines()[0])
    return found


def check_scripts(inst):
    """A66: the install script creates, and adopts nothing; no script puts statements together by hand."""
    folder = os.path.join(inst.ask('--sharedir'), 'extension')
    for name in sorted(os.listdir(folder)):
        if not re.fullmatch(r'cdp-.*\.sql', name):
            continue
        with open(os.path.join(folder, name), encoding='utf-8') as f:
            script = f.read()
        if name.startswith('cdp--'):
            tap.same(re.findall(r'(?i)\bOR\s+REPLACE\b|\bIF\s+NOT\s+EXISTS\b(?!\s*\()', script), [], f'A66: {name} adopts nothing that is there')
            tap.ok(r'\quit' in script, f'A66: {name} can not be run by hand')
        tap.same(by_hand(script), [], f'A66: {name} puts no statement together by hand')
    for bad in ("EXECUTE format('DROP TABLE %I', x)", "EXECUTE pg_catalog.format('DROP TABLE %s', x)", "EXECUTE 'DROP TABLE ' || x", 'EXECUTE x'):
        tap.ok(by_hand(bad), f'A66: it would be seen: {bad}')


def check_logins(server):
    """A71, A21: with a session of their own."""
    server.rows('CREATE ROLE nobody LOGIN', dbname='postgres')
    for user in ('nobody', *ROLES):
        if user != 'nobody':
            server.rows(f'CREATE ROLE {user} LOGIN IN ROLE cdp_{user}')
        with server.connect(user=user) as c:
            for statement in ('SET ROLE cdp_owner', 'SET SESSION AUTHORIZATION postgres', 'SELECT * FROM cdp_data.identifier',
                              "LOAD 'auto_explain'", 'GRANT cdp_owner TO CURRENT_USER', 'DROP EXTENSION cdp'):
                refused(c, statement, f'A71: {user} may not: {statement}')
        for name in ('cdp.workspace', 'cdp.current_workspace'):
            try:
                server.connect(user=user, options=f'-c {name}=explained').close()
                tap.ok(False, f'A03: {user} starts no session with {name}')
            except psycopg.OperationalError as e:
                tap.ok(name in str(e), f'A03: {user} starts no session with {name}', str(e))


def plans_told(server):
    """Plans that auto_explain sends to an analyst who asks for messages of the log."""
    told = []
    with server.connect() as c:
        c.add_notice_handler(lambda d: told.append(d.message_primary))
        for statement in ("LOAD 'auto_explain'", 'SET auto_explain.log_min_duration = 0', 'SET auto_explain.log_nested_statements = on', 'SET SESSION AUTHORIZATION analyst', 'SET client_min_messages = log',
                          'SELECT * FROM cdp.event', 'SELECT * FROM cdp.profile'):
            c.execute(statement)
    return [text for text in told if 'plan:' in text]


def check_auto_explain(server):
    """A21: what auto_explain writes to the log is not for readers."""
    if not os.path.exists(os.path.join(server.inst.ask('--pkglibdir'), 'auto_explain.so')):
        tap.skip('A21: auto_explain', 'this PostgreSQL comes without it')
        return
    tap.ok(plans_told(server), 'A21: with one workspace auto_explain tells plans')
    server.rows("SELECT cdp.create_workspace('explained')")
    tap.same(plans_told(server), [], 'A21: with two it does not')
    server.rows("SELECT cdp.drop_workspace('explained', false)")
    server.rows("SELECT cdp.grant_workspace('public', 'default')")


SHOWN = ('SELECT s::text FROM pg_settings s', 'SELECT s::text FROM pg_file_settings s', 'SELECT s::text FROM pg_db_role_setting s',
         'SELECT s::text FROM pg_stat_activity s', 'SELECT s::text FROM cdp.status s', 'SELECT s::text FROM cdp_data.instance s',
         "SELECT prosrc FROM pg_proc WHERE pronamespace = 'cdp'::regnamespace", 'SELECT description FROM pg_description')


def places_with(server, key):
    """Where a key is shown or stored: queries, lines of the log, files of the data directory."""
    texts = (key.hex(), key.hex().upper(), repr(key)[2:-1])
    found = [sql for sql in SHOWN for row in server.rows(sql) if any(t in str(row) for t in texts)]
    with open(server.log, encoding='utf-8', errors='replace') as f:
        found += ['log' for line in f if any(t in line for t in texts)]
    for folder, _, names in os.walk(server.data):
        for name in names:
            try:
                with open(os.path.join(folder, name), 'rb') as f:
                    if key in f.read():
                        found.append('file')
            except FileNotFoundError:       # the server removed it meanwhile
                pass
    return found


def check_key(server):
    """A69: nothing tells the key, not even to a superuser."""
    with open(server.data + '.cdp_key', 'rb') as f:
        key = f.read()
    server.rows('CHECKPOINT')
    tap.same(places_with(server, key), [], 'A69: the key is nowhere in settings, views, definitions, the log of debug5 and the data directory')
    server.rows('CREATE TABLE planted (x bytea)')
    server.rows('INSERT INTO planted VALUES (%s)', key)
    with server.connect() as c:
        refused(c, f"SELECT '{key.hex()}'::integer", 'A69: one is planted', '22P02')
    server.rows(f"COMMENT ON TABLE planted IS '{key.hex()}'")
    server.rows('CHECKPOINT')
    tap.ok({'log', 'file', SHOWN[-1]} <= set(places_with(server, key)), 'A69: it would be found')


def notify_traffic(connection):
    """Accesses to the queue of notifications that this session and others made so far."""
    connection.execute('SELECT pg_stat_force_next_flush()')
    return connection.execute("SELECT sum(blks_zeroed + blks_hit + blks_read) FROM pg_stat_slru WHERE lower(name) = 'notify'").fetchone()[0]


def check_notifications(server):
    """A74: nobody is notified of anything, on no channel; workers neither: nothing of ours calls what notifies."""
    for name in ('cdp.so', 'cdp_kafka.so'):
        symbols = machine.run(['nm', '-D', '--undefined-only', os.path.join(server.inst.ask('--pkglibdir'), name)])
        tap.ok('GetUserIdAndSecContext' in symbols or name != 'cdp.so', f'A74: what {name} calls is known')
        tap.ok('Async_Notify' not in symbols, f'A74: {name} notifies nobody')
    with server.connect() as c:
        before = notify_traffic(c)
        c.execute('SELECT * FROM cdp.ingest(%s)', (Jsonb([segment.identify('n', userId='ada', traits={'email': 'ada@example.com'}),
                                                         {'type': 'telepathy', 'userId': 'ada'}]),))
        c.execute("SELECT cdp.create_workspace('noticed')")
        c.execute("SELECT cdp.drop_workspace('noticed', false)")
        c.execute("SELECT cdp.grant_workspace('public', 'default')")
        c.execute("SELECT cdp.forget('user_id', 'ada', 'test', false)")
        tap.same(notify_traffic(c), before, 'A74: nothing is notified')
        c.execute("NOTIFY cdp, 'x'")
        tap.ok(notify_traffic(c) > before, 'A74: it would be seen')


def check_planted_option(server):
    """A68: an option that cdp.create_source() would refuse, written past it, does not reach the library."""
    server.rows("SELECT cdp.create_source('planted', 'localhost:1', '{x}', workspace => 'default')")
    server.rows("""UPDATE cdp_data.source SET options = '{"client": {"plugin.library.paths": "/nowhere"}}' WHERE name = 'planted'""")
    server.rows("SELECT cdp.pause_source('planted')")
    server.rows("SELECT cdp.resume_source('planted')")
    tap.wait_for(lambda: server.value("SELECT last_error FROM cdp.source_status WHERE source = 'planted'"), 'A68: the worker refuses it',
                 good=lambda text: 'option "plugin.library.paths" is refused' in text)
    server.rows("SELECT cdp.drop_source('planted')")


def main():
    """One server."""
    inst = postgres.installation()
    directory = machine.fresh_directory('attacks')
    server = postgres.Server(inst, directory, log_min_messages='debug5').start()
    server.create_database()
    check_schema_of_others(server)
    check_owner_with_members(server)
    check_scripts(inst)
    check_logins(server)
    check_auto_explain(server)
    check_notifications(server)
    check_planted_option(server)
    check_key(server)
    server.stop()


tap.main(main)
