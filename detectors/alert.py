"""Alerts: findings for people, repeats of one thing within an hour merged into one.

Rules:
1. One alert is about a client, a domain and a detector in one hour; what repeats it raises its count, its last moment
   and, when it is surer, its confidence, score, reason and evidence.
2. An alert is handed out when it is new, and again after it changed. Past the caps the oldest goes, and is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from core.finding import Confidence, Evidence, Finding
from detectors.bounded import Bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR: Final = 3_600  # seconds
MAX_ALERTS: Final = 20_000  # of the hour at hand, about 1 kB each
MAX_WAITING: Final = 4_096  # changed and not taken yet

Key = tuple[str, str, str, int]


class Alert(msgspec.Struct, frozen=True):
    """What was found about a client and a domain by a detector within an hour. Times are Unix seconds."""

    client: str
    domain: str
    detector: str
    hour: int  # Unix time / 3600
    confidence: Confidence
    score: float
    reason: str
    evidence: tuple[Evidence, ...]
    first: float
    last: float
    count: int = 1
    blocks: bool = False  # it convicted the pair, or helped to


class Alerts:
    """The alerts of the hour at hand and those nobody has taken yet."""

    def __init__(self) -> None:
        self._known: Bounded[Key, Alert] = Bounded(MAX_ALERTS)
        self._waiting: dict[Key, Alert] = {}
        self._dropped = 0
        self._raised = 0

    def raise_(self, finding: Finding, now: float, *, blocks: bool) -> Alert:
        """Make an alert of a finding, or merge it into the one there is."""
        key = (finding.client, finding.domain, finding.detector, int(now // HOUR))
        before = self._known.get(key)
        if before is None:
            self._raised += 1
            alert = Alert(
                finding.client, finding.domain, finding.detector, key[3], finding.confidence, finding.score,
                finding.reason, finding.evidence, now, now, 1, blocks,
            )  # fmt: skip
        else:
            alert = _merge(before, finding, now, blocks=blocks)
        self._known.put(key, alert)
        self._waiting[key] = alert
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1
        return alert

    def take(self) -> list[Alert]:
        """Return the alerts that are new or have changed since the last call, oldest first."""
        taken, self._waiting = list(self._waiting.values()), {}
        return taken

    def counters(self) -> Mapping[str, int]:
        """Return how many were raised, how many are held, and how many were lost at the caps."""
        return {
            "raised": self._raised,
            "alerts": len(self._known),
            "dropped_alerts": self._dropped + self._known.dropped,
        }

    def dump(self) -> list[Alert]:
        """Return the alerts of the hour at hand."""
        return [alert for _, alert in self._known.items()]

    def load(self, alerts: list[Alert]) -> None:
        """Take up what `dump` returned, so that a restart does not alert twice within the hour."""
        for alert in alerts:
            self._known.put((alert.client, alert.domain, alert.detector, alert.hour), alert)


def _merge(before: Alert, finding: Finding, now: float, *, blocks: bool) -> Alert:
    surer = (finding.confidence, finding.score) > (before.confidence, before.score)
    said = finding if surer else before
    return msgspec.structs.replace(
        before, confidence=said.confidence, score=said.score, reason=said.reason, evidence=said.evidence, last=now,
        count=before.count + 1, blocks=before.blocks or blocks,
    )  # fmt: skip
