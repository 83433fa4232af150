"""The processes of cdp, and sessions that use it, do not grow: batches, merges, quarantine, forgetting, purging, reconnects and source changes for a while.

usage: memory_growth.py [SECONDS]

The clocks of the server's processes are moved on in each turn, so that its workers make a round in each.  What is
compared is RssAnon: the median of the second half of the samples against that of the first one, after a warm-up.
Of sessions, which make and free whole plans, malloc holds more or less between what is in use: RssAnon was seen to
rise by 1.7 MB and to fall again.  What their memory contexts use is exact, and is compared, too.
In the end leaks are planted, which must be seen.
"""
import datetime
import itertools
import json
import os
import random
import signal
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 600
WARM_UP = 0.4                   # of the time, before it
GROWTH = 1024 * 1024            # between the halves: of the workers' RssAnon,
SESSION_GROWTH = 3 * GROWTH     # of that of the sessions,
USED_GROWTH = GROWTH // 4       # of what their memory contexts use (a plan more or less)
PLANTED = 0.2                   # of the time, after it
LEAK = 8 * GROWTH               # in that time
TURN_SECONDS = 1.2              # longer than a round of the maintenance worker
PEOPLE = 2000                   # whose events come at the same time
SEED = int(os.environ.get('CDP_SEED') or time.time())
USER, PASSWORD = 'cdp', 'the password of the broker'
CLIENT = {'security.protocol': 'sasl_plaintext', 'sasl.mechanism': 'PLAIN', 'sasl.username': USER}
# a setting of another name each time stays as long as the process
LEAK_FUNCTION = """CREATE FUNCTION public.leak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_catalog.set_config('leak.n' || pg_catalog.txid_current(), pg_catalog.repeat('x', {size}), false);
    RETURN new;
END $$"""
LEAK_TRIGGER = 'CREATE TRIGGER leak BEFORE UPDATE ON cdp_data.source_offset FOR EACH ROW EXECUTE FUNCTION public.leak()'


