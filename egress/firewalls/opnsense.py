"""OPNsense: a firewall alias of type "external", over the alias_util API. The packet filter's table knows no ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from egress.enforcer import Absent, Failure, Refused, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

_UTIL: Final = "/api/firewall/alias_util"
_UUID: Final = "/api/firewall/alias/getAliasUUID"


class _Row(msgspec.Struct):
    ip: str


class _Rows(msgspec.Struct):
    rows: list[_Row]


class _Status(msgspec.Struct):
    status: str


class _Uuid(msgspec.Struct):
    uuid: str


class Opnsense(Listed):
    """An `Enforcer` over the alias named `list`; `user` is the API key. Every entry of the alias counts as ours."""

    def __init__(self, firewall: Firewall, base: Path) -> None:
        super().__init__(firewall)
        self._service = Service(firewall, base, secret=needed(firewall, base), basic=True)
        self._alias = quote(firewall.list, safe="")

    def prepare(self) -> None:
        """The alias is there; the administrator makes it. Raises Refused otherwise."""
        try:
            reply = self._service.ask("GET", f"{_UUID}/{self._alias}")
        except Rejected as error:
            raise Refused(f"{self.what}: alias {self._alias}: {error}") from None
        if reply.body.strip() == b"[]":
            raise Refused(f"{self.what}: there is no alias {self._alias}")
        self._service.read(reply, _Uuid)

    def _held(self) -> list[Standing]:
        try:
            reply = self._service.ask("GET", f"{_UTIL}/list/{self._alias}", params={"rowCount": "-1", "current": "1"})
        except Rejected as error:
            raise Absent(f"{self.what}: alias {self._alias}: {error}") from None
        if reply.body.lstrip().startswith(b"["):  # before version 22.1
            entries = self._service.read(reply, list[str])
        else:
            entries = [row.ip for row in self._service.read(reply, _Rows).rows]
        return [Standing(Target(host), float("inf")) for each in entries if (host := host_of(each))]

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        del again  # they stand until they are taken
        return self.put_in_pieces(fresh, 1, lambda piece: self._tell("add", piece[0].target))

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self.take_in_pieces(targets, 1, lambda piece: self._tell("delete", piece[0]))

    def _tell(self, what: str, target: Target) -> None:
        reply = self._service.ask("POST", f"{_UTIL}/{what}/{self._alias}", json={"address": target.address})
        status = self._service.read(reply, _Status).status
        if status != "done":
            raise Rejected(self._service.shown(status) or "was not done")

    def close(self) -> None:
        """The connection is closed; entries stay."""
        self._service.close()
