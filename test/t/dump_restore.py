"""pg_dump into a fresh cluster without the roles: the same database, whose sources wait to be resumed."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

MESSAGES = 2000
SHOWN = {
    'events': 'SELECT message_id, occurred_at, received_at, profile_id, user_id, anonymous_id, properties, topic,'
              ' "partition", "offset" FROM cdp.event ORDER BY message_id COLLATE "C"',
    'people': 'SELECT profile_id, traits, first_seen, last_seen, event_count FROM cdp.profile ORDER BY 1',
    'identifiers': 'SELECT profile_id, namespace, value, first_day, last_day, state FROM cdp.identifier ORDER BY 1, 2, 3',
    'quarantine': 'SELECT topic, "partition", "offset", reason, body FROM cdp.quarantine ORDER BY 1, 2, 3',
    'namespaces': 'SELECT * FROM cdp.namespace ORDER BY 1',
}


def produce(kafka, begin, end):
    """Messages with people, traits and something for quarantine."""
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


def shown(server, dbname='cdp'):
    """Everything public that a restore must keep."""
    return {name: server.rows(sql, dbname=dbname) for name, sql in SHOWN.items()}


def server_in(inst, parent, name, key):
    """A new cluster whose key file is named in its settings."""
    directory = os.path.join(parent, name)
    os.mkdir(directory)
    machine.give_to_server(directory)
    return postgres.Server(inst, directory, cdp__key_file=os.path.join(directory, key)).start()


def restore(old, new, dump, dbname, command):
    """Dump with one format, restore in one transaction or in parallel."""
    machine.run([old.inst.program('pg_dump'), *dump], env=old.environment())
    new.rows(f'CREATE DATABASE {dbname}', dbname='postgres')
    machine.run(command, env=new.environment(dbname))


def check_restored(new, dbname, before, how, key):
    """Same content; paused until resumed; goes on without loss or repetition."""
    tap.same(new.rows('SELECT * FROM cdp.verify()', dbname=dbname), [], f'{how}: cdp.verify() finds nothing')
    after = shown(new, dbname)
    for name, rows in before.items():
        tap.ok(rows == after[name], f'{how}: the same {name}', f'{len(rows)} before, {len(after[name])} after')
    tap.same(new.pids('cdp source', dbname), [], f'{how}: no source runs before it is resumed')
    new.rows('SELECT cdp.setup()', dbname=dbname)
    tap.same(new.pids('cdp source', dbname), [], f'{how}: attached, its sources are still paused')
    tap.ok(os.path.exists(key), f'{how}: the key file is the one that was copied')


def main():
    """One database, two ways to move it."""
    parent = machine.fresh_directory('dump')
    inst = postgres.installation()
    old = server_in(inst, parent, 'old', 'cdp.key')
    old.create_database()
    kafka = broker.Kafka(parent).start()
    kafka.create_topic('shop', 2)
    produce(kafka, 0, MESSAGES)
    old.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    tap.ok(old.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'consumed before the dump',
           old.rows('SELECT * FROM cdp.source_status'))
    before = shown(old)

    new = server_in(inst, parent, 'new', 'cdp.key')
    key = os.path.join(parent, 'new', 'cdp.key')
    plain, custom = os.path.join(parent, 'plain.sql'), os.path.join(parent, 'custom.dump')
    restore(old, new, ['-f', plain], 'plain',
            [inst.program('psql'), '-X', '-q', '-1', '-v', 'ON_ERROR_STOP=1', '-f', plain])
    try:
        new.rows("SELECT cdp.ingest('{}')", dbname='plain')
        tap.ok(False, 'without its key the restored database refuses')
    except postgres.psycopg.Error as e:
        tap.ok(key in str(e), 'without its key the restored database refuses and names the file', str(e))
    shutil.copy2(os.path.join(parent, 'old', 'cdp.key'), key)
    machine.give_to_server(key)
    check_restored(new, 'plain', before, 'pg_dump | psql -1', key)
    restore(old, new, ['-Fc', '-f', custom], 'custom', [inst.program('pg_restore'), '-j2', '-d', 'custom', custom])
    check_restored(new, 'custom', before, 'pg_restore -j2', key)

    old.stop()
    produce(kafka, MESSAGES, MESSAGES + 500)
    new.rows("SELECT cdp.resume_source('shop')", dbname='plain')
    tap.ok(new.value("SELECT cdp.wait_for_source('shop', '60 s')", dbname='plain'), 'resumed, the source goes on')
    stored = new.rows('SELECT count(*), count(DISTINCT message_id) FROM cdp.event', dbname='plain')
    good = sum(n % 50 != 1 for n in range(MESSAGES + 500))
    tap.same(stored, [(good, good)], 'nothing is lost or repeated')


tap.main(main)
