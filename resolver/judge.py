"""The verdict on a question and on everything its reply brought: chain members, addresses, hints, name servers."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from core.names import Name, suffixes
from core.verdict import UNTOUCHED, Action, Cause, Reason, Trigger, Verdict
from resolver.policy import NO_RULING, Policy, Ruling, View, address_key, key_text, verdict
from resolver.rebind import lies_inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resolver.subjects import Subject

_PASSTHRU: Final = Action.PASSTHRU  # enum members are slow to reach through their class
_SPARED: Final = frozenset((Action.NONE, Action.PASSTHRU))


def judge(policy: Policy, keys: list[Name], ruling: Ruling, met: Sequence[Subject], view: View) -> Verdict:
    """Return the verdict on a question (`keys`, `ruling`) whose reply brought `met`, all by the same rules."""
    worst = UNTOUCHED if ruling is NO_RULING else verdict(ruling, keys)
    if ruling.action is _PASSTHRU:
        return worst
    rebind = policy.rebind
    for trigger, value, address in met:
        if address and rebind is not None and lies_inside(value) and not rebind.spares(keys):
            return _worse(worst, rebound(Trigger(trigger), value))
        named = [address_key(value)] if address else suffixes(value)
        said = policy.rule(named, view)
        if said is NO_RULING or said.action in _SPARED:
            continue
        found = verdict(said, named, trigger=Trigger(trigger), member=key_text(named[0]))
        worst = _worse(worst, found)
    return worst


def rebound(trigger: Trigger, address: bytes) -> Verdict:
    """Return the verdict on a name outside that points to `address`, which lies inside."""
    text = str(ip_address(address))
    reason = Reason(Cause.REBIND, Action.NODATA, "rebind protection", text, "rebinding", 100)
    return Verdict(Action.NODATA, Cause.REBIND, (reason,), trigger, text)


def _worse(first: Verdict, second: Verdict) -> Verdict:
    """The one that blocks, else the one that says more; the reasons of both are kept."""
    if second.action > first.action or (second.action is Action.ALERT and first.action is Action.PASSTHRU):
        first, second = second, first
    reasons = first.reasons + tuple(reason for reason in second.reasons if reason not in first.reasons)
    return Verdict(first.action, first.cause, reasons, first.trigger, first.member)
