"""A full disk under the data folder, at each time: the row `disk full` of docs/failure.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from failure.around import PATIENCE, degraded, healthy, heard, works
from failure.smalldisk import fill, small_disk, why_not
from node import Node, config
from running import processes, reload, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet

MEGABYTES = 8


@pytest.fixture(scope="module")
def node(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("node")
    (folder / "var").mkdir()
    with small_disk(folder / "var", MEGABYTES):
        node = Node(internet, folder, config(internet, folder))
        with node:
            yield node
            node.stop()
            assert "Traceback" not in node.output()


def test_running_on_a_full_disk_dns_goes_on_and_rows_wait(node: Node) -> None:
    ballast = fill(node.folder / "var")
    try:
        works(node)
        assert {"full", "space"} & set(degraded(node, "journal").split())
        node.wait(lambda: "free space in the data folder" in node.cli("status", ok=False).stdout, PATIENCE)
        assert heard(node)["journal"]["pending"] > 0
        works(node)
    finally:
        ballast.unlink()
    healthy(node)
    assert heard(node)["journal"]["lost"] == 0
    node.logged(lambda row: row["client"] == "127.0.5.1")


def test_a_reload_on_a_full_disk_is_taken(node: Node) -> None:
    ballast = fill(node.folder / "var")
    try:
        before = processes(node)
        rewrite(node, "[upstream]", "[sinkhole]\nttl = 44\n[upstream]")
        reload(node)
        works(node)
        assert node.ask("malware.example").answer[0].ttl == 44
        assert processes(node)["plughole-hub"] != before["plughole-hub"]
        works(node)
        degraded(node, "journal")
    finally:
        ballast.unlink()
    healthy(node)


def test_a_start_on_a_full_disk_serves_by_the_last_state(internet: Internet, node: Node) -> None:
    node.stop()
    ballast = fill(node.folder / "var")
    again = Node(internet, node.folder, node.config.read_text())
    try:
        with again:
            works(again)
            degraded(again, "journal")
            ballast.unlink()
            healthy(again)
        assert "Traceback" not in again.output()
    finally:
        ballast.unlink(missing_ok=True)
