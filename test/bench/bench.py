"""Speed of cdp next to a plain COPY and to a consumer written by hand, in one run on one machine.

usage: bench.py [--events N] [--people N] [--runs N] [--grow N] [--full] [--only NAME,...]

R is COPY of the messages into one jsonb column without index.  Everything is
measured against the same server and broker, both on this machine, with fsync,
full_page_writes and wal_level = replica, and a quarter of the memory for
shared_buffers, as PostgreSQL's manual advises; the topic is produced before the
clock starts; each measurement has a fresh database and a checkpoint behind it; the
median of the runs counts.  --full means --grow 20000000.
"""
import argparse
import os
import statistics
import sys
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))
import broker    # noqa: E402
import latency   # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402
import workload  # noqa: E402

TOPIC = 'bench'
PARTITIONS = 4
STEP = 1_000_000                # events per step while the database grows
TOKENS = 1_000_000              # of forgotten identifiers
FORGOTTEN, FORGOTTEN_EVENTS = 9, 1000
QUIET_EVENTS = 400
ONE_ROW_STATEMENTS = 5000
IDLE_SECONDS = 60
WAIT = '1 hour'
CSV = "WITH (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')"
GOALS = {'kafka, one worker': 0.35}


def quarter_of_memory():
    """For shared_buffers."""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 4 // 2 ** 20}MB"


class Bench:
    """Servers, events, and the results by name."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.directory = machine.fresh_directory('bench')
        self.server = postgres.Server(
            postgres.installation(), self.directory, shared_buffers=quarter_of_memory(), max_wal_size='8GB', fsync='on',
            full_page_writes='on', wal_level='replica', checkpoint_timeout='30min').start()
        self.kafka = broker.Kafka(self.directory).start()
        self.file = os.path.join(self.directory, 'lines')
        self.seconds = {}
        self.facts = {}

    def produce(self, topic, first, count, path=None):
        """A topic with the given events, and the same lines in a file."""
        self.kafka.create_topic(topic, PARTITIONS)
        producer = self.kafka.producer(compression__type='lz4', linger__ms=50, enable__idempotence=False)
        with open(path or os.devnull, 'wb') as f:
            for key, line in workload.lines(first, count, self.arguments.people):
                producer.send(topic, line, key)
                f.write(line + b'\n')
            size = f.tell()
        producer.flush(600)
        return size

    def timed(self, name, function):
        """Measure one run after a checkpoint."""
        self.server.rows('CHECKPOINT', dbname='postgres')
        began = time.monotonic()
        function()
        taken = time.monotonic() - began
        self.seconds.setdefault(name, []).append(taken)
        print(f'  {name:34} {taken:8.2f} s  {self.arguments.events / taken:10,.0f} events/s', flush=True)

    def database(self, name='bench', setup=True):
        """A fresh database in place of the last one."""
        self.server.rows(f'DROP DATABASE IF EXISTS {name} WITH (FORCE)', dbname='postgres')
        self.server.create_database(name, setup)

    def value(self, sql, *values):
        """The only value of a statement."""
        return self.server.value(sql, *values, dbname='bench')

    def consume(self, source, workers, topic=TOPIC):
        """Create a source and wait until it has consumed the topic."""
        self.value('SELECT cdp.create_source(%s, brokers => %s, topics => %s, workers => %s)', source,
                   self.kafka.address, [topic], workers)
        if not self.value('SELECT cdp.wait_for_source(%s, %s)', source, WAIT):
            raise RuntimeError(f"{source} did not catch up: {self.server.rows('SELECT * FROM cdp.source_status', dbname='bench')}")

    def expect(self, events):
        """A speed counts only if the work was done."""
        stored = self.value('SELECT count(*) FROM cdp.event')
        if stored != events:
            raise RuntimeError(f'{stored} events are stored, not {events}')


def plain_copy(bench):
    """R."""
    bench.database(setup=False)
    bench.value('CREATE TABLE r (body jsonb)')
    bench.timed('R: COPY into one jsonb column', lambda: bench.value(f"COPY r FROM '{bench.file}' {CSV}"))


class PeakMemory(threading.Thread):
    """The largest RssAnon of a source worker while it lives."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.peak = 0
        self.ended = threading.Event()

    def run(self):
        """Look five times a second."""
        while not self.ended.wait(0.2):
            for pid in self.server.pids('cdp source', 'bench'):
                if machine.process_lives(pid):
                    self.peak = max(self.peak, machine.anonymous_memory(pid))


