"""Damage that knows what a DNS message is made of: the same bytes of script always do the same damage.

A script is read four octets at a time: which damage, where (two octets, taken modulo what is there), with what. It is
what hypothesis draws and shrinks, what atheris' mutator throws dice for, and what the soak test numbers.
"""

from __future__ import annotations

from struct import error as struct_error
from struct import pack_into, unpack_from
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STEP: Final = 4  # octets of script for one piece of damage
MOST: Final = 65_535  # octets of what comes out, the largest message TCP can frame
EDGES: Final = (0, 1, 4, 10, 12, 63, 64, 127, 128, 191, 192, 255)  # octets that lengths and pointers turn at
TYPES: Final = (1, 2, 5, 6, 12, 14, 15, 16, 17, 24, 28, 33, 35, 39, 41, 43, 46, 47, 48, 50, 64, 65, 249, 250, 255, 256)


def damage(data: bytes, script: bytes) -> bytes:
    """Return `data` after every whole step of the script."""
    found = bytearray(data)
    for at in range(0, len(script) - STEP + 1, STEP):
        what, place, value = script[at], script[at + 1] << 8 | script[at + 2], script[at + 3]
        _ALL[what % len(_ALL)](found, place, value)
        del found[MOST:]
    return bytes(found)


def records(data: bytes | bytearray) -> list[tuple[int, int, int]]:
    """Return (owner, fixed part, end) of each record as far as the message holds together."""
    found = []
    try:
        questions, *counts = unpack_from("!4H", data, 4)
        at = 12
        for _ in range(questions):
            at = _behind_name(data, at) + 4
        for _ in range(min(sum(counts), 64)):
            owner, at = at, _behind_name(data, at)
            end = at + 10 + unpack_from("!H", data, at + 8)[0]
            if end > len(data):
                break
            found.append((owner, at, end))
            at = end
    except (IndexError, struct_error):
        pass
    return found


def _behind_name(data: bytes | bytearray, at: int) -> int:
    while data[at]:
        if data[at] >= 0xC0:
            return at + 2
        at += data[at] + 1
    return at + 1


def _flip(data: bytearray, place: int, value: int) -> None:
    if data:
        data[place % len(data)] ^= 1 << value % 8


def _set(data: bytearray, place: int, value: int) -> None:
    if data:
        data[place % len(data)] = value


def _edge(data: bytearray, place: int, value: int) -> None:
    _set(data, place, EDGES[value % len(EDGES)])


def _cut(data: bytearray, place: int, value: int) -> None:
    del data[place % (len(data) + 1) :]


def _remove(data: bytearray, place: int, value: int) -> None:
    at = place % (len(data) + 1)
    del data[at : at + 1 + value]


def _insert(data: bytearray, place: int, value: int) -> None:
    at = place % (len(data) + 1)
    data[at:at] = bytes((value,)) * (1 + value % 32)


def _repeat(data: bytearray, place: int, value: int) -> None:
    at = place % (len(data) + 1)
    data += data[at : at + 1 + value]


def _pointer(data: bytearray, place: int, value: int) -> None:
    """Put a compression pointer somewhere, mostly to something near."""
    if len(data) >= 2:
        at = place % (len(data) - 1)
        target = (at - value + 8) & 0x3FFF if value & 1 else 12 + value
        data[at : at + 2] = (0xC000 | target).to_bytes(2, "big")


def _count(data: bytearray, place: int, value: int) -> None:
    """Set one of the four counts of the header."""
    if len(data) >= 12:
        many = value if value < 250 else 0xFFFF >> value - 250
        pack_into("!H", data, 4 + 2 * (place % 4), many)


def _flags(data: bytearray, place: int, value: int) -> None:
    if len(data) >= 4:
        data[2 + place % 2] = value


def _type(data: bytearray, place: int, value: int) -> None:
    """Make a record one of another type."""
    if found := records(data):
        pack_into("!H", data, found[place % len(found)][1], TYPES[value % len(TYPES)])


def _length(data: bytearray, place: int, value: int) -> None:
    """Make a record say that its data is longer or shorter than it is."""
    if found := records(data):
        _, at, end = found[place % len(found)]
        pack_into("!H", data, at + 8, (end - at - 10 + value - 128) & 0xFFFF)


def _ttl(data: bytearray, place: int, value: int) -> None:
    if found := records(data):
        pack_into("!I", data, found[place % len(found)][1] + 4, (0, 1, 2**31 - 1, 2**31, 2**32 - 1)[value % 5])


def _owner(data: bytearray, place: int, value: int) -> None:
    """Point the first octets of an owner name somewhere else."""
    if found := records(data):
        at = found[place % len(found)][0]
        data[at : at + 2] = (0xC000 | value).to_bytes(2, "big")


def _again(data: bytearray, place: int, value: int) -> None:
    """Write a record once more, or a few dozen times, and count them."""
    if found := records(data):
        owner, _, end = found[place % len(found)]
        times = 1 + value % 64
        if len(data) + times * (end - owner) <= MOST:
            data[end:end] = data[owner:end] * times
            section = 6 + 2 * (value % 3)
            pack_into("!H", data, section, (unpack_from("!H", data, section)[0] + times) & 0xFFFF)


def _drop(data: bytearray, place: int, value: int) -> None:
    """Take a record out and leave the pointers to it hanging."""
    if found := records(data):
        owner, _, end = found[place % len(found)]
        del data[owner:end]


_ALL: Final[tuple[Callable[[bytearray, int, int], None], ...]] = (
    _flip, _set, _edge, _cut, _remove, _insert, _repeat, _pointer, _count, _flags, _type, _length, _ttl, _owner, _again,
    _drop,
)  # fmt: skip
