"""Logical replication out of the tables: chosen tables and columns for readers elsewhere, or the whole schema."""
import datetime
import os
import sys

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import contents  # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

MESSAGES = 1000
PEOPLE = 50
APPLY_SECONDS = 60
# what a reader elsewhere gets: no identifier in plaintext, no free text
CHOSEN = {
    'event': ['fragment_id', 'occurred_at', 'event_id', 'received_at', 'workspace_id', 'source_id', 'message_id', 'type', 'name', 'properties'],
    'profile': ['fragment_id', 'profile_id', 'event_count', 'first_seen', 'last_seen', 'workspace_id'],
    'identifier': ['identifier_id', 'fragment_id', 'namespace_id', 'first_day', 'last_day', 'state'],
    'namespace': ['namespace_id', 'workspace_id', 'name'],
}
PRIMARY_KEY = """SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum)) FROM pg_index i
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                 WHERE i.indrelid = %s::regclass AND i.indisprimary"""
COLUMNS = """SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
             WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
LEAVES = """SELECT relname FROM pg_class WHERE relnamespace = 'cdp_data'::regnamespace AND relkind = 'r' ORDER BY 1"""


def quoted(names):
    """A list of columns."""
    return ', '.join(f'"{name}"' for name in names)


def make_table(publisher, subscriber, dbname, table, only=None):
    """A plain table with the columns and the primary key of one of ours."""
    name = f'cdp_data.{table}'
    columns = [(c, t) for c, t in publisher.rows(COLUMNS, name) if only is None or c in only]
    key = publisher.value(PRIMARY_KEY, name)
    body = ', '.join([f'"{c}" {t}' for c, t in columns] + [f'PRIMARY KEY ({quoted(key)})'])
    subscriber.rows(f'CREATE TABLE {name} ({body})', dbname=dbname)


def subscribe(publisher, subscriber, dbname, publication, user):
    """A subscription to everything that is published there; returns when the first copy is made."""
    subscriber.rows(f"CREATE SUBSCRIPTION {dbname} CONNECTION '{publisher.conninfo(user=user)}' PUBLICATION {publication}"
                    " WITH (streaming = off)", dbname=dbname)
    copied(subscriber, dbname)


def copied(subscriber, dbname):
    """Wait until all tables of the subscription have their first copy."""
    tap.wait_for(lambda: subscriber.rows("SELECT srrelid::regclass, srsubstate FROM pg_subscription_rel WHERE srsubstate <> 'r'", dbname=dbname),
                 f'{dbname} is copied', APPLY_SECONDS, good=lambda rows: not rows)


def applied(publisher):
    """Wait until both subscribers have all that was committed."""
    publisher.rows('SELECT pg_switch_wal()', dbname='postgres')
    target = publisher.value('SELECT pg_current_wal_lsn()')
    tap.wait_for(lambda: publisher.value('SELECT bool_and(confirmed_flush_lsn >= %s) FROM pg_replication_slots', target), 'subscribers follow', APPLY_SECONDS)


def digest(server, dbname, table, columns):
    """Of chosen columns."""
    return server.rows(f"SELECT count(*), md5(string_agg(h, '' ORDER BY h))"
                       f' FROM (SELECT md5(q::text) AS h FROM (SELECT {quoted(columns)} FROM cdp_data.{table}) q) d', dbname=dbname)


def compare(publisher, subscriber, when):
    """Chosen tables, and all of them."""
    applied(publisher)
    for table, columns in CHOSEN.items():
        tap.same(digest(subscriber, 'chosen', table, columns), digest(publisher, 'cdp', table, columns), f'{when}: the same {table}')
    with publisher.connect() as a, subscriber.connect('everything') as b:
        one, other = contents.tables(a), contents.tables(b)
    roots = ('event', 'message_seen')       # the subscriber has their partitions as tables
    tap.same(contents.differences({k: v for k, v in one.items() if k not in roots}, other), '', f'{when}: the same in all tables')


# ---------------------------------------------------------------- what changes

def first_messages(kafka, publisher):
    """People, traits, events, and one for quarantine."""
    producer = kafka.producer()
    for n in range(MESSAGES):
        person = n % PEOPLE
        message = segment.track(f'm-{n}', n * 1000, anonymousId=f'a-{person}', properties={'n': n})
        if n % 20 == 0:
            message = segment.identify(f'm-{n}', n * 1000, userId=f'u-{person}', anonymousId=f'a-{person}', traits={'plan': n})
        producer.send('shop', segment.encode(message) if n != 5 else b'{broken')
    producer.flush()
    consume(publisher)


def consume(publisher):
    """All that is in the topic."""
    tap.ok(publisher.value("SELECT cdp.wait_for_source('shop', '60 s')"), 'consumed', publisher.rows('SELECT * FROM cdp.source_status'))


def ingest(publisher, message):
    """One message by SQL; its outcome."""
    return publisher.value('SELECT outcome FROM cdp.ingest(%s::jsonb)', segment.encode(message).decode())


def changes(kafka, publisher):
    """Inserts, updates and deletes of every kind that the engine makes."""
    producer = kafka.producer()
    for n in range(MESSAGES, MESSAGES + 200):
        producer.send('shop', segment.encode(segment.track(f'm-{n}', n * 1000, anonymousId=f'a-{n % PEOPLE}', properties={'n': n})))
    # two people become one
    producer.send('shop', segment.encode(segment.identify('merge', 0, userId='u-20', anonymousId='a-33', traits={'plan': None})))
    producer.flush()
    consume(publisher)
    # an earlier delivery of a known message moves its event and what is remembered of it
    known = segment.track('known', 10000, userId='u-20', receivedAt=segment.stamp(500000))
    tap.same(ingest(publisher, known), 'stored', 'a message')
    tap.same(ingest(publisher, {**known, 'receivedAt': segment.stamp(200000), 'sentAt': segment.stamp(10000)}), 'duplicate', 'an earlier delivery of it')
    tap.same(publisher.rows("SELECT received_at FROM cdp.event WHERE message_id = 'known'"),
             [(segment.EPOCH + datetime.timedelta(milliseconds=200000),)], 'it defines the times')
    repaired = publisher.rows("SELECT outcome FROM cdp.replay_quarantine(ARRAY(SELECT id FROM cdp.quarantine), %s)",
                              "'" + segment.encode(segment.track('m-5', 5000, anonymousId='a-5')).decode() + "'")
    tap.same(repaired, [('stored',)], 'a repaired message')
    forgotten = publisher.value("SELECT cdp.forget('user_id', 'u-40', 'request', dry_run => false)")
    tap.ok(forgotten['found'], 'a person is forgotten', forgotten)
    tap.wait_for(lambda: publisher.rows('SELECT 1 FROM cdp.erasure WHERE completed_at IS NULL'), 'the erasure is complete', good=lambda rows: not rows)
    publisher.rows("SELECT cdp.pause_source('shop')")


def split_a_month(publisher, subscriber):
    """Rows in the open-ended partition go to a month of their own; for who follows the whole table nothing changes."""
    begins = publisher.value("SELECT cdp.last_partition_begins('event')")
    later = begins + datetime.timedelta(days=1)
    publisher.rows("""SELECT cdp.create_source('far', options => '{"max_future": "infinity"}')""")
    publisher.rows("SELECT cdp.ingest(%s::jsonb, 'far')",
                   segment.encode({**segment.track('future', userId='u-1'), 'originalTimestamp': later.isoformat(), 'sentAt': None}).decode())
    applied(publisher)
    tap.same(publisher.rows("SELECT tableoid::regclass::text FROM cdp_data.event WHERE message_id = 'future'"), [('cdp_data.event_last',)],
             'an event lies beyond the months that are made')
    # who follows the whole schema needs the new month first
    month = f'{begins.astimezone(datetime.timezone.utc):%Y%m}'
    for root in ('event', 'message_seen'):
        name = f'{root}_{month}'
        subscriber.rows(f'CREATE TABLE cdp_data.{name} (LIKE cdp_data.{root}_last INCLUDING ALL)', dbname='everything')
    publisher.rows('SELECT cdp.make_partitions(%s)', begins - datetime.timedelta(days=40))
    subscriber.rows('ALTER SUBSCRIPTION everything REFRESH PUBLICATION', dbname='everything')
    copied(subscriber, 'everything')
    tap.same(publisher.rows("SELECT tableoid::regclass::text FROM cdp_data.event WHERE message_id = 'future'"), [(f'cdp_data.event_{month}',)],
             'its month is made')


def make_roles(publisher):
    """One may copy the chosen columns, one everything; row security lets nobody pass who must obey it."""
    publisher.rows('CREATE ROLE mover LOGIN REPLICATION BYPASSRLS', dbname='postgres')
    publisher.rows('CREATE ROLE carrier LOGIN REPLICATION BYPASSRLS IN ROLE pg_read_all_data', dbname='postgres')
    publisher.rows('CREATE ROLE porter LOGIN REPLICATION IN ROLE pg_read_all_data', dbname='postgres')
    publisher.rows('GRANT USAGE ON SCHEMA cdp_data TO mover')
    for table, columns in CHOSEN.items():
        publisher.rows(f'GRANT SELECT ({quoted(columns)}) ON cdp_data.{table} TO mover')
    for role, sql in (('mover', 'SELECT value FROM cdp_data.identifier'), ('porter', 'COPY (SELECT fragment_id FROM cdp_data.event) TO STDOUT')):
        with publisher.connect(user=role) as session:
            try:
                session.execute(sql)
                tap.ok(False, f'{role} may not: {sql}')
            except psycopg.errors.InsufficientPrivilege:
                tap.ok(True, f'{role} may not: {sql}')


def main():
    """A publisher with cdp, a server with two plain databases that subscribe."""
    parent = machine.fresh_directory('logical')
    inst = postgres.installation()
    publisher = postgres.Server(inst, postgres.server_directory(parent, 'publisher'), wal_level='logical').start()
    # workers that copy tables need not wait for each other
    subscriber = postgres.Server(inst, postgres.server_directory(parent, 'subscriber'), shared_preload_libraries='',
                                 max_sync_workers_per_subscription=8, max_logical_replication_workers=16,
                                 wal_retrieve_retry_interval='100ms', wal_receiver_status_interval='1s').start()
    kafka = broker.Kafka(parent).start()
    kafka.create_topic('shop', 2)
    publisher.create_database()
    publisher.rows("SELECT cdp.make_partitions(now() + interval '1 month')")        # none is made in between, whenever this runs
    make_roles(publisher)
    publisher.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    first_messages(kafka, publisher)

    for dbname in ('chosen', 'everything'):
        subscriber.create_database(dbname, setup=False)
        subscriber.rows('CREATE SCHEMA cdp_data', dbname=dbname)
    for table, columns in CHOSEN.items():
        make_table(publisher, subscriber, 'chosen', table, columns)
    for table, in publisher.rows(LEAVES):
        make_table(publisher, subscriber, 'everything', table)
    lists = ', '.join(f'cdp_data.{table} ({quoted(columns)})' for table, columns in CHOSEN.items())
    publisher.rows(f'CREATE PUBLICATION chosen FOR TABLE {lists} WITH (publish_via_partition_root = true)')
    publisher.rows('CREATE PUBLICATION everything FOR TABLES IN SCHEMA cdp_data')
    subscribe(publisher, subscriber, 'chosen', 'chosen', 'mover')
    subscribe(publisher, subscriber, 'everything', 'everything', 'carrier')
    compare(publisher, subscriber, 'first copy')
    changes(kafka, publisher)
    compare(publisher, subscriber, 'changes')
    split_a_month(publisher, subscriber)
    compare(publisher, subscriber, 'a new month')
    tap.same(publisher.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')


tap.main(main)
