"""One feed brought up to date: fetched, parsed, held against its last good copy, and saved when it passes.

Rules:
1. Whatever goes wrong, the last good copy stays and is what the merge uses.
2. A feed is refused when it is an HTML page, has no name in it, or lost or gained more than a feed does over night.
   `force` accepts the last two, for people who looked.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from core.config import Source
from core.errors import BadFeed, Unavailable
from feeds import snapshot
from feeds.entries import BadLine, Parsed
from feeds.fetch import Fetched, fetch
from feeds.parse import parse
from feeds.snapshot import State, digest

if TYPE_CHECKING:
    from pathlib import Path


MAX_GROWTH: Final = 10  # times the last good number of names

Status = Literal["new", "unchanged", "refused", "failed", "off", "skipped"]


class FeedReport(msgspec.Struct, frozen=True):
    """What became of one feed. The counts are of the copy in use; `added` and `removed` are names against the last."""

    name: str
    status: Status
    syntax: str = ""
    lines: int = 0
    names: int = 0
    bad: int = 0
    unsupported: int = 0
    added: int = 0
    removed: int = 0
    seconds: float = 0.0
    message: str = ""
    bad_lines: tuple[BadLine, ...] = ()
    unsupported_lines: tuple[BadLine, ...] = ()


class Refreshed(msgspec.Struct):
    """A feed after its refresh. `parsed` is there when it had to be read; `load` reads it otherwise."""

    source: Source
    report: FeedReport
    state: State | None = None
    parsed: Parsed | None = None


class Refresher:
    """Refreshes feeds, from several threads if wanted. Fetches run side by side; parsing, for its memory, in turn."""

    def __init__(self, folder: Path, *, base: Path, timeout: float, force: bool, save: bool) -> None:
        """`folder` holds a folder a feed; `base`: where relative file URLs start; `save` false: leave no trace."""
        self._folder = folder
        self._base = base
        self._timeout = timeout
        self._force = force
        self._save = save
        self._parsing = Lock()

    def refresh(self, source: Source, now: float) -> Refreshed:
        """Bring a feed up to date; never raises for what a feed or its server does."""
        started = time.monotonic()
        state = self._state(source)
        try:
            found = self._fetch(source, state)
            done = self._accept(source, found, state, now)
        except BadFeed as error:
            done = self._kept(source, state, "refused", str(error))
        except Unavailable as error:
            done = self._kept(source, state, "failed", str(error))
        report = msgspec.structs.replace(done.report, seconds=round(time.monotonic() - started, 3))
        return Refreshed(source, report, done.state, done.parsed)

    def keep(self, source: Source) -> Refreshed:
        """Return the feed as it stands, without asking its server."""
        return self._kept(source, self._state(source), "skipped", "")

    def load(self, feed: Refreshed) -> Parsed | None:
        """Return the feed's names, read from its last good copy when need be; None when there is none."""
        if feed.parsed is None and feed.state is not None:
            data = snapshot.load(self._folder / feed.source.name, feed.state)
            feed.parsed = parse(data, feed.source.format) if data is not None else None
        return feed.parsed

    def _state(self, source: Source) -> State | None:
        """Return what is known about the last good copy if its bytes are what they were; else there is none."""
        folder = self._folder / source.name
        state = snapshot.load_state(folder)
        return state if state is not None and snapshot.load(folder, state) is not None else None

    def _fetch(self, source: Source, state: State | None) -> Fetched:
        ours = state if state is not None and state.origin == _origin(source) else None
        return fetch(source, base=self._base, state=ours, timeout=self._timeout)

    def _accept(self, source: Source, found: Fetched, state: State | None, now: float) -> Refreshed:
        same_origin = state is not None and state.origin == _origin(source)
        if state is not None and (found.data is None or (same_origin and digest(found.data) == state.sha256)):
            return self._unchanged(source, found, state, now)
        data = found.data or b""
        with self._parsing:
            parsed = parse(data, source.format)
            if not self._force:
                _guard(source, parsed, state if same_origin else None)
            added, removed = self._delta(source, parsed, state)
        fresh = State(
            digest(data), _origin(source), len(data), now, found.etag, found.last_modified,
            parsed.syntax, parsed.lines, parsed.count, parsed.bad, parsed.unsupported, now,
        )  # fmt: skip
        if self._save:
            snapshot.save(self._folder / source.name, fresh, data)
        report = _report(source, fresh, "new", parsed)
        return Refreshed(source, msgspec.structs.replace(report, added=added, removed=removed), fresh, parsed)

    def _unchanged(self, source: Source, found: Fetched, state: State, now: float) -> Refreshed:
        state = msgspec.structs.replace(state, checked=now)
        if found.data is not None:
            state = msgspec.structs.replace(state, etag=found.etag, last_modified=found.last_modified)
        if self._save:
            snapshot.save(self._folder / source.name, state, None)
        return Refreshed(source, _report(source, state, "unchanged"), state)

    def _kept(self, source: Source, state: State | None, status: Status, message: str) -> Refreshed:
        if status in ("refused", "failed"):
            message += "; the last good copy stays" if state is not None else "; there is no earlier copy to use"
        report = msgspec.structs.replace(_report(source, state, status), message=message)
        return Refreshed(source, report, state)

    def _delta(self, source: Source, parsed: Parsed, state: State | None) -> tuple[int, int]:
        """Return how many names came and went against the last good copy."""
        names = _names(parsed)
        data = snapshot.load(self._folder / source.name, state) if state is not None else None
        if data is None:
            return len(names), 0
        before = _names(parse(data, source.format))
        return len(names - before), len(before - names)


def _guard(source: Source, parsed: Parsed, state: State | None) -> None:
    if not parsed.count:
        why = f"; line {first.line}: {first.reason}" if (first := next(iter(parsed.bad_lines), None)) else ""
        raise BadFeed(f"no name in {parsed.lines} lines read as {parsed.syntax}{why}")
    before = state.names if state is not None else 0
    change = f"{before:,} to {parsed.count:,} names"
    cure = f"if that is right: plughole feeds update --force --feed {source.name}"
    if parsed.count * 100 < before * (100 - source.max_change):
        raise BadFeed(f"shrank from {change}, more than max_change = {source.max_change} %; {cure}")
    if before and parsed.count > before * MAX_GROWTH:
        raise BadFeed(f"grew from {change}, more than {MAX_GROWTH} times; {cure}")


def _report(source: Source, state: State | None, status: Status, parsed: Parsed | None = None) -> FeedReport:
    if state is None:
        return FeedReport(source.name, status)
    return FeedReport(
        source.name, status, state.syntax, state.lines, state.names, state.bad, state.unsupported,
        bad_lines=tuple(parsed.bad_lines) if parsed else (),
        unsupported_lines=tuple(parsed.unsupported_lines) if parsed else (),
    )  # fmt: skip


def _names(parsed: Parsed) -> set[bytes]:
    return set().union(*parsed.names.values())


def _origin(source: Source) -> str:
    return digest(f"{source.format} {source.url}".encode())
