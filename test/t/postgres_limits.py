"""What runs out: worker slots, connections, locks, disk space, transaction ids; all goes on when there is some again."""
import os
import shutil
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import shop      # noqa: E402
import tap       # noqa: E402

psycopg = postgres.psycopg
SLOTS = 6                       # max_worker_processes: the launcher, the maintenance worker, two of the source, two more
CONNECTIONS = 30
DATA_MB, WAL_MB = 256, 96       # the small disks
SEGMENT = 16 * 1024 * 1024
STOP_LIMIT = 2 ** 31 - 3000000  # transaction ids after the oldest at which PostgreSQL refuses to give more


def worker_slots(s):
    """A parallel query has all the slots for a while."""
    s.server.rows('CREATE TABLE public.wide AS SELECT g FROM generate_series(1, 20000) g', dbname='postgres')
    s.server.rows('ALTER TABLE public.wide SET (parallel_workers = 16)', dbname='postgres')
    with s.pour() as pour:
        pour.flows()
        workers = [pid for pid, in s.server.rows("SELECT pid FROM pg_stat_activity WHERE backend_type IN ('cdp source', 'cdp maintenance')")]
        s.server.rows('ALTER DATABASE cdp SET cdp.workers = off')
        for pid in workers:     # a slot is free once the postmaster has reaped its process, before it accepts the next connection
            tap.wait_for(lambda: not os.path.exists(f'/proc/{pid}'), f'worker {pid} is gone')
        query = s.server.connect('postgres')
        for name, value in {'max_parallel_workers_per_gather': 16, 'max_parallel_workers': 16, 'parallel_setup_cost': 0,
                            'parallel_tuple_cost': 0, 'min_parallel_table_scan_size': 0}.items():
            query.execute(f'SET {name} = {value}')
        runner = threading.Thread(target=hold, args=(query, "SELECT count(*) FROM public.wide WHERE pg_sleep(1)::text = ''"), daemon=True)
        runner.start()
        tap.wait_for(lambda: s.server.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'"),
                     'nearly all slots are used', good=lambda n: n >= SLOTS - 2)
        mark = s.server.log_mark()
        s.server.rows('ALTER DATABASE cdp RESET cdp.workers')
        tap.wait_for(lambda: s.server.value("SELECT severity FROM cdp.status WHERE item = 'worker_slots'"), 'the status says so',
                     good=lambda severity: severity == 'error')
        tap.wait_for(lambda: 'no background worker slot is free' in s.server.log_after(mark), 'the log says so')
        query.cancel()
        runner.join()
        query.close()
    s.judge('max_worker_processes used up')
    tap.same(s.server.log_after(mark).count('no background worker slot is free'), 1, 'the log says so once')


def hold(connection, sql):
    """Run until it is cancelled."""
    try:
        connection.execute(sql)
    except psycopg.errors.QueryCanceled:
        pass


