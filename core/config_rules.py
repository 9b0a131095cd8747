"""What must hold between the values of a configuration, each of which is fine by itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from core.config_local import check_local
from core.config_read import Mistakes, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core import config

_BY_SDK: Final = frozenset({"tencent", "aws"})  # their SDKs know where they are asked


def check_together(found: config.Config, mistakes: Mistakes) -> None:
    """Add the mistakes of the whole, quiet about values whose own mistake is already told."""
    _check_server(found.server, mistakes)
    if found.cache.min_ttl > found.cache.max_ttl and not mistakes.has("cache"):
        mistakes.add("cache.min_ttl", f"is above max_ttl; write at most {found.cache.max_ttl}")
    _check_upstream(found.upstream, mistakes)
    check_local(found.local, mistakes)
    _check_repeated("upstream.zone", "name", [zone.name.lower().rstrip(".") for zone in found.upstream.zone], mistakes)
    _check_repeated("feeds.source", "name", [source.name for source in found.feeds.source], mistakes)
    _check_egress(found.egress, mistakes)


def _check_server(server: config.Server, mistakes: Mistakes) -> None:
    if not server.listen and not mistakes.has("server.listen"):
        mistakes.add("server.listen", 'is empty; write ["127.0.0.1:5353", "[::1]:5353"]')
    for at, twice in _repeats(server.listen):
        mistakes.add(f"server.listen[{at}]", f"{shown(twice)} is there already; remove it")


def _check_upstream(upstream: config.Upstream, mistakes: Mistakes) -> None:
    if mistakes.has("upstream.servers"):
        return
    if upstream.mode == "forward" and not upstream.servers:
        mistakes.add("upstream.servers", 'is empty though mode is "forward"; write ["192.0.2.1"] or mode = "recursive"')
    over_https = [text.startswith("https://") for text in upstream.servers]
    if any(over_https) and not all(over_https):
        mistakes.add("upstream.servers", "mixes https:// with others; write servers of one kind")
    for at, zone in enumerate(upstream.zone):
        if not zone.servers and not mistakes.has(f"upstream.zone[{at}].servers"):
            mistakes.add(f"upstream.zone[{at}].servers", 'is empty; write ["192.0.2.53"]')


def _check_egress(egress: config.Egress, mistakes: Mistakes) -> None:
    if egress.shortest > egress.longest and not mistakes.has("egress"):
        mistakes.add("egress.shortest", f"is above longest; write at most {egress.longest}")
    _check_repeated("egress.firewall", "name", [firewall.name for firewall in egress.firewall], mistakes)
    _check_repeated("egress.pin", "name", [pin.name for pin in egress.pin], mistakes)
    for at, firewall in enumerate(egress.firewall):
        needed = {"edl": "listen", "ipset": "list"}.get(
            firewall.kind, "url" if firewall.kind not in _BY_SDK else "list"
        )
        if not getattr(firewall, needed):
            mistakes.add(f"egress.firewall[{at}].{needed}", f"is empty; a firewall of kind {firewall.kind} needs it")


def _check_repeated(path: str, key: str, texts: list[str], mistakes: Mistakes) -> None:
    for at, twice in _repeats(texts):
        if twice:
            mistakes.add(f"{path}[{at}].{key}", f"{shown(twice)} is there already; write a name of its own")


def _repeats(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    seen: Counter[str] = Counter()
    for at, text in enumerate(texts):
        if seen[text]:
            yield at, text
        seen[text] += 1
