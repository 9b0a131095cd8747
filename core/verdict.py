"""What is to be done with a name and every reason why: two small enums, a Reason and a Verdict."""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Action(IntEnum):
    """What happens to the query: RPZ's actions (draft-vixie-dnsop-dns-rpz-00 section 3), plus ALERT and none at all."""

    NONE = 0  # nobody said anything: resolve
    PASSTHRU = 1  # somebody said allow: resolve
    ALERT = 2  # resolve and tell
    NODATA = 3
    NXDOMAIN = 4
    SINKHOLE = 5  # answer with the sinkhole address
    DROP = 6  # no answer
    TCP_ONLY = 7  # truncate over UDP

    @property
    def blocks(self) -> bool:
        """True when the true answer does not reach the client."""
        return self >= Action.NODATA


class Cause(IntEnum):
    """What kind of knowledge decided."""

    NONE = 0
    OVERRIDE = 1  # an analyst
    INTEL = 2  # a feed
    DETECTOR = 3
    CONVICTION = 4
    CONTEXT = 5  # user, group, device, hour, application
    LOCAL = 6  # local and special-use names
    ACCESS = 7  # access control and rate limits
    UPSTREAM = 8  # nobody could answer, or DNSSEC says bogus
    REBIND = 9  # a name of the Internet that points inside


class Trigger(IntEnum):
    """Which part of the conversation was judged, after RPZ's triggers."""

    QNAME = 0
    CNAME = 1
    ADDRESS = 2
    NSDNAME = 3
    HINT = 4  # an address hint or target of SVCB and HTTPS
    CLIENT = 5


class Reason(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One piece of knowledge that matched. All that match are kept, not only the one that won."""

    cause: Cause
    action: Action
    source: str  # feed, detector or person
    indicator: str  # the name or address that matched, as text
    category: str = ""
    confidence: int = 0  # 0-100
    text: str = ""  # a sentence for a person

    def line(self) -> str:
        """Return the reason as one line for a person."""
        detail = ", ".join(
            part for part in (self.category, f"confidence {self.confidence}" if self.confidence else "") if part
        )
        head = f"{self.action.name} by {self.cause.name.lower()} {self.source}: {self.indicator}"
        return " - ".join(part for part in (f"{head} ({detail})" if detail else head, self.text) if part)


class Verdict(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The decision on one query: an action, its cause and all reasons, the deciding one first."""

    action: Action = Action.NONE
    cause: Cause = Cause.NONE
    reasons: tuple[Reason, ...] = ()
    trigger: Trigger = Trigger.QNAME
    member: str = ""  # the chain member, address or hint that was judged, when it is not the question's name

    @property
    def blocks(self) -> bool:
        """True when the true answer does not reach the client."""
        return self.action >= Action.NODATA


UNTOUCHED = Verdict()
