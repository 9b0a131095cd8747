"""What a detector says: how sure it is, in words, with the values and thresholds it looked at."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Confidence(IntEnum):
    """Confidence as measured precision on evaluation data: MEDIUM at least 0.9, HIGH at least 0.99."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Evidence(msgspec.Struct, frozen=True, array_like=True):
    """One named value beside the threshold it was held against."""

    name: str
    value: float
    threshold: float


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """A suspicion about a client and a registered domain."""

    detector: str
    client: str
    domain: str
    score: float  # 0-1, comparable only within one detector
    confidence: Confidence
    reason: str
    evidence: tuple[Evidence, ...] = ()
    tool: str = ""  # the program whose protocol it is, where that is known
