"""pg_upgrade from an older version: the same database, whose sources wait to be resumed.

CDP_TEST_OLD_PG_CONFIG names the older version, PG_CONFIG the newer one.
"""
import os
import shutil
import sys

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import contents  # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

TOPICS = ['shop', 'visits']    # each of a source of its own
MESSAGES = 2000                 # in each
LATER = 500
NOT_EMPTY = ['cdp.event of an analyst', 'cdp.event', 'cdp.identifier', 'cdp.profile', 'cdp.quarantine', 'cdp_data.profile_trait',
             'cdp_data.message_seen', 'cdp_data.source_offset', 'sequences']


def produce(kafka, begin, end):
    """People who become known, traits, and something for quarantine."""
    producer = kafka.producer()
    for topic, n in ((topic, n) for topic in TOPICS for n in range(begin, end)):
        person = n % 100
        if n % 10 == 0:
            message = segment.identify(f'{topic}-{n}', n * 1000, userId=f'u-{person}', anonymousId=f'a-{person}',
                                       traits={'plan': f'plan {n}', 'email': f'u{person}@shop.example'})
        else:
            message = segment.track(f'{topic}-{n}', n * 1000, anonymousId=f'a-{person}', properties={'n': n})
        producer.send(topic, segment.encode(message) if n % 50 != 1 else b'{broken')
    producer.flush()


def shown(server):
    """What a superuser sees in the tables, sequences and views, and an analyst in the views."""
    with server.connect() as postgres_session, server.connect(user='ana') as analyst:
        return {**{f'cdp_data.{name}': rows for name, rows in contents.tables(postgres_session).items()},
                'sequences': contents.sequences(postgres_session),
                **{f'cdp.{name}': rows for name, rows in contents.views(postgres_session).items()},
                **{f'cdp.{name} of an analyst': rows for name, rows in contents.views(analyst).items()}}


def check_consumed(server, source, when):
    """The source takes everything that is in its topic."""
    tap.ok(server.value("SELECT cdp.wait_for_source(%s, '60 s')", source), f'{when}: {source} is consumed',
           server.rows('SELECT * FROM cdp.source_status'))


def fill(old, kafka):
    """A database with people of Kafka and of SQL."""
    old.create_database()
    old.rows('CREATE ROLE ana LOGIN IN ROLE cdp_analyst')
    old.rows("SELECT cdp.classify_trait('plan')")
    for topic in TOPICS:
        kafka.create_topic(topic, 2)
    produce(kafka, 0, MESSAGES)
    for topic in TOPICS:
        old.rows('SELECT cdp.create_source(%s, brokers => %s, topics => ARRAY[%s])', topic, kafka.address, topic)
        check_consumed(old, topic, 'before the upgrade')
    old.rows('SELECT cdp.ingest(%s::jsonb)', segment.encode(segment.track('sql-1', userId='u-7')).decode())


def give_checksums(server):
    """Both clusters must have checksums or neither; which initdb makes depends on the version."""
    control = machine.run([server.inst.program('pg_controldata'), server.data], **machine.as_server_user())
    if 'checksum version:           0' in control:
        machine.run([server.inst.program('pg_checksums'), '--enable', '--no-sync', server.data], **machine.as_server_user())


def upgrade(old, new, directory):
    """Upgrade the stopped cluster of the old server into the empty one of the new server."""
    for server in (old, new):
        give_checksums(server)
    machine.run([new.inst.program('pg_upgrade'), '-U', 'postgres', '-s', directory,
                 '-b', old.inst.bindir, '-B', new.inst.bindir, '-d', old.data, '-D', new.data,
                 '-p', str(old.port), '-P', str(new.port)], cwd=directory, **machine.as_server_user())


def check_refusal(new, key, what):
    """What needs the key refuses, and names the file."""
    try:
        new.rows("SELECT cdp.ingest('{}')")
        tap.ok(False, f'{what} key: refused')
    except psycopg.Error as e:
        tap.ok(key in str(e), f'{what} key: refused, and the file is named', str(e))


