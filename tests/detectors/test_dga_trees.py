from __future__ import annotations

from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.names import Name, from_text
from detectors.dga_features import features, split
from detectors.dga_groups import FEATURES as GROUP_FEATURES
from detectors.dga_groups import Parameters, load_groups
from detectors.dga_score import SIEVE, DgaFile, DgaModel, load_file, load_model
from detectors.dga_suffixes import DYNAMIC
from detectors.dga_trees import compiled, highest, sieve

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = ("garden", "photo", "family", "bank", "north", "light", "casino", "shop", "online", "de", "my", "1", "24", "-")
SUFFIXES = ("com", "net", "org", "co.uk", "ru", "info", "de", "cn", "top", "ddns.net", "mooo.com", "no-such-tld")
NODE = st.recursive(
    st.floats(-1, 1),
    lambda inner: st.tuples(st.integers(0, 2), st.floats(-5, 5), inner, inner).map(list),
    max_leaves=8,
)


@cache
def model() -> DgaModel:
    return load_model()


@cache
def file() -> DgaFile:
    return load_file()


def walked(trees: Sequence[Any], row: Sequence[float]) -> float:
    """Return what the JSON of the trees says, node by node."""
    total = 0.0
    for tree in trees:
        node = tree
        while isinstance(node, list):
            node = node[2] if row[node[0]] <= node[1] else node[3]
        total += node
    return total


def names(count: int, seed: int) -> list[Name]:
    random = Random(seed)
    found = []
    for at in range(count):
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"[: random.choice((6, 16, 26, 36))]
        made = "".join(random.choices(letters, k=random.randint(1, 30)))
        ordinary = "".join(random.choices(WORDS, k=random.randint(1, 3))).strip("-") or "site"
        found.append(from_text(f"{made if at % 2 else ordinary}.{random.choice(SUFFIXES)}"))
    return found


def test_scores_are_those_of_a_walk_over_the_trees_of_the_file() -> None:
    for name in names(3_000, seed=1):
        row = features(model()._tables, *split(name, DYNAMIC))
        assert model().score(name) == pytest.approx(walked(file().trees, row), abs=1e-9)


def test_groups_are_weighed_as_a_walk_over_the_trees_of_the_file_does() -> None:
    from detectors.dga_groups import features as of_group

    groups = load_groups()
    trees = parameters().trees
    made = [groups.traits(name, model().score(name)) for name in names(400, seed=2) if name[0] > 3]
    for at in range(0, 300, 10):
        group = made[at : at + 20]
        row = of_group(group, groups.tables)
        assert len(row) == len(GROUP_FEATURES)
        assert groups.score(group) == pytest.approx(walked(trees, row), abs=1e-9)


def parameters() -> Parameters:
    from importlib import resources

    raw = resources.files("detectors").joinpath("models", "dga_groups.json").read_bytes()
    return msgspec.json.decode(raw, type=Parameters)


def test_no_name_worth_telling_falls_through_the_sieve() -> None:
    medium = file().calibration.medium
    assert medium is not None
    told = 0
    for name in names(6_000, seed=3):
        score, found = model().score(name), model().telling(*split(name, DYNAMIC))
        assert found == score or (found is None and score < medium)
        told += score >= medium
    assert told > 100


def test_most_ordinary_names_fall_through_the_sieve() -> None:
    ordinary = [name for name in names(2_000, seed=4) if model().score(name) < -2]
    assert len(ordinary) > 300
    asked = sum(model().telling(*split(name, DYNAMIC)) is not None for name in ordinary)
    assert asked < 0.1 * len(ordinary)


def test_without_a_medium_level_no_name_tells_alone() -> None:
    unshown = msgspec.structs.replace(file().calibration, medium=None, high=None)
    mute = DgaModel(msgspec.structs.replace(file(), calibration=unshown))
    assert all(mute.telling(*split(name, DYNAMIC)) is None for name in names(200, seed=5))
    assert model().telling(b"", b"\x00") is None
    assert model().telling(b"4", from_text("in-addr.arpa")) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(NODE, max_size=6), st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.integers(0, 6))
def test_any_trees_are_compiled_to_what_they_say(trees: list[Any], row: list[float], first: int) -> None:
    value = walked(trees, row)
    assert compiled(trees, 3)(*row) == pytest.approx(value, abs=1e-9)
    assert value <= sum(map(highest, trees)) + 1e-9
    for bound in (value, value - 1.0):  # reached: never sifted out
        assert sieve(trees, 3, bound=bound, first=first)(*row) > 0


def test_broken_trees_are_refused() -> None:
    with pytest.raises(ValueError, match="feature 3"):
        compiled([[3, 0.0, 0.0, 1.0]], 3)
    with pytest.raises(ValueError, match="could not convert"):
        compiled([[0, "print(1)", 0.0, 1.0]], 3)
    assert compiled([], 3)(1, 2, 3) == 0.0
    assert 0 < SIEVE < len(file().trees)
