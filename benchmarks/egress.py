"""`python -m benchmarks.egress`: what holding many blocks in nftables costs, in a network namespace of its own.

1. Bars: 10,000 addresses in one change within 1 s; one more among 100,000 within 1 ms of CPU, the kernel's part too.
2. CPU is that of the process; wall-clock time stands beside it. Needs root, nft and unshare.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from egress.enforcer import Lease, Target
from egress.nftables import Nftables

if TYPE_CHECKING:
    from collections.abc import Callable

_INSIDE: Final = "--inside"  # said to the copy of us that runs in the namespace
_FIRST: Final = int(ipaddress.IPv4Address("91.0.0.0"))
_MANY: Final = 10_000
_HELD: Final = 100_000
_SINGLES: Final = 1000
_SECONDS: Final = 600.0  # a block's length
_CHANGE_BAR: Final = 1.0  # seconds
_SINGLE_BAR: Final = 0.001  # seconds of CPU


class Cost(NamedTuple):
    """Seconds on the clock and of CPU."""

    wall: float
    cpu: float


def leases(first: int, count: int) -> list[Lease]:
    """Return blocks of so many addresses in a row."""
    return [
        Lease(Target(str(ipaddress.IPv4Address(_FIRST + number))), _SECONDS) for number in range(first, first + count)
    ]


def cost(act: Callable[[], object]) -> Cost:
    """Return what one call costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def nftables() -> bool:
    """Print what changes cost in the namespace we are in; return whether both bars are held. No table is left."""
    firewall = Nftables()
    firewall.prepare()
    try:
        many = cost(lambda: firewall.apply(add=leases(0, _MANY)))
        firewall.apply(add=leases(_MANY, _HELD - _MANY))
        extra = leases(_HELD, _SINGLES)
        singles = [cost(lambda lease=lease: firewall.apply(add=[lease])) for lease in extra]  # type: ignore[misc]
        renewed = cost(lambda: firewall.apply(renew=leases(0, _MANY)))
        listed = cost(firewall.present)
        removed = cost(lambda: firewall.apply(remove=[lease.target for lease in leases(0, _MANY)]))
    finally:
        firewall.withdraw()
        firewall.close()
    single = Cost(*(statistics.median(part) for part in zip(*singles, strict=True)))
    worst = sorted(found.cpu for found in singles)[-_SINGLES // 100]
    _say(f"add {_MANY:,} in one change", many, f"bar {_CHANGE_BAR:g} s")
    _say(f"add one among {_HELD:,} (median of {_SINGLES:,})", single, f"bar {1000 * _SINGLE_BAR:g} ms of CPU")
    print(f"{'  99 % of them within':48} {'':>13} {1000 * worst:9.3f} ms CPU")
    _say(f"renew {_MANY:,} among them", renewed, "")
    _say(f"list {_HELD + _SINGLES:,} with counters", listed, "")
    _say(f"remove {_MANY:,} among them", removed, "")
    return many.wall <= _CHANGE_BAR and single.cpu <= _SINGLE_BAR


def _say(what: str, found: Cost, bar: str) -> None:
    print(f"{what:48} {1000 * found.wall:10.3f} ms {1000 * found.cpu:9.3f} ms CPU  {bar}")


def main() -> int:
    """Print the figures; return 0 when the bars are held, 1 when not, 2 when nothing can be measured here."""
    if _INSIDE in sys.argv:
        return 0 if nftables() else 1
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None or shutil.which("nft") is None:
        print("needs root, unshare (util-linux) and nft (nftables)", file=sys.stderr)
        return 2
    return subprocess.run(
        [unshare, "--net", sys.executable, "-m", "benchmarks.egress", _INSIDE], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
