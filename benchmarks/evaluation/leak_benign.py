"""What the leak meter says of those who do no harm: real logs, a made office with every trap service, and its cost.

Rules:
1. An alert is a pair of client and registered domain on a day on which the meter said anything of it; a block one of
   which a question was not sent on. Days of an office are scored after LEARNING_DAYS.
2. The operator looks once, when learning ends, and confirms every pair shown: in this office all are harmless.
3. A service new to the office after learning (the roll-out) is counted by itself.
4. Real logs come with no history: every domain is new to a meter that has left its learning phase.
"""

from __future__ import annotations

import gzip
import random
import time
from collections import Counter
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from benchmarks.evaluation.captures import labelled_attacks, name_of, qtype_of
from benchmarks.evaluation.data import rows
from benchmarks.evaluation.figures import count_row, quantile_row, rate_row
from benchmarks.evaluation.leak_line import LEARNED, Cache, Line, new_line
from benchmarks.evaluation.office import BROWSING, DAY, LEARNING_DAYS, ROLL_OUT, Event, Office
from benchmarks.evaluation.table import Row
from core.names import Name, from_text, labels, to_text
from detectors.sight import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.evaluation.captures import Run

ALERTS_BAR, BLOCKS_BAR, UNREVIEWED_BAR = 1.0, 0.02, 5.0  # per 1,000 clients and day
COST_BAR: Final = 10.0  # microseconds a miss

_ISP_CLIENTS: Final = 100
_TUNNELLER: Final = bytes((10, 9, 0, 1))
_RATE: Final = "/1,000 clients/day"
_BATCHES: Final = 25
_RCODES: Final = {"NXDOMAIN": 3, "SERVFAIL": 2, "REFUSED": 5}
_DRAIN: Final = 1000  # events between two looks at the alerts


class Said(NamedTuple):
    """Something the meter said of a pair on a day."""

    day: int
    client: str
    domain: str
    service: str


