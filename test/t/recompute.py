"""People of many events whom a split or an earlier delivery makes wrong wait in cdp_data.dirty, and come out right: with writers, locks and a crash."""
import datetime
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

from psycopg.types.json import Jsonb  # noqa: E402

LIMIT = 100
EVENTS = 300
HOUR = 3600 * 1000
WRITERS, ROUNDS = 3, 15
MONTHS = datetime.timedelta(days=60)


def message(kind, number, who, milliseconds, late=0, **fields):
    """A message that was received so many milliseconds late: the clock of its sender seems wrong by that, until an earlier delivery comes."""
    return kind(f'{who}-{number}', milliseconds, **{'anonymousId': who, 'sentAt': segment.stamp(milliseconds),
                                                  'receivedAt': segment.stamp(milliseconds + late), **fields})


def ingest(connection, *messages):
    """Messages in one batch."""
    return dict(connection.execute('SELECT outcome, count(*) FROM cdp.ingest(%s) GROUP BY 1', (Jsonb(list(messages)),)).fetchall())


def dirty(connection):
    """Causes of what waits."""
    return [c for c, in connection.execute('SELECT cause FROM cdp_data.dirty ORDER BY fragment_id').fetchall()]


def person(connection, who, namespace='anonymous_id'):
    """Count, first and last hour since the epoch of the test, and a trait."""
    return connection.execute(
        "SELECT event_count, round(extract(epoch FROM first_seen - %s) / 3600), round(extract(epoch FROM last_seen - %s) / 3600), traits ->> 'plan'"
        ' FROM cdp.profile WHERE profile_id = cdp.find_profile(%s, %s)', (segment.EPOCH, segment.EPOCH, namespace, who)).fetchone()


def months(connection, who):
    """The bits of months of a person."""
    return connection.execute("SELECT months FROM cdp_data.profile WHERE fragment_id = cdp.find_profile('anonymous_id', %s)", (who,)).fetchone()[0]


def settled(server, what):
    """Wait until nobody waits, then everything must be right."""
    tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.dirty'), f'{what}: all are computed again', good=lambda n: n == 0)
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: verify() finds nothing')


def workers(server, on):
    """Start or end the maintenance worker."""
    server.rows(f"ALTER DATABASE cdp SET cdp.workers = {'on' if on else 'off'}", dbname='postgres')
    server.rows('SELECT pg_reload_conf()')
    if not on:
        for pid in server.pids('cdp maintenance'):
            server.rows('SELECT pg_terminate_backend(%s)', pid, dbname='postgres')
    tap.wait_for(lambda: len(server.pids('cdp maintenance')), 'the maintenance worker runs, or not', good=lambda n: n == int(on))


def fill(connection, who):
    """A person of many events in one hour, who declared a plan twice; one of the declarations was received late, by 60 days and an hour."""
    late = MONTHS.days * 24 * HOUR + HOUR
    ingest(connection, *[message(segment.track, n, who, HOUR + n) for n in range(EVENTS)],
           message(segment.identify, 'new', who, HOUR, late=late, traits={'plan': 'gold'}),
           message(segment.identify, 'old', who, 2 * HOUR, traits={'plan': 'silver'}))
    return 1 + late // HOUR


def early(who):
    """The other delivery of the declaration: it was made in hour 0, before the other one."""
    return message(segment.identify, 'new', who, HOUR, late=-HOUR, traits={'plan': 'gold'})


def check_moved(server):
    """In the transaction of the batch the state is the old one and the fragment waits; then it is right."""
    with server.connect(autocommit=False) as c:
        last = fill(c, 'moved')
        c.commit()
        tap.same(person(c, 'moved'), (EVENTS + 2, 1, last, 'gold'), 'the late delivery says that the first declaration is the newest')
        two_months = months(c, 'moved')
        tap.same(ingest(c, early('moved')), {'duplicate': 1}, 'its earlier delivery is a duplicate')
        tap.same(dirty(c), ['moved'], 'the person waits to be computed again')
        tap.same(person(c, 'moved'), (EVENTS + 2, 1, last, 'gold'), 'and is not computed in the batch')
        eval_at = c.execute('SELECT max(eval_at) FROM cdp_data.profile').fetchone()[0]
        c.commit()
    settled(server, 'moved')
    with server.connect() as c:
        tap.same(person(c, 'moved'), (EVENTS + 2, 0, 2, 'silver'), 'its counters and traits are right')
        tap.ok(bin(months(c, 'moved') & 2**64 - 1).count('1') < bin(two_months & 2**64 - 1).count('1'), 'the month it left is gone', months(c, 'moved'))
        tap.ok(c.execute('SELECT max(eval_at) FROM cdp_data.profile').fetchone()[0] > eval_at, 'evaluated later than the batch')
        ingest(c, *[message(segment.track, n, 'small', HOUR + n, late=HOUR) for n in range(LIMIT)])
        ingest(c, message(segment.track, 0, 'small', HOUR))
        tap.same((dirty(c), person(c, 'small')), ([], (LIMIT, 1, 2, None)), 'a person of few events is computed again in the batch')