class World:
    """A server whose clocks can be moved on, a broker at the end of a wire, and sessions that stay."""

    def __init__(self):
        tap.note(f'CDP_SEED={SEED}')
        self.random = random.Random(SEED)
        directory = machine.fresh_directory('growth')
        self.server = postgres.Server(postgres.installation(), directory, cdp__worker_timeout='1d')
        self.clock = machine.Clock(directory)
        self.server.wrapper = self.clock.wrapper
        self.server.start()
        self.server.create_database()
        self.listener = broker.Listener('wired', 'SASL_PLAINTEXT', wired=True, sasl__enabled__mechanisms='PLAIN', plain__sasl__jaas__config=(
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'))
        self.kafka = broker.Kafka(directory, [self.listener]).start()
        for topic in ('shop', 'other'):
            self.kafka.create_topic(topic, 4)
        self.producer = self.kafka.producer(linger__ms=0)
        self.new_secrets()
        self.create_source('shop')
        self.client, self.officer, self.watcher = (self.server.connect() for _ in range(3))
        self.sessions = {'client': self.client, 'officer': self.officer}
        self.turns = 0

    def new_secrets(self):
        """The same secrets in another file: the worker opens its Kafka client again."""
        path = self.server.data + '.cdp_secrets'
        with open(path + '.new', 'w', encoding='utf-8') as f:
            f.writelines(f'{source}.brokers = {self.listener.address}\n{source}.sasl.password = {PASSWORD}\n' for source in ('shop', 'other'))
        machine.give_to_server(path + '.new')
        os.chmod(path + '.new', 0o600)
        os.rename(path + '.new', path)

    def create_source(self, name):
        """A source of the topic of that name."""
        self.server.rows('SELECT cdp.create_source(%s, %s, %s, options => %s)', name, self.listener.address, [name], json.dumps({'client': CLIENT}))

    def message(self, message_id):
        """Of people who come and go; some turn out to be one, some messages are bad."""
        person = self.turns + self.random.randrange(PEOPLE)
        at = self.turns * 1000
        kind = self.random.random()
        if kind < 0.05:
            return segment.encode(segment.track(message_id, at))
        if kind < 0.3:
            return segment.encode(segment.identify(message_id, at, anonymousId=f'd-{person}-{self.random.randrange(3)}', userId=f'u-{person // 2}',
                                                   traits={'plan': message_id, 'email': f'p{person}@example.com'}))
        return segment.encode(segment.track(message_id, at, anonymousId=f'd-{person}-{self.random.randrange(3)}', context=segment.CONTEXT))

    def turn(self):
        """What happens in a moment, and what happens now and then."""
        self.clock.let_pass(TURN_SECONDS)
        for pid in self.workers().values():
            os.kill(pid, signal.SIGHUP)                 # look at the clock
        batches = self.batches()
        for n in range(10):
            self.producer.send('shop', self.message(f'k-{self.turns}-{n}'), partition=n % 4)
        self.client.execute('SELECT * FROM cdp.ingest(%s)', [self.message(f'c-{self.turns}').decode()]).fetchall()
        self.client.execute('INSERT INTO cdp.inbox (message) SELECT unnest(%s::jsonb[])', [[self.message(f'i-{self.turns}-{n}').decode() for n in range(5)]])
        self.client.execute("SELECT cdp.get_profile('user_id', %s)", [f'u-{self.turns // 2 + 100}']).fetchall()
        for every, what in ((5, self.forget), (20, self.repair), (25, self.change), (60, self.purge), (150, self.listener.wire.cut), (200, self.new_secrets)):
            if self.turns % every == every - 1:
                what()
        tap.wait_for(self.batches, 'another batch', good=lambda n: n > batches)
        self.turns += 1

    def forget(self):
        """Somebody who is no customer any more."""
        self.officer.execute("SELECT cdp.forget('user_id', %s, 'soak', dry_run => false, scope => 'profile')", [f'u-{self.turns // 2}']).fetchall()

    def purge(self):
        """What was long ago."""
        self.officer.execute('SELECT cdp.purge_before(%s, dry_run => false)', [segment.EPOCH + datetime.timedelta(seconds=self.turns - 100)]).fetchall()

    def repair(self):
        """What is in quarantine."""
        self.officer.execute("""SELECT count(*) FROM cdp.replay_quarantine((SELECT array_agg(id) FROM cdp.quarantine),
                                $$replace(body_text, '{"type"', '{"userId":"nobody","type"')$$)""").fetchall()

    def change(self):
        """Another source is made, changed, and dropped."""
        (lambda: self.create_source('other'), lambda: self.server.rows("SELECT cdp.alter_source('other', workers => 2)"),
         lambda: self.server.rows("SELECT cdp.drop_source('other')"))[self.turns // 25 % 3]()

    def workers(self):
        """What must not grow: the launcher, the maintenance worker, the source worker that stays."""
        return {kind: pid for pid, kind in self.watcher.execute(
            "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type = 'cdp launcher'"
            " OR backend_type = 'cdp maintenance' AND datname = current_database()"
            " UNION ALL SELECT worker_pid, 'cdp source' FROM cdp.source_status WHERE source = 'shop' AND worker_pid IS NOT NULL")}

    def processes(self):
        """The workers, and the sessions that stay."""
        return {**self.workers(), **{name: session.info.backend_pid for name, session in self.sessions.items()}}

    def memory(self, processes):
        """Bytes of those processes by name; "… in use" is what the memory contexts of a session use."""
        used = {f'{name} in use': int(session.execute('SELECT sum(used_bytes) FROM pg_backend_memory_contexts').fetchone()[0])
                for name, session in self.sessions.items()}
        return {**{name: machine.anonymous_memory(pid) for name, pid in processes.items()}, **used}

    def batches(self):
        """Of the source worker that stays."""
        rows = self.watcher.execute(
            "SELECT batches FROM cdp.source_workers() w JOIN cdp_data.source s USING (source_id) WHERE s.name = 'shop'").fetchall()
        return rows[0][0] if rows else 0


class Samples:
    """The memory of processes that must stay the same ones."""

    def __init__(self, world, seconds, turn):
        self.world = world
        self.series = {}
        first, turns, batches = world.processes(), world.turns, world.batches()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            turn()
            for name, size in world.memory(first).items():
                self.series.setdefault(name, []).append(size)
        self.stayed = world.processes() == first
        tap.note(f'{world.turns - turns} turns, {world.batches() - batches} batches of the source worker')

    def growth(self):
        """Bytes by name, and a note of the course of each."""
        grown = {}
        for name, values in self.series.items():
            half = len(values) // 2
            grown[name] = int(statistics.median(values[half:]) - statistics.median(values[:half]))
            course = ' '.join(str(values[len(values) * n // 12] // 1024) for n in range(12))
            tap.note(f'{name:16} {grown[name] // 1024:6} kB more in the second half; kB in its course: {course} {values[-1] // 1024}')
        return grown


def plant(world):
    """Leaks in the source worker and in the client, of LEAK bytes over the samples that follow; the turn that has them."""
    size = int(LEAK / (world.turns * PLANTED / (1 + WARM_UP)))
    world.server.rows(LEAK_FUNCTION.format(size=size))
    world.server.rows(LEAK_TRIGGER)
    names = itertools.count()

    def turn():
        world.turn()
        world.client.execute("SELECT set_config('leak.c' || %s, repeat('x', %s), false)", [next(names), size])
    return turn


def main():
    """Warm up, measure, and see whether the measure sees anything."""
    world = World()
    tap.wait_for(lambda: len(world.workers()) == 3, 'the workers run')
    Samples(world, SECONDS * WARM_UP, world.turn)
    samples = Samples(world, SECONDS, world.turn)
    grown = samples.growth()
    bounds = {name: GROWTH for name in grown}
    for name in world.sessions:
        bounds.update({name: SESSION_GROWTH, f'{name} in use': USED_GROWTH})
    tap.ok(samples.stayed, 'the processes are the same ones in the end')
    tap.same({name: bytes_ for name, bytes_ in grown.items() if bytes_ > bounds[name]}, {}, 'no process has grown')
    tap.same(world.server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    leaking = Samples(world, SECONDS * PLANTED, plant(world)).growth()
    tap.ok(all(leaking[name] > bounds[name] for name in ('cdp source', 'client')), 'a leak that is planted in the source worker and in the client is seen', leaking)


tap.main(main)
