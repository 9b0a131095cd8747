"""The main job on a real internet of NSD servers: names come in, malicious ones are sinkholed, the analyst sees why."""

from __future__ import annotations

import json
import os
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from node import FEED_TWO, Node, config, data, ede, framed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet


@pytest.fixture(scope="module")
def node(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    with Node(internet, folder, config(internet, folder)) as up:
        yield up
        up.stop()
        assert up.code == 0, up.output()
        assert "Traceback" not in up.output()


# ---- recursion


def test_a_signed_name_is_right_and_authenticated(node: Node) -> None:
    reply = node.ask("www.good.com", dnssec=True)
    assert data(reply) == ["192.0.2.11"]
    assert reply.flags & dns.flags.AD
    assert dns.rdatatype.RRSIG in {rrset.rdtype for rrset in reply.answer}


def test_a_client_without_do_gets_no_signatures(node: Node) -> None:
    for name, rdtype in (("www.good.com", "A"), ("nowhere.good.com", "A"), ("www.good.com", "MX")):
        reply = node.ask(name, rdtype)
        records = [rrset.rdtype for section in (reply.answer, reply.authority, reply.additional) for rrset in section]
        assert not {dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3} & set(records)
        assert not reply.flags & dns.flags.AD


@pytest.mark.parametrize("name", ["tampered.bogus.com", "expired.bogus.com"])
def test_bogus_is_servfail_with_ede_6(node: Node, name: str) -> None:
    reply = node.ask(name)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert ede(reply)[0][0] == 6
    disabled = node.ask(name, flags=dns.flags.RD | dns.flags.CD)
    assert disabled.rcode() == dns.rcode.NOERROR
    assert data(disabled)


def test_nxdomain_and_nodata(node: Node) -> None:
    assert node.ask("nowhere.good.com").rcode() == dns.rcode.NXDOMAIN
    nodata = node.ask("www.good.com", "MX")
    assert (nodata.rcode(), nodata.answer) == (dns.rcode.NOERROR, [])
    assert nodata.authority[0].rdtype == dns.rdatatype.SOA


def test_a_chain_across_zones(node: Node) -> None:
    reply = node.ask("chain.good.com")
    assert data(reply) == ["192.0.2.42"]
    assert len(data(reply, "CNAME")) == 3


def test_an_ipv6_only_zone_and_a_question_over_ipv6(node: Node) -> None:
    assert data(node.ask("www.six.net", "AAAA", at="::1"), "AAAA") == ["2001:db8:80::50"]


@pytest.mark.parametrize(("name", "size"), [("middle.good.com", 1_500), ("big.good.com", 4_000)])
def test_a_large_answer_is_truncated_and_whole_over_tcp(node: Node, name: str, size: int) -> None:
    udp = node.ask(name, "TXT")
    assert udp.flags & dns.flags.TC
    assert udp.answer == []
    tcp = node.ask(name, "TXT", tcp=True)
    assert sum(len(part) for rdata in tcp.answer[0] for part in rdata.strings) == size


def test_a_dead_domain_is_servfail_in_time_with_a_reason(node: Node) -> None:
    reply = node.ask("www.lame.net", timeout=6.0)
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert ede(reply)[0][1]


# ---- blocked


@pytest.mark.parametrize("name", ["malware.example", "deep.below.malware.example"])
def test_a_listed_name_goes_to_the_sinkhole(node: Node, name: str) -> None:
    reply = node.ask(name)
    assert data(reply) == ["192.0.2.1"]
    assert ede(reply) == [(15, "c2: malware.example is listed by one, two")]
    assert data(node.ask(name, "AAAA"), "AAAA") == ["2001:db8::1"]
    for rdtype in ("HTTPS", "TXT"):
        reply = node.ask(name, rdtype)
        assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
        assert (reply.authority[0].rdtype, reply.authority[0].ttl) == (dns.rdatatype.SOA, 30)
        assert ede(reply)[0][0] == 15


def test_a_chain_into_a_listed_name_is_blocked_and_logged_with_its_member(node: Node) -> None:
    reply = node.ask("listed.good.com")
    assert data(reply) == ["192.0.2.1"]
    row = node.logged(lambda row: row["qname"] == "listed.good.com")
    assert (row["action"], row["trigger"], row["member"]) == ("SINKHOLE", "cname", "evil-c2.plain.net")


def test_the_log_names_every_feed_and_explain_gives_the_same_reasons(node: Node) -> None:
    node.ask("x.malware.example", source="127.0.0.7")
    row = node.logged(lambda row: row["qname"] == "x.malware.example", "--client", "127.0.0.7")
    assert [reason["source"] for reason in row["reasons"]] == ["one", "two"]
    assert (row["client"], row["action"], row["cause"]) == ("127.0.0.7", "SINKHOLE", "intel")
    said = json.loads(node.cli("explain", "x.malware.example", "--json").stdout)
    assert said["reasons"] == row["reasons"]
    assert said["action"] == "SINKHOLE"


def test_allow_for_a_client_holds_with_the_next_query_and_forget_ends_it(node: Node) -> None:
    name = "evil-c2.plain.net"
    assert data(node.ask(name)) == ["192.0.2.1"]
    node.cli("allow", name, "--for", "10m", "--client", "127.0.0.1", "--reason", "test")
    assert data(node.ask(name)) == ["192.0.2.66"]
    assert data(node.ask(name, source="127.0.0.9")) == ["192.0.2.1"]
    node.cli("forget", name)
    assert data(node.ask(name)) == ["192.0.2.1"]


def test_block_reaches_an_answer_in_the_cache_at_once(node: Node) -> None:
    for _ in range(3):
        assert data(node.ask("www.plain.net")) == ["192.0.2.41"]
    node.cli("block", "www.plain.net", "--reason", "seen beaconing")
    assert data(node.ask("www.plain.net")) == ["192.0.2.1"]
    node.cli("forget", "www.plain.net")
    assert data(node.ask("www.plain.net")) == ["192.0.2.41"]


def test_a_blocked_address_blocks_the_names_that_lead_to_it(node: Node) -> None:
    assert data(node.ask("target.plain.net")) == ["192.0.2.42"]
    node.cli("block", "192.0.2.42", "--reason", "c2")
    assert data(node.ask("target.plain.net")) == ["192.0.2.1"]
    assert data(node.ask("chain.good.com")) == ["192.0.2.1"]
    node.cli("forget", "192.0.2.42")
    assert data(node.ask("target.plain.net")) == ["192.0.2.42"]


def test_a_feed_update_is_live_in_all_workers(node: Node) -> None:
    sources = [f"127.0.0.{at}" for at in range(1, 9)]
    assert {tuple(data(node.ask("www.many.net", source=source))) for source in sources} == {("192.0.2.200",)}
    (node.folder / "two.txt").write_text(FEED_TWO + "0.0.0.0 many.net\n")
    node.cli("feeds", "update")
    node.wait(lambda: data(node.ask("www.many.net")) == ["192.0.2.1"])
    generation = node.status()["intel"]["generation"]
    node.wait(lambda: {worker["generation"] for worker in node.status()["workers"]} == {generation})
    assert {tuple(data(node.ask("www.many.net", source=source))) for source in sources} == {("192.0.2.1",)}
    node.cli("feeds", "rollback")
    node.wait(lambda: data(node.ask("www.many.net")) == ["192.0.2.200"])


# ---- transport


def test_replies_come_from_the_address_that_was_asked(node: Node) -> None:
    for address in ("127.0.0.1", "127.0.0.2", "::1"):
        assert data(node.ask("www.good.com", at=address)) == ["192.0.2.11"]


def test_tcp_answers_in_the_order_the_answers_come(node: Node) -> None:
    slow = dns.message.make_query("slow.lame1.net", "A", id=1).to_wire()
    quick = dns.message.make_query("www.good.com", "A", id=2).to_wire()
    node.ask("www.good.com")
    with node.connect() as stream:
        stream.sendall(struct.pack("!H", len(slow)) + slow + struct.pack("!H", len(quick)) + quick)
        got = [dns.message.from_wire(framed(stream)).id for _ in range(2)]
    assert got == [2, 1]


def test_a_client_always_meets_the_same_worker(node: Node) -> None:
    def told(udp: int, tcp: int) -> list[dict[str, int]]:
        """What the workers report once they have taken so much more."""

        def there() -> bool:
            rows[:] = node.status()["workers"]
            return counted("udp_received") >= udp and counted("tcp_accepted") >= tcp

        node.wait(there)
        return list(rows)

    def counted(key: str) -> int:
        return sum(row[key] for row in rows)

    def settled() -> bool:
        status = node.status()
        rows[:] = status["workers"]
        overlay = status["intel"]["overlay"]
        return overlay > before and {row["overlay"] for row in rows} == {overlay}

    rows: list[dict[str, int]] = []
    before = node.status()["intel"]["overlay"]
    node.cli("block", "nobody.asks.example", "--reason", "test")  # what is reported with it includes all before
    node.wait(settled)
    udp, tcp = counted("udp_received"), counted("tcp_accepted")
    for at in range(20, 40):
        node.ask("www.good.com", source=f"127.0.1.{at}")
    first = [row["clients"] for row in told(udp + 20, tcp)]
    assert min(first) >= 8
    for at in range(20, 40):
        node.ask("www.good.com", source=f"127.0.1.{at}")
        node.ask("www.good.com", source=f"127.0.1.{at}", tcp=True)
    assert [row["clients"] for row in told(udp + 40, tcp + 20)] == first
    node.cli("forget", "nobody.asks.example")


# ---- processes


def test_a_killed_worker_is_back_and_a_killed_hub_loses_no_dns(node: Node) -> None:
    victim = node.status()["workers"][0]["pid"]
    hub = node.status()["hub"]["pid"]
    os.kill(victim, signal.SIGKILL)
    for at in range(1, 20):
        assert data(node.ask("www.good.com", source=f"127.0.2.{at}")) == ["192.0.2.11"]
    os.kill(hub, signal.SIGKILL)
    assert data(node.ask("malware.example")) == ["192.0.2.1"]

    def replaced() -> bool:
        done = node.cli("status", "--json", ok=False)
        if done.returncode == 1 and not done.stdout:
            return False
        status = json.loads(done.stdout)
        pids = {worker["pid"] for worker in status["workers"]}
        return status["hub"]["pid"] != hub and len(pids) == 2 and victim not in pids

    node.wait(replaced)


def test_redis_killed_is_started_again_and_blocking_never_stops(node: Node) -> None:
    [pid] = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _is_redis_of(path, node)]
    os.kill(pid, signal.SIGKILL)
    assert data(node.ask("malware.example")) == ["192.0.2.1"]
    assert data(node.ask("www.good.com")) == ["192.0.2.11"]

    def accepted() -> bool:
        return node.cli("block", "www.six.net", "--reason", "test", ok=False).returncode == 0

    node.wait(accepted)
    node.wait(lambda: data(node.ask("www.six.net")) == ["192.0.2.1"])
    node.cli("forget", "www.six.net")


def _is_redis_of(path: Path, node: Node) -> bool:
    try:
        return (
            b"redis-server" in path.read_bytes() and (path.parent / "cwd").readlink() == node.folder / "var" / "redis"
        )
    except OSError:
        return False
