"""Fits the group model: `python -m detectors.train.dga_groups DATA FOLDS [--out FILE]`, needs lightgbm and numpy.

Rules:
1. Benign names fall into quarters by the hash of their first letters: two train, one sets the thresholds, one is left
   to the evaluation.
2. Families are held out in the folds of the single-name scorer, made-up campaigns by style; the figures in the model
   are those of the folds, the trees shipped are fitted to all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from functools import cache
from importlib import import_module
from math import log
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.names import from_text
from detectors.dga_groups import FEATURES, SIZES, Parameters, Threshold, features, fit
from detectors.dga_score import DgaModel, decode, load_model
from detectors.dga_traits import AFFIX, Tables, Traits, lengths_of, segment, split, traits
from detectors.train import dga_pools
from detectors.train.dga_campaigns import RANDOM_STYLES, WORD_STYLES, campaign
from detectors.train.dga_data import FOLDS, digest, folds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from core.names import Name

TARGETS: Final = {"medium": 1e-3, "high": 1e-4}  # share of hard benign groups above the threshold
_WORDS: Final = 7_000
_TREES: Final = {
    "objective": "binary", "num_leaves": 15, "learning_rate": 0.08, "min_data_in_leaf": 60, "feature_fraction": 0.4,
    "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 20.0, "verbosity": -1, "num_threads": 1, "seed": 4,
    "deterministic": True, "max_bin": 127,
}  # fmt: skip
_ROUNDS: Final = 150
_UP: Final = frozenset(
    ("score_trimmed", *(name for name in FEATURES if name.startswith("score_") and name[6:].isdigit()))
)


class Row(msgspec.Struct, frozen=True):
    """One group: where it comes from, its features and whether it is one of a generator."""

    kind: str
    size: int
    values: list[float]


def tables(names: Sequence[str]) -> Tables:
    """Return the frequencies among benign names."""
    pairs: list[tuple[str, str]] = [split(from_text(name)) for name in names]
    words: Counter[str] = Counter(part for label, _ in pairs for part in label.split("-") if _is_word(part, label))
    kept = {word: seen for word, seen in words.items() if seen >= 2}
    labels = Counter(label for label, _ in pairs if 3 <= len(label) <= 12 and label.isalpha())
    kept |= {word: seen for word, seen in labels.items() if seen >= 3 and word not in kept}
    known = dict(sorted(kept.items(), key=lambda item: (-item[1], item[0]))[:_WORDS])
    rarity = _shares(known)
    lengths = lengths_of(rarity)
    used = Counter(word for label, _ in pairs for word in segment(label, rarity, lengths))
    affixes = Counter(
        piece
        for label, _ in pairs
        for size in AFFIX
        if len(label) >= size
        for piece in ("^" + label[:size], label[-size:] + "$")
    )
    neighbours = Counter(two for label, _ in pairs for two in map("".join, zip("^" + label, label + "$", strict=True)))
    first = Counter[str]()
    for two, seen in neighbours.items():
        first[two[0]] += seen
    return Tables(
        words=_shares({word: used[word] for word in known if used[word]}),
        affixes=_shares(dict(affixes.most_common(5_000)), total=len(pairs)),
        pairs={two: round(-log(seen / first[two[0]]), 2) for two, seen in sorted(neighbours.items()) if seen > 1},
        suffixes=_shares({suffix: seen for suffix, seen in _suffixes(pairs).items() if seen > 1}, total=len(pairs)),
        letters=_shares(Counter(letter for label, _ in pairs for letter in label if letter.isascii())),
        rare=round(log(len(pairs)), 2),
    )


def _is_word(part: str, label: str) -> bool:
    return part != label and 3 <= len(part) <= 12 and part.isalpha() and part.isascii() and not label.startswith("xn--")


def _suffixes(pairs: Iterable[tuple[str, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for _, suffix in pairs:
        found[suffix] += 1
        if "." in suffix:
            found[suffix.rpartition(".")[2]] += 1
    return found


def _shares(counts: dict[str, int] | Counter[str], *, total: int = 0) -> dict[str, float]:
    total = total or sum(counts.values())
    return {key: round(-log(seen / total), 2) for key, seen in sorted(counts.items())}


class Builder:
    """Makes rows of features from names, with one scorer."""

    def __init__(self, known: Tables, score: Callable[[Name], float]) -> None:
        self.known = known
        lengths = lengths_of(known.words)
        self._look = cache(lambda text: traits(from_text(text), score(from_text(text)), known, lengths))

    def looks(self, names: Iterable[str]) -> list[Traits]:
        """Return what the names look like."""
        return [self._look(name) for name in names]

    def row(self, kind: str, names: Sequence[str]) -> Row:
        """Return the features of a group."""
        return Row(kind, len(names), features(self.looks(names), self.known))


def benign_rows(build: Builder, source: dga_pools.Pools, per_size: int, seed: int) -> list[Row]:
    """Return rows of benign groups, so many of each size."""
    groups = dga_pools.BenignGroups(source, Random(seed))
    return [build.row(*groups.draw(size)) for size in SIZES for _ in range(per_size)]


def family_rows(build: Builder, found: dict[str, dict[str, list[str]]], per_size: int, seed: int) -> list[Row]:
    """Return rows of groups of real families, so many of each family and size."""
    random = Random(seed)
    rows = []
    for family, sources in found.items():
        for size in SIZES:
            for _ in range(per_size):
                names = dga_pools.family_group(random, sources, size)
                if len(names) == size:
                    rows.append(build.row(family, names))
    return rows


def campaign_rows(
    build: Builder, styles: Sequence[str], words: Sequence[str], suffixes: Sequence[str], *, per_size: int, seed: int
) -> list[Row]:
    """Return rows of groups of made-up campaigns, each group of a campaign of its own."""
    random = Random(seed)
    rows = []
    for style in styles:
        for size in SIZES:
            for _ in range(per_size):
                names = campaign(random, style, words, suffixes, size)
                if len(names) == size:
                    rows.append(build.row(f"made:{style}", names))
    return rows


def grow(good: Sequence[Row], bad: Sequence[Row]) -> Any:
    """Return a LightGBM model; every family weighs the same, all of them as much as the benign groups."""
    import numpy as np

    lightgbm = import_module("lightgbm")
    kinds = Counter(row.kind for row in bad)
    each = {kind: (0.35 if kind.startswith("made:") else 1.0) / seen for kind, seen in kinds.items()}
    whole = sum(each[row.kind] for row in bad)
    weights = [1.0] * len(good) + [each[row.kind] / whole * len(good) for row in bad]
    values = np.array([row.values for row in (*good, *bad)])
    truth = np.array([0] * len(good) + [1] * len(bad))
    settings = _TREES | {"monotone_constraints": [int(name in _UP) for name in FEATURES]}
    return lightgbm.train(settings, lightgbm.Dataset(values, truth, weight=np.array(weights)), _ROUNDS)


def nested(node: dict[str, Any]) -> Any:
    """Return a tree of LightGBM's dump as nested lists."""
    if "leaf_value" in node:
        return round(node["leaf_value"], 5)
    limit = float(f"{node['threshold']:.6g}")
    return [node["split_feature"], limit, nested(node["left_child"]), nested(node["right_child"])]


