"""cdp.setup() in a database that it cannot work in, and what it leaves of the caller's settings."""
import os
import sys

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import tap       # noqa: E402

SETTINGS = {'client_min_messages': 'log', 'search_path': 'public', 'row_security': 'off', 'check_function_bodies': 'on',
            'TimeZone': 'Asia/Tokyo', 'DateStyle': 'German, DMY'}


def other_encodings(server):
    """The engine works in UTF8 only."""
    for encoding in ('LATIN1', 'SQL_ASCII'):
        server.rows(f"CREATE DATABASE other TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'", dbname='postgres')
        server.rows('CREATE EXTENSION cdp', dbname='other')
        try:
            server.rows('SELECT cdp.setup()', dbname='other')
            tap.ok(False, f'{encoding} is refused')
        except psycopg.Error as e:
            tap.same((e.sqlstate, e.diag.message_primary), ('0A000', 'cdp needs a database in encoding UTF8'), f'{encoding} is refused')
            tap.same((e.diag.message_detail, e.diag.message_hint),
                     (f'This one is in {encoding}.', "Create a database with ENCODING 'UTF8' TEMPLATE template0."), f'{encoding}: the error helps')
        tap.same(server.value("SELECT to_regnamespace('cdp_data')", dbname='other'), None, f'{encoding}: nothing was made')
        server.rows('DROP DATABASE other', dbname='postgres')


def settings(connection):
    """What the session has now."""
    return {name: connection.execute('SELECT current_setting(%s)', (name,)).fetchone()[0] for name in SETTINGS}


def run_setup(connection):
    """Run it; the notices that came."""
    notices = []
    handler = lambda diagnostic: notices.append(f'{diagnostic.severity_nonlocalized}: {diagnostic.message_primary}')  # noqa: E731
    connection.add_notice_handler(handler)
    try:
        connection.execute('SELECT cdp.setup()')
    finally:
        connection.remove_notice_handler(handler)
    return notices


def callers_settings(server):
    """They are the same afterwards, and decide what is shown."""
    server.create_database(setup=False)
    server.rows('CREATE EXTENSION cdp')
    with server.connect() as c:
        for name, value in SETTINGS.items():
            c.execute('SELECT set_config(%s, %s, false)', (name, value))
        before = settings(c)
        tap.same(before, SETTINGS, 'the session has settings of its own')
        c.execute('CREATE SCHEMA cdp_data')
        with c.transaction(force_rollback=True):
            try:
                with c.transaction():
                    run_setup(c)
                tap.ok(False, 'a schema of somebody else is refused')
            except psycopg.errors.InsufficientPrivilege as e:
                tap.same(e.diag.message_hint, 'If it was restored with --no-owner, restore it without. Else rename or drop it.', 'a schema of somebody else is refused')
            tap.same(settings(c), before, 'settings are back after an error in a subtransaction')
        c.execute('DROP SCHEMA cdp_data')
        notices = run_setup(c)
        tap.same([n.split('"')[0] for n in notices], ['NOTICE: made the key file '], 'the notice on the key is shown, and nothing else')
        tap.same(settings(c), before, 'settings are back')
        with c.transaction():
            c.execute('SET LOCAL client_min_messages = error')
            c.execute('UPDATE cdp_data.instance SET database_oid = 1')
            tap.same(run_setup(c), [], 'who wants no notices gets none')
            tap.same(c.execute('SHOW client_min_messages').fetchone()[0], 'error', 'a local setting is back, too')
        tap.same(settings(c), before, 'settings are back after that transaction')


def main():
    """One server."""
    directory = machine.fresh_directory('setup')
    server = postgres.Server(postgres.installation(), directory).start()
    other_encodings(server)
    callers_settings(server)
    server.stop()


tap.main(main)
