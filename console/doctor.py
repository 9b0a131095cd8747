"""`plughole doctor`: what on this host and in this configuration keeps a node from its work, each with its cure.

Rules:
1. A check never raises and never holds up the others: one that breaks, or takes longer than LIMIT, is a warning.
2. Exit code 0: nothing failed. 1: something did. 2: the configuration is wrong (as everywhere).
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

import click

from console import checkups, show
from console.checkups import Finding, Host
from console.params import as_json, configured, examples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from console.checkups import Check
    from core.config import Config

LIMIT: Final = 8.0  # seconds for all checks together, which run at the same time
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(
    short_help="Look for what keeps a node from working here.",
    epilog=examples("plughole doctor", "plughole doctor --json | jq '.findings[] | select(.state == \"fail\")'"),
)
@configured
@as_json
def doctor(config: Config, *, as_json: bool) -> int:
    """Look at this host and this configuration; one line a finding with its cure; exit code 1 when something failed."""
    findings = [Finding("config", "ok", "the configuration is valid"), *examine(Host(config), checkups.ALL)]
    failed = any(found.state == "fail" for found in findings)
    if as_json:
        show.document({"failed": failed, "findings": [found._asdict() for found in findings]})
    else:
        for found in findings:
            _print(found)
    return int(failed)


def examine(host: Host, checks: Iterable[Check], limit: float = LIMIT) -> list[Finding]:
    """Return what the checks find, in their order, after at most `limit` seconds."""
    results: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()
    waiting = dict(enumerate(checks))
    names = {at: _name(check) for at, check in waiting.items()}
    for at, check in waiting.items():
        # daemons: a check that hangs in the kernel must not hold up the end of the command
        threading.Thread(target=lambda at=at, check=check: results.put((at, _run(check, host))), daemon=True).start()
    done: dict[int, list[Finding]] = {}
    deadline = time.monotonic() + limit
    while len(done) < len(waiting):
        try:
            at, found = results.get(timeout=max(deadline - time.monotonic(), 0.0))
        except queue.Empty:
            break
        done[at] = found
    late = f"could not look: no result within {limit:g} s"
    return [found for at, name in names.items() for found in done.get(at, [Finding(name, "warn", late)])]


def _run(check: Check, host: Host) -> list[Finding]:
    return list(_guarded(check, host))


def _guarded(check: Check, host: Host) -> Iterator[Finding]:
    try:
        yield from check(host)
    except Exception as error:  # noqa: BLE001  rule 1
        yield Finding(_name(check), "warn", f"could not look: {type(error).__name__}: {error}")


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", "check"))


def _print(found: Finding) -> None:
    cure = f"; do: {found.cure}" if found.cure else ""
    state = click.style(found.state.ljust(4), fg=_COLOURS[found.state])
    click.echo(f"{state}  {found.check}: {show.one_line(found.seen + cure)}")
