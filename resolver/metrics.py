"""What Prometheus reads of a node: a table of all metrics, and the collector that fills it from the hub's status.

Rules:
1. The source is the document `plughole status --json` prints: both tell the same.
2. A counter starts at 0 with its process. A replaced worker keeps its label: `rate()` takes that for a reset.
3. A worker's counter that stands in no table is shown as `plughole_worker_counter`: nothing is lost.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric as Family

SILENT: Final = 5.0  # seconds without a report before a worker counts as stuck
PARTS: Final = (  # what a sentence may be about
    "intel", "journal", "metrics", "redis", "upstream", "worker", "egress", "other",
)  # fmt: skip
_PREFIX: Final = "plughole_"
_C: Final = "counter"
_G: Final = "gauge"
_W: Final = ("worker",)
_LATENCY: Final = re.compile(r"latency_le_([0-9]{1,12}|inf)")
_LATENCY_SUM: Final = "latency_sum_us"
_NOT_COUNTED: Final = frozenset(("worker", "pid", _LATENCY_SUM))  # numbers of a worker's row that need no metric
_STAT_OCTETS: Final = 4_096  # /proc/PID/stat has about 350
_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Metric(NamedTuple):
    """One metric. `sources` are a worker's counters with the value of its second label, or one dotted path."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}


def _one(name: str, kind: str, text: str, source: str, labels: tuple[str, ...] = ()) -> Metric:
    return Metric(_PREFIX + name, kind, text, labels, {source: ""})


def _worker(name: str, kind: str, text: str, source: str) -> Metric:
    return _one(name, kind, text, source, _W)


def _split(name: str, text: str, label: str, **sources: str) -> Metric:
    return Metric(_PREFIX + name, _C, text, ("worker", label), sources)


def _made(name: str, kind: str, text: str, *labels: str) -> Metric:
    """Describe a metric that a function of `_MADE` fills."""
    return Metric(_PREFIX + name, kind, text, labels)


