"""The agent: it reads orders from Redis, keeps what is wanted on disk, and makes the firewalls hold it.

Rules:
1. An order is judged, changes the ledger, is on the disk, and only then told to firewalls and confirmed.
2. Without Redis all goes on but for new orders. Without a disk all goes on, and what was ordered meanwhile comes again
   to an agent that is started anew: its place among the orders is on the disk with its rows. Without a firewall rows
   wait.
3. An order costs what it touches. The whole is compared at the start and every `settle` seconds: that mends what
   strangers did.
4. The clock may be set: what is known moves with it, nothing lasts longer for it.
5. When it ends, blocks stay until they run out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from core.errors import UNREADABLE, Unavailable
from egress import asking
from egress.answers import Answer
from egress.answers import encode as encode_answer
from egress.clock import Clock
from egress.desk import Outcome
from egress.keeping import Keeper
from egress.link import Away
from egress.orders import Heartbeat, decode_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from egress.desk import Desk
    from egress.link import Entry, Link
    from egress.orders import Order, Refusal, Report
    from egress.part import Part
    from egress.plan import Destination
    from egress.posts import Post
    from egress.ranges import Ranges
    from egress.store import Store

MAX_SEEN: Final = 250_000  # things seen that wait for Redis
MAX_REFUSALS: Final = 10_000  # refusals that wait for Redis
FRESH: Final = 10.0  # seconds; an agent that said nothing for longer is not there
PAUSE_FIRST: Final = 0.25  # seconds until Redis is tried again; doubled each time
PAUSE_LAST: Final = 5.0
STATE: Final = "state file"  # what stands in the heartbeat beside the firewalls' names

_log = structlog.get_logger("egress")


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How often what is done, in seconds."""

    settle: float = 60.0
    beat: float = 2.0
    sweep: float = 5.0  # rows that ran out; among 100,000 a look at all costs 10 ms
    block: float = 1.0  # a wait for orders
    write: float = 5.0  # between attempts to write a state that could not be written


