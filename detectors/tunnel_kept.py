"""How the tunnel detector's pairs are kept over a restart: as plain values, checked when they come back."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from detectors.tunnel_pair import SHARES, Mark, Pair

_COUNTED: Final = (
    "questions", "fresh", "octets", "encoded_octets", "names", "answers", "tool", "why", "points", "said", "said_at",
)  # fmt: skip


class _Mark(msgspec.Struct):
    tool: str
    why: str
    points: float = 0.0
    at: float = 0.0
    last: bytes = b""
    tokens: list[bytes] = []


class _Pair(msgspec.Struct):
    questions: int = 0
    fresh: int = 0
    octets: int = 0
    encoded_octets: int = 0
    shares: dict[str, float] = {}
    names: bytes = b""
    answers: bytes = b""
    marks: dict[bytes, _Mark] = {}
    tool: str = ""
    why: str = ""
    points: float = 0.0
    said: int = 0
    said_at: float = 0.0


def keep(pair: Pair) -> dict[str, Any]:
    """Return a pair as plain values."""
    found: dict[str, Any] = {field: getattr(pair, field) for field in _COUNTED}
    found["shares"] = {field: getattr(pair.shares, field) for field in SHARES}
    found["marks"] = {
        key: {field: getattr(mark, field) for field in _Mark.__struct_fields__} for key, mark in pair.marks.items()
    }
    return found


def restore(values: object) -> Pair:
    """Return the pair of which these are the values; raises msgspec.ValidationError when they are none."""
    kept = msgspec.convert(values, _Pair)
    pair = Pair()
    for field in _COUNTED:
        setattr(pair, field, getattr(kept, field))
    for field in SHARES:
        setattr(pair.shares, field, kept.shares.get(field, 0.0))
    for key, told in kept.marks.items():
        mark = pair.marks[key] = Mark(told.tool, told.why, told.at)
        mark.points, mark.last, mark.tokens = told.points, told.last, told.tokens
    return pair
