"""A new configuration on its way to one process after the other, and back when one does not start with it.

Rules:
1. Nothing here waits: `step` is called on every turn of the supervisor's loop.
2. All processes end up with the same configuration, the new one or the one before.
3. Workers go one at a time, so that their cold caches do not all ask outside at once, and the hub last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from feeds.redis import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import Config
    from resolver.children import Child

HANDOVER: Final = 1.0  # seconds a predecessor may drain before the next process has its turn
FIXED: Final = ("listen", "workers", "data_dir", "user")  # keys of [server] that are taken in at the start only


class Rollout:
    """Brings `fresh` to all children; those that run with it already go back to `before` when one fails."""

    def __init__(self, children: Sequence[Child], *, fresh: Config, before: Config) -> None:
        self.fresh = fresh
        self._children = children
        self._before = before
        self._config = fresh
        self._queue = list(children)
        self._begun = False
        self._done_at = 0.0

    def step(self, now: float) -> bool | None:
        """Go on as far as it goes without waiting; None: not over; true: `fresh` is in force; false: `before` is."""
        while self._queue:
            child = self._queue[0]
            if not self._begun:
                child.replace(self._config, now)
                self._begun, self._done_at = True, 0.0
            outcome = child.progress(now)
            if outcome is None:
                return None
            self._done_at = self._done_at or now
            if outcome and child.draining() and now - self._done_at < HANDOVER:
                return None
            self._begun = False
            del self._queue[0]
            if not outcome and self._config is self.fresh:
                self._config = self._before
                self._queue = [each for each in self._children if each.config is not self._before]
        return self._config is self.fresh


def with_fixed(fresh: Config, *, running: Config, asked: Config) -> tuple[Config, list[str]]:
    """Return `fresh` with what cannot change as in `running`, and the keys in which it differs from `asked`.

    `asked` is the configuration of the start; a running node may differ from it in its sockets, given by systemd.
    """
    differ = [f"server.{key}" for key in FIXED if getattr(fresh.server, key) != getattr(asked.server, key)]
    server = msgspec.structs.replace(fresh.server, **{key: getattr(running.server, key) for key in FIXED})
    redis = fresh.redis
    if (fresh.redis.url == EMBEDDED) != (asked.redis.url == EMBEDDED):
        differ.append("redis.url")
        redis = running.redis
    return msgspec.structs.replace(fresh, server=server, redis=redis), differ
