"""What analysts decided about findings: lines of a file in the data folder that only grows: their audit trail."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from core.errors import UNREADABLE, BadName
from core.names import from_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from detectors.leak import LeakMeter

FILE: Final = Path("detectors", "leaks.decisions")  # below the data folder
MAX_READ: Final = 16_777_216  # octets; what comes after is not followed


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A line: a pair may send more from now on, is released once, or raises no alert. Times in Unix seconds."""

    what: Literal["confirm", "release", "snooze"]
    domain: str
    client: str = ""  # empty: every client
    reason: str = ""
    by: str = ""
    at: float = 0.0
    until: float = 0.0  # of a snooze
    detector: str = ""  # of a snooze; empty: all


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Decision).decode


class Decisions:
    """The decisions of one node, as one process follows them."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE
        self._seen = 0  # octets

    def add(self, decision: Decision) -> None:
        """Write a decision. Raises BadName for a name or address that is none, OSError."""
        _parsed(decision)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(_encode(decision) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def all(self) -> list[Decision]:
        """Return every decision that can be read, the oldest first. Raises OSError."""
        return list(_lines(self._path.read_bytes()[:MAX_READ])) if self._path.exists() else []

    def apply_all(self, meter: LeakMeter) -> None:
        """Tell a meter that has just begun what is confirmed."""
        self._seen = 0
        self._apply(meter, releases=False)

    def apply_new(self, meter: LeakMeter) -> None:
        """Tell a meter what was decided since the last look; a look costs a system call."""
        self._apply(meter, releases=True)

    def unseen(self) -> list[Decision]:
        """Return what was decided since the last look."""
        try:
            if self._path.stat().st_size <= self._seen:
                return []
            with self._path.open("rb") as file:
                file.seek(self._seen)
                data = file.read(MAX_READ)
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._seen += len(whole)
        return list(_lines(whole))

    def _apply(self, meter: LeakMeter, *, releases: bool) -> None:
        for decision in self.unseen():
            try:
                client, domain = _parsed(decision)
            except BadName:
                continue
            if decision.what == "confirm":
                meter.confirm(client, domain)
            elif decision.what == "release" and releases:
                meter.forget(client, domain)


def _lines(data: bytes) -> Iterator[Decision]:
    for line in data.splitlines():
        try:
            yield _decode(line)
        except UNREADABLE:
            continue


def _parsed(decision: Decision) -> tuple[bytes, bytes]:
    try:
        client = ip_address(decision.client).packed if decision.client else b""
    except ValueError:
        raise BadName(f"{decision.client!r} is no address of a client; write 192.0.2.7 or leave it out") from None
    return client, from_text(decision.domain)
