"""What the leak meter says: findings in words an analyst understands, and the pairs an operator should look at once."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import msgspec

from core.finding import Confidence, Evidence, Finding
from core.names import Name, to_text

if TYPE_CHECKING:
    from detectors.leak_accounts import Account, Budget, Pair
    from detectors.leak_peers import Apex
    from detectors.leak_sums import Sum

DETECTOR: Final = "leak"
OCTET: Final = 8.0  # bits
SAMPLES: Final = 5


class Lone(msgspec.Struct, frozen=True, kw_only=True):
    """A client that sends much to a domain for which nobody else speaks; the operator confirms it or does not."""

    client: str
    domain: str
    per_day: float  # octets, of the last day
    peak: float  # budgets, the highest load of the learning phase
    first: float  # Unix seconds
    clients: int  # that ask at the domain, counted to 20
    samples: tuple[str, ...]  # names asked there
    blocked: bool


class Total(msgspec.Struct, frozen=True, array_like=True):
    """Bits charged to a pair on a node since it was last asked for its totals."""

    client: bytes
    domain: Name
    bits: float
    fresh: float  # of them: of names not known before


def client_text(client: bytes) -> str:
    """Return the presentation form of an address of 4 or 16 octets, or hex digits of anything else."""
    return str(ip_address(client)) if len(client) in (4, 16) else client.hex()


def finding(
    client: bytes, domain: Name, *, confidence: Confidence, load: float, reason: str, evidence: tuple[Evidence, ...]
) -> Finding:
    """Return a finding of the meter; `load` is 1 at the budget, the score is a half there."""
    return Finding(
        detector=DETECTOR,
        client=client_text(client),
        domain=to_text(domain),
        score=load / (1.0 + load),
        confidence=confidence,
        reason=reason,
        evidence=evidence,
    )


def evidence(account: Account, budget: Budget, *, clients: int, allowance: float) -> tuple[Evidence, ...]:
    """Return the accounts in octets beside what they may hold, and who speaks for the client."""
    scale = allowance / OCTET
    return (
        Evidence("bytes_hour", round(account.hour / OCTET, 1), round(budget.hour * scale, 1)),
        Evidence("bytes_day", round(account.day / OCTET, 1), round(budget.day * scale, 1)),
        Evidence("bytes_week", round(account.week / OCTET, 1), round(budget.week * scale, 1)),
        Evidence("bytes_month", round(account.month / OCTET, 1), round(budget.month * scale, 1)),
        Evidence("budgets_by_peers", round(allowance, 2), 1.0),
        Evidence("clients", clients, 3),
    )


def pair_reason(domain: Name, account: Account, *, allowance: float, blocked: bool) -> str:
    """Return why a pair is at its budget."""
    said = f"names asked below {to_text(domain)} can carry {account.day / OCTET:.0f} bytes"
    what = "the next one would pass the budget, it was not sent" if blocked else "the budget is nearly used up"
    peers = "no other client sends as much there" if allowance <= 1.0 else f"peers speak for {allowance:.1f} budgets"
    return f"{said} out within about a day; {what}; {peers}"


def lone(pair: Pair, apex: Apex, *, peak: float) -> Lone:
    """Return a pair as the operator shall see it."""
    samples = [to_text(below + pair.domain) for below, _ in apex.coder.samples(SAMPLES)]
    return Lone(
        client=client_text(pair.client),
        domain=to_text(pair.domain),
        per_day=round(pair.day / OCTET, 1),
        peak=round(peak, 2),
        first=pair.first,
        clients=len(apex.use.clients),
        samples=tuple(samples),
        blocked=pair.finding is not None,
    )


def lone_reason(domain: Name, account: Account, *, blocked: bool) -> str:
    """Return why a client is at its budget over all domains that nobody else uses."""
    what = "the next one would pass the budget, it was not sent" if blocked else "the budget is nearly used up"
    return (
        f"names below domains hardly anybody else uses, {to_text(domain)} the last, can together carry "
        f"{account.day / OCTET:.0f} bytes out within about a day, {account.month / OCTET:.0f} within a month; {what}"
    )


def young_reason(domain: Name, carried: Sum, *, blocked: bool) -> str:
    """Return why a domain is at the budget of all its clients together."""
    what = "the next one would pass the budget, it was not sent" if blocked else "the budget is nearly used up"
    return (
        f"{to_text(domain)} carried nothing or little while learning, and names {carried.clients} clients asked there "
        f"can carry {carried.bits / OCTET:.0f} bytes out; {what}; confirm the domain when a new service was rolled out"
    )


def learning_reason(domain: Name, account: Account) -> str:
    """Return why even the learning phase stops a pair."""
    return (
        f"names asked below {to_text(domain)} can carry {account.hour / OCTET:.0f} bytes out within about an hour, and "
        "nobody else asks there: too much to be let through while learning"
    )
