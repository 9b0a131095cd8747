"""Plughole as a server under test, with everything on; it is used through its command line only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Final

from benchmarks import probe
from benchmarks.peers import LOADS, Site
from benchmarks.probe import HOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.server import Running

REPOSITORY: Final = Path(__file__).resolve().parent.parent
CONFIG_FILE: Final = "config.toml"
COMMAND_PATIENCE: Final = 120.0  # seconds; five million names take a while on a busy machine

_ANCHOR_FILE: Final = "elsewhere.ds"
# A key for a zone nobody asks about: libunbound then loads its validator and finds every answer here outside it.
_ANCHOR: Final = "secure.bench.invalid. IN DS 20326 8 2 " + "5A" * 32 + "\n"
_CONFIG: Final = Template(
    """\
[server]
listen = ["$host:$port"]
workers = 1
data_dir = "$data"

[upstream]
mode = "forward"
servers = ["$host@$authority"]
dnssec = $dnssec
query_localhost = true
$anchors
[redis]
url = "embedded"

[[feeds.source]]
name = "bench"
url = "$url"
format = "plain"
category = "malware"
confidence = 80
mode = "block"

# All names of the miss load lie below one domain: as many bytes as a tunnel's. They are metered and not blocked.
[detectors.leak]
mode = "alert"

[journal]
queries = "all"
segment_seconds = $segment
"""
)
_SEGMENT_SECONDS: Final = 2.0  # short, so that writing the rows of a load falls into its `settle` time
_COUNTED: Final = re.compile(r"journal|drop|events")
_LIVE_PATIENCE: Final = 300.0  # seconds
_OWN_START: Final = 2.0  # seconds a start gets to load its feeds before it is told to
_CLI_PATIENCE: Final = 20.0  # seconds for `status`


@dataclass(frozen=True)
class Plughole:
    """Plughole with one worker; `dnssec` chooses libunbound for its upstream, else the native forwarder."""

    name: str = "plughole"
    dnssec: bool = False
    url: str = ""
    loads: tuple[str, ...] = LOADS
    list_form: str = "plain"
    settle: float = 2 * _SEGMENT_SECONDS

    def missing(self) -> str | None:
        """Return what to do when the command cannot be run."""
        if launcher() or (REPOSITORY / "console" / "cli.py").exists():
            return None
        return "run `make setup`"

    def version(self) -> str:
        """Return the installed distribution's version; `source` when it runs from the folder."""
        try:
            return metadata.version("plughole")
        except metadata.PackageNotFoundError:
            return "source"

    def command(self, site: Site) -> list[str]:
        """Write config.toml into the site's folder and return the serve command; data stay in the lists' folder."""
        (site.folder / _ANCHOR_FILE).write_text(_ANCHOR)
        (site.folder / CONFIG_FILE).write_text(self._config(site))
        return cli("serve", config=site.folder / CONFIG_FILE)

    def update(self, site: Site) -> subprocess.CompletedProcess[str]:
        """Run `plughole feeds update` to its end and return what it said."""
        return run_cli("feeds", "update", config=site.folder / CONFIG_FILE, patience=COMMAND_PATIENCE)

    def counters(self, site: Site) -> Mapping[str, float]:
        """Return the journal's and the drop counters of `plughole status --json`; empty when it does not answer."""
        done = run_cli("status", "--json", config=site.folder / CONFIG_FILE, patience=_CLI_PATIENCE)
        try:
            status = json.loads(done.stdout)
        except ValueError:
            return {}
        return {path: value for path, value in numbers(status) if _COUNTED.search(path)}

    def _config(self, site: Site) -> str:
        return _CONFIG.substitute(
            host=HOST,
            port=site.port,
            authority=site.authority,
            data=site.lists / "plughole-data",
            dnssec=str(self.dnssec).lower(),
            anchors=f'trust_anchors = ["{_ANCHOR_FILE}"]\n' if self.dnssec else "",
            url=self.url or (site.lists / self.list_form).as_uri(),
            segment=_SEGMENT_SECONDS,
        )


PLUGHOLE: Final = Plughole()
PLUGHOLE_LIBUNBOUND: Final = Plughole(name="plughole (libunbound)", dnssec=True, loads=("miss",))


def make_live(plughole: Plughole, site: Site, server: Running, blocks: Callable[[], bool]) -> bool:
    """Have a running Plughole load its feed; True once `blocks` holds, False when it died or time was up."""
    end = time.monotonic() + _LIVE_PATIENCE
    while server.alive and time.monotonic() < end:
        if probe.wait_until(blocks, within=_OWN_START):
            return True
        plughole.update(site)
    return False


def launcher() -> str | None:
    """Return the installed command of this checkout, None when `make setup` has not run."""
    command = REPOSITORY / ".venv" / "bin" / "plughole"
    return str(command) if command.exists() else None


def cli(*words: str, config: Path) -> list[str]:
    """Return the command line of one plughole command on one configuration."""
    installed = launcher()
    program = [installed] if installed else [sys.executable, "-m", "console.cli"]
    return [*program, *words, "-c", str(config)]


def cli_environment() -> dict[str, str]:
    """Return an environment in which the command is found from any folder, with no key of ours overridden."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLUGHOLE_")}
    return kept if launcher() else {**kept, "PYTHONPATH": str(REPOSITORY)}


def run_cli(*words: str, config: Path, patience: float) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; a command that overstays its patience counts as failed."""
    command = cli(*words, config=config)
    try:
        return subprocess.run(
            command, cwd=config.parent, env=cli_environment(), capture_output=True, text=True, timeout=patience,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no end within {patience:.0f} s")


def numbers(value: object, path: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """Yield every number of a JSON document with its dotted path; true and false are no numbers."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from numbers(below, (*path, str(key)))
    elif isinstance(value, list):
        for place, below in enumerate(value):
            yield from numbers(below, (*path, str(place)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield ".".join(path), float(value)
