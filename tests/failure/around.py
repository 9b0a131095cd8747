"""What stands around a node that fails: a file it names, a Redis it shares, a server of feeds, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import dns.rcode
from node import data
from running import processes
from stream import CLIENTS

from console.status import ask
from core.errors import Unavailable
from feeds.redis import find_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from node import Node

BLOCKED = "malware.example"
HIT = "www.good.com"
SINKHOLE = ["192.0.2.1"]
PATIENCE = 60.0  # seconds for what happens at all, on a machine that has other things to do
SOURCES = [f"127.0.5.{at}" for at in range(1, CLIENTS + 1)]  # clients of all workers
_SHIFTED = """
import time
_real = time.time
def _shifted():
    try:
        with open({file!r}, "rb") as file:
            return _real() + float(file.read())
    except (OSError, ValueError):
        return _real()
time.time = _shifted
"""


def works(node: Node) -> None:
    """Fail unless clients of all workers have the listed name blocked and a free one answered."""
    for source in SOURCES:
        assert data(node.ask(BLOCKED, source=source, timeout=PATIENCE)) == SINKHOLE
        assert data(node.ask(HIT, source=source, timeout=PATIENCE)) == ["192.0.2.11"]


def unfiltered(node: Node) -> list[str]:
    """The answers to a listed name that are neither the sinkhole nor a failure."""
    replies = [node.ask(BLOCKED, source=source, timeout=PATIENCE) for source in SOURCES]
    return [str(reply) for reply in replies if data(reply) != SINKHOLE and reply.rcode() != dns.rcode.SERVFAIL]


def status(node: Node) -> dict[str, Any]:
    """What the hub says of the node; its state is `unheard` while there is none."""
    try:
        return ask(node.folder / "var")
    except Unavailable:
        return {"state": "unheard", "degraded": []}


def heard(node: Node) -> dict[str, Any]:
    """What the hub says of the node, as soon as it says something."""
    found: dict[str, Any] = {}

    def look() -> bool:
        found.update(status(node))
        return bool(found["state"] != "unheard")

    node.wait(look, PATIENCE)
    return found


def degraded(node: Node, part: str) -> str:
    """Wait for a trouble of this part in the status, and return it."""
    found: list[str] = []

    def look() -> bool:
        said = status(node)
        found[:] = [text for text in said["degraded"] if text.startswith(f"{part}: ")]
        return bool(found) and said["state"] == "degraded"

    node.wait(look, PATIENCE)
    return found[0]


def healthy(node: Node) -> None:
    """Wait until the status is healthy."""
    node.wait(lambda: status(node)["state"] == "healthy", PATIENCE)


def kill(node: Node, title: str) -> int:
    """Kill the process `plughole-TITLE` as soon as there is one, and return its pid."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for name, pid in processes(node).items() if name == f"plughole-{title}"]
        return bool(found)

    node.wait(look, PATIENCE)
    [pid] = found
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return pid


def flip(path: Path) -> None:
    """Turn one octet near the end of a file round, in place."""
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        octet = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes((octet[0] ^ 0xFF,)))


class Redis:
    """A Redis of the test's own, on a Unix socket, that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder}/own.sock"
        self._path = folder / "own.sock"
        self._command = [find_server(), "--port", "0", "--unixsocket", str(self._path), "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Redis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers."""
        self._process = subprocess.Popen([*self._command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server does not start"
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self._path))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False


class FeedServer:
    """Serves one page over HTTP on this host; `page` is (status, body), None closes the connection at once."""

    def __init__(self) -> None:
        self.page: tuple[int, str] | None = (200, "")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.page is None:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                status, text = outer.page
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/list.txt"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> FeedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Clock:
    """The clock of Python programs started inside: as many seconds off as `shift` says. C keeps the true one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "shift"
        (folder / "sitecustomize.py").write_text(_SHIFTED.format(file=str(self._file)))
        self._folder = folder
        self.shift(0.0)

    def shift(self, seconds: float) -> None:
        """Let the clock jump to `seconds` from the true time, for all programs at once."""
        draft = self._file.with_suffix(".tmp")
        draft.write_text(repr(seconds))
        draft.replace(self._file)

    @contextlib.contextmanager
    def worn(self) -> Iterator[Clock]:
        """Programs started meanwhile read this clock."""
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(self._folder)
        try:
            yield self
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
