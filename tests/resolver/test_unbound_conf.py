"""The unbound.conf our settings become: every mistake at once, nothing smuggled in."""

from __future__ import annotations

import resource
from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path

import pytest

from core.config import Upstream, Zone
from core.errors import BadConfig
from core.servers import Server
from resolver.upstream.unbound_conf import MIN_SOCKETS, ROOT_ANCHORS, conf_text, mistakes, outgoing_sockets


class Ports:
    """A relay that opens nothing: the port is the place of the server among those asked for."""

    address = "127.20.30.40"

    def __init__(self) -> None:
        self.servers: list[Server] = []

    def port(self, server: Server) -> int:
        self.servers.append(server)
        return 1_000 + len(self.servers)


def lines(settings: Upstream, base: Path, *, validate: bool = True) -> list[str]:
    return conf_text(settings, base=base, relay=Ports(), validate=validate).splitlines()


def test_recursion_validates_against_the_root_keys(tmp_path: Path) -> None:
    found = lines(Upstream(), tmp_path)
    assert 'module-config: "validator iterator"' in found
    assert [line for line in found if line.startswith("trust-anchor:")] == [
        f'trust-anchor: "{a}"' for a in ROOT_ANCHORS
    ]
    assert "qname-minimisation: yes" in found
    assert "do-not-query-localhost: yes" in found
    assert not any(line.startswith(("forward-zone", "root-hints")) for line in found)


def test_the_root_keys_are_those_debian_ships() -> None:
    theirs = Path("/usr/share/dns/root.ds")
    if not theirs.is_file():
        pytest.skip("no /usr/share/dns/root.ds: apt install dns-root-data")
    assert set(theirs.read_text().splitlines()) == set(ROOT_ANCHORS)


def test_without_validation_no_anchor_is_loaded(tmp_path: Path) -> None:
    for found in (lines(Upstream(dnssec=False), tmp_path), lines(Upstream(), tmp_path, validate=False)):
        assert 'module-config: "iterator"' in found
        assert not any(line.startswith("trust-anchor") for line in found)


def test_files_are_taken_from_the_base(tmp_path: Path) -> None:
    (tmp_path / "hints").write_text("")
    (tmp_path / "anchor").write_text("")
    found = lines(Upstream(root_hints="hints", trust_anchors=("anchor",)), tmp_path)
    assert f'root-hints: "{tmp_path}/hints"' in found
    assert f'trust-anchor-file: "{tmp_path}/anchor"' in found


def test_tls_servers_are_reached_through_the_relay(tmp_path: Path) -> None:
    servers = ("tls://192.0.2.1#dns.example", "tls://[2001:db8::1]@8853#dns.example")
    ports = Ports()
    found = conf_text(Upstream(mode="forward", servers=servers), base=tmp_path, relay=ports).splitlines()
    at = found.index("forward-zone:")
    assert found[at:] == [
        "forward-zone:",
        'name: "."',
        "forward-addr: 127.20.30.40@1001",
        "forward-addr: 127.20.30.40@1002",
        "forward-tcp-upstream: yes",
    ]
    assert ports.servers == [
        Server("tls", "192.0.2.1", 853, "dns.example"),
        Server("tls", "2001:db8::1", 8853, "dns.example"),
    ]


def test_recursion_reaches_no_loopback_address_but_the_relay(tmp_path: Path) -> None:
    zone = Zone(name="corp.example", servers=("tls://192.0.2.1#dns.example",))
    found = lines(Upstream(zone=(zone,)), tmp_path)
    assert "do-not-query-localhost: no" in found
    refused = [ip_network(line.partition(": ")[2]) for line in found if line.startswith("do-not-query-address")]
    assert ip_network("::1/128") in refused
    loopback = [net for net in refused if isinstance(net, IPv4Network)]
    assert sum(net.num_addresses for net in loopback) == 2**24 - 1
    assert not any(IPv4Address(Ports.address) in net for net in loopback)


def test_a_zone_goes_to_its_own_servers_and_is_not_validated_unless_asked(tmp_path: Path) -> None:
    zones = (
        Zone(name="Corp.Example", servers=("192.0.2.53",)),
        Zone(name="signed.example.", servers=("192.0.2.54",), dnssec=True),
    )
    found = lines(Upstream(zone=zones), tmp_path)
    assert [line for line in found if line.startswith("domain-insecure")] == ['domain-insecure: "corp.example."']
    assert [line for line in found if line.startswith("local-zone")] == [
        'local-zone: "corp.example." transparent',
        'local-zone: "signed.example." transparent',
    ]
    assert "forward-addr: 192.0.2.53@53" in found


def test_every_mistake_is_told_with_its_path(tmp_path: Path) -> None:
    settings = Upstream(
        mode="forward",
        servers=("192.0.2.1", "tls://192.0.2.2#a.example", "nonsense"),
        root_hints="absent",
        trust_anchors=('a"b',),
        tls_ca_file="absent.pem",
        zone=(
            Zone(name='x" transparent\nserver:', servers=("192.0.2.1",)),
            Zone(name=".", servers=("192.0.2.1",)),
            Zone(name="twice.example", servers=()),
            Zone(name="TWICE.example.", servers=("192.0.2.1\n",)),
        ),
    )
    with pytest.raises(BadConfig) as caught:
        conf_text(settings, base=tmp_path, relay=Ports())
    assert caught.value.mistakes == mistakes(settings, base=tmp_path)
    paths = sorted(mistake.partition(": ")[0] for mistake in caught.value.mistakes)
    assert paths == [
        "upstream.root_hints",
        "upstream.servers",
        "upstream.servers[2]",
        "upstream.tls_ca_file",
        "upstream.trust_anchors[0]",
        "upstream.zone[0].name",
        "upstream.zone[1].name",
        "upstream.zone[2].servers",
        "upstream.zone[3].name",
        "upstream.zone[3].servers[0]",
    ]
    assert all("\n" not in mistake for mistake in caught.value.mistakes)


def test_forwarding_to_nobody_is_a_mistake(tmp_path: Path) -> None:
    assert [mistake.partition(";")[0] for mistake in mistakes(Upstream(mode="forward"), base=tmp_path)] == [
        "upstream.servers: empty"
    ]


def test_https_belongs_to_another_engine(tmp_path: Path) -> None:
    [mistake] = mistakes(Upstream(mode="forward", servers=("https://dns.example/dns-query",)), base=tmp_path)
    assert mistake == 'upstream.servers: https:// servers need mode = "forward" and dnssec = false'


def test_sockets_are_bounded_by_the_descriptors_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, sockets in ((1_024, 512), (100, MIN_SOCKETS), (1_000_000, 4_096), (resource.RLIM_INFINITY, 4_096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert outgoing_sockets(4_096) == sockets
