"""The files with the lists of networks that guards go by, looked at now and then: the updater may have renewed them.

Rules:
1. A look is three calls of stat, every LOOK seconds; reading takes a second and is for a thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from egress.range_lists import KINDS, Lists, file_name, load_lists

if TYPE_CHECKING:
    from pathlib import Path

LOOK: Final = 180.0  # seconds between two looks


class RangeFiles:
    """The lists that ship and the newer ones in a folder."""

    def __init__(self, folder: Path, *, now: float) -> None:
        """The first look is due LOOK seconds after `now`; what is there now counts as known."""
        self._folder = folder
        self._due = now + LOOK
        self._known = self._stamps()

    def changed(self, now: float) -> bool:
        """Look when it is time; true when a file came, went or was replaced since `read` or the start."""
        if self._due - LOOK <= now < self._due:
            return False
        self._due = now + LOOK
        return self._stamps() != self._known

    def read(self) -> Lists:
        """Return the lists; what is replaced meanwhile is noticed at the next look. Raises BadFeed, OSError."""
        self._known = self._stamps()
        return load_lists(self._folder)

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        return tuple(_stamp(self._folder / file_name(kind)) for kind in KINDS)


def _stamp(path: Path) -> tuple[int, int]:
    """Return what a file has of its own for as long as nobody replaces or writes it."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
