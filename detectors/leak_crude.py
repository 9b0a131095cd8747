"""The first tier of the leak meter: a price by length alone, which costs next to nothing to find.

Rules:
1. What a pair was charged is one number: bits of fresh names in FRESH_MASK, above them how often known ones were asked.
2. The price is hardly less than a name can carry; only pairs that leave the tier get a code and accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.names import Name

SEED: Final = (
    512  # bits at which a pair leaves the tier; what it was charged until then is what its accounts begin with
)
KNOWN: Final = 4  # bits of a name somebody asked for before
FRESH_MASK: Final = 1023
REPEAT: Final = FRESH_MASK + 1
REPEATS: Final = SEED // KNOWN * REPEAT  # at which a pair leaves the tier, too
FRESH: Final = 14  # bits of another name: type, number of labels, lengths
OCTET: Final = 6  # of it, letters, digits and hyphens with the octets of the labels' lengths
ODD_OCTET: Final = 8  # of a name with octets beyond ASCII
REVERSE_OCTET: Final = 3  # of the digits of an address, every second of them the length of a label
_ADDRESS_OCTETS: Final = frozenset((2, 3, 4, 40))  # below the reverse zones of a /24 and a /48
ODD_TYPE: Final = 20  # a record type hardly anybody asks for
ODD_REPEAT: Final = (KNOWN + ODD_TYPE) // KNOWN * REPEAT
PLAIN_TYPES: Final = frozenset((1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 64, 65))
CARRIERS: Final = frozenset((10, 25, 65399))  # NULL, KEY, PRIVATE: of use to tunnels alone
CARRIER_FACTOR: Final = 4


def crude_bits(qname: Name, below: int, qtype: int, *, reverse: bool) -> int:
    """Return the price of a fresh name with so many octets left of its domain."""
    octet = OCTET if qname.isascii() else ODD_OCTET
    if reverse and below in _ADDRESS_OCTETS:
        octet = REVERSE_OCTET
    if qtype in CARRIERS:
        return (FRESH + octet * below) * CARRIER_FACTOR
    return FRESH + octet * below + (0 if qtype in PLAIN_TYPES else ODD_TYPE)
