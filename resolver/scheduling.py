"""What we ask of the kernel's scheduler: who answers clients runs before who writes the log.

Rules:
1. A worker that may is scheduled in real time, at the least priority there is: it runs the moment it wakes. The kernel
   keeps a share of every core for all others (5 %, sched(7)), and without that limit we do not ask.
2. When the hub falls behind all the same, the worker takes turns with it like everybody until it has caught up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
from pathlib import Path
from typing import Final

NICE: Final = 10  # of who can wait
SLICE: Final = 200_000  # nanoseconds a worker runs at a time when others want the core too
PRIORITY: Final = 1  # the least of real time
_LIMITS: Final = Path("/proc/sys/kernel")
_SET: Final = {"x86_64": 314, "aarch64": 274}  # system call numbers of sched_setattr(2)
_ATTR: Final = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def allow_hurry() -> None:
    """Let the processes that come from this one `hurry` after it has given up root; without root nothing changes."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_RTPRIO, (PRIORITY, PRIORITY))


def hurry() -> bool:
    """Have the kernel run this process as soon as it wakes; false when that is not allowed, then it takes turns.

    A worker that shares its core with the hub or with Redis waits for the end of their turn otherwise: up to 4 ms.
    """
    if _others_are_safe():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
            return True
    take_turns()
    return False


def take_turns() -> None:
    """Run this process as others run, but in short turns and therefore soon (from Linux 6.12 on)."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    number = _SET.get(platform.machine())
    if number is not None:
        attr = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, 0, 0, 0, SLICE, 0, 0)
        ctypes.CDLL(None, use_errno=True).syscall(number, 0, attr, 0)  # a refusal leaves things as they are


def give_way() -> None:
    """Let this process, which nobody waits for, run when the others do not want the core, but never starve."""
    with contextlib.suppress(OSError):  # a sandbox may forbid either
        os.nice(NICE)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _others_are_safe() -> bool:
    """True when the kernel holds real-time processes back; what a sandbox hides is taken to be as kernels come."""
    try:
        runtime, period = (int((_LIMITS / name).read_text()) for name in ("sched_rt_runtime_us", "sched_rt_period_us"))
    except (OSError, ValueError):
        return True
    return 0 <= runtime < period