METRICS: Final = (
    _made("build_info", _G, "1; the version is its label.", "version"),
    _one("start_time_seconds", _G, "Unix time at which the hub started.", "hub.started"),
    _made("degraded", _G, "1 when `plughole status` says degraded or down, else 0."),
    _made("degraded_part", _G, "1 for a part that does not do its whole job, else 0.", "part"),
    _made("queries_total", _C, "Queries answered and told, cache hits in full.", "action", "cached", "rcode"),
    # intelligence and Redis
    _one("intel_generation", _G, "Generation of the intelligence in force; 0: none.", "intel.generation"),
    _made("intel_index_age_seconds", _G, "Seconds since the index in force was made."),
    _one("intel_names", _G, "Names in the index in force.", "intel.names"),
    _one("intel_overrides", _G, "Overrides in force.", "intel.overrides"),
    _made("redis_up", _G, "1 when Redis answers, else 0."),
    # the hub
    _one("hub_events_total", _C, "Events taken from the workers.", "hub.events"),
    _one("hub_events_dropped_total", _C, "Events the workers say they dropped.", "hub.events_dropped_by_workers"),
    _one("hub_garbled_total", _C, "Messages of workers that could not be read.", "hub.garbled"),
    _one("journal_rows_written_total", _C, "Rows of the query log written.", "journal.written"),
    _one("journal_rows_lost_total", _C, "Rows that could not be written or were damaged.", "journal.lost"),
    _one("journal_rows_over_cap_total", _C, "Rows over `journal.max_rows_per_second`.", "journal.over_the_cap"),
    _one("journal_rows_expired_total", _C, "Rows deleted by age or size.", "journal.expired"),
    _one("journal_rows_pending", _G, "Rows that wait to be written.", "journal.pending"),
    _one("journal_segments_total", _C, "Files written.", "journal.segments"),
    _one("journal_merges_total", _C, "Merges of files.", "journal.merges"),
    _one("journal_bytes", _G, "Octets of the query log on disk.", "journal.bytes"),
    _one("journal_not_itemised_total", _C, "Hits counted without a sighting.", "journal.not_itemised"),
    _one("journal_sightings_written_total", _C, "Sightings written.", "journal.sightings_written"),
    _one("journal_sightings_waiting", _G, "Sightings that wait to be written.", "journal.sightings_waiting"),
    _one("disk_free_bytes", _G, "Octets free where the data folder lies.", "disk.free_bytes"),
    _one("disk_size_bytes", _G, "Octets of that file system.", "disk.size_bytes"),
    _one("metrics_scrapes_total", _C, "Scrapes answered.", "metrics.scrapes"),
    _one("metrics_rejected_total", _C, "HTTP connections closed without a scrape.", "metrics.rejected"),
    # egress: what the hub learns
    _one("egress_addresses_learnt_total", _C, "Addresses that blocked names were found at.", "learning.learnt"),
    _one("egress_proposals_total", _C, "Addresses the guard let pass and agents were told.", "learning.published"),
    _made("egress_refusals_total", _C, "Addresses the guard refused.", "rule"),
    _one("egress_questions_total", _C, "Questions asked to learn where blocked names are.", "learning.asked"),
    _one("egress_questions_failed_total", _C, "Those that nobody answered.", "learning.failed"),
    _one("egress_questions_dropped_total", _C, "Questions over the cap, not asked.", "learning.dropped"),
    _one("egress_orders_waiting", _G, "Orders that wait for Redis.", "learning.unposted"),
    _one("egress_orders_dropped_total", _C, "Orders over the cap while Redis was away.", "learning.undelivered"),
    _one("egress_uses", _G, "Names at addresses that the own passive DNS holds.", "learning.uses"),
    _one("egress_uses_evicted_total", _C, "Names that went at its cap.", "learning.uses_evicted"),
    # processes
    _made("process_cpu_seconds_total", _C, "Seconds of CPU of the hub and of each worker.", "process"),
    _made("process_resident_memory_bytes", _G, "Resident memory; what processes share counts in each.", "process"),
    # workers: how they fare
    _made("worker_up", _G, "1 when the worker reported within the last 5 seconds, else 0.", "worker"),
    _worker("worker_report_age_seconds", _G, "Seconds since the worker's last report.", "seconds_since_report"),
    _worker("worker_generation", _G, "Generation the worker serves by.", "generation"),
    _worker("worker_overlay", _G, "Number of the change of overrides the worker serves by.", "overlay"),
    _worker("worker_reports_lost_total", _C, "Reports the hub did not take.", "reports_lost"),
    # workers: queries
    _split(
        "queries_rejected_total", "Queries turned away before anything was looked up.", "reason",
        malformed="malformed", refused="refused", limited="rate", damped="domain", proxied_bad="proxy",
    ),
    _worker("blocks_total", _C, "Decisions to block; repeats from cache are not counted again.", "blocked"),
    _worker("local_answers_total", _C, "Queries answered by local and special-use names.", "local"),
    _worker("rebind_blocks_total", _C, "Answers emptied by rebinding protection.", "rebind"),
    _worker("stale_answers_total", _C, "Answers served after they had expired.", "stale"),
    _worker("prefetches_total", _C, "Names asked anew before they expired.", "prefetched"),
    _split("cookies_total", "Queries with a DNS cookie of ours.", "result", cookies_good="good", cookies_bad="bad"),
    _worker("clients", _G, "Client addresses the worker remembers.", "clients"),
    _worker("cache_answers", _G, "Answers in the cache.", "cache_answers"),
    _worker("cache_bytes", _G, "Octets of the cache.", "cache_octets"),
    _worker("cache_evicted_total", _C, "Answers that had to leave the full cache.", "cache_evicted"),
    _worker("udp_received_total", _C, "Datagrams taken from the sockets.", "udp_received"),
    _split("udp_replies_total", "Replies over UDP.", "result", udp_sent="sent", udp_unsent="unsent"),
    _worker("tcp_connections", _G, "TCP connections open.", "tcp_open"),
    _worker("tcp_accepted_total", _C, "TCP connections taken.", "tcp_accepted"),
    _worker("tcp_refused_total", _C, "TCP connections over the cap.", "tcp_refused"),
    _worker("events_told_total", _C, "Events told to the hub.", "events_told"),
    _worker("events_waiting", _G, "Events that wait for the hub.", "events_waiting"),
    _worker("events_dropped_total", _C, "Events dropped as the hub was slow.", "events_dropped"),
    _worker("events_over_cap_total", _C, "Queries over the cap of a second, not told.", "events_over_cap"),
    # workers: upstream
    _worker("questions_total", _C, "Questions sent on, each once for all who wait for it.", "upstream"),
    _worker("questions_coalesced_total", _C, "Queries that waited for an identical question.", "coalesced"),
    _worker("questions_failed_total", _C, "Questions that ended in SERVFAIL.", "failed"),
    _made("resolution_seconds", "histogram", "Seconds from query to reply, as the worker measures them.", "worker"),
    _worker("upstream_asked_total", _C, "Questions the engine took.", "upstream_asked"),
    _worker("upstream_answered_total", _C, "Questions the engine answered.", "upstream_answered"),
    _worker("upstream_timeouts_total", _C, "Questions nobody answered in time.", "upstream_timeouts"),
    _worker("upstream_failed_total", _C, "Questions that failed in another way.", "upstream_failed"),
    _worker("upstream_refused_total", _C, "Questions over `upstream.max_outstanding`.", "upstream_refused"),
    _worker("upstream_bogus_total", _C, "Answers DNSSEC calls forged.", "upstream_bogus"),
    _worker("upstream_outstanding", _G, "Questions under way.", "upstream_outstanding"),
    _worker("upstream_abandoned", _G, "Questions given up that the engine still works on.", "upstream_abandoned"),
    _worker("upstream_retries_total", _C, "Questions asked again.", "upstream_retries"),
    _worker("upstream_truncated_total", _C, "Replies cut short over UDP.", "upstream_truncated"),
    _worker("upstream_miscased_total", _C, "Replies that did not echo the name's case.", "upstream_miscased"),
    _worker("upstream_letdowns_total", _C, "Failures of single servers.", "upstream_letdowns"),
    _worker("upstream_strangers_total", _C, "Replies nobody had asked for.", "upstream_strangers"),
    _worker("upstream_sockets_total", _C, "UDP sockets opened.", "upstream_sockets"),
    _worker("upstream_connections_total", _C, "TCP and TLS connections opened.", "upstream_connections"),
    _worker("upstream_servers_failing", _G, "Servers that did not answer the last time.", "upstream_servers_failing"),
    _made("worker_counter", "untyped", "A worker's counter without a name of its own.", "worker", "counter"),
)  # fmt: skip
_KNOWN: Final = _NOT_COUNTED.union(*(metric.sources for metric in METRICS if metric.labels[:1] == _W))

