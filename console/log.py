"""`plughole log` and `plughole top`: what was asked, by whom, what became of it and why."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from console import show
from console.params import DomainName, Moment, Scope, as_json, configured, examples
from console.status import runs
from core.verdict import Action, Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from core.config import Config
    from journal.ranking import What

Row = dict[str, Any]

DEFAULT_SINCE: Final = "24h"
DEFAULT_LIMIT: Final = 1_000  # rows
MAX_LIMIT: Final = 1_000_000  # rows; to be turned round they are held in memory as text, 600 MB of it
DEFAULT_TOP: Final = 20  # lines
MAX_TOP: Final = 100_000  # lines
ACTIONS: Final = ("blocked", *(action.name for action in Action))
CAUSES: Final = tuple(cause.name.lower() for cause in Cause)
COLUMNS: Final = (  # of a row, in the order of CSV; docs/cli.md describes them
    "at", "client", "view", "qname", "qtype", "rcode", "action", "cause", "trigger", "member", "reasons", "cached",
    "count", "duration_us", "size", "ttl", "upstream", "secure", "answers", "transport",
)  # fmt: skip
RANKINGS: Final = ("clients", "domains", "causes", "leaks")


@click.command(
    short_help="Show queries and what became of them.",
    epilog=examples(
        "plughole log --since 1h --action blocked",
        "plughole log --client 192.0.2.7 --domain example.com --json",
        "plughole log --follow",
    ),
)
@configured
@click.option(
    "--since", type=Moment(), help=f"From when on: 90s, 10m, 24h, 7d or an ISO time.  [default: {DEFAULT_SINCE}]"
)
@click.option("--until", type=Moment(), help="Until when, not included.")
@click.option("--client", type=Scope(), help="Only this address or prefix.")
@click.option("--domain", type=DomainName(), help="Only this name and what lies below it.")
@click.option(
    "--action", type=click.Choice(ACTIONS, case_sensitive=False), help="Only this action; blocked: any that blocks."
)
@click.option(
    "--cause", type=click.Choice(CAUSES, case_sensitive=False), help="Only what this kind of knowledge decided."
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), help=f"The newest so many rows.  [default: {DEFAULT_LIMIT}]"
)
@click.option("--follow", is_flag=True, help="Go on with new rows until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header.")
def log(config: Config, *, limit: int | None, follow: bool, as_json: bool, as_csv: bool, **wanted: Any) -> None:
    """Show queries, oldest first: when, who, what, what became of it and why."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if follow and wanted["until"] is not None:
        raise click.UsageError("--follow and --until exclude each other")
    text_of = _form(as_json=as_json, as_csv=as_csv)
    if as_csv:
        click.echo(show.csv_text(COLUMNS))
    if follow:
        _follow(config, limit, wanted, text_of)
        return
    wanted["since"] = Moment().convert(DEFAULT_SINCE, None, None) if wanted["since"] is None else wanted["since"]
    for text in _newest(config, limit or DEFAULT_LIMIT, wanted, text_of):
        click.echo(text)


@click.command(
    short_help="Show who and what comes first in the log.",
    epilog=examples("plughole top clients", "plughole top leaks --since 7d --limit 5"),
)
@configured
@click.argument("what", type=click.Choice(RANKINGS))
@click.option("--since", type=Moment(), default=DEFAULT_SINCE, show_default=True, help="From when on, as in `log`.")
@click.option("--until", type=Moment(), help="Until when, not included.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_TOP), default=DEFAULT_TOP, show_default=True, help="How many lines."
)
@as_json
def top(config: Config, *, what: What, since: float, until: float | None, limit: int, as_json: bool) -> None:
    """Show who asks most, what is asked for most, what blocks most, or who sends most out in names."""
    from journal import ranking

    _settle(config)
    rows = ranking.top(config.data_dir, what, since=since, until=until, limit=limit)
    if as_json:
        show.document(rows)
    elif rows:
        show.table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        show.note("nothing in the journal for this time; see `plughole status` and --since")


def _settle(config: Config) -> None:
    """Have a running hub show what it still holds."""
    from journal import ask

    if runs(config.data_dir):
        ask.settle(config.data_dir)


def _newest(config: Config, limit: int, wanted: Row, text_of: Callable[[Row], str]) -> Iterable[str]:
    """Return the newest rows that match as text, oldest first; says so when there are more."""
    from journal import ask

    _settle(config)
    rows = [text_of(row) for row in ask.log(config.data_dir, **wanted, limit=limit + 1, order="desc")]
    if len(rows) > limit:
        del rows[limit:]
        show.note(f"only the newest {limit:,} rows are shown; --limit shows more, --since and filters fewer")
    return reversed(rows)


def _follow(config: Config, limit: int | None, wanted: Row, text_of: Callable[[Row], str]) -> None:
    from journal import ask

    del wanted["until"]
    try:
        for row in itertools.islice(ask.follow(config.data_dir, **wanted), limit):
            click.echo(text_of(row))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return  # how following ends


def _form(*, as_json: bool, as_csv: bool) -> Callable[[Row], str]:
    if as_json:
        return show.json_text
    return (lambda row: show.csv_text(_cells(row))) if as_csv else _line


def _cells(row: Row) -> Iterator[Any]:
    for column in COLUMNS:
        value = row[column]
        if column == "reasons":
            value = "; ".join(map(_reason, value))
        yield " ".join(value) if isinstance(value, list) else value


def _line(row: Row) -> str:
    """Return a row for a person: time to the millisecond, client, type, name, what became of it, why."""
    action = row["action"]
    outcome = show.action(action, action if action != "NONE" else _outcome(row))
    times = f" x{row['count']}" if row["count"] > 1 else ""
    head = f"{row['at'][:23]}Z  {row['client']:<15}  {row['qtype']:<5}  {show.plain(row['qname'])}{times}"
    why = "; ".join(map(_reason, row["reasons"]))
    member = f" (in the answer: {row['member']})" if row["member"] else ""
    return f"{head}  {outcome}" + show.plain(f"{member}  {why}" if why else member)


def _outcome(row: Row) -> str:
    return row["rcode"] if row["rcode"] != "NOERROR" else "ok"


def _reason(reason: Row) -> str:
    detail = ", ".join(part for part in (reason["category"], str(reason["confidence"] or "")) if part)
    text = f": {reason['text']}" if reason["text"] else ""
    return f"{reason['source']} {reason['indicator']}" + (f" ({detail})" if detail else "") + text
