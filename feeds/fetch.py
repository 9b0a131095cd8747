"""Bytes of a feed from `file:`, `http:` or `https:`, whole and within their cap, or nothing.

Rules:
1. A URL is never quoted in a message: it may carry a token.
2. What is cut short, too large, too slow or an HTML page is an error; nothing of it is used.
"""

from __future__ import annotations

import re
import stat
import time
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx2

from core.errors import BadFeed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from core.config import Source
    from feeds.snapshot import State

MEGABYTE: Final = 1_000_000
MAX_REDIRECTS: Final = 5
CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 20.0  # of silence
PIECE: Final = 256 * 1024  # octets inflated at a time, so that a bomb meets the cap early
USER_AGENT: Final = "plughole"
_GZIP: Final = b"\x1f\x8b"
_HTML: Final = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(?:<!--.{0,512}?-->\s*)*<(?:!doctype\s+html|html|head|body)[\s>]", re.IGNORECASE | re.DOTALL
)


class Fetched(NamedTuple):
    """What came: `data` is None when the server says that the last good copy is still current."""

    data: bytes | None
    etag: str = ""
    last_modified: str = ""


def fetch(source: Source, *, base: Path, state: State | None, timeout: float) -> Fetched:
    """Return the feed's bytes, inflated. `state`: the copy we have, when the server may answer "not modified".

    Raises Unavailable when it cannot be had within `timeout` seconds and BadFeed when what came is no list.
    """
    cap = source.max_megabytes * MEGABYTE
    if urlsplit(source.url).scheme == "file":
        found = Fetched(_read_file(_path(source.url, base), cap))
    else:
        found = _download(source, cap=cap, state=state, timeout=timeout)
    if found.data is not None and looks_like_html(found.data):
        raise BadFeed("an HTML page came instead of a list; look at the URL with a browser")
    return found


def looks_like_html(data: bytes) -> bool:
    """True for bytes that begin as a web page does."""
    return bool(_HTML.match(data[:4_096]))


def _path(url: str, base: Path) -> Path:
    return base / unquote(urlsplit(url).path)


def _read_file(path: Path, cap: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unavailable(f"{path} is not a regular file")
        with path.open("rb") as file:
            return _collect(iter(lambda: file.read(PIECE), b""), cap)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None


def _download(source: Source, *, cap: int, state: State | None, timeout: float) -> Fetched:
    deadline = time.monotonic() + timeout
    waits = httpx2.Timeout(min(READ_SECONDS, timeout), connect=min(CONNECT_SECONDS, timeout))
    try:
        with (
            httpx2.Client(timeout=waits, follow_redirects=True, max_redirects=MAX_REDIRECTS) as client,
            client.stream("GET", source.url, headers=_headers(state)) as response,
        ):
            if response.status_code == httpx2.codes.NOT_MODIFIED and state is not None:
                return Fetched(None)
            _check(response, source.url)
            data = _collect(_before(deadline, response.iter_raw(), timeout), cap)
            return Fetched(data, response.headers.get("etag", ""), response.headers.get("last-modified", ""))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unavailable(f"the server did not deliver: {_reason(error)}") from None


def _headers(state: State | None) -> dict[str, str]:
    headers = {"user-agent": USER_AGENT, "accept-encoding": "gzip", "accept": "text/plain, */*;q=0.5"}
    if state is not None and state.etag:
        headers["if-none-match"] = state.etag
    if state is not None and state.last_modified:
        headers["if-modified-since"] = state.last_modified
    return headers


def _check(response: httpx2.Response, url: str) -> None:
    hops = [str(hop.url.scheme) for hop in (*response.history, response)]
    if urlsplit(url).scheme == "https" and "http" in hops:
        raise Unavailable("the server redirects from https to http, where anybody may change the list")
    if response.status_code != httpx2.codes.OK:
        raise Unavailable(f"the server answered {response.status_code} {response.reason_phrase}".rstrip())
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise BadFeed("the server sent a compression that was not asked for")


def _before(deadline: float, pieces: Iterator[bytes], timeout: float) -> Iterator[bytes]:
    """Pass pieces on until the whole has taken too long: a server may drip for ever within the read time-out."""
    for piece in pieces:
        yield piece
        if time.monotonic() > deadline:
            raise Unavailable(f"the server took more than {timeout:g} s; raise feeds.timeout if that is usual")


def _collect(pieces: Iterator[bytes], cap: int) -> bytes:
    """Return all pieces, inflated when they are gzip, by their first octets; raises BadFeed past the cap."""
    found: list[bytes] = []
    size = 0
    for piece in _inflated(pieces):
        size += len(piece)
        if size > cap:
            raise BadFeed(f"larger than {cap // MEGABYTE} MB; raise max_megabytes of the source if that is right")
        found.append(piece)
    return b"".join(found)


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    whole = chain((head,), pieces)
    yield from _gunzipped(whole) if head.startswith(_GZIP) else whole


def _gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Inflate one or more gzip members, at most PIECE octets at a time; raises BadFeed when the stream is broken."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if inflate.eof:
                    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
                yield inflate.decompress(rest, PIECE)
                rest = inflate.unconsumed_tail or inflate.unused_data
    except zlib.error as error:
        raise BadFeed(f"broken gzip data: {error}") from None
    if not inflate.eof:
        raise BadFeed("gzip data that is cut short")


def _reason(error: Exception) -> str:
    """Return why, without the URL."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    text = "" if "://" in str(error) else str(error)
    return f"{kind} ({text})" if text else kind
