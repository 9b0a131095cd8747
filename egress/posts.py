"""A firewall as the agent sees it: what it was told, its trouble, and when it is tried again.

Rules:
1. What one firewall refuses keeps no other from being told, and ends nobody.
2. After a refusal nothing is told in small pieces any more: the whole is settled anew when the time has come.
3. Times are those of the agent's clock, Unix seconds that never jump (egress/clock.py).
4. A `Side` works in a thread of its own: a firewall behind a network may take seconds, and others do not wait.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from egress.enforcer import Absent, Refused
from egress.plan import SLACK, Hold, Plan, plan
from egress.translate import destination, lease, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from egress.enforcer import Applied, Enforcer, Standing
    from egress.plan import Destination, Wanted

RETRY_FIRST: Final = 1.0  # seconds after a refusal; doubled each time
RETRY_LAST: Final = 60.0
RENEW_SHARE: Final = 0.1  # a renewal is told once the end moved by more than this part of what is left
RENEW_SLACK: Final = 1.0  # seconds; an end that came nearer by more than this is told at once
STOP_SECONDS: Final = 5.0  # how long a thread that is in the middle of something is waited for

_log = structlog.get_logger("egress")


class Post(Protocol):
    """A firewall the agent tells what to block. No method raises for what the firewall says."""

    name: str

    @property
    def trouble(self) -> str:
        """Why it does not do as told; empty: it does."""

    @property
    def is_due(self) -> bool:
        """True when it is to be settled before the next round."""

    def change(self, ends: Mapping[Destination, float], now: float) -> None:
        """Each destination is blocked until its end; one whose end has passed is free."""

    def settle(self, rows: Sequence[Wanted], now: float) -> None:
        """What is blocked is what the rows want, and what carries the blocks stands."""

    def free(self) -> None:
        """Nothing is blocked."""

    def shift(self, seconds: float) -> None:
        """The agent's clock was set; what was told ends when it would have ended."""

    def standing(self) -> list[Standing]:
        """Return what the firewall holds; empty when it does not say."""

    def blocked(self) -> int:
        """Return how many destinations the firewall was told."""

    def close(self) -> None:
        """Blocks stay until they run out."""


