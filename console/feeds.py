"""`plughole feeds`: fetch threat intelligence, see what is in force and what changed, go back, give it out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from console import show
from console.params import as_json, configured, examples
from core.errors import PlugholeError

if TYPE_CHECKING:
    from console.ranges import KindInForce, ListReport
    from core.config import Config
    from feeds.refresh import FeedReport
    from feeds.review import ExportFormat, SourceDiff
    from feeds.updater import Report

_STATUSES = ("new", "unchanged", "refused", "failed")  # of lists of networks
_FAILED = ("refused", "failed")
_STYLES = ("plain", "hosts", "adblock", "rpz", "json")


@click.group(short_help="Threat intelligence: update, list, diff ...")
def feeds() -> None:
    """Fetch threat intelligence, see what is in force and what changed, go back, give it out."""


@feeds.command(
    short_help="Fetch feeds and put them in force.",
    epilog=examples("plughole feeds update", "plughole feeds update --feed sample --dry-run"),
)
@configured
@click.option("--feed", "only", multiple=True, metavar="NAME", help="Only this feed; may be given again.")
@click.option("--dry-run", is_flag=True, help="Fetch and check, change nothing.")
@click.option(
    "--force", is_flag=True, help="Accept feeds that shrank or grew too much, and publish even without a change."
)
@as_json
def update(config: Config, *, only: tuple[str, ...], dry_run: bool, force: bool, as_json: bool) -> int:
    """Fetch all feeds and put what changed in force. Fails when every feed failed; warns when some did.

    Where egress.lists is set, the lists of networks that are never blocked or shared are renewed as well.
    """
    import msgspec

    from feeds import updater

    _check_names(config, only)
    try:
        report = updater.update(config, only=only, dry_run=dry_run, force=force)
    except PlugholeError:
        _renew_lists(config, only, dry_run=dry_run, force=force)
        raise
    lists = _renew_lists(config, only, dry_run=dry_run, force=force)
    if as_json:
        show.document(msgspec.to_builtins(report) | {"lists": msgspec.to_builtins(lists)})
    else:
        _update_page(report)
        _lists_page(lists)
    bad = [feed for feed in report.feeds if feed.status in _FAILED]
    for feed in bad:
        show.note(f"feed {feed.name} {feed.status}: {feed.message}")
    asked = [feed for feed in report.feeds if feed.status not in ("off", "skipped")]
    hopeless = bool(lists) and all(one.status in _FAILED for one in lists)
    return 1 if (bad and len(bad) == len(asked)) or hopeless else 0


@feeds.command(
    "list",
    short_help="List feeds and generations.",
    epilog=examples("plughole feeds list", "plughole feeds list --json"),
)
@configured
@as_json
def list_(config: Config, *, as_json: bool) -> None:
    """List the configured feeds, the generation in force and those to go back to."""
    import msgspec

    from console import ranges
    from feeds import review

    found, networks = review.list_feeds(config), ranges.in_force(config)
    if as_json:
        show.document(msgspec.to_builtins(found) | {"networks": msgspec.to_builtins(networks)})
        return
    if found.generation is None:
        show.line("no generation yet; `plughole feeds update` makes one")
    else:
        back = ", ".join(str(number) for number in found.history if number != found.generation) or "none"
        head = f"generation {found.generation} of {show.moment(found.created)}, {found.names:,} names"
        show.line(f"{head}; to go back to: {back}")
    columns = ("feed", "mode", "category", "names", "in force", "bad", "unsupported", "fetched")
    rows = [
        (feed.name, feed.mode, f"{feed.category} {feed.confidence}", feed.names, feed.in_force, feed.bad,
         feed.unsupported, show.moment(feed.fetched) or "never")
        for feed in found.feeds
    ]  # fmt: skip
    show.table(columns, rows)
    _networks_line(networks)


@feeds.command(
    short_help="Show what came and went.", epilog=examples("plughole feeds diff", "plughole feeds diff 3 5 --json")
)
@configured
@click.argument("earlier", type=click.IntRange(1), required=False, metavar="[A]")
@click.argument("later", type=click.IntRange(1), required=False, metavar="[B]")
@as_json
def diff(config: Config, *, earlier: int | None, later: int | None, as_json: bool) -> None:
    """Show what came and went from generation A to B, by default from the one before to the one in force."""
    import msgspec

    from feeds import review

    found = review.diff(config, earlier, later)
    if as_json:
        show.document(msgspec.to_builtins(found))
    elif found:
        for source in found:
            _diff_page(source)
    else:
        show.line("no difference")


@feeds.command(
    short_help="Put an earlier generation in force.",
    epilog=examples("plughole feeds rollback", "plughole feeds rollback --to 7"),
)
@configured
@click.option("--to", type=click.IntRange(1), metavar="N", help="The generation. Default: the one before.")
@as_json
def rollback(config: Config, *, to: int | None, as_json: bool) -> None:
    """Put an earlier generation in force again. `feeds update` leaves it there until a feed changes."""
    from feeds import review

    meta = review.rollback(config, to)
    if as_json:
        show.document({"generation": meta.generation, "names": meta.count, "created": meta.created})
    else:
        show.line(f"generation {meta.generation} of {show.moment(meta.created)}, {meta.count:,} names, is in force")


@feeds.command(
    short_help="Write the names for another program.",
    epilog=examples("plughole feeds export --format rpz > plughole.rpz", "plughole feeds export | wc -l"),
)
@configured
@click.option(
    "--format", "style", type=click.Choice(_STYLES), default="plain", show_default=True, help="For which program."
)
@click.option(
    "--json", "as_json", is_flag=True, help="The same as --format json: one object a line, with every source."
)
def export(config: Config, *, style: ExportFormat, as_json: bool) -> None:
    """Write the names of the generation in force for another program."""
    from feeds import review

    for text in review.export(config, "json" if as_json else style):
        show.line(text)


def _check_names(config: Config, only: tuple[str, ...]) -> None:
    known = [source.name for source in config.feeds.source]
    if unknown := [name for name in only if name not in known]:
        raise click.UsageError(f"no feed is called {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")


def _renew_lists(config: Config, only: tuple[str, ...], *, dry_run: bool, force: bool) -> tuple[ListReport, ...]:
    """Renew the lists of networks, which need neither Redis nor a feed, and say what is wrong with them."""
    from console import ranges

    lists = () if only else ranges.renew(config, dry_run=dry_run, force=force)
    for complaint in ranges.complaints(lists):
        show.note(complaint)
    return lists


def _lists_page(lists: tuple[ListReport, ...]) -> None:
    if not lists:
        return
    for one in lists:
        if one.status == "new":
            show.line(f"list of networks {one.name}: {one.networks:,} networks, {one.before:,} before")
    count = Counter[str](one.status for one in lists)
    show.line("lists of networks: " + ", ".join(f"{count[status]} {status}" for status in _STATUSES if count[status]))


def _networks_line(networks: tuple[KindInForce, ...]) -> None:
    kinds = ", ".join(f"{one.networks:,} {one.kind} ({one.date})" for one in networks)
    show.line(f"networks by which addresses are judged: {kinds}")


def _update_page(report: Report) -> None:
    columns = ("feed", "status", "syntax", "names", "added", "removed", "bad", "unsupported", "seconds")
    show.table(columns, [[getattr(feed, _field(column)) for column in columns] for feed in report.feeds])
    for feed in report.feeds:
        _lines_page(feed)
    outcome = f"generation {report.generation} is in force" if report.generation else "no generation is in force"
    parts: list[Any] = [report.message, outcome, f"{report.names:,} names", f"{report.seconds:g} s"]
    show.line(", ".join(part for part in parts if part))


def _field(column: str) -> str:
    return "name" if column == "feed" else column


def _lines_page(feed: FeedReport) -> None:
    """Quote the lines that were passed over."""
    for kind, lines in (("bad", feed.bad_lines), ("unsupported", feed.unsupported_lines)):
        for one in lines:
            show.line(f"  {feed.name} line {one.line}, {kind}: {one.reason}: {one.text}")


def _diff_page(source: SourceDiff) -> None:
    show.line(f"{source.source}: {source.added:,} added, {source.removed:,} removed")
    for mark, sample, count in (("+", source.added_sample, source.added), ("-", source.removed_sample, source.removed)):
        for name in sample:
            show.line(f"  {mark} {name}")
        if count > len(sample):
            show.line(f"  {mark} and {count - len(sample):,} more")
