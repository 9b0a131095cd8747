"""One line of what happened: what a worker tells the hub about a query, or about many equal ones.

Events cross a process border in batches, so the packed form is short: addresses as 4 or 16 bytes, names as folded wire
bytes, reasons only when there are any.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from core.names import Name
from core.verdict import Action, Cause, Reason, Trigger


class Transport(IntEnum):
    """How the question came in."""

    UDP = 0
    TCP = 1
    DOT = 2
    DOH = 3
    DOQ = 4


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A query and its outcome. Times are Unix seconds, durations microseconds."""

    at: float
    client: bytes  # 4 or 16 bytes
    qname: Name
    qtype: int
    rcode: int
    action: Action = Action.NONE
    cause: Cause = Cause.NONE
    transport: Transport = Transport.UDP
    cached: bool = False
    count: int = 1  # equal cache hits of one client in one second are one event
    duration: int = 0  # microseconds from receipt to reply
    size: int = 0  # octets of the reply
    ttl: int = 0  # seconds, the lowest of the reply
    upstream: str = ""  # which server or engine answered
    secure: bool = False  # DNSSEC-validated
    answers: tuple[bytes, ...] = ()  # addresses of the reply, 4 or 16 bytes each
    reasons: tuple[Reason, ...] = ()
    trigger: Trigger = Trigger.QNAME
    member: str = ""  # the chain member that was judged, when it is not the question's name
    view: str = ""
    payload: bytes = b""  # record data of a fresh answer that is no address, for the detectors; the journal has none


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch", gc=False):
    """What a worker sends the hub in one datagram: events, and how many it had to drop since the last batch."""

    worker: int
    events: list[Event]
    dropped: int = 0


encode_batch = msgspec.msgpack.Encoder().encode
decode_batch = msgspec.msgpack.Decoder(Batch).decode
