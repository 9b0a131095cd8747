"""Whose word holds: people's before detectors', whatever the scope of either."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scene import OFFICE, OTHER, Scene

from core.names import from_text
from core.verdict import Action, Cause
from feeds.overlay import CONVICTS, Override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = from_text("odd.example")
BY = f"{CONVICTS}leak"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def decided(scene: Scene, client: bytes = OFFICE) -> tuple[Action, Cause]:
    found = scene.policy.explain(from_text("www.odd.example"), scene.policy.view_of(client))
    return found.action, found.cause


def test_a_conviction_is_about_its_client(scene: Scene) -> None:
    scene.override(Override(NAME, Action.SINKHOLE, client="127.0.0.1", by=BY))
    assert decided(scene) == (Action.SINKHOLE, Cause.CONVICTION)
    assert decided(scene, OTHER) == (Action.NONE, Cause.NONE)


@pytest.mark.parametrize("allowed", ["", "127.0.0.1", "127.0.0.0/8"])
@pytest.mark.parametrize("convicted", ["", "127.0.0.1"])
def test_an_allow_beats_a_conviction_whatever_the_scope(scene: Scene, allowed: str, convicted: str) -> None:
    scene.override(
        Override(NAME, Action.SINKHOLE, client=convicted, by=BY),
        Override(NAME, Action.PASSTHRU, client=allowed, by="ann"),
    )
    assert decided(scene) == (Action.PASSTHRU, Cause.OVERRIDE)


def test_a_block_by_a_person_is_told_as_theirs(scene: Scene) -> None:
    scene.override(
        Override(NAME, Action.SINKHOLE, client="127.0.0.1", by=BY), Override(NAME, Action.NXDOMAIN, by="ann")
    )
    assert decided(scene) == (Action.NXDOMAIN, Cause.OVERRIDE)


def test_a_conviction_ends(scene: Scene) -> None:
    scene.override(Override(NAME, Action.SINKHOLE, by=BY, expires=scene.now + 60))
    assert decided(scene) == (Action.SINKHOLE, Cause.CONVICTION)
    scene.later(61)
    assert decided(scene) == (Action.NONE, Cause.NONE)
