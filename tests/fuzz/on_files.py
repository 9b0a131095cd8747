"""Targets around what is read from elsewhere: feeds, index and state files, what workers say, configuration, hosts."""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from fuzz import seeds
from fuzz.damage import damage

from core.config_load import parse as parse_config
from core.errors import UNREADABLE, BadConfig, BadFeed, BadName
from core.event import Batch, Event
from core.names import MAX_NAME, from_text, labels, to_text
from feeds.formats import Refused, Unsupported, read_line
from feeds.index import _HEADER, MAGIC, Index, _digest
from feeds.parse import parse
from feeds.suffixes import icann_suffixes
from journal.columns import Texts, block, height
from resolver.control import State, decode_said, intel_dir, read_state
from resolver.cookies import MAX_SECRETS, load
from resolver.hosts import parse_hosts
from resolver.rates import Rates

SYNTAXES: Final = ("auto", "plain", "hosts", "wildcard", "adblock")
SANE: Final = 2**32  # seconds since 1970, and numbers a worker counts
_NOT_A_LETTER: Final = re.compile("[^A-Z0-9_]")
FORGED: Final = 0x80  # bit of a run's first octet: the rest is metadata, not a script of damage


@cache
def folder() -> Path:
    """Where the files of this process lie."""
    made = tempfile.TemporaryDirectory(prefix="fuzz-")
    _kept().append(made)
    return Path(made.name)


@cache
def _kept() -> list[tempfile.TemporaryDirectory[str]]:
    """Folders that are to stay until the process ends."""
    return []


def feed(data: bytes) -> None:
    """A feed gives the names its lines give one by one, each a name that may be asked for; no line is lost."""
    syntax, text = SYNTAXES[(data[0] if data else 0) % len(SYNTAXES)], data[1:]
    try:
        parsed = parse(text, syntax)
    except BadFeed:
        return
    body = text.removeprefix(b"\xef\xbb\xbf")
    assert parsed.lines == body.count(b"\n") + (1 if body and not body.endswith(b"\n") else 0)
    assert parsed.comments + parsed.bad + parsed.unsupported <= parsed.lines + len(seeds.LISTS) * 100
    found = {(scope, name) for scope, names in parsed.names.items() for name in names}
    for _, name in found:
        assert name == name.lower()
        wire = from_text(name.decode("ascii"))
        assert len(wire) <= MAX_NAME
        assert len(labels(wire)) >= 2
    if b"important" not in body.lower():
        assert found == _line_by_line(body, parsed.syntax)


def _line_by_line(body: bytes, syntax: str) -> set[tuple[object, bytes]]:
    """What the careful reader says of every line."""
    found: set[tuple[object, bytes]] = set()
    for line in body.replace(b"\r\n", b"\n").lower().split(b"\n"):
        with suppress(Refused, Unsupported):
            entry = read_line(line, syntax, icann_suffixes())
            found |= {(entry.scope, name) for name in entry.names}
    return found


def index(data: bytes) -> None:
    """A damaged index is refused; one whose metadata is other than it should be, but whole, does no harm either."""
    switch, rest = data[0] if data else 0, data[1:]
    good, path = seeds.index(), folder() / "1.index"
    found = _with_metadata(good, rest) if switch & FORGED else damage(good, rest)
    path.write_bytes(found)
    try:
        opened = Index.open(path)
    except BadFeed as error:
        assert "\n" not in str(error)
        return
    numbers = opened.find([from_text(name) for name in (*seeds.INDEXED, "other.example")])
    opened.close()
    assert switch & FORGED or found == good, "damage was not seen"
    assert numbers[-1] is None


def _with_metadata(good: bytes, text: bytes) -> bytes:
    """Return a good index with other metadata, and a digest that fits it."""
    _, size, rest, _ = _HEADER.unpack_from(good)
    text += b" " * (-len(text) % 8)
    return _HEADER.pack(MAGIC, len(text), rest, _digest(text)) + text + good[_HEADER.size + size :]


def state(data: bytes) -> None:
    """A state file is read, or counts as none."""
    place = intel_dir(folder())
    place.mkdir(exist_ok=True)
    (place / "state").write_bytes(data)
    assert isinstance(read_state(folder()), State)


def said(data: bytes) -> None:
    """What a worker says is understood or refused, and what is understood can be counted and written down."""
    try:
        found = decode_said(data)
    except UNREADABLE:
        return
    events = [event for event in found.events if _sane(event)] if isinstance(found, Batch) else []
    if events:
        Rates().add(events)
        assert height(block(events, Texts())) == len(events)


def _sane(event: Event) -> bool:
    """True when its numbers are such as a worker may say: names and texts are what strangers choose."""
    numbers = (event.at, event.qtype, event.rcode, event.count, event.duration, event.size, event.ttl)
    return all(0 <= number < SANE for number in numbers)


def config(data: bytes) -> None:
    """A configuration is read, or every mistake is one line for a person."""
    text = data.decode("utf-8", "replace")
    variables = {}
    if text.startswith("#!"):  # the first line is for the environment
        first, _, text = text.partition("\n")
        key, _, value = first[2:].partition("=")
        variables = {f"PLUGHOLE_{_NOT_A_LETTER.sub('_', key)}": value}
    try:
        parse_config(text, variables, Path("/etc"))
    except BadConfig as error:
        assert error.mistakes
        assert all(line and len(line.splitlines()) == 1 for line in error.mistakes)


def hosts(data: bytes) -> None:
    """A hosts file gives names and addresses, or is refused with the line that is wrong."""
    try:
        found = parse_hosts(data, "hosts")
    except BadConfig as error:
        assert all(line and len(line.splitlines()) == 1 for line in error.mistakes)
        return
    assert all(one.names and all(2 <= len(name) <= MAX_NAME for name in one.names) for one in found)


def secrets(data: bytes) -> None:
    """A file of cookie secrets is read or refused, and what stands in it is in no message."""
    path = folder() / "secrets"
    path.write_bytes(data)
    try:
        found = load(path)
    except BadConfig as error:
        text = str(error)
        assert all(len(line) < 24 or line.decode("latin-1") not in text for line in data.split())
        return
    assert 1 <= len(found) <= MAX_SECRETS
    assert {len(secret) for secret in found} == {16}


def names(data: bytes) -> None:
    """Text is a name or is not; a name goes to text and comes back."""
    try:
        name = from_text(data.decode("utf-8", "replace"))
    except BadName:
        return
    assert len(name) <= MAX_NAME
    assert name == name.lower()
    assert from_text(to_text(name)) == name
