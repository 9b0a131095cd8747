"""How an agent's state gets on the disk, and what it does while the disk says no.

After a write that failed nothing small is written any more: the whole is, once it can be. Until then the place among
the orders on the disk is that of the rows there, so that an agent that is started anew reads the later ones again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from core.errors import UNREADABLE
from egress.caps import Switches
from egress.link import BEGINNING
from egress.store import Saved, Unwritable

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress.desk import Desk, Outcome
    from egress.store import Store

_POSITION: Final = "position"  # in the stream of orders
_STARTED: Final = "started"
_SWITCHES: Final = "switches"
_MODE: Final = "mode"

_switches = msgspec.msgpack.Decoder(Switches).decode
_log = structlog.get_logger("egress")


class Keeper:
    """What one agent keeps. Nothing here raises for what the disk says; `trouble` tells."""

    def __init__(self, store: Store, *, mode: str) -> None:
        self.trouble = ""  # why the state is not on the disk; empty: it is
        self.position = BEGINNING
        self.before = 0.0  # when the agent before us on this disk started
        self._store = store
        self._mode = mode
        self._started = 0.0

    def open(self, desk: Desk, now: float) -> None:
        """The desk has what was kept. Raises Unavailable when another process has the file."""
        self._started = now
        saved = self._open(now)
        notes = saved.notes
        self.position = notes.get(_POSITION, b"").decode("ascii", "replace") or BEGINNING
        with contextlib.suppress(ValueError):
            self.before = float(notes.get(_STARTED, b"0"))
        with contextlib.suppress(*UNREADABLE):
            desk.caps.load(_switches(notes.get(_SWITCHES, b"")))
        desk.ledger.load(saved.kept)
        if desk.shorten(now):
            self.keep_all(desk, now)
        elif not self.trouble:
            self._try(lambda: self._store.commit({}, (), self._self()))

    def keep(self, outcome: Outcome, desk: Desk) -> None:
        """What orders changed is on the disk, with the place in the stream."""
        if self.trouble:
            return
        notes = {_POSITION: self.position.encode()}
        if outcome.switched or outcome.released:
            notes[_SWITCHES] = msgspec.msgpack.encode(desk.caps.dump())
        self._try(lambda: self._store.commit(outcome.rows, outcome.transactions, notes))

    def keep_all(self, desk: Desk, now: float) -> None:
        """All is written anew."""
        notes = {
            **self._self(),
            _POSITION: self.position.encode(),
            _SWITCHES: msgspec.msgpack.encode(desk.caps.dump()),
        }

        def write() -> None:
            if not self._store.is_open:
                self._store.open(now)
            self._store.replace(desk.ledger.dump(), notes)

        self._try(write)

    def trim(self, desk: Desk, now: float) -> None:
        """What nobody asks for any more is gone."""
        kept = desk.ledger.transactions()
        oldest = kept[0].number if kept else 0
        if not self.trouble:
            self._try(lambda: self._store.trim(ended_before=now - desk.ledger.lifetimes.memory, oldest=oldest))

    def close(self) -> None:
        """Another process may have the file."""
        self._store.close()

    def _open(self, now: float) -> Saved:
        try:
            saved, wrong = self._store.open(now)
        except Unwritable as fault:
            self._say(str(fault))
            return Saved()
        if wrong:
            _log.error("egress.state.damaged", what=wrong)
        return saved

    def _self(self) -> dict[str, bytes]:
        return {_STARTED: repr(self._started).encode(), _MODE: self._mode.encode()}

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Unwritable as fault:
            self._say(str(fault))
        else:
            self._say("")

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            _log.warning("egress.state", trouble=trouble or "none any more")
        self.trouble = trouble
