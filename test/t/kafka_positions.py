"""Positions: what Kafka deleted before it was read, what an administrator sets, who may advance them; two databases on one topic."""
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import machine          # noqa: E402
import segment          # noqa: E402
import tap              # noqa: E402
import world as worlds  # noqa: E402
from world import numbered  # noqa: E402

SMALL = {'segment.bytes': 16384, 'retention.bytes': 32768}      # so that the broker deletes soon
LONG = 'x' * 400


def send_long(world, topic, ids):
    """Messages of which few fit into a segment."""
    producer = world.kafka.producer(batch__num__messages=10)
    for message_id in ids:
        producer.send(topic, segment.encode(segment.track(message_id, userId='u', properties={'note': LONG})))
    producer.flush()


def log_start(world, topic):
    """First offset that the broker still has."""
    consumer = world.kafka.consumer()
    low, _ = consumer.get_watermark_offsets(worlds.broker.partition(topic, 0), timeout=10)
    consumer.close()
    return low


def stored_offsets(world, topic):
    """Offsets of the events of a topic, in order."""
    return [row[0] for row in world.server.rows('SELECT "offset" FROM cdp.event WHERE topic = %s ORDER BY 1', topic)]


def nothing_silent(world, name, total):
    """Every offset is either stored or in a gap, none is both."""
    missing = [offset for _, first, behind in world.gaps(name) for offset in range(first, behind)]
    tap.ok(missing, f'{name}: there is a gap')
    tap.same(sorted(missing + stored_offsets(world, name)), list(range(total)), f'{name}: every offset is stored or in a gap, none is both')


def below_the_log_start(world):
    """A paused source finds a gap when it goes on, and goes on behind it."""
    world.kafka.create_topic('old', 1, **SMALL)
    world.source('old')
    world.send('old', numbered('old', 20))
    world.caught_up('old', 'old: consumed')
    world.pause('old')
    send_long(world, 'old', numbered('old', 980, 20))
    tap.wait_for(lambda: log_start(world, 'old'), 'old: Kafka deletes', good=lambda low: low > 20)
    world.server.rows("SELECT cdp.resume_source('old')")
    world.caught_up('old', 'old: it goes on behind the gap')
    nothing_silent(world, 'old', 1000)
    tap.same(world.gaps('old')[0][:2], (0, 20), 'old: the gap begins where it had read to')
    tap.same(world.server.rows("SELECT severity FROM cdp.status WHERE item = 'gap old'"), [('warning',)], 'old: cdp.status says so')


def below_the_log_start_while_running(world):
    """A worker that was too slow finds the gap itself."""
    world.kafka.create_topic('slow', 1, **SMALL)
    world.source('slow')
    world.send('slow', numbered('slow', 20))
    world.caught_up('slow', 'slow: consumed')
    pid = world.worker('slow')
    os.kill(pid, signal.SIGSTOP)
    send_long(world, 'slow', numbered('slow', 980, 20))
    # what was deleted while a read of it was under way may still arrive
    tap.wait_for(lambda: log_start(world, 'slow'), 'slow: Kafka deletes', good=lambda low: low > 800)
    os.kill(pid, signal.SIGCONT)
    world.caught_up('slow', 'slow: it goes on behind the gap')
    nothing_silent(world, 'slow', 1000)
    tap.same(world.worker('slow'), pid, 'slow: in the same process')


def counted(world, name):
    """Events and counters of a source's people, which a replay must not change."""
    return world.server.rows('''SELECT count(*), count(DISTINCT e.message_id), (SELECT sum(p.event_count) FROM cdp.profile p
        WHERE p.profile_id IN (SELECT profile_id FROM cdp.event WHERE topic = %s)) FROM cdp.event e WHERE e.topic = %s''', name, name)


