"""A firewall's web service: requests that end in time, replies that have a size, errors of one line without a secret.

Rules:
1. A certificate is always checked, redirects are not followed, proxies of the environment are not used.
2. A request is tried once more when the connection broke, never when time ran out.
3. A key goes into a header, never into a URL.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog

from core.errors import UNREADABLE
from egress.enforcer import Refused
from egress.firewalls.listed import Rejected
from egress.firewalls.secret import NONE, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from core.config import Firewall

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0  # of silence
TOTAL_SECONDS: Final = 20.0  # of one request
MAX_REPLY: Final = 16 * 1024 * 1024  # octets; 100,000 entries of JSON are less
MAX_SHOWN: Final = 200  # characters of a reply's own words
TRIES: Final = 2
USER_AGENT: Final = "plughole/1"  # CrowdSec turns away a name without a version
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_BROKEN: Final = (httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
_Type = TypeVar("_Type")
_log = structlog.get_logger("egress")


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Service:
    """One firewall's web service, over one connection. Not safe across threads."""

    def __init__(
        self,
        firewall: Firewall,
        base: Path,
        *,
        secret: Secret = NONE,
        headers: Mapping[str, str] | None = None,
        basic: bool = False,
    ) -> None:
        """`basic`: `user` and the secret are sent as HTTP basic authentication."""
        self.what = f"{firewall.kind} {firewall.name}"
        if not firewall.url:
            raise Refused(f"{self.what}: needs url")
        _warn_of_clear_text(firewall)
        self._secret = secret
        self._stream: Any = None
        self._client = httpx2.Client(
            base_url=firewall.url,
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity", **(headers or {})},
            auth=httpx2.BasicAuth(firewall.user, secret.reveal()) if basic else None,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
            verify=_trust(firewall, base),
            follow_redirects=False,
            trust_env=False,
        )

    def close(self) -> None:
        """The connection is closed."""
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        fine: tuple[int, ...] = (),
    ) -> Reply:
        """Return the reply when its status is 2xx or in `fine`.

        Raises `Rejected` for 400, 404, 409 and 422, which blame what was asked, and `Refused` for all else.
        """
        body, kind = _body(json, form, content)
        request = self._client.build_request(
            method, path, params=params, content=body, headers={**kind, **(headers or {})},
            extensions={"trace": self._trace, "timeout": self._client.timeout.as_dict()},
        )  # fmt: skip
        reply = self._tried(request)
        if 200 <= reply.status < 300 or reply.status in fine:
            return reply
        raise self._fault(reply)

    def read(self, reply: Reply, form: type[_Type]) -> _Type:
        """Return the JSON body as that type; raises Refused when it is something else."""
        try:
            return msgspec.json.decode(reply.body, type=form)
        except UNREADABLE:
            raise self.strange() from None

    def strange(self) -> Refused:
        """Return the error that says: this is not what such a firewall answers."""
        return Refused(f"{self.what}: the answer is not that of such a firewall")

    def shown(self, text: str) -> str:
        """Return a reply's words as part of one line: bounded, printable, without the secret."""
        plain = "".join(each if each.isprintable() else " " for each in self._secret.hidden_in(text[: 8 * MAX_SHOWN]))
        return " ".join(plain.split())[:MAX_SHOWN]

    def _tried(self, request: httpx2.Request) -> Reply:
        for left in reversed(range(TRIES)):
            try:
                with self._in_time():
                    return self._sent(request)
            except _BROKEN as error:
                if not left:
                    raise Refused(f"{self.what}: does not answer: {_reason(error)}") from None
            except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
                raise Refused(f"{self.what}: does not answer: {_reason(error)}") from None
        raise Refused(f"{self.what}: does not answer")

    def _sent(self, request: httpx2.Request) -> Reply:
        response = self._client.send(request, stream=True)
        with contextlib.closing(response):
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise Refused(f"{self.what}: sent a compression that was not asked for")
            found: list[bytes] = []
            size = 0
            for piece in response.iter_raw():
                size += len(piece)
                if size > MAX_REPLY:
                    raise Refused(f"{self.what}: answers with more than {MAX_REPLY >> 20} MB")
                found.append(piece)
            return Reply(response.status_code, b"".join(found))

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._stream = info.get("return_value")

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Cut the connection when the whole takes too long: a server may drip octets for ever."""
        over = threading.Event()

        def cut() -> None:
            over.set()
            with contextlib.suppress(OSError, AttributeError, TypeError):  # there may be none yet, or no more
                socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)

        timer = threading.Timer(TOTAL_SECONDS, cut)
        timer.daemon = True
        timer.start()
        late = Refused(f"{self.what}: takes more than {TOTAL_SECONDS:g} s to answer")
        try:
            yield
        except _BROKEN:
            if over.is_set():
                raise late from None
            raise
        finally:
            timer.cancel()
        if over.is_set():  # a body that ends with the connection has only ended because we cut it
            raise late

    def _fault(self, reply: Reply) -> Refused | Rejected:
        said = self.shown(reply.body[:4_096].decode("utf-8", "replace"))
        words = f": {said}" if said and not said.startswith("<") else ""
        if reply.status in {400, 404, 409, 422}:
            return Rejected(f"refused ({reply.status}){words}")
        if reply.status in {401, 403}:
            return Refused(f"{self.what}: does not accept our key or user ({reply.status})")
        if reply.status == 429:
            return Refused(f"{self.what}: too many requests for it (429)")
        return Refused(f"{self.what}: answered {reply.status}{words}")


def _body(json: Any, form: Mapping[str, str] | None, content: bytes | None) -> tuple[bytes | None, dict[str, str]]:
    if json is not None:
        return msgspec.json.encode(json), {"content-type": "application/json"}
    if form is not None:
        coded = str(httpx2.QueryParams(dict(form)))
        return coded.encode(), {"content-type": "application/x-www-form-urlencoded"}
    return content, {"content-type": "application/json"} if content is not None else {}


def _trust(firewall: Firewall, base: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(base / firewall.tls_ca_file) if firewall.tls_ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"{firewall.kind} {firewall.name}: tls_ca_file: {error.strerror or error}") from None


def _warn_of_clear_text(firewall: Firewall) -> None:
    parts = urlsplit(firewall.url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and firewall.secret_file:
        _log.warning("a firewall's secret goes over the network in clear; use https", firewall=firewall.name)


def _reason(error: Exception) -> str:
    """Return why, without a URL."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    text = "" if "://" in str(error) else " ".join(str(error).split())[:MAX_SHOWN]
    return f"{kind} ({text})" if text else kind
