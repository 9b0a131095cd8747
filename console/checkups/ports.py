"""Who holds the ports we want, by name and pid, and whether the addresses are this host's."""

from __future__ import annotations

import errno
import ipaddress
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from console.checkups.host import Finding
from console.checkups.rights import unit_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.checkups.host import Address, Host, Kind
    from core.endpoints import Endpoint

_TCP_LISTEN: Final = "0A"
_INIT: Final = 1  # the pid of systemd
_CELLS: Final = 10  # of a line of /proc/net/udp as far as the inode
_LITTLE: Final = sys.byteorder == "little"
STUB_OFF: Final = (
    r"mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\nDNSStubListener=no\n' "
    "> /etc/systemd/resolved.conf.d/plughole.conf && systemctl restart systemd-resolved"
)


class Holder(NamedTuple):
    """A process that holds a port; pid 0: it may not be seen."""

    pid: int
    name: str


def ports(host: Host) -> Iterator[Finding]:
    """Nobody else holds what we listen on, and the addresses are ours."""
    ours, above = _own_pids(host, host.system.status(host.config.data_dir))
    for text, endpoint in host.listens:
        holders = {one for kind in ("udp", "tcp") for one in _holders(host, endpoint, kind)}
        others = sorted(one for one in holders if not _is_ours(host, one, ours, above))
        for other in others:
            seen = f"{text} is taken by {other.name} (pid {other.pid or 'hidden'})"
            yield Finding("ports", "fail", seen, _evict(other))
        if not others:
            yield _free(host, text, endpoint, held=bool(holders))


def _free(host: Host, text: str, endpoint: Endpoint, *, held: bool) -> Finding:
    if held:
        return Finding("ports", "ok", f"{text} is held by plughole")
    if errno.EADDRNOTAVAIL in (host.system.bind(endpoint, "udp"), host.system.bind(endpoint, "tcp")):
        cure = "`ip -brief address` shows what there is; change `[server] listen`"
        return Finding("ports", "fail", f"{text} is no address of this host", cure)
    return Finding("ports", "ok", f"{text} is free")


def _own_pids(host: Host, status: dict[str, Any] | None) -> tuple[set[int], set[int]]:
    """Return hub and workers of the running node with the supervisor above them, and that supervisor alone."""
    if status is None:
        return set(), set()
    parts = [status.get("hub"), *(status.get("workers") or ())]
    pids = {int(part.get("pid") or 0) for part in parts if isinstance(part, dict)} - {0}
    above = {_parent(host, pid) for pid in pids} - {0}
    return pids | above, above


def _is_ours(host: Host, one: Holder, ours: set[int], above: set[int]) -> bool:
    """Return whether it is a part of the running node, or systemd holding the port for plughole.socket."""
    if one.pid == _INIT and unit_text(host, "plughole.socket"):
        return True
    return one.pid in ours or (one.name.startswith("plughole") and _parent(host, one.pid) in above)


def _parent(host: Host, pid: int) -> int:
    """Return the process above, 0 where there is none to be seen."""
    found = re.search(r"^PPid:\s*(\d+)", host.read_if_there(f"proc/{pid}/status"), re.MULTILINE)
    return int(found[1]) if found else 0


def _evict(other: Holder) -> str:
    if other.name.startswith("systemd-resolve"):
        return STUB_OFF
    if other.name == "dnsmasq":
        return "`systemctl disable --now dnsmasq`; where libvirt started it, listen on single addresses, not 0.0.0.0"
    if not other.pid:
        return "`ss -lnup` as root shows who it is; stop it, or change `[server] listen`"
    return f"stop it (`systemctl status {other.pid}` shows its service), or change `[server] listen`"


def _holders(host: Host, endpoint: Endpoint, kind: Kind) -> list[Holder]:
    """Return the processes whose sockets would collide with listening there."""
    inodes = set[str]()
    for table in (kind, f"{kind}6"):  # a kernel without IPv6 has no second table
        inodes |= set(_inodes(host, host.read_if_there(f"proc/net/{table}"), endpoint, kind))
    return _processes(host, inodes) if inodes else []


def _inodes(host: Host, table: str, endpoint: Endpoint, kind: Kind) -> Iterator[str]:
    wanted = ipaddress.ip_address(endpoint.address)
    for line in table.splitlines()[1:]:
        cells = line.split()
        if len(cells) < _CELLS or (kind == "tcp" and cells[3] != _TCP_LISTEN):
            continue
        address, _, port = cells[1].partition(":")
        if int(port, 16) != endpoint.port:
            continue
        bound = _from_proc(address)
        if _collide(wanted, bound) or (
            _is_dual(wanted, bound) and host.system.bind(endpoint, kind) == errno.EADDRINUSE
        ):
            yield cells[9]


def _from_proc(text: str) -> Address:
    """Return the address of a line of /proc/net: words of 32 bits in the machine's own order of octets."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(word[::-1] if _LITTLE else word for word in words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _collide(one: Address, other: Address) -> bool:
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


def _is_dual(wanted: Address, bound: Address) -> bool:
    """Return whether a socket on [::] may take IPv4 as well; only an attempt tells, /proc does not."""
    return wanted.version == 4 and bound.version == 6 and bound.is_unspecified


def _processes(host: Host, inodes: set[str]) -> list[Holder]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for folder in (host.root / "proc").glob("[0-9]*"):
        try:
            if any(str(link.readlink()) in wanted for link in (folder / "fd").iterdir()):
                found.append(Holder(int(folder.name), (folder / "comm").read_text(errors="replace").strip()))
        except OSError:  # gone meanwhile, or another user's
            continue
    return found or [Holder(0, "a process of another user")]