class Ear:
    """A line in the office and what was heard from it on scored days."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.blocks: set[Said] = set()
        self.alerts: set[Said] = set()

    def hear(self, event: Event, services: dict[str, str], *, scored: bool) -> None:
        """Let the event pass and note what is said of it."""
        finding = self.line.ask(
            event.at,
            event.client,
            event.domain,
            event.qname,
            event.qtype,
            rcode=event.rcode,
            addresses=event.addresses,
        )
        if finding is not None and scored:
            said = Said(
                int(event.at / DAY), finding.client, finding.domain, services.get(finding.domain, event.service)
            )
            self.blocks.add(said)
            self.alerts.add(said)

    def drain(self, day: int, services: dict[str, str], *, scored: bool) -> None:
        """Take the alerts that wait."""
        for finding in self.line.meter.take_alerts():
            if scored:
                self.alerts.add(Said(day, finding.client, finding.domain, services.get(finding.domain, BROWSING)))


def false_alarms(data: Path, *, quick: bool) -> Iterator[Row]:
    """Yield the rows of real logs and of the office."""
    for log, events in _logs(data).items():
        yield from _log_rows(log, events)
    most = 20_000 if quick else 200_000
    yield from _log_rows("ISP's names in a day, clients and domains made", _isp(data, most=most, days=1), bar=None)
    isp = _isp(data, most=most, days=LEARNING_DAYS + 1)
    yield from _log_rows("ISP's names in 8 days, 7 of learning", isp, bar=None, learn=True)
    crawl = _crawl(data, most=30_000 if quick else 600_000)
    yield from _log_rows("crawl of the top million by one client", crawl, bar=None)
    if quick:  # the servers of an office do not shrink with it, so that no bar fits
        yield from _office_rows(Office(data, clients=100), 1, bars=False)
    else:
        yield from _office_rows(Office(data, clients=500), 5, bars=True)


def _log_rows(log: str, events: Iterable[Event], *, bar: float | None = 0.0, learn: bool = False) -> Iterator[Row]:
    """Every name counts once a minute: what was asked since is cached. With `learn` the first days do not count."""
    ear: Ear | None = None
    pairs, cache = set(), Cache()
    for event in events:
        ear = ear or Ear(new_line(started=event.at if learn else event.at - LEARNED))
        if cache.holds(event.at, event.qname, event.qtype):
            continue
        cache.put(event.at, event.qname, event.qtype)
        scored = not learn or event.at >= LEARNING_DAYS * DAY
        if scored:
            pairs.add(hash((event.client, event.domain)))
        ear.hear(event, {}, scored=scored)
        ear.drain(int(event.at / DAY), {}, scored=scored)
    if ear is not None:
        for what, said in (("alerts", ear.alerts), ("blocks", ear.blocks)):
            found = {(one.client, one.domain) for one in said}
            yield count_row("leak", f"false alarms, pairs with {what}", log, len(found), len(pairs), bar=bar)


def _office_rows(office: Office, days: int, *, bars: bool) -> Iterator[Row]:
    told, reviewed, questions, pairs = _live(office, days)
    allowed = office.allow_list
    exposure = office.clients * days / 1000
    n = office.clients * days
    for when, what, said, bar in (
        ("before", "alerts", told.alerts, UNREVIEWED_BAR),
        ("before", "blocks", told.blocks, None),
        ("after", "alerts", reviewed.alerts, ALERTS_BAR),
        ("after", "blocks", reviewed.blocks, BLOCKS_BAR),
    ):
        old = [one for one in said if one.service != ROLL_OUT]
        for of, found, limit in (
            ("no allow-list", old, bar if bars else None),
            ("with the operator's allow-list", [one for one in old if one.domain not in allowed], None),
            ("roll-out of a new service", [one for one in said if one.service == ROLL_OUT], None),
        ):
            title = f"office, {what} {when} the review"
            yield rate_row("leak", title, of, len(found), exposure, unit=_RATE, n=n, bar=limit)
    yield Row(
        detector="leak", what="office, pairs to confirm at the review", of="operator", value=pairs, n=office.clients
    )
    before, after = (Counter(one.service for one in ear.alerts) for ear in (told, reviewed))
    for service, asked in questions.most_common():
        yield rate_row(
            "leak", "office, alerts before the review", service, before[service], exposure, unit=_RATE, n=asked
        )
        if before[service] or after[service]:
            yield rate_row(
                "leak", "office, alerts after the review", service, after[service], exposure, unit=_RATE, n=asked
            )


def _live(office: Office, days: int) -> tuple[Ear, Ear, Counter[str], int]:
    """Let the office live, once with and once without a review; returns who heard what, questions and pairs shown."""
    told, reviewed = Ear(new_line(started=0.0)), Ear(new_line(started=0.0))
    questions: Counter[str] = Counter()
    services: dict[str, str] = {}
    texts: dict[Name, str] = {}
    pairs = 0
    for day in range(LEARNING_DAYS + days):
        scored = day >= LEARNING_DAYS
        if day == LEARNING_DAYS:
            pairs = _review(reviewed.line, day * DAY)
        for number, event in enumerate(office.day(day)):
            if scored:
                questions[event.service] += 1
            if event.service != BROWSING and event.domain not in texts:
                text = texts[event.domain] = to_text(event.domain)
                services.setdefault(text, event.service)
            told.hear(event, services, scored=scored)
            reviewed.hear(event, services, scored=scored)
            if number % _DRAIN == 0:
                told.drain(day, services, scored=scored)
                reviewed.drain(day, services, scored=scored)
    return told, reviewed, questions, pairs


def _review(line: Line, now: float) -> int:
    shown = list(line.meter.review(now))
    for pair in shown:
        line.meter.confirm(ip_address(pair.client).packed, from_text(pair.domain))
    return len(shown)


def _logs(data: Path) -> dict[str, list[Event]]:
    """Return the benign logs of many clients in order of time, each once."""
    found: dict[str, list[Event]] = {}
    for path in sorted((data / "benign").glob("zeek_*.csv.gz")):
        for row in rows(path):
            event = _event(row["ts"], row["src"], row["qname"], row["qtype"], row["rcode"])
            if event is not None:
                found.setdefault(row["file"], []).append(event)
    for path in sorted((data / "captures" / "zeek").glob("*dns.log.gz")):
        if path.name not in found:
            found[path.name] = [event for event in _zeek(path) if event is not None]
    for events in found.values():
        events.sort(key=lambda event: event.at)
    return found


def _zeek(path: Path) -> Iterator[Event | None]:
    fields: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as text:
        for line in text:
            if line.startswith("#fields"):
                fields = line.rstrip("\n").split("\t")[1:]
            elif not line.startswith("#"):
                row = dict(zip(fields, line.rstrip("\n").split("\t"), strict=False))
                yield _event(row["ts"], row["id.orig_h"], row["query"], row["qtype_name"], row["rcode_name"])


def _event(at: str, client: str, qname: str, qtype: str, rcode: str) -> Event | None:
    name = name_of(qname)
    if name is None:
        return None
    code = int(rcode) if rcode.isdigit() else _RCODES.get(rcode, 0)
    return _plain(float(at), ip_address(client).packed, name, qtype_of(qtype), code)


def _plain(at: float, client: bytes, name: Name, qtype: int, rcode: int = 0) -> Event:
    return Event(at, client, "log", name, domain_of(name), qtype, rcode, ())


def _isp(data: Path, *, most: int, days: int) -> Iterator[Event]:
    """Yield the ISP's harmless names over some days; whoever ends alike is taken for one domain, clients are drawn."""
    attacks, rng = labelled_attacks(data), random.Random(1)
    files = sorted((data / "benign").glob("isp_subdomains_*.csv.gz"))
    texts = list(islice((row["text"] for path in files for row in rows(path) if row["text"] not in attacks), most))
    for number, text in enumerate(texts):
        if (sub := name_of(text)) is not None:
            domain = from_text("isp-names.net")
            name = sub[:-1] + bytes((len(last := labels(sub)[-1]) + 2,)) + last + b"-d" + domain
            if len(last) < 60 and len(name) <= 255:
                owner = name[len(sub) - 2 - len(last) :]
                client = bytes((10, 7, 0, rng.randrange(_ISP_CLIENTS)))
                yield Event(number * days * DAY / len(texts), client, "ISP", name, owner, 1, 0, ())


