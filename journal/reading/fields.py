"""Fields of text files: times, clients, names, record types, response codes and answers in their usual spellings."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from core import rr
from core.names import Name, from_labels, from_text
from detectors.sight import MAX_PAYLOAD
from journal.reading.source import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMELESS: Final = bytes(4)  # the client of a file that does not tell clients apart
_SCALES: Final = (
    (1e17, 1e-9),
    (1e14, 1e-6),
    (1e11, 1e-3),
)  # from what number on it counts in nano-, micro-, milliseconds
_HEXADECIMAL: Final = re.compile(r"\\x([0-9a-fA-F]{2})")  # how Zeek writes octets that are no text
_DIGITS: Final = re.compile(r"\d{1,5}")
_RECORD: Final = re.compile(r"\d{1,5}:(\d{1,10}):\d{1,5}:(.*)", re.DOTALL)  # type, TTL, size, value
_SEPARATORS: Final = re.compile(r"[|,; ]+")
_RCODES: Final = {code.name: code.value for code in rr.Rcode}


def moment(text: str) -> float:
    """Return Unix seconds of a number (seconds, or smaller units when it is that large) or of an ISO 8601 time in UTC.

    Raises ValueError.
    """
    try:
        number = float(text)
    except ValueError:
        return _iso(text)
    scale = next((scale for least, scale in _SCALES if number >= least), 1.0)
    return _plausible(number * scale)


def _iso(text: str) -> float:
    found = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    return _plausible((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _plausible(seconds: float) -> float:
    if not 0.0 <= seconds <= LATEST:
        raise ValueError("no moment")
    return seconds


@lru_cache(maxsize=65_536)
def client(text: str) -> tuple[bytes, bool]:
    """Return the packed address, or a made-up one that stands for a client told by another word; true: made up."""
    if not text:
        return NAMELESS, False
    try:
        return ip_address(text.partition("%")[0]).packed, False
    except ValueError:
        # fd00::/8 is private (RFC 4193), and 15 octets of digest keep two words apart
        return b"\xfd" + blake2b(text.encode("utf-8", "surrogateescape"), digest_size=15).digest(), True


def name(text: str) -> Name:
    """Return the folded name; octets beyond ASCII stand for themselves. Raises BadName."""
    if "\\x" in text:
        text = _HEXADECIMAL.sub(lambda found: f"\\{int(found[1], 16):03d}", text)
    if text.isascii():
        return from_text(text)
    octets = text.encode("utf-8", "surrogateescape")
    return from_labels(tuple(octets.removesuffix(b".").split(b".")))


@lru_cache(maxsize=4_096)
def qtype(text: str) -> int:
    """Return the number of a record type: a number, a mnemonic, `TYPE123` or `unknown (123)`; A when it is not told."""
    upper = text.strip().upper()
    if not upper:
        return rr.A
    if upper == "*":
        return rr.ANY
    if upper in rr.NUMBERS:
        return rr.NUMBERS[upper]
    found = _DIGITS.search(upper)
    return min(int(found[0]), 65_535) if found else 0


@lru_cache(maxsize=1_024)
def rcode(text: str) -> int:
    """Return the number of a response code, -1 when it is not told."""
    upper = text.strip().upper()
    if upper in _RCODES:
        return _RCODES[upper]
    found = _DIGITS.search(upper)
    return min(int(found[0]), 4_095) if found else -1


def ttl(text: str) -> int:
    """Return the lowest of the TTLs in a text, in seconds; 0 when there are none."""
    found = []
    for part in _SEPARATORS.split(text):
        try:
            found.append(int(float(part)))
        except (ValueError, OverflowError):
            continue
    return min(max(min(found, default=0), 0), 2**31)


def number(text: str, default: int = 0) -> int:
    """Return a whole number that is not negative, or the default."""
    stripped = text.strip()
    return int(stripped) if stripped.isdecimal() and len(stripped) <= 9 else default


def truth(text: str) -> bool:
    """True for the usual ways to write yes."""
    return text.strip().lower() in ("1", "t", "true", "yes", "y")


def answers(parts: Iterable[str]) -> tuple[tuple[bytes, ...], bytes, int]:
    """Return addresses, octets of everything else, and the lowest TTL the parts tell (0: none)."""
    addresses: list[bytes] = []
    rest: list[str] = []
    lowest = 0
    for part in parts:
        packed = _packed(part)
        if not packed and (found := _RECORD.fullmatch(part)):
            lowest = min(lowest, int(found[1])) if lowest else int(found[1])
            part = found[2]  # noqa: PLW2901  the record's value
            packed = _packed(part)
        if packed:
            addresses.append(packed)
        else:
            rest.append(part)
    return tuple(addresses), "".join(rest).encode("utf-8", "surrogateescape")[:MAX_PAYLOAD], min(lowest, 2**31)


@lru_cache(maxsize=16_384)
def _packed(text: str) -> bytes:
    """Return the octets of an address, none for other text."""
    try:
        return ip_address(text).packed
    except ValueError:
        return b""


def split(text: str) -> list[str]:
    """Return the single answers of a field that holds several."""
    return _SEPARATORS.split(text) if text else []
