"""What topics and brokers do on an ordinary day, with the real broker."""
import datetime
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import segment   # noqa: E402
import tap       # noqa: E402
import world as worlds  # noqa: E402

UTC = datetime.timezone.utc
BIG = 900 * 1000
THROTTLED = 200 * 1000          # bytes a second; 40 s for the messages of SIZE
SIZE = 10 * 1000


def horizon_while_waiting(world, statement, what, expected):
    """Does a session that waits hold back the removal of dead rows?"""
    session = world.server.connect()
    waiting = threading.Thread(target=session.execute, args=(statement,))
    waiting.start()
    held = tap.wait_for(lambda: world.server.rows(
        "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Extension'",
        session.info.backend_pid), f'session that waits: {what}', good=lambda rows: rows and (expected or rows == [(False,)]))
    tap.same(held, [(expected,)], what)
    waiting.join()
    session.close()


def topic_created_later(world):
    """A source may be made before its topic."""
    world.source('later')
    tap.ok(not world.server.value("SELECT cdp.wait_for_source('later', '2 s')"), 'an absent topic means waiting, then false')
    horizon_while_waiting(world, "SELECT cdp.wait_for_source('later', '3 s')", 'waiting alone holds no snapshot', False)
    horizon_while_waiting(world, "SELECT cdp.wait_for_source('later', '3 s'), (SELECT count(*) FROM cdp.event)",
                          'with more to read afterwards, it is kept', True)
    world.kafka.create_topic('later', 2)
    world.send('later', ['later-1', 'later-2', 'later-3'])
    world.caught_up('later', 'the topic is consumed when it has been created')
    tap.same(world.ids('later'), ['later-1', 'later-2', 'later-3'], 'all its messages are stored')


def partitions_added(world):
    """New partitions are picked up by the worker whose number they have."""
    world.kafka.create_topic('wider', 2)
    world.source('wider', workers=2)
    expected = []
    for partition in range(2):
        world.send('wider', [f'wider-{partition}'], partition=partition)
        expected.append(f'wider-{partition}')
    world.caught_up('wider', 'two partitions are consumed')
    world.kafka.add_partitions('wider', 5)
    producer = world.kafka.producer()
    for partition in range(2, 5):
        world.send('wider', [f'wider-{partition}'], producer, partition=partition)
        expected.append(f'wider-{partition}')
    tap.wait_for(lambda: world.ids('wider'), 'events of the new partitions', good=lambda ids: ids == expected)
    tap.same([row[0] for row in world.server.rows(
        "SELECT \"partition\" FROM cdp.source_status WHERE source = 'wider' ORDER BY 1")], [0, 1, 2, 3, 4],
        'added partitions appear in the status')


def many_partitions(world):
    """A worker shows 256 partitions in detail; the others are consumed and shown as well, with what is known of them."""
    world.kafka.create_topic('many', 300)
    world.source('many')
    world.send('many', ['many-1'], partition=299)
    world.caught_up('many', '300 partitions are consumed')
    tap.same(world.ids('many'), ['many-1'], 'so is the last of them')
    shown = """SELECT state, end_position IS NULL AND lag IS NULL AND rate IS NULL, count(*), max("position")
               FROM cdp.source_status WHERE source = 'many' GROUP BY 1, 2 ORDER BY 2"""
    tap.wait_for(lambda: world.server.rows(shown), 'all partitions are shown as running, the end of the last is not known',
                 good=lambda rows: rows == [('running', False, 256, 0), ('running', True, 44, 1)])
    world.server.rows("SELECT cdp.drop_source('many')")


TROUBLE = """CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.topic = 'trouble' AND new."partition" = 1 THEN RAISE EXCEPTION 'it cannot'; END IF;
    IF new.topic = 'trouble' AND new."partition" = 2 THEN RAISE EXCEPTION 'it must wait' USING ERRCODE = 'lock_not_available'; END IF;
    RETURN new;
END $$"""


