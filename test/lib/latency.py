"""How long it takes from produced to visible, at the pace of a quiet shop."""
import time

import segment

EVENTS_PER_SECOND = 20


def measure(server, producer, topic, events, prefix='quiet', dbname='cdp'):
    """Produce events one by one, each of a new person, and look that person up until it is there; milliseconds, sorted."""
    taken = []
    with server.connect(dbname) as connection:
        due = time.monotonic()
        for n in range(events):
            due += 1 / EVENTS_PER_SECOND
            time.sleep(max(0, due - time.monotonic()))      # the pace that is measured, not a wait
            who = f'{prefix}-{n}'
            began = time.monotonic()
            producer.send(topic, segment.encode(segment.track(who, userId=who)))
            producer.client.poll(0)
            while not connection.execute("SELECT cdp.find_profile('user_id', %s)", [who], prepare=True).fetchone()[0]:
                if time.monotonic() - began > 30:
                    raise TimeoutError(f'event {n} is not visible after 30 s')
            taken.append((time.monotonic() - began) * 1000)
    return sorted(taken)


def percentile(values, p):
    """The value below which p percent of the sorted values lie."""
    return values[min(len(values) - 1, int(len(values) * p / 100))]
