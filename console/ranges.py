"""The lists of networks that guards go by, renewed by the updater's own fetcher: what joins `feeds/` and `egress/`.

Rules:
1. A list that is bad or cannot be had keeps the networks in force, and keeps no other list from being renewed.
2. Files are written only when networks changed; a file in the folder that is damaged is written anew.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from core.config import Source
from core.errors import BadFeed, Unavailable
from egress.range_lists import KINDS, joined, newest, put
from egress.ranges import read
from egress.renewal import check, held, renewed
from feeds import snapshot
from feeds.fetch import fetch
from feeds.snapshot import State, digest
from feeds.updater import MAX_FETCHES, locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.config import Config
    from egress.range_lists import Snapshot
    from egress.ranges import Prefix

FOLDER: Final = "egress/ranges"  # below the data folder; the hub looks there
COPIES: Final = "copies"  # below that: the last good copy of each list, so that its server may say "not modified"
MAX_MEGABYTES: Final = 16  # of one list; the longest known has 2
MAX_NAMED: Final = 4  # lists that a complaint names; the rest is counted
FAILURES: Final = ("refused", "failed")


class ListReport(msgspec.Struct, frozen=True):
    """What became of one list. `networks`: it has now, in force or, after a dry run, to be; `before`: it had."""

    name: str
    kind: str
    status: Literal["new", "unchanged", "refused", "failed"]
    networks: int
    before: int
    message: str = ""


class KindInForce(msgspec.Struct, frozen=True):
    """The lists of one kind that guards go by."""

    kind: str
    networks: int
    source: str
    date: str  # of the data, YYYY-MM-DD


class _Done(NamedTuple):
    report: ListReport
    prefixes: tuple[Prefix, ...]


def in_force(config: Config) -> tuple[KindInForce, ...]:
    """Return what guards go by, kind by kind. Takes a part of a second."""
    found = [newest(kind, config.data_dir / FOLDER, []) for kind in KINDS]
    return tuple(
        KindInForce(one.kind, sum(len(each.prefixes) for each in one.lists), one.source, one.date) for one in found
    )


def renew(config: Config, *, dry_run: bool, force: bool, now: float | None = None) -> tuple[ListReport, ...]:
    """Bring the lists up to date where `egress.lists` says; returns one report a list, none when it is empty.

    `dry_run` writes nothing; `force` accepts lists that shrank or grew too much. Raises BadFeed when what ships is
    damaged, nothing for what a server, a list or the disk does.
    """
    if not config.egress.lists:
        return ()
    at = time.time() if now is None else now
    renewal = _Renewal(config, dry_run=dry_run, force=force, now=at)
    try:
        with locked(config.data_dir / FOLDER):
            return tuple(report for kind in KINDS for report in renewal.run(kind))
    except Unavailable as error:
        return tuple(ListReport(name, kind, "failed", 0, 0, str(error)) for kind in KINDS for name in KINDS[kind])


def complaints(reports: Iterable[ListReport]) -> Iterator[str]:
    """Yield one line a reason why lists were not renewed, with the lists it holds for."""
    same: dict[tuple[str, str], list[ListReport]] = {}
    for report in reports:
        if report.status in FAILURES:
            reason = report.message.replace(f"/{report.name}/list.json", "/NAME/list.json")
            same.setdefault((report.status, reason), []).append(report)
    for (status, reason), found in same.items():
        if len(found) == 1:
            yield f"list of networks {found[0].name} {status}: {found[0].message}"
            continue
        names = ", ".join(report.name for report in found[:MAX_NAMED])
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        yield f"lists of networks {names}{more} {status}: {reason}"


class _Renewal:
    """One pass over the lists."""

    def __init__(self, config: Config, *, dry_run: bool, force: bool, now: float) -> None:
        self._config = config
        self._folder = config.data_dir / FOLDER
        self._dry_run = dry_run
        self._force = force
        self._now = now
        self._reading = Lock()  # for their memory lists are read in turn

    def run(self, kind: str) -> list[ListReport]:
        """Fetch the lists of a kind and put what changed in force."""
        mistakes: list[str] = []
        current = newest(kind, self._folder, mistakes)
        old = held(current)
        with ThreadPoolExecutor(MAX_FETCHES) as pool:
            done = list(pool.map(lambda name: self._one(kind, name, old.get(name, ())), KINDS[kind]))
        try:
            self._write(current, done, damaged=bool(mistakes))
        except (BadFeed, OSError) as fault:
            return [_failed(each.report, f"{self._folder}: {fault}") for each in done]
        return [each.report for each in done]

    def _one(self, kind: str, name: str, old: tuple[Prefix, ...]) -> _Done:
        try:
            new = self._fetch(name, old)
        except (BadFeed, Unavailable) as error:
            status: Literal["refused", "failed"] = "refused" if isinstance(error, BadFeed) else "failed"
            stays = "what is in force stays" if old else "there is nothing to use instead"
            message = f"{str(error).removeprefix(f'{name}: ')}; {stays}"
            return _Done(ListReport(name, kind, status, len(old), len(old), message), old)
        return _Done(ListReport(name, kind, "unchanged" if new == old else "new", len(new), len(old)), new)

    def _fetch(self, name: str, old: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        """Return a list's networks as they are now; raises BadFeed, or Unavailable with what to look at."""
        source = Source(name=name, url=_url(self._config.egress.lists, name), max_megabytes=MAX_MEGABYTES)
        copies = self._folder / COPIES / name
        origin = digest(source.url.encode())
        state, copy = _copy(copies, origin)
        try:
            found = fetch(source, base=Path(self._config.base), state=state, timeout=self._config.feeds.timeout)
        except Unavailable as error:
            raise Unavailable(f"{error}; look at egress.lists") from None
        data = (copy if found.data is None else found.data) or b""
        new = old if state is not None and _known(state, data, old) else self._read(name, data, old)
        if found.data is not None and not self._dry_run:
            fresh = State(
                digest(data), origin, len(data), self._now, found.etag, found.last_modified, _mark(new), names=len(new)
            )
            _save(copies, fresh, data, state)
        return new

    def _read(self, name: str, data: bytes, old: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        with self._reading:
            new = joined(read(data, name=name).prefixes)
        if not self._force:
            _check(new, old)
        return new

    def _write(self, current: Snapshot, done: list[_Done], *, damaged: bool) -> None:
        date = time.strftime("%Y-%m-%d", time.gmtime(self._now))
        lists = {each.report.name: each.prefixes for each in done}
        octets = renewed(current, lists, date=date, anyway=damaged)
        if octets is not None and not self._dry_run:
            put(self._folder, current.kind, octets)


def _url(folder: str, name: str) -> str:
    """Return where a list lies; a token behind a question mark stays behind it."""
    path, mark, query = folder.partition("?")
    return f"{path.rstrip('/')}/{name}/list.json{mark}{query}"


def _check(new: tuple[Prefix, ...], old: tuple[Prefix, ...]) -> None:
    try:
        check(new, old)
    except BadFeed as error:
        raise BadFeed(f"{error}; if that is right: plughole feeds update --force") from None


def _copy(folder: Path, origin: str) -> tuple[State | None, bytes | None]:
    """Return the last good copy of a list from this origin, and what is known about it; nothing when it is damaged."""
    state = snapshot.load_state(folder)
    if state is None or state.origin != origin:
        return None, None
    data = snapshot.load(folder, state)
    return (state, data) if data is not None else (None, None)


def _known(state: State, data: bytes, networks: tuple[Prefix, ...]) -> bool:
    """True when these bytes were read before, and gave these networks: reading all takes seconds."""
    return state.sha256 == digest(data) and state.syntax == _mark(networks)


def _mark(networks: tuple[Prefix, ...]) -> str:
    return digest(repr(networks).encode())


def _save(folder: Path, fresh: State, data: bytes, state: State | None) -> None:
    """Keep a list that is good; nothing is written when its copy is the same and its server calls it the same."""
    if state is not None and msgspec.structs.replace(fresh, fetched=state.fetched) == state:
        return
    snapshot.save(folder, fresh, None if state is not None and state.sha256 == fresh.sha256 else data)


def _failed(report: ListReport, why: str) -> ListReport:
    """Return the report of a list whose kind was not written: what was in force is."""
    if report.status != "new":
        return report
    return msgspec.structs.replace(report, status="failed", networks=report.before, message=why)
