"""The rules of publicsuffix.org's list, private part included, as folded wire names: below which people register."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple


class Rules(NamedTuple):
    """Listed suffixes, parents of `*.` rules (suffixes, too), and the names `!` takes out of these."""

    plain: frozenset[bytes]
    wild: frozenset[bytes]
    exceptions: frozenset[bytes]


@cache
def rules() -> Rules:
    """Read the list that publicsuffixlist carries; 30 ms once a process."""
    import publicsuffixlist

    plain, wild, exceptions = set(), set(), set()
    for line in Path(publicsuffixlist.PSLFILE).read_text("utf-8").splitlines():
        rule = line.strip()
        if not rule or rule.startswith("//"):
            continue
        if rule.startswith("!"):
            exceptions.add(_wire(rule[1:]))
        elif rule.startswith("*."):
            wild.add(_wire(rule[2:]))
        else:
            plain.add(_wire(rule))
    return Rules(frozenset(plain), frozenset(wild), frozenset(exceptions))


def _wire(rule: str) -> bytes:
    text = rule.lower().encode("ascii" if rule.isascii() else "idna")
    return b"".join(bytes((len(part),)) + part for part in text.split(b".")) + b"\x00"
