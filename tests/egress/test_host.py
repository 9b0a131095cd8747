"""What a host is to itself, and what the agent of a configuration therefore never blocks."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from routed import CLIENT, Routed, why_not

from core.config import Config, Egress, Firewall, Redis
from core.errors import Unavailable
from egress import host
from egress.assembly import Never, name_of

_SKIPPED = why_not()


@pytest.mark.skipif(bool(_SKIPPED), reason=_SKIPPED)
def test_addresses_and_gateways_of_a_namespace() -> None:
    with Routed() as net:
        with net.at("client"):
            assert {CLIENT[4], "127.0.0.1"} <= set(host.addresses())
            assert host.gateways() == ["10.20.1.1", "fd20:1::1"]
        net.ip(
            "-n",
            net.name("client"),
            "route",
            "add",
            "9.9.9.0/24",
            "nexthop",
            "via",
            "10.20.1.3",
            "nexthop",
            "via",
            "10.20.1.4",
        )
        with net.at("client"):
            assert host.gateways() == ["10.20.1.1", "10.20.1.3", "10.20.1.4", "fd20:1::1"]
        with net.at("router"):
            assert {"10.20.1.1", "91.66.0.1"} <= set(host.addresses())
            assert host.gateways() == []


def test_never_is_told_when_it_has_changed_and_keeps_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall = Firewall(name="branch", kind="fortigate", url="https://91.3.0.1:8443/")
    config = Config(
        redis=Redis(url="redis://91.2.0.1:6379"),
        egress=Egress(never=("91.1.0.0/16",), firewall=(firewall,)),
        base=str(tmp_path),
    )
    monkeypatch.setattr(host, "addresses", lambda: ["91.4.0.1"])
    monkeypatch.setattr(host, "gateways", lambda: ["91.5.0.1"])
    never = Never(config)
    assert never.ranges.find(ip_address("91.4.0.1").packed) is None
    told = never()
    assert told is not None
    for number in range(1, 6):
        assert told.find(ip_address(f"91.{number}.0.1").packed), number
    assert told.find(ip_address("91.6.0.1").packed) is None
    assert never() is None

    def silent() -> list[str]:
        raise Unavailable("rtnetlink: no")

    monkeypatch.setattr(host, "addresses", silent)
    assert never() is None
    assert never.ranges is told
    monkeypatch.setattr(host, "addresses", lambda: ["91.6.0.1"])
    told = never()
    assert told is not None
    assert told.find(ip_address("91.6.0.1").packed)
    assert told.find(ip_address("91.4.0.1").packed) is None


def test_an_agent_is_called_as_configured_or_after_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "fw 1.example.net")
    assert name_of(Config()) == "fw-1"
    assert name_of(msgspec.structs.replace(Config(), egress=Egress(agent="edge"))) == "edge"
