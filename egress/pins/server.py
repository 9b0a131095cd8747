"""The agent's side of pins: hears from workers what pinned clients were answered, and opens it in the kernel.

Rules:
1. A worker's reply waits for the acknowledgement: what was heard together goes into one transaction, and then back.
2. Whoever is heard can open the firewall: only root, this process's user and the resolver's are.
3. One thread does it all. When it stops turning, nobody renews the lease and clients are free: egress/pins/gate.py.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import selectors
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import UNREADABLE
from egress.part import Hearing
from egress.pins.book import Book
from egress.pins.gate import Gate
from egress.pins.messages import ACKS, MAX_PACKET, decode, pack, path_of
from egress.pins.table import PinTable

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import Config
    from egress.pins.messages import Told

LEASE: Final = 90.0  # seconds clients stay held after the last renewal
LOOK: Final = 0.25  # seconds until the panic switch is looked at
MAX_TURN: Final = 64  # packets read of one worker before the others have their turn
MAX_WORKERS: Final = 256  # connections at a time
_SWITCH: Final = 0.0005  # seconds after which another thread of this process gives way to an answer that waits
_BACKLOG: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7)
_log = structlog.get_logger("pins")


class PinServer(Hearing):
    """Opens to pinned clients what they are answered; needs CAP_NET_ADMIN and `nft`.

    Without `[[egress.pin]]` it takes away what is left of pins and has nothing more to do.
    """

    title = "pins"

    def __init__(self, config: Config, *, lease: float = LEASE, settling: float | None = None) -> None:
        """`settling`: seconds in which nothing is refused after a start that found nobody held; None: the grace.

        Pins enforce only where `egress.mode` is "enforce", too; else they record.
        """
        super().__init__()
        self._config = config
        self._lease = lease
        self._settling = config.egress.pin_grace if settling is None else settling
        self._panics = False
        self._workers = _Workers()
        self._gate: Gate | None = None

    @property
    def holding(self) -> bool:
        """True when clients are held to their answers."""
        return self._gate is not None and self._gate.holding

    def panic(self, *, on: bool) -> None:
        """While it is on nobody is held, within LOOK seconds; what is open stays known."""
        self._panics = on

    def counters(self) -> dict[str, int]:
        """Return what was told, opened and lost, and how many addresses are open."""
        return self._workers.counters() | (self._gate.counters() if self._gate is not None else {})

    def _hear(self) -> None:
        egress = self._config.egress
        table = PinTable(egress.pin, log_group=egress.log_group, enforce=egress.mode == "enforce")
        with contextlib.closing(table):
            if not egress.pin:
                table.withdraw()
                self._ending.wait()
                return
            if egress.mode != "enforce" and any(pin.mode == "enforce" for pin in egress.pin):
                _log.warning("pins record and refuse nothing", reason=f"egress.mode is {egress.mode}")
            book = Book(egress.pin, grace=egress.pin_grace)
            gate = self._gate = Gate(
                table, book, lease=self._lease, settling=self._settling, closed=egress.pin_dies == "closed"
            )
            with contextlib.closing(self._workers):
                gate.keep(time.monotonic())  # before the first worker is heard
                self._workers.open(path_of(self._config), _friends(self._config))
                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH))
                while not self._ending.is_set():
                    self._wait(self._workers.fileno(), min(gate.due - time.monotonic(), LOOK))
                    self._turn(gate)

    def _turn(self, gate: Gate) -> None:
        """Open what was told, renew what is due."""
        heard = self._workers.heard()
        if heard:
            self._workers.answer(heard, gate.open([told for _, told in heard], time.monotonic()))
        now = time.monotonic()
        if now >= gate.due or gate.panic != self._panics:
            gate.panic = self._panics
            gate.keep(now)
        self.trouble = f"{self.title}: {gate.trouble}" if gate.trouble else ""


class _Workers:
    """The sockets of the workers that are heard."""

    def __init__(self) -> None:
        self._told = self._strangers = self._malformed = self._unheard = 0
        self._path: Path | None = None
        self._inode = 0  # of the socket's file
        self._listener: socket.socket | None = None
        self._friends: frozenset[int] = frozenset()
        self._open: set[socket.socket] = set()
        self._selector = selectors.EpollSelector()

    def open(self, path: Path, friends: frozenset[int]) -> None:
        """Workers whose user is a friend can connect at `path`; raises OSError."""
        if self._selector.fileno() < 0:
            self._selector = selectors.EpollSelector()
        self._friends = friends
        self._listener = _listen(path)
        self._path, self._inode = path, path.stat().st_ino
        self._selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """Nobody is heard any more."""
        for worker in tuple(self._open):
            self._leave(worker)
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:  # else it is a successor's
                    self._path.unlink()
            self._path = None
        self._selector.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is something to hear."""
        return self._selector.fileno()

    def counters(self) -> dict[str, int]:
        return {
            "pin_workers": len(self._open),
            "pin_told": self._told,
            "pin_unheard": self._unheard,
            "pin_strangers": self._strangers,
            "pin_malformed": self._malformed,
        }

    def heard(self) -> list[tuple[socket.socket, Told]]:
        """Return what workers have told since the last call, and who each was."""
        found: list[tuple[socket.socket, Told]] = []
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._meet()
            elif isinstance(key.fileobj, socket.socket):
                found += self._read(key.fileobj)
        self._told += len(found)
        return found

    def answer(self, heard: list[tuple[socket.socket, Told]], done: list[bool]) -> None:
        """Say of each answer that was told whether all its addresses are open."""
        acks: dict[socket.socket, list[tuple[int, bool]]] = {}
        for (worker, told), opened in zip(heard, done, strict=True):
            acks.setdefault(worker, []).append((told.number, opened))
        for worker, numbers in acks.items():
            for at in range(0, len(numbers), ACKS):
                try:
                    worker.send(pack(numbers[at : at + ACKS]))
                except OSError:  # it has gone, or does not read: its replies left without waiting
                    self._unheard += 1

    def _meet(self) -> None:
        """Take a worker in; anybody else is turned away."""
        if self._listener is None:
            return
        try:
            worker, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = _CREDENTIALS.unpack(worker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in self._friends or len(self._open) >= MAX_WORKERS:
            self._strangers += 1
            worker.close()
            return
        worker.setblocking(False)
        self._open.add(worker)
        self._selector.register(worker, selectors.EVENT_READ)

    def _read(self, worker: socket.socket) -> list[tuple[socket.socket, Told]]:
        """Return what a worker has told; it is left when it has gone or is not to be understood."""
        found: list[tuple[socket.socket, Told]] = []
        try:
            while len(found) < MAX_TURN:
                packet = worker.recv(MAX_PACKET)
                if not packet:
                    self._leave(worker)
                    break
                found.append((worker, decode(packet)))
        except BlockingIOError:
            pass
        except UNREADABLE:
            self._malformed += 1
            self._leave(worker)
        except OSError:
            self._leave(worker)
        return found

    def _leave(self, worker: socket.socket) -> None:
        self._open.discard(worker)
        self._selector.unregister(worker)
        worker.close()


def _listen(path: Path) -> socket.socket:
    """Return the socket workers connect to; who may is asked of the kernel when they do. Raises OSError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _friends(config: Config) -> frozenset[int]:
    """Return the user IDs that are heard: root, ours, the data folder's owner's, and that of `server.user`."""
    found = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        found.add(config.data_dir.stat().st_uid)
    with contextlib.suppress(KeyError):
        found.add(pwd.getpwnam(config.server.user).pw_uid)
    return frozenset(found)