def _crawl(data: Path, *, most: int) -> Iterator[Event]:
    for row in islice(rows(data / "benign" / "top1m_crawl.csv.gz"), most):
        event = _event(row["ts"], row["client"], row["qname"], row["qtype"], row["rcode"])
        if event is not None:
            yield event


def cost(data: Path, runs: Sequence[Run], *, quick: bool) -> Iterator[Row]:
    """Yield microseconds of CPU a name, replies included, by what is asked."""
    office, line = Office(data, clients=40 if quick else 300, seed=2), new_line(started=0.0)
    for event in office.day(0):
        line.ask(event.at, event.client, event.domain, event.qname, event.qtype, rcode=event.rcode)
    events = list(office.day(1))
    kinds = {
        "browsing": {BROWSING},
        "PTR": {"PTR", "PTR of IPv6"},
        "youtube": {"youtube"},
        "traps": {"ESET", "McAfee GTI", "safeframe", "Spamhaus", "URIBL", "HashBL"},
    }
    for kind, services in kinds.items():
        yield _timed(kind, line, [event for event in events if event.service in services])
    yield _timed("the whole office", line, list(office.day(2)), bar=COST_BAR)
    yield _timed_tunnels(runs)


def _timed_tunnels(runs: Sequence[Run]) -> Row:
    """Return the cost of a tunnel's names up to the block, a new meter each."""
    taken, asked = [], 0
    for _ in range(_BATCHES):
        lines = [new_line(started=run.queries[0].at - LEARNED) for run in runs]
        before, begun = asked, time.process_time()
        for run, line in zip(runs, lines, strict=True):
            for query in run.queries:
                asked += 1
                if line.ask(query.at, _TUNNELLER, query.domain, query.qname, query.qtype) is not None:
                    break
        taken.append((time.process_time() - begun) / max(asked - before, 1) * 1e6)
    return _cost_row("tunnels until they are stopped", taken, asked)


def _timed(kind: str, line: Line, events: Sequence[Event], bar: float | None = None) -> Row:
    size = max(len(events) // _BATCHES, 1)
    taken = []
    for start in range(0, size * _BATCHES, size):
        batch = events[start : start + size]
        begun = time.process_time()
        for event in batch:
            line.ask(event.at, event.client, event.domain, event.qname, event.qtype, rcode=event.rcode)
        if batch:
            taken.append((time.process_time() - begun) / len(batch) * 1e6)
    return _cost_row(kind, taken, len(events), bar)


def _cost_row(kind: str, taken: Sequence[float], n: int, bar: float | None = None) -> Row:
    """Return the median batch: what else runs on the machine spoils single ones."""
    row = quantile_row("leak", f"cost, median of {len(taken)} batches", kind, taken, 0.5, unit="us", bar=bar)
    return msgspec.structs.replace(row, n=n)
