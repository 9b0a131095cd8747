"""DNS rebinding: a name of the Internet that points inside would let a web page talk to what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.names import Name, from_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAPPED: Final = b"\x00" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_LOW: Final = b"\x00" * 15  # :: and ::1


class Rebind:
    """Says which addresses lie inside and which domains may point there."""

    def __init__(self, exempt: Iterable[str]) -> None:
        """`exempt`: names, as text, that may point inside, with all below them."""
        self._exempt = frozenset(from_text(text) for text in exempt)

    def spares(self, keys: list[Name]) -> bool:
        """True when a name, given as itself and its parents, may point inside."""
        return bool(self._exempt) and not self._exempt.isdisjoint(keys)


def lies_inside(address: bytes) -> bool:
    """True for an address (4 or 16 octets) of this host, of a private or of a link-local network.

    RFC 1918, RFC 6598, RFC 3927, RFC 1122 section 3.2.1.3; RFC 4193, RFC 4291 sections 2.5.3 and 2.5.6.
    """
    if len(address) == 4:
        first, second = address[0], address[1]
        return (
            first in (0, 10, 127)
            or (first == 192 and second == 168)
            or (first == 172 and 16 <= second < 32)
            or (first == 169 and second == 254)
            or (first == 100 and 64 <= second < 128)
        )
    if address[0] & 0xFE == 0xFC or (address[0] == 0xFE and address[1] & 0xC0 == 0x80):
        return True
    if address.startswith(_MAPPED):
        return lies_inside(address[12:])
    return address.startswith(_LOW) and address[15] < 2
