"""The few errors that cross a module's border, each saying who is to blame."""

from __future__ import annotations

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for octets that are not what they should be, text that is no UTF-8 and deep nesting included."""


class PlugholeError(Exception):
    """Base of every error raised on purpose; its text is one clear line for a person."""


class BadName(PlugholeError, ValueError):
    """Text or bytes that are not a domain name."""


class Malformed(PlugholeError, ValueError):
    """Bytes from the network that are not a DNS message. The only error the wire cursor raises.

    `answerable` is true when the header could be read and belongs to a query, so that FORMERR may be sent.
    """

    def __init__(self, text: str, *, answerable: bool = False) -> None:
        super().__init__(text)
        self.answerable = answerable


class BadConfig(PlugholeError):
    """A configuration that cannot be used; `mistakes` lists every one with its path."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class BadFeed(PlugholeError):
    """A feed that is refused as a whole; the last good snapshot stays in force."""


class Unavailable(PlugholeError):
    """A part outside this process (Redis, hub, journal, library) that does not answer."""
