"""An agent put together as the configuration says."""

from __future__ import annotations

import re
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from core.endpoints import packed
from core.errors import Unavailable
from egress import firewalls, host
from egress.agent import Agent, Timing
from egress.caps import Caps
from egress.clock import Clock
from egress.conntrack import Flows
from egress.desk import Desk
from egress.link import Link
from egress.nflog import Attempts
from egress.nftables import Nftables
from egress.pins.server import PinServer
from egress.plan import Ledger, Lifetimes
from egress.posts import Front, Side
from egress.reserved import Carriers, reserved
from egress.store import Store
from egress.talkers import Talkers

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from core.config import Config
    from egress.part import Part
    from egress.posts import Post
    from egress.ranges import Ranges

FOLDER: Final = "egress"  # below the data folder
_ODD: Final = re.compile(r"[^A-Za-z0-9_-]+")


def name_of(config: Config) -> str:
    """Return the agent's name: the configured one, else the host's without its domain."""
    return config.egress.agent or _ODD.sub("-", socket.gethostname().partition(".")[0]) or "agent"


def build(
    config: Config,
    connect: Callable[[], Redis],
    *,
    timing: Timing | None = None,
    alive: Callable[[str], None] = lambda _: None,
) -> Agent:
    """Return the agent; nothing is opened before it runs."""
    egress, name, clock = config.egress, name_of(config), Clock()
    lifetimes = Lifetimes(
        factor=egress.factor, floor=egress.shortest, ceiling=egress.longest, pair_ceiling=egress.longest_pair
    )
    never = Never(config)
    carriers = Carriers(filter(None, [config.local.dns64_prefix]))
    desk = Desk(Ledger(lifetimes), Caps(egress, never.ranges, carriers), name=name)
    pins, talkers = PinServer(config), Talkers(name)
    return Agent(
        name=name,
        mode=egress.mode,
        desk=desk,
        store=Store(config.data_dir / FOLDER / f"{name}.sqlite"),
        link=Link(connect, name),
        posts=_posts(config, clock),
        parts=[*_parts(config, name, desk, pins), *([talkers] if egress.flows else [])],
        clock=clock,
        timing=timing,
        never=never,
        switch=lambda on: pins.panic(on=on),
        ask=talkers.ask if egress.flows else lambda _: None,
        alive=alive,
    )


class Never:
    """What is never blocked here: reserved networks, this host's addresses and gateways, what the configuration names.

    Calling it gives them when they have changed since the last call, else None.
    """

    def __init__(self, config: Config) -> None:
        self._fixed = {
            "a network of egress.never": tuple(config.egress.never),
            "an address this agent needs": tuple(_needed(config)),
        }
        self._own: dict[str, tuple[str, ...]] = {}
        self.ranges = reserved(self._fixed)

    def __call__(self) -> Ranges | None:
        """Look at the host again; while it does not tell, what it told last stays."""
        try:
            own = {"an address of this host": tuple(host.addresses()), "a gateway": tuple(host.gateways())}
        except Unavailable:
            return None
        if own == self._own:
            return None
        self._own = own
        self.ranges = reserved({**own, **self._fixed})
        return self.ranges


def _posts(config: Config, clock: Clock) -> list[Post]:
    egress = config.egress
    posts: list[Post] = []
    if egress.target == "nftables":
        make = partial(Nftables, log_group=egress.log_group, act="reject" if egress.mode == "enforce" else "count")
        posts.append(Front("nftables", make, active=egress.mode != "observe"))
    for firewall in egress.firewall:
        other = partial(firewalls.build, firewall, Path(config.base), config.data_dir / FOLDER)
        posts.append(Side(Front(firewall.name, other, active=egress.mode == "enforce"), clock))
    return posts


def _parts(config: Config, name: str, desk: Desk, pins: PinServer) -> list[Part]:
    egress = config.egress
    parts: list[Part] = []
    if egress.target == "nftables" and (egress.pin or egress.mode != "observe"):
        parts += [Attempts(name, desk.ledger.addresses.__contains__, group=egress.log_group), pins]
    if egress.flows:
        parts.append(Flows(name))
    return parts


def _needed(config: Config) -> list[str]:
    """Return the addresses, where they are no names, of Redis and of the other firewalls."""
    found = [urlsplit(config.redis.url).hostname, *(urlsplit(each.url).hostname for each in config.egress.firewall)]
    return [text for text in found if text and packed(text)]
