"""`python -m benchmarks.swap`: what clients and memory notice when Plughole takes up a new list under load.

1. List A is live; B drops a tenth of A's names and adds more, up to twice as many as A had.
2. The lists are served over HTTP from here, so that the end of the fetch is known without asking Plughole.
3. Memory is the proportional set size of all its processes without Redis; the updater's own is shown apart.
"""

from __future__ import annotations

import argparse
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import inputs, probe, proc, report
from benchmarks.authority import authority
from benchmarks.peers import Site
from benchmarks.plughole import CONFIG_FILE, Plughole, cli, cli_environment, make_live
from benchmarks.server import Running, ServerError, interruptible, running
from benchmarks.stream import LOST_AFTER, Script, Sender, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_CORE: Final = 1  # of the authority and the questions; Plughole may use every core, as it would in service
_SAMPLE: Final = 20_000  # names of each kind that are asked for
_CACHED_SAMPLE: Final = 500  # few, so that their answers are in the cache when the list changes
_LEAD: Final = 3.0  # seconds of load before the update
_SETTLE: Final = 5.0  # seconds after the new list is live until memory is read: the old one is gone by then
_SAMPLING: Final = 0.2  # seconds between two looks at memory
_PATIENCE: Final = 300.0  # seconds for a list to become live
_MEGABYTE: Final = 1e6
_COMMAND_SHOWN: Final = 100  # characters


@dataclass
class Feed:
    """The list that is being served and, monotonic, when its last byte was last handed over."""

    path: Path
    fetched: float | None = None

    def switch(self, path: Path) -> None:
        """Serve another list from now on; it has not been fetched yet."""
        self.path, self.fetched = path, None


@dataclass(frozen=True)
class Before:
    """Bytes before the swap: with one name on the list, with the old list, and the latter by process."""

    empty: int
    old: int
    processes: dict[str, int]


