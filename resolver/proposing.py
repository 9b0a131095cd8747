"""From an address that was learnt to an order: the guard judges it, what passes is posted, what is refused is told.

Rules:
1. What the guard lets pass for everybody is blocked for everybody, but a case that is `alone` only for its client.
2. A refusal of the same address, domain and rule is told once in TOLD_EVERY seconds, and so many a second at most.
3. What an analyst allows is not blocked, nor the addresses that clients were given for it since.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from core.names import suffixes, to_text
from core.verdict import Action
from egress.orders import Block, Release
from egress.plan import Proposal
from egress.ranges import unmapped
from egress.rulings import Rule, Ruling, Scope, refused, text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.names import Name
    from egress.guard import Guard
    from feeds.overlay import Override
    from resolver.blamed import Case
    from resolver.posting import Post

TOLD_EVERY: Final = 600.0  # seconds
MAX_TOLD: Final = 20_000  # refusals remembered
TOLD_PER_SECOND: Final = 20
MAX_SPARED: Final = 20_000  # addresses of names that analysts allow
SPARED: Final = 86_400.0  # seconds since a client was given the address
MAX_PIECE: Final = 200  # proposals an order
_log = structlog.get_logger("egress")


class Proposer:
    """Judges with `guard` and posts with `post`; `node` is how this node is named in what it posts."""

    def __init__(self, guard: Guard, post: Post, *, node: str) -> None:
        self.guard = guard
        self.post = post
        self.allowed: frozenset[Name] = frozenset()
        self.published = self.untold = self.strangers = self.released = 0
        self.refused: Counter[str] = Counter()
        self._node = node
        self._made: dict[tuple[bytes, bytes, Name], Proposal] = {}
        self._told: OrderedDict[tuple[bytes, Name, Rule], float] = OrderedDict()
        self._spared: OrderedDict[bytes, tuple[float, Name]] = OrderedDict()
        self._second = 0
        self._room = TOLD_PER_SECOND

    def propose(self, case: Case, address: bytes, ttl: float, evidence: str, *, now: float) -> Scope:
        """Have an address blocked if nothing speaks against it; returns for whom it is, once `flush` was called."""
        proposal = Proposal(address, case.client, case.domain, case.reason, ttl, evidence)
        ruling = self._spare(proposal, now) or self.guard.judge(proposal, now=now, below=case.below)
        if not ruling.passes:
            self._refuse(ruling, now)
            return Scope.NOTHING
        passed = ruling.proposal
        if case.alone and ruling.scope is Scope.ADDRESS:
            client = unmapped(case.client)
            if len(client) != len(passed.address):
                self.strangers += 1
                return Scope.NOTHING
            passed = msgspec.structs.replace(passed, client=client)
        self._made[passed.address, passed.client, passed.domain] = passed
        return Scope.PAIR if passed.client else Scope.ADDRESS

    def flush(self, now: float) -> None:
        """Post what was made, the same thing once."""
        made, self._made = list(self._made.values()), {}
        for at in range(0, len(made), MAX_PIECE):
            self.post.offer(Block(now, self._node, tuple(made[at : at + MAX_PIECE])))
        self.published += len(made)

    def follow(self, overrides: Iterable[Override], *, now: float) -> None:
        """Take back what was blocked for a name that is allowed from now on; each is released once."""
        allowed: set[Name] = set()
        for item in overrides:
            everybody = not item.client and item.view in {"", "default"}
            if item.action is not Action.PASSTHRU or not everybody or item.name[:1] == b"\x00" or not item.holds(now):
                continue
            allowed.add(item.name)
            if item.name not in self.allowed:
                self.guard.uses.pardon(item.name)
                self._release(now, f"{item.by or 'an analyst'} allows {to_text(item.name)}", domain=item.name)
        self.allowed = frozenset(allowed)

    def see_allowed(self, name: Name, addresses: Iterable[bytes], *, now: float) -> None:
        """A client was given these addresses for a name somebody allows: whoever shares them is not cut off."""
        if not self.allowed.isdisjoint(suffixes(name)):
            for address in addresses:
                self._spared[address] = now + SPARED, name
                self._spared.move_to_end(address)
                if self.guard.uses.marked(address, now=now):
                    self.came_into_use(name, address, now=now)
            while len(self._spared) > MAX_SPARED:
                self._spared.popitem(last=False)

    def came_into_use(self, name: Name, address: bytes, *, now: float) -> None:
        """Take back the blocks of an address at which a name is used now."""
        self._release(now, f"{to_text(name)} came into use there", address=address)

    def counters(self) -> dict[str, Any]:
        """Return what was published, released and refused, in all and by rule, and refusals that were not told."""
        return {
            "published": self.published,
            "released": self.released,
            "refused": self.refused.total(),
            "refused_by": dict(self.refused),
            "refusals_untold": self.untold,
            "other_family": self.strangers,
        }

    def _spare(self, proposal: Proposal, now: float) -> Ruling | None:
        until, name = self._spared.get(proposal.address, (0.0, b""))
        if until <= now or self.allowed.isdisjoint(suffixes(name)):
            return None
        where = text(proposal.address)
        return refused(proposal, Rule.TRUSTED, f"{where}: {to_text(name)} is there, which an analyst allows")

    def _release(self, now: float, reason: str, *, address: bytes = b"", domain: Name = b"") -> None:
        self.released += 1
        self.post.offer(Release(now, self._node, reason, address, domain))

    def _refuse(self, ruling: Ruling, now: float) -> None:
        self.refused[ruling.rule.value] += 1
        key = ruling.destination.address, ruling.proposal.domain, ruling.rule
        if 0 <= now - self._told.get(key, -TOLD_EVERY) < TOLD_EVERY:
            return
        if int(now) != self._second:
            self._second, self._room = int(now), TOLD_PER_SECOND
        if self._room <= 0:
            self.untold += 1
            return
        self._room -= 1
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)
        refusal = ruling.refusal(now, self._node)
        self.post.offer(refusal)
        _log.info(
            "address not blocked", address=text(refusal.address), domain=to_text(refusal.domain), rule=refusal.rule,
            reason=refusal.reason,
        )  # fmt: skip
