"""The agent's clock: Unix seconds that go on by those that passed, whatever somebody sets the wall clock to.

A firewall counts a block's seconds down, so an end that moved with the wall clock would be another end. What the
agent knows is moved instead, once, when `jump` says so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP: Final = 2.0  # seconds; less is drift


class Clock:
    """A wall clock that does not jump by itself."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._ahead = wall() - monotonic()

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self._monotonic() + self._ahead

    def jump(self) -> float:
        """Return by how many seconds the wall clock was set since the last call, 0 for drift, and go by it from now on.

        What was known by the old time has to be moved by as much.
        """
        by = self._wall() - self()
        if abs(by) <= JUMP:
            return 0.0
        self._ahead += by
        return by
