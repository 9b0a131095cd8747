"""What the kernel is told about workers and the hub, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_hub_gives_way() -> None:
    code = (
        "import os; from resolver.scheduling import give_way; give_way(); print(os.nice(0), os.sched_getscheduler(0))"
    )
    nice, policy = run(code).split()
    assert int(nice) == min(os.nice(0) + 10, 19)
    assert int(policy) == os.SCHED_BATCH


def test_a_worker_asks_for_short_turns_and_a_refusal_harms_nobody() -> None:
    code = (
        "from resolver.scheduling import hurry; hurry();"
        "print(next((line for line in open('/proc/self/sched') if 'se.slice' in line), 'se.slice : 200000'))"
    )
    name, _, value = run(code).partition(":")
    assert name.strip() == "se.slice"
    assert int(value) > 0
