"""The tour: from nothing to the people of a shop, with a kill -9 on the way.

usage: demo.py [--stop]

Everything is in one directory under ${TMPDIR:-/tmp}; server and broker go on
running at the end, so that one can look around, until --stop.
"""
import collections
import glob
import json
import os
import shutil
import signal

import sys
import time
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import broker    # noqa: E402
import retail    # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

DIRECTORY = os.path.join(os.environ.get('TMPDIR') or '/tmp', f'cdp-demo-{os.geteuid()}')
EVENTS = os.path.join(machine.DATA, 'events')
TOPIC = 'shop'
PARTITIONS = 4
VISITOR = '18102.0'             # whose sign-in is kept for the end
MOST_AHEAD = 3000               # records: the mock broker keeps 5 MB a partition
RETRY_EVERY = 50                # one record in so many is sent twice, as producers do
PROGRESS_SECONDS = 0.5
POISON = [b'{"type":"track","messageId":"cut off", "userId":',
          b'{"type":"telepathy","messageId":"no such call","userId":"14156.0"}',
          b'{"type":"track","messageId":"who?","event":"Product Viewed"}']

BOLD, DIM, GREEN, RED, PLAIN = ('\033[1m', '\033[2m', '\033[32m', '\033[31m', '\033[0m') if sys.stdout.isatty() else [''] * 5


def title(text):
    """Begin a part of the tour."""
    print(f'\n{BOLD}{text}{PLAIN}', flush=True)


def say(text):
    """A line of the tour."""
    print('  ' + text, flush=True)


