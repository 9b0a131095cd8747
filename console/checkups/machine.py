"""The kernel, the cores and the libraries: whether they suffice for what the configuration asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from console.checkups.host import Finding
from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.checkups.host import Host

MIN_FILES: Final = 4_096  # descriptors of a process: TCP clients, and upstream sockets beside them
LOOK: Final = 1.0  # seconds between two readings of a counter
_ERRORS: Final = "RcvbufErrors"


def descriptors(host: Host) -> Iterator[Finding]:
    """A process may hold the connections it is allowed."""
    files = host.system.open_files()
    wanted = max(MIN_FILES, 2 * host.config.server.tcp_connections)
    if files is not None and files < wanted:
        cure = "LimitNOFILE=524288 under [Service] of plughole.service, or lower `[server] tcp_connections`"
        yield Finding("descriptors", "warn", f"at most {files} open files, {wanted} are wanted", cure)
    else:
        yield Finding("descriptors", "ok", f"{files or 'any number of'} open files")


def buffers(host: Host) -> Iterator[Finding]:
    """The kernel gives UDP sockets the buffers the node asks for."""
    from resolver.sockets import RECEIVE_BUFFER, SEND_BUFFER

    for key, wanted in (("rmem_max", RECEIVE_BUFFER), ("wmem_max", SEND_BUFFER)):
        text = host.read_if_there(f"proc/sys/net/core/{key}").strip()
        if not text:  # a network namespace shows none: its host decides
            yield Finding("buffers", "ok", f"net.core.{key} is kept by the host of this namespace")
        elif int(text) < wanted:
            cure = f"echo net.core.{key}={wanted} > /etc/sysctl.d/90-plughole-{key}.conf && sysctl --system"
            yield Finding("buffers", "warn", f"net.core.{key} is {text}, the node asks for {wanted}", cure)
        else:
            yield Finding("buffers", "ok", f"net.core.{key} is {text}")


def overflow(host: Host) -> Iterator[Finding]:
    """No UDP packet is dropped now because its reader is behind."""
    before = _overflowed(host)
    host.system.pause(LOOK)
    lost = _overflowed(host) - before
    if lost > 0:
        cure = "see `buffers`; raise `[server] workers`, or find the other program: `ss -lunpm` shows drops by socket"
        yield Finding("overflow", "warn", f"{lost} UDP packets were dropped within {LOOK:g} s ({_ERRORS})", cure)
    else:
        yield Finding("overflow", "ok", f"no UDP packet was dropped within {LOOK:g} s")


def _overflowed(host: Host) -> int:
    """Return how many UDP packets found a full buffer since the host started."""
    rows = [line.split() for line in host.read("proc/net/snmp").splitlines() if line.startswith("Udp:")]
    return int(dict(zip(*rows[:2], strict=False)).get(_ERRORS, 0)) if len(rows) > 1 else 0


def workers(host: Host) -> Iterator[Finding]:
    """No more workers than cores."""
    wanted, cores = host.config.server.workers, host.system.cores()
    if wanted > cores:
        yield Finding("workers", "warn", f"{wanted} workers on {cores} cores", "set `[server] workers = 0`")
    else:
        yield Finding("workers", "ok", f"{wanted or cores} on {cores} cores")


def libraries(host: Host) -> Iterator[Finding]:
    """The libraries load, and say their versions; a missing one is said by the check of parts."""
    try:
        yield Finding("libraries", "ok", host.system.libraries())
    except Unavailable as error:
        yield Finding("libraries", "warn", str(error), "install what the line names")
