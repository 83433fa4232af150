"""kill -9 of the server and of each kind of its processes, at random moments; CREATE EXTENSION and set-up killed, and at once in two databases.

CDP_SOAK: 100 rounds in place of 4.
"""
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import postgres  # noqa: E402
import segment   # noqa: E402
import shop      # noqa: E402
import tap       # noqa: E402

psycopg = postgres.psycopg
ROUNDS = 100 if os.environ.get('CDP_SOAK') else 4
PROCESSES = ('client backend', 'cdp source', 'cdp maintenance', 'cdp launcher', 'walwriter', 'checkpointer')
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE EXTENSION%'"
BACKLOG = 20000
SLOW_BATCH = 100
SLOW = 'CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM count(*) FROM generate_series(1, 300000); RETURN new; END$$'
POSITIONS = 'SELECT sum("position")::bigint FROM cdp_data.source_offset'
INSTALL = ('CREATE EXTENSION cdp', 'SELECT cdp.setup()')


def in_two_databases(server):
    """The roles belong to the server, and so does the key: who is second takes them."""
    for dbname in ('first', 'second', 'third'):
        server.create_database(dbname, setup=False)
    for statement in INSTALL:
        for ends, others in (('rollback', ()), ('commit', ('second', 'third'))):
            with server.connect('first', autocommit=False) as c:
                c.execute(statement)
                waiting = [threading.Thread(target=server.rows, args=(statement,), kwargs={'dbname': name}, daemon=True) for name in others]
                for thread in waiting:
                    thread.start()
                if others and 'EXTENSION' in statement:
                    tap.wait_for(lambda: server.value(WAITING, dbname='postgres'), 'the others wait', good=lambda n: n == len(waiting))
                getattr(c, ends)()
            for thread in waiting:
                thread.join()
    for dbname in ('first', 'second', 'third'):
        tap.same(server.rows('SELECT severity FROM cdp.status WHERE item IN (%s, %s)', 'key', 'version', dbname=dbname), [('ok',)] * 2,
                 f'CREATE EXTENSION and set-up at once: {dbname} has all')
        server.rows(f'DROP DATABASE {dbname} WITH (FORCE)', dbname='postgres')


def kill(server, pid):
    """kill -9 of a process of the server, and wait until the server has noticed."""
    with server.connect('postgres') as witness:
        os.kill(pid, signal.SIGKILL)
        tap.wait_for(lambda: ended(witness), 'the server ends every session')
    tap.wait_for(server.answers, 'the server answers')


def ended(session):
    """True when the server has ended the session."""
    try:
        session.execute('SELECT 1')
        return False
    except psycopg.OperationalError:
        return True


