"""One node's folder for the command line's tests: a real index, a real journal, and `plughole` run on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from console.cli import cli
from core import names
from core.config import Config
from core.config_load import load
from core.event import Event
from core.verdict import Action
from feeds import index
from feeds.index import Match
from feeds.overlay import Override
from journal.journal import Journal
from resolver.control import State, intel_dir, write_state

REPOSITORY = Path(__file__).parents[1]
COMMAND = (sys.executable, "-m", "console.cli")
CONFIG = """
[server]
listen = ["127.0.0.1:5353"]
allow_from = ["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]
[[feeds.source]]
name = "sample"
url = "file:list.txt"
"""
LISTED = ("c2.evil.example", "both.example", "fine.example", "watched.example")
MANUAL = REPOSITORY / "docs" / "cli.md"
SETS = (
    (Match("sample", "malware", 80, Action.SINKHOLE),),
    (Match("sample", "malware", 80, Action.SINKHOLE), Match("second", "phishing", 60, Action.ALERT)),
    (Match("sample", "malware", 80, Action.SINKHOLE), Match("ours", "", 0, Action.PASSTHRU)),
    (Match("second", "phishing", 60, Action.ALERT),),
)


def section(path: str) -> str:
    """The part of the manual about one command, such as `plughole log`."""
    return MANUAL.read_text().partition(f"## `{path}`\n")[2].partition("\n## ")[0]


def documented(path: str) -> set[str]:
    """The words in backticks in that part."""
    return set(re.findall(r"`([a-z_]+)`", section(path)))


class Place:
    """One node's folder, as `plughole` finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.toml"
        self.file.write_text(CONFIG)
        (folder / "list.txt").write_text("c2.evil.example\nboth.example\n")

    @property
    def config(self) -> Config:
        return load(self.file, {})

    def run(self, *args: str, **extra: Any) -> Result:
        """Run a command line in this process, with this folder's configuration."""
        environ = {"PLUGHOLE_CONFIG": str(self.file)}
        return CliRunner(env=environ).invoke(cli, [*args], prog_name="plughole", **extra)

    def popen(self, *args: str) -> subprocess.Popen[str]:
        """Start a command line in a process of its own."""
        environ = os.environ | {"PLUGHOLE_CONFIG": str(self.file)}
        return subprocess.Popen(
            [*COMMAND, *args],
            cwd=REPOSITORY,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def give_intel(self, *overrides: Override) -> None:
        """Put an index and these overrides in force, as the hub does."""
        data_dir = self.config.data_dir
        wire = {names.from_text(name): number for number, name in enumerate(LISTED)}
        path = index.write(intel_dir(data_dir), 7, index.build(7, wire, SETS, created=time.time()))
        write_state(
            data_dir, State(index=path.name, generation=7, settled=True, sequence=len(overrides), overrides=overrides)
        )

    def give_log(self, *events: Event) -> None:
        """Write these events into the journal, as the hub does."""
        journal = Journal(self.config, now=time.time())
        journal.write(list(events), time.time())
        journal.close(time.time())
