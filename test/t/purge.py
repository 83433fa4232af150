"""cdp.purge_before() beside readers, clients, batches and Kafka: what lies below the watermark goes in the end, and months with it."""
import datetime
import os
import random
import re
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

import psycopg  # noqa: E402
from psycopg.types.json import Jsonb  # noqa: E402

MONTHS = 10
PEOPLE = 40
MANY_PEOPLE = 103_000           # more than one purge does
KAFKA_MESSAGES = 10_000
KAFKA_DAYS = 100
PURGES = 20
FIRST = datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc)
FIRST_CLOCK, CLOCK = '2025-01-15 00:00:00+00', '2025-12-15 00:00:00+00'
LEAVES = """SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE i.inhparent = ('cdp_data.' || %s)::regclass ORDER BY 1"""


def month(number):
    """Its first instant, from 0 for January."""
    return FIRST.replace(month=number + 1)


def message(message_id, at, user, received=None, **fields):
    """A track call that happened then."""
    return {'type': 'track', 'event': 'x', 'messageId': message_id, 'userId': user, 'originalTimestamp': at.isoformat(),
            'sentAt': at.isoformat(), 'receivedAt': (received or at).isoformat(), **fields}


def outcomes(connection, messages):
    """How many messages had which outcome."""
    return dict(connection.execute('SELECT outcome, count(*) FROM cdp.ingest(%s) GROUP BY 1', (Jsonb(messages),)).fetchall())


def purge(connection, instant, dry_run=False):
    """What cdp.purge_before() says."""
    return connection.execute('SELECT cdp.purge_before(%s, dry_run => %s)', (instant, dry_run)).fetchone()[0]


def events_of(connection, user):
    """What is stored of a person, and what is counted."""
    return connection.execute("""SELECT (SELECT count(*) FROM cdp.event e WHERE e.profile_id = p.profile_id), p.event_count
        FROM cdp.profile p WHERE p.profile_id = cdp.find_profile('user_id', %s)""", (user,)).fetchone()


def months_of(server, table):
    """Names of the partitions that are months."""
    return [name for name, _ in server.rows(LEAVES, table) if re.search(r'_\d{6}$', name)]


def wait_until_cleared(server, what):
    """The maintenance worker is through."""
    tap.wait_for(lambda: server.rows('SELECT watermark::text, cleared::text FROM cdp_data.retention_watermark'), f'{what}: all is gone for certain',
                 good=lambda rows: rows and all(w == c for w, c in rows))


def clean(server, what):
    """cdp.verify() finds nothing."""
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: cdp.verify() finds nothing')


def start(inst, directory):
    """A server whose clock stands in December, with a partition for each month of the year."""
    server = postgres.Server(inst, directory, cdp__clock=FIRST_CLOCK).start()
    server.create_database()
    for number in range(12):
        server.rows('SELECT cdp.make_partitions(%s)', month(number))
    server.configure(cdp__clock=CLOCK)
    server.rows('SELECT pg_reload_conf()')
    with server.connect() as c:
        for number in range(MONTHS):
            outcomes(c, [message(f'm{number}-{n}', month(number) + datetime.timedelta(hours=n), f'u{n}') for n in range(PEOPLE)])
        outcomes(c, [message(f'before-{n}', FIRST - datetime.timedelta(hours=n + 1), f'u{n}') for n in range(PEOPLE)])
        # a device whose clock stands in February: the id lies there, the event in June
        outcomes(c, [message(f'odd-{n}', month(1) + datetime.timedelta(hours=n), f'u{n}', received=month(5)) for n in range(5)])
    return server


FILTER = "SELECT count(*) FROM cdp.read_filters() WHERE ready AND leaf = 'cdp_data.message_seen_first'::regclass"


def rounds(server):
    """Wait until the maintenance worker has done all its jobs once more: it applies parked messages in each round."""
    for _ in range(2):
        server.rows("""INSERT INTO cdp_data.parked (workspace_id, source_id, parked_at, body)
            SELECT workspace_id, source_id, now(), '{}' FROM cdp_data.source WHERE name = 'sql'""")
        tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.parked'), 'a round of the maintenance worker', good=lambda n: n == 0)


