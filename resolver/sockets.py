"""The sockets the supervisor binds for its workers, and the filter that steers every client to one of them."""

from __future__ import annotations

import socket
import struct
from ctypes import addressof, create_string_buffer
from typing import TYPE_CHECKING, Final, NamedTuple

from core.endpoints import parse_endpoint
from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

RECEIVE_BUFFER: Final = 4_194_304  # octets: 40,000 waiting queries, the pause of an index swap many times over
SEND_BUFFER: Final = 2_097_152
BACKLOG: Final = 1_024

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_NETWORK: Final = 0xFFF00000  # SKF_NET_OFF: offsets from the network header
_SOURCE: Final = {socket.AF_INET: 12, socket.AF_INET6: 20}  # IPv4: the source; IPv6: its last four octets
_LOAD, _MODULO, _RETURN = 0x20, 0x94, 0x16  # BPF_LD|W|ABS, BPF_ALU|MOD|K, BPF_RET|A


class Bound(NamedTuple):
    """The two sockets of one worker on one address."""

    udp: socket.socket
    tcp: socket.socket
    wildcard: bool


def bind(listen: Iterable[str], workers: int) -> list[list[Bound]]:
    """Return for each worker its sockets, one pair an address of `listen`; raises Unavailable naming the address."""
    found: list[list[Bound]] = [[] for _ in range(workers)]
    for text in listen:
        endpoint = parse_endpoint(text)
        family = socket.AF_INET6 if ":" in endpoint.address else socket.AF_INET
        target = (endpoint.address, endpoint.port)
        wildcard = endpoint.address in ("0.0.0.0", "::")
        try:
            _probe(family, target)
            pairs = [Bound(_udp(family, target), _tcp(family, target), wildcard) for _ in range(workers)]
        except OSError as error:
            raise Unavailable(f"cannot listen on {text}: {error.strerror}; {_cure(error)}") from error
        if workers > 1:
            steer(pairs[0].udp, family, workers)
            steer(pairs[0].tcp, family, workers)
        for worker, pair in zip(found, pairs, strict=True):
            worker.append(pair)
    return found


def worker_of(client: bytes, workers: int) -> int:
    """Return which of the workers meets a client, as the filter of `steer` has it."""
    return int.from_bytes(client[-4:], "big") % workers if workers else 0


def enlarge(sock: socket.socket) -> None:
    """Give a UDP socket large buffers, as far as `net.core.rmem_max` and `wmem_max` allow; larger ones stay."""
    for option, octets in ((socket.SO_RCVBUF, RECEIVE_BUFFER), (socket.SO_SNDBUF, SEND_BUFFER)):
        if sock.getsockopt(socket.SOL_SOCKET, option) < octets:
            sock.setsockopt(socket.SOL_SOCKET, option, octets)


def steer(sock: socket.socket, family: int, workers: int) -> None:
    """Choose the group's socket by source address, so that a client always meets the same worker; raises OSError."""
    program = ((_LOAD, _NETWORK + _SOURCE[socket.AddressFamily(family)]), (_MODULO, workers), (_RETURN, 0))
    code = create_string_buffer(b"".join(struct.pack("HBBI", op, 0, 0, value) for op, value in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), addressof(code)))


def _probe(family: int, target: tuple[str, int]) -> None:
    """Fail when anybody has the port: SO_REUSEPORT would let a second node take half of the first one's queries."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)


def _udp(family: int, target: tuple[str, int]) -> socket.socket:
    sock = _socket(family, socket.SOCK_DGRAM)
    enlarge(sock)
    sock.bind(target)
    return sock


def _tcp(family: int, target: tuple[str, int]) -> socket.socket:
    sock = _socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(target)
    sock.listen(BACKLOG)
    return sock


def _socket(family: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _cure(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return "`ss -lnup` shows who has the port; change server.listen or stop the other"
