"""What administrators do to a database while its sources are consumed: none of it costs or doubles an event."""
import contextlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import shop      # noqa: E402
import tap       # noqa: E402

psycopg = postgres.psycopg


def maintenance_commands(s):
    """VACUUM FULL, REINDEX, CLUSTER, ANALYZE and ALTER TABLE of every table."""
    with s.pour() as pour, s.server.connect() as c:
        pour.flows()
        pids = s.server.pids('cdp')
        for table in shop.tables(s.server):
            c.execute(f'VACUUM (FULL, ANALYZE) {table}')
            c.execute(f'REINDEX TABLE {table}')
            c.execute(f'ALTER TABLE {table} SET (autovacuum_enabled = off)')
            c.execute(f'ALTER TABLE {table} RESET (autovacuum_enabled)')
        pour.flows()
        for table in ('profile', 'identifier', 'link', 'source_offset'):
            c.execute(f'CLUSTER cdp_data.{table} USING {table}_pkey')
        for index, in c.execute("SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid"
                                " WHERE t.relnamespace = 'cdp_data'::regnamespace AND t.relkind = 'r'").fetchall():
            c.execute(f'REINDEX INDEX CONCURRENTLY {index}')
        for table in ('event', 'message_seen', 'profile', 'identifier', 'link', 'source_offset'):
            c.execute(f'ALTER TABLE cdp_data.{table} ADD COLUMN ours text DEFAULT $$x$$')
            pour.flows()
            c.execute(f'ALTER TABLE cdp_data.{table} DROP COLUMN ours')
        c.execute('ANALYZE')
        c.execute('REINDEX DATABASE cdp')
        pour.flows()
        tap.same(s.server.pids('cdp'), pids, 'every worker went on')
    s.judge('maintenance commands')


def locked(s, table, begins, ends, shown=None):
    """Somebody holds a table for longer than workers like to wait: they say so, and wait."""
    with s.pour() as pour:
        pour.flows()
        pids = s.server.pids('cdp')
        mark = s.server.log_mark()
        with s.server.connect(autocommit=False) as c:
            c.execute(f'LOCK TABLE cdp_data.{table} IN ACCESS EXCLUSIVE MODE')
            tap.wait_for(lambda: begins in s.server.log_after(mark), f'the log says that {table} is waited for')
            if shown:
                tap.wait_for(lambda: s.server.value('SELECT severity FROM cdp.status WHERE item = %s', shown), 'the status says so, too',
                             good=lambda severity: severity == 'warning')
            else:
                tap.same(s.server.rows("SELECT severity, message FROM cdp.status WHERE item = 'tables'"),
                         [('warning', 'not all tables of cdp could be looked at: canceling statement due to lock timeout')],
                         f'{table} is locked: the status does not wait for it')
                pour.flows()
                tap.ok(True, f'{table} is locked: events go on')
        pour.flows()
        tap.wait_for(lambda: ends in s.server.log_after(mark), f'the log says that it goes on with {table}')
        tap.same(s.server.pids('cdp'), pids, f'{table} was locked: no worker ended')


def locked_for_the_status(s):
    """Who looks at the status waits for nobody, and is told what it could not look at."""
    with s.server.connect(autocommit=False) as c:
        c.execute('LOCK TABLE cdp_data.event, cdp_data.workspace_role IN ACCESS EXCLUSIVE MODE')
        tap.same(s.server.rows("SELECT item, severity FROM cdp.status WHERE item IN ('shapes', 'workspace') ORDER BY 1"),
                 [('shapes', 'warning'), ('workspace', 'warning')], 'cdp.status says which of its rows it could not look at')


def other_numbers_of_workers(s):
    """The partitions change hands again and again, faster than workers start: each has one owner at a time."""
    with s.pour() as pour:
        for workers in (1, 4, 2, 3, 1, 4):
            pour.flows()
            for n in (workers, 5 - workers, workers):
                s.server.rows('SELECT cdp.alter_source(%s, workers => %s)', shop.SOURCE, n)
    s.server.rows('SELECT cdp.alter_source(%s, workers => %s)', shop.SOURCE, shop.WORKERS)
    s.judge('other numbers of workers')


def drop_extension(s):
    """Rolled back nothing has happened; committed the data is there, and set-up makes the rest again."""
    with s.pour() as pour:
        pour.flows()
        with s.server.connect(autocommit=False) as c:
            c.execute('DROP EXTENSION cdp CASCADE')
            tap.same(s.server.pids('cdp'), [], 'DROP EXTENSION: the workers have left')
            c.rollback()
        pour.flows()
    s.judge('DROP EXTENSION, rolled back')
    with s.pour() as pour:
        pour.flows()
        mark = s.server.log_mark()
        s.server.rows('DROP EXTENSION cdp CASCADE')
        tap.wait_for(lambda: s.server.pids('cdp'), 'the workers know that cdp is gone', good=lambda pids: not pids)
        tap.ok('failed' not in s.server.log_after(mark), 'DROP EXTENSION, committed: none of them failed')
        s.server.rows('CREATE EXTENSION cdp')
        s.server.rows('SELECT cdp.setup()')
        pour.flows()
    s.judge('DROP EXTENSION, committed, and set up again')


