"""The one rule by which findings about a client and a domain become one level.

Rules:
1. One HIGH finding is HIGH. One MEDIUM is MEDIUM, two of MEDIUM are HIGH when they rest on different kinds of evidence.
2. LOW adds up to nothing: its precision is not known. Two detectors that look at the same thing err together.
3. A finding counts for FADE seconds.

Why rule 1 holds: findings of precision 0.9 at a base rate of 1 in 1,000 raise the odds 9,000 times each; where their
errors are independent, two leave odds of far more than 99 to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from core.finding import Confidence

if TYPE_CHECKING:
    from collections.abc import Mapping

COMBINED: Final = "combined"  # the detector of a finding that is the engine's own
FADE: Final = 86_400.0  # seconds
_NAMES: Final = "names"  # how many names, what they look like, and that they fail
KINDS: Final[Mapping[str, str]] = {  # what a detector looks at
    "leak": _NAMES, "tunnel": _NAMES, "dga": _NAMES, "storm": _NAMES, "beacon": "rhythm", "flux": "hosting",
    "young": "age", "lookalike": "likeness", "bypass": "route",
}  # fmt: skip


class Said(NamedTuple):
    """What a detector said last about a pair, and whether it may block."""

    confidence: Confidence
    at: float  # Unix seconds
    blocks: bool


class Level(NamedTuple):
    """How sure all findings together are, and which detectors make it so."""

    confidence: Confidence
    detectors: tuple[str, ...]


def combined(said: Mapping[str, Said], now: float) -> Level | None:
    """Return the level of a pair from what each detector said about it; None when nothing counts any more."""
    live = {name: one for name, one in said.items() if now - one.at < FADE}
    if not live:
        return None
    top = max(one.confidence for one in live.values())
    names = tuple(sorted(name for name, one in live.items() if one.confidence == top))
    if top is Confidence.MEDIUM and len({KINDS.get(part_of(name), name) for name in names}) > 1:
        return Level(Confidence.HIGH, names)
    return Level(top, names)


def part_of(detector: str) -> str:
    """Return the detector whose table governs a finding: `dga` for `dga-lookalike-scan`."""
    return detector.partition("-")[0]
