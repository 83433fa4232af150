"""Random Segment messages that quarrel: shared devices and e-mails, several customer numbers per device, aliases, late and
out-of-order events, retries with other sentAt and receivedAt, ties of time, nulls, blocked values, poison.

Case(seed) is one case: a policy, namespaces, the deliveries and, per delivery, the channel that it takes.
"""
import datetime
import json

from oracle_model import DAY, MINUTE, Namespace, times

SECOND = 10**6
START = 1_772_323_200 * SECOND  # 2026-03-01
BLOCKED = ('re:[0-]*', '-1', 'i:null', 'i:anonymous', 'i:undefined')
TRAIT_KEYS = ('plan', 'city', 'score', 'tags', 'address', 'ünï', 'email')
POISON = (('invalid_json', b'{"type":"track","messageId":"p-1"'),
          ('invalid_json', b'{"type":"track"}}'),
          ('not_an_object', b'"x"'),
          ('unknown_type', b'{"type":"telepathy","userId":"px","messageId":"p-2"}'),
          ('lone_surrogate', b'{"type":"track","userId":"px","event":"x","messageId":"p-3","properties":{"a":"\\ud800"}}'),
          ('nul_character', b'{"type":"track","userId":"px","event":"x","messageId":"p-4","properties":{"a":"b\\u0000"}}'),
          ('invalid_time', b'{"type":"track","userId":"px","event":"x","messageId":"p-5","originalTimestamp":"yesterday"}'),
          ('no_identifier', b'{"type":"track","event":"nobody","messageId":"p-6","originalTimestamp":"2026-03-01T00:00:00Z"}'),
          ('missing_field', b'{"type":"track","userId":"px","event":" ","messageId":"p-7"}'),
          ('too_deep', b'{"type":"track","userId":"px","event":"x","messageId":"p-8","properties":' + b'[' * 200 + b']' * 200 + b'}'))


