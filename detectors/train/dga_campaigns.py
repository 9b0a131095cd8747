"""Campaigns of made-up generators: names like those of malware families that nobody has seen yet.

Rules:
1. Everything follows from the random generator that is handed in: the same seed gives the same names.
2. A campaign draws its own alphabet, lengths, words and suffixes once, and then its names from those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from random import Random

Style: TypeAlias = Callable[["Random", Sequence[str], int], list[str]]  # random, words or suffixes, how many: labels
_VOWELS: Final = "aeiou"
_CONSONANTS: Final = "bcdfghjklmnpqrstvwxz"
_ENDINGS: Final = ("ation", "ing", "ness", "ity", "ment", "able", "ical", "ism", "ed", "ship", "ful", "ist")
_FRONTS: Final = ("un", "re", "over", "inter", "pre", "anti", "non", "multi", "sub", "mis", "micro", "semi")
_TRIES: Final = 30  # draws per name before a small name space counts as used up


def campaign(random: Random, style: str, words: Sequence[str], suffixes: Sequence[str], count: int) -> list[str]:
    """Return up to `count` distinct names of one new campaign of a style; `suffixes` are ordered, commonest first."""
    labels = STYLES[style](random, words, count)
    used = _suffixes(random, style, suffixes)
    return list(dict.fromkeys(f"{label}.{random.choice(used)}" for label in labels))


def _suffixes(random: Random, style: str, suffixes: Sequence[str]) -> list[str]:
    many = style == "lists" or random.random() < 0.3
    share = random.choice((12, 60, 300))
    common = suffixes[:share]
    return random.sample(common, min(random.randint(4, 40) if many else random.choice((1, 1, 1, 2, 3)), len(common)))


def _distinct(random: Random, make: Callable[[], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(count * _TRIES):
        found[make()] = None
        if len(found) == count:
            break
    names = list(found)
    random.shuffle(names)
    return names


def _list(random: Random, words: Sequence[str], low: int, high: int) -> list[str]:
    return random.sample(words, min(random.randint(low, high), len(words)))


def _pair(random: Random, words: Sequence[str], count: int) -> list[str]:
    """Two words of one list (like suppobox)."""
    chosen = _list(random, words, 150, 500)
    glue = "-" if random.random() < 0.15 else ""
    return _distinct(random, lambda: random.choice(chosen) + glue + random.choice(chosen), count)


def _verb_noun(random: Random, words: Sequence[str], count: int) -> list[str]:
    """Words of two lists in turn up to a length (like matsnu)."""
    chosen = (_list(random, words, 150, 900), _list(random, words, 150, 900))
    glue, limit = random.choice(("", "", "-")), random.choice((12, 15, 18, 24))

    def make() -> str:
        name = random.choice(chosen[0])
        for turn in range(1, 6):
            more = name + glue + random.choice(chosen[turn % 2])
            if len(more) > limit and turn > 1:
                break
            name = more
        return name[:limit] if random.random() < 0.3 else name

    return _distinct(random, make, count)


def _text(random: Random, words: Sequence[str], count: int) -> list[str]:
    """Words of one text, one after the other, until the name is long enough (like gozi)."""
    chosen = _list(random, words, 60, 500)
    low, high = random.choice(((12, 24), (9, 16), (14, 20)))

    def make() -> str:
        name, least = "", random.randint(low, high)
        while len(name) < least:
            name += random.choice(chosen)
        return name[: high + 6]

    return _distinct(random, make, count)


def _cut_text(random: Random, words: Sequence[str], count: int) -> list[str]:
    """Words of one text, cut off at a length (like rovnix)."""
    chosen, high = _list(random, words, 80, 400), random.choice((18, 22, 26))

    def make() -> str:
        name, least = "", random.randint(high - 6, high)
        while len(name) < least:
            name += random.choice(chosen)
        return name[:least]

    return _distinct(random, make, count)


def _lists(random: Random, words: Sequence[str], count: int) -> list[str]:
    """One word of each of two long lists (like nymaim's second generator)."""
    chosen = (_list(random, words, 800, 3000), _list(random, words, 800, 3000))
    glue = random.choice((("-", ""), ("",), ("-",)))
    return _distinct(random, lambda: random.choice(chosen[0]) + random.choice(glue) + random.choice(chosen[1]), count)


def _affixed(random: Random, words: Sequence[str], count: int) -> list[str]:
    """A front, a word and an ending of the language (like ngioweb)."""
    chosen = _list(random, words, 100, 900)
    fronts, ends = random.sample(_FRONTS, 6), random.sample(_ENDINGS, 6)
    return _distinct(random, lambda: random.choice(fronts) + random.choice(chosen) + random.choice(ends), count)


def _tagged(random: Random, words: Sequence[str], count: int) -> list[str]:
    """A word and a few characters of chance."""
    chosen, size = _list(random, words, 5, 200), random.randint(2, 5)
    letters = random.choice((ascii_lowercase, digits, ascii_lowercase + digits))
    return _distinct(random, lambda: random.choice(chosen) + _draw(random, letters, size), count)


def _draw(random: Random, letters: str, size: int) -> str:
    return "".join(random.choices(letters, k=size))


def _lengths(random: Random) -> Callable[[], int]:
    low = random.randint(5, 18)
    high = low + random.choice((0, 0, 2, 5, 9))
    return lambda: random.randint(low, high)


def _uniform(random: Random, _words: Sequence[str], count: int) -> list[str]:
    size = _lengths(random)
    return _distinct(random, lambda: _draw(random, ascii_lowercase, size()), count)


def _subset(random: Random, _words: Sequence[str], count: int) -> list[str]:
    size, letters = _lengths(random), "".join(random.sample(ascii_lowercase, random.randint(6, 22)))
    return _distinct(random, lambda: _draw(random, letters, size()), count)


def _skewed(random: Random, _words: Sequence[str], count: int) -> list[str]:
    size, weights = _lengths(random), [random.paretovariate(1.2) for _ in ascii_lowercase]
    return _distinct(random, lambda: "".join(random.choices(ascii_lowercase, weights, k=size())), count)


def _base36(random: Random, _words: Sequence[str], count: int) -> list[str]:
    size, letters = _lengths(random), ascii_lowercase + digits * random.choice((1, 1, 2))
    return _distinct(random, lambda: _draw(random, letters, size()), count)


def _hex(random: Random, _words: Sequence[str], count: int) -> list[str]:
    size = _lengths(random)
    return _distinct(random, lambda: _draw(random, "0123456789abcdef", size()), count)


def _short(random: Random, _words: Sequence[str], count: int) -> list[str]:
    low = random.randint(3, 5)
    letters = random.choice((ascii_lowercase, ascii_lowercase + digits))
    return _distinct(random, lambda: _draw(random, letters, random.randint(low, low + 3)), count)


def _spoken(random: Random, _words: Sequence[str], count: int) -> list[str]:
    """Consonants and vowels in turn."""
    size, strict = _lengths(random), random.random() < 0.5
    heads, tails = random.sample(_CONSONANTS, random.randint(6, 20)), _VOWELS + random.choice(("", "y"))

    def make() -> str:
        name = "".join(random.choice(heads) + random.choice(tails) for _ in range(size()))[: size()]
        return name if strict else name + random.choice(_CONSONANTS)

    return _distinct(random, make, count)


def _syllables(random: Random, _words: Sequence[str], count: int) -> list[str]:
    pieces = [_draw(random, ascii_lowercase, random.choice((2, 2, 3))) for _ in range(random.randint(15, 80))]
    low = random.randint(2, 4)
    return _distinct(random, lambda: "".join(random.choices(pieces, k=random.randint(low, low + 2))), count)


def _core(random: Random, words: Sequence[str], count: int) -> list[str]:
    """A fixed piece with a part that changes."""
    fixed = random.choice(words) if random.random() < 0.4 else _draw(random, ascii_lowercase, random.randint(3, 12))
    size, letters = random.randint(3, 7), random.choice((ascii_lowercase, ascii_lowercase, "0123456789abcdef"))
    front = random.random() < 0.5
    return _distinct(
        random, lambda: _draw(random, letters, size) + fixed if front else fixed + _draw(random, letters, size), count
    )


WORD_STYLES: Final = ("pair", "verb_noun", "text", "cut_text", "lists", "affixed", "tagged")
RANDOM_STYLES: Final = (
    "uniform", "subset", "skewed", "base36", "hex", "short", "spoken", "syllables", "core",
)  # fmt: skip
STYLES: Final[dict[str, Style]] = {
    "pair": _pair, "verb_noun": _verb_noun, "text": _text, "cut_text": _cut_text, "lists": _lists,
    "affixed": _affixed, "tagged": _tagged, "uniform": _uniform, "subset": _subset, "skewed": _skewed,
    "base36": _base36, "hex": _hex, "short": _short, "spoken": _spoken, "syllables": _syllables, "core": _core,
}  # fmt: skip
