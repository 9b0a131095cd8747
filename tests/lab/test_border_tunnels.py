"""Real tunnels at the border: convicted by name, their server's address cut, no way past the resolver either."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import pytest
from internet import _binary, _which
from lab.attacks import _push
from lab.border import DESK, REDIS_PORT, RESOLVER, TUNNEL, Border
from node import Node

from core.names import from_text
from resolver.control import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from internet import Internet
    from lab.network import Program

DOMAINS: Final = {"iodine": "burrow.net", "dns2tcp": "passage.net"}
PATIENCE: Final = 60.0  # seconds
SECRET: Final = 65_536  # octets to carry out
_TUNNEL_END: Final = "10.99.0.1"
_SINK: Final = 7_000
_LOCAL: Final = 8_022


def why_not() -> str | None:
    """Return why it cannot be had here, or None."""
    for binary, package in {
        "iodine": "iodine",
        "iodined": "iodine",
        "dns2tcpc": "dns2tcp",
        "dns2tcpd": "dns2tcp",
    }.items():
        if _which(binary) is None:
            return f"{binary} is missing: apt install {package}"
    return Border.why_not() or (None if Path("/dev/net/tun").exists() else "this machine has no /dev/net/tun")


def settings(border: Border, folder: Path) -> str:
    return f"""
[server]
listen = ["{RESOLVER}:53"]
workers = 1
data_dir = "{folder}/var"
[upstream]
root_hints = "{border.root_hints}"
dnssec = false
qname_minimisation = false
[redis]
url = "redis://{RESOLVER}:{REDIS_PORT}/0"
[detectors.leak]
learning_days = 0
[egress]
mode = "enforce"
agent = "router"
"""


def servers(border: Border) -> dict[str, list[str]]:
    conf = border.folder / "dns2tcpd.conf"
    conf.write_text(
        f"listen = {TUNNEL}\nport = 53\nuser = root\nkey = lab\nchroot = {border.folder}\n"
        f"domain = {DOMAINS['dns2tcp']}\nresources = sink:127.0.0.1:{_SINK}\n"
    )
    return {
        "iodine": [_binary("iodined"), "-f", "-c", "-l", TUNNEL, "-P", "lab", f"{_TUNNEL_END}/24", DOMAINS["iodine"]],
        "dns2tcp": [_binary("dns2tcpd"), "-F", "-d", "1", "-f", str(conf)],
    }


def client(tool: str, through: str, *options: str) -> list[str]:
    """Return the command that tunnels through a name server; iodine tries raw UDP to its own unless told `-r`."""
    if tool == "iodine":
        return [_binary("iodine"), "-f", "-P", "lab", *options, through, DOMAINS[tool]]
    return [
        _binary("dns2tcpc"), "-z", DOMAINS[tool], "-k", "lab", "-r", "sink", "-l", str(_LOCAL), "-T", "TXT",
        "-d", "1", through,
    ]  # fmt: skip


class Scene:
    """The lab with a node and an agent, and one tool's server."""

    def __init__(self, border: Border, folder: Path, agent: Program) -> None:
        self.border = border
        self.data_dir = folder / "var"
        self.agent = agent

    def wait(self, condition: Callable[[], object], said: Callable[[], str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{said()}\n{self.agent.output[-3000:]}"
            time.sleep(0.05)

    def convicted(self, domain: str) -> bool:
        name = from_text(domain)
        return any(
            (one.client, one.name) == (DESK, name) and one.convicts for one in read_state(self.data_dir).overrides
        )


@pytest.fixture(params=["iodine", "dns2tcp"])
def tool(request: pytest.FixtureRequest) -> str:
    return cast("str", request.param)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    if reason := why_not():
        pytest.skip(reason)
    with Border({}, tuple(DOMAINS.values())) as border:
        node = Node(cast("Internet", border.resolver), tmp_path, settings(border, tmp_path))
        file = tmp_path / "agent.toml"
        file.write_text(node.config.read_text().replace(f"{tmp_path}/var", f"{tmp_path}/agent"))
        with node, border.agent(file) as agent:
            found = Scene(border, tmp_path, agent)
            found.wait(lambda: "table inet plughole" in border.firewall(), node.output)
            yield found
        assert "Traceback" not in node.output() + agent.output


def reaches(scene: Scene) -> bool:
    """Whether the desk reaches the tunnel's server by another way, a web server's port."""
    with contextlib.suppress(OSError), scene.border.connect(scene.border.desk, TUNNEL):
        return True
    return False


def test_a_tunnel_is_convicted_and_its_server_cut_for_all_ways(
    scene: Scene, tool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    border, domain = scene.border, DOMAINS[tool]
    over, started = threading.Event(), time.monotonic()
    way = (_TUNNEL_END, _SINK) if tool == "iodine" else ("127.0.0.1", _LOCAL)
    with border.attacker.start(f"{tool}.server", *servers(border)[tool]):
        assert reaches(scene)
        with border.desk.start(f"{tool}.client", *client(tool, RESOLVER, "-r")) as up:
            pushing = threading.Thread(target=_push, args=(border.desk, way, bytes(SECRET), over))
            pushing.start()
            try:
                scene.wait(lambda: scene.convicted(domain), lambda: up.output)
                convicted = time.monotonic()
                scene.wait(lambda: TUNNEL in border.firewall(), border.firewall)
                cut = time.monotonic()
            finally:
                over.set()
                pushing.join()
        assert not reaches(scene)
        with border.desk.start(f"{tool}.direct", *client(tool, TUNNEL)) as direct:
            with border.desk.inside(), contextlib.suppress(OSError):
                socket.create_connection(way, timeout=5.0).close()
            assert "Connection setup complete" not in direct.output
        assert not reaches(scene)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{tool}: convicted {convicted - started:.2f} s after its start, {TUNNEL} cut {cut - convicted:.2f} s"
            " later, direct and raw UDP dead\n"
        )
