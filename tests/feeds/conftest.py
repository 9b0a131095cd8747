"""A real Redis for these tests: the embedded server in a folder of its own, emptied before each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from core.config import Config, Feeds, Server, Source
from core.errors import Unavailable
from feeds.redis import EmbeddedServer, connect, find_server


def config_for(folder: Path, *sources: Source, **feeds: object) -> Config:
    """Return a configuration with its data in a folder and these sources."""
    return Config(
        server=Server(data_dir=str(folder)),
        feeds=msgspec.structs.replace(Feeds(source=sources), **feeds),
        base=str(folder),
    )


@pytest.fixture(scope="module")
def _server() -> Iterator[Config]:
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(f"needs Redis: {error}")
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:  # short: a socket's path has at most 107 octets
        config = config_for(Path(folder))
        server = EmbeddedServer(config)
        server.start()
        try:
            yield config
        finally:
            server.stop()


@pytest.fixture
def config(_server: Config, tmp_path: Path) -> Config:
    """A configuration whose Redis runs and is empty, and whose data folder is new."""
    client = connect(_server)
    client.flushall()
    client.close()
    socket = _server.data_dir / "redis.sock"
    return msgspec.structs.replace(
        config_for(tmp_path), redis=msgspec.structs.replace(_server.redis, url=f"unix://{socket}")
    )


@pytest.fixture
def client(config: Config) -> Iterator[redis.Redis]:
    found = connect(config)
    yield found
    found.close()