def kafka_one(bench):
    """One worker; its memory, WAL and stages; then the replay of everything over the same data."""
    bench.database()
    wal = bench.value('SELECT pg_current_wal_lsn()')
    bench.value('SELECT cdp.reset_stage_stats()')
    memory = PeakMemory(bench.server)
    memory.start()
    bench.timed('kafka, one worker', lambda: bench.consume('one', 1))
    memory.ended.set()
    bench.expect(bench.arguments.events)
    for stage, cost in bench.server.rows('SELECT stage, total_ms * 1000 / nullif(rows, 0) FROM cdp.stage_stats', dbname='bench'):
        bench.facts[f'stage {stage}, us per row'] = round(cost or 0, 2)
    bench.facts['WAL bytes per event'] = round(bench.value(
        'SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s)', wal) / bench.arguments.events)
    bench.facts['peak RssAnon of the worker, MB'] = memory.peak // 2 ** 20
    bench.facts['database bytes per event'] = bench.value("SELECT pg_database_size('bench')") // bench.arguments.events
    bench.timed('replay of everything', lambda: bench.consume('again', 1))
    bench.expect(bench.arguments.events)


def tokens(bench):
    """One worker where many people were forgotten: none of these, so every new identifier is looked for."""
    bench.database()
    bench.value(f"""WITH t AS (INSERT INTO cdp_data.suppression (identifier_id, not_before, workspace_id, "check")
                    SELECT hashint8extended(n, 42), cdp.now(), 1, 0 FROM generate_series(1, {TOKENS}) n RETURNING 1) SELECT count(*) FROM t""")
    bench.value('ANALYZE cdp_data.suppression')
    bench.timed('kafka, one worker, 1 M tokens', lambda: bench.consume('tokens', 1))
    bench.expect(bench.arguments.events)


def kafka_two(bench):
    """Two workers."""
    bench.database()
    bench.timed('kafka, two workers', lambda: bench.consume('two', 2))
    bench.expect(bench.arguments.events)


def inbox(bench):
    """COPY through SQL."""
    bench.database()
    bench.timed('COPY into cdp.inbox', lambda: bench.value(f"COPY cdp.inbox (message) FROM '{bench.file}' {CSV}"))
    bench.expect(bench.arguments.events)


def by_hand(bench):
    """The consumer in Python."""
    bench.database(setup=False)
    bench.timed('consumer in Python', lambda: machine.run(
        ['/usr/bin/python3', os.path.join(HERE, 'consumer.py'), bench.kafka.address, TOPIC,
         bench.server.conninfo('bench'), str(bench.arguments.events)]))


def quiet(bench):
    """Produced to visible at 20 events a second."""
    bench.database()
    bench.kafka.create_topic('quiet', PARTITIONS)
    bench.consume('quiet', 1, 'quiet')
    producer = bench.kafka.producer(linger__ms=0)
    latency.measure(bench.server, producer, 'quiet', 20, 'warm', 'bench')
    taken = latency.measure(bench.server, producer, 'quiet', QUIET_EVENTS, dbname='bench')
    for p in (50, 99):
        bench.facts[f'produced to visible at 20 events/s, p{p}, ms'] = round(latency.percentile(taken, p), 1)


def one_row(bench):
    """What a statement of one row costs the engine, for people who are known."""
    bench.database()
    with bench.server.connect('bench') as connection:
        for row in range(ONE_ROW_STATEMENTS):
            if row == ONE_ROW_STATEMENTS // 10:
                connection.execute('SELECT cdp.reset_stage_stats()')
            body = segment.encode(segment.track(f'row-{row}', row, userId=f'row-{row % 100}', context=segment.CONTEXT))
            connection.execute('INSERT INTO cdp.inbox (message) VALUES (%s)', [body.decode()], prepare=True)
        cost = connection.execute("SELECT mean_us FROM cdp.stage_stats WHERE stage = 'apply'").fetchone()[0]
    bench.facts['a statement of one row, us of engine time'] = round(cost)


