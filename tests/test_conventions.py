"""The promises every file of the project keeps, held by a machine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("console", "core", "detectors", "egress", "feeds", "journal", "resolver")
MAX_OCTETS = 1_000_000  # of a tracked file; larger things are made or fetched
MAX_LINES = 400  # of a module
MAX_FUNCTION = 60  # lines
DATE = re.compile(r"^Date: 20\d\d-[01]\d-[0-3]\d$", re.MULTILINE)
ADDRESS = re.compile(r"https?://|--(?:extra-)?index-url|--find-links|@ file:")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
MADE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.MULTILINE)


def tracked() -> list[Path]:
    """Return every file that is or would be committed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or git is missing (install: git)")
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted(path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py"))


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_locks_hold_hashes_and_no_addresses() -> None:
    for lock in (ROOT / "requirements.txt", ROOT / "requirements-dev.txt"):
        lines = lock.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if ADDRESS.search(line)], lock.name
        pins = [at for at, line in enumerate(lines) if "==" in line.split(";")[0] and not line.startswith(("#", " "))]
        assert pins, lock.name
        assert not [lines[at] for at in pins if "--hash=sha256:" not in lines[at + 1]], lock.name


def test_the_developers_lock_holds_the_versions_of_the_other() -> None:
    runtime, development = (
        {
            line.split()[0]
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if "==" in line.split(";")[0]
        }
        for name in ("requirements.txt", "requirements-dev.txt")
    )
    assert runtime <= development


def test_no_tracked_file_is_large() -> None:
    assert not [f"{named(path)}: {path.stat().st_size}" for path in tracked() if path.stat().st_size > MAX_OCTETS]


def test_every_module_says_what_it_is() -> None:
    missing = [named(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not missing


def test_modules_and_functions_stay_short() -> None:
    long = []
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MAX_LINES:
            long.append(f"{named(path)}: {lines} lines, at most {MAX_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno
                if lines > MAX_FUNCTION:
                    long.append(f"{named(path)}:{node.lineno} {node.name}: {lines} lines, at most {MAX_FUNCTION}")
    assert not long


def test_every_decision_has_a_date_and_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for page in sorted(folder.glob("[0-9]*.md")):
        assert DATE.search(page.read_text(encoding="utf-8")), f"{page.name} lacks a line like Date: 2026-11-24"
        assert f"({page.name})" in index, f"{page.name} is not in docs/decisions/README.md"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_pages_point_at_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not [link for link in LINK.findall(text) if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", pages(), ids=named)
def test_pages_name_targets_that_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(MADE.findall(page.read_text(encoding="utf-8"))) <= set(targets)