class Front:
    """A `Post` in the caller's thread. One that is not `active` is withdrawn, once it lets us, and then left alone.

    `make` gives its adapter, and is called until it does not raise `Refused`.
    """

    def __init__(
        self, name: str, make: Callable[[], Enforcer], *, active: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.trouble = ""
        self._make = make
        self._made: Enforcer | None = None
        self._active = active
        self._monotonic = monotonic
        self._told: dict[Destination, float] = {}
        self._prepared = False
        self._settled = False  # false: what it holds is not known
        self._again = 0.0  # monotonic seconds before which it is not tried
        self._pause = RETRY_FIRST

    def change(self, ends: Mapping[Destination, float], now: float) -> None:
        """Each destination is blocked until its end, if the firewall is in a known state; else `settle` does it."""
        if not (self._active and self._settled):
            return
        steps = _steps(ends, self._told, now)
        try:
            self._apply(steps, now)
        except Refused as fault:
            self._refused(fault, at_once=isinstance(fault, Absent))

    def settle(self, rows: Sequence[Wanted], now: float) -> None:
        """What is blocked is what the rows want, unless it is too early to try again."""
        if self._monotonic() < self._again:
            return
        try:
            if not self._active:
                self._withdraw()
            elif self._prepared:
                self._mend(rows, now)
            else:
                self._anew(rows, now)
        except Refused as fault:
            self._refused(fault)

    @property
    def is_due(self) -> bool:
        """True when it is to be settled before the next round."""
        wanting = not self._settled if self._active else not self._prepared
        return wanting and self._monotonic() >= self._again

    def free(self) -> None:
        """Nothing is blocked; when the firewall says no, it is settled later."""
        if not self._active:
            return
        try:
            self._enforcer().flush()
        except Refused as fault:
            self._refused(fault, at_once=isinstance(fault, Absent))
        else:
            self._told.clear()

    def shift(self, seconds: float) -> None:
        """What was told ends that much later by the new clock, which is the same moment."""
        self._told = {to: end + seconds for to, end in self._told.items()}

    def standing(self) -> list[Standing]:
        """Return what the firewall holds; empty when it does not say."""
        if not self._active:
            return []
        try:
            return self._enforcer().present()
        except Refused:
            return []

    def blocked(self) -> int:
        """Return how many destinations the firewall was told; those that ran out are counted until `settle`."""
        return len(self._told)

    def close(self) -> None:
        """Let go of the firewall; blocks stay until they run out."""
        if self._made is not None:
            self._made.close()

    def _enforcer(self) -> Enforcer:
        if self._made is None:
            try:
                self._made = self._make()
            except OSError as error:
                raise Refused(f"{self.name}: {error}") from None
        return self._made

    def _withdraw(self) -> None:
        if not self._prepared:
            self._enforcer().withdraw()
            self._prepared = True
            self._works()

    def _mend(self, rows: Sequence[Wanted], now: float) -> None:
        try:
            self._compare(rows, now)
        except Absent as fault:
            _log.warning("egress.firewall.lost", firewall=self.name, what=str(fault))
            self._anew(rows, now)

    def _anew(self, rows: Sequence[Wanted], now: float) -> None:
        self._enforcer().prepare()
        self._prepared = True
        self._compare(rows, now)

    def _compare(self, rows: Iterable[Wanted], now: float) -> None:
        begun = self._monotonic()
        self._told = {destination(each.target): now + each.seconds for each in self._enforcer().present()}
        self._settled = True
        steps = plan(rows, self._told, now=now)
        took = self._monotonic() - begun  # within it the firewall looked at its clock: an end is known no better
        renew = tuple(hold for hold in steps.renew if not self._agrees(hold, SLACK + took))
        if self._apply(Plan(steps.add, renew, steps.remove), now):
            self._works()

    def _agrees(self, hold: Hold, slack: float) -> bool:
        return abs(self._told[hold.destination] - hold.expires) <= slack

    def _apply(self, steps: Plan, now: float) -> bool:
        """Return whether all was done."""
        if not (steps.add or steps.renew or steps.remove):
            return True
        applied = self._enforcer().apply(
            add=[lease(hold, now) for hold in steps.add],
            renew=[lease(hold, now) for hold in steps.renew],
            remove=[target(each) for each in steps.remove],
        )
        self._note(steps, applied)
        return not applied.failures

    def _note(self, steps: Plan, applied: Applied) -> None:
        """Remember what was told, without what failed."""
        failed = {destination(failure.target) for failure in applied.failures}
        for hold in (*steps.add, *steps.renew):
            if hold.destination not in failed:
                self._told[hold.destination] = hold.expires
        for each in steps.remove:
            if each not in failed:
                self._told.pop(each, None)
        if applied.failures:
            first = applied.failures[0]
            self._say(f"not all is as wanted, as of {first.target.address}: {first.reason}")

    def _works(self) -> None:
        self._pause, self._again = RETRY_FIRST, 0.0
        self._say("")

    def _refused(self, fault: Refused, *, at_once: bool = False) -> None:
        self._settled = False
        if not at_once:
            self._again = self._monotonic() + self._pause
            self._pause = min(2 * self._pause, RETRY_LAST)
        self._say(str(fault))

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            _log.warning("egress.firewall", firewall=self.name, trouble=trouble or "none any more")
        self.trouble = trouble


class Side:
    """A `Post` in a thread of its own; what it is told while it works is put together."""

    def __init__(self, front: Front, clock: Callable[[], float]) -> None:
        self.name = front.name
        self._front = front
        self._clock = clock
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._ends: dict[Destination, float] = {}
        self._rows: Sequence[Wanted] | None = None
        self._free = False
        self._shift = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"firewall {front.name}", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why it does not do as told; empty: it does."""
        return self._front.trouble if self._thread.is_alive() else "its thread has died, a mistake in plughole"

    def change(self, ends: Mapping[Destination, float], now: float) -> None:  # noqa: ARG002  it has its own moment
        """Each destination is blocked until its end soon; a later word about it counts."""
        with self._lock:
            self._ends.update(ends)
        self._news.set()

    def settle(self, rows: Sequence[Wanted], now: float) -> None:  # noqa: ARG002
        """What is blocked is what the rows want, soon."""
        with self._lock:
            self._rows = rows
            self._ends.clear()
        self._news.set()

    @property
    def is_due(self) -> bool:
        """True when it is to be settled before the next round and nothing waits for it."""
        return self._front.is_due and self._rows is None

    def free(self) -> None:
        """Nothing is blocked, soon."""
        with self._lock:
            self._free, self._rows = True, None
            self._ends.clear()
        self._news.set()

    def shift(self, seconds: float) -> None:
        """What was told ends when it would have ended."""
        with self._lock:
            self._shift += seconds
            self._ends = {to: end + seconds for to, end in self._ends.items()}
        self._news.set()

    def standing(self) -> list[Standing]:
        """Nothing: asking would make others wait."""
        return []

    def blocked(self) -> int:
        """Return how many destinations the firewall was told."""
        return self._front.blocked()

    def close(self) -> None:
        """Let go of the firewall; blocks stay until they run out."""
        self._stopping = True
        self._news.set()
        self._thread.join(STOP_SECONDS)
        self._front.close()

    def _work(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            if self._stopping:
                return
            self._once()

    def _once(self) -> None:
        with self._lock:
            shift, free, rows, ends = self._shift, self._free, self._rows, self._ends
            self._shift, self._free, self._rows, self._ends = 0.0, False, None, {}
        if shift:
            self._front.shift(shift)
        if free:
            self._front.free()
        if rows is not None:
            self._front.settle(rows, self._clock())
        if ends:
            self._front.change(ends, self._clock())


def _steps(ends: Mapping[Destination, float], told: Mapping[Destination, float], now: float) -> Plan:
    """Return what of these destinations a firewall has to be told."""
    add, renew, remove = [], [], []
    for to, end in ends.items():
        had = told.get(to, 0.0)
        if end <= now:
            remove.append(to)  # told or not: what is to be free is free
        elif had <= now:
            add.append(Hold(to, end))
        elif end - had > RENEW_SHARE * (had - now) or had - end > RENEW_SLACK:
            renew.append(Hold(to, end))
    return Plan(tuple(add), tuple(renew), tuple(remove))
