"""The leak meter at work: every question is charged before it leaves the building, and the one too many is not sent.

Rules:
1. Names that are answered inside are never metered: local ones never come here, those of `[[upstream.zone]]` pass.
2. What an analyst allows is metered and passes. What a feed allows is metered like everything: data leave through
   trusted domains, too.
3. The hub hears of a finding once an hour a pair and level, so that an alert on the way does not hide the block; each
   blocked question is an event besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.finding import Confidence
from core.verdict import Action, Cause, Reason, Verdict
from detectors.sight import domain_of_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from core.finding import Finding
    from core.names import Name
    from detectors.leak import LeakMeter
    from resolver.policy import Ruling

LEAST_TTL: Final = 60  # seconds an answer of a domain under watch is kept: names asked again carry bits, too
MAX_FOUND: Final = 1_000  # findings that wait for the hub
MAX_TOLD: Final = 10_000  # pairs told of in this hour
HOUR: Final = 3_600  # seconds
_NAMES: Final = {Confidence.LOW: 30, Confidence.MEDIUM: 60, Confidence.HIGH: 95}  # confidence in percent, as feeds have


class Metering:
    """The meter of one worker's clients, and what it found for the hub. Time is Unix seconds."""

    def __init__(self, meter: LeakMeter, inside: Iterable[Name], wall: Callable[[], float]) -> None:
        """`inside`: zones whose names do not leave."""
        self.meter = meter
        self.unheard = 0  # findings the hub was not told of
        self._inside = frozenset(inside)
        self._wall = wall
        self._found: list[Finding] = []
        self._told: set[tuple[str, str, Confidence]] = set()
        self._hour = 0

    def weigh(self, client: bytes, keys: list[Name], qtype: int, ruling: Ruling) -> Verdict | None:
        """Charge a question that is about to leave; returns why it must not, or None."""
        if self._inside and not self._inside.isdisjoint(keys):
            return None
        finding = self.meter.check(self._wall(), client, domain_of_keys(keys), keys[0], qtype) if keys else None
        if finding is None:
            return None
        if ruling.action is Action.PASSTHRU and ruling.cause is Cause.OVERRIDE:
            return None
        self._tell(finding)
        return verdict_of(finding)

    def answered(self, client: bytes, keys: list[Name], qtype: int, rcode: int, addresses: tuple[bytes, ...]) -> None:
        """Take in what a question came to."""
        if keys:
            self.meter.answered(self._wall(), client, domain_of_keys(keys), qtype, rcode, addresses)

    def watches(self, keys: list[Name]) -> bool:
        """True for a name of a domain that got more than a glance."""
        return len(keys) > 0 and self.meter.watches(domain_of_keys(keys))

    def second(self) -> list[Finding]:
        """Do what is due once a second; returns what the hub is to hear."""
        now = self._wall()
        self.meter.tick(now)
        for finding in self.meter.take_alerts():
            self._tell(finding)
        if int(now) // HOUR != self._hour:
            self._hour = int(now) // HOUR
            self._told.clear()
        found, self._found = self._found, []
        return found

    def counters(self) -> dict[str, int]:
        """Return what the meter counts, and findings the hub was not told of."""
        return {"unheard": self.unheard, **self.meter.counters()}

    def _tell(self, finding: Finding) -> None:
        pair = (finding.client, finding.domain, finding.confidence)
        if pair in self._told:
            return
        if len(self._found) >= MAX_FOUND or len(self._told) >= MAX_TOLD:
            self.unheard += 1
            return
        self._told.add(pair)
        self._found.append(finding)


def verdict_of(finding: Finding) -> Verdict:
    """Return what a finding does to a question: the sinkhole, with the detector's own words."""
    reason = Reason(
        Cause.DETECTOR, Action.SINKHOLE, finding.detector, finding.domain, "exfiltration", _NAMES[finding.confidence],
        finding.reason,
    )  # fmt: skip
    return Verdict(Action.SINKHOLE, Cause.DETECTOR, (reason,))
