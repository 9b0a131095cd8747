"""The adapter on CrowdSec's own Local API, where its programs are on PATH (Debian: crowdsec; unpacked is enough)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import httpx2
import pytest

from core.config import Firewall
from egress.enforcer import Lease, Target
from egress.firewalls import build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from egress.enforcer import Enforcer

pytestmark = pytest.mark.skipif(
    not (shutil.which("crowdsec") and shutil.which("cscli")), reason="crowdsec or cscli is missing (package crowdsec)"
)

C2, NEXT, SIX = Target("91.66.0.80"), Target("91.66.0.81"), Target("2a01:66::80")
HOUR = 3_600.0
KEY = "0123456789abcdef0123456789abcdef"
CONFIG = """
common: {{daemonize: false, log_media: stdout, log_level: info, working_dir: "{folder}"}}
config_paths: {{config_dir: "{folder}", data_dir: "{folder}", simulation_path: "{folder}/simulation.yaml",
  hub_dir: "{folder}/hub", index_path: "{folder}/hub/.index.json", notification_dir: "{folder}/notifications",
  plugin_dir: "{folder}/plugins"}}
crowdsec_service: {{acquisition_path: "{folder}/acquis.yaml", parser_routines: 1}}
cscli: {{output: human, color: never}}
db_config: {{log_level: info, type: sqlite, db_path: "{folder}/crowdsec.db", use_wal: true}}
api:
  client: {{insecure_skip_verify: false, credentials_path: "{folder}/local_api_credentials.yaml"}}
  server: {{log_level: info, listen_uri: "127.0.0.1:{port}", profiles_path: "{folder}/profiles.yaml",
    trusted_ips: ["127.0.0.1"]}}
prometheus: {{enabled: false}}
"""


class Lapi:
    """A Local API in a folder of its own, with a machine and two bouncers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        for name in ("hub", "notifications", "plugins"):
            (folder / name).mkdir()
        (folder / "hub" / ".index.json").write_text("{}")
        for name in ("acquis.yaml", "simulation.yaml"):
            (folder / name).write_text("")
        (folder / "local_api_credentials.yaml").write_text(
            f"url: {self.url}/\nlogin: agent\npassword: m4chine-password\n"
        )
        (folder / "profiles.yaml").write_text("name: none\nfilters: ['false']\ndecisions: []\n")
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG.format(folder=folder, port=self.port))
        self.cscli("machines", "add", "agent", "--password", "m4chine-password", "--force", "-f", "/dev/null")
        for name, key in (("plughole", KEY), ("firewall", KEY[::-1])):
            self.cscli("bouncers", "add", name, "-k", key)
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["crowdsec", "-c", self.config, "-no-capi", "-no-cs"], stdout=self.log, stderr=subprocess.STDOUT
        )

    def cscli(self, *arguments: str) -> str:
        done = subprocess.run(["cscli", "-c", self.config, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stream(self) -> dict[str, dict[str, str]]:
        """Return what a bouncer of the office gets, by address."""
        reply = httpx2.get(
            f"{self.url}/v1/decisions/stream", params={"startup": "true"}, headers={"x-api-key": KEY[::-1]}, timeout=30
        )
        return {each["value"]: each for each in reply.raise_for_status().json()["new"] or ()}

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.stream()
            except httpx2.HTTPError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2_000:]
                assert self.process.poll() is None, (self.folder / "log").read_text()[-2_000:]
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


@pytest.fixture(scope="module")
def lapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lapi]:
    found = Lapi(tmp_path_factory.mktemp("crowdsec"))
    try:
        found.wait()
        yield found
    finally:
        found.stop()


@pytest.fixture
def enforcer(lapi: Lapi, tmp_path: Path) -> Iterator[Enforcer]:
    (tmp_path / "secret").write_text(f"m4chine-password\n{KEY}\n")
    (tmp_path / "secret").chmod(0o600)
    keys = Firewall(name="branch", kind="crowdsec", url=lapi.url, user="agent", secret_file="secret")
    found = build(keys, tmp_path)
    try:
        found.prepare()
        yield found
        found.flush()
    finally:
        found.close()


def present(enforcer: Enforcer) -> dict[Target, float]:
    return {each.target: each.seconds for each in enforcer.present()}


def test_a_bouncer_gets_what_is_blocked_and_no_longer(lapi: Lapi, enforcer: Enforcer) -> None:
    applied = enforcer.apply(add=[Lease(each, HOUR) for each in (C2, NEXT, SIX)], renew=(), remove=())
    assert applied.failures == ()
    stream = lapi.stream()
    assert set(stream) == {C2.address, NEXT.address, SIX.address}
    assert {(each["type"], each["origin"], each["scenario"]) for each in stream.values()} == {
        ("ban", "plughole", "plughole")
    }
    assert set(present(enforcer)) == {C2, NEXT, SIX}
    assert all(HOUR - 60 < seconds <= HOUR for seconds in present(enforcer).values())
    assert enforcer.apply(add=(), renew=[Lease(C2, 7_200)], remove=[NEXT, Target("91.66.0.99")]).failures == ()
    assert set(lapi.stream()) == {C2.address, SIX.address}
    assert present(enforcer)[C2] > HOUR
    assert enforcer.apply(add=(), renew=[Lease(C2, 600)], remove=()).failures == ()
    assert present(enforcer)[C2] <= 600
    enforcer.flush()
    assert lapi.stream() == {}


def test_decisions_of_others_stay(lapi: Lapi, enforcer: Enforcer) -> None:
    lapi.cscli("decisions", "add", "--ip", C2.address, "--duration", "4h")
    try:
        assert enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
        assert HOUR - 60 < present(enforcer)[C2] <= HOUR
        enforcer.flush()
        assert present(enforcer) == {}
        assert lapi.stream()[C2.address]["origin"] == "cscli"
    finally:
        lapi.cscli("decisions", "delete", "--ip", C2.address)


def test_a_hundred_at_once(lapi: Lapi, enforcer: Enforcer) -> None:
    targets = {Target(f"91.66.2.{at}") for at in range(1, 101)}
    assert enforcer.apply(add=[Lease(each, HOUR) for each in targets], renew=(), remove=()).failures == ()
    assert set(present(enforcer)) == targets
    assert enforcer.apply(add=(), renew=[Lease(each, 2 * HOUR) for each in targets], remove=()).failures == ()
    assert min(present(enforcer).values()) > HOUR
    assert len(lapi.stream()) == 100
