"""Boosted trees over the features of single names, with ratios learned only from families a row does not belong to.

Rules:
1. Tables and trees are counted from different benign names.
2. A row that trains trees sees likelihood ratios that leave its own fold of families out (and the held-out fold);
   benign and made-up rows get a fold by chance. Otherwise trees would trust ratios more than strangers deserve.
3. Tables are quantised before the trees are grown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from core.names import Name
from detectors.dga_features import FEATURES, LLR_AT, OFFSET, STEP, SUFFIX_AT, features, top_level, trigram_codes
from detectors.train import dga_tables as counting
from detectors.train.dga_data import FOLDS, folds
from detectors.train.dga_made_up import Supply, made_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.dga_features import SuffixFact, Tables
    from detectors.train.dga_data import Benign, Item

MADE_UP: Final = 40_000  # names of made-up campaigns
DGA_WEIGHT: Final = 0.5  # of all DGA rows together, benign ones weighing 1
MADE_UP_WEIGHT: Final = 0.35  # of all made-up rows together, DGA rows weighing 1
TREES: Final = 150
PARAMETERS: Final[Mapping[str, Any]] = {
    "objective": "binary",
    "num_leaves": 24,
    "learning_rate": 0.08,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 20.0,
    "use_missing": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
    "seed": 4,
}
_COMMON_SUFFIXES: Final = 500  # that made-up campaigns draw from
_SUFFIX_LLR: Final = FEATURES.index("suffix_llr")
_TLD_LLR: Final = FEATURES.index("tld_llr")


class Ratios(msgspec.Struct, frozen=True):
    """DGA against benign, learned from some of the families."""

    trigrams: Any
    suffixes: dict[Name, float]
    tlds: dict[Name, float]


class Sheet:
    """Rows of features; those that depend on which families are known are filled in on demand."""

    def __init__(self, tables: Tables, items: Sequence[Item]) -> None:
        self.values = np.array([features(tables, label, suffix) for label, suffix in items], dtype=np.float64)
        codes = [trigram_codes(label) for label, _ in items]
        self.codes = np.array([code for row in codes for code in row])
        self.lengths = np.array([len(row) for row in codes])
        self.starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        self.suffixes = [suffix for _, suffix in items]
        self.tlds = [top_level(suffix) for suffix in self.suffixes]

    def filled(self, ratios: Ratios, rows: Any = None) -> Any:
        """Return the features of the rows (all by default) with these ratios."""
        units = ratios.trigrams[self.codes].astype(np.int64) - OFFSET
        total = np.add.reduceat(units, self.starts)
        values = self.values.copy()
        values[:, LLR_AT] = STEP * total / self.lengths
        values[:, LLR_AT + 1] = STEP * np.maximum.reduceat(units, self.starts)
        values[:, LLR_AT + 2] = STEP * np.minimum.reduceat(units, self.starts)
        values[:, LLR_AT + 3] = STEP * total
        values[:, _SUFFIX_LLR] = [ratios.suffixes.get(suffix, 0.0) for suffix in self.suffixes]
        values[:, _TLD_LLR] = [ratios.tlds.get(tld, 0.0) for tld in self.tlds]
        return values if rows is None else values[rows]


class Study:
    """All rows and counts, from which a model can be grown with any fold of families left out."""

    def __init__(self, benign: Benign, families: Mapping[str, Sequence[Item]]) -> None:
        self.benign = benign
        self.families = families
        self.folds = folds(families)
        self.words = counting.mine_words(label for label, _ in benign.tables)
        self.languages = counting.language_tables(benign.tables)
        self._count_benign()
        self.trigram_shares = {name: self._shares(items) for name, items in families.items()}
        neutral = Ratios(np.full(self.benign_trigrams.shape, OFFSET, np.uint8), {}, {})
        self.blank = self.tables(neutral)
        supply = Supply(
            list(self.words),
            [label for label, _ in benign.tables[::7]],
            [name for name, _ in self.suffix_counts.most_common(_COMMON_SUFFIXES)],
        )
        invented = made_up(supply, names=MADE_UP, seed=PARAMETERS["seed"])
        self.dga = Sheet(self.blank, [item for items in families.values() for item in items])
        self.ordinary = Sheet(self.blank, benign.trees)
        self.made_up = Sheet(self.blank, invented)
        self._prepare_rows()

    def _count_benign(self) -> None:
        counts = counting.count_trigrams(label for label, _ in self.benign.tables)
        self.benign_trigrams = counts / counts.sum()
        self.suffix_counts = Counter(suffix for _, suffix in self.benign.tables)
        self.tld_counts = Counter(top_level(suffix) for _, suffix in self.benign.tables)

    def _shares(self, items: Sequence[Item]) -> Any:
        counts = counting.count_trigrams(label for label, _ in items)
        return counts / counts.sum()

    def _prepare_rows(self) -> None:
        chance = np.random.default_rng(PARAMETERS["seed"])
        self.folds_dga = np.array([self.folds[name] for name, items in self.families.items() for _ in items])
        self.folds_ordinary = chance.integers(0, FOLDS, len(self.ordinary.suffixes))
        self.folds_made_up = chance.integers(0, FOLDS, len(self.made_up.suffixes))
        self.weights_dga = np.array([1 / len(items) for items in self.families.values() for _ in items])

    def ratios(self, *, without: Sequence[int]) -> Ratios:
        """Return what the families outside of these folds teach, every family with the same weight."""
        known = [name for name in self.families if self.folds[name] not in without]
        shares = sum(self.trigram_shares[name] for name in known) / len(known)
        suffixes: defaultdict[Name, float] = defaultdict(float)
        tlds: defaultdict[Name, float] = defaultdict(float)
        for name in known:
            weight = 1 / len(self.families[name]) / len(known)
            for _, suffix in self.families[name]:
                suffixes[suffix] += weight
                tlds[top_level(suffix)] += weight
        return Ratios(
            counting.ratio_table(shares, self.benign_trigrams),
            counting.suffix_ratios(self.suffix_counts, suffixes),
            counting.suffix_ratios(self.tld_counts, tlds),
        )

    def suffix_rows(self, ratios: Ratios) -> tuple[dict[Name, SuffixFact], dict[Name, SuffixFact], SuffixFact]:
        """Return what is shipped of suffixes and of top-level domains, and of those in neither."""
        suffixes, unseen = counting.shares(self.suffix_counts, ratios.suffixes)
        tlds, _ = counting.shares(self.tld_counts, ratios.tlds)
        return (
            {name: (share, ratios.suffixes.get(name, 0.0)) for name, share in suffixes.items()},
            {name: (share, ratios.tlds.get(name, 0.0)) for name, share in tlds.items()},
            (unseen, 0.0),
        )

    def tables(self, ratios: Ratios) -> Tables:
        """Return what the features read, with these ratios."""
        suffixes, tlds, unknown = self.suffix_rows(ratios)
        return counting.tables(
            trigrams=counting.pack(self.languages, ratios.trigrams),
            words=self.words,
            suffixes=suffixes,
            tlds=tlds,
            unknown=unknown,
        )

    def grow(self, *, held_out: int | None, without_suffix: bool = False) -> Any:
        """Return a LightGBM booster that never met the families of fold `held_out`. Raises ImportError."""
        lightgbm = import_module("lightgbm")
        outside = () if held_out is None else (held_out,)
        parts = [self._rows(own, outside) for own in range(FOLDS) if own not in outside]
        values, answers, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        ordinary = answers == -1
        dga = answers == 1
        weights[dga] *= DGA_WEIGHT * ordinary.sum() / weights[dga].sum()
        weights[answers == 0] *= MADE_UP_WEIGHT * weights[dga].sum() / (answers == 0).sum()
        if without_suffix:
            values[:, SUFFIX_AT:] = 0.0
        columns = lightgbm.Dataset(values, (~ordinary).astype(float), weight=weights, params=dict(PARAMETERS))
        return lightgbm.train(dict(PARAMETERS), columns, num_boost_round=TREES)

    def _rows(self, own: int, outside: Sequence[int]) -> tuple[Any, Any, Any]:
        """Return features, kind (1 DGA, 0 made up, -1 benign) and weight of the rows of one fold."""
        ratios = self.ratios(without=(own, *outside))
        sheets = (
            (self.dga, self.folds_dga, 1),
            (self.made_up, self.folds_made_up, 0),
            (self.ordinary, self.folds_ordinary, -1),
        )
        chosen = [(sheet.filled(ratios, folds == own), kind, folds == own) for sheet, folds, kind in sheets]
        values = np.concatenate([rows for rows, _, _ in chosen])
        answers = np.concatenate([np.full(len(rows), kind) for rows, kind, _ in chosen])
        weights = np.ones(len(values))
        weights[: len(chosen[0][0])] = self.weights_dga[chosen[0][2]]
        return values, answers, weights


def scores(booster: Any, values: Any, *, without_suffix: bool = False) -> Any:
    """Return the log-odds of rows."""
    if without_suffix:
        values = values.copy()
        values[:, SUFFIX_AT:] = 0.0
    return booster.predict(values, raw_score=True)


def exported(booster: Any) -> list[Any]:
    """Return the trees as nested lists: [feature, threshold, at most, above], a leaf a number."""
    return [_node(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


def _node(node: Mapping[str, Any]) -> Any:
    if "leaf_value" in node:
        return round(node["leaf_value"], 5)
    return [
        node["split_feature"],
        float(f"{node['threshold']:.7g}"),
        _node(node["left_child"]),
        _node(node["right_child"]),
    ]
