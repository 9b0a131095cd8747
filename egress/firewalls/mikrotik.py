"""MikroTik RouterOS 7: dynamic entries of an address list, over its REST API. Entries end by themselves there."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from egress.enforcer import Absent, Failure, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of, version_of
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

OURS: Final = "plughole"  # the comment of our entries
_LISTS: Final = {4: "/rest/ip/firewall/address-list", 6: "/rest/ipv6/firewall/address-list"}
_UNITS: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART: Final = re.compile(r"(\d{1,9})(ms|[wdhms])")
_CLOCK: Final = re.compile(r"(\d{1,4}):(\d\d):(\d\d)")


class _Entry(msgspec.Struct):
    id: str = msgspec.field(name=".id")
    address: str = ""
    list: str = ""
    timeout: str = ""
    comment: str = ""


class Mikrotik(Listed):
    """An `Enforcer` over the entries of the address list `list` that carry our comment."""

    tells_end = True

    def __init__(self, firewall: Firewall, base: Path) -> None:
        super().__init__(firewall)
        self._service = Service(firewall, base, secret=needed(firewall, base), basic=True)
        self._list = firewall.list
        self._ids: dict[Target, str] = {}

    def prepare(self) -> None:
        """The router answers; a list is there as soon as it has an entry."""
        self._held()

    def _held(self) -> list[Standing]:
        self._ids = {}
        found = []
        for version, path in _LISTS.items():
            for entry in self._entries(path):
                host = host_of(entry.address)
                if entry.list == self._list and entry.comment == OURS and host and version_of(host) == version:
                    self._ids[Target(host)] = entry.id
                    found.append(Standing(Target(host), _seconds(entry.timeout)))
        return found

    def _entries(self, path: str) -> list[_Entry]:
        wanted = {"list": self._list, "comment": OURS, ".proplist": ".id,address,list,timeout,comment"}
        try:
            return self._service.read(self._service.ask("GET", path, params=wanted), list[_Entry])
        except Rejected as error:
            raise Absent(f"{self.what}: {error}") from None

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        return self.put_in_pieces((*fresh, *again), 1, lambda piece: self._set(piece[0]))

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self.take_in_pieces(targets, 1, lambda piece: self._delete(piece[0]))

    def _set(self, lease: Lease) -> None:
        """The entry has the time; one that has run out since it was listed is made anew."""
        path = _path(lease.target)
        timeout = f"{math.ceil(lease.seconds)}s"
        number = self._ids.get(lease.target)
        if number:
            reply = self._service.ask("PATCH", f"{path}/{number}", json={"timeout": timeout}, fine=(404,))
            if reply.status != 404:
                return
        entry = {"list": self._list, "address": lease.target.address, "timeout": timeout, "comment": OURS}
        reply = self._service.ask("PUT", path, json=entry)
        made: Any = self._service.read(reply, _Entry)
        self._ids[lease.target] = made.id

    def _delete(self, target: Target) -> None:
        number = self._ids.pop(target, "")
        if number:
            self._service.ask("DELETE", f"{_path(target)}/{number}", fine=(404,))

    def close(self) -> None:
        """The connection is closed; entries stay until they run out or the router restarts."""
        self._service.close()


def _path(target: Target) -> str:
    return _LISTS[version_of(target.address)]


def _seconds(text: str) -> float:
    """Return what "1d2h3m4s" or "26:03:04" says in seconds, infinity when it is empty or unknown."""
    clock = _CLOCK.search(text)
    parts = _PART.findall(_CLOCK.sub("", text))
    if not clock and not parts:
        return math.inf
    hours, minutes, seconds = (int(each) for each in clock.groups()) if clock else (0, 0, 0)
    return sum(int(count) * _UNITS[unit] for count, unit in parts) + 3_600.0 * hours + 60.0 * minutes + seconds
