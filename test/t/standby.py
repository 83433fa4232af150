"""Base backup, standby, promotion, point-in-time recovery: they read everything, and go on from their own positions."""
import os
import shutil
import signal
import sys

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import calls     # noqa: E402
import contents  # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

PARTITIONS = 2
PEOPLE = 100
PER_ROUND = 600
RESUME_SECONDS = 30             # by themselves: the limit
REPLAY_SECONDS = 60
READERS = {'ana': 'cdp_analyst', 'pia': 'cdp_privacy_officer', 'adam': 'cdp_admin', 'audrey': 'cdp_auditor', 'postgres': None}
READ_ONLY = '25006'


class Feed:
    """Messages with people who become known, traits, and something for quarantine; every round adds some."""

    def __init__(self, kafka):
        self.producer = kafka.producer()
        self.sent = 0

    def message(self, n):
        """Message number n; None: broken."""
        person = n * 7 % PEOPLE
        if n % 50 == 1:
            return None
        if n % 10 == 0:
            return segment.identify(f'm-{n}', n * 1000, userId=f'u-{person}', anonymousId=f'a-{person}',
                                    traits={'plan': f'plan {n}', 'email': f'u{person}@shop.example'})
        return segment.track(f'm-{n}', n * 1000, anonymousId=f'a-{person}', properties={'n': n})

    def round(self, count=PER_ROUND):
        """Send some more."""
        for n in range(self.sent, self.sent + count):
            message = self.message(n)
            self.producer.send('shop', segment.encode(message) if message else b'{broken')
        self.sent += count
        self.producer.flush()

    def good(self):
        """Ids of the messages that can be stored."""
        return sorted(f'm-{n}' for n in range(self.sent) if self.message(n))


def make_primary(inst, parent, kafka):
    """A primary with an archive, roles, and two things that did not come from Kafka."""
    archive = postgres.server_directory(parent, 'archive')
    directory = postgres.server_directory(parent, 'primary')
    primary = postgres.Server(inst, directory, archive_mode='on', archive_command=f'cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f',
                              cdp__key_file=os.path.join(directory, 'cdp.key')).start()
    primary.create_database()
    for role, group in READERS.items():
        if group:
            primary.rows(f'CREATE ROLE {role} LOGIN IN ROLE {group}')
    primary.rows("SELECT cdp.classify_trait('plan')")
    primary.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
    primary.rows("SELECT cdp.ingest(%s::jsonb)", segment.encode(segment.track('sql-1', userId='u-7')).decode())
    return primary


def copy_of(primary, parent, name, **settings):
    """A base backup of the primary, not started, without the key."""
    directory = postgres.server_directory(parent, name)
    return postgres.Server(primary.inst, directory, backup_of=primary, archive_mode='off',
                           cdp__key_file=os.path.join(directory, 'cdp.key'), **settings)


def key_of(server):
    """Where its key is looked for."""
    return os.path.join(server.socket, 'cdp.key')


def give_key(primary, server):
    """Copy the primary's key."""
    shutil.copy2(key_of(primary), key_of(server))
    machine.give_to_server(key_of(server))


def refusal(connection, sql, *values):
    """(SQLSTATE, text) of the error that a statement must raise."""
    try:
        connection.execute(sql, values or None)
        return None, 'no error'
    except psycopg.Error as e:
        return e.sqlstate, f'{e.diag.message_primary} / {e.diag.message_hint}'


# ---------------------------------------------------------------- the standby

def replayed(primary, standby):
    """Wait until the standby shows what the primary has committed."""
    primary.rows('SELECT pg_switch_wal()')      # sends asynchronous commits, too
    target = primary.value('SELECT pg_current_wal_insert_lsn()')
    tap.wait_for(lambda: standby.value('SELECT pg_last_wal_replay_lsn() >= %s', target), 'standby replays', REPLAY_SECONDS)


