"""Young, lookalike, storm and bypass measured: false findings on real logs, recall on made-up squats and floods, cost.

Rules:
1. Names whose hash is even served for setting thresholds and are not reported; of the crawl the second half is.
2. A real squat in the benign data counts as a false finding: nobody labelled it, so figures err to the bad side.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final
from zlib import crc32

from benchmarks.evaluation.data import lines, rows
from benchmarks.evaluation.others_scenes import crawl, failing, flood, network, sight, squats, traps
from benchmarks.evaluation.table import Row, wilson
from core.errors import BadName
from core.finding import Confidence
from core.names import from_text, is_public_suffix, registered_domain, to_text
from detectors.bypass import Bypass, BypassSettings
from detectors.lookalike import MIN_TYPO, Lookalike, LookalikeSettings
from detectors.storm import Storm, StormSettings
from detectors.young import DAY, Young, YoungSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from core.finding import Finding
    from detectors.sight import Sight, Watch

CRAWL: Final = 600_000  # rows
OWN: Final = 5  # names of an organisation
PRIOR: Final = 1e-4  # assumed look-alikes of them among the domains asked for; nobody publishes one
FLOODS: Final = ("letters", "letters and digits", "hexadecimal", "numbers", "base32")
MAX_FLOOD: Final = 2_400  # names, or two minutes
MAIL: Final = 10.0  # look-ups a second of a very busy mail server
COST: Final = 2.0  # microseconds a sight


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the rows of the four detectors."""
    limit = 40_000 if quick else CRAWL
    office = list(crawl(data, limit=limit, office=True))
    return [
        *_young(office),
        *_lookalike(data, office, names=60 if quick else 1_500),
        *_storm_quiet(data, office, limit=limit),
        *_storm_recall(data, runs=4 if quick else 20),
        *_bypass(data, office),
        *_cost(office),
    ]


def _run(watch: Watch, sights: Iterable[Sight]) -> list[Finding]:
    found: list[Finding] = []
    for one in sights:
        found += watch.see(one)
        found += watch.tick(one.at)
    return found


def _share(
    detector: str, what: str, hits: int, n: int, *, of: str = "all", bar: float | None = None, most: bool = True
) -> Row:
    low, high = wilson(hits, n)
    return Row(
        detector=detector, what=what, of=of, value=hits / max(n, 1), n=n, low=low, high=high, bar=bar, at_most=most
    )


def _young(office: Sequence[Sight]) -> Iterator[Row]:
    """Learn the first half, then show both: only what the first half lacked is new."""
    watch = Young(YoungSettings(learn=1.0))
    half = len(office) // 2
    _run(watch, office[:half])
    known = {one.domain for one in office[:half] if one.rcode == 0}
    fresh = {one.domain for one in office[half:] if one.rcode == 0} - known
    later = [_at(one, 1_700_000_000.0 + 2 * DAY + at) for at, one in enumerate(office)]
    found = _run(watch, later)
    told = Counter(finding.domain for finding in found)
    wrong = sum(told[to_text(domain)] for domain in known)
    right = sum(1 for domain in fresh if told[to_text(domain)])
    public = sum(1 for domain in fresh if not is_public_suffix(domain))
    yield _share("young", "called new though seen before", wrong, len(known), bar=0.0)
    yield _share("young", "told of domains not seen before", right, public, bar=0.99, most=False)
    yield _share("young", "findings above LOW", sum(f.confidence > Confidence.LOW for f in found), len(later), bar=0.0)


def _at(one: Sight, when: float) -> Sight:
    from msgspec.structs import replace

    return replace(one, at=when)


_ENOUGH: Final = 300  # protected names that a bar on precision wants


def _names(data: Path, count: int) -> list[str]:
    """Return registered names of the half for reporting, long enough for an organisation's look-alikes to be sought."""
    found = []
    for line in lines(data / "benign" / "cloudflare_top100k_2026.txt.gz"):
        label, _, suffix = line.partition(".")
        if (
            crc32(line.encode()) % 2
            and len(label) >= MIN_TYPO
            and label.isascii()
            and suffix
            and not label.startswith("xn--")
        ):
            found.append(line)
    return random.Random(11).sample(found, count)


