"""Reasons as readers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.verdict import Reason


def as_rows(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    """Return the reasons as dicts with the keys of docs/log.md, in their order: the deciding one first."""
    return [
        {
            "source": reason.source,
            "indicator": reason.indicator,
            "category": reason.category,
            "confidence": reason.confidence,
            "action": reason.action.name,
            "cause": reason.cause.name.lower(),
            "text": reason.text,
        }
        for reason in reasons
    ]
