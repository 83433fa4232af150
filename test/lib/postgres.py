"""A private PostgreSQL: a relocated copy of the machine's, with cdp built into it, and servers of it.

PostgreSQL finds its files relative to its programs, so a copy of its
directories under another root is a complete installation, into which
`make install` needs no privilege and harms nobody.
"""
import os
import shutil
import signal
import subprocess

import psycopg

import machine
import tap

START_SECONDS = 120
NOT_SOURCE = shutil.ignore_patterns('.git', '*.o', '*.so', '*.d', '*.bc', '__pycache__', 'cdp--*.sql', 'results',
                                    'output_iso', 'tmp_check')


class Installation:
    """PostgreSQL's programs with cdp, under a directory of ours."""

    def __init__(self, pg_config):
        self.pg_config = pg_config
        self.bindir = self.ask('--bindir')

    def ask(self, what):
        """What pg_config says."""
        return machine.run([self.pg_config, what]).strip()

    def program(self, name):
        """Path of one of PostgreSQL's programs."""
        return os.path.join(self.bindir, name)

    def pgxs(self, path):
        """Path of a test driver that comes with the server's development files."""
        return os.path.join(os.path.dirname(self.ask('--pgxs')), '..', '..', path)


def _copy_server(root, pg_config):
    """Copy PostgreSQL under root; return the copy's pg_config."""
    original = Installation(pg_config)
    for what in ('--pkglibdir', '--bindir', '--sharedir'):
        path = original.ask(what)
        shutil.copytree(path, root + path, symlinks=True, dirs_exist_ok=True)
    include = original.ask('--includedir')
    if not os.path.exists(root + include):
        os.makedirs(os.path.dirname(root + include), exist_ok=True)
        os.symlink(include, root + include)
    return root + original.bindir + '/pg_config'


def install(directory, *make_arguments, original=None):
    """Copy PostgreSQL and the tree under a directory, build cdp there and install it."""
    original = original or os.environ.get('PG_CONFIG') or 'pg_config'
    installation = Installation(_copy_server(os.path.join(directory, 'root'), original))
    source = os.path.join(directory, 'source')
    shutil.copytree(machine.ROOT, source, ignore=NOT_SOURCE, symlinks=True)
    jobs = str(os.cpu_count() or 1)
    for goal in (['-j', jobs, 'all'], ['install']):
        machine.run(['make', '-s', '-C', source, *goal, 'PG_CONFIG=' + installation.pg_config, *make_arguments])
    return installation


def installation():
    """The installation that `make check` made, or one of our own when a test runs alone."""
    given = os.environ.get('CDP_TEST_PG_CONFIG')
    return Installation(given) if given else install(machine.fresh_directory('build'))


def server_directory(parent, name):
    """A directory for one server of several."""
    directory = os.path.join(parent, name)
    os.mkdir(directory)
    machine.give_to_server(directory)
    return directory


