"""The table of pins in the kernel: made, filled, kept alive, checked, over one netlink socket of its own.

Rules:
1. An element that is put again ends when the last call says, be that sooner. Its expiration is sent beside its timeout:
   Linux leaves an element as it is whose timeout is the one it had.
2. Each set told of answers holds a sentinel, which never ends. When it is missing somebody emptied the set.
"""

from __future__ import annotations

import errno
import math
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from egress import netlink
from egress.enforcer import Absent, Refused
from egress.nftables_elements import CHUNK, DELSETELEM, IN_TABLE, INET, MESSAGE, NEWSETELEM
from egress.nftables_rules import load
from egress.nftables_table import Table
from egress.pins.rules import ALIVE, CAPACITY, TABLE, rules, ruleset, set_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.config import Pin

_IN_SET: Final = 2
_ELEMENTS: Final = 3
_ELEMENT: Final = 1
_KEY: Final = 1
_VALUE: Final = 1
_TIMEOUT: Final = 4  # milliseconds
_EXPIRATION: Final = 5  # milliseconds left
_LONG: Final = struct.Struct("!Q")
_EXCLUSIVE: Final = 0x200  # NLM_F_EXCL: an element that is there is refused
_FAMILIES: Final = (b"\x02", b"\x0a")  # NFPROTO_IPV4, NFPROTO_IPV6
_NO_FAMILY: Final = b"\x00"  # no packet's: on it the kernel shows how it renews an element
_PROBE_SECONDS: Final = (60.0, 120.0)


class Put(NamedTuple):
    """An element to put: `seconds` until it ends, infinity for never; `renews` what may be there."""

    name: str  # of the set
    key: bytes
    seconds: float
    renews: bool = False


