"""A whole node for end-to-end tests: `plughole serve` as people run it, inside the small internet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rdatatype

if TYPE_CHECKING:
    from internet import Internet

REPOSITORY = Path(__file__).parent.parent
CLI = [sys.executable, "-m", "console.cli"]
PATIENCE = 60.0  # seconds for what is to happen at all: a busy machine may take many


class Node:
    """`plughole serve` on port 53 of a few loopback addresses; `with` starts and stops it."""

    def __init__(self, internet: Internet, folder: Path, config: str) -> None:
        self.internet = internet
        self.folder = folder
        self.config = folder / "plughole.toml"
        self.config.write_text(config)
        self.code: int | None = None
        self._output = folder / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node and do not wait for it."""
        with self._output.open("wb") as output, self.internet.inside():
            self._process = subprocess.Popen(
                [*CLI, "serve", "-c", str(self.config)],
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Node:
        self.start()
        self.wait(lambda: "dig" in self.output())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, condition: Any, seconds: float = PATIENCE) -> None:
        """Wait until `condition` holds, or fail with what the node printed."""
        deadline = time.monotonic() + seconds
        while not condition():
            alive = self._process is not None and self._process.poll() is None
            if not alive or time.monotonic() > deadline:
                raise AssertionError(f"it did not come to pass; the node said:\n{self._output.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is None or self.code is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self.code = self._process.wait(PATIENCE)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def output(self) -> str:
        """What the node printed so far."""
        return self._output.read_text()

    def ask(
        self, name: str, rdtype: str = "A", *, at: str = "127.0.0.1", tcp: bool = False, source: str | None = None,
        dnssec: bool = False, edns: bool = True, flags: int = dns.flags.RD, timeout: float = 8.0,
    ) -> dns.message.Message:  # fmt: skip
        """Ask the node as a client inside the internet."""
        query = dns.message.make_query(name, rdtype, use_edns=0 if edns else False, want_dnssec=dnssec, flags=flags)
        send = dns.query.tcp if tcp else dns.query.udp
        with self.internet.inside():
            return send(query, at, timeout=timeout, source=source)

    def connect(self, at: str = "127.0.0.1") -> socket.socket:
        """Return a TCP connection to the node."""
        with self.internet.inside():
            return socket.create_connection((at, 53), timeout=8)

    def cli(self, *args: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `plughole ARGS`."""
        command, *rest = args
        done = subprocess.run(
            [*CLI, command, *rest, "-c", str(self.config)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
        assert not ok or done.returncode == 0, done.stderr
        return done

    def rows(self, *args: str) -> list[dict[str, Any]]:
        """Run a command with `--json` and return its lines as objects."""
        return [json.loads(line) for line in self.cli(*args, "--json").stdout.splitlines()]

    def logged(self, wanted: Any, *args: str) -> dict[str, Any]:
        """Return the first row of the log that `wanted` accepts, waiting for it."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [row for row in self.rows("log", "--since", "1h", *args) if wanted(row)]
            return bool(found)

        self.wait(look)
        return found[0]

    def status(self) -> dict[str, Any]:
        """Return `plughole status --json`."""
        found: dict[str, Any] = {}

        def told() -> bool:  # nothing while the hub is replaced, or too busy
            if said := self.cli("status", "--json", ok=False).stdout:
                found.update(json.loads(said))
            return bool(found)

        self.wait(told)
        return found


FEED_ONE = "evil-c2.plain.net\nmalware.example\n"
FEED_TWO = "0.0.0.0 malware.example\n0.0.0.0 other.example\n"


def framed(stream: socket.socket) -> bytes:
    """Return the next message of a TCP connection, in however many pieces it comes."""
    return _exactly(stream, int.from_bytes(_exactly(stream, 2), "big"))


def _exactly(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = stream.recv(size - len(found))
        assert more, "the connection ended in the middle of a message"
        found += more
    return found


def config(internet: Internet, folder: Path) -> str:
    (folder / "one.txt").write_text(FEED_ONE)
    (folder / "two.txt").write_text(FEED_TWO)
    return f"""
[server]
listen = ["127.0.0.1:53", "127.0.0.2:53", "[::1]:53"]
workers = 2
data_dir = "{folder}/var"
[upstream]
mode = "recursive"
root_hints = "{internet.root_hints}"
trust_anchors = ["{internet.trust_anchor}"]
timeout = 3.0
[[feeds.source]]
name = "one"
url = "file://{folder}/one.txt"
category = "c2"
confidence = 90
[[feeds.source]]
name = "two"
url = "file://{folder}/two.txt"
"""


def ede(reply: dns.message.Message) -> list[tuple[int, str]]:
    return [(int(option.code), option.text or "") for option in reply.options if isinstance(option, dns.edns.EDEOption)]


def data(reply: dns.message.Message, rdtype: str = "A") -> list[str]:
    return sorted(
        str(item) for rrset in reply.answer if rrset.rdtype == dns.rdatatype.from_text(rdtype) for item in rrset
    )
