"""CrowdSec's Local API: decisions for its bouncers, made as a machine and read as a bouncer. They end by themselves.

`user` is the machine; `secret_file` has two lines, the machine's password and the key of a bouncer of ours. Only
decisions of our origin and scenario are read and deleted, each by its number. Most bouncers match the source address
of a packet alone, so that only answers of a server are stopped: docs/egress-firewalls.md.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from egress.enforcer import Failure, Refused, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

ORIGIN: Final = "plughole"
PIECE: Final = 200  # alerts in one request
TOKEN_SECONDS: Final = 1_800.0  # a token is good for an hour
_DECISIONS: Final = "/v1/decisions"
_UNITS: Final = {"h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|ns|[hms])")


class _Token(msgspec.Struct):
    token: str


class _Decision(msgspec.Struct):
    value: str
    duration: str = ""
    id: int = 0
    origin: str = ""
    scenario: str = ""
    scope: str = ""


class _Stream(msgspec.Struct):
    new: list[_Decision] | None = None


class Crowdsec(Listed):
    """An `Enforcer` over the decisions of our origin whose scenario is `list`."""

    tells_end = True

    def __init__(self, firewall: Firewall, base: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        secret = needed(firewall, base)
        lines = secret.lines()
        if not firewall.user or len(lines) != 2:
            raise Refused(f"{self.what}: needs user, and secret_file with the machine's password and a bouncer's key")
        self._password, self._key = lines
        self._service = Service(firewall, base, secret=secret)
        self._machine = firewall.user
        self._scenario = firewall.list
        self._token = ""
        self._since = -math.inf
        self._numbers: dict[Target, list[int]] = {}  # a renewed target has more than one for a moment

    def prepare(self) -> None:
        """Both keys are accepted."""
        self._login()
        self._read()

    def close(self) -> None:
        """The connection is closed; decisions stay until they run out."""
        self._service.close()

    def _held(self) -> list[Standing]:
        longest: dict[Target, float] = {}
        for target, decision in self._read():
            longest[target] = max(longest.get(target, 0.0), _seconds(decision.duration))
        return [Standing(target, seconds) for target, seconds in longest.items()]

    def _read(self) -> list[tuple[Target, _Decision]]:
        wanted = {"startup": "true", "origins": ORIGIN, "scopes": "Ip", "dedup": "false"}
        try:
            reply = self._service.ask(
                "GET", f"{_DECISIONS}/stream", params=wanted, headers={"x-api-key": self._key.reveal()}
            )
        except Rejected as error:
            raise Refused(f"{self.what}: {error}") from None
        found = []
        self._numbers = {}
        for each in self._service.read(reply, _Stream).new or ():
            host = host_of(each.value)
            if host and each.id and each.origin == ORIGIN and each.scenario == self._scenario:
                self._numbers.setdefault(Target(host), []).append(each.id)
                found.append((Target(host), each))
        return found

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        """New decisions are made, then those a target had before are deleted: there is no moment without one."""
        self._read()
        before = dict(self._numbers)
        leases = (*fresh, *again)
        failures = self.put_in_pieces(leases, PIECE, self._post)
        bad = {failure.target for failure in failures}
        self._numbers = {each.target: before[each.target] for each in leases
                         if each.target in before and each.target not in bad}  # fmt: skip
        self.take_in_pieces(list(self._numbers), 1, self._delete)
        return failures

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        self._read()
        return self.take_in_pieces([each for each in targets if each in self._numbers], 1, self._delete)

    def _post(self, leases: Sequence[Lease]) -> None:
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC).isoformat().replace("+00:00", "Z")
        self._service.ask("POST", "/v1/alerts", json=[self._alert(lease, now) for lease in leases],
                          headers=self._bearer())  # fmt: skip

    def _delete(self, targets: Sequence[Target]) -> None:
        for number in self._numbers.get(targets[0], ()):
            self._service.ask("DELETE", f"{_DECISIONS}/{number}", headers=self._bearer(), fine=(404,))

    def _alert(self, lease: Lease, now: str) -> dict[str, Any]:
        address = lease.target.address
        decision = {
            "duration": f"{math.ceil(lease.seconds)}s", "type": "ban", "scope": "Ip", "value": address,
            "scenario": self._scenario, "origin": ORIGIN,
        }  # fmt: skip
        return {
            "scenario": self._scenario, "scenario_hash": "", "scenario_version": "",
            "message": f"{address} is behind a name the resolver blocks", "events_count": 1,
            "start_at": now, "stop_at": now, "capacity": 0, "leakspeed": "0", "simulated": False, "events": [],
            "source": {"scope": "Ip", "value": address}, "decisions": [decision],
        }  # fmt: skip

    def _bearer(self) -> dict[str, str]:
        if time.monotonic() - self._since > TOKEN_SECONDS:
            self._login()
        return {"authorization": f"Bearer {self._token}"}

    def _login(self) -> None:
        who = {"machine_id": self._machine, "password": self._password.reveal(), "scenarios": []}
        try:
            reply = self._service.ask("POST", "/v1/watchers/login", json=who)
        except Rejected as error:
            raise Refused(f"{self.what}: {error}") from None
        self._token = self._service.read(reply, _Token).token
        if not (self._token.isascii() and self._token.isprintable()):
            raise self._service.strange()
        self._since = time.monotonic()


def _seconds(text: str) -> float:
    """Return what Go writes as "1h2m3.4s" in seconds, nought for what is over ("-1s") or not understood."""
    return sum(float(count) * _UNITS[unit] for count, unit in _parts(text))


def _parts(text: str) -> Iterable[tuple[str, str]]:
    return () if text.startswith("-") else _PART.findall(text)
