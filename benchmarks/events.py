"""What happens to a loaded node, one function an event, and what each may cost by docs/failure.md."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Any, Final

from benchmarks import losses, probe, proc
from benchmarks.losses import Allowed, Stored, Tally
from benchmarks.plughole import COMMAND_PATIENCE, CONFIG_FILE, cli, run_cli
from benchmarks.server import ServerError
from console.status import ask
from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.peers import Site
    from benchmarks.server import Running

DATA: Final = "data"  # the node's data folder, in its site's
SEGMENT_SECONDS: Final = 15.0  # the default of `journal.segment_seconds`
FULL_SECONDS: Final = 8.0  # how long the disk stays full
POLL: Final = 0.1  # seconds between looks at the status

_DISK: Final = "64m"  # of the small file system
_CHUNKS: Final = (1_048_576, 4_096)  # octets, written until none fits any more
_RELOADED: Final = "reloaded"  # what the supervisor says when a reload is over
_RELOAD_PATIENCE: Final = 30.0  # seconds
_NEW_NAMESPACE: Final = 0x0002_0000  # CLONE_NEWNS
_CONFIG: Final = Template(
    """\
[server]
listen = ["$host:$port"]
data_dir = "$data"

[upstream]
mode = "forward"
servers = ["$host@$authority"]
dnssec = false
query_localhost = true

[[feeds.source]]
name = "bench"
url = "$url"
format = "plain"
"""
)


@dataclass(frozen=True)
class Scene:
    """A loaded node: where it runs, its root process, its list and the one to swap to."""

    site: Site
    server: Running
    listed: Path
    other: Path

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.site.folder / DATA

    def status(self) -> dict[str, Any]:
        """Return what the hub says; raises ServerError."""
        try:
            return ask(self.data)
        except Unavailable as error:
            raise ServerError(f"no status before the event: {error}") from error

    def kill(self, pid: int) -> None:
        """Kill one process of the node, at once; raises ServerError when it is none of its own."""
        if pid not in proc.pids(self.server.pid):
            raise ServerError(f"process {pid} is none of the node's")
        os.kill(pid, signal.SIGKILL)


class Watch:
    """A look at the status every POLL seconds while used as a context, and what was seen."""

    def __init__(self, data: Path) -> None:
        self.tally = Tally()
        self.workers = 1
        self._data = data
        self._seen: list[tuple[float, bool]] = []  # when, and whether it was healthy
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._trouble and not any(failure):
            raise ServerError(f"the status lacks {self._trouble}: the benchmark and the node are not of one version")

    def healthy_since(self) -> float | None:
        """Return since when (Unix seconds) the status has been healthy without a break; None while it is not."""
        since: float | None = None
        for at, healthy in list(self._seen):
            since = (at if since is None else since) if healthy else None
        return since

    def _look(self) -> None:
        try:
            while not self._stop.wait(POLL):
                self._seen.append((time.time(), self._healthy()))
        except KeyError as error:
            self._trouble = str(error)

    def _healthy(self) -> bool:
        try:
            found = ask(self._data)
        except Unavailable:
            return False
        self.tally.note(found)
        self.workers = max(self.workers, len(found["workers"]))
        return bool(found["state"] == "healthy")


@dataclass(frozen=True)
class Facts:
    """What the cost of an event is judged by; rates a second."""

    stored: Stored
    overflowed: int
    rate: float
    workers: int
    segment_seconds: float


@dataclass(frozen=True)
class Event:
    """One thing that happens to a node, and what it may cost."""

    name: str
    act: Callable[[Scene], None]
    allowed: Callable[[Facts], Allowed]
    small_disk: bool = False

    def obstacle(self) -> str:
        """Return why it cannot be done here; empty when it can."""
        if not self.small_disk:
            return ""
        if os.geteuid():
            return "skipped: needs root, to mount a small file system"
        unshare = shutil.which("unshare")
        if unshare is None or subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode:
            return "skipped: mounting is not allowed here (`unshare --mount true` fails)"
        return ""


def config(port: int, authority: int, listed: Path) -> str:
    """Return a configuration that leaves everything at its default but addresses, folder and list."""
    return _CONFIG.substitute(
        host=probe.HOST, port=port, authority=authority, data=listed.parent / DATA, url=listed.as_uri()
    )


def serve(config: Path) -> list[str]:
    """Return the command that runs a node."""
    return cli("serve", config=config)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder, seen by this process and those it starts; raises ServerError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMESPACE):
        raise ServerError(f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")
    _run("mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0750", "tmpfs", str(folder))
    try:
        yield
    finally:
        _run("umount", "-l", str(folder))


def _quiet(scene: Scene) -> None:
    del scene


def _reload(scene: Scene) -> None:
    os.kill(scene.server.pid, signal.SIGHUP)
    said = scene.server.log
    if not probe.wait_until(lambda: _RELOADED in said.read_text(errors="replace"), within=_RELOAD_PATIENCE):
        raise ServerError(f"SIGHUP reloaded nothing: {scene.server.complaint()}")


def _swap(scene: Scene) -> None:
    before = scene.status()["intel"]["generation"]
    shutil.copyfile(scene.other, scene.listed)
    done = run_cli("feeds", "update", config=scene.site.folder / CONFIG_FILE, patience=COMMAND_PATIENCE)
    if done.returncode:
        raise ServerError(f"the update failed: {done.stderr.strip()}")
    if not probe.wait_until(lambda: bool(scene.status()["intel"]["generation"] != before), within=COMMAND_PATIENCE):
        raise ServerError("no new generation came into force")


def _kill_worker(scene: Scene) -> None:
    scene.kill(scene.status()["workers"][0]["pid"])


def _kill_hub(scene: Scene) -> None:
    scene.kill(scene.status()["hub"]["pid"])


def _kill_redis(scene: Scene) -> None:
    for process in proc.group(scene.server.pid):
        if process.name in proc.REDIS_NAMES:
            scene.kill(process.pid)
            return
    raise ServerError("the node has no Redis of its own")


def _fill_disk(scene: Scene) -> None:
    filler = scene.data / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in _CHUNKS:
                with contextlib.suppress(OSError):  # full: that is what is wanted
                    while True:
                        file.write(bytes(size))
        time.sleep(FULL_SECONDS)
    finally:
        filler.unlink(missing_ok=True)


def _nothing(facts: Facts) -> Allowed:
    del facts
    return losses.nothing_lost()


def _of_worker(facts: Facts) -> Allowed:
    return losses.worker_killed(overflowed=facts.overflowed, rate=facts.rate, workers=facts.workers)


def _of_hub(facts: Facts) -> Allowed:
    return losses.hub_killed(stored=facts.stored, rate=facts.rate, segment_seconds=facts.segment_seconds)


EVENTS: Final = (
    Event("nothing", _quiet, _nothing),
    Event("SIGHUP", _reload, _nothing),
    Event("feed swap", _swap, _nothing),
    Event("kill -9 worker", _kill_worker, _of_worker),
    Event("kill -9 hub", _kill_hub, _of_hub),
    Event("kill -9 Redis", _kill_redis, _nothing),
    Event(f"disk full for {FULL_SECONDS:.0f} s", _fill_disk, _nothing, small_disk=True),
)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{' '.join(command)}: {done.stderr.strip()}")
