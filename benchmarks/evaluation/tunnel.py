"""How the tunnel detector does: per tool found, named and how soon; per trap service and benign log, its alerts.

Rules:
1. Thresholds were first set on what is marked "tune". Faults seen on "test" were mended too (docs/detectors/tunnel.md
   lists them), so its figures flatter; emulated runs are "ours" and show no more than that the readers work.
2. Payload is the octets of names at the bits a character of the tool's alphabet carries: an upper estimate.
3. A detector without its signatures stands for tools nobody has described.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation import printing
from benchmarks.evaluation.figures import quantile_row
from benchmarks.evaluation.table import Row, wilson
from benchmarks.evaluation.tunnel_captures import capture, exchanges, questions, subdomains, zeek
from benchmarks.evaluation.tunnel_emulated import EMULATED, UNKNOWN, run
from benchmarks.evaluation.tunnel_traps import services
from core.finding import Confidence, Finding
from detectors.tunnel import READERS, TunnelSettings, TunnelWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from detectors.sight import Sight
    from detectors.tunnel import Reader

_NAME: Final = "tunnel"
_CAPTURED: Final = {"iodine": "iodine", "dns2tcp": "dns2tcp", "dnscat2": "dnscat2"}  # by how a file's name begins
_PAYLOAD: Final = {"iodine": 0.625, "dnscat2": 0.5, "goDoH": 0.5, "Cobalt Strike": 0.5, "dns2tcp": 0.75}
_BASE32: Final = 0.625  # octets a character, for the others
_MISSED: Final = 30  # questions not seen of a session met half-way
_PAUSE: Final = 60.0  # seconds without a question end a session of a CSV file
_LEAST: Final = 20  # questions of a run
_SEEDS: Final = 10  # runs of each emulator

Run = tuple[str, str, str, list["Sight"]]  # tool, source, half, sights


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the rows; `quick` takes a sample of the benign logs and of the emulated runs."""
    captured = list(_captured(data))
    emulated = [
        (tool, "emulated", "ours", run(make, seed))
        for tool, make in EMULATED.items()
        for seed in range(2 if quick else _SEEDS)
    ]
    unknown = [
        (tool, "emulated", "ours", run(make, seed))
        for tool, make in UNKNOWN.items()
        for seed in range(2 if quick else _SEEDS)
    ]
    late = [
        (tool, source, half, sights[_MISSED:]) for tool, source, half, sights in captured if len(sights) > 2 * _MISSED
    ]
    return [
        *_named("named", captured),
        *_named("named", emulated),
        *_named("named, its first 30 questions not seen", late),
        *_shaped("found by shape alone", captured),
        *_shaped("found by shape alone", emulated),
        *_shaped("found, no tool of anybody's", unknown),
        *_traps(data),
        *_benign(data, quick=quick),
    ]


def _captured(data: Path) -> Iterator[Run]:
    """Yield the runs of captures and logs. Own captures served for tuning, those of others did not."""
    for folder, half in (("own", "tune"), ("pcap", "test")):
        for path in sorted((data / "captures" / folder).glob("*.pcap")):
            if tool := next((tool for head, tool in _CAPTURED.items() if path.name.startswith(head)), None):
                yield tool, "capture", half, list(capture(path))
    yield "iodine", "capture", "test", list(exchanges(data / "tunnels" / "iodine_cname.csv.gz"))
    groups: dict[str, list[Sight]] = defaultdict(list)
    for label, sight in questions(data / "tunnels" / "queries.csv.gz"):
        groups[label].append(sight)
    for label, sights in groups.items():
        for session in _sessions(sights):
            yield label.split()[0].replace("sods", "SODS"), "questions only", "test", session


def _sessions(sights: Sequence[Sight]) -> Iterator[list[Sight]]:
    ends = [at + 1 for at, (one, two) in enumerate(pairwise(sights)) if two.at - one.at > _PAUSE]
    for begin, end in pairwise((0, *ends, len(sights))):
        if end - begin >= _LEAST:
            yield list(sights[begin:end])


def _watch(sights: Iterable[Sight], readers: Sequence[Reader] = READERS) -> Iterator[tuple[int, float, Finding]]:
    """Yield (questions, octets in names, finding) as the detector speaks."""
    watch = TunnelWatch(TunnelSettings(), readers=readers)
    octets = 0
    for count, sight in enumerate(sights, 1):
        octets += len(sight.qname) - len(sight.domain)
        for finding in watch.see(sight):
            yield count, octets, finding


