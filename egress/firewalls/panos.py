"""Palo Alto PAN-OS 9.0 and later: addresses registered under a tag with a time-out, over the XML API (user-id).

A dynamic address group matches the tag, so nothing is committed. Source: PAN-OS XML API, "Apply User-ID mapping and
populate dynamic address groups"; what is registered comes from `show object registered-ip` in pages.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from egress.enforcer import Failure, Refused, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

PIECE: Final = 500  # entries in one message, and in one page of the listing
MAX_SECONDS: Final = 2_592_000  # 30 days, the longest time-out of a tag
_FINE: Final = ("already exists, ignore", "does not exist, ignore unreg")
_NOT_ALLOWED: Final = frozenset({"16", "22", "403"})  # codes: unauthorised, session timed out, forbidden


class Panos(Listed):
    """An `Enforcer` over the addresses that carry the tag `list`."""

    def __init__(self, firewall: Firewall, base: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        secret = needed(firewall, base)
        self._service = Service(firewall, base, secret=secret, headers={"x-pan-key": secret.reveal()})
        self._tag = firewall.list

    def prepare(self) -> None:
        """The firewall answers to our key; a tag is there as soon as an address has it."""
        self._page(1)

    def close(self) -> None:
        """The connection is closed; tags stay until they run out."""
        self._service.close()

    def _held(self) -> Iterator[Standing]:
        start = 1
        while True:
            entries = self._page(start)
            for entry in entries:
                host = host_of(entry.get("ip", ""))
                if host and self._tag in (member.text for member in entry.iterfind("./tag/member")):
                    yield Standing(Target(host), math.inf)
            if len(entries) < PIECE:
                return
            start += len(entries)
            if start > 2 * self._room + PIECE:
                raise Refused(f"{self.what}: more addresses carry the tag than max_entries lets us know")

    def _page(self, start: int) -> list[ET.Element]:
        root = ET.Element("show")
        registered = ET.SubElement(ET.SubElement(root, "object"), "registered-ip")
        ET.SubElement(registered, "limit").text = str(PIECE)
        ET.SubElement(registered, "start-point").text = str(start)
        ET.SubElement(ET.SubElement(registered, "tag"), "entry", {"name": self._tag})
        answer = self._ask("op", root)
        if answer.get("status") != "success":
            raise Refused(f"{self.what}: {self._words(answer)}")
        return answer.findall("./result/entry")

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        """A tag that is there keeps its time-out when it is registered again, so it is taken first."""
        failures = self._take([lease.target for lease in again]) if again else []
        bad = {failure.target for failure in failures}
        leases = (*fresh, *(lease for lease in again if lease.target not in bad))
        return failures + self._told("register", {lease.target: lease.seconds for lease in leases})

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self._told("unregister", dict.fromkeys(targets, 0.0))

    def _told(self, command: str, seconds: dict[Target, float]) -> list[Failure]:
        named: list[Failure] = []

        def do(piece: Sequence[Target]) -> None:
            named.extend(self._tell(command, {target: seconds[target] for target in piece}))

        return self.take_in_pieces(list(seconds), PIECE, do) + named

    def _tell(self, command: str, seconds: dict[Target, float]) -> list[Failure]:
        root = ET.Element("uid-message")
        ET.SubElement(root, "version").text = "2.0"
        ET.SubElement(root, "type").text = "update"
        told = ET.SubElement(ET.SubElement(root, "payload"), command)
        for target, left in seconds.items():
            tag = ET.SubElement(ET.SubElement(told, "entry", {"ip": target.address}), "tag")
            timeout = {"timeout": str(min(MAX_SECONDS, math.ceil(left)))} if left else {}
            ET.SubElement(tag, "member", timeout).text = self._tag
        answer = self._ask("user-id", root)
        if answer.get("status") == "success":
            return []
        entries = answer.findall(f".//{command}/entry[@message]")
        if not entries:
            raise Rejected(self._words(answer))
        return [
            Failure(Target(host), self._service.shown(entry.get("message", "")))
            for entry in entries
            if not entry.get("message", "").endswith(_FINE)
            and (host := host_of(entry.get("ip", "")))
            and Target(host) in seconds
        ]

    def _ask(self, kind: str, command: ET.Element) -> ET.Element:
        form = {"type": kind, "cmd": ET.tostring(command, encoding="unicode")}
        try:
            reply = self._service.ask("POST", "/api/", form=form)
        except Rejected as error:
            raise Refused(f"{self.what}: {error}") from None
        if b"<!" in reply.body:  # an entity could grow without bound; PAN-OS sends no declarations
            raise self._service.strange()
        try:
            answer = ET.fromstring(reply.body)  # noqa: S314 - bounded, and without declarations
        except ET.ParseError:
            raise self._service.strange() from None
        if answer.tag != "response":
            raise self._service.strange()
        if answer.get("status") != "success" and answer.get("code") in _NOT_ALLOWED:
            raise Refused(f"{self.what}: does not accept our key: {self._words(answer)}")
        return answer

    def _words(self, answer: ET.Element) -> str:
        return self._service.shown(" ".join("".join(answer.itertext()).split())) or "refused"
