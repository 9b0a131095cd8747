"""An open-loop load: questions leave at set times whatever comes back, and each one's fate is known afterwards.

1. Everything is made before the first question leaves and read after the last reply came: while it runs, Python only
   looks at the clock and tells the kernel how many headers to take.
2. A question's time is taken just before the call that sends it; a reply's by the kernel as it reaches the socket
   (SO_TIMESTAMPNS), so that it does not matter when this process gets to read it. Both are nanoseconds since the epoch.
3. How late questions left is kept too: what a sender does not say, it charges to the server.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import cffi
import numpy as np

from benchmarks import probe
from benchmarks.load import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

LOST_AFTER: Final = 2.0  # seconds without a reply
SOURCES: Final = ("127.0.0.1",) * 8  # as many sockets as dnsperf gets, so that a server sees several source ports
NAP: Final = 40e-6  # seconds; below a pause this short the sender spins, for it would wake too late
RUN: Final = 8  # neighbouring questions that share a socket, and thus may share a system call
IDENTS: Final = 1 << 16

_NANO: Final = 1_000_000_000
_START_DELAY: Final = 0.05  # seconds between "ready" and the first question
_READ_EVERY: Final = 1_000_000  # nanoseconds
_BATCH: Final = 256  # replies a call
_SPARE: Final = 1_024  # replies beyond one a question
_WIDTH: Final = 128  # octets kept of a reply: its header, question and first address
_CONTROL: Final = 32  # octets: a control message's header and one timespec
_SECONDS_AT, _NANOS_AT = 16, 24  # places in that control message
_SO_TIMESTAMPNS: Final = 35
_RECEIVE_BUFFER: Final = 4_194_304  # octets
_DONTWAIT: Final = 0x40
_SET_TIMER_SLACK: Final = 29  # of prctl(2)
_ADDRESS: Final = np.frombuffer(socket.inet_aton(probe.AUTHORITY_ADDRESS), np.uint8)

_ffi = cffi.FFI()
_ffi.cdef("""
    int recvmmsg(int fd, void *msgs, unsigned int n, int flags, void *timeout);
    int sendmmsg(int fd, void *msgs, unsigned int n, int flags);
    int prctl(int option, unsigned long value, ...);
""")
_libc = _ffi.dlopen(None)
_IOV: Final = np.dtype([("base", np.uint64), ("len", np.uint64)])
_HEADER: Final = np.dtype(  # struct mmsghdr where pointers have 64 bits
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "len"],
        "formats": [np.uint64, np.uint32, np.uint64, np.uint64, np.uint64, np.uint64, np.int32, np.uint32],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)


@dataclass(frozen=True)
class Script:
    """What to ask, on which port and at what rate (a second); the wires lie one behind the other in `wires`."""

    port: int
    rate: float
    wires: bytes
    lengths: NDArray[np.uint64]
    core: int | None
    sources: tuple[str, ...] = SOURCES
    nap: float = NAP


@dataclass(frozen=True)
class Record:
    """What became of each question: nanoseconds since the epoch, `received` 0 when no reply came."""

    due: NDArray[np.int64]
    sent: NDArray[np.int64]
    received: NDArray[np.int64]
    rcode: NDArray[np.uint8]
    passed: NDArray[np.bool_]  # the authority's address was in the reply

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which questions got a reply within `LOST_AFTER`."""
        found: NDArray[np.bool_] = (self.received > 0) & (self.received - self.sent < LOST_AFTER * _NANO)
        return found

    def since(self, seconds: float) -> Record:
        """Return the questions that were due later than so many seconds after the first."""
        keep = self.due >= self.due[0] + int(seconds * _NANO)
        parts = (self.due, self.sent, self.received, self.rcode, self.passed)
        return Record(*(part[keep] for part in parts))


def script(
    port: int,
    names: Iterable[str],
    *,
    rate: float,
    core: int | None,
    sources: tuple[str, ...] = SOURCES,
    nap: float = NAP,
) -> Script:
    """Return the script that asks for the A records of the names in their order."""
    wires = [probe.question(name, 0) for name in names]
    lengths = np.fromiter((len(wire) for wire in wires), np.uint64, len(wires))
    return Script(port, rate, b"".join(wires), lengths, core, sources, nap)


