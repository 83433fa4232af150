"""Databases for the judges: a fresh one with cdp set up, configuration, and a way back to an empty workspace.

Connections follow libpq's environment variables (PGHOST, PGPORT, PGUSER, ...); the user must be a superuser.
"""
import time

import psycopg

RECOVERY_SECONDS = 60
RETRY_SECONDS = 0.1
NOT_YET = ('recovery mode', 'starting up', 'not yet accepting')
# everything that messages leave behind; namespaces, sources and the workspace stay
DATA_TABLES = ('event', 'message_seen', 'quarantine', 'parked', 'identifier', 'link', 'contest', 'decision', 'profile', 'profile_trait', 'dirty',
               'suppression', 'erasure', 'retention_watermark')
CLEARS_BEFORE_TRUNCATE = 100    # DELETE of a few rows is faster than TRUNCATE of all partitions


def connect(dbname, **options):
    """A connection; a server that is recovering from a crash is waited for."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return psycopg.connect(dbname=dbname, autocommit=True, **options)
        except psycopg.OperationalError as e:
            if not any(t in str(e) for t in NOT_YET) or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def drop_database(name):
    with connect('postgres') as conn:
        conn.execute(f'DROP DATABASE IF EXISTS {name} WITH (FORCE)')


def fresh_database(name):
    """A new database with the extension set up in it, and a connection to it."""
    try:
        drop_database(name)
    except psycopg.OperationalError:                                # the server is about to notice that a process crashed
        time.sleep(RETRY_SECONDS)
        drop_database(name)
    with connect('postgres') as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    conn = connect(name)
    conn.execute('CREATE EXTENSION cdp')
    conn.execute('SELECT cdp.setup()')
    return conn


class Workspace:
    """The default workspace of one database, emptied and configured again and again."""

    def __init__(self, conn):
        self.conn, self.clears = conn, 0

    def clear(self):
        self.clears += 1
        if self.clears % CLEARS_BEFORE_TRUNCATE == 0:
            self.conn.execute('TRUNCATE ' + ', '.join('cdp_data.' + t for t in DATA_TABLES))
        else:
            with self.conn.transaction():
                for t in DATA_TABLES:
                    self.conn.execute(f'DELETE FROM cdp_data.{t}')

    def configure(self, policy, namespaces):
        """Exactly these namespaces (oracle_model.Namespace) and this policy; the workspace must be empty."""
        with self.conn.transaction():
            self.conn.execute('DELETE FROM cdp_data.namespace')
            for n in namespaces:
                window = None if n.window is None else f'{n.window} microseconds'
                self.conn.execute(
                    'SELECT cdp.set_namespace(name => %s, priority => %s, level => %s, value_limit => %s, limit_window => %s::interval, degree => %s,'
                    ' owner => %s, normaliser => %s, valid => %s, blocked => %s)',
                    (n.name, n.priority, 'household' if n.household else 'individual', n.limit, window, n.degree,
                     n.owner, ','.join(n.normaliser) or 'none', n.valid, list(n.blocked)))
            self.conn.execute('SELECT cdp.set_identity_policy(%s)', (policy,))

    def identifiers(self):
        """{identifier: (profile id or None, first letter of the state)}"""
        return {(n, v): (p, s[0]) for n, v, p, s in
                self.conn.execute('SELECT namespace, value, profile_id, state FROM cdp.identifier')}
