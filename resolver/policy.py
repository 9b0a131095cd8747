"""What is to be done with a name or an address: one pure `decide`, and the state it is asked with.

Rules:
1. The longest matching name wins; at equal length allow beats block, and block beats alert.
2. An analyst's override beats every feed and every conviction; among overrides the same two rules hold, the narrower
   scope first.
3. Everything that matched is kept as a reason, the deciding one first.
4. PASSTHRU on the question's name ends the judgement: its chain members and addresses are not looked at (as in RPZ).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from core.names import suffixes, to_text
from core.verdict import UNTOUCHED, Action, Cause, Reason, Trigger, Verdict
from resolver.answers import AnswerCache, RenderedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from core.names import Name
    from feeds.index import Index, Match
    from feeds.overlay import Override
    from resolver.rebind import Rebind

MAX_RULINGS: Final = 4_096  # combinations of source sets remembered; a feed set makes a few dozen
_STRENGTH: Final = {
    Action.PASSTHRU: 7, Action.DROP: 6, Action.NXDOMAIN: 5, Action.NODATA: 4, Action.SINKHOLE: 3, Action.TCP_ONLY: 2,
    Action.ALERT: 1, Action.NONE: 0,
}  # fmt: skip


class Ruling:
    """What was decided and by what: entry `depth` of the suffixes asked about, `override` when an analyst said so."""

    __slots__ = ("action", "cause", "depth", "matches", "override")

    def __init__(
        self,
        action: Action,
        cause: Cause,
        depth: int,
        matches: tuple[tuple[Match, ...] | None, ...] = (),
        override: Override | None = None,
    ) -> None:
        """`matches`: for each of the suffixes what is known of it."""
        self.action = action
        self.cause = cause
        self.depth = depth
        self.matches = matches
        self.override = override


NO_RULING: Final = Ruling(Action.NONE, Cause.NONE, 0)


def decide(overrides: Sequence[Override | None], matches: Sequence[tuple[Match, ...] | None]) -> Ruling:
    """Weigh what is known about a name and its parents; entry 0 is the name itself, then its parents upwards."""
    known = tuple(matches)
    for depth, override in enumerate(overrides):
        if override is not None:
            cause = Cause.CONVICTION if override.convicts else Cause.OVERRIDE
            return Ruling(override.action, cause, depth, known, override)
    for depth, found in enumerate(known):
        action = max(
            (match.action for match in found or () if (match.below if depth else match.exact)),
            key=_STRENGTH.__getitem__,
            default=Action.NONE,
        )
        if action is not Action.NONE:
            return Ruling(action, Cause.INTEL, depth, known)
    return NO_RULING


def address_key(address: bytes) -> bytes:
    """Return the key an address (4 or 16 octets) has beside names: no name starts with a zero byte but the root."""
    return b"\x00" + address


def key_text(key: bytes) -> str:
    """Return a name or an address key as text."""
    return to_text(key) if key[0] or len(key) == 1 else str(ip_address(key[1:]))


def verdict(ruling: Ruling, keys: Sequence[bytes], *, trigger: Trigger = Trigger.QNAME, member: str = "") -> Verdict:
    """Write a ruling out with all its reasons, the deciding one first. `keys` are the names that were asked about."""
    if ruling.action is Action.NONE:
        return UNTOUCHED
    reasons = [] if ruling.override is None else [_override_reason(ruling.override)]
    for depth, found in enumerate(ruling.matches):
        if found is None:
            continue
        indicator = key_text(keys[depth])
        reasons += [
            Reason(Cause.INTEL, match.action, match.source, indicator, match.category, match.confidence)
            for match in found
            if (match.below if depth else match.exact)
        ]
    if ruling.override is None and len(reasons) > 1:
        reasons.sort(key=lambda reason: reason.action is not ruling.action)  # stable: longest name stays first
    return Verdict(ruling.action, ruling.cause, tuple(reasons), trigger, member)


def _override_reason(override: Override) -> Reason:
    scope = f" for {override.client or override.view}" if override.client or override.view else ""
    text = f"{override.reason} ({override.by}{scope})" if override.by else f"{override.reason}{scope}"
    cause = Cause.CONVICTION if override.convicts else Cause.OVERRIDE
    return Reason(cause, override.action, override.by or "analyst", key_text(override.name), text=text)


@dataclass(slots=True, eq=False)
class View:
    """What one group of clients sees: the overrides that apply to it, and its own caches."""

    name: str
    rendered: RenderedCache
    answers: AnswerCache
    overrides: dict[bytes, Override] = field(default_factory=dict)


class Policy:
    """The intelligence index, the analysts' overrides and the views they make.

    `epoch` changes whenever an answer judged before may be judged otherwise now.
    """

    def __init__(self, *, cache_bytes: int, rebind: Rebind | None = None) -> None:
        """`cache_bytes`: what the answers of one view may hold; scoped views get a sixteenth."""
        self.rebind = rebind
        self.epoch = 1
        self.ready = False
        self.index: Index | None = None
        self._rulings: dict[tuple[int | None, ...], Ruling] = {}
        self._none: list[list[None]] = [[None] * depth for depth in range(130)]
        self._overrides: tuple[Override, ...] = ()
        self._cache_bytes = cache_bytes
        self.default = self._view("default", cache_bytes)
        self._scoped: dict[tuple[int, ...], View] = {}
        self._expiry = float("inf")

    def use_index(self, index: Index | None) -> Index | None:
        """Judge by `index` from now on; returns the one that went out of use, for the caller to close."""
        old, self.index = self.index, index
        self._rulings.clear()
        self.epoch += 1
        self.ready = True
        return old

    def use_overrides(self, overrides: Sequence[Override], now: float) -> None:
        """Judge by these overrides from now on; the expired among them are left out."""
        self._overrides = tuple(item for item in overrides if not item.expires or item.expires > now)
        self._expiry = min((item.expires for item in self._overrides if item.expires), default=float("inf"))
        self._scoped.clear()
        self.default.overrides = self._resolved(lambda item: not item.client and item.view in ("", "default"))
        self.epoch += 1

    def tick(self, now: float) -> bool:
        """Drop overrides that expired; returns true when any did."""
        if now < self._expiry:
            return False
        self.use_overrides(self._overrides, now)
        return True

    def view_of(self, client: bytes) -> View:
        """Return the view of a client address (4 or 16 octets). Ask again when `epoch` changed."""
        scoped = [index for index, item in enumerate(self._overrides) if item.client]
        if not scoped:
            return self.default
        address = ip_address(client)
        mine = tuple(index for index in scoped if _covers(self._overrides[index].client, address))
        if not mine:
            return self.default
        view = self._scoped.get(mine)
        if view is None:
            view = self._view(f"client {address}", self._cache_bytes // 16)
            chosen = {id(self._overrides[index]) for index in mine}
            view.overrides = self._resolved(
                lambda item: id(item) in chosen or (not item.client and item.view in ("", "default"))
            )
            self._scoped[mine] = view
        return view

    def rule(self, keys: list[Name], view: View) -> Ruling:
        """Decide about a name, given as itself and its parents (`core.names.suffixes`), longest first."""
        index = self.index
        found = index.find(keys) if index is not None else self._none[len(keys)]
        if view.overrides:
            overrides = [view.overrides.get(key) for key in keys]
            if any(overrides):
                return decide(overrides, self._sets(found))
        if found == self._none[len(found)]:
            return NO_RULING
        memo = tuple(found)
        ruling = self._rulings.get(memo)
        if ruling is None:
            if len(self._rulings) >= MAX_RULINGS:
                self._rulings.clear()
            ruling = self._rulings[memo] = decide((), self._sets(found))
        return ruling

    def explain(self, name: Name, view: View) -> Verdict:
        """Return the verdict on a name with every reason."""
        keys = suffixes(name)
        return verdict(self.rule(keys, view), keys)

    def _sets(self, found: Sequence[int | None]) -> tuple[tuple[Match, ...] | None, ...]:
        sets = self.index.sets if self.index is not None else ()
        return tuple(None if number is None else sets[number] for number in found)

    def _resolved(self, applies: Callable[[Override], bool]) -> dict[bytes, Override]:
        """One override a name: the narrowest scope, then allow before block."""
        chosen: dict[bytes, Override] = {}
        for item in sorted((o for o in self._overrides if applies(o)), key=_precedence):
            chosen.setdefault(item.name, item)
        return chosen

    def _view(self, name: str, size: int) -> View:
        return View(name, RenderedCache(size // 2), AnswerCache(size // 2))


def _precedence(item: Override) -> tuple[bool, int, int]:
    """People before detectors, the narrower scope first, then the stronger action."""
    width = ip_network(item.client, strict=False).prefixlen + 1 if item.client else 0
    return (item.convicts, -width, -_STRENGTH[item.action])


def _covers(scope: str, address: IPv4Address | IPv6Address) -> bool:
    return address in ip_network(scope, strict=False)
