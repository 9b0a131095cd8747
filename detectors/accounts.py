"""Accounts of who asked whom how much: for each client and domain the questions, and the payload their names can carry.

Rules:
1. What left the building carries payload, once a name and client; answers of the cache and blocked questions count as
   questions only.
2. Each pair has an account; so has each client over all domains. Few findings are about a domain of all clients: its
   account is the sum of its pairs when it is wanted first, and counts from then on.
3. An account begins again after MONTH, unless it is held for an incident. Past the caps those not used lately go, and
   are counted.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from core.names import Name
from detectors.bounded import Bounded
from detectors.carried import payload_bits

if TYPE_CHECKING:
    from detectors.sight import Sight

MAX_ACCOUNTS: Final = 100_000  # of pairs, about 400 octets each
MAX_CLIENTS: Final = 65_536  # about 200 octets each
PLACES: Final = 1 << 18  # for names with their clients, so that each counts once; 4 octets each, in pairs
MONTH: Final = 30 * 86_400.0  # seconds

Pair = tuple[bytes, Name]  # client, domain
Key = tuple[bytes | None, Name | None]  # None for all of them
Row = tuple[bytes | None, Name | None, float, float, int, float, float, float]


class Account(msgspec.Struct, gc=False):
    """Questions of all clients for a domain, or of a client for all domains. Times are Unix seconds."""

    first: float
    last: float  # of a pair; `first` otherwise
    until: float  # when it begins again
    queries: int = 0
    bits: float = 0.0  # of payload their names can have carried out
    blocked_at: float = 0.0  # when it was blocked first; 0: never
    blocked_bits: float = 0.0  # that had got out by then

    def block(self, at: float) -> None:
        """Note when it was blocked first, and how much had got out by then."""
        if not self.blocked_at:
            self.blocked_at, self.blocked_bits = at, self.bits

    def unblock(self) -> None:
        """Forget that it was blocked."""
        self.blocked_at = self.blocked_bits = 0.0


class PairAccount(Account, kw_only=True, gc=False):
    """Questions of a client for a domain."""

    client: Account  # of the same client over all domains
    domain: Account | None = None  # of the same domain over all clients, where it is wanted


class Asked:
    """Which names clients asked for lately: marks of 32 bits in a table that a processor's cache holds.

    Two marks share a pair of places, the older one goes when a third comes; what it stood for counts anew then.
    """

    def __init__(self) -> None:
        self._marks = array("I", bytes(4 * PLACES))

    def note(self, client: bytes, qname: Name) -> bool:
        """Note that a client asked for a name; true when it had not lately."""
        hashed = hash((client, qname))
        place = hashed & (PLACES - 2)
        mark = hashed >> 32 & 0xFFFF_FFFF or 1  # 0 is an empty place
        marks = self._marks
        last = marks[place]
        if last == mark:
            return False
        before = marks[place + 1]
        marks[place], marks[place + 1] = mark, last
        return before != mark


class Accounts:
    """All accounts of a node."""

    def __init__(self) -> None:
        self._young: dict[Pair, PairAccount] = {}
        self._old: dict[Pair, PairAccount] = {}
        self._clients: Bounded[bytes, Account] = Bounded(MAX_CLIENTS)
        self._domains: dict[Name, Account] = {}  # those that are held
        self._held: dict[Key, Account] = {}
        self._asked = Asked()
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def dropped(self) -> int:
        """How many accounts went at the caps."""
        return self._dropped + self._clients.dropped

    def note(self, sight: Sight, *, blocked: bool) -> None:
        """Count a question that came no earlier than the last one."""
        key = (sight.client, sight.domain)
        account = self._young.get(key)
        if account is None or sight.at > account.until:
            account = self._pair(key, sight.at)
        count = sight.count
        account.last = sight.at
        account.queries += count
        account.client.queries += count
        bits = 0.0
        if blocked:
            account.block(sight.at)
        elif not sight.cached and (bits := self._fresh_bits(sight)):
            account.bits += bits
            account.client.bits += bits
        if account.domain is not None:
            account.domain.queries += count
            account.domain.bits += bits

    def hold(self, key: Key, at: float) -> Account:
        """Return the account of a key, opened when there is none, and keep it until `release`."""
        account = self._held.get(key)
        if account is None:
            account = self._held[key] = self._any(key, at)
            account.until = float("inf")
        return account

    def release(self, key: Key) -> None:
        """Let go of what `hold` kept."""
        account = self._held.pop(key, None)
        if account is not None:
            account.until = account.first + MONTH
        client, domain = key
        if client is None and domain is not None:
            self._domains.pop(domain, None)

    def dump(self) -> list[Row]:
        """Return all accounts as plain values."""
        every: dict[Key, Account] = {
            **{(client, None): one for client, one in self._clients.items()},
            **{pair: one for table in (self._old, self._young) for pair, one in table.items()},
            **{key: one for key, one in self._held.items() if key[0] is not None},
        }  # fmt: skip
        return [
            (*key, one.first, one.last, one.queries, one.bits, one.blocked_at, one.blocked_bits)
            for key, one in every.items()
        ]

    def load(self, accounts: object) -> None:
        """Take up what `dump` returned; names asked before it count anew. Raises ValidationError."""
        known = msgspec.convert(accounts, list[Row])
        for client, domain, first, last, queries, bits, blocked_at, blocked_bits in known:
            account = self._any((client, domain), first)
            account.first, account.last, account.until = first, last, first + MONTH
            account.queries, account.bits = queries, bits
            account.blocked_at, account.blocked_bits = blocked_at, blocked_bits

    def _fresh_bits(self, sight: Sight) -> float:
        """Return what a name can carry that its client did not ask for before."""
        return payload_bits(sight.qname, sight.domain) if self._asked.note(sight.client, sight.qname) else 0.0

    def _any(self, key: Key, at: float) -> Account:
        client, domain = key
        if client is not None and domain is not None:
            return self._pair((client, domain), at)
        if client is not None:
            return self._client(client, at)
        return Account(at, at, at + MONTH) if domain is None else self._sum(domain, at)

    def _pair(self, key: Pair, at: float) -> PairAccount:
        """Return the account of a pair, made or begun again where that is due."""
        held = self._held.get(key) if self._held else None
        account = held if isinstance(held, PairAccount) else self._young.get(key) or self._old.pop(key, None)
        if account is None or at > account.until:
            client, domain = key
            of_all = self._domains.get(domain) if self._domains else None
            account = PairAccount(at, at, at + MONTH, client=self._client(client, at), domain=of_all)
        if key not in self._young and len(self._young) >= MAX_ACCOUNTS // 2:
            self._dropped += len(self._old)
            self._young, self._old = {}, self._young
        self._young[key] = account
        return account

    def _client(self, client: bytes, at: float) -> Account:
        """Return the account of a client over all domains, made or begun again where that is due."""
        account = self._clients.get(client)
        if account is None or at > account.until:
            account = self._held.get((client, None)) or Account(at, at, at + MONTH)
            self._clients.put(client, account)
        return account

    def _sum(self, domain: Name, at: float) -> Account:
        """Return the account of a domain over all clients: what its pairs have, and all that is to come."""
        account = self._domains[domain] = Account(at, at, at + MONTH)
        for table in (self._old, self._young):
            for (_, name), pair in table.items():
                if name == domain:
                    account.first = min(account.first, pair.first)
                    account.queries += pair.queries
                    account.bits += pair.bits
                    pair.domain = account
        return account
