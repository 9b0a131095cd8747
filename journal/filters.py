"""What a reader asks for, checked once and turned into a SQL condition over a segment's raw columns."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from core import names
from core.errors import PlugholeError
from core.verdict import Action, Cause

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

BLOCKED: Final = "blocked"  # any action that keeps the true answer from the client

# What stands before the asked-for domain must not end in an escaped dot: `a\.example.com` is not below example.com.
_ESCAPED_DOT: Final = r"(^|[^\\])\\(\\\\)*$"

Kind = TypeVar("Kind", bound=IntEnum)


class Filter(NamedTuple):
    """Conditions that must all hold; None means any. Times are Unix seconds, `since` included, `until` not."""

    since: float | None = None
    until: float | None = None
    address: str | None = None
    network: IPv4Network | IPv6Network | None = None
    domain: str | None = None
    actions: tuple[int, ...] | None = None
    cause: int | None = None

    @classmethod
    def of(
        cls,
        *,
        since: float | None = None,
        until: float | None = None,
        client: str | None = None,
        domain: str | None = None,
        action: str | None = None,
        cause: str | None = None,
    ) -> Filter:
        """Return the filter of what a person typed; raises PlugholeError with one clear line."""
        address, network = (None, None) if client is None else _client(client)
        name = None if domain is None else names.to_text(names.from_text(domain))
        return cls(
            since,
            until,
            address,
            network,
            None if name == "." else name,
            None if action is None else _actions(action),
            None if cause is None else _member(Cause, cause, "cause").value,
        )

    def holds(self, client: str) -> bool:
        """True when the client lies in the asked-for network."""
        try:
            return self.network is None or ipaddress.ip_address(client) in self.network
        except ValueError:
            return False

    def sql(self) -> tuple[str, list[Any]]:
        """Return a condition without the network, and its values."""
        parts: list[tuple[str, list[Any]]] = []
        if self.since is not None:
            parts.append(('"at" >= ?', [_timestamp(self.since)]))
        if self.until is not None:
            parts.append(('"at" < ?', [_timestamp(self.until)]))
        if self.address is not None:
            parts.append(("client = ?", [self.address]))
        if self.domain is not None:
            parts.append(_below(self.domain))
        if self.actions is not None:
            parts.append(("list_contains(?, action)", [list(self.actions)]))
        if self.cause is not None:
            parts.append(("cause = ?", [self.cause]))
        return " AND ".join(text for text, _ in parts) or "true", [value for _, some in parts for value in some]


def _below(domain: str) -> tuple[str, list[Any]]:
    below = f".{domain}"
    text = (
        "(qname = ? OR (ends_with(qname, ?) AND "
        f"NOT regexp_matches(left(qname, length(qname) - {len(below)}), '{_ESCAPED_DOT}')))"
    )
    return text, [domain, below]


def _client(text: str) -> tuple[str | None, IPv4Network | IPv6Network | None]:
    try:
        if "/" in text:
            return None, ipaddress.ip_network(text, strict=False)
        return str(ipaddress.ip_address(text)), None
    except ValueError:
        raise PlugholeError(f"client: {text!r} is not an address or a prefix such as 10.0.0.0/8") from None


def _actions(text: str) -> tuple[int, ...]:
    if text.lower() == BLOCKED:
        return tuple(action.value for action in Action if action.blocks)
    return (_member(Action, text, "action", BLOCKED).value,)


def _member(kind: type[Kind], text: str, what: str, *also: str) -> Kind:
    try:
        return kind[text.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join([*(item.name for item in kind), *also])
        raise PlugholeError(f"{what}: {text!r} is not one of {known}") from None


def _timestamp(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (OverflowError, ValueError, OSError):
        raise PlugholeError(f"time: {seconds!r} is out of range") from None