def check_reader(server):
    """A month that somebody reads is emptied, and dropped when he has gone."""
    tap.wait_for(lambda: server.value(FILTER), 'the first partition has a filter', good=lambda n: n == 1)
    with server.connect() as c, server.connect(autocommit=False) as reader:
        before = months_of(server, 'event')
        asked = purge(c, month(3), dry_run=True)
        reader.execute('SELECT count(*) FROM cdp.event').fetchone()
        began = datetime.datetime.now()
        said = purge(c, month(3))
        took = (datetime.datetime.now() - began).total_seconds()
        tap.same((asked['event'], asked['message_seen'], asked['people']), (said['event'], said['message_seen'], said['people']),
                 'the dry run counted what was deleted')
        tap.same((sum(said['event'].values()), said['people']), (4 * PEOPLE, PEOPLE), 'three months and what was before them went')
        tap.same((said['complete'], said['left']), (False, ['event_202501', 'event_202502', 'event_202503']), 'the months that are read are left')
        tap.ok(took < 5, 'and were not waited for long', took)
        tap.ok(set(said['dropped']) == {'message_seen_202501', 'message_seen_202502', 'message_seen_202503'},
               'those of the ids, which nobody reads, were dropped', said['dropped'])
        tap.same(c.execute('SELECT min(occurred_at) FROM cdp.event').fetchone()[0], month(3), 'nothing below the watermark is stored')
        tap.same(events_of(c, 'u7'), (MONTHS - 3, MONTHS - 3), 'the counters are of what is left')
        wait_until_cleared(server, 'a reader')
        tap.same(months_of(server, 'event'), before, 'the months are still there')
        reader.rollback()
        tap.wait_for(lambda: months_of(server, 'event'), 'the months are dropped when the reader has gone', good=lambda left: left == before[3:])
    tap.ok(('event_first', "FOR VALUES FROM (MINVALUE) TO ('2025-04-01 00:00:00+00')") in server.rows(LEAVES, 'event'),
           'the first partition reaches to where they ended', server.rows(LEAVES, 'event'))
    clean(server, 'a reader')


def check_odd_ids(server):
    """The ids of later events, whose own stamps lie below the watermark, are still known."""
    again = [message(f'odd-{n}', month(1) + datetime.timedelta(hours=n), f'u{n}', received=month(5)) for n in range(5)]
    late = [message(f'm{number}-{n}', month(number) + datetime.timedelta(hours=n), f'u{n}') for number in range(3) for n in range(PEOPLE)]
    with server.connect() as c:
        tap.same(outcomes(c, [message(f'odd-{n}', month(6), f'u{n}') for n in range(5)]), {'quarantined': 5},
                 'an id with a stamp below the watermark is known, whatever the stamp of the copy')
        tap.same(outcomes(c, again), {'duplicate': 5}, 'also of the same')
        tap.same(outcomes(c, late), {'expired': len(late)}, 'what was purged is refused')
        tap.wait_for(lambda: server.value(FILTER), 'the first partition has a filter again', good=lambda n: n == 1)
        tap.same(outcomes(c, again), {'duplicate': 5}, 'and with the new filter, too')
        rows = c.execute('SELECT count(*) FROM cdp_data.message_seen_first').fetchone()[0]
        tap.same(rows, 5, 'they lie in the first partition')
    clean(server, 'odd ids')


