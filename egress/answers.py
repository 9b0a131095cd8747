"""What an agent answers to an order that somebody waits for, as JSON."""

from __future__ import annotations

from typing import Final

import msgspec

MAX_ROWS: Final = 10_000  # of one answer; `total` says how many there are


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A block for people."""

    address: str
    client: str = ""  # empty: every client
    domain: str = ""
    reason: str = ""
    evidence: str = ""
    expires: float = 0.0  # Unix seconds
    packets: int | None = None  # stopped; None: the firewall does not tell
    octets: int | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction for people."""

    number: int
    at: float
    what: str
    added: int
    removed: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a firewall would be told now."""

    firewall: str
    add: tuple[Row, ...] = ()
    renew: tuple[Row, ...] = ()
    remove: tuple[Row, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of an order at one agent."""

    agent: str
    at: float
    mode: str = ""
    panic: bool = False
    text: str = ""
    error: str = ""  # empty: done
    transaction: int = 0  # that it made; 0: none
    total: int = 0  # rows there are
    rows: tuple[Row, ...] = ()
    changes: tuple[Change, ...] = ()
    steps: tuple[Step, ...] = ()


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Answer).decode
