"""A running node from outside: its processes, what it logs, and signals to it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node import Node


def pid_of(node: Node) -> int:
    assert node._process is not None
    return node._process.pid


def events(node: Node, event: str) -> list[dict[str, Any]]:
    """What the node logged that begins with these words."""
    whole = node.output().rpartition("\n")[0]  # the last line may be half written
    lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"].startswith(event)]


def processes(node: Node) -> dict[str, int]:
    """The node's processes by the names that `ps` shows; the youngest of a name."""
    found: dict[str, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            _, parent, *fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(parent) == pid_of(node):
                name = (path / "comm").read_text().strip()
                found[name] = max(found.get(name, (0, 0)), (int(fields[17]), int(path.name)))
        except OSError:
            continue
    return {name: pid for name, (_, pid) in found.items()}


def rewrite(node: Node, old: str, new: str) -> None:
    """Change the configuration file."""
    text = node.config.read_text()
    assert old in text
    replace(node, text.replace(old, new))


def replace(node: Node, text: str) -> None:
    """Give the node another configuration file, which it never reads half written."""
    beside = node.config.with_suffix(".new")
    beside.write_text(text)
    beside.rename(node.config)


def reload(node: Node, word: str = "reloaded") -> None:
    """SIGHUP, and wait until the node says how it went."""
    before = len(events(node, word))
    os.kill(pid_of(node), signal.SIGHUP)
    node.wait(lambda: len(events(node, word)) > before)


def settle(node: Node) -> None:
    """Wait for the end of all reloads that were asked for: what is refused is refused after them."""
    good = node.config.read_text()
    try:
        replace(node, f"no_such_section = 1\n{good}")
        reload(node, "reload refused")
    finally:
        replace(node, good)