def workers_in_trouble(world):
    """Of the workers of a source the status shows how many are in trouble, and the one that failed before the one that waits."""
    world.kafka.create_topic('trouble', 3)
    world.server.rows(TROUBLE)
    world.server.rows('CREATE TRIGGER trouble BEFORE UPDATE ON cdp_data.source_offset FOR EACH ROW EXECUTE FUNCTION public.trouble()')
    world.source('trouble', workers=3)
    for partition in range(3):
        world.send('trouble', [f'trouble-{partition}'], partition=partition)
    status = "SELECT severity, message FROM cdp.status WHERE item = 'source trouble'"
    tap.wait_for(lambda: world.server.rows(status), 'the status counts the workers and names the one that failed',
                 good=lambda rows: rows == [('error', '1 of 3 workers are running, 1 wait, 1 failed; worker 2: it cannot')])
    world.server.rows('DROP TRIGGER trouble ON cdp_data.source_offset')
    world.caught_up('trouble', 'they go on when the trouble is over')
    tap.wait_for(lambda: world.server.rows(status), 'then the status is good',
                 good=lambda rows: rows == [('ok', '3 of 3 workers are running')])


def null_values(world):
    """A record without a value says nothing about anybody, and is not an error."""
    world.kafka.create_topic('nulls', 1)
    world.source('nulls')
    producer = world.kafka.producer()
    producer.send('nulls', None, key=b'k')
    producer.send('nulls', segment.encode(segment.track('nulls-1', userId='u')), key=b'k')
    producer.send('nulls', None)
    producer.flush()
    world.caught_up('nulls', 'null values are passed')
    tap.same(world.ids('nulls'), ['nulls-1'], 'the message between null values is stored')
    tap.same(world.server.value("SELECT count(*) FROM cdp.quarantine WHERE topic = 'nulls'"), 0,
             'null values are not in quarantine')


def keys_and_headers(world):
    """Keys and headers of any bytes neither harm nor change a message."""
    world.kafka.create_topic('keyed', 1)
    world.source('keyed')
    world.send('keyed', ['keyed-1'], key=b'\x00\xff')
    world.send('keyed', ['keyed-2'], key=b'')
    world.send('keyed', ['keyed-3'], headers=[('trace', b'\x00\xfe'), ('trace', None), ('', b'x')])
    world.caught_up('keyed', 'keys and headers are consumed')
    tap.same(world.ids('keyed'), ['keyed-1', 'keyed-2', 'keyed-3'], 'messages with keys and headers are stored')


def time_stamp_types(world):
    """Where the payload has no receivedAt, the record's time stamp is it: the producer's or the broker's."""
    message = {k: v for k, v in segment.track('x', userId='u-time').items() if k not in ('receivedAt', 'sentAt')}
    created = datetime.datetime(2026, 3, 1, 0, 0, 30, tzinfo=UTC)
    before = datetime.datetime.now(UTC)
    for kind in ('CreateTime', 'LogAppendTime'):
        topic = kind.lower()
        world.kafka.create_topic(topic, 1, message__timestamp__type=kind)
        world.source(topic)
        producer = world.kafka.producer()
        producer.send(topic, segment.encode({**message, 'messageId': topic}), timestamp=int(created.timestamp() * 1000))
        producer.flush()
        world.caught_up(topic, f'a topic with {kind} is consumed')
    received = dict(world.server.rows("SELECT topic, received_at FROM cdp.event WHERE topic IN ('createtime', 'logappendtime')"))
    tap.same(received.get('createtime'), created, 'CreateTime: received when the producer says')
    at = received.get('logappendtime')
    slack = datetime.timedelta(seconds=1)
    tap.ok(at and before - slack <= at <= datetime.datetime.now(UTC) + slack, 'LogAppendTime: received when the broker says', at)


def compressions(world):
    """All that a producer may use."""
    for codec in ('gzip', 'snappy', 'lz4', 'zstd'):
        world.kafka.create_topic(codec, 2)
        world.source(codec)
        ids = sorted(f'{codec}-{n}' for n in range(500))
        world.send(codec, ids, world.kafka.producer(compression__type=codec))
        world.caught_up(codec, f'{codec} is consumed')
        tap.same(world.ids(codec), ids, f'{codec}: all messages are stored')