def table(rows, heads):
    """Rows under heads, aligned."""
    cells = [list(heads)] + [['' if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    for number, row in enumerate(cells):
        line = '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        say(f'{DIM}{line}{PLAIN}' if number == 0 else line)


class Judge:
    """Compares, prints, and remembers whether anything was wrong."""

    def __init__(self):
        self.wrong = 0

    def same(self, what, got, expected):
        """One comparison, one line."""
        good = got == expected
        self.wrong += not good
        mark = f'{GREEN}ok{PLAIN}' if good else f'{RED}WRONG{PLAIN}, expected {expected}'
        shown = f'{got:,}' if isinstance(got, (int, Decimal)) else got
        say(f'{what:58} {shown!s:>12}  {mark}')


def stop():
    """End the servers of an earlier run by their recorded process ids, and remove the directory."""
    if not os.path.isdir(DIRECTORY):
        return False
    if os.lstat(DIRECTORY).st_uid not in (os.geteuid(), os.stat(os.path.expanduser('~' + (machine.SERVER_USER or ''))).st_uid):
        raise RuntimeError(f'{DIRECTORY} belongs to somebody else')
    for path, how in ((DIRECTORY + '/data/postmaster.pid', signal.SIGINT), (DIRECTORY + '/broker.pid', signal.SIGTERM)):
        if os.path.exists(path):
            with open(path, encoding='ascii') as f:
                pid = int(f.readline())
            if is_ours(pid):
                os.kill(pid, how)
                tap.wait_for(lambda pid=pid: machine.process_lives(pid), f'process {pid} ends', good=lambda lives: not lives)
    shutil.rmtree(DIRECTORY)
    return True


def is_ours(pid):
    """True when the process was started from the directory of the demo: a recorded id may be used again by a stranger."""
    try:
        with open(f'/proc/{pid}/cmdline', 'rb') as f:
            return DIRECTORY.encode() in f.read()
    except FileNotFoundError:
        return False


def start_broker(inst):
    """Build and start librdkafka's mock cluster; return its address."""
    program, port_file = DIRECTORY + '/mock_broker', DIRECTORY + '/broker.address'
    flags = machine.run(['pkg-config', '--cflags', '--libs', 'rdkafka']).split()
    machine.run([os.environ.get('CC', 'cc'), '-O2', '-o', program,
                 os.path.join(machine.ROOT, 'test/tools/mock_broker.c'), *flags, '-lpthread'])
    process = machine.start([program, '--port-file', port_file, '--partitions', str(PARTITIONS), '--topic', TOPIC],
                            DIRECTORY + '/broker.log')
    with open(DIRECTORY + '/broker.pid', 'w', encoding='ascii') as f:
        f.write(f'{process.pid}\n')

    def address():
        if process.poll() is not None:
            raise RuntimeError(f'the mock broker ended, see {DIRECTORY}/broker.log')
        if os.path.exists(port_file):
            with open(port_file, encoding='ascii') as f:
                return f.read().strip()
        return None
    return tap.wait_for(address, 'the mock broker tells its address', 10)


class Tour:
    """The parts of the demo in their order."""

    def __init__(self):
        self.judge = Judge()
        self.server = None
        self.address = None
        self.producer = None
        self.sent = set()           # message ids
        self.records = 0
        self.killed = False
        self.began = time.monotonic()
        with open(EVENTS + '/online_retail_sample.expected.json', encoding='utf-8') as f:
            self.expected = json.load(f, parse_float=Decimal)
        self.invoices = retail.read(EVENTS + '/online_retail_sample.csv')

    def prepare(self):
        """Build, start both servers, create the extension and a source."""
        title('1. A private PostgreSQL with cdp, and a broker')
        if stop():
            say('stopped the demo that was still running')
        os.mkdir(DIRECTORY, 0o755)
        machine.give_to_server(DIRECTORY)
        inst = postgres.install(DIRECTORY)
        machine.let_outlive()
        self.server = postgres.Server(inst, DIRECTORY).start()
        self.address = start_broker(inst)
        self.producer = broker.Producer(self.address, {'enable.idempotence': False, 'linger.ms': 5})
        say(f'built and started in {time.monotonic() - self.began:.0f} s, all of it under {DIRECTORY}')
        for sql in ('CREATE EXTENSION cdp', 'SELECT cdp.setup()'):
            if not self.server.rows("SELECT 1 FROM pg_database WHERE datname = 'demo'", dbname='postgres'):
                self.server.rows('CREATE DATABASE demo', dbname='postgres')
            say(f'demo=# {sql};')
            self.server.rows(sql, dbname='demo')
        self.configure()

    def configure(self):
        """One namespace rule and one source."""
        sql = "SELECT cdp.set_namespace('user_id', blocked => (SELECT blocked || '{0.0}' FROM cdp.namespace WHERE name = 'user_id'))"
        say(f'demo=# {sql};   {DIM}-- 0.0 stands for "unknown" in this data{PLAIN}')
        self.rows(sql)
        # a mock broker answers a fetch that found nothing only when this time has passed
        sql = (f"SELECT cdp.create_source('shop', brokers => '{self.address}', topics => '{{{TOPIC}}}',"
               """ options => '{"client": {"fetch.wait.max.ms": "10"}}')""")
        say(f'demo=# {sql};')
        self.rows(sql)

    def rows(self, sql, *values):
        """All rows of a statement in the demo's database."""
        return self.server.rows(sql, *values, dbname='demo')

    def value(self, sql, *values):
        """The only value of a statement."""
        return self.server.value(sql, *values, dbname='demo')

    def consumed(self):
        """Records of the topic that are committed."""
        return int(self.value("SELECT coalesce(sum(\"position\"), 0) FROM cdp.source_status WHERE source = 'shop'"))

    def produce(self, message):
        """Send one message, now and then twice."""
        body = segment.encode(message)
        self.sent.add(message['messageId'])
        key = message.get('anonymousId') or message['userId']
        for _ in range(2 if len(self.sent) % RETRY_EVERY == 0 else 1):
            self.producer.send(TOPIC, body, key)
            self.records += 1

    def progress(self, messages, began):
        """The line that is written again and again."""
        events, people = self.rows('SELECT (SELECT count(*) FROM cdp.event), (SELECT count(*) FROM cdp.profile)')[0]
        rate = events / max(time.monotonic() - began, 0.001)
        line = f'  {len(self.sent):>7,} sent  {events:>7,} stored  {people:>5,} people  {rate:>7,.0f} events/s  {len(self.sent) * 100 // messages:>3} %'
        print(('\r' if sys.stdout.isatty() else '') + line, end='' if sys.stdout.isatty() else '\n', flush=True)

    def watch(self):
        """Produce at the pace of consumption while the counters move; kill the server half-way."""
        messages = list(retail.messages(self.invoices, VISITOR))
        title(f'2. A year of a shop: {len(self.invoices):,} invoices of Online Retail, {len(messages):,} messages, through Kafka')
        began = shown = time.monotonic()
        for n, message in enumerate(messages):
            self.produce(message)
            if n == len(messages) // 2:
                self.progress(len(messages), began)
                self.kill_server()
                began += self.away
            if n % 200 == 0:
                tap.wait_for(self.consumed, 'the source keeps up', good=lambda c: c >= self.records - MOST_AHEAD)
                if time.monotonic() - shown > PROGRESS_SECONDS:
                    shown = time.monotonic()
                    self.progress(len(messages), began)
        self.producer.flush()
        self.caught_up()
        self.progress(len(messages), began)
        print()

    def caught_up(self):
        """Wait until everything produced is committed."""
        if not self.value("SELECT cdp.wait_for_source('shop', '60 s')"):
            raise RuntimeError(f"the source did not catch up: {self.rows('SELECT * FROM cdp.source_status')}")

    def kill_server(self):
        """kill -9 of the postmaster, and a new start; the counters tell that nothing happened."""
        at = time.monotonic()
        print(f'\n  {RED}kill -9{PLAIN} of the PostgreSQL server, in the middle of it ...', flush=True)
        self.server.kill()
        self.server.start()
        position = self.consumed()
        tap.wait_for(self.consumed, 'the source goes on', good=lambda c: c > position or c >= self.records)
        self.away = time.monotonic() - at
        say(f'... started again, recovered and consuming after {self.away:.1f} s')
        self.killed = True

    def bad_messages(self):
        """Quarantine, repair, replay."""
        title('3. A bad message costs itself only')
        for body in POISON:
            self.producer.send(TOPIC, body)
            self.records += 1
        self.producer.flush()
        self.caught_up()
        table(self.rows('SELECT id, reason, left(body_text, 60) FROM cdp.quarantine ORDER BY id'), ('id', 'reason', 'body'))
        sql = ("SELECT outcome, message_id FROM cdp.replay_quarantine((SELECT array_agg(id) FROM cdp.quarantine),"
               " $$replace(body_text, 'telepathy', 'identify')$$)")
        say(f'demo=# {sql};')
        self.rows(sql)
        self.sent.add('no such call')
        left = self.value('SELECT count(*) FROM cdp.quarantine')
        self.judge.same('repaired with SQL and stored; left in quarantine', left, len(POISON) - 1)

    def a_visitor_becomes_a_customer(self):
        """Two people before the sign-in, one after it."""
        title('4. An anonymous visitor becomes a customer')
        device = retail.device_of(VISITOR)
        sql = ("SELECT namespace, value, event_count, last_seen::timestamp(0) FROM cdp.identifier JOIN cdp.profile USING (profile_id)"
               " WHERE value IN (%s, %s) ORDER BY 1")
        say('before:')
        before = self.rows(sql, device, VISITOR)
        table(before, ('namespace', 'value', 'events of the person', 'last seen'))
        invoice = next(i for i in self.invoices if i.customer == VISITOR)
        message = retail.sign_in(invoice)
        began = time.monotonic()
        self.produce(message)
        self.producer.flush()
        person = tap.wait_for(lambda: self.rows(
            "SELECT cdp.find_profile('user_id', %s) WHERE cdp.find_profile('user_id', %s) = cdp.find_profile('anonymous_id', %s)",
            VISITOR, VISITOR, device), 'the visitor is the customer')
        say(f'identify {{anonymousId: {device}, userId: {VISITOR}}} sent; one person {1000 * (time.monotonic() - began):.0f} ms later:')
        after = self.rows(sql, device, VISITOR)
        table(after, ('namespace', 'value', 'events of the person', 'last seen'))
        self.judge.same('events of the one person', after[0][2], sum(row[2] for row in before) + 1)
        self.judge.same('people behind the two identifiers', len(person), 1)

    def whole_person(self):
        """The 360 degree view."""
        title(f"5. Everything about one person: SELECT cdp.get_profile('user_id', '{VISITOR}')")
        document = self.value("SELECT cdp.get_profile('user_id', %s)", VISITOR)
        lines = json.dumps(document, indent=2, ensure_ascii=False).splitlines()
        for line in lines[:40]:
            say(line[:110])
        if len(lines) > 40:
            say(f'... {len(lines) - 40} more lines')

    def totals(self):
        """What the data must give, computed beforehand by somebody else."""
        title('6. The books: compared with totals that were computed from the CSV file')
        stored = collections.Counter(row[0] for row in self.rows('SELECT message_id FROM cdp.event'))
        self.judge.same('messages lost', len(self.sent - set(stored)), 0)
        self.judge.same('messages stored twice', sum(n > 1 for n in stored.values()), 0)
        self.judge.same('messages that nobody sent', len(set(stored) - self.sent), 0)
        invoices, lines, total = self.rows(
            "SELECT count(*), sum(jsonb_array_length(properties->'products')), round(sum((properties->>'total')::numeric), 2)"
            " FROM cdp.event WHERE name IN ('Order Completed', 'Order Refunded')")[0]
        self.judge.same('invoices', invoices, self.expected['invoices'])
        self.judge.same('order lines', lines, self.expected['rows'])
        self.judge.same('revenue, GBP', total, self.expected['total'])
        self.judge.same('cancelled lines', self.value(
            "SELECT sum(jsonb_array_length(properties->'products')) FROM cdp.event WHERE name = 'Order Refunded'"),
            self.expected['cancellations'])
        self.judge.same('customers, the placeholder is not a person', self.value(
            "SELECT count(DISTINCT profile_id) FROM cdp.identifier WHERE namespace = 'user_id'"), self.expected['customers'] - 1)
        self.judge.same('people', self.value('SELECT count(*) FROM cdp.profile'), self.expected['customers'] - 1)
        self.best_customers()
        self.judge.same('differences that cdp.verify() finds', len(self.rows('SELECT * FROM cdp.verify()')), 0)

    def best_customers(self):
        """Revenue, invoices and last order of the ten best."""
        got = {customer: (revenue, invoices, last) for customer, revenue, invoices, last in self.rows(
            "SELECT user_id, round(sum((properties->>'total')::numeric), 2), count(*),"
            " to_char(max(occurred_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
            " FROM cdp.event WHERE name IN ('Order Completed', 'Order Refunded') AND user_id = ANY (%s) GROUP BY 1",
            list(self.expected['top10']))}
        right = sum(got.get(customer) == (e['revenue'], e['invoices'], e['last'])
                    for customer, e in self.expected['top10'].items())
        self.judge.same('best customers with right revenue, invoices, last order', right, 10)

    def goodbye(self):
        """How to look around."""
        took = time.monotonic() - self.began
        title(f'Done in {took:.0f} s; the server goes on running. Look around, then stop it:')
        psql = self.server.inst.program('psql')
        say(f'{psql} -h {self.server.socket} -p {self.server.port} -U postgres demo')
        say('make demo-stop')


def main():
    """The tour; its status is 1 when a comparison was wrong."""
    if sys.argv[1:] == ['--stop']:
        print('stopped' if stop() else 'no demo is running')
        return 0
    tour = Tour()
    try:
        for part in (tour.prepare, tour.watch, tour.bad_messages, tour.a_visitor_becomes_a_customer, tour.whole_person,
                     tour.totals):
            part()
    except BaseException as e:
        print(f'\n{RED}The demo stopped: {e}{PLAIN}', file=sys.stderr)
        for log in glob.glob(DIRECTORY + '/*.log'):
            tap.show_end_of(log, 15)
        stop()
        return 1
    tour.goodbye()
    return 1 if tour.judge.wrong else 0


if __name__ == '__main__':
    sys.exit(main())