def check_without_key(primary, standby):
    """What needs no key can be read; what needs it names the file; the file is all that is missing."""
    with standby.connect() as session:
        tap.ok(session.execute('SELECT count(*) FROM cdp.event').fetchone()[0] > 0, 'without the key, events can be read on the standby')
        sqlstate, text = refusal(session, "SELECT cdp.find_profile('user_id', 'u-7')")
        tap.ok(sqlstate == '55000' and key_of(standby) in text, 'a question that needs the key names the file', (sqlstate, text))
        status = dict(session.execute('SELECT item, severity || message FROM cdp.status').fetchall())
        tap.ok(status['key'].startswith('error') and key_of(standby) in status['key'], 'so does cdp.status', status)
        with open(key_of(standby), 'wb') as f:
            f.write(os.urandom(32))
        os.chmod(key_of(standby), 0o600)
        machine.give_to_server(key_of(standby))
        sqlstate, text = refusal(session, "SELECT cdp.find_profile('user_id', 'u-7')")
        tap.ok(sqlstate == '55000' and f'"{key_of(standby)}" holds another key' in text, 'another key is refused', (sqlstate, text))
        give_key(primary, standby)
        tap.ok(session.execute("SELECT cdp.find_profile('user_id', 'u-7')").fetchone()[0], 'the same session works when the key is there')


def check_same_content(one, other, what, *left_out):
    """Every table, and every view as every kind of reader sees it."""
    with one.connect() as a, other.connect() as b:
        tap.same(contents.differences(contents.tables(a, *left_out), contents.tables(b, *left_out)), '', f'{what}: the same tables')
    for role in READERS:
        with one.connect(user=role) as a, other.connect(user=role) as b:
            tap.same(contents.differences(contents.views(a, *left_out), contents.views(b, *left_out)), '', f'{what}: {role} sees the same')


def answers(server):
    """What the functions say that only ask, to each reader."""
    found = {}
    for role in READERS:
        with server.connect(user=role) as session:
            for question in calls.QUESTIONS:
                try:
                    found[role, question] = session.execute(f'SELECT {question}').fetchone()[0]
                except psycopg.Error as e:
                    found[role, question] = e.diag.message_primary
    return found


def check_functions(primary, standby):
    """Each function answers as on the primary, or says that it cannot change anything here."""
    one, other = answers(primary), answers(standby)
    tap.same({k: (one[k], other[k]) for k in one if one[k] != other[k]}, {}, 'functions that ask answer alike')
    for server in (primary, standby):
        tap.same(server.rows('SELECT * FROM cdp.verify()'), [], 'cdp.verify() finds nothing')
    with standby.connect() as session:
        refused = {sql: refusal(session, sql) for sql in calls.CHANGES}
    tap.same({sql: r for sql, r in refused.items() if r[0] != READ_ONLY}, {}, 'functions that change something are refused as read-only')
    tap.same(calls.left_out(primary), [], 'no function is left out')
    for sql in ('cdp.read_filters()', 'cdp.read_stage_stats()', 'cdp.source_workers()', 'cdp.source_partitions()', 'cdp.source_errors()'):
        tap.ok(standby.rows(f'SELECT count(*) FROM {sql}'), f'{sql} can be read')


def check_status(standby):
    """It says what this server is, and no worker runs here."""
    status = standby.rows('SELECT item, severity, message FROM cdp.status')
    tap.ok(('standby', 'info', 'this server is a standby; workers start when it is promoted') in status
           and not [row for row in status if row[1] in ('warning', 'error')], 'cdp.status says that it is a standby', status)
    tap.same(standby.rows("SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'cdp%%'", dbname='postgres'), [],
             'no worker runs on the standby')
    tap.same(standby.rows("SELECT DISTINCT state FROM cdp.source_status"), [('stopped',)], 'its sources are stopped')


