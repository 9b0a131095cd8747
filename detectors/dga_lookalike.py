"""Whether failed names are look-alikes of ONE name: somebody scans for squatters, no generator is at work.

Rules:
1. The name in the middle is what most names are without one of their characters, or the majority, character by
   character, of the names of a common length.
2. Nearly all names lie within two edits of it (restricted Damerau-Levenshtein distance), and the edits begin at many
   places: names that differ in one corner only are counters or a generator with a fixed piece. Half of the names may
   as well BE the middle, under other suffixes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISTANCE: Final = 2  # edits
MIN_LENGTH: Final = 6  # characters; among shorter names anything lies within two edits
SHARE: Final = 0.9  # of the names; encoded homoglyphs (xn--) may lie further off
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-"
PLACES: Final = 2  # where edits begin, at least
SPAN: Final = 3  # characters between the first and the last of those places, at least
SPREAD: Final = 0.4  # of the edited names, or of the characters of the middle, whichever is less
LENGTHS: Final = 3  # of the commonest lengths of names, that are tried for the middle
TRIED: Final = 4  # names with a character taken out, likewise


def middle(labels: Sequence[str]) -> str | None:
    """Return the label all these are look-alikes of, None when there is none."""
    plain = [label for label in labels if not label.startswith("xn--")]
    if 2 * len(plain) < len(labels) or not plain:
        return None
    return next((centre for centre in _candidates(plain) if _surrounds(centre, plain)), None)


def _surrounds(centre: str, labels: Sequence[str]) -> bool:
    if len(centre) < MIN_LENGTH:
        return False
    allowed = int((1 - SHARE) * len(labels))
    for label in labels:
        if not within(label, centre):
            allowed -= 1
            if allowed < 0:
                return False
    edited = [label for label in labels if label != centre]
    if 2 * len(edited) <= len(labels):
        return True
    places = {_shared(label, centre) for label in edited}
    spread = len(places) >= max(PLACES, SPREAD * min(len(edited), len(centre)))
    return spread and max(places) - min(places) >= SPAN


def within(one: str, other: str) -> bool:
    """True when at most DISTANCE edits lie between two labels; swapping neighbours is one edit."""
    # An edit takes at most one character from what a label is made of and adds one.
    if abs(len(one) - len(other)) > DISTANCE or len(set(one) ^ set(other)) > 2 * DISTANCE:
        return False
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, char in enumerate(one, 1):
        now = [row]
        for column, against in enumerate(other, 1):
            best = min(last[column] + 1, now[-1] + 1, last[column - 1] + (char != against))
            if row > 1 and column > 1 and char == other[column - 2] and one[row - 2] == against:
                best = min(best, before[column - 2] + 1)
            now.append(best)
        if min(now) > DISTANCE:
            return False
        before, last = last, now
    return last[-1] <= DISTANCE


def one_edit(label: bytes) -> Iterator[bytes]:
    """Yield every label one insertion, deletion, substitution or swap away."""
    for at in range(len(label) + 1):
        head, tail = label[:at], label[at:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1:2] + tail[:1] + tail[2:]
        for letter in _LETTERS:
            yield head + bytes((letter,)) + tail
            if tail:
                yield head + bytes((letter,)) + tail[1:]


def _candidates(labels: Sequence[str]) -> Iterator[str]:
    shorter: Counter[str] = Counter()
    for label in labels:
        shorter.update({label, *[label[:at] + label[at + 1 :] for at in range(len(label))]})
    again = [(-votes, place) for place, votes in enumerate(shorter.values()) if votes > 1]
    if again:
        found = list(shorter)
        yield from (found[place] for _, place in sorted(again)[:TRIED])
    for size, _ in Counter(map(len, labels)).most_common(LENGTHS):
        columns = zip(*(label for label in labels if len(label) == size), strict=True)
        yield "".join([max(dict.fromkeys(column), key=column.count) for column in columns])


def _shared(one: str, other: str) -> int:
    """Return how many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
