"""The agent's end of Redis: orders in their order, answers, refusals, what was seen, heartbeats.

Rules:
1. The place in the stream is the agent's own, kept with its rows; the consumer group is set to it at each `join`.
2. An entry's age is told by Redis' clock alone, so that nodes and agents need not agree on the time.
3. Every method raises `Away` when Redis does not do it; then the next `join` begins anew.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from redis.exceptions import RedisError, ResponseError

from core.errors import UNREADABLE, PlugholeError
from egress.orders import (
    AGENTS,
    ANSWER,
    ANSWER_TTL,
    FIELD,
    MAX_REFUSED,
    MAX_SEEN,
    ORDERS,
    REFUSED,
    SEEN,
    Heartbeat,
    Seen,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from redis import Redis

    from egress.orders import Refusal, Report

BEGINNING: Final = "0-0"
CONSUMER: Final = "agent"
MAX_READ: Final = 500  # orders at once
MAX_EVENTS: Final = 1000  # of an entry of `egress:seen`

_beat = msgspec.json.Decoder(Heartbeat).decode


class Away(PlugholeError):
    """Redis does not answer, or not as it should."""


class Entry(NamedTuple):
    """An entry of the stream: its ID, its message, its Unix time by Redis' clock."""

    ident: str
    message: bytes
    at: float


class Link:
    """One agent's use of one Redis."""

    def __init__(self, connect: Callable[[], Redis], name: str) -> None:
        self._connect = connect
        self._name = name
        self._client: Any = None  # redis-py's answers have no useful types
        self.ahead = 0.0  # seconds Redis' clock is before the agent's
        self.is_joined = False  # true between a `join` and the first `Away`

    def last_beat(self) -> Heartbeat | None:
        """Return what the last agent of our name said of itself, None when it is unreadable or there was none."""
        with self._asking() as client:
            found = client.hget(AGENTS, self._name)
        return beat(found)

    def join(self, position: str, now: float) -> str:
        """Orders after a position will be read; returns it, or the beginning when this Redis never came that far."""
        with self._asking() as client:
            self.measure(now)
            created = self._create(client, position)
            last = _text(client.xinfo_stream(ORDERS)["last-generated-id"])
            if _number(last) < _number(position):
                position, created = BEGINNING, False
            if not created:
                client.xgroup_setid(ORDERS, self._name, position)
                client.xgroup_delconsumer(ORDERS, self._name, CONSUMER)  # what it had not confirmed comes again
        self.is_joined = True
        return position

    def measure(self, now: float) -> None:
        """Learn how far Redis' clock is from the agent's."""
        with self._asking() as client:
            seconds, micros = client.time()
        self.ahead = seconds + micros / 1e6 - now

    def read(self, block: float) -> list[Entry]:
        """Return the next orders, waiting for one for so many seconds at most."""
        with self._asking() as client:
            found = client.xreadgroup(self._name, CONSUMER, {ORDERS: ">"}, count=MAX_READ, block=int(block * 1000))
        entries = found.values() if isinstance(found, dict) else (part for _, part in found or ())
        return [self._entry(ident, fields) for part in entries for ident, fields in _flat(part)]

    def finish(
        self, idents: Sequence[str], *, refusals: Iterable[Refusal] = (), answers: Mapping[str, bytes] | None = None
    ) -> None:
        """The orders are confirmed, refusals are told and those who wait have their answers."""
        with self._asking() as client:
            pipe = client.pipeline(transaction=False)
            for refusal in refusals:
                pipe.xadd(REFUSED, {FIELD: encode(refusal)}, maxlen=MAX_REFUSED, approximate=True)
            for ident, answer in (answers or {}).items():
                pipe.rpush(ANSWER + ident, answer)
                pipe.expire(ANSWER + ident, ANSWER_TTL)
            if idents:
                pipe.xack(ORDERS, self._name, *idents)
            pipe.execute()

    def tell(self, events: Sequence[Report]) -> None:
        """What was seen is told."""
        with self._asking() as client:
            pipe = client.pipeline(transaction=False)
            for at in range(0, len(events), MAX_EVENTS):
                told = encode(Seen(tuple(events[at : at + MAX_EVENTS])))
                pipe.xadd(SEEN, {FIELD: told}, maxlen=MAX_SEEN, approximate=True)
            pipe.execute()

    def beat(self, heartbeat: Heartbeat) -> None:
        """Everybody can read how we fare."""
        with self._asking() as client:
            client.hset(AGENTS, self._name, msgspec.json.encode(heartbeat))

    def leave(self) -> None:
        """Nobody waits for us any more; the connection is closed."""
        if self._client is not None:
            with contextlib.suppress(Away), self._asking() as client:
                client.hdel(AGENTS, self._name)
        self.drop()

    def drop(self) -> None:
        """The connection is closed; the next call opens one."""
        client, self._client = self._client, None
        self.is_joined = False
        if client is not None:
            with contextlib.suppress(RedisError, OSError):
                client.close()

    def _create(self, client: Any, position: str) -> bool:
        try:
            client.xgroup_create(ORDERS, self._name, position, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" in str(error):
                return False
            raise
        return True

    def _entry(self, ident: bytes | str, fields: Mapping[bytes, bytes]) -> Entry:
        text = _text(ident)
        return Entry(text, fields.get(FIELD, b""), _number(text)[0] / 1000 - self.ahead)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        try:
            if self._client is None:
                self._client = self._connect()
            yield self._client
        except Away:
            raise
        except (RedisError, OSError, PlugholeError) as error:
            self.drop()
            raise Away(f"redis: {error}") from None


def beat(found: bytes | None) -> Heartbeat | None:
    """Return a heartbeat as it was told, None when it is none."""
    try:
        return _beat(found) if found else None
    except UNREADABLE:
        return None


def _flat(part: Any) -> Iterator[tuple[bytes, Mapping[bytes, bytes]]]:
    """Yield entries, whether the protocol wraps them in one list more or not; a deleted one has no fields."""
    for item in part:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item[0], item[1] or {}


def _text(ident: bytes | str) -> str:
    return ident.decode() if isinstance(ident, bytes) else ident


def _number(ident: str) -> tuple[int, int]:
    time, _, count = ident.partition("-")
    return int(time), int(count or 0)
