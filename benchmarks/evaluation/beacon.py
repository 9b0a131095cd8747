"""How well beacons are told from what is regular by nature: simulated beacons, real logs, a simulated office.

Rules:
1. A beacon makes 24 contacts, of which 10 % are lost at random; each has a client and a domain of its own, whose TTL
   is any of four whatever the period, and a client that keeps no answers.
2. The thresholds were set on the uniform law and the services marked so; those of late looks were made stricter after
   the held-out services had been seen too. The real logs were never tuned on.
3. A pair counts as flagged by any finding, LOW ones too.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections import Counter, defaultdict
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from benchmarks.evaluation.captures import name_of, qtype_of
from benchmarks.evaluation.data import rows
from benchmarks.evaluation.offices import Service, kept, office, services
from benchmarks.evaluation.table import Row, wilson
from core.finding import Confidence, Finding
from core.names import Name, from_text, to_text
from detectors.beacon import Beacon, BeaconSettings
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy import float64
    from numpy.typing import NDArray

Pair: TypeAlias = tuple[str, str]  # client and domain as text
Flagged: TypeAlias = dict[Pair, Confidence]

CONTACTS: Final = 24
LOSS: Final = 0.1
PERIODS: Final = (10, 30, 60, 300, 900, 3_600, 14_400, 86_400)  # seconds
JITTERS: Final = (0.0, 0.05, 0.1, 0.2, 0.3)
BAR: Final = 0.95
FALSE_BAR: Final = 0.01
START: Final = 1_700_000_000  # Unix seconds; a Tuesday
DAY: Final = 86_400
BURN: Final = 200  # ticks at most between two sights, when pairs wait for their look
FREQUENT: Final = 24  # contacts of a pair that could be flagged at all
TTLS: Final = (1, 60, 300, 3_600)  # seconds, of the beacons' domains
TTL: Final = 120  # seconds, where the client keeps answers


class Run(NamedTuple):
    """A beacon: where it belongs in the table and when it calls."""

    law: str
    period: float
    jitter: float
    times: NDArray[float64]
    ttl: int = 1  # seconds


def uniform(rng: np.random.Generator, period: float, jitter: float) -> NDArray[float64]:
    """Sleeps spread evenly around the period."""
    return np.cumsum(period * (1 + rng.uniform(-jitter, jitter, CONTACTS)))


def gaussian(rng: np.random.Generator, period: float, jitter: float) -> NDArray[float64]:
    """Sleeps of a normal law as wide as the uniform one of the same jitter."""
    return np.cumsum(period * np.maximum(0.1, 1 + rng.normal(0, jitter / np.sqrt(3), CONTACTS)))


def shortened(rng: np.random.Generator, period: float, jitter: float) -> NDArray[float64]:
    """Sleeps cut by up to the jitter, as Cobalt Strike's are."""
    return np.cumsum(period * (1 - rng.uniform(0, jitter, CONTACTS)))


def scheduled(rng: np.random.Generator, period: float, jitter: float) -> NDArray[float64]:
    """Calls around the marks of a clock, as a scheduled task makes them."""
    return np.sort(period * (np.arange(CONTACTS) + rng.uniform(-jitter, jitter, CONTACTS)))