def place(count: int, sockets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each of `count` questions its socket and its number among the questions of that socket."""
    index = np.arange(count, dtype=np.int64)
    group = index // RUN
    return group % sockets, group // sockets * RUN + index % RUN


def match(sent: NDArray[np.int64], idents: NDArray[np.int64], received: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which question each reply on one socket answers: the last with its ID sent before it; -1 for none.

    `sent` are the times of that socket's questions in their order, whose IDs count from 0 and start again at 65,536.
    """
    newest = np.searchsorted(sent, received, side="right") - 1
    number: NDArray[np.int64] = newest - ((newest - idents) % IDENTS)
    return np.where(newest < 0, -1, number)


class Player:
    """One open-loop load in this process; use `play` in a process of its own."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._count = len(script.lengths)
        self._socket_of, self._number_of = place(self._count, len(script.sources))
        self._wires = np.frombuffer(bytearray(script.wires), np.uint8)
        self._starts = np.concatenate(([0], np.cumsum(script.lengths)[:-1])).astype(np.int64)
        idents = self._number_of % IDENTS
        self._wires[self._starts], self._wires[self._starts + 1] = idents >> 8, idents & 0xFF
        self._out = _headers(self._wires, self._starts, script.lengths)
        self._capacity = self._count + _SPARE
        self._inbox = np.ones((self._capacity, _WIDTH), np.uint8)  # touched now, not while it matters
        self._control = np.ones((self._capacity, _CONTROL), np.uint8)
        rows = np.arange(self._capacity, dtype=np.int64) * _WIDTH
        self._in = _headers(self._inbox, rows, np.full(self._capacity, _WIDTH, np.uint64))
        self._in.array["control"] = self._control.ctypes.data + np.arange(self._capacity, dtype=np.uint64) * _CONTROL
        self._in.array["controllen"] = _CONTROL
        self._came_by = np.zeros(self._capacity, np.uint8)
        self._got = 0

    def play(self, ready: Callable[[int], None]) -> Record:
        """Ask everything, wait for the last replies and return what became of it; `ready` gets the starting time."""
        sockets = [_open(source, self._script.port) for source in self._script.sources]
        try:
            with select.epoll() as poll:
                for sock in sockets:
                    poll.register(sock, select.EPOLLIN)
                self._fds = [sock.fileno() for sock in sockets]
                self._number = {fd: number for number, fd in enumerate(self._fds)}
                start = time.time_ns() + int(_START_DELAY * _NANO)
                ready(start)
                sent = self._send(poll, start)
                self._linger(poll)
        finally:
            for sock in sockets:
                sock.close()
        return self._record(start, sent)

    def _send(self, poll: select.epoll, start: int) -> NDArray[np.int64]:
        sent = np.zeros(self._count, np.int64)
        period, nap, total = _NANO / self._script.rate, self._script.nap * _NANO, self._count
        at, read_at, sockets, headers = 0, 0, len(self._fds), self._out.base
        while at < total:
            now = time.time_ns()
            due = min(int((now - start) / period) + 1, total)
            if due > at and now >= start:
                size = min(due - at, RUN - at % RUN)
                taken = _libc.sendmmsg(self._fds[at // RUN % sockets], headers + at * 64, size, _DONTWAIT)
                size = max(taken, 1)  # what the kernel refuses counts as sent and is lost
                sent[at : at + size] = now
                at += size
            if now >= read_at:
                self._read(poll)
                read_at = now + _READ_EVERY
            pause = start + at * period - time.time_ns()
            if pause > nap:
                time.sleep(min(pause, _READ_EVERY) / _NANO)
        return sent

    def _read(self, poll: select.epoll) -> None:
        for fd, _ in poll.poll(0):
            self._read_one(fd)

    def _read_one(self, fd: int) -> None:
        while (room := min(_BATCH, self._capacity - self._got)) > 0:
            came = _libc.recvmmsg(fd, self._in.base + self._got * 64, room, _DONTWAIT, _ffi.NULL)
            if came <= 0:
                return  # nothing more to read now, or the port is closed: silence is counted, not the reason
            self._came_by[self._got : self._got + came] = self._number[fd]
            self._got += came
            if came < room:
                return

    def _linger(self, poll: select.epoll) -> None:
        end = time.monotonic() + LOST_AFTER
        while self._got < self._count and time.monotonic() < end:
            time.sleep(_READ_EVERY / _NANO)
            self._read(poll)

    def _record(self, start: int, sent: NDArray[np.int64]) -> Record:
        due = start + (np.arange(self._count) * (_NANO / self._script.rate)).astype(np.int64)
        received = np.zeros(self._count, np.int64)
        rcode, passed = np.zeros(self._count, np.uint8), np.zeros(self._count, np.bool_)
        for number in range(len(self._script.sources)):
            questions = np.flatnonzero(self._socket_of == number)
            rows = np.flatnonzero(self._came_by[: self._got] == number)[::-1]  # of two replies the first counts
            wires = self._inbox[rows]
            at = _times(self._control[rows])
            found = match(sent[questions], wires[:, 0].astype(np.int64) << 8 | wires[:, 1], at)
            rows, known = np.flatnonzero(found >= 0), questions[found[found >= 0]]
            received[known] = at[rows]
            rcode[known] = wires[rows, 3] & 0xF
            passed[known] = _holds_address(wires[rows])
        return Record(due, sent, received, rcode, passed)


class Load:
    """A player in a process of its own, as its parent sees it; use as a context."""

    def __init__(self, script: Script) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=_play, args=(script, self._there), daemon=True)
        self.start = 0  # when the first question leaves, nanoseconds since the epoch

    def __enter__(self) -> Load:
        self._process.start()
        self._there.close()  # so that the child's death shows as the end of its messages
        try:
            self.start = self._here.recv()
        except EOFError:
            raise LoadError("the sender did not start") from None
        return self

    def __exit__(self, *failure: object) -> None:
        if self._process.is_alive() and failure[0] is not None:
            self._process.terminate()
        self._process.join()

    def finish(self) -> Record:
        """Wait for the end of the load and return what became of it; raises LoadError when the player died."""
        try:
            record: Record = self._here.recv()
        except EOFError:
            raise LoadError("the sender died before its load was over") from None
        return record


def put(script: Script) -> Record:
    """Put a load on its port and return what became of it; raises LoadError."""
    with Load(script) as load:
        return load.finish()


@dataclass
class _Headers:
    """An array of message headers, and the first as the kernel wants it; the arrays they point to are kept alive."""

    array: NDArray[Any]
    iovs: NDArray[Any]
    base: Any = field(init=False)

    def __post_init__(self) -> None:
        self.base = _ffi.cast("char *", self.array.ctypes.data)


def _headers(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.uint64]) -> _Headers:
    iovs = np.zeros(len(starts), _IOV)
    iovs["base"] = data.ctypes.data + starts.astype(np.uint64)
    iovs["len"] = lengths
    headers = np.zeros(len(starts), _HEADER)
    headers["iov"] = iovs.ctypes.data + np.arange(len(starts), dtype=np.uint64) * _IOV.itemsize
    headers["iovlen"] = 1
    return _Headers(headers, iovs)


def _times(control: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the kernel's receive times from the control messages, in nanoseconds."""
    seconds = np.ascontiguousarray(control[:, _SECONDS_AT:_NANOS_AT]).view(np.int64)
    nanos = np.ascontiguousarray(control[:, _NANOS_AT:_CONTROL]).view(np.int64)
    times: NDArray[np.int64] = (seconds * _NANO + nanos).reshape(-1)
    return times


def _holds_address(wires: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return in which of the replies the authority's address stands, behind the header."""
    last = _WIDTH - len(_ADDRESS) + 1
    same = [wires[:, 12 + offset : last + offset] == octet for offset, octet in enumerate(_ADDRESS)]
    holds: NDArray[np.bool_] = np.logical_and.reduce(same).any(axis=1)
    return holds


def _open(source: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.bind((source, 0))
    sock.connect((probe.HOST, port))
    return sock


def _play(script: Script, parent: Connection) -> None:
    if script.core is not None:
        os.sched_setaffinity(0, {script.core})
    _libc.prctl(_SET_TIMER_SLACK, 1)
    player = Player(script)
    gc.collect()
    gc.disable()
    parent.send(player.play(parent.send))
