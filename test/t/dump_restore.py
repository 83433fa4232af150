"""pg_dump into a fresh cluster without the roles, and a clone: the same database, whose sources wait to be resumed."""
import os
import re
import shutil
import sys
import threading

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import contents  # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

MESSAGES = 2000
PER_ROUND = 200
PEOPLE = 100
BAD_EVERY = 50
FORGOTTEN = 10                  # before the first dump: this person must not come back
RESUME_SECONDS = 30             # by themselves: the limit
KEY_NEEDED = ["SELECT cdp.setup()", "SELECT cdp.ingest('{}')", "SELECT cdp.find_profile('user_id', 'u-7')", "SELECT cdp.pseudonym(1)"]
ENDED_WORKERS = re.compile(r'background worker "cdp maintenance" \(PID \d+\) exited with exit code (\d+)')


class Feed:
    """Messages with people, traits and something for quarantine."""

    def __init__(self, kafka):
        self.producer = kafka.producer()
        self.sent = 0

    def round(self, count):
        """Send some more."""
        for n in range(self.sent, self.sent + count):
            person = n % PEOPLE
            if n % 10 == 0:
                message = segment.identify(f'm-{n}', n * 1000, userId=f'u-{person}', anonymousId=f'a-{person}',
                                           traits={'plan': f'plan {n}', 'email': f'u{person}@shop.example'})
            else:
                message = segment.track(f'm-{n}', n * 1000, anonymousId=f'a-{person}', properties={'n': n})
            self.producer.send('shop', segment.encode(message) if n % BAD_EVERY != 1 else b'{broken')
        self.sent += count
        self.producer.flush()

    def good(self):
        """How many are there in the end."""
        return sum(n % BAD_EVERY != 1 and n % PEOPLE != FORGOTTEN for n in range(self.sent))


class Way:
    """One way to dump and restore."""

    def __init__(self, name, dump, restore):
        self.name = name
        self.dump = dump                # arguments of pg_dump
        self.restore = restore          # programs with their arguments, one after the other

    def write(self, old, path, snapshot=None):
        """Dump the database cdp."""
        arguments = [*self.dump, '-f', path] + (['--snapshot=' + snapshot] if snapshot else [])
        machine.run([old.inst.program('pg_dump'), *arguments], env=old.environment())

    def read(self, new, path, between=None):
        """Restore; between is called after each program but the last."""
        new.rows('CREATE DATABASE cdp', dbname='postgres')
        for n, (program, *arguments) in enumerate(self.restore):
            if n and between:
                between(new, n)
            machine.run([new.inst.program(program), *arguments, path], env=new.environment())


PSQL = ['psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1']
RESTORE = ['pg_restore', '--exit-on-error', '-d', 'cdp']
PLAIN = Way('pg_dump | psql', ['-Fp'], [[*PSQL, '-f']])
ALL_OR_NOTHING = Way('pg_restore -1', ['-Fc'], [[*RESTORE, '-1']])
PARALLEL = Way('pg_dump -j2 and pg_restore -j2', ['-Fd', '-j2'], [[*RESTORE, '-j2']])
SECTIONS = Way('pg_restore in sections', ['-Fc'], [[*RESTORE, '--section=' + s] for s in ('pre-data', 'data', 'post-data')])


# ---------------------------------------------------------------- comparing

def content_of(server, dbname='cdp'):
    """Digests of tables and views, and where the sequences are."""
    with server.connect(dbname) as connection:
        return {**contents.tables(connection), **{'cdp.' + k: v for k, v in contents.views(connection).items()},
                'sequences': contents.sequences(connection)}


def masked(server, dbname='cdp'):
    """The views as an analyst of this cluster sees them: pseudonyms come from the key."""
    with server.connect(dbname, user='ana') as connection:
        return contents.views(connection)


def definition_of(server, dbname='cdp'):
    """The schema as pg_dump writes it."""
    text = machine.run([server.inst.program('pg_dump'), '-s', dbname], env=server.environment(dbname))
    return [line for line in text.splitlines() if not line.startswith(('\\restrict', '\\unrestrict'))]


def compare(name, one, other):
    """Two results of content_of()."""
    tap.same(contents.differences(one, other), '', f'{name}: the same content')


# ---------------------------------------------------------------- what holds after each of them

def forget_everything(new):
    """A cluster that never heard of cdp."""
    new.rows('DROP DATABASE IF EXISTS cdp', dbname='postgres')
    for role, in new.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'cdp%%' OR rolname = 'ana'", dbname='postgres'):
        new.rows(f'DROP ROLE {role}', dbname='postgres')