def check_split(server):
    """An earlier link takes a device away from a person, with most of the events."""
    with server.connect(autocommit=False) as c:
        ingest(c, *[message(segment.track, n, 'device', 5 * HOUR + n, userId='one' if n < 10 else None) for n in range(EVENTS)],
               message(segment.identify, 'plan', 'device', 5 * HOUR, traits={'plan': 'gold'}))
        c.commit()
        tap.same(person(c, 'one', 'user_id'), (EVENTS + 1, 5, 5, 'gold'), 'one person with a device')
        ingest(c, message(segment.track, 'other', 'device', HOUR, userId='two'))
        tap.ok(set(dirty(c)) == {'split'} and len(dirty(c)) >= 2, 'all that the split touched waits', dirty(c))
        c.commit()
    settled(server, 'split')
    with server.connect() as c:
        tap.same([person(c, p, 'user_id') for p in ('one', 'two')], [(10, 5, 5, None), (EVENTS - 10 + 2, 1, 5, 'gold')],
                 'each has what is theirs')


def check_held_and_crash(server):
    """Several batches before the job, a crash, and a client that holds one of two people."""
    workers(server, on=False)
    with server.connect() as c:
        for who in ('held', 'free'):
            fill(c, who)
            ingest(c, early(who))
            ingest(c, message(segment.track, 'more', who, 3 * HOUR), message(segment.identify, 'none', who, HOUR + 1, traits={'plan': 'bronze'}))
            ingest(c, message(segment.track, 'more', who, 3 * HOUR, late=-2 * HOUR), message(segment.track, 'most', who, 4 * HOUR))
        tap.same(dirty(c), ['moved', 'moved'], 'one row a person, whatever comes after it')
        tap.same(c.execute("SELECT severity, message FROM cdp.status WHERE item = 'recompute'").fetchone(),
                 ('info', '2 people wait to be computed again from their events'), 'cdp.status says so')
    server.kill()
    server.start()
    with server.connect(autocommit=False) as holder, server.connect() as c:
        tap.same(dirty(c), ['moved', 'moved'], 'after a crash they still wait')
        held = holder.execute("SELECT fragment_id FROM cdp_data.profile WHERE fragment_id = cdp.find_profile('anonymous_id', 'held') FOR UPDATE").fetchone()[0]
        workers(server, on=True)
        tap.wait_for(lambda: server.rows('SELECT fragment_id FROM cdp_data.dirty'), 'who is not held is computed again', good=lambda got: got == [(held,)])
        tap.same(person(c, 'free'), (EVENTS + 5, 0, 4, 'silver'), 'and is right, though another is held')
        tap.ok(server.pids('cdp maintenance'), 'the maintenance worker goes on')
        holder.rollback()
    settled(server, 'held')
    with server.connect() as c:
        tap.same(person(c, 'held'), (EVENTS + 5, 0, 4, 'silver'), 'the other one follows')
        tap.same(c.execute("SELECT severity FROM cdp.status WHERE item = 'recompute'").fetchone(), ('ok',), 'cdp.status says that nobody waits')


def check_writers(server):
    """Batches fold into people while others move their events and the worker computes them again."""
    failures, queued = [], []

    def write(writer):
        try:
            with server.connect() as c:
                for n in range(ROUNDS):
                    at = (10 + n) * HOUR + writer
                    ingest(c, *[message(segment.track, f'{writer}-{n}-{k}', 'busy', at + k, late=HOUR) for k in range(20)],
                           message(segment.identify, f'{writer}-{n}', 'busy', at, late=HOUR, traits={'plan': f'{n:02}-{writer}', f'own{writer}': n}))
                    ingest(c, message(segment.track, f'{writer}-{n}-0', 'busy', at), message(segment.identify, f'{writer}-{n}', 'busy', at, traits={
                        'plan': f'{n:02}-{writer}', f'own{writer}': n}))
                    queued.extend(dirty(c))
        except Exception as e:
            failures.append(repr(e))

    with server.connect() as c:
        fill(c, 'busy')
        ingest(c, early('busy'))
    threads = [threading.Thread(target=write, args=(w,)) for w in range(WRITERS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    tap.same(failures, [], 'writers get no error')
    tap.ok(queued, 'the person was seen waiting while they wrote')
    settled(server, 'writers')
    with server.connect() as c:
        # the last round's events but the moved ones were received an hour late
        tap.same(person(c, 'busy'), (EVENTS + 2 + WRITERS * ROUNDS * 21, 0, 10 + ROUNDS, f'{ROUNDS - 1:02}-{WRITERS - 1}'), 'counters and traits are right')


def main():
    """One server on which people of more than LIMIT events are many."""
    inst = postgres.installation()
    directory = machine.fresh_directory('recompute')
    server = postgres.Server(inst, directory, cdp__recompute_limit=LIMIT).start()
    server.create_database()
    check_moved(server)
    check_split(server)
    check_held_and_crash(server)
    check_writers(server)
    server.stop()


tap.main(main)