def check_held(server):
    """People whom a client holds are purged when it has ended; a batch that does not know the watermark is swept up."""
    old = [message('straggler-1', month(3), 'u11'), message('straggler-2', month(3), 'late')]
    got = []
    with server.connect(autocommit=False) as holder, server.connect() as batch, server.connect() as c:
        holder.execute("SELECT FROM cdp_data.profile WHERE profile_id = cdp.find_profile('user_id', 'u11') FOR UPDATE")
        thread = threading.Thread(target=lambda: got.append(outcomes(batch, old)))
        thread.start()
        tap.wait_for(lambda: server.value('SELECT cardinality(pg_blocking_pids(%s))', batch.info.backend_pid), 'the batch waits')
        said = purge(c, month(4))
        tap.same((said['complete'], said['held_people'], said['people']), (False, 1, PEOPLE - 1), 'all people but the one who is held')
        tap.same(c.execute('SELECT count(*) FROM cdp.event WHERE occurred_at < %s', (month(4),)).fetchone()[0], 1, 'whose event is left')
        clean(server, 'somebody is held')
        tap.ok(server.value("SELECT severity <> 'ok' FROM cdp.status WHERE item = 'purge'"), 'cdp.status says that it goes on')
        holder.rollback()
        thread.join()
    tap.same(got, [{'stored': 2}], 'the batch did not know the watermark')
    wait_until_cleared(server, 'a batch of old')
    with server.connect() as c:
        tap.same(c.execute('SELECT count(*) FROM cdp.event WHERE occurred_at < %s', (month(4),)).fetchone()[0], 0, 'what it stored is gone')
        tap.same((events_of(c, 'u11'), events_of(c, 'late')), ((MONTHS - 4, MONTHS - 4), (0, 0)), 'and is not counted')
        tap.same(c.execute('SELECT count(*) FROM cdp_data.message_seen WHERE occurred_at < %s', (month(4),)).fetchone()[0], 0, 'nor are its ids left')
        tap.same(outcomes(c, old), {'expired': 2}, 'and does not come back')
    tap.same(server.value("SELECT severity FROM cdp.status WHERE item = 'purge'"), 'ok', 'cdp.status says that nothing is left')
    clean(server, 'a batch of old')


def check_open_batch(server):
    """A transaction that wrote before a purge and commits after it: nothing is gone for certain before it ends."""
    with server.connect(autocommit=False) as old, server.connect() as c:
        tap.same(outcomes(old, [message('open-1', month(4), 'open'), message('open-2', month(4), 'u12')]), {'stored': 2}, 'a client stores and does not commit')
        said = purge(c, month(4) + datetime.timedelta(hours=13))
        tap.same((said['people'], said['held_people']), (12, 1), 'a purge passes over whom it holds')
        rounds(server)
        tap.ok(server.value('SELECT cleared < watermark FROM cdp_data.retention_watermark'), 'while it is open nothing is certain')
        old.commit()
    wait_until_cleared(server, 'an open batch')
    with server.connect() as c:
        tap.same((events_of(c, 'open'), events_of(c, 'u12')), ((0, 0), (MONTHS - 5, MONTHS - 5)), 'what it stored goes')
    clean(server, 'an open batch')
    with server.connect(autocommit=False) as old, server.connect() as c:
        tap.same(outcomes(old, [message('open-3', month(4) + datetime.timedelta(hours=14), 'opened')]), {'stored': 1}, 'another one, with somebody who is new')
        said = purge(c, month(4) + datetime.timedelta(hours=15))
        tap.same(said['complete'], True, 'of whom the purge knows nothing')
        rounds(server)
        tap.ok(server.value('SELECT cleared < watermark FROM cdp_data.retention_watermark'), 'still nothing is certain')
        old.commit()
    wait_until_cleared(server, 'another open batch')
    with server.connect() as c:
        tap.same(events_of(c, 'opened'), (0, 0), 'what it stored goes, too')
    clean(server, 'another open batch')


