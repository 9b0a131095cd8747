"""Fast flux: a name whose addresses are ever new ones, scattered over the internet like the homes of a botnet.

Rules:
1. One look proves nothing. Looks are answers from outside, a TTL apart; those out of the cache say nothing new.
2. Counted are the networks: a /16 of IPv4, a /32 of IPv6. A CDN or a cloud gives many addresses of few networks and
   comes back to them; a botnet gives about one address a network, and does not come back.
3. Growth has to go on: the later half of the looks brings a fair share of the networks, the last one brings some, and
   there is nearly a new one a look. A large CDN moves its customers about, but slower.
4. What many clients use, and what the office knew for long, stays quiet: a pool of time servers looks the same.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from core.finding import Confidence, Evidence, Finding
from core.names import Name, to_text
from detectors.acquaintance import DAY, WEEK, Acquaintance, Acquaintances
from detectors.bounded import Bounded, Said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.sight import Sight

MAX_ADDRESSES: Final = 48  # of a name; a name that has as many begins anew
MAX_LOOKS: Final = 48  # of a name; then it begins anew too, so that old stability is no shield
PER_LOOK: Final = 8  # addresses taken of a look, so that a long answer does not fill what five looks need
MAX_SAID: Final = 16_384  # clients with a domain of which it was said
SHORTEST: Final = 240  # seconds between looks, however low the TTL
LONGEST: Final = 600  # seconds after which an answer counts as a look of its own, however high the TTL
LONE: Final = 2  # clients of a domain that is nobody else's
SURE: Final = 2  # times the networks wanted, for MEDIUM
OLD: Final = 14 * DAY  # seconds since a domain came up, after which it is no fresh campaign
VERSION: Final = 1
_IPV4: Final = 4  # octets


class FluxSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `flux`. Memory: 900 octets a name and its domain, 10,000 for one in full flux."""

    mode: Literal["alert", "off"] = "alert"
    looks: Annotated[int, Meta(ge=3, le=40)] = 5  # before anything is said
    span: Annotated[float, Meta(ge=0.0)] = 1_200.0  # seconds from the first look to the last
    ttl: Annotated[int, Meta(ge=0, le=86_400)] = 600  # seconds; a higher one is no fast flux
    networks: Annotated[int, Meta(ge=4, le=96)] = 10  # different ones over all looks
    scatter: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.75  # networks an address
    growth: Annotated[float, Meta(gt=0.0, le=1.0)] = (
        0.3  # share of the networks that the later half of the looks brought
    )
    pace: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.9  # networks a look
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.03  # of the office's clients that make a domain popular
    clients: Annotated[int, Meta(ge=2, le=20)] = 3  # fewer never do
    learn: Annotated[float, Meta(ge=0.0, le=365.0)] = 7.0  # days after the first sight ever; nothing is new meanwhile
    names: Annotated[int, Meta(ge=100, le=10_000_000)] = 20_000  # watched at most, and as many domains


