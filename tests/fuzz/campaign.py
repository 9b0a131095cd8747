"""`python -m fuzz.campaign`, which is `make fuzz`: every target for so many seconds, and a table of what came of it.

1. Three quarters of a target's time go to atheris, guided by coverage, one quarter to hypothesis, which shrinks.
2. Atheris is installed into this environment when it is missing (the group `fuzz` of pyproject.toml). Where no wheel
   of it fits, hypothesis has all the time, and the table says so.
3. An input that crashes is kept in build/fuzz and shown. Exit code 1 when there was one, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Final, NamedTuple

from fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[2]
CRASHES: Final = ROOT / "build" / "fuzz"
MEMORY: Final = Path("/dev/shm")  # where files of the drivers lie, when it is there
GUIDED_SHARE: Final = 0.75  # of a target's time
GRACE: Final = 60.0  # seconds more than its time that a driver gets to start, to shrink and to end
MAX_SHOWN: Final = 512  # octets of a crashing input that are printed
MAX_TRACE: Final = 25  # lines of a traceback that are printed
_RUNS: Final = re.compile(r"number_of_executed_units: (\d+)")


class Row(NamedTuple):
    """What one driver came to with one target."""

    target: str
    driver: str
    runs: int
    seconds: float
    crashes: int
    detail: str = ""


def main() -> None:
    """Run, print the table, and say with the exit code whether anything crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    wanted = parser.parse_args()
    if unknown := set(wanted.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if wanted.seconds < 1:
        parser.error("--seconds: at least 1")
    CRASHES.mkdir(parents=True, exist_ok=True)
    guided = has_atheris()
    _say(f"{'target':<10}{'driver':<12}{'runs':>12}{'a second':>10}{'crashes':>9}")
    rows: list[Row] = []
    for name in wanted.targets or TARGETS:
        rows += _both(name, wanted.seconds, guided=guided)
    _say(_sum(rows, guided=guided))
    raise SystemExit(any(row.crashes for row in rows))


def has_atheris() -> bool:
    """True when atheris is there, or could be installed."""
    if importlib.util.find_spec("atheris") is not None:
        return True
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["fuzz"]
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--only-binary", ":all:"]
    done = subprocess.run([*pip, *wanted], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        _say(f"fuzz: no wheel of {wanted[0]} for Python {version} here is within reach; hypothesis runs alone")
    return not done.returncode


def _both(name: str, seconds: float, *, guided: bool) -> list[Row]:
    """Run the drivers on a target, one after the other, and print their rows."""
    rows = []
    if guided:
        rows.append(_show(_atheris(name, max(round(seconds * GUIDED_SHARE), 1))))
    rows.append(_show(_hypothesis(name, seconds * (1 - GUIDED_SHARE) if guided else seconds)))
    return rows


def _atheris(name: str, seconds: int) -> Row:
    before = set(CRASHES.iterdir())
    done, took = _driver("fuzz.run_atheris", name, "--seconds", str(seconds), "--crashes", str(CRASHES), limit=seconds)
    found = _RUNS.search(done.stderr)
    row = Row(name, "atheris", int(found[1]) if found else 0, took, int(done.returncode != 0))
    if not row.crashes:
        return row
    made = sorted(set(CRASHES.iterdir()) - before)
    return row._replace(detail=_detail(made[0] if made else None, _traceback(done.stdout) or done.stderr))


def _hypothesis(name: str, seconds: float) -> Row:
    done, took = _driver("fuzz.hunt", name, "--seconds", str(seconds), limit=seconds)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):  # the process died
        return Row(name, "hypothesis", 0, took, 1, _detail(None, done.stderr))
    if found["crash"] is None:
        return Row(name, "hypothesis", found["runs"], found["seconds"], 0)
    kept = CRASHES / f"{name}-hypothesis"
    kept.write_bytes(bytes.fromhex(found["crash"]))
    return Row(name, "hypothesis", found["runs"], found["seconds"], 1, _detail(kept, found["trace"]))


def _driver(module: str, *args: str, limit: float) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a driver in a process of its own, which a crash of an extension may take with it."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    command = [sys.executable, "-m", module, *args]
    started = time.monotonic()
    # libFuzzer ends the process without a chance to tidy up
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path, "TMPDIR": folder}, capture_output=True,
                text=True, errors="replace", check=False, timeout=limit + GRACE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            done = subprocess.CompletedProcess(command, 1, "", f"it did not end within {limit + GRACE:.0f} s")
    return done, time.monotonic() - started


def _traceback(text: str) -> str:
    """Return the first traceback atheris printed, empty for none: a dead process leaves none."""
    _, found, rest = text.partition("Uncaught Python exception: ===")
    return rest.partition("==")[0] if found else ""


def _detail(path: Path | None, trace: str) -> str:
    lines = trace.strip().splitlines()[-MAX_TRACE:]
    if path is None:
        return "\n".join(lines)
    data = path.read_bytes()
    more = f" and {len(data) - MAX_SHOWN} octets more" if len(data) > MAX_SHOWN else ""
    return "\n".join([*lines, f"input, kept as {path.relative_to(ROOT)}: {data[:MAX_SHOWN].hex()}{more}"])


def _show(row: Row) -> Row:
    rate = row.runs / row.seconds if row.seconds else 0.0
    _say(f"{row.target:<10}{row.driver:<12}{row.runs:>12,}{rate:>10,.0f}{row.crashes:>9}")
    if row.detail:
        _say(row.detail)
    return row


def _sum(rows: list[Row], *, guided: bool) -> str:
    runs = sum(row.runs for row in rows)
    by = "atheris and hypothesis" if guided else "hypothesis alone (no atheris here)"
    targets = len({row.target for row in rows})
    return f"{targets} targets, {runs:,} runs by {by}, {sum(row.crashes for row in rows)} crashes"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