def check_many(server):
    """More people than a purge does at once, and a crash before the rest."""
    with server.connect() as c:
        c.execute("""INSERT INTO cdp.inbox (message) SELECT jsonb_build_object('type', 'track', 'event', 'x', 'messageId', 'many-' || n, 'userId', 'many-' || n,
            'originalTimestamp', %s::text) FROM generate_series(1, %s::int) n""", ((month(4) + datetime.timedelta(days=20)).isoformat(), MANY_PEOPLE))
        said = purge(c, month(5))
        done = c.execute('SELECT count(*) FROM cdp.event WHERE occurred_at < %s', (month(5),)).fetchone()[0]
        tap.ok(not said['complete'] and said['people'] >= 100_000, 'one purge does a part of many people', said)
        tap.note(f'{done} events were left at once')
    server.kill()
    server.start()
    wait_until_cleared(server, 'many people')
    tap.same(server.value('SELECT count(*) FROM cdp.event WHERE occurred_at < %s', month(5)), 0, 'the rest follows, after a crash, too')
    tap.wait_for(lambda: months_of(server, 'event')[0], 'the month is dropped', good=lambda name: name == 'event_202506')
    clean(server, 'many people')


def race(server, produce):
    """Purges while a worker takes messages of all days, old ones and new ones, and a client writes; the last watermark."""
    failures = []
    stop = threading.Event()
    taken = "SELECT coalesce(sum(\"position\"), 0) FROM cdp.source_status WHERE source = 'race'"

    def write():
        try:
            with server.connect() as c:
                n = 0
                while not stop.is_set():
                    at = month(5) + datetime.timedelta(days=n * 7 % KAFKA_DAYS)
                    outcomes(c, [message(f'client-{n}', at, f'c{n % 50}')])
                    n += 1
        except Exception as e:
            failures.append(repr(e))

    writer, producer = threading.Thread(target=write), threading.Thread(target=produce)
    writer.start()
    producer.start()
    held = 0
    with server.connect() as c:
        for n in range(PURGES):
            tap.wait_for(lambda n=n: c.execute(taken).fetchone()[0], 'the worker takes messages', good=lambda got, n=n: got >= n * KAFKA_MESSAGES // PURGES)
            held += purge(c, month(5) + datetime.timedelta(days=KAFKA_DAYS // 2) * (n + 1) // PURGES)['held_people']
    producer.join()
    tap.ok(server.value("SELECT cdp.wait_for_source('race', '60 s')"), 'the worker took all messages')
    stop.set()
    writer.join()
    tap.note(f'{held} people were held by batches when they were purged')
    tap.same(failures, [], 'the client got no error')
    return server.value('SELECT watermark FROM cdp_data.retention_watermark')


def check_kafka(server, kafka):
    """Purges race with a source; a replay of the topic brings nothing back."""
    kafka.create_topic('race')
    rng = random.Random(1)
    times = [month(5) + datetime.timedelta(seconds=rng.randrange(KAFKA_DAYS * 86400)) for _ in range(KAFKA_MESSAGES)]
    users = [rng.randrange(500) for _ in times]
    messages = [message(f'kafka-{n}', at, f'k{users[n]}', anonymousId=f'a{users[n]}-{n % 3}') for n, at in enumerate(times)]

    def produce():
        producer = kafka.producer()
        for m in messages:
            producer.send('race', segment.encode(m))
        producer.flush()

    server.rows("SELECT cdp.create_source('race', brokers => %s, topics => '{race}')", kafka.address)
    watermark = race(server, produce)
    wait_until_cleared(server, 'Kafka')
    left = sum(at >= watermark for at in times)
    stored = "SELECT count(*) FROM cdp.event WHERE message_id LIKE 'kafka-%%'"
    tap.ok(0 < left < KAFKA_MESSAGES, 'the purges took some of the messages', watermark)
    tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.parked'), 'nothing is parked', good=lambda n: n == 0)
    tap.same(server.value(stored), left, 'every message from the watermark on is stored')
    tap.same(server.value('SELECT count(*) FROM cdp.event WHERE occurred_at < %s', watermark), 0, 'and none below it')
    clean(server, 'Kafka')
    everybody = 'SELECT profile_id, event_count, first_seen, last_seen FROM cdp.profile ORDER BY 1'
    before = server.rows(everybody)
    server.rows("SELECT cdp.create_source('replay', brokers => %s, topics => '{race}')", kafka.address)
    tap.ok(server.value("SELECT cdp.wait_for_source('replay', '60 s')"), 'the topic was read once more')
    tap.same(server.value(stored), left, 'which brings nothing back')
    tap.same(server.rows(everybody), before, 'and changes nobody')
    clean(server, 'a replay')
    with open(server.log, encoding='utf-8', errors='replace') as f:
        failed = [line for line in f if re.search(r'cdp source .*(ERROR|FATAL)|source ".*" (fails|failed)', line)]
    tap.same(failed, [], 'no worker failed')


def check_workspaces(server):
    """A month is kept as long as one workspace may have events in it; a new workspace brings history of any age."""
    with server.connect() as c:
        c.execute("SELECT cdp.create_workspace('other')")
        c.execute('CREATE ROLE officer LOGIN IN ROLE cdp_privacy_officer, cdp_ingest, cdp_admin')
        c.execute('CREATE ROLE first_officer LOGIN IN ROLE cdp_privacy_officer, cdp_ingest, cdp_admin')
        c.execute("SELECT cdp.grant_workspace('officer', 'other'), cdp.grant_workspace('first_officer', 'default')")
        c.execute("SELECT cdp.create_source('other', workspace => 'other')")
    ancient = datetime.datetime(1999, 5, 1, tzinfo=datetime.timezone.utc)
    with server.connect(user='officer') as other, server.connect(user='first_officer') as first:
        for n, at in enumerate((ancient, month(8), month(9))):
            other.execute("INSERT INTO cdp.inbox (source, message) VALUES ('other', %s)", (Jsonb(message(f'o{n}', at, 'u1')),))
        tap.same(events_of(other, 'u1'), (3, 3), 'a new workspace brings its history')
        before = months_of(server, 'event')
        said = purge(first, month(9))
        tap.same((said['dropped'], said['left'], said['complete']), ([], [], True), 'months of another workspace are not dropped')
        tap.same(events_of(other, 'u1'), (3, 3), 'nor are its events deleted')
        tap.same(events_of(first, 'u1')[0], first.execute('SELECT count(*) FROM cdp.event WHERE occurred_at >= %s AND user_id = %s', (month(9), 'u1')).fetchone()[0],
                 'those of the one that was purged are')
        said = purge(other, month(9))
        tap.same((said['event'], said['people']), ({'event_first': 1, 'event_202509': 1}, 1), 'the other one purges its own')
        tap.wait_for(lambda: months_of(server, 'event'), 'then the months are dropped', good=lambda left: left == [m for m in before if m >= 'event_202510'])
        tap.same(events_of(other, 'u1'), (1, 1), 'and the rest is there')
        for who, c in (('first', first), ('other', other)):
            tap.same(c.execute('SELECT count(*) FROM cdp.verify()').fetchone()[0], 0, f'{who}: cdp.verify() finds nothing')


def check_canceled(server):
    """A purge that is canceled while it waits for somebody who is held leaves its session as it was."""
    with server.connect(autocommit=False) as holder, server.connect() as c:
        holder.execute("SELECT FROM cdp_data.profile WHERE profile_id = cdp.find_profile('user_id', 'u11') FOR UPDATE")
        c.execute("SET statement_timeout = '300ms'")    # it waits for half a second
        try:
            purge(c, month(4))
            tap.ok(False, 'a purge is canceled')
        except psycopg.errors.QueryCanceled:
            tap.ok(True, 'a purge is canceled')
        tap.same(c.execute('SELECT 1').fetchall(), [(1,)], 'its session goes on')


def main():
    """One server whose year is 2025, and one broker."""
    inst = postgres.installation()
    directory = machine.fresh_directory('purge')
    server = start(inst, directory)
    kafka = broker.Kafka(directory).start()
    check_reader(server)
    check_odd_ids(server)
    check_canceled(server)
    check_held(server)
    check_open_batch(server)
    check_many(server)
    check_kafka(server, kafka)
    check_workspaces(server)
    server.stop()


tap.main(main)
