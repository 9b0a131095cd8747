"""Bytes of a feed to names: fast for the lines that are plainly good, careful with the rest, never lost by a bad one.

Rules:
1. A bad line costs that line. A feed is refused as a whole (BadFeed) only when it passes a cap.
2. Line numbers count from 1 in the bytes as fetched.
3. `$important` is settled inside the feed: such a rule removes the feed's own plain exceptions for what it covers.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from core.errors import BadFeed
from feeds.bulk import read_lines
from feeds.entries import Parsed, Scope
from feeds.formats import LOCAL_NAMES, Refused, Unsupported, detect, read_line
from feeds.suffixes import icann_suffixes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feeds.suffixes import Suffixes

CHUNK: Final = 4 * 1024 * 1024  # octets looked at together: bounds the memory, and stays near the processor's cache
MAX_NAMES: Final = 20_000_000  # names of one feed; they take about 3 GB while they are merged
MAX_ODD: Final = 2_000_000  # lines that need a closer look; about 10 s of work
_BOM: Final = b"\xef\xbb\xbf"


def parse(data: bytes, syntax: str = "auto") -> Parsed:
    """Return everything the feed says; raises BadFeed when it holds more than MAX_NAMES names or MAX_ODD odd lines."""
    text = data.removeprefix(_BOM)
    parsed = Parsed(detect(text) if syntax == "auto" else syntax)
    reader = _Reader(parsed, icann_suffixes())
    for chunk in _chunks(text):
        if chunk.endswith(b"\n"):
            reader.read(chunk.replace(b"\r\n", b"\n").lower() if b"\r" in chunk else chunk.lower())
        else:
            reader.skip(chunk)
    reader.finish()
    return parsed


def _chunks(text: bytes) -> Iterator[bytes]:
    """Yield runs of whole lines, each ending in a newline, and the start of any line longer than CHUNK without one."""
    at, end = 0, len(text)
    while at < end:
        stop = text.rfind(b"\n", at, at + CHUNK) + 1
        if stop:
            yield text[at:stop]
        elif end - at <= CHUNK:
            yield text[at:] + b"\n"
            stop = end
        else:
            yield text[at : at + 512].replace(b"\n", b" ")
            stop = text.find(b"\n", at) + 1 or end
        at = stop


class _Reader:
    def __init__(self, parsed: Parsed, suffixes: Suffixes) -> None:
        self._parsed = parsed
        self._suffixes = suffixes
        self._endings = suffixes.wild_endings()
        self._taken: dict[Scope, list[list[bytes]]] = {}
        self._count = 0
        self._odd = 0
        self._important: set[bytes] = set()
        self._important_allowed: set[bytes] = set()

    def read(self, chunk: bytes) -> None:
        """Take a lower-case chunk of whole lines."""
        parsed, first = self._parsed, self._parsed.lines + 1
        found = read_lines(chunk, parsed.syntax, self._endings)
        parsed.lines += chunk.count(b"\n")
        parsed.comments += found.comments
        names = found.names
        for at in reversed(self._suffixes.positions(names, found.doubtful)):
            line = int(found.name_lines[at]) + first
            parsed.refuse(line, "a public suffix: it would cover everybody below it", names.pop(at))
        self._take(Scope(), names)
        if found.odd_lines:
            self._read_odd(chunk.split(b"\n"), found.odd_lines, first)

    def skip(self, start: bytes) -> None:
        """Count a line too long to be looked at."""
        self._parsed.lines += 1
        self._parsed.refuse(self._parsed.lines, f"line of more than {CHUNK} octets", start)

    def finish(self) -> None:
        """Put the names where they belong, each once, without the exceptions that the feed's important rules beat."""
        for scope, lists in self._taken.items():
            self._parsed.names[scope] = dict.fromkeys(chain.from_iterable(lists), 0)
        if self._parsed.syntax == "hosts":
            self._drop_local()
        self._settle_important()

    def _drop_local(self) -> None:
        """Take out `localhost.localdomain` and its like, which the fast reader lets through."""
        names = self._parsed.names.get(Scope(), {})
        for name in map(str.encode, LOCAL_NAMES):
            if name in names:
                del names[name]
                self._parsed.comments += 1

    def _take(self, scope: Scope, names: list[bytes]) -> None:
        self._count += len(names)
        if self._count > MAX_NAMES:
            raise BadFeed(f"more than {MAX_NAMES:,} names; split the feed")
        if names:
            self._taken.setdefault(scope, []).append(names)

    def _settle_important(self) -> None:
        if not self._important:
            return
        for scope, names in self._parsed.names.items():
            if scope.allow:
                beaten = [name for name in names if name not in self._important_allowed and self._is_important(name)]
                self._parsed.overruled += len(beaten)
                for name in beaten:
                    del names[name]

    def _read_odd(self, lines: list[bytes], odd: list[int], first: int) -> None:
        self._odd += len(odd)
        if self._odd > MAX_ODD:
            raise BadFeed(f"more than {MAX_ODD:,} lines that are no plain names; is this a list of names?")
        for at in odd:
            self._read_line(lines[at], first + at)

    def _read_line(self, line: bytes, number: int) -> None:
        parsed = self._parsed
        try:
            entry = read_line(line, parsed.syntax, self._suffixes)
        except Refused as reason:
            parsed.refuse(number, str(reason), line)
        except Unsupported as reason:
            parsed.pass_over(number, str(reason), line)
        else:
            if not entry.names:
                parsed.comments += 1
            self._take(entry.scope, entry.names)
            if entry.important:
                (self._important_allowed if entry.scope.allow else self._important).update(entry.names)

    def _is_important(self, name: bytes) -> bool:
        while name:
            if name in self._important:
                return True
            name = name.partition(b".")[2]
        return False
