"""Tables that never outgrow a cap: a map of two generations, and a memory of what was said already.

Rules:
1. A table holds at most `cap` entries. A generation takes half of it; when the young one is full the old one is
   dropped whole, so what was used recently stays and no use costs more than two look-ups (a second-chance cache).
2. What is dropped is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")

MIN_CAP: Final = 2  # entries: one a generation


class Bounded(Generic[K, V]):
    """A map of at most `cap` entries that forgets what was not used lately. `dropped` counts what it forgot."""

    def __init__(self, cap: int) -> None:
        self.cap = max(cap, MIN_CAP)
        self.dropped = 0
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __contains__(self, key: K) -> bool:
        """True when the key is held; does not count as a use."""
        return key in self._young or key in self._old

    def get(self, key: K) -> V | None:
        """Return the value, which counts as a use, or None."""
        found = self._young.get(key)
        if found is None and key in self._old:
            found = self._old.pop(key)
            self._keep(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Set the value of a key."""
        if key in self._young:
            self._young[key] = value
            return
        self._old.pop(key, None)
        self._keep(key, value)

    def pop(self, key: K) -> V | None:
        """Take the key out and return its value, or None."""
        if key in self._young:
            return self._young.pop(key)
        return self._old.pop(key, None)

    def clear(self) -> None:
        """Forget everything; nothing is counted as dropped."""
        self._young, self._old = {}, {}

    def turn(self) -> None:
        """Drop the old generation; the young one becomes old. Done by itself when the young one is full."""
        self.dropped += len(self._old)
        self._young, self._old = {}, self._young

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield every entry, the longest unused generation first; the table must not change meanwhile."""
        yield from self._old.items()
        yield from self._young.items()

    def _keep(self, key: K, value: V) -> None:
        if len(self._young) >= self.cap // 2:
            self.turn()
        self._young[key] = value


class Said(Generic[K]):
    """When something was said last, so that it is not said again before `every` seconds have passed."""

    def __init__(self, cap: int, *, every: float) -> None:
        self._every = every
        self._last: Bounded[K, float] = Bounded(cap)

    def __len__(self) -> int:
        return len(self._last)

    @property
    def dropped(self) -> int:
        """How many were forgotten at the cap; each of them may be said twice."""
        return self._last.dropped

    def due(self, key: K, now: float) -> bool:
        """True when it was not said within `every` seconds; it counts as said now then."""
        last = self._last.get(key)
        if last is not None and now - last < self._every:
            return False
        self._last.put(key, now)
        return True

    def dump(self) -> list[tuple[K, float]]:
        """Return the keys with their times in Unix seconds, oldest generation first."""
        return list(self._last.items())

    def load(self, entries: list[tuple[K, float]]) -> None:
        """Take up what `dump` returned."""
        for key, at in entries:
            self._last.put(key, at)
