"""`plughole doctor` as a whole: its exit codes and JSON; no check breaks it, holds it up or betrays a password."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from node import CLI, REPOSITORY, Node
from node import config as node_config
from place import Place, documented

from console import checkups
from console.checkups import Check, Finding, Host
from console.doctor import examine
from core.config import Config

if TYPE_CHECKING:
    from internet import Internet

PAGE = REPOSITORY / "docs" / "troubleshooting.md"


def found(state: Any) -> Check:
    def check(_host: Host) -> Iterator[Finding]:
        yield Finding("made up", state, "a thing", "a cure")

    return check


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_says_whether_something_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch, state: str, code: int
) -> None:
    monkeypatch.setattr(checkups, "ALL", (found(state),))
    shown = place.run("doctor")
    assert shown.exit_code == code
    assert f"{state:4}  made up: a thing; do: a cure" in shown.stdout
    result = place.run("doctor", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["failed"]) == (code, bool(code))
    assert document["findings"][1] == {"check": "made up", "state": state, "seen": "a thing", "cure": "a cure"}
    assert {*document, *document["findings"][0]} <= documented("plughole doctor")


def test_a_wrong_configuration_is_exit_code_2(place: Place) -> None:
    place.file.write_text("[server]\nlisten = 5\n")
    result = place.run("doctor")
    assert result.exit_code == 2
    assert "server.listen" in result.stderr


def test_a_check_that_breaks_or_hangs_is_a_warning_and_keeps_what_it_found() -> None:
    end, told, first = threading.Event(), threading.Event(), Finding("hanging", "fail", "seen in time")
    before = set(threading.enumerate())

    def broken(_host: Host) -> Iterator[Finding]:
        yield Finding("broken", "ok", "before")
        raise RuntimeError("cannot reach redis://user:pass@word@192.0.2.1/0")

    def hanging(_host: Host) -> Iterator[Finding]:
        yield first
        told.set()
        end.wait()
        yield Finding("hanging", "ok", "too late")

    def checks() -> Iterator[Check]:
        """Both, with the time counted only once the one has ended and the other hangs."""
        yield broken
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
        yield hanging
        assert told.wait(60)

    try:
        seen = examine(Host(Config()), checks(), 0.2)
    finally:
        end.set()
    assert [(one.check, one.state) for one in seen] == [
        ("broken", "ok"), ("broken", "warn"), ("hanging", "fail"), ("hanging", "warn"),
    ]  # fmt: skip
    assert seen[1].seen == "could not look: RuntimeError: cannot reach redis://***@192.0.2.1/0"
    assert seen[2] == first


def test_the_address_of_a_tls_server_is_no_password() -> None:
    def check(_host: Host) -> Iterator[Finding]:
        yield Finding("x", "ok", "tls://192.0.2.1@853#dns.example")

    assert examine(Host(Config()), [check])[0].seen == "tls://192.0.2.1@853#dns.example"


def test_every_finding_has_a_section() -> None:
    headings = set(PAGE.read_text().split("\n## ")[1:])
    titles = {text.partition("\n")[0] for text in headings}
    assert {check.__name__.replace("resolv_conf", "resolv.conf").replace("open_resolver", "open resolver")
            for check in checkups.ALL} <= titles  # fmt: skip


def doctor(internet: Internet, path: Path) -> tuple[int, list[dict[str, str]]]:
    with internet.inside():
        done = subprocess.run(
            [*CLI, "doctor", "--json", "-c", str(path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def test_a_whole_node_passes(internet: Internet, tmp_path: Path) -> None:
    with Node(internet, tmp_path, node_config(internet, tmp_path)) as node:
        node.status()  # the hub answers, too
        for _ in range(5):  # a check waits a few seconds, and where the machine is busy it says so
            code, findings = doctor(internet, node.config)
            if not code and not any(one["seen"].startswith("could not look") for one in findings):
                break
    failed = [one for one in findings if one["state"] == "fail"]
    assert (failed, code) == ([], 0)
    seen = [one["seen"] for one in findings]
    assert "127.0.0.1:53 is held by plughole" in seen
    assert {"127.0.0.1:53 over UDP answers", "[::1]:53 over TCP answers"} <= set(seen)
    assert any(text.endswith("answers with signatures") for text in seen)


def test_a_broken_configuration_fails_with_the_cure(internet: Internet, tmp_path: Path) -> None:
    path = tmp_path / "plughole.toml"
    path.write_text(
        f'[server]\nlisten = ["0.0.0.0:5399"]\nallow_from = ["0.0.0.0/0"]\ndata_dir = "{tmp_path}/var"\n'
        '[limits]\nqueries_per_second = 0\n[upstream]\nmode = "forward"\nservers = ["127.0.0.1@5399"]\n'
    )
    code, findings = doctor(internet, path)
    cures = {one["check"]: one["cure"] for one in findings if one["state"] == "fail"}
    assert code == 1
    assert cures["loop"] == "change `[upstream] servers`"
    assert "queries_per_second" in cures["open resolver"]
    assert "firewall" in cures["upstream"]
