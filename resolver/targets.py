"""The names that were blocked, each asked when somebody asks for it, and what they came to.

Rules:
1. Every address is proposed as soon as its reply is in, for all who wait; who comes later is told what is known.
2. A name is asked again once what was learnt last has run out, if somebody asks for it then, and never more often than
   every REST seconds.
3. A reply may lead to names to ask next, once: where a service is, and the name servers a domain has of its own; those
   of others serve others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from core import rr
from core.names import is_under, to_text
from egress.rulings import Scope
from resolver.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name
    from resolver.blamed import Blamed, Case
    from resolver.given import Given
    from resolver.proposing import Proposer
    from resolver.truth import Truth
    from resolver.upstream import Upstream

REST: Final = 30.0  # seconds before the same name is asked again, whatever its TTL
LONGEST: Final = 1_800.0  # seconds after which it is asked again, whatever its TTL
EMPTY: Final = 60.0  # seconds a name without any address rests
MAX_TARGETS: Final = 20_000  # names
MAX_CASES: Final = 64  # clients that wait for one name
MAX_HELD: Final = 64  # addresses held of one name
_HOST: Final = (rr.A, rr.AAAA, rr.HTTPS)
_ADDRESS: Final = (rr.A, rr.AAAA)


class Target:
    """A name that is asked, who waits for it, and what it came to. Times are Unix seconds."""

    __slots__ = ("addresses", "cases", "everybody", "expires", "pending", "told")

    def __init__(self) -> None:
        self.expires = 0.0  # what was learnt is good until then
        self.pending = 0  # questions under way
        self.everybody = False  # all that was learnt is blocked for all
        self.addresses: dict[bytes, tuple[float, str]] = {}  # each with its end and the evidence
        self.cases: dict[tuple[bytes, Name], Case] = {}  # who waits
        self.told: set[tuple[bytes, Name]] = set()  # for whom this was proposed since it was learnt

    @property
    def for_all(self) -> bool:
        """True when nothing is to be done for anybody until it expires."""
        return self.everybody and not self.pending


class Targets:
    """Everything that is asked of `engine`, None for nobody; the rest is what clients were `given`."""

    def __init__(
        self, proposer: Proposer, given: Given, clock: Callable[[], float], *, engine: Upstream | None = None
    ) -> None:
        self.learnt = 0
        self.lookups = Lookups(engine, self._arrived)
        self._proposer = proposer
        self._given = given
        self._clock = clock
        self._targets: OrderedDict[tuple[Name, bool, bool], Target] = OrderedDict()
        self._awaiting: dict[tuple[Name, int], list[tuple[Target, Name]]] = {}

    def __len__(self) -> int:
        """Names held."""
        return len(self._targets)

    def take(self, blamed: Blamed, now: float) -> tuple[float, bool]:
        """Do what a block calls for; returns until when the same block calls for nothing, and if anybody's does so."""
        if self.lookups.full and (blamed.name, blamed.servers, blamed.host) not in self._targets:
            self.lookups.dropped += 1
            return now + REST, False
        target, case = self._target(blamed, now), blamed.case
        if target.pending or now >= target.expires:
            if len(target.cases) < MAX_CASES:
                target.cases[case.client, case.domain] = case
            if not target.pending:
                self._ask(target, blamed, now)
            return now + REST, False
        if not target.everybody and (case.client, case.domain) not in target.told:
            self._propose_held(target, case, now)
        return target.expires, target.for_all

    def clear(self) -> None:
        """Forget what was learnt; who is asked for is still learnt."""
        self._targets.clear()

    def _target(self, blamed: Blamed, now: float) -> Target:
        key = (blamed.name, blamed.servers, blamed.host)
        target = self._targets.get(key)
        if target is None:
            target = self._targets[key] = Target()
            until, given = self._given.last(blamed.name)
            evidence = f"{to_text(blamed.name)}, as a client was told before"
            target.addresses = {address: (max(until, now), evidence) for address in given[:MAX_HELD]}
            if len(self._targets) > MAX_TARGETS:
                self._targets.popitem(last=False)
        return target

    def _ask(self, target: Target, blamed: Blamed, now: float) -> None:
        """Propose what is known already and ask for the rest."""
        target.told.clear()
        target.everybody = True
        target.expires = now + LONGEST
        for case in target.cases.values():
            self._propose_held(target, case, now)
        for rtype in (*(_HOST if blamed.host else ()), *((rr.NS,) if blamed.servers else ())):
            self._question(target, blamed.name, rtype, domain=blamed.name)
        if not target.pending:
            self._settle(target, now)

    def _question(self, target: Target, name: Name, rtype: int, *, domain: Name = b"") -> None:
        """Put a question whose answer is a target's; one with a `domain` may lead to others."""
        waiting = self._awaiting.get((name, rtype))
        if waiting is None:
            if not self.lookups.ask(name, rtype):
                return
            waiting = self._awaiting[name, rtype] = []
        waiting.append((target, domain))
        target.pending += 1

    def _arrived(self, name: Name, rtype: int, truth: Truth | None) -> None:
        now = self._clock()
        for target, domain in self._awaiting.pop((name, rtype), ()):
            target.pending -= 1
            if truth is not None:
                self._take_in(target, name, rtype, truth, now)
                self._ask_next(target, rtype, truth, domain)
            if not target.pending:
                self._settle(target, now)
        self._proposer.flush(now)
        self.lookups.pump(now)

    def _take_in(self, target: Target, name: Name, rtype: int, truth: Truth, now: float) -> None:
        """Propose what a reply named, for all who wait."""
        evidence = f"{to_text(name)} {rr.type_text(rtype)}"
        end = now + max(truth.ttl, REST)
        for address in truth.addresses:
            self.learnt += 1
            if address in target.addresses or len(target.addresses) < MAX_HELD:
                target.addresses[address] = end, evidence
            scopes = [
                self._proposer.propose(case, address, truth.ttl, evidence, now=now) for case in target.cases.values()
            ]
            target.everybody &= Scope.ADDRESS in scopes
        if truth.addresses:
            target.expires = min(target.expires, end)

    def _ask_next(self, target: Target, rtype: int, truth: Truth, domain: Name) -> None:
        for other in truth.targets if domain else ():
            if rtype != rr.NS or is_under(other, domain):
                for kind in _ADDRESS:
                    self._question(target, other, kind)

    def _settle(self, target: Target, now: float) -> None:
        """All answers are in and who waited was told: what ran out is forgotten."""
        target.told.update(target.cases)
        target.cases.clear()
        target.addresses = {address: held for address, held in target.addresses.items() if held[0] > now}
        if not target.addresses:
            target.expires = min(target.expires, now + EMPTY)

    def _propose_held(self, target: Target, case: Case, now: float) -> None:
        target.told.add((case.client, case.domain))
        for address, (end, evidence) in target.addresses.items():
            if end >= now:
                scope = self._proposer.propose(case, address, end - now, evidence, now=now)
                target.everybody &= scope is Scope.ADDRESS
