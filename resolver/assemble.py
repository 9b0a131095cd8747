"""Puts the pipeline of one worker together from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.names import from_text
from detectors.registry import leak_meter
from resolver import minimal
from resolver.blocking import Blocker
from resolver.chaos import Chaos
from resolver.dns64 import Dns64
from resolver.limits import Damper, Limits
from resolver.local import LocalZones
from resolver.manners import Manners
from resolver.metering import Metering
from resolver.pipeline import Pipeline
from resolver.policy import Policy
from resolver.rebind import Rebind
from resolver.render import Renderer
from resolver.replies import Replies
from resolver.sinkhole import Sinkhole
from resolver.telling import Teller

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.config import Config
    from resolver.cookies import Cookies
    from resolver.outbox import Outbox
    from resolver.upstream import Upstream

_MEGABYTE: Final = 1_048_576


def assemble(
    config: Config,
    *,
    workers: int,
    upstream: Upstream,
    outbox: Outbox,
    clock: Callable[[], float],
    wall: Callable[[], float],
    cookies: Cookies | None = None,
) -> Pipeline:
    """Return the pipeline of one of `workers` workers.

    `clock` gives seconds that never go back, for all that is kept; `wall` Unix seconds, for events and for cookies.
    Raises BadConfig for a hosts file that cannot be read.
    """
    server, local = config.server, config.local
    zones = [zone.name for zone in config.upstream.zone]
    rebind = Rebind([*local.rebind_allow, *zones]) if local.rebind_protection else None
    policy = Policy(cache_bytes=config.cache.max_megabytes * _MEGABYTE // workers, rebind=rebind)
    prefix = local.dns64_prefix
    renderer = Renderer(server.udp_size, rotate=server.rotate)
    sinkhole = Sinkhole(config.sinkhole)
    teller = Teller(outbox, wall)
    inside = [from_text(name) for name in zones]
    meter = leak_meter(config.detectors, started=wall())
    return Pipeline(
        policy=policy,
        upstream=upstream,
        renderer=renderer,
        blocker=Blocker(renderer, sinkhole, teller),
        replies=Replies(policy, sinkhole, config.cache, Dns64(prefix) if prefix else None),
        manners=Manners(renderer, Chaos(server.identity, server.version), cookies, idle=server.tcp_idle, wall=wall),
        local=LocalZones(local, base=Path(config.base), zones=inside, hosts=config.hosts),
        limits=Limits(config.limits),
        damper=Damper(config.limits.misses_per_domain),
        teller=teller,
        clock=clock,
        minimal=minimal.ANSWER if server.any == "minimal" else None,
        metering=Metering(meter, inside, wall) if meter is not None else None,
    )
