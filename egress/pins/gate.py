"""Keeps the kernel's table of pins as the book says, and clients held as long as somebody turns this.

Rules:
1. Clients are held for a lease at a time, renewed thrice in it: when nobody renews it they are free by themselves,
   unless pins are to die closed.
2. After a start that found nobody held, nothing is refused for a while: clients use addresses they were answered
   while nobody listened.
3. A table that is gone, or damaged, is made anew with all that is open, at the next answer or renewal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog

from egress.enforcer import Absent, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from egress.pins.book import Book
    from egress.pins.messages import Told
    from egress.pins.table import PinTable, Put

RENEWALS: Final = 3  # in a lease
RETRY: Final = 5.0  # seconds until it is tried again after trouble
_log = structlog.get_logger("pins")


class Gate:
    """The kernel's side of pins. Time is in seconds of a clock that never goes back."""

    def __init__(self, table: PinTable, book: Book, *, lease: float, settling: float, closed: bool = False) -> None:
        """`lease`: seconds clients are held after a renewal, `closed`: without end; `settling`: those of rule 2."""
        self.trouble = ""  # what keeps pins from being in force
        self.panic = False  # nobody is held while it is on
        self.holding = False  # clients are held to their answers, since the last renewal
        self.due = 0.0  # when `keep` is to be called next
        self.opened = self.full = self.failed = self.restored = 0
        self._table = table
        self._book = book
        self._lease = lease
        self._held_for = math.inf if closed else lease
        self._settling = settling
        self._begun = False
        self._holds_from = 0.0

    def keep(self, now: float) -> None:
        """The table is whole and clients are held for another lease, or `trouble` says why not."""
        try:
            self._keep(now)
            self._said("")
        except Refused as refusal:
            self._said(str(refusal))
        self.due = now + min(self._lease / RENEWALS, RETRY if self.trouble else self._lease)
        if self._holds_from > now:
            self.due = min(self.due, self._holds_from)

    def _keep(self, now: float) -> None:
        if not self._begun:
            self._begin(now)
        self._book.expire(now)
        try:
            self._table.check()
        except Absent as absent:
            self._restore(now, str(absent))
        self._hold(now)

    def _begin(self, now: float) -> None:
        """Take over what the kernel has from a predecessor, in a table as today's pins want it."""
        held = self._table.is_alive()
        self._book.adopt(self._table.present(), now)
        self._holds_from = now if held else now + self._settling
        self._table.prepare()
        self._lose(self._table.put(self._book.standing(now)))
        self._begun = True

    def _restore(self, now: float, why: str) -> None:
        _log.warning("the table of pins is made anew", reason=why)
        self._table.prepare()
        self._lose(self._table.put(self._book.standing(now)))
        self.restored += 1

    def _hold(self, now: float) -> None:
        self.holding = not self.panic and now >= self._holds_from
        if self.holding:
            self._table.hold(self._held_for)
        elif self.panic:
            self._table.free()

    def open(self, told: Sequence[Told], now: float) -> list[bool]:
        """Return, for each of several answers, whether all its addresses are open now."""
        puts = [self._book.note(answer, now) for answer in told]
        wanted = [put for of_one in puts for put in of_one]
        missed = self._open(wanted, now) if wanted else set()
        self.opened += len(wanted) - len(missed)
        if not missed:
            return [True] * len(told)
        return [bool(of_one) and missed.isdisjoint(of_one) for of_one in puts]  # nothing new: it may be what was missed

    def _open(self, wanted: list[Put], now: float) -> set[Put]:
        """Return what could not be opened; the book knows no more of it."""
        try:
            return self._lose(self._table.put(wanted))
        except Absent as absent:
            why = str(absent)
        except Refused as refusal:
            return self._fail(wanted, str(refusal))
        try:
            self._restore(now, why)
            self._hold(now)
        except Refused as refusal:
            return self._fail(wanted, str(refusal))
        return set()

    def counters(self) -> dict[str, int]:
        """Return what was counted, and how many addresses are open."""
        return {
            "pin_opened": self.opened,
            "pin_full": self.full + self._book.over,
            "pin_failed": self.failed,
            "pin_restored": self.restored,
            "pin_open": self._book.size,
        }

    def _lose(self, full: list[Put]) -> set[Put]:
        self.full += len(full)
        self._book.forget(full)
        return set(full)

    def _fail(self, wanted: list[Put], why: str) -> set[Put]:
        self.failed += len(wanted)
        self._book.forget(wanted)
        self._said(why)
        return set(wanted)

    def _said(self, trouble: str) -> None:
        self.holding = self.holding and not trouble
        if trouble and trouble != self.trouble:
            _log.error("pins are not in force as they should be", reason=trouble)
        self.trouble = trouble
