"""One DNS question at a time: is this server up, does it block, does it answer."""

from __future__ import annotations

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

AUTHORITY_ADDRESS: Final = "198.51.100.7"  # what the authoritative server gives for every name; a block never does
HOST: Final = "127.0.0.1"

_HEADER: Final = struct.Struct("!6H")
_RECURSION_DESIRED: Final = 0x0100
_A_IN: Final = struct.pack("!HH", 1, 1)
_NOERROR, _NXDOMAIN = 0, 3
_ADDRESS: Final = socket.inet_aton(AUTHORITY_ADDRESS)
_BUFFER: Final = 4096  # octets; no reply asked for here is larger
_PATIENCE: Final = 0.25  # seconds one probe waits for its reply
_PAUSE: Final = 0.02  # seconds between two probes


@dataclass(frozen=True)
class Reply:
    """The two things a probe looks at: the reply code and whether the authority's address is in it."""

    ident: int
    rcode: int
    passed: bool

    @property
    def blocked(self) -> bool:
        """A well-formed refusal to give the real address: NXDOMAIN, no data, or a sinkhole's address."""
        return self.rcode in (_NOERROR, _NXDOMAIN) and not self.passed

    @property
    def answered(self) -> bool:
        """The real address was given."""
        return self.rcode == _NOERROR and self.passed


def question(name: str, ident: int) -> bytes:
    """Return a query for the A records of a name, recursion desired, without EDNS."""
    labels = (bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return _HEADER.pack(ident, _RECURSION_DESIRED, 1, 0, 0, 0) + b"".join(labels) + b"\0" + _A_IN


def read_reply(wire: bytes) -> Reply | None:
    """Return what a reply says, None when it is too short to be one."""
    if len(wire) < _HEADER.size:
        return None
    ident, flags, *_ = _HEADER.unpack_from(wire)
    return Reply(ident, flags & 0xF, _ADDRESS in wire)


def ask(port: int, name: str, *, patience: float = _PATIENCE) -> Reply | None:
    """Return the reply to one question, None when none came within `patience` seconds."""
    ident = secrets.randbits(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(patience)
        try:
            sock.connect((HOST, port))
            sock.send(question(name, ident))
            reply = read_reply(sock.recv(_BUFFER))
        except OSError:
            return None
    return reply if reply and reply.ident == ident else None


def wait_until(holds: Callable[[], bool], *, within: float) -> bool:
    """Ask `holds` every 20 ms; True as soon as it does, False after `within` seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(_PAUSE)
    return False


def free_port() -> int:
    """Return a loopback port that nobody holds now, for UDP and for TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((HOST, port))
            except OSError:
                continue
            return port
