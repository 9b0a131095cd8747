"""The sums of leak accounts over nodes, through a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import redis

from core.config import Config
from core.names import Name, from_text
from detectors.leak import LeakMeter, LeakSettings
from detectors.leak_words import Total
from resolver import sharing
from resolver.sharing import CHANNEL, MAX_WAITING, Sharing
from resolver.sockets import worker_of

CLIENT = bytes((192, 0, 2, 7))
DOMAIN = from_text("attacker.example")
TOTAL = Total(CLIENT, DOMAIN, 400.0, 400.0)


def name(number: int) -> Name:
    return from_text(f"{number * 7919:08x}{number * 104729:08x}.attacker.example")


async def until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), 30)


def heard_by(config: Config) -> tuple[Sharing, list[Total], asyncio.Event]:
    got: list[Total] = []
    some = asyncio.Event()

    def deliver(totals: Sequence[Total]) -> None:
        got.extend(totals)
        some.set()

    return Sharing(config, deliver), got, some


async def test_what_one_node_charges_the_others_hear_and_it_does_not(config: Config, client: redis.Redis) -> None:
    near, own, _ = heard_by(config)
    far, got, some = heard_by(config)
    tasks = [asyncio.create_task(one.run()) for one in (near, far)]
    try:
        while client.pubsub_numsub(CHANNEL)[0][1] < 2:  # noqa: ASYNC110  Redis has no event for it
            await asyncio.sleep(0.01)
        client.publish(CHANNEL, b"no message of ours")
        near.offer([TOTAL])
        await until(some)
        assert (got, own) == ([TOTAL], [])
        assert far.counters()["received"] == far.counters()["garbled"] == 1
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
    assert near.counters()["sent"] == 1  # counted after Redis took it, which is after the other node may have heard


async def test_what_waits_for_a_redis_that_is_away_is_bounded(config: Config) -> None:
    away = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url="unix:///nobody.sock"))
    node, _, _ = heard_by(away)
    node.offer([TOTAL] * (MAX_WAITING + 5))
    assert node.counters()["dropped"] == 5


async def test_a_node_with_a_redis_of_its_own_tells_nobody(config: Config) -> None:
    alone = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url="embedded"))
    node, _, _ = heard_by(alone)
    await asyncio.wait_for(node.run(), 30)
    assert not node.on


def test_a_client_that_spreads_over_nodes_is_cut_by_the_sum() -> None:
    settings = LeakSettings(learning_days=0)
    meters = [LeakMeter(settings, started=0.0) for _ in range(2)]
    for meter in meters:
        meter.totals(0.0)
    asked = 0
    for number in range(200):
        now = 1_000.0 + number
        here, there = meters[number % 2], meters[1 - number % 2]
        if here.check(now, CLIENT, DOMAIN, name(number), 1) is not None:
            break
        asked += 1
        there.add_foreign(now, here.totals(now))
    alone = LeakMeter(settings, started=0.0)
    by_itself = next(number for number in range(200) if alone.check(1_000.0 + number, CLIENT, DOMAIN, name(number), 1))
    assert by_itself / 2 <= asked <= by_itself * 1.6, "two first tiers more, but one budget"


def test_charges_go_to_the_worker_that_meets_the_client() -> None:
    assert [worker_of(bytes((10, 0, 0, last)), 4) for last in range(4)] == [0, 1, 2, 3]
    assert worker_of(bytes(15) + b"\x05", 4) == 1
    assert sharing.PIECE * 200 < 262_144, "a message fits into a datagram of the hub"
