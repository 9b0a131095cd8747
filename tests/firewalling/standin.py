"""A web service in a thread that plays a firewall, strictly, and may be told to misbehave."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from egress.enforcer import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = tuple[int, Any]  # a status; octets as they are, anything else as JSON


class Wrong(Exception):
    """What was asked is not what such a firewall takes."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self, *fields: str) -> dict[str, Any]:
        """Return the body, an object with these fields and no others."""
        if "json" not in self.headers.get("content-type", ""):
            raise Wrong(415, "not told to be JSON")
        found = msgspec.json.decode(self.body, type=dict[str, Any])
        if fields and sorted(found) != sorted(fields):
            raise Wrong(400, f"fields {sorted(found)}")
        return found

    def form(self, *fields: str) -> dict[str, str]:
        found = dict(parse_qsl(self.body.decode(), keep_blank_values=True, strict_parsing=True))
        if sorted(found) != sorted(fields):
            raise Wrong(400, f"fields {sorted(found)}")
        return found


@dataclass
class Firewall(ABC):
    """What it holds, whom it turns away, what it found wrong. `status` or `body`: answered to everything."""

    kind: ClassVar[str]
    user: ClassVar[str] = ""
    secret: ClassVar[str] = "s3cr3t-of-the-firewall"
    holds: ClassVar[str] = "plughole"  # the name of its list

    turned_away: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    status: int = 0
    body: bytes | None = None
    raw: bytes | None = None  # sent in place of an answer, again and again, until the client hangs up
    breaks: bool = False  # hangs up on one request

    @abstractmethod
    def answer(self, asked: Asked) -> Answer:
        """Return the answer; raises Wrong."""

    @abstractmethod
    def truth(self) -> dict[Target, float | None]:
        """Return what is blocked by us, and for how long yet where that is known there."""

    def add_foreign(self, address: str) -> None:
        """Somebody else puts an address on the list, where entries tell whose they are."""
        raise NotImplementedError

    def foreign(self) -> set[str]:
        raise NotImplementedError

    def replied(self, asked: Asked) -> tuple[int, bytes]:
        self.asked.append(asked)
        if self.body is not None or self.status:
            return self.status or 200, self.body or b""
        try:
            status, found = self.answer(asked)
        except Wrong as error:
            self.complaints.append(f"{asked.method} {asked.path}: {error}")
            status, found = error.status, {"error": str(error)}
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
            self.complaints.append(f"{asked.method} {asked.path}: {error!r}")
            status, found = 400, {"error": repr(error)}
        return status, found if isinstance(found, bytes) else msgspec.json.encode(found)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a reply goes out as one packet: two would wait for each other's acknowledgement
    server: _Server

    def _any(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers, body)
        if self.server.firewall.raw is not None:
            self._drip(self.server.firewall.raw)
            return
        if self.server.firewall.breaks:
            self.server.firewall.breaks = False
            self.close_connection = True
            return
        with self.server.lock:
            status, reply = self.server.firewall.replied(asked)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - the names http.server calls

    def _drip(self, data: bytes) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            while not self.server.ended.wait(0.05):
                self.wfile.write(data)
                self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, firewall: Firewall) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.firewall = firewall
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.clients: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        found = super().get_request()
        self.clients.append(found[0])
        return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our trouble."""


class Running:
    """A firewall that answers on a port of the loopback."""

    def __init__(self, firewall: Firewall, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(firewall)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Nothing listens there any more, and what was open is cut. Safe to call again."""
        self._server.ended.set()
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
        for client in self._server.clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
