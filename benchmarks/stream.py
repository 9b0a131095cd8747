"""A paced stream of questions in a process of its own, each reply checked: what clients notice of a feed swap.

1. Names on both lists must be blocked at any time: an answer with their real address is a hole.
2. Names on the new list only are answered until the new list is live; a second later none may be.
3. Half of the questions repeat a name, which answer caches keep; the others add a label never seen before.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks import probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Event

LOST_AFTER: Final = 2.0  # seconds without a reply
GRACE: Final = 1.0  # seconds between the first blocked answer and the last that may still come from the old list

_NEW_EVERY: Final = 20  # one question in so many asks for a name on the new list only
_IDENTS: Final = 1 << 16
_MAX_PENDING: Final = 30_000  # well below the identifiers there are; nothing is sent while so many are out
_MAX_WAIT: Final = 0.01  # seconds
_BUFFER: Final = 4096  # octets


@dataclass(frozen=True)
class Script:
    """What to ask and how fast, in questions a second, from which core."""

    port: int
    rate: int
    core: int
    in_both: list[str]
    only_new: list[str]


@dataclass
class Tally:
    """What came of a stream; times in seconds, `live` on the monotonic clock, None if the new list never showed."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    unfiltered: int = 0
    failed: int = 0
    outdated: int = 0
    longest_gap: float = 0.0
    worst_latency: float = 0.0
    own_stall: float = 0.0
    live: float | None = None


@dataclass
class Stream:
    """The questions that are out and the tally so far; time is an argument of every method."""

    script: Script
    started: float
    tally: Tally = field(default_factory=Tally)
    _pending: dict[int, tuple[float, bool]] = field(default_factory=dict)
    _last_answer: float = 0.0

    def __post_init__(self) -> None:
        self._last_answer = self.started
        self._questions = _questions(self.script)

    def due(self, now: float) -> int:
        """Return how many questions should have left by now and have not; none while too many are out."""
        behind = int((now - self.started) * self.script.rate) - self.tally.sent
        self.tally.own_stall = max(self.tally.own_stall, behind / self.script.rate)
        return max(0, min(behind, _MAX_PENDING - len(self._pending)))

    def next(self, now: float) -> bytes:
        """Return the next question, which is now out."""
        name, new = next(self._questions)
        ident = self.tally.sent % _IDENTS
        self._pending[ident] = (now, new)
        self.tally.sent += 1
        return probe.question(name, ident)

    def take(self, wire: bytes, now: float) -> None:
        """Judge one reply; a reply to nothing that is out is passed over."""
        reply = probe.read_reply(wire)
        out = self._pending.pop(reply.ident, None) if reply else None
        if reply is None or out is None:
            return
        asked, new = out
        tally = self.tally
        tally.answered += 1
        tally.longest_gap = max(tally.longest_gap, now - self._last_answer)
        tally.worst_latency = max(tally.worst_latency, now - asked)
        self._last_answer = now
        tally.failed += not (reply.blocked or reply.passed)
        if new:
            self._take_new(reply, asked, now)
        else:
            tally.unfiltered += reply.passed

    def expire(self, now: float) -> None:
        """Count the questions that are out for longer than `LOST_AFTER` as lost; oldest first, stopping early."""
        for ident, (asked, _) in list(itertools.islice(self._pending.items(), 64)):
            if now - asked < LOST_AFTER:
                return
            del self._pending[ident]
            self.tally.lost += 1

    @property
    def pending(self) -> int:
        """Questions that are out."""
        return len(self._pending)

    def _take_new(self, reply: probe.Reply, asked: float, now: float) -> None:
        live = self.tally.live
        if reply.blocked and live is None:
            self.tally.live = now
        elif live is not None and reply.passed and asked > live + GRACE:
            self.tally.outdated += 1


class Sender:
    """The stream's process as its parent sees it; use as a context."""

    def __init__(self, script: Script) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=_send, args=(script, self._stop, self._there), daemon=True)

    def __enter__(self) -> Sender:
        self._process.start()
        self._there.close()  # so that the child's death shows as the end of its messages
        self._here.recv()  # the child says when its first question is about to leave
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()

    def wait_live(self, within: float) -> bool:
        """Return whether a name of the new list was blocked, at the latest `within` seconds from now."""
        return bool(self._here.poll(within)) and bool(self._here.recv())

    def finish(self) -> Tally:
        """Stop asking, let the last questions come back or be lost, and return the tally."""
        self._stop.set()
        while True:
            message = self._here.recv()
            if isinstance(message, Tally):
                return message


def _send(script: Script, stop: Event, parent: Connection) -> None:
    os.sched_setaffinity(0, {script.core})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((probe.HOST, script.port))
        sock.setblocking(False)
        parent.send(True)
        stream = Stream(script, time.monotonic())
        told = False
        while not stop.is_set() or stream.pending:
            if not stop.is_set():
                _send_due(stream, sock)
            _receive(stream, sock, 1 / script.rate)
            stream.expire(time.monotonic())
            if stream.tally.live is not None and not told:
                parent.send(told := True)
        parent.send(stream.tally)


def _send_due(stream: Stream, sock: socket.socket) -> None:
    now = time.monotonic()
    for _ in range(stream.due(now)):
        try:
            sock.send(stream.next(now))
        except OSError:
            return  # it counts as lost when its time is over


def _receive(stream: Stream, sock: socket.socket, wait: float) -> None:
    select.select([sock], [], [], min(wait, _MAX_WAIT))
    try:
        while True:
            stream.take(sock.recv(_BUFFER), time.monotonic())
    except OSError:
        return  # nothing more to read now, or the port is closed: silence is counted, not the reason


def _questions(script: Script) -> Iterator[tuple[str, bool]]:
    both, new = itertools.cycle(script.in_both), itertools.cycle(script.only_new)
    for number in itertools.count():
        is_new = number % _NEW_EVERY == 0
        name = next(new if is_new else both)
        yield (f"q{number}.{name}" if number // _NEW_EVERY % 2 else name), is_new
