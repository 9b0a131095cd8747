"""The leak meter measured: octets out before the block, at every pace; false alarms of an office; microseconds a name.

    python -m benchmarks.evaluation.leak DATA [--quick]

Rules:
1. Tools are split: iodine, dns2tcp and dnscat2 served for tuning; every other one is held out, and so are all
   encodings. Bars stand on the held-out ones.
2. What got out is the payload of the queries sent on before the first that was not; a run nobody stopped counts whole.
   Runs that carry no more than SHORT octets could not miss a bar and are left out.
3. Every run meets a meter of its own that has left its learning phase. What was asked within the last minute comes from
   the cache: it is neither metered nor does it carry anything.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.evaluation import attackers
from benchmarks.evaluation.captures import Query, Run, labelled_runs, name_of, tunnel_runs
from benchmarks.evaluation.data import lines
from benchmarks.evaluation.figures import count_row, quantile_row
from benchmarks.evaluation.leak_benign import cost, false_alarms
from benchmarks.evaluation.leak_line import LEARNED, Cache, Line, new_line
from core.names import labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.evaluation.table import Row
    from core.names import Name

SHORT: Final = 512.0  # octets
PACES: Final = {"1 per 10 s": 10.0, "1 per min": 60.0, "1 per 10 min": 600.0, "1 per h": 3600.0}  # seconds
JITTER: Final = 0.5
DAY: Final = 86_400.0
BARS: Final = {"1 per 10 s": 512.0, "1 per min": 512.0, "1 per 10 min": 1024.0, "1 per h": 1536.0}  # octets, 95 %
HIDDEN_BAR: Final = 1200.0  # octets, 95 %, of encodings
SPLIT_BAR: Final = 1024.0  # octets, sum over a client's domains
BOTS: Final = {10: 4096.0, 30: 8192.0}  # bots -> octets in sum

_CLIENT: Final = bytes((10, 9, 0, 1))
_NXDOMAIN: Final = 3
_SPLIT_QUERIES: Final = 3000
_FULL: Final = "full speed"


class Ageing(NamedTuple):
    """What bots do with a domain before they use it."""

    what: str
    days: int = 0  # before
    daily: bool = False  # each asks for a fresh name a day, not once for the domain itself
    octets: int = 16  # of payload in such a name
    installed: float = LEARNED / DAY  # days for which the meter has been running then


_YOUNG: Final = Ageing("never asked for before")
_AGEINGS: Final = (
    Ageing("domain asked for 5 days before", 5),
    Ageing("domain asked for 20 days before", 20),
    Ageing("domain asked for 5 days before, while learning", 5, installed=8.0),
    Ageing("a name a day each for 5 days", 5, daily=True),
    Ageing("a name a day each for 20 days", 20, daily=True),
    Ageing("a short name a day each for 20 days", 20, daily=True, octets=2),
)


class Outcome(NamedTuple):
    """What became of a run."""

    run: Run
    leaked: float  # octets before the first block; all of them when there was none
    queries: int  # sent on before it
    stopped: bool
    warned: bool  # an alert came before it


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the rows of the leak meter; `quick` takes one seed, a smaller office and fewer days."""
    seeds = 1 if quick else 3
    real = [*tunnel_runs(data), *labelled_runs(data)]
    runs = [run for run in (*real, *attackers.tools(random.Random(1))) if run.payload > SHORT]
    return [
        *_full_speed(runs),
        *_slow(runs, seeds),
        *_hidden(_words(data), seeds),
        *_narrow(seeds),
        *_split(runs, quick=quick),
        *_bots(days=2 if quick else 14),
        *false_alarms(data, quick=quick),
        *cost(data, runs, quick=quick),
    ]


def _full_speed(runs: Sequence[Run]) -> Iterator[Row]:
    outcomes = [play(run, run.queries) for run in runs]
    for tool, found in _by_tool(outcomes).items():
        yield quantile_row("leak", f"{_FULL}, payload out, largest", tool, [one.leaked for one in found], 1.0, unit="B")
    for half, found in _by_half(outcomes).items():
        leaked = [one.leaked for one in found]
        bars = (256.0, 512.0) if half.startswith("held out") else (None, None)
        yield quantile_row("leak", f"{_FULL}, payload out, median", half, leaked, 0.5, unit="B", bar=bars[0])
        yield quantile_row("leak", f"{_FULL}, payload out, 95 %", half, leaked, 0.95, unit="B", bar=bars[1])
        yield quantile_row("leak", f"{_FULL}, payload out, largest", half, leaked, 1.0, unit="B")
        yield quantile_row("leak", f"{_FULL}, queries out, median", half, [one.queries for one in found], 0.5)
        yield count_row("leak", f"{_FULL}, runs not stopped", half, sum(not one.stopped for one in found), len(found))
    early = [play(run, run.queries, learned=0.0) for run in runs]
    yield count_row(
        "leak", f"{_FULL} while learning, runs not stopped", "all", sum(not e.stopped for e in early), len(early)
    )
    forged = [play(run, run.queries, rcode=_NXDOMAIN) for run in runs if run.held_out]
    leaked = [one.leaked for one in forged]
    yield quantile_row("leak", f"{_FULL}, all answered NXDOMAIN, 95 %", "held out", leaked, 0.95, unit="B")


