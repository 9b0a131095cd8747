"""Convictions: which client may not ask for which domain until when, and what people say against it.

Rules:
1. A conviction is about one client and one registered domain, or about a domain for every client (ANYBODY); never
   about a client whatever it asks for.
2. It ends by itself: after FIRST seconds, twice as long each time the pair is convicted again, at most LONGEST. What
   keeps coming keeps it alive.
3. What a person allows is neither blocked nor alerted about; what a person snoozes is blocked without an alert.
4. Past the cap the hundredth of convictions that would end first goes, and is counted.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import UNREADABLE
from detectors.bounded import Bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ANYBODY: Final = "*"  # every client
EVERYWHERE: Final = frozenset(("", ".", "*"))  # domains of findings that are about no single one
FIRST: Final = 86_400.0  # seconds
LONGEST: Final = 30 * 86_400.0  # seconds
MAX_CONVICTIONS: Final = 50_000  # about 500 octets each
MAX_EXEMPTIONS: Final = 10_000  # each of allow and snooze
MAX_RECORD: Final = 50_000  # pairs whose number of convictions is remembered after they ended
FOREVER: Final = float("inf")

Key = tuple[str, str]  # client or ANYBODY, domain


class Conviction(msgspec.Struct, frozen=True):
    """That `client` may not ask for `domain`. Times are Unix seconds."""

    client: str
    domain: str
    since: float
    until: float
    detectors: tuple[str, ...]
    reason: str
    times: int = 1  # how often the pair was convicted


class Convictions:
    """The convictions in force."""

    def __init__(self, cap: int = MAX_CONVICTIONS) -> None:
        self._cap = cap
        self._held: dict[Key, Conviction] = {}
        self._record: Bounded[Key, int] = Bounded(MAX_RECORD)
        self._dropped = 0
        self._ended = 0

    def __len__(self) -> int:
        return len(self._held)

    def convict(self, key: Key, detectors: tuple[str, ...], reason: str, now: float) -> Conviction | None:
        """Convict the pair, or keep its conviction alive; returns the conviction when it is a new one."""
        held = self.standing(key, now)
        if held is not None:
            longer = max(held.until, now + _length(held.times))
            named = tuple(sorted({*held.detectors, *detectors}))
            self._held[key] = msgspec.structs.replace(held, until=longer, detectors=named)
            return None
        times = (self._record.get(key) or 0) + 1
        self._record.put(key, times)
        self._make_room(now)
        made = self._held[key] = Conviction(*key, now, now + _length(times), detectors, reason, times)
        return made

    def standing(self, key: Key, now: float) -> Conviction | None:
        """Return the conviction of exactly this pair, None when there is none or it is over."""
        held = self._held.get(key)
        if held is None or held.until > now:
            return held
        del self._held[key]
        self._ended += 1
        return None

    def forget(self, key: Key) -> bool:
        """Take a conviction back, and how often there was one; false when there was none."""
        self._record.pop(key)
        return self._held.pop(key, None) is not None

    def all(self, now: float) -> list[Conviction]:
        """Return the convictions in force, the latest first."""
        self._expire(now)
        return sorted(self._held.values(), key=lambda one: -one.since)

    def counters(self) -> Mapping[str, int]:
        """Return how many there are, how many ended by themselves, and how many were dropped at the cap."""
        return {"convictions": len(self._held), "ended": self._ended, "dropped_convictions": self._dropped}

    def dump(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "held": msgspec.to_builtins(list(self._held.values())),
            "record": [[*it] for it in self._record.items()],
        }

    def load(self, state: Mapping[str, Any], now: float) -> None:
        """Take up what `dump` returned, less what is over by now; what does not fit is left out."""
        for given in _listed(state.get("held")):
            try:
                one = msgspec.convert(given, Conviction)
            except UNREADABLE:
                continue
            if one.until > now and len(self._held) < self._cap:
                self._held[one.client, one.domain] = one
        for given in _listed(state.get("record")):
            try:
                key, times = msgspec.convert(given, tuple[Key, int])
            except UNREADABLE:
                continue
            self._record.put(key, times)

    def _make_room(self, now: float) -> None:
        if len(self._held) < self._cap:
            return
        self._expire(now)
        if len(self._held) < self._cap:
            return
        first = nsmallest(max(self._cap // 100, 1), self._held.items(), key=lambda one: one[1].until)
        for key, _ in first:
            del self._held[key]
        self._dropped += len(first)

    def _expire(self, now: float) -> None:
        over = [key for key, one in self._held.items() if one.until <= now]
        self._ended += len(over)
        for key in over:
            del self._held[key]


class Exemptions:
    """What people said: pairs that are allowed, and pairs of which nobody wants to hear for a while."""

    def __init__(self) -> None:
        self._allowed: Bounded[Key, float] = Bounded(MAX_EXEMPTIONS)
        self._snoozed: Bounded[tuple[str, str, str], float] = Bounded(MAX_EXEMPTIONS)

    def allow(self, key: Key, until: float = FOREVER) -> None:
        """Neither block nor alert about the domain and what lies below it, for this client or for ANYBODY."""
        self._allowed.put(key, until)

    def snooze(self, key: Key, until: float, detector: str = "") -> None:
        """Raise no alert about the pair until then, of one detector or of all (empty); blocking goes on."""
        self._snoozed.put((*key, detector), until)

    def forget(self, key: Key) -> None:
        """Take back what was said about the pair."""
        self._allowed.pop(key)
        for known in [one for one, _ in self._snoozed.items() if one[:2] == key]:
            self._snoozed.pop(known)

    def allows(self, key: Key, now: float) -> bool:
        """True when the domain or one above it is allowed to the client or to anybody."""
        if not len(self._allowed):
            return False
        client, domain = key
        return any(
            (self._allowed.get((who, above)) or 0.0) > now for above in _upwards(domain) for who in (client, ANYBODY)
        )

    def snoozes(self, key: Key, detector: str, now: float) -> bool:
        """True when no alert of the detector about the pair is wanted now."""
        if not len(self._snoozed):
            return False
        client, domain = key
        keys = ((who, domain, which) for who in (client, ANYBODY) for which in (detector, ""))
        return any((self._snoozed.get(one) or 0.0) > now for one in keys)

    def counters(self) -> Mapping[str, int]:
        """Return how much was said, and how much was forgotten at the caps."""
        dropped = self._allowed.dropped + self._snoozed.dropped
        return {"allowed": len(self._allowed), "snoozed": len(self._snoozed), "dropped_exemptions": dropped}

    def dump(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "allowed": [[*key, until] for key, until in self._allowed.items()],
            "snoozed": [[*key, until] for key, until in self._snoozed.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; what does not fit is left out."""
        for given in _listed(state.get("allowed")):
            try:
                client, domain, until = msgspec.convert(given, tuple[str, str, float])
            except UNREADABLE:
                continue
            self._allowed.put((client, domain), until)
        for given in _listed(state.get("snoozed")):
            try:
                client, domain, detector, until = msgspec.convert(given, tuple[str, str, str, float])
            except UNREADABLE:
                continue
            self._snoozed.put((client, domain, detector), until)


def is_about_one(domain: str) -> bool:
    """True for a finding's domain that a conviction can be about."""
    return domain not in EVERYWHERE and "." in domain


def _length(times: int) -> float:
    return min(FIRST * 2.0 ** min(times - 1, 16), LONGEST)


def _upwards(domain: str) -> Iterable[str]:
    parts = domain.split(".")
    return (".".join(parts[at:]) for at in range(len(parts)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
