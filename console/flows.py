"""`plughole flows`: who sent how much to whom and at what hour, and who tried what he may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from console import show
from console.log import DEFAULT_LIMIT, DEFAULT_SINCE, MAX_LIMIT
from console.params import Address, DomainName, Moment, Scope, configured, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import Config

Row = dict[str, Any]

COLUMNS: Final = ("hour", "client", "address", "name", "sent", "received", "connections", "marks")
TOP_COLUMNS: Final = ("client", "address", "name", "sent", "received", "connections", "first", "last", "marks")
ATTEMPT_COLUMNS: Final = (
    "at", "kind", "client", "mac", "address", "port", "name", "packets", "sent", "received", "agent",
)  # fmt: skip
_PROTOCOLS: Final = {0: "", 1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}


@click.command(
    short_help="Show who sends how much to whom.",
    epilog=examples(
        "plughole flows --top --since 7d",
        "plughole flows --client 10.1.0.0/16 --domain example.com",
        "plughole flows --attempts --json",
    ),
)
@configured
@click.option("--since", type=Moment(), default=DEFAULT_SINCE, show_default=True, help="From when on, as in `log`.")
@click.option("--until", type=Moment(), help="Until when, not included.")
@click.option("--client", type=Scope(), help="Only this address or prefix.")
@click.option("--address", type=Address(), help="Only to this address.")
@click.option("--domain", type=DomainName(), help="Only what the client knew by this name or one below it.")
@click.option("--literal", is_flag=True, help="Only to addresses the client was never answered.")
@click.option("--top", "by_pair", is_flag=True, help="One line a client and address, most sent first.")
@click.option("--attempts", "tried", is_flag=True, help="What clients tried: blocked addresses, ways past us.")
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True, help="Lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def flows(config: Config, *, by_pair: bool, tried: bool, limit: int, as_json: bool, **wanted: Any) -> None:
    """Show octets by hour, client and address, with the name by which the client knew it, the newest hour first.

    What egress agents see: see docs/egress-flows.md for what they need of the kernel. Marks: `literal`, an address the
    client was never answered; `bypass`, a resolver that is not this one.
    """
    from journal import flow_rows

    if by_pair and tried:
        raise click.UsageError("--top and --attempts exclude each other")
    ask = flow_rows.attempts if tried else flow_rows.top if by_pair else flow_rows.hours
    rows = ask(config.data_dir, flow_rows.Wanted(**wanted), limit=limit + 1)
    if len(rows) > limit:
        del rows[limit:]
        show.note(f"only the first {limit:,} lines are shown; --limit shows more, --since and filters fewer")
    if as_json:
        for row in rows:
            click.echo(show.json_text(row))
    elif rows:
        _print(rows, ATTEMPT_COLUMNS if tried else TOP_COLUMNS if by_pair else COLUMNS)
    else:
        show.note("nothing was seen in this time; `plughole status` says whether agents are heard")


def _print(rows: Sequence[Row], columns: Sequence[str]) -> None:
    show.table(columns, [[_cell(row, column) for column in columns] for row in rows])


def _cell(row: Row, column: str) -> Any:
    if column == "marks":
        return " ".join(mark for mark in ("literal", "bypass") if row[mark])
    if column == "port":
        protocol = _PROTOCOLS.get(row["protocol"], str(row["protocol"]))
        return f"{row['port']}/{protocol}" if row["port"] else protocol
    return row[column]
