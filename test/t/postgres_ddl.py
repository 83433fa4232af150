"""What administrators do to a database while its sources are consumed: none of it costs or doubles an event."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
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
                pour.flows()
                tap.ok(True, f'{table} is locked: events go on')
        pour.flows()
        tap.wait_for(lambda: ends in s.server.log_after(mark), f'the log says that it goes on with {table}')
        tap.same(s.server.pids('cdp'), pids, f'{table} was locked: no worker ended')


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
    """A clone is made and dropped while both consume."""
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
    s.judge('a clone that was resumed', 'clone')
    with s.pour() as pour:
        pour.flows('clone')
        s.server.rows('DROP DATABASE clone', dbname='postgres')
        pour.flows()
    s.judge('CREATE DATABASE TEMPLATE and DROP DATABASE')


def main():
    """All of it over one server and one broker."""
    s = shop.Shop('ddl', max_prepared_transactions=10).open()
    for situation in (maintenance_commands, locks, drop_extension, rename, clone_and_drop):
        situation(s)
    s.server.stop()


tap.main(main)
