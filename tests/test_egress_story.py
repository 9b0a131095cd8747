"""From a blocked question to an order: a whole node on the small internet, read at the stream that agents read."""

from __future__ import annotations

import hashlib
import os
import signal
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import redis
from internet import AUTH, Internet
from node import Node, data

from core.names import from_text
from egress.orders import FIELD, ORDERS, REFUSED, Block, Order, Refusal, Release, decode_order, decode_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egress.plan import Proposal

C2 = "25.0.66.1"  # addresses that are only data here, of no range that is never blocked
SECOND = "25.0.66.2"
SERVICE = "25.0.66.3"
SIX = "2a0f:ffff::66"
CHAINED = "25.0.66.5"
LATE = "25.0.66.6"
SERVER = "25.0.66.53"  # of the tunnel
APEX = "25.0.66.54"
SHOP = "25.0.80.1"
CDN = "104.16.66.66"  # in a range that many sites share
FEED = "".join(f"{word}.evil.net\n" for word in ("c2", "alias", "cdn", "framed", "inside", "chained", "late"))
THIEF = "127.0.7.1"
OTHER = "127.0.7.2"
SOA = "$TTL 300\n@ SOA ns hostmaster.good.com. 1 3600 600 86400 60\n@ NS ns\n"
EVIL = f"""{SOA}ns A {AUTH}
c2 60 A {C2}
c2 60 AAAA {SIX}
c2 60 HTTPS 1 svc ipv4hint={SECOND}
svc A {SERVICE}
cdn A {CDN}
framed A {SHOP}
inside A 10.0.0.1
chained A {CHAINED}
late A {LATE}
"""
TUNNEL = f"""{SOA}ns A {AUTH}
ns A {SERVER}
@ A {APEX}
* A 25.0.66.55
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    if reason := Internet.why_not():
        pytest.skip(reason)
    more = {
        "net.": "".join(f"{name} NS ns.{name}\nns.{name} A {AUTH}\n" for name in ("evil", "shop", "tunnel"))
        + f"ns.tunnel A {SERVER}\n",
        "evil.net.": EVIL,
        "shop.net.": f"{SOA}ns A {AUTH}\nwww A {SHOP}\nodd CNAME chained.evil.net.\n",
        "tunnel.net.": TUNNEL,
    }
    with Internet(more) as up:
        yield up


@pytest.fixture(scope="module")
def node(world: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "one.txt").write_text(FEED)
    text = f"""
