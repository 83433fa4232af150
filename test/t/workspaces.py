"""Two workspaces on one server: the same person twice, who is told what, and a workspace that is dropped while it is written to."""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

import psycopg                         # noqa: E402
from psycopg.types.json import Jsonb   # noqa: E402

MESSAGES = 2000
WRITERS = 3
MANY = 400                      # workspaces (F32)
GROWTH = 12 * 1024 * 1024       # of a session; it was 20 MB when nothing bounded what it keeps
TABLES = "SELECT table_name FROM information_schema.columns WHERE table_schema = 'cdp_data' AND column_name = 'workspace_id'"


def tables_with(server, workspace_id):
    """Number of tables and partitions that hold a row of a workspace."""
    each = [f'(SELECT FROM cdp_data."{name}" WHERE workspace_id = {workspace_id} LIMIT 1)' for name, in server.rows(TABLES)]
    return server.value(f"SELECT count(*) FROM ({' UNION ALL '.join(each)}) t")


def login(server, name, group, workspace=None):
    """A role that can log in."""
    server.rows(f'CREATE ROLE {name} LOGIN IN ROLE {group}')
    if workspace:
        server.rows('SELECT cdp.grant_workspace(%s, %s)', name, workspace)


def notices_of(server, sql):
    """What a statement says beside its result."""
    said = []
    with server.connect() as c:
        c.add_notice_handler(lambda d: said.append(d.message_primary))
        c.execute(sql)
    return said


def check_notices(server):
    """create_workspace() names who can not read or not write any more."""
    login(server, 'reader', 'cdp_analyst')
    login(server, 'writer', 'cdp_ingest')
    login(server, 'granted', 'cdp_analyst, cdp_ingest', 'default')
    tap.same(notices_of(server, "SELECT cdp.create_workspace('b')"),
             ['these roles work in no workspace, and see nothing any more: postgres, reader',
              'these roles work in no workspace, and can write no messages any more: writer'],
             'create_workspace() says who loses what')
    with server.connect(user='writer') as c:
        try:
            c.execute('SELECT * FROM cdp.ingest(%s)', (Jsonb(segment.track('w')),))
            tap.ok(False, 'who was not granted a workspace writes nothing')
        except psycopg.errors.UndefinedObject as e:
            tap.ok(True, 'who was not granted a workspace writes nothing', e)


def check_same_person(server):
    """The same identifiers in two workspaces are two people, and each sees one."""
    server.rows("SELECT cdp.create_source('sql', workspace => 'b')")
    for workspace in ('default', 'b'):
        login(server, f'officer_{workspace}', 'cdp_privacy_officer, cdp_ingest', workspace)
        with server.connect(user=f'officer_{workspace}') as c:
            c.execute('SELECT * FROM cdp.ingest(%s)', (Jsonb(segment.identify('same-id', userId='u', anonymousId=workspace,
                                                                          traits={'email': 'ada@example.com', 'of': workspace})),))
    found = []
    for workspace in ('default', 'b'):
        with server.connect(user=f'officer_{workspace}') as c:
            found += c.execute("SELECT cdp.find_profile('email', 'ada@example.com'), traits ->> 'of', event_count FROM cdp.profile").fetchall()
            tap.same(c.execute('SELECT * FROM cdp.verify()').fetchall(), [], f'verify() of {workspace} finds nothing')
            tap.same(c.execute('SELECT DISTINCT workspace FROM cdp.event').fetchall(), [(workspace,)], 'and its views show one workspace')
    tap.same([row[1:] for row in found], [('default', 1), ('b', 1)], 'one message, with one id, in each workspace is two events')
    tap.ok(found[0][0] != found[1][0], 'and two people', found)


def write_until_gone(server, number, failures, stored, go_on):
    """Send batches to b until it is gone."""
    try:
        with server.connect(user='officer_b') as c:
            n = 0
            while not go_on.is_set():
                n += 1
                messages = [segment.identify(f'{number}-{n}-{k}', userId=f'{number}-{k}', anonymousId=f'd{k}') for k in range(5)]
                c.execute('SELECT * FROM cdp.ingest(%s)', (Jsonb(messages + [{'type': 'telepathy', 'userId': 'x'}]),))
                stored[number] = n
    except (psycopg.errors.UndefinedObject, psycopg.errors.InsufficientPrivilege):
        pass
    except Exception as e:
        failures.append(repr(e))


