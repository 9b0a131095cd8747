"""Clients, a router and a server in network namespaces of their own, for what acts on packets that are passed on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PORT = 4444
C2 = {4: "91.66.0.80", 6: "2a01:66::80"}  # the server also has .81, a neighbour that is never blocked
NEIGHBOUR = {4: "91.66.0.81", 6: "2a01:66::81"}
CLIENT = {4: "10.20.1.2", 6: "fd20:1::2"}
GUEST = {4: "10.20.2.2", 6: "fd20:2::2"}
AT_ONCE = 1.0  # seconds; a dropped packet would take the whole patience
PATIENCE = 30.0
_TRIES = 5  # for what is to come at once: others use the machine too
_CLONE_NEWNET = 0x40000000
_FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")


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


def echo(peer: socket.socket) -> None:
    """Send back whatever comes."""
    with peer, contextlib.suppress(OSError):
        while data := peer.recv(65536):
            peer.sendall(data)


class Routed:
    """The namespaces, named after one tag: clients 10.20.N.2 and fd20:N::2, the router, and the server."""

    def __init__(
        self,
        *clients: str,
        served: Sequence[str] = (*C2.values(), *NEIGHBOUR.values()),
        ports: Sequence[int] = (PORT,),
        serve: Callable[[socket.socket], None] = echo,
        rules: str = "",
        keys: Sequence[str] = (),
    ) -> None:
        """`served`: the addresses of the server, which `serve`s each connection; `rules`, `keys`: of the router."""
        self.tag = f"ph{uuid.uuid4().hex[:6]}"
        self._clients = clients or ("client",)
        self._served, self._ports, self._serve = served, ports, serve
        self._rules, self._keys = rules, (*_FORWARDING, *keys)
        self._made: list[str] = []
        self._listeners: list[socket.socket] = []

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

    def inside(self, short: str, *command: str, text: str | None = None) -> str:
        """What a command says in a namespace."""
        return _run("ip", "netns", "exec", self.name(short), *command, text=text)

    def nft(self, *arguments: str) -> str:
        """What `nft` says on the router."""
        return self.inside("router", "nft", *arguments)

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

    def connect(self, short: str, address: str, port: int = PORT) -> socket.socket:
        """A connection of a client's."""
        with self.at(short):
            return socket.create_connection((address, port), timeout=PATIENCE)

    def reaches(self, short: str, address: str) -> bool:
        """Whether a client has an answer from there."""
        try:
            with self.connect(short, address) as connection:
                return echoes(connection)
        except OSError:
            return False

    def refused_at_once(self, short: str, address: str) -> bool:
        """Whether a client is told no each time it asks, and does not wait for it."""
        for _ in range(_TRIES):
            begun = time.monotonic()
            try:
                self.connect(short, address).close()
            except (ConnectionRefusedError, PermissionError):
                if time.monotonic() - begun < AT_ONCE:
                    return True
            except TimeoutError:
                return False
            else:
                return False
        return False

    def _build(self) -> None:
        for name in (*self._clients, "router", "server"):
            self.ip("netns", "add", self.name(name))
            self._made.append(name)
            self.ip("-n", self.name(name), "link", "set", "lo", "up")
        self.inside("router", "sysctl", "-qw", *(f"{key}=1" for key in self._keys))
        for number, name in enumerate(self._clients, 1):
            self._wire(name, f"10.20.{number}.", f"fd20:{number}::")
        self._wire("server", "91.66.0.", "2a01:66::")
        for address in self._served:
            where = (f"{address}/64", "dev", "eth0", "nodad") if ":" in address else (f"{address}/24", "dev", "eth0")
            self.ip("-n", self.name("server"), "address", "add", *where)
        if self._rules:
            self.inside("router", "nft", "-f", "-", text=self._rules)
        with self.at("server"):
            for port in self._ports:
                listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
                self._listeners.append(listener)
        for listener in self._listeners:
            threading.Thread(target=_accept, args=(listener, self._serve), daemon=True).start()

    def _wire(self, name: str, four: str, six: str) -> None:
        here, there, end = self.name(name), self.name("router"), f"to-{name}"
        self.ip("link", "add", end, "netns", there, "type", "veth", "peer", "name", "eth0", "netns", here)
        for space, device, number in ((there, end, "1"), (here, "eth0", "2")):
            self.ip("-n", space, "address", "add", f"{four}{number}/24", "dev", device)
            self.ip("-n", space, "address", "add", f"{six}{number}/64", "dev", device, "nodad")
            self.ip("-n", space, "link", "set", device, "up")
        self.ip("-n", here, "route", "add", "default", "via", f"{four}1")
        self.ip("-n", here, "-6", "route", "add", "default", "via", f"{six}1")

    def _remove(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
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


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(peer,), daemon=True).start()