def locks(s):
    """The configuration, and what every batch writes, for seconds."""
    for table, job in (('parked', 'applying parked messages'), ('dirty', 'computing people again')):
        locked(s, table, f'waits with {job}', f'goes on with {job}')
    for table in ('profile', 'event'):
        locked(s, table, 'source "shop" tries again', 'source "shop" goes on', 'source shop')
    s.judge('locked tables')


def rename(s):
    """A database has another name for a while."""
    with s.pour() as pour:
        pour.flows()
        s.server.rows('ALTER DATABASE cdp RENAME TO other', dbname='postgres')
        pour.flows('other')
        s.server.rows('ALTER DATABASE other RENAME TO cdp', dbname='postgres')
        pour.flows()
    s.judge('RENAME DATABASE')


def clone_and_drop(s):
    """A clone is made and dropped while both consume, beside what an interrupted DROP DATABASE has left."""
    s.server.rows('CREATE DATABASE remains ALLOW_CONNECTIONS false', dbname='postgres')     # at no time may somebody enter
    s.server.rows("UPDATE pg_database SET datallowconn = true, datconnlimit = -2 WHERE datname = 'remains'", dbname='postgres')
    mark = s.server.log_mark()
    with s.pour() as pour:
        pour.flows()
        s.server.rows('CREATE DATABASE clone TEMPLATE cdp', dbname='postgres')
        pour.flows()
        tap.wait_for(lambda: s.server.value("SELECT severity FROM cdp.status WHERE item = 'maintenance' AND message LIKE '%another server%'",
                                            dbname='clone'), 'the clone is known for one')
        tap.same(s.server.pids('cdp source', 'clone'), [], 'a clone consumes nothing')
        s.server.rows('SELECT cdp.setup()', dbname='clone')
        s.server.rows('SELECT cdp.resume_source(%s)', shop.SOURCE, dbname='clone')
        pour.flows('clone')
    tap.ok('invalid database' not in s.server.log_after(mark), 'the launcher sends nobody into a database that nobody can enter',
           s.server.log_after(mark))
    s.server.rows('DROP DATABASE remains', dbname='postgres')
    s.judge('a clone that was resumed', 'clone')
    with s.pour() as pour:
        pour.flows('clone')
        s.server.rows('DROP DATABASE clone', dbname='postgres')
        pour.flows()
    s.judge('CREATE DATABASE TEMPLATE and DROP DATABASE')


@contextlib.contextmanager
def other_version(server, version):
    """Scripts that take the extension to another version, and back; the library stays."""
    folder = os.path.join(server.inst.ask('--sharedir'), 'extension')
    ours = server.value("SELECT default_version FROM pg_available_extensions WHERE name = 'cdp'")
    paths = [f'{folder}/cdp--{a}--{b}.sql' for a, b in ((ours, version), (version, ours))]
    try:
        for path in paths:
            with open(path, 'w', encoding='ascii') as f:
                f.write('SELECT 1;\n')
        yield ours
    finally:
        for path in paths:
            os.remove(path)


def refused(s, session, message):
    """Nobody works with what does not fit, the status says why, and no worker comes and goes."""
    def row(item):
        return s.server.rows('SELECT severity, message FROM cdp.status WHERE item = %s', item)

    def source_processes():
        return [pid for pid in machine.process_children(s.server.process.pid)
                if machine.process_title(pid).startswith('postgres: cdp source') or not machine.process_lives(pid)]

    def last_round():
        return s.server.value("SELECT state_change FROM pg_stat_activity WHERE backend_type = 'cdp maintenance'")

    tap.wait_for(lambda: row('maintenance'), 'the status says why no worker works',
                 good=lambda rows: rows == [('error', 'no worker may work: ' + message)])
    tap.wait_for(source_processes, 'the source workers have left, and the postmaster has said so', good=lambda pids: not pids)
    tap.same(row('version'), [('error', message)], f'the status knows: {message}')
    try:
        session.execute('SELECT cdp.ingest(%s)', ['{"type": "track", "event": "e", "userId": "u", "messageId": "refused"}'])
        tap.ok(False, 'an open session is refused, too')
    except psycopg.Error as e:
        tap.same((e.sqlstate, e.diag.message_primary), ('55000', message), 'an open session is refused, too')
    pids, mark = s.server.pids('cdp'), s.server.log_mark()
    for _ in range(2):
        before = last_round()
        tap.wait_for(last_round, 'another round', good=lambda at: at > before)  # pylint: disable=cell-var-from-loop
    tap.same((s.server.pids('cdp'), s.server.log_after(mark)), (pids, ''), 'the maintenance worker waits, and is silent')


