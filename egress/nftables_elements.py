"""Elements of the sets in nftables: from targets to what the kernel takes, and back from what it lists.

Layouts: linux/netfilter/nf_tables.h. A pair's key is client . address, each padded to four octets, which both are.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from egress import netlink
from egress.enforcer import Standing, Target
from egress.nftables_rules import PROBE, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INET: Final = 1  # NFPROTO_INET
NEWSETELEM: Final = 12
DELSETELEM: Final = 14
IN_TABLE: Final = 1  # NFTA_*_TABLE, the same number in each kind of message
_IN_SET: Final = 2
_ELEMENTS: Final = 3
_ELEMENT: Final = 1  # NFTA_LIST_ELEM
_KEY: Final = 1
_VALUE: Final = 1  # NFTA_DATA_VALUE
_TIMEOUT: Final = 4  # milliseconds
_EXPIRATION: Final = 5  # milliseconds left
_EXPRESSION: Final = 7
_EXPRESSIONS: Final = 11
_EXPRESSION_NAME: Final = 1
_EXPRESSION_DATA: Final = 2
_COUNTER_OCTETS: Final = 1
_COUNTER_PACKETS: Final = 2
_LONG: Final = struct.Struct("!Q")

CHUNK: Final = 900  # elements of one message: of the largest kind 68 octets each, under an attribute's 64 KiB
MESSAGE: Final = 68 * CHUNK + 256  # octets of a message at most

_SINGLE: Final = {"block4": (socket.AF_INET, 4), "block6": (socket.AF_INET6, 16), PROBE: (socket.AF_INET, 4)}
_PAIRS: Final = {"pair4": (socket.AF_INET, 4), "pair6": (socket.AF_INET6, 16)}


class Change(NamedTuple):
    """An element to put (milliseconds above 0) or to take."""

    target: Target
    name: str  # of the set
    key: bytes
    milliseconds: int
    renews: bool = False


class Chunk(NamedTuple):
    """A request and the changes its elements stand for, in their order."""

    request: netlink.Request
    changes: Sequence[Change]


def place(target: Target) -> tuple[str, bytes]:
    """Return the set a target belongs to and its key there; ValueError when it is no address or families differ."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    number = 6 if family == socket.AF_INET6 else 4
    try:
        address = socket.inet_pton(family, target.address)
        if not target.client:
            return f"block{number}", address
        return f"pair{number}", socket.inet_pton(family, target.client) + address
    except OSError:
        raise ValueError(f"{target.client or 'any client'} to {target.address}: not addresses of one family") from None


def target_of(name: str, key: bytes) -> Target:
    """Return what an element of a set stands for; `Malformed` when its length is wrong."""
    family, size = _SINGLE.get(name) or _PAIRS[name]
    if len(key) != size * (2 if name in _PAIRS else 1):
        raise netlink.Malformed(f"a key of {len(key)} octets in {name}")
    address = socket.inet_ntop(family, key[-size:])
    return Target(address, socket.inet_ntop(family, key[:size]) if name in _PAIRS else "")


def of_set(name: str) -> bytes:
    """Return the attributes that name a set of our table."""
    return netlink.text(IN_TABLE, TABLE) + netlink.text(_IN_SET, name)


def messages(kind: int, changes: Iterable[Change], *, timed: bool) -> Iterator[Chunk]:
    """Yield the requests that put or take so many elements, those of one set together."""
    sets: dict[str, list[Change]] = {}
    for change in changes:
        sets.setdefault(change.name, []).append(change)
    flags = netlink.CREATE if kind == NEWSETELEM else 0
    for name, members in sets.items():
        for at in range(0, len(members), CHUNK):
            part = members[at : at + CHUNK]
            elements = netlink.nested(_ELEMENTS, *[_element(change, timed=timed) for change in part])
            yield Chunk(netlink.Request(kind, flags, INET, of_set(name) + elements), part)


def _element(change: Change, *, timed: bool) -> bytes:
    key = netlink.nested(_KEY, netlink.attribute(_VALUE, change.key))
    if not timed:
        return netlink.nested(_ELEMENT, key)
    lasting = _LONG.pack(change.milliseconds)  # said twice: with the same length alone the end would stay where it was
    return netlink.nested(_ELEMENT, key, netlink.attribute(_TIMEOUT, lasting), netlink.attribute(_EXPIRATION, lasting))


def culprit(chunk: Chunk, offset: int | None) -> Change | None:
    """Return the change whose element begins at, or holds, an offset of the message; None when no element does."""
    if offset is None:
        return chunk.changes[0] if len(chunk.changes) == 1 else None
    first = netlink.HEADERS + len(of_set(chunk.changes[0].name)) + 4
    size = (netlink.HEADERS + len(chunk.request.payload) - first) // len(chunk.changes)
    number = (offset - first) // size
    return chunk.changes[number] if 0 <= number < len(chunk.changes) else None


def standings(name: str, piece: bytes) -> Iterator[Standing]:
    """Yield what one message of a set's listing holds; raise `Malformed` when it does not parse."""
    for kind, elements in netlink.attributes(piece):
        if kind == _ELEMENTS:
            for _, element in netlink.attributes(elements):
                yield _standing(name, element)


def _standing(name: str, element: bytes) -> Standing:
    found = dict(netlink.attributes(element))
    key = dict(netlink.attributes(found.get(_KEY, b""))).get(_VALUE, b"")
    packets, octets = _counter(found)
    left = _number(found[_EXPIRATION]) / 1000 if _EXPIRATION in found else math.inf
    return Standing(target_of(name, key), left, packets, octets)


def _counter(element: dict[int, bytes]) -> tuple[int, int]:
    """Return packets and octets; nought when the element has no counter."""
    expressions = [element[_EXPRESSION]] if _EXPRESSION in element else []
    expressions += [content for _, content in netlink.attributes(element.get(_EXPRESSIONS, b""))]
    for expression in expressions:
        parts = dict(netlink.attributes(expression))
        if string(parts.get(_EXPRESSION_NAME)) == "counter":
            counts = dict(netlink.attributes(parts.get(_EXPRESSION_DATA, b"")))
            return _number(counts.get(_COUNTER_PACKETS, bytes(8))), _number(counts.get(_COUNTER_OCTETS, bytes(8)))
    return 0, 0


def _number(content: bytes) -> int:
    if len(content) != _LONG.size:
        raise netlink.Malformed(f"a number of {len(content)} octets")
    return int(_LONG.unpack(content)[0])


def string(content: bytes | None) -> str:
    """Return the text of an attribute that is a string; empty when it is not there."""
    return (content or b"").rstrip(b"\0").decode("ascii", "replace")
