"""The evaluation's runner: intervals are right, a module that fails does not hide others, bars decide the exit code."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.evaluation import __main__ as runner
from benchmarks.evaluation import printing
from benchmarks.evaluation.figures import count_row, quantile_row, rate_row
from benchmarks.evaluation.table import Row


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert quantile_row("d", "w", "o", values, 0.5).value == 50
    assert quantile_row("d", "w", "o", values, 0.95).value == 95
    largest = quantile_row("d", "w", "o", values, 1.0, bar=99.0)
    assert (largest.value, largest.low, largest.holds) == (100, None, False)


def test_the_interval_of_a_quantile_covers_it_nineteen_times_in_twenty() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        row = quantile_row("d", "w", "o", [rng.random() for _ in range(60)], 0.5)
        assert row.low is not None
        assert row.high is not None
        covered += row.low <= 0.5 <= row.high
    assert covered >= 0.93 * 400


def test_no_values_hold_no_bar() -> None:
    assert not quantile_row("d", "w", "o", [], 0.5, bar=10.0).holds
    assert quantile_row("d", "w", "o", [3.0], 0.5).low == 3.0


def test_counts_and_rates_have_exact_intervals() -> None:
    assert count_row("d", "w", "o", 0, 100).high == pytest.approx(3.7, abs=0.1)
    none = rate_row("d", "w", "o", 0, 2.5, unit="", n=5)
    assert (none.low, none.value) == (0.0, 0.0)
    assert none.high == pytest.approx(3.689 / 2.5, abs=0.01)
    ten = rate_row("d", "w", "o", 10, 1.0, unit="", n=5)
    assert ten.low == pytest.approx(4.795, abs=0.01)
    assert ten.high == pytest.approx(18.39, abs=0.01)


def row(value: float, *, detector: str = "leak", bar: float | None = 1.0) -> Row:
    return Row(detector=detector, what="a|b", of="all", value=value, unit="B", n=1200, low=0.5, high=2.0, bar=bar)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose bars hold, one that misses, one that breaks, one that measures nothing."""

    def module(name: str, measure: object = None) -> None:
        made = ModuleType(name)
        if measure is not None:
            vars(made)["measure"] = measure
        monkeypatch.setitem(sys.modules, f"benchmarks.evaluation.{name}", made)

    def broken(data: Path, *, quick: bool) -> list[Row]:
        raise FileNotFoundError("no such data")

    module("good", lambda data, *, quick: [row(0.5 if quick else 0.75)])
    module("poor", lambda data, *, quick: [row(3.0, detector="other"), row(9.0, bar=None)])
    module("broken", broken)
    module("plain")
    monkeypatch.setattr(runner, "names", lambda: ["broken", "good", "plain", "poor"])


@pytest.mark.usefixtures("modules")
def test_a_module_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main([str(tmp_path), "--out", str(tmp_path / "table.md")]) == 1
    said = capsys.readouterr()
    assert "broken failed: FileNotFoundError: no such data" in said.out
    assert "other: a|b, all: 3 B, to be <= 1" in said.out
    assert "2 bars, 1 hold" in said.out
    assert "plain" not in said.err
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "## leak" in page
    assert "## other" in page
    assert "| a\\|b | all | 3 B | 0.5 - 2 | 1,200 | <= 1 | MISSED |" in page


@pytest.mark.usefixtures("modules")
def test_bars_that_hold_exit_with_zero(tmp_path: Path) -> None:
    assert runner.main([str(tmp_path), "--only", "good", "--quick"]) == 0
    assert runner.main([str(tmp_path), "--only", "good", "--only", "poor"]) == 1
    assert runner.main([str(tmp_path), "--only", "plain"]) == 1  # nothing measured shows nothing


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["no/such/folder"]])
@pytest.mark.usefixtures("modules")
def test_wrong_arguments_exit_with_two(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        runner.main([str(tmp_path), *arguments] if arguments[0].startswith("--") else arguments)
    assert left.value.code == 2


def test_the_package_has_modules_to_run() -> None:
    assert "leak" in runner.names()
    assert not [name for name in runner.names() if name.startswith("_")]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234.5, "1,234"), (0.5, "0.5"), (0.00012, "1.2e-04"), (-3.0, "-3")]
)
def test_figures_have_the_digits_they_deserve(value: float, text: str) -> None:
    assert printing.figure(value) == text
