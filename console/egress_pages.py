"""How `plughole egress` shows what agents answer: tables for people, objects for `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from console import show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress.answers import Answer, Row
    from egress.orders import Refusal


def document(answers: Iterable[Answer], missing: list[str]) -> dict[str, Any]:
    """Return what agents answered, as `--json` prints it."""
    return {"agents": [_agent_row(answer) for answer in answers], "missing": missing}


def _agent_row(answer: Answer) -> dict[str, Any]:
    return {
        "agent": answer.agent,
        "mode": answer.mode,
        "panic": answer.panic,
        "text": answer.text,
        "error": answer.error or None,
        "change": answer.transaction or None,
        "total": answer.total,
        "rows": [_row(row) for row in answer.rows],
        "changes": [
            {"change": each.number, "at": show.moment(each.at), "what": each.what, "added": each.added,
             "removed": each.removed}
            for each in answer.changes
        ],
        "steps": [
            {"firewall": step.firewall, "add": _targets(step.add), "renew": _targets(step.renew),
             "remove": _targets(step.remove)}
            for step in answer.steps
        ],
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    return {
        "address": row.address,
        "client": row.client or None,
        "domain": row.domain,
        "reason": row.reason,
        "evidence": row.evidence,
        "expires": show.moment(row.expires),
        "packets": row.packets,
        "octets": row.octets,
    }


def _targets(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        {"address": row.address, "client": row.client or None, "expires": show.moment(row.expires) or None}
        for row in rows
    ]


def rows(answers: list[Answer]) -> None:
    """Show what is to be blocked, and why it is not."""
    columns = ("address", "client", "domain", "reason", "evidence", "expires", "packets", "octets", "agent")
    cells = [
        (row.address, row.client or "any", row.domain, row.reason, row.evidence, show.moment(row.expires),
         "" if row.packets is None else row.packets, "" if row.octets is None else row.octets, answer.agent)
        for answer in answers
        for row in answer.rows
    ]  # fmt: skip
    if cells:
        show.table(columns, cells)
    for answer in answers:
        if answer.panic:
            show.note(f"{answer.agent}: panic is on, nothing is blocked; `plughole egress panic off` ends it")
        elif answer.mode != "enforce":
            show.note(f"{answer.agent}: mode {answer.mode}, nothing is blocked")
        if answer.total > len(answer.rows):
            show.note(f"{answer.agent}: {len(answer.rows):,} of {answer.total:,} are shown")
        if not answer.total:
            show.note(f"{answer.agent}: nothing is to be blocked")


def changes(answers: list[Answer]) -> None:
    """Show the numbered changes."""
    columns = ("change", "at", "what", "added", "removed", "agent")
    cells = [
        (each.number, show.moment(each.at), each.what, each.added, each.removed, answer.agent)
        for answer in answers
        for each in answer.changes
    ]
    show.table(columns, cells)


def steps(answers: list[Answer]) -> None:
    """Show what each firewall would be told."""
    for answer in answers:
        for step in answer.steps:
            where = f"{answer.agent}, {step.firewall or 'no firewall'}"
            counts = f"{len(step.add):,} to add, {len(step.renew):,} to renew, {len(step.remove):,} to remove"
            show.line(f"{where}: {counts}")
            for mark, part in (("+", step.add), ("~", step.renew), ("-", step.remove)):
                for row in part:
                    until = f" until {show.moment(row.expires)}" if row.expires else ""
                    show.line(f"  {mark} {row.address}{f' for {row.client}' if row.client else ''}{until}")


def refusals(found: list[Refusal], *, as_json: bool) -> None:
    """Show what was not blocked, and why."""
    rows = [_refused_row(each) for each in found]
    if as_json:
        show.document(rows)
    elif rows:
        columns = ("at", "address", "client", "domain", "rule", "reason", "who")
        show.table(columns, [[row[key] or "any" for key in columns] for row in rows])
    else:
        show.note("nothing was refused")


def _refused_row(refusal: Refusal) -> dict[str, Any]:
    from core.names import to_text
    from egress.rulings import text

    return {
        "at": show.moment(refusal.at),
        "address": text(refusal.address),
        "client": text(refusal.client) if refusal.client else None,
        "domain": to_text(refusal.domain),
        "rule": refusal.rule,
        "reason": refusal.reason,
        "who": refusal.who,
    }
