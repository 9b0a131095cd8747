"""What a hub orders reaches the streams of Redis, also when Redis was away, and never holds the hub up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from core.names import from_text
from egress.orders import FIELD, ORDERS, REFUSED, Block, Refusal, Release, decode_order, decode_refusal
from egress.plan import Proposal
from feeds.redis import EmbeddedServer
from resolver import posting
from resolver.posting import MAX_WAITING, Post

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from core.config import Config

NOW = 1_700_000_000.0
C2 = from_text("c2.example")
BLOCK = Block(NOW, "here", (Proposal(bytes((25, 0, 0, 1)), b"", C2, "feed sample lists it", 60.0),))
RELEASE = Release(NOW, "here", "ann allows it", domain=C2)
REFUSAL = Refusal(NOW, "here", bytes((10, 0, 0, 1)), b"", C2, "never", "it is inside")


@pytest.fixture
def away(config: Config) -> Config:
    """A configuration whose Redis is nowhere yet."""
    url = f"unix://{config.data_dir}/redis.sock"
    return msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=url))


@pytest.fixture
def post(config: Config) -> Iterator[Post]:
    made = Post(config)
    made.start()
    yield made
    made.close()


def entries(client: redis.Redis, key: str) -> list[bytes]:
    found: Any = client.xrange(key)
    return [fields[FIELD] for _, fields in found]


def wait(post: Post, posted: int) -> None:
    end = time.monotonic() + 30
    while post.counters()["posted"] < posted or post.trouble:  # told in this order
        assert time.monotonic() < end, post.counters()
        time.sleep(0.005)


def test_orders_and_refusals_arrive_in_order_in_their_streams(client: redis.Redis, post: Post) -> None:
    for message in (BLOCK, REFUSAL, RELEASE):
        post.offer(message)
    wait(post, 3)
    assert [decode_order(entry) for entry in entries(client, ORDERS)] == [BLOCK, RELEASE]
    assert [decode_refusal(entry) for entry in entries(client, REFUSED)] == [REFUSAL]


def test_what_is_ordered_before_redis_is_there_arrives(away: Config) -> None:
    post = Post(away)
    post.start()
    post.offer(BLOCK)
    post.offer(RELEASE)
    end = time.monotonic() + 30
    while not post.trouble:
        assert time.monotonic() < end
        time.sleep(0.005)
    embedded = msgspec.structs.replace(away, redis=msgspec.structs.replace(away.redis, url="embedded"))
    server = EmbeddedServer(embedded)
    server.start()
    try:
        wait(post, 2)
        assert post.counters() == {"posted": 2, "unposted": 0, "undelivered": 0}
        assert post.trouble == ""
        post.close()
    finally:
        server.stop()


def test_what_waits_is_bounded_and_what_is_dropped_counted(away: Config) -> None:
    post = Post(away)
    for _ in range(MAX_WAITING + 3):
        post.offer(BLOCK)
    assert post.counters() == {"posted": 0, "unposted": MAX_WAITING, "undelivered": 3}


def test_a_node_that_stops_without_redis_waits_for_nobody(away: Config) -> None:
    took = []
    for _ in range(3):  # the best of three: others use the machine too
        post = Post(away)
        post.start()
        post.offer(BLOCK)
        began = time.monotonic()
        post.close()
        took.append(time.monotonic() - began)
        assert post.counters()["posted"] == 0
    assert min(took) < 2.5


def test_what_waits_when_the_node_stops_is_posted(
    client: redis.Redis, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "END", 60.0)  # on a slow machine, too
    post = Post(config)
    post.start()
    for _ in range(2_000):
        post.offer(BLOCK)
    post.close()
    assert len(entries(client, ORDERS)) == 2_000
