"""What a name and its answer look like to the tunnel detector: an Exchange, a Clue, and readers of encodings.

Names are folded, so base32 and hex can be read back, base58 and base64 cannot.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from string import ascii_lowercase
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from core.names import Name

TXT: Final = 16
CNAME: Final = 5
ADDRESS_TYPES: Final = frozenset({1, 28})
RFC4648: Final = ascii_lowercase.encode() + b"234567"  # base32, RFC 4648 section 6, folded

_HEX: Final = b"0123456789abcdef"
_DIGITS: Final = b"0123456789abcdefghijklmnopqrstuv"  # of base 32, as int() reads them
_BITS: Final = 5  # of a base32 character
_LOOPBACK: Final = 127
_MULTICAST: Final = 224  # first octet of 224/4 and, above it, 240/4
_TOKEN: Final = re.compile(rb"[A-Za-z0-9+/_=-]{8,}")
_DECLARED: Final = re.compile(rb"[\x00-\xff]?[A-Za-z][A-Za-z0-9_-]{0,23}[=:](?!=|$)")
_CASES: Final = bytes(
    (
        (48 <= code < 58 and ord("d"))
        or (97 <= code < 123 and ord("l"))
        or (65 <= code < 91 and ord("u"))
        or (code > 126 and ord("x"))
        or ord("-")
    )
    for code in range(256)
)
_CHANGES: Final = re.compile(rb"(?=dl|ld|du|ud|lu|ul|x)")
_MIN_CHANGES: Final = 2
_PER_CHANGE: Final = 8  # characters a change of class stands for in encoded text; words and numbers have fewer
_VOWELS: Final = b"aeiouy"
_LONG: Final = 20  # characters without a digit that must look like words
_FEW_VOWELS: Final = 0.2
_ASCII: Final = bytes(range(127))
_BINARY_SHARE: Final = 0.15  # of octets above ASCII; lengths, ports and preferences of plain records lie below


class Exchange(NamedTuple):
    """A question seen from the registered domain, with its answer."""

    parts: tuple[bytes, ...]  # labels left of the registered domain, leftmost first; at least one
    qtype: int
    payload: bytes  # record data that is no address
    addresses: tuple[bytes, ...]
    domain: Name


class Clue(NamedTuple):
    """A trait of a tool's protocol in one exchange. Points of a tool add up; 1 names it."""

    tool: str
    key: bytes  # what stays the same within a session
    token: bytes  # what differs from question to question; each counts once
    points: float
    why: str
    after: bytes = b""  # counts only when this was the key's last token: a counter that runs
    repeats: bool = False  # the first token of a key does not count: only that the key stays says something


def from_base(text: bytes, alphabet: bytes) -> bytes | None:
    """Return what base32 text stands for, bits left over dropped; None when it is empty or not of the alphabet."""
    if not text or text.translate(None, alphabet):
        return None
    size = len(text) * _BITS // 8
    value = int(text.translate(bytes.maketrans(alphabet, _DIGITS)), 32)
    return (value >> (len(text) * _BITS - size * 8)).to_bytes(size, "big")


def leading_hex(parts: tuple[bytes, ...]) -> bytes:
    """Return the hex digits of the leftmost labels that hold nothing else."""
    found = b""
    for part in parts:
        if part.translate(None, _HEX):
            break
        found += part
    return found


def from_hex(text: bytes) -> bytes:
    """Return what hex text stands for, without an odd last digit."""
    return unhexlify(text[: len(text) // 2 * 2])


def is_ipv4_packet(raw: bytes) -> bool:
    """True when octets begin with an IPv4 header whose length and checksum are right (RFC 791 section 3.1)."""
    if len(raw) < 20 or raw[0] != 0x45 or not 20 <= int.from_bytes(raw[2:4], "big") <= 1500:
        return False
    total = sum(int.from_bytes(raw[at : at + 2], "big") for at in range(0, 20, 2))
    return (total & 0xFFFF) + (total >> 16) == 0xFFFF


def looks_encoded(text: bytes) -> bool:
    """True when text changes between letters, digits and cases as data does, or lacks the vowels of words."""
    changes = len(_CHANGES.findall(text.translate(_CASES)))
    if changes >= max(_MIN_CHANGES, len(text) / _PER_CHANGE):
        return True
    if len(text) < _LONG or changes:
        return False
    lower = text.lower()
    return len(lower) - len(lower.translate(None, _VOWELS)) < _FEW_VOWELS * len(text)


def payload_is_dense(payload: bytes) -> bool:
    """True when record data is binary or encoded, and not text that says what it is (`v=DKIM1`, `enr:`)."""
    if _DECLARED.match(payload):
        return False
    if len(payload.translate(None, _ASCII)) > _BINARY_SHARE * len(payload):
        return True
    return any(looks_encoded(token) for token in _TOKEN.findall(payload))


def is_reachable(address: bytes) -> bool:
    """True when an address may belong to a host somewhere else; loopback counts, since lists answer with it."""
    if len(address) == 4:
        return 0 < address[0] < _MULTICAST
    return address[0] >> 5 == 1 or address[0] in {0xFC, 0xFD, 0xFE} or address[:15] == bytes(15)


def is_loopback(address: bytes) -> bool:
    """True for 127/8, with which block lists and reputation services answer (RFC 5782 section 2.1)."""
    return len(address) == 4 and address[0] == _LOOPBACK
