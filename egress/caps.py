"""The brakes beside a firewall: what a guard let pass is admitted, or refused because it is too much or unwanted.

Rules, the first that applies decides:
1. What is no address is refused. While the panic switch is on nothing is admitted.
2. What a person released, by address or by a domain with all below it, is not blocked again until then.
3. Reserved networks and the host's own are never blocked, whatever a resolver says.
4. There are so many destinations in all, addresses of one domain, and new destinations a minute; what is blocked
   already counts as none, so that a refresh is never refused by a cap.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from core.names import Name, suffixes, to_text
from egress.plan import ANY, Destination
from egress.ranges import unmapped
from egress.reserved import Carriers
from egress.rulings import Rule, Ruling, cleared, refused, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.config import Egress
    from egress.plan import Ledger, Proposal
    from egress.ranges import Ranges

MAX_RELEASED: Final = 10_000
MINUTE: Final = 60.0  # seconds


class Switches(msgspec.Struct, frozen=True):
    """What people told the brakes, to be written down and taken up again."""

    panic: bool = False
    addresses: tuple[tuple[bytes, float], ...] = ()  # released until, Unix seconds
    domains: tuple[tuple[Name, float], ...] = ()


class Caps:
    """The judge beside a firewall. `never`: what `egress.reserved.reserved` gives for the host's own networks."""

    def __init__(self, settings: Egress, never: Ranges, carriers: Carriers | None = None) -> None:
        self.settings = settings
        self.never = never
        self.carriers = carriers or Carriers()
        self.panic = False
        self._addresses: OrderedDict[bytes, float] = OrderedDict()
        self._domains: OrderedDict[Name, float] = OrderedDict()
        self._recent: OrderedDict[Destination, float] = OrderedDict()  # new ones of the last minute, at most the cap

    def admit(self, proposals: Iterable[Proposal], ledger: Ledger, *, now: float) -> list[Ruling]:
        """Return a ruling on each proposal, in order, as if those before it were in the ledger already.

        Put those that pass into the ledger, or others may pass in their place.
        """
        batch = _Batch(ledger)
        rulings = []
        for proposal in proposals:
            ruling = self._admit(proposal, batch, now)
            if ruling.passes:
                batch.take(ruling.proposal)
            rulings.append(ruling)
        return rulings

    def forbids(self, proposal: Proposal, *, now: float) -> Ruling | None:
        """Return the refusal of what may not be blocked whatever the caps, None when there is none.

        What is in the ledger is to be asked about too: settings and releases change.
        """
        try:
            faces = self.carriers.faces(proposal.address)
            client = unmapped(proposal.client) if proposal.client else ANY
        except ValueError as fault:
            return refused(proposal, Rule.MALFORMED, str(fault))
        if client and len(client) != len(faces[0]):
            return refused(proposal, Rule.MALFORMED, f"{text(client)} and {text(faces[0])} are of two families")
        return self._released(faces, proposal, now) or self._reserved(faces, proposal)

    def release(self, *, until: float, address: bytes = b"", domain: Name = b"") -> None:
        """Neither the address nor the domain, one of both being empty, is blocked before that time, in Unix seconds.

        Raises ValueError for what is no packed address.
        """
        if address:
            _keep(self._addresses, unmapped(address), until)
        if domain:
            _keep(self._domains, domain, until)

    def dump(self) -> Switches:
        """Return all there is to keep over a restart."""
        return Switches(self.panic, tuple(self._addresses.items()), tuple(self._domains.items()))

    def load(self, kept: Switches) -> None:
        """Take up what `dump` returned, in place of what was here."""
        self.panic = kept.panic
        self._addresses = OrderedDict(kept.addresses[-MAX_RELEASED:])
        self._domains = OrderedDict(kept.domains[-MAX_RELEASED:])

    def _admit(self, proposal: Proposal, batch: _Batch, now: float) -> Ruling:
        if self.panic:
            return refused(proposal, Rule.PANIC, "the panic switch is on")
        if (refusal := self.forbids(proposal, now=now)) is not None:
            return refusal
        client = unmapped(proposal.client) if proposal.client else ANY
        proposal = msgspec.structs.replace(proposal, address=unmapped(proposal.address), client=client)
        return self._over(proposal, batch, now) or cleared(proposal, pair=bool(client))

    def _released(self, faces: tuple[bytes, ...], proposal: Proposal, now: float) -> Ruling | None:
        for face in faces:
            if self._addresses.get(face, 0.0) > now:
                return refused(proposal, Rule.RELEASED, f"{text(face)} was released")
        for name in suffixes(proposal.domain):
            if self._domains.get(name, 0.0) > now:
                return refused(proposal, Rule.RELEASED, f"{to_text(name)} was released")
        return None

    def _reserved(self, faces: tuple[bytes, ...], proposal: Proposal) -> Ruling | None:
        for face in faces:
            if where := self.never.find(face):
                inside = "" if face == faces[0] else f", carried in {text(faces[0])}"
                return refused(proposal, Rule.NEVER, f"{text(face)}{inside}: never blocked, it is of {where}")
        return None

    def _over(self, proposal: Proposal, batch: _Batch, now: float) -> Ruling | None:
        """Return the refusal of the first cap that is reached; what passes is one of the minute's new destinations."""
        caps, destination, domain = self.settings, proposal.destination, proposal.domain
        if not batch.has_address(domain, proposal.address) and batch.addresses(domain) >= caps.per_domain:
            more = (
                f"{to_text(domain)} has {caps.per_domain} blocked addresses already; its name is the place to block it"
            )
            return refused(proposal, Rule.PER_DOMAIN, more)
        if batch.has(destination):
            return None
        if batch.destinations() >= caps.total:
            return refused(proposal, Rule.TOTAL, f"{caps.total} destinations are blocked already")
        while self._recent and next(iter(self._recent.values())) <= now - MINUTE:
            self._recent.popitem(last=False)
        if destination not in self._recent:
            if len(self._recent) >= caps.per_minute:
                return refused(proposal, Rule.PER_MINUTE, f"{caps.per_minute} new destinations within a minute already")
            self._recent[destination] = now
        return None


class _Batch:
    """A ledger, and what is about to be put into it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._destinations: set[Destination] = set()
        self._addresses: dict[Name, set[bytes]] = {}

    def take(self, proposal: Proposal) -> None:
        if not self._ledger.holds(proposal.destination):
            self._destinations.add(proposal.destination)
        if not self._ledger.names(proposal.domain, proposal.address):
            self._addresses.setdefault(proposal.domain, set()).add(proposal.address)

    def has(self, destination: Destination) -> bool:
        return destination in self._destinations or self._ledger.holds(destination)

    def has_address(self, domain: Name, address: bytes) -> bool:
        return address in self._addresses.get(domain, ()) or self._ledger.names(domain, address)

    def addresses(self, domain: Name) -> int:
        return self._ledger.spread(domain) + len(self._addresses.get(domain, ()))

    def destinations(self) -> int:
        return self._ledger.destinations() + len(self._destinations)


def _keep(released: OrderedDict[bytes, float], key: bytes, until: float) -> None:
    released.pop(key, None)
    released[key] = until
    while len(released) > MAX_RELEASED:
        released.popitem(last=False)