def check_at_rest(server, what, dbname='cdp'):
    """The sources wait; who resumes them too early is told what to do first."""
    tap.same(server.value("SELECT message FROM cdp.status WHERE item = 'maintenance'", dbname=dbname),
             'this data was attached to another server or database; its sources are at rest', f'{what}: cdp.status says that it is a copy')
    tap.same(server.pids('cdp source', dbname), [], f'{what}: no source runs')
    try:
        server.rows("SELECT cdp.resume_source('shop')", dbname=dbname)
        tap.ok(False, f'{what}: no source can be resumed before cdp.setup()')
    except psycopg.Error as e:
        tap.same(e.diag.message_hint, 'Run SELECT cdp.setup() as a superuser first.', f'{what}: no source can be resumed before cdp.setup()')
    server.rows('SELECT cdp.setup()', dbname=dbname)
    tap.wait_for(lambda: server.value("SELECT severity FROM cdp.status WHERE item = 'maintenance'", dbname=dbname), f'{what}: maintenance runs',
                 good=lambda severity: severity == 'ok')
    tap.same(server.rows('SELECT DISTINCT state FROM cdp.source_status', dbname=dbname), [('paused',)], f'{what}: attached, the sources are paused')
    tap.same(server.pids('cdp source', dbname), [], f'{what}: and still none runs')
    tap.same(server.rows('SELECT * FROM cdp.verify()', dbname=dbname), [], f'{what}: cdp.verify() finds nothing')


def check_goes_on(server, feed, what, dbname='cdp'):
    """Resumed, everything that is in the topic is there, once."""
    server.rows("SELECT cdp.resume_source('shop')", dbname=dbname)
    tap.ok(server.value("SELECT cdp.wait_for_source('shop', '60 s')", dbname=dbname), f'{what}: resumed, the source goes on',
           server.rows('SELECT * FROM cdp.source_status', dbname=dbname))
    check_complete(server, feed, what, dbname)


def check_complete(server, feed, what, dbname='cdp'):
    """Nothing is lost or repeated."""
    stored = server.rows("SELECT count(*), count(DISTINCT message_id) FROM cdp.event", dbname=dbname)
    tap.same(stored, [(feed.good(), feed.good())], f'{what}: nothing is lost or repeated, and nobody comes back')
    tap.same(server.rows('SELECT * FROM cdp.verify()', dbname=dbname), [], f'{what}: cdp.verify() still finds nothing')


# ---------------------------------------------------------------- the key

def refusals(server):
    """What those statements say that need the key."""
    said = []
    for sql in KEY_NEEDED:
        try:
            server.rows(sql)
            said.append(f'{sql} was not refused')
        except psycopg.Error as e:
            said.append(e.diag.message_primary)
    return said


def put_key(server, content, mode=0o600):
    """A key file with this content."""
    with open(key_of(server), 'wb') as f:
        f.write(content)
    os.chmod(key_of(server), mode)
    machine.give_to_server(key_of(server))


def key_of(server):
    """Where its key is looked for."""
    return os.path.join(server.socket, 'cdp.key')


def check_key(old, new):
    """Without the right key it refuses, and names the file; nothing makes another one."""
    path = key_of(new)
    tap.same(refusals(new), [f'could not read the key file "{path}": No such file or directory'] * len(KEY_NEEDED), 'no key: refused')
    tap.ok(not os.path.exists(path), 'no key: none is made')
    put_key(new, os.urandom(32))
    tap.same(refusals(new), [f'key file "{path}" holds another key than this database was made with'] * len(KEY_NEEDED), 'a wrong key: refused')
    put_key(new, os.urandom(31))
    tap.same(refusals(new), [f'key file "{path}" does not hold 32 bytes'] * len(KEY_NEEDED), 'a short key: refused')
    with open(key_of(old), 'rb') as f:
        key = f.read()
    put_key(new, key, 0o644)
    tap.same(refusals(new), [f'key file "{path}" is not private'] * len(KEY_NEEDED), 'a key that others may read: refused')
    put_key(new, key)
    tap.ok(new.value("SELECT cdp.find_profile('user_id', 'u-20')"), 'the right key: people are found')


# ---------------------------------------------------------------- dump and restore

def check_way(way, old, new, feed, parent, first=False):
    """Dump at rest, restore, compare, go on with what came meanwhile."""
    path = os.path.join(parent, 'dump')
    way.write(old, path)
    before, definition = content_of(old), definition_of(old)
    forget_everything(new)
    way.read(new, path)
    compare(way.name, before, content_of(new))
    tap.ok(definition_of(new) == definition, f'{way.name}: the same definitions')
    if first:
        check_key(old, new)
    new.rows('CREATE ROLE ana LOGIN IN ROLE cdp_analyst')       # roles of one's own are in no dump of a database
    expected = masked(old)
    tap.ok(expected['event'][0] > 0, 'an analyst sees events')
    tap.same(contents.differences(expected, masked(new)), '', f'{way.name}: an analyst sees the same')
    check_at_rest(new, way.name)
    feed.round(PER_ROUND)
    check_goes_on(new, feed, way.name)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), f'{way.name}: the old one goes on, too')
    remove(path)


