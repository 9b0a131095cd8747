"""How well single names of domain generators are told from benign ones: `python -m benchmarks.evaluation.dga DATA`.

Rules:
1. A family counts only with scores of a model that never met it. Families the shipped model was made from have their
   figures from models of folds: grown here when lightgbm is present (always with --folds, which fails without it),
   else read from the model file, which the rows then say. A family the shipped model never met is scored by it, here.
2. Benign names are those whose checksum keeps them out of every training, whatever the data folder.
3. Bars stand on names that resolve. All lists are shown, with suffix features and without.
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from benchmarks.evaluation import printing
from benchmarks.evaluation.table import Row, wilson
from core.finding import Confidence
from core.names import registered_domain
from detectors.dga_score import load_file, load_model, model_octets
from detectors.train import dga_data
from detectors.train.dga import study_of
from detectors.train.dga_measure import FamilyFigures, Macro, figures, held_out, sheets, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from core.names import Name
    from detectors.dga_score import DgaModel
    from detectors.train.dga_data import Item

NAME: Final = "dga single name"
BARS: Final[Mapping[str, float]] = {
    "AUC": 0.95,
    "AUC without static words": 0.965,
    "TPR at FPR 0.001": 0.45,
    "TPR at FPR 0.0001": 0.22,
}
MOST_OCTETS: Final = 1_000_000  # of the model file
MOST_MEAN: Final = 50.0  # microseconds a name
MOST_TAIL: Final = 110.0  # likewise, of 99 % of names
_QUICK: Final = 12  # one row of the crawl in so many
_TIMED: Final = 10_000  # names
_ROUNDS: Final = 5  # the best of them counts: what the machine does meanwhile is not the model's cost
_METHODS: Final = {"recorded": "folds, recorded at training", "grown": "folds, grown now"}

Found = dict[str, dict[str, FamilyFigures]]  # by list, then by family


def measure(data: Path, *, quick: bool, folds: bool = False) -> list[Row]:
    """Return the rows; raises ModuleNotFoundError when `folds` asks for lightgbm and it is missing."""
    model, file = load_model(), load_file()
    families = dga_data.families(data)
    known = {item for items in families.values() for item in items}
    lists = benign_lists(data, known=known, every=_QUICK if quick else 1)
    scored = {kind: np.sort([model.score(name_of(item)) for item in items]) for kind, items in lists.items()}
    strange = {name: items for name, items in families.items() if name not in model.families}
    unseen = _shipped(model, strange, scored)
    found: list[Row] = []
    if folds or (not quick and find_spec("lightgbm") is not None):
        found += _grown(data)
    else:
        found += _recorded(file.figures, families, unseen)
    if unseen["resolving"]:
        for kind, figure in unseen.items():
            found += _macro_rows(figure, f"{kind}, families new to the shipped model", len(scored[kind]))
    found += _levels(model, scored)
    return found + _costs(model, [name_of(item) for item in lists["raw"]])


def benign_lists(data: Path, *, known: set[Item], every: int) -> dict[str, list[Item]]:
    """Return the benign names that no training saw, by list. `known` are names of families."""
    crawl: dict[Item, bool] = {}
    for item, resolves in dga_data.crawled(data, every=every):
        if dga_data.part(item[0]) == "test":
            crawl[item] = crawl.get(item, False) or resolves
    found = {
        "raw": list(crawl),
        "resolving": [item for item, resolves in crawl.items() if resolves and item not in known],
    }
    for kind, file in (("human", dga_data.HUMAN), ("later", dga_data.LATER)):
        items = dga_data.listed(data / file)[::every]
        if held := [item for item in items if dga_data.part(item[0]) == "test" and item not in known]:
            found[kind] = held
    return found


def name_of(item: Item) -> Name:
    """Return the name of a label under a suffix."""
    return bytes((len(item[0]),)) + item[0] + item[1]


def _shipped(model: DgaModel, families: Mapping[str, list[Item]], benign: Mapping[str, Any]) -> Found:
    scored = {
        family: np.array([model.score(name_of(item)) for item in items])
        for family, items in families.items()
        if len(items) >= dga_data.SMALLEST
    }
    return {
        kind: {family: figures(values, ordered) for family, values in scored.items()}
        for kind, ordered in benign.items()
    }


def _recorded(written: Mapping[str, Any], families: Iterable[str], unseen: Found) -> list[Row]:
    """Return rows of the model file; families of this folder that the model never met join those that it holds out."""
    counts = written["benign_names"]
    kept = {
        name: FamilyFigures(names=values[0], auc=values[1], rates=values[2:])
        for name, values in written["families"].items()
        if name in set(families)
    }
    found = []
    if merged := {**kept, **unseen["resolving"]}:
        found += _macro_rows(merged, f"resolving ({_METHODS['recorded']})", counts["resolving"], bars=True)
    for method in ("with suffix", "without suffix"):
        for kind, values in written[method].items():
            where = f"{kind}, {method} ({_METHODS['recorded']})"
            macros = msgspec.convert(values, dict[str, Macro])
            found += [_row(what, where, macro, counts[kind]) for what, macro in macros.items()]
    return found


def _grown(data: Path) -> list[Row]:
    """Return rows of models grown from this folder, all its families held out in turn."""
    study = study_of(data)
    lists = sheets(study, study.benign)
    found = []
    for method, without in (("with suffix", False), ("without suffix", True)):
        for kind, families in held_out(study, lists, without_suffix=without).items():
            where = f"{kind}, {method} ({_METHODS['grown']})"
            bars = kind == "resolving" and not without
            benign = len(lists[kind][0].suffixes) if kind != "resolving" else sum(study.benign.resolving)
            found += _macro_rows(families, where, benign, bars=bars)
    return found


def _macro_rows(families: Mapping[str, FamilyFigures], where: str, benign: int, *, bars: bool = False) -> list[Row]:
    return [
        _row(what, where, macro, benign, bar=BARS.get(what) if bars else None)
        for what, macro in summary(families).items()
    ]


def _row(what: str, where: str, macro: Macro, benign: int, *, bar: float | None = None) -> Row:
    return Row(
        detector=NAME,
        what=f"macro {what}, {benign:,} benign names",
        of=where,
        value=macro.value,
        n=macro.families,
        low=macro.low,
        high=macro.high,
        bar=bar,
        at_most=False,
    )


def _levels(model: DgaModel, benign: Mapping[str, Any]) -> list[Row]:
    """Return the share of benign names at or above each level that the model gives."""
    found = []
    for level in Confidence:
        threshold = getattr(model.calibration, level.name.lower())
        for kind, scores in benign.items():
            hits = 0 if threshold is None else int((scores >= threshold).sum())
            what = f"benign names at {level.name}" + (" (a level never given)" if threshold is None else " or above")
            low, high = wilson(hits, len(scores))
            found.append(
                Row(detector=NAME, what=what, of=kind, value=hits / len(scores), n=len(scores), low=low, high=high)
            )
    return found


def _costs(model: DgaModel, names: list[Name]) -> list[Row]:
    """Return time a name, the registered domain being known already as it is to every detector, and size."""
    sample = names[:: max(len(names) // _TIMED, 1)][:_TIMED]
    best = np.full(len(sample), np.inf)
    for _ in range(_ROUNDS):
        for at, name in enumerate(sample):
            registered_domain(name)
            begun = time.perf_counter_ns()
            model.score(name)
            best[at] = min(best[at], time.perf_counter_ns() - begun)
    best /= 1e3
    size = len(model_octets())
    return [
        Row(detector=NAME, what="time a name, mean", value=best.mean(), unit="us", n=len(sample), bar=MOST_MEAN),
        Row(
            detector=NAME,
            what="time a name, 99 %",
            value=float(np.quantile(best, 0.99)),
            unit="us",
            n=len(sample),
            bar=MOST_TAIL,
        ),
        Row(detector=NAME, what="model file", value=size, unit="octets", n=1, bar=MOST_OCTETS),
    ]


def main() -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="data folder")
    parser.add_argument("--quick", action="store_true", help="a sample, under half a minute")
    parser.add_argument("--folds", action="store_true", help="grow the models of the folds here (needs lightgbm)")
    options = parser.parse_args()
    printing.show(measure(options.data, quick=options.quick, folds=options.folds))


if __name__ == "__main__":
    main()
