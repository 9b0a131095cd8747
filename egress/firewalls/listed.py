"""What all firewalls over a list have in common: wishes put in order, pairs, room, and the ends the list does not know.

Rules:
1. Of a target that is named more than once the last mention counts: removed, added, renewed.
2. A target with a client is refused where the list can not say so; it never becomes a block for all.
3. What is refused is found by halving: the others are done.
4. The end of a block is remembered here where the other side does not tell it; whoever compares what stands with what
   is wanted takes it away in time.
"""

from __future__ import annotations

import ipaddress
import math
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import msgspec

from core.errors import PlugholeError
from egress.enforcer import Applied, Failure, Lease, Refused, Standing, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from core.config import Firewall

APPLY_SECONDS: Final = 60.0  # for one change in all; what is not done by then fails and comes with the next
NO_PAIRS: Final = "blocks an address for everybody or not at all, and this one is for one client"
FULL: Final = "the list is full (max_entries)"
_Item = TypeVar("_Item")


class Rejected(PlugholeError):
    """The firewall would not take one or more of the targets it was told at once; `full`: it has no room for them."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class Listed(ABC):
    """An `Enforcer` over a list of addresses somewhere: a kind says how it is read, added to and taken from."""

    pairs: ClassVar[bool] = False  # whether the list can hold a target with a client
    tells_end: ClassVar[bool] = False  # whether the list tells how long a block lasts yet

    def __init__(self, firewall: Firewall, *, clock: Callable[[], float] = time.time) -> None:
        self.what = f"{firewall.kind} {firewall.name}"
        self._room = firewall.max_entries
        self._clock = clock
        self._ends: dict[Target, float] = {}  # what stands, as far as is known, and when it ends
        self._sure = False  # whether that is what the list holds; else it is read again before a change
        self._until = math.inf

    @abstractmethod
    def prepare(self) -> None:
        """The list is there and can be changed."""

    @abstractmethod
    def _held(self) -> Iterable[Standing]:
        """Return what the list holds of ours, with an infinite time where it does not tell."""

    @abstractmethod
    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        """Each is listed for its time; those `again` stand already as far as is known."""

    @abstractmethod
    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        """None of them is listed; one that was not is none the worse."""

    def present(self) -> list[Standing]:
        """Return what stands; its time is as remembered where the list does not tell, infinite after a restart."""
        self._sure = False
        now = self._clock()
        found = list(self._held())
        if not self.tells_end:
            found = [self._remembered(each, now) for each in found]
        self._ends = {each.target: now + each.seconds for each in found}
        self._sure = True
        return found

    def apply(
        self, *, add: Sequence[Lease] = (), renew: Sequence[Lease] = (), remove: Sequence[Target] = ()
    ) -> Applied:
        """Each added and renewed target is listed for its seconds, each removed one is not; see `Enforcer`."""
        wishes = distinct(add=add, renew=renew, remove=remove)
        if not self._sure:
            self.present()
        self._sure = False
        self._until = time.monotonic() + APPLY_SECONDS
        failures = self._settle(wishes, fresh={lease.target for lease in add})
        self._sure = True
        return Applied(len(wishes) - len(failures), tuple(failures))

    def flush(self) -> None:
        """Nothing of ours is listed any more."""
        self._until = time.monotonic() + APPLY_SECONDS
        standing = sorted(each.target for each in self.present())
        self._sure = False
        failures = self._take(standing) if standing else []
        if failures:
            raise Refused(f"{self.what}: {len(failures)} blocks stay; the first, {failures[0].target.address}: "
                          f"{failures[0].reason}")  # fmt: skip

    def withdraw(self) -> None:
        """Nothing of ours is listed any more; the list itself is the administrator's."""
        self.flush()

    def close(self) -> None:  # noqa: B027 - a kind without a connection has nothing to do
        """Nothing is held open."""

    def halving(
        self, items: Sequence[_Item], do: Callable[[Sequence[_Item]], None]
    ) -> Iterator[tuple[_Item, Rejected]]:
        """Do it to all at once; where that is `Rejected` to halves, and yield those alone to blame with the reason."""
        if not items:
            return
        if time.monotonic() > self._until:
            late = Rejected("no time was left")
            yield from ((item, late) for item in items)
            return
        try:
            do(items)
        except Rejected as error:
            if len(items) == 1:
                yield items[0], error
                return
            middle = len(items) // 2
            yield from self.halving(items[:middle], do)
            yield from self.halving(items[middle:], do)

    def put_in_pieces(self, leases: Sequence[Lease], size: int, do: Callable[[Sequence[Lease]], None]) -> list[Failure]:
        """Do it to at most `size` leases at once; returns those that were rejected."""
        pieces = (leases[at : at + size] for at in range(0, len(leases), size))
        return [
            Failure(lease.target, str(why), full=why.full) for piece in pieces for lease, why in self.halving(piece, do)
        ]

    def take_in_pieces(
        self, targets: Sequence[Target], size: int, do: Callable[[Sequence[Target]], None]
    ) -> list[Failure]:
        """Do it to at most `size` targets at once; returns those that were rejected."""
        pieces = (targets[at : at + size] for at in range(0, len(targets), size))
        return [Failure(target, str(why), full=why.full) for piece in pieces for target, why in self.halving(piece, do)]

    def _remembered(self, standing: Standing, now: float) -> Standing:
        return msgspec.structs.replace(standing, seconds=max(0.0, self._ends.get(standing.target, math.inf) - now))

    def _settle(self, wishes: dict[Target, Lease | None], fresh: set[Target]) -> list[Failure]:
        """Take what is to go, then put what there is room for."""
        ends = self._ends
        possible = {target: lease for target, lease in wishes.items() if self.pairs or not target.client}
        failures = [Failure(target, NO_PAIRS) for target, lease in wishes.items() if lease and target not in possible]
        failures += self._taken([target for target, lease in possible.items() if lease is None])
        leases = [lease for lease in possible.values() if lease is not None]
        again = [lease for lease in leases if lease.target in ends and lease.target not in fresh]
        new = [lease for lease in leases if lease.target not in ends or lease.target in fresh]
        room = max(0, self._room - len(ends))
        unknown = [lease for lease in new if lease.target not in ends]
        full = {lease.target for lease in unknown[room:]}
        failures += [Failure(lease.target, FULL, full=True) for lease in unknown[room:]]
        new = [lease for lease in new if lease.target not in full]
        now = self._clock()
        refused = self._put(new, again) if new or again else []
        bad = {failure.target for failure in refused}
        ends.update({lease.target: now + lease.seconds for lease in (*new, *again) if lease.target not in bad})
        return failures + refused

    def _taken(self, targets: list[Target]) -> list[Failure]:
        refused = self._take(targets) if targets else []
        bad = {failure.target for failure in refused}
        for target in targets:
            if target not in bad:
                self._ends.pop(target, None)
        return refused


