"""A message id is stored once, whatever month its copies say they are from: with and without filters, in races, through a crash."""
import datetime
import json
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine   # noqa: E402
import postgres  # noqa: E402
import tap       # noqa: E402

from psycopg.types.json import Jsonb  # noqa: E402

MONTHS = 12
PER_MONTH = 3000
RACES = 40
FIRST = datetime.datetime(2023, 1, 1, tzinfo=datetime.timezone.utc)
FIRST_CLOCK, CLOCK = '2023-01-15 00:00:00+00', '2024-01-15 00:00:00+00'
FILTERS = 'SELECT count(*) FILTER (WHERE ready), coalesce(sum(keys), 0) FROM cdp.read_filters()'


def at(month, second=0):
    """A time in one of the months."""
    return (FIRST.replace(month=month + 1) + datetime.timedelta(hours=36, seconds=second)).isoformat()


def message(number, month, body='same'):
    """A message of that id, received in that month: its body has no stamp, so that copies of any month are the same."""
    return {'type': 'track', 'userId': f'u{number % 500}', 'event': 'x', 'messageId': f'm{number}',
            'properties': {'body': body}, 'receivedAt': at(month, number % 1000)}


def outcomes(connection, messages):
    """How many messages had which outcome."""
    rows = connection.execute('SELECT outcome, count(*) FROM cdp.ingest(%s) GROUP BY 1', (Jsonb(messages),)).fetchall()
    return dict(rows)


def fill(connection, first, n_each):
    """New messages in every month; the number of the first."""
    for month in range(MONTHS):
        numbers = range(first + month * n_each, first + (month + 1) * n_each)
        outcomes(connection, [message(n, month) for n in numbers])


def make_months(server):
    """One partition a month; then the clock stands at the end of the year."""
    for month in range(MONTHS):
        server.rows('SELECT cdp.make_partitions(%s::timestamptz)', at(month))
    server.configure(cdp__clock=CLOCK)
    server.rows('SELECT pg_reload_conf()')
    got = server.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdp_data.message_seen'::regclass")
    tap.ok(got >= MONTHS, 'there is a partition for each month', got)


def filters_ready(server, n, keys):
    """Wait until so many leaves have a filter and they know so many keys."""
    return tap.wait_for(lambda: server.rows(FILTERS)[0], f'{n} filters are ready',
                        good=lambda got: got[0] == n and got[1] >= keys)


