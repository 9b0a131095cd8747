"""Blocks in the Linux kernel's own firewall: a table of ours with hash sets whose elements run out.

Rules:
1. All is in table `inet plughole`. No other table is read or written.
2. The chain comes before those at the usual priority 0, so that a running connection is cut ahead of their
   `ct state established accept`; each set is looked up for both directions.
3. Sets are never of the `interval` kind: one element more among 100,000 would take seconds instead of microseconds.
4. Elements go over one netlink socket, many to a transaction. When the kernel refuses a transaction for some of
   them they are settled one by one: gone already is as good as removed, no room is told.
5. An element always has a timeout.

How to look at it and take it away: docs/egress-nftables.md.
"""

from __future__ import annotations

import errno
import math
import os
from typing import TYPE_CHECKING, Final

from egress import netlink
from egress.enforcer import Applied, Failure, Lease, Refused, Standing, Target
from egress.nftables_elements import (
    CHUNK,
    DELSETELEM,
    INET,
    MESSAGE,
    NEWSETELEM,
    Change,
    Chunk,
    culprit,
    messages,
    of_set,
    place,
    standings,
)
from egress.nftables_rules import CAPACITY, LOG_GROUP, PROBE, SETS, TABLE, Act, load, rules_of_chains, ruleset
from egress.nftables_table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_ROUNDS: Final = 8  # transactions of many tried before each element gets its own
_ROUNDS_BLIND: Final = 2  # of these before the sets are listed to learn which elements are gone
_PROBE_SECONDS: Final = (60, 120)


