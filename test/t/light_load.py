"""Under light load every event is visible by itself; an idle server does nothing."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import latency   # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

EVENTS, WARM_EVENTS = 200, 20
IDLE_SECONDS = 10
IDLE_CPU_SECONDS = 0.2
IDLE_ROUNDS = 3
IDLE_WAL_BYTES = 200


def light_load(server, producer):
    """Every event arrives by itself; how fast is measured by test/bench."""
    taken = latency.measure(server, producer, 'quiet', EVENTS)
    tap.note(f'produced to visible: p50 {latency.percentile(taken, 50):.1f} ms, p99 {latency.percentile(taken, 99):.1f} ms')


def silence(server, pids):
    """Nothing is used or written, once what the load left to do is done.

    Where pages have checksums, as from 18 on by default, who reads a row first may write WAL: once.
    """
    spans = []
    while len(spans) < IDLE_ROUNDS and not (spans and spans[-1][0] <= IDLE_CPU_SECONDS and spans[-1][1] <= IDLE_WAL_BYTES):
        before, wal = machine.cpu_seconds(pids), server.value('SELECT pg_current_wal_insert_lsn()')
        time.sleep(IDLE_SECONDS)                            # the span that is measured
        used = machine.cpu_seconds(pids) - before
        spans.append((used, server.value('SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)', wal)))
    tap.ok(spans[-1][0] <= IDLE_CPU_SECONDS, f'idle workers use at most {IDLE_CPU_SECONDS} s of CPU in {IDLE_SECONDS} s', spans)
    tap.ok(spans[-1][1] <= IDLE_WAL_BYTES, 'an idle server writes no WAL but its own snapshot records', spans)


def main():
    """Light load first, then silence."""
    directory = machine.fresh_directory('light')
    server = postgres.Server(postgres.installation(), directory, autovacuum='off', checkpoint_timeout='1h').start()
    server.create_database()
    kafka = broker.Kafka(directory).start()
    kafka.create_topic('quiet', 4)
    server.rows("SELECT cdp.create_source('quiet', brokers => %s, topics => '{quiet}')", kafka.address)
    producer = kafka.producer(linger__ms=0)
    latency.measure(server, producer, 'quiet', WARM_EVENTS, 'warm')
    light_load(server, producer)

    tap.ok(server.value("SELECT cdp.wait_for_source('quiet', '30 s')"), 'all is consumed')
    tap.same(server.rows('SELECT count(*), count(DISTINCT message_id) FROM cdp.event'), [(EVENTS + WARM_EVENTS,) * 2], 'and stored once')
    pids = server.pids('cdp', dbname='cdp')
    tap.ok(len(pids) >= 2, 'maintenance and source worker run', pids)
    # the floor of the clock is kept once after the last batch: from then on nothing is to be written
    tap.wait_for(lambda: server.value('SELECT clock_floor >= (SELECT max(known_at) FROM cdp_data.event) FROM cdp_data.instance'),
                 'the floor of the clock is kept')
    server.rows('CHECKPOINT')
    silence(server, pids)


tap.main(main)
