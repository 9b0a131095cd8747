"""Writes single-name models that miss a fold of families: `python -m detectors.train.dga_folds DATA FOLDER`.

Group figures are held out at both levels only when the scores of a family's names come from a model without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from detectors.dga_score import load_file, packed_trigrams
from detectors.train.dga import study_of, suffix_tables
from detectors.train.dga_boost import exported
from detectors.train.dga_data import FOLDS


def main() -> None:
    """Grow one model a fold by the recipe of the shipped one and write it as `FOLD.json`."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("folder", type=Path)
    chosen = arguments.parse_args()
    shipped, study = load_file(), study_of(chosen.data)
    for fold in range(FOLDS):
        booster, ratios = study.grow(held_out=fold), study.ratios(without=(fold,))
        model = msgspec.structs.replace(
            shipped,
            families=sorted(family for family in study.families if study.folds[family] != fold),
            trees=exported(booster),
            trigrams=packed_trigrams([*(row.tobytes() for row in study.languages), ratios.trigrams.tobytes()]),
            **suffix_tables(study, ratios),
        )
        (chosen.folder / f"{fold}.json").write_bytes(msgspec.json.encode(model))


if __name__ == "__main__":
    main()