def versions(s):
    """The library does not fit the SQL, or not the tables: everything waits until it does."""
    session = s.server.connect()
    message = 'the library of cdp is version {}, but the extension is version 0.9.0'
    with other_version(s.server, '0.9.0') as ours, s.pour() as pour:
        pour.flows()
        s.server.rows("ALTER EXTENSION cdp UPDATE TO '0.9.0'")
        refused(s, session, message.format(ours))
        session.close()
        s.server.stop()
        s.server.start()
        session = s.server.connect()
        refused(s, session, message.format(ours))
        s.server.rows(f"ALTER EXTENSION cdp UPDATE TO '{ours}'")
        pour.flows()
    s.judge('a newer library than the SQL')
    with s.pour() as pour:
        pour.flows()
        s.server.rows('INSERT INTO cdp_data.version (version) VALUES (99)')
        refused(s, session, 'the tables of cdp have layout 99, but this library works with layout 1')
        s.server.rows('DELETE FROM cdp_data.version WHERE version = 99')
        pour.flows()
    session.close()
    s.judge('newer tables than the library')


def shown(s, text):
    """Wait until cdp.status says so of the source."""
    tap.wait_for(lambda: s.server.value("SELECT message FROM cdp.status WHERE item = 'source shop'"), f'the status says: {text}',
                 good=lambda message: text in message)


def library_replaced(s):
    """A source worker that starts while the package manager is at work finds no library."""
    path = os.path.join(s.server.inst.ask('--pkglibdir'), 'cdp_kafka.so')
    with s.pour() as pour:
        pour.flows()
        os.rename(path, path + '.old')
        try:
            s.server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'cdp source'")
            shown(s, 'cdp_kafka')
        finally:
            os.rename(path + '.old', path)
    s.judge('cdp_kafka.so was away')


CHANGES = (
    ('table "identifier" is not as cdp made it',
     'CREATE TRIGGER ours BEFORE UPDATE ON cdp_data.identifier FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
     'DROP TRIGGER ours ON cdp_data.identifier'),
    ('" is not as cdp made it', 'ALTER TABLE cdp_data.event ADD COLUMN ours integer NOT NULL DEFAULT 1',
     'ALTER TABLE cdp_data.event DROP COLUMN ours'),
    ('table "identifier" is not as cdp made it', 'CREATE RULE ours AS ON UPDATE TO cdp_data.identifier DO ALSO NOTHING', 'DROP RULE ours ON cdp_data.identifier'),
    ('table "identifier" is not as cdp made it', 'ALTER TABLE cdp_data.identifier ADD COLUMN ours integer GENERATED ALWAYS AS (1) STORED',
     'ALTER TABLE cdp_data.identifier DROP COLUMN ours'),
    ('table "identifier" is not as cdp made it', 'ALTER TABLE cdp_data.identifier ALTER COLUMN alone_message TYPE varchar COLLATE "C"',
     'ALTER TABLE cdp_data.identifier ALTER COLUMN alone_message TYPE text COLLATE "C"'),
    ('table "profile_trait" is not as cdp made it',
     'ALTER TABLE cdp_data.profile_trait DROP CONSTRAINT profile_trait_pkey, ADD CONSTRAINT profile_trait_pkey PRIMARY KEY (chunk, fragment_id)',
     'ALTER TABLE cdp_data.profile_trait DROP CONSTRAINT profile_trait_pkey, ADD CONSTRAINT profile_trait_pkey PRIMARY KEY (fragment_id, chunk)'),
    ('no partition of "event" covers', 'ALTER TABLE cdp_data.event DETACH PARTITION cdp_data.event_first',
     'ALTER TABLE cdp_data.event ATTACH PARTITION cdp_data.event_first {}'))


def not_as_made(s):
    """A change that the engine cannot live with stops the source, and costs no message."""
    bounds = s.server.value("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'event_first'")
    for message, change, back in CHANGES:
        with s.pour() as pour:
            pour.flows()
            s.server.rows(change)
            shown(s, message)
            if 'as cdp made it' in message:
                tap.same(s.server.rows("SELECT severity FROM cdp.status WHERE item = 'shapes'"), [('error',)], 'cdp.status says so before a message comes')
            s.server.rows(back.format(bounds))
        s.judge(message)


def main():
    """All of it over one server and one broker."""
    s = shop.Shop('ddl', max_prepared_transactions=10).open()
    for situation in (maintenance_commands, locks, locked_for_the_status, other_numbers_of_workers, drop_extension, rename, clone_and_drop, versions, library_replaced,
                      not_as_made):
        situation(s)
    s.server.stop()


tap.main(main)
