"""A meter's accounts over the end of its worker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from core.errors import Unavailable
from core.names import from_text
from detectors.leak import LeakMeter, LeakSettings
from resolver.keeping import EVERY, Keeper, held, read, save, state_path

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = bytes((192, 0, 2, 7))
DOMAIN = from_text("thief.example")
NOW = 1_000_000.0


def meter() -> LeakMeter:
    return LeakMeter(LeakSettings(learning_days=0.0), started=NOW)


def blocked(made: LeakMeter, name: str) -> bool:
    return made.check(NOW, CLIENT, DOMAIN, from_text(f"{name}.thief.example"), 1) is not None


def full() -> LeakMeter:
    """A meter whose pair is over its budget."""
    made = meter()
    assert [blocked(made, os.urandom(20).hex()) for _ in range(60)][-1]
    return made


def test_what_is_written_is_taken_up(tmp_path: Path) -> None:
    Keeper(tmp_path, 1, full()).write()
    made = meter()
    assert not blocked(made, "x")
    Keeper(tmp_path, 1, made).resume()
    assert blocked(made, "y")
    other = meter()
    Keeper(tmp_path, 2, other).resume()
    assert not blocked(other, "y")


def test_a_fork_writes_while_the_worker_goes_on(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 0, full())
    keeper.resume()
    saver = keeper._saver
    due = saver._due
    keeper.tick(due - 1.0)
    assert not state_path(tmp_path, 0).exists()
    keeper.tick(due)
    assert saver._fork
    os.waitid(os.P_PID, saver._fork, os.WEXITED | os.WNOWAIT)
    keeper.tick(due + 1.0)
    assert not saver._fork
    state = read(state_path(tmp_path, 0))
    assert state is not None
    assert state["pairs"]
    assert saver._due == due + EVERY


@pytest.mark.parametrize("octets", [b"", b"\xc1\xff", b"\x93\x01\x02\x03", b"\x81\xa7version\x01"])
def test_a_damaged_file_is_no_state(tmp_path: Path, octets: bytes) -> None:
    path = state_path(tmp_path, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(octets)
    made = meter()
    Keeper(tmp_path, 0, made).resume()
    assert not blocked(made, "x")
    Keeper(tmp_path, 0, full()).write()
    assert read(path) is not None


def test_what_cannot_be_read_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    assert held(tmp_path / "none") is None
    (tmp_path / "bad").write_bytes(b"\xc1")
    with pytest.raises(Unavailable, match="bad"):
        held(tmp_path / "bad")
    assert read(tmp_path / "bad") is None


def test_a_disk_that_refuses_costs_the_state_alone(tmp_path: Path) -> None:
    (tmp_path / "detectors").write_bytes(b"in the way")
    Keeper(tmp_path, 0, full()).write()
    assert read(tmp_path / "detectors" / "leak.0") is None


def test_a_state_is_whole_or_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "detectors" / "leak.0"
    save(path, {"one": 1})
    with pytest.raises(TypeError):
        save(path, {"two": object()})
    assert read(path) == {"one": 1}
