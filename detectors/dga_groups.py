"""Whether the failed names of a client come out of one generator: features of the group and the trees weighing them.

Rules:
1. A group is a set of distinct failed registrable names; what is asked is what they have in common beyond chance.
2. Re-use counts by surprise: a piece in m of k names adds (m - 1) (-ln share - ln k), never less than nothing, so that
   what benign names share anyway ("online", "casino", .com) adds little.
3. The thresholds are those of the model's own calibration, per size of group.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from math import exp, log, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.finding import Confidence
from detectors.dga_traits import SHAPES, Tables, Traits, lengths_of, traits
from detectors.dga_trees import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from core.names import Name

SIZES: Final = (5, 10, 20, 40)  # names of a group
QUANTILES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_REUSE: Final = ("surprise", "pieces", "members", "largest")
FEATURES: Final = (
    "size",
    *(f"score_{int(100 * share)}" for share in QUANTILES),
    "score_trimmed",
    "score_spread",
    *(f"{shape}_{what}" for shape in SHAPES for what in ("mean", "spread")),
    *(f"{kind}_{what}" for kind in ("word", "affix", "gram") for what in _REUSE),
    "suffixes",
    "suffix_largest",
    "suffix_mean",
    "suffix_distinct",
    "suffix_surprise",
    "letters",
    "alphabet",
)
FIT: Final = (
    "bias",
    "score",
    "length",
    "fluency",
    "cover",
    "digits",
    "hyphens",
    "suffix",
    "suffix_share",
    "words",
    "affixes",
    "grams",
)
_MODEL: Final = "dga_groups.json"


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log-odds from which a group of one size is MEDIUM and HIGH."""

    medium: float
    high: float


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shipped model: how it came about, the tables, the trees and the thresholds."""

    version: int
    about: dict[str, Any]  # sources, their hashes, families, figures
    tables: Tables
    features: list[str]
    trees: list[Any]  # a leaf is a number, a node is [feature, threshold, at most, above]
    thresholds: dict[str, Threshold]  # by size
    fit: list[float]  # weights in the order of FIT
    fit_threshold: float


class GroupModel:
    """Judges groups of names by shipped parameters. Raises ValueError when those are of another version or broken."""

    def __init__(self, parameters: Parameters) -> None:
        if parameters.features != list(FEATURES) or len(parameters.fit) != len(FIT):
            raise ValueError("group model: its features are not those of this version")
        self.tables = parameters.tables
        self.about = parameters.about
        self.fit_threshold = parameters.fit_threshold
        self._vote = compiled(parameters.trees, len(FEATURES))
        self._lengths = lengths_of(parameters.tables.words)
        self._fit = parameters.fit
        self._thresholds = {int(size): threshold for size, threshold in parameters.thresholds.items()}
        self._tlds = frozenset(suffix for suffix in parameters.tables.suffixes if "." not in suffix)

    def knows(self, suffix: str) -> bool:
        """True when the last label of the suffix is a top-level domain in public use."""
        return suffix.rpartition(".")[2] in self._tlds

    def traits(self, name: Name, score: float) -> Traits:
        """Return what a registrable name looks like."""
        return traits(name, score, self.tables, self._lengths)

    def score(self, group: Sequence[Traits]) -> float:
        """Return the log-odds that one generator made the names."""
        return self._vote(*features(group, self.tables))

    def threshold(self, size: int) -> Threshold:
        """Return the thresholds of the largest calibrated size that is no larger; infinite below the smallest."""
        known = [calibrated for calibrated in self._thresholds if calibrated <= size]
        return self._thresholds[max(known)] if known else Threshold(float("inf"), float("inf"))

    def confidence(self, value: float, size: int) -> Confidence | None:
        """Return how sure log-odds make of a group of a size, None when they are below every threshold."""
        threshold = self.threshold(size)
        if value >= threshold.high:
            return Confidence.HIGH
        return Confidence.MEDIUM if value >= threshold.medium else None

    def fits(self, one: Traits, group: Sequence[Traits]) -> float:
        """Return how well one more name fits the group, as log-odds against an ordinary resolving name."""
        return sum(weight * value for weight, value in zip(self._fit, fit(one, group, self.tables), strict=True))


def load_groups() -> GroupModel:
    """Return the shipped model. Raises ValueError or msgspec.DecodeError when the file does not fit this version."""
    raw = resources.files("detectors").joinpath("models", _MODEL).read_bytes()
    return GroupModel(msgspec.json.decode(raw, type=Parameters))


def probability(log_odds: float) -> float:
    """Return the share that belongs to log-odds, safe for large ones."""
    return 1 / (1 + exp(-max(min(log_odds, 60.0), -60.0)))


def features(group: Sequence[Traits], tables: Tables) -> list[float]:
    """Return the row of FEATURES of a group of at least two names."""
    size = len(group)
    scores = sorted(one.score for one in group)
    cut = size // 10
    row = [log(size), *(scores[round(share * (size - 1))] for share in QUANTILES)]
    row += [fmean(scores[cut : size - cut]), _spread(scores, fmean(scores))]
    for values in zip(*[one.shape for one in group], strict=True):
        mean = fmean(values)
        row += (mean, _spread(values, mean))
    row += _reuse(group, lambda one: one.words, lambda piece: tables.words.get(piece, tables.rare))
    row += _reuse(group, lambda one: one.affixes, lambda piece: tables.affixes.get(piece, tables.rare))
    row += _reuse(group, lambda one: one.grams, lambda piece: _gram(piece, tables))
    row += _suffixes(group, tables)
    row += _letters(group, tables)
    return row


def _spread(values: Sequence[float], mean: float) -> float:
    return sqrt(sum([(value - mean) ** 2 for value in values]) / len(values))


def _gram(piece: str, tables: Tables) -> float:
    """Return the rarity of a piece of GRAM characters: that of the most common word or affix it could come from."""
    known = tables.affixes
    return min(
        tables.words.get(piece, tables.rare),
        known.get("^" + piece[:4], tables.rare),
        known.get(piece[1:] + "$", tables.rare),
    )


def _reuse(
    group: Sequence[Traits], pieces: Callable[[Traits], Iterable[str]], rarity: Callable[[str], float]
) -> list[float]:
    """Return surprise and re-used pieces per name; the shares of names with any, and with the top one."""
    size = len(group)
    sets = [set(pieces(one)) for one in group]
    seen = Counter(piece for one in sets for piece in one)
    again = {piece: times for piece, times in seen.items() if times > 1}
    chance = log(size)
    surprise = sum((times - 1) * max(rarity(piece) - chance, 0.0) for piece, times in again.items())
    members = sum(1 for one in sets if not again.keys().isdisjoint(one))
    return [surprise / size, len(again) / size, members / size, max(again.values(), default=1) / size]


def _suffixes(group: Sequence[Traits], tables: Tables) -> list[float]:
    size = len(group)
    counts = Counter(one.suffix for one in group)
    top, times = counts.most_common(1)[0]
    rarity = {suffix: tables.suffixes.get(suffix, tables.rare) for suffix in counts}
    return [
        len(counts) / size,
        times / size,
        sum(rarity[suffix] * seen for suffix, seen in counts.items()) / size,
        sum(rarity.values()) / size,
        (times - 1) * rarity[top] / size,
    ]


def _letters(group: Sequence[Traits], tables: Tables) -> list[float]:
    """Return how far the characters of all names together are from benign ones (nats), and the share of them in use."""
    text = "".join(one.label for one in group)
    total = max(len(text), 1)
    far, used = 0.0, 0
    for letter, rarity in tables.letters.items():
        if times := text.count(letter):
            used += 1
            share = times / total
            far += share * (log(share) + rarity)
    return [far - (used - 1) / (2 * total), used / len(tables.letters)]


def fit(one: Traits, group: Sequence[Traits], tables: Tables) -> list[float]:
    """Return the row of FIT: how one name compares with the names of a group."""
    size = len(group)
    row = [1.0, _away(one.score, [other.score for other in group], floor=0.7)]
    floors = {"length": 1.0, "fluency": 0.25, "cover": 0.15, "digits": 0.05, "hyphens": 0.3}
    for shape, floor in floors.items():
        at = SHAPES.index(shape)
        row.append(_away(one.shape[at], [other.shape[at] for other in group], floor=floor))
    same = sum(1 for other in group if other.suffix == one.suffix)
    row += [log((same + 0.2) / size), min(tables.suffixes.get(one.suffix, tables.rare), tables.rare)]
    words = {word for other in group for word in other.words}
    affixes = {affix for other in group for affix in other.affixes}
    grams = {gram for other in group for gram in other.grams}
    row.append(sum(tables.words.get(word, tables.rare) for word in one.words if word in words))
    row.append(sum(tables.affixes.get(affix, tables.rare) for affix in one.affixes if affix in affixes))
    row.append(len(one.grams & grams) / max(len(one.grams), 1))
    return row


def _away(value: float, values: Sequence[float], *, floor: float) -> float:
    """Return the distance from the mean of the others in units of their spread, at most 4."""
    mean = fmean(values)
    return min(abs(value - mean) / max(_spread(values, mean), floor), 4.0)
