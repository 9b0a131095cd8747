"""`plughole status`: how the node on this data folder fares, as its hub says, for a tired person or as JSON.

Rules:
1. The first line says what it means for those who use DNS, and what to do next.
2. Exit code 0: healthy. 1: degraded, down, or nobody there to ask.
"""

from __future__ import annotations

import json
import re
import socket
import textwrap
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from console import show
from console.params import as_json, configured, examples
from core.errors import Unavailable
from resolver.control import SOCKET
from resolver.metrics import SILENT, about, index_facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from core.config import Config

TIMEOUT: Final = 3.0  # seconds until a hub that does not answer counts as broken
MAX_ANSWER: Final = 4_194_304  # octets; a node of 256 workers says about 400 kB
WIDTH: Final = 100  # columns
_SHOWN: Final = {  # counters of a worker that have a column, in order
    "udp_sent": "sent", "blocked": "blocked", "upstream": "upstream", "failed": "failed", "cache_answers": "cached",
    "events_waiting": "queue", "events_dropped": "drops",
}  # fmt: skip
_NAMES: Final = {"worker": "worker", "pid": "pid", "generation": "gen", "seconds_since_report": "ago"}
_COLOURS: Final = {"healthy": "green", "degraded": "yellow", "down": "red"}
_COMMAND: Final = re.compile(r"`[^`]*`")
_EGRESS: Final = "egress: "  # how a trouble of an agent begins
_NO_BREAK: Final = "\xa0"  # not printable: no text of ours or of strangers holds it here
_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Advice(NamedTuple):
    """What a trouble means for those who use DNS, and what to do about it."""

    users: str
    do: str


_LOG: Final = "read the service log (`journalctl -u plughole -n 50`)"
_FILTERED: Final = "DNS is answered and filtered"
_ADVICE: Final = {  # by what the sentence is about, the worst first
    "upstream": Advice(
        "most names that are not cached fail, the others are answered and filtered",
        "ask an upstream server from this host with `dig`; look at the way out on port 53",
    ),
    "worker": Advice("a part of the clients may wait for DNS", f"{_LOG}; if it stays, `systemctl restart plughole`"),
    "intel": Advice(
        f"{_FILTERED} by the last good generation, newer intelligence is not in force",
        "`plughole feeds update --force`; check that the disk is not full",
    ),
    "redis": Advice(
        f"{_FILTERED} by the last good state, new feeds and overrides do not arrive",
        "see whether Redis runs and its disk is not full; nothing else waits for it",
    ),
    "journal": Advice(f"{_FILTERED}, the log has gaps", "free space in the data folder, see `disk` below"),
    "metrics": Advice(f"{_FILTERED}, Prometheus cannot read metrics", "free that port, or change `[server] metrics`"),
    "egress": Advice(
        f"{_FILTERED}, addresses may not be blocked at a firewall",
        "see docs/egress.md; on the agent's host `journalctl -u plughole-egress -n 50`",
    ),
    "other": Advice(f"{_FILTERED}, a part fails", _LOG),
}
_NO_WORKER: Final = Advice("DNS is NOT answered, no worker reports", f"{_LOG}; then `systemctl restart plughole`")
_UNHEARD: Final = Advice("the hub has just started, DNS does not wait for it", "look again in 5 s")
_NO_INTEL: Final = Advice("every query gets SERVFAIL, no intelligence was ever loaded", "`plughole feeds update`")


@click.command(
    short_help="Show how the running node fares.",
    epilog=examples("plughole status", "plughole status --json | jq .degraded"),
)
@configured
@as_json
def status(config: Config, *, as_json: bool) -> int:
    """Show health and what to do, rates, intelligence, workers, queues and drops; exit code 1 unless healthy."""
    found = ask(config.data_dir)
    _add_agents(found, config)
    if as_json:
        show.document(found)
    else:
        _page(found, config.data_dir)
    return 0 if found.get("state") == "healthy" else 1


