"""What analysts decide about leaks, as meters follow it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from core.errors import BadName
from core.names import from_text
from detectors.leak import LeakMeter, LeakSettings
from resolver.decisions import FILE, Decision, Decisions

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = bytes((192, 0, 2, 7))
DOMAIN = from_text("thief.example")
NOW = 1_000_000.0


def full() -> LeakMeter:
    """A meter whose pair is over its budget."""
    made = LeakMeter(LeakSettings(learning_days=0.0), started=NOW)
    assert [blocked(made, os.urandom(20).hex()) for _ in range(60)][-1]
    return made


def blocked(made: LeakMeter, name: str) -> bool:
    return made.check(NOW, CLIENT, DOMAIN, from_text(f"{name}.thief.example"), 1) is not None


@pytest.mark.parametrize("client", ["", "192.0.2.7"])
@pytest.mark.parametrize("what", ["confirm", "release"])
def test_a_decision_frees_the_pair_at_once(tmp_path: Path, client: str, what: str) -> None:
    made, followed = full(), Decisions(tmp_path)
    followed.apply_all(made)
    Decisions(tmp_path).add(Decision(what=what, domain="thief.example", client=client))  # type: ignore[arg-type]
    followed.apply_new(made)
    assert not blocked(made, "x")


def test_a_decision_about_another_client_frees_nobody(tmp_path: Path) -> None:
    made, followed = full(), Decisions(tmp_path)
    Decisions(tmp_path).add(Decision(what="release", domain="thief.example", client="192.0.2.8"))
    followed.apply_new(made)
    assert blocked(made, "x")


def test_a_release_is_for_once_and_a_confirmation_for_good(tmp_path: Path) -> None:
    Decisions(tmp_path).add(Decision(what="release", domain="thief.example"))
    made = full()
    Decisions(tmp_path).apply_all(made)
    assert blocked(made, "x")
    Decisions(tmp_path).add(Decision(what="confirm", domain="thief.example"))
    Decisions(tmp_path).apply_all(made)
    assert not blocked(made, "x")


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    decisions = Decisions(tmp_path)
    decisions.add(Decision(what="confirm", domain="one.example", reason="a", by="ann", at=1.0))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'not json\n{"what": "shout", "domain": "x.example"}\n{"what": "confirm", "domain": ".."}\n')
    decisions.add(Decision(what="release", domain="two.example"))
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"what": "release", "dom')  # a writer that is not through
    made = full()
    decisions.apply_all(made)
    assert [one.domain for one in decisions.all()] == ["one.example", "..", "two.example"]
    assert decisions.all()[0].by == "ann"


def test_what_is_no_name_or_address_is_not_written(tmp_path: Path) -> None:
    for wrong in (Decision(what="confirm", domain="a..b"), Decision(what="release", domain="x.example", client="me")):
        with pytest.raises(BadName):
            Decisions(tmp_path).add(wrong)
    assert Decisions(tmp_path).all() == []
