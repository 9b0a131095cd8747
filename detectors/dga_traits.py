"""What one failed name looks like: its shape, the words in it, and the pieces that may come back in other names.

Rules:
1. A name is the label right under its suffix, and that suffix; what stands further left is the host, not the domain.
2. Words come from a list mined from benign names, never from the dictionary of a family: what a family re-uses is
   found by comparing its names with each other (after Pereira et al., RAID 2018).
3. How surprising a piece is comes from how often benign names have it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from core.names import Name, labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MIN_WORD: Final = 3  # letters; shorter pieces fit anywhere
MAX_WORD: Final = 12  # letters
AFFIX: Final = (4, 6)  # characters of a beginning or an end that is compared between names
GRAM: Final = 5  # characters of a piece that is compared between names
SHAPES: Final = (
    "length", "digits", "vowels", "hyphens", "consonants", "unique", "fluency",
    "cover", "words", "longest", "gap", "switches",
)  # fmt: skip
Lengths: TypeAlias = "Mapping[str, tuple[int, ...]]"  # of the words by their first letters

_CONSONANTS: Final = re.compile(r"[bcdfghjklmnpqrstvwxz]+")
_SWITCHES: Final = re.compile(r"[a-z](?=[0-9])|[0-9](?=[a-z])")
_STRIP: Final = str.maketrans("", "", "0123456789-")


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frequencies among benign names, all as -ln of a share, `rare` for what is not listed."""

    words: dict[str, float]  # of a word among all words
    affixes: dict[str, float]  # "^" and a beginning, or an end and "$", among labels
    pairs: dict[str, float]  # two characters, given the first; "^" and "$" are the ends
    suffixes: dict[str, float]  # of a suffix among names; its last label is a known top-level domain
    letters: dict[str, float]  # of a character among all characters
    rare: float  # -ln of a share nobody measured


class Traits(msgspec.Struct, frozen=True, gc=False):
    """One name, ready to be compared with others."""

    label: str
    suffix: str
    score: float  # log-odds of the single-name scorer
    shape: tuple[float, ...]  # in the order of SHAPES
    words: tuple[str, ...]
    affixes: tuple[str, ...]
    grams: frozenset[str]


def split(name: Name) -> tuple[str, str]:
    """Return the leftmost label and the suffix of a registrable name, as text."""
    parts = labels(name)
    if not parts:
        return "", ""
    return parts[0].decode("latin-1"), b".".join(parts[1:]).decode("latin-1")


def lengths_of(words: Iterable[str]) -> Lengths:
    """Return the lengths of words by the letters they begin with, so that most places of a label need no look-up."""
    found: dict[str, set[int]] = {}
    for word in words:
        if MIN_WORD <= len(word) <= MAX_WORD:
            found.setdefault(word[:MIN_WORD], set()).add(len(word))
    return {start: tuple(sorted(lengths)) for start, lengths in found.items()}


def traits(name: Name, score: float, tables: Tables, lengths: Lengths) -> Traits:
    """Return what a registrable name looks like; `score` is what the single-name scorer said of it."""
    label, suffix = split(name)
    words = segment(label, tables.words, lengths)
    return Traits(
        label=label,
        suffix=suffix,
        score=score,
        shape=_shape(label, words, tables),
        words=tuple(words),
        affixes=tuple(_affixes(label)),
        grams=frozenset(label[at : at + GRAM] for at in range(len(label) - GRAM + 1)),
    )


def segment(label: str, words: Mapping[str, float], lengths: Lengths) -> list[str]:
    """Return the words that cover the label best: long and common ones count most, letters between count nothing."""
    end = len(label)
    best = [0.0] * (end + 1)
    back = [0] * (end + 1)
    for start in range(end):
        if start and best[start - 1] >= best[start]:
            best[start], back[start] = best[start - 1], 0
        for size in lengths.get(label[start : start + MIN_WORD], ()):
            rarity = words.get(label[start : start + size])
            if rarity is None or start + size > end:
                continue
            worth = best[start] + size * size * (1.6 - 0.08 * rarity)
            if worth > best[start + size]:
                best[start + size], back[start + size] = worth, size
    if end and best[end - 1] >= best[end]:
        back[end] = 0
    found = []
    while end:
        if back[end]:
            found.append(label[end - back[end] : end])
        end -= back[end] or 1
    return found[::-1]


def _affixes(label: str) -> list[str]:
    found = []
    for size in AFFIX:
        if len(label) >= size:
            found += ["^" + label[:size], label[-size:] + "$"]
    return found


def _shape(label: str, words: list[str], tables: Tables) -> tuple[float, ...]:
    size = len(label) or 1
    digits = sum(map(label.count, "0123456789"))
    hyphens = label.count("-")
    vowels = sum(map(label.count, "aeiou"))
    covered = sum(map(len, words))
    return (
        float(size),
        digits / size,
        vowels / size,
        float(hyphens),
        float(max(map(len, _CONSONANTS.findall(label)), default=0)),
        len(set(label)) / size,
        _fluency(label, tables),
        covered / max(size - digits - hyphens, 1),
        float(len(words)),
        float(max(map(len, words), default=0)),
        float(_gap(label, words)),
        float(len(_SWITCHES.findall(label))),
    )


def _fluency(label: str, tables: Tables) -> float:
    """Return the mean surprise of the next character, in nats."""
    rare = log(len(tables.letters) * 40)
    found = [tables.pairs.get(a + b, rare) for a, b in pairwise("^" + label + "$")]
    return sum(found) / len(found)


def _gap(label: str, words: list[str]) -> int:
    """Return the length of the longest piece of letters that no word covers."""
    rest, at = [], 0
    for word in words:
        start = label.index(word, at)
        rest.append(label[at:start])
        at = start + len(word)
    rest.append(label[at:])
    return max(len(piece.translate(_STRIP)) for piece in rest)
