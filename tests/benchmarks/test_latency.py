"""Latency at half load: replies find their questions, percentiles and half load are right, the chapter compares."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import latency, load, openloop, probe, report

MICRO = 1_000  # nanoseconds
ADDRESS = socket.inet_aton(probe.AUTHORITY_ADDRESS)


def record(times: list[float], *, passed: bool = True, rcode: int = 0, late: int = 0) -> openloop.Record:
    """Return a record of one question a millisecond; `times` are microseconds to the reply, infinite for none."""
    count = len(times)
    due = 10**18 + np.arange(count, dtype=np.int64) * 1_000 * MICRO
    sent = due + late * MICRO
    received = np.array(
        [0 if time == float("inf") else at + int(time * MICRO) for at, time in zip(sent, times, strict=True)], np.int64
    )
    return openloop.Record(
        due, sent, received, np.full(count, rcode, np.uint8), np.full(count, passed, np.bool_) & (received > 0)
    )


def test_every_question_has_one_place_and_neighbours_share_a_socket() -> None:
    sockets, numbers = openloop.place(1_000, 3)
    assert len(set(zip(sockets.tolist(), numbers.tolist(), strict=True))) == 1_000
    assert set(sockets[: openloop.RUN].tolist()) == {0}
    assert set(sockets[openloop.RUN : 2 * openloop.RUN].tolist()) == {1}
    for number in range(3):
        assert numbers[sockets == number].tolist() == list(range(int((sockets == number).sum())))


def test_a_reply_belongs_to_the_last_question_with_its_ident_sent_before_it() -> None:
    sent = np.arange(70_000, dtype=np.int64) * 10 + 1_000
    received = np.array([1_005, 655_360 + 1_005, 655_360 + 1_005, 999], np.int64)
    idents = np.array([0, 0, 5, 0], np.int64)
    assert openloop.match(sent, idents, received).tolist() == [0, 65_536, 5, -1]


def test_an_ident_that_was_never_sent_belongs_to_no_question() -> None:
    sent = np.array([100, 200], np.int64)
    assert openloop.match(sent, np.array([9], np.int64), np.array([300], np.int64))[0] < 0


def test_percentiles_are_those_of_the_answered_questions() -> None:
    found = latency.spread(record([*range(1, 101), *[float("inf")] * 25], late=7), "hit")
    assert found.sent == 125
    assert found.answered == pytest.approx(0.8)
    assert found.times["p50"] == pytest.approx(50.5)
    assert found.times["p99"] == pytest.approx(99.01)
    assert found.times["max"] == 100
    assert found.lag == pytest.approx(7)
    assert found.wrong == 0


def test_a_reply_after_two_seconds_is_none() -> None:
    found = latency.spread(record([100, openloop.LOST_AFTER * 1e6 + 1]), "hit")
    assert (found.answered, found.times["max"]) == (0.5, 100)


def test_a_load_without_an_answer_is_infinitely_slow() -> None:
    found = latency.spread(record([float("inf")] * 3), "hit")
    assert (found.answered, found.wrong, found.times["p50"]) == (0, 0, float("inf"))


@pytest.mark.parametrize(
    ("kind", "passed", "rcode", "wrong"),
    [
        ("hit", True, 0, 0),
        ("hit", False, 0, 1),
        ("miss", True, 2, 1),
        ("blocked", False, 0, 0),
        ("blocked", False, 3, 0),
        ("blocked", True, 0, 1),
        ("blocked", False, 2, 1),
    ],
)
def test_a_reply_of_the_wrong_kind_is_counted(kind: str, passed: bool, rcode: int, wrong: int) -> None:
    assert latency.spread(record([5], passed=passed, rcode=rcode), kind).wrong == wrong


def test_the_first_second_is_left_out() -> None:
    kept = record([9_000.0] * 1_000 + [5.0] * 100).since(1.0)
    assert len(kept.sent) == 100
    assert latency.spread(kept, "hit").times["max"] == 5
    assert latency.questions(1_000, 4) == 5_000


def figures(qps: dict[str, list[float]]) -> report.Figures:
    def visit(name: str, value: float) -> report.Visit:
        outcome = load.Outcome(sent=10, answered=10, lost=0, qps=value, latency=0, latency_max=0)
        return report.Visit(name, samples={"hit": report.Sample(1.0, outcome, unexpected=0)})

    return report.Figures([visit(name, value) for name, values in qps.items() for value in values], list(qps), {}, {})


@pytest.mark.parametrize(
    ("qps", "rate"),
    [
        ({"plughole": [100, 300, 200], "unbound": [150], "dnsdist": [400]}, 100),  # plughole is the slower
        ({"plughole": [500], "unbound": [150], "dnsdist": [400]}, 200),  # the best peer is
        ({"unbound": [150]}, 75),
        ({"plughole": [50], "plughole (libunbound)": [10]}, 25),
    ],
)
def test_half_load_is_half_of_the_slower_of_plughole_and_the_best_peer(
    qps: dict[str, list[float]], rate: float
) -> None:
    assert latency.half_load(figures(qps)) == {"hit": rate}


def spread(p99: float, answered: float = 1.0) -> latency.Spread:
    times = dict.fromkeys(latency.POINTS, 10.0) | {"p99": p99}
    return latency.Spread(sent=1_000, answered=answered, wrong=0.0, times=times, lag=3.0)


def test_the_chapter_compares_with_the_best_peer_that_kept_up() -> None:
    visits = [
        latency.Visit(latency.ECHO, {"hit": spread(20)}),
        latency.Visit("plughole", {"hit": spread(300)}),
        latency.Visit("plughole", {"hit": spread(150)}),
        latency.Visit("plughole", {"hit": spread(120)}),
        latency.Visit("unbound", {"hit": spread(100)}),
        latency.Visit("dnsmasq", {"hit": spread(50, answered=0.5)}),
        latency.Visit("named", failure="it does not start"),
    ]
    chapter = latency.Chapter(visits, {"hit": 1_000.0}, seconds=4)
    assert latency.best_peer(visits, "hit") == 100
    assert "hit 1,000/s" in chapter.text
    assert "| plughole | hit | 10 | 10 | 150 (120-300) | 10 | 10 | 1.50 | 0.00 | 0.00 | 3 |" in chapter.text
    assert "| dnsmasq | hit | 10 | 10 | 50 | 10 | 10 | 0.50 | 50.00 | 0.00 | 3 |" in chapter.text
    assert f"| {latency.ECHO} | hit | 10 | 10 | 20 | 10 | 10 | - | 0.00 | - | 3 |" in chapter.text
    assert "- named: it does not start" in chapter.text
    assert chapter.failed


def test_without_rounds_the_chapter_says_so() -> None:
    assert latency.Chapter([], {"hit": 1.0}, seconds=1).text == "Not measured."


@pytest.fixture
def answering() -> Callable[[Callable[[int, bytes], bytes | None]], int]:
    """Return a function that starts a server of up to 100 questions on a port of its own and returns the port."""

    def start(reply: Callable[[int, bytes], bytes | None]) -> int:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((probe.HOST, 0))
        sock.settimeout(60)

        def serve() -> None:
            with sock:
                for number in range(100):
                    wire, client = sock.recvfrom(4_096)
                    if answer := reply(number, wire):
                        sock.sendto(answer, client)

        threading.Thread(target=serve, daemon=True).start()
        port: int = sock.getsockname()[1]
        return port

    return start


def test_a_player_keeps_every_questions_time_and_fate(
    answering: Callable[[Callable[[int, bytes], bytes | None]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openloop, "LOST_AFTER", 4.0)  # within that the other thread has its turn
    silent: list[bytes] = []

    def reply(number: int, wire: bytes) -> bytes | None:
        if number % 10 == 0:
            silent.append(wire[13 : 13 + wire[12]])
            return None
        return wire[:2] + bytes([0x81, 0x80 | (number == 1) * 3]) + wire[4:] + (ADDRESS if number != 1 else b"")

    names = [f"q{number:02}.example" for number in range(100)]
    script = openloop.script(answering(reply), names, rate=2_000, core=None, sources=("127.0.0.1", "127.0.0.2"))
    starts: list[int] = []
    found = openloop.Player(script).play(starts.append)
    assert found.due[0] == starts[0]
    assert (np.diff(found.due) == 500_000).all()
    assert (found.sent >= found.due).all()
    assert {names[at].partition(".")[0].encode() for at in np.flatnonzero(~found.answered)} == set(silent)
    assert len(silent) == 10
    answered = found.answered
    assert (found.received[answered] > found.sent[answered]).all()
    assert (found.rcode[answered] == 3).sum() == 1
    assert found.passed[answered].sum() == 89


def test_the_echo_server_returns_what_it_got(tmp_path: Path) -> None:
    with latency.echo(tmp_path / "echo", core=min(os.sched_getaffinity(0))) as port:
        reply = probe.ask(port, "some.example", patience=60.0)
    assert reply is not None
    assert (reply.rcode, reply.passed) == (0, False)
