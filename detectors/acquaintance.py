"""Who in the office knows a domain, and since when: what tells a lone new habit from everybody's old one.

Rules:
1. Clients of a domain are a bitmap of 256 bits (linear counting, Whang et al. 1990), those of the office one of 16,384;
   both in two generations of a week, so that who left is forgotten after one to two weeks.
2. A domain is popular when at least `share` of the office's clients use it, never fewer than `least`, or FEW. A domain
   that came up after the learning phase needs STRICTER times as many for its first two weeks: it may be a campaign.
3. A name nobody outside can register is no domain; it is popular from the start.
"""

from __future__ import annotations

from math import ceil, exp, log
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from detectors.bounded import Bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.names import Name

DAY: Final = 86_400  # seconds
WEEK: Final = 7 * DAY
BITS: Final = 256  # of a domain's bitmap
OFFICE: Final = 16_384  # octets of the office's table; good to about 60,000 clients
FEW: Final = 20  # clients: a domain that more than these use is nobody's own, however large the office
STRICTER: Final = 2  # times as many clients for a domain that is new
NEW_FOR: Final = 14 * DAY
RECOUNT: Final = 60  # seconds between counts of the office
VERSION: Final = 1
# Undelegated for good: RFC 6762, RFC 8375, ICANN 2018 (corp, home) and 2024 (internal), and what routers made up.
_LOCAL: Final = frozenset(
    bytes((len(word),)) + word + b"\x00" for word in b"arpa local localdomain lan home corp internal intranet".split()
)


class Acquaintance:
    """What is known of one domain. `popular` is kept right by Acquaintances."""

    __slots__ = ("before", "first", "now", "popular", "week")

    def __init__(self, first: int, week: int) -> None:
        self.first = first  # Unix seconds
        self.week = week
        self.now = 0  # clients of this week
        self.before = 0  # of the week before
        self.popular = False

    @property
    def clients(self) -> int:
        """Different clients within one to two weeks, an estimate."""
        empty = max(BITS - (self.now | self.before).bit_count(), 1)
        return round(-BITS * log(empty / BITS))


class Acquaintances:
    """All domains somebody asked for lately, at most `cap`."""

    def __init__(self, cap: int, *, share: float, least: int, learn: float) -> None:
        self._share = share
        self._least = least
        self._learn = learn
        self._known: Bounded[Name, Acquaintance] = Bounded(cap)
        self._office = (bytearray(OFFICE), bytearray(OFFICE))  # this week, the week before
        self._week = 0
        self._counted = 0.0
        self.since: int | None = None  # when learning began
        self.clients = 0
        self._old_limit = self._new_limit = 0
        self._limits()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def dropped(self) -> int:
        """Domains forgotten at the cap."""
        return self._known.dropped

    def meet(self, domain: Name, client: bytes, at: int) -> Acquaintance:
        """Return what is known of the domain after this client asked for it."""
        known = self._known.get(domain)
        if known is None:
            known = self._first(domain, at)
        hashed = crc32(client)
        self._office[0][hashed >> 18] = 1
        bit = 1 << (hashed & 0xFF)
        if known.week != self._week or not known.now & bit:
            self._join(known, bit, at, domain)
        return known

    def is_new(self, known: Acquaintance) -> bool:
        """True when the domain came up after the learning phase."""
        return self.since is not None and known.first >= self.since + self._learn

    def tick(self, now: float) -> None:
        """Count the office once a minute, and begin a new generation once a week."""
        if self.since is None or now - self._counted < RECOUNT:
            return
        self._counted = now
        if (week := int(now) // WEEK) != self._week:
            old = self._office[0] if week == self._week + 1 else bytearray(OFFICE)
            self._office = (bytearray(OFFICE), old)
            self._week = week
        both = int.from_bytes(self._office[0], "big") | int.from_bytes(self._office[1], "big")
        self.clients = round(OFFICE * log(OFFICE / max(OFFICE - both.bit_count(), 1)))
        self._limits()

    def dump(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {
            "version": VERSION,
            "since": self.since,
            "week": self._week,
            "office": [bytes(part) for part in self._office],
            "known": [
                (name, one.first, one.week, one.now.to_bytes(BITS // 8, "big"), one.before.to_bytes(BITS // 8, "big"))
                for name, one in self._known.items()
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; another version is left out."""
        if state.get("version") != VERSION or state["since"] is None:
            return
        self.since = state["since"]
        self._week = state["week"]
        self._office = (bytearray(state["office"][0]), bytearray(state["office"][1]))
        for name, first, week, now, before in state["known"]:
            known = Acquaintance(first, week)
            known.now, known.before = int.from_bytes(now, "big"), int.from_bytes(before, "big")
            self._known.put(name, known)
        self.tick(self._counted + RECOUNT)

    def _first(self, domain: Name, at: int) -> Acquaintance:
        if self.since is None:
            self.since = at
            self._week = at // WEEK
        known = Acquaintance(at, self._week)
        self._known.put(domain, known)
        return known

    def _join(self, known: Acquaintance, bit: int, at: int, domain: Name) -> None:
        if known.week != self._week:
            known.before = known.now if known.week == self._week - 1 else 0
            known.now = 0
            known.week = self._week
        known.now |= bit
        self.judge(known, at, domain)

    def judge(self, known: Acquaintance, at: int, domain: Name) -> bool:
        """Set `popular` by the clients known now and the size of the office, and return it."""
        strict = self.is_new(known) and at - known.first < NEW_FOR
        limit = self._new_limit if strict else self._old_limit
        known.popular = (known.now | known.before).bit_count() >= limit or _unregistrable(domain)
        return known.popular

    def _limits(self) -> None:
        old = max(self._least, min(ceil(self._share * self.clients), FEW))
        self._old_limit, self._new_limit = _bits(old), _bits(STRICTER * old)


def _bits(clients: int) -> int:
    """Return the bits that so many clients set on average, rounded to the nearest."""
    return max(round(BITS * (1 - exp(-clients / BITS))), 1)


def _unregistrable(domain: Name) -> bool:
    last = domain[domain[0] + 1 :] if domain[0] else b""
    while len(last) > 1 and last[last[0] + 1 :] != b"\x00":
        last = last[last[0] + 1 :]
    return len(last) < 2 or last in _LOCAL
