"""The hosts file: addresses and the names they have, in the syntax of /etc/hosts (hosts(5))."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from core.errors import BadConfig, BadName
from core.names import Name, from_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_OCTETS: Final = 16_777_216  # of a hosts file; lists of names to block belong under [[feeds.source]]
MAX_LINE: Final = 4_096  # octets
MAX_SHOWN: Final = 160  # characters of what is wrong with a line
MAX_TOLD: Final = 20  # mistakes listed of one file
MAX_ADDRESSES: Final = 256  # of one name, so that any answer fits a message

Address: TypeAlias = IPv4Address | IPv6Address


class Host(NamedTuple):
    """One address and its names, the canonical one first."""

    address: Address
    names: tuple[Name, ...]


def read_hosts(path: Path) -> bytes:
    """Return the octets of the file; raises BadConfig when it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_OCTETS + 1)
    except OSError as error:
        raise BadConfig([f"local.hosts: {path}: cannot be read ({error.strerror}); correct the path"]) from error
    if len(octets) > MAX_OCTETS:
        raise BadConfig([f"local.hosts: {path}: more than {MAX_OCTETS} octets; list names to block as a feed"])
    return octets


def parse_hosts(octets: bytes, source: str) -> list[Host]:
    """Return the entries of the text; raises BadConfig naming `source` and each bad line, at most 20 of them."""
    found: list[Host] = []
    mistakes: list[str] = []
    counts: dict[Name, int] = {}
    for number, line in enumerate(octets.split(b"\n"), 1):
        try:
            for host in _read_line(line):
                _count(host, counts)
                found.append(host)
        except ValueError as error:
            mistakes.append(f"local.hosts: {source}:{number}: {str(error)[:MAX_SHOWN]}; write ADDRESS NAME [NAME ...]")
            if len(mistakes) == MAX_TOLD:
                break
    if mistakes:
        raise BadConfig(mistakes)
    return found


def _read_line(line: bytes) -> Iterator[Host]:
    if len(line) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} octets")
    words = line.removeprefix(b"\xef\xbb\xbf").split(b"#", 1)[0].decode().split()  # a decoding error is a ValueError
    if not words:
        return
    address = ip_address(words[0].partition("%")[0])  # a scope means nothing to others
    if len(words) == 1:
        raise ValueError(f"{words[0]} has no name")
    yield Host(address, tuple(_name(word) for word in words[1:]))


def _name(word: str) -> Name:
    name = from_text(word)
    if len(name) == 1:
        raise BadName("the root is no host")
    return name


def _count(host: Host, counts: dict[Name, int]) -> None:
    for name in host.names:
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > MAX_ADDRESSES:
            raise ValueError(f"a name has more than {MAX_ADDRESSES} addresses")