def killed_installation(s):
    """Whoever installs is killed at a random moment: it is there, or it is not."""
    for n in range(ROUNDS // 2):
        name = f'killed_{n}'
        s.server.create_database(name, setup=False)
        if s.random.random() < 0.5:
            s.server.rows(INSTALL[0], dbname=name)
        session = s.server.connect(name)
        pid = session.info.backend_pid
        there = s.server.value("SELECT count(*) FROM pg_extension WHERE extname = 'cdp'", dbname=name)
        worker = threading.Thread(target=install, args=(session, INSTALL[there:]), daemon=True)
        worker.start()
        time.sleep(s.random.random() / 4)       # the random moment, not a wait
        kill(s.server, pid)
        worker.join()
        for statement in INSTALL:
            s.server.rows(statement.replace('EXTENSION', 'EXTENSION IF NOT EXISTS'), dbname=name)
        tap.wait_for(lambda: s.server.rows("SELECT severity FROM cdp.status WHERE item IN ('key', 'version', 'maintenance')", dbname=name),
                     f'{name} is whole', shop.AGAIN_SECONDS, good=lambda rows: rows == [('ok',)] * 3)  # pylint: disable=cell-var-from-loop
        tap.same(s.server.rows('SELECT * FROM cdp.verify()', dbname=name), [], 'a killed set-up is made good by the next one')
        s.server.rows(f'DROP DATABASE {name} WITH (FORCE)', dbname='postgres')


def install(session, statements):
    """Until it is killed."""
    try:
        for statement in statements:
            session.execute(statement)
    except psycopg.OperationalError:
        pass


def killed_process(s, kind):
    """One process of that kind, while events and a client's COPY come in."""
    client = s.server.connect(autocommit=False)
    client.execute('SELECT cdp.ingest(%s)', [segment.encode(segment.track('lost', 0, userId='lost')).decode()])
    kill(s.server, client.info.backend_pid if kind == 'client backend' else tap.wait_for(lambda: s.server.value(
        'SELECT pid FROM pg_stat_activity WHERE backend_type = %s ORDER BY random() LIMIT 1', kind, dbname='postgres'), f'a {kind} runs'))
    client.close()


def killed_server(s):
    """kill -9 of the postmaster."""
    s.server.kill()
    s.server.start()


def rounds(s):
    """Kill, wait for the first event that was stored after it, and again; then everything must be there once."""
    slowest = 0
    with s.pour() as pour:
        pour.flows()
        for n in range(ROUNDS + len(PROCESSES)):
            mark = s.sent + s.random.randrange(shop.PER_SECOND)
            tap.wait_for(lambda: s.sent, 'the random moment', good=lambda sent: sent >= mark)  # pylint: disable=cell-var-from-loop
            if n < ROUNDS:
                killed_server(s)
            else:
                killed_process(s, PROCESSES[n - ROUNDS])
            tap.wait_for(s.server.answers, 'the server answers')
            began = time.monotonic()
            pour.flows()
            slowest = max(slowest, time.monotonic() - began)
    tap.ok(slowest <= shop.AGAIN_SECONDS, f'{ROUNDS + len(PROCESSES)} crashes: events are committed again within {shop.AGAIN_SECONDS} s', slowest)
    tap.note(f'the slowest took {slowest:.1f} s')
    s.judge('kill -9')


def killed_beside_busy_worker(s):
    """A worker with a backlog waits for nothing, and sees all the same that the postmaster is gone: it does not go on to the end."""
    s.server.rows('SELECT cdp.pause_source(%s)', shop.SOURCE)
    s.server.rows('SELECT cdp.alter_source(%s, workers => 1)', shop.SOURCE)
    s.server.rows(SLOW)
    s.server.rows('CREATE TRIGGER slow BEFORE UPDATE ON cdp_data.source_offset FOR EACH ROW EXECUTE FUNCTION public.slow()')
    s.server.configure(cdp__batch_rows=SLOW_BATCH)
    s.server.rows('SELECT pg_reload_conf()')
    s.send(BACKLOG)
    s.producer.flush()
    done = s.server.value(POSITIONS)
    s.server.rows('SELECT cdp.resume_source(%s)', shop.SOURCE)
    tap.wait_for(lambda: s.server.value(POSITIONS), 'the worker is busy', good=lambda position: position > done + BACKLOG / 20)
    seen = s.server.value(POSITIONS)
    s.server.kill()
    s.server.configure(cdp__workers='off', cdp__batch_rows=20000)
    s.server.start()
    s.server.rows('DROP TRIGGER slow ON cdp_data.source_offset')
    went_on = s.server.value(POSITIONS) - seen
    tap.ok(went_on <= 20 * SLOW_BATCH, 'kill -9 of the server beside a backlog: its worker ends at once', went_on)
    tap.note(f'{went_on} of {BACKLOG} messages were consumed meanwhile')
    s.server.configure(cdp__workers='on')
    s.server.rows('SELECT pg_reload_conf()')
    s.judge('kill -9 beside a backlog')


def main():
    """One server and one broker."""
    s = shop.Shop('crash')
    s.server.start()
    in_two_databases(s.server)
    s.server.stop()
    s.open()
    killed_installation(s)
    rounds(s)
    killed_beside_busy_worker(s)
    s.server.stop()


tap.main(main)