Sample = tuple[tuple[str, ...], float]


class Collector:
    """Turns the status last given into metric families; a `prometheus_client` collector."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {}
        self._highest: dict[str, float] = {}

    def exposition(self, status: dict[str, Any]) -> bytes:
        """Return the status in the Prometheus text format 0.0.4."""
        from prometheus_client import CollectorRegistry, generate_latest

        self._status = status
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Family]:
        """Yield every family that has a sample."""
        from prometheus_client import core

        kinds = {_C: core.CounterMetricFamily, _G: core.GaugeMetricFamily, "untyped": core.UntypedMetricFamily}
        for metric in METRICS:
            if metric.kind not in kinds:
                yield from self._histogram(metric)
                continue
            family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in self._samples(metric):
                family.add_metric(labels, value)
            if family.samples:
                yield family

    def _samples(self, metric: Metric) -> Iterator[Sample]:
        if not metric.sources:
            yield from _MADE[metric.name](self._status)
        elif metric.labels[:1] == _W:
            yield from self._of_workers(metric)
        else:
            yield from self._of_node(metric)

    def _of_node(self, metric: Metric) -> Iterator[Sample]:
        [path] = metric.sources
        part, _, key = path.partition(".")
        value = self._status.get(part, {}).get(key)
        if value is None:
            return
        if metric.kind == _C:  # rows found damaged leave "written": to Prometheus a lower value is a restart
            value = self._highest[path] = max(value, self._highest.get(path, 0))
        yield (), value

    def _of_workers(self, metric: Metric) -> Iterator[Sample]:
        for row in self._status["workers"]:
            for source, value in metric.sources.items():
                if source in row:
                    yield (str(row["worker"]), value)[: len(metric.labels)], row[source]

    def _histogram(self, metric: Metric) -> Iterator[Family]:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for row in self._status["workers"]:
            total, found = 0, list[tuple[str, float]]()
            for edge, count in buckets(row):
                total += count
                found.append((f"{edge:g}" if edge < float("inf") else "+Inf", total))
            if found:
                found += [] if found[-1][0] == "+Inf" else [("+Inf", total)]
                family.add_metric([str(row["worker"])], found, row.get(_LATENCY_SUM, 0) / 1e6)
        if family.samples:
            yield family


def buckets(counters: Mapping[str, Any]) -> list[tuple[float, int]]:
    """Return the latency buckets among a worker's counters, as (upper edge in seconds, count of this bucket alone)."""
    found = ((_LATENCY.fullmatch(name), value) for name, value in counters.items())
    return sorted((float("inf") if hit[1] == "inf" else int(hit[1]) / 1e6, value) for hit, value in found if hit)


