"""Questions the hub asks for itself: a bounded queue before an engine, each question once, so many at a time.

Rules:
1. What is queued or under way is not asked again; who asked joins.
2. Past MAX_QUEUED questions the newest are dropped and counted; so many are put in a second.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from core.errors import Malformed
from resolver.truth import Truth, read_truth
from resolver.upstream import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name
    from resolver.upstream import Answer, Upstream

MAX_QUEUED: Final = 10_000  # questions
MAX_IN_FLIGHT: Final = 64
PER_SECOND: Final = 200
BURST: Final = 2  # seconds whose questions may be put at once


class Lookups:
    """Asks `engine`, None for nobody; `learnt` is called with each question and what is true, on the event loop."""

    def __init__(
        self,
        engine: Upstream | None,
        learnt: Callable[[Name, int, Truth | None], None],
        *,
        per_second: int = PER_SECOND,
    ) -> None:
        """`learnt` gets None in place of a Truth when nobody answered."""
        self.asked = self.failed = self.dropped = 0
        self._engine = engine
        self._learnt = learnt
        self._queue: deque[tuple[Name, int]] = deque()
        self._known: set[tuple[Name, int]] = set()  # queued or under way
        self._flying = 0
        self._pumping = False
        self._per_second = per_second
        self._room = float(per_second * BURST)
        self._at = 0.0

    @property
    def full(self) -> bool:
        """True when one more question would be dropped."""
        return len(self._queue) >= MAX_QUEUED

    def ask(self, name: Name, rtype: int) -> bool:
        """Have a question asked as soon as there is room; False when it was dropped."""
        key = (name, rtype)
        if key in self._known:
            return True
        if self._engine is None:
            return False
        if self.full:
            self.dropped += 1
            return False
        self._known.add(key)
        self._queue.append(key)
        return True

    def pump(self, now: float) -> None:
        """Put what may be put now, Unix seconds."""
        engine = self._engine
        if engine is None or not self._queue or self._pumping:
            return
        self._pumping = True  # an engine that refuses calls back at once
        passed = now - self._at
        self._room = (
            min(self._room + passed * self._per_second, self._per_second * BURST) if passed >= 0 else self._room
        )
        self._at = now
        while self._queue and self._flying < MAX_IN_FLIGHT and self._room >= 1:
            name, rtype = self._queue.popleft()
            self._flying += 1
            self._room -= 1
            self.asked += 1
            engine.ask(Question(name, rtype), partial(self._arrived, name, rtype))
        self._pumping = False

    def counters(self) -> dict[str, int]:
        """Return questions asked, failed, dropped, queued and in flight."""
        return {
            "asked": self.asked,
            "failed": self.failed,
            "dropped": self.dropped,
            "queued": len(self._queue),
            "in_flight": self._flying,
        }

    def _arrived(self, name: Name, rtype: int, answer: Answer) -> None:
        self._flying -= 1
        self._known.discard((name, rtype))
        truth = _truth(name, answer)
        self.failed += truth is None
        self._learnt(name, rtype, truth)


def _truth(name: Name, answer: Answer) -> Truth | None:
    if not answer.wire:
        return None
    try:
        return read_truth(answer.wire, name)
    except Malformed:
        return None