def check_follows(primary, standby, feed):
    """A session of the standby follows what changes on the primary: rows, and configuration that sessions cache."""
    with standby.connect() as session:
        session.execute("SELECT cdp.find_profile('user_id', 'u-7')")
        tap.same(refusal(session, "SELECT cdp.find_profile('loyalty', 'x')")[0], '42704', 'a namespace that is not there yet')
        primary.rows("SELECT cdp.set_namespace('loyalty')")
        feed.round()
        consume(primary, 'the primary')
        replayed(primary, standby)
        tap.same(session.execute("SELECT cdp.find_profile('loyalty', 'x')").fetchone(), (None,), 'the same session knows the new namespace')


# ---------------------------------------------------------------- going on

def consume(server, what):
    """Wait until the source is at its end."""
    tap.ok(server.value("SELECT cdp.wait_for_source('shop', '60 s')"), f'{what}: consumed', server.rows('SELECT * FROM cdp.source_status'))


def goes_on(server, feed, what):
    """Workers come by themselves; everything that is in the topic is there afterwards, once."""
    tap.wait_for(lambda: server.pids('cdp source'), f'{what}: workers start', RESUME_SECONDS)
    tap.ok(True, f'{what}: workers start by themselves')
    consume(server, what)
    check_complete(server, feed, what)


def check_complete(server, feed, what):
    """All messages, once, and what follows from them; bad ones are in quarantine."""
    stored = [i for i, in server.rows("SELECT message_id FROM cdp.event WHERE source = 'shop' ORDER BY message_id COLLATE \"C\"")]
    tap.ok(stored == feed.good(), f'{what}: every message is there once', f'{len(stored)} of {len(feed.good())}, {len(set(stored))} different')
    tap.same(server.value("SELECT count(DISTINCT (topic, \"partition\", \"offset\")) FROM cdp.quarantine"), feed.sent // 50,
             f'{what}: bad messages are in quarantine')
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: cdp.verify() finds nothing')
    tap.same([row for row in server.rows('SELECT item, severity, message FROM cdp.status') if row[1] == 'error'], [], f'{what}: cdp.status has no error')


def people(server):
    """Who is who, by identifiers, and what is known of each: the state, without the names of ids."""
    return server.rows("""SELECT i.ids, p.traits, p.event_count, p.first_seen, p.last_seen FROM cdp.profile p
        JOIN (SELECT profile_id, array_agg(namespace || ':' || value ORDER BY namespace, value) AS ids FROM cdp.identifier GROUP BY 1) i
        USING (profile_id) ORDER BY 1""")


def promote_behind(primary, standby, feed):
    """The primary is lost together with what the standby has not received; Kafka still has it."""
    standby.rows("ALTER SYSTEM SET primary_conninfo = ''", dbname='postgres')
    standby.rows('SELECT pg_reload_conf()', dbname='postgres')
    tap.wait_for(lambda: not standby.rows('SELECT 1 FROM pg_stat_wal_receiver'), 'the standby is cut off')
    feed.round()
    consume(primary, 'the primary')
    ahead, behind = (server.value('SELECT count(*) FROM cdp.event') for server in (primary, standby))
    tap.ok(behind < ahead, 'the standby is behind', f'{behind} of {ahead}')
    primary.stop(signal.SIGQUIT)
    feed.round()
    with standby.connect() as session:      # one that was there before the promotion
        session.execute("SELECT cdp.find_profile('user_id', 'u-7')")
        standby.rows('SELECT pg_promote()', dbname='postgres')
        goes_on(standby, feed, 'promoted')
        outcome = session.execute("SELECT outcome FROM cdp.ingest(%s::jsonb)",
                                  (segment.encode(segment.track('sql-2', userId='u-7')).decode(),)).fetchone()
        tap.same(outcome, ('stored',), 'promoted: a session of the standby can write now')
    again = standby.value("SELECT outcome FROM cdp.ingest(%s::jsonb)", segment.encode(segment.track('sql-1', userId='u-7')).decode())
    tap.same(again, 'duplicate', 'promoted: what came by SQL before is known')
    tap.wait_for(lambda: standby.rows('SELECT 1 FROM cdp.read_filters() WHERE ready'), 'filters are built')
    tap.ok(True, 'promoted: filters are built')


