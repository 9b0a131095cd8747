"""A small web server, in a thread of its own, for a few texts that firewalls fetch now and then.

Rules:
1. It serves GET and HEAD of the paths it was given, one request a connection; everything else is an error.
2. A request has a size and a time, and there are only so many at once: the newest takes the place of the oldest.
3. A text is replaced whole; a path without a text yet is 503, at which a firewall keeps what it had.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ssl
import threading
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from core.endpoints import parse_endpoint
from egress.enforcer import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_CONNECTIONS: Final = 64
MAX_REQUEST: Final = 16_384  # octets, line and headers
REQUEST_SECONDS: Final = 10.0  # for line and headers, the handshake before them likewise
REPLY_SECONDS: Final = 60.0
START_SECONDS: Final = 10.0
_END: Final = b"\r\n\r\n"


class Text(msgspec.Struct, frozen=True):
    """What is served under a path, and since when it is as it is (Unix seconds)."""

    body: bytes
    since: float

    @property
    def etag(self) -> str:
        """A strong validator: the text's hash."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


class _Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    headers: dict[str, str]


class Server:
    """Serves `text(path)`: None where there is no such path, an empty body where there is no text yet."""

    def __init__(
        self, listen: str, text: Callable[[str], Text | None], *, user: str, password: str, certificate: Path | None
    ) -> None:
        self._listen = listen
        self._text = text
        self._login = f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if password else ""
        self._certificate = certificate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listening: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None] | None, None] = {}
        self.rejected = 0  # connections that came to nothing

    def start(self) -> None:
        """It listens; raises Refused when it can not. Safe to call again."""
        if self._thread is not None:
            return
        context = self._tls()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edl", daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._serve(context), self._loop)
        try:
            started.result(START_SECONDS)
        except OSError as error:  # TimeoutError too
            self.stop()
            raise Refused(f"{self._listen}: {error.strerror or 'can not be listened on'}") from None

    def stop(self) -> None:
        """It listens no more, and its thread has ended."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(START_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(START_SECONDS)
        loop.close()

    def _tls(self) -> ssl.SSLContext | None:
        if self._certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"{self._certificate}: {error.strerror or error}: needs a certificate and its key") from None
        return context

    async def _serve(self, context: ssl.SSLContext | None) -> None:
        where = parse_endpoint(self._listen)
        patience = REQUEST_SECONDS if context else None
        self._listening = await asyncio.start_server(
            self._connected, where.address, where.port, limit=MAX_REQUEST, ssl=context, ssl_handshake_timeout=patience
        )

    async def _end(self) -> None:
        if self._listening is not None:
            self._listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._open) >= MAX_CONNECTIONS and (oldest := next(iter(self._open))) is not None:
            oldest.cancel()
            del self._open[oldest]
        self._open[task] = None
        try:
            await self._answered(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            self.rejected += 1
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = _parsed(await reader.readuntil(_END))
        status, headers, body = self._reply(request)
        head = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{key}: {value}" for key, value in headers.items()),
        ]
        writer.write("\r\n".join((*head, "", "")).encode("latin-1"))
        if request is None or request.method != "HEAD":
            writer.write(body)
        async with asyncio.timeout(REPLY_SECONDS):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    def _reply(self, request: _Request | None) -> tuple[int, dict[str, str], bytes]:
        if request is None:
            return _error(HTTPStatus.BAD_REQUEST)
        if self._login and not _same(request.headers.get("authorization", ""), self._login):
            return _error(HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Basic realm="plughole"'})
        if request.method not in {"GET", "HEAD"}:
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        text = self._text(request.path)
        if text is None:
            return _error(HTTPStatus.NOT_FOUND)
        if not text.body:
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "60"})
        headers = {"ETag": text.etag, "Last-Modified": formatdate(text.since, usegmt=True), "Cache-Control": "no-cache",
                   "Connection": "close"}  # fmt: skip
        if _unchanged(request.headers, text):
            return HTTPStatus.NOT_MODIFIED, headers, b""
        size = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text.body))}
        return HTTPStatus.OK, headers | size, text.body


def _parsed(data: bytes) -> _Request | None:
    """Return the request, None when it is none; an empty line in front, or a line broken in two, is none."""
    first, *lines = data.removesuffix(_END).decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in {"HTTP/1.0", "HTTP/1.1"} or not words[1].startswith("/"):
        return None
    headers = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if not colon or not key or key != key.strip():
            return None
        headers[key.lower()] = value.strip()
    return _Request(words[0], words[1].partition("?")[0], headers)


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("latin-1"), wanted.encode())


def _unchanged(headers: Mapping[str, str], text: Text) -> bool:
    """True when the client has this text already; RFC 9110 section 13.2.2: an If-None-Match alone decides."""
    if known := headers.get("if-none-match"):
        tags = [each.strip().removeprefix("W/") for each in known.split(",")]
        return known.strip() == "*" or text.etag in tags
    try:
        return int(text.since) <= parsedate_to_datetime(headers.get("if-modified-since", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


def _error(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    body = f"{status.phrase}\n".encode()
    plain = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
    return status, plain | dict(headers or {}), body