def iso(us, rng):
    """ISO 8601 of microseconds since 1970, in one of the spellings that producers use."""
    t = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)
    fraction = '.%06d' % t.microsecond if t.microsecond % 1000 or rng.random() < 0.2 else '.%03d' % (t.microsecond // 1000)
    if rng.random() < 0.15:
        return (t + datetime.timedelta(hours=2)).strftime('%Y-%m-%dT%H:%M:%S') + fraction + '+02:00'
    return t.strftime('%Y-%m-%dT%H:%M:%S') + fraction + 'Z'


class Delivery:
    """One message on its way: key names its event, record_time is set for Kafka."""

    def __init__(self, key, message, record_time=None):
        self.key, self.message, self.record_time = key, message, record_time

    def bytes(self, rng):
        separators = (',', ':') if rng.random() < 0.7 else (' , ', ' : ')
        return json.dumps(self.message, ensure_ascii=rng.random() < 0.5, separators=separators).encode()


class Case:
    def __init__(self, rng, size, kafka):
        self.rng, self.kafka = rng, kafka
        self.policy = 'demote' if rng.random() < 0.85 else 'components'
        self.namespaces = self._namespaces()
        people = rng.randrange(2, max(3, size // 12) + 2)
        self.users = [f'u{i}' for i in range(people)] + ['7', 'Ünal', 'null', '000']
        self.anons = [f'a{i}' for i in range(rng.randrange(2, 2 * people + 2))] + ['-1']
        self.emails = [f'p{i}@x.nl' for i in range(rng.randrange(1, people + 2))] + ['not-an-email']
        self.phones = [f'+3161234567{i}' for i in range(rng.randrange(1, 4))]
        self.loyalty = [f'L{i}' for i in range(rng.randrange(1, 4))]
        self.instants = [self._instant() for _ in range(rng.choice((3, size, size)))]
        self.messages = [self._message(n) for n in range(size)]
        self.deliveries = [d for n, m in enumerate(self.messages) for d in self._deliveries(n, m)]
        rng.shuffle(self.deliveries)
        self.poison = [rng.choice(POISON) for _ in range(rng.choice((0, 0, 2, 5)))]

    def _namespaces(self):
        r = self.rng
        limit = lambda *choices: r.choice(choices)
        window = lambda: r.choice((None, None, None, DAY, 7 * DAY))
        email, anon = limit(1, 2, 3, 5, None), limit(1, 2, 3, None, None)
        spaces = [
            dict(name='user_id', limit=limit(1, 1, 1, 2, None)),
            dict(name='email', limit=email, window=email and window(), normaliser=('trim', 'lower'), valid=r.choice((None, '[^@]+@[^@]+'))),
            dict(name='phone', limit=limit(1, 2, None), normaliser=('digits',)),
            dict(name='anonymous_id', limit=anon, window=anon and window(), degree=limit(None, None, None, 2)),
            dict(name='loyalty', limit=limit(1, None)),
            dict(name='android.id', limit=limit(2, None)),
        ]
        order = list(range(1, len(spaces) + 1))
        if r.random() < 0.3:
            r.shuffle(order)
        if r.random() < 0.2:
            order = [min(p, 3) for p in order]                      # equal priorities: the name decides
        owners = r.choice((None, None, 'email'))
        return [Namespace(priority=p, blocked=BLOCKED, owner=True if s['name'] == owners else None, **s) for p, s in zip(order, spaces)]

    def _instant(self):
        r = self.rng
        at = START + r.randrange(0, 40 * DAY)
        if r.random() < 0.05:
            at += r.choice((-3650, -400, 400)) * DAY
        return at // 1000 * 1000 if r.random() < 0.7 else at

    def _value(self):
        r = self.rng
        return r.choice([None, None, True, 'x', 'Zürich', '😀 "q" \\ /', r.randrange(1000), -r.randrange(10**12), [1, {'a': None}], {'zip': r.randrange(9), 'street': 'A'}, '', 'long' * r.choice((1, 600))])

    def _ident(self, pool):
        """Popular values first, so that people meet."""
        r = self.rng
        return pool[min(int(r.expovariate(0.5)), len(pool) - 1)] if r.random() < 0.4 else r.choice(pool)

    def _identifiers(self, m):
        r, context = self.rng, {}
        if r.random() < 0.5:
            user = self._ident(self.users)
            m['userId'] = r.choice((user, user, f' {user} ')) if user != '7' else r.choice(('7', 7))
        if 'userId' not in m or r.random() < 0.7:
            m['anonymousId'] = self._ident(self.anons)
        if r.random() < 0.1:
            context['traits'] = {'email': r.choice((str.upper, str))(self._ident(self.emails))}
        if r.random() < 0.1:
            kind, pool = r.choice((('loyalty', self.loyalty), ('loyalty', self.loyalty), ('user_id', self.users), ('undeclared', self.loyalty)))
            context['externalIds'] = [{'type': kind, 'id': self._ident(pool), 'collection': 'users', 'encoding': 'none'}]
        if r.random() < 0.05:
            context['device'] = {'id': f'droid{r.randrange(3)}', 'type': r.choice(('android', 'Android', 'fridge'))}
        if r.random() < 0.3:
            context['page'] = {'path': f'/p/{r.randrange(9)}', 'title': 'Ünï'}
        if context or r.random() < 0.2:
            m['context'] = context

    def _message(self, n):
        r = self.rng
        aliases = 0 if any(s.degree for s in self.namespaces) else 9    # whether aliased owners are one for the degree, nobody says
        kind = r.choices(('track', 'identify', 'page', 'screen', 'group', 'alias'), (40, 35, 8, 4, 4, aliases))[0]
        m = {'type': kind}
        if n % 25 or kind != 'track':
            m['messageId'] = r.choice((f'm{n}', f'm{n}', f'É{n}'))
        self._identifiers(m)
        if kind == 'track':
            m['event'] = r.choice(('Order Completed', 'Viewed', 'Ünï'))
            m['properties'] = {'nonce': n, 'price': r.randrange(10000) / 100, 'x': self._value()}
        elif kind in ('page', 'screen'):
            m.update(r.choice(({'name': 'Home'}, {'name': 'Home', 'category': 'c'}, {'properties': {'name': 'Inner'}}, {})))
        elif kind == 'group':
            m['groupId'], m['traits'] = f'g{r.randrange(3)}', {'plan': 'group', 'email': 'group@x.nl'}
        elif kind == 'alias':
            m['userId'], m['previousId'] = self._ident(self.users[:-2]), self._ident(self.users)
        else:
            traits = {k: self._value() for k in r.sample(TRAIT_KEYS[:-1], r.randrange(0, 4))}
            if r.random() < 0.4:
                traits['email'] = self._ident(self.emails)
            if r.random() < 0.2:
                traits['phone'] = r.choice((str, lambda p: f'{p[:3]} {p[3]} {p[4:]}'))(self._ident(self.phones))
            if 'context' in m and r.random() < 0.3:
                m['context']['traits'] = traits                     # RudderStack's place
            elif traits or r.random() < 0.5:
                m['traits'] = traits
        return m

    def _stamps(self, n, message):
        """Time stamps that all deliveries of a message share."""
        r = self.rng
        at = r.choice(self.instants)
        if 'messageId' not in message:                              # its id is random: it must not decide a tie
            at = START + 90 * DAY + n * (SECOND + 1)
        if r.random() < 0.95:
            message[r.choice(('originalTimestamp', 'timestamp'))] = iso(at, r)
        return at

    def _deliveries(self, n, message):
        r = self.rng
        at = self._stamps(n, message)
        timed = 'originalTimestamp' in message or 'timestamp' in message
        delay = r.choice((40_000, 40_000, SECOND, 3 * MINUTE, 7 * MINUTE, 5 * DAY, -2 * MINUTE, -3 * DAY))
        copies = 1 if 'messageId' not in message else r.choice((1, 1, 1, 1, 1, 2, 3))
        taken = set()                                               # two deliveries of one instant: the partition would decide
        for _ in range(copies):
            m, record_time = dict(message), None
            received = at + delay
            if r.random() < 0.85:
                m['sentAt'] = iso(at + r.choice((20_000, 20_000, -SECOND, 11 * MINUTE)), r)
            if self.kafka and r.random() < 0.5 and 'messageId' in message:
                record_time = (received + r.randrange(0, 3000) * 1000) // 1000 * 1000
            if record_time is None and not timed and 'sentAt' not in m or r.random() < 0.85:
                m['receivedAt'] = iso(received, r)
            delay += r.choice((-1, 1)) * r.choice((1000, SECOND, 6 * MINUTE, DAY)) * r.randrange(1, 5)
            arrived = times(m, record_time)[2]
            if arrived in taken:
                continue
            taken.add(arrived)
            yield Delivery(n, m, record_time)
            if r.random() < 0.2 and 'messageId' in message:
                yield Delivery(n, m, record_time)                   # the very same again
