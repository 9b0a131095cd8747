"""What detectors see and how they are driven: a Sight is one question with what came back, a Watch looks at many.

Rules:
1. No detector reads a clock, a file or a socket: time is `at` of what it sees, or `now` of `tick`.
2. State is bounded: past its cap the least useful part goes, and `counters` says how often.
3. Names come folded; `domain` is chosen by `domain_of`, so that all detectors speak of the same pair.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from core.names import Name, registered, suffixes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.finding import Finding

MAX_PAYLOAD: Final = 512  # octets of record data a Sight carries
_ARPA: Final[Name] = b"\x04arpa\x00"
_REVERSE: Final = {
    b"\x07in-addr\x04arpa\x00": 5,  # labels of a reverse zone of 256 addresses
    b"\x03ip6\x04arpa\x00": 14,  # labels of the reverse zone of a /48
}


class Sight(msgspec.Struct, frozen=True, gc=False):
    """A question of a client and what it was answered. Times are Unix seconds, sizes octets."""

    at: float
    client: bytes  # 4 or 16 octets
    qname: Name
    qtype: int
    domain: Name  # see `domain_of`
    rcode: int = -1  # -1: the answer is not known
    ttl: int = 0  # seconds, the lowest of the answer
    size: int = 0  # of the whole reply
    addresses: tuple[bytes, ...] = ()  # of the answer, 4 or 16 octets each
    payload: bytes = b""  # record data of the answer that is no address, at most MAX_PAYLOAD octets
    count: int = 1  # equal questions within a second
    cached: bool = False  # answered from the cache: nothing of it left the building
    blocked: bool = False  # somebody else blocked it already


class Sort(Flag):
    """What kinds of sights there are; a blocked one is nothing else."""

    HIT = auto()  # answered from the cache
    ADDRESSED = auto()  # answered from outside, with addresses
    BARE = auto()  # from outside, without: of another type, empty, failed or not known
    BLOCKED = auto()
    OPEN = HIT | ADDRESSED | BARE
    ALL = OPEN | BLOCKED


class Watch(Protocol):
    """A detector that looks over time. One instance sees all clients of a node, in order of time."""

    name: str

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Take in one sight; returns what it makes suspicious, mostly nothing."""

    def tick(self, now: float) -> Sequence[Finding]:
        """Do what is due by the clock; called about once a second of the sights' own time."""

    def counters(self) -> Mapping[str, int]:
        """Return sizes of state and what was dropped at the caps."""

    def dump(self) -> dict[str, Any]:
        """Return the state worth keeping over a restart, as plain values msgspec can pack."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; what does not fit this version is left out."""


def domain_of(name: Name) -> Name:
    """Return who a name belongs to: its registered domain, in the reverse tree the zone of a /24 or a /48."""
    return domain_of_keys(suffixes(name)) or name


def domain_of_keys(keys: list[Name]) -> Name:
    """Return the same of a name given as itself and its parents; empty for the root."""
    if not keys or keys[-1] != _ARPA:
        return registered(keys)
    depth = _REVERSE.get(keys[-2], 2) if len(keys) > 1 else 1
    return keys[-depth] if len(keys) >= depth else keys[0]
