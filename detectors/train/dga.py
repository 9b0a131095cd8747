"""Makes the single-name DGA model: `python -m detectors.train.dga DATA --out FILE`, needs lightgbm and numpy.

Rules:
1. The recipe is fixed here; figures in the file are those of models that did not meet the family they are shown.
2. The shipped trees meet all families, but never a benign name of the part that measures.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from core.names import to_text
from detectors.dga_score import FORMAT, Calibration, DgaFile, DgaModel, Source, packed_trigrams
from detectors.train import dga_data
from detectors.train.dga_boost import (
    DGA_WEIGHT,
    MADE_UP,
    MADE_UP_WEIGHT,
    PARAMETERS,
    TREES,
    Sheet,
    Study,
    exported,
    scores,
)
from detectors.train.dga_measure import RATES, held_out, macro, sheets, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.train.dga_boost import Ratios
    from detectors.train.dga_measure import FamilyFigures

MISSING: Final = "training needs lightgbm (pip install lightgbm); the shipped model runs without it"
PREVALENCE: Final = 0.01  # of generated names among the new names a client asks; see docs/detectors/dga_score.md
LOW_RATE: Final = 1e-3  # share of benign names that reach LOW
PRECISION: Final[Mapping[str, float]] = {"medium": 0.9, "high": 0.99}
_FEWEST: Final = 0.01  # share of names of families a level must find to be worth having
_TOLERANCE: Final = 0.01  # nats by which the shipped function may differ from lightgbm's
_POINTS: Final = 60  # of the calibration curve
_Z: Final = 1.96


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the data, measure by folds, grow the shipped model and write it. Returns the exit code."""
    parser = argparse.ArgumentParser(description="make the single-name DGA model")
    parser.add_argument("data", type=Path, help="folder with dga/ and benign/")
    parser.add_argument("--out", type=Path, required=True, help="the model file to write (JSON)")
    options = parser.parse_args(arguments)
    try:
        import_module("lightgbm")
    except ImportError:
        sys.stderr.write(f"{MISSING}\n")
        return 2
    study = study_of(options.data)
    lists = sheets(study, study.benign)
    measured = {
        "with suffix": held_out(study, lists),
        "without suffix": held_out(study, lists, without_suffix=True),
    }
    octets = msgspec.json.encode(shipped(study, lists["resolving"], measured, options.data))
    options.out.write_bytes(octets)
    for name, families in measured["with suffix"].items():
        for what, value in summary(families).items():
            sys.stdout.write(f"{name:10} {what:26} {value.value:.4f} ({value.low:.3f}-{value.high:.3f})\n")
    sys.stdout.write(f"{options.out}: {len(octets):,} octets\n")
    return 0


def study_of(data: Path) -> Study:
    """Return rows and counts of a data folder. Raises FileNotFoundError."""
    families = dga_data.families(data)
    known = {item for items in families.values() for item in items}
    return Study(dga_data.benign(data, known=known), families)


def shipped(
    study: Study,
    resolving: tuple[Sheet, Any],
    measured: Mapping[str, Mapping[str, Mapping[str, FamilyFigures]]],
    data: Path,
) -> DgaFile:
    """Return the model of all families; raises ValueError when the shipped function does not vote as lightgbm does."""
    booster = study.grow(held_out=None)
    ratios = study.ratios(without=())
    sheet, rows = resolving
    benign = np.sort(scores(booster, sheet.filled(ratios))[rows])
    found = measured["with suffix"]["resolving"]
    file = DgaFile(
        format=FORMAT,
        sources=_sources(data),
        families=sorted(study.families),
        recipe=_recipe(),
        figures=_figures(study, resolving, measured),
        calibration=_calibration(benign, found),
        trigrams=packed_trigrams([*(row.tobytes() for row in study.languages), ratios.trigrams.tobytes()]),
        words={word.decode(): worth for word, worth in study.blank.words.items()},
        trees=exported(booster),
        **suffix_tables(study, ratios),
    )
    _check(file, study, scores(booster, study.dga.filled(ratios)))
    return file


def _sources(data: Path) -> list[Source]:
    return [
        Source(file=name, sha256=dga_data.digest(data / name), what=what)
        for name, what in dga_data.SOURCES.items()
        if (data / name).exists()
    ]


