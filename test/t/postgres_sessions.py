"""Other sessions: hostile settings, transactions that stay open or prepared, long snapshots, a clock that is set."""
import contextlib
import datetime
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import shop      # noqa: E402
import tap       # noqa: E402

psycopg = postgres.psycopg
DAY = 86400

# what changes the meaning of SQL, and must not of ours
CONFUSING = {
    'search_path': 'hostile, public', 'row_security': 'on', 'TimeZone': 'Asia/Kolkata', 'DateStyle': 'German, DMY', 'IntervalStyle': 'sql_standard',
    'client_min_messages': 'error', 'standard_conforming_strings': 'off', 'backslash_quote': 'off', 'escape_string_warning': 'off',
    'bytea_output': 'escape', 'extra_float_digits': '-15', 'transform_null_equals': 'on', 'array_nulls': 'off',
    'quote_all_identifiers': 'on', 'check_function_bodies': 'off', 'plan_cache_mode': 'force_generic_plan', 'enable_indexscan': 'off',
    'enable_nestloop': 'off', 'enable_seqscan': 'off', 'work_mem': '64kB', 'jit_above_cost': '0',
    'default_statistics_target': '1', 'plpgsql.variable_conflict': 'use_column', 'plpgsql.extra_errors': 'all',
    'default_toast_compression': 'pglz', 'synchronous_commit': 'on', 'max_stack_depth': '200kB', 'debug_print_plan': 'on'}
# what keeps a session from working, and must not keep workers
CRIPPLING = {
    'statement_timeout': '1ms', 'lock_timeout': '1ms', 'idle_in_transaction_session_timeout': '1ms', 'idle_session_timeout': '1ms',
    'default_transaction_read_only': 'on', 'default_transaction_isolation': 'serializable', 'default_transaction_deferrable': 'on',
    'row_security': 'off', 'session_replication_role': 'replica', 'exit_on_error': 'on', 'deadlock_timeout': '10min', 'role': 'nobody_at_all'}
HOSTILE_SCHEMA = """
CREATE ROLE nobody_at_all;
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.lies(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.lies);
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT '-infinity'::timestamptz$$;
CREATE FUNCTION hostile.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$SELECT 'DROP SCHEMA cdp_data CASCADE'$$;
CREATE TABLE hostile.pg_class (oid oid);
CREATE TABLE hostile.event (LIKE cdp_data.event)"""


@contextlib.contextmanager
def untouched_sessions(**more):
    """Sessions of this program have none of the crippling settings, and not those of the confusing ones that are named."""
    defaults = {'statement_timeout': '0', 'lock_timeout': '0', 'idle_in_transaction_session_timeout': '0', 'idle_session_timeout': '0',
                'default_transaction_read_only': 'off', 'default_transaction_isolation': 'read\\ committed', 'row_security': 'on',
                'session_replication_role': 'origin', 'exit_on_error': 'off', 'role': 'none', **more}
    os.environ['PGOPTIONS'] = ' '.join(f'-c {name}={value}' for name, value in defaults.items())
    try:
        yield
    finally:
        del os.environ['PGOPTIONS']


def message(message_id, person):
    """One track call of a person."""
    return segment.encode(segment.track(message_id, 0, userId=person)).decode()


def months(server):
    """How many partitions there are."""
    return server.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdp_data.event'::regclass")


def when_due(server):
    """An instant at which more months are to be made."""
    return (server.value("SELECT cdp.last_partition_begins('event')") + datetime.timedelta(days=1)).isoformat()


def look_now(server):
    """The maintenance worker makes months when it starts, then once a minute."""
    server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'cdp maintenance'")


@contextlib.contextmanager
def clock(server, setting):
    """The clock of all processes of the server, or the real one again."""
    server.rows(f"ALTER SYSTEM SET cdp.clock = '{setting}'", dbname='postgres')
    server.rows('SELECT pg_reload_conf()', dbname='postgres')
    try:
        yield
    finally:
        server.rows('ALTER SYSTEM RESET cdp.clock', dbname='postgres')
        server.rows('SELECT pg_reload_conf()', dbname='postgres')


