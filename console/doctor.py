"""`plughole doctor`: what on this host and in this configuration keeps a node from its work, each with its cure.

Rules:
1. A check never raises and never holds up the others: one that breaks or takes longer than LIMIT is a warning, and
   keeps the findings it had.
2. No finding shows the user information of a URL.
3. Exit code 0: nothing failed. 1: something did. 2: the configuration is wrong (as everywhere).
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Final

import click

from console import checkups, show
from console.checkups import Finding, Host
from console.params import as_json, configured, examples

if TYPE_CHECKING:
    from collections.abc import Iterable

    from console.checkups import Check
    from core.config import Config

LIMIT: Final = 8.0  # seconds for all checks together, which run at the same time
_LOGIN: Final = re.compile(r"(\b(?!tls://)[a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
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
    """Return what the checks find, in their order, after at most `limit` seconds; a late one tells what it has."""
    running = [_start(check, host) for check in checks]
    deadline = time.monotonic() + limit
    findings: list[Finding] = []
    for name, thread, found in running:
        thread.join(max(deadline - time.monotonic(), 0.0))
        late = thread.is_alive()
        findings += map(_redacted, found.copy())
        if late:
            findings.append(Finding(name, "warn", f"could not look: not done within {limit:g} s"))
    return findings


def _start(check: Check, host: Host) -> tuple[str, threading.Thread, list[Finding]]:
    """Start a check; its findings come into the list as it makes them."""
    found: list[Finding] = []
    # a daemon: a check that hangs in the kernel must not hold up the end of the command
    thread = threading.Thread(target=_run, args=(check, host, found), daemon=True)
    thread.start()
    return _name(check), thread, found


def _run(check: Check, host: Host, found: list[Finding]) -> None:
    try:
        for one in check(host):
            found.append(one)  # noqa: PERF402  one by one: a late check keeps what it has
    except Exception as error:  # noqa: BLE001  rule 1
        found.append(Finding(_name(check), "warn", f"could not look: {type(error).__name__}: {error}"))


def _redacted(found: Finding) -> Finding:
    """Take user names and passwords out of URLs; in tls://ADDRESS@PORT there are none."""
    return found._replace(seen=_LOGIN.sub(r"\1***@", found.seen), cure=_LOGIN.sub(r"\1***@", found.cure))


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", "check"))


def _print(found: Finding) -> None:
    cure = f"; do: {found.cure}" if found.cure else ""
    state = click.style(found.state.ljust(4), fg=_COLOURS[found.state])
    click.echo(f"{state}  {found.check}: {show.one_line(found.seen + cure)}")