def _recipe() -> dict[str, Any]:
    return {
        "trees": TREES,
        **PARAMETERS,
        "made_up": MADE_UP,
        "dga_weight": DGA_WEIGHT,
        "made_up_weight": MADE_UP_WEIGHT,
        "per_family": dga_data.PER_FAMILY,
        "folds": dga_data.FOLDS,
        "benign_test_percent": dga_data.TEST,
        "benign_tables_percent": dga_data.TABLES,
    }


def suffix_tables(study: Study, ratios: Ratios) -> dict[str, Any]:
    """Return what the model file says of suffixes and top levels."""
    suffixes, tlds, unknown = study.suffix_rows(ratios)
    return {
        "suffixes": {to_text(name): fact for name, fact in suffixes.items()},
        "tlds": {to_text(name): fact for name, fact in tlds.items()},
        "unknown": unknown,
    }


def _figures(
    study: Study, resolving: tuple[Sheet, Any], measured: Mapping[str, Mapping[str, Mapping[str, FamilyFigures]]]
) -> dict[str, Any]:
    """Return figures of the fold models: by kind of model, list and measure, and every family against `resolving`."""
    benign = study.benign
    counts = {
        "raw": len(benign.raw),
        "resolving": int(np.count_nonzero(resolving[1])),
        "human": len(benign.human),
        "later": len(benign.later),
    }
    return {
        "note": "families held out in folds; low and high: 95 % of draws of families",
        "benign_names": counts,
        **{
            kind: {name: msgspec.to_builtins(summary(families)) for name, families in lists.items()}
            for kind, lists in measured.items()
        },
        "families": {
            name: [figure.names, round(figure.auc, 4), *(round(rate, 4) for rate in figure.rates)]
            for name, figure in measured["with suffix"]["resolving"].items()
        },
    }


def _calibration(benign: Any, families: Mapping[str, FamilyFigures]) -> Calibration:
    """Return the thresholds; what a threshold finds of unknown families is read between the rates of the folds."""
    count = len(benign)
    shares = np.geomspace(1.0, 1 / count, _POINTS)
    places = np.clip(count - np.ceil(shares * count).astype(int), 0, count - 1)
    found = [macro([figure.rates[at] for figure in families.values()]).value for at in range(len(RATES))]
    levels = {name: _level(benign, found, precision) for name, precision in PRECISION.items()}
    return Calibration(
        names=count,
        prevalence=PREVALENCE,
        shares=[float(f"{share:.3g}") for share in shares],
        scores=[round(float(benign[at]), 4) for at in places],
        low=round(float(benign[-int(count * LOW_RATE) - 1]), 4),
        medium=levels["medium"],
        high=levels["high"],
    )


def _level(benign: Any, found: Sequence[float], precision: float) -> float | None:
    """Return the lowest score whose precision holds even at the upper bound of the share of benign names above it."""
    count = len(benign)
    for above in range(count // 100, -1, -1):
        share = _upper(above, count)
        finds = float(np.interp(-np.log(share), -np.log(RATES), found))
        hits = PREVALENCE * finds
        if finds >= _FEWEST and hits / (hits + (1 - PREVALENCE) * share) >= precision:
            return round(float(benign[-above - 1]), 4)
    return None


def _upper(above: int, count: int) -> float:
    """Return the upper bound of 95 % of a share (Wilson 1927)."""
    z2 = _Z * _Z
    share = above / count
    half = _Z * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count * count)))
    return (share + z2 / (2 * count) + half) / (1 + z2 / count)


def _check(file: DgaFile, study: Study, expected: Any) -> None:
    """Raise ValueError when names of families score otherwise in the shipped model than in lightgbm."""
    model = DgaModel(file)
    items = [item for items in study.families.values() for item in items]
    rows = range(0, len(items), 50)
    names = [bytes((len(items[at][0]),)) + items[at][0] + items[at][1] for at in rows]
    worst = float(np.quantile(np.abs([model.score(name) for name in names] - expected[list(rows)]), 0.99))
    if worst > _TOLERANCE:
        raise ValueError(f"the shipped function is off by {worst:.3f} nats at the 99 % quantile")


if __name__ == "__main__":
    raise SystemExit(main())
