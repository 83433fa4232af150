"""What cdp must compute, written from the specification and sharing nothing with the C code.

A message is decoded (decode), its deliveries become one event (event_of), events present sets of identifiers, and
fold() says who is one person: the literal text of correctness.md R1 and R65 with sets and loops, nothing clever.
World.state() puts it together: identifiers, people with traits and counts, and whose event is whose.
Times are integers, microseconds since 1970.  An identifier is a pair (namespace name, normalised value).
"""
import collections
import dataclasses
import datetime
import re

MINUTE = 60 * 10**6
DAY = 24 * 60 * MINUTE
QUANTUM = 5 * MINUTE
MAX_FUTURE = DAY
CALLS = ('track', 'identify', 'page', 'screen', 'group', 'alias')
# top-level fields of a message that have a column (or whose value does)
COLUMNS = {'type', 'event', 'name', 'messageId', 'userId', 'anonymousId', 'originalTimestamp', 'timestamp', 'sentAt',
           'receivedAt', 'properties', 'traits', 'context'}


@dataclasses.dataclass
class Namespace:
    name: str
    priority: int
    limit: int = None           # values a profile may have
    window: int = None          # microseconds
    degree: int = None          # distinct owners before an identifier is shared
    owner: bool = None          # default: limit 1 without window
    normaliser: tuple = ('trim',)
    blocked: tuple = ()
    valid: str = None
    household: bool = False

    def __post_init__(self):
        if self.owner is None:
            self.owner = self.unique

    @property
    def unique(self):
        return self.limit == 1 and self.window is None

    def normalise(self, value):
        if 'trim' in self.normaliser:
            value = value.strip(' \t\r\n')
        if 'lower' in self.normaliser:
            value = value.lower()
        if 'digits' in self.normaliser:
            plus = value.strip().startswith('+')
            value = ('+' if plus else '') + re.sub('[^0-9]', '', value)
        return value

    def accepts(self, value):
        if not value.strip():
            return False
        for b in self.blocked:
            if b.startswith('re:'):
                if re.fullmatch(b[3:], value):
                    return False
            elif b.startswith('i:'):
                if b[2:].lower() == value.lower():
                    return False
            elif b == value:
                return False
        return self.valid is None or re.fullmatch(self.valid, value) is not None


def strength(namespaces):
    """Sort key: strongest first (R65.2)."""
    return lambda i: (namespaces[i[0]].priority, i[0].encode(), i[1].encode())


# ---------------------------------------------------------------- F(links, decisions)

class Groups:
    """Profiles while they are folded: every identifier points to the set it is in."""

    def __init__(self):
        self.of = {}

    def union(self, idents):
        whole = set(idents).union(*(self.of.get(i, ()) for i in idents))
        for i in whole:
            self.of[i] = whole


def shared_identifiers(namespaces, links):
    """R65.10: more distinct owners than the degree allows, over all presented links, retracted ones included."""
    owners = collections.defaultdict(set)
    for _, members in links:
        for m in members:
            owners[m] |= {o for o in members if o != m and namespaces[o[0]].owner}
    return {m for m, o in owners.items() if namespaces[m[0]].degree and len(o) > namespaces[m[0]].degree}


def alias_classes(links, retracted):
    """Values that alias links make one, transitively: {identifier: representative}."""
    groups = Groups()
    for link in links:
        kind, members = link
        if kind == 'a' and link not in retracted:
            for ns in {m[0] for m in members}:
                groups.union([m for m in members if m[0] == ns])
    return {i: min(g) for i, g in groups.of.items()}