[server]
listen = ["127.0.0.1:53"]
workers = 1
data_dir = "{folder}/var"
[upstream]
mode = "recursive"
root_hints = "{world.root_hints}"
trust_anchors = ["{world.trust_anchor}"]
[[feeds.source]]
name = "one"
url = "file://{folder}/one.txt"
category = "c2"
confidence = 80
[detectors.leak]
learning_days = 0.0
"""
    with Node(world, folder, text) as up:
        up.wait(lambda: data(up.ask("www.good.com")) == ["192.0.2.11"])
        yield up
        up.stop()
        assert up.code == 0, up.output()
        assert "Traceback" not in up.output()


@pytest.fixture
def stream(node: Node) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(node.folder / "var" / "redis.sock")) as client:
        yield client


def entries(stream: redis.Redis, key: str) -> list[bytes]:
    found: Any = stream.xrange(key)
    return [fields[FIELD] for _, fields in found]


def orders(stream: redis.Redis) -> list[Order]:
    return [decode_order(entry) for entry in entries(stream, ORDERS)]


def proposals(stream: redis.Redis) -> list[Proposal]:
    return [item for order in orders(stream) if isinstance(order, Block) for item in order.proposals]


def refusals(stream: redis.Redis) -> list[Refusal]:
    return [decode_refusal(entry) for entry in entries(stream, REFUSED)]


def found(node: Node, stream: redis.Redis, wanted: Callable[[Proposal], bool]) -> Proposal:
    hits: list[Proposal] = []

    def look() -> bool:
        hits[:] = [item for item in proposals(stream) if wanted(item)]
        return bool(hits)

    node.wait(look)
    return hits[0]


def at(address: str) -> Callable[[Proposal], bool]:
    return lambda item: item.address == ip_address(address).packed


def test_a_blocked_name_is_ordered_with_every_address_it_truly_has(node: Node, stream: redis.Redis) -> None:
    assert data(node.ask("c2.evil.net")) == ["192.0.2.1"]
    block = found(node, stream, at(C2))
    assert (block.client, block.domain) == (b"", from_text("c2.evil.net"))
    assert block.reason == "feed one lists c2.evil.net (c2, 80)"
    assert block.evidence == "c2.evil.net A"
    assert 0 < block.ttl <= 60
    for address, evidence in ((SIX, "c2.evil.net AAAA"), (SECOND, "c2.evil.net HTTPS"), (SERVICE, "svc.evil.net A")):
        assert found(node, stream, at(address)).evidence == evidence


def test_what_many_sites_share_is_ordered_for_the_client_that_asked(node: Node, stream: redis.Redis) -> None:
    node.ask("cdn.evil.net", source=OTHER)
    block = found(node, stream, at(CDN))
    assert block.client == ip_address(OTHER).packed


def test_a_bad_member_of_a_chain_is_learnt(node: Node, stream: redis.Redis) -> None:
    assert data(node.ask("odd.shop.net")) == ["192.0.2.1"]
    block = found(node, stream, at(CHAINED))
    assert (block.domain, block.evidence) == (from_text("chained.evil.net"), "chained.evil.net A")


def test_what_the_organisation_uses_and_its_inside_are_refused_with_the_rule(node: Node, stream: redis.Redis) -> None:
    for client in (THIEF, OTHER):
        assert data(node.ask("www.shop.net", source=client)) == [SHOP]
    node.logged(lambda row: row["qname"] == "www.shop.net" and row["client"] == OTHER)
    node.ask("framed.evil.net")
    node.ask("inside.evil.net")
    node.wait(lambda: {one.rule for one in refusals(stream)} >= {"passive-dns", "never"})
    framed = next(one for one in refusals(stream) if one.rule == "passive-dns")
    assert (framed.address, framed.domain) == (ip_address(SHOP).packed, from_text("framed.evil.net"))
    assert "www.shop.net" in framed.reason
    assert not {SHOP, "10.0.0.1"} & {str(ip_address(item.address)) for item in proposals(stream)}


def test_a_tunnel_is_learnt_by_its_name_servers_for_the_client_convicted(node: Node, stream: redis.Redis) -> None:
    for number in range(40):
        node.ask(f"{hashlib.sha256(str(number).encode()).hexdigest()[:40]}.tunnel.net", source=THIEF)
    node.wait(lambda: "detector:leak" in node.cli("overrides").stdout)
    node.ask(f"{'0' * 40}.tunnel.net", source=THIEF)
    server = found(node, stream, at(SERVER))
    assert (server.client, server.domain) == (ip_address(THIEF).packed, from_text("tunnel.net"))
    assert server.evidence == "ns.tunnel.net A"
    assert not any(at(APEX)(item) for item in proposals(stream)), "its own server would hear of the question"
    assert server.reason.startswith("tunnel.net is convicted")


def test_an_allowed_name_is_released_once(node: Node, stream: redis.Redis) -> None:
    node.ask("c2.evil.net")
    found(node, stream, at(C2))
    node.cli("allow", "c2.evil.net", "--reason", "test")

    def released() -> list[Release]:
        return [order for order in orders(stream) if isinstance(order, Release) and order.domain]

    node.wait(released)
    assert data(node.ask("c2.evil.net")) == [C2]
    node.cli("forget", "c2.evil.net")
    assert [order.domain for order in released()] == [from_text("c2.evil.net")]


def test_the_status_counts_what_was_learnt(node: Node, stream: redis.Redis) -> None:
    there = len(proposals(stream))
    counted: dict[str, Any] = {}

    def told() -> bool:
        counted.update(node.status()["learning"])
        return bool(counted["published"] >= there > 0 and counted["refused_by"].get("never"))

    node.wait(told)
    assert (counted["undelivered"], counted["dropped"]) == (0, 0)


def test_orders_made_while_redis_is_away_arrive(node: Node, stream: redis.Redis) -> None:
    server: Any = stream.info("server")
    os.kill(server["process_id"], signal.SIGKILL)
    assert data(node.ask("late.evil.net")) == ["192.0.2.1"]

    def there() -> bool:
        try:
            return any(at(LATE)(item) for item in proposals(stream))
        except redis.RedisError:
            return False

    node.wait(there)