def ask(data_dir: Path) -> dict[str, Any]:
    """Return what the hub says of its node; raises Unavailable with the cure when there is none."""
    path = data_dir / SOCKET
    try:
        answer = json.loads(_exchange(path))
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unavailable(
            f"down: no plughole runs on {data_dir} (is only its hub restarted? look again in 5 s); "
            "start it with `systemctl start plughole` or `plughole serve`"
        ) from None
    except PermissionError:
        raise Unavailable(f"{path}: permission denied; ask as the user plughole runs as, or as root") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: the hub does not answer ({error}); its log says why") from None
    if not isinstance(answer, dict) or not isinstance(intel := answer.get("intel"), dict):
        raise Unavailable(f"{path}: is not the hub of a plughole")
    intel |= index_facts(data_dir, str(intel.get("index", "")))
    return answer


def _add_agents(found: dict[str, Any], config: Config) -> None:
    """Add what agents say of themselves to what the hub says; without Redis nobody knows."""
    from console import egress_agents

    agents = egress_agents.told(config) if found["intel"].get("redis") == "up" else []
    troubles = egress_agents.troubles(agents)
    found["egress"] = agents
    found["degraded"] = [*found.get("degraded", []), *troubles]
    if troubles and found.get("state") == "healthy":
        found["state"] = "degraded"


