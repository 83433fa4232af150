"""F(links, decisions) by brute force: who is one person, one link at a time.

Written from R1 to R6, R11 and R65 of the correctness rules, with sets and loops; shares nothing with the C code.  It folds
everything in order and never asks whether that was needed, so it also checks that uncontested components need no order.

    profiles, attributed, warnings = fold(policy, namespaces, links, singles, retracted, keep_apart)

An identifier is a pair (namespace name, normalised value); household identifiers do not get here.  Times are integers.
"""
import collections
import dataclasses

MAX_LINKS = 2000                # of a contested component; beyond it hubs are shared, then it is held (R1)


@dataclasses.dataclass(frozen=True)
class Namespace:
    """Rules of a namespace; None: no limit, no window, no guard."""
    priority: int
    limit: int = None
    window: int = None
    degree: int = None
    owner: bool = False


@dataclasses.dataclass(frozen=True)
class Link:
    """A presented set of two or more; kind o observed, a alias, i identify call, l alias call; members of a call: id, other."""
    id: int
    kind: str
    members: tuple
    at: int
    message: str = ''


class _Fold:
    def __init__(self, policy, namespaces, links, singles, retracted, keep_apart, hashes, sticky, max_links):
        self.policy = policy
        self.namespaces = namespaces
        self.links = links
        self.singles = singles
        self.retracted = set(retracted)
        self.aliases = [link for link in links if link.kind == 'a']
        self.apart = [frozenset(pair) for pair in keep_apart]
        self.hashes = hashes or {}
        self.max_links = max_links
        self.idents = {m for link in links for m in link.members} | set(singles)
        self.age = self.ages()
        self.sticky = set(sticky) | {i for i in self.idents if self.degree_trips(i)}
        self.shared = set(self.sticky)
        self.profile = {}               # identifier: the set that is its profile
        self.identified = []            # one identifier of each profile that identify named
        self.attributed = {}
        self.warnings = []

    # ---- what follows from the links alone

    def strength(self, ident):
        return self.namespaces[ident[0]].priority, ident[0].encode(), ident[1].encode()

    def ages(self):
        """R65.8: the least time of all that presents it."""
        age = {}
        for link in self.links:
            for m in link.members:
                age[m] = min(age.get(m, link.at), link.at)
        for i, (at, _) in self.singles.items():
            age[i] = min(age.get(i, at), at)
        return age

    def owners(self, ident):
        """R65.10: all links count."""
        return {m for link in self.links if ident in link.members for m in link.members
                if m != ident and self.namespaces[m[0]].owner}

    def degree_trips(self, ident):
        degree = self.namespaces[ident[0]].degree
        return degree is not None and len(self.owners(ident)) > degree

    def left(self, link):
        """The members that are not shared, strongest first."""
        return sorted((m for m in link.members if m not in self.shared), key=self.strength)

    def components(self):
        """Of the identifiers that are not shared, over the links that are not retracted."""
        neighbours = {i: {i} for i in self.idents - self.shared}
        for link in self.links:
            if link.id not in self.retracted:
                for a in self.left(link):
                    neighbours[a].update(self.left(link))
        seen, result = set(), []
        for start in neighbours:
            if start not in seen:
                component, todo = set(), [start]
                while todo:
                    i = todo.pop()
                    if i not in component:
                        component.add(i)
                        todo += neighbours[i]
                seen |= component
                result.append(component)
        return result

    def same_person(self, ident):
        """The values that alias links make one with this one; its least stands for them."""
        values, todo = set(), [ident]
        while todo:
            i = todo.pop()
            if i not in values:
                values.add(i)
                todo += [m for link in self.aliases if link.id not in self.retracted and i in self.left(link)
                         for m in self.left(link) if m[0] == i[0]]
        return min(values)

    # ---- limits

    def broken(self, whole, at):
        """The first thing that a set breaks at a time: a namespace, 'keep_apart', or None.  at None: at any time."""
        if self.policy == 'demote':
            for name in sorted(self.namespaces, key=lambda n: (self.namespaces[n].priority, n.encode())):
                ns = self.namespaces[name]
                values = [i for i in whole if i[0] == name]
                if ns.limit is None:
                    continue
                ends = [at] if at is not None else [self.age[i] for i in values]
                for end in ends if ns.window is not None else [None]:
                    counted = {self.same_person(i) for i in values
                               if end is None or end - ns.window < self.age[i] <= end}
                    if len(counted) > ns.limit:
                        return name
        if any(pair <= whole and len(pair) == 2 for pair in self.apart):
            return 'keep_apart'
        return None

    def contested(self, component):
        return self.broken(component, None) is not None or any(
            link.kind in 'il' and link.id not in self.retracted and set(link.members) & component for link in self.links)

    def beyond_bound(self):
        """Contested components of too many links."""
        return [c for c in self.components() if self.contested(c) and self.max_links < len(
            [1 for link in self.links if link.id not in self.retracted and set(self.left(link)) & c])]

    # ---- the fold

    def whole(self, ident):
        return self.profile.get(ident, {ident})

    def join(self, idents, at):
        """Join a set, strongest first, but for members that are in the way (R65.4)."""
        idents = list(idents)
        while True:
            name = self.broken(set().union(*map(self.whole, idents)), at)
            if name is None:
                break
            strongest = self.profile.get(idents[0])
            offending = [i for i in idents if i[0] == name or (i in self.profile and self.profile[i] is not strongest)]
            out = (offending or idents)[-1]
            self.warnings.append(('demoted', out, name))
            idents.remove(out)
        union = set().union(*map(self.whole, idents))
        for i in union:
            self.profile[i] = union

    def fold_call(self, link):
        ident, other = link.members
        members = self.left(link)
        if len(members) == 2 and ident not in self.whole(other) and any(i in self.whole(other) for i in self.identified):
            self.warnings.append(('already identified', other, None))
            self.attributed[link.id] = ident
            members = [ident]
        self.join(members, link.at)
        if link.kind == 'i' and ident not in self.shared:
            self.identified.append(ident)

    def steps(self):
        """What is folded, in order: (moment, id), members, link."""
        for ident, (at, message) in self.singles.items():
            yield (at, message.encode(), self.hashes.get(ident, 0)), [ident], None
        for link in self.links:
            moment = (link.at, link.message.encode(), link.id)
            if link.id in self.retracted:
                for m in link.members:
                    yield moment, [m], None
            else:
                yield moment, self.left(link), link

    def run(self):
        too_big = self.beyond_bound()
        self.shared |= {i for c in too_big for i in c if not self.namespaces[i[0]].owner and len(self.owners(i)) > 1}
        held = self.beyond_bound() if too_big else []
        for component in held:
            self.warnings.append(('held', min(component, key=self.strength), None))
        for link in self.links:
            members = self.left(link) if link.id not in self.retracted else []
            self.attributed[link.id] = min(members or link.members, key=self.strength)

        sets = set()
        for moment, members, link in sorted(self.steps(), key=lambda s: s[0]):
            members = [m for m in members if m not in self.shared]
            if not members:
                continue
            if any(members[0] in c for c in held):
                for m in members:
                    self.profile[m] = {m}
            elif link is not None and link.kind in 'il':
                self.fold_call(link)
            elif link is None or link.members not in sets:
                self.join(members, moment[0])
                if link is not None:
                    sets.add(link.members)
        for i in self.shared & self.idents:
            self.profile[i] = {i}


