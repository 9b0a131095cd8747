"""Generations in a real Redis: written whole, switched, rolled back, pruned; on one server and on a cluster."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from core.config import Config, Source
from core.errors import BadFeed, Unavailable
from core.names import from_text
from feeds.index import Index, Match
from feeds.merge import Table, merge
from feeds.parse import parse
from feeds.redis import connect
from feeds.store import BUCKETS, CHANNEL, Store, load_index
from feeds.updater import _wire

LONG = f"{'a' * 60}.{'b' * 60}.example"
BUS = 10_000  # added to a node's port for the port of the cluster's bus


def table(*texts: str) -> Table:
    """Return a table of one feed a text: names separated by blanks."""
    return merge(
        (Source(name=f"feed{at}", url="file:x"), parse(text.replace(" ", "\n").encode(), "plain"))
        for at, text in enumerate(texts)
    )


def publish(store: Store, *texts: str, now: float = 1.0) -> int:
    found = table(*texts)
    return store.publish(found, _wire(found), sources=[], fingerprint="f", now=now).generation


def members(store: Store, generation: int) -> dict[bytes, int]:
    return {name: number for bucket in store.buckets(generation) for name, number in bucket.items()}


def test_a_generation_reads_back_as_it_was_written(client: redis.Redis, tmp_path: Path) -> None:
    store = Store(client, keep=2)
    assert store.current() is None
    generation = publish(store, f"a.example b.example {LONG}", "b.example c.example")
    meta = store.meta(generation)
    assert store.current() == generation
    assert meta.count == 4
    found = {
        name.decode(): [match.source for match in meta.sets[at]] for name, at in members(store, generation).items()
    }
    assert found == {"a.example": ["feed0"], "b.example": ["feed0", "feed1"], LONG: ["feed0"], "c.example": ["feed1"]}
    index = Index.open(load_index(store, tmp_path, generation))
    assert index.sets == meta.sets
    assert index.find([from_text("b.example"), from_text(LONG), from_text("d.example")]) == [
        store.find(generation, b"b.example"), store.find(generation, LONG.encode()), None,
    ]  # fmt: skip
    index.close()


def test_many_sets_share_buckets(client: redis.Redis) -> None:
    store = Store(client, keep=2)
    names = [f"n{at}.example" for at in range(20_000)]
    generation = publish(store, " ".join(names), " ".join(names[::2]), " ".join(names[::3]))
    sets = store.meta(generation).sets
    found = {name.decode(): [m.source for m in sets[at]] for name, at in members(store, generation).items()}
    expected = {
        name: [f"feed{feed}" for feed, step in enumerate((1, 2, 3)) if at % step == 0] for at, name in enumerate(names)
    }
    assert found == expected
    assert store.find(generation, b"n6.example") == members(store, generation)[b"n6.example"]
    assert store.find(generation, b"none.example") is None


def test_the_pointer_moves_last_and_is_announced(client: Any) -> None:
    store = Store(client, keep=2)
    listener = client.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(CHANNEL)
    listener.get_message(timeout=20)  # that it is subscribed
    generation = publish(store, "a.example")
    heard = listener.get_message(timeout=20)
    assert heard is not None
    assert int(heard["data"]) == generation
    listener.close()


def test_rollback_goes_back_and_prune_keeps_what_was_in_force(client: redis.Redis) -> None:
    store = Store(client, keep=2)
    first, second = publish(store, "a.example"), publish(store, "b.example")
    store.put_in_force(first)
    third = publish(store, "c.example")
    assert store.history() == [third, first, second]
    assert store.prune(1.0) == [second]
    assert not list(client.scan_iter(f"intel:{second}:*"))
    assert members(store, first) == {b"a.example": 0}
    with pytest.raises(BadFeed, match="not in Redis"):
        store.put_in_force(second)
    assert store.current() == third


def test_a_generation_given_up_half_way_is_pruned(client: redis.Redis) -> None:
    store = Store(client, keep=2)
    current = publish(store, "a.example")
    client.hset("intel:building", "99", "1.0")
    client.set("intel:99:001", "0 x.example")
    assert store.prune(100.0) == []
    assert store.prune(10_000.0) == [99]
    assert store.current() == current
    assert not client.exists("intel:99:001")


def test_an_empty_table_is_a_generation(client: redis.Redis, tmp_path: Path) -> None:
    store = Store(client, keep=2)
    generation = publish(store)
    assert Index.open(load_index(store, tmp_path, generation)).count == 0


def test_a_damaged_index_in_redis_is_refused(client: redis.Redis, tmp_path: Path) -> None:
    store = Store(client, keep=2)
    generation = publish(store, "a.example")
    client.setrange(f"intel:{generation}:index:0", 60, b"?")
    with pytest.raises(BadFeed, match="damaged"):
        load_index(store, tmp_path, generation)
    assert not list(tmp_path.iterdir())


def test_a_server_that_refuses_leaves_the_old_generation(client: redis.Redis) -> None:
    store = Store(client, keep=2)
    old = publish(store, "a.example")
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(Unavailable, match="maxmemory"):
            publish(store, " ".join(f"n{at}.example" for at in range(5_000)))
    finally:
        client.config_set("maxmemory", "0")
    assert store.current() == old
    assert members(store, old) == {b"a.example": 0}
    assert not list(client.scan_iter(f"intel:{old + 1}:*"))


def test_no_redis_is_unavailable(config: Config) -> None:
    nowhere = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url="unix:///nowhere.sock"))
    with pytest.raises(Unavailable):
        Store(connect(nowhere), keep=2).current()


def test_scopes_and_sources_make_sets() -> None:
    found = merge([
        (Source(name="a", url="file:x"), parse(b"||x.example^\n@@||y.example^\n|z.example^\n", "adblock")),
        (Source(name="b", url="file:x", mode="alert", subdomains=False), parse(b"x.example\n*.z.example", "plain")),
        (Source(name="c", url="file:x", mode="off"), parse(b"x.example\n", "plain")),
    ])  # fmt: skip
    said = {
        name: [(m.source, m.action.name, m.exact, m.below) for m in found.sets[at]] for name, at in found.names.items()
    }
    assert said == {
        b"x.example": [("a", "SINKHOLE", True, True), ("b", "ALERT", True, False)],
        b"y.example": [("a", "PASSTHRU", True, True)],
        b"z.example": [("a", "SINKHOLE", True, False), ("b", "ALERT", True, False)],
    }
    assert all(isinstance(match, Match) for matches in found.sets for match in matches)


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports() -> Iterator[int]:
    """Yield ports that are free, as is that of the node's bus; the kernel gives none of them to a client meanwhile."""
    for port in random.sample(range(12_000, 22_000), 100):
        if is_free(port) and is_free(port + BUS):
            yield port


