"""A big COPY into cdp.inbox runs in bounded memory while a Kafka source goes on.

The COPY holds its people until it commits.  Messages of other people are
committed meanwhile; messages of the held ones wait, and are applied after the
COPY.  CDP_SOAK: 5 million rows in place of 200,000.
"""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

ROWS = 5_000_000 if os.environ.get('CDP_SOAK') else 200_000
PEOPLE = 20_000
NOTE = 500 * 'x'                # so that anything kept of each row is beyond MEMORY in the end
HELD = 100                      # people of the COPY who come through Kafka too
MEMORY = 256 * 1024 * 1024
COPY = "COPY cdp.inbox (message) FROM STDIN WITH (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')"


class Copy(threading.Thread):
    """One COPY in one transaction that stays open until it is told to commit."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.connection = server.connect(autocommit=False)
        self.pid = self.connection.info.backend_pid
        self.peak = 0
        self.copied = threading.Event()
        self.commit = threading.Event()
        self.error = None

    def run(self):
        """Send all rows, looking at the memory of the backend now and then."""
        try:
            with self.connection.cursor().copy(COPY) as copy:
                for n in range(ROWS):
                    copy.write(segment.encode(segment.track(f'c-{n}', n, userId=f'u-{n % PEOPLE}', properties={'note': NOTE})) + b'\n')
                    if n % 1000 == 0:
                        self.peak = max(self.peak, machine.anonymous_memory(self.pid))
            self.peak = max(self.peak, machine.anonymous_memory(self.pid))
            self.copied.set()
            self.commit.wait()
            self.connection.commit()
            self.connection.close()
        except Exception as e:
            self.error = repr(e)
            self.copied.set()


def main():
    """COPY, Kafka beside it, then both together."""
    directory = machine.fresh_directory('copy')
    server = postgres.Server(postgres.installation(), directory).start()
    server.create_database()
    kafka = broker.Kafka(directory).start()
    kafka.create_topic('shop', 4)
    server.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    copy = Copy(server)
    copy.start()
    producer = kafka.producer()
    for n in range(2000):
        producer.send('shop', segment.encode(segment.track(f'k-{n}', n, userId=f'v-{n}')))
    producer.flush()
    tap.wait_for(lambda: server.value("SELECT count(*) FROM cdp.event WHERE topic = 'shop'"),
                 'messages of other people are committed while the COPY runs', good=lambda n: n == 2000)
    tap.ok(True, 'messages of other people are committed while the COPY runs')

    copy.copied.wait()
    tap.same(copy.error, None, 'the COPY has taken all rows')
    for n in range(HELD):
        producer.send('shop', segment.encode(segment.track(f'h-{n}', n, userId=f'u-{n}')))
        producer.send('shop', segment.encode(segment.track(f'o-{n}', n, userId=f'w-{n}')))
    producer.flush()
    tap.wait_for(lambda: server.value("SELECT count(*) FROM cdp.event WHERE message_id LIKE 'o-%'"),
                 'messages between those of held people are committed', good=lambda n: n == HELD)
    tap.same(server.value("SELECT count(*) FROM cdp.event WHERE message_id LIKE 'h-%'"), 0,
             'those of held people wait for the COPY')
    tap.ok(not server.value("SELECT cdp.wait_for_source('shop', '1 s')"), 'wait_for_source knows that they are not stored')
    tap.ok(server.value("SELECT message FROM cdp.status WHERE item = 'parked' AND message LIKE '% messages are parked%'"),
           'cdp.status says that messages are parked', server.rows('SELECT * FROM cdp.status'))
    copy.commit.set()
    copy.join()
    tap.same(copy.error, None, 'the COPY commits: a worker never makes a client fail')
    tap.ok(server.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'what waited is applied',
           server.rows('SELECT * FROM cdp.source_status'))
    tap.same(server.value('SELECT count(*) FROM cdp.event'), ROWS + 2000 + 2 * HELD, 'everything is stored')
    tap.same(server.rows("SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'u-0')"),
             [(ROWS // PEOPLE + 1,)], 'a held person has the events of both')
    tap.note(f'peak RssAnon of the backend of the COPY: {copy.peak // 1024} kB')
    tap.ok(0 < copy.peak <= MEMORY, 'its memory stays under 256 MiB', copy.peak)
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')


tap.main(main)
