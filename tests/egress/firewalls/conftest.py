"""A bench of each kind of firewall; those whose SDK or program is missing are skipped with the reason."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from firewalling.appliances import (
    FortigateStandin,
    MikrotikStandin,
    OpnsenseStandin,
    PanosStandin,
    WebhookStandin,
)
from firewalling.bench import AwsBench, Bench, EdlBench, IpsetBench, WebBench
from firewalling.clouds import CrowdsecStandin, TencentStandin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from firewalling.standin import Firewall

STANDINS: dict[str, type[Firewall]] = {
    each.kind: each
    for each in (
        CrowdsecStandin, FortigateStandin, MikrotikStandin, OpnsenseStandin, PanosStandin, TencentStandin,
        WebhookStandin,
    )
}  # fmt: skip
NO_END = {"fortigate", "opnsense"}


def _needs(kind: str) -> None:
    if kind == "tencent" and find_spec("tencentcloud") is None:
        pytest.skip("the SDK of Tencent Cloud is missing (extra tencent)")
    if kind == "aws" and (find_spec("boto3") is None or find_spec("moto") is None):
        pytest.skip("boto3 or moto is missing (extra aws; moto)")
    if kind == "ipset" and (reason := IpsetBench.reason_to_skip()):
        pytest.skip(reason)


@pytest.fixture
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WebBench]:
    """The kind of firewall a test is parametrised with, behind a web service."""
    _needs(request.param)
    bench = WebBench(tmp_path, STANDINS[request.param]())
    bench.pairs = request.param == "webhook"
    bench.tells_end = request.param not in NO_END
    yield bench
    bench.stop()


@pytest.fixture(params=["aws", "edl", "ipset", *STANDINS])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Every kind in turn."""
    _needs(request.param)
    match request.param:
        case "edl":
            edl = EdlBench(tmp_path)
            yield edl
            edl.close()
        case "ipset":
            ipset = IpsetBench(tmp_path, monkeypatch)
            yield ipset
            ipset.stop()
        case "aws":
            aws = AwsBench(tmp_path)
            yield aws
            aws.stop()
        case kind:
            found = WebBench(tmp_path, STANDINS[kind]())
            found.pairs = kind == "webhook"
            found.tells_end = kind not in NO_END
            yield found
            assert not found.standin.complaints
            found.stop()
