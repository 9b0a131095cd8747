"""An agent is put together as the configuration says."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from redis import Redis

from core.config import Config, Egress, Local
from egress.assembly import build

INSIDE = ip_address("2a02:64::1900:1").packed


def nobody() -> Redis:
    raise AssertionError("nothing is opened before the agent runs")


@pytest.mark.parametrize(
    ("prefix", "faces"), [("", (INSIDE,)), ("2a02:64::/96", (INSIDE, ip_address("25.0.0.1").packed))]
)
def test_the_brakes_know_the_own_nat64_prefix(tmp_path: Path, prefix: str, faces: tuple[bytes, ...]) -> None:
    config = Config(base=str(tmp_path), local=Local(dns64_prefix=prefix), egress=Egress(agent="here"))
    assert build(config, nobody).desk.caps.carriers.faces(INSIDE) == faces
