"""Sockets that systemd bound for us: LISTEN_FDS of sd_listen_fds(3), dealt out to the workers.

Rules:
1. Each address needs a datagram and a stream socket, and of each kind either one or one a worker.
2. One a worker (`ReusePort=yes`, the line repeated) is a group that is steered by client like one of our own. A single
   one is shared by all workers: every query is answered, but a client's state is then kept by several of them.
3. We never add sockets of our own to such a group: it belongs to root, and Linux lets no other user join it.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from resolver.sockets import Bound, enlarge, steer

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST: Final = 3  # SD_LISTEN_FDS_START
MAX_PASSED: Final = 1_024  # descriptors; more is no socket unit of ours
_KINDS: Final = {socket.SOCK_DGRAM: "ListenDatagram", socket.SOCK_STREAM: "ListenStream"}
_Groups = dict[tuple[str, int], list[socket.socket]]


def take(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that were passed to this process, none when there are none; the variables are removed.

    Raises Unavailable when one is no socket for DNS.
    """
    pid, count, _ = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    return [_adopt(FIRST + at) for at in range(min(int(count), MAX_PASSED))]


def deal(passed: list[socket.socket], workers: int) -> tuple[tuple[str, ...], list[list[Bound]]]:
    """Return the addresses, as `server.listen` writes them, and for each worker its sockets. Raises Unavailable."""
    groups: _Groups = {}
    for sock in passed:
        groups.setdefault((_endpoint(sock), sock.type), []).append(sock)
    listen = tuple(dict.fromkeys(endpoint for endpoint, _ in groups))
    found: list[list[Bound]] = [[] for _ in range(workers)]
    for endpoint in listen:
        udp, tcp = (_spread(groups, endpoint, kind, workers) for kind in _KINDS)
        wildcard = udp[0].getsockname()[0] in ("0.0.0.0", "::")
        for worker, datagram, stream in zip(found, udp, tcp, strict=True):
            worker.append(Bound(datagram, stream, wildcard))
    return listen, found


def _spread(groups: _Groups, endpoint: str, kind: int, workers: int) -> list[socket.socket]:
    """Return one socket for each worker."""
    directive = _KINDS[socket.SocketKind(kind)]
    group = groups.get((endpoint, kind), [])
    if not group:
        raise Unavailable(f"systemd passed no {directive} for {endpoint}; name it in plughole.socket")
    if len(group) == 1:
        return group * workers
    if len(group) != workers:
        raise Unavailable(
            f"systemd passed {len(group)} sockets for {endpoint} and there are {workers} workers; write the line "
            f"{directive}={endpoint} once, or {workers} times with ReusePort=yes"
        )
    try:
        steer(group[0], group[0].family, workers)
    except OSError as error:
        raise Unavailable(f"the sockets for {endpoint} are no group ({error}); set ReusePort=yes") from error
    return group


def _adopt(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise Unavailable(f"systemd passed descriptor {descriptor}, which is no socket: {error}") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type not in _KINDS:
        raise Unavailable(f"systemd passed descriptor {descriptor}, which is not for DNS; name only UDP and TCP ports")
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise Unavailable(f"the socket for {_endpoint(sock)} takes IPv4 too; set BindIPv6Only=ipv6-only in the unit")
    sock.set_inheritable(False)
    sock.setblocking(False)
    if sock.type == socket.SOCK_DGRAM:
        enlarge(sock)
    return sock


def _endpoint(sock: socket.socket) -> str:
    address, port = sock.getsockname()[:2]
    return f"[{address}]:{port}" if sock.family == socket.AF_INET6 else f"{address}:{port}"
