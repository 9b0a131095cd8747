"""`plughole status` and what a hub says of its node."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from place import Place, documented

from console import status
from resolver import hub
from resolver.control import SOCKET, Report

KEYS = {"at", "hub", "workers", "intel", "journal", "degraded"}
HUB_KEYS = {"pid", "uptime_seconds", "events", "events_dropped_by_workers", "garbled"}
INTEL_KEYS = {"generation", "index", "overlay", "overrides", "redis", "degraded", "names", "created"}
JOURNAL_KEYS = {
    "written", "pending", "lost", "over_the_cap", "expired", "segments", "merges", "bytes", "not_itemised",
    "sightings_written", "sightings_waiting",
}  # fmt: skip


@pytest.fixture
def short() -> Iterator[Place]:
    """A folder with a short path: a socket's has at most 107 octets."""
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:
        place = Place(Path(folder))
        place.config.data_dir.mkdir()
        yield place


@contextmanager
def answering(place: Place, answer: bytes) -> Iterator[list[bytes]]:
    """Be a hub that says `answer` to one question."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place.config.data_dir / SOCKET))
        server.listen()

        def answer_one() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(answer)

        thread = threading.Thread(target=answer_one)
        thread.start()
        yield asked
        thread.join(10)


def said(place: Place, **changes: Any) -> bytes:
    """What a real hub with one worker says."""
    node = hub.Hub(place.config, [])
    report = Report(0, 77, 7, 0, {"udp_sent": 1_234_567, "tcp_open": 1, "blocked": 2, "events_dropped": 3})
    node._reports[0] = (time.time(), report)
    found = node.status(time.time())
    node._journal.close(time.time())
    return json.dumps(found | changes).encode() + b"\n"


def test_the_keys_are_the_documented_ones(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short)) as asked:
        result = short.run("status", "--json")
    assert (result.exit_code, result.stderr, asked) == (0, "", [b"status\n"])
    found = json.loads(result.stdout)
    assert set(found) == KEYS
    assert set(found["hub"]) == HUB_KEYS
    assert set(found["intel"]) == INTEL_KEYS
    assert set(found["journal"]) == JOURNAL_KEYS
    assert {"worker", "pid", "seconds_since_report", "generation", "overlay"} <= set(found["workers"][0])
    assert (found["intel"]["names"], found["intel"]["generation"]) == (4, 7)
    assert 0 < found["at"] - found["intel"]["created"] < 60


def test_health_is_the_first_line(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short)):
        page = short.run("status").stdout.splitlines()
    assert page[0] == "healthy"
    assert any(line.startswith("intelligence: generation 7, 4 names, ") for line in page)
    assert "1,234,567" in page[-1]


def test_what_is_degraded_is_the_first_line(short: Place) -> None:
    with answering(short, said(short, degraded=["redis: away for 9 s", "\x1b[2Jnews"])):
        result = short.run("status")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "degraded: redis: away for 9 s; \\x1b[2Jnews"
    assert any("none yet" in line for line in result.stdout.splitlines())


def test_no_node_is_one_line_and_how_to_start_it(short: Place) -> None:
    result = short.run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"plughole: no plughole runs on {short.config.data_dir}; start it with `plughole serve`\n"


def test_a_socket_left_behind_is_no_node(short: Place) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short.config.data_dir / SOCKET))
    assert "no plughole runs" in short.run("status").stderr


@pytest.mark.parametrize("answer", [b"", b"not json\n", b"[]\n", b'{"intel": 3}\n', b"\xff\xfe", b'{"at": 1'])
def test_nonsense_is_one_line(short: Place, answer: bytes) -> None:
    with answering(short, answer):
        result = short.run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1


def test_a_silent_hub_is_not_waited_for(short: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short.config.data_dir / SOCKET))
        server.listen()
        result = short.run("status")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "does not answer" in result.stderr


def test_a_running_hub_is_asked_to_show_what_it_holds(short: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("journal.ask.settle", asked.append)
    short.run("log")
    assert asked == []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short.config.data_dir / SOCKET))
        server.listen()
        short.run("log")
        short.run("top", "clients")
    assert asked == [short.config.data_dir] * 2


def test_the_manual_has_the_keys() -> None:
    assert documented("plughole status") >= KEYS | HUB_KEYS | INTEL_KEYS
