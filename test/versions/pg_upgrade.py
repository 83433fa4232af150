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

MESSAGES = 2000
LATER = 500


def produce(kafka, begin, end):
    """People who become known, traits, and something for quarantine."""
    producer = kafka.producer()
    for n in range(begin, end):
        person = n % 100
        if n % 10 == 0:
            message = segment.identify(f'm-{n}', n * 1000, userId=f'u-{person}', anonymousId=f'a-{person}',
                                       traits={'plan': f'plan {n}', 'email': f'u{person}@shop.example'})
        else:
            message = segment.track(f'm-{n}', n * 1000, anonymousId=f'a-{person}', properties={'n': n})
        producer.send('shop', segment.encode(message) if n % 50 != 1 else b'{broken')
    producer.flush()


def shown(server):
    """What a superuser sees in the tables and views, and an analyst in the views."""
    with server.connect() as postgres_session, server.connect(user='ana') as analyst:
        return {**{f'cdp_data.{name}': rows for name, rows in contents.tables(postgres_session).items()},
                **{f'cdp.{name}': rows for name, rows in contents.views(postgres_session).items()},
                **{f'cdp.{name} of an analyst': rows for name, rows in contents.views(analyst).items()}}


def fill(old, kafka):
    """A database with people of Kafka and of SQL."""
    old.create_database()
    old.rows('CREATE ROLE ana LOGIN IN ROLE cdp_analyst')
    old.rows("SELECT cdp.classify_trait('plan')")
    kafka.create_topic('shop', 2)
    produce(kafka, 0, MESSAGES)
    old.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'consumed before the upgrade',
           old.rows('SELECT * FROM cdp.source_status'))
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


def sources_at_rest(new):
    """Whether cdp.status says that the data was attached to another server."""
    return new.rows("SELECT 1 FROM cdp.status WHERE item = 'maintenance' AND message LIKE '%%another server%%'")


def check_content(new, before):
    """Everything is as it was, and follows from the events."""
    tap.wait_for(lambda: sources_at_rest(new), 'cdp.status says that the sources are at rest')
    after = shown(new)
    tap.ok(before == after, f'the same {len(before)} tables and views', contents.differences(before, after))
    tap.same(new.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    tap.same(new.pids('cdp source'), [], 'no source runs before it is resumed')


def check_sources(new, kafka):
    """Paused until resumed; then nothing is lost or repeated."""
    produce(kafka, MESSAGES, MESSAGES + LATER)
    new.rows('SELECT cdp.setup()')
    tap.wait_for(lambda: not sources_at_rest(new), 'the workers are attached')
    tap.same(new.rows('SELECT DISTINCT state FROM cdp.source_status'), [('paused',)], 'attached, the sources are paused')
    tap.same(new.pids('cdp source'), [], 'attached, no source runs')
    new.rows("SELECT cdp.resume_source('shop')")
    tap.ok(new.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'resumed, the source goes on')
    good = sum(n % 50 != 1 for n in range(MESSAGES + LATER))
    tap.same(new.rows("SELECT count(*), count(DISTINCT message_id) FROM cdp.event WHERE source = 'shop'"), [(good, good)],
             'nothing is lost or repeated')
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
    before = shown(old)
    old.stop()
    upgrade(old, new, postgres.server_directory(parent, 'pg_upgrade'))
    new.start()
    check_key(old, new)
    check_content(new, before)
    check_sources(new, kafka)


tap.main(main)