@dataclass
class Figures:
    """What one swap cost; bytes and seconds."""

    tally: Tally
    before: Before
    after: int
    peak: int
    updater_peak: int
    update_seconds: float
    update_output: str
    live_after_start: float | None
    live_after_fetch: float | None
    processes: dict[str, int] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one swap and return the exit code: 0 nothing lost and nothing unfiltered, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="benchmarks.swap", description="a feed swap under load")
    parser.add_argument("--names", type=int, default=1_000_000, help="names on the new list (1,000,000)")
    parser.add_argument("--rate", type=int, default=2_000, help="questions a second meanwhile (2,000)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--output", type=Path, help="also write the lines to this file")
    given = parser.parse_args(arguments)
    remedy = Plughole().missing()
    if remedy:
        print(f"plughole is missing: {remedy}")
        return 1
    machine = report.machine()
    interruptible()
    try:
        figures = _measure(given.names, rate=given.rate, seed=given.seed)
    except (ServerError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted: every server is stopped")
        return 1
    text = _text(figures, names=given.names, rate=given.rate, machine=machine)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")
    tally = figures.tally
    return int(bool(tally.lost or tally.unfiltered or tally.failed or tally.outdated or tally.live is None))


def _measure(names: int, *, rate: int, seed: int) -> Figures:
    everything = inputs.domain_names(names + names // 20, seed=seed)
    old, new = everything[: names // 2], everything[names // 20 :]
    with tempfile.TemporaryDirectory(prefix="plughole-swap-") as name:
        folder = Path(name)
        paths = {
            title: inputs.write_list(folder / title, listed, form="plain")
            for title, listed in {"empty": old[:1], "old": old, "new": new}.items()
        }
        feed = Feed(paths["empty"])
        with authority(folder / "authority", core=_CORE) as upstream, _served(feed) as url:
            with _live(folder / "idle", upstream, url, old[0]) as (_, server):
                empty = _settled_memory(server)
            feed.switch(paths["old"])
            with _live(folder / "swap", upstream, url, old[0]) as (site, server):
                script = _script(site.port, rate, old, new)
                before = Before(empty, _settled_memory(server), _by_process(server))
                return _swap(site, server, before, script=script, feed=feed, new=paths["new"])


def _script(port: int, rate: int, old: list[str], new: list[str]) -> Script:
    """Return what to ask: names on both lists, and names of the new one that nothing on the old one covers."""
    first, second = set(old), set(new)
    in_both = [name for name in old if name in second]
    only_new = [name for name in new if first.isdisjoint(inputs.parents(name))]
    return Script(port, rate, _CORE, in_both[:_SAMPLE], only_new[:_CACHED_SAMPLE])


def _swap(site: Site, server: Running, before: Before, *, script: Script, feed: Feed, new: Path) -> Figures:
    with Sender(script) as sender:
        time.sleep(_LEAD)
        feed.switch(new)
        started = time.monotonic()
        output, peak, updater = _update(site, server)
        took = time.monotonic() - started
        if output.returncode == 0:
            sender.wait_live(_PATIENCE)
        time.sleep(_SETTLE)
        after, parts = _memory(server.pid), _by_process(server)
        tally = sender.finish()
    fetched = feed.fetched
    return Figures(
        tally=tally, before=before, after=after, peak=max(peak, after), updater_peak=updater,
        update_seconds=took, update_output=output.stdout,
        live_after_start=None if tally.live is None else tally.live - started,
        live_after_fetch=None if tally.live is None or fetched is None else tally.live - fetched,
        processes=parts,
    )  # fmt: skip


def _update(site: Site, server: Running) -> tuple[subprocess.CompletedProcess[str], int, int]:
    """Run the update and return what it said, the peak memory of the server and that of the updater."""
    peak = updater = 0
    log = site.folder / "update.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            cli("feeds", "update", config=site.folder / CONFIG_FILE),
            cwd=site.folder, env=cli_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            while process.poll() is None:
                peak = max(peak, _memory(server.pid))
                updater = max(updater, _memory(process.pid))
                time.sleep(_SAMPLING)
        finally:
            process.kill()
            process.wait()
    said = log.read_text(errors="replace").strip()
    return subprocess.CompletedProcess(process.args, process.returncode, said), peak, updater


@contextmanager
def _live(folder: Path, upstream: int, url: str, listed: str) -> Iterator[tuple[Site, Running]]:
    """Run Plughole in a new folder until the list that is served now is live; raises ServerError."""
    folder.mkdir()
    site = Site(folder, probe.free_port(), upstream, folder)
    plughole = Plughole(url=url)
    with running(plughole.command(site), folder=folder, core=None, env=cli_environment()) as server:
        if not make_live(plughole, site, server, lambda: _blocks(site.port, listed)):
            raise ServerError(f"the list never became live: {server.complaint()}")
        yield site, server


def _blocks(port: int, name: str) -> bool:
    reply = probe.ask(port, name)
    return reply is not None and reply.blocked


@contextmanager
def _served(feed: Feed) -> Iterator[str]:
    """Serve the feed's file over HTTP on loopback; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(http.HTTPStatus.OK)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(feed.path.stat().st_size))
            self.end_headers()
            with feed.path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
            feed.fetched = time.monotonic()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named so by the class above
            del format, args

    with http.server.ThreadingHTTPServer((probe.HOST, 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield f"http://{probe.HOST}:{web.server_port}/list.txt"
        web.shutdown()
        thread.join()


def _memory(pid: int) -> int:
    return proc.memory(pid, without=proc.REDIS_NAMES)


def _settled_memory(server: Running) -> int:
    time.sleep(_SETTLE)
    return _memory(server.pid)


def _by_process(server: Running) -> dict[str, int]:
    """Return bytes by process; the number keeps apart what has the same command."""
    return {f"{pid} {proc.command_line(pid)[:_COMMAND_SHOWN]}": proc.pss(pid) for pid in proc.pids(server.pid)}


def _text(figures: Figures, *, names: int, rate: int, machine: Mapping[str, str]) -> str:
    tally, before = figures.tally, figures.before
    lines = {
        "names on the new list": f"{names:,}; on the old one {names // 2:,}",
        "load": f"{rate:,} questions a second, {tally.sent:,} sent, {tally.answered:,} answered",
        "live after the fetch": _seconds(figures.live_after_fetch),
        "live after the command": _seconds(figures.live_after_start),
        "the command took": _seconds(figures.update_seconds),
        "lost": f"{tally.lost:,} (no reply in {LOST_AFTER:.0f} s)",
        "failed": f"{tally.failed:,} (an error code)",
        "unfiltered, on both lists": f"{tally.unfiltered:,}",
        "still unfiltered 1 s after": f"{tally.outdated:,} (on the new list only)",
        "longest gap": f"{tally.longest_gap * 1e3:.0f} ms between answers; the sender itself paused up to "
        f"{tally.own_stall * 1e3:.0f} ms",
        "worst latency": f"{tally.worst_latency * 1e3:.0f} ms",
        "memory without Redis": f"one name {_megabytes(before.empty)}, old list {_megabytes(before.old)}, "
        f"new list {_megabytes(figures.after)}, peak {_megabytes(figures.peak)}",
        "added by the new list": f"{_megabytes(figures.after - before.empty)} over one name, "
        f"{_megabytes(figures.after - before.old)} over the old list",
        "updater's peak": _megabytes(figures.updater_peak),
        "the command said": figures.update_output or "nothing",
        **_process_lines(before.processes, figures.processes),
        **machine,
    }
    return "\n".join(f"{title:27} {value}" for title, value in lines.items())


def _process_lines(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, str]:
    shown = {key: (old.get(key, 0), new.get(key, 0)) for key in {**old, **new}}
    return {f"process {key}": f"{_megabytes(was)} -> {_megabytes(now)}" for key, (was, now) in shown.items()}


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _megabytes(value: int) -> str:
    return f"{value / _MEGABYTE:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
