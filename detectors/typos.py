"""Names one slip of a finger, an eye or a bit away from a known one, found without trying them all.

Rules:
1. Two words differ by one slip only if both, or each less one letter, share a form; so a table of every known word
   less one letter answers with one look-up a letter (the deletion neighbourhood of Mor and Fraenkel, 1982).
2. `slip` then says which kind it is. STRONG kinds are those people and hardware make and squatters register; OTHER
   and VOWEL are weaker, and NUMBER is no sign at all.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OMISSION: Final = "a letter left out"
DOUBLING: Final = "a letter doubled"
SWAP: Final = "two letters swapped"
NEIGHBOUR: Final = "a neighbouring key"
BIT: Final = "one bit flipped"
HYPHEN: Final = "a hyphen more or less"
VOWEL: Final = "another vowel"
OTHER: Final = "one letter different"
NUMBER: Final = "another number"  # a series: `mirror2` and `mirror3` are one owner's
STRONG: Final = frozenset((OMISSION, DOUBLING, SWAP, NEIGHBOUR, BIT, HYPHEN))

_ROWS: Final = ("1234567890-", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_VOWELS: Final = frozenset("aeiouy")


class Neighbourhood:
    """The known words, to be asked which of them lie one slip from another word."""

    def __init__(self, words: Iterable[str]) -> None:
        self._forms: dict[str, list[str]] = {}
        for word in words:
            for form in {word, *_shortened(word)}:
                self._forms.setdefault(form, []).append(word)

    def near(self, word: str) -> Iterator[tuple[str, str]]:
        """Yield (known word, kind of slip) for each known word one slip away."""
        seen = set()
        for form in (word, *_shortened(word)):
            for known in self._forms.get(form, ()):
                if known not in seen:
                    seen.add(known)
                    if (kind := slip(known, word)) is not None:
                        yield known, kind


def slip(known: str, word: str) -> str | None:
    """Return how `word` comes from `known` by one slip, or None when it does not."""
    if known == word:
        return None
    at = _common(known, word)
    left, right = known[at:], word[at:]
    if left and right and left[1:] == right[1:]:
        return _replaced(left[0], right[0])
    if left[1:] == right:
        return HYPHEN if left[0] == "-" else NUMBER if left[0].isdigit() else OMISSION
    if left == right[1:]:
        return _inserted(word, at)
    if left[:2] == right[1::-1] and left[2:] == right[2:]:
        return NUMBER if left[:2].isdigit() else SWAP
    return None


def _common(one: str, other: str) -> int:
    at = 0
    while at < len(one) and at < len(other) and one[at] == other[at]:
        at += 1
    return at


def _replaced(old: str, new: str) -> str:
    if old.isdigit() and new.isdigit():
        return NUMBER
    if new in _neighbours().get(old, ""):
        return NEIGHBOUR
    if (ord(old) ^ ord(new)).bit_count() == 1:
        return BIT
    return VOWEL if old in _VOWELS and new in _VOWELS else OTHER


def _inserted(word: str, at: int) -> str:
    """Name an insertion found at `at`; behind a run of equal letters it is found at the end of the run."""
    new = word[at]
    around = word[at - 1 : at] + word[at + 1 : at + 2]
    if new == "-":
        return HYPHEN
    if new.isdigit() and any(key.isdigit() for key in around):
        return NUMBER
    if new in around:
        return DOUBLING
    return NEIGHBOUR if any(new in _neighbours().get(key, "") for key in around) else OTHER


def _shortened(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at in range(len(word))]


@cache
def _neighbours() -> dict[str, str]:
    """Return the keys that touch each key of a QWERTY board; rows are shifted by half a key."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        above = _ROWS[row - 1] if row else ""
        below = _ROWS[row + 1] if row + 1 < len(_ROWS) else ""
        for at, key in enumerate(keys):
            near = keys[max(at - 1, 0) : at] + keys[at + 1 : at + 2]
            found[key] = near + above[at : at + 2] + below[max(at - 1, 0) : at + 1]
    return found
