"""A client, a router and a server in network namespaces of their own, for what acts on packets that are passed on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 4444
C2 = "91.66.0.80"  # the server also has .81, a neighbour that is never blocked
NEIGHBOUR = "91.66.0.81"
CLIENT = "10.20.1.2"
PATIENCE = 5.0
_CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Why there can be no such network here; empty: it can."""
    if os.geteuid():
        return "needs root"
    for binary in ("nft", "ip"):
        if shutil.which(binary) is None:
            return f"{binary} is missing (packages nftables, iproute2)"
    if subprocess.run(["unshare", "--net", "nft", "list", "tables"], capture_output=True).returncode:
        return "no network namespace with nftables can be made here"
    return ""


class Routed:
    """The three namespaces, named after one tag; the server echoes on PORT."""

    def __init__(self) -> None:
        self.tag = f"ph{uuid.uuid4().hex[:6]}"
        self._made: list[str] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Routed:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def name(self, short: str) -> str:
        return f"{self.tag}-{short}"

    def ip(self, *arguments: str) -> str:
        return _run("ip", *arguments)

    def nft(self, *arguments: str) -> str:
        """What `nft` says on the router."""
        return _run("ip", "netns", "exec", self.name("router"), "nft", *arguments)

    @contextlib.contextmanager
    def at(self, short: str) -> Iterator[None]:
        """What this thread opens or starts meanwhile belongs to the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/run/netns") / self.name(short), os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(there)
            os.close(home)

    def connect(self, address: str) -> socket.socket:
        """A connection of the client's."""
        with self.at("client"):
            return socket.create_connection((address, PORT), timeout=PATIENCE)

    def reaches(self, address: str) -> bool:
        """Whether the client has an answer from there."""
        try:
            with self.connect(address) as connection:
                return echoes(connection)
        except OSError:
            return False

    def _build(self) -> None:
        for name in ("client", "router", "server"):
            self.ip("netns", "add", self.name(name))
            self._made.append(name)
            self.ip("-n", self.name(name), "link", "set", "lo", "up")
        _run("ip", "netns", "exec", self.name("router"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._wire("client", "10.20.1.")
        self._wire("server", "91.66.0.")
        for address in (C2, NEIGHBOUR):
            self.ip("-n", self.name("server"), "address", "add", f"{address}/24", "dev", "eth0")
        with self.at("server"):
            self._listener = socket.create_server(("0.0.0.0", PORT))
        threading.Thread(target=_echo, args=(self._listener,), daemon=True).start()

    def _wire(self, name: str, net: str) -> None:
        here, there, end = self.name(name), self.name("router"), f"to-{name}"
        self.ip("link", "add", end, "netns", there, "type", "veth", "peer", "name", "eth0", "netns", here)
        for space, device, number in ((there, end, "1"), (here, "eth0", "2")):
            self.ip("-n", space, "address", "add", f"{net}{number}/24", "dev", device)
            self.ip("-n", space, "link", "set", device, "up")
        self.ip("-n", here, "route", "add", "default", "via", f"{net}1")

    def _remove(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        while self._made:
            self.ip("netns", "delete", self.name(self._made.pop()))


def echoes(connection: socket.socket, seconds: float = PATIENCE) -> bool:
    """Whether a word comes back in time; an error of the connection is a no."""
    connection.settimeout(seconds)
    try:
        connection.sendall(b"ping")
        return connection.recv(65536) != b""
    except OSError:
        return False


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo_one, args=(peer,), daemon=True).start()


def _echo_one(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        while data := peer.recv(65536):
            peer.sendall(data)