class PinTable:
    """The table in the network namespace this is made in. Needs CAP_NET_ADMIN; one thread uses it at a time.

    Every method raises `Refused` when the kernel says no, `Absent` when the table or a part of it is gone.
    """

    def __init__(self, pins: Sequence[Pin], *, log_group: int, enforce: bool, capacity: int = CAPACITY) -> None:
        self._text = ruleset(pins, log_group=log_group, enforce=enforce, capacity=capacity)
        self._chains = Counter(rule.chain for rule in rules(pins, log_group=log_group, enforce=enforce))
        self._sizes = set_sizes(pins)
        self._table = Table(TABLE)
        self._renews_in_place = False  # asked of the kernel by `prepare`: Linux 6.12 and later do

    def prepare(self) -> None:
        """The table stands as the pins say; no answer is known to it, and nobody is held to any."""
        fault = load(self._text)
        if fault:
            raise Refused(f"nft: {fault}")
        self._renews_in_place = self._probe()
        sentinels = [Put(name, self._sentinel(name), math.inf) for name in self._sizes]
        self._table.commit([_message(NEWSETELEM, [put]) for put in sentinels])

    def present(self) -> list[Put]:
        """Return what is open with the seconds it has left; nothing when there is no table."""
        found = [Put(name, key, left) for name in self._sizes for key, left in self._listed(name)]
        return [put for put in found if any(put.key)]

    def is_alive(self) -> bool:
        """True when the kernel holds clients to their answers now."""
        return any(True for _ in self._listed(ALIVE))

    def put(self, puts: Sequence[Put]) -> list[Put]:
        """All are open as long as they say, but for those returned: their set is full."""
        step = max(1, self._table.limit // (3 * MESSAGE)) * CHUNK
        full: list[Put] = []
        for at in range(0, len(puts), step):
            full += self._put(puts[at : at + step])
        return full

    def _put(self, puts: Sequence[Put]) -> list[Put]:
        sets = [[put for put in puts if put.name == name] for name in self._sizes]
        refusals = self._table.transact([message for members in sets for message in self._steps(members)])
        if not refusals:
            return []
        if any(refusal.errno != errno.ENFILE for refusal in refusals):
            raise self._table.refused(next(refusal.errno for refusal in refusals if refusal.errno != errno.ENFILE))
        if len(puts) == 1:
            return list(puts)
        return [full for put in puts for full in self._put([put])]

    def _steps(self, puts: Sequence[Put]) -> Iterator[netlink.Request]:
        """Yield the requests that put elements of one set."""
        if not self._renews_in_place:  # such kernels ignore the timeout of an element that is there
            renewed = [put._replace(seconds=math.inf) for put in puts if put.renews]
            yield from _chunks(NEWSETELEM, renewed)
            yield from _chunks(DELSETELEM, renewed)
        yield from _chunks(NEWSETELEM, puts)

    def hold(self, seconds: float) -> None:
        """For so many seconds from now clients are held to what is open to them; infinity: until `free`."""
        self._table.commit(list(self._steps([Put(ALIVE, family, seconds, renews=True) for family in _FAMILIES])))

    def free(self) -> None:
        """Nobody is held to anything; what is open stays known."""
        self._table.commit([netlink.Request(DELSETELEM, 0, INET, _of_set(ALIVE))])

    def check(self) -> None:
        """Raise `Absent` unless every chain has its rules and no set was emptied."""
        self._table.check(self._chains)
        for name in self._sizes:
            sentinel = [Put(name, self._sentinel(name), math.inf)]
            refusals = self._table.transact([_message(NEWSETELEM, sentinel, flags=netlink.CREATE | _EXCLUSIVE)])
            if not refusals:
                raise Absent(f"set {name} of table inet {TABLE} was emptied")
            if refusals[0].errno != errno.EEXIST:
                raise self._table.refused(refusals[0].errno)

    def withdraw(self) -> None:
        """The table is gone, or was not there."""
        self._table.delete()

    def close(self) -> None:
        """Close the socket; clients are held until the time given to `hold` has passed."""
        self._table.close()

    def _sentinel(self, name: str) -> bytes:
        return bytes(self._sizes[name])

    def _probe(self) -> bool:
        """Return whether an element that is put again has the new timeout afterwards."""
        for seconds in _PROBE_SECONDS:
            self._table.commit([_message(NEWSETELEM, [Put(ALIVE, _NO_FAMILY, seconds)])])
        left = dict(self._listed(ALIVE)).get(_NO_FAMILY, 0.0)
        self._table.commit([_message(DELSETELEM, [Put(ALIVE, _NO_FAMILY, math.inf)])])
        return left > _PROBE_SECONDS[0]

    def _listed(self, name: str) -> list[tuple[bytes, float]]:
        """Return the keys of a set and the seconds each has left; none when there is no such set."""
        return netlink.whole(lambda: list(self._elements(name)), lambda element: element[0])

    def _elements(self, name: str) -> Iterator[tuple[bytes, float]]:
        try:
            pieces = self._table.pieces(_of_set(name))
        except Absent:
            return
        for piece in pieces:
            for kind, elements in netlink.attributes(piece):
                if kind == _ELEMENTS:
                    yield from (_read(element) for _, element in netlink.attributes(elements))


def _read(element: bytes) -> tuple[bytes, float]:
    found = dict(netlink.attributes(element))
    key = dict(netlink.attributes(found.get(_KEY, b""))).get(_VALUE, b"")
    left = found.get(_EXPIRATION, b"")
    return key, _LONG.unpack(left)[0] / 1000 if len(left) == _LONG.size else math.inf


def _of_set(name: str) -> bytes:
    return netlink.text(IN_TABLE, TABLE) + netlink.text(_IN_SET, name)


def _chunks(kind: int, puts: Sequence[Put]) -> Iterator[netlink.Request]:
    for at in range(0, len(puts), CHUNK):
        yield _message(kind, puts[at : at + CHUNK])


def _message(kind: int, puts: Sequence[Put], *, flags: int = netlink.CREATE) -> netlink.Request:
    """Return the request that puts or takes elements of one set."""
    elements = netlink.nested(_ELEMENTS, *[_element(put, timed=kind == NEWSETELEM) for put in puts])
    return netlink.Request(kind, flags if kind == NEWSETELEM else 0, INET, _of_set(puts[0].name) + elements)


def _element(put: Put, *, timed: bool) -> bytes:
    key = netlink.nested(_KEY, netlink.attribute(_VALUE, put.key))
    if not timed or put.seconds == math.inf:
        return netlink.nested(_ELEMENT, key)
    left = _LONG.pack(max(1, round(put.seconds * 1000)))
    return netlink.nested(_ELEMENT, key, netlink.attribute(_TIMEOUT, left), netlink.attribute(_EXPIRATION, left))