def check_drop(server, kafka):
    """With writers, a Kafka source at work, an open transaction and readers: nothing of b is left, and a is as it was."""
    number = server.value("SELECT workspace_id FROM cdp_data.workspace WHERE name = 'b'")
    kafka.create_topic('b', 2)
    server.rows("SELECT cdp.create_source('web', %s, '{b}', workspace => 'b', workers => 2)", kafka.address)
    producer = kafka.producer()
    for n in range(MESSAGES):
        producer.send('b', segment.encode(segment.identify(f'k{n}', userId=f'u{n % 100}', anonymousId=f'd{n % 300}')))
    producer.flush()
    failures, stored, stop = [], [0] * WRITERS, threading.Event()
    writers = [threading.Thread(target=write_until_gone, args=(server, n, failures, stored, stop), daemon=True) for n in range(WRITERS)]
    with server.connect() as dba, server.connect(user='officer_b', autocommit=False) as holder:
        holder.execute('SELECT * FROM cdp.ingest(%s)', (Jsonb(segment.track('held', userId='held')),))
        for t in writers:
            t.start()
        tap.wait_for(lambda: min(stored), 'all of them write', good=lambda n: n > 2)
        tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.event WHERE topic IS NOT NULL'), 'the source is consumed')
        tap.ok(tables_with(server, number) > 10, 'it has rows in many tables')
        counted = dba.execute("SELECT cdp.drop_workspace('b')").fetchone()[0]
        tap.ok(counted['dry_run'] and counted['rows']['event'] > 0, 'a dry run waits for nobody', counted)
        dropped = []
        dropper = threading.Thread(target=lambda: dropped.append(dba.execute("SELECT cdp.drop_workspace('b', false)").fetchone()[0]), daemon=True)
        dropper.start()
        tap.wait_for(lambda: server.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND objid = %s", number),
                     'it waits for the transaction that wrote to the workspace')
        holder.commit()
        dropper.join(tap.DEFAULT_SECONDS)
    tap.ok(dropped and not dropped[0]['dry_run'] and dropped[0]['rows']['event'] > 0, 'then it is dropped', dropped)
    for t in writers:
        t.join(tap.DEFAULT_SECONDS)
    stop.set()
    tap.same(failures, [], 'who wrote to it gets no error but that there is none')
    tap.wait_for(lambda: server.pids('cdp source'), 'its workers end', good=lambda pids: not pids)
    tap.same(tables_with(server, number), 0, 'nothing of it is left in any table')
    with server.connect(user='officer_default') as c:
        tap.same(c.execute('SELECT traits ->> %s, event_count FROM cdp.profile', ('of',)).fetchall(), [('default', 1)], 'the other one is as it was')
        tap.same(c.execute('SELECT * FROM cdp.verify()').fetchall(), [], 'and verify() finds nothing')
    with server.connect(user='officer_b') as c:
        tap.same(c.execute('SELECT * FROM cdp.profile').fetchall(), [], 'who worked in the one that is gone sees nothing of the one that is left')
    tap.same([m for (m,) in server.rows("SELECT message FROM cdp.status WHERE severity IN ('warning', 'error')")], [], 'cdp.status is content')


def check_drop_and_rollback(server, kafka):
    """A drop that is rolled back changes nothing: the source goes on."""
    server.rows("SELECT cdp.create_workspace('c')")
    server.rows("SELECT cdp.create_source('again', %s, '{b}', workspace => 'c')", kafka.address)
    server.rows("SELECT cdp.wait_for_source('again')")
    number = server.value("SELECT workspace_id FROM cdp_data.workspace WHERE name = 'c'")
    before = server.value('SELECT count(*) FROM cdp_data.event WHERE workspace_id = %s', number)
    with server.connect(autocommit=False) as c:
        c.execute("SELECT cdp.drop_workspace('c', false)")
        c.rollback()
    producer = kafka.producer()
    producer.send('b', segment.encode(segment.track('after', userId='after')))
    producer.flush()
    tap.ok(server.value("SELECT cdp.wait_for_source('again')"), 'after a rollback its source goes on')
    tap.same(server.value('SELECT count(*) FROM cdp_data.event WHERE workspace_id = %s', number), before + 1, 'and nothing is gone')


