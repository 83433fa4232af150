"""Messages that cannot be taken (F12): alone, first, last, many in a row, in a batch of 10,000.  Only they go to quarantine, with their bytes.

And more messages than ever (F32): a burst, one person, one partition; memory stays bounded and the source catches up.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker           # noqa: E402
import machine          # noqa: E402
import postgres         # noqa: E402
import segment          # noqa: E402
import tap              # noqa: E402
import world as worlds  # noqa: E402
from world import numbered  # noqa: E402

MARK = 'planted-9f3c'           # in every bad message; may be nowhere but in quarantine
ROW, BIG_ROW = 1000, 10         # in a row; of the big ones fewer
MEMORY = 256 * 1024 * 1024


def message(inside):
    """A message that is good but for what is inside; unlike any other message, it has no id."""
    return b'{"type":"track","event":"x","userId":"%s","properties":{"a":%s}}' % (MARK.encode(), inside)


BAD = (
    ('nul_character', message(b'"\\u0000"')),
    ('lone_surrogate', message(b'"\\ud800"')),
    ('invalid_encoding', message(b'"\xff\xfe"')),
    ('number_too_long', message(b'1e400')),
    ('too_deep', message(b'[' * 10000 + b']' * 10000)),
    ('value_too_big', message(b'"' + b'x' * 300_000 + b'"')),
    ('message_too_big', message(b'"' + b'x' * 1_500_000 + b'"')),
    ('invalid_json', message(b'"')[:-10]),
    ('invalid_json', MARK.encode()),
    ('not_an_object', b'"%s"' % MARK.encode()),
    ('unknown_type', b'{"type":"telepathy","userId":"%s"}' % MARK.encode()),
    ('no_identifier', b'{"type":"track","event":"%s"}' % MARK.encode()),
    ('invalid_time', b'{"type":"track","event":"x","userId":"%s","originalTimestamp":"yesterday"}' % MARK.encode()),
    ('empty', b' '),
    ('apply_failed', message(b'1').replace(b'"event":"x"', b'"event":"boom"')),
)
TRIGGER = """CREATE FUNCTION public.boom() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE division_by_zero USING MESSAGE = 'cannot store ' || new.user_id;
END $$;
CREATE TRIGGER boom BEFORE INSERT ON cdp_data.event FOR EACH ROW WHEN (new.name = 'boom') EXECUTE FUNCTION public.boom()"""


def in_a_row(body):
    """How many of them."""
    return BIG_ROW if len(body) > 100_000 else ROW


ARRANGEMENTS = {
    'alone': lambda bad, good: [bad],
    'first': lambda bad, good: [bad, *good(50)],
    'last': lambda bad, good: [*good(50), bad],
    'row': lambda bad, good: [*good(50), *[bad] * in_a_row(bad), *good(50)],
    'batch': lambda bad, good: [*good(337), bad, *good(338)],
}


def arrangement(name):
    """A situation: a topic with a partition for each kind of bad message."""
    def situation(world):
        world.kafka.create_topic(name, len(BAD))
        producer = world.kafka.producer()
        sent = 0

        def good(n):
            nonlocal sent
            sent += n
            return [segment.encode(segment.track(i, userId=i)) for i in numbered(f'{name}-{partition}', n, sent)]
        for partition, (_, body) in enumerate(BAD):
            for value in ARRANGEMENTS[name](body, good):
                producer.send(name, value, partition=partition)
        producer.flush()
        # on a busy machine the producer has left single records out, or changed their order, without an error
        records = broker.read_topic(world.kafka.address, name, len(BAD))
        expected = [(p, o, BAD[p][0]) for p, o, value in records if value == BAD[p][1]]
        world.source(name)
        world.caught_up(name, f'{name}: the worker goes on')
        tap.same(world.server.value('SELECT count(*) FROM cdp.event WHERE topic = %s', name), len(records) - len(expected), f'{name}: every good message is stored')
        rows = world.server.rows('SELECT "partition", "offset", reason FROM cdp.quarantine WHERE topic = %s ORDER BY 1, 2', name)
        tap.ok(rows == expected, f'{name}: the bad ones are in quarantine, each once, for its reason', (rows[:3], set(expected) ^ set(rows)))
        bytes_differ = [partition for partition, body in world.server.rows(
            'SELECT DISTINCT "partition", body FROM cdp.quarantine WHERE topic = %s', name) if bytes(body) != BAD[partition][1]]
        tap.same(bytes_differ, [], f'{name}: with their bytes')
    situation.__name__ = name
    return situation


def nothing_in_the_log(world):
    """What is in a message is nobody's business."""
    with open(world.server.log, encoding='utf-8', errors='replace') as f:
        lines = f.readlines()
    tap.same([line for line in lines if MARK in line], [], 'nothing of a bad message is in the log')
    told = [line for line in lines if 'could not be applied' in line]
    tap.ok(0 < len(told) < 100, 'the log tells of it, but not of each of them', len(told))
    seen = world.server.rows("SELECT last_error FROM cdp.source_status WHERE last_error LIKE '%%' || %s || '%%'", MARK)
    tap.same(seen, [], 'nor in the status')


