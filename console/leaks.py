"""`plughole leaks`: the pairs the leak meter holds for a look, and an operator's word about them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from console import show
from console.override import person
from console.params import Address, DomainName, Sentence, as_json, configured, examples
from core.errors import PlugholeError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from core.config import Config
    from core.names import Name
    from detectors.leak_words import Lone

Row = dict[str, Any]

COLUMNS: Final = ("client", "domain", "bytes a day", "peak", "clients", "blocked", "since", "samples")
DECIDED: Final = ("at", "what", "domain", "client", "by", "reason")


@click.group(short_help="Look at who sends much out in names, confirm or release it.")
def leaks() -> None:
    """Look at the pairs of client and domain that send much out in names, and confirm or release them."""


@leaks.command(
    short_help="List the pairs for whose load nobody else speaks.",
    epilog=examples("plughole leaks review", "plughole leaks review --json"),
)
@configured
@as_json
def review(config: Config, *, as_json: bool) -> None:
    """List the pairs for whose load nobody else speaks, the heaviest first, as of the last state of each worker.

    Once after the learning phase: confirm those that are known to do their work, look into the others.
    """
    now = time.time()
    ages: dict[int, float] = {}
    found: dict[tuple[str, str], Row] = {}
    for worker, path in _states(config.data_dir):
        written = path.stat().st_mtime
        ages[worker] = now - written
        for lone in _lone(config, path, now):
            row = _row(lone, worker=worker, written=written)
            before = found.setdefault((lone.client, lone.domain), row)
            if row["bytes_per_day"] > before["bytes_per_day"]:
                found[lone.client, lone.domain] = row
    rows = sorted(found.values(), key=lambda row: -row["bytes_per_day"])
    if as_json:
        show.document(rows)
    else:
        _print(rows, ages)


def _scoped(command: Callable[..., int | None]) -> Callable[..., int | None]:
    for option in (
        click.option("--reason", type=Sentence(), required=True, help="Why; `plughole leaks list` shows it."),
        click.option("--client", type=Address(), help="Only of this client. Default: of all."),
        click.argument("domain", type=DomainName(), metavar="DOMAIN"),
        configured,
    ):
        command = option(command)
    return command


@leaks.command(
    short_help="Let a pair send more from now on.",
    epilog=examples('plughole leaks confirm telemetry.example --client 192.0.2.7 --reason "the build server, known"'),
)
@_scoped
def confirm(config: Config, *, domain: str, client: str | None, reason: str) -> None:
    """Say that it is known why so much is asked below DOMAIN: eight budgets, or twice what was learned, from now on.

    A pair that is blocked by the meter is released. It is about this node; on several, say it on each.
    """
    asked = _registered(domain)
    _decide(config, "confirm", asked, client, reason)
    show.line(f"{asked}: confirmed{_whose(client)}")
    _lift(config, asked, client)


@leaks.command(
    short_help="Release a blocked pair once.",
    epilog=examples('plughole leaks release example.com --client 192.0.2.7 --reason "case 12: laptop reinstalled"'),
)
@_scoped
def release(config: Config, *, domain: str, client: str | None, reason: str) -> None:
    """Empty the accounts of a pair, lift its conviction, and take a confirmation back; the same names bring it back."""
    asked = _registered(domain)
    _decide(config, "release", asked, client, reason)
    show.line(f"{asked}: released{_whose(client)}")
    _lift(config, asked, client)


@leaks.command(name="list", short_help="List what was decided.", epilog=examples("plughole leaks list"))
@configured
@as_json
def list_(config: Config, *, as_json: bool) -> None:
    """List what was decided about leaks and alerts on this node, the oldest first: who said what, when and why."""
    from resolver.decisions import Decisions

    rows = [
        {"at": show.moment(one.at), "what": one.what, "domain": one.domain, "client": one.client or None,
         "by": one.by, "reason": one.reason}
        for one in Decisions(config.data_dir).all()
    ]  # fmt: skip
    if as_json:
        show.document(rows)
    elif rows:
        show.table(DECIDED, [[row[key] for key in DECIDED] for row in rows])
    else:
        show.note("nothing was decided yet; `plughole leaks confirm` and `release` do")


def _states(data_dir: Path) -> Iterator[tuple[int, Path]]:
    """Yield the number of each worker that has written a state, and where it lies."""
    from resolver.keeping import FOLDER, LEAK

    for path in sorted((data_dir / FOLDER).glob(f"{LEAK}*")):
        number = path.name.removeprefix(LEAK)
        if number.isdecimal():
            yield int(number), path


def _lone(config: Config, path: Path, now: float) -> list[Lone]:
    """Return the pairs of one state; one that cannot be read is mentioned and holds none."""
    from detectors.registry import leak_meter
    from resolver.keeping import held

    meter = leak_meter(config.detectors, started=now)
    if meter is None:
        raise PlugholeError('the leak meter is off; write mode = "alert" or "block" below [detectors.leak]')
    try:
        state = held(path)
    except Unavailable as error:
        show.note(f"{error}; the worker begins anew and writes another")
        return []
    if state is not None:
        meter.load(state)
    return meter.review(now)


def _row(lone: Lone, *, worker: int, written: float) -> Row:
    return {
        "client": lone.client,
        "domain": lone.domain,
        "bytes_per_day": lone.per_day,
        "peak": lone.peak,
        "clients": lone.clients,
        "blocked": lone.blocked,
        "first": show.moment(lone.first),
        "samples": list(lone.samples),
        "worker": worker,
        "written": show.moment(written),
    }


def _print(rows: Sequence[Row], ages: dict[int, float]) -> None:
    keys = ("client", "domain", "bytes_per_day", "peak", "clients", "blocked", "first")
    if rows:
        show.table(COLUMNS, [[*(row[key] for key in keys), " ".join(row["samples"][:2])] for row in rows])
    if ages:
        told = ", ".join(f"worker {worker} of {show.span(age)} ago" for worker, age in sorted(ages.items()))
        show.note(f"{'' if rows else 'no lone heavy pairs; '}as of the states on disk: {told}")
    else:
        show.note("no worker has written its accounts yet; they do every ten minutes and when they stop")


def _registered(domain: str) -> str:
    """Return the domain as the meter knows it, and say so when it is another one."""
    from core.names import from_text, to_text
    from detectors.sight import domain_of

    found = to_text(domain_of(from_text(domain)))
    if found != domain:
        show.note(f"the meter counts below {found}, so it is said of {found}")
    return found


def _decide(config: Config, what: Any, domain: str, client: str | None, reason: str) -> None:
    from resolver.decisions import Decision, Decisions

    decision = Decision(what=what, domain=domain, client=client or "", reason=reason, by=person(), at=time.time())
    try:
        Decisions(config.data_dir).add(decision)
    except OSError as error:
        raise PlugholeError(f"{config.data_dir}: {error.strerror}; run it as the user that runs the node") from None


def _lift(config: Config, domain: str, client: str | None) -> None:
    """Take the detectors' convictions of the domain out of Redis; what people said there stays."""
    from core.names import from_text

    try:
        lifted = _forget(config, from_text(domain), client)
    except Unavailable as error:
        raise PlugholeError(
            f"{error}; a conviction, if there is one, stands: say it again when Redis is back"
        ) from None
    if lifted:
        show.line(f"{domain}: {lifted} conviction{'' if lifted == 1 else 's'} lifted")


def _forget(config: Config, name: Name, client: str | None) -> int:
    from feeds.overlay import Overlay
    from feeds.redis import session

    now = time.time()
    with session(config) as redis:
        overlay = Overlay(redis)
        standing = [
            item for item in overlay.all(now) if item.convicts and item.name == name and client in {None, item.client}
        ]
        for item in standing:
            overlay.forget(item.name, item.client, by=person(), now=now)
    return len(standing)


def _whose(client: str | None) -> str:
    return f" for {client}" if client else " for all clients"