def _named(what: str, runs: Iterable[Run]) -> Iterator[Row]:
    for (tool, source, half), sessions in _by_tool(runs).items():
        right, wrong, asked, payload = 0, 0, [], []
        ratio = _PAYLOAD.get(tool.split(" over ")[0], _BASE32)
        for sights in sessions:
            sure = [seen for seen in _watch(sights) if seen[2].confidence is Confidence.HIGH]
            if sure and _is_right(tool, sure[0][2]):
                right += 1
                asked.append(float(sure[0][0]))
                payload.append(sure[0][1] * ratio)
            wrong += bool(sure) and not _is_right(tool, sure[0][2])
        of = f"{tool} ({source}, {half})"
        yield _share(f"{what}, HIGH", of, right, len(sessions))
        if wrong:
            yield _share(f"{what}, as another tool", of, wrong, len(sessions))
        if asked:
            yield quantile_row(_NAME, f"{what}: questions before, median", of, asked, 0.5)
            yield quantile_row(_NAME, f"{what}: payload before, most", of, payload, 1.0, unit="B")


def _shaped(what: str, runs: Iterable[Run]) -> Iterator[Row]:
    for (tool, source, half), sessions in _by_tool(runs).items():
        asked, payload = [], []
        for sights in sessions:
            for count, octets, finding in _watch(sights, ()):
                if finding.confidence >= Confidence.MEDIUM:
                    asked.append(float(count))
                    payload.append(octets * _BASE32)
                    break
        of = f"{tool} ({source}, {half})"
        yield _share(f"{what}, MEDIUM", of, len(asked), len(sessions))
        if asked:
            yield quantile_row(_NAME, f"{what}: payload before, most", of, payload, 1.0, unit="B")


def _by_tool(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[list[Sight]]]:
    groups: dict[tuple[str, str, str], list[list[Sight]]] = defaultdict(list)
    for tool, source, half, sights in runs:
        groups[tool, source, half].append(sights)
    return groups


def _is_right(tool: str, finding: Finding) -> bool:
    return tool.split(",", maxsplit=1)[0].split(" over ", maxsplit=1)[0].lower() in finding.reason.lower()


def _share(what: str, of: str, hits: int, n: int) -> Row:
    low, high = wilson(hits, n)
    return Row(detector=_NAME, what=what, of=of, value=hits / max(n, 1), n=n, low=low, high=high, at_most=False)


def _traps(data: Path) -> Iterator[Row]:
    loud: dict[str, list[int]] = {"tune": [], "test": []}
    quiet: dict[str, int] = {"tune": 0, "test": 0}
    for service, half, sights in services(data):
        found = [finding for _, _, finding in _watch(sights)]
        alerts = sum(finding.confidence >= Confidence.MEDIUM for finding in found)
        loud[half].append(alerts)
        quiet[half] += len(found) > alerts
        if found:
            of = f"{service} ({half}; {'MEDIUM or HIGH' if alerts else 'LOW'})"
            yield Row(
                detector=_NAME, what="alerts at a trap service, one client", of=of, value=len(found), n=len(sights)
            )
    for half, counts in loud.items():
        low, high = wilson(sum(map(bool, counts)), len(counts))
        yield Row(
            detector=_NAME, what="trap services called a tunnel, MEDIUM or HIGH", of=half,
            value=sum(map(bool, counts)) / max(len(counts), 1), n=len(counts), low=low, high=high,
        )  # fmt: skip
        yield Row(
            detector=_NAME, what="trap services with a LOW finding", of=half,
            value=quiet[half] / max(len(counts), 1), n=len(counts),
        )  # fmt: skip


def _benign(data: Path, *, quick: bool) -> Iterator[Row]:
    most = 50_000 if quick else None
    logs: dict[str, Iterable[Sight]] = {
        "sub-domains of an ISP as one domain": subdomains(data / "benign" / "isp_subdomains_val.csv.gz"),
        "77 clients (zeek)": zeek(data / "benign" / "zeek_brim.csv.gz"),
        "crawl of the top 1M": exchanges(data / "benign" / "top1m_crawl.csv.gz"),
        "crawl (capture)": capture(data / "captures" / "pcap" / "benign_crawl_ggyggy_00006.pcap"),
    }
    for path in sorted((data / "captures" / "pcap").glob("testing*.pcap")):
        logs["odd captures"] = [*logs.get("odd captures", []), *capture(path)]
    for label, stream in logs.items():
        sights = list(islice(stream, most))
        begun = time.process_time()
        found = [finding for _, _, finding in _watch(sights)]
        spent = time.process_time() - begun
        alerts = sum(finding.confidence >= Confidence.MEDIUM for finding in found)
        low, high = wilson(alerts, len(sights))
        yield Row(
            detector=_NAME, what="alerts in benign traffic, MEDIUM or HIGH", of=label, value=alerts, n=len(sights),
            low=low * len(sights), high=high * len(sights), bar=0,
        )  # fmt: skip
        yield Row(
            detector=_NAME, what="findings in benign traffic, LOW", of=label, value=len(found) - alerts, n=len(sights)
        )
        yield Row(
            detector=_NAME,
            what="time a question",
            of=label,
            value=spent / max(len(sights), 1) * 1e6,
            unit="us",
            n=len(sights),
        )


if __name__ == "__main__":
    printing.main(measure)
