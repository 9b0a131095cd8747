"""`python -m benchmarks.failures`: what is lost when a part of a loaded node is reloaded, swapped, killed or full.

1. One event a run, each on a new node with every default but its addresses: workers one a core, journal of all queries.
2. The load is open-loop: 90 % cached names, 8 % names under listed ones, 2 % names never asked before, from 8 clients
   of different addresses, so that every worker has its share.
3. Rows are read from the journal's files after the node has ended, and compared with the queries that were answered.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks import events, inputs, losses, openloop, probe, report
from benchmarks.authority import authority
from benchmarks.load import LoadError
from benchmarks.losses import Outcome, Stored
from benchmarks.peers import Site
from benchmarks.plughole import CONFIG_FILE, Plughole, cli_environment, make_live
from benchmarks.server import ServerError, interruptible, running
from core.errors import PlugholeError
from journal.reader import Reader
from journal.segments import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

CLIENTS: Final = tuple(f"127.1.0.{number}" for number in range(1, 9))
HIT_NAMES: Final = 2_000  # few enough that their rows, one a client, name and second, stay under the cap on rows
LISTED: Final = 50_000  # names on the list, a tenth of which the other list has not

_CORE: Final = 1  # of the authority and the sender; Plughole may use every core, as it does in service
_BLOCKED, _MISS = 0.08, 0.02  # shares of the load
_LEAD: Final = 4.0  # seconds of load before the event
_FILL_RATE: Final = 8_000  # questions a second that put the hit names into every worker's cache
_SETTLE: Final = 3.0  # seconds after the load until all hits are told
_HEALTHY_WITHIN: Final = 30.0  # seconds after the load
_NAP: Final = 0.0002  # seconds; the sender shares its core with a worker, so it sleeps where it can


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    rate: int
    seconds: int
    seed: int
    only: tuple[str, ...]
    output: Path


@dataclass(frozen=True)
class Mix:
    """The names of one load in their order, and which of them must be blocked."""

    names: list[str]
    blocked: NDArray[np.bool_]


@dataclass
class Bench:
    """What all events share: the plan, the lists and the names that are not on them."""

    plan: Plan
    listed: list[str]
    other: list[str]
    hits: list[str]
    fresh: inputs.FreshLabels

    def mix(self, count: int) -> Mix:
        """Return a load of so many questions; only names on both lists are asked for as blocked."""
        rng = random.Random(self.plan.seed)
        hits = iter(inputs.popularity(self.hits, seed=self.plan.seed, draws=count))
        second = set(self.other)
        both = [name for name in self.listed if name in second]
        names, blocked = [], np.zeros(count, np.bool_)
        for number in range(count):
            draw = rng.random()
            blocked[number] = draw < _BLOCKED
            if draw >= _BLOCKED + _MISS:
                names.append(next(hits))
            else:
                below = rng.choice(both) if draw < _BLOCKED else inputs.MISS_ZONE
                names.append(f"{self.fresh.take()}.{below}")
        return Mix(names, blocked)

    def every_hit(self) -> list[str]:
        """Return the hit names so arranged that every client asks for each once."""
        _, number = openloop.place(-(-len(self.hits) // openloop.RUN) * openloop.RUN * len(CLIENTS), len(CLIENTS))
        return [self.hits[place % len(self.hits)] for place in number]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every event and return the exit code: 0 none cost more than it may, 1 one did or could not be run."""
    words = sys.argv[1:] if arguments is None else arguments
    plan = _plan(words)
    if remedy := Plughole().missing():
        print(f"plughole is missing: {remedy}")
        return 1
    started, machine = time.time(), report.machine()
    interruptible()
    bench = _bench(plan)
    outcomes: list[Outcome] = []
    try:
        for event in events.EVENTS:
            if not plan.only or event.name in plan.only:
                outcomes.append(_outcome(bench, event))
                print(losses.table(outcomes[-1:]).splitlines()[-1], flush=True)
    except KeyboardInterrupt:
        print("interrupted: every server is stopped")
        return 1
    command = shlex.join(["python", "-m", "benchmarks.failures", *words])
    _write(plan, outcomes, machine=machine, command=command, at=started)
    return int(not all(outcome.holds for outcome in outcomes))


def _plan(words: Sequence[str]) -> Plan:
    parser = argparse.ArgumentParser(prog="benchmarks.failures", description="what failures under load cost")
    parser.add_argument("--rate", type=int, default=20_000, help="queries a second (20,000)")
    parser.add_argument("--seconds", type=int, default=20, help="length of one load; the event comes at 4 s (20)")
    parser.add_argument("--seed", type=int, default=2026, help="of all inputs")
    parser.add_argument("--only", nargs="+", default=[], choices=[event.name for event in events.EVENTS])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("failures.md"), help="and .json")
    given = parser.parse_args(words)
    return Plan(given.rate, given.seconds, given.seed, tuple(given.only), given.output)


