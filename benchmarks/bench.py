"""`python -m benchmarks.bench`: Plughole and its peers under the same three loads, one after the other on one core.

1. Every server holds the whole list in every load and is checked, before and after, to block and to answer.
2. One server runs at a time on the first core; the authority and dnsperf share the second.
3. Rounds are interleaved (all servers, then all again), so that a slow minute of the machine hurts nobody alone.
4. What a server does within its `settle` time after a load is charged to that load.
5. Latency comes last, for its rate is half of what the servers reached before; again in interleaved rounds.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import inputs, latency, probe, proc, report
from benchmarks.authority import authority
from benchmarks.load import DNSPERF_PACKAGE, Load, LoadError, put
from benchmarks.peers import PEERS, Contestant, Site
from benchmarks.plughole import PLUGHOLE, PLUGHOLE_LIBUNBOUND, Plughole, cli_environment, make_live
from benchmarks.report import Sample, Visit
from benchmarks.server import Running, ServerError, find_program, interruptible, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

CONTESTANTS: Final[tuple[Contestant, ...]] = (PLUGHOLE, PLUGHOLE_LIBUNBOUND, *PEERS)

_SERVER_CORE, _LOAD_CORE = 0, 1
_START_PATIENCE: Final = 300.0  # seconds; unbound needs 40 for a million names on a busy machine
_CHECK_PATIENCE: Final = 5.0  # seconds until a server that blocks also answers
_LINES_PER_SECOND: Final = 200_000  # of a file that is read once; more than one core can be asked
_REST_SECONDS: Final = 1.0  # over which a server must be idle before it is loaded
_REST_SHARE: Final = 0.03  # of a core, what still counts as idle
_CHECKED_NAMES: Final = 50  # listed names looked at before and after each load
_WARM_SECONDS: Final = 1
_FILL_SECONDS: Final = 30  # at most, for asking every hit name once
MICROSECONDS: Final = 1e6  # in a second
_EXPECTED: Final = {
    "hit": frozenset({"NOERROR"}),
    "miss": frozenset({"NOERROR"}),
    "blocked": frozenset({"NOERROR", "NXDOMAIN"}),
}


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    names: int
    seconds: int
    repeat: int
    latency: int
    outstanding: int
    seed: int
    only: tuple[str, ...]
    output: Path


@dataclass
class Bench:
    """The state of one run: the plan, the inputs in a temporary folder, the port of the authority."""

    plan: Plan
    folder: Path
    authority: int
    listed: list[str]
    hits: list[str]
    fresh: inputs.FreshLabels
    rng: random.Random
    files: int = 0

    def site(self, name: str) -> Site:
        """Return a new empty folder and a free port for one start of a server."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name.split(maxsplit=1)[0]}-", dir=self.folder))
        return Site(folder, probe.free_port(), self.authority, self.folder)

    def blocked_name(self) -> str:
        """Return a name under a listed one that was not asked for before."""
        return f"{self.fresh.take()}.{self.rng.choice(self.listed)}"

    def load(self, kind: str, seconds: int) -> Load:
        """Write the query file of one load and return the load; only the hit load repeats a name."""
        count = inputs.HIT_QUERIES if kind == "hit" else seconds * _LINES_PER_SECOND
        return self._written(kind, self.names(kind, count), seconds, once=kind != "hit")

    def names(self, kind: str, count: int) -> Iterable[str]:
        """Return what a load of so many questions asks for."""
        self.files += 1
        seed = self.plan.seed + self.files
        if kind == "hit":
            return inputs.popularity(self.hits, seed=seed, draws=count)
        if kind == "miss":
            return inputs.miss_names(self.fresh, count)
        return inputs.blocked_names(self.fresh, self.listed, count, seed=seed)

    def every_hit_once(self) -> Load:
        """Write and return the load that puts every hit name into a cache."""
        return self._written("all", self.hits, _FILL_SECONDS, once=True)

    def _written(self, kind: str, names: Iterable[str], seconds: int, *, once: bool) -> Load:
        path = inputs.write_queries(self.folder / f"{kind}.queries", names)
        return Load(path, seconds, self.plan.outstanding, _LOAD_CORE, once)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 0 all measured, 1 something failed or nothing to measure."""
    words = sys.argv[1:] if arguments is None else arguments
    plan = _plan(words)
    interruptible()
    if find_program("dnsperf") is None:
        say(f"dnsperf is missing: install the Debian package {DNSPERF_PACKAGE}")
        return 1
    started, machine = time.time(), report.machine()
    present, absent = _sort_out(plan.only)
    try:
        figures, chapter = _measure(plan, present, absent)
    except KeyboardInterrupt:
        say("interrupted: every server is stopped")
        return 1
    except ServerError as error:
        say(str(error))
        return 1
    say(report.console_table(figures))
    command = shlex.join(["python", "-m", "benchmarks.bench", *words])
    page = report.markdown(figures, machine=machine, command=command, plan=vars(plan), at=started, latency=chapter.text)
    plan.output.write_text(page)
    say(f"written: {plan.output}")
    return int(not figures.visits or chapter.failed or any(visit.failure for visit in figures.visits))


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


def _plan(words: Sequence[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description="Plughole and its peers, one after the other")
    parser.add_argument("--quick", action="store_true", help="a trial: 50,000 names, 1 s loads, one round")
    parser.add_argument("--names", type=int, help="names on the list (1,000,000)")
    parser.add_argument("--seconds", type=int, help="length of one load (4)")
    parser.add_argument("--repeat", type=int, help="rounds (3)")
    parser.add_argument("--latency", type=int, help="rounds of the latency at half load (3); 0: none")
    parser.add_argument("--outstanding", type=int, default=100, help="queries in flight (100)")
    parser.add_argument("--seed", type=int, default=2026, help="of all inputs")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measure these servers only")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.md"))
    given = parser.parse_args(words)
    unknown = set(given.only) - {contestant.name for contestant in CONTESTANTS}
    if unknown:
        known = ", ".join(contestant.name for contestant in CONTESTANTS)
        parser.error(f"unknown server {', '.join(sorted(unknown))}; known are: {known}")
    names, seconds, repeat = (50_000, 1, 1) if given.quick else (1_000_000, 4, 3)
    return Plan(
        names=given.names or names,
        seconds=given.seconds or seconds,
        repeat=given.repeat or repeat,
        latency=repeat if given.latency is None else given.latency,
        outstanding=given.outstanding,
        seed=given.seed,
        only=tuple(given.only),
        output=given.output,
    )


def _sort_out(only: tuple[str, ...]) -> tuple[list[Contestant], dict[str, str]]:
    wanted = [contestant for contestant in CONTESTANTS if not only or contestant.name in only]
    absent = {contestant.name: remedy for contestant in wanted if (remedy := contestant.missing())}
    for name, remedy in absent.items():
        say(f"skipped: {name} is missing ({remedy})")
    return [contestant for contestant in wanted if contestant.name not in absent], absent


def _measure(plan: Plan, present: list[Contestant], absent: dict[str, str]) -> tuple[report.Figures, latency.Chapter]:
    with _bench(plan, {contestant.list_form for contestant in present}) as bench:
        ready = [contestant for contestant in present if _imported(bench, contestant)]
        visits = []
        for number in range(1, plan.repeat + 1):
            for contestant in ready:
                visit = _visit(bench, contestant)
                visits.append(visit)
                say(f"round {number}/{plan.repeat}  {report.line(visit)}")
        visits += [Visit(c.name, failure="the list could not be imported") for c in present if c not in ready]
        figures = report.Figures(visits, [c.name for c in present], absent, {c.name: c.version() for c in present})
        return figures, _measure_latency(bench, ready, latency.half_load(figures))


def _measure_latency(bench: Bench, ready: list[Contestant], rates: Mapping[str, float]) -> latency.Chapter:
    visits = []
    for number in range(1, bench.plan.latency + 1):
        for contestant in (None, *ready):
            visit = _latency_visit(bench, contestant, rates) if contestant else _echo_visit(bench, rates)
            visits.append(visit)
            say(f"latency {number}/{bench.plan.latency}  {latency.line(visit)}")
    return latency.Chapter(visits, rates, bench.plan.seconds)


def _echo_visit(bench: Bench, rates: Mapping[str, float]) -> latency.Visit:
    visit = latency.Visit(latency.ECHO)
    try:
        with latency.echo(bench.folder / "echo", core=_SERVER_CORE) as port:
            visit.spreads = {kind: _spread(bench, kind, port, rate) for kind, rate in rates.items()}
    except (ServerError, LoadError) as error:
        visit.failure = str(error)
    return visit


def _latency_visit(bench: Bench, contestant: Contestant, rates: Mapping[str, float]) -> latency.Visit:
    visit = latency.Visit(contestant.name)
    try:
        with _started(bench, contestant) as (site, server):
            _await_block(bench, site, server)
            _await_quiet(server)
            for kind in (kind for kind in contestant.loads if kind in rates):
                _verify(bench, site, server)
                if kind == "hit":
                    put(bench.every_hit_once(), site.port)
                time.sleep(contestant.settle)
                visit.spreads[kind] = _spread(bench, kind, site.port, rates[kind])
    except (ServerError, LoadError) as error:
        visit.failure = str(error)
    return visit


def _spread(bench: Bench, kind: str, port: int, rate: float) -> latency.Spread:
    names = bench.names(kind, latency.questions(rate, bench.plan.seconds))
    return latency.measure(kind, names, port=port, rate=rate, core=_LOAD_CORE)


@contextmanager
def _bench(plan: Plan, forms: Iterable[str]) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="plughole-bench-") as name:
        folder = Path(name)
        say(f"making {plan.names:,} names in {folder}")
        listed = inputs.domain_names(plan.names, seed=plan.seed)
        for form in forms:
            inputs.write_list(folder / form, listed, form=form)
        hits = inputs.hit_names(listed, seed=plan.seed)
        with authority(folder / "authority", core=_LOAD_CORE) as port:
            yield Bench(plan, folder, port, listed, hits, inputs.FreshLabels(plan.seed), random.Random(plan.seed))


def _imported(bench: Bench, contestant: Contestant) -> bool:
    """Let Plughole fetch the list once, untimed: peers too find theirs on the disk when they start."""
    if not isinstance(contestant, Plughole):
        return True
    with _started(bench, contestant) as (site, server):
        live = make_live(contestant, site, server, lambda: _blocks(bench, site.port))
        if not live:
            say(f"{contestant.name}: the list never became live: {server.complaint()}")
    return live


@contextmanager
def _started(bench: Bench, contestant: Contestant) -> Iterator[tuple[Site, Running]]:
    site = bench.site(contestant.name)
    env = cli_environment() if isinstance(contestant, Plughole) else None
    with running(contestant.command(site), folder=site.folder, core=_SERVER_CORE, env=env) as server:
        yield site, server


def _visit(bench: Bench, contestant: Contestant) -> Visit:
    visit = Visit(contestant.name)
    try:
        with _started(bench, contestant) as (site, server):
            visit.start_seconds = _await_block(bench, site, server)
            visit.quiet_seconds = _await_quiet(server)
            _verify(bench, site, server)
            visit.memory = proc.memory(server.pid)
            for kind in contestant.loads:
                visit.samples[kind] = _sample(bench, contestant, site, server, kind)
                _verify(bench, site, server)
            visit.memory_after = proc.memory(server.pid)
    except (ServerError, LoadError) as error:
        visit.failure = str(error)
    return visit


def _await_block(bench: Bench, site: Site, server: Running) -> float:
    """Return the seconds from start to the first blocked answer; raises ServerError."""
    done = probe.wait_until(lambda: not server.alive or _blocks(bench, site.port), within=_START_PATIENCE)
    took = time.monotonic() - server.started
    if not done or not server.alive:
        raise ServerError(f"no blocked answer after {took:.1f} s: {server.complaint()}")
    return took


def _await_quiet(server: Running) -> float:
    """Return the seconds from start until the server rests: named blocks its first names while it still loads."""
    end = time.monotonic() + _START_PATIENCE
    used, rest = proc.cpu_seconds(server.pid), 1.0
    while rest > _REST_SHARE and time.monotonic() < end:
        time.sleep(_REST_SECONDS)
        before, used = used, proc.cpu_seconds(server.pid)
        rest = (used - before) / _REST_SECONDS
    return time.monotonic() - server.started - _REST_SECONDS


def _verify(bench: Bench, site: Site, server: Running) -> None:
    """Raise ServerError unless a name under a listed one is blocked and a hit name gets its true address."""
    checks: dict[str, Callable[[], bool]] = {
        "block every listed name": lambda: all(_blocks(bench, site.port) for _ in range(_CHECKED_NAMES)),
        "answer a name that is not listed": lambda: _answers(bench, site.port),
    }
    for duty, holds in checks.items():
        if not probe.wait_until(holds, within=_CHECK_PATIENCE):
            raise ServerError(f"it does not {duty}: {server.complaint()}")


def _blocks(bench: Bench, port: int) -> bool:
    reply = probe.ask(port, bench.blocked_name())
    return reply is not None and reply.blocked


def _answers(bench: Bench, port: int) -> bool:
    reply = probe.ask(port, bench.rng.choice(bench.hits))
    return reply is not None and reply.answered


def _sample(bench: Bench, contestant: Contestant, site: Site, server: Running, kind: str) -> Sample:
    """Warm up, then measure one load; raises ServerError when nothing was answered."""
    if kind == "hit":
        put(bench.every_hit_once(), site.port)
    put(bench.load(kind, _WARM_SECONDS), site.port)
    measured = bench.load(kind, bench.plan.seconds)
    time.sleep(contestant.settle)
    counted, before = contestant.counters(site), proc.cpu_by_process(server.pid)
    outcome = put(measured, site.port)
    time.sleep(contestant.settle)
    used = {who: cpu - before.get(who, 0.0) for who, cpu in proc.cpu_by_process(server.pid).items()}
    after = contestant.counters(site)
    if not outcome.answered:
        raise ServerError(f"it answered nothing in the {kind} load: {server.complaint()}")
    changed = {path: value - counted.get(path, 0.0) for path, value in after.items() if value != counted.get(path)}
    parts = {who: cpu / outcome.answered * MICROSECONDS for who, cpu in used.items()}
    return Sample(sum(parts.values()), outcome, outcome.unexpected(_EXPECTED[kind]), changed, parts)


if __name__ == "__main__":
    sys.exit(main())
