"""A private Apache Kafka: one node in KRaft mode on free loopback ports."""
import glob
import logging
import os
import subprocess
import time

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

import machine
import tap
import wire

VERSION = '3.9.1'
JARS = os.path.join(machine.CACHE, 'kafka-' + VERSION)
START_SECONDS = 60
# librdkafka's issue 4778: use after free when a topic was made again (doc/sources.md)
SPOILT_BY_NEW_TOPIC_ID = 0x02040000 <= confluent_kafka.libversion()[1] < 0x020a0000
REQUEST_SECONDS = 60            # of an answer, which a busy broker gives late
PROBE_SECONDS = 5
END_OF_PARTITION = confluent_kafka.KafkaError._PARTITION_EOF  # pylint: disable=protected-access
CLUSTER_ID = 'AAAAAAAAQACAAAAAAAAAAQ'
# a killed broker may come back when its session has timed out
PROPERTIES = '''process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.retention.ms=-1
log.dirs={directory}/kafka
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
auto.create.topics.enable=false
message.max.bytes=4194304
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=250
log.retention.check.interval.ms=500
log.cleaner.backoff.ms=500
log.initial.task.delay.ms=500
'''


class Listener:
    """One more door of a broker, with its protocol and the broker's settings of this listener; at the end of a wire if so wanted."""

    def __init__(self, name, protocol, wired=False, **settings):
        self.name = name
        self.protocol = protocol
        self.port = machine.free_port()
        self.wire = wire.Wire(self.port) if wired else None
        self.address = f'localhost:{self.wire.port if wired else self.port}'
        # dots of a setting as double, hyphens as triple underscores
        self.settings = ''.join(f'listener.name.{name.lower()}.{key.replace("___", "-").replace("__", ".")}={value}\n'
                                for key, value in settings.items())


def scram_user(mechanism, user, password):
    """An argument of Kafka's programs that makes a user."""
    return f'{mechanism}=[name={user},password={password}]'


class Kafka:
    """One broker; its log outlives kill() and start()."""

    def __init__(self, directory, listeners=(), users=()):
        if not glob.glob(JARS + '/kafka_2.13-*.jar'):
            raise RuntimeError(f'no Kafka in {JARS}: test/run/prepare kafka fetches it')
        self.port = machine.free_port()
        self.address = f'127.0.0.1:{self.port}'
        self.log = os.path.join(directory, 'kafka.log')
        self.properties = os.path.join(directory, 'kafka.properties')
        self.process = None
        # a killed Java leaves its unpacked libraries behind
        self.java = [machine.java(), '-Xmx512m', '-Djava.io.tmpdir=' + directory,
                     '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn', '-cp', JARS + '/*']
        with open(self.properties, 'w', encoding='ascii') as f:
            f.write(PROPERTIES.format(port=self.port, controller=machine.free_port(), directory=directory,
                                      listeners=''.join(f',{each.name}://localhost:{each.port}' for each in listeners),
                                      advertised=''.join(f',{each.name}://{each.address}' for each in listeners),
                                      protocols=''.join(f',{each.name}:{each.protocol}' for each in listeners)))
            f.writelines(each.settings for each in listeners)
        machine.run([*self.java, 'kafka.tools.StorageTool', 'format', '-t', CLUSTER_ID, '-c', self.properties,
                     *(argument for user in users for argument in ('--add-scram', user))])
        tap.on_failure(lambda: tap.show_end_of(self.log, 20))

    def start(self):
        """Start the broker and wait until it answers."""
        self.process = machine.start([*self.java, 'kafka.Kafka', self.properties], self.log)
        tap.wait_for(self.answers, 'broker answers', START_SECONDS)
        return self

    def answers(self):
        """True when the broker tells its metadata; raises when it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f'broker ended with {self.process.returncode}, see {self.log}')
        try:
            return bool(self.admin().list_topics(timeout=PROBE_SECONDS).brokers)
        except confluent_kafka.KafkaException:
            return False

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def admin(self):
        """An administration client."""
        return AdminClient({'bootstrap.servers': self.address, 'log_level': 0, 'logger': _quiet()})

    def create_topic(self, name, partitions=4, **config):
        """Create a topic (config: dots as double underscores) and wait until its leaders are there."""
        topic = NewTopic(name, partitions, 1, config={k.replace('__', '.'): str(v) for k, v in config.items()})
        admin = self.admin()        # kept until the answer is there: its end would end the request
        admin.create_topics([topic])[name].result(REQUEST_SECONDS)
        self._wait_for_partitions(name, partitions)

    def add_partitions(self, name, total):
        """Raise the number of partitions."""
        admin = self.admin()
        admin.create_partitions([NewPartitions(name, total)])[name].result(REQUEST_SECONDS)
        self._wait_for_partitions(name, total)

    def set_password(self, user, password, mechanism):
        """Give a user of SCRAM another password."""
        machine.run([*self.java, 'kafka.admin.ConfigCommand', '--bootstrap-server', self.address, '--alter',
                     '--add-config', f'{mechanism}=[password={password}]', '--entity-type', 'users', '--entity-name', user])

    def throttle(self, bytes_per_second):
        """What each client may read at most; None: as much as it can."""
        change = ['--add-config', f'consumer_byte_rate={bytes_per_second}'] if bytes_per_second else ['--delete-config', 'consumer_byte_rate']
        machine.run([*self.java, 'kafka.admin.ConfigCommand', '--bootstrap-server', self.address, '--alter', *change,
                     '--entity-type', 'clients', '--entity-default'])

    def delete_topic(self, name):
        """Delete a topic; its files go a moment later."""
        admin = self.admin()
        admin.delete_topics([name])[name].result(REQUEST_SECONDS)

    def recreate_topic(self, name, partitions=4, **config):
        """Delete a topic and make it again, as fast as the broker does it."""
        admin = self.admin()
        admin.delete_topics([name])[name].result(REQUEST_SECONDS)
        # until then it would take records for the old one
        tap.wait_for(lambda: name not in admin.list_topics(timeout=REQUEST_SECONDS).topics, f'{name} is gone')

        def create():
            try:
                self.create_topic(name, partitions, **config)
                return True
            except confluent_kafka.KafkaException as e:
                if e.args[0].code() != confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
                return False
        tap.wait_for(create, f'{name} can be made again')

    def _wait_for_partitions(self, name, count):
        def leaders():
            topic = self.admin().list_topics(name, timeout=REQUEST_SECONDS).topics[name]
            return [p for p in topic.partitions.values() if p.leader >= 0]
        tap.wait_for(leaders, f'leaders of {name}', good=lambda found: len(found) == count)

    def producer(self, **config):
        """A producer that fails loudly; dots of the options as double underscores."""
        return Producer(self.address, {k.replace('__', '.'): v for k, v in config.items()})

    def consumer(self, **config):
        """confluent_kafka's consumer, which tells the end of a partition as an error."""
        return confluent_kafka.Consumer({'bootstrap.servers': self.address, 'group.id': 'test', 'enable.auto.commit': False,
                                         'enable.partition.eof': True, 'auto.offset.reset': 'earliest', 'logger': _quiet(),
                                         **{k.replace('__', '.'): v for k, v in config.items()}})


