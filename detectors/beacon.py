"""Beacons: a client that asks for a domain at steady intervals, where hardly anybody else does.

Rules:
1. What many clients use, what a caching client asks again because the TTL ran out, and what the office has known
   for long before this client took it up stays quiet, however regular.
2. Popular domains cost a look-up; other pairs are counted first, and remembered with their times from the third
   contact on. The mathematics runs in `tick`, LOOKS pairs at a time.
3. Timing is never proof. A rhythm is LOW; with a domain new to the office and no other user it is MEDIUM; never HIGH.
4. A client that asks for many domains at one exact period is a monitor: of each period MOST_SAID findings are said.
"""

from __future__ import annotations

from array import array
from collections import deque
from ipaddress import ip_address
from math import log
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from zlib import crc32

import msgspec
from msgspec import Meta

from core.finding import Confidence, Evidence, Finding
from core.names import Name, to_text
from detectors.acquaintance import DAY, WEEK, Acquaintance, Acquaintances
from detectors.bounded import Bounded
from detectors.recurrence import Recurrence
from detectors.rhythm import CONTACTS, EXACT, MERGE, Rhythm, contacts, rhythm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.sight import Sight

LOOKS: Final = 20  # pairs a tick, 1 ms each
MAX_DUE: Final = 20_000  # pairs that wait for their look
MAX_SAID: Final = 50_000  # clients with a period of which something was said
MOST_SAID: Final = 3  # LOW findings a client and exact period
SAME: Final = 0.1  # periods whose logarithm is as close count as one
AGAIN: Final = 30 * 86_400  # seconds after which a monitor that fell silent may be said again
RING: Final = 48  # times of a pair; the oldest CUT go when it is full
CUT: Final = 16
PROMOTED: Final = 3  # contacts after which the times are kept
WIDEST: Final = 3_600  # seconds within which a busy pair's questions are one contact
OFTEN: Final = 64  # contacts up to which a pair is looked at every fourth or eighth time, then every 32nd
EARLY: Final = 1  # second before the end of the TTL that still counts as its end: rounding
LATE: Final = 0.1  # of the TTL after its end, at least MERGE seconds: a program asks when it is its turn
DRIVEN: Final = 0.7  # share of gaps that end with the TTL: the cache asks, not the program
BEFORE: Final = 0.1  # share of gaps that end before the TTL does: this client keeps no cache
LONE: Final = 2  # clients of a domain that is nobody else's
STEADY: Final = 4  # different addresses within a program's own server; more is a pool or a network of caches
LONG: Final = 12 * 3_600  # seconds a rhythm lasts before it is more than LOW
VERSION: Final = 1
_SURE: Final = 8.0  # nats, for MEDIUM
_STRICT: Final = (1, 3, 5)  # times the advantage wanted early, later, and after many looks
_FLOOR: Final = (8.0, 4.0, 1.0)  # nats a rhythm may lose against a floor with a tail, likewise


class BeaconSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `beacon`. Memory: 240 octets a domain, 800 a pair, 8 a place of the table of counts."""

    mode: Literal["alert", "off"] = "alert"
    contacts: Annotated[int, Meta(ge=10, le=48)] = 16  # before the first look
    advantage: Annotated[float, Meta(ge=0.0, le=100.0)] = 2.0  # nats of a rhythm over chance
    jitter: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.35  # standard deviation in periods, at most
    shortest: Annotated[float, Meta(ge=5.0)] = 7.0  # seconds of a period
    longest: Annotated[float, Meta(le=172_800.0)] = 100_000.0  # seconds of a period
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.03  # of the office's clients that make a domain popular
    clients: Annotated[int, Meta(ge=2, le=20)] = 3  # fewer never do
    learn: Annotated[float, Meta(ge=0.0, le=365.0)] = 7.0  # days after the first sight ever; nothing is new meanwhile
    domains: Annotated[int, Meta(ge=100, le=10_000_000)] = 200_000  # known at most
    pairs: Annotated[int, Meta(ge=100, le=10_000_000)] = 100_000  # with times, at most
    counts: Annotated[int, Meta(ge=8, le=22)] = 22  # bits of the table of counts: 32 MiB at 22


class Pair:
    """A client and a domain that it came back to."""

    __slots__ = (
        "addresses",
        "day",
        "days",
        "early",
        "first",
        "known",
        "last",
        "late",
        "matched",
        "merge",
        "rcode",
        "said",
        "seen",
        "times",
        "ttl",
        "until",
    )

    def __init__(self, known: Acquaintance, first: int) -> None:
        self.known = known
        self.first = self.last = first  # Unix seconds
        self.times = array("I", (first,))
        self.merge = MERGE  # seconds within which questions are one contact
        self.seen = 1  # contacts
        self.day = first // DAY
        self.days = 1  # with contacts
        self.until = self.ttl = 0  # when the last answer ends, and its TTL; 0: not known
        self.matched = self.early = self.late = 0  # gaps that ended with the TTL, before, after
        self.addresses = 0  # bitmap of 64
        self.rcode = -1
        self.said = 0  # the confidence of what was said

    def contact(self, at: int) -> None:
        """Take in the time of a contact."""
        if self.until:
            off = at - self.until
            if off < -EARLY:
                self.early += 1
            elif off <= max(MERGE, LATE * self.ttl):
                self.matched += 1
            else:
                self.late += 1
            self.until = 0
        self.last = at
        self.seen += 1
        times = self.times
        if len(times) >= RING:
            del times[:CUT]
        times.append(at)
        if (day := at // DAY) != self.day:
            self.day = day
            self.days += 1

    def answered(self, sight: Sight, at: int) -> None:
        """Take in what came back."""
        self.rcode = sight.rcode
        if sight.ttl and (not self.until or at + sight.ttl < self.until):
            self.until = at + sight.ttl
            self.ttl = sight.ttl
        for address in sight.addresses:
            self.addresses |= 1 << (crc32(address) & 63)

    @property
    def keeps(self) -> bool:
        """True when the client hardly ever asked before the TTL of the last answer had ended."""
        return self.early <= BEFORE * (self.matched + self.early + self.late)

    @property
    def driven(self) -> float:
        """The share of gaps that ended with the TTL; 0 for a client that does not keep what it is told."""
        gaps = self.matched + self.early + self.late
        return self.matched / gaps if gaps and self.keeps else 0.0


class Beacon:
    """A Watch for beacons."""

    name = "beacon"

    def __init__(self, settings: BeaconSettings) -> None:
        self._settings = settings
        self._known = Acquaintances(
            settings.domains, share=settings.share, least=settings.clients, learn=settings.learn * DAY
        )
        self._counts = Recurrence(settings.counts)
        self._pairs: Bounded[tuple[bytes, Name], Pair] = Bounded(settings.pairs)
        self._due: deque[tuple[bytes, Name]] = deque()
        self._said: Bounded[tuple[bytes, int], tuple[int, int]] = Bounded(MAX_SAID)  # last, how many
        self._looks = self._missed = self._monitors = 0

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Take in a question; returns nothing, findings come with `tick`."""
        client, domain, at = sight.client, sight.domain, int(sight.at)
        if sight.blocked:
            return ()
        known = self._known.meet(domain, client, at)
        if known.popular:
            return ()
        key = (client, domain)
        pair = self._pairs.get(key)
        if pair is None:
            self._count(key, known, sight)
        elif at - pair.last >= pair.merge:
            pair.known = known
            pair.contact(at)
            pair.answered(sight, at)
            self._plan(key, pair)
        else:
            pair.answered(sight, at)
        return ()

    def tick(self, now: float) -> Sequence[Finding]:
        """Look at the pairs that are due, at most LOOKS of them."""
        self._known.tick(now)
        found = []
        for _ in range(min(LOOKS, len(self._due))):
            key = self._due.popleft()
            pair = self._pairs.get(key)
            if pair is not None and (finding := self._look(key, pair, int(now))) is not None:
                found.append(finding)
        return found

    def counters(self) -> Mapping[str, int]:
        """Return sizes of state and what was dropped at the caps."""
        return {
            "clients": self._known.clients,
            "domains": len(self._known),
            "domains_dropped": self._known.dropped,
            "pairs": len(self._pairs),
            "pairs_dropped": self._pairs.dropped,
            "counts": len(self._counts),
            "counts_displaced": self._counts.displaced,
            "due": len(self._due),
            "due_missed": self._missed,
            "looks": self._looks,
            "monitors_hushed": self._monitors,
        }

    def dump(self) -> dict[str, Any]:
        """Return who is known since when and the pairs with times; the table of counts is begun anew."""
        kept = [(key, pair) for key, pair in self._pairs.items() if not pair.known.popular]
        return {
            "version": VERSION,
            "known": self._known.dump(),
            "pairs": [(*key, *_packed(pair)) for key, pair in kept],
            "said": [(*key, *said) for key, said in self._said.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; another version is left out."""
        if state.get("version") != VERSION:
            return
        self._known.load(state["known"])
        for client, domain, *fields in state["pairs"]:
            self._pairs.put((client, domain), self._unpacked(client, domain, fields))
        for client, period, last, count in state["said"]:
            self._said.put((client, period), (last, count))

    def _count(self, key: tuple[bytes, Name], known: Acquaintance, sight: Sight) -> None:
        at = int(sight.at)
        count, last = self._counts.again(key, at, merge=MERGE)
        if count < PROMOTED:
            return
        self._counts.forget(key)
        pair = Pair(known, last)
        pair.contact(at)
        pair.answered(sight, at)
        self._pairs.put(key, pair)

    def _plan(self, key: tuple[bytes, Name], pair: Pair) -> None:
        seen = pair.seen
        if seen < self._settings.contacts:
            return
        every = 4 if seen <= CONTACTS else 8 if seen <= OFTEN else 32
        if seen % every and seen != self._settings.contacts:
            return
        if len(self._due) >= MAX_DUE:
            self._missed += 1
        else:
            self._due.append(key)

    def _look(self, key: tuple[bytes, Name], pair: Pair, now: int) -> Finding | None:
        if self._known.judge(pair.known, now, key[1]) or self._quiet(pair):
            return None
        self._looks += 1
        found = rhythm(pair.times, kept=pair.ttl if pair.keeps and pair.driven < DRIVEN else 0)
        if found is None or found.contacts < self._settings.contacts - PROMOTED:
            _widen(pair)
            return None
        if not self._steady(pair, found):
            return None
        confidence = self._confidence(pair, found)
        if confidence <= pair.said or not self._may_say(key[0], found, confidence, now):
            return None
        pair.said = confidence
        return self._finding(key, pair, found, confidence)

    def _steady(self, pair: Pair, found: Rhythm) -> bool:
        """Hold the rhythm against the settings; stricter after many looks, each being a chance to be wrong."""
        wanted = self._settings
        looked = 0 if pair.seen <= CONTACTS else 1 if pair.seen <= OFTEN else 2
        return (
            found.advantage >= _STRICT[looked] * wanted.advantage
            and (found.jitter <= EXACT or found.above_floor >= -_FLOOR[looked])
            and found.jitter <= wanted.jitter
            and wanted.shortest <= found.period <= wanted.longest
        )

    def _quiet(self, pair: Pair) -> bool:
        """True for what is regular by nature: a cache that asks again, or a domain the office knew long before."""
        known = pair.known
        lone = known.clients <= LONE
        if pair.driven >= DRIVEN and not (lone and self._known.is_new(known) and pair.last - pair.first >= DAY):
            return True
        return pair.first - known.first >= WEEK and known.clients > 1

    def _confidence(self, pair: Pair, found: Rhythm) -> Confidence:
        sure = (
            self._known.is_new(pair.known)
            and pair.known.clients <= LONE
            and pair.rcode == 0
            and pair.addresses.bit_count() <= STEADY
            and pair.driven < DRIVEN
            and pair.seen >= CONTACTS
            and pair.last - pair.first >= LONG
            and found.advantage >= _SURE
            and (found.jitter <= EXACT or found.above_floor >= -_FLOOR[-1])
        )
        return Confidence.MEDIUM if sure else Confidence.LOW

    def _may_say(self, client: bytes, found: Rhythm, confidence: Confidence, now: int) -> bool:
        if found.jitter > EXACT or confidence > Confidence.LOW:
            return True
        key = (client, round(log(found.period) / SAME))
        said = self._said.get(key)
        count = said[1] if said is not None and now - said[0] < AGAIN else 0
        self._said.put(key, (now, count + 1))
        self._monitors += count >= MOST_SAID
        return count < MOST_SAID

    def _finding(self, key: tuple[bytes, Name], pair: Pair, found: Rhythm, confidence: Confidence) -> Finding:
        client, domain = str(ip_address(key[0])), to_text(key[1])
        new = self._known.is_new(pair.known)
        reason = (
            f"{client} asks for {domain} every {_span(found.period)}, give or take {found.jitter:.0%}, "
            f"{pair.seen} times in {_span(pair.last - pair.first)}; "
            f"{_others(pair.known.clients)}{', and it is new here' if new else ''}"
        )
        evidence = (
            Evidence("period_seconds", round(found.period, 1), self._settings.longest),
            Evidence("jitter", found.jitter, self._settings.jitter),
            Evidence("advantage_nats", round(found.advantage, 2), self._settings.advantage),
            Evidence("explained_share", round(found.explained, 3), 0.5),
            Evidence("contacts", pair.seen, self._settings.contacts),
            Evidence("days", pair.days, 1),
            Evidence("clients", pair.known.clients, self._settings.clients),
            Evidence("ttl_driven_share", round(pair.driven, 3), DRIVEN),
        )
        score = found.explained * (1.0 if confidence > Confidence.LOW else 0.5)
        return Finding(self.name, client, domain, round(score, 3), confidence, reason, evidence)

    def _unpacked(self, client: bytes, domain: Name, fields: list[Any]) -> Pair:
        times, first, merge, seen, day, days, matched, early, late, addresses, rcode, said = fields
        at = array("I", times)
        pair = Pair(self._known.meet(domain, client, at[-1]), first)
        pair.times, pair.last = at, at[-1]
        pair.merge, pair.seen, pair.day, pair.days = merge, seen, day, days
        pair.matched, pair.early, pair.late = matched, early, late
        pair.addresses, pair.rcode, pair.said = int.from_bytes(addresses, "big"), rcode, said
        return pair


def _packed(pair: Pair) -> tuple[Any, ...]:
    return (
        list(pair.times),
        pair.first,
        pair.merge,
        pair.seen,
        pair.day,
        pair.days,
        pair.matched,
        pair.early,
        pair.late,
        pair.addresses.to_bytes(8, "big"),
        pair.rcode,
        pair.said,
    )


def _widen(pair: Pair) -> None:
    """Let a busy pair's bursts count as one contact each, so that the ring reaches back further."""
    begun = contacts(pair.times)
    if len(pair.times) < RING - CUT or len(begun) < 2:
        return
    pair.merge = min(max(MERGE, (begun[-1] - begun[0]) // (8 * len(begun))), WIDEST)
    pair.times = array("I", begun)


def _others(clients: int) -> str:
    return "nobody else here does" if clients <= 1 else f"{clients} clients here do"


def _span(seconds: float) -> str:
    for unit, length in (("days", DAY), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