def fold(policy, namespaces, links, alone, retracted=(), apart=(), sticky=()):
    """F for the policies components and demote.

    links: {(kind, members): moment}, moment = (evidence time, message id), members strongest first (calls: id, other);
    kinds: o observed, a alias, i identify call, l alias call.  alone: {identifier: moment}.
    retracted: links; apart: pairs of identifiers; sticky: shared before.
    Returns ({identifier: group number or None if demoted}, {link: identifier its events follow}, warnings, shared).
    """
    key = strength(namespaces)
    shared = shared_identifiers(namespaces, links) | set(sticky)
    one = alias_classes(links, retracted)
    ages = {}
    for i, moment in [*alone.items(), *((m, moment) for (_, ms), moment in links.items() for m in ms)]:
        ages[i] = min(ages.get(i, moment[0]), moment[0])
    steps = [(moment, None, 'o', (i,)) for i, moment in alone.items()]
    for link, moment in links.items():
        if link in retracted:
            steps += [(moment, None, 'o', (m,)) for m in link[1]]
        else:
            steps.append((moment, link, *link))
    steps.sort(key=lambda s: (s[0][0], s[0][1].encode(), len(s[3]), s[2], s[3]))

    groups, follows, warnings, identified, folded = Groups(), {}, [], set(), {}
    order = sorted(namespaces.values(), key=lambda n: (n.priority, n.name.encode()))

    def broken(idents, at):
        whole = set(idents).union(*(groups.of.get(i, ()) for i in idents))
        for ns in order if policy == 'demote' else ():
            if ns.limit is not None:
                values = {one.get(i, i) for i in whole if i[0] == ns.name and (ns.window is None or at - ns.window < ages[i] <= at)}
                if len(values) > ns.limit:
                    return ns.name
        if any(a in whole and b in whole for a, b in apart):
            return 'keep_apart'
        return None

    for moment, link, kind, members in steps:
        if link is not None and kind in 'oa' and members in folded:     # the same set by another kind: no second try
            follows[link] = folded[members]
            continue
        left = [m for m in members if m not in shared]
        refused = None
        if kind in 'il' and len(left) == 2:
            ident, other = left
            theirs = groups.of.get(other, {other})
            if theirs & identified and ident not in theirs:
                refused = other
                warnings.append(('already identified', other, None))
                left = [ident]
        left.sort(key=key)
        while (why := broken(left, moment[0])) is not None:
            strongest = groups.of.get(left[0])
            bad = [m for m in left if m[0] == why or (m in groups.of and groups.of[m] is not strongest)]
            drop = (bad or left)[-1]
            warnings.append(('demoted', drop, why))
            left.remove(drop)
        if left:
            groups.union(left)
        if kind == 'i' and members[0] not in shared:
            identified.add(members[0])
        if link is not None:
            follows[link] = left[0] if left else min(members, key=key)
            if kind in 'oa':
                folded[members] = follows[link]
    for link in retracted:
        if link in links:
            follows[link] = min(link[1], key=key)
    for i in shared:
        groups.of[i] = {i}
    numbers = {}
    profile = {i: numbers.setdefault(id(groups.of[i]), len(numbers)) if i in groups.of else None for i in ages}
    return profile, follows, warnings, shared


# ---------------------------------------------------------------- messages

def micros(text):
    t = datetime.datetime.fromisoformat(text)
    if t.tzinfo is None:
        t = t.replace(tzinfo=datetime.timezone.utc)
    d = t - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (d.days * 86400 + d.seconds) * 10**6 + d.microseconds


