"""Hand-packed Redis commands in bulk, sent over redis-py's own connections so that any URL works.

redis-py waits for every batch; here the next window is packed while the server works on the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from redis import Redis

WINDOW: Final = 128  # commands sent before the replies to the window before are read; a few megabytes of buckets


def bulk(*parts: bytes) -> bytes:
    """Return one command in RESP."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def send(client: Redis, commands: Iterable[tuple[bytes, bytes]]) -> None:
    """Send (key, packed command) pairs to the node that holds each key, and see every reply.

    Raises Unavailable when a command fails; some of the others are then done and some not.
    """
    lanes = _Lanes(client)
    try:
        for key, command in commands:
            lanes.push(key, command)
        lanes.finish()
    except (RedisError, OSError) as error:
        lanes.broken()
        raise Unavailable(f"Redis refused a bulk write: {error}") from None
    finally:
        lanes.close()


class _Lane:
    """One connection with a window of unread replies."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self.connection: Any = self._pool.get_connection()  # redis-py leaves half its methods untyped
        self._waiting: list[bytes] = []
        self._unread = 0

    def push(self, command: bytes) -> None:
        self._waiting.append(command)
        if len(self._waiting) >= WINDOW:
            self.flush()

    def flush(self) -> None:
        unread, self._unread = self._unread, len(self._waiting)
        if self._waiting:
            self.connection.send_packed_command([b"".join(self._waiting)])
            self._waiting = []
        for _ in range(unread):
            self.connection.read_response()

    def finish(self) -> None:
        self.flush()
        self.flush()

    def release(self) -> None:
        self._pool.release(self.connection)


class _Lanes:
    """A lane for each server: one, or one a cluster node."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        anything: Any = client  # a RedisCluster is no Redis to the type checker
        self._cluster: Any = anything if isinstance(anything, RedisCluster) else None
        self._lanes: dict[str, _Lane] = {}

    def push(self, key: bytes, command: bytes) -> None:
        self._lane(key).push(command)

    def finish(self) -> None:
        for lane in self._all():
            lane.finish()

    def broken(self) -> None:
        """Cut the connections: replies of an unfinished window must never reach the next user."""
        for lane in self._all():
            lane.connection.disconnect()

    def close(self) -> None:
        for lane in self._all():
            lane.release()

    def _all(self) -> Iterator[_Lane]:
        yield from self._lanes.values()

    def _lane(self, key: bytes) -> _Lane:
        if self._cluster is None:
            return self._lanes.get("") or self._lanes.setdefault("", _Lane(self._client))
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise Unavailable("the Redis cluster has no node for some keys; check `cluster info`")
        lane = self._lanes.get(node.name)
        if lane is None:
            lane = self._lanes[node.name] = _Lane(self._cluster.get_redis_connection(node))
        return lane
