"""What a worker and the agent say to each other about pins, over one socket of the kind SEQPACKET.

Rules:
1. A worker sends one `Told` an answer. The agent sends back numbers of what it has read, several to a packet, once
   each address is open or it knows why not.
2. A packet that does not parse ends the connection: both sides belong to one installation.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from core.config import Config, Ttl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SOCKET: Final = "egress.sock"  # in the data folder, unless `egress.pin_socket` says otherwise
MAX_ADDRESSES: Final = 64  # told of one answer; none that a client uses has as many
MAX_PACKET: Final = 4096  # octets either side sends at most
_ACK: Final = struct.Struct("=Q?")
ACKS: Final = MAX_PACKET // _ACK.size  # numbers of one packet at most


Address = Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]


class Told(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A client was answered these addresses; packed, 4 or 16 octets each, whatever the client's family."""

    number: int
    client: Address
    seconds: Ttl  # for which the client may keep them
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]

    def __post_init__(self) -> None:
        """Refuse what is no packed address; msgspec turns the error into its own."""
        if any(len(address) not in {4, 16} for address in (self.client, *self.addresses)):
            raise ValueError("an address has 4 or 16 octets")


encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Told).decode  # raises what core.errors.UNREADABLE holds


def pack(acks: Iterable[tuple[int, bool]]) -> bytes:
    """Return a packet of at most ACKS pairs: a number, and whether all its addresses are open."""
    return b"".join([_ACK.pack(number, done) for number, done in acks])


def unpack(packet: bytes) -> Iterator[tuple[int, bool]]:
    """Yield what `pack` was given; raises ValueError for a packet it did not make."""
    if len(packet) % _ACK.size:
        raise ValueError(f"a packet of {len(packet)} octets, no multiple of {_ACK.size}")
    yield from _ACK.iter_unpack(packet)


def path_of(config: Config) -> Path:
    """Return where the agent listens."""
    given = config.egress.pin_socket
    return Path(config.base) / given if given else config.data_dir / SOCKET