def vacuum(bench, change):
    """Turn PostgreSQL's own off, or on again."""
    bench.server.rows('ALTER SYSTEM ' + change, dbname='postgres')
    bench.server.rows('SELECT pg_reload_conf()', dbname='postgres')


def idle(bench):
    """Nothing comes; cdp's processes, one source connected.  PostgreSQL's own vacuum, which is still busy with what came before, is left out."""
    bench.database()
    bench.kafka.create_topic('idle', PARTITIONS)
    bench.consume('idle', 1, 'idle')
    vacuum(bench, 'SET autovacuum = off')
    tap.wait_for(lambda: bench.server.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum %'", dbname='postgres'),
                 'no vacuum runs', good=lambda n: n == 0)
    bench.server.rows('CHECKPOINT', dbname='postgres')
    pids = [pid for pid, in bench.server.rows("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdp %'", dbname='postgres')]
    used, wal = machine.cpu_seconds(pids), bench.value('SELECT pg_current_wal_insert_lsn()')
    time.sleep(IDLE_SECONDS)                                # the span that is measured
    bench.facts[f'idle for {IDLE_SECONDS} s: CPU seconds of {len(pids)} processes'] = round(machine.cpu_seconds(pids) - used, 2)
    bench.facts[f'idle for {IDLE_SECONDS} s: WAL bytes'] = int(bench.value('SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)', wal))
    vacuum(bench, 'RESET autovacuum')


