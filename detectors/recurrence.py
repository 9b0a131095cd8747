"""Which pairs come back: a fixed table of counts, so that only those are remembered in full.

Rules:
1. A pair has two places it may take (two-choice hashing, Azar et al. 1999), of 8 octets each: 20 bits of its hash,
   12 of a count, 32 of when it was last asked for. A stranger takes an empty place or the one unused for longest.
2. Two pairs that share 20 bits and a place count as one: one in 500,000 at most, and it costs a ring, no more.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.names import Name

PLACE: Final = 8  # octets
_TIME: Final = 0xFFFF_FFFF
_ONE: Final = 1 << 32
_TAG_AT: Final = 44
_MOST_BITS: Final = 22


class Recurrence:
    """Counts of pairs in `1 << bits` places, at most 22 bits (32 MiB). `displaced` counts who lost a place."""

    def __init__(self, bits: int) -> None:
        self._mask = (1 << min(bits, _MOST_BITS)) - 1
        self._places = array("Q", bytes(PLACE * (self._mask + 1)))
        self.displaced = 0

    def __len__(self) -> int:
        return len(self._places)

    def again(self, pair: tuple[bytes, Name], at: int, *, merge: int) -> tuple[int, int]:
        """Count a contact; returns how many there were and when the one before was.

        What follows within `merge` seconds is the same contact; the count is 0 then.
        """
        hashed = hash(pair) & 0xFFFF_FFFF_FFFF_FFFF
        tag = hashed >> _TAG_AT
        places = self._places
        one = hashed & self._mask
        held = places[one]
        if held >> _TAG_AT != tag or not held:
            two = hashed >> 22 & self._mask
            other = places[two]
            if other >> _TAG_AT != tag or not other:
                self._settle(one if held & _TIME <= other & _TIME else two, tag << _TAG_AT | _ONE | at)
                return 1, at
            one, held = two, other
        last = held & _TIME
        if at - last < merge:
            return 0, last
        count = (held >> 32 & 0xFFF) + 1
        places[one] = tag << _TAG_AT | min(count, 0xFFF) << 32 | at
        return count, last

    def forget(self, pair: tuple[bytes, Name]) -> None:
        """Free the place of a pair that is remembered in full from now on."""
        hashed = hash(pair) & 0xFFFF_FFFF_FFFF_FFFF
        for place in (hashed & self._mask, hashed >> 22 & self._mask):
            if self._places[place] >> _TAG_AT == hashed >> _TAG_AT:
                self._places[place] = 0

    def _settle(self, place: int, value: int) -> None:
        if self._places[place]:
            self.displaced += 1
        self._places[place] = value
