"""Many feeds to one table: every name once, with the number of the set of all sources that list it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.verdict import Action
from feeds.index import Match, SourceSet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.config import Source
    from feeds.entries import Parsed, Scope

_ACTIONS = (("block", Action.SINKHOLE), ("alert", Action.ALERT), ("allow", Action.PASSTHRU))


class Table:
    """Presentation names to set numbers, and the sets. Equal sets share a number."""

    def __init__(self) -> None:
        self.names: dict[bytes, int] = {}
        self.sets: list[SourceSet] = []
        self._numbers: dict[SourceSet, int] = {}

    def add(self, match: Match, names: dict[bytes, int]) -> None:
        """Put one match on every name of a group; they come with the value 0. About 0.1 s a million names."""
        mine = self._number((match,))
        fresh = dict.fromkeys(names, mine) if self.names else names
        if self.names:
            grown: dict[int, int] = {}
            for name in self.names.keys() & fresh.keys():
                before = self.names[name]
                if before not in grown:
                    known = self.sets[before]
                    grown[before] = before if match in known else self._number((*known, match))
                fresh[name] = grown[before]
        self.names = self.names | fresh if self.names else fresh

    def _number(self, found: SourceSet) -> int:
        number = self._numbers.setdefault(found, len(self._numbers))
        if number == len(self.sets):
            self.sets.append(found)
        return number


def merge(feeds: Iterable[tuple[Source, Parsed]]) -> Table:
    """Return the table of all feeds, in the order given. Sources that are off are left out."""
    table = Table()
    for source, parsed in feeds:
        if source.mode == "off":
            continue
        for scope, names in parsed.names.items():
            if names:
                table.add(_match(source, scope), names)
    return table


def _match(source: Source, scope: Scope) -> Match:
    action = Action.PASSTHRU if scope.allow else dict(_ACTIONS)[source.mode]
    exact, below = (scope.exact, scope.below) if source.subdomains else (True, False)
    return Match(source.name, source.category, source.confidence, action, exact, below)
