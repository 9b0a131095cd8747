"""The published lists of networks that guards go by: a snapshot that ships, or a newer one in the data folder.

Rules:
1. A snapshot is three files, one a kind: gzip, lines of ASCII, the networks of each list under its name.
2. The newer of the two by the date inside is taken, file by file. A bad file is told and the other one taken.
3. The data is that of misp-warninglists (CC0), see `egress/lists/README.md`.
"""

from __future__ import annotations

import gzip
import os
import re
import socket
import zlib
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from core.errors import BadFeed
from egress.ranges import MAX_PREFIXES, MIN_BITS, Listed, Prefix, Ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_Network = TypeVar("_Network", IPv4Network, IPv6Network)

MAX_PACKED: Final = 8 << 20  # octets of a file
MAX_PLAIN: Final = 64 << 20  # octets unpacked

_HEADER: Final = re.compile(r"plughole ranges 1, (never|shared|sinkholes), (20\d\d-[01]\d-[0-3]\d), ([ -~]{1,200})")
_NAMED: Final = "= "  # begins the line that names a list

# What the lists say of an address, kind by kind, and the folder of misp-warninglists each one comes from.
KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "never": {
        "crl-ip": "servers of certificate revocation",
        "public-dns-v4": "public DNS resolvers",
        "public-dns-v6": "public DNS resolvers",
    },
    "shared": {
        "akamai": "Akamai",
        "amazon-aws": "Amazon Web Services",
        "apple": "Apple",
        "bunny-net": "bunny.net",
        "cloudflare": "Cloudflare",
        "fastly": "Fastly",
        "github": "GitHub",
        "google-gcp": "Google Cloud",
        "google-gmail-sending-ips": "Gmail",
        "googlebot": "Google",
        "icloud-private-relay": "iCloud Private Relay",
        "microsoft-azure": "Microsoft Azure",
        "microsoft-azure-china": "Microsoft Azure in China",
        "microsoft-azure-germany": "Microsoft Azure in Germany",
        "microsoft-azure-us-gov": "Microsoft Azure for the US government",
        "microsoft-office365-cn": "Microsoft 365 in China",
        "microsoft-office365-ip": "Microsoft 365",
        "oracle-oci": "Oracle Cloud",
        "ovh-cluster": "OVH's shared hosting",
        "parking-domain": "parked domains",
        "smtp-receiving-ips": "large mail providers",
        "smtp-sending-ips": "large mail providers",
        "stackpath": "StackPath",
        "telegram-ips": "Telegram",
        "wikimedia": "Wikimedia",
        "zscaler": "Zscaler",
    },
    "sinkholes": {
        "sinkholes": "known sinkholes",
        "umbrella-blockpage-v4": "Cisco Umbrella's block pages",
        "umbrella-blockpage-v6": "Cisco Umbrella's block pages",
    },
}


class Snapshot(msgspec.Struct, frozen=True):
    """A file as read."""

    kind: str
    date: str  # of the data, YYYY-MM-DD
    source: str
    lists: tuple[Listed, ...]


class Lists(msgspec.Struct, frozen=True):
    """The ranges guards go by; `sources` tells where each kind is from, `mistakes` which files were passed over."""

    never: Ranges = Ranges()
    shared: Ranges = Ranges()
    sinkholes: Ranges = Ranges()
    sources: dict[str, str] = {}
    mistakes: tuple[str, ...] = ()


def load_lists(folder: Path | None) -> Lists:
    """Return the newer of what ships and what the folder holds. Takes a second: call it from a thread.

    Raises BadFeed when what ships is damaged.
    """
    mistakes: list[str] = []
    taken = {kind: newest(kind, folder, mistakes) for kind in KINDS}
    return Lists(
        **{kind: Ranges(one.lists) for kind, one in taken.items()},
        sources={kind: f"{one.source}, {one.date}" for kind, one in taken.items()},
        mistakes=tuple(mistakes),
    )


def file_name(kind: str) -> str:
    """Return the name of a kind's file, in `egress/lists/` as in a folder of newer ones."""
    return f"{kind}.txt.gz"


def pack(kind: str, lists: Iterable[Listed], *, date: str, source: str) -> bytes:
    """Return a snapshot's file; neighbours are joined, and the same lists give the same octets.

    Raises ValueError for a date or source that the first line can not hold.
    """
    header = f"plughole ranges 1, {kind}, {date}, {source}"
    if not _HEADER.fullmatch(header):
        raise ValueError(f"no header: {header!r}")
    lines = [header]
    for one in lists:
        lines.append(_NAMED + one.name)
        lines += _joined(one.prefixes)
    return gzip.compress("\n".join([*lines, ""]).encode("ascii"), mtime=0)