def grow(bench):
    """Cost of an event while the database grows, in steps of a million."""
    bench.database()
    steps = max(2, bench.arguments.grow // STEP)
    taken = []
    for step in range(steps):
        topic = f'grow{step}'
        bench.produce(topic, (step + 1) * 10 ** 8, STEP)
        bench.server.rows('CHECKPOINT', dbname='postgres')
        began = time.monotonic()
        bench.consume(topic, 1, topic)
        taken.append(time.monotonic() - began)
        bench.kafka.delete_topic(topic)
        bench.value('SELECT cdp.drop_source(%s)', topic)
        print(f'  growing: {(step + 1) * STEP:12,} events stored, the last million took {taken[-1]:.1f} s', flush=True)
    bench.facts[f'cost per event at {steps} M stored against at 1 M'] = round(taken[-1] / taken[0], 2)


def forget(bench):
    """Forget people of many events, one after the other, while a worker consumes; in the database that has grown."""
    if not bench.value('SELECT count(*) FROM (SELECT FROM cdp_data.event LIMIT 1) e'):
        bench.produce('some', 9 * 10 ** 8, STEP)
        bench.consume('some', 1, 'some')
    stored = bench.value('SELECT sum(event_count) FROM cdp.profile')
    for n in range(FORGOTTEN):
        bench.value('SELECT count(*) FROM cdp.ingest_many(%s::jsonb[])', list(workload.history(n, FORGOTTEN_EVENTS)))
    bench.produce('beside', 8 * 10 ** 8, STEP)
    bench.server.rows('CHECKPOINT', dbname='postgres')
    bench.value('SELECT cdp.create_source(%s, brokers => %s, topics => %s)', 'beside', bench.kafka.address, ['beside'])
    at = "SELECT coalesce(sum(\"position\"), 0) FROM cdp.source_status WHERE source = 'beside'"
    tap.wait_for(lambda: bench.value(at), 'the worker consumes', good=lambda n: n > 0)
    taken = []
    for n in range(FORGOTTEN):
        began = time.monotonic()
        answer = bench.value("SELECT cdp.forget('user_id', %s, 'bench', dry_run => false)", f'history-{n}')
        taken.append((time.monotonic() - began) * 1000)
        if answer['deleted']['event'] != FORGOTTEN_EVENTS:
            raise RuntimeError(f'forget says {answer}')
    if bench.value(at) == STEP:
        raise RuntimeError('nothing was consumed any more when the last one was forgotten')
    what = f'forget of {FORGOTTEN_EVENTS:,} events at {round(stored / STEP)} M stored, ingest running'
    bench.facts[f'{what}, median, ms'] = round(statistics.median(taken))
    bench.facts[f'{what}, worst of {FORGOTTEN}, ms'] = round(max(taken))


def recovery(bench):
    """kill -9 of the server while it consumes; from its start to the first new commit."""
    bench.database()
    bench.value('SELECT cdp.create_source(%s, brokers => %s, topics => %s)', 'killed', bench.kafka.address, [TOPIC])
    at = 'SELECT coalesce(sum("position"), 0) FROM cdp_data.source_offset'
    tap.wait_for(lambda: bench.value(at), 'a third is consumed', good=lambda n: n > bench.arguments.events / 3)
    bench.server.kill()
    began = time.monotonic()
    bench.server.start()
    before = bench.value(at)
    tap.wait_for(lambda: bench.value(at), 'it goes on', good=lambda n: n > before)
    bench.facts['kill -9 of the server to the first new commit, s'] = round(time.monotonic() - began, 1)
    bench.value('SELECT cdp.wait_for_source(%s, %s)', 'killed', WAIT)
    bench.expect(bench.arguments.events)


MEASUREMENTS = {'copy': plain_copy, 'one': kafka_one, 'tokens': tokens, 'two': kafka_two, 'inbox': inbox, 'hand': by_hand}
ONCE = {'quiet': quiet, 'row': one_row, 'idle': idle, 'recovery': recovery, 'grow': grow, 'forget': forget}


def report(bench):
    """The table, and the ratios that have a goal."""
    medians = {name: statistics.median(taken) for name, taken in bench.seconds.items()}
    base = next((taken for name, taken in medians.items() if name.startswith('R:')), None)
    print(f'\n{"":50} {"events/s":>10} {"of R":>6} {"runs, s":>24}')
    for name, taken in medians.items():
        ratio = f'{base / taken:.2f}' if base else ''
        runs = ' '.join(f'{seconds:.1f}' for seconds in bench.seconds[name])
        print(f'{name:50} {bench.arguments.events / taken:10,.0f} {ratio:>6} {runs:>24}')
    for name, value in bench.facts.items():
        print(f'{name:50} {value:>10,}')
    if 'kafka, one worker, 1 M tokens' in medians and 'kafka, one worker' in medians:
        print(f"{'cost of an event with 1 M tokens against without':50} {medians['kafka, one worker, 1 M tokens'] / medians['kafka, one worker']:>10.2f}")
    for name, goal in GOALS.items():
        if base and name in medians:
            print(f'{name}: {base / medians[name]:.2f} R, the goal is {goal} R')


def main():
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--events', type=int, default=1_000_000)
    parser.add_argument('--people', type=int, default=100_000)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--grow', type=int, default=3_000_000)
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--only', default=','.join([*MEASUREMENTS, *ONCE]))
    arguments = parser.parse_args()
    if arguments.full:
        arguments.grow = 20_000_000
    chosen = arguments.only.split(',')
    unknown = set(chosen) - set(MEASUREMENTS) - set(ONCE)
    if unknown:
        parser.error(f'there is no measurement {", ".join(sorted(unknown))}; there are {", ".join([*MEASUREMENTS, *ONCE])}')
    bench = Bench(arguments)
    size = bench.produce(TOPIC, 0, arguments.events, bench.file)
    print(f'{arguments.events:,} events of {size / arguments.events:.0f} bytes, {arguments.people:,} people, {PARTITIONS} partitions,'
          f' {os.cpu_count()} cores', flush=True)
    for run in range(arguments.runs):
        print(f'run {run + 1} of {arguments.runs}')
        for name, function in MEASUREMENTS.items():
            if name in chosen:
                function(bench)
    for name, function in ONCE.items():
        if name in chosen:
            function(bench)
    report(bench)


if __name__ == '__main__':
    try:
        main()
    except RuntimeError as e:
        print(e, file=sys.stderr)
        sys.exit(1)
