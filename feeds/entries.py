"""The words of this package: what one line of a feed says, what a parsed feed holds."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

MAX_EXAMPLES: Final = 20  # bad and unsupported lines quoted in a report, each
MAX_QUOTE: Final = 80  # characters of a line that are quoted


class Scope(NamedTuple):
    """What a line says about its name: an exception or not, the name itself, the names below."""

    allow: bool = False
    exact: bool = True
    below: bool = True


class BadLine(msgspec.Struct, frozen=True):
    """A line that was passed over: its number from 1, why, and its first characters made printable."""

    line: int
    reason: str
    text: str


class Parsed(msgspec.Struct):
    """A feed as read. `names` are folded presentation names without the trailing dot, each once within its scope.

    The names are keys with the value 0, so that the names of the first feed are a table of set 0 as they stand.
    """

    syntax: str
    names: dict[Scope, dict[bytes, int]] = msgspec.field(default_factory=dict)
    lines: int = 0
    comments: int = 0  # blank lines, comments and the localhost block of hosts files
    bad: int = 0
    unsupported: int = 0
    overruled: int = 0  # exceptions that the feed's own `$important` rules beat
    bad_lines: list[BadLine] = msgspec.field(default_factory=list)
    unsupported_lines: list[BadLine] = msgspec.field(default_factory=list)

    @property
    def count(self) -> int:
        """How many entries there are; a name that is blocked and excepted counts twice."""
        return sum(map(len, self.names.values()))

    def refuse(self, line: int, reason: str, text: bytes) -> None:
        """Count a line that is wrong, quoting the first MAX_EXAMPLES."""
        self.bad += 1
        if len(self.bad_lines) < MAX_EXAMPLES:
            self.bad_lines.append(BadLine(line, reason, quote(text)))

    def pass_over(self, line: int, reason: str, text: bytes) -> None:
        """Count a line that is right but asks for what DNS cannot do, quoting the first MAX_EXAMPLES."""
        self.unsupported += 1
        if len(self.unsupported_lines) < MAX_EXAMPLES:
            self.unsupported_lines.append(BadLine(line, reason, quote(text)))


def quote(text: bytes) -> str:
    """Return the first MAX_QUOTE characters with everything unprintable replaced, fit for a terminal."""
    shown = text[: 4 * MAX_QUOTE].decode("utf-8", "replace").strip()[:MAX_QUOTE]
    return "".join(char if char.isprintable() else "?" for char in shown)
