"""Which networks count as the organisation's own, by its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.config import Config, Server, Sinkhole, Upstream, Zone
from egress.reserved import reserved
from resolver.own import own_networks

if TYPE_CHECKING:
    from pathlib import Path

HINTS = """; a comment 9.9.9.9
.                        3600000      NS    A.ROOT.TEST.
A.ROOT.TEST.             3600000      A     25.1.0.4 ; the first
A.ROOT.TEST.             3600000      AAAA  2a0f:ffff::4

"""


def test_addresses_of_the_resolver_and_of_all_it_asks_are_own(tmp_path: Path) -> None:
    (tmp_path / "hints").write_text(HINTS)
    config = Config(
        base=str(tmp_path),
        server=Server(
            listen=("0.0.0.0:53", "[::]:53", "25.1.0.1:53", "[2a0f:ffff::1]:53"),
            allow_from=("0.0.0.0/0", "25.2.0.0/16", "2a0f::/16", "2a0f:fffe::/32"),
        ),
        sinkhole=Sinkhole(ipv4="25.1.0.2", ipv6="2a0f:ffff::2"),
        upstream=Upstream(
            mode="forward",
            servers=("25.1.0.3@5300", "tls://25.1.0.5#dns.example", "https://dns.example/dns-query#25.1.0.6"),
            root_hints="hints",
            zone=(Zone(name="corp.example", servers=("2a0f:ffff::7",)),),
        ),
    )
    found = own_networks(config)
    assert found == {
        "an address of this resolver": ["25.1.0.1", "2a0f:ffff::1"],
        "the sinkhole": ["25.1.0.2", "2a0f:ffff::2"],
        "a server this resolver asks": ["25.1.0.3", "25.1.0.5", "25.1.0.6", "2a0f:ffff::7"],
        "a root server of this resolver": ["25.1.0.4", "2a0f:ffff::4"],
        "a network of server.allow_from": ["25.2.0.0/16", "2a0f:fffe::/32"],
    }
    assert reserved(found).find(bytes((25, 2, 0, 1))) == "a network of server.allow_from"


def test_hints_that_are_not_there_name_nobody(tmp_path: Path) -> None:
    config = Config(base=str(tmp_path), upstream=Upstream(root_hints="nowhere"))
    assert own_networks(config)["a root server of this resolver"] == []


def test_the_configuration_as_it_ships_is_taken(tmp_path: Path) -> None:
    assert reserved(own_networks(Config(base=str(tmp_path)))).find(bytes((127, 0, 0, 1))) is not None
