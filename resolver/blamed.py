"""Whom a block is about: from an event to the name or address that is to be learnt, and why, in words.

Rules:
1. A name that may carry data is never asked: of what a detector convicted only the name servers are, by their parent,
   and below a listed name only names of few plain words, and few of them an hour.
2. A block of some clients only is no reason to cut off the others: its case is `alone`.
3. What was blocked by what came back names the address, or the member of the chain that was judged.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from core.endpoints import packed
from core.errors import BadName
from core.names import Name, from_text, is_under, registered_domain, to_text
from core.verdict import Action, Cause, Trigger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.event import Event
    from core.verdict import Reason
    from feeds.overlay import Override

_CONVICTS: Final = frozenset((Cause.DETECTOR, Cause.CONVICTION))  # a worker's leak meter cuts before it convicts
LEARNT: Final = _CONVICTS | {Cause.INTEL, Cause.OVERRIDE}
MAX_PER_HOUR: Final = 8  # different names below a listed one that are asked
HOUR: Final = 3_600.0  # seconds
MAX_LISTED: Final = 20_000  # listed names remembered
MAX_TEXT: Final = 200  # characters of a reason
_PLAIN: Final = re.compile(rb"(?:[\x01-\x14][a-z][a-z0-9-]{0,19}){0,2}")  # labels behind their length octet
_MAX_DIGITS: Final = 3  # in a label: `cdn01` says nothing, hexadecimal does
_DIGITS: Final = re.compile(rb"[0-9]")
_ARPA: Final[Name] = b"\x04arpa\x00"
_QNAME: Final = Trigger.QNAME  # enum members are slow to reach through their class
_BY_ADDRESS: Final = frozenset((Trigger.ADDRESS, Trigger.HINT))


class Case(NamedTuple):
    """Why something is to be learnt."""

    client: bytes  # who asked
    domain: Name  # what the verdict is about
    below: bool  # the verdict covers the names below
    alone: bool  # for the client that asked, and nobody else
    reason: str
    evidence: str  # what was asked


class Blamed(NamedTuple):
    """What a block is about: an address that is bad itself, or a name to ask; with its name servers if `servers`."""

    case: Case
    address: bytes = b""
    name: Name = b""
    servers: bool = False
    host: bool = True  # False: the name is not asked for addresses, for its own server would hear of it


class Blamer:
    """Makes something to learn of blocked events; remembers which names were asked of late."""

    def __init__(self, spare: Iterable[str] = ()) -> None:
        """`spare`: categories of feeds from which nothing is learnt."""
        self._spare = frozenset(spare)
        self.held_back = 0  # names that were not asked as they may carry data
        self._everybody: frozenset[Name] = frozenset()  # names with an override for all clients
        self._asked: OrderedDict[Name, tuple[float, set[Name]]] = OrderedDict()  # below a listed name, since when
        self._names: dict[str, Name] = {}

    def follow(self, overrides: Iterable[Override]) -> None:
        """Know which overrides are for everybody."""
        self._everybody = frozenset(item.name for item in overrides if not item.client and item.view in {"", "default"})

    def repeats(self, event: Event) -> bool:
        """True at a glance for a name that would not be asked itself, as it may carry data below the listed one."""
        if event.trigger is not _QNAME or not event.reasons:
            return False
        below = event.qname[: -len(event.reasons[0].indicator) - 2]
        repeats = len(below) > 0 and (event.cause in _CONVICTS or not plain(below))
        self.held_back += repeats
        return repeats

    def blame(self, event: Event) -> Blamed | None:
        """Return what an event of a blocked question is about; None when there is nothing to learn."""
        reason = event.reasons[0] if event.reasons else None
        if reason is None or event.action is Action.TCP_ONLY or reason.category in self._spare:
            return None
        if event.trigger in _BY_ADDRESS and (address := packed(event.member)):
            return self._by_address(event, reason, address)
        listed = self._name(reason.indicator)
        member = event.qname if event.trigger is _QNAME else self._name(event.member)
        if not listed or not member or not is_under(member, listed) or listed.endswith(_ARPA):
            return None
        alone = event.cause is not Cause.INTEL and listed not in self._everybody
        convicted = event.cause in _CONVICTS
        tame = not convicted and self._tame(member, listed, event.at)
        below = event.cause is not Cause.INTEL or member != listed or registered_domain(listed) == listed
        evidence = to_text(member if tame else listed)
        case = Case(event.client, listed, below, alone, _words(event.cause, reason), evidence)
        if convicted:
            return Blamed(case, name=registered_domain(listed), servers=True, host=False)
        return Blamed(case, name=member if tame else listed, servers=not tame)

    def _by_address(self, event: Event, reason: Reason, address: bytes) -> Blamed:
        """The address is bad by itself; the name that led there is its domain and is not judged for those below."""
        name = to_text(event.qname)
        case = Case(event.client, event.qname, False, False, _words(event.cause, reason), f"{name} led to it")
        return Blamed(case, address=address)

    def _tame(self, name: Name, listed: Name, now: float) -> bool:
        """True when asking for the name gives nothing away that the listed name does not."""
        if name == listed:
            return True
        tame = plain(name[: len(name) - len(listed)]) and self._within(name, listed, now)
        self.held_back += not tame
        return tame

    def _within(self, name: Name, listed: Name, now: float) -> bool:
        since, names = self._asked.get(listed, (0.0, set[Name]()))
        if not since <= now < since + HOUR:
            names = set()
            self._asked[listed] = now, names
            self._asked.move_to_end(listed)
            if len(self._asked) > MAX_LISTED:
                self._asked.popitem(last=False)
        if name not in names and len(names) >= MAX_PER_HOUR:
            return False
        names.add(name)
        return True

    def _name(self, text: str) -> Name:
        """Return a name of text, remembered; empty for what is none."""
        name = self._names.get(text)
        if name is None:
            try:
                name = from_text(text)
            except BadName:
                name = b""
            if len(self._names) >= MAX_LISTED:
                self._names.clear()
            self._names[text] = name
        return name


def plain(below: bytes) -> bool:
    """True when what a name has below a listed one is at most two short labels of letters and a few digits."""
    if _PLAIN.fullmatch(below) is None:
        return False
    first = below[1 : 1 + below[0]] if below else b""
    return max(len(_DIGITS.findall(first)), len(_DIGITS.findall(below[1 + len(first) :]))) <= _MAX_DIGITS


def _words(cause: Cause, reason: Reason) -> str:
    """Return why in a few words."""
    if cause in _CONVICTS:
        words = f"{reason.indicator} is convicted: {reason.text}"
    elif cause is Cause.OVERRIDE:
        words = f"{reason.source} blocks {reason.indicator}: {reason.text}"
    else:
        detail = ", ".join([*([reason.category] if reason.category else []), str(reason.confidence)])
        words = f"feed {reason.source} lists {reason.indicator} ({detail})"
    return words[:MAX_TEXT]
