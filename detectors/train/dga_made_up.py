"""Single names of made-up generators, so that the DGA model learns kinds of generators, not forty particular ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.names import Name

CAMPAIGN: Final = 60  # names of one campaign, all by the same parameters
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "bcdfghjklmnpqrstvwxyz"
_DIGITS: Final = "0123456789"
_HEX: Final = "0123456789abcdef"
_MANY_SUFFIXES: Final = 0.45  # of campaigns draw from up to 60 suffixes, the others from up to 6


class Supply:
    """What campaigns are made from: words and labels of benign names, and suffixes, commonest first."""

    def __init__(self, words: Sequence[bytes], labels: Sequence[bytes], suffixes: Sequence[Name]) -> None:
        self.words = [word.decode() for word in words if len(word) > 3]
        self.labels = [label.decode() for label in labels if label.isalnum() and 5 <= len(label) <= 15]
        self.suffixes = suffixes


Maker: TypeAlias = "Callable[[], str]"


def made_up(supply: Supply, *, names: int, seed: int) -> list[tuple[bytes, Name]]:
    """Return about `names` labels with suffixes, of all kinds in turn; equal arguments give equal names."""
    rng = random.Random(seed)
    found: dict[tuple[bytes, Name], None] = {}
    for number in range(names // CAMPAIGN):
        make = _KINDS[number % len(_KINDS)](rng, supply)
        suffixes = _suffixes(rng, supply.suffixes)
        for _ in range(CAMPAIGN):
            if label := make().strip("-")[:63]:
                found[label.encode(), rng.choice(suffixes)] = None
    return list(found)


def _suffixes(rng: random.Random, commonest: Sequence[Name]) -> list[Name]:
    if rng.random() < _MANY_SUFFIXES:
        return rng.sample(list(commonest), rng.randint(1, min(60, len(commonest))))
    weights = [1 / (rank + 3) for rank in range(len(commonest))]
    return rng.choices(commonest, weights, k=rng.randint(1, 6))


def _lengths(rng: random.Random, low: int, high: int) -> Callable[[], int]:
    shortest = rng.randint(low, high)
    longest = shortest + rng.choice((0, 0, 1, 3, 6, 10))
    return lambda: rng.randint(shortest, longest)


def _drawn(rng: random.Random, alphabet: Sequence[str], low: int, high: int) -> Maker:
    length = _lengths(rng, low, high)
    return lambda: "".join(rng.choices(alphabet, k=length()))


def _uniform(rng: random.Random, _: Supply) -> Maker:
    return _drawn(rng, _LETTERS, 7, 26)


def _subset(rng: random.Random, _: Supply) -> Maker:
    return _drawn(rng, rng.sample(_LETTERS, rng.randint(8, 22)), 7, 22)


def _skewed(rng: random.Random, _: Supply) -> Maker:
    length = _lengths(rng, 7, 20)
    weights = [rng.random() ** 2 + 0.02 for _ in _LETTERS]
    return lambda: "".join(rng.choices(_LETTERS, weights, k=length()))


def _base36(rng: random.Random, _: Supply) -> Maker:
    return _drawn(rng, _LETTERS + _DIGITS, 6, 30)


def _hexadecimal(rng: random.Random, _: Supply) -> Maker:
    length = rng.choice((8, 10, 12, 12, 13, 16, 24, 32))
    return lambda: "".join(rng.choices(_HEX, k=length))


def _alternating(rng: random.Random, _: Supply) -> Maker:
    length = _lengths(rng, 6, 14)
    vowels, consonants = _VOWELS + rng.choice(("", "y")), rng.sample(_CONSONANTS, rng.randint(10, 20))
    slip = rng.random() * 0.2  # how often two of a kind follow each other

    def make() -> str:
        vowel = rng.random() < 0.5
        made = ""
        for _ in range(length()):
            made += rng.choice(vowels if vowel else consonants)
            vowel = vowel if rng.random() < slip else not vowel
        return made

    return make


def _syllables(rng: random.Random, _: Supply) -> Maker:
    shapes = rng.choice((("cv", "cvc"), ("cv", "vc", "ccv"), ("cvc",), ("vc", "cv", "v")))
    parts = ["".join(rng.choice(_VOWELS if kind == "v" else _CONSONANTS) for kind in shape) for shape in shapes * 30]
    count = _lengths(rng, 3, 5)
    return lambda: "".join(rng.choices(parts, k=min(count(), 8)))


def _word_pairs(rng: random.Random, supply: Supply) -> Maker:
    words = rng.sample(supply.words, min(rng.randint(60, 800), len(supply.words)))
    count = rng.choice((2, 2, 2, 3, 3, 4))
    between = rng.choice(("", "", "", "-"))
    return lambda: between.join(rng.choices(words, k=count))


def _fixed_core(rng: random.Random, supply: Supply) -> Maker:
    core = "".join(rng.choices(_LETTERS, k=rng.randint(3, 9))) if rng.random() < 0.6 else rng.choice(supply.words)
    vary = _drawn(rng, rng.choice((_LETTERS, _LETTERS + _DIGITS, _DIGITS, _HEX)), 3, 8)
    if rng.random() < 0.5:
        return lambda: vary() + core
    return lambda: core + vary()


def _mutated(rng: random.Random, supply: Supply) -> Maker:
    share = rng.uniform(0.25, 0.6)
    alphabet = rng.choice((_LETTERS, _LETTERS, _LETTERS + _DIGITS))

    def make() -> str:
        return "".join(rng.choice(alphabet) if rng.random() < share else char for char in rng.choice(supply.labels))

    return make


def _short(rng: random.Random, _: Supply) -> Maker:
    return _drawn(rng, rng.choice((_LETTERS, _LETTERS, _LETTERS + _DIGITS)), 4, 7)


_KINDS: Final[tuple[Callable[[random.Random, Supply], Maker], ...]] = (
    *(_uniform, _subset, _skewed, _base36, _hexadecimal, _alternating),
    *(_syllables, _word_pairs, _fixed_core, _mutated, _short),
)
