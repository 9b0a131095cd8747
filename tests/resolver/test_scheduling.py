"""What the kernel is told about workers and the hub, in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resolver import scheduling

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


def test_a_worker_runs_in_real_time_where_it_may_and_takes_turns_elsewhere() -> None:
    code = (
        "import os; from resolver.scheduling import hurry; hurried = hurry(); print(hurried, os.sched_getscheduler(0))"
    )
    may, policy = run(code).split()
    expected = os.SCHED_RR | os.SCHED_RESET_ON_FORK if may == "True" else os.SCHED_OTHER
    assert int(policy) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may allow real time to who gives up root")
def test_what_root_allowed_holds_for_who_gave_up_root_and_can_be_taken_back_and_forth() -> None:
    code = (
        "import os; from resolver.scheduling import allow_hurry, hurry, take_turns;"
        "allow_hurry(); os.setgid(65534); os.setuid(65534);"
        "found = [hurry()]; take_turns(); found += [os.sched_getscheduler(0), hurry(), os.sched_getscheduler(0)];"
        "print(*found)"
    )
    first, shared, again, policy = run(code).split()
    if first == "False":
        pytest.skip("root of this container may not give real time away: it lacks CAP_SYS_RESOURCE")
    assert (int(shared), again) == (os.SCHED_OTHER, "True")
    assert int(policy) == os.SCHED_RR | os.SCHED_RESET_ON_FORK


def test_nobody_asks_for_real_time_where_the_kernel_sets_it_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sched_rt_runtime_us").write_text("-1\n")
    (tmp_path / "sched_rt_period_us").write_text("1000000\n")
    asked: list[int] = []
    monkeypatch.setattr(scheduling, "_LIMITS", tmp_path)
    monkeypatch.setattr(os, "sched_setscheduler", lambda _pid, policy, _param: asked.append(policy))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_options: _NoLibrary())
    assert not scheduling.hurry()
    assert asked == [os.SCHED_OTHER]


class _NoLibrary:
    def syscall(self, *_args: object) -> int:
        return 0


def test_a_worker_asks_for_short_turns_and_a_refusal_harms_nobody() -> None:
    code = (
        "from resolver.scheduling import take_turns; take_turns();"
        "print(next((line for line in open('/proc/self/sched') if 'se.slice' in line), 'se.slice : 200000'))"
    )
    name, _, value = run(code).partition(":")
    assert name.strip() == "se.slice"
    assert int(value) > 0
