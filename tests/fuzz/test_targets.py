"""Every target with its seeds and a little damage, on every run of the tests; `make fuzz` does the same at length."""

from __future__ import annotations

import random
import subprocess

import pytest
from fuzz import campaign, seeds
from fuzz.damage import MOST, STEP, damage
from fuzz.hunt import hunt, inputs
from fuzz.on_wire import census
from fuzz.targets import TARGETS, Target
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Malformed
from core.wire import read_query, walk

EXAMPLES = 60  # of each target: the whole file takes a few seconds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_crash_nothing(name: str) -> None:
    target = TARGETS[name]
    assert len(set(target.seeds)) == len(target.seeds) > 1
    for data in target.seeds:
        target.check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_crash_nothing(name: str) -> None:
    target = TARGETS[name]
    ran = 0

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(inputs(target))
    def once(data: bytes) -> None:
        nonlocal ran
        ran += 1
        target.check(data)

    once()
    assert ran >= EXAMPLES


@pytest.mark.parametrize("name", TARGETS)
def test_relatives_of_the_seeds_crash_nothing(name: str) -> None:
    target, dice = TARGETS[name], random.Random(name)
    for _ in range(EXAMPLES):
        target.check(target.mutant(dice.choice(target.seeds), dice))


# ---- the seeds and the damage are what they claim to be


def test_seeds_are_read_and_refused() -> None:
    refused = 0
    for data in seeds.queries():
        try:
            read_query(data)
        except Malformed:
            refused += 1
    assert 8 <= refused <= len(seeds.queries()) - 20


def test_seeds_hold_every_type_and_most_of_them_walk() -> None:
    found = sum(map(census, seeds.replies()), start=census(b""))
    assert {1, 2, 5, 6, 12, 15, 16, 28, 33, 35, 39, 46, 47, 50, 64, 65, 65_280} <= set(found)
    assert found[1] > 500
    assert sum(bool(census(data)) for data in seeds.replies()) > len(seeds.replies()) * 3 // 4


@given(st.sampled_from([*seeds.replies(), *seeds.queries()]), st.binary(max_size=STEP * 8))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
def test_a_script_does_the_same_damage_each_time(data: bytes, script: bytes) -> None:
    assert damage(data, script) == damage(data, script)
    assert len(damage(data, script)) <= max(MOST, len(data))
    assert script[:STEP] or damage(data, script) == data


def test_damage_spares_some_structure() -> None:
    dice = random.Random(1)
    whole = [one for one in seeds.replies() if census(one)]
    walked = broken = 0
    for _ in range(400):
        try:
            walk(damage(dice.choice(whole), dice.randbytes(STEP)))
            walked += 1
        except Malformed:
            broken += 1
    assert walked > 100
    assert broken > 40


# ---- a crash is found, and made small


def test_a_crash_is_found_and_made_small() -> None:
    def fragile(data: bytes) -> None:
        if b"\xc0" in data:
            raise IndexError(data)

    found = hunt(Target(fragile, seeds.replies()), 600.0, lambda: 1)
    assert found.crash is not None
    assert b"\xc0" in found.crash
    assert found.crash in seeds.replies()  # no damage is left
    assert "IndexError" in found.trace
    assert found.seconds < 600.0


def test_a_hunt_without_a_crash_ends_in_time() -> None:
    ran: list[bytes] = []
    found = hunt(Target(ran.append, (b"seed", b"other")), 0.01, lambda: 1)
    assert found.crash is None
    assert found.runs == len(ran) > 10


def test_what_takes_too_long_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.targets.SLOW", -1.0)
    with pytest.raises(AssertionError, match="processor time for 3 octets"):
        Target(lambda _: None, ()).check(b"abc")


def test_what_took_too_long_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 5.0, 5.1])
    monkeypatch.setattr("fuzz.targets.time.process_time", lambda: next(clock))
    ran: list[bytes] = []
    Target(ran.append, ()).check(b"abc")
    assert ran == [b"abc"] * 2


# ---- what the campaign makes of its drivers


def test_the_traceback_of_a_crash_is_shown() -> None:
    said = "INFO: x\n === Uncaught Python exception: ===\nIndexError: 3\nTraceback\n\n==9== ERROR: libFuzzer: exited\n"
    assert campaign._traceback(said).strip() == "IndexError: 3\nTraceback"
    assert campaign._traceback("==9== ERROR: libFuzzer: deadly signal") == ""


@pytest.mark.parametrize(("code", "guided"), [(0, True), (1, False)])
def test_without_a_wheel_hypothesis_runs_alone_and_it_is_said(
    code: int, guided: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, code, "", "no matching distribution")

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("subprocess.run", run)
    assert campaign.has_atheris() is guided
    assert [command[-1] for command in asked] == ["atheris>=3"]
    assert ("hypothesis runs alone" in capsys.readouterr().out) is not guided


@pytest.mark.parametrize("argument", ["--seconds=0", "nothing"])
def test_bad_usage_is_said_before_anything_runs(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["campaign", argument])
    with pytest.raises(SystemExit) as ended:
        campaign.main()
    assert ended.value.code == 2
    assert "at least 1" in (said := capsys.readouterr().err) or "there are query, edns" in said
