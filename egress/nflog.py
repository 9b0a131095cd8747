"""Who tried to reach a blocked address: the packets our rules log (NFLOG), as attempts.

Rules:
1. The first packet of a client to an address, protocol and port is told at once; those of the next WINDOW seconds are
   told together when the window ends.
2. A reply of a blocked address counts as an attempt of the client it is for: the client is who is not blocked.
3. The rules log at most so many packets a second (`limit` in nftables_rules), so `packets` is a lower bound.
4. Packets are a stranger's octets: what does not parse is counted, nothing is read past its end.

Layouts: linux/netfilter/nfnetlink_log.h, RFC 791, RFC 8200.
"""

from __future__ import annotations

import struct
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from egress.netlink import Listener, Malformed, attribute, attributes, general, messages
from egress.nftables_rules import LOG_GROUP, LOG_PREFIX_PIN
from egress.orders import Attempt
from egress.part import Hearing

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW: Final = 10.0  # seconds
MAX_OPEN: Final = 10_000  # windows at a time; the rules' limit fills 520
PIN: Final = "pin"
BLOCK: Final = "block"
PIN_PREFIX: Final = LOG_PREFIX_PIN

_SUBSYSTEM: Final = 4
_PACKET: Final = 0
_CONFIG: Final = 1
_CFG_CMD: Final = 1
_CFG_MODE: Final = 2
_CFG_QTHRESH: Final = 5
_CFG_FLAGS: Final = 6
_BIND: Final = 1
_COPY_PACKET: Final = 2
_SEQUENCE: Final = 1  # a flag: packets are numbered, so that a gap is what was lost
_COPIED: Final = 128  # octets of a packet: headers, the usual extensions, ports
_HWADDR: Final = 8
_PAYLOAD: Final = 9
_PREFIX: Final = 10
_SEQ: Final = 12
_U32: Final = struct.Struct("!I")
_PORTS: Final = struct.Struct("!HH")
_WITH_PORTS: Final = frozenset((6, 17, 33, 132, 136))  # TCP, UDP, DCCP, SCTP, UDP-Lite
_EXTENSIONS: Final = frozenset((0, 43, 51, 60, 135))  # RFC 8200 and 4302: hop-by-hop, routing, AH, options, mobility
_FRAGMENT: Final = 44
_AH: Final = 51
_MAX_EXTENSIONS: Final = 8
_NO_NEXT: Final = 59


class Logged(NamedTuple):
    """What the kernel says of one packet."""

    prefix: str
    payload: bytes
    mac: bytes  # of whoever handed the packet over, 6 octets, or empty
    number: int | None  # in the order of the kernel


