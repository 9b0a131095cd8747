"""Fetching from a real HTTP server that behaves and misbehaves, and from files."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Source
from core.errors import BadFeed, Unavailable
from feeds.fetch import Fetched, fetch, looks_like_html
from feeds.snapshot import State

LIST = b"a.example\nb.example\n"


class Lists(BaseHTTPRequestHandler):
    """Serves one path a behaviour."""

    protocol_version = "HTTP/1.1"
    over = threading.Event()

    def do_GET(self) -> None:
        getattr(self, "get_" + self.path.strip("/").split("?")[0])()

    def log_message(self, *args: object) -> None:
        pass

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def get_tagged(self) -> None:
        if self.headers.get("if-none-match") == '"v1"' or self.headers.get("if-modified-since") == "yesterday":
            self.reply(b"", 304)
        else:
            self.reply(LIST, etag='"v1"', last_modified="yesterday")

    def get_gzip(self) -> None:
        self.reply(gzip.compress(LIST), content_encoding="gzip")

    def get_gzfile(self) -> None:
        self.reply(gzip.compress(LIST[:10]) + gzip.compress(LIST[10:]), content_type="application/gzip")

    def get_bomb(self) -> None:
        self.reply(gzip.compress(b"\0" * 30_000_000), content_encoding="gzip")

    def get_brotli(self) -> None:
        self.reply(b"??", content_encoding="br")

    def get_broken(self) -> None:
        self.reply(gzip.compress(LIST)[:-4])

    def get_html(self) -> None:
        self.reply(b"\n <!-- blocked --><!DOCTYPE html><html><body>log in</body></html>")

    def get_large(self) -> None:
        self.reply(b"x" * 1_500_000)

    def get_cut(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(LIST)
        self.close_connection = True

    def get_error(self) -> None:
        self.reply(b"secret page", 503)

    def get_loop(self) -> None:
        self.reply(b"", 302, location="/loop")

    def get_moved(self) -> None:
        self.reply(b"", 301, location="/tagged")

    def get_drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.over.wait(0.05):
                self.wfile.write(b"#\n")
                self.wfile.flush()
        except OSError:
            self.close_connection = True

    def get_silent(self) -> None:
        self.over.wait(60)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that hang up are what is tested."""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Lists)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Lists.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def get(url: str, state: State | None = None, timeout: float = 60.0, cap: int = 1) -> Fetched:
    return fetch(Source(name="f", url=url, max_megabytes=cap), base=Path("/nowhere"), state=state, timeout=timeout)


def test_validators_are_kept_and_sent_back(base: str) -> None:
    first = get(f"{base}/tagged")
    assert first == Fetched(LIST, '"v1"', "yesterday")
    assert get(f"{base}/tagged", State("", "", 0, 0.0, first.etag)).data is None
    assert get(f"{base}/tagged", State("", "", 0, 0.0, "", "yesterday")).data is None
    assert get(f"{base}/tagged", State("", "", 0, 0.0, '"v0"')).data == LIST


@pytest.mark.parametrize("path", ["gzip", "gzfile", "moved"])
def test_compression_and_redirects_are_transparent(base: str, path: str) -> None:
    assert get(f"{base}/{path}").data == LIST


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("html", BadFeed, "an HTML page"),
        ("large", BadFeed, "larger than 1 MB"),
        ("bomb", BadFeed, "larger than 1 MB"),
        ("broken", BadFeed, "cut short"),
        ("brotli", BadFeed, "compression"),
        ("cut", Unavailable, "did not deliver"),
        ("error", Unavailable, "503"),
        ("loop", Unavailable, "redirects"),
    ],
)
def test_what_is_no_whole_list_is_an_error(base: str, path: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        get(f"{base}/{path}?token=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("path", ["drip", "silent"])
def test_a_slow_server_costs_no_more_than_the_time_out(base: str, path: str) -> None:
    with pytest.raises(Unavailable, match=r"time|took"):
        get(f"{base}/{path}", timeout=0.3)


def test_nobody_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="did not deliver"):
        get("http://127.0.0.1:1/x")


def test_files_are_read_from_where_the_configuration_is(tmp_path: Path) -> None:
    (tmp_path / "my list.txt").write_bytes(LIST)
    (tmp_path / "list.gz").write_bytes(gzip.compress(LIST))
    for url in ("file:my%20list.txt", f"file://{tmp_path}/my%20list.txt", "file:list.gz"):
        assert fetch(Source(name="f", url=url), base=tmp_path, state=None, timeout=1).data == LIST


def test_missing_large_and_odd_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1_000_001)
    for url, error in (("file:none", Unavailable), ("file:.", Unavailable), ("file:large", BadFeed)):
        with pytest.raises(error):
            fetch(Source(name="f", url=url, max_megabytes=1), base=tmp_path, state=None, timeout=1)


@settings(deadline=None)  # writes files
@given(st.binary(max_size=200), st.booleans(), st.integers(0, 15))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, packed: bool, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "list").write_bytes(gzip.compress(data)[:-cut] if packed and cut else data)
    try:
        found = fetch(Source(name="f", url="file:list"), base=folder, state=None, timeout=1)
    except BadFeed:
        return
    assert found.data == data


@pytest.mark.parametrize(
    ("data", "html"),
    [
        (b"<!DOCTYPE HTML>\n", True),
        (b"\xef\xbb\xbf\r\n<html lang=en>", True),
        (b"<!-- x -->\n<head>", True),
        (b"<html.example\n", False),
        (b"a.example\n<html>", False),
        (b"", False),
    ],
)
def test_a_web_page_is_known_by_its_beginning(data: bytes, html: bool) -> None:
    assert looks_like_html(data) is html
