"""The checks of `plughole doctor`, one small generator each, in the order in which they are shown."""

from __future__ import annotations

from typing import Final

from console.checkups.access import loop, open_resolver, resolv_conf
from console.checkups.clock import clock
from console.checkups.host import Check, Finding, Host, System
from console.checkups.machine import buffers, descriptors, libraries, overflow, workers
from console.checkups.outside import upstream
from console.checkups.ports import ports
from console.checkups.rights import data_dir, privileges
from console.checkups.running import node
from console.checkups.stores import disk, feeds, parts, redis

__all__ = ["ALL", "Check", "Finding", "Host", "System"]

ALL: Final[tuple[Check, ...]] = (
    ports, resolv_conf, loop, clock, open_resolver, privileges, data_dir, disk, parts, libraries, redis, feeds,
    descriptors, buffers, overflow, workers, upstream, node,
)  # fmt: skip