class Agent:
    """One agent. `run` works until `stop`, which may be called from a signal handler or another thread.

    `never` gives what must not be blocked when that has changed, else None. `switch` is told when panic begins or ends,
    `ask` what an order blocks that was not blocked before, `alive` is called about as often as a wait lasts.
    """

    def __init__(
        self,
        *,
        name: str,
        mode: str,
        desk: Desk,
        store: Store,
        link: Link,
        posts: Sequence[Post],
        parts: Sequence[Part] = (),
        clock: Clock | None = None,
        timing: Timing | None = None,
        never: Callable[[], Ranges | None] = lambda: None,
        switch: Callable[[bool], None] = lambda _: None,
        ask: Callable[[Iterable[Destination]], None] = lambda _: None,
        alive: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.mode = mode
        self.desk = desk
        self.posts = posts
        self.unreadable = 0  # orders passed over
        self.lost = 0  # things seen and refusals that found no room
        self.attempts = 0
        self._keeper = Keeper(store, mode=mode)
        self._link = link
        self._parts = parts
        self._clock = clock or Clock()
        self._timing = timing or Timing()
        self._never = never
        self._switch = switch
        self._ask = ask
        self._alive = alive
        self._stopping = threading.Event()
        self._started = self._clock()
        self._other: tuple[float, float] | None = None  # a stranger's heartbeat, and when we saw it first
        self._pause = PAUSE_FIRST
        self._away = False  # and it was said
        self._due = dict.fromkeys(("settle", "beat", "sweep", "write", "join", "alive"), 0.0)
        self._seen: deque[Report] = deque()
        self._refusals: deque[Refusal] = deque()

    def run(self) -> None:
        """Work until `stop`. Raises Unavailable when another agent has our name or our disk."""
        try:
            self._begin()
            while not self._stopping.is_set():
                self._round()
                self._read()
        finally:
            self._end()

    def stop(self) -> None:
        """`run` returns within the time of one wait."""
        self._stopping.set()

    def tell(self, event: Report) -> None:
        """Take up what a part saw, from whatever thread; past MAX_SEEN it is lost and counted."""
        if len(self._seen) >= MAX_SEEN:
            self.lost += 1
            return
        self._seen.append(event)

    # ---- beginning and end

    def _begin(self) -> None:
        self._keeper.open(self.desk, self._started)
        self._forbid(self._clock())
        self._settle()
        self._due["settle"] = time.monotonic() + self._timing.settle
        self._switch(self.desk.panic)
        for part in self._parts:
            part.start(self.tell)
        _log.info("egress.agent.up", agent=self.name, mode=self.mode, rows=len(self.desk.ledger))

    def _end(self) -> None:
        for part in self._parts:
            part.stop()
        with contextlib.suppress(Away):
            if self._link.is_joined:
                self._tell()
                self._link.leave()
        self._link.drop()
        for post in self.posts:
            post.close()
        self._keeper.close()
        _log.info("egress.agent.down", agent=self.name, rows=len(self.desk.ledger))

    # ---- what is done from time to time

    def _round(self) -> None:
        now = self._clock()
        if by := self._clock.jump():
            self._moved(by)
            now = self._clock()
        if self._is_due("sweep", self._timing.sweep):
            self.desk.ledger.sweep(now)
        if self._is_due("settle", self._timing.settle):
            self._forbid(now)
            self._settle()
            self._keeper.trim(self.desk, now)
        elif any(post.is_due for post in self.posts):
            self._settle(due_only=True)
        if self._keeper.trouble and self._is_due("write", self._timing.write):
            self._keeper.keep_all(self.desk, now)
        with contextlib.suppress(Away):
            if self._link.is_joined:
                self._tell()
                self._beat()
        if self._is_due("alive", self._timing.block):
            self._alive(f"{len(self.desk.ledger)} rows")

    def _forbid(self, now: float) -> None:
        """What this host's own addresses have become is blocked no more."""
        never = self._never()
        if never is not None:
            self._change(self.desk.forbid(never, now))

    def _is_due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._due[what]:
            return False
        self._due[what] = now + every
        return True

    def _moved(self, by: float) -> None:
        """The wall clock was set."""
        _log.warning("egress.clock", moved=by)
        self.desk.shift(by)
        for post in self.posts:
            post.shift(by)
        self._link.ahead -= by
        self._keeper.keep_all(self.desk, self._clock())

    def _settle(self, *, due_only: bool = False) -> None:
        rows = () if self.desk.panic else tuple(self.desk.ledger)
        for post in self.posts:
            if post.is_due or not due_only:
                post.settle(rows, self._clock())

    def _beat(self) -> None:
        if not self._is_due("beat", self._timing.beat):
            return
        self._look_for_a_rival()
        self._link.measure(self._clock())
        self._link.beat(self.heartbeat())

    def heartbeat(self) -> Heartbeat:
        """Return what is said of this agent now."""
        troubles = {post.name: post.trouble for post in self.posts}
        troubles |= {type(part).__name__.lower(): part.trouble for part in self._parts if part.trouble}
        if self._keeper.trouble:
            troubles[STATE] = self._keeper.trouble
        return Heartbeat(
            name=self.name,
            at=self._clock() + self._link.ahead,
            started=self._started,
            mode=self.mode,
            panic=self.desk.panic,
            rows=len(self.desk.ledger),
            blocked=max((post.blocked() for post in self.posts), default=0),
            refused=self.desk.refused,
            attempts=self.attempts,
            firewalls=troubles,
            transaction=max((each.number for each in self.desk.ledger.transactions()[-1:]), default=0),
        )

    def _tell(self) -> None:
        """What waits for Redis goes there; what it does not take waits on."""
        events = list(self._seen)
        if events:
            self._link.tell(events)
            for event in events:
                self._seen.popleft()
                self.attempts += type(event).__name__ == "Attempt"
        if self._refusals:
            self._link.finish((), refusals=self._refusals)
            self._refusals.clear()

    # ---- orders

    def _read(self) -> None:
        try:
            if not self._link.is_joined:
                self._join()
            if self._link.is_joined:
                entries = self._link.read(self._timing.block)
                if entries:
                    self._take(entries)
        except Away as fault:
            if not self._away:
                _log.warning("egress.redis.away", what=str(fault))
            self._away = True
            self._due["join"] = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, PAUSE_LAST)

    def _join(self) -> None:
        if time.monotonic() < self._due["join"]:
            self._stopping.wait(min(self._timing.block, self._due["join"] - time.monotonic()))
            return
        now = self._clock()
        self._link.measure(now)
        if self._is_taken():
            self._stopping.wait(self._timing.block)
            return
        self._keeper.position = self._link.join(self._keeper.position, now)
        self._pause, self._away = PAUSE_FIRST, False
        self._due["beat"] = 0.0
        self._tell()
        self._beat()
        _log.info("egress.redis.joined", after=self._keeper.position)

    def _is_taken(self) -> bool:
        """True while it is not known whether another agent of our name lives; raises Unavailable when one does."""
        other = self._stranger()
        if other is None:
            return False
        if self._other is None:
            self._other = other.at, time.monotonic()
        if other.at != self._other[0]:
            raise Unavailable(f"another agent is called {self.name}; set another `[egress] agent` here or there")
        return time.monotonic() < self._other[1] + 2 * self._timing.beat + 1.0

    def _look_for_a_rival(self) -> None:
        """Of two agents of one name the later one ends."""
        other = self._stranger()
        if other is not None and self._other is not None and other.at == self._other[0]:
            return  # what the dead left
        if other is not None and other.started < self._started:
            raise Unavailable(f"another agent is called {self.name}; set another `[egress] agent` here or there")

    def _stranger(self) -> Heartbeat | None:
        """Return the fresh heartbeat of an agent of our name that is neither we nor the one before us on this disk."""
        last = self._link.last_beat()
        if last is None or last.started in {self._started, self._keeper.before}:
            return None
        return last if self._clock() + self._link.ahead - last.at < FRESH else None

    def _take(self, entries: Sequence[Entry]) -> None:
        """Do these orders, all of them before anybody is told."""
        now, outcome = self._clock(), Outcome()
        for entry in entries:
            order = self._decoded(entry)
            if order is not None:
                self.desk.do(order, outcome, at=entry.at, now=now)
        self._keeper.position = entries[-1].ident
        self._change(outcome)
        answers = {reply.ident: self._answer(reply.said, reply.error, reply.transaction) for reply in outcome.replies}
        answers |= {ask.reply: encode_answer(asking.answer(self, ask.what, self._clock())) for ask in outcome.asks}
        self._link.finish([entry.ident for entry in entries], refusals=self._refusals, answers=answers)
        self._refusals.clear()

    def _decoded(self, entry: Entry) -> Order | None:
        try:
            order: Order = decode_order(entry.message)
        except UNREADABLE:
            self.unreadable += 1
            _log.warning("egress.order.unreadable", entry=entry.ident)
            return None
        return order

    def _change(self, outcome: Outcome) -> None:
        """Write down what orders changed, then tell the firewalls."""
        self._keeper.keep(outcome, self.desk)
        if outcome.switched:
            _log.warning("egress.panic", on=self.desk.panic)
            self._switch(self.desk.panic)
        if self.desk.panic:
            if outcome.switched:
                self._free()
        elif outcome.switched:
            self._settle()
        elif outcome.rows:
            ends = self.desk.ledger.ends({to for to, _ in outcome.rows})
            for post in self.posts:
                post.change(ends, self._clock())
            if outcome.fresh:
                self._ask(outcome.fresh)
        self._note_refusals(outcome.refusals)
        if any(post.is_due for post in self.posts):
            self._settle(due_only=True)

    def _free(self) -> None:
        for post in self.posts:
            post.free()

    def _note_refusals(self, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            if len(self._refusals) >= MAX_REFUSALS:
                self.lost += 1
            else:
                self._refusals.append(refusal)

    def _answer(self, said: str, error: str, transaction: int) -> bytes:
        troubles = [f"{post.name}: {post.trouble}" for post in self.posts if post.trouble]
        return encode_answer(
            Answer(
                agent=self.name,
                at=self._clock(),
                mode=self.mode,
                panic=self.desk.panic,
                text=said,
                error=error or "; ".join(troubles),
                transaction=transaction,
            )
        )
