"""`plughole status`: how the node on this data folder fares, as its hub says."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import click

from console import show
from console.params import as_json, configured, examples
from core.errors import PlugholeError, Unavailable
from resolver.control import SOCKET

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import Config

TIMEOUT: Final = 3.0  # seconds until a hub that does not answer counts as broken
MAX_ANSWER: Final = 4_194_304  # octets; a node of 256 workers says about 400 kB
_SHOWN: Final = {  # counters of a worker that have a column, in order
    "udp_sent": "sent", "blocked": "blocked", "upstream": "upstream", "failed": "failed", "cache_answers": "cached",
    "events_waiting": "queue", "events_dropped": "drops",
}  # fmt: skip
_NAMES: Final = {"worker": "worker", "pid": "pid", "generation": "gen"}  # numbers that are no amounts


@click.command(
    short_help="Show how the running node fares.",
    epilog=examples("plughole status", "plughole status --json | jq .degraded"),
)
@configured
@as_json
def status(config: Config, *, as_json: bool) -> None:
    """Show health, intelligence, workers, queues and drops of the running node."""
    found = ask(config.data_dir)
    if as_json:
        show.document(found)
    else:
        _page(found)


def ask(data_dir: Path) -> dict[str, Any]:
    """Return what the hub says of its node; raises Unavailable with the cure when there is none."""
    path = data_dir / SOCKET
    try:
        answer = json.loads(_exchange(path))
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unavailable(f"no plughole runs on {data_dir}; start it with `plughole serve`") from None
    except PermissionError:
        raise Unavailable(f"{path}: permission denied; ask as the user plughole runs as, or as root") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: the hub does not answer ({error}); its log says why") from None
    if not isinstance(answer, dict) or not isinstance(intel := answer.get("intel"), dict):
        raise Unavailable(f"{path}: is not the hub of a plughole")
    intel |= _index_facts(data_dir, str(intel.get("index", "")))
    return answer


def runs(data_dir: Path) -> bool:
    """True when a hub listens on this data folder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(data_dir / SOCKET))
        except OSError:  # also a path too long for a socket: then nobody listens there
            return False
        return True


def _index_facts(data_dir: Path, index: str) -> dict[str, Any]:
    """Return how many names the index in force has and when it was made; zeros when it cannot be read."""
    from feeds.index import Index
    from resolver.control import intel_dir

    try:
        opened = Index.open(intel_dir(data_dir) / index)
    except PlugholeError:
        return {"names": 0, "created": 0.0}
    facts = {"names": opened.count, "created": opened.created}
    opened.close()
    return facts


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


def _page(found: dict[str, Any]) -> None:
    degraded = found.get("degraded", [])
    show.line(f"degraded: {'; '.join(map(str, degraded))}" if degraded else "healthy")
    hub, intel = found.get("hub", {}), found.get("intel", {})
    show.line(f"up for {show.span(hub.get('uptime_seconds', 0))}, hub process {hub.get('pid', '?')}")
    show.line(_intel_line(intel, found.get("at", 0.0)))
    over = sum(worker.get("events_over_cap", 0) for worker in found.get("workers", []))
    dropped = hub.get("events_dropped_by_workers", 0)
    show.line(f"events: {hub.get('events', 0):,} told, {dropped:,} dropped by workers, {over:,} over the cap")
    show.line("journal: " + (_counts(found.get("journal", {})) or "nothing yet"))
    workers = found.get("workers", [])
    if workers:
        click.echo()
        names = [name for name in _SHOWN if any(name in worker for worker in workers)]
        columns = (*_NAMES.values(), *(_SHOWN[name] for name in names))
        show.table(columns, [_worker_cells(worker, names) for worker in workers])


def _worker_cells(worker: dict[str, Any], names: list[str]) -> list[Any]:
    return [*(str(worker.get(name, "?")) for name in _NAMES), *(worker.get(name, 0) for name in names)]


def _intel_line(intel: dict[str, Any], at: float) -> str:
    generation = intel.get("generation", 0)
    if not generation:
        return "intelligence: none yet; `plughole feeds update` fetches it"
    parts = [f"intelligence: generation {generation}"]
    if intel["created"]:
        parts += [f"{intel['names']:,} names", f"{show.span(at - intel['created'])} old"]
    parts += [f"{intel['overrides']:,} overrides"] if "overrides" in intel else []
    parts += ["Redis is away"] if intel.get("redis") == "away" else []
    return ", ".join(parts)


def _counts(counters: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" for name, value in counters.items() if isinstance(value, int)
    )
