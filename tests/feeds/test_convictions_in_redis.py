"""Convictions on their way into Redis: they wait for it, and a person's word about the same pair stays."""

from __future__ import annotations

import time

import redis

from core.config import Config
from core.names import from_text
from core.verdict import Action
from feeds.overlay import CONVICTS, Overlay, Override
from resolver.follower import MAX_TO_PUT, Follower

THIEF = from_text("thief.example")


def conviction(client: str = "192.0.2.7") -> Override:
    return Override(THIEF, Action.SINKHOLE, client, "", time.time() + 60, "much", f"{CONVICTS}leak", time.time())


def follower(config: Config) -> Follower:
    return Follower(config, lambda: None)


def test_a_conviction_is_put_and_renewed(config: Config, client: redis.Redis) -> None:
    node = follower(config)
    for _ in range(2):
        node.put(conviction())
        node._put_overrides(client)
    assert [one.by for one in Overlay(client).all(time.time())] == [f"{CONVICTS}leak"]


def test_what_a_person_said_of_the_same_pair_stays(config: Config, client: redis.Redis) -> None:
    said = Override(THIEF, Action.SINKHOLE, "192.0.2.7", reason="case 12", by="ann", created=time.time())
    Overlay(client).put(said)
    node = follower(config)
    node.put(conviction())
    node.put(conviction("192.0.2.8"))
    node._put_overrides(client)
    assert {one.client: one.by for one in Overlay(client).all(time.time())} == {
        "192.0.2.7": "ann",
        "192.0.2.8": f"{CONVICTS}leak",
    }


def test_what_waits_for_a_redis_that_is_away_is_bounded_and_then_put(config: Config, client: redis.Redis) -> None:
    node = follower(config)
    for number in range(MAX_TO_PUT + 3):
        node.put(conviction(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert len(node._to_put) == MAX_TO_PUT
    while len(node._to_put) > 2:
        node._to_put.popleft()
    node._put_overrides(client)
    assert len(Overlay(client).all(time.time())) == 2
    assert not node._to_put