def _lookalike(data: Path, office: Sequence[Sight], *, names: int) -> Iterator[Row]:
    protected = [name for name in _names(data, names) if registered_domain(from_text(name)) == from_text(name)]
    watch = Lookalike(LookalikeSettings(watch=tuple(protected)))
    domains = {one.domain for one in office[len(office) // 2 :] if one.rcode == 0}
    flagged = Counter(found.confidence for domain in domains if (found := watch.judge(domain)) is not None)
    pairs = len(domains) * len(protected)
    for confidence in Confidence:
        low, high = wilson(flagged[confidence], pairs)
        yield Row(
            detector="lookalike",
            what=f"{confidence.name} in a million domains, for an organisation of {OWN} names",
            value=flagged[confidence] / pairs * OWN * 1e6,
            n=pairs,
            low=low * OWN * 1e6,
            high=high * OWN * 1e6,
        )
    yield from _squats(protected, {one: wilson(flagged[one], pairs)[1] * OWN for one in Confidence})
    own = Lookalike(LookalikeSettings(own=tuple(protected[:OWN])))
    yield _share(
        "lookalike", "findings on real multi-client log", len(_run(own, network(data))), 77, of="clients", bar=0.0
    )


def _squats(protected: Sequence[str], false: Mapping[Confidence, float]) -> Iterator[Row]:
    """Judge made-up squats; `false` is the upper bound of false findings a domain, for the precision."""
    told: Counter[tuple[str, Confidence]] = Counter()
    tried: Counter[str] = Counter()
    for at, name in enumerate(protected):
        watch = Lookalike(LookalikeSettings(own=(name,)))
        for kind, text in squats(name, seed=at).items():
            try:
                found = watch.judge(registered_domain(from_text(text)))
            except BadName:
                continue
            tried[kind] += 1
            if found is not None:
                told[kind, found.confidence] += 1
    for kind, n in tried.items():
        yield _share("lookalike", "recall", sum(told[kind, one] for one in Confidence), n, of=kind)
        sure = told[kind, Confidence.MEDIUM] + told[kind, Confidence.HIGH]
        yield _share("lookalike", "recall at MEDIUM or above", sure, n, of=kind)
    enough = len(protected) >= _ENOUGH  # else an upper bound says nothing about so rare a thing
    for one, bar in ((Confidence.MEDIUM, 0.9), (Confidence.HIGH, 0.99)):
        right = sum(told[kind, one] for kind in tried) / sum(tried.values()) * PRIOR
        what = f"precision of {one.name} at worst, one look-alike in {1 / PRIOR:,.0f} domains"
        value = right / (right + false[one])
        yield Row(
            detector="lookalike",
            what=what,
            value=value,
            n=sum(tried.values()),
            bar=bar if enough else None,
            at_most=False,
        )


def _storm_quiet(data: Path, office: Sequence[Sight], *, limit: int) -> Iterator[Row]:
    real = _run(Storm(StormSettings()), network(data))
    yield _share("storm", "findings on real multi-client log", len(real), 77, of="clients", bar=0.0)
    walked = _run(Storm(StormSettings()), crawl(data, limit=limit, office=False))
    yield _share("storm", "findings on the crawl as it was", len(walked), limit, of="questions", bar=0.0)
    dealt = _run(Storm(StormSettings()), office)
    yield _share("storm", "findings on the crawl as one office", len(dealt), len(office), of="questions", bar=0.0)
    for service, names in traps(data).items():
        if len(names) >= 50:
            found = _run(Storm(StormSettings()), failing(names, rate=MAIL))
            bar = 0.0 if service.startswith(("dnsbl", "uribl")) else None
            what = "findings, every look-up failing, 10 a second of one client"
            yield Row(detector="storm", what=what, of=service, value=float(len(found)), n=len(names), bar=bar)


def _storm_recall(data: Path, *, runs: int) -> Iterator[Row]:
    for kind in FLOODS:
        for rate in (5.0, 20.0, 200.0):
            size = min(int(rate * 120), MAX_FLOOD)
            hits = sum(_floods(flood(kind, size, seed=seed), rate=rate, seed=seed) for seed in range(runs))
            yield _share("storm", f"floods told as MEDIUM at {rate:g} a second", hits, runs, of=kind)
    words = [
        row["text"].split(".")[0] for row in rows(data / "benign" / "isp_subdomains_val.csv.gz") if row["label"] == "0"
    ]
    words = [word for word in dict.fromkeys(words) if word.isalnum() and word.isascii() and 2 < len(word) < 17]
    rng = random.Random(2)
    lists = [[f"{word}.victim.com" for word in rng.sample(words, 900)] for _ in range(runs)]
    told = [_run(Storm(StormSettings()), failing(names, rate=10.0, seed=at)) for at, names in enumerate(lists)]
    yield _share("storm", "word lists told as enumerations", sum(map(_enumeration, told)), runs, bar=0.9, most=False)
    yield _share(
        "storm", "word lists told as floods", sum(bool(f) and not _enumeration(f) for f in told), runs, bar=0.05
    )


def _enumeration(found: Sequence[Finding]) -> bool:
    return bool(found) and all("enumeration" in finding.reason for finding in found)


def _floods(names: Sequence[str], *, rate: float, seed: int) -> bool:
    watch = Storm(StormSettings())
    clients = random.Random(seed).choice((1, 3, 10))
    alive = sight(1_700_000_000.0, b"\x0a\x00\x00\x01", "www.victim.com")
    before = [alive] if alive is not None else []
    found = _run(watch, [*before, *failing(names, rate=rate, clients=clients, seed=seed)])
    return any(finding.confidence is Confidence.MEDIUM and finding.domain == "victim.com" for finding in found)


def _bypass(data: Path, office: Sequence[Sight]) -> Iterator[Row]:
    real = _run(Bypass(BypassSettings()), network(data))
    yield _share("bypass", "findings on real multi-client log", len(real), 77, of="clients")
    found = _run(Bypass(BypassSettings()), office)
    named = sum("looks up" in finding.reason for finding in found)
    yield _share("bypass", "listed hosts in the crawl as one office", named, len(office), of="questions")
    yield _share("bypass", "others at a listed address in it", len(found) - named, len(office), of="questions")
    yield _share(
        "bypass", "findings above LOW", sum(f.confidence > Confidence.LOW for f in found), len(office), bar=0.0
    )


def _cost(office: Sequence[Sight]) -> Iterator[Row]:
    """Time the second pass over 200 domains visited again and again, as ordinary use is; the best of five."""
    usual = [one for one in office if one.rcode == 0][:200] * 50
    names = tuple(f"organisation{at}.com" for at in range(20))
    watches: list[Watch] = [
        Young(YoungSettings()),
        Lookalike(LookalikeSettings(own=names)),
        Storm(StormSettings()),
        Bypass(BypassSettings()),
    ]
    for watch in watches:
        times = []
        for _ in range(5):
            begin = perf_counter()
            for one in usual:
                watch.see(one)
            times.append(perf_counter() - begin)
        value = min(times) / len(usual) * 1e6
        yield Row(detector=watch.name, what="cost of a sight", value=value, unit="us", n=len(usual), bar=COST)


def main() -> None:
    """Print the rows for the data folder named on the command line."""
    for row in measure(Path(sys.argv[1]), quick="--quick" in sys.argv):
        span = "" if row.low is None or row.high is None else f" [{row.low:.4g}, {row.high:.4g}]"
        mark = "" if row.holds else "MISSED"
        print(f"{row.detector:9} {row.what:68} {row.of:20} {row.value:10.4g} {row.unit} n={row.n}{span} {mark}")


if __name__ == "__main__":
    main()