def fold(policy, namespaces, links, singles, retracted=(), keep_apart=(), hashes=None, sticky=(), max_links=MAX_LINKS):
    """F for the policies components and demote.

    namespaces: {name: Namespace}; links: [Link], each member list strongest first but for calls; singles: {identifier: (least time,
    message id) of the events that presented it alone}; retracted: link ids; keep_apart: pairs of identifiers; hashes: {identifier:
    id} for ties of single events; sticky: identifiers that were decided to be shared.
    Returns {identifier: number of its profile, None if demoted}, {link id: identifier whose profile its events belong to},
    [(kind, identifier, namespace that broke, 'keep_apart' or None)].
    """
    f = _Fold(policy, namespaces, links, singles, retracted, keep_apart, hashes, sticky, max_links)
    f.run()
    numbers = {}
    profiles = {i: numbers.setdefault(id(f.profile[i]), len(numbers)) if i in f.profile else None for i in sorted(f.idents)}
    return profiles, f.attributed, f.warnings


def guards(policy, namespaces, links, singles, retracted=(), keep_apart=(), sticky=(), max_links=MAX_LINKS):
    """The identifiers that are shared; those of them that stay so (by degree, or decided); is any component contested?"""
    f = _Fold(policy, namespaces, links, singles, retracted, keep_apart, None, sticky, max_links)
    contested = any(f.contested(c) for c in f.components())
    f.run()
    return f.shared & f.idents, f.sticky & f.idents, contested


def partition(profiles):
    """The sets of identifiers, without the demoted, as a set of frozensets."""
    groups = collections.defaultdict(set)
    for ident, number in profiles.items():
        if number is not None:
            groups[number].add(ident)
    return {frozenset(g) for g in groups.values()}