def check_drop_while_classified(server):
    """Who classifies a key holds no batch's lock: the drop waits for him, too."""
    server.rows("SELECT cdp.create_workspace('d')")
    login(server, 'officer_d', 'cdp_privacy_officer', 'd')
    number = server.value("SELECT workspace_id FROM cdp_data.workspace WHERE name = 'd'")
    with server.connect() as dba, server.connect(user='officer_d', autocommit=False) as officer:
        officer.execute("SELECT cdp.classify_trait('plan')")
        dropper = threading.Thread(target=dba.execute, args=("SELECT cdp.drop_workspace('d', false)",), daemon=True)
        dropper.start()
        tap.wait_for(lambda: server.value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", dba.info.backend_pid),
                     'the drop waits for who classified a key', good=lambda event: event == 'Lock')
        officer.commit()
        dropper.join(tap.DEFAULT_SECONDS)
    tap.same(tables_with(server, number), 0, 'and leaves nothing of it')


def check_many(server):
    """Sessions that have been in hundreds of workspaces have not grown, and who works in which is known at once."""
    with server.connect() as c:
        for n in range(MANY):
            c.execute('SELECT cdp.create_workspace(%s)', (f'many-{n}',))
            c.execute("SELECT cdp.create_source(%s, workspace => %s)", (f'source-{n}', f'many-{n}'))
    with server.connect() as c:
        before = machine.anonymous_memory(c.info.backend_pid)
        for n in range(MANY):
            c.execute('SELECT * FROM cdp.ingest(%s, %s)', (Jsonb(segment.track(f'many-{n}', userId='same')), f'source-{n}'))
        grown = machine.anonymous_memory(c.info.backend_pid) - before
    tap.note(f'a session has grown by {grown // 1024} kB in {MANY} workspaces')
    tap.ok(grown < GROWTH, 'memory of a session is bounded', grown)
    tap.same(server.rows("SELECT count(*), count(DISTINCT workspace_id) FROM cdp_data.profile WHERE workspace_id IN"
                         " (SELECT workspace_id FROM cdp_data.workspace WHERE name LIKE 'many-%%')"), [(MANY, MANY)], 'each has its person')
    login(server, 'tenant', 'cdp_analyst')
    with server.connect(user='tenant') as c:
        tap.same(c.execute('SELECT * FROM cdp.profile').fetchall(), [], 'who works in none sees nothing')
        server.rows("SELECT cdp.grant_workspace('tenant', 'many-7')")
        tap.same(len(c.execute('SELECT * FROM cdp.profile').fetchall()), 1, 'once granted, its session sees one')
        server.rows('CREATE ROLE team; GRANT team TO tenant')
        server.rows("SELECT cdp.revoke_workspace('tenant', 'many-7'); SELECT cdp.grant_workspace('team', 'many-8')")
        tap.same(c.execute('SELECT workspace FROM cdp.profile').fetchall(), [('many-8',)], 'through another role, too')
        server.rows('REVOKE team FROM tenant')
        tap.same(c.execute('SELECT * FROM cdp.profile').fetchall(), [], 'and nothing when it is no member any more')


def main():
    """One server and one broker."""
    inst = postgres.installation()
    directory = machine.fresh_directory('workspaces')
    kafka = broker.Kafka(directory).start()
    server = postgres.Server(inst, directory).start()
    server.create_database()
    check_notices(server)
    check_same_person(server)
    check_drop(server, kafka)
    check_drop_and_rollback(server, kafka)
    check_drop_while_classified(server)
    check_many(server)
    server.stop()


tap.main(main)
