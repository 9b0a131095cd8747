"""Which published or configured network an address lies in: lists of prefixes, and one index over many of them.

Rules:
1. Addresses are packed, 4 or 16 octets. An IPv4 address mapped into IPv6 is looked up as the IPv4 address it is.
2. A bad entry is reported with its place and left out; a bad list is refused whole, so that the last good one stays.
3. Of nested prefixes the longest answers, of equal ones the one named first.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from core.errors import UNREADABLE, BadFeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_OCTETS: Final = 64 << 20  # of one list; the longest known is 2 MB
MAX_PREFIXES: Final = 500_000  # of one list
MAX_MISTAKES: Final = 20  # reported; more are counted
MAX_BAD_SHARE: Final = 0.1  # of the entries; past it the list is of another kind, or broken
MIN_BITS: Final = 4  # a shorter prefix would decide for the whole Internet; multicast is 224.0.0.0/4

_MAPPED: Final = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_MAX_ENTRY: Final = 64  # characters; a prefix needs at most 49
_CIDR_KINDS: Final = frozenset({"cidr", "ip", "string", ""})  # of MISP's lists, those that may hold addresses


class Prefix(NamedTuple):
    """The numbers of the first and the last address of a network, and the octets an address of it has."""

    first: int
    last: int
    octets: int


class Listed(msgspec.Struct, frozen=True):
    """A list as read: its name, its networks, and what was left out with its place."""

    name: str
    prefixes: tuple[Prefix, ...]
    mistakes: tuple[str, ...] = ()
    bad: int = 0  # entries left out; `mistakes` holds the first of them


class _Warninglist(msgspec.Struct, frozen=True):
    """What is read of a list of the misp-warninglists form; other keys are ignored."""

    entries: list[str] = msgspec.field(name="list")
    kind: str = msgspec.field(name="type", default="")
    name: str = ""


class Ranges:
    """An index over lists of prefixes, fixed once made. A look-up is one bisection, microseconds among 100,000."""

    def __init__(self, lists: Iterable[Listed] = ()) -> None:
        taken = list(lists)
        self._names = tuple(listed.name for listed in taken)
        self._four = _flatten(taken, 4)
        self._six = _flatten(taken, 16)
        self._count = sum(len(listed.prefixes) for listed in taken)

    def __len__(self) -> int:
        """Prefixes the lists named, repetitions included."""
        return self._count

    def find(self, address: bytes) -> str | None:
        """Return the name of the list that holds the address, None when none does.

        Raises ValueError for what is no packed address.
        """
        address = unmapped(address)
        starts, owners = self._four if len(address) == 4 else self._six
        at = bisect_right(starts, int.from_bytes(address, "big")) - 1
        owner = owners[at] if at >= 0 else -1
        return self._names[owner] if owner >= 0 else None

    def __contains__(self, address: bytes) -> bool:
        return self.find(address) is not None


def unmapped(address: bytes) -> bytes:
    """Return a packed address, an IPv4 one mapped into IPv6 as IPv4; raises ValueError for other lengths."""
    if len(address) == 16:
        return address[12:] if address.startswith(_MAPPED) else address
    if len(address) != 4:
        raise ValueError(f"an address of {len(address)} octets (4 or 16 expected)")
    return address


def listed(name: str, entries: Iterable[str]) -> Listed:
    """Return a list of prefixes or single addresses, host bits cleared.

    Raises BadFeed when it is too long, or more than a tenth of it are no usable prefixes.
    """
    prefixes: list[Prefix] = []
    mistakes: list[str] = []
    bad = 0
    for place, entry in enumerate(entries, 1):
        if len(prefixes) >= MAX_PREFIXES:
            raise BadFeed(f"{name}: more than {MAX_PREFIXES} prefixes")
        try:
            prefixes.append(prefix(entry))
        except ValueError as fault:
            bad += 1
            if len(mistakes) < MAX_MISTAKES:
                mistakes.append(f"{name}, entry {place}: {fault}")
    if bad > MAX_BAD_SHARE * (bad + len(prefixes)):
        raise BadFeed(f"{name}: {bad} of {bad + len(prefixes)} entries are no prefixes, first: {mistakes[0]}")
    return Listed(name, tuple(prefixes), tuple(mistakes), bad)


def read(octets: bytes, *, name: str) -> Listed:
    """Return what a file lists: a misp-warninglists JSON object, or text with a prefix a line and # or ; comments.

    Raises BadFeed when it is too large, unreadable, empty, of another type, or mostly no prefixes.
    """
    if len(octets) > MAX_OCTETS:
        raise BadFeed(f"{name}: {len(octets)} octets, at most {MAX_OCTETS}")
    entries = _of_json(octets, name) if octets.lstrip()[:1] in (b"{", b"[") else _of_text(octets, name)
    found = listed(name, entries)
    if not found.prefixes:
        raise BadFeed(f"{name}: no prefix in it")
    return found


def prefix(text: str) -> Prefix:
    """Return the network of `address/bits` or of a single address; raises ValueError with the reason."""
    text = text.strip()
    if len(text) > _MAX_ENTRY or not text.isascii() or "%" in text:
        raise ValueError(f"{text[:_MAX_ENTRY]!r} is no prefix")
    network = ipaddress.ip_network(text, strict=False)
    if network.prefixlen < MIN_BITS:
        raise ValueError(f"{text!r} covers too much: at least {MIN_BITS} bits")
    first = int(network.network_address)
    last = first | ((1 << (network.max_prefixlen - network.prefixlen)) - 1)
    if network.version == 6 and network.prefixlen >= 96 and first >> 32 == 0xFFFF:
        return Prefix(first & 0xFFFFFFFF, last & 0xFFFFFFFF, 4)
    return Prefix(first, last, 4 if network.version == 4 else 16)


def _of_json(octets: bytes, name: str) -> list[str]:
    try:
        if octets.lstrip().startswith(b"["):
            return msgspec.json.decode(octets, type=list[str])
        found = msgspec.json.decode(octets, type=_Warninglist)
    except UNREADABLE as fault:
        raise BadFeed(f"{name}: {fault}") from fault
    if found.kind not in _CIDR_KINDS:
        raise BadFeed(f"{name}: a list of type {found.kind[:_MAX_ENTRY]!r}, not of prefixes")
    return found.entries


def _of_text(octets: bytes, name: str) -> list[str]:
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise BadFeed(f"{name}: {fault}") from fault
    bare = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return [line for line in bare if line]


def _flatten(lists: Sequence[Listed], octets: int) -> tuple[list[int], list[int]]:
    """Return where an owner begins and which list it is from there on, -1 for none.

    Prefixes nest or lie apart, so one pass with a stack of the open ones is enough.
    """
    found = sorted(
        (each.first, -each.last, owner)
        for owner, one in enumerate(lists)
        for each in one.prefixes
        if each.octets == octets
    )
    edges = _Edges()
    within: list[tuple[int, int, int]] = []  # first and last address and owner of the prefixes we are inside of
    for first, negative, owner in found:
        while within and within[-1][1] < first:
            _close(edges, within)
        if within and within[-1][:2] == (first, -negative):
            continue  # the same prefix again: the first stays
        edges.put(first, owner)
        within.append((first, -negative, owner))
    while within:
        _close(edges, within)
    return edges.starts, edges.owners


def _close(edges: _Edges, within: list[tuple[int, int, int]]) -> None:
    _, last, _ = within.pop()
    edges.put(last + 1, within[-1][2] if within else -1)


class _Edges:
    """Where owners change, in order; a later word about the same place replaces the earlier."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.owners: list[int] = []

    def put(self, start: int, owner: int) -> None:
        if self.starts and self.starts[-1] == start:
            self.owners[-1] = owner
        else:
            self.starts.append(start)
            self.owners.append(owner)
