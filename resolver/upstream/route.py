"""Which engine is asked: the one of the longest zone that holds the name, else the default one; and their making."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from core.names import ROOT, from_text, suffixes
from core.servers import Server, parse_server
from resolver.dns64 import Dns64
from resolver.upstream.forward import Forward
from resolver.upstream.translated import Translated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from core.config import Config, Zone
    from core.config import Upstream as Settings
    from core.names import Name
    from resolver.upstream import Answer, Question, Upstream


class Route:
    """An `Upstream` over several: each of `zones` gets the names at and under its apex, `default` the others."""

    def __init__(self, default: Upstream, zones: Sequence[tuple[Name, Upstream]]) -> None:
        self._default = default
        self._zones = dict(zones)
        self._engines = list(dict.fromkeys([default, *self._zones.values()]))

    def start(self) -> None:
        """Start every engine; when one cannot, those already started are closed and its error is raised."""
        started: list[Upstream] = []
        try:
            for engine in self._engines:
                engine.start()
                started.append(engine)
        except BaseException:
            for engine in started:
                engine.close()
            raise

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Have the engine of the longest matching zone resolve."""
        zones = self._zones
        for name in suffixes(question.qname):
            if (engine := zones.get(name)) is not None:
                engine.ask(question, done)
                return
        zones.get(ROOT, self._default).ask(question, done)

    def close(self) -> None:
        """Close every engine."""
        for engine in self._engines:
            engine.close()

    def counters(self) -> dict[str, int]:
        """Return the sums over all engines."""
        total: dict[str, int] = {}
        for engine in self._engines:
            for name, count in engine.counters().items():
                total[name] = total.get(name, 0) + count
        return total


def build(settings: Settings, *, base: Path) -> Upstream:
    """Return the engine, or engines, that `settings` ask for; relative files are looked for in `base`.

    Raises ValueError (BadName included) with one line for servers and zones that cannot be used.
    """
    default = _engine(settings, base=base, where="upstream")
    zones = [(from_text(zone.name), _zone(zone, settings, base=base)) for zone in settings.zone]
    return Route(default, zones) if zones else default


def in_front(engine: Upstream, config: Config) -> Upstream:
    """Return the engine with what else `config` wants before it: IPv6 addresses made from IPv4 ones."""
    prefix = config.local.dns64_prefix
    return Translated(engine, Dns64(prefix)) if prefix else engine


def _zone(zone: Zone, settings: Settings, *, base: Path) -> Upstream:
    """Return the engine of a conditional zone, which forwards with the limits of the whole."""
    own = msgspec.structs.replace(settings, mode="forward", servers=zone.servers, dnssec=zone.dnssec, zone=())
    return _engine(own, base=base, where=f"upstream.zone {zone.name}")


def _engine(settings: Settings, *, base: Path, where: str) -> Upstream:
    if settings.mode == "recursive" or settings.dnssec:
        from resolver.upstream.unbound import Unbound  # libunbound: only for those who ask for it

        return Unbound(msgspec.structs.replace(settings, zone=()), base=base)
    servers = [parse_server(text) for text in settings.servers]
    if not servers:
        raise ValueError(f'{where}.servers: empty; name at least one, such as "192.0.2.1"')
    return _forwarder(servers, settings, where=where)


def _forwarder(servers: list[Server], settings: Settings, *, where: str) -> Upstream:
    secure = [server.scheme == "https" for server in servers]
    if not any(secure):
        return Forward(servers, settings=settings)
    if not all(secure):
        raise ValueError(f"{where}.servers: https:// cannot be mixed with others; name servers of one kind")
    from resolver.upstream.doh import Doh  # an HTTP client of 0.2 s to import: only for those who ask for it

    known = {server.address: server.connect_to for server in servers if server.connect_to}
    return Doh(servers, settings=settings, bootstrap=known)