class Server:
    """One PostgreSQL server on a free loopback port, with cdp preloaded and nothing in it, or a copy of another."""

    def __init__(self, inst, directory, backup_of=None, **settings):
        self.inst = inst
        self.data = os.path.join(directory, 'data')
        self.socket = directory
        self.port = machine.free_port()
        self.log = os.path.join(directory, 'postgres.log')
        self.process = None
        self.wrapper = []
        if backup_of:
            make = [inst.program('pg_basebackup'), '-D', self.data, '-c', 'fast', '--no-sync', '-d', backup_of.conninfo('postgres')]
        else:
            make = [inst.program('initdb'), '-D', self.data, '-U', 'postgres', '--no-sync', '-E', 'UTF8', '--locale=C.UTF-8', '-A', 'trust']
        machine.run(make, cwd='/', **machine.as_server_user())
        self.configure(**{'port': self.port, 'listen_addresses': '127.0.0.1', 'unix_socket_directories': directory,
                          'shared_preload_libraries': 'cdp', 'shared_buffers': '256MB', 'max_wal_size': '4GB',
                          'log_line_prefix': '%m [%p] %b ', 'max_worker_processes': 32, **settings})
        tap.on_failure(lambda: tap.show_end_of(self.log))

    def configure(self, **settings):
        """Append settings to postgresql.conf; they hold after the next start or reload."""
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as f:
            for name, value in settings.items():
                quoted = str(value).replace("'", "''")
                f.write(f"{name.replace('__', '.')} = '{quoted}'\n")

    def signal_file(self, name):
        """Make an empty file in the data directory: standby.signal or recovery.signal."""
        path = os.path.join(self.data, name)
        with open(path, 'w', encoding='ascii'):
            machine.give_to_server(path)

    def start(self):
        """Start the server and wait until it answers."""
        command = [*self.wrapper, self.inst.program('postgres'), '-D', self.data]
        self.process = machine.start(command, self.log, cwd='/', **machine.as_server_user())
        tap.wait_for(self.answers, 'server answers', START_SECONDS)
        return self

    def answers(self):
        """True when a session can be opened; raises when the server has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f'server ended with {self.process.returncode}, see {self.log}')
        try:
            self.connect('postgres').close()
            return True
        except psycopg.OperationalError:
            return False

    def stop(self, how=signal.SIGINT):
        """Stop it: SIGINT is fast, SIGQUIT immediate, SIGTERM smart."""
        self.process.send_signal(how)
        self.process.wait(START_SECONDS)

    def kill(self):
        """kill -9 of the postmaster; returns when its children have followed it."""
        self.process.send_signal(signal.SIGSTOP)        # no child is born unseen
        children = machine.process_children(self.process.pid)
        self.process.kill()
        self.process.wait()
        tap.wait_for(lambda: [c for c in children if machine.process_lives(c)], 'children of the killed server end',
                     good=lambda left: not left)

    def conninfo(self, dbname='cdp', user='postgres'):
        """Connection string over the socket."""
        return f'host={self.socket} port={self.port} user={user} dbname={dbname}'

    def environment(self, dbname='cdp'):
        """libpq's environment variables for another program."""
        return {**os.environ, 'PGHOST': self.socket, 'PGPORT': str(self.port), 'PGUSER': 'postgres',
                'PGDATABASE': dbname}

    def connect(self, dbname='cdp', user='postgres', **arguments):
        """A psycopg connection in autocommit mode unless told otherwise."""
        return psycopg.connect(self.conninfo(dbname, user), **{'autocommit': True, **arguments})

    def rows(self, sql, *values, dbname='cdp'):
        """All rows of one statement in a session of its own."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql, *values, dbname='cdp'):
        """First column of the first row, None if there is no row."""
        rows = self.rows(sql, *values, dbname=dbname)
        return rows[0][0] if rows else None

    def create_database(self, dbname='cdp', setup=True):
        """A database, with cdp set up unless told otherwise."""
        self.rows(f'CREATE DATABASE {dbname}', dbname='postgres')
        if setup:
            self.rows('CREATE EXTENSION cdp', dbname=dbname)
            self.rows('SELECT cdp.setup()', dbname=dbname)

    def pids(self, backend_type, dbname='cdp'):
        """Process ids of the background workers whose type begins so."""
        return [pid for pid, in self.rows(
            'SELECT pid FROM pg_stat_activity WHERE backend_type LIKE %s AND datname = %s ORDER BY pid',
            backend_type + '%', dbname, dbname='postgres')]

    def log_mark(self):
        """The end of the server log, for log_after()."""
        return os.path.getsize(self.log)

    def log_after(self, mark=0):
        """What the server log has got since."""
        with open(self.log, encoding='utf-8', errors='replace') as f:
            f.seek(mark)
            return f.read()

    def psql(self, *arguments, dbname='cdp', stdin=None):
        """Run psql; return what subprocess.run returns."""
        return subprocess.run([self.inst.program('psql'), '-X', '-v', 'ON_ERROR_STOP=1', *arguments],
                              env=self.environment(dbname), stdin=stdin or subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
