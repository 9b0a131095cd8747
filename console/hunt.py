"""`plughole hunt`: every detector over captures and logs, with the files' own clock."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from console import show
from console.params import as_json, configured, examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from core.config import Config
    from core.names import Name
    from detectors.sight import Sight
    from journal.hunting import Hunt, Row
    from journal.reading.source import Reader

COLUMNS: Final = (
    "confidence", "client", "domain", "detector", "queries", "bytes before alert", "bytes before block",
    "first", "reason",
)  # fmt: skip
STEP: Final = 1_024  # queries between two looks at how far it is


@click.command(
    short_help="Run every detector over captures and logs.",
    epilog=examples(
        "plughole hunt capture.pcap", "plughole hunt --json dns.*.log.gz | jq 'select(.confidence == \"HIGH\")'"
    ),
)
@configured
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@as_json
def hunt(config: Config, *, files: Sequence[Path], as_json: bool) -> int:
    """Run every detector over FILEs and show what they find: who, which domain, how sure, how much had got out.

    FILE is a pcap or pcapng capture, Zeek's dns.log (TSV or JSON), a CSV with a header, or a segment of plughole's own
    query log; gzip, zstd, bzip2 and xz are unpacked. Nothing is sent anywhere and nothing is blocked.
    """
    from journal.hunting import Hunt

    opened = _Opened(files)
    started = min((first for _, first, _ in opened.files), default=0.0)
    made = Hunt(msgspec.to_builtins(config.detectors), started=started, answered_here=_answered_here(config))
    begun = time.monotonic()
    with opened.progress() as told:
        for number, sight in enumerate(opened.sights()):
            made.see(sight)
            if not number % STEP:
                told(number)
        made.finish()
    rows = made.rows(opened.aliases())
    _print(rows, as_json=as_json)
    opened.say_tallies()
    _say_end(made, len(rows), time.monotonic() - begun)
    return 1 if opened.failed else 0


def _answered_here(config: Config) -> Callable[[Name, int], bool]:
    """Return what says whether a node with this configuration answers a question by itself."""
    from core import names
    from resolver.local import LocalZones

    zones = [names.from_text(zone.name) for zone in config.upstream.zone]
    local = LocalZones(config.local, base=Path(config.base), zones=zones)
    return lambda name, qtype: local.find(names.suffixes(name), qtype) is not None


class _Opened:
    """The files of a hunt: their readers, and what is said about those that cannot be read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        from journal.reading.open import open_file

        self.failed = False
        self.files: list[tuple[Path, float, Reader]] = []
        for path in paths:
            with self._telling(path):
                reader = open_file(path)
                first = reader.first()
                if first is None:
                    show.note(f"{path}: holds no DNS")
                else:
                    self.files.append((path, first, reader))

    def sights(self) -> Iterator[Sight]:
        """Yield the sights of all files in order of time; a file that cannot be read further ends early."""
        from journal.reading.order import merged

        return merged([(first, self._guarded(path, reader)) for path, first, reader in self.files])

    def aliases(self) -> Mapping[bytes, str]:
        """Return what clients are called that are no addresses."""
        return {address: text for _, _, reader in self.files for address, text in reader.aliases.items()}

    def say_tallies(self) -> None:
        """Note for each file what was passed over."""
        for path, _, reader in self.files:
            if reader.tally:
                passed = ", ".join(f"{count:,} {what}" for what, count in reader.tally.most_common())
                show.note(f"{path}: {passed}")

    def progress(self) -> AbstractContextManager[Callable[[int], None]]:
        """Return what shows on a terminal how far it is: a context that gives a function to be told the queries."""
        if not sys.stderr.isatty():
            return nullcontext(lambda _: None)
        return _bar(sum(path.stat().st_size for path, _, _ in self.files), self._position)

    def _position(self) -> int:
        return sum(reader.position() for _, _, reader in self.files)

    def _guarded(self, path: Path, reader: Reader) -> Callable[[], Iterator[Sight]]:
        def sights() -> Iterator[Sight]:
            with self._telling(path):
                yield from reader.sights()

        return sights

    @contextmanager
    def _telling(self, path: Path) -> Iterator[None]:
        from journal.reading.source import BadFile

        try:
            yield
        except BadFile as error:
            show.error(str(error))
            self.failed = True
        except OSError as error:
            show.error(f"{error.filename or path}: {error.strerror or error}")
            self.failed = True


@contextmanager
def _bar(total: int, position: Callable[[], int]) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[queries]:,} queries"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("hunt", total=total, queries=0)
        yield lambda queries: progress.update(task, completed=position(), queries=queries)


def _print(rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(show.json_text(_object(row)))
    elif rows:
        show.table(COLUMNS, [_cells(row) for row in rows])


def _object(row: Row) -> dict[str, Any]:
    return row._asdict() | {"first": _moment(row.first), "last": _moment(row.last)}


def _cells(row: Row) -> Sequence[Any]:
    return (
        row.confidence, row.client, row.domain, row.detector, row.queries, row.bytes_before_alert,
        "" if row.bytes_before_block is None else f"{row.bytes_before_block:,}", show.moment(row.first), row.reason,
    )  # fmt: skip


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _say_end(made: Hunt, rows: int, seconds: float) -> None:
    dropped = [f"{count:,} {what}" for what, count in made.counters().items() if count]
    show.note("; ".join([f"{made.queries:,} queries in {show.span(seconds)}, {rows:,} findings", *dropped]))