def remove(path):
    """A dump, file or directory."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def check_dump_under_load(old, new, feed, parent):
    """A dump of a database that is consuming is one state of it, positions included."""
    way, path = PARALLEL, os.path.join(parent, 'dump')
    dumped = threading.Event()

    def produce():
        while not dumped.is_set():
            feed.round(PER_ROUND)
    producing = threading.Thread(target=produce)
    with old.connect(autocommit=False) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        producing.start()
        try:
            seen = feed.sent
            tap.wait_for(lambda: old.value('SELECT sum("position") FROM cdp.source_status'), 'some is consumed', good=lambda n: n > seen)
            snapshot = connection.execute('SELECT pg_export_snapshot()').fetchone()[0]
            before = contents.tables(connection)
            way.write(old, path, snapshot)
        finally:
            dumped.set()
            producing.join()
    forget_everything(new)
    way.read(new, path)
    with new.connect() as connection:
        tap.same(contents.differences(before, contents.tables(connection)), '', f'{way.name}: the state of the dump')
    check_at_rest(new, way.name)
    check_goes_on(new, feed, way.name)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), f'{way.name}: the old one goes on, too')
    remove(path)


def ended_workers(server):
    """Exit codes of the maintenance workers so far."""
    with open(server.log, encoding='utf-8', errors='replace') as f:
        return ENDED_WORKERS.findall(f.read())


def look_between(new, part):
    """The launcher looks at the database before its tables are filled, and before they have keys and policies."""
    before = len(ended_workers(new))
    new.rows('SELECT pg_reload_conf()', dbname='postgres')
    if part == 1:
        ended = tap.wait_for(lambda: ended_workers(new)[before:], 'a worker looks at the empty tables')
        tap.same(set(ended), {'0'}, 'a worker finds that cdp is not set up while a restore is under way')
        return
    wait_for_round(new)
    tap.ok(True, 'a worker looks at data that was not attached here')


def wait_for_round(server, dbname='cdp'):
    """The maintenance worker has done in a database what it wants to do."""
    tap.wait_for(lambda: server.rows("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'cdp maintenance' AND datname = %s AND state = 'idle'",
                                     dbname, dbname='postgres'), 'a worker finds the data')


def check_restore_that_is_watched(old, new, feed, parent):
    """Workers that look while a restore is under way do no harm to it."""
    path = os.path.join(parent, 'dump')
    SECTIONS.write(old, path)
    before = content_of(old)
    forget_everything(new)
    SECTIONS.read(new, path, look_between)
    compare(SECTIONS.name, before, content_of(new))
    check_at_rest(new, SECTIONS.name)
    check_goes_on(new, feed, SECTIONS.name)


# ---------------------------------------------------------------- a clone

def check_clone(old, feed):
    """CREATE DATABASE ... TEMPLATE of a database that is consuming."""
    before = content_of(old)
    old.rows('CREATE DATABASE twin TEMPLATE cdp', dbname='postgres')
    compare('clone', before, content_of(old, 'twin'))
    tap.wait_for(lambda: old.pids('cdp source'), 'workers of the original come back', RESUME_SECONDS)
    wait_for_round(old, 'twin')
    feed.round(PER_ROUND)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'clone: the original goes on')
    compare('clone: at rest', before, content_of(old, 'twin'))
    check_at_rest(old, 'clone', 'twin')
    check_goes_on(old, feed, 'clone', 'twin')
    check_complete(old, feed, 'original')
    tap.wait_for(lambda: old.value('SELECT bool_and(ready) FROM cdp.read_filters()', dbname='twin'), 'clone: filters are built')
    old.rows("SELECT cdp.set_source_position('shop', 'shop', 0, 0)", dbname='twin')
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')", dbname='twin'), 'clone: a partition is read again')
    check_complete(old, feed, 'clone, read again', 'twin')


def main():
    """One database, and the ways to move it."""
    parent = machine.fresh_directory('dump')
    inst = postgres.installation()
    directories = [postgres.server_directory(parent, name) for name in ('old', 'new')]
    # debug1: the log says how each worker ended
    old, new = (postgres.Server(inst, d, cdp__key_file=os.path.join(d, 'cdp.key'), log_min_messages='debug1').start() for d in directories)
    old.create_database()
    old.rows("SELECT cdp.make_partitions(now() + interval '1 month')")      # none is made in between, whenever this runs
    kafka = broker.Kafka(parent).start()
    kafka.create_topic('shop', 2)
    feed = Feed(kafka)
    feed.round(MESSAGES)
    old.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'consumed before the dump',
           old.rows('SELECT * FROM cdp.source_status'))
    # views become barriers, and each role sees what it was granted, by its name
    old.rows("SELECT cdp.create_workspace('brand-b')")
    old.rows('CREATE ROLE ana LOGIN IN ROLE cdp_analyst')
    for role in ('postgres', 'ana'):
        old.rows("SELECT cdp.grant_workspace(%s, 'default')", role)
    old.rows(f"SELECT cdp.forget('user_id', 'u-{FORGOTTEN}', 'request', dry_run => false)")
    tap.wait_for(lambda: old.rows("SELECT 1 FROM cdp.erasure WHERE completed_at IS NULL"), 'the erasure is complete', good=lambda rows: not rows)
    tap.same(new.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'cdp%%'", dbname='postgres'), [], 'the new cluster has none of the roles')

    for way in (PLAIN, ALL_OR_NOTHING):
        check_way(way, old, new, feed, parent, first=way is PLAIN)
    check_dump_under_load(old, new, feed, parent)
    check_restore_that_is_watched(old, new, feed, parent)
    check_clone(old, feed)


tap.main(main)
