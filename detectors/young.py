"""Domains nobody here asked for before, and domains registered only lately.

Rules:
1. A domain counts as known once any client got an answer for it; a name that does not exist is not remembered, so
   a generated name that comes to life later is new then.
2. During the learning phase nothing is called new. A domain nobody uses for `keep` to twice `keep` is new again.
3. To be new is no crime: findings are LOW, worth something beside another detector's.
4. Kept per domain are 60 bits of a hash and the hour of the first sight, in two generations of half the cap each.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from core.finding import Confidence, Evidence, Finding
from core.names import Name, is_public_suffix, suffixes, to_text
from detectors.bounded import Bounded, Said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.sight import Sight

HOUR: Final = 3_600.0  # seconds
DAY: Final = 86_400.0  # seconds
MAX_SETTLED: Final = 65_536  # domains known to need no second look within the hour
MAX_SAID: Final = 16_384  # (client, young domain) pairs
VERSION: Final = 1  # of what `dump` returns
NEW_SCORE: Final = 0.2  # most new domains are harmless
_HASH_BITS: Final = 60  # what CPython keeps in two digits: 32 octets an entry
_NOERROR: Final = 0
_UNKNOWN: Final = -1
# Not in the public tree: RFC 6761, 6762, 7686, 8375, ICANN's `internal`, and what home routers and offices made up.
_LOCAL: Final = frozenset(
    bytes((len(word),)) + word + b"\x00"
    for word in b"arpa local localhost lan home internal intranet corp private test invalid example onion alt".split()
)


class YoungSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `young`. Times are days."""

    mode: Literal["alert", "off"] = "alert"
    learn: Annotated[float, Meta(ge=0.0, le=365.0)] = 14.0  # after the first sight ever; nothing is new meanwhile
    keep: Annotated[float, Meta(ge=1.0, le=3_650.0)] = (
        60.0  # a domain unused as long as this, or twice it, is new again
    )
    registered: Annotated[float, Meta(ge=0.0, le=365.0)] = 30.0  # younger than this since registration is young
    domains: Annotated[int, Meta(ge=1_000, le=10_000_000)] = 1_000_000  # known at most; about 80 octets each


