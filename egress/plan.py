"""What is to be blocked and why: rows per address and domain, the changes that made them, and the step to a firewall.

Rules:
1. A destination is blocked while any row names it, until the last of them ends. A domain taken back takes only its own.
2. A row ends. Every answer refreshes it; a block that ran out and comes back within a week lasts twice as long.
3. What adds or takes rows is a numbered transaction and can be undone; a refresh and running out are not.
4. Time is an argument, Unix seconds. Nothing here knows a firewall, a file or a clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from core.errors import PlugholeError
from core.names import Name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ANY: Final = b""  # the client of a block for all

MAX_ROWS: Final = 200_000
MAX_REPEATS: Final = 50_000  # blocks remembered after they ran out
MAX_TRANSACTIONS: Final = 10_000
MAX_CHANGES: Final = 400_000  # in all transactions kept
SLACK: Final = (
    1.0  # seconds; a firewall's clock is coarser than ours, and telling it again costs more than that is worth
)


class CannotUndo(PlugholeError, LookupError):
    """There is no such transaction, or it is forgotten."""


class Destination(msgspec.Struct, frozen=True, gc=False, order=True):
    """A packed address, for every client or for one of the same family."""

    address: bytes
    client: bytes = ANY


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """An address a malicious name was answered with, to be blocked if nothing speaks against it."""

    address: bytes  # 4 or 16 octets
    client: bytes  # who asked, or ANY when nobody did
    domain: Name  # the name the verdict is about
    reason: str
    ttl: float  # seconds the answer is still good for
    evidence: str = ""

    @property
    def destination(self) -> Destination:
        """What it would block."""
        return Destination(self.address, self.client)


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A row: why a destination is blocked, and until when."""

    address: bytes
    client: bytes
    domain: Name
    reason: str
    evidence: str
    expires: float
    repeats: int = 0  # how often this block had run out before

    @property
    def destination(self) -> Destination:
        """What the row blocks."""
        return Destination(self.address, self.client)


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long blocks last, in seconds."""

    factor: float = 2.0  # times the TTL: programs use an address longer than they may
    floor: float = 600.0
    ceiling: float = 86_400.0
    pair_ceiling: float = 3_600.0  # of a shared address, which changes hands
    memory: float = 7 * 86_400.0  # a block that comes back within is a repeat

    def of(self, ttl: float, *, repeats: int, pair: bool) -> float:
        """Return clamp(TTL x factor, floor, ceiling), doubled for each repeat up to the ceiling."""
        ceiling = self.pair_ceiling if pair else self.ceiling
        seconds = max(self.floor, ttl * self.factor)
        return min(ceiling, seconds * 2.0 ** min(repeats, 32))


class Hold(msgspec.Struct, frozen=True, gc=False):
    """A destination and the time its block ends."""

    destination: Destination
    expires: float


class Plan(msgspec.Struct, frozen=True):
    """What a firewall has to change, each part in order of destination."""

    add: tuple[Hold, ...] = ()
    renew: tuple[Hold, ...] = ()
    remove: tuple[Destination, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """A row before and after, None where there was or is none."""

    before: Wanted | None
    after: Wanted | None


class Transaction(msgspec.Struct, frozen=True):
    """A numbered step: what was done when, row by row, which is all its inverse needs."""

    number: int
    at: float
    what: str
    changes: tuple[Change, ...]


class Kept(msgspec.Struct, frozen=True):
    """All a ledger knows, to be written down and taken up again."""

    rows: tuple[Wanted, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    repeats: tuple[tuple[Destination, Name, int, float], ...] = ()
    number: int = 0


_Key = tuple[Destination, Name]
_Counted = TypeVar("_Counted", bytes, Destination)


def plan(wanted: Iterable[Wanted], present: Mapping[Destination, float], *, now: float) -> Plan:
    """Return the changes after which what a firewall holds is what the living rows want, ends within SLACK.

    `present` gives the end of each block there is, infinity for one without. One pass, and a sort of what changes.
    """
    ends: dict[Destination, float] = {}
    for row in wanted:
        if row.expires > now:
            destination = row.destination
            ends[destination] = max(row.expires, ends.get(destination, 0.0))
    fresh = sorted(destination for destination in ends if destination not in present)
    moved = sorted(
        destination
        for destination, expires in ends.items()
        if destination in present and not abs(present[destination] - expires) <= SLACK
    )
    return Plan(
        add=tuple(Hold(destination, ends[destination]) for destination in fresh),
        renew=tuple(Hold(destination, ends[destination]) for destination in moved),
        remove=tuple(sorted(destination for destination in present if destination not in ends)),
    )


class Ledger:
    """The rows there are, with counts by address and domain, and the transactions that made them. Bounded."""

    def __init__(self, lifetimes: Lifetimes | None = None) -> None:
        self.lifetimes = lifetimes or Lifetimes()
        self.addresses: dict[bytes, int] = {}  # rows of each address
        self.domains: dict[Name, int] = {}  # rows of each domain
        self.dropped = 0  # rows not taken because MAX_ROWS were there
        self._rows: dict[_Key, Wanted] = {}
        self._destinations: dict[Destination, dict[Name, None]] = {}  # and the domains of its rows
        self._spread: dict[Name, dict[bytes, int]] = {}  # rows of each address of a domain
        self._repeats: OrderedDict[_Key, tuple[int, float]] = OrderedDict()
        self._transactions: deque[Transaction] = deque()
        self._changes = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Wanted]:
        return iter(self._rows.values())

    def holds(self, destination: Destination) -> bool:
        """True while a row, living or not yet swept, names the destination."""
        return destination in self._destinations

    def row(self, destination: Destination, domain: Name) -> Wanted | None:
        """Return the row of a destination and a domain, living or not yet swept; None when there is none."""
        return self._rows.get((destination, domain))

    def ends(self, destinations: Iterable[Destination]) -> dict[Destination, float]:
        """Return when the last row of each destination ends, 0 for one that no row names."""
        return {
            each: max((self._rows[each, domain].expires for domain in self._destinations.get(each, ())), default=0.0)
            for each in destinations
        }

    def spread(self, domain: Name) -> int:
        """Return how many addresses the domain's rows name."""
        return len(self._spread.get(domain, ()))

    def names(self, domain: Name, address: bytes) -> bool:
        """True while a row of the domain, living or not yet swept, names the address, for whichever client."""
        return address in self._spread.get(domain, ())

    def destinations(self) -> int:
        """Return how many destinations the rows name."""
        return len(self._destinations)

    def transactions(self) -> tuple[Transaction, ...]:
        """Return the transactions that can be undone, oldest first."""
        return tuple(self._transactions)

    def want(self, proposals: Iterable[Proposal], *, now: float, what: str = "block") -> Transaction | None:
        """Every proposal has a row that lasts its lifetime from now on, or longer; returns what is new, if anything."""
        changes = []
        for proposal in proposals:
            key = (Destination(proposal.address, proposal.client), proposal.domain)
            before = self._rows.get(key)
            if before is not None and before.expires <= now:
                self._end(key, before)
                before = None
            if before is None and len(self._rows) >= MAX_ROWS:
                self.dropped += 1
                continue
            after = self._row(proposal, key, before, now)
            self._put(key, after)
            if before is None:
                changes.append(Change(None, after))
        return self._record(changes, now, what)

    def take(
        self, *, domain: Name | None = None, address: bytes | None = None, now: float, what: str
    ) -> Transaction | None:
        """No row names the domain, the address, or both where both are given; rows of others stay.

        Raises ValueError when neither is given.
        """
        if domain is None and address is None:
            raise ValueError("a domain or an address to take back is needed")
        gone = [
            row
            for row in self
            if (domain is None or row.domain == domain) and (address is None or row.address == address)
        ]
        return self.drop(gone, now=now, what=what)

    def drop(self, rows: Iterable[Wanted], *, now: float, what: str) -> Transaction | None:
        """None of these rows is there any more."""
        changes = []
        for row in rows:
            key = (row.destination, row.domain)
            before = self._rows.get(key)
            if before is not None:
                self._put(key, None)
                changes.append(Change(before, None))
        return self._record(changes, now, what)

    def sweep(self, now: float) -> int:
        """Rows that ran out are gone and remembered as such; returns how many."""
        over = [(key, row) for key, row in self._rows.items() if row.expires <= now]
        for key, row in over:
            self._end(key, row)
        stale = [key for key, (_, ended) in self._repeats.items() if ended + self.lifetimes.memory < now]
        for key in stale:
            del self._repeats[key]
        return len(over)

    def undo(self, number: int, *, now: float) -> Transaction | None:
        """The rows a transaction touched are as before it, but for those that have run out since.

        Returns the transaction that did it, None when nothing was left to do; raises CannotUndo.
        """
        for transaction in self._transactions:
            if transaction.number == number:
                return self._revert([transaction], now, f"undo {number}")
        raise CannotUndo(f"there is no transaction {number} (kept: the last {len(self._transactions)})")

    def undo_since(self, at: float, *, now: float) -> Transaction | None:
        """The rows touched at that time or later are as before it, in one transaction."""
        return self._revert([each for each in self._transactions if each.at >= at], now, "undo since")

    def dump(self) -> Kept:
        """Return all there is to keep over a restart."""
        repeats = tuple((to, domain, *told) for (to, domain), told in self._repeats.items())
        return Kept(tuple(self._rows.values()), tuple(self._transactions), repeats, self._number)

    def load(self, kept: Kept) -> None:
        """Take up what `dump` returned, in place of what was here; past the caps the rest is left out."""
        for key in list(self._rows):
            self._put(key, None)
        for row in kept.rows[:MAX_ROWS]:
            self._put((row.destination, row.domain), row)
        repeats = kept.repeats[-MAX_REPEATS:]
        self._repeats = OrderedDict(((to, domain), (times, ended)) for to, domain, times, ended in repeats)
        self._transactions = deque(kept.transactions)
        self._changes = sum(len(each.changes) for each in kept.transactions)
        self._number = max([kept.number, *(each.number for each in kept.transactions)])
        self._trim()

    def _end(self, key: _Key, row: Wanted) -> None:
        """Take a row that ran out, and remember it: the last to run out is the last in line."""
        self._put(key, None)
        self._repeats.pop(key, None)
        self._repeats[key] = (row.repeats + 1, row.expires)
        if len(self._repeats) > MAX_REPEATS:
            self._repeats.popitem(last=False)

    def _row(self, proposal: Proposal, key: _Key, before: Wanted | None, now: float) -> Wanted:
        times, ended = self._repeats.get(key, (0, 0.0))
        repeats = before.repeats if before else times if ended + self.lifetimes.memory >= now else 0
        lasts = self.lifetimes.of(proposal.ttl, repeats=repeats, pair=proposal.client != ANY)
        return Wanted(
            proposal.address,
            proposal.client,
            proposal.domain,
            proposal.reason,
            proposal.evidence,
            max(now + lasts, before.expires if before else 0.0),
            repeats,
        )

    def _revert(self, transactions: list[Transaction], now: float, what: str) -> Transaction | None:
        target: dict[_Key, Wanted | None] = {}
        for transaction in reversed(transactions):
            for change in reversed(transaction.changes):
                row = change.before or change.after
                if row is not None:
                    target[row.destination, row.domain] = change.before
        changes = []
        for key, told in target.items():
            after = told if told and told.expires > now else None
            before = self._rows.get(key)
            if before != after and (before is not None or len(self._rows) < MAX_ROWS):
                self._put(key, after)
                changes.append(Change(before, after))
        return self._record(changes, now, what)

    def _put(self, key: _Key, row: Wanted | None) -> None:
        """Set or take a row and keep the counts; nothing else writes them."""
        destination, domain = key
        by = (row is not None) - (key in self._rows)
        if row is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = row
        if by:
            _count(self.addresses, destination.address, by)
            _count(self.domains, domain, by)
            spread = self._spread.setdefault(domain, {})
            _count(spread, destination.address, by)
            if not spread:
                del self._spread[domain]
            self._name(destination, domain, there=by > 0)

    def _name(self, destination: Destination, domain: Name, *, there: bool) -> None:
        domains = self._destinations.setdefault(destination, {})
        if there:
            domains[domain] = None
        else:
            del domains[domain]
        if not domains:
            del self._destinations[destination]

    def _record(self, changes: list[Change], now: float, what: str) -> Transaction | None:
        if not changes:
            return None
        self._number += 1
        transaction = Transaction(self._number, now, what, tuple(changes))
        self._transactions.append(transaction)
        self._changes += len(changes)
        self._trim()
        return transaction

    def _trim(self) -> None:
        while len(self._transactions) > MAX_TRANSACTIONS or (
            self._changes > MAX_CHANGES and len(self._transactions) > 1
        ):
            self._changes -= len(self._transactions.popleft().changes)


def _count(counts: dict[_Counted, int], key: _Counted, by: int) -> None:
    left = counts.get(key, 0) + by
    if left:
        counts[key] = left
    else:
        del counts[key]