class Nftables:
    """An `Enforcer` in the network namespace it is made in; `prepare` must be called in the same one.

    Needs CAP_NET_ADMIN. `act` of "count" only counts and logs what it would have stopped. Not safe across threads.
    """

    def __init__(self, *, capacity: int = CAPACITY, log_group: int = LOG_GROUP, act: Act = "reject") -> None:
        self._capacity = capacity
        self._act: Act = act
        self._log_group = log_group
        self._table = Table(TABLE)
        self._renews_in_place = False  # asked of the kernel by `prepare`: Linux 6.12 and later do

    def prepare(self) -> None:
        """The table, its sets and rules stand afterwards, made anew in one transaction; elements stay.

        Only sets of another shape, as an other version or capacity leaves them, are replaced, and are empty then.
        """
        text = ruleset(capacity=self._capacity, log_group=self._log_group, act=self._act)
        if load(text):
            fault = load(f"add table inet {TABLE}\ndelete table inet {TABLE}\n{text}")
            if fault:
                raise Refused(f"nft: {fault}")
        self._renews_in_place = self._probe()

    def present(self) -> list[Standing]:
        """Return every element that has not run out; `Absent` when the table, a set or a rule is missing."""
        self._table.check(rules_of_chains(act=self._act))
        return [standing for name in SETS for standing in self._listed(name)]

    def apply(
        self, *, add: Sequence[Lease] = (), renew: Sequence[Lease] = (), remove: Sequence[Target] = ()
    ) -> Applied:
        """All changes are made, in one transaction as far as the kernel takes them (nearly 200,000 elements).

        Of a target that is named more than once the last mention counts: removed, added, renewed. A renewed element
        keeps its counter from Linux 6.12 on; before, it starts at nought. The errors are those of `Enforcer`.
        """
        changes = _distinct(add=add, renew=renew, remove=remove)
        step = self._batch()
        failures: list[Failure] = []
        for at in range(0, len(changes), step):
            failures += self._settle(changes[at : at + step])
        return Applied(len(changes) - len(failures), tuple(failures))

    def flush(self) -> None:
        """All sets are empty, in one transaction; `Absent` when the table is gone."""
        self._table.commit([netlink.Request(DELSETELEM, 0, INET, of_set(name)) for name in SETS])

    def withdraw(self) -> None:
        """The table is gone with all that is in it, or was not there."""
        self._table.delete()

    def close(self) -> None:
        """Close the socket; the blocks stay until they run out."""
        self._table.close()

    def _batch(self) -> int:
        """Return how many elements fit into one transaction, each three times: older kernels renew in three steps."""
        return max(1, self._table.limit // (3 * MESSAGE)) * CHUNK

    def _settle(self, changes: list[Change]) -> list[Failure]:
        """Make the changes; return those that can not be made."""
        failures: list[Failure] = []
        for attempt in range(_ROUNDS):
            refused = self._attempt(changes)
            if not refused:
                return failures
            if None in refused:
                break
            taken = [change for change in changes if not change.milliseconds]
            if taken and errno.ENFILE in refused.values():  # room is made when a transaction ends, not within it
                put = [change for change in changes if change.milliseconds]
                return failures + self._settle(taken) + self._settle(put)
            refused.update(dict.fromkeys(_crowded(changes, refused), errno.ENFILE))
            failures += _failures(refused)
            changes = [change for change in changes if change not in refused]
            if attempt == _ROUNDS_BLIND:
                changes = self._without_gone(changes)
        for change in changes:
            for number in self._attempt([change]).values():
                failures += _failures({change: number})
        return failures

    def _without_gone(self, changes: list[Change]) -> list[Change]:
        """Return the changes without those that take what is not there; the sets are listed for it."""
        names = {change.name for change in changes if not change.milliseconds}
        there = {place(standing.target) for name in names for standing in self._listed(name)}
        return [change for change in changes if change.milliseconds or (change.name, change.key) in there]

    def _attempt(self, changes: list[Change]) -> dict[Change | None, int]:
        """Return, empty when all are made, which changes the kernel refuses and why; None is one it does not name."""
        chunks = list(self._chunks(changes))
        refused: dict[Change | None, int] = {}
        for refusal in self._table.transact([chunk.request for chunk in chunks]):
            if refusal.request < 0:
                raise Refused(f"nftables: {os.strerror(refusal.errno)}")
            change = culprit(chunks[refusal.request], refusal.offset)
            if change is None and refusal.errno == errno.ENOENT:
                self._table.check(rules_of_chains(act=self._act))
                for name in SETS:
                    self._table.pieces(of_set(name))
            refused[change] = refusal.errno
        return refused

    def _chunks(self, changes: list[Change]) -> Iterator[Chunk]:
        taken = [change for change in changes if not change.milliseconds]
        put = [change for change in changes if change.milliseconds and not change.renews]
        renewed = [change for change in changes if change.renews]
        yield from messages(DELSETELEM, taken, timed=False)
        yield from messages(NEWSETELEM, put, timed=True)
        if not self._renews_in_place:  # such kernels ignore the timeout of an element that is there
            yield from messages(NEWSETELEM, renewed, timed=False)
            yield from messages(DELSETELEM, renewed, timed=False)
        yield from messages(NEWSETELEM, renewed, timed=True)

    def _probe(self) -> bool:
        """Return whether an element that is put again has the new timeout afterwards."""
        target = Target("0.0.0.0")
        change = Change(target, PROBE, bytes(4), 0)
        for seconds in _PROBE_SECONDS:
            put = messages(NEWSETELEM, [change._replace(milliseconds=1000 * seconds)], timed=True)
            self._table.commit([chunk.request for chunk in put])
        left = [standing.seconds for standing in self._listed(PROBE)]
        self._table.commit([netlink.Request(DELSETELEM, 0, INET, of_set(PROBE))])
        return left[0] > _PROBE_SECONDS[0] if left else False

    def _listed(self, name: str) -> list[Standing]:
        return netlink.whole(lambda: list(self._read(name)), lambda standing: standing.target)

    def _read(self, name: str) -> Iterator[Standing]:
        for piece in self._table.pieces(of_set(name)):
            try:
                yield from standings(name, piece)
            except netlink.Malformed as fault:
                raise Refused(f"nftables: set {name}: {fault}") from fault


def _distinct(*, add: Iterable[Lease], renew: Iterable[Lease], remove: Iterable[Target]) -> list[Change]:
    """Return one change an element; what is removed and added is renewed."""
    changes: dict[tuple[str, bytes], Change] = {}
    for target in remove:
        where = place(target)
        changes[where] = Change(target, *where, 0)
    for leases, renews in ((add, False), (renew, True)):
        for lease in leases:
            where = place(lease.target)
            known = where in changes
            changes[where] = Change(lease.target, *where, _milliseconds(lease.seconds), renews or known)
    return list(changes.values())


def _failures(refused: Mapping[Change, int] | Mapping[Change | None, int]) -> list[Failure]:
    """Return those refusals that leave a target other than wished."""
    return [
        Failure(change.target, _reason(number), full=number == errno.ENFILE)
        for change, number in refused.items()
        if change is not None
        and not (number == errno.ENOENT and not change.milliseconds)
        and not (number == errno.EEXIST and change.milliseconds)
    ]


def _crowded(changes: Iterable[Change], refused: Mapping[Change | None, int]) -> Iterator[Change]:
    """Yield what comes after the first new element a set had no room for, and goes into the same set."""
    full: set[str] = set()
    for change in changes:
        if change.milliseconds and not change.renews:
            if change.name in full:
                yield change
            elif refused.get(change) == errno.ENFILE:
                full.add(change.name)


def _reason(number: int) -> str:
    return "the set is full" if number == errno.ENFILE else os.strerror(number)


def _milliseconds(seconds: float) -> int:
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a block for {seconds} seconds: it must end, and not at once")
    return max(1, round(seconds * 1000))