def hostile_settings(s):
    """Workers do all their work whatever a database or role sets."""
    for statement in HOSTILE_SCHEMA.split(';\n'):
        s.server.rows(statement)
    due = when_due(s.server)
    # from 17 on
    has_more = s.server.value("SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'")
    more = {'transaction_timeout': '0'} if has_more else {}
    crippling = {**CRIPPLING, **dict.fromkeys(more, '1ms')}
    with untouched_sessions(**more), s.pour() as pour:
        pour.flows()
        for whom in ('DATABASE cdp', 'ROLE postgres IN DATABASE cdp', 'ROLE ALL'):
            with s.server.connect() as c, c.transaction():
                for name, value in {**CONFUSING, **crippling}.items():
                    if whom == 'DATABASE cdp' or name != 'role':
                        c.execute(f'ALTER {whom} SET {name} = {value if name == "search_path" else repr(value)}')
        s.server.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'cdp %'")
        pour.flows()
        tap.ok(True, 'hostile settings: events go on')
        before = months(s.server)
        with clock(s.server, due):
            look_now(s.server)
            tap.wait_for(lambda: months(s.server), 'months are made', good=lambda n: n > before)
        with s.server.connect(autocommit=False) as c:
            c.execute('SELECT cdp.ingest(%s)', [message('hostile-1', 'held-by-client')])
            s.producer.send(shop.TOPIC, message('hostile-2', 'held-by-client'))
            tap.wait_for(lambda: s.server.value('SELECT count(*) FROM cdp_data.parked'), 'the message of a held person is parked')
            c.commit()
        s.client_rows += 2
        tap.wait_for(lambda: s.server.value('SELECT count(*) FROM cdp_data.parked'), 'what was parked is applied', good=lambda n: n == 0)
    with untouched_sessions(**more):
        confused_client(s)
    with untouched_sessions(**more, DateStyle='ISO'):
        s.judge('hostile settings')
        for whom in ('DATABASE cdp', 'ROLE postgres IN DATABASE cdp', 'ROLE ALL'):
            s.server.rows(f'ALTER {whom} RESET ALL')
    s.runs_again('hostile settings taken back')


def confused_client(s):
    """The public functions mean the same in a session with confusing settings."""
    with s.server.connect() as c:
        tap.same(c.execute('SHOW standard_conforming_strings').fetchone(), ('off',), 'a session is confused')
        tap.same(c.execute('SELECT outcome FROM cdp.ingest(%s)', [message('confused-1', 'confused')]).fetchall(), [('stored',)], 'it can write')
        c.execute('INSERT INTO cdp.inbox (message) VALUES (%s)', [message('confused-2', 'confused')])
        s.client_rows += 2
        tap.same(c.execute("SELECT event_count FROM cdp.profile WHERE profile_id = cdp.find_profile('user_id', 'confused')").fetchall(), [(2,)],
                 'and find whom it wrote of')
        c.execute("SELECT cdp.create_source('confused', options => '{\"skew\": \"segment\"}')")
        tap.same(c.execute("SELECT options->>'skew' FROM cdp.source WHERE source = 'confused'").fetchall(), [('segment',)], 'it can make a source')
        c.execute("SELECT cdp.drop_source('confused')")
        tap.same(c.execute('SELECT cdp.make_partitions(cdp.now())').fetchall(), [(0,)], 'it makes no month twice')
        c.execute('SELECT cdp.setup()')
        tap.same(c.execute('SELECT count(*) FROM cdp.verify()').fetchall(), [(0,)], 'cdp.verify() finds nothing there')


LIMIT = 1024 * 1024             # cdp.parked_limit
# of people in prepared transactions; a batch that is slow on a busy machine parks others for a moment
PARKED = "FROM cdp_data.parked WHERE convert_from(body, 'UTF8') ~ '(kept|lost)-again'"


