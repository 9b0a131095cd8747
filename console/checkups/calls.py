"""The real system calls, libraries and network behind the checks; each is bounded in time where it waits."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from core.errors import Unavailable

if TYPE_CHECKING:
    import dns.message

    from core.config import Config
    from core.endpoints import Endpoint

PATIENCE: Final = 2.0  # seconds for one answer from the network
_UNSYNC: Final = 0x40  # STA_UNSYNC, adjtimex(2)
_TIMEX: Final = 512  # octets; struct timex has 208
_STATUS_AT: Final = 5 * ctypes.sizeof(ctypes.c_long)  # `status` follows modes (padded), offset, freq, two errors
_NET_BIND: Final = 10  # the bit of CAP_NET_BIND_SERVICE, capabilities(7)
_PERMITTED: Final = slice(4, 8)  # of struct vfs_cap_data, linux/capability.h: the lower 32 bits of the permitted set


class Disk(NamedTuple):
    """A file system: free octets, free inodes (None where it counts none), and whether it may be written at all."""

    free: int
    inodes: int | None
    read_only: bool


class User(NamedTuple):
    """An account and all its groups."""

    name: str
    uid: int
    groups: frozenset[int]


class Ask(Protocol):
    """A question over UDP, with TCP where the answer is truncated, or over TCP alone."""

    def __call__(
        self, address: str, port: int, name: str, rdtype: str, *, tcp: bool, dnssec: bool
    ) -> dns.message.Message:
        """Return the answer within seconds; raises Unavailable or OSError."""


def ask(address: str, port: int, name: str, rdtype: str, *, tcp: bool, dnssec: bool) -> dns.message.Message:
    """Return the answer of the server there; raises Unavailable or OSError within 2 * PATIENCE."""
    import dns.exception
    import dns.message
    import dns.query

    query = dns.message.make_query(name, rdtype, use_edns=0, want_dnssec=dnssec)
    try:
        if tcp:
            return dns.query.tcp(query, address, timeout=PATIENCE, port=port)
        return dns.query.udp_with_fallback(query, address, timeout=PATIENCE, port=port)[0]
    except (dns.exception.DNSException, EOFError) as error:
        raise Unavailable(str(error) or type(error).__name__) from None


def connect(host: str, port: int) -> None:
    """Return when a TCP connection to the port came about; raises OSError."""
    socket.create_connection((host, port), timeout=PATIENCE).close()


def bind(endpoint: Endpoint, kind: str) -> int:
    """Return 0 when the port can be bound here and now, else errno; nothing stays bound."""
    family = socket.AF_INET6 if endpoint.is_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
            if kind == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if endpoint.is_ipv6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((endpoint.address, endpoint.port))
    except OSError as error:
        return error.errno or 1
    return 0


def status(data_dir: Path) -> dict[str, Any] | None:
    """Return what the hub of the node there says, or None when no node runs; raises Unavailable."""
    from console import status

    return status.ask(data_dir) if status.runs(data_dir) else None


def redis(config: Config) -> Any:
    """Return a client of the Redis of the configuration, or None when the embedded one does not run."""
    from feeds.redis import EMBEDDED, connect, socket_path

    if config.redis.url == EMBEDDED and not socket_path(config).exists():
        return None
    return connect(config)


def libraries() -> str:
    """Return the versions of libunbound and libevent; raises Unavailable naming what to install."""
    from resolver.upstream.libunbound import LIBEVENT, load

    library = load()
    event = ctypes.CDLL(LIBEVENT).event_get_version
    event.restype = ctypes.c_char_p
    return f"libunbound {library.ffi.string(library.ub.ub_version()).decode()}, libevent {event().decode()}"


def disk(path: Path) -> Disk:
    """Return what is free where `path` lies; raises OSError."""
    found = os.statvfs(path)
    inodes = found.f_favail if found.f_files else None
    return Disk(shutil.disk_usage(path).free, inodes, bool(found.f_flag & os.ST_RDONLY))


def open_files() -> int | None:
    """Return how many descriptors a process may raise its limit to; None: any number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def cores() -> int:
    """Return the cores this process may run on."""
    return len(os.sched_getaffinity(0))


def me() -> User:
    """Return who runs this process."""
    uid = os.geteuid()
    return User(_name(uid), uid, frozenset((os.getegid(), *os.getgroups())))


def user(name: str) -> User | None:
    """Return the account of that name, or None."""
    import pwd

    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(name, found.pw_uid, frozenset(os.getgrouplist(name, found.pw_gid)))


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def interpreter_may_bind() -> bool:
    """Return whether the file of this Python carries CAP_NET_BIND_SERVICE."""
    try:
        value = os.getxattr(Path(sys.executable).resolve(), "security.capability")
    except OSError:
        return False
    return bool(int.from_bytes(value[_PERMITTED], "little") >> _NET_BIND & 1)


def unsynchronised() -> bool:
    """Return whether the kernel says that nothing keeps its clock right; raises OSError."""
    timex = ctypes.create_string_buffer(_TIMEX)  # zeros: modes 0 only reads
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return bool(int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], sys.byteorder) & _UNSYNC)