def check_key(old, new):
    """The key file stays beside the old data directory: it has to be brought."""
    key = new.data + '.cdp_key'
    check_refusal(new, key, 'no')
    with open(key, 'wb') as f:
        f.write(os.urandom(32))
    os.chmod(key, 0o600)
    machine.give_to_server(key)
    check_refusal(new, key, 'another')
    shutil.copy2(old.data + '.cdp_key', key)
    machine.give_to_server(key)


def positions(server, sources=TOPICS):
    """How far sources are."""
    return server.rows('SELECT source, "partition", "position" FROM cdp.source_status WHERE source = ANY (%s) ORDER BY 1, 2', sources)


def sources_at_rest(new):
    """Whether cdp.status says that the data was attached to another server, and maintenance has looked."""
    return (new.rows("SELECT 1 FROM cdp.status WHERE item = 'maintenance' AND message LIKE '%another server%'") and
            new.rows("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'cdp maintenance' AND datname = 'cdp' AND state = 'idle'"))


def check_content(new, before):
    """Everything is as it was, and follows from the events."""
    tap.wait_for(lambda: sources_at_rest(new), 'cdp.status says that the sources are at rest')
    after = shown(new)
    tap.ok(before == after, f'the same {len(before)} tables and views', contents.differences(before, after))
    tap.same(new.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    tap.same(new.pids('cdp source'), [], 'no source runs before cdp.setup()')


def resume(new, source):
    """It goes on from where it was."""
    new.rows('SELECT cdp.resume_source(%s)', source)
    check_consumed(new, source, 'resumed')


def check_sources(new, rested):
    """Each is paused until it is resumed; then nothing is lost or repeated."""
    new.rows('SELECT cdp.setup()')
    tap.wait_for(lambda: new.value("SELECT severity = 'ok' FROM cdp.status WHERE item = 'maintenance'"), 'the workers are attached')
    tap.same(new.rows('SELECT DISTINCT state FROM cdp.source_status'), [('paused',)], 'attached, the sources are paused')
    tap.same(positions(new), rested, 'and none has gone on')
    resume(new, TOPICS[0])
    tap.same(positions(new, TOPICS[1:]), [p for p in rested if p[0] in TOPICS[1:]], f'{TOPICS[0]} resumed, the others wait')
    tap.same(len(new.pids('cdp source')), 1, 'and have no workers')
    for topic in TOPICS[1:]:
        resume(new, topic)
    good = sum(n % 50 != 1 for n in range(MESSAGES + LATER))
    tap.same(new.rows("SELECT source, count(*), count(DISTINCT message_id) FROM cdp.event WHERE source = ANY (%s) GROUP BY 1 ORDER BY 1", TOPICS),
             [(topic, good, good) for topic in TOPICS], 'nothing is lost or repeated')
    tap.same(new.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing in the end')


def main():
    """One database, upgraded."""
    parent = machine.fresh_directory('upgrade')
    old_inst = postgres.install(postgres.server_directory(parent, 'old'), original=os.environ['CDP_TEST_OLD_PG_CONFIG'])
    new_inst = postgres.installation()
    kafka = broker.Kafka(parent).start()
    old = postgres.Server(old_inst, postgres.server_directory(parent, 'old-server')).start()
    new = postgres.Server(new_inst, postgres.server_directory(parent, 'new-server'))
    fill(old, kafka)
    before, rested = shown(old), positions(old)
    tap.same([name for name in NOT_EMPTY if not before[name] or not before[name][0]], [], 'there is something to compare')
    old.stop()
    upgrade(old, new, postgres.server_directory(parent, 'pg_upgrade'))
    produce(kafka, MESSAGES, MESSAGES + LATER)
    new.start()
    check_key(old, new)
    check_content(new, before)
    check_sources(new, rested)


tap.main(main)
