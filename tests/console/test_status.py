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
from place import Place, documented, section

from console import status
from core.event import Event
from core.verdict import Action
from resolver import hub
from resolver.control import SOCKET, Report

KEYS = {
    "at",
    "state",
    "degraded",
    "hub",
    "rates",
    "queries",
    "learning",
    "seen",
    "workers",
    "intel",
    "journal",
    "disk",
    "metrics",
    "detectors",
    "egress",
}
HUB_KEYS = {"pid", "started", "uptime_seconds", "workers", "events", "events_dropped_by_workers", "garbled"}
RATE_KEYS = {
    "seconds", "queries_per_second", "questions_per_second", "cached", "blocked", "failed",
    "latency_mean_ms", "latency_p50_ms", "latency_p99_ms",
}  # fmt: skip
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
        thread.join(60)


def said(place: Place, *, age: float = 0.0, **changes: Any) -> bytes:
    """What a real hub says whose one worker reported `age` seconds ago, after two seconds with four queries."""
    now = time.time()
    node = hub.Hub(place.config, [])
    node._started = now - 60
    sent = {"udp_sent": 1_234_567, "tcp_open": 1, "blocked": 2, "events_dropped": 3, "upstream": 10}
    node._reports[0] = (now - age, Report(0, 77, 7, 0, sent))
    node._rates.note(node._reports, now - 2)
    hit = Event(now, b"\x7f\0\0\1", b"\1a\0", 1, 0, cached=True, count=2)
    blocked = Event(now, b"\x7f\0\0\1", b"\1b\0", 1, 0, Action.SINKHOLE)
    failed = Event(now, b"\x7f\0\0\1", b"\1c\0", 1, 2)
    node._rates.add([hit, blocked, failed])
    later = sent | {"upstream": 14, "latency_le_1000": 3, "latency_le_50000": 1, "latency_sum_us": 14_000}
    node._reports[0] = (now - age, Report(0, 77, 7, 0, later))
    node._rates.note(node._reports, now)
    found = node.status(now)
    node._journal.close(now)
    return json.dumps(found | changes).encode() + b"\n"


def test_the_keys_are_the_documented_ones(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short)) as asked:
        result = short.run("status", "--json")
    assert (result.exit_code, result.stderr, asked) == (0, "", [b"status\n"])
    found = json.loads(result.stdout)
    assert set(found) == KEYS
    assert set(found["hub"]) == HUB_KEYS
    assert set(found["rates"]) == RATE_KEYS
    assert set(found["queries"][0]) == {"action", "cached", "rcode", "count"}
    assert set(found["disk"]) == {"free_bytes", "size_bytes"}
    assert set(found["metrics"]) == {"listen", "scrapes", "rejected"}
    assert set(found["intel"]) == INTEL_KEYS
    assert set(found["journal"]) == JOURNAL_KEYS
    assert {"worker", "pid", "seconds_since_report", "generation", "overlay"} <= set(found["workers"][0])
    assert (found["intel"]["names"], found["intel"]["generation"]) == (4, 7)
    assert 0 < found["at"] - found["intel"]["created"] < 60


def test_health_is_the_first_line(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short)):
        result = short.run("status")
    page = result.stdout.splitlines()
    assert (result.exit_code, page[0]) == (0, "healthy: DNS is answered and filtered; do: nothing")
    assert "queries:       2 a second in the last 2 s, 50.0% from cache, 25.0% blocked, 25.0% SERVFAIL" in page
    assert "upstream:      2 questions a second, mean latency 3.5 ms, half within 1 ms, 99% within 50 ms" in page
    assert any(line.startswith("intelligence:  generation 7, 4 names, ") for line in page)
    assert any(line.startswith("disk:  ") and " free at " in line for line in page)
    assert "1,234,567" in page[-1]


def test_what_is_degraded_comes_first_and_what_to_do_with_it(short: Place) -> None:
    short.give_intel()
    troubles = ["metrics: taken", "redis: away for 9 s", "\x1b[2Jnews"]
    with answering(short, said(short, state="degraded", degraded=troubles)):
        result = short.run("status")
    text = result.stdout.partition("\n\n")[0]
    assert result.exit_code == 1
    assert " ".join(text.split()).startswith(
        "degraded: DNS is answered and filtered by the last good state, new feeds and overrides do not arrive; do: see"
    )
    assert text.index("- redis: away for 9 s") < text.index("- metrics: taken") < text.index("- \\x1b[2Jnews")
    assert text.count("do:") == 3
    assert "`[server] metrics`" in text


def test_json_has_the_same_exit_code(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short)):
        assert short.run("status", "--json").exit_code == 0
    short.config.data_dir.joinpath(SOCKET).unlink()
    with answering(short, said(short, age=9.0)):
        result = short.run("status", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "down")


def test_no_worker_means_no_dns(short: Place) -> None:
    short.give_intel()
    with answering(short, said(short, age=9.0)):
        result = short.run("status")
    page = result.stdout.splitlines()
    assert result.exit_code == 1
    assert page[0].startswith("down: DNS is NOT answered, no worker reports; do: ")
    assert "  - worker 0 has not reported for 9.0 s" in page


def test_no_intelligence_means_servfail_and_the_cure(short: Place) -> None:
    with answering(short, said(short)):
        page = short.run("status").stdout.splitlines()
    assert page[0] == ("down: every query gets SERVFAIL, no intelligence was ever loaded; do: `plughole feeds update`")
    assert any("none yet" in line for line in page)


def test_no_line_is_wider_than_a_terminal_and_no_command_is_broken(short: Place) -> None:
    troubles = ["upstream: bad", f"redis: {'x' * 150} {'word ' * 40}", "worker 1 has not reported for 9 s", "what?"]
    with answering(short, said(short, state="degraded", degraded=troubles)):
        page = short.run("status").stdout
    assert max(map(len, page.splitlines())) <= status.WIDTH
    assert "`journalctl -u plughole -n 50`" in page
    assert "`systemctl restart plughole`" in page


def test_a_young_hub_has_no_rates_and_does_not_call_the_node_down(short: Place) -> None:
    short.give_intel()
    node = hub.Hub(short.config, [])
    found = node.status(time.time())
    node._journal.close(time.time())
    assert {found["rates"][key] for key in RATE_KEYS - {"seconds"}} == {None}
    with answering(short, json.dumps(found).encode()):
        result = short.run("status")
    assert "counted for too short a time" in result.stdout
    assert result.stdout.startswith(
        "degraded: the hub has just started, DNS does not wait for it; do: look again in 5 s\n"
    )


def test_no_node_is_one_line_and_how_to_start_it(short: Place) -> None:
    result = short.run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"plughole: down: no plughole runs on {short.config.data_dir} ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith("start it with `systemctl start plughole` or `plughole serve`\n")


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
    assert documented("plughole status") >= KEYS | HUB_KEYS | INTEL_KEYS | {"free_bytes", "size_bytes", "listen"}
    assert all(f"`{key}`" in section("plughole status") for key in RATE_KEYS)