def runs(data_dir: Path) -> bool:
    """True when a hub listens on this data folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(data_dir / SOCKET))
        except OSError:  # also a path too long for a socket: then nobody listens there
            return False
        return True


def _exchange(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        deadline = time.monotonic() + TIMEOUT
        sock.settimeout(TIMEOUT)
        sock.connect(str(path))
        sock.sendall(b"status\n")
        answer = bytearray()
        while (left := deadline - time.monotonic()) > 0 and len(answer) < MAX_ANSWER:
            sock.settimeout(left)
            piece = sock.recv(65_536)
            if not piece:
                break
            answer += piece
    return bytes(answer)


def _page(found: dict[str, Any], data_dir: Path) -> None:
    _headline(found)
    click.echo()
    for name, text in _facts(found, data_dir):
        _wrapped(f"{name}:".ljust(15) + text, indent=15)
    for agent in found.get("egress", []):
        _wrapped("egress:".ljust(15) + _agent_text(agent), indent=15)
    workers = found.get("workers", [])
    if workers:
        click.echo()
        names = [name for name in _SHOWN if any(name in worker for worker in workers)]
        columns = (*_NAMES.values(), *(_SHOWN[name] for name in names))
        show.table(columns, [_worker_cells(worker, names) for worker in workers])


def _headline(found: dict[str, Any]) -> None:
    """Print the state, what it means and what to do, then every trouble, the worst first, with its own advice."""
    state = str(found.get("state", "degraded"))
    troubles = [str(text) for text in found.get("degraded", [])]
    advised = sorted(((_advice(found, text), text) for text in troubles), key=lambda pair: _rank(pair[0]))
    done = advised[0][0] if advised else Advice(_FILTERED, "nothing")
    _wrapped(f"{state}: {done.users}; do: {done.do}", indent=2, colour=_COLOURS.get(state))
    for advice, text in advised:
        _wrapped(f"  - {text}", indent=4)
        if advice != done:
            _wrapped(f"    {advice.users}; do: {advice.do}", indent=4)
            done = advice


def _advice(found: dict[str, Any], trouble: str) -> Advice:
    part = about(trouble)
    if part == "worker" and all(row["seconds_since_report"] > SILENT for row in found.get("workers", [])):
        return _NO_WORKER if found.get("state") == "down" else _UNHEARD
    if trouble.startswith(_EGRESS):
        part = "egress"
    return _NO_INTEL if part == "intel" and found.get("state") == "down" else _ADVICE[part]


def _rank(advice: Advice) -> int:
    """Return how bad it is, 0 the worst."""
    return [_NO_WORKER, _NO_INTEL, _UNHEARD, *_ADVICE.values()].index(advice)


def _facts(found: dict[str, Any], data_dir: Path) -> Iterator[tuple[str, str]]:
    hub, intel = found.get("hub", {}), found.get("intel", {})
    yield from _rates(found.get("rates") or {})
    yield "intelligence", _intel_text(intel, found.get("at", 0.0))
    yield "redis", "up" if intel.get("redis") == "up" else "away"
    over = sum(worker.get("events_over_cap", 0) for worker in found.get("workers", []))
    dropped = hub.get("events_dropped_by_workers", 0)
    yield "events", f"{hub.get('events', 0):,} told, {dropped:,} dropped by workers, {over:,} over the cap"
    yield "journal", _journal_text(found.get("journal", {}))
    if disk := found.get("disk"):
        yield "disk", f"{_size(disk['free_bytes'])} of {_size(disk['size_bytes'])} free at {data_dir}"
    if (metrics := found.get("metrics", {})).get("listen"):
        yield "metrics", f"{metrics['listen']}, {metrics['scrapes']:,} scrapes, {metrics['rejected']:,} rejected"
    yield "node", f"up for {show.span(hub.get('uptime_seconds', 0))}, hub process {hub.get('pid', '?')}"


def _rates(rates: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if rates.get("queries_per_second") is None:
        yield "queries", "counted for too short a time, ask again in two seconds"
        return
    parts = [f"{rates['queries_per_second']:,.0f} a second in the last {rates['seconds']:.0f} s"]
    parts += [f"{rates[share]:.1%} {text}" for share, text in _SHARES.items() if rates.get(share) is not None]
    yield "queries", ", ".join(parts)
    parts = [f"{rates.get('questions_per_second') or 0:,.0f} questions a second"]
    if (mean := rates.get("latency_mean_ms")) is not None:
        parts.append(f"mean latency {mean:,.1f} ms")
    edges = {"half": rates.get("latency_p50_ms"), "99%": rates.get("latency_p99_ms")}
    parts += [f"{name} within {edge:,g} ms" for name, edge in edges.items() if edge is not None]
    yield "upstream", ", ".join(parts)


_SHARES: Final = {"cached": "from cache", "blocked": "blocked", "failed": "SERVFAIL"}
_WATCHED: Final = frozenset(("written", "pending", "lost", "over_the_cap"))


def _intel_text(intel: dict[str, Any], at: float) -> str:
    generation = intel.get("generation", 0)
    if not generation:
        return "none yet; `plughole feeds update` fetches it"
    parts = [f"generation {generation}"]
    if intel["created"]:
        parts += [f"{intel['names']:,} names", f"{show.span(at - intel['created'])} old"]
    parts += [f"{intel['overrides']:,} overrides"] if "overrides" in intel else []
    return ", ".join(parts)


def _journal_text(counters: dict[str, Any]) -> str:
    """Return size, what is always worth a look, and every other counter that is not 0."""
    parts = [_size(counters["bytes"])] if "bytes" in counters else []
    shown = {name: value for name, value in counters.items() if name in _WATCHED or (value and name != "bytes")}
    return ", ".join([*parts, *(f"{name.replace('_', ' ')} {value:,}" for name, value in shown.items())])


def _agent_text(agent: dict[str, Any]) -> str:
    parts = [f"agent {agent['agent']}, mode {agent['mode']}"]
    parts += ["PANIC is on, nothing is blocked"] if agent["panic"] else []
    parts += [f"{agent['blocked']:,} addresses of {agent['rows']:,} rows blocked", f"{agent['refused']:,} refused"]
    return ", ".join(
        [*parts, f"{agent['attempts']:,} attempts", f"heard {show.span(agent['seconds_since_heartbeat'])} ago"]
    )


def _worker_cells(worker: dict[str, Any], names: list[str]) -> list[Any]:
    return [*(str(worker.get(name, "?")) for name in _NAMES), *(worker.get(name, 0) for name in names)]


def _size(octets: float) -> str:
    """Return octets in the largest unit that fits: `1.2 GB`, `512 B`."""
    for size, unit in _SIZES:
        if octets >= size:
            return f"{octets / size:.1f} {unit}"
    return f"{octets:.0f} B"


def _wrapped(text: str, *, indent: int, colour: str | None = None) -> None:
    """Print a text in lines of WIDTH, those after the first indented; its first word may be coloured."""
    glued = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), show.plain(text))
    lines = textwrap.wrap(glued, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
    for at, line in enumerate(line.replace(_NO_BREAK, " ") for line in lines):
        word, colon, rest = line.partition(":")
        click.echo(click.style(word, fg=colour, bold=True) + colon + rest if colour and not at else line)