def recover(primary, server, archive, target):
    """Point-in-time recovery to a restore point, at first without the key."""
    server.configure(restore_command=f'cp {archive}/%f %p', recovery_target_name=target, recovery_target_action='promote')
    server.signal_file('recovery.signal')
    server.start()
    tap.wait_for(lambda: not server.value('SELECT pg_is_in_recovery()'), 'recovery ends')
    tap.wait_for(lambda: server.value("SELECT message FROM cdp.status WHERE item = 'maintenance'"), 'the worker looks for the key',
                 good=lambda message: key_of(server) in message)
    tap.ok(True, 'PITR: without the key the worker says which file is missing')
    tap.same(server.pids('cdp source'), [], 'PITR: without the key nothing is consumed')
    give_key(primary, server)


def restore_point(primary, archive):
    """A point to recover to, whose WAL is in the archive."""
    primary.rows("SELECT pg_create_restore_point('here')")
    segment_name = primary.value('SELECT pg_walfile_name(pg_switch_wal())')
    tap.wait_for(lambda: os.path.exists(os.path.join(archive, segment_name)), 'the WAL is archived')
    return primary.value("SELECT array_agg(message_id ORDER BY message_id COLLATE \"C\") FROM cdp.event")


def check_clock(server):
    """A batch is not stamped before what the lost server had stamped, though this one's clock is behind."""
    floor = server.value('SELECT clock_floor FROM cdp_data.instance')
    server.rows("SELECT cdp.ingest(%s::jsonb)", segment.encode(segment.track('late-clock', userId='somebody new')).decode())
    known = server.value("SELECT known_at FROM cdp_data.event WHERE message_id = 'late-clock'")
    tap.ok(known >= floor, 'base backup: time does not go back behind the batches of the lost server', f'{known} and {floor}')


def main():
    """One topic, one primary, three copies of it."""
    parent = machine.fresh_directory('standby')
    inst = postgres.installation()
    kafka = broker.Kafka(parent).start()
    kafka.create_topic('shop', PARTITIONS)
    feed = Feed(kafka)
    primary = make_primary(inst, parent, kafka)
    archive = os.path.join(parent, 'archive')
    feed.round()
    consume(primary, 'the primary')

    standby = copy_of(primary, parent, 'standby', primary_conninfo=primary.conninfo('postgres'), hot_standby='on')
    standby.signal_file('standby.signal')
    old = copy_of(primary, parent, 'pitr')
    standby.start()
    check_without_key(primary, standby)
    check_follows(primary, standby, feed)
    check_same_content(primary, standby, 'standby')
    check_functions(primary, standby)
    check_status(standby)

    standby.kill()
    standby.start()
    at_point = restore_point(primary, archive)
    feed.round()                        # the backup is taken while messages come in
    late = copy_of(primary, parent, 'late', cdp__workers='off', cdp__clock='2026-03-01 00:00:00+00')
    promote_behind(primary, standby, feed)

    recover(primary, old, archive, 'here')
    goes_on(old, feed, 'PITR')
    tap.same(old.value("SELECT array_agg(message_id ORDER BY message_id COLLATE \"C\") FROM cdp.event WHERE message_id = ANY (%s)", at_point),
             at_point, 'PITR: what was there at the point is there')

    give_key(primary, late)
    late.start()
    check_clock(late)
    late.configure(cdp__workers='on', cdp__clock='')
    late.rows('SELECT pg_reload_conf()', dbname='postgres')
    goes_on(late, feed, 'base backup')

    # the lost primary comes back: a copy like the others, to whom nobody is in the way
    primary.start()
    goes_on(primary, feed, 'old primary')
    expected = people(primary)
    tap.ok(people(old) == expected, 'PITR: the same people as on the old primary')
    tap.ok(len(expected) > PEOPLE / 2, 'and there are some', len(expected))


tap.main(main)
