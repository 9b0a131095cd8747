"""Counting of the tables the single-name DGA model reads: trigram likelihoods, words and facts of suffixes."""

from __future__ import annotations

from collections import Counter
from math import log
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from detectors.dga_features import (
    CORPORA,
    LONGEST_WORD,
    OFFSET,
    SHORTEST_WORD,
    STEP,
    STRIDE,
    SYMBOLS,
    TRIGRAMS,
    SuffixFact,
    Tables,
    ending_of,
    group_of,
    top_level,
    trigram_codes,
    word_lengths,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from core.names import Name

Item = tuple[bytes, bytes]  # label and effective suffix (a Name)
KEPT_SUFFIXES: Final = 1_500
WORDS: Final = 8_000
_BACKOFF: Final = 4.0  # pseudo-counts handed to the shorter context
_CORPUS_PRIOR: Final = 20.0  # pseudo-counts of the corpus of all names within one of a language
_LLR_PRIOR: Final = 2e-5  # share added to both sides of a likelihood ratio of trigrams
_SUFFIX_PRIOR: Final = 2e-3  # likewise of suffixes


def count_trigrams(labels: Iterable[bytes]) -> Any:
    """Return how often each trigram occurs, as an array of TRIGRAMS."""
    codes: list[int] = []
    counts = np.zeros(TRIGRAMS)
    for label in labels:
        codes += trigram_codes(label)
        if len(codes) > 1_000_000:
            counts += np.bincount(codes, minlength=TRIGRAMS)
            codes.clear()
    if codes:
        counts += np.bincount(codes, minlength=TRIGRAMS)
    return counts


def _conditional(counts: Any) -> Any:
    """Return P(third | first two), interpolated down to a uniform symbol."""
    cube = counts.reshape(SYMBOLS, SYMBOLS, SYMBOLS)
    one = cube.sum(axis=(0, 1))
    single = (one + 1) / (one.sum() + SYMBOLS)
    two = cube.sum(axis=0)
    double = (two + _BACKOFF * single) / (two.sum(axis=1, keepdims=True) + _BACKOFF)
    return (cube + _BACKOFF * double) / (cube.sum(axis=2, keepdims=True) + _BACKOFF)


def language_tables(items: Sequence[Item]) -> Any:
    """Return quantised -log likelihoods, one row a corpus: all names, then one group of top-level domains each."""
    groups: list[list[bytes]] = [[] for _ in range(CORPORA)]
    for label, suffix in items:
        groups[0].append(label)
        groups[group_of(top_level(suffix))].append(label)
    every = _conditional(count_trigrams(groups[0]))
    rows = [every]
    for labels in groups[1:]:
        cube = count_trigrams(labels).reshape(SYMBOLS, SYMBOLS, SYMBOLS)
        rows.append((cube + _CORPUS_PRIOR * every) / (cube.sum(axis=2, keepdims=True) + _CORPUS_PRIOR))
    return np.clip(np.rint(-np.log(np.stack(rows)) / STEP), 0, 255).astype(np.uint8).reshape(CORPORA, TRIGRAMS)


def ratio_table(dga: Any, benign: Any) -> Any:
    """Return the quantised log-likelihood ratio of trigrams from two arrays of shares."""
    ratio = np.log((dga + _LLR_PRIOR) / (benign + _LLR_PRIOR))
    return np.clip(np.rint(ratio / STEP) + OFFSET, 0, 255).astype(np.uint8)


def pack(languages: Any, ratios: Any) -> list[int]:
    """Return one integer a trigram, its eight octets STRIDE bits apart."""
    columns = [column.astype(object) << (STRIDE * at) for at, column in enumerate((*languages, ratios))]
    return [int(value) for value in sum(columns[1:], start=columns[0])]


def mine_words(labels: Iterable[bytes]) -> dict[bytes, int]:
    """Return the words benign names are made of with how often they stand: whole tokens, or first and last parts.

    A string counts as a word when labels show it between hyphens or digits, or often both begin and end with it.
    """
    tokens = Counter(token for label in labels for token in _letters(label) if len(token) >= SHORTEST_WORD)
    scored: dict[bytes, int] = {}
    for length in range(SHORTEST_WORD, LONGEST_WORD + 1):
        first: Counter[bytes] = Counter()
        last: Counter[bytes] = Counter()
        for token, times in tokens.items():
            if len(token) > length:
                first[token[:length]] += times
                last[token[-length:]] += times
        floor = _floor(length)
        for word, begins in first.items():
            both = min(begins, last[word])
            if both + 3 * (tokens[word] - 1) >= floor and (both > 1 or tokens[word] > 1):
                scored[word] = both + tokens[word]
        for word, times in tokens.items():
            if len(word) == length and times > 2 and word not in scored:
                scored[word] = times
    best = sorted(scored, key=lambda word: (scored[word] * len(word) ** 2, word), reverse=True)
    return {word: scored[word] for word in sorted(best[:WORDS])}


def _floor(length: int) -> int:
    """Return how often a string must begin and end names to be a word: short strings do so by chance."""
    return {3: 60, 4: 20, 5: 10, 6: 7}.get(length, 5)


def _letters(label: bytes) -> list[bytes]:
    return bytes(octet if 97 <= octet <= 122 else 32 for octet in label).split()


def worth(words: Mapping[bytes, int]) -> dict[bytes, float]:
    """Return what each word adds to a segmentation: long words and common ones more."""
    return {word: round(len(word) ** 2 * (0.5 + 0.08 * log(times)), 2) for word, times in words.items()}


def shares(counts: Counter[Name], also: Iterable[Name]) -> tuple[dict[Name, float], float]:
    """Return the log share of the commonest suffixes and of those in `also`, and that of an unseen one."""
    total = sum(counts.values())
    names = dict.fromkeys((*(name for name, _ in counts.most_common(KEPT_SUFFIXES)), *sorted(also)))
    return {name: round(log((counts[name] + 1) / total), 2) for name in names}, round(log(1 / total), 2)


def suffix_ratios(counts: Counter[Name], dga: Mapping[Name, float]) -> dict[Name, float]:
    """Return log-likelihood ratios of the commonest suffixes and of all of `dga` (shares); any other has 0."""
    total = sum(counts.values())
    names = dict.fromkeys((*(name for name, _ in counts.most_common(KEPT_SUFFIXES)), *sorted(dga)))
    return {
        name: round(log((dga.get(name, 0.0) + _SUFFIX_PRIOR) / (counts[name] / total + _SUFFIX_PRIOR)), 2)
        for name in names
    }


def tables(
    *,
    trigrams: list[int],
    words: Mapping[bytes, int],
    suffixes: Mapping[Name, SuffixFact],
    tlds: dict[Name, SuffixFact],
    unknown: SuffixFact,
) -> Tables:
    """Return what the features read."""
    value = worth(words)
    return Tables(
        trigrams=trigrams,
        words=value,
        lengths=word_lengths(value),
        endings={name: ending_of(name, fact, tlds, unknown) for name, fact in suffixes.items()},
        tlds=tlds,
        unknown=unknown,
    )
