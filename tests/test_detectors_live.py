"""Detectors in a whole node: who sends data out is cut, the analyst sees and frees it, and nothing is forgotten."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from node import Node, config, data, ede

if TYPE_CHECKING:
    from pathlib import Path

    from internet import Internet

THIEF = "127.0.7.1"
OTHER = "127.0.7.2"
DOMAIN = "many.net"  # answers whatever is asked
ADDRESS = ["192.0.2.200"]


def stolen(start: int, count: int) -> list[str]:
    return [f"{hashlib.sha256(str(at).encode()).hexdigest()[:40]}.{DOMAIN}" for at in range(start, start + count)]


def passed(node: Node, names: list[str], source: str = THIEF) -> list[bool]:
    """Which of the questions were let out."""
    return [data(node.ask(name, source=source)) == ADDRESS for name in names]


def test_a_thief_is_cut_told_freed_and_remembered(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path) + "[detectors.leak]\nlearning_days = 0.0\n"
    with Node(internet, tmp_path, text) as node:
        went = passed(node, stolen(0, 40))
        assert went[0]
        assert not went[-1]
        assert sum(went) * 41 < 1_024
        assert passed(node, [f"www.{DOMAIN}"], OTHER) == [True]
        (code, why), *_ = ede(node.ask(stolen(40, 1)[0], source=THIEF))
        assert (code, DOMAIN in why) == (15, True)

        def told() -> list[dict[str, Any]]:
            return [row for row in node.rows("alerts", "--client", THIEF, "--detector", "leak") if row["blocks"]]

        node.wait(told)
        [alert] = told()
        assert (alert["domain"], alert["confidence"]) == (DOMAIN, "HIGH")
        node.wait(lambda: "detector:leak" in node.cli("overrides").stdout)
        node.cli("allow", DOMAIN, "--client", THIEF, "--reason", "test")
        assert passed(node, stolen(50, 3)) == [True] * 3
        node.cli("forget", DOMAIN, "--client", THIEF)
    assert node.code == 0, node.output()
    with Node(internet, tmp_path, text) as again:
        assert passed(again, stolen(60, 3)) == [False] * 3
        assert passed(again, [f"ftp.{DOMAIN}"], OTHER) == [True]
