"""What resolvers, analysts and agents tell each other through Redis: orders to agents, what agents refuse and see.

Keys: `egress` STREAM of orders, which every agent reads whole; `egress:refused` STREAM of what a guard or brake
refused; `egress:seen` STREAM of what agents saw, of which one hub takes each entry; `egress:agents` HASH of each
agent's last heartbeat; `egress:answer:ID` LIST of the agents' answers to one order, which expires.

Rules:
1. An entry of a stream has one field, `m`: the packed message.
2. A message that can not be read is counted and passed over: a newer version may have written it.
3. Times are Unix seconds; addresses are packed, 4 or 16 octets, names folded wire octets.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from core.names import Name
from egress.plan import Proposal

ORDERS: Final = "egress"
REFUSED: Final = "egress:refused"
SEEN: Final = "egress:seen"
AGENTS: Final = "egress:agents"
ANSWER: Final = "egress:answer:"
FIELD: Final = b"m"
MAX_ORDERS: Final = 100_000  # entries kept
MAX_REFUSED: Final = 10_000
MAX_SEEN: Final = 100_000
ANSWER_TTL: Final = 60  # seconds


class _Message(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", gc=False):
    """Base of all that is sent."""


class Block(_Message, frozen=True, tag="block"):
    """Addresses a resolver's guard let pass. A TTL counts from `at`."""

    at: float
    node: str
    proposals: tuple[Proposal, ...]


class Release(_Message, frozen=True, tag="release"):
    """No row names the domain or the address any more, nor for as long as told; one of both is empty."""

    at: float
    by: str
    reason: str
    address: bytes = b""
    domain: Name = b""
    until: float = 0.0  # 0: what is there goes, and may come back
    reply: str = ""  # the ID under which the answer is awaited; empty: nobody waits


class Flush(_Message, frozen=True, tag="flush"):
    """No row is left."""

    at: float
    by: str
    reason: str
    reply: str = ""


class Undo(_Message, frozen=True, tag="undo"):
    """A transaction of the agents is undone, or all since a time."""

    at: float
    by: str
    number: int = 0
    since: float = 0.0
    reply: str = ""


class Panic(_Message, frozen=True, tag="panic"):
    """Nothing is blocked while the switch is on; rows stay."""

    at: float
    by: str
    reason: str
    on: bool
    reply: str = ""


class Ask(_Message, frozen=True, tag="ask"):
    """Each agent answers with what it holds ("list") or would change now ("plan")."""

    at: float
    what: str
    reply: str


Order: TypeAlias = Block | Release | Flush | Undo | Panic | Ask


class Refusal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was not blocked, by whom (a node or an agent), by which rule, and why in words."""

    at: float
    who: str
    address: bytes
    client: bytes
    domain: Name
    rule: str
    reason: str


class Attempt(_Message, frozen=True, tag="attempt"):
    """A client tried to reach a blocked address, or, `rule` "pin", one it was never answered."""

    at: float
    agent: str
    client: bytes
    address: bytes
    protocol: int  # of IP: 6 TCP, 17 UDP
    port: int  # at the destination; 0: the protocol has none
    mac: bytes = b""
    rule: str = "block"
    packets: int = 1


class Flow(_Message, frozen=True, tag="flow"):
    """Octets between a client and an address since the last entry about them."""

    at: float
    agent: str
    client: bytes
    address: bytes
    sent: int  # octets by the client
    received: int
    connections: int = 1  # that there were


class Talking(_Message, frozen=True, tag="talking"):
    """What open connections of a client to an address had carried when a block of it was ordered."""

    at: float
    agent: str
    client: bytes
    address: bytes
    sent: int  # octets by the client; both 0: the kernel does not count
    received: int
    since: float  # the first connection began; 0: not noted
    connections: int = 1


Report: TypeAlias = Attempt | Flow | Talking


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry of `egress:seen`: many things at once."""

    events: tuple[Report, ...]


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself every few seconds, as JSON."""

    name: str
    at: float
    started: float
    mode: str
    panic: bool
    rows: int
    blocked: int  # targets in the firewall
    refused: int
    attempts: int
    firewalls: dict[str, str]  # each one's name: "" when it does as told, else its trouble
    transaction: int  # the number of the last one


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_refusal = msgspec.msgpack.Decoder(Refusal).decode
decode_seen = msgspec.msgpack.Decoder(Seen).decode