def quantum(x):
    """The multiple of five minutes nearest to x, halves away from zero."""
    n = (abs(x) + QUANTUM // 2) // QUANTUM * QUANTUM
    return n if x >= 0 else -n


def times(message, record_time):
    """(original, sent, received, occurred) of one delivery; record_time is None for SQL."""
    field = lambda *names: next((micros(message[n]) for n in names if message.get(n) is not None), None)
    original, sent = field('originalTimestamp', 'timestamp'), field('sentAt')
    received = next(t for t in (field('receivedAt'), record_time, sent, original) if t is not None)
    occurred = received if original is None else original
    if original is not None and sent is not None and sent >= original:
        occurred += quantum(received - sent)
    if occurred > received + MAX_FUTURE:
        occurred = received
    return original, sent, received, occurred


def text_id(value):
    """userId and anonymousId: text, trimmed, blank is absent."""
    if value is None:
        return None
    return (value if isinstance(value, str) else str(value)).strip() or None


def raw_identifiers(m):
    """(namespace name, raw value) pairs that a Segment message presents."""
    context = m.get('context') or {}
    if m['type'] == 'alias':                                        # a link of two user ids, whatever else the call carries
        return [('user_id', text_id(m[k])) for k in ('userId', 'previousId')]
    found = [('user_id', text_id(m.get('userId'))), ('anonymous_id', text_id(m.get('anonymousId')))]
    bags = [context.get('traits') or {}] + ([m.get('traits') or {}] if m['type'] == 'identify' else [])
    found += [(k, bag.get(k)) for bag in bags for k in ('email', 'phone')]
    found += [(x['type'], x['id']) for x in context.get('externalIds') or []]
    device = context.get('device') or {}
    system = (device.get('type') or '').lower()
    if system in ('android', 'ios'):
        found += [(f'{system}.{name}', device.get(k)) for k, name in (('id', 'id'), ('advertisingId', 'idfa'), ('token', 'push_token'))]
    return [(n, v) for n, v in found if v is not None]


@dataclasses.dataclass
class Event:
    message_id: str
    nonce: object               # finds an event whose message had no id
    type: str
    name: object
    user_id: object
    anonymous_id: object
    properties: object
    traits: object
    context: object
    declared: dict              # traits that it gives to its person
    raw: list                   # presented identifiers, raw
    original: object
    sent: object
    received: int
    occurred: int
    nobody: bool = False        # it had two owners before one of them was forgotten

    @property
    def evidence(self):
        return min(self.occurred, self.received)


def event_of(deliveries):
    """The event of one message id: the least delivery defines the times (R25)."""
    message = deliveries[0][0]
    original, sent, received, occurred = min((times(m, r) for m, r in deliveries), key=lambda t: t[2])
    kind, context = message['type'], message.get('context')
    extra = {k: v for k, v in message.items() if k not in COLUMNS}
    if kind == 'track':
        name = message['event']
    elif kind in ('page', 'screen'):
        name = message.get('name') or (message.get('properties') or {}).get('name')
    else:
        name = None
    traits = message.get('traits')
    if kind == 'identify' and traits is None:
        traits = (context or {}).get('traits')
    return Event(message.get('messageId'), (message.get('properties') or {}).get('nonce'), kind, name, text_id(message.get('userId')),
                 text_id(message.get('anonymousId')), message.get('properties'), traits, {**extra, **(context or {})} if extra or context is not None else None,
                 (traits or {}) if kind == 'identify' else {}, raw_identifiers(message), original, sent, received, occurred)


@dataclasses.dataclass
class Person:
    identifiers: frozenset
    events: list
    traits: dict


class World:
    """A workspace's configuration, and the state that a set of deliveries must lead to."""

    def __init__(self, policy, namespaces):
        self.policy, self.namespaces = policy, {n.name: n for n in namespaces}

    def found(self, raw):
        """Identifiers that count."""
        found = set()
        for name, value in raw:
            ns = self.namespaces.get(name)
            if ns and not ns.household:
                value = ns.normalise(value)
                if ns.accepts(value):
                    found.add((name, value))
        return found

    def presented(self, kind, raw):
        """The link (kind, members) of an event of this type; None when it presents nobody."""
        found = self.found(raw)
        alias = kind == 'alias'
        for ns in self.namespaces.values():
            if ns.unique and not (alias and ns.name == 'user_id') and sum(i[0] == ns.name for i in found) > 1:
                return None
        if not found:
            return None
        return ('a' if alias and len(found) > 1 else 'o', tuple(sorted(found, key=strength(self.namespaces))))

    def state(self, deliveries):
        """deliveries: {message key: [(message, record time)]}.  Returns (people, {key: (event, person or None)}, demoted identifiers)."""
        return self.state_of({k: event_of(d) for k, d in deliveries.items()})[:3]

    def links_of(self, events):
        """Evidence of events: (links, alone, {key: anchor})."""
        links, alone, anchors = {}, {}, {}
        for k, e in events.items():
            anchor = anchors[k] = None if e.nobody else self.presented(e.type, e.raw)
            moment = (e.evidence, e.message_id or '')
            if anchor is None:
                continue
            if len(anchor[1]) == 1:
                alone[anchor[1][0]] = min(alone.get(anchor[1][0], moment), moment, key=lambda m: (m[0], m[1].encode()))
            else:
                links[anchor] = min(links.get(anchor, moment), moment, key=lambda m: (m[0], m[1].encode()))
        return links, alone, anchors

    def state_of(self, events, sticky=()):
        """The same from {key: event}; sticky: identifiers that were shared before.  Returns the shared ones, too."""
        links, alone, anchors = self.links_of(events)
        profile, follows, _, shared = fold(self.policy, self.namespaces, links, alone, sticky=set(sticky) & self.presented_by(links, alone))
        people = {}
        for i, p in profile.items():
            if p is not None:
                people.setdefault(p, Person(set(), [], {})).identifiers.add(i)
        owner = {}
        for k, e in events.items():
            anchor = anchors[k]
            who = anchor and profile[anchor[1][0] if len(anchor[1]) == 1 else follows[anchor]]
            owner[k] = (e, None if who is None else people[who])
            if who is not None:
                people[who].events.append(e)
        for p in people.values():
            p.identifiers = frozenset(p.identifiers)
            p.traits = declared_traits(p.events)
        return list(people.values()), owner, {i for i, p in profile.items() if p is None}, shared

    @staticmethod
    def presented_by(links, alone):
        return set(alone) | {m for _, members in links for m in members}

    # ---------------------------------------------------------------- forgetting (R47, R48)

    def forget(self, events, sticky, identifier):
        """Without the person who has the identifier: (events, its tokens, all identifiers that go)."""
        people, owner, demoted, shared = self.state_of(events, sticky)
        person = next(p for p in people if identifier in p.identifiers)
        living = {i for p in people for i in p.identifiers} - shared
        whose = lambda who: {i for k, e in events.items() if owner[k][1] and who(owner[k][1]) for i in self.found(e.raw)}
        mine, others = whose(lambda p: p is person), whose(lambda p: p is not person and p.identifiers & living)
        company = (mine - others) - living
        tokens = set(person.identifiers) | (company & demoted)
        gone = tokens | (company & shared)
        left = {}
        for k, e in events.items():
            if owner[k][1] is person:
                continue
            claimed = sorted(self.found(e.raw), key=strength(self.namespaces))
            two = self.presented(e.type, e.raw) is None
            if two or e.nobody:
                left[k] = self.strip(e, tokens, nobody=True)
            elif not gone & set(claimed):
                left[k] = e
            elif claimed[0] not in gone:
                left[k] = self.strip(e, gone)
        return left, tokens, gone

    def admit(self, e, tokens):
        """An event that is older than the forgetting of these: None, or without them."""
        claimed = sorted(self.found(e.raw), key=strength(self.namespaces))
        if not tokens & set(claimed):
            return e
        if claimed[0] in tokens:
            return None
        return self.strip(e, tokens & set(claimed), nobody=self.presented(e.type, e.raw) is None)

    def is_one_of(self, idents, value):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return False
        return any(i in idents for i in ((n.name, n.normalise(str(value))) for n in self.namespaces.values()))

    def strip(self, e, idents, nobody=False):
        """The event without these identifiers: their fields, and where they stand for themselves."""
        def telling(value):
            text = str(value)
            return len(text.encode()) >= (9 if set(text) <= set('0123456789.+-') else 6)

        def without(value, named):
            if isinstance(value, dict):
                return {k: without(v, names_identifier(k)) for k, v in value.items()
                        if not (telling(k) and self.is_one_of(idents, k)) and not scalar(v, names_identifier(k))}
            if isinstance(value, list):
                return [without(v, named) for v in value if not scalar(v, named)]
            return value

        def scalar(value, named):
            return not isinstance(value, (dict, list)) and (named or telling(value)) and self.is_one_of(idents, value)

        of_two_owners = e.nobody or (nobody and self.found(e.raw))     # searched whatever it presents
        if not of_two_owners and not any(i in idents for i in self.found(e.raw)):
            return e
        field = lambda v: None if v is not None and self.is_one_of(idents, v) else v
        traits = without(e.traits, False)
        return dataclasses.replace(e, user_id=field(e.user_id), anonymous_id=field(e.anonymous_id), properties=without(e.properties, False), traits=traits,
                                   context=without(e.context, False), declared=(traits or {}) if e.type == 'identify' else {}, nobody=e.nobody or nobody,
                                   raw=[r for r in e.raw if not self.found([r]) & idents])


def names_identifier(key):
    return key in ('id', 'userid') or key.endswith(('Id', 'ID', 'Ids', '_id', '-id', '.id', '_ids', 'mail', 'phone', 'Phone', 'token', 'Token'))


def declared_traits(events):
    """R32: the newest value of each key by (evidence time, occurred_at, message id); null removes."""
    best = {}
    for e in events:
        order = (e.evidence, e.occurred, (e.message_id or '').encode())
        for k, v in e.declared.items():
            if k not in best or best[k][0] < order:
                best[k] = (order, v)
    return {k: v for k, (_, v) in best.items() if v is not None}


# ---------------------------------------------------------------- purging (R27, R31)

class Purged:
    """A workspace some of whose events were purged: what they said of who is who, and of traits, stays."""

    def __init__(self, world, events):
        self.world, self.live, self.watermark = world, dict(events), None
        self.gone = {}              # {(n, key): (event, identifiers of whose it was, or None)}

    def everything(self):
        return {**{k: e for k, (e, _) in self.gone.items()}, **self.live}

    def purge(self, watermark):
        """Raise the watermark; how many events went."""
        self.watermark = watermark if self.watermark is None else max(self.watermark, watermark)
        owner = self.world.state_of(self.everything())[1]
        went = [k for k, e in self.live.items() if e.occurred < self.watermark]
        for k in went:
            person = owner[k][1]
            self.gone[len(self.gone), k] = (self.live.pop(k), person and person.identifiers)
        return len(went)

    def deliver(self, coming, events_of):
        """Deliveries below the watermark are refused; others belong to an event that is stored, or are a new one."""
        taken = [d for d in coming if times(d.message, d.record_time)[3] >= self.watermark]
        stored = set(self.live)
        for k, e in events_of(taken).items():
            self.live[k] = min((self.live[k], e), key=lambda x: x.received) if k in stored else e

    def state(self):
        """As World.state(), of the events that are stored; traits are None where those of purged events may lie with somebody else."""
        people, owner, demoted, _ = self.world.state_of(self.everything())
        unsure = set()
        for k, (_, whose) in self.gone.items():
            if whose and not whose <= owner[k][1].identifiers:
                unsure |= whose | owner[k][1].identifiers
        for p in people:
            p.events = [e for e in p.events if any(e is live for live in self.live.values())]
            if p.identifiers & unsure:
                p.traits = None
        return people, {k: owner[k] for k in self.live}, demoted
