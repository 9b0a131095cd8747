"""ICANN's public suffixes: names that no feed may list, for one line would take a country off the net.

Suffixes of the list's private part (`github.io` and the like) may be listed: they are somebody's registered domain.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    import publicsuffixlist

    plain, wild, exceptions = set(), set(), set()
    for rule in _icann_rules(Path(publicsuffixlist.PSLFILE).read_text("utf-8")):
        if rule.startswith("!"):
            exceptions.add(_ascii(rule[1:]))
        elif rule.startswith("*."):
            wild.add(_ascii(rule[2:]))
        else:
            plain.add(_ascii(rule))
    return Suffixes(frozenset(plain), frozenset(wild), frozenset(exceptions))


def _icann_rules(text: str) -> Iterator[str]:
    for line in text.partition("===BEGIN PRIVATE DOMAINS===")[0].splitlines():
        rule = line.strip()
        if rule and not rule.startswith("//"):
            yield rule


def _ascii(rule: str) -> bytes:
    return rule.lower().encode("ascii" if rule.isascii() else "idna")
