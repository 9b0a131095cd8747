"""Unbound and PowerDNS Recursor inside the internet, with its root and its trust anchor, otherwise as they come."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from internet import Internet

UNBOUND: Final = ("127.0.0.53", 5301)
RECURSOR: Final = ("127.0.0.53", 5302)
START_SECONDS: Final = 60.0
_PACKAGES: Final = {"unbound": "unbound", "pdns_recursor": "pdns-recursor"}
_ROOT_NS: Final = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # ID 0x1234, RD, `. NS IN`


def binary(name: str) -> str | None:
    """Return where a program is, also in the folders that many users do not look into."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def why_not() -> str | None:
    """Return what is missing here, or None."""
    missing = [package for name, package in _PACKAGES.items() if binary(name) is None]
    return f"apt install {' '.join(missing)}" if missing else None


@contextlib.contextmanager
def both(internet: Internet, folder: Path) -> Iterator[None]:
    """Unbound at UNBOUND and the recursor at RECURSOR, answering, until the end of the block."""
    (folder / "unbound.conf").write_text(_unbound(internet))
    (folder / "recursor.conf").write_text(_recursor(internet, folder))
    anchor = internet.trust_anchor.read_text().split(" DS ")[1].strip()
    (folder / "anchor.lua").write_text(f'clearTA()\naddTA(".", "{anchor}")\n')
    commands = (
        [binary("unbound") or "unbound", "-d", "-c", str(folder / "unbound.conf")],
        [binary("pdns_recursor") or "pdns_recursor", f"--config-dir={folder}"],
    )
    with contextlib.ExitStack() as stack:
        for command, address in zip(commands, (UNBOUND, RECURSOR), strict=True):
            log = stack.enter_context((folder / f"{address[1]}.log").open("wb+"))
            with internet.inside():
                process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            stack.callback(_end, process)
        with internet.inside():
            _await(UNBOUND, folder)
            _await(RECURSOR, folder)
        yield


def _await(address: tuple[str, int], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.connect(address)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                try:
                    client.send(_ROOT_NS)
                    client.recv(4_096)
                except ConnectionRefusedError:
                    time.sleep(0.02)  # nobody listens yet, which the kernel says at once
                    continue
                return
    raise AssertionError(f"nobody answers at {address}: {(folder / f'{address[1]}.log').read_text(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _unbound(internet: Internet) -> str:
    return f"""
server:
    interface: {UNBOUND[0]}@{UNBOUND[1]}
    chroot: ""
    username: ""
    pidfile: ""
    directory: "/"
    use-syslog: no
    num-threads: 1
    do-daemonize: no
    num-queries-per-thread: 4096
    outgoing-range: 4096
    root-hints: "{internet.root_hints}"
    trust-anchor-file: "{internet.trust_anchor}"
remote-control:
    control-enable: no
"""


def _recursor(internet: Internet, folder: Path) -> str:
    return f"""
local-address={RECURSOR[0]}
local-port={RECURSOR[1]}
daemon=no
threads=1
dnssec=validate
hint-file={internet.root_hints}
lua-config-file={folder}/anchor.lua
socket-dir={folder}
dont-query=
query-local-address=0.0.0.0, ::
any-to-tcp=no
loglevel=3
disable-syslog=yes
security-poll-suffix=
export-etc-hosts=no
serve-rfc1918=no
"""
