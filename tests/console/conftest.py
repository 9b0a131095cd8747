"""A node's folder, empty or with a real Redis behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import CONFIG, Place

from core.errors import Unavailable
from feeds.overlay import Overlay
from feeds.redis import EmbeddedServer, connect, find_server


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with a configuration and nothing else."""
    return Place(tmp_path)


@pytest.fixture(scope="module")
def _redis() -> Iterator[Place]:
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(f"needs Redis: {error}")
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:  # short: a socket's path has at most 107 octets
        here = Place(Path(folder))
        server = EmbeddedServer(here.config)
        server.start()
        try:
            yield here
        finally:
            server.stop()


@pytest.fixture
def with_redis(_redis: Place, tmp_path: Path) -> Place:
    """A folder whose Redis runs and is empty, with intelligence in force."""
    client = connect(_redis.config)
    client.flushall()
    client.close()
    here = Place(tmp_path)
    here.file.write_text(f'{CONFIG}\n[redis]\nurl = "unix://{_redis.config.data_dir / "redis.sock"}"\n')
    here.give_intel()
    return here


@pytest.fixture
def overlay(with_redis: Place) -> Iterator[Overlay]:
    client = connect(with_redis.config)
    yield Overlay(client)
    client.close()
