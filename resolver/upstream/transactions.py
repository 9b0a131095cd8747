"""One forwarded question from its first packet to its answer: the record, its deadline, the plan after a set-back.

Time is counted in ticks of 50 ms; nothing here looks at a clock or a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resolver.upstream import Answer, Question
    from resolver.upstream.health import Fleet

TICKS: Final = 20  # a second
SLOTS: Final = 256  # of the wheel: deadlines up to 12.8 s ahead
ATTEMPTS_PER_SERVER: Final = 3
MIN_ATTEMPTS: Final = 4  # so that a lone server gets a fair chance
PARK: Final = 8  # ticks before a server is asked again whose network refused at once

NEVER: Final = -1


class Setbacks:
    """What went wrong with a question so far. Most questions never own one."""

    __slots__ = ("attempts", "errors", "kept", "plain", "round", "silences", "stream", "tried", "why")

    def __init__(self) -> None:
        self.attempts = 1
        self.round = 0  # bits of the servers that had this question since all were last tried
        self.tried = 0  # bits of all servers that ever had it
        self.plain = False  # ask without EDNS
        self.stream = False  # ask over TCP
        self.kept: Kept | None = None
        self.silences = 0  # how many attempts nobody answered
        self.errors = 0  # how many attempts the network refused
        self.why = ""  # and its last reason


class Kept(NamedTuple):
    """The last reply that was a failure, in case nobody does better."""

    wire: bytes
    server: str


class Transaction:
    """A question under way, from `ask` until it leaves the wheel."""

    __slots__ = ("asked", "done", "expires", "ident", "pending", "question", "sent", "server", "setbacks", "slot")

    def __init__(self, asked: Question, done: Callable[[Answer], None], expires: int) -> None:
        self.asked = asked
        self.done = done
        self.expires = expires
        self.server = 0  # index of the one that has it
        self.sent = 0.0  # seconds on the engine's clock
        self.question = b""  # the section as it was sent, to be repeated exactly
        self.ident = b""
        self.pending: dict[bytes, Transaction] | None = None  # the table it stands in under `ident`
        self.setbacks: Setbacks | None = None
        self.slot: set[Transaction] | None = None  # of the wheel, where its deadline stands

    def leave(self) -> None:
        """Take it off the table it stands in: a reply that comes now is late."""
        if self.pending is not None:
            self.pending.pop(self.ident, None)
            self.pending = None

    def off_wheel(self) -> None:
        """Drop its deadline."""
        if self.slot is not None:
            self.slot.discard(self)


class Outcomes(Protocol):
    """What a transport tells the engine, at most once for each attempt, the transaction being off its table."""

    def replied(self, transaction: Transaction, wire: bytes) -> None:
        """A message that repeats the question."""

    def refused(self, transaction: Transaction, why: str) -> None:
        """The network or the transport will not carry it."""

    def miscased(self, transaction: Transaction) -> None:
        """A reply in the wrong case."""

    def garbled(self, transaction: Transaction) -> None:
        """FORMERR or NOTIMP without a question section."""


class Wheel:
    """Deadlines in a ring of slots, one a tick. What is answered leaves at once, so it holds what is outstanding."""

    __slots__ = ("_slots", "now")

    def __init__(self, now: int) -> None:
        self._slots: list[set[Transaction]] = [set() for _ in range(SLOTS)]
        self.now = now

    def add(self, transaction: Transaction, ticks: int) -> None:
        """Have `transaction`, which stands nowhere yet, come out `ticks` (1 to SLOTS - 1, or the nearest) from now."""
        if not 0 < ticks < SLOTS:
            ticks = min(max(ticks, 1), SLOTS - 1)
        slot = self._slots[(self.now + ticks) % SLOTS]
        slot.add(transaction)
        transaction.slot = slot

    def advance(self, now: int) -> Iterator[Transaction]:
        """Move to tick `now` and yield, off the wheel, what fell due on the way."""
        for tick in range(max(self.now + 1, now - SLOTS + 1), now + 1):
            self.now = tick
            slot = self._slots[tick % SLOTS]
            while slot:
                yield slot.pop()
            self._slots[tick % SLOTS] = set()  # a set keeps the room it once needed

    def clear(self) -> Iterator[Transaction]:
        """Yield, off the wheel, all that is under way."""
        for slot in self._slots:
            while slot:
                yield slot.pop()


class Next(NamedTuple):
    """What to do after a set-back: ask `server` after `wait` ticks, or, with server NEVER, give up."""

    server: int
    wait: int = 0


def most_attempts(servers: int) -> int:
    """Return how often a question is sent at most when there are that many servers."""
    return max(MIN_ATTEMPTS, ATTEMPTS_PER_SERVER * servers)


def plan(setbacks: Setbacks, fleet: Fleet, servers: int, *, failed: int, network: bool) -> Next:
    """Return the next step after server `failed` let the question down, and count it.

    Each server is asked once before any is asked twice; a kept failure is good enough when all had their turn; a
    network that refuses at once is given a pause before the next round.
    """
    setbacks.tried |= 1 << failed
    setbacks.round |= 1 << failed
    setbacks.errors += network
    if setbacks.attempts >= most_attempts(servers):
        return Next(NEVER)
    setbacks.attempts += 1
    following = fleet.best_of(setbacks.round)
    if following >= 0:
        return Next(following)
    if setbacks.kept is not None:
        return Next(NEVER)
    setbacks.round = 0
    return Next(fleet.best_of(1 << failed if servers > 1 else 0), PARK if network else 0)
