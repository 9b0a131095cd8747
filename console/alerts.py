"""`plughole alerts`: what the detectors found, who, which domain, how sure and why."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from console import show
from console.log import DEFAULT_LIMIT, DEFAULT_SINCE, MAX_LIMIT
from console.params import Address, DomainName, Moment, configured, examples
from core.finding import Confidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import Config

Row = dict[str, Any]

FOREVER: Final = 1e12  # Unix seconds
COLUMNS: Final = ("last", "confidence", "client", "domain", "detectors", "tool", "blocks", "reason")
KEYS: Final = (  # of an object of --json; docs/cli.md describes them
    "id", "first", "last", "confidence", "client", "domain", "detector", "detectors", "tool", "score", "queries",
    "bytes_before_alert", "bytes_before_block", "count", "blocks", "reason", "evidence",
)  # fmt: skip


@click.command(
    short_help="Show what the detectors found.",
    epilog=examples(
        "plughole alerts --confidence HIGH",
        "plughole alerts --since 7d --client 192.0.2.7 --domain example.com",
        "plughole alerts --json | jq 'select(.blocks)'",
    ),
)
@configured
@click.option("--since", type=Moment(), default=DEFAULT_SINCE, show_default=True, help="From when on, as in `log`.")
@click.option("--until", type=Moment(), help="Until when, not included.")
@click.option("--client", type=Address(), help="Only this client.")
@click.option("--domain", type=DomainName(), help="Only this domain and what lies below it.")
@click.option("--detector", help="Only what this detector found, or helped to.")
@click.option(
    "--confidence", type=click.Choice([one.name for one in Confidence], case_sensitive=False), help="At least as sure."
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="The newest so many."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def alerts(config: Config, *, since: float, until: float | None, limit: int, as_json: bool, **wanted: Any) -> None:
    """Show what the detectors found, one alert a client and domain, the last seen first.

    How sure, who, which domain, by which detectors, whether it is blocked, and why.
    """
    from journal.alerts import find

    _check_detector(wanted["detector"])
    ends = FOREVER if until is None else until
    every = find(config.data_dir, since=since, until=ends, limit=-1)  # SQLite: no limit
    found = list(islice((row for row in every if _matches(row, **wanted)), limit + 1))
    if len(found) > limit:
        del found[limit:]
        show.note(f"only the newest {limit:,} alerts are shown; --limit shows more, --since and filters fewer")
    if as_json:
        for row in found:
            click.echo(show.json_text(_object(row)))
    elif found:
        show.table(COLUMNS, [_cells(row) for row in found])
    else:
        show.note("no alerts for this time; `plughole status` says whether the detectors work")


def _check_detector(name: str | None) -> None:
    """Refuse what is no detector; raises UsageError."""
    from detectors.combining import COMBINED
    from detectors.registry import NAMES
    from resolver.seen import DETECTOR as EGRESS

    known = (*NAMES, COMBINED, EGRESS)
    if name is not None and name not in known:
        raise click.UsageError(f"--detector: there is none called {name}; write one of {', '.join(known)}")


def _matches(row: Row, *, client: str | None, domain: str | None, detector: str | None, confidence: str | None) -> bool:
    from detectors.combining import part_of

    names = {row["detector"], *row["detectors"]}
    return (
        client in {None, row["client"]}
        and (domain is None or row["domain"] == domain or row["domain"].endswith(f".{domain}"))
        and (detector is None or detector in names or detector in map(part_of, names))
        and (confidence is None or Confidence[row["confidence"]] >= Confidence[confidence.upper()])
    )


def _object(row: Row) -> Row:
    times = {"first": show.moment(row["first"]), "last": show.moment(row["last"])}
    return {key: (row | times)[key] for key in KEYS}


def _cells(row: Row) -> Sequence[Any]:
    return [(_object(row) | {"detectors": ", ".join(row["detectors"])})[key] for key in COLUMNS]
