"""A worker's anonymous memory stays bounded, whatever the lag and the size of the messages."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

LIMIT = 256 * 1024 * 1024
SMALL, BIG = 200_000, 400
BIG_PART = 'x' * 220_000        # four of them: below the limits of one value and of one message


def produce(kafka):
    """A lag of 120 MB in small messages and 350 MB in big ones."""
    kafka.create_topic('lag', 4)
    producer = kafka.producer(compression__type='lz4')
    for n in range(SMALL):
        producer.send('lag', segment.encode(segment.track(
            f's-{n}', n, userId=f'u-{n % 20000}', context=segment.CONTEXT, properties={'n': n})))
    for n in range(BIG):
        producer.send('lag', segment.encode(segment.track(
            f'b-{n}', n, userId=f'u-{n}', properties={'parts': [BIG_PART] * 4})))
    producer.flush()


def main():
    """Watch the worker from its start to the end of the lag."""
    directory = machine.fresh_directory('memory')
    server = postgres.Server(postgres.installation(), directory).start()
    server.create_database()
    kafka = broker.Kafka(directory).start()
    produce(kafka)
    server.rows("SELECT cdp.create_source('lag', brokers => %s, topics => '{lag}')", kafka.address)
    peak = 0

    def lag_is_gone():
        nonlocal peak
        for pid in server.pids('cdp source'):
            try:
                peak = max(peak, machine.anonymous_memory(pid))
            except FileNotFoundError:
                pass
        return server.value('SELECT count(*) FROM cdp.event') == SMALL + BIG

    tap.wait_for(lag_is_gone, 'the lag is consumed', 300)
    tap.note(f'peak RssAnon of a source worker: {peak // 1024} kB')
    tap.ok(0 < peak <= LIMIT, 'RssAnon of the source worker stays under 256 MiB', peak)


tap.main(main)
