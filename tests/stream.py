"""A steady stream of queries over UDP from a few clients, each query accounted for: answered, when, and how."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Final

from core import names

if TYPE_CHECKING:
    from internet import Internet

TARGET: Final = ("127.0.0.1", 53)
PATIENCE: Final = 8.0  # seconds after which a query without an answer is lost
TURN: Final = 0.004  # seconds between bursts
CLIENTS: Final = 8
HIT: Final = "www.good.com"
BLOCKED: Final = "malware.example"
FRESH: Final = "many.net"  # any name below it is there
MOST: Final = 400  # queries on their way at most: they fit into a socket's buffer, whatever is not run for a while
DEAD: Final = "lame1.net"  # no name below it is ever answered: SERVFAIL after `upstream.timeout`


class Stream:
    """Sends from `__enter__` on; `__exit__` waits for the last answers."""

    def __init__(self, internet: Internet, *, rate: int = 2_500, dead: bool = True, network: str = "127.0.3") -> None:
        self.clients = [f"{network}.{at}" for at in range(1, CLIENTS + 1)]
        self.sent = 0
        self.answered = 0
        self.wrong: list[str] = []
        self.slowest = 0.0  # seconds, of what needs nobody outside
        self.lost: list[str] = []
        self.failure: Exception | None = None
        self._internet = internet
        self._dead = dead
        self._burst = max(round(rate * TURN), 1)
        self._stop = threading.Event()
        self._waiting: dict[tuple[int, int], tuple[str, float]] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE + 30.0)
        assert not self._thread.is_alive()
        assert self.failure is None, self.failure

    def _run(self) -> None:
        try:
            with self._internet.inside():
                socks = [_client(address, TARGET) for address in self.clients]
            selector = selectors.DefaultSelector()
            for number, sock in enumerate(socks):
                selector.register(sock, selectors.EVENT_READ, number)
            self._exchange(socks, selector)
            for sock in socks:
                sock.close()
        except Exception as error:  # noqa: BLE001  shown by the thread that waits
            self.failure = error

    def _exchange(self, socks: list[socket.socket], selector: selectors.BaseSelector) -> None:
        due = time.monotonic()
        end = 0.0
        while not end or (self._waiting and time.monotonic() < end):
            now = time.monotonic()
            if not end and self._stop.is_set():
                end = now + PATIENCE
            full = len(self._waiting) >= MOST
            if not end and now >= due and not full:
                due = max(due + TURN, now - 10 * TURN)
                for _ in range(self._burst):
                    self._send(socks, now)
            for key, _ in selector.select(0.1 if end or full else max(due - time.monotonic(), 0.0)):
                self._receive(key.data, socks[key.data])
        self.lost = [name for name, _ in self._waiting.values()]

    def _send(self, socks: list[socket.socket], now: float) -> None:
        number, identity = self.sent % len(socks), self.sent // len(socks) & 0xFFFF
        name = _name(self.sent, dead=self._dead)
        assert (number, identity) not in self._waiting, "the stream outlived its IDs"
        query = struct.pack("!6H", identity, 0x0100, 1, 0, 0, 0) + names.from_text(name) + struct.pack("!2H", 1, 1)
        socks[number].send(query)
        self._waiting[number, identity] = (name, now)
        self.sent += 1

    def _receive(self, number: int, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                reply = sock.recv(4_096)
            except BlockingIOError:
                return
            identity, flags, _, answers = struct.unpack_from("!4H", reply)
            found = self._waiting.pop((number, identity), None)
            if found is None:
                self.wrong.append(f"an answer to nothing, ID {identity}")
                continue
            name, at = found
            self.answered += 1
            if not name.endswith(DEAD):
                if flags & 0xF or not answers:
                    self.wrong.append(f"{name}: rcode {flags & 0xF}, {answers} answers")
                if name in (HIT, BLOCKED):
                    self.slowest = max(self.slowest, time.monotonic() - at)


def _name(number: int, *, dead: bool) -> str:
    if dead and number % 499 == 0:
        return f"d{number}.{DEAD}"
    if number % 13 == 0:
        return f"f{number}.{FRESH}"
    return BLOCKED if number % 4 == 0 else HIT


def _client(address: str, target: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_097_152)
    sock.bind((address, 0))
    sock.connect(target)
    sock.setblocking(False)
    return sock
