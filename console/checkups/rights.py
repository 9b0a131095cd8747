"""What the user the service runs as may do: bind its ports, write its folder.

Rules:
1. Judged is the service, not who runs the doctor: `[server] user`, else `User=` of an installed unit, else who asks.
2. Rights are read from owners and mode bits: root's own access says nothing. Access lists are not looked at.
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from console.checkups.host import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from console.checkups.calls import User
    from console.checkups.host import Host

_NET_BIND: Final = 10  # the bit of CAP_NET_BIND_SERVICE, capabilities(7)
_UNIT_FOLDERS: Final = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
_LOW: Final = "proc/sys/net/ipv4/ip_unprivileged_port_start"
_DEFAULT_LOW: Final = 1_024  # ip-sysctl
MAX_SAID: Final = 3  # folders that are in the way; one cure mends them all
_MAY_SEARCH: Final = 0o1
_MAY_CHANGE: Final = 0o3  # write and search


class Service(NamedTuple):
    """How the service starts: the account it works as (None: there is none of that name), and what it may at first."""

    name: str
    user: User | None
    from_root: bool  # root starts it, and it becomes `user` after binding
    unit: str  # text of its unit, empty without one


def service(host: Host) -> Service:
    """Return how the service starts on this host."""
    unit = unit_text(host, "plughole.service")
    me, wanted = host.system.me(), host.config.server.user
    unit_user = _last(unit, "User")
    if unit_user and not wanted:
        return Service(unit_user, host.system.user(unit_user), from_root=False, unit=unit)
    from_root = me.uid == 0 if not unit else unit_user in ("", "root")
    if wanted:
        return Service(wanted, host.system.user(wanted), from_root=from_root, unit=unit)
    return Service(me.name, me, from_root=from_root, unit=unit)


def privileges(host: Host) -> Iterator[Finding]:
    """The service may bind its ports, and does not stay root."""
    start = int(host.read_if_there(_LOW).strip() or _DEFAULT_LOW)
    low = [text for text, endpoint in host.listens if endpoint.port < start]
    how = service(host)
    if how.user is None:
        cure = f"useradd --system --no-create-home --shell /usr/sbin/nologin {how.name}"
        yield Finding("privileges", "fail", f"there is no user {how.name}", cure)
        return
    why = _why_it_binds(host, how)
    if low and not why:
        cure = "start it as root with `[server] user`, or AmbientCapabilities=CAP_NET_BIND_SERVICE in plughole.service"
        yield Finding("privileges", "fail", f"{how.name} may not bind {', '.join(low)}", cure)
    if how.user.uid == 0:
        yield Finding("privileges", "warn", "started as root it stays root", 'set `[server] user = "plughole"`')
    elif why or not low:
        yield Finding("privileges", "ok", f"works as {how.name}, {why if low else 'all ports are free for everyone'}")


def _why_it_binds(host: Host, how: Service) -> str:
    """Return what lets the service bind ports below the limit; empty: nothing does."""
    if how.from_root:
        return "root binds the ports"
    if unit_text(host, "plughole.socket"):
        return "plughole.socket binds the ports"
    if "CAP_NET_BIND_SERVICE" in _last(how.unit, "AmbientCapabilities"):
        return "its unit gives it CAP_NET_BIND_SERVICE"
    if host.system.interpreter_may_bind():
        return "the file of Python carries CAP_NET_BIND_SERVICE"
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", host.read_if_there("proc/self/status"), re.MULTILINE)
    if not how.unit and effective and int(effective[1], 16) >> _NET_BIND & 1:
        return "this session has CAP_NET_BIND_SERVICE"
    return ""


def unit_text(host: Host, name: str) -> str:
    """Return the text of the unit that counts with that of its drop-ins, empty when none is installed."""
    texts = (host.read_if_there(f"{folder}/{name}") for folder in _UNIT_FOLDERS)
    unit = next((text for text in texts if text), "")
    added = sorted(path for folder in _UNIT_FOLDERS for path in (host.root / folder / f"{name}.d").glob("*.conf"))
    return "\n".join([unit, *(path.read_text(errors="replace") for path in added)]) if unit else ""


def _last(unit: str, key: str) -> str:
    """Return the last value a unit gives to a key, empty without one."""
    return next(reversed(re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)), "").strip()


def data_dir(host: Host) -> Iterator[Finding]:
    """The service may write its data folder."""
    how, folder = service(host), host.config.data_dir
    if how.user is None:
        return  # said by the check of privileges
    troubles = list(_closed(how, how.user, folder))
    own = f"install -d -o {how.name} {folder} && chown -R {how.name}: {folder}"
    for path, what in troubles[:MAX_SAID]:
        cure = f"chmod o+x {path}" if what == "entered" else own
        yield Finding("data_dir", "fail", f"{path} cannot be {what} by {how.name}", cure)
    if not troubles:
        yield Finding("data_dir", "ok", f"{folder} can be written by {how.name}")


def _closed(how: Service, user: User, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folders that are in the way, and what cannot be done there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not how.from_root and not _may(there, user, _MAY_CHANGE):
        yield there, "written"  # where root starts it, root gives the folder to the user
    if there == folder:
        yield from ((path, "written") for path in sorted(_folders(folder)) if not _may(path, user, _MAY_CHANGE))
    yield from ((path, "entered") for path in reversed(there.parents) if not _may(path, user, _MAY_SEARCH))


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except PermissionError:  # said of the folder itself
        return


def _may(path: Path, user: User, wanted: int) -> bool:
    """Return whether owner and mode give the user these of the bits 4 (read), 2 (write), 1 (search)."""
    if user.uid == 0:
        return True
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid in user.groups else 0
    return stat.S_IMODE(found.st_mode) >> shift & wanted == wanted
