"""ICANN's public suffixes: names that no feed may list, for one line would take a country off the net.

Suffixes of the list's private part (`github.io` and the like) may be listed: they are somebody's registered domain.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from core.suffix_rules import sorted_out, suffix_list


class Suffixes(NamedTuple):
    """The rules as folded presentation names: listed, parents of `*.` rules, and `!` exceptions."""

    plain: frozenset[bytes]
    wild: frozenset[bytes]
    exceptions: frozenset[bytes]

    def holds(self, name: bytes) -> bool:
        """True when the name itself is a public suffix."""
        if name in self.plain:
            return True
        return name.partition(b".")[2] in self.wild and name not in self.exceptions

    def positions(self, names: list[bytes], doubtful: list[int]) -> list[int]:
        """Return where in the list public suffixes stand. `doubtful`: where names end as a `*.` rule's parent does."""
        if self.plain.isdisjoint(names):
            return [at for at in doubtful if self.holds(names[at])]
        return [at for at, name in enumerate(names) if self.holds(name)]

    def wild_endings(self) -> list[bytes]:
        """Return how names below a `*.` rule's parent end: three or four octets."""
        return sorted({(b"." + parent)[-4:] for parent in self.wild})


@cache
def icann_suffixes() -> Suffixes:
    """Read the list that publicsuffixlist carries, ICANN part only; 50 ms once a process."""
    plain, wild, exceptions = sorted_out(suffix_list().partition("===BEGIN PRIVATE DOMAINS===")[0])
    return Suffixes(frozenset(plain), frozenset(wild), frozenset(exceptions))
