"""What analysts decide between generations: overrides in Redis, numbered changes, and which nodes have them in force.

Keys: `overlay` HASH, one field an override; `overlay:seq` number of the last change; `audit` stream of every change;
`nodes` ZSET of node names by their last heartbeat; `node:NAME` HASH of a heartbeat, which expires.

Rules:
1. A change is written first, then numbered, then announced with its number on CHANNEL: who reads after the
   announcement sees the change, and a node that has applied number n has applied everything up to n.
2. One override stands for one (name, client, view); a second replaces the first.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import UNREADABLE, BadName, Unavailable
from core.names import Name, to_text
from core.verdict import Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis import Redis

CHANNEL: Final = "plughole:overlay"
MAX_OVERRIDES: Final = 100_000  # about 30 MB in Redis; a feed is the place for more
MAX_AUDIT: Final = 100_000  # changes remembered, about 20 MB
MAX_TEXT: Final = 512  # characters of a reason, and of the name of who gave it
CONVICTS: Final = "detector:"  # how `by` begins when a detector put it
POLL_SECONDS: Final = 0.02
SILENT_SECONDS: Final = 86_400.0  # a node unheard of for a day is forgotten


class Override(msgspec.Struct, frozen=True, array_like=True):
    """An analyst's word on a name and everything below it, for everybody, one client address or one view."""

    name: Name
    action: Action
    client: str = ""
    view: str = ""
    expires: float = 0.0  # Unix seconds; 0: never
    reason: str = ""
    by: str = ""
    created: float = 0.0  # Unix seconds

    @property
    def convicts(self) -> bool:
        """True for a detector's word, which any person's beats."""
        return self.by.startswith(CONVICTS)

    @property
    def field(self) -> bytes:
        """What tells this override from others in the HASH."""
        return _field(self.name, self.client, self.view)

    def holds(self, now: float) -> bool:
        """True until it expires."""
        return not self.expires or self.expires > now


class Change(msgspec.Struct, frozen=True):
    """A line of the audit trail."""

    at: float  # Unix seconds
    what: str  # put, forget or expire
    name: str
    client: str
    view: str
    action: str
    expires: float
    reason: str
    by: str


class Overlay:
    """The overrides of one Redis. Every method raises Unavailable when Redis does not answer."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client  # redis-py types each answer as a value or an awaitable

    def put(self, override: Override) -> int:
        """Write an override, replacing one of the same name, client and view; returns the number of the change.

        Raises BadName when the reason is too long or there are MAX_OVERRIDES already.
        """
        if max(len(override.reason), len(override.by), len(override.client), len(override.view)) > MAX_TEXT:
            raise BadName(f"a reason, person, client or view of more than {MAX_TEXT} characters; shorten it")
        with _redis():
            if self._client.hlen("overlay") >= MAX_OVERRIDES and not self._client.hexists("overlay", override.field):
                raise BadName(f"there are {MAX_OVERRIDES:,} overrides already; put such lists into a feed")
            self._client.hset("overlay", override.field, _encode(override))
            return self._changed("put", override, at=override.created, by=override.by)

    def forget(self, name: Name, client: str | None = None, *, by: str = "", now: float) -> int | None:
        """Delete the name's overrides, only those of one client (`""`: of nobody in particular) when it is given.

        Returns the number of the last change, or None when there was nothing to forget.
        """
        gone = [item for item in self._all() if item.name == name and client in (None, item.client)]
        return self._delete("forget", gone, by=by, now=now)

    def all(self, now: float) -> list[Override]:
        """Return the overrides in force, oldest first."""
        return sorted((item for item in self._all() if item.holds(now)), key=lambda item: (item.created, item.field))

    def prune(self, now: float) -> int:
        """Delete what has expired; returns how many went. Nodes let them lapse by themselves."""
        gone = [item for item in self._all() if not item.holds(now)]
        self._delete("expire", gone, by="", now=now)
        return len(gone)

    def seq(self) -> int:
        """Return the number of the last change, 0 before the first."""
        with _redis():
            return int(self._client.get("overlay:seq") or 0)

    def audit(self, count: int = 100) -> list[Change]:
        """Return the last changes, newest first."""
        with _redis():
            entries = self._client.xrevrange("audit", count=count)
        return [msgspec.json.decode(fields[b"change"], type=Change) for _, fields in entries]

    def heartbeat(self, node: str, fields: Mapping[str, str | int | float], *, ttl: float, now: float) -> None:
        """Say that a node lives, with what it wants known (`applied_seq` among it); forgotten after `ttl` seconds."""
        key = f"node:{node}"
        with _redis():
            self._client.hset(key, mapping=dict(fields))
            self._client.pexpire(key, int(ttl * 1000))
            self._client.zadd("nodes", {node: now})
            self._client.zremrangebyscore("nodes", "-inf", now - SILENT_SECONDS)

    def leave(self, node: str) -> None:
        """Say that a node has stopped: nobody waits for it any more."""
        with _redis():
            self._client.delete(f"node:{node}")

    def nodes(self) -> dict[str, dict[str, str]]:
        """Return the last heartbeat of every node that lives."""
        with _redis():
            names = [name.decode() for name in self._client.zrange("nodes", 0, -1)]
            beats = {name: self._client.hgetall(f"node:{name}") for name in names}
        return {
            name: {key.decode(): value.decode("utf-8", "replace") for key, value in beat.items()}
            for name, beat in beats.items()
            if beat
        }

    def wait_applied(self, seq: int, timeout: float) -> list[str]:
        """Wait until every living node has applied change `seq`; returns those that had not after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            behind = [name for name, beat in self.nodes().items() if _number(beat.get("applied_seq", "")) < seq]
            if not behind or time.monotonic() >= deadline:
                return behind
            time.sleep(POLL_SECONDS)

    def _all(self) -> list[Override]:
        with _redis():
            values = self._client.hvals("overlay")
        try:
            return [_decode(value) for value in values]
        except UNREADABLE:
            raise Unavailable("the key `overlay` in Redis was written by something else; delete it") from None

    def _delete(self, what: str, gone: list[Override], *, by: str, now: float) -> int | None:
        number = None
        with _redis():
            for item in gone:
                self._client.hdel("overlay", item.field)
                number = self._changed(what, item, at=now, by=by)
        return number

    def _changed(self, what: str, item: Override, *, at: float, by: str) -> int:
        change = Change(
            at, what, _shown(item.name), item.client, item.view, item.action.name, item.expires, item.reason, by
        )
        number = int(self._client.incr("overlay:seq"))
        entry = {"seq": number, "change": msgspec.json.encode(change)}
        self._client.xadd("audit", entry, maxlen=MAX_AUDIT, approximate=True)
        self._client.publish(CHANNEL, number)
        return number


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Override).decode


@contextmanager
def _redis() -> Iterator[None]:
    from redis.exceptions import RedisError  # workers import this module for `Override` alone

    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis: {error}") from None


def _field(name: Name, client: str, view: str) -> bytes:
    return b"|".join((name, client.encode(), view.encode()))


def _shown(name: Name) -> str:
    """Return the name as text; keys that are no names (addresses) as hexadecimal."""
    return to_text(name) if name[:1] != b"\x00" or len(name) == 1 else name.hex()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1
