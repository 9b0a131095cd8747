"""How much one client, one network and one domain may take: token buckets and the damper of random sub-domains.

Rules:
1. A client's allowance is a number in its record. Only when it has run out is a clock looked at (`Limits.more`), so the
   packet loop pays one subtraction a query.
2. A domain's own misfortune must not become ours: new names under it wait for its servers only up to a number, while
   names we know go on (random sub-domain attacks, "water torture").
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from core.suffix_rules import rules

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from core.config import Limits as Settings
    from core.names import Name

UNLIMITED: Final = 1 << 60  # queries nobody asks in a lifetime
NETWORK: Final = {4: 24, 6: 56}  # prefix lengths whose replies are counted together
MAX_NETWORKS: Final = 65_536  # counted at a time, about 10 MB; past that all start over
EMPTY_SHARE: Final = 5  # times `misses_per_domain` that may turn out not to exist in a second: most of them are honest


class Bucket:
    """What is left of an allowance, and when it was last filled up."""

    __slots__ = ("left", "second")

    def __init__(self, left: int, second: int) -> None:
        self.left = left
        self.second = second

    def more(self, second: int, rate: int, most: int) -> bool:
        """Fill up what accrued since the last time; false when that is nothing."""
        elapsed = second - self.second
        if elapsed <= 0:
            return False
        self.second = second
        self.left = min(elapsed * rate, most) - 1  # one is taken at once
        return True


class Limits:
    """The allowances of one worker. `second` is moved on by the worker."""

    def __init__(self, settings: Settings) -> None:
        self.second = 0
        self.limited = 0  # queries over a client's rate
        self.slipped = 0  # queries over a network's reply rate
        self._rate = settings.queries_per_second
        self._burst = max(settings.burst, settings.queries_per_second)
        self._replies = settings.responses_per_second
        self._exempt = [ip_network(text, strict=False) for text in settings.exempt]
        self._networks: dict[bytes, Bucket] = {}

    def bucket(self, address: bytes) -> Bucket:
        """Return a full allowance for a client address (4 or 16 octets)."""
        free = not self._rate or self._is_exempt(ip_address(address))
        return Bucket(UNLIMITED if free else self._burst, self.second)

    def take(self, bucket: Bucket) -> bool:
        """Take one query from a client's allowance; false when there is none left."""
        bucket.left -= 1
        return bucket.left >= 0 or self.more(bucket)

    def more(self, bucket: Bucket) -> bool:
        """True when a client whose allowance ran out may ask again by now; else the query is counted as limited."""
        if bucket.more(self.second, self._rate, self._burst):
            return True
        self.limited += 1
        return False

    def replies_to(self, address: bytes) -> Bucket | None:
        """Return the allowance of replies for the network of an address; None where replies are not limited."""
        if not self._replies or self._is_exempt(ip_address(address)):
            return None
        size = NETWORK[4 if len(address) == 4 else 6] // 8
        network = address[:size]
        found = self._networks.get(network)
        if found is None:
            if len(self._networks) >= MAX_NETWORKS:
                self._networks.clear()
            found = self._networks[network] = Bucket(self._replies, self.second)
        return found

    def may_reply(self, bucket: Bucket) -> bool:
        """Take one reply from a network's allowance; false when there is none left in this second."""
        bucket.left -= 1
        if bucket.left >= 0 or bucket.more(self.second, self._replies, self._replies):
            return True
        self.slipped += 1
        return False

    def counters(self) -> dict[str, int]:
        """Return how many queries and replies were over a limit."""
        return {"limited": self.limited, "slipped": self.slipped}

    def _is_exempt(self, address: IPv4Address | IPv6Address) -> bool:
        return covered(address, self._exempt)


def covered(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """True when the address lies in one of the networks."""
    return any(address in network for network in networks if network.version == address.version)


class Damper:
    """New names under way and come to nothing, for each registered domain. A limit of 0 damps nothing."""

    def __init__(self, limit: int) -> None:
        self.damped = 0
        self._limit = limit
        rules()  # reads the list of suffixes now, not at the first miss
        self._under_way: dict[Name, int] = {}  # no more entries than questions upstream
        self._empty: dict[Name, int] = {}  # of this second

    def admit(self, zone: Name, *, known: bool) -> bool:
        """Count a name on its way; false, and counted as damped, when it is not `known` and its domain has too many."""
        waiting = self._under_way.get(zone, 0)
        if (
            self._limit
            and not known
            and (waiting >= self._limit or self._empty.get(zone, 0) >= self._limit * EMPTY_SHARE)
        ):
            self.damped += 1
            return False
        self._under_way[zone] = waiting + 1
        return True

    def landed(self, zone: Name, *, empty: bool) -> None:
        """Note that a name is back; `empty`: it does not exist, or nobody answered."""
        waiting = self._under_way.get(zone, 0)
        if waiting > 1:
            self._under_way[zone] = waiting - 1
        else:
            self._under_way.pop(zone, None)
        if empty:
            self._empty[zone] = self._empty.get(zone, 0) + 1

    def second(self) -> None:
        """A new second begins."""
        self._empty.clear()
