"""The supervisor, `plughole serve`: binds the sockets, starts the private Redis, hub and workers, keeps them up.

Rules:
1. The sockets belong to the supervisor. A worker that dies is replaced on the same sockets; queries wait meanwhile.
2. It does nothing else: no DNS, no journal, no Redis client, so that there is little that can bring it down.
3. Children are forked from it, before it has any thread, and share its memory.
"""

from __future__ import annotations

import os
import pwd
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import PlugholeError, Unavailable
from feeds.redis import EmbeddedServer
from resolver import hub, worker
from resolver.control import read_state
from resolver.sockets import bind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

    from core.config import Config
    from resolver.sockets import Bound

BACKOFF: Final = (0.1, 0.5, 1.0, 2.0, 5.0)  # seconds before a child that keeps dying is started again
STEADY: Final = 30.0  # seconds of life after which a child's deaths are forgotten
GRACE: Final = 8.0  # seconds children get to drain before they are killed
PAIR_BUFFER: Final = 4_194_304  # octets between worker and hub: a second of a busy node
_log = structlog.get_logger("supervisor")


class Child:
    """One process that must live: how to start it, and how it fared."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self.name = name
        self.pid = 0
        self.due = 0.0  # monotonic seconds, when to start it again
        self._body = body
        self._deaths = 0
        self._born = 0.0

    def start(self, now: float) -> None:
        """Fork the child."""
        self._born = now
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._body()
            status = 0
        except BaseException:  # noqa: BLE001  the child ends here, whatever happened; its parent's stack must not run
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def died(self, now: float) -> float:
        """Note a death; returns the seconds to wait before the next start."""
        self._deaths = 0 if now - self._born > STEADY else self._deaths + 1
        pause = BACKOFF[min(self._deaths, len(BACKOFF) - 1)]
        self.pid = 0
        self.due = now + pause
        return pause


class Supervisor:
    """Starts and keeps all processes of a node. `run` returns the exit code after SIGTERM or SIGINT."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._redis = EmbeddedServer(config) if config.redis.url == "embedded" else None
        self._children: list[Child] = []
        self._errands: list[Child] = []  # they run once
        self._redis_due = 0.0
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until told to stop. `ready` is called, in a process of its own, once queries can be answered."""
        config = self._config
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        _raise_file_limit()
        count = config.server.workers or os.cpu_count() or 1
        bound = bind(config.server.listen, count)
        if config.server.user:
            _become(config.server.user, config.data_dir)
        self._catch_signals()
        if self._redis is not None:
            self._redis.start()
        pairs = [_pair() for _ in range(count)]
        self._children = [Child("hub", lambda: hub.run(config, [near for near, _ in pairs]))]
        for number in range(count):
            self._children.append(
                Child(f"worker {number}", self._worker(bound[number], pairs[number][1], number, count))
            )
        now = time.monotonic()
        for child in self._children:
            child.start(now)
        self._first_feeds()
        self._watch(ready)
        return self._stop()

    def _worker(self, bound: list[Bound], far: socket.socket, number: int, count: int) -> Callable[[], None]:
        return lambda: worker.run(self._config, bound, far, number=number, workers=count)

    def _catch_signals(self) -> None:
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _first_feeds(self) -> None:
        """On a node that never loaded any intelligence, fetch it now: until then nothing is answered unfiltered."""
        if read_state(self._config.data_dir).settled or not self._config.feeds.source:
            return
        self._send("first feed update", lambda: _update(self._config))

    def _send(self, name: str, body: Callable[[], None]) -> None:
        """Have something done once, in a process of its own."""
        errand = Child(name, body)
        errand.start(time.monotonic())
        self._errands.append(errand)

    def _watch(self, ready: Callable[[], None]) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._wake_reader, selectors.EVENT_READ)
        announced = False
        while not self._stopping:
            selector.select(timeout=0.1 if not announced else self._pause())
            self._drain_wakeups()
            self._reap()
            now = time.monotonic()
            for child in self._children:
                if not child.pid and now >= child.due and not self._stopping:
                    child.start(now)
            self._keep_redis(now)
            if not announced and read_state(self._config.data_dir).settled:
                announced = True
                self._send("announcement", ready)

    def _keep_redis(self, now: float) -> None:
        """Start the private Redis again when it died; the node serves by its last state meanwhile."""
        if self._redis is None or self._redis.pid is not None or now < self._redis_due:
            return
        self._redis_due = now + BACKOFF[-1]
        try:
            self._redis.start()
        except PlugholeError as error:
            _log.error("embedded redis does not start", reason=str(error))

    def _pause(self) -> float:
        now = time.monotonic()
        return max(min((child.due - now for child in self._children if not child.pid), default=1.0), 0.01)

    def _drain_wakeups(self) -> None:
        try:
            while self._wake_reader.recv(4_096):
                pass
        except BlockingIOError:
            return

    def _reap(self) -> None:
        """Collect every dead child, and say of those that must live when they will be back."""
        mine = {child.pid: child for child in self._children if child.pid}
        for pid, child in mine.items():
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                pause = child.died(time.monotonic())
                code = os.waitstatus_to_exitcode(status)
                if not self._stopping:
                    _log.error("process died, starting it again", process=child.name, code=code, seconds=pause)

        for errand in self._errands:
            if errand.pid and os.waitpid(errand.pid, os.WNOHANG)[0]:
                errand.pid = 0
        self._errands = [errand for errand in self._errands if errand.pid]

    def _stop(self) -> int:
        workers, hubs = self._children[1:], self._children[:1]
        self._end(self._errands)
        clean = self._end(workers) and self._end(hubs)
        if self._redis is not None:
            self._redis.stop()
        return 0 if clean else 1

    def _end(self, children: list[Child]) -> bool:
        """Ask children to end, wait, kill what does not; true when none had to be killed."""
        for child in children:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(child.pid for child in children) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)
        left = [child for child in children if child.pid]
        for child in left:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        return not left


def serve(config: Config, ready: Callable[[], None]) -> int:
    """Run a node until it is told to stop; returns the exit code. Raises PlugholeError when it cannot start."""
    return Supervisor(config).run(ready)


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every question on its way upstream holds a socket."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _become(user: str, data_dir: Path) -> None:
    """Give up root for `user`, who then owns the data folder; raises Unavailable. Ports are bound by now."""
    try:
        entry = pwd.getpwnam(user)
        if os.geteuid() == 0:
            os.chown(data_dir, entry.pw_uid, entry.pw_gid)
            os.initgroups(user, entry.pw_gid)
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
    except (KeyError, OSError) as error:
        raise Unavailable(f"server.user: cannot become {user!r}: {error}") from error
    if os.geteuid() != entry.pw_uid:
        raise Unavailable(f"server.user: only root can become {user!r}; start as root or leave server.user empty")


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of the line between the hub and one worker."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (near, far):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BUFFER)
    return near, far


def _update(config: Config) -> None:
    """Fetch all feeds; what failed is said in the service log, one line a feed."""
    from feeds import updater

    report = updater.update(config, now=time.time())
    for feed in report.feeds:
        if feed.message:
            _log.warning("feed", name=feed.name, status=feed.status, message=feed.message)
