"""`plughole doctor`: what it sees on a real port and in made-up trees, and that no check can break or hold it up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.checkups import ALL, Finding, Host, open_resolver, ports, resolv_conf
from console.doctor import examine
from core.config import Config, Server, Upstream


def config(folder: Path, *, listen: str = "127.0.0.1:5353", allow: str = "10.0.0.0/8", servers: str = "") -> Config:
    return Config(
        server=Server(listen=(listen,), allow_from=(allow,), data_dir=str(folder)),
        upstream=Upstream(servers=tuple(servers.split())),
    )


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_who_holds_a_port_is_named(tmp_path: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        host = Host(config(tmp_path, listen=f"127.0.0.1:{sock.getsockname()[1]}"))
        taken = list(ports(host))
    assert [found.state for found in taken] == ["fail"]
    assert f"(pid {os.getpid()})" in taken[0].seen
    assert [found.state for found in ports(host)] == ["ok"]


@pytest.mark.parametrize(
    ("listen", "allow", "state"),
    [
        ("0.0.0.0:53", "0.0.0.0/0", "fail"),
        ("[::]:53", "::/0", "fail"),
        ("0.0.0.0:53", "198.51.100.0/24", "fail"),
        ("0.0.0.0:53", "10.1.0.0/16", "ok"),
        ("127.0.0.1:53", "0.0.0.0/0", "ok"),
    ],
)
def test_open_resolver(tmp_path: Path, listen: str, allow: str, state: str) -> None:
    assert [found.state for found in open_resolver(Host(config(tmp_path, listen=listen, allow=allow)))] == [state]


@pytest.mark.parametrize(("address", "state"), [("127.0.0.53", "warn"), ("192.0.2.1", "ok")])
def test_resolv_conf(tmp_path: Path, address: str, state: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(f"# a comment\nnameserver {address}\n")
    assert [found.state for found in resolv_conf(Host(config(tmp_path), tmp_path))] == [state]


def test_forwarding_to_itself_fails(tmp_path: Path) -> None:
    found = next(resolv_conf(Host(config(tmp_path, servers="127.0.0.1@5353"), tmp_path)))
    assert (found.check, found.state) == ("loop", "fail")


def test_a_check_that_breaks_or_hangs_is_a_warning(tmp_path: Path) -> None:
    end = threading.Event()

    def broken(_host: Host) -> Iterator[Finding]:
        raise RuntimeError("odd")

    def hanging(_host: Host) -> Iterator[Finding]:
        end.wait()
        yield Finding("hanging", "ok", "late")

    found = examine(Host(config(tmp_path)), [broken, hanging], 0.2)
    end.set()
    assert [(one.check, one.state) for one in found] == [("broken", "warn"), ("hanging", "warn")]
    assert "could not look: RuntimeError: odd" in found[0].seen


def test_an_empty_host_breaks_nothing(tmp_path: Path) -> None:
    assert examine(Host(config(tmp_path), tmp_path), ALL)
