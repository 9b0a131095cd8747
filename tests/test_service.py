"""A node as a service: what it tells systemd, sockets it is given, its end, and what is left when it is killed."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.rcode
import pytest
from node import CLI, PATIENCE, REPOSITORY, Node, config, data
from running import events, pid_of, processes, reload, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dns.message
    from internet import Internet

# Binds what its first arguments name, as systemd does for a socket unit, and becomes the command after "--".
LAUNCHER = """
import os, socket, sys
at = sys.argv.index("--")
made = []
for text in sys.argv[1:at]:
    kind, group, address = text.split("|")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if group == "group":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if kind != "udp":  # as systemd does: connections of a test before may linger
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 53))
    if kind == "tcp":
        sock.listen(64)
    made.append(sock)
spare = [os.dup2(sock.fileno(), 100 + number) for number, sock in enumerate(made)]
for number, fd in enumerate(spare):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(made)), "LISTEN_FDNAMES": "dns"}
os.execv(sys.argv[at + 1], sys.argv[at + 1:])
"""


class Activated(Node):
    """A node that is given its sockets: `KIND|single or group|ADDRESS`."""

    sockets: tuple[str, ...] = ()

    def start(self) -> None:
        command = [sys.executable, "-c", LAUNCHER, *self.sockets, "--", *CLI, "serve", "-c", str(self.config)]
        with self._output.open("wb") as output, self.internet.inside():
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True
            )


class Manager:
    """Takes what a node says at once: the kernel keeps few messages, and what finds no room is lost."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while message := self._sock.recv(4_096):
            self._heard.put(message)

    def hear(self, seconds: float = PATIENCE) -> bytes:
        """The next message; raises queue.Empty."""
        return self._heard.get(timeout=seconds)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """The service manager's end: what a node started in this test tells it."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        made = Manager(sock)
        yield made
        made.close()


def heard(manager: Manager) -> dict[str, str]:
    """The next message that is not for the watchdog."""
    while True:
        message = dict(line.split("=", 1) for line in manager.hear().decode().splitlines())
        if "WATCHDOG" not in message:
            return message


def silent_within(manager: Manager, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            manager.hear(1.5)
        except queue.Empty:
            return True
    return False


def test_systemd_hears_of_the_start_reloads_and_the_end(internet: Internet, tmp_path: Path, manager: Manager) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path)) as node:
        answers = "2 workers answer on 127.0.0.1:53, 127.0.0.2:53, [::1]:53"
        assert heard(manager) == {"READY": "1", "STATUS": answers}
        before = time.monotonic_ns() // 1_000
        reload(node)
        began = heard(manager)
        assert began["RELOADING"] == "1"
        assert before <= int(began["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1_000
        assert heard(manager) == {"READY": "1", "STATUS": answers}
        rewrite(node, "workers = 2", "workers = -2")
        reload(node, "reload refused")
        assert heard(manager)["RELOADING"] == "1"
        refused = heard(manager)
        assert (refused["READY"], refused["STATUS"].split(";")[0][:31]) == ("1", "reload refused: server.workers:")
        node.stop()
        assert heard(manager)["STOPPING"] == "1"
    assert node.code == 0


def test_the_watchdog_is_fed_only_while_a_worker_reports(internet: Internet, tmp_path: Path, manager: Manager) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path)) as node:
        for _ in range(3):
            while manager.hear() != b"WATCHDOG=1":
                pass
        workers = [pid for name, pid in processes(node).items() if name in {"plughole-w0", "plughole-w1"}]
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        assert silent_within(manager, 12.0)  # after 15 s without a word others take their place
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert manager.hear() == b"WATCHDOG=1"


PASSED = {
    "one for all": ("udp|single|127.0.0.1", "tcp|single|127.0.0.1", "udp|single|::1", "tcp|single|::1"),
    "one a worker": ("udp|group|127.0.0.1", "udp|group|127.0.0.1", "tcp|group|127.0.0.1", "tcp|group|127.0.0.1"),
}


@pytest.mark.parametrize("sockets", PASSED.values(), ids=PASSED)
def test_passed_sockets_are_used_instead_of_our_own(
    internet: Internet, tmp_path: Path, sockets: tuple[str, ...]
) -> None:
    node = Activated(internet, tmp_path, config(internet, tmp_path))
    node.sockets = sockets
    with node:
        for at in range(1, 9):
            for tcp in (False, True):
                assert data(node.ask("www.good.com", source=f"127.0.5.{at}", tcp=tcp)) == ["192.0.2.11"]
        with pytest.raises((dns.exception.Timeout, OSError)):  # an address of the file
            node.ask("www.good.com", at="127.0.0.2", timeout=0.3)
        if "group" in sockets[0]:  # each client at one worker, and the node's own question
            node.wait(lambda: sum(row["clients"] for row in node.status()["workers"]) == 9)
        reload(node)
        assert not events(node, "these keys need a restart")
        assert data(node.ask("malware.example")) == ["192.0.2.1"]
        node.stop()
        assert node.code == 0


@pytest.mark.parametrize(
    ("sockets", "message"),
    [
        (("udp|single|127.0.0.1",), "systemd passed no ListenStream for 127.0.0.1:53; name it in plughole.socket"),
        (("udp|group|127.0.0.1",) * 3 + ("tcp|single|127.0.0.1",), "systemd passed 3 sockets for 127.0.0.1:53"),
    ],
)
def test_sockets_that_do_not_do_are_refused_in_one_line(
    internet: Internet, tmp_path: Path, sockets: tuple[str, ...], message: str
) -> None:
    node = Activated(internet, tmp_path, config(internet, tmp_path))
    node.sockets = sockets
    node.start()
    assert node._process is not None
    assert node._process.wait(PATIENCE) == 1
    assert message in node.output()
    assert node.output().count("\n") == 1


def _on_its_way(node: Node, pool: futures.Executor) -> tuple[futures.Future[dns.message.Message], str]:
    """A question that waits for its answer; another one where it had that before the status told of it."""
    for number in range(2, 12):
        name = f"slow{number}.lame1.net"
        answer = pool.submit(node.ask, name, timeout=PATIENCE)

        def told(answer: futures.Future[dns.message.Message] = answer) -> bool:
            return answer.done() or any(row["upstream_outstanding"] for row in node.status()["workers"])

        node.wait(told)
        if not answer.done():
            return answer, name
    raise AssertionError("no question waited for its answer")


def test_sigterm_answers_what_is_on_its_way_and_ends_cleanly(internet: Internet, tmp_path: Path) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path)) as node, futures.ThreadPoolExecutor(1) as pool:
        answer, name = _on_its_way(node, pool)
        began = time.monotonic()
        node.stop()
        assert time.monotonic() - began < 10.0
        assert answer.result().rcode() == dns.rcode.SERVFAIL
    assert node.code == 0, node.output()
    assert "Traceback" not in node.output()
    assert name in [row["qname"] for row in node.rows("log", "--since", "1m")]


def test_a_worker_that_does_not_end_is_killed_and_the_rest_ends_as_it_should(
    internet: Internet, tmp_path: Path
) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path)) as node:
        node.ask("malware.example", source="127.0.0.2")
        node.logged(lambda row: row["qname"] == "malware.example")
        children = processes(node)
        os.kill(children["plughole-w1"], signal.SIGSTOP)
        node.stop()
    assert node.code == 1
    assert "Errno" not in node.output()
    assert "Traceback" not in node.output()
    assert not [name for name, pid in children.items() if Path(f"/proc/{pid}").exists()]


def test_no_child_outlives_a_killed_supervisor(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path)
    with Node(internet, tmp_path, text) as first:
        kept = {"plughole-redis", "plughole-hub", "plughole-w0", "plughole-w1"}
        first.wait(lambda: kept <= set(processes(first)))  # there may be an errand under way
        children = processes(first)
        os.kill(pid_of(first), signal.SIGKILL)
        assert first._process is not None
        first._process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while any(Path(f"/proc/{pid}").exists() for pid in children.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not [name for name, pid in children.items() if Path(f"/proc/{pid}").exists()]
    with Node(internet, tmp_path, text) as second:
        assert data(second.ask("malware.example")) == ["192.0.2.1"]