def predict(model: Any, rows: Sequence[Row]) -> list[float]:
    """Return the log-odds of rows."""
    import numpy as np

    return [float(value) for value in model.predict(np.array([row.values for row in rows]), raw_score=True)]


def thresholds(rows: Sequence[Row], values: Sequence[float]) -> dict[int, dict[str, float]]:
    """Return for every size the log-odds that so many of the benign groups stay below."""
    found = {}
    for size in SIZES:
        mine = sorted((value for row, value in zip(rows, values, strict=True) if row.size == size), reverse=True)
        found[size] = {level: mine[int(len(mine) * share)] for level, share in TARGETS.items()}
    return found


def held_out(good: Sequence[Row], calibration: Sequence[Row], bad: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Return for every kind and size how far its groups lie above the HIGH threshold of models that never saw it."""
    above: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    kinds = sorted({row.kind for row in bad})
    made = [kind for kind in kinds if kind.startswith("made:")]
    real = folds(kind for kind in kinds if kind not in made)
    where = {kind: made.index(kind) % FOLDS if kind in made else real[kind] for kind in kinds}
    for fold in range(FOLDS):
        out = [row for row in bad if where[row.kind] == fold]
        model = grow(good, [row for row in bad if where[row.kind] != fold])
        limits = thresholds(calibration, predict(model, calibration))
        for row, value in zip(out, predict(model, out), strict=True):
            above[row.kind][row.size].append(value - limits[row.size]["high"])
    return above


def shares(above: dict[str, dict[int, list[float]]]) -> dict[str, dict[str, float]]:
    """Return the share of groups at or above the threshold, by kind and size."""
    return {
        kind: {str(size): round(sum(value >= 0 for value in found) / len(found), 3) for size, found in sizes.items()}
        for kind, sizes in above.items()
    }


def fitted(build: Builder, groups: Sequence[list[str]], alive: Sequence[str], seed: int) -> tuple[list[float], float]:
    """Return weights of FIT and the log-odds that one resolving name in a thousand reaches by chance.

    `groups` hold one name more than is shown: it is the one that belongs.
    """
    import numpy as np

    random = Random(seed)
    ours, others = [], []
    for names in groups:
        shown = build.looks(names[:-1])
        ours.append(fit(build.looks(names[-1:])[0], shown, build.known))
        others += [fit(one, shown, build.known) for one in build.looks(random.sample(alive, 12))]
    values = np.array(ours + others)
    truth = np.array([1.0] * len(ours) + [0.0] * len(others))
    weights = np.zeros(values.shape[1])
    for _ in range(25):  # Newton's steps of a logistic regression with a small ridge
        odds = 1 / (1 + np.exp(-values @ weights))
        slope = values.T @ (truth - odds) - 0.1 * weights
        curve = (values * (odds * (1 - odds))[:, None]).T @ values + 0.1 * np.eye(len(weights))
        weights += np.linalg.solve(curve, slope)
    return [round(float(weight), 4) for weight in weights], round(
        float(np.quantile(values[len(ours) :] @ weights, 0.999)), 3
    )


class Material(msgspec.Struct):
    """Everything the model is fitted to."""

    known: Tables
    good: list[Row]
    calibration: list[Row]
    bad: list[Row]
    groups: list[list[str]]
    alive: list[str]


def material(data: Path, scorers: Sequence[Callable[[Name], float]], groups: int, calibrate: int) -> Material:
    """Return rows and tables; `scorers` are one a fold of families and last the one shipped."""
    halves = dga_pools.pools(data)
    alive = [name for name in dga_pools.crawl(data)[0] if dga_pools.quarter(name) in dga_pools.TRAINING]
    known = tables(alive)
    build = Builder(known, scorers[-1])
    words = dga_pools.mined_words(alive)[:6_000]
    suffixes = sorted((suffix for suffix in known.suffixes if "." not in suffix), key=known.suffixes.__getitem__)
    found = dga_pools.families(data)
    where = folds(found)
    bad = campaign_rows(build, RANDOM_STYLES + WORD_STYLES, words, suffixes, per_size=90, seed=4)
    for fold, score in enumerate(scorers[:-1]):
        mine = {family: sources for family, sources in found.items() if where[family] == fold}
        bad += family_rows(Builder(known, score), mine, 60, 3)
    random = Random(6)
    members = [dga_pools.family_group(random, sources, size + 1) for sources in found.values() for size in (5, 10, 20)]
    members += [campaign(random, style, words, suffixes, 11) for style in WORD_STYLES for _ in range(12)]
    good = benign_rows(build, halves.train, groups, 1)
    return Material(known, good, benign_rows(build, halves.calibrate, calibrate, 2), bad, members, alive)


def trained(data: Path, stuff: Material, scorer: Builder) -> Parameters:
    """Return the model of all families with the figures of the folds."""
    above = shares(held_out(stuff.good, stuff.calibration, stuff.bad))
    model = grow(stuff.good, stuff.bad)
    limits = thresholds(stuff.calibration, predict(model, stuff.calibration))
    weights, limit = fitted(scorer, stuff.groups, stuff.alive, 7)
    real = [kind for kind in above if not kind.startswith("made:")]
    words = [f"made:{style}" for style in WORD_STYLES]
    means = {
        name: {
            str(size): _mean([above[kind][str(size)] for kind in kinds if str(size) in above[kind]]) for size in SIZES
        }
        for name, kinds in (("families", real), ("word campaigns", words))
    }
    files = ("benign/top1m_crawl.csv.gz", "benign/alexa100k_2013.txt.gz", "dga/families.csv.gz")
    return Parameters(
        version=1,
        about={
            "sources": {name: digest(data / name) for name in files},
            "families": sorted(real),
            "figures": {"mean share of groups at HIGH, held out": means, "by kind and size": above},
            "benign groups": {"trained": len(stuff.good), "calibrated": len(stuff.calibration), "mix": dga_pools.MIX},
        },
        tables=stuff.known,
        features=list(FEATURES),
        trees=[nested(tree["tree_structure"]) for tree in model.dump_model()["tree_info"]],
        thresholds={
            str(size): Threshold(**{level: round(value, 4) for level, value in found.items()})
            for size, found in limits.items()
        },
        fit=weights,
        fit_threshold=limit,
    )


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3)


def main() -> None:
    """Read the data, print the figures of the folds, write the model."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("folds", type=Path, help="the folder that detectors.train.dga_folds wrote")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models" / "dga_groups.json")
    arguments.add_argument("--groups", type=int, default=5_000, help="benign groups of each size to train with")
    arguments.add_argument(
        "--calibrate", type=int, default=40_000, help="benign groups of each size for the thresholds"
    )
    chosen = arguments.parse_args()
    shipped = load_model().score
    partial = [DgaModel(decode((chosen.folds / f"{fold}.json").read_bytes())).score for fold in range(FOLDS)]
    stuff = material(chosen.data, [*partial, shipped], chosen.groups, chosen.calibrate)
    parameters = trained(chosen.data, stuff, Builder(stuff.known, shipped))
    chosen.out.write_bytes(msgspec.json.encode(parameters) + b"\n")
    sys.stdout.write(json.dumps(parameters.about["figures"]["mean share of groups at HIGH, held out"]) + "\n")


if __name__ == "__main__":
    main()