def server_command(port: int, folder: Path) -> list[str]:
    options = {"port": str(port), "bind": "127.0.0.1", "cluster-enabled": "yes", "save": "", "dir": str(folder)}
    options |= {"cluster-config-file": f"nodes-{port}.conf", "cluster-node-timeout": "60000"}
    return ["redis-server", *(part for key, value in options.items() for part in (f"--{key}", value))]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (package redis-server)")
    ports = list(islice(free_ports(), 2))
    if len(ports) < 2:
        pytest.skip("no two ports below 22000 are free, with those of a cluster's bus")
    nodes = [subprocess.Popen(server_command(port, tmp_path), stdout=subprocess.DEVNULL) for port in ports]
    try:
        yield form(ports)
    finally:
        for node in nodes:
            node.terminate()
            node.wait()


def form(ports: list[int]) -> str:
    """Make a cluster of two: half the slots each, acquainted."""
    clients: list[Any] = [redis.Redis(port=port) for port in ports]
    deadline = time.monotonic() + 60
    for client, first, last in zip(clients, (0, 8_192), (8_191, 16_383), strict=True):
        while True:
            try:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    clients[0].execute_command("CLUSTER MEET", "127.0.0.1", ports[1])
    while not all(re.search(r"cluster_state\W+ok", str(each.execute_command("CLUSTER INFO"))) for each in clients):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for each in clients:
        each.close()
    return f"redis+cluster://127.0.0.1:{ports[0]}"


def test_a_cluster_holds_generations_too(cluster: str, config: Config, tmp_path: Path) -> None:
    there = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=cluster))
    client = connect(there)
    store = Store(client, keep=1)
    names = [f"n{at}.example" for at in range(2_000)]
    first = publish(store, " ".join(names))
    assert {name.decode() for name in members(store, first)} == set(names)
    second = publish(store, "a.example")
    assert store.prune(1.0) == [first]
    assert Index.open(load_index(store, tmp_path / "intel", second)).count == 1
    client.close()


def test_there_are_as_many_buckets_as_promised(client: redis.Redis) -> None:
    store = Store(client, keep=1)
    assert sum(1 for _ in store.buckets(publish(store, "a.example"))) == BUCKETS
