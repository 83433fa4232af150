"""What a worker remembers of people outlives maintenance of the tables, and people who are deleted; who waits for it holds no snapshot, unless it is in use."""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

PEOPLE = 1000                   # more than attempts of a batch
DAY = 24 * 3600 * 1000
LOOP = '''CREATE FUNCTION in_a_loop() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE r record; BEGIN FOR r IN SELECT cdp.wait_for_source('shop', '60 s') AS reached LOOP RETURN r.reached; END LOOP; END $$'''
# as cdp.forget() will do; all people but the first ones
FORGET = '''WITH f AS (SELECT fragment_id FROM cdp_data.profile ORDER BY fragment_id OFFSET 10),
 i AS (DELETE FROM cdp_data.identifier WHERE fragment_id IN (SELECT * FROM f)),
 l AS (DELETE FROM cdp_data.link WHERE identifier_id IN (SELECT identifier_id FROM cdp_data.identifier WHERE fragment_id IN (SELECT * FROM f))),
 e AS (DELETE FROM cdp_data.event WHERE fragment_id IN (SELECT * FROM f)),
 t AS (DELETE FROM cdp_data.profile_trait WHERE fragment_id IN (SELECT * FROM f))
 DELETE FROM cdp_data.profile WHERE fragment_id IN (SELECT * FROM f)'''


class Shop:
    """A source whose people come each day: a worker writes the rows of all of them."""

    def __init__(self, server, kafka):
        self.server = server
        self.day = 0
        kafka.create_topic('shop', 1)
        server.rows("SELECT cdp.create_source('shop', brokers => %s, topics => '{shop}')", kafka.address)
        self.producer = kafka.producer()
        self.come('people come')
        self.worker = server.pids('cdp source')
        for _ in range(4):      # dead rows, so that the tables will get shorter
            self.come('people come again')

    def come(self, what):
        """An event of each person, in a new day."""
        self.day += 1
        for n in range(PEOPLE):
            self.producer.send('shop', segment.encode(segment.track(
                f'{self.day}-{n}', self.day * DAY + n, userId=f'u-{n}', anonymousId=f'a-{n}')))
        self.producer.flush()
        tap.ok(self.server.value("SELECT cdp.wait_for_source('shop', '60 s')"), what)

    def check(self, what, days):
        """They come, everything is right, and the worker has had no trouble."""
        self.come(what)
        tap.same(self.server.rows('SELECT count(*), min(event_count), max(event_count) FROM cdp.profile'),
                 [(PEOPLE, min(days, self.day), self.day)], f'{what}: each is one person')
        tap.same(self.server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: verify() finds nothing')
        tap.same(self.server.pids('cdp source'), self.worker, f'{what}: the worker goes on')
        with open(self.server.log, encoding='utf-8', errors='replace') as log:
            tap.same([line for line in log if 'tries again' in line], [], f'{what}: at the first try')


def snapshot_while_waiting(server, statement, held):
    """backend_xmin of a session that waits in a statement for messages that do not come; who only waits looks at the source now and then."""
    connection = server.connect()
    pid = connection.info.backend_pid

    def run():
        try:
            connection.execute(statement)
        except Exception:       # it is ended below
            pass
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    xmin, = tap.wait_for(lambda: server.rows("SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Extension'", pid),
                         f'{statement} waits', good=lambda rows: rows and (held or rows == [(None,)]))[0]
    server.rows('SELECT pg_terminate_backend(%s)', pid)
    thread.join()
    return xmin


def main():
    """Consume, work on the tables, consume."""
    directory = machine.fresh_directory('remembered')
    server = postgres.Server(postgres.installation(), directory).start()
    server.create_database()
    kafka = broker.Kafka(directory).start()
    shop = Shop(server, kafka)
    for table in ('profile', 'identifier', 'link'):
        server.rows(f'VACUUM FULL cdp_data.{table}')
        shop.check(f'after VACUUM FULL of {table}', 99)
    server.rows(FORGET)
    server.rows('VACUUM cdp_data.profile, cdp_data.identifier, cdp_data.link')
    shop.check('after people were deleted', 1)

    kafka.kill()
    server.rows(LOOP)
    tap.same(snapshot_while_waiting(server, "SELECT cdp.wait_for_source('shop', '60 s')", False), None,
             'who only waits holds no snapshot')
    tap.ok(snapshot_while_waiting(server, 'SELECT in_a_loop()', True), 'a query that waits in a cursor of a function keeps its snapshot')
    tap.ok(snapshot_while_waiting(server, 'SELECT in_a_loop(), count(*) FROM cdp_data.event GROUP BY 1', True),
           'so does a query that has rows to read')


tap.main(main)
