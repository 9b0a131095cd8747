"""Real lists in use: everything of the wildcard list is blocked, a name below each too, and popular names are not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import dns.edns
import pytest
from node import REPOSITORY, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet

DATA = REPOSITORY.parent / "shared" / "data"
FORMATS = ("hosts", "plain", "wildcard", "adblock")
POPULAR = 1_000

pytestmark = pytest.mark.skipif(
    not (DATA / "feeds").is_dir(), reason="the collection of real lists is not on this machine"
)


def lists() -> list[Path]:
    return sorted(path for syntax in FORMATS for path in (DATA / "feeds" / syntax).iterdir())


@pytest.fixture(scope="module")
def node(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("lists")
    sources = "".join(
        f'[[feeds.source]]\nname = "list-{at}"\nurl = "file://{path}"\ncategory = "ads"\n'
        for at, path in enumerate(lists())
    )
    config = f"""
[server]
listen = ["127.0.0.1:53"]
data_dir = "{folder}/var"
[upstream]
root_hints = "{internet.root_hints}"
trust_anchors = ["{internet.trust_anchor}"]
{sources}"""
    with Node(internet, folder, config) as up:
        yield up


def blocked(node: Node, name: str) -> bool:
    reply = node.ask(name)
    return any(isinstance(option, dns.edns.EDEOption) and int(option.code) == 15 for option in reply.options)


def test_every_name_of_the_wildcard_list_is_blocked_and_a_name_below_it(node: Node) -> None:
    [path] = (DATA / "feeds" / "wildcard").iterdir()
    names = [line.strip().removeprefix("*.") for line in path.read_text().splitlines() if line.startswith("*.")]
    assert len(names) > 200
    for name in names:
        assert blocked(node, name), name
        assert blocked(node, f"below.{name}"), name


def test_a_thousand_popular_names_are_not_but_for_those_the_lists_name(node: Node) -> None:
    with gzip.open(DATA / "benign" / "cloudflare_top100k_2026.txt.gz", "rt") as file:
        names = [line.strip() for line in file if "." in line]
    popular = names[:: len(names) // POPULAR][:POPULAR]
    words = {word.strip("|^*.") for path in lists() for line in path.read_text().splitlines() for word in line.split()}
    named = {name for name in popular if any(parent in words for parent in parents(name))}
    stopped = {name for name in popular if blocked(node, name)}
    assert len(popular) == POPULAR
    assert stopped <= named
    assert len(named) <= POPULAR // 50  # advertisers are popular too


def parents(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[at:]) for at in range(len(labels) - 1)]
