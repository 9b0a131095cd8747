"""How well single names are told apart: one set of held-out scores, and figures over families with their intervals.

Rules:
1. A family is scored by a model that never met it, benign lists by the same model; thresholds are those of that list.
2. Macro figures weigh every family the same; the 95 % interval draws families again, for they are the uncertainty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from detectors.train.dga_boost import Sheet, scores
from detectors.train.dga_data import FOLDS, SMALLEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.train.dga_boost import Study
    from detectors.train.dga_data import Benign

RATES: Final = (1e-2, 1e-3, 1e-4)  # false positive rates at which families are counted
STATIC: Final = frozenset(("banjori", "fosniw"))  # a fixed word with a counter or a few letters before it
LISTS: Final = ("raw", "resolving", "human", "later")
_DRAWS: Final = 2_000


class FamilyFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one list makes of one family."""

    names: int
    auc: float
    rates: list[float]  # share of its names found, at each of RATES


class Macro(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over families with the interval of 95 %."""

    value: float
    low: float
    high: float
    families: int


def figures(family: Any, benign: Any) -> FamilyFigures:
    """Return figures of held-out scores of a family against those of a benign list, sorted ascending."""
    count = len(benign)
    below = np.searchsorted(benign, family, "left") + np.searchsorted(benign, family, "right")
    found = [float((family > benign[-int(count * rate) - 1]).mean()) for rate in RATES]
    return FamilyFigures(names=len(family), auc=float(below.mean() / 2 / count), rates=found)


def macro(values: Sequence[float]) -> Macro:
    """Return the mean of one value a family; the interval comes from drawing families with replacement."""
    array = np.array(values)
    drawn = np.random.default_rng(1).integers(0, len(array), (_DRAWS, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), (0.025, 0.975))
    return Macro(value=float(array.mean()), low=float(low), high=float(high), families=len(array))


def summary(families: Mapping[str, FamilyFigures]) -> dict[str, Macro]:
    """Return macro AUC (all families, and without static words) and macro shares found at each of RATES."""
    moving = [figure.auc for name, figure in families.items() if name not in STATIC]
    found = {"AUC": macro([figure.auc for figure in families.values()])}
    if moving:
        found["AUC without static words"] = macro(moving)
    for at, rate in enumerate(RATES):
        found[f"TPR at FPR {rate:g}"] = macro([figure.rates[at] for figure in families.values()])
    return found


def sheets(study: Study, benign: Benign) -> dict[str, tuple[Sheet, Any]]:
    """Return the benign lists as rows of features, and which rows count."""
    raw = Sheet(study.blank, benign.raw)
    found = {"raw": (raw, slice(None)), "resolving": (raw, np.array(benign.resolving))}
    for name, items in (("human", benign.human), ("later", benign.later)):
        if items:
            found[name] = (Sheet(study.blank, items), slice(None))
    return found


def held_out(
    study: Study, lists: Mapping[str, tuple[Sheet, Any]], *, without_suffix: bool = False, folds: int = FOLDS
) -> dict[str, dict[str, FamilyFigures]]:
    """Return figures by list and family from one model a fold, each grown without the families it is shown.

    `without_suffix` blinds the models to suffix and top-level domain. Raises ImportError when lightgbm is missing.
    """
    result: dict[str, dict[str, FamilyFigures]] = {name: {} for name in lists}
    owners = np.array([name for name, items in study.families.items() for _ in items])
    for fold in range(folds):
        booster = study.grow(held_out=fold, without_suffix=without_suffix)
        ratios = study.ratios(without=(fold,))
        known = {
            id(sheet): scores(booster, sheet.filled(ratios), without_suffix=without_suffix)
            for sheet in {id(sheet): sheet for sheet, _ in lists.values()}.values()
        }
        dga = scores(booster, study.dga.filled(ratios), without_suffix=without_suffix)
        for name, (sheet, rows) in lists.items():
            ordered = np.sort(known[id(sheet)][rows])
            for family, items in study.families.items():
                if study.folds[family] == fold and len(items) >= SMALLEST:
                    result[name][family] = figures(dga[owners == family], ordered)
    return result
