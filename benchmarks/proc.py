"""What a group of processes costs, read from /proc: who belongs to it, its CPU seconds, its memory in bytes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
REDIS_NAMES: Final = frozenset({"redis-server", "valkey-server"})

_KIB: Final = 1024
# Places of the fields of proc_pid_stat(5) counted from the state, which is the first after the name in brackets.
_PPID, _SESSION, _UTIME, _CSTIME = 1, 3, 11, 14


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat; `cpu` is in seconds and includes the children it has waited for."""

    pid: int
    name: str
    parent: int
    session: int
    cpu: float
    zombie: bool = False


def parse_stat(line: str) -> Process:
    """Return the process a stat line describes; the name may hold blanks and brackets."""
    head, _, tail = line.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    ticks = sum(int(value) for value in fields[_UTIME : _CSTIME + 1])
    cpu = ticks / TICKS_PER_SECOND
    return Process(int(pid), name, int(fields[_PPID]), int(fields[_SESSION]), cpu, zombie=fields[0] == "Z")


def group(root: int) -> list[Process]:
    """Return the process `root`, everything descended from it and everything in the session it leads."""
    everyone = _everyone()
    members = {process.pid for process in everyone if root in (process.pid, process.session)}
    grown = True
    while grown:
        more = {process.pid for process in everyone if process.parent in members} - members
        members |= more
        grown = bool(more)
    return [process for process in everyone if process.pid in members]


def pids(root: int) -> set[int]:
    """Return the identifiers of the group's processes."""
    return {process.pid for process in group(root)}


def cpu_seconds(root: int) -> float:
    """Return the CPU seconds, user and system, the group has used so far; the dead count once waited for."""
    return sum(process.cpu for process in group(root))


def cpu_by_process(root: int) -> dict[str, float]:
    """Return the same seconds a process, by name and identifier, oldest process first."""
    members = sorted(group(root), key=lambda process: process.pid)
    return {f"{process.name} {process.pid}": process.cpu for process in members}


def memory(root: int, *, without: frozenset[str] = frozenset()) -> int:
    """Return the group's proportional set size in bytes: a shared page counts once, split between its users."""
    return sum(pss(process.pid) for process in group(root) if process.name not in without)


def pss(pid: int) -> int:
    """Return one process's proportional set size in bytes; 0 when it has gone."""
    with contextlib.suppress(OSError):
        return parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())
    return 0


def parse_rollup(text: str) -> int:
    """Return the bytes of the Pss line of a smaps_rollup; 0 when there is none, as for a zombie."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * _KIB
    return 0


def alive(pids: set[int]) -> bool:
    """Return whether any of the processes still runs; a zombie does not."""
    return any(process.pid in pids and not process.zombie for process in _everyone())


def command_line(pid: int) -> str:
    """Return the arguments of a process joined by blanks; empty when it has gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _everyone() -> list[Process]:
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append(parse_stat((entry / "stat").read_text(errors="replace")))
    return found
