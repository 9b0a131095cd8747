"""`plughole feeds update`: fetch, parse, merge, publish, prune - the one place of this package that builds the parts.

Rules:
1. One update at a time a data folder: a lock of the kernel on `feeds/lock`, which a crash gives back. Updaters on
   several hosts may run together: each writes a generation of its own and the last one finished is in force.
2. Inputs that were published already are not published again, not even after a rollback: a bad list stays rolled back
   until it changes. `force` publishes regardless.
3. A feed that is in force, failed, and has no copy on this disk stops the update: nothing may drop out by accident.
"""

from __future__ import annotations

import fcntl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from core.errors import BadFeed, Unavailable
from feeds.bulk import to_wire
from feeds.merge import Table, merge
from feeds.redis import session
from feeds.refresh import FeedReport, Refreshed, Refresher
from feeds.snapshot import digest
from feeds.store import SourceInfo, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.config import Config, Source
    from core.names import Name

MAX_FETCHES: Final = 8  # at a time
READER: Final = 1  # goes up when the same bytes are read otherwise, so that an upgrade publishes anew


class Report(msgspec.Struct, frozen=True):
    """What an update did. `generation` is the one in force afterwards, `names` how many it or the dry run has."""

    feeds: tuple[FeedReport, ...]
    generation: int | None
    published: bool
    names: int
    seconds: float
    message: str = ""

    @property
    def failed(self) -> bool:
        """True when a feed was refused or could not be had."""
        return any(feed.status in ("refused", "failed") for feed in self.feeds)


def update(
    config: Config, *, only: Sequence[str] = (), dry_run: bool = False, force: bool = False, now: float | None = None
) -> Report:
    """Bring all feeds (or `only` those named) up to date and put a new generation in force when anything changed.

    Raises Unavailable when Redis, the data folder or the lock cannot be had, BadFeed when `only` names no feed or
    rule 3 applies. `dry_run` leaves no trace.
    """
    started, at = time.monotonic(), time.time() if now is None else now
    _check_names(config, only)
    with locked(config.data_dir / "feeds"), session(config) as client:
        update_ = _Update(config, Store(client, keep=config.feeds.keep_generations), force=force, dry_run=dry_run)
        report = update_.run(only, at)
    return msgspec.structs.replace(report, seconds=round(time.monotonic() - started, 3))


class _Update:
    def __init__(self, config: Config, store: Store, *, force: bool, dry_run: bool) -> None:
        self._sources = config.feeds.source
        self._store = store
        self._force = force
        self._dry_run = dry_run
        self._refresher = Refresher(
            config.data_dir / "feeds",
            base=Path(config.base),
            timeout=config.feeds.timeout,
            force=force,
            save=not dry_run,
        )

    def run(self, only: Sequence[str], now: float) -> Report:
        feeds = self._refresh(only, now)
        reports = tuple(feed.report for feed in feeds)
        fingerprint, current = _fingerprint(feeds), self._store.current()
        if not self._force and current is not None and fingerprint == self._store.input():
            count = self._store.meta(current).count
            return Report(reports, current, published=False, names=count, seconds=0.0, message="nothing has changed")
        self._check_lost(feeds, current)
        table = merge((feed.source, parsed) for feed in feeds if (parsed := self._refresher.load(feed)) is not None)
        if self._dry_run:
            message = "dry run: nothing was published"
            return Report(reports, current, published=False, names=len(table.names), seconds=0.0, message=message)
        sources = [_info(feed) for feed in feeds if feed.state is not None and feed.source.mode != "off"]
        meta = self._store.publish(table, _wire(table), sources=sources, fingerprint=fingerprint, now=now)
        self._store.prune(now)
        return Report(reports, meta.generation, published=True, names=meta.count, seconds=0.0)

    def _refresh(self, only: Sequence[str], now: float) -> list[Refreshed]:
        def one(source: Source) -> Refreshed:
            if source.mode == "off":
                return Refreshed(source, FeedReport(source.name, "off"))
            if only and source.name not in only:
                return self._refresher.keep(source)
            return self._refresher.refresh(source, now)

        with ThreadPoolExecutor(MAX_FETCHES) as pool:
            return list(pool.map(one, self._sources))

    def _check_lost(self, feeds: list[Refreshed], current: int | None) -> None:
        wanted = [feed for feed in feeds if feed.state is not None or feed.source.mode == "off"]
        if current is None and feeds and not wanted:
            raise BadFeed(f"no feed could be had: {'; '.join(f'{f.source.name}: {f.report.message}' for f in feeds)}")
        if current is None or self._force:
            return
        here = {info.name for info in self._store.meta(current).sources if info.names}
        lost = [feed for feed in feeds if feed.state is None and feed.source.mode != "off" and feed.source.name in here]
        if lost:
            why = "; ".join(f"{feed.source.name}: {feed.report.message or 'not asked for'}" for feed in lost)
            raise BadFeed(
                f"would drop out of generation {current}, which stays in force ({why}); --force publishes anyway"
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one updater. Raises Unavailable when another one does, or the folder cannot be had."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise Unavailable("another `plughole feeds update` runs on this data folder; wait for it") from None
    except OSError as error:
        raise Unavailable(f"{folder}: {error.strerror or error}") from None


def _check_names(config: Config, only: Sequence[str]) -> None:
    known = {source.name for source in config.feeds.source}
    if unknown := sorted(set(only) - known):
        there = ", ".join(sorted(known)) or "none"
        raise BadFeed(f"no feed is called {', '.join(unknown)}; the configuration has {there}")


def _fingerprint(feeds: Sequence[Refreshed]) -> str:
    """Return a digest of everything that a generation depends on."""
    parts = [
        (*_settings(feed.source), feed.state.sha256 if feed.state is not None else "")
        for feed in feeds
        if feed.source.mode != "off"
    ]
    return digest(msgspec.json.encode((READER, parts)))


def _settings(source: Source) -> tuple[str | int | bool, ...]:
    return (source.name, source.format, source.category, source.confidence, source.mode, source.subdomains)


def _info(feed: Refreshed) -> SourceInfo:
    source, report = feed.source, feed.report
    fetched, sha = (feed.state.fetched, feed.state.sha256) if feed.state is not None else (0.0, "")
    return SourceInfo(
        source.name, source.mode, report.syntax, report.names, report.bad, report.unsupported, fetched, sha
    )


def _wire(table: Table) -> dict[Name, int]:
    """Return the table by wire name."""
    wire: dict[Name, int] = {}
    values = iter(table.names.values())
    for batch in to_wire(list(table.names)):
        wire.update(zip(batch, values, strict=False))
    return wire