def _slow(runs: Sequence[Run], seeds: int) -> Iterator[Row]:
    for pace, seconds in PACES.items():
        outcomes = [
            play(run, spaced(fresh(run.queries), seconds, random.Random(seed))) for run in runs for seed in range(seeds)
        ]
        for tool, found in _by_tool(outcomes).items():
            yield quantile_row(
                "leak", f"{pace}, payload out, largest", tool, [one.leaked for one in found], 1.0, unit="B"
            )
        for half, found in _by_half(outcomes).items():
            leaked, bar = [one.leaked for one in found], BARS[pace] if half.startswith("held out") else None
            yield quantile_row("leak", f"{pace}, payload out, median", half, leaked, 0.5, unit="B")
            yield quantile_row("leak", f"{pace}, payload out, 95 %", half, leaked, 0.95, unit="B", bar=bar)
            yield count_row(
                "leak", f"{pace}, runs not stopped", half, sum(not one.stopped for one in found), len(found)
            )
            warned = sum(one.warned for one in found)
            yield count_row("leak", f"{pace}, runs with an alert before the block", half, warned, len(found))


def _hidden(words: Sequence[str], seeds: int) -> Iterator[Row]:
    for pace, seconds in {_FULL: 0.2, **PACES}.items():
        outcomes = [
            play(run, spaced(run.queries, seconds, random.Random(seed)))
            for seed in range(seeds)
            for run in attackers.encodings(random.Random(seed), words)
        ]
        for tool, found in _by_tool(outcomes).items():
            yield quantile_row("leak", f"encoding, {pace}, largest", tool, [one.leaked for one in found], 1.0, unit="B")
        leaked, barred = [one.leaked for one in outcomes], pace != "1 per h"
        missed = sum(not one.stopped for one in outcomes)
        bar = HIDDEN_BAR if barred else None
        yield quantile_row("leak", f"encoding, {pace}, 95 %", "all encodings", leaked, 0.95, unit="B", bar=bar)
        yield count_row(
            "leak",
            f"encoding, {pace}, not stopped",
            "all encodings",
            missed,
            len(outcomes),
            bar=0.0 if barred else None,
        )


def _narrow(seeds: int) -> Iterator[Row]:
    for pace, seconds in {_FULL: 0.2, **PACES}.items():
        outcomes = [
            play(run, spaced(run.queries, seconds, random.Random(seed)))
            for seed in range(seeds)
            for run in attackers.narrow(random.Random(seed))
        ]
        for tool, found in _by_tool(outcomes).items():
            yield quantile_row(
                "leak", f"no fresh names, {pace}, largest", tool, [one.leaked for one in found], 1.0, unit="B"
            )


def _split(runs: Sequence[Run], *, quick: bool) -> Iterator[Row]:
    runs = [run for run in runs if run.held_out]
    for domains in (5, 10):
        for pace, seconds in {_FULL: 0.2, **PACES}.items():
            sums = [_split_sum(run, domains, seconds, most=600 if quick else _SPLIT_QUERIES) for run in runs]
            bar = SPLIT_BAR if pace != "1 per h" else None
            what = f"split over {domains} domains, {pace}"
            yield quantile_row("leak", f"{what}, sum, median", "held out", sums, 0.5, unit="B")
            yield quantile_row("leak", f"{what}, sum, 95 %", "held out", sums, 0.95, unit="B", bar=bar)


def _split_sum(run: Run, domains: int, seconds: float, *, most: int) -> float:
    rng = random.Random(domains)
    apexes = [attackers.domain_for(rng) for _ in range(domains)]
    queries = spaced(fresh(run.queries)[:most], seconds, rng)
    line = new_line(started=-LEARNED)
    spread = (attackers.moved(query, apexes[at % domains], at=query.at) for at, query in enumerate(queries))
    return sum(query.payload for query, blocked in _pass(line, _CLIENT, spread) if not blocked)


def _bots(days: int) -> Iterator[Row]:
    for pace in ("1 per min", "1 per 10 min", "1 per h"):
        for number, bar in BOTS.items():
            total = _bots_sum(number, PACES[pace], days)
            what = f"{number} bots on a new domain, {pace} each, {days} days, sum"
            yield quantile_row("leak", what, "16 octets a name", [total], 1.0, unit="B", bar=bar)
    for pace in ("1 per min", "1 per 10 min"):
        for ageing in _AGEINGS:
            for number, bar in BOTS.items():
                total = _bots_sum(number, PACES[pace], days, ageing)
                what = f"{number} aged bots, {pace} each, {days} days, sum"
                yield quantile_row("leak", what, ageing.what, [total], 1.0, unit="B", bar=bar)
    for ageing in (_YOUNG, *_AGEINGS):
        total = _bots_sum(100, PACES["1 per 10 min"], days, ageing)
        what = f"100 bots, 1 per 10 min each, {days} days, sum"
        yield quantile_row("leak", what, ageing.what, [total], 1.0, unit="B")


