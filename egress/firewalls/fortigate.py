"""FortiGate: an external resource (threat feed) of update method "push", FortiOS 7.2.1 and later, over its REST API.

The feed knows no ends. Sources: FortiOS 7.2 new features "Using the REST API to push updates to external threat feeds";
the entries are read from `monitor/system/external-resource/entry-list`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from egress.enforcer import Absent, Refused, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Failure, Lease

PIECE: Final = 1_000  # entries in one command
_PUSH: Final = "/api/v2/monitor/system/external-resource/dynamic"
_ENTRIES: Final = "/api/v2/monitor/system/external-resource/entry-list"
_FEED: Final = "/api/v2/cmdb/system/external-resource/"


class _Entry(msgspec.Struct):
    entry: str
    valid: bool = True


class _Entries(msgspec.Struct):
    entries: list[_Entry] = []


class _Listing(msgspec.Struct):
    results: _Entries


class _Settings(msgspec.Struct):
    type: str = ""
    update_method: str = msgspec.field(name="update-method", default="")


class _Feed(msgspec.Struct):
    results: list[_Settings]


class _Done(msgspec.Struct):
    status: str


class Fortigate(Listed):
    """An `Enforcer` over the feed named `list`. Every entry of the feed counts as ours."""

    def __init__(self, firewall: Firewall, base: Path) -> None:
        super().__init__(firewall)
        secret = needed(firewall, base)
        bearer = {"authorization": f"Bearer {secret.reveal()}"}
        self._service = Service(firewall, base, secret=secret, headers=bearer)
        self._feed = firewall.list

    def prepare(self) -> None:
        """The feed is there, takes addresses and is pushed to; the administrator makes it. Raises Refused otherwise."""
        try:
            reply = self._service.ask("GET", _FEED + quote(self._feed, safe=""))
        except Rejected as error:
            raise Refused(f"{self.what}: external resource {self._feed}: {error}") from None
        for found in self._service.read(reply, _Feed).results:
            if (found.type, found.update_method) == ("address", "push"):
                return
        raise Refused(f'{self.what}: {self._feed} must be of type "address" and update-method "push"')

    def _held(self) -> list[Standing]:
        try:
            reply = self._service.ask("GET", _ENTRIES, params={"mkey": self._feed, "count": "0"})
        except Rejected as error:
            raise Absent(f"{self.what}: external resource {self._feed}: {error}") from None
        found = self._service.read(reply, _Listing).results.entries
        return [Standing(Target(host), float("inf")) for each in found if (host := host_of(each.entry))]

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        del again  # they stand until they are taken
        return self.put_in_pieces(fresh, PIECE, lambda piece: self._tell("add", [lease.target for lease in piece]))

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self.take_in_pieces(targets, PIECE, lambda piece: self._tell("remove", piece))

    def _tell(self, command: str, targets: Sequence[Target]) -> None:
        entries = [target.address for target in targets]
        commands = [{"name": self._feed, "command": command, "entries": entries}]
        reply = self._service.ask("POST", _PUSH, json={"commands": commands})
        if self._service.read(reply, _Done).status != "success":
            raise Rejected(f"{command} was not done")

    def close(self) -> None:
        """The connection is closed; entries stay."""
        self._service.close()
