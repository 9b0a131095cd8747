"""What the single-name DGA model looks at: the label right under the effective suffix, told in numbers.

Rules:
1. The effective suffix is the public suffix, or a dynamic-DNS domain under which anybody gets a name.
2. Training and running read the same quantised tables by the same function: there is no second implementation.
3. One trigram of the alphabet indexes one integer that holds EIGHT octets, STRIDE bits apart, so that one sum adds
   eight log-likelihoods: seven benign corpora and, topmost, DGA against benign.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from core.names import Name, registered_domain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-"  # anything else counts as a hyphen
EDGE: Final = len(ALPHABET)  # the symbol before and after a label
SYMBOLS: Final = EDGE + 1
TRIGRAMS: Final = SYMBOLS**3
CORPORA: Final = 7  # of benign trigrams: all, then one for each group of top-level domains
STRIDE: Final = 16  # bits: 63 labels of 255 fit
STEP: Final = 0.05  # nats in one unit of a quantised log-likelihood
OFFSET: Final = 128  # unit that means a likelihood ratio of one
RARE: Final = 110  # units: a trigram less likely than exp(-5.5) is a rare one
SHORTEST_WORD: Final = 3
LONGEST_WORD: Final = 12
FEATURES: Final = (
    *("length", "digits", "vowels", "hyphens", "consonant_run", "digit_run", "switches", "alternation"),
    *("unique", "leading_digit", "y"),
    *("cover3", "cover4", "words", "longest_word", "gap", "pieces"),
    *("lm_all", "lm_english", "lm_chinese", "lm_russian", "lm_european", "lm_japanese", "lm_south"),
    *("lm_lowest", "lm_rare", "lm_best", "lm_own", "lm_total"),
    *("llr_mean", "llr_max", "llr_min", "llr_total"),
    *("suffix_share", "tld_share", "group", "suffix_llr", "tld_llr"),
)
LLR_AT: Final = FEATURES.index("llr_mean")
SUFFIX_AT: Final = FEATURES.index("suffix_share")
GROUP: Final = 2  # place of the corpus number in an Ending

Features: TypeAlias = tuple[float, ...]
SuffixFact: TypeAlias = tuple[float, float]  # log share among benign names, log-likelihood ratio of DGA (nats)
Ending: TypeAlias = tuple[float, float, int, float, float]  # the features from "suffix_share" on

# Top-level domains by the language names under them are made of; all others count as English and general.
GROUPS: Final[Mapping[bytes, int]] = {
    tld.encode(): number
    for number, tlds in enumerate(
        (
            "",
            "cn tw hk top wang vip xin",
            "ru ua by kz su uz md am ge az kg tj",
            "de fr it es pl nl be at ch cz sk hu ro pt se no dk fi gr bg hr rs si lt lv ee lu eu cat br mx ar cl co pe",
            "jp",
            "in ir id tr vn th my ph pk bd lk np sa ae eg ma dz ng ke",
        ),
        start=1,
    )
    for tld in tlds.split()
}
ENGLISH: Final = 1

_SYMBOL: Final = bytes(ALPHABET.find(octet) if octet in ALPHABET else EDGE - 1 for octet in range(256))
_VOWELS: Final = b"aeiou"
_KIND: Final = bytes(
    ord("v" if octet in _VOWELS else "d" if chr(octet).isdigit() else "c" if 97 <= octet <= 122 else "-")
    for octet in range(256)
)
_CONSONANTS: Final = re.compile(rb"c+")
_DIGITS: Final = re.compile(rb"d+")
_LLR_SHIFT: Final = CORPORA * STRIDE
_SUMS: Final = Struct(f"<{CORPORA + 1}H")  # of the octets of trigrams, STRIDE bits each


class Tables:
    """What the features read. `unknown` speaks for suffixes that are in no table."""

    def __init__(
        self,
        *,
        trigrams: list[int],  # TRIGRAMS integers, see rule 3
        words: dict[bytes, float],  # the worth of a word in a segmentation
        lengths: dict[bytes, tuple[int, ...]],  # of the words that begin with three letters
        endings: dict[Name, Ending],  # features of suffixes, see `ending_of`
        tlds: dict[Name, SuffixFact],
        unknown: SuffixFact,
    ) -> None:
        self.trigrams = trigrams
        self.common = bytes(row & 255 for row in trigrams)  # the first corpus alone
        self.ratios = bytes(row >> _LLR_SHIFT for row in trigrams)  # DGA against benign alone
        self.words = words
        self.lengths = lengths
        self.endings = endings
        self.tlds = tlds
        self.unknown = unknown


def word_lengths(words: Mapping[bytes, float]) -> dict[bytes, tuple[int, ...]]:
    """Return the lengths of words by their first three letters, so that most places of a label need no look-up."""
    found: dict[bytes, set[int]] = {}
    for word in words:
        found.setdefault(word[:SHORTEST_WORD], set()).add(len(word))
    return {start: tuple(sorted(lengths)) for start, lengths in found.items()}


def split(name: Name, dynamic: AbstractSet[Name]) -> tuple[bytes, Name]:
    """Return the label right under the effective suffix, and that suffix; the label is empty for the root."""
    domain = registered_domain(name)
    at, end = 0, len(name) - len(domain)
    if end == 0 and domain not in dynamic:
        return name[1 : 1 + name[0]], name[1 + name[0] :]
    label_at = end
    while at < end:
        after = at + name[at] + 1
        if name[after:] in dynamic:
            label_at = at
            break
        at = after
    after = label_at + name[label_at] + 1
    return name[label_at + 1 : after], name[after:]


def trigram_codes(label: bytes) -> list[int]:
    """Return the index of each trigram of the label between two edges: as many as the label has octets."""
    symbols = bytes((EDGE, *label.translate(_SYMBOL), EDGE))
    return [a * 1444 + b * 38 + c for a, b, c in zip(symbols, symbols[1:], symbols[2:], strict=False)]


def features(tables: Tables, label: bytes, suffix: Name) -> Features:
    """Return the values named in FEATURES for a label that is not empty."""
    ending = tables.endings.get(suffix) or ending_of(suffix, tables.unknown, tables.tlds, tables.unknown)
    codes = trigram_codes(label)
    return (*_shape(label), *_words(tables, label), *_likelihoods(tables, codes, ending[GROUP]), *ending)


def ending_of(suffix: Name, fact: SuffixFact, tlds: Mapping[Name, SuffixFact], unknown: SuffixFact) -> Ending:
    """Return the features of a suffix of which `fact` is known."""
    tld = top_level(suffix)
    top = tlds.get(tld, unknown)
    return fact[0], top[0], group_of(tld), fact[1], top[1]


def top_level(suffix: Name) -> Name:
    """Return the last label of a suffix."""
    at = start = 0
    while at < len(suffix) - 1:
        start = at
        at += suffix[at] + 1
    return suffix[start:]


def group_of(tld: Name) -> int:
    """Return the number of the corpus that names under a top-level domain belong to."""
    return GROUPS.get(tld[1:-1], ENGLISH)


def _shape(label: bytes) -> Features:
    length = len(label)
    kinds = label.translate(_KIND)
    digits = kinds.count(b"d")
    hyphens = kinds.count(b"-")
    if digits:
        plain = kinds.replace(b"v", b"c")
        digit_run = max(map(len, _DIGITS.findall(kinds)))
        switches = plain.count(b"cd") + plain.count(b"dc")
    else:
        digit_run = switches = 0
    return (
        length,
        digits / length,
        kinds.count(b"v") / length,
        hyphens,
        max(map(len, _CONSONANTS.findall(kinds)), default=0),
        digit_run,
        switches,
        (kinds.count(b"cv") + kinds.count(b"vc")) / length,
        len(set(label)) / length,
        kinds[0] == 100,
        label.count(b"y") / length,
    )


def _segment(tables: Tables, label: bytes) -> list[tuple[int, int]]:
    """Return begin and end of the words of the most worthy segmentation, last word first."""
    words, lengths = tables.words, tables.lengths
    end = len(label)
    worth = [0.0] * (end + 1)
    start = [-1] * (end + 1)
    for at in range(end):
        if worth[at] > worth[at + 1]:
            worth[at + 1] = worth[at]
            start[at + 1] = -1
        for length in lengths.get(label[at : at + SHORTEST_WORD], ()):
            if at + length > end:
                break
            value = words.get(label[at : at + length])
            if value is not None and value + worth[at] > worth[at + length]:
                worth[at + length] = value + worth[at]
                start[at + length] = at
    found = []
    at = end
    while at > 0:
        if (begin := start[at]) >= 0:
            found.append((begin, at))
            at = begin
        else:
            at -= 1
    return found


def _words(tables: Tables, label: bytes) -> Features:
    length = len(label)
    found = _segment(tables, label)
    covered = long = longest = gap = pieces = 0
    after = length
    for begin, end in found:
        size = end - begin
        covered += size
        if size > SHORTEST_WORD:
            long += size
        longest = max(longest, size)
        if after > end:
            pieces += 1
            gap = max(gap, after - end)
        after = begin
    if after:
        pieces += 1
        gap = max(gap, after)
    return covered / length, long / length, len(found), longest, gap, pieces


def _likelihoods(tables: Tables, codes: list[int], group: int) -> Features:
    trigrams, common, of_dga = tables.trigrams, tables.common, tables.ratios
    total = sum([trigrams[code] for code in codes])
    count = len(codes)
    scale = -STEP / count
    lows = [common[code] for code in codes]
    ratios = [of_dga[code] for code in codes]
    *sums, ratio = _SUMS.unpack(total.to_bytes(_SUMS.size, "little"))
    means = [one * scale for one in sums]
    best = max(means)
    ratio -= OFFSET * count
    return (
        *means,
        -STEP * max(lows),
        len([low for low in lows if low > RARE]),
        best,
        means[group],
        best * count,
        STEP * ratio / count,
        STEP * (max(ratios) - OFFSET),
        STEP * (min(ratios) - OFFSET),
        STEP * ratio,
    )