def set_back(world):
    """Back again and again while the worker runs and messages come: nothing changes by it."""
    world.kafka.create_topic('back', 1)
    world.source('back')
    ids = numbered('back', 3000)
    sender = threading.Thread(target=world.send, args=('back', ids))
    sender.start()
    for position in (0, 5, 100, 0):
        tap.wait_for(lambda: world.status('back', '"position"'), 'it reads', good=lambda p, at=position: p != [None] and p[0] > at)
        world.server.rows("SELECT cdp.set_source_position('back', 'back', 0, %s)", position)
    sender.join()
    world.caught_up('back', 'back: consumed')
    tap.same(world.ids('back'), ids, 'back: every message is stored once')
    before = counted(world, 'back')
    batches = world.status('back', 'last_commit_at')
    world.server.rows("SELECT cdp.set_source_position('back', 'back', 0, 0)")
    world.caught_up('back', 'back: consumed once more')
    tap.ok(world.status('back', 'last_commit_at') > batches, 'back: it did read again')
    tap.same(counted(world, 'back'), before, 'back: a replay changes nothing')
    tap.same(before, [(3000, 3000, 3000)], 'back: and all was counted once')


def set_forward(world):
    """Forward: what lies between is not read, and that is nobody's loss; while an open transaction sets it, the worker waits."""
    world.kafka.create_topic('forth', 1)
    world.source('forth')
    world.send('forth', numbered('forth', 10))
    world.caught_up('forth', 'forth: consumed')
    with world.server.connect(autocommit=False) as session:
        world.send('forth', ['forth-before'])
        world.caught_up('forth', 'forth: consumed before it is set')
        session.execute("SELECT cdp.set_source_position('forth', 'forth', 0, 31)")
        world.send('forth', numbered('forth', 30, 11))
        tap.wait_for(lambda: world.status('forth', 'state'), 'forth: the worker waits', good=lambda s: s == ['waiting'])
        tap.ok(True, 'forth: the worker waits for who sets the position')
    world.caught_up('forth', 'forth: it goes on from there')
    tap.same(world.ids('forth'), sorted(numbered('forth', 10) + ['forth-before'] + numbered('forth', 10, 31)), 'forth: what was skipped is not read')
    tap.same(world.gaps('forth'), [], 'forth: and is no gap')
    world.server.rows("SELECT cdp.set_source_position('forth', 'forth', 0, 11)")
    world.caught_up('forth', 'forth: set back, it reads what was skipped')
    tap.same(len(world.ids('forth')), 41, 'forth: now it is stored')
    world.server.rows("SELECT cdp.set_source_position('forth', 'forth', 0, 1000)")
    tap.wait_for(lambda: world.status('forth', 'state'), 'forth: beyond the end', good=lambda s: s == ['diverged'])
    world.server.rows("SELECT cdp.adopt_source('forth', 'forth', 0, 41)")
    world.send('forth', numbered('forth', 1, 50))
    world.caught_up('forth', 'forth: a position beyond the end is diverged, and can be adopted')
    tap.same(len(world.ids('forth')), 42, 'forth: it goes on')


def position_of_others(world):
    """Who was stopped while another one advanced the position commits nothing from the old one (F33)."""
    world.kafka.create_topic('zombie', 1)
    world.source('zombie')
    world.send('zombie', numbered('zombie', 10))
    world.caught_up('zombie', 'zombie: consumed')
    pid = world.worker('zombie')
    os.kill(pid, signal.SIGSTOP)
    world.send('zombie', numbered('zombie', 10, 10))
    # as another worker does it: nobody tells the one that is stopped
    world.server.rows("""UPDATE cdp_data.source_offset SET position = 15, last_record_offset = NULL WHERE topic = 'zombie'""")
    os.kill(pid, signal.SIGCONT)
    world.caught_up('zombie', 'zombie: consumed after it was continued')
    tap.same(world.ids('zombie'), numbered('zombie', 10) + numbered('zombie', 5, 15), 'zombie: it commits nothing before the new position')
    tap.same(world.worker('zombie'), pid, 'zombie: in the same process')