def _bench(plan: Plan) -> Bench:
    everything = inputs.domain_names(LISTED + LISTED // 10, seed=plan.seed)
    hits = inputs.hit_names(everything, seed=plan.seed, count=HIT_NAMES)
    listed, other = everything[:LISTED], everything[LISTED // 10 :]
    return Bench(plan, listed, other, hits, inputs.FreshLabels(plan.seed))


def _outcome(bench: Bench, event: events.Event) -> Outcome:
    if reason := event.obstacle():
        return Outcome(event.name, skipped=reason)
    try:
        return _run(bench, event)
    except (ServerError, LoadError, PlugholeError) as error:
        return Outcome(event.name, failure=str(error))


def _run(bench: Bench, event: events.Event) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="plughole-failures-") as name:
        folder = Path(name)
        site = Site(folder / "node", probe.free_port(), 0, folder)
        data = site.folder / events.DATA
        data.mkdir(parents=True)
        with events.small_disk(data) if event.small_disk else nullcontext():
            with authority(folder / "authority", core=_CORE) as upstream, _live(bench, site, upstream) as scene:
                watched = _load(bench, event, scene)
            return _judge(bench, event, watched, _stored(data))


@dataclass(frozen=True)
class _Watched:
    """What was seen of one event while the node ran; `at` is when it happened, nanoseconds since the epoch."""

    fill: openloop.Record
    record: openloop.Record
    mix: Mix
    at: int
    watch: events.Watch
    overflowed: int
    workers: int


def _load(bench: Bench, event: events.Event, scene: events.Scene) -> _Watched:
    plan, port = bench.plan, scene.site.port
    fill = openloop.put(_script(port, bench.every_hit(), _FILL_RATE))
    mix = bench.mix(plan.rate * plan.seconds)
    script = _script(port, mix.names, plan.rate)
    with events.Watch(scene.data) as watch:
        with openloop.Load(script) as load:
            time.sleep(max(0.0, load.start / 1e9 + _LEAD - time.time()))
            at = time.time_ns()
            event.act(scene)
            record = load.finish()
        time.sleep(_SETTLE)
        overflowed = losses.overflowed(Path("/proc/net/udp").read_text(), port)
        probe.wait_until(lambda: watch.healthy_since() is not None, within=_HEALTHY_WITHIN)
    return _Watched(fill, record, mix, at, watch, overflowed, watch.workers)


def _judge(bench: Bench, event: events.Event, seen: _Watched, stored: Stored) -> Outcome:
    effect = losses.effect(seen.record, blocked=seen.mix.blocked, event=seen.at, sockets=len(CLIENTS))
    healthy = seen.watch.healthy_since()
    dropped = seen.watch.tally.dropped
    allowed = event.allowed(
        events.Facts(stored, seen.overflowed, bench.plan.rate, seen.workers, events.SEGMENT_SECONDS)
    )
    return Outcome(
        event=event.name,
        effect=effect,
        until_healthy=None if healthy is None else max(0.0, healthy - seen.at / 1e9),
        expected=int((seen.fill.received > 0).sum() + (seen.record.received > 0).sum()),
        stored=stored,
        told=seen.watch.tally.told,
        dropped=dropped,
        overflowed=seen.overflowed,
        allowed=allowed,
    )


def _script(port: int, names: Sequence[str], rate: float) -> openloop.Script:
    return openloop.script(port, names, rate=rate, core=_CORE, sources=CLIENTS, nap=_NAP)


@contextmanager
def _live(bench: Bench, site: Site, upstream: int) -> Iterator[events.Scene]:
    """Run a node with the list in force; gives what an event needs to know; raises ServerError."""
    lists = [site.folder / name for name in ("list.txt", "other.txt")]
    for path, names in zip(lists, (bench.listed, bench.other), strict=True):
        inputs.write_list(path, names, form="plain")
    config = events.config(site.port, upstream, lists[0])
    (site.folder / CONFIG_FILE).write_text(config)
    command = events.serve(site.folder / CONFIG_FILE)
    with running(command, folder=site.folder, core=None, env=cli_environment()) as server:
        if not make_live(Plughole(), site, server, lambda: _blocks(site.port, bench.listed[-1])):
            raise ServerError(f"the list never became live: {server.complaint()}")
        yield events.Scene(site, server, lists[0], lists[1])


def _blocks(port: int, name: str) -> bool:
    reply = probe.ask(port, name)
    return reply is not None and reply.blocked


def _stored(data: Path) -> Stored:
    """Return what the journal of an ended node holds of the load's clients."""
    with Reader(data / QUERIES) as reader:
        sql = (
            "SELECT coalesce(sum(count), 0) AS queries, count(*) AS rows FROM read_parquet(?) "
            "WHERE starts_with(client, '127.1.0.')"
        )
        if bad := reader.run(reader.segments(None, None), sql, []):
            print(f"{len(bad)} damaged segments are left out")
        row = next(reader.rows(), {"queries": 0, "rows": 0})
    return Stored(int(row["queries"]), int(row["rows"]))


def _write(plan: Plan, outcomes: list[Outcome], *, machine: dict[str, str], command: str, at: float) -> None:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    parts = [
        f"# Failures under load, {when}",
        f"Written by `{command}`; how it is measured and what it cannot say: [README.md](README.md).",
        f"Load: {plan.rate:,} queries/s for {plan.seconds} s, 90 % cached, 8 % blocked, 2 % new; seed {plan.seed}.",
        losses.table(outcomes),
        losses.notes(outcomes),
        "## Machine\n\n" + "\n".join(f"- {name}: {value}" for name, value in machine.items()),
    ]
    plan.output.write_text("\n\n".join(parts) + "\n")
    document = {
        "at": at, "command": command, "machine": machine, "rate": plan.rate, "seconds": plan.seconds,
        "events": [outcome.document() for outcome in outcomes],
    }  # fmt: skip
    plan.output.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"written: {plan.output} and {plan.output.with_suffix('.json')}")


if __name__ == "__main__":
    sys.exit(main())
