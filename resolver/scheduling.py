"""What we ask of the kernel's scheduler: who answers clients runs before who writes the log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from typing import Final

NICE: Final = 10  # of who can wait
SLICE: Final = 200_000  # nanoseconds a worker runs at a time when others want the core too
_SET: Final = {"x86_64": 314, "aarch64": 274}  # system call numbers of sched_setattr(2)
_ATTR: Final = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period


def hurry() -> None:
    """Have the kernel run this process soon after it wakes, at the price of short turns (Linux 6.12; else nothing).

    A worker that shares its core with the hub or with Redis would wait for the end of their turn: three milliseconds.
    """
    number = _SET.get(platform.machine())
    if number is not None:
        attr = _ATTR.pack(_ATTR.size, 0, 0, 0, 0, SLICE, 0, 0)
        ctypes.CDLL(None, use_errno=True).syscall(number, 0, attr, 0)  # a refusal leaves things as they are


def give_way() -> None:
    """Let this process, which nobody waits for, run when the others do not want the core, but never starve."""
    os.nice(NICE)
    with contextlib.suppress(OSError):  # where a sandbox forbids it, niceness has to do
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
