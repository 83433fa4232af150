"""A shop whose events go on while something happens to its database, and a judge who counts them afterwards."""
import os
import random
import threading
import time

import broker
import machine
import postgres
import segment
import tap

TOPIC = 'shop'
SOURCE = 'shop'
PARTITIONS = 4
WORKERS = 2
PEOPLE = 300
AGAIN_SECONDS = 30              # workers run again so long after the cause is gone
CAUGHT_UP_SECONDS = 300         # and have consumed what came meanwhile, on a busy machine
PER_SECOND = 400                # while it pours
SEED = int(os.environ.get('CDP_SEED') or time.time())


class Shop:
    """One server, one broker, one topic; every message that was produced must be in the database once."""

    def __init__(self, name, directory=None, **settings):
        tap.note(f'CDP_SEED={SEED}')
        self.random = random.Random(SEED)
        self.directory = directory or machine.fresh_directory(name)
        self.server = postgres.Server(postgres.installation(), self.directory, **settings)
        self.kafka = None
        self.producer = None
        self.sent = 0
        self.client_rows = 0        # written by clients, not through the topic

    def open(self):
        """Start both, set the database up and let the source run."""
        self.server.start()
        self.server.create_database()
        self.kafka = broker.Kafka(self.directory).start()
        self.kafka.create_topic(TOPIC, PARTITIONS)
        self.producer = self.kafka.producer()
        self.create_source()
        return self

    def create_source(self, dbname='cdp', **arguments):
        """The source of the topic, in any database."""
        values = {'brokers': self.kafka.address, 'topics': [TOPIC], 'workers': WORKERS, **arguments}
        named = ''.join(f', {key} => %s' for key in values)
        self.server.rows(f'SELECT cdp.create_source(%s{named})', SOURCE, *values.values(), dbname=dbname)

    def send(self, count):
        """Produce so many messages; one in thirty goes out twice, as after a time-out of the producer."""
        for _ in range(count):
            person = self.random.randrange(PEOPLE)
            fields = {'anonymousId': f'device-{person}-{self.random.randrange(3)}', 'properties': {'n': self.sent}}
            if self.random.random() < 0.3:
                fields.update(userId=f'user-{person}', traits={'last': self.sent})
            make = segment.identify if 'traits' in fields and self.random.random() < 0.3 else segment.track
            body = segment.encode(make(f'm-{self.sent}', self.random.randrange(10 ** 9), **fields))
            for _ in range(1 + (self.random.random() < 0.03)):
                self.producer.send(TOPIC, body, partition=self.random.randrange(PARTITIONS))
            self.sent += 1

    def pour(self):
        """With this, messages go on until the end of the block."""
        return Pour(self)

    def end_workers(self):
        """All but the launcher, which starts them again: PostgreSQL starts that one again, when its clock says so."""
        self.server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('cdp source', 'cdp maintenance')")

    def is_running(self, dbname='cdp'):
        """Every worker says so, and nothing in cdp.status is an error."""
        try:
            return self.server.value(
                "SELECT bool_and(severity NOT IN ('error', 'warning') OR item IN ('oldest_snapshot', 'clock'))"
                " AND bool_or(item = 'maintenance' AND severity = 'ok') AND bool_or(item = %s AND severity = 'ok')"
                " FROM cdp.status", 'source ' + SOURCE, dbname=dbname)
        except postgres.psycopg.Error:
            return False

    def runs_again(self, what, dbname='cdp'):
        """Within 30 s of the call, by itself."""
        began = time.monotonic()
        try:
            tap.wait_for(lambda: self.is_running(dbname), 'the workers run', AGAIN_SECONDS)
            tap.ok(True, f'{what}: the workers run again')
            tap.note(f'after {time.monotonic() - began:.1f} s')
        except TimeoutError as e:
            tap.ok(False, f'{what}: the workers run again within {AGAIN_SECONDS} s',
                   f'{e}\n{self.server.rows("SELECT * FROM cdp.status", dbname=dbname)}')

    def judge(self, what, dbname='cdp'):
        """Nothing was lost, nothing counts twice, and a rebuild gives the same."""
        rows = lambda sql: self.server.rows(sql, dbname=dbname)  # noqa: E731
        self.runs_again(what, dbname)
        self.producer.flush()
        tap.ok(self.server.value('SELECT cdp.wait_for_source(%s, %s)', SOURCE, f'{CAUGHT_UP_SECONDS} s', dbname=dbname),
               f'{what}: the source catches up', rows('SELECT * FROM cdp.source_status'))
        total = self.sent + self.client_rows
        tap.same(rows('SELECT count(*), count(DISTINCT message_id) FROM cdp.event'), [(total, total)],
                 f'{what}: every message is there, none twice')
        events = dict(rows('SELECT profile_id, count(*) FROM cdp.event GROUP BY 1'))
        counters = dict(rows('SELECT profile_id, event_count FROM cdp.profile'))
        tap.same({p: n for p, n in counters.items() if events.get(p) != n}, {}, f'{what}: the counters say the same')
        tap.same(rows('SELECT * FROM cdp.verify()'), [], f'{what}: cdp.verify() finds nothing')
        tap.same(rows('SELECT reason, detail FROM cdp.quarantine LIMIT 5'), [], f'{what}: nothing is in quarantine')


class Pour:
    """The producer's thread, and whether events arrive."""

    def __init__(self, shop):
        self.shop = shop
        self.error = None
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()
        if self.error:
            raise RuntimeError(self.error)

    def _run(self):
        try:
            while not self.end.wait(1 / 20):
                self.shop.send(PER_SECOND // 20)
        except Exception as e:
            self.error = repr(e)

    def flows(self, dbname='cdp'):
        """Return when an event is stored that was produced after the call."""
        mark = self.shop.sent
        tap.wait_for(lambda: self.shop.server.value('SELECT count(*) FROM cdp_data.event WHERE message_id = ANY (%s)',
                                                    [f'm-{n}' for n in range(mark, mark + 100)], dbname=dbname), 'new events arrive')


def tables(server, dbname='cdp'):
    """Every table and partition of ours, qualified."""
    return [name for name, in server.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'cdp_data'::regnamespace"
        " AND c.relkind = 'r' ORDER BY 1", dbname=dbname)]