def partition(topic, number, offset=confluent_kafka.OFFSET_INVALID):
    """What confluent_kafka wants for a partition."""
    return confluent_kafka.TopicPartition(topic, number, offset)


def read_topic(address, topic, partitions, seconds=60):
    """What is in a topic whose producers have ended: (partition, offset, value) of every record, in order."""
    reader = confluent_kafka.Consumer({'bootstrap.servers': address, 'group.id': 'test', 'enable.auto.commit': False, 'logger': _quiet()})
    parts = [confluent_kafka.TopicPartition(topic, p, 0) for p in range(partitions)]
    left = {p.partition: reader.get_watermark_offsets(p, timeout=seconds)[1] for p in parts}
    reader.assign([p for p in parts if left[p.partition]])
    records, deadline = [], time.monotonic() + seconds
    while len(records) < sum(left.values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f'{len(records)} of {sum(left.values())} records read')
        message = reader.poll(1)
        if message is not None and not message.error():
            records.append((message.partition(), message.offset(), message.value()))
    reader.close()
    return sorted(records)


class Producer:
    """confluent_kafka's producer, whose failed deliveries raise in flush()."""

    def __init__(self, address, config):
        self.failed = []
        self.sent = 0
        self.client = confluent_kafka.Producer({
            'bootstrap.servers': address, 'linger.ms': 5, 'enable.idempotence': True, 'logger': _quiet(),
            'message.timeout.ms': 120000, 'queue.buffering.max.kbytes': 131072, 'message.max.bytes': 4000000, **config})

    def _delivered(self, error, _message):
        if error:
            self.failed.append(str(error))

    def send(self, topic, value, key=None, **arguments):
        """Queue one record, waiting while the queue is full."""
        while True:
            try:
                self.client.produce(topic, value, key, on_delivery=self._delivered, **arguments)
                self.sent += 1
                break
            except BufferError:
                self.client.poll(0.1)
        self.client.poll(0)

    def flush(self, seconds=120):
        """Wait until the broker has everything."""
        deadline = time.monotonic() + seconds
        while self.client.flush(1):
            if time.monotonic() > deadline:
                raise TimeoutError(f'{len(self.client)} records not delivered')
        if self.failed:
            raise RuntimeError(f'{len(self.failed)} records failed, the first: {self.failed[0]}')


def _quiet():
    """librdkafka's complaints while a broker is down are expected."""
    logger = logging.getLogger('librdkafka')
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    return logger


def kcat(address, *arguments, stdin=None):
    """Run kcat to its end."""
    return subprocess.run(['kcat', '-b', address, *arguments], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=True).stdout