class Peak:
    """The most anonymous memory that the workers of a source had while a condition was waited for."""

    def __init__(self, world, name):
        self.world, self.name, self.bytes = world, name, 0

    def until_caught_up(self):
        """Wait until the source has no lag, looking at its workers."""
        def look():
            for pid in filter(None, self.world.status(self.name, 'worker_pid')):
                self.bytes = max(self.bytes, machine.anonymous_memory(pid))
            return self.world.server.value("SELECT cdp.wait_for_source(%s, '200 ms')", self.name)
        tap.wait_for(look, f'{self.name} has caught up', 300)


def headers(world):
    """Messages that are nothing but headers: compressed they are small, in memory a hundred times that."""
    world.kafka.create_topic('headers', 1)
    producer = world.kafka.producer(compression__type='zstd')
    world.send('headers', numbered('headers', 40), producer, headers=[('', b'')] * 100_000)
    world.source('headers')
    peak = Peak(world, 'headers')
    peak.until_caught_up()
    tap.same(world.ids('headers'), numbered('headers', 40), 'headers: every message is stored once')
    tap.note(f'peak RssAnon {peak.bytes // 1024} kB')
    tap.ok(0 < peak.bytes < MEMORY, 'headers: memory is bounded', peak.bytes)


HUGE = 80 * 1024 * 1024         # more than is kept


def huge(world):
    """A few kB that unpack to more than a row should hold: the source goes on, and says where the bytes are."""
    world.kafka.create_topic('huge', 1)
    producer = world.kafka.producer(compression__type='gzip', message__max__bytes=4 * HUGE)
    for arguments in ({'value': b'x' * HUGE}, {'value': b'{}', 'key': b'k' * HUGE}, {'value': b'{}', 'headers': [('h', b'v' * HUGE)]}):
        producer.send('huge', **arguments)
        producer.flush()
    world.send('huge', numbered('huge', 10), producer)
    world.source('huge')
    world.caught_up('huge', 'huge: the worker goes on')
    tap.same(world.ids('huge'), numbered('huge', 10), 'huge: every good message is stored once')
    rows = world.server.rows('SELECT "offset", reason, length(body), headers FROM cdp.quarantine WHERE topic = %s ORDER BY 1', 'huge')
    tap.same(rows, [(n, 'message_too_big', None, None) for n in range(3)], 'huge: the others are in quarantine, without their bytes')
    told = world.server.value("SELECT detail FROM cdp.quarantine WHERE topic = 'huge' LIMIT 1")
    tap.ok(str(HUGE)[:3] in told and 'not stored' in told, 'huge: which it says', told)
    with world.server.connect() as c:
        try:
            c.execute("SELECT * FROM cdp.ingest(jsonb_build_object('type', 'track', 'event', repeat('x', 70000000)))")
            tap.ok(False, 'huge: a client gets an error')
        except postgres.psycopg.errors.ProgramLimitExceeded as e:
            tap.ok('is too large' in str(e), 'huge: a client gets an error', str(e)[:300])


def burst(world):
    """Ten times as much as before, nearly all in one partition and of one person."""
    world.kafka.create_topic('burst', 4)
    producer = world.kafka.producer(compression__type='lz4')
    world.source('burst')
    world.send('burst', numbered('burst-before', 1000), producer)
    world.caught_up('burst', 'burst: consumed before')
    for n in range(80_000):
        hot = n % 10 > 0
        producer.send('burst', segment.encode(segment.track(
            f'burst-{n}', n, userId='hot' if hot else f'cold-{n}', anonymousId=f'device-{n % 3}' if hot else f'cold-{n}',
            context=segment.CONTEXT)), partition=0 if hot else n % 4)
    producer.flush()
    peak = Peak(world, 'burst')
    peak.until_caught_up()
    tap.same(world.server.rows("SELECT sum(lag)::int, max(lag_seconds)::int FROM cdp.source_status WHERE source = 'burst'"), [(0, 0)],
             'burst: the lag is gone')
    tap.same(world.server.value("SELECT count(*) FROM cdp.event WHERE topic = 'burst'"), 81_000, 'burst: everything is stored')
    tap.same(world.server.value("SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'hot')"), 72_000,
             'burst: the hot person has all events')
    tap.note(f'peak RssAnon {peak.bytes // 1024} kB')
    tap.ok(0 < peak.bytes < MEMORY, 'burst: memory is bounded', peak.bytes)


def main():
    """All checks over one server and one broker; events are written by INSERT so that one of them can be made to fail."""
    world = worlds.World('poison', cdp__store='sql')
    world.server.rows(TRIGGER)
    worlds.run(world, (*map(arrangement, ARRANGEMENTS), nothing_in_the_log, huge, headers, burst))


tap.main(main)
