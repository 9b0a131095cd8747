"""The small internet itself: it stands, it falls without a trace, and says why it cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import internet as module
import pytest
from internet import AUTH, Internet


def left_behind(made: Internet) -> list[str]:
    namespaces = [path.name for path in Path("/run/netns").glob(f"{made.name}*")]
    return namespaces + [path.name for path in Path(tempfile.gettempdir()).glob("internet-*")]


@pytest.fixture
def alone(internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Internet:
    """Another one, not up yet, with its files in a folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Internet()


def test_it_comes_up_and_leaves_nothing(alone: Internet) -> None:
    with alone:
        assert alone.trust_anchor.read_text().startswith(". IN DS ")
        assert len(left_behind(alone)) == 2
        sleeper = alone.popen("sleep", "60")
        assert alone.run("ip", "-brief", "address", "show", "lo").stdout.count("198.51.100.") == 4
    assert sleeper.returncode is not None
    assert left_behind(alone) == []


def test_a_failure_half_way_leaves_nothing(alone: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_nsd_conf", lambda folder, host: "no configuration\n")
    monkeypatch.setattr(module, "READY_TIMEOUT", 0.2)
    with pytest.raises(TimeoutError, match="does not answer"), alone:
        pass
    assert left_behind(alone) == []


def test_inside_moves_this_thread_only_and_back(internet: Internet) -> None:
    moved, looked = threading.Event(), threading.Event()
    seen: list[str] = []

    def here() -> str:
        return str(Path("/proc/thread-self/ns/net").readlink())

    def move() -> None:
        with internet.inside():
            seen.append(here())
            moved.set()
            looked.wait(60)
        seen.append(here())

    thread = threading.Thread(target=move)
    thread.start()
    assert moved.wait(60)
    seen.append(here())
    looked.set()
    thread.join()
    there, ours, back = seen
    assert there != ours == back


def test_a_server_answers_as_dig_sees_it(internet: Internet) -> None:
    if shutil.which("dig") is None:
        pytest.skip("dig is missing: apt install bind9-dnsutils")
    assert internet.run("dig", "+short", "www.good.com", f"@{AUTH}").stdout == "192.0.2.11\n"


def test_why_not_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    assert Internet.why_not() == "network namespaces need root"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "_which", lambda binary: None if binary == "nsd" else "/bin/true")
    assert Internet.why_not() == "nsd is missing: apt install nsd"
    monkeypatch.setattr(module, "_which", lambda binary: "/bin/true")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: subprocess.CompletedProcess(args, 1))
    assert Internet.why_not() == "this machine allows no network namespaces"
