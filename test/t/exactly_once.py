"""Worker, postmaster and broker are killed, and workers stopped, at random points; afterwards every produced message is there exactly once.

The judge (test/tools/exactly_once) reads the topic with a consumer of its own,
so it depends on nothing that the extension says about its positions.  CDP_SOAK: 100 rounds in place of 5.
"""
import os
import random
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

SEED = int(os.environ.get('CDP_SEED') or time.time())
ROUNDS = 100 if os.environ.get('CDP_SOAK') else 5
MESSAGES_PER_ROUND = 8000
PEOPLE = 500
STOPPED_SECONDS = 5
PARTITIONS = 4
TOPIC = 'events'
RANDOM = random.Random(SEED)


class Pace:
    """Lets the producer run only so far ahead that each round still finds work."""

    def __init__(self):
        self.limit = 0
        self.changed = threading.Condition()

    def raise_to(self, limit):
        """Allow this many messages in all."""
        with self.changed:
            self.limit = limit
            self.changed.notify()

    def wait_for(self, n):
        """Return when the n-th message may be sent."""
        with self.changed:
            self.changed.wait_for(lambda: n <= self.limit)


def produce(kafka, pace, total, failures):
    """Send all messages, one in fifty twice, as producers do after a time-out."""
    try:
        choose = random.Random(SEED + 1)
        producer = kafka.producer()
        for n in range(total):
            pace.wait_for(n)
            person = choose.randrange(PEOPLE)
            fields = {'anonymousId': f'device-{person}-{choose.randrange(3)}', 'properties': {'n': n}}
            if choose.random() < 0.3:
                fields['userId'] = f'user-{person}'
            body = segment.encode(segment.track(f'm-{n}', choose.randrange(10 ** 9), **fields))
            for _ in range(1 + (choose.random() < 0.02)):
                producer.send(TOPIC, body, partition=choose.randrange(PARTITIONS))
        producer.flush(300)
    except Exception as e:
        failures.append(repr(e))


def stored(server):
    """Events so far; None while no session can be opened."""
    try:
        return server.value('SELECT count(*) FROM cdp.event')
    except Exception:
        return None


def ended(session):
    """True when the server has ended the session."""
    try:
        session.execute('SELECT 1')
        return False
    except postgres.psycopg.OperationalError:
        return True


def kill_worker(server):
    """kill -9 of a source worker; the server resets every session."""
    pids = tap.wait_for(lambda: server.pids('cdp source'), 'a source worker runs')
    pid = RANDOM.choice(pids)
    with server.connect() as witness:
        os.kill(pid, signal.SIGKILL)
        tap.wait_for(lambda: ended(witness), 'the server notices and ends every session')
    tap.wait_for(server.answers, 'server answers after its reset')


def kill_server(server):
    """kill -9 of the postmaster, and a new start."""
    server.kill()
    server.start()


def kill_broker(kafka):
    """kill -9 of the broker, and a new start."""
    kafka.kill()
    kafka.start()


def hand_over(server):
    """Give the partitions to another number of workers."""
    before = server.pids('cdp source')
    server.rows("SELECT cdp.alter_source('shop', workers => (SELECT 5 - workers FROM cdp.source WHERE source = 'shop'))")
    tap.wait_for(lambda: set(server.pids('cdp source')) - set(before), 'other workers start')


def stop_worker(server):
    """A worker is stopped wherever it is, others get its partitions, and it goes on (F33)."""
    pid = RANDOM.choice(tap.wait_for(lambda: server.pids('cdp source'), 'a source worker runs'))
    os.kill(pid, signal.SIGSTOP)
    other = threading.Thread(target=hand_over, args=(server,), daemon=True)
    other.start()
    other.join(STOPPED_SECONDS)     # it may hold what the others wait for
    os.kill(pid, signal.SIGCONT)
    other.join()
    tap.wait_for(lambda: machine.process_lives(pid), 'it ends when it goes on', good=lambda lives: not lives)


def judge(server, kafka, total):
    """The independent checker reads the topic itself; then the counters of the people, and cdp.verify()."""
    checker = subprocess.run([os.path.join(machine.ROOT, 'test/tools/exactly_once'), '--broker', kafka.address, TOPIC],
                             env=server.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             check=False)
    tap.ok(checker.returncode == 0, 'every record of the topic is stored exactly once', checker.stdout)
    tap.same(server.rows('SELECT count(*), count(DISTINCT message_id) FROM cdp.event'), [(total, total)],
             'every produced message is there, none twice')
    events = dict(server.rows('SELECT profile_id, count(*) FROM cdp.event GROUP BY 1'))
    counters = dict(server.rows('SELECT profile_id, event_count FROM cdp.profile'))
    tap.same({p: n for p, n in counters.items() if events.get(p) != n}, {}, 'the counters of the people say the same')
    tap.same(sum(counters.values()), total, 'every event belongs to somebody')
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    tap.same(server.value('SELECT count(*) FROM cdp.quarantine'), 0, 'nothing is in quarantine')


def main():
    """Rounds of killing while messages come in, then the judge."""
    tap.note(f'CDP_SEED={SEED}, {ROUNDS} rounds')
    directory = machine.fresh_directory('once')
    server = postgres.Server(postgres.installation(), directory).start()
    server.create_database()
    kafka = broker.Kafka(directory).start()
    kafka.create_topic(TOPIC, PARTITIONS)
    server.rows('SELECT cdp.create_source(%s, brokers => %s, topics => %s, workers => 2)', 'shop', kafka.address, [TOPIC])

    total = ROUNDS * MESSAGES_PER_ROUND
    pace, failures = Pace(), []
    producer = threading.Thread(target=produce, args=(kafka, pace, total, failures), daemon=True)
    producer.start()
    kinds = {'worker': lambda: kill_worker(server), 'server': lambda: kill_server(server),
             'broker': lambda: kill_broker(kafka), 'running worker by a stop': lambda: stop_worker(server)}
    for n in range(ROUNDS):
        pace.raise_to((n + 1) * MESSAGES_PER_ROUND)
        mark = n * MESSAGES_PER_ROUND + RANDOM.randrange(1, MESSAGES_PER_ROUND - 1000)
        tap.wait_for(lambda: stored(server), f'round {n}: {mark} events stored', 120,
                     lambda count: count is not None and count >= mark)
        kind = list(kinds)[n] if n < len(kinds) else RANDOM.choice(list(kinds))
        kinds[kind]()
        tap.note(f'round {n}: hit the {kind} at {mark} events or later')
    pace.raise_to(total)
    producer.join(300)
    tap.same(failures, [], 'everything was produced')
    tap.ok(server.value("SELECT cdp.wait_for_source('shop', '120 s')"), 'the source catches up',
           server.rows('SELECT * FROM cdp.source_status'))
    judge(server, kafka, total)


tap.main(main)
