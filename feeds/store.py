"""Generations of intelligence in Redis: written whole, switched by one pointer, kept for rollback.

Keys, `G` being the generation's number; no two need one cluster slot:

    intel:seq          last number given out         intel:current      the generation in force
    intel:history      those that were in force      intel:building     those begun, with their time
    intel:input        fingerprint of what the last published one was made from
    intel:G:meta       JSON `Meta`                    intel:G:index:N    the compiled index in pieces
    intel:G:BBB        bucket crc32(name) & 0xfff in hex: lines of a set number and the names that have it

Rules:
1. Nothing reads a generation before the pointer names it, so the pointer moves last and moving it back is rollback.
2. A bucket is one string, read as a whole: docs/decisions/0004 has the figures against a HASH of names.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, cast
from zlib import crc32

import msgspec
import numpy as np
from redis.exceptions import RedisError

from core.errors import UNREADABLE, BadFeed, Unavailable
from feeds import index
from feeds.index import SourceSet
from feeds.resp import bulk, send

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from redis import Redis

    from core.names import Name
    from feeds.merge import Table

CHANNEL: Final = "plughole:intel"
BUCKETS: Final = 4_096  # 4 kB each for a million names
PIECE: Final = 4 * 1024 * 1024  # octets of the index in one key
READ_BATCH: Final = 64  # buckets asked for together
ABANDONED_SECONDS: Final = 3_600.0  # a generation still unfinished after this was given up


class SourceInfo(msgspec.Struct, frozen=True):
    """What a generation took from one source."""

    name: str
    mode: str
    syntax: str
    names: int
    bad: int
    unsupported: int
    fetched: float  # Unix seconds
    sha256: str


class Meta(msgspec.Struct, frozen=True):
    """What a generation says of itself. `sets[n]` is what a name with the value `n` is listed for."""

    generation: int
    created: float  # Unix seconds
    count: int
    sets: tuple[SourceSet, ...]
    sources: tuple[SourceInfo, ...]
    index_size: int
    index_sha256: str


class Store:
    """The generations of one Redis. Every method raises Unavailable when Redis does not do its part."""

    def __init__(self, client: Redis, *, keep: int) -> None:
        """`keep`: generations kept, the one in force among them."""
        self._client: Any = client  # redis-py types each answer as a value or an awaitable
        self._keep = keep

    def current(self) -> int | None:
        """Return the generation in force, or None before the first."""
        with _redis():
            value = self._client.get("intel:current")
        return int(value) if value else None

    def history(self) -> list[int]:
        """Return the generations that can be gone back to, the one in force first."""
        with _redis():
            return [int(value) for value in self._client.lrange("intel:history", 0, -1)]

    def input(self) -> str:
        """Return the fingerprint of what the last published generation was made from, even after a rollback."""
        with _redis():
            return cast(bytes, self._client.get("intel:input") or b"").decode()

    def meta(self, generation: int) -> Meta:
        """Return what a generation says of itself; raises BadFeed when it is not there."""
        with _redis():
            text = self._client.get(f"intel:{generation}:meta")
        try:
            return msgspec.json.decode(text or b"", type=Meta)
        except UNREADABLE:
            raise BadFeed(f"generation {generation} is not in Redis; `plughole feeds list` shows what is") from None

    def index(self, generation: int) -> bytes:
        """Return the compiled index; raises BadFeed when a piece is missing or damaged."""
        meta = self.meta(generation)
        with _redis():
            pieces = [self._client.get(key) or b"" for key in _index_keys(generation, meta.index_size)]
        data = b"".join(pieces)
        if sha256(data).hexdigest() != meta.index_sha256:
            raise BadFeed(
                f"the index of generation {generation} in Redis is damaged; run `plughole feeds update --force`"
            )
        return data

    def buckets(self, generation: int) -> Iterator[dict[bytes, int]]:
        """Yield the presentation names of each bucket with their set numbers: always BUCKETS dicts, in their order."""
        for at in range(0, BUCKETS, READ_BATCH):
            with _redis():
                pipeline = self._client.pipeline(transaction=False)
                for bucket in range(at, at + READ_BATCH):
                    pipeline.get(_bucket_key(generation, bucket))
                answers = pipeline.execute()
            for text in answers:
                yield _unpack(text)

    def find(self, generation: int, name: bytes) -> int | None:
        """Return the set number of a presentation name, or None."""
        with _redis():
            text = self._client.get(_bucket_key(generation, _bucket(name)))
        return _unpack(text).get(name)

    def publish(
        self, table: Table, wire: dict[Name, int], *, sources: Sequence[SourceInfo], fingerprint: str, now: float
    ) -> Meta:
        """Write the table as a new generation and put it in force. `wire`: the table again, by wire name."""
        generation = self._begin(now)
        try:
            data = self._write(generation, table, wire, now)
            digest = sha256(data).hexdigest()
            meta = Meta(generation, now, len(wire), tuple(table.sets), tuple(sources), len(data), digest)
            with _redis():
                self._client.set(f"intel:{generation}:meta", msgspec.json.encode(meta))
                self._client.set("intel:input", fingerprint)
        except Unavailable:
            with suppress(Unavailable):  # what cannot be cleared now is pruned later
                self._drop(generation)
            raise
        self.put_in_force(generation)
        return meta

    def put_in_force(self, generation: int) -> None:
        """Point at a generation that is there and tell the nodes; raises BadFeed when it is not."""
        self.meta(generation)
        with _redis():
            self._client.set("intel:current", generation)
            self._client.lrem("intel:history", 0, str(generation))
            self._client.lpush("intel:history", generation)
            self._client.hdel("intel:building", str(generation))
            self._client.publish(CHANNEL, generation)

    def prune(self, now: float) -> list[int]:
        """Delete generations past the number to keep and those given up half-written; returns them."""
        with _redis():
            building = self._client.hgetall("intel:building")
        given_up = [int(number) for number, begun in building.items() if now - float(begun) > ABANDONED_SECONDS]
        history = self.history()
        gone = [number for number in (*history[self._keep :], *given_up) if number != self.current()]
        for generation in gone:
            self._drop(generation)
        return gone

    def _write(self, generation: int, table: Table, wire: dict[Name, int], now: float) -> bytes:
        """Write names and index; returns the index."""
        with ThreadPoolExecutor(1) as beside:  # building holds no lock of Python's: it runs while Redis is fed
            building = beside.submit(index.build, generation, wire, table.sets, created=now)
            send(self._client, _bucket_commands(generation, table))
            data = building.result()
        send(self._client, _index_commands(generation, data))
        return data

    def _begin(self, now: float) -> int:
        with _redis():
            generation = int(self._client.incr("intel:seq"))
            self._client.hset("intel:building", str(generation), repr(now))
        return generation

    def _drop(self, generation: int) -> None:
        """Delete a generation: its metadata first, so that nobody begins to read it."""
        try:
            size = self.meta(generation).index_size
        except BadFeed:
            size = 256 * PIECE  # half-written: more than the largest index, and no harm in asking
        keys = [b"intel:%d:meta" % generation, *_index_keys(generation, size)]
        keys += [_bucket_key(generation, bucket) for bucket in range(BUCKETS)]
        send(self._client, ((key, bulk(b"UNLINK", key)) for key in keys))
        with _redis():
            self._client.lrem("intel:history", 0, str(generation))
            self._client.hdel("intel:building", str(generation))


def load_index(store: Store, folder: Path, generation: int) -> Path:
    """Return the index file of a generation, fetched from Redis when the folder does not have it."""
    path = index.index_path(folder, generation)
    return path if path.exists() else index.write(folder, generation, store.index(generation))


@contextmanager
def _redis() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis: {error}") from None


def _bucket_key(generation: int, bucket: int) -> bytes:
    return b"intel:%d:%03x" % (generation, bucket)


def _index_keys(generation: int, size: int) -> list[bytes]:
    return [b"intel:%d:index:%d" % (generation, number) for number in range(-(-size // PIECE))]


def _bucket(name: bytes) -> int:
    return crc32(name) % BUCKETS


def _unpack(text: bytes | None) -> dict[bytes, int]:
    """Return the names of a bucket with their set numbers."""
    found: dict[bytes, int] = {}
    for line in (text or b"").splitlines():
        number, *names = line.split(b" ")
        found.update(dict.fromkeys(names, int(number)))
    return found


def _index_commands(generation: int, data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for number, key in enumerate(_index_keys(generation, len(data))):
        yield key, bulk(b"SET", key, data[number * PIECE : (number + 1) * PIECE])


def _bucket_commands(generation: int, table: Table) -> Iterator[tuple[bytes, bytes]]:
    """Yield one SET a bucket that has names."""
    lines: list[bytes] = []
    last = -1
    for bucket, number, names in _groups(table):
        if bucket != last and lines:
            key = _bucket_key(generation, last)
            yield key, bulk(b"SET", key, b"\n".join(lines))
            lines = []
        last = bucket
        lines.append(b"%d " % number + b" ".join(names))
    if lines:
        key = _bucket_key(generation, last)
        yield key, bulk(b"SET", key, b"\n".join(lines))


def _groups(table: Table) -> Iterator[tuple[int, int, list[bytes]]]:
    """Yield (bucket, set number, its names), sorted: numpy sorts a million numbers in 40 ms."""
    names = list(table.names)
    buckets = np.fromiter(map(crc32, names), dtype=np.uint32, count=len(names)) % BUCKETS
    numbers = np.fromiter(table.names.values(), dtype=np.int64, count=len(names))
    keys = buckets.astype(np.int64) * max(1, len(table.sets)) + numbers
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    ends = [*starts[1:].tolist(), len(names)]
    ordered = [names[place] for place in order.tolist()]
    for at, end, key in zip(starts.tolist(), ends, keys[order][starts].tolist(), strict=False):
        bucket, number = divmod(key, max(1, len(table.sets)))
        yield bucket, number, ordered[at:end]
