"""kill -9 of a worker where it hurts (F01): while it waits, after it stored events, after the commit, while it makes partitions.

Each time everything is there exactly once, and workers run again within 30 s, by themselves.
"""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import tap              # noqa: E402
import world as worlds  # noqa: E402
from world import numbered  # noqa: E402

SECONDS = 30                    # until workers run again
# a worker that comes to such a place stays there as long as there is a row in public.hold
HOLD = """
CREATE TABLE public.hold (place text);
CREATE FUNCTION public.held(place text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WHILE EXISTS (SELECT FROM public.hold h WHERE h.place = held.place) LOOP PERFORM pg_catalog.pg_sleep(0.02); END LOOP;
END $$;
CREATE FUNCTION public.in_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.held('batch');
    RETURN new;
END $$;
CREATE FUNCTION public.in_create() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.held('create');
END $$;
CREATE TRIGGER hold BEFORE UPDATE ON cdp_data.source_offset FOR EACH ROW EXECUTE FUNCTION public.in_batch();
CREATE EVENT TRIGGER hold ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.in_create()
"""
HELD = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cdp %' AND wait_event = 'PgSleep'"
CHILDREN = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'cdp_data.event'::regclass"


def kill(world, pid):
    """kill -9, which makes the server reset every session; returns when it answers again."""
    with world.server.connect() as witness:
        os.kill(pid, signal.SIGKILL)

        def ended():
            try:
                witness.execute('SELECT 1')
                return False
            except worlds.postgres.psycopg.OperationalError:
                return True
        tap.wait_for(ended, 'the server ends every session')
    tap.wait_for(world.server.answers, 'the server answers after its reset')


def run_again(world, name, what):
    """A worker is there within SECONDS, and catches up."""
    running = tap.wait_for(lambda: world.status(name, 'state'), f'{what}: it runs again', SECONDS, lambda s: set(s) == {'running'})
    tap.ok(running, f'{what}: the worker runs again within {SECONDS} s')
    world.caught_up(name, f'{what}: everything is read')


def exactly_once(world, name, ids, what):
    """Every message is there, once, and counted once."""
    tap.same(world.ids(name), ids, f'{what}: every message is stored once')
    tap.same(world.server.rows('SELECT * FROM cdp.verify()'), [], f'{what}: cdp.verify() finds nothing')


def before_a_poll(world):
    """It waits for messages, which come when it is dead."""
    world.kafka.create_topic('poll', 1)
    world.source('poll')
    world.send('poll', numbered('poll', 100))
    world.caught_up('poll', 'poll: consumed')
    pid = world.worker('poll')
    os.kill(pid, signal.SIGSTOP)            # it is killed before it can look at them
    world.send('poll', numbered('poll', 100, 100))
    kill(world, pid)
    run_again(world, 'poll', 'killed before a poll')
    exactly_once(world, 'poll', numbered('poll', 200), 'killed before a poll')


def after_the_insert(world):
    """Everything of the batch is written, but not committed."""
    world.kafka.create_topic('insert', 1)
    world.source('insert')
    world.send('insert', numbered('insert', 100))
    world.caught_up('insert', 'insert: consumed')
    world.server.rows("INSERT INTO public.hold VALUES ('batch')")
    world.send('insert', numbered('insert', 400, 100))
    pid = tap.wait_for(lambda: world.server.value(HELD), 'a batch is about to be committed')
    tap.same(len(world.ids('insert')), 100, 'killed before the commit: nobody sees the batch')
    kill(world, pid)
    tap.same((len(world.ids('insert')), world.status('insert', '"position"')), (100, [100]),
             'killed before the commit: nothing of it is there, nor is the position')
    world.server.rows('DELETE FROM public.hold')
    run_again(world, 'insert', 'killed before the commit')
    exactly_once(world, 'insert', numbered('insert', 500), 'killed before the commit')


def after_the_commit(world):
    """The batch is committed; nothing else knows of it yet."""
    world.kafka.create_topic('commit', 1)
    world.source('commit')
    world.send('commit', numbered('commit', 100))
    world.caught_up('commit', 'commit: consumed')
    pid = world.worker('commit')
    world.send('commit', numbered('commit', 400, 100))
    tap.wait_for(lambda: world.status('commit', '"position"'), 'a batch is committed', good=lambda p: p[0] > 100)
    kill(world, pid)
    run_again(world, 'commit', 'killed after a commit')
    exactly_once(world, 'commit', numbered('commit', 500), 'killed after a commit')


def making_partitions(world):
    """The maintenance worker has made a partition of the next months, and not committed it."""
    world.kafka.create_topic('months', 1)
    world.source('months')
    world.send('months', numbered('months', 100))
    world.caught_up('months', 'months: consumed')
    before = world.server.value(CHILDREN)
    world.server.rows("INSERT INTO public.hold VALUES ('create')")
    world.server.configure(cdp__clock=world.server.value("SELECT date_trunc('month', now()) + '70 days'"))
    world.server.rows('SELECT pg_reload_conf()')
    kill(world, world.server.pids('cdp maintenance')[0])        # the next one looks at once
    pid = tap.wait_for(lambda: world.server.value(HELD), 'a partition is being made')
    world.send('months', numbered('months', 100, 100))
    kill(world, pid)
    tap.same(world.server.value(CHILDREN), before, 'killed while it made a partition: there is none')
    tap.wait_for(lambda: world.server.value(HELD), 'a partition is being made again')
    world.server.rows('DELETE FROM public.hold')
    tap.wait_for(lambda: world.server.value(CHILDREN), 'the partitions are made', good=lambda n: n >= before + 2)
    run_again(world, 'months', 'killed while it made a partition')
    exactly_once(world, 'months', numbered('months', 200), 'killed while it made a partition')
    tap.same(world.server.rows("""SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
        WHERE i.inhparent = 'cdp_data.event'::regclass AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"""), [],
             'killed while it made a partition: all partitions are whole')


def main():
    """All checks over one server and one broker."""
    world = worlds.World('killed')
    world.server.rows(HOLD)
    worlds.run(world, (before_a_poll, after_the_insert, after_the_commit, making_partitions))


tap.main(main)