LAWS: Final[dict[str, Callable[[np.random.Generator, float, float], NDArray[float64]]]] = {
    "uniform": uniform,
    "gaussian": gaussian,
    "shortened": shortened,
    "scheduled": scheduled,
}


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the figures of the beacon detector; `data` holds `benign/zeek_*.csv.gz` or `captures/zeek/*.log.gz`."""
    repeats = 3 if quick else 20
    found = _grid_rows(repeats)
    found += _odd_rows(repeats)
    found += _real_rows(data)
    found += _office_rows(quick=quick)
    return found


def _grid_rows(repeats: int) -> list[Row]:
    rng = np.random.default_rng(11)
    runs = [
        Run(law, period, jitter, _received(rng, make(rng, period, jitter)), int(rng.choice(TTLS)))
        for law, make in LAWS.items()
        for period in PERIODS
        for jitter in JITTERS
        for _ in range(repeats)
    ]
    hits = _caught(runs)
    table: dict[str, list[bool]] = defaultdict(list)
    for run, hit in zip(runs, hits, strict=True):
        for of in ("all", f"law {run.law}", f"period {run.period:.0f} s", f"jitter {run.jitter:.0%}"):
            table[of].append(hit)
    what = "beacons found, 24 contacts, loss 10 %"
    return [_share(what, of, those, bar=BAR if of == "all" else None) for of, those in table.items()]


def _odd_rows(repeats: int) -> list[Row]:
    rng = np.random.default_rng(12)
    kinds: dict[str, list[Run]] = defaultdict(list)
    for period in (60.0, 900.0, 3_600.0):
        for jitter in JITTERS:
            for _ in range(repeats):
                kinds["work hours only"].append(Run("", period, jitter, _received(rng, _at_work(rng, period, jitter))))
                slow = uniform(rng, period, jitter)
                changed = np.concatenate((slow, slow[-1] + uniform(rng, 5 * period, jitter)))
                kinds["sleep times five after 24 contacts"].append(Run("", period, jitter, _received(rng, changed)))
    for period in PERIODS:
        for _ in range(repeats):
            wide = np.cumsum(period * np.maximum(0.1, 1 + rng.normal(0, 0.3, CONTACTS)))
            kinds["gaussian, standard deviation 30 %"].append(Run("", period, 0.3, _received(rng, wide)))
        for _ in range(repeats):
            calls = np.cumsum(period * (1 + rng.uniform(-0.1, 0.1, CONTACTS * (1 + TTL // period))))
            kinds[f"client that keeps answers, TTL {TTL} s"].append(
                Run("", period, 0.1, kept(calls, TTL)[:CONTACTS], TTL)
            )
    return [_share("beacons found, shown only", kind, _caught(runs), bar=None) for kind, runs in kinds.items()]


def _at_work(rng: np.random.Generator, period: float, jitter: float) -> NDArray[float64]:
    """Return calls of a computer that is on from 8 to 18 hours: what falls outside is not made."""
    enough = CONTACTS * 3 + int(3 * DAY / period)
    times = np.cumsum(period * (1 + rng.uniform(-jitter, jitter, enough))) + rng.uniform(0, DAY)
    awake = (times % DAY >= 8 * 3_600) & (times % DAY < 18 * 3_600)
    return times[awake][:CONTACTS]


def _received(rng: np.random.Generator, times: NDArray[float64]) -> NDArray[float64]:
    return times[rng.random(len(times)) >= LOSS]


def _caught(runs: Sequence[Run]) -> list[bool]:
    """Return for each run whether it was flagged; all run beside each other in one office."""
    rng = np.random.default_rng(13)
    sights, pairs = [], []
    for number, run in enumerate(runs):
        client = (0x0A000001 + number).to_bytes(4, "big")
        domain = from_text(f"c{number}-example.com")
        pairs.append((str(ip_address(client)), to_text(domain)))
        begun = START + rng.uniform(0, 3_600)
        sights += [_sight(begun + float(at), client, domain, ttl=run.ttl) for at in run.times]
    flagged = drive(Beacon(BeaconSettings(counts=18)), sorted(sights, key=lambda sight: sight.at))
    return [pair in flagged for pair in pairs]


def _sight(at: float, client: bytes, domain: Name, *, ttl: int = 0) -> Sight:
    return Sight(
        at=at, client=client, qname=domain, qtype=1, domain=domain, rcode=0, ttl=ttl, addresses=(b"\xc6\x33\x64\x07",)
    )


def drive(watch: Beacon, sights: Iterable[Sight]) -> Flagged:
    """Show the sights to the watch, ticking once a second of their time; returns what it flagged, and how surely."""
    flagged: Flagged = {}
    clock = 0
    for sight in sights:
        second = int(sight.at)
        if clock and second > clock:
            for past in range(min(second - clock, BURN)):
                _note(flagged, watch.tick(clock + past))
                if not watch.counters()["due"]:
                    break
        clock = max(clock, second)
        _note(flagged, watch.see(sight))
    while watch.counters()["due"]:
        clock += 1
        _note(flagged, watch.tick(clock))
    return flagged


def _note(flagged: Flagged, findings: Sequence[Finding]) -> None:
    for finding in findings:
        pair = (finding.client, finding.domain)
        flagged[pair] = max(finding.confidence, flagged.get(pair, Confidence.LOW))


def _share(what: str, of: str, hits: Sequence[bool], *, bar: float | None, at_most: bool = False) -> Row:
    low, high = wilson(sum(hits), len(hits))
    value = sum(hits) / len(hits) if hits else 0.0
    return Row(
        detector="beacon", what=what, of=of, value=value, n=len(hits), low=low, high=high, bar=bar, at_most=at_most
    )


def _real_rows(data: Path) -> list[Row]:
    found = []
    for source, sights in _logs(data):
        contacts = Counter[Pair]()
        last: dict[Pair, float] = {}
        for sight in sights:
            pair = (str(ip_address(sight.client)), to_text(sight.domain))
            if sight.at - last.get(pair, 0.0) > 3:
                contacts[pair] += 1
                last[pair] = sight.at
        flagged = drive(Beacon(BeaconSettings(counts=18)), sights)
        hits = {pair: pair in flagged for pair in contacts}
        often = [hit for pair, hit in hits.items() if contacts[pair] >= FREQUENT]
        what = "benign pairs flagged"
        found.append(_share(what, source, list(hits.values()), bar=FALSE_BAR, at_most=True))
        found.append(_share(f"{what}, of those with 24 contacts", source, often, bar=None))
    return found


def _logs(data: Path) -> Iterator[tuple[str, list[Sight]]]:
    """Yield each log of several clients in order of time, with TTLs where the log has them."""
    for path in sorted((data / "benign").glob("zeek_*.csv.gz")):
        by_file: dict[str, list[Sight]] = defaultdict(list)
        for row in rows(path):
            sight = _logged(row["ts"], row["src"], row["qname"], row["qtype"], "")
            if sight is not None:
                by_file[row.get("file", "")].append(sight)
        for file, sights in by_file.items():
            yield f"{path.name.split('.')[0]} {file}".strip(), sorted(sights, key=lambda sight: sight.at)
    for path in sorted((data / "captures" / "zeek").glob("*dns.log.gz")):
        yield f"{path.parent.name}/{path.name} with TTLs", sorted(_zeek(path), key=lambda sight: sight.at)


def _zeek(path: Path) -> Iterator[Sight]:
    with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="") as text:
        fields: list[str] = []
        for line in csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE):
            if line and line[0] == "#fields":
                fields = line[1:]
            elif line and not line[0].startswith("#"):
                row = dict(zip(fields, line, strict=False))
                sight = _logged(row["ts"], row["id.orig_h"], row["query"], row["qtype"], row.get("TTLs", ""))
                if sight is not None:
                    yield sight


def _logged(ts: str, client: str, qname: str, qtype: str, ttls: str) -> Sight | None:
    name = name_of(qname.lower())
    if name is None:
        return None
    ttl = min((int(float(one)) for one in ttls.split(",") if one not in ("", "-", "(empty)")), default=0)
    return Sight(
        at=float(ts),
        client=ip_address(client).packed,
        qname=name,
        qtype=qtype_of(qtype),
        domain=domain_of(name),
        ttl=ttl,
    )


def _office_rows(*, quick: bool) -> list[Row]:
    found = []
    days, clients = (2, 100) if quick else (12, 200)
    kinds = services()
    sights, owners = office(kinds, days=days, clients=clients, seed=17, start=START)
    flagged = drive(Beacon(BeaconSettings(counts=20)), sights)
    by_service: dict[Service, list[bool]] = defaultdict(list)
    for pair, service in owners.items():
        by_service[service].append(pair in flagged)
    benign = [service for service in by_service if not service.infected]
    for half, held in (("tuning", False), ("held out", True)):
        hits = [hit for service in benign if service.held_out is held for hit in by_service[service]]
        bar = FALSE_BAR if held else None
        found.append(_share("office, benign pairs flagged", f"{half} services", hits, bar=bar, at_most=True))
    for service, those in by_service.items():
        what = "office, beacons found" if service.infected else "office, benign pairs flagged"
        found.append(_share(what, service.name, those, bar=None))
    for confidence in (Confidence.LOW, Confidence.MEDIUM):
        right = [owners[pair].infected for pair, sure in flagged.items() if sure == confidence and pair in owners]
        found.append(_share(f"office, precision at {confidence.name}", "all", right, bar=None))
    return found


if __name__ == "__main__":
    for row in measure(Path(sys.argv[1]), quick="--quick" in sys.argv):
        verdict = "ok " if row.holds else "BAD"
        print(f"{verdict} {row.what:50} {row.of:42} {row.value:7.4f} n={row.n} [{row.low:.4f} {row.high:.4f}]")
