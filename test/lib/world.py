"""One server and one broker for all checks of a program; each check has its own topic and source."""
import traceback

import broker
import machine
import postgres
import segment
import tap


class World:
    """A database that is set up, and a real broker beside it."""

    def __init__(self, name, **settings):
        directory = machine.fresh_directory(name)
        self.server = postgres.Server(postgres.installation(), directory, **settings).start()
        self.server.create_database()
        self.kafka = broker.Kafka(directory).start()

    def source(self, name, topic=None, dbname='cdp', **arguments):
        """A source of the topic of the same name, or of another one."""
        values = {'brokers': self.kafka.address, 'topics': [topic or name], **arguments}
        named = ''.join(f', {key} => %s' for key in values)
        self.server.rows(f'SELECT cdp.create_source(%s{named})', name, *values.values(), dbname=dbname)

    def caught_up(self, name, what, dbname='cdp'):
        """The source has consumed all there is."""
        tap.ok(self.server.value("SELECT cdp.wait_for_source(%s, '300 s')", name, dbname=dbname), what,
               self.server.rows('SELECT * FROM cdp.source_status WHERE source = %s', name, dbname=dbname))

    def ids(self, topic, dbname='cdp'):
        """Message ids stored from a topic, sorted."""
        return [row[0] for row in self.server.rows(
            'SELECT message_id FROM cdp.event WHERE topic = %s ORDER BY message_id COLLATE "C"', topic, dbname=dbname)]

    def send(self, topic, ids, producer=None, **arguments):
        """Produce one track call for each id."""
        producer = producer or self.kafka.producer()
        for message_id in ids:
            producer.send(topic, segment.encode(segment.track(message_id, userId='u-' + message_id)), **arguments)
        producer.flush()

    def status(self, source, column, dbname='cdp'):
        """One column of the source's partitions, in their order."""
        return [row[0] for row in self.server.rows(
            f'SELECT {column} FROM cdp.source_status WHERE source = %s ORDER BY topic, "partition"', source, dbname=dbname)]

    def gaps(self, source):
        """What is written down as lost: (partition, from, to)."""
        return self.server.rows('SELECT "partition", from_offset, to_offset FROM cdp.source_gap WHERE source = %s ORDER BY id', source)

    def pause(self, source):
        """No worker of the source runs any more: one may still commit the batch that it had when it was asked to stop."""
        self.server.rows('SELECT cdp.pause_source(%s)', source)
        tap.wait_for(lambda: self.status(source, 'worker_pid'), f'{source} is at rest', good=lambda pids: not any(pids))

    def worker(self, source):
        """Process id of the source's only worker."""
        return tap.wait_for(lambda: self.status(source, 'worker_pid')[0], f'{source} has a worker')


def run(world, situations):
    """Every situation, then what must hold after all of them."""
    for situation in situations:
        try:
            situation(world)
        except Exception:
            tap.ok(False, situation.__name__, traceback.format_exc())
    tap.same(world.server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')


def numbered(prefix, n, first=0):
    """n message ids whose order is that of their numbers."""
    return [f'{prefix}-{i:05}' for i in range(first, first + n)]
