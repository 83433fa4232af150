"""Where there are fewer places for workers than workers: what must run does, and a database that wants none is left."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import tap       # noqa: E402

PLACES = 4                      # of background workers; one is the launcher's
WORKERS = 8                     # of the source


def main():
    """No broker: workers wait for it, and so keep their places."""
    server = postgres.Server(postgres.installation(), machine.fresh_directory('slots'), max_worker_processes=PLACES,
                             max_logical_replication_workers=0).start()
    for name in ('other', 'cdp'):
        server.create_database(name)
    server.rows("ALTER DATABASE other SET cdp.workers = off")
    server.rows("SELECT cdp.create_source('s', brokers => %s, topics => '{t}', workers => %s)",
                f'127.0.0.1:{machine.free_port()}', WORKERS)
    tap.wait_for(lambda: len(server.pids('cdp')), 'every place is taken', good=lambda n: n == PLACES - 1)
    tap.wait_for(lambda: server.value("SELECT severity FROM cdp.status WHERE item = 'worker_slots'"), 'the status says so',
                 good=lambda severity: severity == 'error')
    tap.ok(server.pids('cdp maintenance'), 'the maintenance worker has a place')
    for n in range(3):
        server.rows('ALTER DATABASE cdp SET cdp.workers = off')
        tap.wait_for(lambda: server.pids('cdp'), f'workers leave the database ({n})', good=lambda pids: not pids)
        server.rows('ALTER DATABASE cdp RESET cdp.workers')
        tap.wait_for(lambda: len(server.pids('cdp')), f'they come back ({n})', good=lambda n: n == PLACES - 1)
        tap.ok(server.pids('cdp maintenance'), f'the maintenance worker is one of them ({n})')
    server.stop()


tap.main(main)
