"""Outages of hours: the broker, the database, workers and the key are away while the clocks of the server's processes are moved on.

Nobody waits for these hours: time passes in steps that are longer than any back-off, and all who sleep are woken to
see it.  When the cause is gone, the clocks go at their own pace again.  CDP_SOAK: 4 hours in place of 10 minutes.
"""
import contextlib
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import shop      # noqa: E402
import tap       # noqa: E402

MINUTES = 240 if os.environ.get('CDP_SOAK') else 10
STEP_SECONDS = 25               # longer than the longest back-off
STEPS = MINUTES * 60 // STEP_SECONDS
PACE_SECONDS = 0.04
LONG_TIMEOUT = '1d'             # of the moved clock: a worker of a busy machine is not silent meanwhile
WORKER_TIMEOUT = '5min'         # where one is
MISSED = 500                    # messages that come meanwhile
LOG_LINES = 20                  # about one trouble
TROUBLE = """CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION E'it cannot,\\tnow'; END $$;
CREATE TRIGGER trouble BEFORE UPDATE ON cdp_data.source_offset FOR EACH ROW EXECUTE FUNCTION public.trouble()"""


class Outage:
    """A shop whose server has clocks that can be moved on."""

    def __init__(self):
        self.shop = shop.Shop('outages', cdp__worker_timeout=LONG_TIMEOUT)
        self.server = self.shop.server
        self.clock = machine.Clock(self.shop.directory)
        self.server.wrapper = self.clock.wrapper
        self.shop.open()

    def begins(self):
        """Events flow to the moment in which the cause comes."""
        with self.shop.pour() as pour:
            pour.flows()

    def caught_up(self):
        """Idle workers hold no lock that others need, wherever they are stopped."""
        self.shop.producer.flush()
        tap.wait_for(lambda: self.server.value("SELECT cdp.wait_for_source(%s, '30 s')", shop.SOURCE), 'all is consumed')

    def lasts(self, attempts=None):
        """Hours pass; where attempts can be counted, each step sees another one."""
        for step in range(STEPS):
            before = attempts and attempts()
            self.clock.let_pass(STEP_SECONDS)
            self.wake()
            if attempts:
                tap.wait_for(attempts, f'another attempt in step {step}', good=lambda n: n > before)  # pylint: disable=cell-var-from-loop
            else:
                time.sleep(PACE_SECONDS)                        # the pace of the hours, not a wait

    def wake(self):
        """All processes of cdp look at the clock."""
        for pid in machine.process_children(self.server.process.pid):
            if machine.process_title(pid).startswith('postgres: cdp '):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)

    def is_shown(self, item, what):
        """cdp.status says that it is an error."""
        tap.wait_for(lambda: self.server.rows('SELECT severity, message FROM cdp.status WHERE item = %s', item), f'{what}: the status says so',
                     good=lambda rows: [row[0] for row in rows] == ['error'])

    def ends(self, what):
        """New events within 30 s of the call, and nothing was lost or counts twice."""
        began = time.monotonic()
        with self.shop.pour() as pour:
            pour.flows()
            taken = time.monotonic() - began
        tap.ok(taken <= shop.AGAIN_SECONDS, f'{what} for {MINUTES} min: events go on within {shop.AGAIN_SECONDS} s', taken)
        tap.note(f'after {taken:.1f} s')
        self.shop.judge(f'{what} for {MINUTES} min')


def broker_away(o):
    """The broker is killed."""
    o.begins()
    o.shop.producer.flush()         # it would give up before the broker is back
    o.shop.kafka.kill()
    mark = o.server.log_mark()
    o.lasts()
    tap.wait_for(lambda: o.server.log_after(mark).count('source "shop" waits: '), 'the log says so', good=lambda n: n == shop.WORKERS)
    tap.same(o.server.value('SELECT count(*) FROM cdp.source_status WHERE lag IS NOT NULL OR end_position IS NOT NULL'), 0,
             'nobody says what a broker that is away holds')
    tap.wait_for(lambda: o.server.value('SELECT max(last_error) FROM cdp.source_status'), 'the broker is away: the status says so')
    o.shop.kafka.start()
    o.ends('the broker is away')
    tap.same(o.server.log_after(mark).count('source "shop" goes on'), shop.WORKERS, 'the log says that it is over')


def database_down(o):
    """The server is killed, and started hours later."""
    o.begins()
    o.server.kill()
    o.shop.send(MISSED)
    o.clock.let_pass(MINUTES * 60)
    o.server.start()
    o.ends('the server is down')


def database_closed(o):
    """The database refuses connections, and those that there were are ended."""
    o.begins()
    o.server.rows('ALTER DATABASE cdp ALLOW_CONNECTIONS false', dbname='postgres')
    o.server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cdp'", dbname='postgres')
    o.shop.send(MISSED)
    o.lasts()
    o.server.rows('ALTER DATABASE cdp ALLOW_CONNECTIONS true', dbname='postgres')
    o.ends('the database is closed')


def workers_fail(o):
    """Every batch of every source worker fails."""
    o.begins()
    o.server.rows(TROUBLE)
    mark = o.server.log_mark()
    for partition in range(shop.PARTITIONS):
        o.shop.producer.send(shop.TOPIC, None, partition=partition)
    o.shop.producer.flush()
    o.lasts(lambda: o.server.log_after(mark).count('background worker "cdp source" (PID'))
    o.is_shown('source shop', 'the workers fail')
    lines = o.server.log_after(mark).count('it cannot')
    tap.ok(0 < lines <= LOG_LINES, f'the workers fail {STEPS} times: the log says so when it begins', f'{lines} lines')
    o.server.rows('DROP TRIGGER trouble ON cdp_data.source_offset')
    o.ends('the workers fail')


def worker_stopped(o):
    """A source worker stands still; another one takes its place, and it comes back."""
    o.begins()
    o.caught_up()
    o.server.configure(cdp__worker_timeout=WORKER_TIMEOUT)
    o.server.rows('SELECT pg_reload_conf()')
    pid = o.server.pids('cdp source')[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        o.shop.send(MISSED)
        o.lasts()
        with o.shop.pour() as pour:
            pour.flows()
        tap.wait_for(lambda: [row[0] for row in o.server.rows('SELECT worker_pid FROM cdp.source_status')], 'another one has its place',
                     good=lambda pids: all(pids) and pid not in pids)
    finally:
        os.kill(pid, signal.SIGCONT)
    tap.wait_for(lambda: machine.process_lives(pid), 'the one that stood still ends', good=lambda lives: not lives)
    o.ends('a worker stands still')


def key_away(o):
    """The server starts without its key file."""
    o.begins()
    o.server.stop()
    key = o.server.data + '.cdp_key'
    os.rename(key, key + '.away')
    o.shop.send(MISSED)
    o.server.start()
    o.lasts()
    o.is_shown('key', 'the key is away')
    os.rename(key + '.away', key)
    o.ends('the key is away')


def main():
    """One after the other, over one server and one broker."""
    outage = Outage()
    for situation in (broker_away, database_down, database_closed, workers_fail, worker_stopped, key_away):
        situation(outage)
    outage.server.stop()


tap.main(main)