def oldest_named(s):
    """A client that has written and holds no snapshot keeps people as well, and is named."""
    with s.server.connect(autocommit=False) as c:
        c.execute('SELECT cdp.ingest(%s)', [message('oldest', 'oldest')])
        c.execute('SELECT 1')       # the portal of the one before is closed, and its snapshot
        tap.same(s.server.rows('SELECT backend_xid IS NOT NULL, backend_xmin FROM pg_stat_activity WHERE pid = %s', c.info.backend_pid), [(True, None)],
                 'a client that has written and is idle in its transaction')
        tap.wait_for(lambda: s.server.value("SELECT substring(message FROM 'open for ([0-9]+) s')::integer FROM cdp.status WHERE item = 'oldest_snapshot'"),
                     'cdp.status knows of it', good=lambda seconds: seconds is not None and seconds >= 3)        # workers are shorter
        c.rollback()


def open_transactions(s):
    """Clients hold people, idle or prepared, across a restart; a snapshot is old; all that is parked is applied in the end."""
    snapshot = s.server.connect(autocommit=False)
    snapshot.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    snapshot.execute('SELECT count(*) FROM cdp.event')
    with s.pour() as pour:
        pour.flows()
        for gid in ('kept', 'lost'):
            with s.server.connect(autocommit=False) as c:
                for n in range(20):
                    c.execute('SELECT cdp.ingest(%s)', [message(f'{gid}-{n}', f'{gid}-{n}')])
                c.execute(f"PREPARE TRANSACTION '{gid}'")
        idle = [s.server.connect(autocommit=False) for _ in range(5)]
        for n, c in enumerate(idle):
            c.execute('SELECT cdp.ingest(%s)', [message(f'idle-{n}', f'idle-{n}')])
        for n in range(20):
            for gid in ('kept', 'lost'):
                s.producer.send(shop.TOPIC, message(f'{gid}-again-{n}', f'{gid}-{n}'))
        s.producer.flush()
        tap.wait_for(lambda: s.server.value('SELECT count(*) ' + PARKED), 'messages of people in prepared transactions are parked',
                     good=lambda n: n == 40)
        pour.flows()
        tap.ok(True, 'events of others go on beside prepared transactions')
        tap.wait_for(lambda: s.server.value('SELECT min(attempts) ' + PARKED), 'they are tried again', good=lambda n: n >= 3)
        tap.ok(s.server.value("SELECT max(parked_at) < now() - interval '2 s' " + PARKED), 'and it is known since when they wait')
        s.server.rows(f"ALTER SYSTEM SET cdp.parked_limit = '{LIMIT // 1024}kB'")
        s.server.rows('SELECT pg_reload_conf()')
        padding = 'x' * 10000
        for n in range(2 * LIMIT // len(padding)):
            s.producer.send(shop.TOPIC, segment.encode(segment.track(f'full-{n}', 0, userId=f'idle-{n % 5}', properties={'padding': padding})))
        tap.wait_for(lambda: s.server.value("SELECT message FROM cdp.status WHERE item = 'source shop'"), 'the source waits at cdp.parked_limit',
                     good=lambda text: 'parked_limit' in text)
        for c in idle:
            c.commit()
            c.close()
        pour.flows()
        tap.ok(True, 'the source goes on when the idle clients have ended')
        s.server.stop()
        s.server.start()
        pour.flows()
        tap.same(s.server.value('SELECT count(*) ' + PARKED), 40, 'prepared transactions hold their people across a restart')
        s.server.rows("COMMIT PREPARED 'kept'")
        s.server.rows("ROLLBACK PREPARED 'lost'")
    s.server.rows('ALTER SYSTEM RESET cdp.parked_limit')
    s.client_rows += 20 + 5 + 40 + 2 * LIMIT // len(padding)
    s.judge('open and prepared transactions')


def drop_extension_prepared(s):
    """DROP EXTENSION in a prepared transaction: nobody works until it is rolled back, and nobody comes and goes."""
    with s.pour() as pour:
        pour.flows()
        with s.server.connect(autocommit=False) as c:
            c.execute('DROP EXTENSION cdp CASCADE')
            c.execute("PREPARE TRANSACTION 'drop'")
        s.server.rows("ROLLBACK PREPARED 'drop'")
        pour.flows()
    s.judge('DROP EXTENSION, prepared and rolled back')


def months_beside_readers(s):
    """A default partition, and a reader that stays, while months are to be made."""
    s.server.rows('CREATE TABLE cdp_data.event_ours PARTITION OF cdp_data.event DEFAULT')
    before = months(s.server)
    with s.pour() as pour:
        pour.flows()
        with s.server.connect(autocommit=False) as reader:
            reader.execute('SELECT count(*) FROM cdp.event')
            mark = s.server.log_mark()
            with clock(s.server, when_due(s.server)):
                look_now(s.server)
                tap.wait_for(lambda: 'waits with making partitions' in s.server.log_after(mark), 'months wait for a reader')
                pour.flows()
                tap.same(months(s.server), before, 'events go on meanwhile, no month is made')
                reader.rollback()
                tap.wait_for(lambda: months(s.server), 'months are made when the reader has ended', good=lambda n: n > before)
    s.judge('months that waited')
    s.server.rows('DROP TABLE cdp_data.event_ours')
    try:
        s.server.rows("SELECT cdp.make_partitions('infinity')")
        tap.ok(False, 'months without end are refused')
    except psycopg.Error as e:
        tap.same((e.sqlstate, e.diag.message_primary), ('22008', 'partitions cannot be made up to infinity'), 'months without end are refused')


def refusing_event_trigger(s):
    """Months cannot be made because somebody refuses all commands; whatever else maintenance does goes on."""
    s.server.rows("CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not today'; END$$")
    s.server.rows('CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION public.refuse()')
    before = months(s.server)
    with s.pour() as pour, clock(s.server, when_due(s.server)):
        pour.flows()
        look_now(s.server)
        tap.wait_for(lambda: s.server.value("SELECT message FROM cdp.status WHERE item = 'maintenance'"), 'the status says why no month is made',
                     good=lambda text: 'not today' in text)
        with s.server.connect(autocommit=False) as c:
            c.execute('SELECT cdp.ingest(%s)', [message('refuse-1', 'held-meanwhile')])
            s.producer.send(shop.TOPIC, message('refuse-2', 'held-meanwhile'))
            tap.wait_for(lambda: s.server.value('SELECT count(*) FROM cdp_data.parked'), 'a message is parked')
            c.commit()
        s.client_rows += 2
        tap.wait_for(lambda: s.server.value('SELECT count(*) FROM cdp_data.parked'), 'it is applied', good=lambda n: n == 0)
        tap.ok(True, 'what was parked is applied although no month can be made')
        s.server.rows('DROP EVENT TRIGGER refuse')
        tap.wait_for(lambda: months(s.server), 'months are made when nobody refuses', good=lambda n: n > before)
    s.judge('an event trigger that refuses')


def taken_names(s):
    """What lies in the way of months: PostgreSQL lets no partition overlap one of ours; a table of a month's name can be taken away."""
    last = s.server.value("SELECT cdp.last_partition_begins('event')")
    try:
        s.server.rows(f"CREATE TABLE cdp_data.event_ours PARTITION OF cdp_data.event FOR VALUES FROM ('{last}') TO ('{last + datetime.timedelta(days=9)}')")
        tap.ok(False, 'a partition that overlaps is refused')
    except psycopg.Error as e:
        tap.same(e.sqlstate, '42P17', 'a partition that overlaps is refused')
    name = f'event_{last.astimezone(datetime.timezone.utc):%Y%m}'
    before = months(s.server)
    with s.pour() as pour, clock(s.server, when_due(s.server)):
        s.server.rows(f'CREATE TABLE cdp_data.{name} (ours integer)')
        look_now(s.server)
        tap.wait_for(lambda: s.server.value("SELECT message FROM cdp.status WHERE item = 'maintenance'"), 'the status says what is in the way',
                     good=lambda text: name in text)
        pour.flows()
        tap.same(months(s.server), before, 'events go on, no month is made')
        s.server.rows(f'DROP TABLE cdp_data.{name}')
        tap.wait_for(lambda: months(s.server), 'months are made when it is gone', good=lambda n: n > before)
    s.judge('a table of the name of a month')


def owner_lost(s):
    """The owner of the tables has another name for a while, or they have another owner."""
    def shown(message):
        tap.wait_for(lambda: s.server.rows("SELECT severity, message FROM cdp.status WHERE item = 'owner'"), 'the status says so',
                     good=lambda rows: rows == [('error', message)])

    with s.pour() as pour:
        for change, message, back in (
                ('ALTER ROLE cdp_owner RENAME TO someone', 'role "cdp_owner" does not exist', 'ALTER ROLE someone RENAME TO cdp_owner'),
                ('ALTER TABLE cdp_data.profile OWNER TO postgres', 'table "profile" does not belong to cdp_owner',
                 'ALTER TABLE cdp_data.profile OWNER TO cdp_owner')):
            pour.flows()
            s.server.rows(change)
            shown(message)
            s.end_workers()
            s.server.rows(back)
    s.judge('the owner of the tables was lost for a while')


def clock_shown(server):
    """How bad cdp.status says that the clock is."""
    return server.value("SELECT severity FROM cdp.status WHERE item = 'clock'")


def purge_refused(server):
    """Fresh events are not purged by a clock that is wrong (F20), whoever asks, and ingest of today is not refused afterwards."""
    purge = "SELECT cdp.purge_before(now() - interval '13 months', dry_run => {})"
    old = "SELECT count(*) FROM cdp.event WHERE occurred_at < now() - interval '13 months'"
    watermarks = 'SELECT workspace_id, watermark FROM cdp_data.retention_watermark'
    events, before = server.value(old), server.rows(watermarks)
    try:
        server.rows(purge.format('false'))
        tap.ok(False, 'a purge is refused when the clock was set forward')
    except psycopg.Error as e:
        tap.ok('set forward' in str(e), 'a purge is refused when the clock was set forward', str(e))
    tap.ok(server.value(purge.format('true')), 'its dry run tells what it would do')
    tap.ok(server.value(old) >= events > 0, 'nothing is gone')
    tap.same(server.rows(watermarks), before, 'no watermark is higher')


def clock_by_years(s, wall):
    """The clock is wrong by two years, for a while: back first, since afterwards nothing is stamped before what has been."""
    for days in (-800, 800):
        before = months(s.server)
        with s.pour() as pour:
            pour.flows()
            wall.shift(days * DAY)
            pour.flows()
            s.end_workers()
            pour.flows()
            if days > 0:
                tap.wait_for(lambda: months(s.server), 'months are made', good=lambda n: n > before)
                purge_refused(s.server)
            tap.same(clock_shown(s.server), 'warning', f'cdp.status says so ({days:+} days)')
            s.server.stop()
            s.server.start()
            pour.flows()
            wall.shift(0)
            pour.flows()
        s.judge(f'the clock, wrong by {days:+} days for a while')
    s.server.stop()
    s.server.start()
    with s.pour() as pour:
        pour.flows()
    s.judge('a restart with the right clock')
    tap.same(clock_shown(s.server), 'warning', 'cdp.status says that the clock is behind')
    tap.ok(s.server.value("SELECT clock_floor > now() + interval '790 days' FROM cdp_data.instance"),
           'batches are stamped with the last instant until the clock has caught up')


def clock_steps(s, wall):
    """The clock of the machine is set, forward, back, and by seconds while batches run; also when a worker has just ended."""
    for days in (1, -1, 0):
        with s.pour() as pour:
            pour.flows()
            wall.shift(days * DAY)
            pour.flows()
            # not the launcher: PostgreSQL starts it again when the clock, set back, has caught up
            s.end_workers()
            wall.shift((days - 1) * DAY)
            pour.flows()
        s.judge(f'the clock, set to {days:+} days and back by one')
    with s.pour() as pour:
        for seconds in (2, -3, 1, -1, 0):
            wall.shift(seconds)
            pour.flows()
    s.judge('steps of seconds')


def main():
    """All of it over one server and one broker."""
    s = shop.Shop('sessions', max_prepared_transactions=10)
    wall = machine.Clock(s.directory)
    s.server.wrapper = wall.wrapper
    s.open()
    clock_steps(s, wall)
    for situation in (oldest_named, open_transactions, drop_extension_prepared, months_beside_readers, refusing_event_trigger, taken_names, owner_lost,
                      hostile_settings):
        situation(s)
    clock_by_years(s, wall)
    s.server.stop()


tap.main(main)
