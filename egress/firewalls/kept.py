"""Targets and the ends of their blocks in a file that is replaced whole, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from core.errors import UNREADABLE, PlugholeError
from egress.enforcer import Refused, Target
from egress.firewalls.listed import check

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_OCTETS: Final = 128 * 1024 * 1024  # a million entries are less


class Damaged(PlugholeError):
    """The file is there and holds something else."""


_decode = msgspec.json.Decoder(list[tuple[str, str, float]]).decode


def load(path: Path) -> dict[Target, float]:
    """Return each target and the Unix time its block ends; nothing when there is no file, `Damaged` when unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_OCTETS + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    try:
        found = {Target(address, client): ends for address, client, ends in _decode(data)}
        for target in found:
            check(target)
    except (*UNREADABLE, ValueError):
        raise Damaged(f"{path} is damaged") from None
    return found


def save(path: Path, ends: Mapping[Target, float]) -> None:
    """The file holds these, on disk; raises Refused when it can not be written, and the old one stays."""
    rows = [(target.address, target.client, until) for target, until in sorted(ends.items())]
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(rows))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
