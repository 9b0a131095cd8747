"""What the texts of the configuration must look like: one check a form, each telling what to write instead.

A check returns nothing and raises ValueError with the rest of the sentence "VALUE ...; write ...".
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from core.endpoints import parse_endpoint
from core.errors import BadName
from core.names import from_text
from core.servers import Server, parse_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")
DNS64_LENGTHS: Final = (32, 40, 48, 56, 64, 96)
FEED_SCHEMES: Final = ("file", "http", "https")
SECRET_FORMS: Final = frozenset(
    {"redis url", "feed url", "feed url or empty", "http url or empty"}
)  # may carry a password or a token: never quoted

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER: Final = re.compile(r"([a-z_][a-z0-9_-]{0,30}\$?)?")  # as adduser allows; empty: stay who we are
_SHOWN: Final = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")


def _word(text: str) -> None:
    if not _SHOWN.fullmatch(text):
        raise ValueError("is empty, too long or has control characters; write a word")


def _file(text: str) -> None:
    if text:
        _word(text)


def _label(text: str) -> None:
    if not _LABEL.fullmatch(text):
        near = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")
        raise ValueError(f'is not made of a-z, 0-9 and inner hyphens; write "{near or "my-feed"}"')


def _label_or_empty(text: str) -> None:
    if text:
        _label(text)


def _user(text: str) -> None:
    if not _USER.fullmatch(text):
        raise ValueError('is not a user name; write "plughole", or "" to stay who started it')


def _network(text: str) -> None:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('is not a network; write "192.0.2.0/24" or "2001:db8::/32"') from None
    if network.network_address != ip_address(text.partition("/")[0]):
        raise ValueError(f'has bits set behind its prefix; write "{network}"')


def _ipv4(text: str) -> None:
    try:
        IPv4Address(text)
    except AddressValueError:
        raise ValueError('is not an IPv4 address; write "192.0.2.1"') from None


def _ipv6(text: str) -> None:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise ValueError('is not an IPv6 address; write "2001:db8::1"') from None
    if address.scope_id is not None:
        raise ValueError('has a scope, which an answer cannot carry; write "2001:db8::1"')


def _zone_name(text: str) -> None:
    try:
        name = from_text(text)
    except BadName as error:
        raise ValueError(f'is not a domain name ({error}); write "corp.example"') from None
    if len(name) == 1:
        raise ValueError('is the root, which [upstream] itself serves; write "corp.example"')


def _endpoint(text: str) -> None:
    parse_endpoint(text)


def _endpoint_or_empty(text: str) -> None:
    if text:
        parse_endpoint(text)


def _dns64_prefix(text: str) -> None:
    """RFC 6052 section 2.2 allows these lengths."""
    if not text:
        return
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f'is not a network ({error}); write "64:ff9b::/96"') from None
    if network.version != 6 or network.prefixlen not in DNS64_LENGTHS:
        raise ValueError('is not an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits; write "64:ff9b::/96"')
    if network.network_address.packed[8]:
        raise ValueError('has bits 64 to 71 set, which RFC 6052 keeps zero; write "64:ff9b::/96"')


def _server(text: str) -> None:
    _parsed(text)


def _parsed(text: str) -> Server:
    try:
        return parse_server(text)
    except ValueError as error:
        raise ValueError(f"is no server: {str(error).removeprefix(f'{text!r}: ')}") from None


def _zone_server(text: str) -> None:
    if _parsed(text).scheme == "https":
        raise ValueError(
            'is DNS over HTTPS, which a zone cannot use; write "192.0.2.53" or "tls://192.0.2.53#ns.example"'
        )


def _redis_url(text: str) -> None:
    if text == "embedded":
        return
    parts = _split(text)
    if parts.scheme not in REDIS_SCHEMES:
        raise ValueError(
            f'is not "embedded" and has no scheme of {_any(REDIS_SCHEMES)}; write "redis://127.0.0.1:6379/0"'
        )
    if parts.scheme == "unix" and not parts.path:
        raise ValueError('names no socket; write "unix:///run/redis/redis.sock"')
    if parts.scheme != "unix" and not parts.netloc:
        raise ValueError(f'names no host; write "{parts.scheme}://127.0.0.1:6379"')


def _feed_url(text: str) -> None:
    parts = _split(text)
    if parts.scheme not in FEED_SCHEMES:
        raise ValueError(f'has no scheme of {_any(FEED_SCHEMES)}; write "https://lists.example/malware.txt"')
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError(f'names no host; write "{parts.scheme}://lists.example/malware.txt"')
    if parts.scheme == "file" and (parts.netloc not in ("", "localhost") or not parts.path):
        raise ValueError('names no file of this host; write "file:///absolute/list.txt" or "file:beside/config.txt"')


def _feed_url_or_empty(text: str) -> None:
    if text:
        _feed_url(text)


def _http_url_or_empty(text: str) -> None:
    if not text:
        return
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError('is no address of a web service; write "https://firewall.example"')


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = "," in parts.netloc or parts.port  # asked for its check; Sentinel and Cluster name several hosts
    except ValueError as error:
        raise ValueError(f"is not a URL ({error}); write SCHEME://HOST/PATH") from None
    if not text.isprintable() or " " in text:
        raise ValueError("has blanks or control characters; write %20 for a blank")
    return parts


def _any(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}:" for scheme in schemes)


CHECKS: Final[Mapping[str, Callable[[str], None]]] = {
    "dns64 prefix": _dns64_prefix,
    "endpoint": _endpoint,
    "endpoint or empty": _endpoint_or_empty,
    "feed url": _feed_url,
    "feed url or empty": _feed_url_or_empty,
    "file": _file,
    "http url or empty": _http_url_or_empty,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "label": _label,
    "label or empty": _label_or_empty,
    "network": _network,
    "redis url": _redis_url,
    "server": _server,
    "user": _user,
    "word": _word,
    "zone name": _zone_name,
    "zone server": _zone_server,
}