def unpack(octets: bytes, kind: str) -> Snapshot:
    """Return what a snapshot's file holds; raises BadFeed when it is not one of this kind, too long or damaged."""
    try:
        lines = iter(_plain(octets, kind).decode("ascii").splitlines())
        header = _HEADER.fullmatch(next(lines, ""))
        if header is None or header[1] != kind:
            raise BadFeed(f"{kind}: no snapshot of ranges of this kind")
        return Snapshot(kind, header[2], header[3], tuple(_lists(lines, kind)))
    except (ValueError, OSError) as fault:
        raise BadFeed(f"{kind}: {fault}") from fault


def newest(kind: str, folder: Path | None, mistakes: list[str]) -> Snapshot:
    """Return a kind's snapshot that is in force: what ships, or what the folder holds if that is no older.

    Raises BadFeed when what ships is damaged; what is wrong with the folder's goes into `mistakes`.
    """
    shipped = unpack(files("egress").joinpath("lists", file_name(kind)).read_bytes(), kind)
    try:
        own = unpack(_read(folder / file_name(kind)), kind) if folder else shipped
    except FileNotFoundError:
        return shipped
    except (OSError, BadFeed) as fault:
        mistakes.append(f"{folder}: {fault}")
        return shipped
    return max(own, shipped, key=lambda one: one.date)


def put(folder: Path, kind: str, octets: bytes) -> None:
    """Make this the folder's file of a kind, whole or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(kind)
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def joined(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """Return the fewest networks that hold the same addresses, in the order of a file."""
    return tuple(map(_prefix, _joined(tuple(prefixes))))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PACKED + 1)


def _plain(octets: bytes, kind: str) -> bytes:
    """Return what was compressed; raises BadFeed when it is too long, cut short or no gzip."""
    if len(octets) > MAX_PACKED:
        raise BadFeed(f"{kind}: more than {MAX_PACKED} octets")
    unzip = zlib.decompressobj(31)  # gzip, with its header and check sum
    try:
        plain = unzip.decompress(octets, MAX_PLAIN)
    except zlib.error as fault:
        raise BadFeed(f"{kind}: {fault}") from fault
    if not unzip.eof:
        raise BadFeed(f"{kind}: cut short, or more than {MAX_PLAIN} octets unpacked")
    return plain


def _lists(lines: Iterator[str], kind: str) -> Iterator[Listed]:
    name, prefixes = "", list[Prefix]()
    for line in lines:
        if line.startswith(_NAMED):
            if prefixes:
                yield Listed(name, tuple(prefixes))
            name, prefixes = line.removeprefix(_NAMED), []
        elif len(prefixes) >= MAX_PREFIXES:
            raise BadFeed(f"{kind}: more than {MAX_PREFIXES} networks in {name!r}")
        else:
            prefixes.append(_prefix(line))
    if not prefixes:
        raise BadFeed(f"{kind}: no networks at its end")
    yield Listed(name, tuple(prefixes))


def _prefix(line: str) -> Prefix:
    """Return a network as `pack` writes it, ten times as fast as ipaddress; raises ValueError or OSError."""
    text, _, size = line.partition("/")
    family, octets = (socket.AF_INET6, 16) if ":" in text else (socket.AF_INET, 4)
    bits = int(size) if size else 8 * octets
    first = int.from_bytes(socket.inet_pton(family, text), "big")
    span = (1 << (8 * octets - bits)) - 1 if MIN_BITS <= bits <= 8 * octets else -1
    if span < 0 or first & span:
        raise ValueError(f"{line[:64]!r} is no network")
    return Prefix(first, first + span, octets)


def _joined(prefixes: Iterable[Prefix]) -> Iterator[str]:
    """Yield the fewest networks that hold the same addresses, IPv4 first, a single address without its length."""
    four = [IPv4Network((each.first, 32 - _bits(each))) for each in prefixes if each.octets == 4]
    six = [IPv6Network((each.first, 128 - _bits(each))) for each in prefixes if each.octets == 16]
    yield from (str(part).removesuffix("/32") for network in collapse_addresses(four) for part in _wide(network))
    yield from (str(part).removesuffix("/128") for network in collapse_addresses(six) for part in _wide(network))


def _wide(network: _Network) -> Iterable[_Network]:
    """Return the network, in parts when it is wider than one may be."""
    return network.subnets(new_prefix=max(MIN_BITS, network.prefixlen))


def _bits(prefix: Prefix) -> int:
    """Return how many bits differ between the addresses of a network."""
    return (prefix.last - prefix.first).bit_length()
