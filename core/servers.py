"""The text that names an upstream server, read strictly: nothing but its parts ever reaches an engine's configuration.

Accepted:
1. Plain DNS: `192.0.2.1`, `192.0.2.1@5300`, `2001:db8::1`, `2001:db8::1@5300`, `[2001:db8::1]@5300`.
2. DNS over TLS: `tls://ADDRESS[@PORT]#NAME`; the name the certificate must carry is never optional.
3. DNS over HTTPS: `https://HOST[:PORT]/PATH[#ADDRESS]`; the address spares looking the host up.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

DNS_PORT: Final = 53
TLS_PORT: Final = 853  # RFC 7858 section 3.1
HTTPS_PORT: Final = 443
MAX_TEXT: Final = 1_024  # characters; a URL longer than this is a mistake
MAX_HOST: Final = 253  # characters of a host name, RFC 1123

_PRINTABLE: Final = re.compile(r"[!-~]+")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # an interface name, IFNAMSIZ less its zero byte
_FORBIDDEN_IN_URL: Final = frozenset("\"'<>\\^`{|}#")


class Server(NamedTuple):
    """One upstream server.

    `address` is an IP address without brackets (for `https` the host of the URL, which may be a name), `auth_name`
    what the certificate must carry (`tls` only), `url` the whole address and `connect_to` the IP address of its host,
    when that is given (`https` only).
    """

    scheme: Literal["udp", "tls", "https"]
    address: str
    port: int
    auth_name: str = ""
    url: str = ""
    connect_to: str = ""

    @property
    def text(self) -> str:
        """The server for a log line, in the form `parse_server` accepts."""
        if self.scheme == "https":
            return self.url
        return (
            f"tls://{self.address}@{self.port}#{self.auth_name}"
            if self.scheme == "tls"
            else f"{self.address}@{self.port}"
        )


def parse_server(text: str) -> Server:
    """Return the server `text` names; raises ValueError with one line that says what is wrong and what to write."""
    if not _PRINTABLE.fullmatch(text) or len(text) > MAX_TEXT:
        raise ValueError(f"{text[:80]!r}: a server is 1 to {MAX_TEXT} visible ASCII characters without blanks")
    scheme, mark, rest = text.partition("://")
    if not mark:
        address, port = _address_and_port(text, default=DNS_PORT)
        return Server("udp", address, port)
    match scheme.lower():
        case "tls":
            return _tls(text, rest)
        case "https":
            return _https(text)
        case _:
            raise ValueError(
                f"{text!r}: unknown scheme {scheme!r}; write an address, tls://ADDRESS#NAME or https://URL"
            )


def _tls(text: str, rest: str) -> Server:
    endpoint, mark, name = rest.partition("#")
    if not mark:
        raise ValueError(f"{text!r}: no certificate name; write tls://{rest}#dns.example with the name it must carry")
    if not _is_host(name):
        raise ValueError(f"{text!r}: {name!r} is not a host name")
    address, port = _address_and_port(endpoint, default=TLS_PORT)
    return Server("tls", address, port, auth_name=name.removesuffix(".").lower())


def _https(text: str) -> Server:
    text, mark, connect_to = text.partition("#")
    if found := sorted(_FORBIDDEN_IN_URL.intersection(text)):
        raise ValueError(f"{text!r}: {found[0]!r} is not allowed in a URL; write https://dns.example/dns-query")
    try:
        parts = urlsplit(text)
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if "@" in parts.netloc:
        raise ValueError(f"{text!r}: a URL may carry no user name or password")
    if not 0 < port <= 65_535:
        raise ValueError(f"{text!r}: port {port} is not 1 to 65535")
    return Server("https", _url_host(text, parts), port, url=text, connect_to=_address(connect_to) if mark else "")


def _url_host(text: str, parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("[") or host.replace(".", "").isdigit():
        return _address(host)
    if not _is_host(host):
        raise ValueError(f"{text!r}: {host!r} is not a host name")
    return host


def _address_and_port(text: str, *, default: int) -> tuple[str, int]:
    address, mark, port = text.partition("@")
    if address.startswith("[") and address.endswith("]") and ":" in address:
        address = address[1:-1]
    return _address(address), _port(text, port) if mark else default


def _port(text: str, port: str) -> int:
    if not _PORT.fullmatch(port) or not 0 < int(port) <= 65_535:
        raise ValueError(f"{text!r}: port {port!r} is not 1 to 65535; write ADDRESS@PORT")
    return int(port)


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IP address; write 192.0.2.1, 192.0.2.1@5300 or 2001:db8::1@5300"
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text!r} is not the address of one server")
    if isinstance(address, IPv6Address) and address.scope_id and not _SCOPE.fullmatch(address.scope_id):
        raise ValueError(f"{text!r}: {address.scope_id!r} is not an interface")
    return str(address)


def _is_host(text: str) -> bool:
    return len(text) <= MAX_HOST and _HOST.fullmatch(text.removesuffix(".")) is not None
