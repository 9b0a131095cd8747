"""What people ask about the intelligence: which feeds there are, what changed, go back, give it out.

Each function opens Redis for itself; all raise Unavailable without it and BadFeed for a generation that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from core.errors import BadFeed
from core.verdict import Action
from feeds import snapshot
from feeds.redis import session
from feeds.store import Meta, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.config import Config
    from feeds.index import SourceSet

MAX_RPZ_OWNER: Final = 200  # characters; longer with the zone's own name, some servers refuse the whole zone
MAX_SAMPLE: Final = 20  # names shown a source and direction
RPZ_HEAD: Final = (
    "$TTL 300",
    "@ SOA localhost. hostmaster.localhost. {generation} 3600 600 604800 300",
    "@ NS localhost.",
)

ExportFormat = Literal["plain", "hosts", "adblock", "rpz", "json"]


class FeedState(msgspec.Struct, frozen=True):
    """A configured feed: its settings, its last good copy, and what the generation in force has of it."""

    name: str
    mode: str
    category: str
    confidence: int
    syntax: str
    fetched: float  # Unix seconds of the last good copy, 0 for none
    names: int
    bad: int
    unsupported: int
    in_force: int  # names of it in the generation in force


class FeedList(msgspec.Struct, frozen=True):
    """All feeds, the generation in force and those to go back to, newest first."""

    feeds: tuple[FeedState, ...]
    generation: int | None
    names: int
    created: float  # Unix seconds
    history: tuple[int, ...]


class SourceDiff(msgspec.Struct):
    """Names one source lists in the later generation and not in the earlier, and the reverse, with samples."""

    source: str
    added: int = 0
    removed: int = 0
    added_sample: list[str] = msgspec.field(default_factory=list)
    removed_sample: list[str] = msgspec.field(default_factory=list)


def list_feeds(config: Config) -> FeedList:
    """Return the configured feeds beside what is in force."""
    with session(config) as client:
        store = Store(client, keep=config.feeds.keep_generations)
        current, history = store.current(), tuple(store.history())
        meta = store.meta(current) if current is not None else None
    here = {info.name: info.names for info in meta.sources} if meta else {}
    feeds = tuple(_feed_state(config, at, here) for at in range(len(config.feeds.source)))
    return FeedList(feeds, current, meta.count if meta else 0, meta.created if meta else 0.0, history)


def diff(config: Config, earlier: int | None = None, later: int | None = None) -> tuple[SourceDiff, ...]:
    """Compare two generations, by default the one in force with the one before it; 3 s a million names."""
    with session(config) as client:
        store = Store(client, keep=config.feeds.keep_generations)
        old, new = _pair(store.history(), earlier, later)
        return _diff(store, store.meta(old), store.meta(new))


def rollback(config: Config, to: int | None = None) -> Meta:
    """Put an earlier generation in force, by default the one before; live on the nodes within a second or two."""
    with session(config) as client:
        store = Store(client, keep=config.feeds.keep_generations)
        history = store.history()
        if to is None and len(history) < 2:
            raise BadFeed("there is no earlier generation to go back to")
        if to is not None and to not in history:
            raise BadFeed(f"generation {to} is not kept; there are {_listed(history)}")
        meta = store.meta(history[1] if to is None else to)
        store.put_in_force(meta.generation)
    return meta


def export(config: Config, style: ExportFormat) -> Iterator[str]:
    """Yield the lines of the generation in force in another program's format, names as they come, without newlines.

    `json` gives every name with all its matches; the others what is blocked, `adblock` and `rpz` what is allowed too.
    """
    with session(config) as client:
        store = Store(client, keep=config.feeds.keep_generations)
        if (current := store.current()) is None:
            raise BadFeed("nothing to export: run `plughole feeds update` first")
        meta = store.meta(current)
        if style == "rpz":
            yield from (line.format(generation=current) for line in RPZ_HEAD)
        write = _WRITERS[style]
        for bucket in store.buckets(current):
            for name, number in bucket.items():
                yield from write(name.decode(), meta.sets[number])


def _feed_state(config: Config, at: int, here: dict[str, int]) -> FeedState:
    source = config.feeds.source[at]
    state = snapshot.load_state(config.data_dir / "feeds" / source.name)
    copy = (state.syntax, state.fetched, state.names, state.bad, state.unsupported) if state else ("", 0.0, 0, 0, 0)
    in_force = here.get(source.name, 0)
    return FeedState(source.name, source.mode, source.category, source.confidence, *copy, in_force=in_force)


def _pair(history: list[int], earlier: int | None, later: int | None) -> tuple[int, int]:
    if later is None and not history:
        raise BadFeed("there is no generation yet: run `plughole feeds update` first")
    new = history[0] if later is None else later
    if earlier is None and len(history) < 2:
        raise BadFeed("there is no earlier generation to compare with")
    return (history[1] if earlier is None else earlier), new


def _diff(store: Store, old: Meta, new: Meta) -> tuple[SourceDiff, ...]:
    found: dict[str, SourceDiff] = {}
    old_sources, new_sources = _source_names(old), _source_names(new)
    nothing: frozenset[str] = frozenset()
    for before, after in zip(store.buckets(old.generation), store.buckets(new.generation), strict=True):
        for name in before.keys() | after.keys():
            was = old_sources[before[name]] if name in before else nothing
            now = new_sources[after[name]] if name in after else nothing
            if was != now:
                _note(found, name.decode(), now - was, was - now)
    return tuple(found[source] for source in sorted(found))


def _note(found: dict[str, SourceDiff], name: str, came: frozenset[str], went: frozenset[str]) -> None:
    for source in came:
        entry = found.setdefault(source, SourceDiff(source))
        entry.added += 1
        if len(entry.added_sample) < MAX_SAMPLE:
            entry.added_sample.append(name)
    for source in went:
        entry = found.setdefault(source, SourceDiff(source))
        entry.removed += 1
        if len(entry.removed_sample) < MAX_SAMPLE:
            entry.removed_sample.append(name)


def _source_names(meta: Meta) -> list[frozenset[str]]:
    return [frozenset(match.source for match in matches) for matches in meta.sets]


def _reach(matches: SourceSet, action: Action) -> tuple[bool, bool]:
    """Return whether the action covers the name itself and the names below it."""
    ours = [match for match in matches if match.action is action]
    return any(match.exact for match in ours), any(match.below for match in ours)


def _plain(name: str, matches: SourceSet) -> Iterator[str]:
    if any(_reach(matches, Action.SINKHOLE)) and not any(_reach(matches, Action.PASSTHRU)):
        yield name


def _hosts(name: str, matches: SourceSet) -> Iterator[str]:
    yield from (f"0.0.0.0 {each}" for each in _plain(name, matches))


def _adblock(name: str, matches: SourceSet) -> Iterator[str]:
    for action, mark in ((Action.PASSTHRU, "@@"), (Action.SINKHOLE, "")):
        exact, below = _reach(matches, action)
        if exact or below:
            yield f"{mark}{'||' if exact and below else '|' if exact else '||*.'}{name}^"


def _rpz(name: str, matches: SourceSet) -> Iterator[str]:
    allowed, blocked = _reach(matches, Action.PASSTHRU), _reach(matches, Action.SINKHOLE)
    if len(name) > MAX_RPZ_OWNER:
        yield f"; left out, too long below a zone: {name}"
        return
    for at, owner in enumerate((name, f"*.{name}")):
        if allowed[at]:
            yield f"{owner} CNAME rpz-passthru."
        elif blocked[at]:
            yield f"{owner} CNAME ."


def _json(name: str, matches: SourceSet) -> Iterator[str]:
    words = [
        {"source": match.source, "category": match.category, "confidence": match.confidence,
         "action": match.action.name, "exact": match.exact, "below": match.below}
        for match in matches
    ]  # fmt: skip
    yield msgspec.json.encode({"name": name, "matches": words}).decode()


def _listed(history: list[int]) -> str:
    return ", ".join(map(str, history)) or "none"


_WRITERS: Final[dict[ExportFormat, Callable[[str, SourceSet], Iterator[str]]]] = {
    "plain": _plain, "hosts": _hosts, "adblock": _adblock, "rpz": _rpz, "json": _json,
}  # fmt: skip
