"""A million workspaces (F32): memory is bounded, messages are applied, Kafka's too; how long statements take is noted.

usage: many_workspaces.py [NUMBER]

Workspaces and their namespaces are written into the tables as create_workspace() would, which takes hours one by one.
"""
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

NUMBER = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
SOURCES = 500                   # in as many workspaces, by chance
GROWTH = 16 * 1024 * 1024       # of a session that writes to all of these
WORKER = 32 * 1024 * 1024       # of the maintenance worker
SEED = int(os.environ.get('CDP_SEED') or time.time())


def make_workspaces(server):
    """Named many-1 and so on, each with the namespaces that the first one has."""
    columns = 'name, priority, level, value_limit, limit_window, degree, owner, normaliser, valid, blocked, weight'
    with server.connect() as c:
        c.execute("INSERT INTO cdp_data.workspace (name) SELECT 'many-' || g FROM generate_series(1, %s) g", [NUMBER])
        c.execute(f"""INSERT INTO cdp_data.namespace (workspace_id, {columns})
                      SELECT m.id, {columns} FROM cdp_data.namespace n, (SELECT workspace_id AS id FROM cdp_data.workspace WHERE name LIKE 'many-%') m
                      WHERE n.workspace_id = (SELECT workspace_id FROM cdp_data.workspace WHERE name = 'default')""")


def timed(what, function):
    """Call it, and note how long it took: measured, not asserted."""
    start = time.monotonic()
    result = function()
    tap.note(f'{what}: {(time.monotonic() - start) * 1000:.0f} ms')
    return result


def tenant(server, name):
    """Somebody who writes and reads in one of them."""
    server.rows(f'CREATE ROLE "r-{name}" LOGIN IN ROLE cdp_ingest, cdp_analyst')
    server.rows('SELECT cdp.grant_workspace(%s, %s)', f'r-{name}', name)
    return server.connect(user=f'r-{name}')


def check_tenants(server):
    """The first, the last and one that is made when all others are there."""
    timed('create_workspace()', lambda: server.rows("SELECT cdp.create_workspace('late')"))
    for name in ('many-1', f'many-{NUMBER}', 'late'):
        timed('create_source()', lambda name=name: server.rows("SELECT cdp.create_source('sql', workspace => %s)", name))
        with tenant(server, name) as c:
            for n in range(3):
                c.execute('SELECT cdp.ingest(%s)', [segment.encode(segment.track(f'm-{n}', userId=f'{name}-{n}')).decode()]).fetchall()
            tap.same(c.execute('SELECT count(*), min(workspace), max(workspace) FROM cdp.profile').fetchall(), [(3, name, name)], f'{name} has its people')


def check_memory(server):
    """A session that writes to many of them, and the maintenance worker."""
    chosen = random.Random(SEED).sample(range(2, NUMBER), SOURCES)
    for n in chosen:
        server.rows("SELECT cdp.create_source(%s, workspace => %s)", f'source-{n}', f'many-{n}')
    with server.connect() as c:
        before = machine.anonymous_memory(c.info.backend_pid)
        for n in chosen:
            c.execute('SELECT cdp.ingest(%s, %s)', [segment.encode(segment.track('same', userId='same')).decode(), f'source-{n}']).fetchall()
        grown = machine.anonymous_memory(c.info.backend_pid) - before
    tap.ok(grown < GROWTH, f'a session that wrote to {SOURCES} of them is not too big', grown)
    tap.same(server.value("SELECT count(DISTINCT workspace_id) FROM cdp_data.event WHERE message_id = 'same'"), SOURCES, 'each has its event')
    (pid,) = server.pids('cdp maintenance')
    size = machine.anonymous_memory(pid)
    tap.note(f'session {grown // 1024} kB more, maintenance worker {size // 1024} kB')
    tap.ok(size < WORKER, 'the maintenance worker is not too big', size)


def check_kafka(server, kafka):
    """A source of one of them."""
    kafka.create_topic('many', 2)
    server.rows("SELECT cdp.create_source('kafka', %s, '{many}', workspace => 'many-77')", kafka.address)
    producer = kafka.producer()
    for n in range(1000):
        producer.send('many', segment.encode(segment.track(f'k-{n}', userId=f'k-{n % 50}')))
    producer.flush()
    tap.wait_for(lambda: server.value("SELECT count(*) FROM cdp_data.event WHERE message_id LIKE 'k-%'"), 'all is consumed', good=lambda n: n == 1000)
    tap.ok(True, 'a Kafka source of one of them is consumed')


def main():
    """One server, one broker."""
    tap.note(f'CDP_SEED={SEED}, {NUMBER} workspaces')
    directory = machine.fresh_directory('many')
    kafka = broker.Kafka(directory).start()
    server = postgres.Server(postgres.installation(), directory).start()
    server.create_database()
    timed('all workspaces', lambda: make_workspaces(server))
    tap.same(timed('cdp.status', lambda: server.rows("SELECT item, message FROM cdp.status WHERE severity <> 'ok'")), [], 'the status is clean')
    check_tenants(server)
    check_memory(server)
    check_kafka(server, kafka)
    server.rows("SELECT cdp.grant_workspace(current_user::text, 'many-77')")
    tap.same(timed('verify()', lambda: server.rows('SELECT * FROM cdp.verify()')), [], 'cdp.verify() finds nothing')
    timed('forget()', lambda: server.rows("SELECT cdp.forget('user_id', 'k-1', 'soak', dry_run => false)"))
    timed('drop_workspace()', lambda: server.rows("SELECT cdp.drop_workspace('many-78', dry_run => false)"))


tap.main(main)