class Looks:
    """What a name was answered so far. `arrived` says for each network the look that brought it."""

    __slots__ = ("addresses", "arrived", "count", "first", "last", "taken", "until")

    def __init__(self, at: int) -> None:
        self.first = self.last = at  # Unix seconds
        self.until = 0  # from when an answer is another look
        self.count = 0
        self.taken = 0  # addresses of this look
        self.addresses: set[bytes] = set()
        self.arrived: dict[bytes, int] = {}

    def add(self, at: int, ttl: int, addresses: Sequence[bytes]) -> bool:
        """Take in an answer; True when it was another look."""
        another = at >= self.until
        if another:
            self._begin(at, ttl)
        for address in addresses:
            if self.taken < PER_LOOK and len(self.addresses) < MAX_ADDRESSES:
                self.taken += 1
                self.addresses.add(address)
                self.arrived.setdefault(address[:2] if len(address) == _IPV4 else address[:4], self.count)
        return another

    def _begin(self, at: int, ttl: int) -> None:
        if self.count >= MAX_LOOKS or len(self.addresses) >= MAX_ADDRESSES:
            self.first, self.count = at, 0
            self.addresses.clear()
            self.arrived.clear()
        self.count += 1
        self.taken = 0
        self.last = at
        self.until = at + min(max(ttl, SHORTEST), LONGEST)

    @property
    def scatter(self) -> float:
        """Networks an address, 0-1."""
        return len(self.arrived) / len(self.addresses) if self.addresses else 0.0

    @property
    def pace(self) -> float:
        """Networks a look."""
        return len(self.arrived) / max(self.count, 1)

    @property
    def growth(self) -> float:
        """The share of the networks that came in the later half of the looks, 0-1."""
        late = sum(look > self.count // 2 for look in self.arrived.values())
        return late / len(self.arrived) if self.arrived else 0.0


class Flux:
    """A Watch for fast flux."""

    name = "flux"

    def __init__(self, settings: FluxSettings) -> None:
        self._settings = settings
        self._known = Acquaintances(
            settings.names, share=settings.share, least=settings.clients, learn=settings.learn * DAY
        )
        self._names: Bounded[Name, Looks] = Bounded(settings.names)
        self._said: Said[tuple[bytes, Name]] = Said(MAX_SAID, every=WEEK)

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Take in an answer from outside; returns a finding when its name is in flux, once a week and client."""
        if not sight.addresses or sight.cached or sight.rcode > 0 or sight.blocked or sight.ttl > self._settings.ttl:
            return ()
        at = int(sight.at)
        known = self._known.meet(sight.domain, sight.client, at)
        if known.popular:
            return ()
        looks = self._names.get(sight.qname)
        if looks is None:
            looks = Looks(at)
            self._names.put(sight.qname, looks)
        if not looks.add(at, sight.ttl, sight.addresses) or not self._in_flux(looks):
            return ()
        if self._known.judge(known, at, sight.domain) or at - known.first >= OLD:
            return ()
        if not self._said.due((sight.client, sight.domain), sight.at):
            return ()
        return (self._finding(sight, looks, known),)

    def tick(self, now: float) -> Sequence[Finding]:
        """Count the clients anew; findings come with what is seen."""
        self._known.tick(now)
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return sizes of state and what was dropped at the caps."""
        return {
            "clients": self._known.clients,
            "domains": len(self._known),
            "domains_dropped": self._known.dropped,
            "names": len(self._names),
            "names_dropped": self._names.dropped,
            "said": len(self._said),
            "said_dropped": self._said.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return the state: who is known, and the looks of names that had more than one network."""
        return {
            "version": VERSION,
            "known": self._known.dump(),
            "names": [
                (name, one.first, one.last, one.until, one.count, list(one.addresses), list(one.arrived.items()))
                for name, one in self._names.items()
                if len(one.arrived) > 1
            ],
            "said": self._said.dump(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; another version is left out."""
        if state.get("version") != VERSION:
            return
        self._known.load(state["known"])
        for name, first, last, until, count, addresses, arrived in state["names"]:
            looks = Looks(first)
            looks.last, looks.until, looks.count = last, until, count
            looks.addresses, looks.arrived = set(addresses), dict(arrived)
            self._names.put(name, looks)
        self._said.load([((key[0], key[1]), at) for key, at in state["said"]])

    def _in_flux(self, looks: Looks) -> bool:
        wanted = self._settings
        return (
            looks.count >= wanted.looks
            and len(looks.arrived) >= wanted.networks
            and looks.last - looks.first >= wanted.span
            and looks.scatter >= wanted.scatter
            and looks.growth >= wanted.growth
            and looks.pace >= wanted.pace
            and looks.count in looks.arrived.values()
        )

    def _finding(self, sight: Sight, looks: Looks, known: Acquaintance) -> Finding:
        wanted = self._settings
        client, domain, name = str(ip_address(sight.client)), to_text(sight.domain), to_text(sight.qname)
        networks = len(looks.arrived)
        new = self._known.is_new(known)
        sure = new and known.clients <= LONE and networks >= SURE * wanted.networks
        minutes = (looks.last - looks.first) // 60
        reason = (
            f"{name} was answered with {len(looks.addresses)} addresses of {networks} networks in {looks.count} looks "
            f"over {minutes} minutes, and new ones keep coming"
            f"{'; the domain is new here' if new else ''}"
        )
        evidence = (
            Evidence("networks", networks, wanted.networks),
            Evidence("networks_per_address", round(looks.scatter, 3), wanted.scatter),
            Evidence("late_share", round(looks.growth, 3), wanted.growth),
            Evidence("networks_per_look", round(looks.pace, 2), wanted.pace),
            Evidence("looks", looks.count, wanted.looks),
            Evidence("span_seconds", looks.last - looks.first, wanted.span),
            Evidence("ttl_seconds", sight.ttl, wanted.ttl),
            Evidence("clients", known.clients, wanted.clients),
        )
        score = min(networks / (3 * wanted.networks), 1.0) * looks.scatter
        confidence = Confidence.MEDIUM if sure else Confidence.LOW
        return Finding(self.name, client, domain, round(score, 3), confidence, reason, evidence)