def big_messages(world):
    """900 kB of one message arrive unchanged."""
    world.kafka.create_topic('big', 1)
    world.source('big')
    part = 'ä' * (BIG // 4 // 2)
    producer = world.kafka.producer()
    for n in range(3):
        producer.send('big', segment.encode(segment.track(
            f'big-{n}', userId='u-big', properties={'parts': [part, part, part, part], 'n': n})))
    producer.flush()
    world.caught_up('big', 'messages of 900 kB are consumed')
    rows = world.server.rows("SELECT properties FROM cdp.event WHERE topic = 'big' ORDER BY message_id")
    tap.same([row[0] == {'parts': [part] * 4, 'n': n} for n, row in enumerate(rows)], [True] * 3, 'they are stored unchanged')


def broker_away(world):
    """Nothing is lost while the broker cannot be reached, and the status says so."""
    world.kafka.create_topic('away', 2)
    world.source('away')
    world.send('away', ['away-1'])
    world.caught_up('away', 'consumed before the broker goes')
    world.kafka.kill()
    tap.wait_for(lambda: world.server.value("SELECT max(last_error) FROM cdp.source_status WHERE source = 'away'"),
                 'the status names the error')
    tap.ok(not world.server.value("SELECT cdp.wait_for_source('away', '2 s')"), 'an absent broker means waiting, then false')
    world.kafka.start()
    world.send('away', ['away-2'])
    world.caught_up('away', 'consumed after the broker has come back')
    tap.same(world.ids('away'), ['away-1', 'away-2'], 'everything is stored once')


def throttled(world):
    """The broker lets its clients read little: it takes longer, and is no error."""
    world.kafka.create_topic('throttled', 1)
    world.source('throttled')
    mark = world.server.log_mark()
    world.kafka.throttle(THROTTLED)
    producer = world.kafka.producer()
    ids = sorted(f'throttled-{n:04}' for n in range(40 * THROTTLED // SIZE))
    for message_id in ids:
        producer.send('throttled', segment.encode(segment.track(message_id, userId='u', properties={'padding': 'x' * SIZE})))
    producer.flush()
    got = tap.wait_for(lambda: world.ids('throttled'), 'some are stored')
    tap.ok(len(got) < len(ids), 'the broker lets the worker wait for the others', len(got))
    tap.same(world.server.rows("SELECT severity FROM cdp.status WHERE item = 'source throttled'"), [('ok',)], 'which is no error')
    world.kafka.throttle(None)
    world.caught_up('throttled', 'it goes on when it may')
    tap.same(world.ids('throttled'), ids, 'all messages are stored')
    tap.ok('throttled' not in world.server.log_after(mark), 'the log has nothing of it', world.server.log_after(mark))


def pause_and_drop(world):
    """pause_source stops, resume_source goes on, drop_source leaves the events."""
    world.kafka.create_topic('paused', 1)
    world.source('paused')
    world.send('paused', ['paused-1'])
    world.caught_up('paused', 'consumed before the pause')
    world.server.rows("SELECT cdp.pause_source('paused')")
    tap.wait_for(lambda: world.server.value("SELECT count(*) FROM pg_stat_activity JOIN cdp_data.source s"
                                            " ON application_name = 'cdp source ' || s.source_id WHERE s.name = 'paused'"),
                 'its worker stops', good=lambda n: n == 0)
    world.send('paused', ['paused-2'])
    tap.same(world.ids('paused'), ['paused-1'], 'a paused source consumes nothing')
    world.server.rows("SELECT cdp.resume_source('paused')")
    world.caught_up('paused', 'consumed after it was resumed')
    tap.same(world.ids('paused'), ['paused-1', 'paused-2'], 'nothing is lost by a pause')
    world.server.rows("SELECT cdp.drop_source('paused')")
    tap.same(world.ids('paused'), ['paused-1', 'paused-2'], 'events outlive their source')


def main():
    """All checks over one server and one broker."""
    worlds.run(worlds.World('kafka'), (
        topic_created_later, partitions_added, many_partitions, workers_in_trouble, null_values, keys_and_headers, time_stamp_types,
        compressions, big_messages, broker_away, throttled, pause_and_drop))


tap.main(main)
