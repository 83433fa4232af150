"""Forgetting beside ingest, twice at once, killed in the middle, with messages that a running batch sets aside; no column of any table keeps anything."""
import os
import sys
import threading

import psycopg

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

PEOPLE, FORGOTTEN, ROUNDS = 400, 60, 30
TABLES = """SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'cdp_data'::regnamespace
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"""
WHOLE = '''SELECT count(*), count(DISTINCT profile_id) FROM cdp.event WHERE user_id = %s'''


class World:
    """One server and one broker for all checks."""

    def __init__(self):
        directory = machine.fresh_directory('forget')
        self.server = postgres.Server(postgres.installation(), directory).start()
        self.server.create_database()
        self.kafka = broker.Kafka(directory).start()

    def places(self, text):
        """Tables in which a text stands in any column, also within bytes."""
        found = []
        with self.server.connect() as connection:
            for table, in connection.execute(TABLES).fetchall():
                if connection.execute(f'SELECT EXISTS (SELECT FROM {table} t WHERE t::text ILIKE %s OR t::text LIKE %s)',
                                      (f'%{text}%', f'%{text.encode().hex()}%')).fetchone()[0]:
                    found.append(table)
        return found

    def forget(self, namespace, value, connection=None):
        """The answer of cdp.forget()."""
        sql = "SELECT cdp.forget(%s, %s, 'asked', dry_run => false)"
        if connection:
            return connection.execute(sql, (namespace, value)).fetchone()[0]
        return self.server.value(sql, namespace, value)

    def completed(self):
        """Everything that maintenance has to repeat is repeated."""
        tap.wait_for(lambda: self.server.value('SELECT count(*) FROM cdp.erasure WHERE completed_at IS NULL'), 'erasures are completed', good=lambda n: n == 0)

    def forgetting_waits(self):
        """Until a session that forgets somebody waits for another."""
        tap.wait_for(lambda: self.server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%cdp.forget%%'"), 'forgetting waits')

    def clean(self, what):
        """Everything that is stored agrees."""
        tap.same(self.server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: verify() finds nothing')

    def ingest(self, *messages):
        """Through SQL."""
        with self.server.connect() as connection:
            connection.execute('SELECT * FROM cdp.ingest(%s::jsonb)', ('[' + ','.join(segment.encode(m).decode() for m in messages) + ']',)).fetchall()


def person(n, round_):
    """What one person sends in a round: a purchase, and a sign-in whose e-mail the next one uses, too; once what cannot be stored."""
    yield segment.track(f'{n}-{round_}-a', round_ * 3600_000 + n, userId=f'kf-user-{n}', anonymousId=f'kf-anon-{n}')
    yield segment.identify(f'{n}-{round_}-b', round_ * 3600_000 + n, userId=f'kf-user-{n}', traits={'email': f'kf{n}@forget.example', 'round': round_})
    if round_ == 2:
        yield segment.track(f'{n}-{round_}-b', round_ * 3600_000 + n, userId=f'kf-user-{n}')
        yield {**segment.track(f'{n}-{round_}-d', userId=f'kf-user-{n}', anonymousId=f'kf-anon-{n}'), 'type': 'nonsense'}
    if round_ % 10 == 5:
        yield segment.identify(f'{n}-{round_}-c', round_ * 3600_000 + n, userId=f'kf-user-{(n + 1) % PEOPLE}', context={'traits': {'email': f'kf{n}@forget.example'}})


def beside_ingest(world):
    """People are forgotten while two workers store their events, and the topic is read twice more."""
    world.kafka.create_topic('people', 4)
    create = "SELECT cdp.create_source(%s, brokers => %s, topics => '{people}', workers => 2)"
    world.server.rows(create, 'first', world.kafka.address)
    producer = world.kafka.producer()
    half = threading.Event()

    def produce():
        for round_ in range(ROUNDS):
            for n in range(PEOPLE):
                for message in person(n, round_):
                    producer.send('people', segment.encode(message))
            if round_ == ROUNDS // 2:
                producer.flush()
                half.set()
        producer.flush()
    thread = threading.Thread(target=produce)
    thread.start()
    half.wait()
    tap.wait_for(lambda: world.server.value('SELECT count(DISTINCT user_id) FROM cdp.event'), 'everybody is known', good=lambda n: n == PEOPLE)
    answers = [world.forget('user_id', f'kf-user-{n * 3}') for n in range(FORGOTTEN)]
    thread.join()
    tap.same([a['found'] for a in answers], [True] * FORGOTTEN, 'people are forgotten while their events come in')
    tap.ok(sum(a['stripped']['event'] for a in answers) > 0, 'events of others were stripped', answers[0])
    for source in ('first', 'second', 'third'):
        if source != 'first':
            world.server.rows(create, source, world.kafka.address)
        tap.ok(world.server.value("SELECT cdp.wait_for_source(%s, '120 s')", source), f'{source} reading of the topic ends')
        world.completed()
        tap.same(world.server.value('SELECT count(DISTINCT user_id) FROM cdp.event'), PEOPLE - FORGOTTEN, f'{source}: the others are there')
        world.clean(source)
    others = [(f'kf-user-{n}',) for n in range(PEOPLE) if n % 3 or n >= 3 * FORGOTTEN]
    for reason in ('id_conflict', 'unknown_type'):
        tap.same(sorted(world.server.rows("SELECT DISTINCT coalesce(substring(body_text FROM 'kf-user-[0-9]+'), body_text) FROM cdp.quarantine WHERE reason = %s", reason)), sorted(others),
                 f'{reason}: what the others sent, and nothing else, is set aside')
    for n in (0, 30, 3 * FORGOTTEN - 3):
        tap.same([world.places(f'kf-user-{n}"'), world.places(f'kf{n}@forget.example'), world.places(f'(kf-anon-{n},')], [[], [], []], f'nothing of person {n} is left')
    tap.ok(world.places('kf1@forget.example'), 'who was not forgotten is found by the same search')
    lost = world.server.rows("""SELECT user_id, count(*) FROM cdp.event GROUP BY 1 HAVING count(*) < %s""", 2 * ROUNDS)
    tap.same(lost, [], 'no event of others is lost')
    for source in ('first', 'second', 'third'):
        world.server.rows('SELECT cdp.drop_source(%s)', source)


def twice_at_once(world):
    """One of two wins; the other waits for it and finds nobody."""
    world.ingest(segment.identify('tw-1', userId='tw-user', traits={'email': 'tw@forget.example'}), segment.track('tw-2', 1000, userId='tw-user'))
    answers = []
    with world.server.connect(autocommit=False) as first:
        answers.append(world.forget('email', 'tw@forget.example', first))
        second = threading.Thread(target=lambda: answers.append(world.forget('user_id', 'tw-user')))
        second.start()
        world.forgetting_waits()
        first.commit()
        second.join()
    tap.same([a['found'] for a in answers], [True, False], 'twice at once: one finds the person')
    tap.same([world.places('tw-user'), world.places('tw@forget.example')], [[], []], 'twice at once: nothing is left')


def becomes_anothers(world):
    """While forgetting waits, the batch it waits for finds that the tablet was another's first."""
    for asked, gone, left in (('user_id', 'bob', 'ann'), ('anonymous_id', 'ann', 'bob')):
        bob, ann, tablet = (f'mv-{asked}-{who}' for who in ('bob', 'ann', 'tablet'))
        world.ingest(segment.track(f'{bob}-1', 2000, userId=bob, anonymousId=tablet), {**segment.track(f'{tablet}-1', anonymousId=tablet), 'type': 'nonsense'})
        answers = []
        with world.server.connect(autocommit=False) as client:
            client.execute('SELECT * FROM cdp.ingest(%s::jsonb)', (segment.encode(segment.track(f'{ann}-1', 1000, userId=ann, anonymousId=tablet)).decode(),))
            other = threading.Thread(target=lambda: answers.append(world.forget(asked, bob if asked == 'user_id' else tablet)))
            other.start()
            world.forgetting_waits()
            client.commit()
            other.join()
        world.completed()
        gone, left = f'mv-{asked}-{gone}', f'mv-{asked}-{left}'
        tap.same([answers[0]['found'], answers[0]['deleted']['event'], world.places(gone)], [True, 1, []], f'forgotten by {asked} while a tablet changes hands: who has it in the end goes')
        tap.same(world.server.rows(WHOLE, left), [(1, 1)], f'forgotten by {asked} while a tablet changes hands: the other stays')
        tap.same('quarantine' in ' '.join(world.places(tablet)), asked == 'user_id', f'forgotten by {asked} while a tablet changes hands: so do messages set aside that are not about who goes')
        world.clean(f'by {asked} while a tablet changes hands')


def rolled_back(world):
    """A rollback brings everything back, tokens included."""
    world.ingest(segment.track('rb-1', userId='rb-user'))
    with world.server.connect(autocommit=False) as connection:
        tap.same(world.forget('user_id', 'rb-user', connection)['deleted']['event'], 1, 'forgotten in a transaction')
        connection.rollback()
    world.ingest(segment.track('rb-2', 1000, userId='rb-user'))
    tap.same(world.server.rows(WHOLE, 'rb-user'), [(2, 1)], 'after a rollback the person is whole, and goes on')


def killed(world):
    """kill -9 in the middle: nothing has happened; the server comes back and it can be done again."""
    world.ingest(segment.identify('ki-1', userId='ki-user', traits={'email': 'ki@forget.example'}), segment.track('ki-2', 1000, userId='ki-user'))

    def kill(pid, what):
        mark = world.server.log_mark()
        os.kill(pid, 9)
        tap.wait_for(lambda: 'ready to accept connections' in world.server.log_after(mark), 'the server recovers')
        tap.same(world.server.rows(WHOLE, 'ki-user'), [(2, 1)], f'{what}: the person is whole')
        world.clean(what)

    connection = world.server.connect(autocommit=False)
    world.forget('user_id', 'ki-user', connection)
    kill(connection.info.backend_pid, 'killed before the commit')
    half_way(world, kill)
    world.forget('user_id', 'ki-user')
    world.server.kill()
    world.server.start()
    tap.same(world.places('ki-user'), [], 'killed after the commit: nothing is left')
    world.ingest(segment.track('ki-3', 2000, userId='ki-user'))
    tap.same(world.places('ki-user'), [], 'and nothing comes back')


def half_way(world, kill):
    """Its events are deleted, its identifiers not yet: a row between them is held."""
    world.server.rows("""INSERT INTO cdp_data.identity_warning (workspace_id, kind, identifier_id, namespace_id, link_id, warned_at)
                         SELECT workspace_id, 'demoted', identifier_id, namespace_id, 0, now() FROM cdp_data.identifier WHERE value = 'ki-user'""")
    holder, connection = world.server.connect(autocommit=False), world.server.connect()
    holder.execute('SELECT FROM cdp_data.identity_warning WHERE link_id = 0 FOR UPDATE')
    thread = threading.Thread(target=lost_connection, args=(world, connection))
    thread.start()
    world.forgetting_waits()
    kill(connection.info.backend_pid, 'killed half-way')
    thread.join()
    world.server.rows('DELETE FROM cdp_data.identity_warning WHERE link_id = 0')


def lost_connection(world, connection):
    """Forgetting that ends with its server."""
    try:
        world.forget('user_id', 'ki-user', connection)
        tap.ok(False, 'forgetting ends with its server')
    except psycopg.OperationalError:
        pass


def set_aside(world):
    """A batch that began before sets a message aside that nobody could see; when it has ended, that goes, too."""
    world.completed()
    world.ingest(segment.identify('st-1', userId='st-user', traits={'email': 'st@forget.example'}))
    with world.server.connect(autocommit=False) as client:
        client.execute('''INSERT INTO cdp.inbox (message) VALUES ('{"type": "track", "userId": "st-user", "traits": {"email": "ST@forget.example"}')''')
        client.execute("""INSERT INTO cdp_data.parked (workspace_id, source_id, parked_at, record_time, body)
                          SELECT workspace_id, source_id, now(), now(), %s FROM cdp_data.source WHERE name = 'sql'""",
                       (segment.encode(segment.track('st-2', 1000, userId='st-user')),))      # as a worker's batch would; nobody applies it
        world.forget('user_id', 'st-user')
        tap.same(client.execute('SELECT count(*) FROM cdp_data.parked').fetchone()[0], 1, 'a running batch has parked something')
        tap.wait_for(lambda: world.server.value("SELECT count(*) FROM cdp_data.erasure WHERE completed_at IS NULL"), 'it is not complete', good=lambda n: n == 1)
        client.commit()
    world.completed()
    tap.same([world.places('st-user'), world.places('st@forget.example')], [[], []], 'what a running batch set aside or parked goes when it has ended')


def held(world):
    """Somebody holds the person: forgetting waits for him, gives up with lock_timeout, and then works."""
    world.ingest(segment.track('he-1', userId='he-user'))
    with world.server.connect(autocommit=False) as client:
        client.execute('SELECT * FROM cdp.ingest(%s::jsonb)', (segment.encode(segment.track('he-2', 1000, userId='he-user')).decode(),))
        with world.server.connect(options='-c lock_timeout=200ms') as other:
            try:
                world.forget('user_id', 'he-user', other)
                tap.ok(False, 'forgetting a person who is held waits')
            except psycopg.errors.LockNotAvailable:
                tap.ok(True, 'forgetting a person who is held waits')
        client.commit()
    tap.same(world.forget('user_id', 'he-user')['deleted']['event'], 2, 'then what the holder stored goes, too')
    tap.same(world.places('he-user'), [], 'nothing of who was held is left')


def main():
    """All checks over one server and one broker."""
    world = World()
    for situation in (beside_ingest, twice_at_once, becomes_anothers, rolled_back, killed, set_aside, held):
        situation(world)
    world.completed()
    world.clean('at the end')


tap.main(main)
