"""ipset: sets for rules of iptables or nftables' compatibility layer, through the program `ipset`.

Sets: LIST4 and LIST6 (hash:ip), LIST4p and LIST6p (hash:net,net of single addresses: client, address), all with
timeouts and counters. Where the kernel has no hash:net,net, blocks for one client are refused. The rules that look into
the sets are the administrator's: docs/egress-firewalls.md.
"""

from __future__ import annotations

import math
import re
import subprocess
from typing import TYPE_CHECKING, Final

from egress.enforcer import Absent, Failure, Refused, Standing, Target
from egress.firewalls.listed import FULL, Listed, host_of, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.config import Firewall
    from egress.enforcer import Lease

MAX_SECONDS: Final = 2_147_483  # the longest timeout a set takes
MAX_NAME: Final = 31  # octets
PATIENCE: Final = 30.0  # seconds for one run of the program
_SETS: Final = {"4": "hash:ip family inet", "6": "hash:ip family inet6",
                "4p": "hash:net,net family inet", "6p": "hash:net,net family inet6"}  # fmt: skip
_HOSTS: Final = ("4", "6")
_UNKNOWN: Final = "set type not supported"
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_ENTRY: Final = re.compile(r"add (\S+) (\S+)(?: timeout (\d+))?(?: packets (\d+) bytes (\d+))?")
_AT: Final = re.compile(r"Error in line (\d+): (.*)")


class Ipset(Listed):
    """An `Enforcer` in the network namespace it is made in. Needs CAP_NET_ADMIN."""

    tells_end = True

    def __init__(self, firewall: Firewall, program: str = "ipset") -> None:
        super().__init__(firewall)
        if not _NAME.fullmatch(firewall.list) or len(firewall.list) + 2 > MAX_NAME:
            raise Refused(f"{self.what}: list must be a name of at most {MAX_NAME - 2} letters, digits, _ . -")
        self._program = program
        self._list = firewall.list
        self._sets = tuple(_HOSTS)

    @property
    def pairs(self) -> bool:  # type: ignore[override]
        """True when the kernel has sets of pairs."""
        return len(self._sets) > len(_HOSTS)

    def prepare(self) -> None:
        """The sets are there, those of pairs where the kernel can; what they held stays."""
        made = []
        for end, shape in _SETS.items():
            line = f"create {self._list}{end} {shape} timeout 0 counters maxelem {self._room}\n"
            done = self._run("restore", "-exist", text=line)
            if not done.returncode:
                made.append(end)
            elif end in _HOSTS or _UNKNOWN not in done.stderr:
                raise Refused(f"{self.what}: {_said(done)}")
        self._sets = tuple(made)

    def withdraw(self) -> None:
        """The sets are gone; Refused while a rule of the administrator still looks into one."""
        for end in _SETS:
            done = self._run("destroy", f"{self._list}{end}")
            if done.returncode and "does not exist" not in done.stderr:
                raise Refused(f"{self.what}: {_said(done)}")
        self._sure = False

    def _held(self) -> Iterator[Standing]:
        for end in self._sets:
            done = self._run("save", f"{self._list}{end}")
            if done.returncode:
                kind = Absent if "does not exist" in done.stderr else Refused
                raise kind(f"{self.what}: {_said(done)}")
            for line in done.stdout.splitlines():
                if found := _ENTRY.match(line):
                    yield _standing(*found.groups()[1:])

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        lines = {lease.target: f"add {self._entry(lease.target)} timeout {_timeout(lease)}\n"
                 for lease in (*fresh, *again)}  # fmt: skip
        return self._restore(lines)

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self._restore({target: f"del {self._entry(target)}\n" for target in targets})

    def _entry(self, target: Target) -> str:
        end = f"{version_of(target.address)}{'p' if target.client else ''}"
        return f"{self._list}{end} {f'{target.client},' if target.client else ''}{target.address}"

    def _restore(self, lines: dict[Target, str]) -> list[Failure]:
        """Run all lines; past one that is refused, which the program names, go on with those after it."""
        failures = []
        left = list(lines)
        while left:
            done = self._run("restore", "-exist", text="".join(lines[target] for target in left))
            if not done.returncode:
                break
            named = _AT.search(done.stderr)
            at = int(named.group(1)) if named else 0
            if not named or not 1 <= at <= len(left) or "does not exist" in done.stderr:
                kind = Absent if "does not exist" in done.stderr else Refused
                raise kind(f"{self.what}: {_said(done)}")
            full = "is full" in named.group(2)
            failures.append(Failure(left[at - 1], FULL if full else named.group(2)[:200], full=full))
            left = left[at:]
        return failures

    def _run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - the program's name is ours, addresses were checked
                [self._program, *arguments], input=text, capture_output=True, text=True, timeout=PATIENCE, check=False,
            )  # fmt: skip
        except OSError as error:
            raise Refused(f"{self.what}: {self._program}: {error.strerror} (package ipset)") from None
        except subprocess.TimeoutExpired:
            raise Refused(f"{self.what}: {self._program} takes more than {PATIENCE:g} s") from None


def _standing(entry: str, timeout: str | None, packets: str | None, octets: str | None) -> Standing:
    client, _, address = entry.rpartition(",")
    seconds = float(timeout or 0) or math.inf
    return Standing(Target(host_of(address), host_of(client)), seconds, int(packets or 0), int(octets or 0))


def _timeout(lease: Lease) -> int:
    return min(MAX_SECONDS, math.ceil(lease.seconds))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())[:200] or f"ipset ended with {done.returncode}"
