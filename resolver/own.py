"""Which networks are the organisation's own, by its configuration: no verdict may cut them off.

Rules:
1. A network as wide as a continent is no network of one's own, though its clients may ask: it is passed over.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.endpoints import packed
from core.servers import parse_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.config import Config

MIN_BITS: Final = {4: 8, 6: 19}  # the widest networks that registries give to one organisation
MAX_HINTS: Final = 1 << 20  # octets of a file of root hints that are read


def own_networks(config: Config) -> dict[str, list[str]]:
    """Return networks and addresses in text, by what they are; what cannot be read is passed over."""
    upstream = config.upstream
    texts = [*upstream.servers, *(text for zone in upstream.zone for text in zone.servers)]
    return {
        "an address of this resolver": [
            address for address in map(_host, config.server.listen) if address and not _unspecified(address)
        ],
        "the sinkhole": [config.sinkhole.ipv4, config.sinkhole.ipv6],
        "a server this resolver asks": [address for text in texts for address in _addresses(text)],
        "a root server of this resolver": _hints(config),
        "a network of server.allow_from": [network for network in config.server.allow_from if _narrow(network)],
    }


def _host(endpoint: str) -> str:
    host = endpoint.rpartition(":")[0].strip("[]")
    return host if packed(host) else ""


def _addresses(server: str) -> Iterator[str]:
    parsed = parse_server(server)
    yield from (text for text in (parsed.address, parsed.connect_to) if packed(text))


def _hints(config: Config) -> list[str]:
    """Return the addresses in the file of root hints, none when it names none or cannot be read."""
    if not config.upstream.root_hints:
        return []
    try:
        with (Path(config.base) / config.upstream.root_hints).open(encoding="ascii", errors="replace") as file:
            words = [line.partition(";")[0].split() for line in file.read(MAX_HINTS).splitlines()]
    except OSError:
        return []
    return [found[-1] for found in words if found and packed(found[-1])]


def _narrow(network: str) -> bool:
    parsed = ip_network(network, strict=False)
    return parsed.prefixlen >= MIN_BITS[parsed.version]


def _unspecified(text: str) -> bool:
    return ip_address(text).is_unspecified
