"""How many octets of payload names can have carried out: the estimate of alerts and of `plughole hunt`.

Counted are the labels left of the registered domain, of names the client had not asked for before. A label of n
characters counts n times the bits of the smallest usual alphabet it fits: digits log2 10, hexadecimal 4, base 32 5,
letters, digits, `-` and `_` log2 38, anything else 8. Letter case does not count: the resolver folds it before a name
leaves. Headers and counters of a tunnel count like payload, so for most tools the estimate errs on the high side.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2
from typing import TYPE_CHECKING, Final

from core.names import labels

if TYPE_CHECKING:
    from core.names import Name

_ALPHABETS: Final = (  # characters to take away, and the bits one of them carries
    (b"0123456789", log2(10)),
    (b"0123456789abcdef", 4.0),
    (b"abcdefghijklmnopqrstuvwxyz234567", 5.0),
    (b"abcdefghijklmnopqrstuvwxyz0123456789-_", log2(38)),
)
_OCTET: Final = 8.0
_SHORT: Final = 12  # octets; what stands before many domains, like `www`, and need not be counted anew


def payload_bits(qname: Name, domain: Name) -> float:
    """Return the bits the labels of a folded name can carry that stand left of the domain."""
    below = len(qname) - len(domain)
    if below <= 0:
        return 0.0
    return _common(qname[:below]) if below <= _SHORT else _bits(qname[:below])


@lru_cache(maxsize=4_096)
def _common(below: bytes) -> float:
    return _bits(below)


def _bits(below: bytes) -> float:
    return sum(map(_label_bits, labels(below + b"\x00")))


def _label_bits(label: bytes) -> float:
    for alphabet, bits in _ALPHABETS:
        if not label.translate(None, alphabet):
            return bits * len(label)
    return _OCTET * len(label)
