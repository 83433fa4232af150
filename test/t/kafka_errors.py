"""Errors that a Kafka cluster answers, made by librdkafka's mock cluster: each costs time, and nothing else.

The mock keeps about 5 MB of a partition, so messages are produced as they are consumed.
"""
import os
import sys
import traceback

import confluent_kafka

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import mock      # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

BROKERS = 3
PARTITIONS = 4
BATCH = 200                     # messages of each situation, before and while it lasts
OUT_OF_RANGE, CORRUPT, UNKNOWN_TOPIC, LEADER_NOT_AVAILABLE, NOT_LEADER, TIMED_OUT = 1, 2, 3, 5, 6, 7
NOT_AUTHORISED, STORAGE, FENCED_EPOCH, UNKNOWN_EPOCH, OFFSET_NOT_AVAILABLE, THROTTLED, CUT = 29, 56, 74, 75, 78, 89, -195
SLOW_MS = 400                   # more than the worker waits for one answer
NO_LEADERLESS = 0x02010000      # librdkafka 2.0 can; 2.8 and 2.14 can not


class World:
    """One server, one mock cluster, one source; each situation produces and looks whether all of it arrives."""

    def __init__(self):
        directory = machine.fresh_directory('errors')
        self.server = postgres.Server(postgres.installation(), directory).start()
        self.server.create_database()
        self.cluster = mock.Mock(mock.compiled(directory), '--brokers', str(BROKERS), '--topic', f'shop:{PARTITIONS}')
        self.producer = broker.Producer(self.cluster.address, {'enable.idempotence': False})
        self.sent = 0

    def send(self, n=BATCH):
        """Messages to all partitions; they are there when it returns."""
        for _ in range(n):
            body = segment.encode(segment.track(f'm-{self.sent:06}', userId=f'u-{self.sent % 50}'))
            self.producer.send('shop', body, partition=self.sent % PARTITIONS)
            self.sent += 1
        self.producer.flush()

    def all_brokers(self, command, *words):
        """One command for each broker."""
        for number in range(1, BROKERS + 1):
            self.cluster.command(command, number, *words)

    def everything(self, what):
        """All that was sent is stored, once and in order, and nothing was taken for lost or for another topic."""
        done = self.server.value("SELECT cdp.wait_for_source('shop', '60 s')")
        tap.same((done, self.server.rows('SELECT count(*), count(DISTINCT message_id) FROM cdp.event')),
                 (True, [(self.sent, self.sent)]), f'{what}: everything is stored once')
        tap.same((self.server.rows('SELECT * FROM cdp.source_gap'),
                  self.server.rows("SELECT DISTINCT state FROM cdp.source_status")), ([], [('running',)]), f'{what}: no gap, and all partitions are running')


def answers(name, request, code, count=5):
    """A situation: the next requests of one kind are answered with an error."""
    def situation(world):
        world.send()
        world.cluster.command('fail', request, code, count)
        world.send()
        world.everything(name)
    situation.__name__ = name
    return situation


def leader_moves(world):
    """Leaders move while messages come, also to nobody for a while."""
    for turn in range(6):
        for partition in range(PARTITIONS):
            world.cluster.command('leader', 'shop', partition, 1 + (partition + turn) % BROKERS)
        world.send(100)
    world.everything('leaders move')
    if confluent_kafka.libversion()[1] >= NO_LEADERLESS:
        tap.skip('nobody leads a partition for a while', "the mock cluster of this librdkafka dies when a consumer asks for such a partition")
        return
    world.cluster.command('leader', 'shop', 2, -1)
    tap.wait_for(lambda: world.server.value("SELECT cdp.wait_for_source('shop', '1 s')"), 'without a leader', good=lambda done: not done)
    world.cluster.command('leader', 'shop', 2, 1)
    world.send(100)
    world.everything('nobody leads a partition for a while')


