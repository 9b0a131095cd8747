"""How well fast flux is told from content networks: a crawl of popular names, simulated botnets, CDNs and pools.

Rules:
1. No real fast flux is at hand: what is found is found in simulation, and said to be.
2. The thresholds were set on the first half of the crawl by time; the second half and all simulations are held out.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.evaluation.captures import name_of
from benchmarks.evaluation.data import rows
from benchmarks.evaluation.table import Row, wilson
from core.names import from_text, to_text
from detectors.flux import Flux, FluxSettings
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.names import Name

BAR: Final = 1e-4
QUICK: Final = 60_000  # rows of the crawl
CLIENT: Final = b"\x0a\x00\x00\x01"
START: Final = 1_700_000_000.0  # Unix seconds
POOLS: Final = (60, 300, 3_000)  # homes of a botnet
PAUSES: Final = (300.0, 1_800.0, 7_200.0)  # seconds between looks, on average
LOOKS: Final = 12
A_RECORD: Final = "1"


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the figures of the flux detector; `data` holds `benign/top1m_crawl.csv.gz`."""
    return [*_crawl_rows(data, quick=quick), *_simulated_rows(40 if quick else 200)]


def _crawl_rows(data: Path, *, quick: bool) -> list[Row]:
    read = (sight for row in rows(data / "benign" / "top1m_crawl.csv.gz") if (sight := _crawled(row)) is not None)
    sights = sorted(islice(read, QUICK) if quick else read, key=lambda sight: sight.at)
    half = len(sights) // 2
    found = []
    for of, part in (("all", sights), ("first half, tuning", sights[:half]), ("second half", sights[half:])):
        flagged = run(part)
        domains = {sight.domain for sight in part}
        found.append(_row("domains of the crawl flagged", of, len(flagged), len(domains), bar=BAR))
    return found


def _crawled(row: dict[str, str]) -> Sight | None:
    """Return the sight of a row whose answers are `type:ttl:length:data` parted by bars; None without addresses."""
    answers = [answer.split(":", 3) for answer in row["answers"].split("|") if answer]
    addresses = tuple(bytes(int(part) for part in one[3].split(".")) for one in answers if one[0] == A_RECORD)
    name = name_of(row["qname"].lower())
    if name is None or not addresses:
        return None
    ttl = min(int(one[1]) for one in answers)
    return Sight(
        at=float(row["ts"]), client=CLIENT, qname=name, qtype=1, domain=domain_of(name), rcode=0, ttl=ttl,
        addresses=addresses,
    )  # fmt: skip


def run(sights: Iterable[Sight]) -> set[str]:
    """Return the domains a new watch flags."""
    watch = Flux(FluxSettings(names=1_000_000))
    flagged: set[str] = set()
    ticked = 0.0
    for sight in sights:
        if sight.at - ticked >= 1:
            ticked = sight.at
            watch.tick(ticked)
        flagged.update(finding.domain for finding in watch.see(sight))
    return flagged


def _simulated_rows(repeats: int) -> list[Row]:
    rng = np.random.default_rng(23)
    found = []
    total = hits = 0
    for pool in POOLS:
        for pause in PAUSES:
            caught = sum(_flagged(_botnet(rng, number, pool, pause)) for number in range(repeats))
            found.append(_row("botnets found, 12 looks", f"{pool} homes, a look per {pause:.0f} s", caught, repeats))
            total, hits = total + repeats, hits + caught
    found.insert(0, _row("botnets found, 12 looks", "all", hits, total))
    for providers in (20, 100):
        caught = sum(_flagged(_botnet(rng, at, 300, 1_800.0, providers=providers)) for at in range(repeats))
        found.append(_row("botnets found, 12 looks", f"300 homes in {providers} networks", caught, repeats))
    for kind in ("cdn", "cloud balancer", "time pool used by all", "time pool used by one"):
        flagged = sum(_flagged(_benign(rng, kind, number)) for number in range(repeats))
        found.append(_row("simulated benign names flagged", kind, flagged, repeats))
    return found


def _flagged(sights: list[Sight]) -> bool:
    return to_text(sights[-1].domain) in run(sights)


def _botnet(
    rng: np.random.Generator, number: int, pool: int, pause: float, *, providers: int | None = None
) -> list[Sight]:
    """Return looks at a name of homes that come and go: each look 2 to 10 of those that are up."""
    homes = [_anywhere(rng) for _ in range(pool)]
    if providers is not None:
        networks = [home[:2] for home in homes[:providers]]
        homes = [networks[rng.integers(providers)] + home[2:] for home in homes]
    name, ttl, each = from_text(f"flux{number}.example.com"), int(rng.choice((60, 180, 300, 600))), rng.integers(2, 11)
    at = START
    sights = []
    for _ in range(LOOKS):
        at += max(rng.exponential(pause), ttl)
        shown = rng.choice(pool, each, replace=False)
        sights.append(_look(at, name, ttl, [homes[home] for home in shown]))
    return sights


def _benign(rng: np.random.Generator, kind: str, number: int) -> list[Sight]:
    """Return two days of looks, one in 10 minutes, at a network that serves from many addresses."""
    name = from_text(f"cdn{number}.example.com")
    networks = [_anywhere(rng)[:2] for _ in range(12)]
    fleet = [_anywhere(rng) for _ in range(6)]
    sights = []
    for step in range(288):
        if kind == "cdn":
            shown = [networks[rng.integers(12)] + bytes(rng.integers(0, 256, 2).tolist()) for _ in range(4)]
        elif kind == "cloud balancer":
            if rng.random() < 0.02:
                fleet[rng.integers(6)] = _anywhere(rng)
            shown = [fleet[at] for at in rng.choice(6, 3, replace=False)]
        else:
            shown = [_anywhere(rng) for _ in range(4)]
        client = int(rng.integers(1, 60)) if kind.endswith("all") else 1
        sights.append(_look(START + step * 600, name, 120, shown, client=client))
    return sights


def _anywhere(rng: np.random.Generator) -> bytes:
    return bytes(rng.integers(1, 224, 4).tolist())


def _look(at: float, name: Name, ttl: int, addresses: list[bytes], *, client: int = 1) -> Sight:
    return Sight(
        at=at, client=bytes((10, 0, 0, client)), qname=name, qtype=1, domain=name, rcode=0, ttl=ttl,
        addresses=tuple(addresses),
    )  # fmt: skip


def _row(what: str, of: str, hits: int, n: int, *, bar: float | None = None) -> Row:
    low, high = wilson(hits, n)
    return Row(detector="flux", what=what, of=of, value=hits / n, n=n, low=low, high=high, bar=bar)


def _print(found: Iterator[Row]) -> None:
    for row in found:
        verdict = "ok " if row.holds else "BAD"
        print(f"{verdict} {row.what:36} {row.of:36} {row.value:.6f} n={row.n} [{row.low:.6f} {row.high:.6f}]")


if __name__ == "__main__":
    _print(iter(measure(Path(sys.argv[1]), quick="--quick" in sys.argv)))