def about(sentence: str) -> str:
    """Return which of PARTS a sentence of `degraded` is about."""
    first = sentence.split(maxsplit=1)[0].rstrip(":") if sentence else ""
    if first in PARTS:
        return first
    return "worker" if sentence.startswith("no worker") else "other"


def index_facts(data_dir: Path, index: str) -> dict[str, Any]:
    """Return how many names an index file has and when it was made (Unix seconds); zeros when it cannot be read."""
    from feeds.index import Index
    from resolver.control import intel_dir

    try:
        opened = Index.open(intel_dir(data_dir) / index)
    except PlugholeError:
        return {"names": 0, "created": 0.0}
    facts = {"names": opened.count, "created": opened.created}
    opened.close()
    return facts


def process_use(pid: int) -> tuple[float, int] | None:
    """Return seconds of CPU and octets of resident memory of a process (proc_pid_stat(5)); None when it is gone."""
    try:
        with Path(f"/proc/{pid}/stat").open("rb") as file:
            text = file.read(_STAT_OCTETS)
        fields = text.rpartition(b")")[2].split()  # the name in parentheses may hold anything
        return (int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def _build(_status: dict[str, Any]) -> Iterator[Sample]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        yield (version("plughole"),), 1
    except PackageNotFoundError:
        yield ("unknown",), 1


def _degraded(status: dict[str, Any]) -> Iterator[Sample]:
    yield (), bool(status["degraded"])


def _degraded_parts(status: dict[str, Any]) -> Iterator[Sample]:
    found = {about(sentence) for sentence in status["degraded"]}
    for part in PARTS:
        yield (part,), part in found


def _queries(status: dict[str, Any]) -> Iterator[Sample]:
    for row in status["queries"]:
        yield (row["action"], str(row["cached"]).lower(), row["rcode"]), row["count"]


def _index_age(status: dict[str, Any]) -> Iterator[Sample]:
    if created := status["intel"].get("created"):
        yield (), max(status["at"] - created, 0.0)


def _redis(status: dict[str, Any]) -> Iterator[Sample]:
    yield (), status["intel"]["redis"] == "up"


def _refusals(status: dict[str, Any]) -> Iterator[Sample]:
    for rule, count in status["learning"]["refused_by"].items():
        yield (rule,), count


def _workers_up(status: dict[str, Any]) -> Iterator[Sample]:
    fresh = {row["worker"] for row in status["workers"] if row["seconds_since_report"] <= SILENT}
    for number in range(status["hub"]["workers"]):
        yield (str(number),), number in fresh


def _uses(status: dict[str, Any]) -> Iterator[tuple[str, tuple[float, int]]]:
    pids = {"hub": status["hub"]["pid"]} | {
        f"worker {row['worker']}": row["pid"]
        for row in status["workers"]
        if row["seconds_since_report"] <= SILENT  # later its number may be another's
    }
    for name, pid in pids.items():
        if (use := process_use(pid)) is not None:
            yield name, use


def _cpu(status: dict[str, Any]) -> Iterator[Sample]:
    return (((name,), use[0]) for name, use in _uses(status))


def _memory(status: dict[str, Any]) -> Iterator[Sample]:
    return (((name,), use[1]) for name, use in _uses(status))


def _unnamed(status: dict[str, Any]) -> Iterator[Sample]:
    for row in status["workers"]:
        for name, value in row.items():
            if name not in _KNOWN and not _LATENCY.fullmatch(name):
                yield (str(row["worker"]), name), value


_MADE: Final[dict[str, Callable[[dict[str, Any]], Iterator[Sample]]]] = {
    "plughole_build_info": _build,
    "plughole_degraded": _degraded,
    "plughole_degraded_part": _degraded_parts,
    "plughole_queries_total": _queries,
    "plughole_intel_index_age_seconds": _index_age,
    "plughole_redis_up": _redis,
    "plughole_egress_refusals_total": _refusals,
    "plughole_process_cpu_seconds_total": _cpu,
    "plughole_process_resident_memory_bytes": _memory,
    "plughole_worker_up": _workers_up,
    "plughole_worker_counter": _unnamed,
}