def worker_stopped(world):
    """A worker that is stopped while its partition is given to another one (F33)."""
    world.kafka.create_topic('stopped', 2)
    world.source('stopped')
    for partition in range(2):
        world.send('stopped', numbered(f'stopped-{partition}', 10), partition=partition)
    world.caught_up('stopped', 'stopped: consumed')
    pid = world.worker('stopped')
    os.kill(pid, signal.SIGSTOP)
    for partition in range(2):
        world.send('stopped', numbered(f'stopped-{partition}', 500, 10), partition=partition)
    world.server.rows("SELECT cdp.alter_source('stopped', workers => 2)")
    tap.wait_for(lambda: len(world.ids('stopped')), 'stopped: another one takes over partition 1', good=lambda n: n == 520)
    tap.ok(machine.process_lives(pid), 'stopped: the first one is still there')
    os.kill(pid, signal.SIGCONT)
    world.caught_up('stopped', 'stopped: consumed after it was continued')
    tap.same(world.ids('stopped'), numbered('stopped-0', 510) + numbered('stopped-1', 510), 'stopped: every message is stored once')
    tap.wait_for(lambda: pid in world.status('stopped', 'worker_pid'), 'stopped: the first one is gone', good=lambda there: not there)


def worker_silent(world):
    """A worker that is stopped for long: another process takes its place, and it does nothing more when it goes on (F33)."""
    world.kafka.create_topic('silent', 2)
    world.source('silent')
    for partition in range(2):
        world.send('silent', numbered(f'silent-{partition}', 10), partition=partition)
    world.caught_up('silent', 'silent: consumed')
    mark = world.server.log_mark()
    world.server.rows("ALTER SYSTEM SET cdp.worker_timeout = '2 s'")
    world.server.rows('SELECT pg_reload_conf()')
    pid = world.worker('silent')
    os.kill(pid, signal.SIGSTOP)
    for partition in range(2):
        world.send('silent', numbered(f'silent-{partition}', 500, 10), partition=partition)
    tap.wait_for(lambda: len(world.ids('silent')), 'silent: another process takes over', good=lambda n: n == 1020)
    tap.ok(machine.process_lives(pid) and world.worker('silent') != pid, 'silent: another process has its place')
    tap.same(world.server.rows("SELECT severity, message FROM cdp.status WHERE item = 'source silent' ORDER BY 1 DESC"),
             [('warning', f'process {pid} is silent; another one has its place'), ('ok', '1 of 1 workers are running')], 'silent: cdp.status says so')
    world.send('silent', numbered('silent-0', 10, 510), partition=0)
    world.caught_up('silent', 'silent: who waits does not wait for it')
    before = counted(world, 'silent')
    os.kill(pid, signal.SIGCONT)
    tap.wait_for(lambda: machine.process_lives(pid), 'silent: it ends when it goes on', good=lambda lives: not lives)
    world.server.rows('ALTER SYSTEM RESET cdp.worker_timeout')
    world.server.rows('SELECT pg_reload_conf()')
    tap.same(counted(world, 'silent'), before, 'silent: and has done nothing more')
    tap.same(world.server.log_after(mark).count(' is silent'), 1, 'silent: workers that have nothing to do are not')
    tap.same(world.ids('silent'), numbered('silent-0', 520) + numbered('silent-1', 510), 'silent: every message is stored once')


def two_databases(world):
    """Two databases read one topic, each with positions of its own."""
    world.server.create_database('second')
    world.kafka.create_topic('both', 2)
    world.source('both')
    world.send('both', numbered('both', 100))
    world.caught_up('both', 'both: the first database has consumed')
    world.source('both', dbname='second')
    world.caught_up('both', 'both: so has the second', dbname='second')
    world.pause('both')
    world.send('both', numbered('both', 100, 100))
    world.caught_up('both', 'both: one goes on while the other is at rest', dbname='second')
    tap.same((len(world.ids('both')), len(world.ids('both', 'second'))), (100, 200), 'both: each has what it read')
    world.server.rows("SELECT cdp.resume_source('both')")
    world.caught_up('both', 'both: the first catches up')
    tap.same(world.ids('both'), world.ids('both', 'second'), 'both: the same messages are in both')
    tap.same(world.server.rows('SELECT * FROM cdp.verify()', dbname='second'), [], 'both: cdp.verify() finds nothing in the second')


def main():
    """All checks over one server and one broker."""
    worlds.run(worlds.World('positions'), (
        below_the_log_start, below_the_log_start_while_running, set_back, set_forward, position_of_others, worker_stopped, worker_silent, two_databases))


tap.main(main)