def check_moved(server, what):
    """Copies of stored messages that say they are of another month."""
    with server.connect() as c:
        moved = [message(n, (n // PER_MONTH + 5) % MONTHS) for n in range(0, MONTHS * PER_MONTH, 37)]
        tap.same(outcomes(c, moved), {'duplicate': len(moved)}, f'{what}: the same message in another month is a duplicate')
        other = [message(n, (n // PER_MONTH + 1) % MONTHS, 'other') for n in range(5, MONTHS * PER_MONTH, 37)]
        tap.same(outcomes(c, other), {'quarantined': len(other)}, f'{what}: another body in another month is a conflict')
        reasons = c.execute('SELECT DISTINCT reason FROM cdp_data.quarantine').fetchall()
        tap.same(reasons, [('id_conflict',)], f'{what}: and says so')


def race(server, number, end):
    """Two clients bring one id in two months; the first holds its transaction until the second waits for it."""
    got = []
    with server.connect(autocommit=False) as one, server.connect() as two:
        two_pid = two.info.backend_pid
        first = outcomes(one, [message(number, 2)])
        thread = threading.Thread(target=lambda: got.append(outcomes(two, [message(number, 7)])))
        thread.start()
        blocked = tap.wait_for(lambda: server.value('SELECT cardinality(pg_blocking_pids(%s))', two_pid) or got,
                               'the second client waits or ends')
        tap.same((first, blocked), ({'stored': 1}, 1), f'before the first one\'s {end} the second waits')
        one.execute(end)
        thread.join()
    return got[0]


def check_races(server, first, what):
    """Both orders of ends, then many pairs at the same moment, with people of their own so that no profile makes them wait."""
    tap.same(race(server, first, 'COMMIT'), {'duplicate': 1}, f'{what}: after a commit the second is a duplicate')
    tap.same(race(server, first + 1, 'ROLLBACK'), {'stored': 1}, f'{what}: after a rollback the second is stored')
    failures = []
    gate = threading.Barrier(2)

    def bring(month, who):
        try:
            with server.connect() as c:
                c.execute("SET deadlock_timeout = '20ms'")
                for i in range(RACES):
                    batch = [message(first + 10 + i * 20 + k, month) for k in range(20)]
                    for k, m in enumerate(batch):
                        m['userId'] = f'{what}-{who}-{i}-{k}'
                        m['properties'] = {'body': 'race'}
                    gate.wait()
                    outcomes(c, batch)
        except Exception as e:
            failures.append(repr(e))
            gate.abort()

    threads = [threading.Thread(target=bring, args=(month, who)) for month, who in ((1, 'a'), (8, 'b'))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    tap.same(failures, [], f'{what}: clients that bring the same ids at the same moment get no error')
    got = server.rows("SELECT count(*), count(DISTINCT key) FROM cdp_data.message_seen WHERE key IN"
                      " (SELECT key FROM cdp_data.message_seen GROUP BY key HAVING count(*) > 1)")
    tap.same(got, [(0, 0)], f'{what}: no id is stored twice')


def check_parked(server, first, what):
    """A worker parks the one message that a client is storing in another month, and applies the others at once, not half by half."""
    held = {**message(first, 2), 'userId': f'{what}-holder'}
    with server.connect(autocommit=False) as client:
        tap.same(outcomes(client, [held]), {'stored': 1}, f'{what}: a client stores a message and does not commit')
        server.rows('SELECT cdp.reset_stage_stats()')
        server.rows("""INSERT INTO cdp_data.parked (workspace_id, source_id, parked_at, body)
                       SELECT workspace_id, source_id, now(), convert_to(m, 'UTF8') FROM cdp_data.source, unnest(%s::text[]) m
                       WHERE name = 'sql'""", [json.dumps(message(first + n, 7)) for n in range(500)])
        tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.parked'), 'all messages but one are applied',
                     good=lambda left: left == 1)
        tap.same(server.value("SELECT calls FROM cdp.stage_stats WHERE stage = 'resolve'"), 1, f'{what}: the others were applied together')
        client.rollback()
    tap.wait_for(lambda: server.value('SELECT count(*) FROM cdp_data.parked'), 'the last is applied', good=lambda left: left == 0)


def check_crash(server):
    """Filters are gone with the server, come back, and know everything that was committed."""
    server.kill()
    server.start()
    with server.connect() as c:
        early = [message(n, (n // PER_MONTH + 3) % MONTHS) for n in range(7, MONTHS * PER_MONTH, 101)]
        tap.same(outcomes(c, early), {'duplicate': len(early)}, 'right after a crash a moved copy is a duplicate')
    filters_ready(server, MONTHS, MONTHS * PER_MONTH)
    check_moved(server, 'filters built again')


def check_other_writers(server):
    """SQL may write into a partition, too."""
    leaf, = server.rows("SELECT tableoid::regclass::text, tableoid FROM cdp_data.message_seen WHERE stamp = %s::timestamptz LIMIT 1", at(4, 0))
    with server.connect() as c:
        saved = c.execute("CREATE TEMP TABLE saved AS SELECT * FROM cdp_data.message_seen WHERE tableoid = %s::oid", (leaf[1],)).rowcount
        c.execute(f'TRUNCATE {leaf[0]}')
        with c.transaction():       # a new filter is not made before its end
            c.execute('INSERT INTO cdp_data.message_seen SELECT * FROM saved')
            got = c.execute('SELECT count(*) FROM cdp.read_filters() WHERE ready AND leaf = %s::oid', (leaf[1],)).fetchone()[0]
        tap.ok(saved >= PER_MONTH, 'a month was saved, emptied and filled by SQL', saved)
        tap.same(got, 0, 'its filter does not count any more')
    filters_ready(server, MONTHS, MONTHS * PER_MONTH)
    check_moved(server, 'after SQL wrote a month')


def check_growth(server):
    """A month that outgrows its filter gets a larger one."""
    before = server.value('SELECT max(bytes) FROM cdp.read_filters()')
    with server.connect() as c:
        for first in range(10 ** 6, 10 ** 6 + 50_000, 2500):
            outcomes(c, [message(n, 3) for n in range(first, first + 2500)])
        tap.wait_for(lambda: server.value('SELECT max(bytes) FROM cdp.read_filters() WHERE ready') > before,
                     'the filter of the month that grew grows')
        filters_ready(server, MONTHS, MONTHS * PER_MONTH + 50_000)
        moved = [message(n, 9) for n in range(10 ** 6, 10 ** 6 + 50_000, 97)]
        tap.same(outcomes(c, moved), {'duplicate': len(moved)}, 'its copies are found')


def main():
    """One server with filters; at the end the same without."""
    inst = postgres.installation()
    directory = machine.fresh_directory('months')
    machine.give_to_server(directory)
    server = postgres.Server(inst, directory, cdp__clock=FIRST_CLOCK).start()
    server.create_database()
    make_months(server)
    with server.connect() as c:
        fill(c, 0, PER_MONTH)
    filters_ready(server, MONTHS, MONTHS * PER_MONTH)
    before = server.rows(FILTERS)
    check_moved(server, 'with filters')
    tap.same(server.rows(FILTERS), before, 'moved events leave the filters in use')
    check_races(server, 2 * 10 ** 6, 'with filters')
    check_parked(server, 4 * 10 ** 6, 'with filters')
    check_crash(server)
    check_other_writers(server)
    check_growth(server)
    server.configure(cdp__filter_memory=0)
    server.stop()
    server.start()
    check_moved(server, 'without filters')
    check_races(server, 3 * 10 ** 6, 'without filters')
    check_parked(server, 5 * 10 ** 6, 'without filters')
    tap.same(server.value('SELECT count(*) FROM cdp.read_filters()'), 0, 'without memory there is no filter')
    tap.same(server.value('SELECT count(*) FROM cdp.verify()'), 0, 'verify() finds nothing')
    server.stop()


tap.main(main)
