"""A closed-loop load from dnsperf, and what it says came of it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.probe import HOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DNSPERF_PACKAGE: Final = "dnsperf"

_CLIENTS: Final = 8  # sockets, so that a server sees several source ports
_TIMEOUT: Final = 2  # seconds after which dnsperf counts a query as lost
_GRACE: Final = 30.0  # seconds beyond the time limit after which dnsperf is given up
_NUMBER: Final = r":\s+([0-9.]+)"


class LoadError(Exception):
    """dnsperf did not run to its end."""


@dataclass(frozen=True)
class Load:
    """What to send: a query file, for how long, how many outstanding, from which core; `once` never repeats a line."""

    queries: Path
    seconds: int
    outstanding: int
    core: int
    once: bool

    def command(self, port: int) -> list[str]:
        """Return the command that puts this load on a loopback port."""
        base = ["taskset", "-c", str(self.core), "dnsperf", "-s", HOST, "-p", str(port), "-d", str(self.queries)]
        bounds = ["-l", str(self.seconds), "-q", str(self.outstanding), "-c", str(_CLIENTS), "-t", str(_TIMEOUT)]
        return base + bounds + (["-n", "1"] if self.once else [])


@dataclass(frozen=True)
class Outcome:
    """What came back: counts, queries a second, latencies in seconds, replies by code name."""

    sent: int
    answered: int
    lost: int
    qps: float
    latency: float
    latency_max: float
    rcodes: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost_share(self) -> float:
        """Lost queries as a share of those sent, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0

    def unexpected(self, expected: frozenset[str]) -> int:
        """Return how many replies carried a code outside `expected`."""
        return sum(count for rcode, count in self.rcodes.items() if rcode not in expected)


def put(load: Load, port: int) -> Outcome:
    """Put the load on a port and return what came of it; raises LoadError."""
    try:
        done = subprocess.run(
            load.command(port), capture_output=True, text=True, timeout=load.seconds + _GRACE, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise LoadError(f"dnsperf on port {port}: {error}") from error
    return parse(done.stdout)


def parse(text: str) -> Outcome:
    """Return the figures in dnsperf's statistics; raises LoadError when a line is missing."""
    latency = re.search(r"Average Latency \(s\):\s+([0-9.]+) \(min [0-9.]+, max ([0-9.]+)\)", text)
    return Outcome(
        sent=int(_figure(text, "Queries sent")),
        answered=int(_figure(text, "Queries completed")),
        lost=int(_figure(text, "Queries lost")),
        qps=_figure(text, "Queries per second"),
        latency=float(latency[1]) if latency else 0.0,
        latency_max=float(latency[2]) if latency else 0.0,
        rcodes={name: int(count) for name, count in re.findall(r"([A-Z][A-Z0-9]+) (\d+) \([0-9.]+%\)", text)},
    )


def _figure(text: str, title: str) -> float:
    found = re.search(re.escape(title) + _NUMBER, text)
    if found is None:
        raise LoadError(f"dnsperf printed no line {title!r}")
    return float(found[1])