class Packet(NamedTuple):
    """The head of an IP packet; ports are 0 where there are none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    destination_port: int = 0


class Attempts(Hearing):
    """The part of the agent that hears the log group. `is_blocked` says of a packed address that it is blocked."""

    title = "nflog"

    def __init__(
        self,
        agent: str,
        is_blocked: Callable[[bytes], bool],
        *,
        group: int = LOG_GROUP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._agent = agent
        self._is_blocked = is_blocked
        self._group = group
        self._clock = clock
        self._open: OrderedDict[tuple[bytes, bytes, int, int, str], Attempt] = (
            OrderedDict()
        )  # in the order their windows end
        self._next: int | None = None
        self._counts = {"packets": 0, "told": 0, "garbled": 0, "lost": 0, "overruns": 0, "not_kept": 0}

    def counters(self) -> dict[str, int]:
        """Return packets heard, attempts told, packets unread, lost on the way, overruns, packets past MAX_OPEN."""
        return {**self._counts, "open": len(self._open)}

    def _hear(self) -> None:
        listener = Listener(_SUBSYSTEM)
        try:
            bind(listener, self._group)
            self.trouble, self._next = "", None
            while not self._ending.is_set():
                self._wait(listener.fileno(), self._patience())
                for datagram in listener.take():
                    self.take(datagram, self._clock())
                self._counts["overruns"] += listener.overruns
                listener.overruns = 0
                self.tick(self._clock())
        finally:
            listener.close()
            self.tick(float("inf"))

    def _patience(self) -> float:
        """Return the seconds until a window ends."""
        first = next(iter(self._open.values()), None)
        return WINDOW if first is None else min(max(first.at + WINDOW - self._clock(), 0.0), WINDOW)

    def take(self, datagram: bytes, now: float) -> None:
        """Take in what the kernel sent: each packet is told, added to an open window, or counted as unread."""
        try:
            for message in messages(datagram):
                if message.kind == _SUBSYSTEM << 8 | _PACKET:
                    self._take_one(read(general(message)), now)
        except Malformed:
            self._counts["garbled"] += 1

    def _take_one(self, logged: Logged, now: float) -> None:
        self._counts["packets"] += 1
        if logged.number is not None:
            if self._next is not None:
                self._counts["lost"] += (logged.number - self._next) % (1 << 32)
            self._next = (logged.number + 1) % (1 << 32)
        self._add(self._attempt(logged, now))

    def _attempt(self, logged: Logged, now: float) -> Attempt:
        packet = parse(logged.payload)
        rule = PIN if logged.prefix.startswith(LOG_PREFIX_PIN) else BLOCK
        reply = rule == BLOCK and self._is_blocked(packet.source) and not self._is_blocked(packet.destination)
        if reply:  # the hardware address is that of the next router outside
            return Attempt(
                now, self._agent, packet.destination, packet.source, packet.protocol, packet.source_port, rule=rule
            )
        return Attempt(
            now, self._agent, packet.source, packet.destination, packet.protocol, packet.destination_port,
            logged.mac, rule,
        )  # fmt: skip

    def _add(self, attempt: Attempt) -> None:
        key = (attempt.client, attempt.address, attempt.protocol, attempt.port, attempt.rule)
        known = self._open.get(key)
        if known is not None and 0 <= attempt.at - known.at < WINDOW:
            self._open[key] = msgspec.structs.replace(
                known, packets=known.packets + attempt.packets, mac=known.mac or attempt.mac
            )
            return
        if known is not None:
            self._end(key)
        if len(self._open) >= MAX_OPEN:
            self._counts["not_kept"] += 1
            return
        self._open[key] = msgspec.structs.replace(attempt, packets=0)
        self._say(attempt)

    def tick(self, now: float) -> None:
        """The windows that have ended by now are told, where more came than was told already."""
        while self._open:
            key, first = next(iter(self._open.items()))
            if 0 <= now - first.at < WINDOW:
                return
            self._end(key)

    def _end(self, key: tuple[bytes, bytes, int, int, str]) -> None:
        rest = self._open.pop(key)
        if rest.packets:
            self._say(rest)

    def _say(self, attempt: Attempt) -> None:
        self._counts["told"] += 1
        self._tell(attempt)


def bind(listener: Listener, group: int) -> None:
    """The kernel sends the packets of this group one by one, their first octets only. Raises OSError.

    EBUSY: another program has the group. The logger of whole families (PF_BIND) is left as it is: it is the host's.
    """
    listener.command(_CONFIG, attribute(_CFG_CMD, bytes((_BIND,))), resource=group)
    mode = attribute(_CFG_MODE, struct.pack("!IBx", _COPIED, _COPY_PACKET))
    threshold = attribute(_CFG_QTHRESH, _U32.pack(1))
    flags = attribute(_CFG_FLAGS, struct.pack("!H", _SEQUENCE))
    listener.command(_CONFIG, mode + threshold + flags, resource=group)


def read(data: bytes) -> Logged:
    """Return what the attributes of a logged packet say; raises Malformed."""
    prefix, payload, mac, number = "", b"", b"", None
    for kind, content in attributes(data):
        if kind == _PAYLOAD:
            payload = content
        elif kind == _PREFIX:
            prefix = content.rstrip(b"\0").decode("ascii", "replace")
        elif kind == _HWADDR and content[:2] == b"\0\x06" and len(content) >= 10:
            mac = content[4:10]
        elif kind == _SEQ and len(content) == _U32.size:
            number = _U32.unpack(content)[0]
    return Logged(prefix, payload, mac, number)


def parse(data: bytes) -> Packet:
    """Return the head of an IPv4 or IPv6 packet that may be cut off; raises Malformed when its addresses are."""
    version = data[0] >> 4 if data else 0
    if version == 4:
        return _parse4(data)
    if version == 6:
        return _parse6(data)
    raise Malformed("no IP packet")


def _parse4(data: bytes) -> Packet:
    head = (data[0] & 0x0F) * 4
    if head < 20 or len(data) < 20:
        raise Malformed(f"an IPv4 header of {min(head, len(data))} octets")
    source, destination, protocol = data[12:16], data[16:20], data[9]
    later = (data[6] << 8 | data[7]) & 0x1FFF  # a fragment that is not the first has no ports
    return _with_ports(source, destination, protocol, b"" if later else data[head:])


def _parse6(data: bytes) -> Packet:
    if len(data) < 40:
        raise Malformed(f"an IPv6 header of {len(data)} octets")
    protocol, at = data[6], 40
    for _ in range(_MAX_EXTENSIONS):
        if protocol == _FRAGMENT and at + 8 <= len(data):
            later = (data[at + 2] << 8 | data[at + 3]) & 0xFFF8
            protocol, at = data[at], len(data) if later else at + 8
        elif protocol in _EXTENSIONS and at + 2 <= len(data):
            size = (data[at + 1] + 2) * 4 if protocol == _AH else (data[at + 1] + 1) * 8
            protocol, at = data[at], at + size
        else:
            break
    return _with_ports(data[8:24], data[24:40], protocol, data[at:])


def _with_ports(source: bytes, destination: bytes, protocol: int, rest: bytes) -> Packet:
    if protocol in _WITH_PORTS and len(rest) >= _PORTS.size:
        return Packet(source, destination, protocol, *_PORTS.unpack_from(rest))
    return Packet(source, destination, protocol)
