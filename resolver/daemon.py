"""The supervisor, `plughole serve`: binds the sockets, starts the private Redis, hub and workers, keeps them up.

Rules:
1. The sockets belong to the supervisor. A worker that dies is replaced on the same sockets; queries wait meanwhile.
2. It does nothing else: no DNS, no journal, no Redis client, so that there is little that can bring it down.
3. Children are forked from it, before it has any thread, and share its memory.
4. SIGHUP: the configuration is read again; a wrong one changes nothing. SIGTERM, SIGINT: drain and end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from core.errors import BadConfig, Unavailable
from feeds.redis import EMBEDDED, EmbeddedServer, find_server
from resolver import activation, hub, worker
from resolver.children import GRACE, Child, Line, fork, name_process
from resolver.control import read_state
from resolver.notify import Notifier
from resolver.rollout import Rollout, with_fixed
from resolver.scheduling import allow_hurry
from resolver.sockets import bind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType

    from core.config import Config
    from resolver.sockets import Bound

START_POLL: Final = 0.01  # seconds
UNSETTLED: Final = 60.0  # seconds after which a node without intelligence counts as started: it answers SERVFAIL
LOOK: Final = 1.0  # seconds between looks at what nothing announces
PAIR_BUFFER: Final = 4_194_304  # octets between worker and hub: a second of a busy node
_log = structlog.get_logger("supervisor")


class Supervisor:
    """Starts and keeps all processes of a node. `run` returns the exit code after SIGTERM or SIGINT."""

    def __init__(self, config: Config, reread: Callable[[], Config], notifier: Notifier) -> None:
        """`reread` returns the configuration as it is now; raises BadConfig."""
        self._asked = self._config = config  # as written at the start, and as it is in force
        self._reread = reread
        self._notifier = notifier
        self._redis: list[Child] = []  # the keeper of the private one, when there is to be one
        self._children: list[Child] = []  # workers first, the hub last
        self._errands: set[int] = set()  # processes that run once
        self._line = Line()
        self._rollout: Rollout | None = None
        self._announced = self._told = False
        self._stopping = self._reload_wanted = False
        self._looked = self._fed = 0.0
        self._terminal = os.isatty(0)
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self, passed: list[socket.socket], ready: Callable[[Config], None]) -> int:
        """Serve until told to stop, on `passed` sockets or else on `server.listen`.

        `ready` is called, in a process of its own, once queries can be answered.
        """
        name_process("")
        self._config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        _raise_file_limit()
        allow_hurry()
        count = self._config.server.workers or os.cpu_count() or 1
        bound = self._sockets(passed, count)
        if self._config.server.user:
            _become(self._config.server.user, self._config.data_dir)
        self._catch_signals()
        if self._config.redis.url == EMBEDDED:
            self._start_redis()
        self._children = self._make_children(bound, count)
        self._first_feeds()
        self._watch(ready)
        return self._stop()

    def _sockets(self, passed: list[socket.socket], count: int) -> list[list[Bound]]:
        if not passed:
            return bind(self._config.server.listen, count)
        listen, bound = activation.deal(passed, count)
        self._config = msgspec.structs.replace(
            self._config, server=msgspec.structs.replace(self._config.server, listen=listen)
        )
        return bound

    def _make_children(self, bound: list[list[Bound]], count: int) -> list[Child]:
        config, line = self._config, self._line
        pairs = [_pair() for _ in range(count)]
        workers = [
            Child(
                f"worker {number}",
                _worker(sockets, far, line, (number, count)),
                config,
                title=f"w{number}",
                overlap=True,
            )
            for number, (sockets, (_, far)) in enumerate(zip(bound, pairs, strict=True))
        ]
        nears = [near for near, _ in pairs]
        return [*workers, Child("hub", lambda now: hub.run(now, nears, line), config, title="hub", overlap=False)]

    def _catch_signals(self) -> None:
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        if self._terminal and not os.isatty(0):  # not `kill -HUP`: the terminal was closed
            self._on_stop(number, frame)
        self._reload_wanted = True

    def _start_redis(self) -> None:
        """Return when the private Redis answers, or died on a node that has a state; raises Unavailable on another."""
        find_server()
        line = self._line
        keeper = Child("redis", lambda config: _keep_redis(config, line), self._config, title="redis", overlap=False)
        self._redis = [keeper]
        keeper.keep(time.monotonic())
        while not self._stopping and keeper.serving is not None and not keeper.serving.heard:
            time.sleep(START_POLL)
            self._hear()
            if keeper.reap(time.monotonic()) is None:
                continue
            if not read_state(self._config.data_dir).settled:
                raise Unavailable("the embedded Redis does not start; the line before says why")
            _log.error("the embedded Redis does not start, serving by the last good state; it is tried again")
            return

    def _first_feeds(self) -> None:
        """On a node that never loaded any intelligence, fetch it now: until then nothing is answered unfiltered."""
        if not read_state(self._config.data_dir).settled and self._config.feeds.source:
            self._errands.add(fork("feeds", lambda: _update(self._config)))

    # ---- the loop

    def _watch(self, ready: Callable[[Config], None]) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._wake_reader, selectors.EVENT_READ)
        selector.register(self._line.reader, selectors.EVENT_READ)
        started = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            for child in (*self._children, *self._redis):
                child.keep(now)
            self._reload(now)
            self._announce(ready, unsettled=now - started > UNSETTLED)
            self._look(now)
            selector.select(timeout=self._pause())
            self._drain_wakeups()
            self._hear()
            self._reap()

    def _pause(self) -> float:
        now = time.monotonic()
        due = [child.due - now for child in (*self._children, *self._redis) if child.serving is None]
        feed = self._notifier.interval / 2 or LOOK
        return max(min(*due, LOOK, feed), 0.01) if due else min(LOOK, feed)

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4_096):
                pass

    def _hear(self) -> None:
        now = time.monotonic()
        for pid, ready in self._line.hear():
            for child in (*self._children, *self._redis):
                child.hear(pid, now, ready=ready)

    def _reap(self) -> None:
        """Collect every dead child, and say of those that must live when they will be back."""
        now = time.monotonic()
        for child in (*self._children, *self._redis):
            code = child.reap(now)
            if code is not None and not self._stopping:
                seconds = round(child.due - now, 2)
                _log.error("process died, starting it again", process=child.name, code=code, seconds=seconds)
        self._errands = {pid for pid in self._errands if not os.waitpid(pid, os.WNOHANG)[0]}

    def _announce(self, ready: Callable[[Config], None], *, unsettled: bool) -> None:
        """Say once that the node answers, to people and to the service manager."""
        if self._announced:
            return
        self._announced = all(child.serving is not None and child.serving.ready for child in self._children)
        if self._announced:
            self._errands.add(fork("announce", lambda: ready(self._config)))
            self._notifier.ready(self._status())
        elif unsettled and not self._told:
            self._told = True  # a start that never ends would be ended by the service manager
            self._notifier.ready("no intelligence yet, every query is answered SERVFAIL; see `plughole status`")

    def _status(self) -> str:
        return f"{len(self._children) - 1} workers answer on {', '.join(self._config.server.listen)}"

    def _look(self, now: float) -> None:
        """Once a second look for workers that hang, and feed the service manager's watchdog while one reports."""
        if now - self._looked >= LOOK:
            self._looked = now
            for child in self._children:
                child.look()
        interval = self._notifier.interval
        if interval and now - self._fed >= interval / 2 and any(each.reports(now, interval) for each in self._children):
            self._fed = now
            self._notifier.alive()

    # ---- a new configuration

    def _reload(self, now: float) -> None:
        if self._rollout is None and self._reload_wanted:
            self._reload_wanted = False
            self._begin_reload(now)
        if self._rollout is None or (applied := self._rollout.step(now)) is None:
            return
        if applied:
            self._config = self._rollout.fresh
            _log.info("reloaded")
            self._reloaded(self._status())
        else:
            _log.error(
                "reload refused, the old configuration stays in force", reason="a process does not start with it"
            )
            self._reloaded("reload refused: a process does not start with the new configuration; see the log")
        self._rollout = None

    def _begin_reload(self, now: float) -> None:
        if self._announced:
            self._notifier.reloading(now)
        try:
            fresh, differ = with_fixed(self._reread(), running=self._config, asked=self._asked)
        except BadConfig as error:
            for mistake in error.mistakes:
                _log.error("mistake in the configuration", mistake=mistake)
            _log.error("reload refused, the old configuration stays in force", mistakes=len(error.mistakes))
            self._reloaded(f"reload refused: {error.mistakes[0]}")
            return
        if differ:
            _log.warning("these keys need a restart, the rest is taken over", keys=differ)
        self._rollout = Rollout(self._children, fresh=fresh, before=self._config)

    def _reloaded(self, status: str) -> None:
        if self._announced:
            self._notifier.ready(status)

    # ---- the end

    def _stop(self) -> int:
        self._notifier.stopping()
        for pid in self._errands:
            os.kill(pid, signal.SIGTERM)
        parts = self._children[:-1], self._children[-1:], self._redis  # what workers tell, the hub writes
        clean = [self._end(part) for part in parts]
        return 0 if all(clean) else 1

    def _end(self, children: Sequence[Child]) -> bool:
        """Ask children to end, wait, kill what does not; true when none had to be killed."""
        for child in children:
            child.end(time.monotonic())
        deadline = time.monotonic() + GRACE
        while (self._errands or any(child.processes() for child in children)) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)
        left = [process for child in children for process in child.processes()]
        for process in left:
            process.send(signal.SIGKILL)
        while any(child.processes() for child in children):  # until each is collected, and known to be
            self._reap()
            time.sleep(0.01)
        return not left


def serve(config: Config, *, ready: Callable[[Config], None], reread: Callable[[], Config]) -> int:
    """Run a node until it is told to stop; returns the exit code. Raises PlugholeError when it cannot start.

    `ready` is called in a process of its own once queries are answered; `reread` returns the configuration anew.
    """
    notifier, passed = Notifier(os.environ), activation.take(os.environ)
    return Supervisor(config, reread, notifier).run(passed, ready)


def _worker(bound: list[Bound], far: socket.socket, line: Line, place: tuple[int, int]) -> Callable[[Config], None]:
    number, count = place
    return lambda config: worker.run(config, bound, far, line, number=number, workers=count)


def _keep_redis(config: Config, line: Line) -> None:
    """Be the keeper of the private Redis: its owner, in a process of its own, since a start may take half a minute."""
    server = EmbeddedServer(config)
    server.start()
    news = {signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, news)  # not before: the server would inherit it
    line.alive(ready=True)
    while server.pid is not None:
        if signal.sigwait(news) == signal.SIGTERM:
            server.stop()
            return
    raise Unavailable("the embedded Redis died")


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
