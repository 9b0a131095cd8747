"""What Prometheus reads of a node: the table, the values, the HTTP server under hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from failure.around import healthy, heard, status
from node import Node
from node import config as node_config
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from core.config import Config, Server
from resolver import metrics_http
from resolver.hub import Hub
from resolver.metrics import METRICS, PARTS, Collector, about, process_use
from resolver.metrics_http import MAX_CONNECTIONS, MetricsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from internet import Internet

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
COUNTERS = {source for metric in METRICS if metric.labels[:1] == ("worker",) for source in metric.sources}
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
GENEROUS = 60.0  # seconds for what happens at all


def document(workers: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """What a hub says, with every part of it filled."""
    hub = ("events", "events_dropped_by_workers", "garbled")
    journal = (
        "written", "lost", "pending", "over_the_cap", "expired", "segments", "merges", "bytes", "not_itemised",
        "sightings_written", "sightings_waiting",
    )  # fmt: skip
    learning = (
        "learnt", "published", "asked", "failed", "dropped", "unposted", "undelivered", "uses", "uses_evicted",
    )  # fmt: skip
    return {
        "at": 1_000.0,
        "degraded": [],
        "hub": {"pid": os.getpid(), "started": 9.0, "workers": 2} | dict.fromkeys(hub, 5),
        "queries": [{"action": "SINKHOLE", "cached": True, "rcode": "NOERROR", "count": 7}],
        "workers": workers,
        "intel": {"generation": 3, "names": 4, "created": 940.0, "overrides": 2, "redis": "up", "index": "3.index"},
        "journal": dict.fromkeys(journal, 8),
        "learning": {"refused_by": {"never": 6}} | dict.fromkeys(learning, 4),
        "disk": {"free_bytes": 1, "size_bytes": 2},
        "metrics": {"scrapes": 1, "rejected": 0},
    } | changes  # fmt: skip


def row(number: int = 0, age: float = 0.5, **counters: int) -> dict[str, Any]:
    return {"worker": number, "pid": os.getpid(), "seconds_since_report": age, "generation": 3, "overlay": 2} | counters


def values(text: bytes) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its label values, the worker first."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = sorted(sample.labels.items(), key=lambda label: (label[0] != "worker", label[0]))
            key = (sample.name, *(value for _, value in labels))
            assert key not in found
            found[key] = sample.value
    return found


# ---- the table


def test_the_manual_lists_every_metric_as_the_table_has_it() -> None:
    rows = re.findall(r"^\| `(plughole_\w+)` \| (\w+) \|(.*?)\| (.*?) \|(.*?)\|$", PAGE.read_text(), re.MULTILINE)
    written = [(name, kind, labels.strip(), text, sources.strip()) for name, kind, labels, text, sources in rows]
    table = [(one.name, one.kind, ", ".join(one.labels), one.help, _ticked(one.sources)) for one in METRICS]
    assert written == table


def _ticked(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def test_every_metric_named_in_the_manual_exists() -> None:
    named = set(re.findall(r"\bplughole_\w+", PAGE.read_text()))
    assert named <= {metric.name for metric in METRICS}


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    sources = [one for metric in METRICS for one in metric.sources]
    assert len(set(sources)) == len(sources)
    for metric in METRICS:
        assert re.fullmatch(r"plughole_[a-z0-9_]+[a-z]", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name


def test_every_metric_of_the_table_is_served_and_nothing_else() -> None:
    full = row(**dict.fromkeys(COUNTERS - row().keys(), 3), odd=9, latency_le_1000=1, latency_sum_us=500)
    text = Collector().exposition(document([full])).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    named = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    assert families.keys() == named.keys()
    for name, family in families.items():
        metric = named[name]
        assert family.type == ("unknown" if metric.kind == "untyped" else metric.kind)
        assert family.documentation == metric.help
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(metric.labels), name


def test_values_come_from_the_status() -> None:
    found = values(
        Collector().exposition(
            document(
                [row(0, malformed=4, udp_sent=10, cookies_bad=2), row(1, age=9.0, udp_sent=6)],
                degraded=["redis: away for 9 s, serving the last good state", "what is this"],
            )
        )
    )
    assert found["plughole_queries_total", "SINKHOLE", "true", "NOERROR"] == 7
    assert found["plughole_queries_rejected_total", "0", "malformed"] == 4
    assert found["plughole_cookies_total", "0", "bad"] == 2
    assert [found["plughole_udp_replies_total", str(number), "sent"] for number in (0, 1)] == [10, 6]
    assert [found["plughole_worker_up", str(number)] for number in (0, 1)] == [1, 0]
    assert found["plughole_worker_report_age_seconds", "1"] == 9
    assert found["plughole_intel_index_age_seconds",] == 60
    assert found["plughole_degraded",] == 1
    assert {part for part in PARTS if found["plughole_degraded_part", part]} == {"redis", "other"}
    assert found["plughole_process_resident_memory_bytes", "hub"] > 1e6
    assert ("plughole_process_cpu_seconds_total", "worker 0") in found
    assert ("plughole_process_cpu_seconds_total", "worker 1") not in found  # silent: the number may be another's


def test_a_worker_that_never_reported_is_down() -> None:
    found = values(Collector().exposition(document([row(1)])))
    assert [found["plughole_worker_up", str(number)] for number in (0, 1)] == [0, 1]


def test_the_histogram_is_cumulative_and_ends_with_infinity() -> None:
    worker = row(latency_le_10000=2, latency_le_1000=5, latency_le_inf=1, latency_sum_us=2_500_000)
    found = values(Collector().exposition(document([worker, row(1, latency_le_1000=4)])))
    name = "plughole_resolution_seconds"
    assert [found[f"{name}_bucket", "0", edge] for edge in ("0.001", "0.01", "+Inf")] == [5, 7, 8]
    assert (found[f"{name}_count", "0"], found[f"{name}_sum", "0"]) == (8, 2.5)
    assert [found[f"{name}_bucket", "1", edge] for edge in ("0.001", "+Inf")] == [4, 4]


def test_a_counter_without_a_name_is_not_lost() -> None:
    odd = 'new "kind"\nof counter'
    found = values(Collector().exposition(document([row(**{odd: 12, "latency_le_x": 1})])))
    assert found["plughole_worker_counter", "0", odd] == 12
    assert found["plughole_worker_counter", "0", "latency_le_x"] == 1
    assert ("plughole_worker_counter", "0", "pid") not in found


def test_rows_found_damaged_are_no_restart() -> None:
    collector = Collector()
    collector.exposition(document([], journal={"written": 1_000, "pending": 9}))
    found = values(collector.exposition(document([], journal={"written": 990, "pending": 2})))
    assert (found["plughole_journal_rows_written_total",], found["plughole_journal_rows_pending",]) == (1_000, 2)


def test_a_sentence_names_its_part() -> None:
    told = {
        "no worker has reported yet": "worker",
        "worker 3 has not reported for 9 s": "worker",
        "": "other",
        "journal": "journal",
        "egress: nothing is learnt": "egress",
    }
    assert {text: about(text) for text in told} == told  # fmt: skip


def test_a_process_that_is_gone_has_no_figures() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert process_use(child) is None
    assert process_use(os.getpid()) is not None


# ---- HTTP


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The server's own patience is for clients and hubs that are stuck, not for a machine that pauses this process."""
    monkeypatch.setattr(metrics_http, "DEADLINE", GENEROUS)
    monkeypatch.setattr(metrics_http, "PATIENCE", GENEROUS)
    monkeypatch.setattr(metrics_http, "STOP", GENEROUS)
    return monkeypatch


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Served:
    """A metrics server on a port of its own, with the status of a hub without workers."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.threads: set[str] = set()
        self.server = MetricsServer(f"127.0.0.1:{port}", folder, self._snapshot)

    def _snapshot(self) -> dict[str, Any]:
        self.threads.add(threading.current_thread().name)
        return document([row(udp_sent=3)])

    def get(self) -> bytes:
        """Scrape as a client of the standard library does."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=GENEROUS) as reply:
            assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            text: bytes = reply.read()
            return text

    async def say(self, octets: bytes, *, end: bool = False) -> bytes:
        """Send these octets and return everything that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(octets)
            if end:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), GENEROUS)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def serving(folder: Path, port: int = 0) -> AsyncIterator[Served]:
    served = Served(folder, port or free_port())
    served.server.start()
    try:
        assert port or await asyncio.to_thread(served.server.listening.wait, GENEROUS)
        yield served
    finally:
        served.server.stop()


@pytest.mark.usefixtures("patient")
async def test_a_scrape_is_answered_from_the_loop_of_the_hub(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        found = values(await asyncio.to_thread(served.get))
        assert found["plughole_udp_replies_total", "0", "sent"] == 3
        assert served.threads == {threading.current_thread().name}
        assert await served.say(REQUEST) != b""
        assert served.server.status() == {"listen": f"127.0.0.1:{served.port}", "scrapes": 2, "rejected": 0}
    with pytest.raises(ConnectionRefusedError):
        await served.say(REQUEST)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_only_get_of_metrics_is_served(tmp_path: Path, request_: bytes, status: bytes) -> None:
    async with serving(tmp_path) as served:
        reply = await served.say(request_)
        assert reply.startswith(b"HTTP/1.1 " + status)
        assert served.server.rejected == (status != b"200")


async def test_garbage_and_endless_heads_are_closed_and_counted(tmp_path: Path, patient: pytest.MonkeyPatch) -> None:
    patient.setattr(metrics_http, "DEADLINE", 0.2)
    async with serving(tmp_path) as served:
        for garbage in (os.urandom(300), b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 50_000, b"GET /metrics HTTP/1.1\r\n"):
            assert await served.say(garbage) == b""
        assert await served.say(b"GET", end=True) == b""
        assert served.server.rejected == 4
        patient.setattr(metrics_http, "DEADLINE", GENEROUS)
        assert await asyncio.to_thread(served.get)


@pytest.mark.usefixtures("patient")
async def test_clients_who_hold_connections_open_do_not_keep_prometheus_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        threads = threading.active_count()
        held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3 * MAX_CONNECTIONS)]
        for _, writer in held:
            writer.write(b"GET /met")
        assert await served.say(REQUEST) != b""
        assert threading.active_count() <= threads  # one of an earlier test may end meanwhile
        assert served.server.rejected >= 2 * MAX_CONNECTIONS
        for _, writer in held:
            writer.close()


async def test_a_hub_that_is_stuck_is_said_to_be(tmp_path: Path, patient: pytest.MonkeyPatch) -> None:
    patient.setattr(metrics_http, "PATIENCE", 0.05)
    async with serving(tmp_path) as served:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            served.get()  # in this very loop, which is the hub's
        assert served.server.scrapes == 0
        patient.setattr(metrics_http, "PATIENCE", GENEROUS)
        with closing(socket.create_connection(("127.0.0.1", served.port))):
            assert await asyncio.to_thread(served.get)


async def test_a_taken_port_is_said_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "RETRY", 0.02)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, capture_logs() as lines:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config = Config(server=Server(data_dir=str(tmp_path), metrics=address))
        hub = Hub(config, [])
        hub._metrics.start()
        trouble = f"metrics: cannot listen on {address}: Address already in use"
        await until(lambda: bool(hub._metrics.trouble))
        await asyncio.sleep(0.1)
        assert trouble in hub.status(time.time())["degraded"]
        assert [line["log_level"] for line in lines if line.get("address") == address] == ["error"]
        taken.close()
        await until(hub._metrics.listening.is_set)
        assert trouble not in hub.status(time.time())["degraded"]
        hub._metrics.stop()
        hub._journal.close(time.time())


def test_a_stop_without_a_start_is_nothing(tmp_path: Path) -> None:
    MetricsServer("127.0.0.1:9153", tmp_path, dict).stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(GENEROUS):
        while not condition():  # noqa: ASYNC110  set by another thread
            await asyncio.sleep(0.01)


def test_a_whole_node_under_hostile_http_answers_status_and_dns(internet: Internet, tmp_path: Path) -> None:
    text = node_config(internet, tmp_path).replace("[server]", '[server]\nmetrics = "127.0.0.1:9153"', 1)
    with Node(internet, tmp_path, text) as node:
        assert node.ask("malware.example").answer
        node.wait(lambda: (now := status(node))["state"] == "healthy" and now["hub"]["events"])
        with internet.inside():
            address = ("127.0.0.1", 9153)
            held = [socket.create_connection(address, timeout=GENEROUS) for _ in range(2 * MAX_CONNECTIONS)]
            for sock in held:
                sock.sendall(os.urandom(100))
        scrapes: list[dict[tuple[str, ...], float]] = []

        def all_up() -> bool:  # a hub that is paused for seconds refuses, a worker that is counts as down
            with (
                contextlib.suppress(OSError),
                internet.inside(),
                urllib.request.urlopen("http://127.0.0.1:9153/metrics", timeout=GENEROUS) as reply,
            ):
                scrapes.append(values(reply.read()))
                return all(scrapes[-1]["plughole_worker_up", number] == 1 for number in "01")
            return False

        node.wait(all_up)
        found = scrapes[-1]
        assert found["plughole_queries_total", "SINKHOLE", "false", "NOERROR"] == 1
        assert found["plughole_intel_names",] == 3
        assert found["plughole_process_resident_memory_bytes", "worker 1"] > 1e6
        assert heard(node)["metrics"]["scrapes"] >= len(scrapes)
        healthy(node)
        assert node.ask("malware.example").answer
        for sock in held:
            sock.close()
    assert node.code == 0, node.output()
