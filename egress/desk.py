"""What orders make of the ledger: every order in turn is judged, changes rows, and says what came of it.

Rules:
1. No firewall, file, clock or Redis is known here; times are the agent's, Unix seconds.
2. What the brakes refuse is told, never dropped silently.
3. A block counts from when it was ordered: one that would have run out by now is not put.
4. What a person takes back is gone for every client and for all that lies below a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from core.names import MAX_NAME, ROOT, Name, is_under, suffixes, to_text
from egress.caps import Caps
from egress.orders import Ask, Block, Flush, Panic, Refusal, Release, Undo
from egress.plan import CannotUndo, Change, Destination, Kept, Ledger, Proposal, Transaction, Wanted
from egress.rulings import Rule, refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from egress.orders import Order
    from egress.ranges import Ranges

MAX_WHAT: Final = 200  # characters of a transaction's label


class Reply(NamedTuple):
    """What came of an order that somebody waits for."""

    ident: str
    said: str
    error: str = ""
    transaction: int = 0


class Outcome(msgspec.Struct):
    """What orders changed, for those who write it down, tell firewalls and answer."""

    rows: dict[tuple[Destination, Name], Wanted | None] = {}
    transactions: list[Transaction] = []
    refusals: list[Refusal] = []
    replies: list[Reply] = []
    asks: list[Ask] = []
    released: bool = False  # the brakes have more, or less, to keep
    switched: bool = False  # panic began or ended
    fresh: list[Destination] = []  # blocked by an order that were not before


class Desk:
    """The ledger and all that decides what gets into it."""

    def __init__(self, ledger: Ledger, caps: Caps, *, name: str) -> None:
        self.ledger = ledger
        self.caps = caps
        self.refused = 0  # proposals
        self._name = name

    @property
    def panic(self) -> bool:
        """True while nothing is to be blocked."""
        return self.caps.panic

    def do(self, order: Order, outcome: Outcome, *, at: float, now: float) -> None:
        """The order is done, given at `at`; what it changed is added to the outcome."""
        match order:
            case Block():
                self._block(order, outcome, min(at, now), now)
            case Release():
                self._release(order, outcome, now)
            case Flush():
                gone = self.ledger.drop(list(self.ledger), now=now, what=_what("flush", order.by, order.reason))
                self._changed(outcome, gone, order.reply, "no row is left")
            case Undo():
                self._undo(order, outcome, now)
            case Panic():
                outcome.switched = outcome.switched or order.on != self.panic
                self.caps.panic = order.on
                said = "nothing is blocked, rows stay" if order.on else "blocked again"
                self._reply(outcome, order.reply, f"panic {'on' if order.on else 'off'}: {said}")
            case _:
                outcome.asks.append(order)

    def shift(self, seconds: float) -> None:
        """All that is known ends as many seconds from now as before the clock was set."""
        self.ledger.load(_moved(self.ledger.dump(), seconds))
        kept = self.caps.dump()
        self.caps = Caps(self.caps.settings, self.caps.never, self.caps.carriers)  # the last minute is another one
        self.caps.load(
            msgspec.structs.replace(
                kept,
                addresses=tuple((address, until + seconds) for address, until in kept.addresses),
                domains=tuple((domain, until + seconds) for domain, until in kept.domains),
            )
        )

    def shorten(self, now: float) -> int:
        """No row ends later than the longest block would from now on; returns how many did."""
        latest = now + self.ledger.lifetimes.ceiling
        kept = self.ledger.dump()
        late = sum(row.expires > latest for row in kept.rows)
        if late:
            rows = tuple(msgspec.structs.replace(row, expires=min(row.expires, latest)) for row in kept.rows)
            self.ledger.load(msgspec.structs.replace(kept, rows=rows))
        return late

    def forbid(self, never: Ranges, now: float) -> Outcome:
        """No row names what is never blocked from now on."""
        self.caps.never = never
        outcome = Outcome()
        gone = []
        for row in self.ledger:
            ruling = self.caps.forbids(_proposal(row), now=now)
            if ruling is not None:
                gone.append(row)
                outcome.refusals.append(ruling.refusal(now, self._name))
        self.refused += len(gone)
        self._changed(outcome, self.ledger.drop(gone, now=now, what="never blocked on this host"))
        return outcome

    def _block(self, order: Block, outcome: Outcome, at: float, now: float) -> None:
        if at + self.ledger.lifetimes.ceiling <= now:
            return
        sound = [proposal for proposal in order.proposals if _is_name(proposal.domain)]
        rulings = self.caps.admit(sound, self.ledger, now=at)
        if len(sound) < len(order.proposals):
            bad = (proposal for proposal in order.proposals if not _is_name(proposal.domain))
            rulings += [refused(proposal, Rule.MALFORMED, "no domain") for proposal in bad]
        passed = [ruling.proposal for ruling in rulings if ruling.passes]
        self.refused += len(rulings) - len(passed)
        outcome.refusals += [ruling.refusal(now, self._name) for ruling in rulings if not ruling.passes]
        if not passed:
            return
        fresh = dict.fromkeys(to for each in passed if not self._holds(to := each.destination))
        made = self.ledger.want(passed, now=at, what=_what("block", order.node, _named(passed)))
        outcome.fresh += [to for to in fresh if self.ledger.holds(to)]
        self._changed(outcome, made)
        for proposal in passed:
            to = Destination(proposal.address, proposal.client)
            if row := self.ledger.row(to, proposal.domain):
                outcome.rows[to, proposal.domain] = row

    def _holds(self, to: Destination) -> bool:
        return self.ledger.holds(to) or self.ledger.holds(Destination(to.address))

    def _release(self, order: Release, outcome: Outcome, now: float) -> None:
        if len(order.address) not in {0, 4, 16}:
            self._reply(outcome, order.reply, "", error=f"{order.address.hex()} is no address")
            return
        if order.until > now:
            self.caps.release(address=order.address, domain=order.domain, until=order.until)
            outcome.released = True
        gone = [row for row in self.ledger if _meant(row, order)]
        what = _what("release", order.by, order.reason)
        made = self.ledger.drop(gone, now=now, what=what)
        said = f"{len(gone)} row{'' if len(gone) == 1 else 's'} released" if gone else "nothing was blocked for it"
        self._changed(outcome, made, order.reply, said)

    def _undo(self, order: Undo, outcome: Outcome, now: float) -> None:
        try:
            if order.number:
                made = self.ledger.undo(order.number, now=now)
            else:
                made = self.ledger.undo_since(order.since, now=now)
        except CannotUndo as fault:
            self._reply(outcome, order.reply, "", error=str(fault))
            return
        if made is not None and self._lift([change.after for change in made.changes if change.after]):
            outcome.released = True
        self._changed(outcome, made, order.reply, f"{len(made.changes)} rows as before" if made else "nothing to undo")

    def _lift(self, rows: Sequence[Wanted]) -> bool:
        """No release stands against these rows any more; returns whether one did."""
        back = {row.address for row in rows}
        names = {name for row in rows for name in suffixes(row.domain)}
        kept = self.caps.dump()
        left = msgspec.structs.replace(
            kept,
            addresses=tuple(told for told in kept.addresses if told[0] not in back),
            domains=tuple(told for told in kept.domains if told[0] not in names),
        )
        self.caps.load(left)
        return left != kept

    def _changed(self, outcome: Outcome, made: Transaction | None, reply: str = "", said: str = "") -> None:
        if made is not None:
            outcome.transactions.append(made)
            for change in made.changes:
                row = change.after or change.before
                if row is not None:
                    key = Destination(row.address, row.client), row.domain
                    outcome.rows[key] = change.after
        self._reply(outcome, reply, said, transaction=made.number if made else 0)

    @staticmethod
    def _reply(outcome: Outcome, reply: str, said: str, *, error: str = "", transaction: int = 0) -> None:
        if reply:
            outcome.replies.append(Reply(reply, said, error, transaction))


def _proposal(row: Wanted) -> Proposal:
    return Proposal(row.address, row.client, row.domain, row.reason, 0.0, row.evidence)


def _moved(kept: Kept, seconds: float) -> Kept:
    """Return all of a ledger with its ends as much later."""

    def moved(row: Wanted | None) -> Wanted | None:
        return row and msgspec.structs.replace(row, expires=row.expires + seconds)

    return Kept(
        tuple(msgspec.structs.replace(row, expires=row.expires + seconds) for row in kept.rows),
        tuple(
            Transaction(
                each.number,
                each.at + seconds,
                each.what,
                tuple(Change(moved(change.before), moved(change.after)) for change in each.changes),
            )
            for each in kept.transactions
        ),
        tuple((to, domain, times, ended + seconds) for to, domain, times, ended in kept.repeats),
        kept.number,
    )


def _is_name(wire: bytes) -> bool:
    """True for what can be walked label by label to its end."""
    at = 0
    while at < len(wire) <= MAX_NAME and 0 < wire[at] < 64:
        at += wire[at] + 1
    return at > 0 and wire[at:] == ROOT


def _meant(row: Wanted, order: Release) -> bool:
    if order.address:
        return row.address == order.address
    return bool(order.domain) and is_under(row.domain, order.domain)


def _named(proposals: Iterable[Proposal]) -> str:
    names = dict.fromkeys(proposal.domain for proposal in proposals)
    first = to_text(next(iter(names)))
    return f"{first} and {len(names) - 1} more" if len(names) > 1 else first


def _what(kind: str, who: str, why: str) -> str:
    return f"{kind} by {who}: {why}"[:MAX_WHAT]
