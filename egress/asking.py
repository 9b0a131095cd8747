"""What an agent answers when it is asked what it holds or would change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.names import to_text
from egress.answers import MAX_ROWS, Answer, Change, Row, Step
from egress.plan import plan
from egress.rulings import text
from egress.translate import destination

if TYPE_CHECKING:
    from collections.abc import Iterable

    from egress.agent import Agent
    from egress.plan import Destination, Hold, Transaction, Wanted

MAX_CHANGES: Final = 100  # transactions told


def answer(agent: Agent, what: str, now: float) -> Answer:
    """Return what "list", "plan" or "changes" asks for; anything else is an error of a newer version."""
    ask = {"list": _list, "plan": _plan, "changes": _changes}.get(what)
    if ask is None:
        return Answer(agent=agent.name, at=now, mode=agent.mode, error=f"this agent does not know what {what!r} is")
    return ask(agent, now)


def _list(agent: Agent, now: float) -> Answer:
    counts = {destination(each.target): (each.packets, each.octets) for post in agent.posts for each in post.standing()}
    living = (row for row in agent.desk.ledger if row.expires > now)
    rows = sorted(living, key=lambda row: (row.domain, row.address, row.client))
    shown = tuple(_row(row, counts.get(row.destination)) for row in rows[:MAX_ROWS])
    return _answer(agent, now, rows=shown, total=len(rows))


def _row(row: Wanted, counts: tuple[int, int] | None) -> Row:
    return Row(
        address=text(row.address),
        client=text(row.client) if row.client else "",
        domain=to_text(row.domain),
        reason=row.reason,
        evidence=row.evidence,
        expires=row.expires,
        packets=counts[0] if counts else None,
        octets=counts[1] if counts else None,
    )


def _plan(agent: Agent, now: float) -> Answer:
    """Compare what is wanted with what each firewall holds; without one, with nothing."""
    wanted = () if agent.desk.panic else tuple(agent.desk.ledger)
    steps = []
    for post in agent.posts:
        present = {destination(each.target): now + each.seconds for each in post.standing()}
        steps.append(_step(post.name, wanted, present, now))
    return _answer(agent, now, steps=tuple(steps or [_step("", wanted, {}, now)]), total=len(wanted))


def _step(firewall: str, wanted: Iterable[Wanted], present: dict[Destination, float], now: float) -> Step:
    found = plan(wanted, present, now=now)
    return Step(
        firewall=firewall,
        add=tuple(map(_hold, found.add[:MAX_ROWS])),
        renew=tuple(map(_hold, found.renew[:MAX_ROWS])),
        remove=tuple(_to(to) for to in found.remove[:MAX_ROWS]),
    )


def _hold(hold: Hold) -> Row:
    return _to(hold.destination, hold.expires)


def _to(to: Destination, expires: float = 0.0) -> Row:
    return Row(address=text(to.address), client=text(to.client) if to.client else "", expires=expires)


def _changes(agent: Agent, now: float) -> Answer:
    last = agent.desk.ledger.transactions()[-MAX_CHANGES:]
    return _answer(agent, now, changes=tuple(map(_change, last)), total=len(agent.desk.ledger))


def _change(told: Transaction) -> Change:
    added = sum(change.after is not None for change in told.changes)
    return Change(number=told.number, at=told.at, what=told.what, added=added, removed=len(told.changes) - added)


def _answer(
    agent: Agent,
    now: float,
    *,
    total: int,
    rows: tuple[Row, ...] = (),
    changes: tuple[Change, ...] = (),
    steps: tuple[Step, ...] = (),
) -> Answer:
    return Answer(
        agent=agent.name,
        at=now,
        mode=agent.mode,
        panic=agent.desk.panic,
        total=total,
        rows=rows,
        changes=changes,
        steps=steps,
    )
