"""What a guard or a brake says of a proposal: how much of it may be blocked, which rule decided, and why in words."""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from egress.orders import Refusal
from egress.plan import ANY, Proposal

if TYPE_CHECKING:
    from egress.plan import Destination


class Scope(Enum):
    """What may be blocked."""

    ADDRESS = "address"  # for every client
    PAIR = "pair"  # for the client that asked
    NOTHING = "nothing"


class Rule(Enum):
    """Which rule decided; the first that applies does, in this order. The value is a label of metrics."""

    MALFORMED = "malformed"
    # of the guard, beside the resolver
    TRUSTED = "trusted"
    NEVER = "never"
    NAME_SERVER = "name-server"
    SINKHOLE = "sinkhole"
    OWN_USE = "own-use"
    PASSIVE_DNS = "passive-dns"
    SHARED = "shared"
    SHARE = "share"
    # of the brakes, beside the firewall
    PANIC = "panic"
    RELEASED = "released"
    TOTAL = "total"
    PER_DOMAIN = "per-domain"
    PER_MINUTE = "per-minute"
    CLEAR = "clear"


class Ruling(msgspec.Struct, frozen=True):
    """A judgement. `proposal` is what may be blocked, or with NOTHING what was refused; its address is never mapped."""

    scope: Scope
    rule: Rule
    reason: str
    proposal: Proposal

    @property
    def passes(self) -> bool:
        """True when something may be blocked."""
        return self.scope is not Scope.NOTHING

    @property
    def destination(self) -> Destination:
        """What may be blocked, or was refused."""
        return self.proposal.destination

    def refusal(self, at: float, who: str) -> Refusal:
        """Return what analysts are told of a ruling that lets nothing pass."""
        told = self.proposal
        return Refusal(at, who, told.address, told.client, told.domain, self.rule.value, self.reason)


def cleared(proposal: Proposal, *, pair: bool = False, rule: Rule = Rule.CLEAR, reason: str = "") -> Ruling:
    """Return that the address may be blocked, or the asking client's own way to it."""
    scope = Scope.PAIR if pair else Scope.ADDRESS
    return Ruling(scope, rule, reason, msgspec.structs.replace(proposal, client=proposal.client if pair else ANY))


def refused(proposal: Proposal, rule: Rule, reason: str) -> Ruling:
    """Return that nothing of the proposal may be blocked."""
    return Ruling(Scope.NOTHING, rule, reason, proposal)


def text(packed: bytes) -> str:
    """Return an address as people write it, hexadecimal when it is none."""
    try:
        return str(ipaddress.ip_address(packed))
    except ValueError:
        return packed.hex() or "an empty address"