class Young:
    """A Watch for domains new to the organisation.

    `registered` maps registered domains to when they were registered, in Unix seconds, where the operator knows. It
    may change while in use; what is added shows within an hour.
    """

    name = "young"

    def __init__(self, settings: YoungSettings, registered: Mapping[Name, float] | None = None) -> None:
        self._settings = settings
        self._registered: Mapping[Name, float] = {} if registered is None else registered
        self._first: Bounded[int, int] = Bounded(settings.domains)  # hash of the domain: hour of the first sight
        self._said: Said[tuple[bytes, Name]] = Said(MAX_SAID, every=DAY)
        self._settled: set[Name] = set()
        self._begun: float | None = None  # when learning began
        self._turned = 0.0  # when a generation ended last
        self._cleared = 0.0  # when `_settled` was emptied last
        self._new = 0
        self._hour = 0  # one object for all domains of the hour

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Return a finding for the first use of a domain, and once a day and client for a young one."""
        if sight.domain in self._settled:
            return ()
        if sight.blocked or sight.rcode not in (_NOERROR, _UNKNOWN) or self._settings.mode == "off":
            return ()
        return self._unsettled(sight)

    def tick(self, now: float) -> Sequence[Finding]:
        """Look again at every domain once an hour, and end a generation when `keep` is over."""
        if now - self._cleared >= HOUR:
            self._settled.clear()
            self._cleared = now
        if self._begun is not None and now - self._turned >= self._settings.keep * DAY:
            self._first.turn()
            self._turned = now
        return ()

    def known_for(self, domain: Name, now: float) -> float | None:
        """Return the seconds since the organisation first used the domain, to the hour, or None when it never did."""
        first = self._first.get(_digest(domain))
        return None if first is None else max(now - first * HOUR, 0.0)

    def learning(self, now: float) -> bool:
        """True before the first sight and until the learning phase is over."""
        return self._begun is None or now - self._begun < self._settings.learn * DAY

    def counters(self) -> Mapping[str, int]:
        """Return how many domains are known, were new after learning, and were forgotten."""
        return {"domains": len(self._first), "new": self._new, "dropped": self._first.dropped + self._said.dropped}

    def dump(self) -> dict[str, Any]:
        """Return the known domains and the state of learning."""
        entries = list(self._first.items())
        return {
            "version": VERSION,
            "begun": self._begun,
            "turned": self._turned,
            "hashes": array("Q", (key for key, _ in entries)).tobytes(),
            "hours": array("I", (hour for _, hour in entries)).tobytes(),
            "dropped": self._first.dropped,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned on this kind of machine; another version's is left out."""
        if state.get("version") != VERSION:
            return
        hashes, hours = array("Q"), array("I")
        hashes.frombytes(state["hashes"])
        hours.frombytes(state["hours"])
        shared: dict[int, int] = {}
        for key, hour in zip(hashes, hours, strict=True):
            self._first.put(key, shared.setdefault(hour, hour))
        self._first.dropped = state["dropped"]
        self._begun, self._turned = state["begun"], state["turned"]
        self._settled.clear()

    def _unsettled(self, sight: Sight) -> Sequence[Finding]:
        if self._begun is None:
            self._begun = self._turned = self._cleared = sight.at
        if not _registrable(sight.domain):
            self._settle(sight.domain)
            return ()
        new = self._learn(sight)
        age = self._age(sight)
        if age is None or age >= self._settings.registered:
            self._settle(sight.domain)
            return (self._new_finding(sight),) if new else ()
        if not self._said.due((sight.client, sight.domain), sight.at):
            return ()
        return (self._young_finding(sight, age, new=new),)

    def _learn(self, sight: Sight) -> bool:
        """Remember the domain; true when that makes it new after the learning phase."""
        key = _digest(sight.domain)
        if self._first.get(key) is not None:
            return False
        if self._hour != (hour := int(sight.at // HOUR)):
            self._hour = hour
        self._first.put(key, self._hour)
        if self.learning(sight.at):
            return False
        self._new += 1
        return True

    def _age(self, sight: Sight) -> float | None:
        """Return the days since registration, or None when nobody knows."""
        registered = self._registered.get(sight.domain)
        return None if registered is None else max((sight.at - registered) / DAY, 0.0)

    def _settle(self, domain: Name) -> None:
        if len(self._settled) >= MAX_SETTLED:
            self._settled.clear()
        self._settled.add(domain)

    def _new_finding(self, sight: Sight) -> Finding:
        return Finding(
            detector=self.name,
            client=str(ip_address(sight.client)),
            domain=to_text(sight.domain),
            score=NEW_SCORE,
            confidence=Confidence.LOW,
            reason=f"nobody here asked for {to_text(sight.domain)} before",
            evidence=(Evidence("known_domains", float(len(self._first)), 0.0),),
        )

    def _young_finding(self, sight: Sight, age: float, *, new: bool) -> Finding:
        domain = to_text(sight.domain)
        words = f"{domain} was registered {age:.0f} days ago" + (", and nobody here asked for it before" if new else "")
        return Finding(
            detector=self.name,
            client=str(ip_address(sight.client)),
            domain=domain,
            score=min(0.3 + 0.4 * (1.0 - age / self._settings.registered) + (NEW_SCORE if new else 0.0), 1.0),
            confidence=Confidence.LOW,
            reason=words,
            evidence=(Evidence("days_since_registration", age, self._settings.registered),),
        )


def _digest(domain: Name) -> int:
    """Return the same number in every process, which Python's own hash would not."""
    return int.from_bytes(blake2b(domain, digest_size=8).digest(), "little") >> (64 - _HASH_BITS)


def _registrable(domain: Name) -> bool:
    """True for what somebody can have registered: below a public suffix, not local, not a reverse zone."""
    keys = suffixes(domain)
    return len(keys) > 1 and keys[-1] not in _LOCAL and not is_public_suffix(domain)
