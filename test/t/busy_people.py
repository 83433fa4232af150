"""A long batch that brings new identifiers to people whom others write all the time gets through."""
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import segment   # noqa: E402
import tap       # noqa: E402

PEOPLE, ROWS, COPIES, CLIENTS = 50, 10_000, 2, 2
COPY = "COPY cdp.inbox (message) FROM STDIN WITH (FORMAT csv, QUOTE e'\\x01', DELIMITER e'\\x02')"


class Client(threading.Thread):
    """Writes an event of one person after the other until it is told to stop."""

    def __init__(self, server, number):
        super().__init__(daemon=True)
        self.connection, self.number = server.connect(), number
        self.written = 0
        self.stop = threading.Event()
        self.error = None

    def run(self):
        """One statement an event."""
        try:
            while not self.stop.is_set():
                message = segment.track(f'client-{self.number}-{self.written}', self.written, userId=f'busy-{self.written % PEOPLE}')
                self.connection.execute('SELECT * FROM cdp.ingest(%s::jsonb)', (segment.encode(message).decode(),))
                self.written += 1
        except Exception as e:
            self.error = repr(e)


def copy(server, number):
    """Each row brings one of them a browser."""
    with server.connect() as connection, connection.cursor().copy(COPY) as rows:
        for n in range(ROWS):
            rows.write(segment.encode(segment.track(f'copy-{number}-{n}', n, userId=f'busy-{n % PEOPLE}', anonymousId=f'browser-{number}-{n}')) + b'\n')


def main():
    """Clients that never pause, and COPY beside them."""
    server = postgres.Server(postgres.installation(), machine.fresh_directory('busy')).start()
    server.create_database()
    clients = [Client(server, n) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    tap.wait_for(lambda: min(c.written for c in clients), 'everybody is known', good=lambda n: n >= PEOPLE)
    for n in range(COPIES):
        before = sum(c.written for c in clients)
        copy(server, n)
        tap.ok(sum(c.written for c in clients) > before, 'COPY gets through beside clients that write the same people')
    for client in clients:
        client.stop.set()
        client.join()
    tap.same([c.error for c in clients], [None] * CLIENTS, 'so do they')
    tap.same(server.value('SELECT count(*) FROM cdp.event'), COPIES * ROWS + sum(c.written for c in clients), 'every event is stored')
    tap.same(server.rows('SELECT count(DISTINCT profile_id) FROM cdp.identifier'), [(PEOPLE,)], 'each is one person')
    tap.same(server.rows('SELECT * FROM cdp.verify()'), [], 'verify() finds nothing')


tap.main(main)
