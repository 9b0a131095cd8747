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
    plain, wild, exceptions = sorted_out(suffix_list())
    return Rules(*(frozenset(map(_wire, some)) for some in (plain, wild, exceptions)))


def suffix_list() -> str:
    """Return the list as its keepers write it, its ICANN part before the line that begins the private one."""
    import publicsuffixlist

    return Path(publicsuffixlist.PSLFILE).read_text("utf-8")


def sorted_out(text: str) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Return the rules of a list as folded presentation names: plain ones, parents of `*.` rules, exceptions."""
    plain: set[bytes] = set()
    wild: set[bytes] = set()
    exceptions: set[bytes] = set()
    for line in text.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("//"):
            continue
        if rule.startswith("!"):
            exceptions.add(_ascii(rule[1:]))
        elif rule.startswith("*."):
            wild.add(_ascii(rule[2:]))
        else:
            plain.add(_ascii(rule))
    return plain, wild, exceptions


def _ascii(rule: str) -> bytes:
    return rule.lower().encode("ascii" if rule.isascii() else "idna")


def _wire(rule: bytes) -> bytes:
    return b"".join(bytes((len(part),)) + part for part in rule.split(b".")) + b"\x00"