def distinct(*, add: Iterable[Lease], renew: Iterable[Lease], remove: Iterable[Target]) -> dict[Target, Lease | None]:
    """Return one wish a target, None to take it; raises ValueError for a target or time that can not be."""
    wishes: dict[Target, Lease | None] = {}
    for target in remove:
        check(target)
        wishes[target] = None
    for lease in (*add, *renew):
        check(lease.target)
        if not (math.isfinite(lease.seconds) and lease.seconds > 0):
            raise ValueError(f"a block for {lease.seconds} seconds: it must end, and not at once")
        wishes[lease.target] = lease
    return wishes


def check(target: Target) -> None:
    """Raise ValueError unless it is an address in its usual form, with a client of the same family if any."""
    versions = {version_of(target.address)} | ({version_of(target.client)} if target.client else set())
    if len(versions) > 1:
        raise ValueError(f"{target.client} and {target.address} are of two families")


def version_of(address: str) -> int:
    """Return 4 or 6; raises ValueError for what is no address in its usual form."""
    found = ipaddress.ip_address(address)
    if str(found) != address or getattr(found, "scope_id", None):
        raise ValueError(f"{address} is not the usual form of an address")
    return found.version


def host_of(entry: str) -> str:
    """Return the single address an entry such as "192.0.2.1" or "192.0.2.1/32" names, "" for anything else."""
    try:
        network = ipaddress.ip_network(entry.strip())
    except ValueError:
        return ""
    return str(network.network_address) if network.num_addresses == 1 else ""