def connections(s):
    """Clients have every connection."""
    held = []
    with s.pour() as pour:
        pour.flows()
        try:
            while True:
                held.append(s.server.connect())
        except psycopg.OperationalError as e:
            tap.ok('too many clients' in str(e) or 'slots' in str(e), 'every connection is used', e)
        held[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('cdp source', 'cdp maintenance')")
        last = s.sent
        tap.wait_for(lambda: held[0].execute('SELECT count(*) FROM cdp_data.event WHERE message_id = ANY (%s)',
                                             [[f'm-{n}' for n in range(last + 400, last + 600)]]).fetchone()[0], 'workers start all the same')
        for c in held:
            c.close()
    s.judge('max_connections used up')


def locks(s):
    """Somebody fills the table of locks."""
    with s.pour() as pour:
        pour.flows()
        mark = s.server.log_mark()
        with s.server.connect('postgres') as c:
            try:
                c.execute('SELECT count(pg_advisory_lock(g)) FROM generate_series(1, 10000000) g')
                tap.ok(False, 'the table of locks is full')
            except psycopg.errors.OutOfMemory:
                pass
            try:
                for n in range(1, 1000000):
                    c.execute('SELECT pg_advisory_lock(%s)', [n])
            except psycopg.errors.OutOfMemory:
                pass
            tap.wait_for(lambda: 'out of shared memory' in s.server.log_after(mark), 'workers run into it')
    s.judge('locks used up')


def ingest_fails(s, sqlstate, what):
    """A client gets the error, and its message is nowhere."""
    body = segment.encode(segment.track('never', 0, userId='never', properties={'padding': 'x' * 200000})).decode()
    try:
        with s.server.connect() as c:
            c.execute("INSERT INTO cdp.inbox (message) SELECT replace(%s, '\"never\"', '\"never' || g || '\"') FROM generate_series(1, 100) g", [body])
        tap.ok(False, what)
    except psycopg.Error as e:
        tap.same(e.sqlstate, sqlstate, what)


OF_FULL = 2000                  # events of the person who is forgotten, as many are purged
YEAR_MS = 365 * 86400 * 1000


def full_person(s):
    """Somebody with many events now, and many of a year before: both are to go while there is no space."""
    padding = 'x' * 1000
    bodies = [segment.encode(segment.track(f'full-{kind}-{n}', n - age, userId='full-person', properties={'padding': padding})).decode()
              for kind, age in (('new', 0), ('old', YEAR_MS)) for n in range(OF_FULL)]
    s.server.rows('INSERT INTO cdp.inbox (message) SELECT unnest(%s::text[])', bodies)
    s.client_rows += len(bodies)


def ends_or_fails(s, sql, dbname='cdp'):
    """The answer, or nothing when there was no space for it; no other error."""
    try:
        return s.server.value(sql, dbname=dbname)
    except psycopg.Error as e:
        tap.same(e.sqlstate, '53100', f'no space for "{sql[:60]} ..."')
        return None


PURGE = ("SELECT coalesce(sum(n::integer), 0)::integer FROM jsonb_each_text(cdp.purge_before("
         f"'{segment.stamp(-YEAR_MS // 2)}', dry_run => {{}})->'event') e (partition, n)")
FORGET = "SELECT cdp.forget('user_id', 'full-person', 'asked', dry_run => {})->'deleted'->'event'"


def whole_or_not_at_all(s, what, sql):
    """What failed for want of space has done nothing and works afterwards, what ended has done everything."""
    expected = s.server.value(sql.format('true'))
    done = ends_or_fails(s, sql.format('false'))
    tap.note(f'{what} on a full disk: {done} of {expected}')
    tap.same(s.server.value(sql.format('true')) if done is None else done, expected, f'{what} on a full disk: everything or nothing')
    s.client_rows -= done or 0
    return done


def finish(s, what, sql, done):
    """There is space again."""
    if done is None:
        s.client_rows -= s.server.value(sql.format('false'))
    tap.ok(not s.server.value(sql.format('true')), f'{what}: nothing is left')


def administration_on_full_disk(s, disk):
    """cdp.forget(), cdp.purge_before() and cdp.setup() without space for them."""
    full_person(s)
    s.server.create_database('later', setup=False)
    s.server.rows('CREATE EXTENSION cdp', dbname='later')
    s.server.rows('CHECKPOINT')
    with s.pour() as pour:
        pour.flows()
        disk.fill(0)
        purged = whole_or_not_at_all(s, 'a purge', PURGE)
        forgotten = whole_or_not_at_all(s, 'a forgetting', FORGET)
        tap.same(ends_or_fails(s, 'SELECT cdp.setup()', 'later'), None, 'there is no space for new tables')
        tap.same(s.server.value("SELECT to_regnamespace('cdp_data')", dbname='later'), None, 'none of them is there')
        disk.empty()
        finish(s, 'a purge', PURGE, purged)
        finish(s, 'a forgetting', FORGET, forgotten)
        s.server.rows('SELECT cdp.setup()', dbname='later')
        s.server.rows('SELECT * FROM cdp.ingest(%s)', segment.encode(segment.track('later', 0, userId='later')).decode(), dbname='later')
        tap.same(s.server.value('SELECT count(*) FROM cdp.event', dbname='later'), 1, 'set up when there is space')
        s.server.rows('DROP DATABASE later', dbname='postgres')
    s.judge('administration on a full disk')


def data_full(s, disk):
    """No space where the tables are."""
    with s.pour() as pour:
        pour.flows()
        disk.fill(0)
        tap.wait_for(lambda: s.server.value("SELECT message FROM cdp.status WHERE item = 'source shop'"), 'the status says so',
                     good=lambda message: 'No space left on device' in message)
        ingest_fails(s, '53100', 'a client gets the error')
        disk.empty()
    s.judge('disk full')


def wal_full(s, disk):
    """No space for the log: PostgreSQL stops, and comes back by itself or is started again."""
    mark = s.server.log_mark()
    disk.fill(SEGMENT - 1)

    def panics():
        s.send(5000)
        return 'PANIC' in s.server.log_after(mark)
    tap.wait_for(panics, 'PostgreSQL panics')
    disk.empty()
    tap.wait_for(lambda: is_back(s.server), 'PostgreSQL is back')
    s.judge('disk of the log full')


def is_back(server):
    """It answers; where it has ended it is started."""
    if server.process.poll() is not None:
        tap.note('PostgreSQL had ended')
        server.start()
    return server.answers()


def transaction_ids(s):
    """Transaction ids run out: PostgreSQL refuses to write until autovacuum has frozen every table of every database."""
    oldest = s.server.value('SELECT min(datfrozenxid::text::bigint) FROM pg_database')
    s.server.stop()
    following = oldest + STOP_LIMIT
    segment_number = following // (8192 * 4 * 32)
    path = os.path.join(s.server.data, 'pg_xact', f'{segment_number:04X}')
    with open(path, 'wb') as f:
        f.write(bytes(8192 * 32))
    machine.give_to_server(path)
    machine.run([s.server.inst.program('pg_resetwal'), '-x', str(following), '-D', s.server.data], **machine.as_server_user(), cwd='/')
    mark = s.server.log_mark()
    s.server.start()
    s.send(2000)
    tap.wait_for(lambda: 'to avoid wraparound data loss' in s.server.log_after(mark), 'transaction ids have run out')
    tap.wait_for(lambda: s.server.value("SELECT max(age(datfrozenxid)) < 1000000 FROM pg_database"), 'autovacuum has frozen everything', 300)
    s.judge('transaction ids used up')


def big_numbers(s):
    """Sequences beyond 32 bits."""
    for name, in s.server.rows("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND relnamespace = 'cdp_data'::regnamespace"
                               " AND (SELECT seqmax FROM pg_sequence WHERE seqrelid = oid) > 2147483647"):
        s.server.rows('SELECT setval(%s, 8589934592)', name)
    s.server.stop()             # blocks of ids that sessions have are gone
    s.server.start()
    s.send(2000)
    s.judge('sequences beyond 32 bits')


SMALL = {'max_worker_processes': SLOTS, 'max_logical_replication_workers': 0, 'max_connections': CONNECTIONS, 'max_locks_per_transaction': 20,
         'max_wal_size': '64MB', 'min_wal_size': '32MB', 'autovacuum_naptime': '1s', 'shared_buffers': '64MB', 'autovacuum_max_workers': 3}


def move_wal(s, wal):
    """pg_wal of a server that does not run yet has a disk of its own."""
    log = os.path.join(s.server.data, 'pg_wal')
    machine.run(['cp', '-a', log + '/.', wal.path])
    shutil.rmtree(log)
    os.symlink(wal.path, log)


def main():
    """All of it over one server, on small disks where some may be mounted, and one broker."""
    directory = machine.fresh_directory('limits')
    disks = []
    if machine.may_mount():
        disks = [machine.SmallDisk(os.path.join(directory, name), size) for name, size in (('data', DATA_MB), ('wal', WAL_MB))]
    else:
        tap.skip('small disks', 'only root may mount')
    s = shop.Shop('limits', directory, **SMALL)
    situations = [worker_slots, connections, locks, transaction_ids, big_numbers]
    if disks:
        move_wal(s, disks[1])
        situations[3:3] = [lambda s: data_full(s, disks[0]), lambda s: administration_on_full_disk(s, disks[0]), lambda s: wal_full(s, disks[1])]
    s.open()
    for situation in situations:
        situation(s)
    s.server.stop()


tap.main(main)
