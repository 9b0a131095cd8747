"""Shapes of names that fail by design, and where an address of the reverse tree lies: for `storm`.

Rules:
1. A block list is asked with a reversed address (RFC 5782), a hash, or a whole domain in front of its own name.
2. Shapes are read from the labels left of the registered domain, never from who owns it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from core.names import suffixes

if TYPE_CHECKING:
    from core.names import Name

REVERSE: Final[tuple[Name, ...]] = (b"\x07in-addr\x04arpa\x00", b"\x03ip6\x04arpa\x00")
_ADDRESS: Final = re.compile(rb"(?:\x01[0-9]|\x02[0-9]{2}|\x03[0-2][0-9]{2}){4}")
_NIBBLES: Final = re.compile(rb"(?:\x01[0-9a-f]){32}")
# MD5, SHA-1, SHA-224 and the most of a SHA-256 a label holds in hexadecimal; SHA-256 in base32.
_HASH: Final = re.compile(rb"(?:\x20[0-9a-f]{32}|\x28[0-9a-f]{40}|\x38[0-9a-f]{56}|\x34[a-z2-7]{52})")
_TOPS: Final = frozenset(
    b"com net org info biz edu gov mil name pro xyz top online site club shop store icu vip app dev live work".split()
)
_IPV4_NETWORK: Final = 5  # labels of the reverse zone of a /24
_IPV6_NETWORK: Final = 18  # labels of the reverse zone of a /64


def looks_listed(name: Name, domain: Name) -> bool:
    """True when the labels left of `domain` are what a block list is asked with."""
    if _ADDRESS.match(name) or _NIBBLES.match(name) or _HASH.match(name):
        return True
    at, end = name[0] + 1, len(name) - len(domain)
    while at < end:
        label = name[at + 1 : at + 1 + name[at]]
        if label in _TOPS:
            return True
        at += name[at] + 1
        if len(label) == 2 and at < end:  # a country's suffix, and the list's own label after it
            return True
    return False


def label_of(name: Name) -> bytes:
    """Return the leftmost label."""
    return name[1 : 1 + name[0]]


def network_of(name: Name) -> Name:
    """Return the reverse zone of the /24 or the /64 an address of the reverse tree lies in."""
    depth = _IPV4_NETWORK if name.endswith(REVERSE[0]) else _IPV6_NETWORK
    keys = suffixes(name)
    return keys[-depth] if len(keys) >= depth else name
