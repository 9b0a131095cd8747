"""The systemd units: systemd reads them without complaint, and they give a service no more than it needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = sorted(path.name for path in PACKAGING.glob("plughole*.*") if path.suffix in {".service", ".socket", ".timer"})
MOST = 25  # tenths of systemd's exposure level

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt install systemd"
)


def analyze(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *args], cwd=PACKAGING, capture_output=True, text=True, timeout=120)


def test_all_units_are_here() -> None:
    expected = {
        "plughole.service", "plughole.socket", "plughole-feeds.service", "plughole-feeds.timer",
        "plughole-egress.service",
    }  # fmt: skip
    assert expected <= set(UNITS)


def test_systemd_reads_the_units_without_a_complaint() -> None:
    done = analyze("verify", *(f"./{name}" for name in UNITS))
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "plughole" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_service_may_do_little(name: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST}", "--no-pager", f"./{name}")
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot read a unit that is not installed: systemd 250 or later")
    assert done.returncode == 0, done.stdout


def test_the_resolver_says_when_it_is_up_and_is_watched() -> None:
    lines = (PACKAGING / "plughole.service").read_text().splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    reloads = [line for line in lines if line.startswith("ExecReload=")]
    assert [line.split()[1] for line in reloads] == ["plughole", "kill"], "check first, then SIGHUP"


def test_the_agent_has_one_right_and_is_watched() -> None:
    lines = (PACKAGING / "plughole-egress.service").read_text().splitlines()
    assert "User=plughole" in lines
    assert {line for line in lines if "Capabilit" in line and "=" in line} == {
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
    }
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
