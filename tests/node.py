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

import dns.flags
import dns.message
import dns.query

if TYPE_CHECKING:
    from internet import Internet

REPOSITORY = Path(__file__).parent.parent
CLI = [sys.executable, "-m", "console.cli"]
START_SECONDS = 30.0


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

    def __enter__(self) -> Node:
        with self._output.open("wb") as output, self.internet.inside():
            self._process = subprocess.Popen(
                [*CLI, "serve", "-c", str(self.config)],
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait(lambda: "dig" in self._output.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, condition: Any, seconds: float = START_SECONDS) -> None:
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
            self.code = self._process.wait(20)
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
        """Return the first row of the log that `wanted` accepts, waiting for it for a few seconds."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [row for row in self.rows("log", "--since", "1h", *args) if wanted(row)]
            return bool(found)

        self.wait(look, 10.0)
        return found[0]

    def status(self) -> dict[str, Any]:
        """Return `plughole status --json`."""
        found: dict[str, Any] = json.loads(self.cli("status", "--json", ok=False).stdout)
        return found
