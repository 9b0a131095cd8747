"""One node of each module here: its Redis, hosts file and cookie secrets are the test's own to break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from failure.around import Redis
from node import Node, config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet

HOSTS = "192.0.2.7 office.corp.example\n"
SECRETS = "0123456789abcdef0123456789abcdef\n"


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as up:
        yield up


@pytest.fixture(scope="module")
def node(internet: Internet, tmp_path_factory: pytest.TempPathFactory, own_redis: Redis) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "hosts").write_text(HOSTS)
    (folder / "secrets").write_text(SECRETS)
    text = config(internet, folder).replace("[upstream]", f'cookie_secret_file = "{folder}/secrets"\n[upstream]')
    text += f'[redis]\nurl = "{own_redis.url}"\n[local]\nhosts = "{folder}/hosts"\n'
    with Node(internet, folder, text) as up:
        yield up
        up.stop()
        assert up.code == 0, up.output()
        assert "Traceback" not in up.output()
