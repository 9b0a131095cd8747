"""The table of docs/failure.md is whole: no cell is empty, and every test it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "failure.md"
COLUMNS = ["what fails", "at start", "at reload (SIGHUP)", "while running"]
ROWS = {
    "Redis away", "upstream silent or refusing", "disk full", "hub dies", "worker dies", "clock jumps", "bad feed",
    "bad configuration", "bad hosts or cookie-secret file", "index file damaged", "metrics port taken",
    "detectors' state damaged", "detectors' state cannot be written", "alerts file damaged or disk full",
}  # fmt: skip
NAMED = re.compile(r"`([a-z0-9_/]+\.py)::([a-z0-9_]+)`")


def rows() -> list[list[str]]:
    matrix, _, _ = TABLE.read_text().partition("\n## ")
    lines = [line for line in matrix.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


CELLS = [(row[0], column, cell) for row in rows()[2:] for column, cell in zip(COLUMNS[1:], row[1:], strict=False)]


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def test_every_failure_has_its_row_and_every_row_its_columns() -> None:
    head, _, *body = rows()
    assert head == COLUMNS
    assert {row[0] for row in body} >= ROWS
    assert {len(row) for row in body} == {len(COLUMNS)}


@pytest.mark.parametrize(("row", "column", "cell"), CELLS)
def test_a_cell_says_what_happens_and_names_tests_that_are_there(row: str, column: str, cell: str) -> None:
    named = NAMED.findall(cell)
    assert named
    assert len(NAMED.sub("", cell).split()) >= 3, "a sentence says what happens"
    for path, name in named:
        assert name in functions(TESTS / path), f"{path} has no {name}"


def test_every_test_the_page_names_is_there() -> None:
    named = NAMED.findall(TABLE.read_text())
    assert [f"{path}::{name}" for path, name in named if name not in functions(TESTS / path)] == []


def test_every_test_of_this_folder_is_named() -> None:
    here = {
        (f"failure/{path.name}", name)
        for path in Path(__file__).parent.glob("test_*.py")
        for name in functions(path)
        if path != Path(__file__) and name.startswith("test_")
    }
    unproven = {("failure/test_clock.py", "test_the_node_reads_the_clock_of_the_test")}  # it proves the tool
    assert here - set(NAMED.findall(TABLE.read_text())) == unproven