def _bots_sum(number: int, seconds: float, days: int, ageing: Ageing | None = None) -> float:
    """Return what the bots get out together, what they ask beforehand to make the domain look old included."""
    ageing = ageing or _YOUNG
    rng = random.Random(number)
    line, domain = new_line(started=-ageing.installed * DAY), attackers.domain_for(rng)
    clients = [bytes((10, 8, 0, at)) for at in range(number)]
    starts = [rng.uniform(0, 3600) for _ in clients]
    leaked = _age(line, clients, domain, ageing, rng)
    at = 0.0
    for turn in range(int(days * DAY / seconds)):
        for client, start in zip(clients, starts, strict=True):
            at = max(at, turn * seconds + start * seconds / 3600)
            leaked += _bot_asks(line, at, client, attackers.bot(rng, domain))
    return leaked


def _age(line: Line, clients: Sequence[bytes], domain: Name, ageing: Ageing, rng: random.Random) -> float:
    """Let each bot ask for the bare domain, or for a fresh name a day; returns the octets sent."""
    if ageing.days and not ageing.daily:
        for client in clients:
            line.ask(-ageing.days * DAY, client, domain, domain, 1)
        return 0.0
    moments = ((day * DAY, client) for day in range(-ageing.days, 0) for client in clients)
    return sum(_bot_asks(line, at, client, attackers.bot(rng, domain, ageing.octets)) for at, client in moments)


def _bot_asks(line: Line, at: float, client: bytes, query: Query) -> float:
    blocked = line.ask(at, client, query.domain, query.qname, query.qtype) is not None
    return 0.0 if blocked else query.payload


def play(run: Run, queries: Iterable[Query], *, rcode: int = 0, learned: float = LEARNED) -> Outcome:
    """Return how far a run gets with a meter of its own that has been there for so many seconds."""
    leaked, sent, warned = 0.0, 0, False
    line = new_line(started=run.queries[0].at - learned)
    for query, blocked in _pass(line, _CLIENT, queries, rcode=rcode):
        if blocked:
            return Outcome(run, leaked, sent, stopped=True, warned=warned)
        leaked += query.payload
        sent += 1
        warned = warned or bool(line.meter.take_alerts())
    return Outcome(run, leaked, sent, stopped=False, warned=warned)


def _pass(line: Line, client: bytes, queries: Iterable[Query], *, rcode: int = 0) -> Iterator[tuple[Query, bool]]:
    """Yield each question the cache cannot answer and whether the meter blocks it."""
    cache = Cache()
    for query in queries:
        if cache.holds(query.at, query.qname, query.qtype):
            continue
        blocked = line.ask(query.at, client, query.domain, query.qname, query.qtype, rcode=rcode) is not None
        if not blocked:
            cache.put(query.at, query.qname, query.qtype)
        yield query, blocked


def fresh(queries: Sequence[Query]) -> list[Query]:
    """Return the first question for each name and type: one who has time does not ask twice."""
    first: dict[tuple[Name, int], Query] = {}
    for query in queries:
        first.setdefault((query.qname, query.qtype), query)
    return list(first.values())


def spaced(queries: Iterable[Query], seconds: float, rng: random.Random) -> Iterator[Query]:
    """Yield the questions that far apart, give or take JITTER of it."""
    at: float | None = None
    for query in queries:
        at = query.at if at is None else at + seconds * rng.uniform(1 - JITTER, 1 + JITTER)
        yield Query(at, query.qname, query.domain, query.qtype, query.payload)


def _by_tool(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    return _grouped(outcomes, lambda run: f"{run.tool} ({_half(run)}{', synthetic' if run.synthetic else ''})")


def _by_half(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    captured = [one for one in outcomes if one.run.held_out and not one.run.synthetic]
    return {**_grouped(outcomes, _half), **({"held out, captured": captured} if captured else {})}


def _half(run: Run) -> str:
    return "held out" if run.held_out else "tuning"


def _grouped(outcomes: Iterable[Outcome], key: Callable[[Run], str]) -> dict[str, list[Outcome]]:
    groups: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome.run)].append(outcome)
    return dict(sorted(groups.items()))


def _words(data: Path) -> list[str]:
    """Return the first labels of well-known domains that are words of 3 to 9 letters."""
    found: dict[str, None] = {}
    for line in lines(data / "benign" / "alexa100k_2013.txt.gz"):
        name = name_of(line.split(",")[-1])
        word = labels(name)[0].decode("ascii", "replace") if name else ""
        if word.isalpha() and word.isascii() and 3 <= len(word) <= 9:
            found[word] = None
        if len(found) == _MODEL_WORDS:
            break
    return list(found)


_MODEL_WORDS: Final = 8000


if __name__ == "__main__":
    from benchmarks.evaluation.printing import main

    main(measure)