def brokers_away(world):
    """One broker, then all of them, are away."""
    world.cluster.command('leader', 'shop', 1, 2)
    world.send()
    world.everything('before a broker goes')
    world.cluster.command('down', 2)
    tap.ok(not world.server.value("SELECT cdp.wait_for_source('shop', '2 s')"), 'a broker away: the source waits')
    world.cluster.command('up', 2)
    world.send()
    world.everything('a broker away')
    world.all_brokers('down')
    tap.wait_for(lambda: world.server.rows("SELECT DISTINCT state, last_error <> '' FROM cdp.source_status"), 'all brokers away: the status says so',
                 good=lambda rows: rows == [('waiting', True)])
    tap.same(world.server.rows("SELECT severity, message ~ '0 of 1 workers are running, 1 wait' FROM cdp.status WHERE item = 'source shop'"),
             [('warning', True)], 'all brokers away: cdp.status says so')
    world.all_brokers('up')
    world.send()
    world.everything('all brokers away')


def slow(world):
    """Each answer takes longer than the worker waits for it."""
    world.all_brokers('rtt', SLOW_MS)
    world.send()
    world.everything('slow brokers')
    world.server.rows("SELECT cdp.pause_source('shop')")
    world.server.rows("SELECT cdp.resume_source('shop')")
    world.send()
    world.everything('slow brokers, from the start')
    world.all_brokers('rtt', 0)
    world.send()
    world.everything('brokers fast again')


def topic_refused(world):
    """The cluster does not want to tell about the topic, and then does."""
    world.cluster.command('topic-error', 'shop', NOT_AUTHORISED)
    tap.wait_for(lambda: world.server.value("SELECT max(last_error) FROM cdp.source_status"), 'not authorised: the status says so',
                 good=lambda text: 'authorization failed' in text)
    tap.ok(True, 'not authorised: the status says so')
    world.cluster.command('topic-error', 'shop', 0)
    world.send()
    world.everything('authorised again')


def quiet_in_the_end(world):
    """What all this wrote into the log is little."""
    with open(world.server.log, encoding='utf-8') as f:
        lines = [line for line in f if 'cdp source' in line]
    tap.ok(len(lines) < 40, 'the log has few lines of it', f'{len(lines)} lines, the last: {lines[-3:]}')


SITUATIONS = (
    answers('fetch: not the leader', mock.FETCH, NOT_LEADER),
    answers('fetch: no leader', mock.FETCH, LEADER_NOT_AVAILABLE),
    answers('fetch: connection cut', mock.FETCH, CUT),
    answers('fetch: time-out', mock.FETCH, TIMED_OUT),
    answers('fetch: throttled', mock.FETCH, THROTTLED),
    answers('fetch: broken disk', mock.FETCH, STORAGE),
    answers('fetch: corrupt', mock.FETCH, CORRUPT),
    answers('fetch: fenced epoch', mock.FETCH, FENCED_EPOCH),
    answers('fetch: unknown epoch', mock.FETCH, UNKNOWN_EPOCH),
    answers('fetch: unknown topic', mock.FETCH, UNKNOWN_TOPIC),
    answers('fetch: out of range, though it is not', mock.FETCH, OUT_OF_RANGE),
    answers('offsets: not the leader', mock.LIST_OFFSETS, NOT_LEADER),
    answers('offsets: not known yet', mock.LIST_OFFSETS, OFFSET_NOT_AVAILABLE),
    answers('offsets: time-out', mock.LIST_OFFSETS, TIMED_OUT),
    answers('offsets: connection cut', mock.LIST_OFFSETS, CUT),
    answers('metadata: no leader', mock.METADATA, LEADER_NOT_AVAILABLE),
    answers('metadata: connection cut', mock.METADATA, CUT),
    answers('versions: connection cut', mock.API_VERSIONS, CUT),
    leader_moves, brokers_away, slow, topic_refused, quiet_in_the_end)


def main():
    """Every situation over one source."""
    world = World()
    world.send()
    world.server.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", world.cluster.address)
    world.everything('at first')
    for situation in SITUATIONS:
        try:
            situation(world)
        except Exception:
            tap.ok(False, situation.__name__, traceback.format_exc())
    tap.same(world.server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    world.cluster.end()


tap.main(main)
