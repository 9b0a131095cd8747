"""Hypothesis as a driver: messages that are damaged seeds or plain octets, until the time is up or something crashes.

`python -m fuzz.hunt TARGET --seconds N` prints one line of JSON: how many runs, and what crashed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.damage import STEP
from fuzz.targets import MAX_STEPS, TARGETS, Target
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PLAIN: Final = 600  # octets of an input that is no damaged seed
ROUND: Final = 500  # examples between two looks at the clock

settings.register_profile(
    "fuzz",
    max_examples=ROUND,
    deadline=None,
    derandomize=False,
    database=None,
    print_blob=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


class Found(NamedTuple):
    """What a hunt came to. `crash` is the smallest input that was found to crash, None for none."""

    runs: int
    seconds: float
    crash: bytes | None = None
    trace: str = ""


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return the octets to try: a seed with a script of damage, which shrinks to little damage, or any."""
    scripts = st.binary(max_size=STEP * MAX_STEPS)
    damaged = st.builds(target.damaged, st.sampled_from(list(target.seeds)), scripts)
    return st.one_of(damaged, damaged, st.binary(max_size=MAX_PLAIN))


def hunt(target: Target, seconds: float, number: Callable[[], int] = lambda: secrets.randbits(64)) -> Found:
    """Try for so many seconds, stopping at the first crash; `number` seeds each round."""
    started = time.monotonic()
    runs = 0
    last = b""

    def once(data: bytes) -> None:
        nonlocal runs, last
        runs += 1
        last = data
        target.check(data)

    profile = settings.get_profile("fuzz")
    while runs == 0 or time.monotonic() - started < seconds:
        try:
            seed(number())(profile(given(inputs(target))(once)))()
        except Exception:  # noqa: BLE001  whatever crosses the target is what is looked for; `last` is its smallest cause
            return Found(runs, time.monotonic() - started, last, traceback.format_exc())
    return Found(runs, time.monotonic() - started)


def main() -> None:
    """Exit code 0 when nothing was found, 1 after a crash."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0)
    wanted = parser.parse_args()
    found = hunt(TARGETS[wanted.target], wanted.seconds)
    shown = found._asdict() | {"crash": None if found.crash is None else found.crash.hex()}
    sys.stdout.write(json.dumps(shown) + "\n")
    raise SystemExit(found.crash is not None)


if __name__ == "__main__":
    main()
