"""A client of the kernel's netfilter over netlink sockets: transactions and listings, and what the kernel tells.

Rules:
1. A transaction is one datagram and is taken whole or not at all; the kernel names each message it refuses.
2. A listing that was overtaken by a change, or lost a piece, is read again from its start.
3. The kernel is trusted to answer, not to be understood: whatever does not parse raises `Malformed`.
4. The socket belongs to the network namespace it was opened in. One thread uses it at a time.

Layouts: netlink(7), linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NESTED: Final = 0x8000  # a flag of an attribute's kind
REQUEST: Final = 0x001
ACK: Final = 0x004
CREATE: Final = 0x400
_DUMP: Final = 0x300
_DUMP_INTERRUPTED: Final = 0x010
_CAPPED: Final = 0x100  # of an error: the refused message is not repeated in it
_TLVS: Final = 0x200  # of an error: attributes follow
_KIND_MASK: Final = 0x3FFF

_ERROR: Final = 2
_DONE: Final = 3
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11

_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_OFFSET: Final = 2  # the attribute of an error that says where in the message the kernel stumbled

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_INT: Final = struct.Struct("=i")
_UNSIGNED: Final = struct.Struct("=I")
_SUBSYSTEM: Final = 10  # nf_tables
_GENERAL: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource
HEADERS: Final = _HEADER.size + _GENERAL.size  # octets of a message before its attributes
MAX_ATTRIBUTE: Final = 0xFFFF  # octets, its header included

_SEND_BUFFER: Final = 16 << 20  # octets; one transaction must fit, see `Netfilter.limit`
_RECEIVE_BUFFER: Final = 4 << 20
_NEWS_BUFFER: Final = 16 << 20  # of a listener; the kernel counts about 1 KiB a message
_DATAGRAM: Final = 1 << 18  # octets; the kernel fills at most 32 KiB of a listing at a time
_OVERHEAD: Final = 4096  # octets of the send buffer left to the kernel's own bookkeeping and to begin and end
_PATIENCE: Final = 5.0  # seconds for an answer; the kernel gives it before the send returns
MAX_TAKEN: Final = 4096  # datagrams at once
_Thing = TypeVar("_Thing")
_ATTEMPTS: Final = 8  # listings read again before it is given up


class Malformed(PlugholeError, ValueError):
    """Octets that are no netlink message."""


class Request(NamedTuple):
    """A message of nf_tables: its kind, its flags beside REQUEST, its family, its attributes."""

    kind: int
    flags: int
    family: int
    payload: bytes


class Refusal(NamedTuple):
    """The request that failed (its place; -1: the whole transaction), why, and where in its octets if known."""

    request: int
    errno: int
    offset: int | None


class Message(NamedTuple):
    kind: int
    flags: int
    sequence: int
    payload: bytes


def attribute(kind: int, data: bytes) -> bytes:
    """Return one attribute, padded to four octets; ValueError when it is too long for its length field."""
    size = _ATTRIBUTE.size + len(data)
    if size > MAX_ATTRIBUTE:
        raise ValueError(f"an attribute of {size} octets, at most {MAX_ATTRIBUTE}")
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that is a string with a zero at its end."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (kind without its flags, content) of each attribute; raise `Malformed` for a length that can not be."""
    at, end = 0, len(data)
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise Malformed(f"{end - at} octets left where an attribute begins")
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= size <= end - at:
            raise Malformed(f"an attribute of {size} octets where {end - at} are left")
        yield kind & _KIND_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += size + (-size % 4)


def messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram; raise `Malformed` for a length that can not be."""
    at, end = 0, len(data)
    while at < end:
        if end - at < _HEADER.size:
            raise Malformed(f"{end - at} octets left where a message begins")
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= size <= end - at:
            raise Malformed(f"a message of {size} octets where {end - at} are left")
        yield Message(kind, flags, sequence, data[at + _HEADER.size : at + size])
        at += size + (-size % 4)


def error(message: Message) -> tuple[int, int | None]:
    """Return the errno (0: done as told) an error message carries and the offset it names, if any."""
    if len(message.payload) < _INT.size:
        raise Malformed("an error without a number")
    number = -_INT.unpack_from(message.payload)[0]
    if number < 0:
        raise Malformed(f"an error numbered {number}")
    if message.kind != _ERROR or not message.flags & _TLVS:
        return number, None
    if len(message.payload) < _INT.size + _HEADER.size:
        raise Malformed("an error that does not say what failed")
    skipped = _HEADER.size if message.flags & _CAPPED else _UNSIGNED.unpack_from(message.payload, _INT.size)[0]
    for kind, content in attributes(message.payload[_INT.size + skipped + (-skipped % 4) :]):
        if kind == _OFFSET and len(content) == _UNSIGNED.size:
            return number, _UNSIGNED.unpack(content)[0]
    return number, None


def general(message: Message) -> bytes:
    """Return the attributes of a message of netfilter; raise `Malformed` when it has no general header."""
    if len(message.payload) < _GENERAL.size:
        raise Malformed("a message without its general header")
    return message.payload[_GENERAL.size :]


def whole(read: Callable[[], list[_Thing]], key: Callable[[_Thing], object]) -> list[_Thing]:
    """Return what `read` lists once it lists nothing twice; of some attempts the last, whatever it lists.

    A set that the kernel still moves to a larger table shows some elements twice, and others not at all.
    """
    for _ in range(_ATTEMPTS):
        found = read()
        if len(set(map(key, found))) == len(found):
            break
    return found


def _encode(kind: int, flags: int, sequence: int, rest: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(rest), kind, flags | REQUEST, sequence, 0) + rest


def _encode_request(request: Request, extra: int, sequence: int) -> bytes:
    rest = _GENERAL.pack(request.family, 0, 0) + request.payload
    return _encode(_SUBSYSTEM << 8 | request.kind, request.flags | extra, sequence, rest)


def _buffer(sock: socket.socket, forced: int, asked: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:  # in a user namespace of our own: what the host grants must do
        sock.setsockopt(socket.SOL_SOCKET, asked, size)


class Netfilter:
    """One socket to nf_tables of the network namespace it is made in. Every method raises OSError for a lost answer."""

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            _buffer(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER)
            _buffer(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._socket.bind((0, 0))
            self._socket.settimeout(_PATIENCE)
        except OSError:
            self._socket.close()
            raise

    @property
    def limit(self) -> int:
        """How many octets the requests of one transaction may have together, their headers counted."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def transaction(self, requests: Sequence[Request]) -> list[Refusal]:
        """All requests are done, or none is and what the kernel refused is returned, at least one.

        Raises OSError: EMSGSIZE past `limit`, EPERM without CAP_NET_ADMIN, ENOBUFS or ETIMEDOUT when the answer was
        lost and what became of the transaction is unknown.
        """
        if not requests:
            return []
        begin = self._reserve(len(requests) + 2)
        last = begin + len(requests)
        parts = [_encode(_BATCH_BEGIN, 0, begin, _GENERAL.pack(0, 0, _SUBSYSTEM))]
        for number, request in enumerate(requests, begin + 1):
            parts.append(_encode_request(request, ACK if number == last else 0, number))
        parts.append(_encode(_BATCH_END, 0, last + 1, _GENERAL.pack(0, 0, _SUBSYSTEM)))
        self._socket.send(b"".join(parts))
        return self._answers(begin, last)

    def _answers(self, begin: int, last: int) -> list[Refusal]:
        """Return the refusals among the answers, read up to that of the last request or one for the whole."""
        refusals: list[Refusal] = []
        while True:
            for message in self._receive():
                if message.kind != _ERROR or not begin <= message.sequence <= last + 1:
                    continue  # what is left of an exchange that was given up
                number, offset = error(message)
                if message.sequence in {begin, last + 1} and number in {errno.EPERM, errno.EACCES}:
                    raise PermissionError(number, os.strerror(number))
                if number:
                    whole = message.sequence in {begin, last + 1}
                    refusals.append(Refusal(-1 if whole else message.sequence - begin - 1, number, offset))
                if message.sequence == last or (number and refusals[-1].request < 0):
                    return refusals

    def listing(self, kind: int, family: int, payload: bytes) -> list[bytes]:
        """Return the attributes of each thing listed, all as of one moment; OSError with the kernel's errno if none."""
        for _ in range(_ATTEMPTS):
            sequence = self._reserve(1)
            self._socket.send(_encode_request(Request(kind, _DUMP, family, payload), 0, sequence))
            try:
                found = self._pieces(sequence)
            except OSError as failure:
                if failure.errno not in {errno.EINTR, errno.ENOBUFS}:
                    raise
                continue
            if found is not None:
                return found
        raise OSError(errno.EINTR, "the rules change faster than they can be listed")

    def _pieces(self, sequence: int) -> list[bytes] | None:
        """Return what the listing brought; None when it was overtaken by a change."""
        found: list[bytes] = []
        overtaken = False
        while True:
            for message in self._receive():
                if message.sequence != sequence:
                    continue
                overtaken = overtaken or bool(message.flags & _DUMP_INTERRUPTED)
                if message.kind in {_ERROR, _DONE}:
                    number = error(message)[0] if message.payload else 0
                    if number:
                        raise OSError(number, os.strerror(number))
                    return None if overtaken else found
                found.append(general(message))

    def _receive(self) -> list[Message]:
        """Return the messages of the next datagram from the kernel."""
        return list(messages(_from_kernel(self._socket)))

    def _reserve(self, count: int) -> int:
        """Return the first of so many sequence numbers in a row."""
        if self._sequence + count >= 0xFFFFFFFF:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first


class Listener:
    """A socket to one subsystem of netfilter of the namespace it is made in, which tells of itself what happens.

    Every method raises OSError, such as EPERM without CAP_NET_ADMIN.
    """

    def __init__(self, subsystem: int) -> None:
        self._subsystem = subsystem << 8
        self.overruns = 0  # how often the kernel had more to tell than there was room
        self._sequence = 0
        self._early: list[bytes] = []  # datagrams that came while an answer was awaited
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            _buffer(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, _NEWS_BUFFER)
            self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
            self._socket.bind((0, 0))
            self._socket.settimeout(_PATIENCE)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, which is readable when there is something to take."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def join(self, group: int) -> None:
        """The news of a multicast group are told from now on."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def command(self, kind: int, payload: bytes, *, family: int = 0, resource: int = 0) -> None:
        """The kernel did as told, or OSError says why not."""
        wanted = self._send(kind, ACK, family, resource, payload)
        while True:
            data = _from_kernel(self._socket)
            for message in messages(data):
                if message.kind == _ERROR and message.sequence == wanted:
                    if number := error(message)[0]:
                        raise OSError(number, os.strerror(number))
                    return
            self._early.append(data)

    def take(self) -> list[bytes]:
        """Return the datagrams that are there, at most MAX_TAKEN, without waiting; what was lost counts an overrun."""
        found, self._early = self._early, []
        self._socket.setblocking(False)
        try:
            while len(found) < MAX_TAKEN:
                try:
                    found.append(_from_kernel(self._socket))
                except BlockingIOError:
                    break
                except OSError as failure:
                    if failure.errno != errno.ENOBUFS:
                        raise
                    self.overruns += 1
        finally:
            self._socket.settimeout(_PATIENCE)
        return found

    def dump(self, kind: int, payload: bytes = b"", *, family: int = 0) -> Iterator[list[Message]]:
        """Yield what there is, some messages at a time, while it may change."""
        wanted = self._send(kind, _DUMP, family, 0, payload)
        while True:
            some: list[Message] = []
            for message in messages(_from_kernel(self._socket)):
                if message.sequence != wanted:
                    continue
                if message.kind in {_ERROR, _DONE}:
                    if number := error(message)[0] if message.payload else 0:
                        raise OSError(number, os.strerror(number))
                    yield some
                    return
                some.append(message)
            yield some

    def _send(self, kind: int, flags: int, family: int, resource: int, payload: bytes) -> int:
        """Return the sequence number under which it was sent."""
        self._sequence = self._sequence % 0xFFFFFFFE + 1
        rest = _GENERAL.pack(family, 0, resource) + payload
        self._socket.send(_encode(self._subsystem | kind, flags, self._sequence, rest))
        return self._sequence


def _from_kernel(sock: socket.socket) -> bytes:
    """Return the next datagram that the kernel sent."""
    while True:
        try:
            data, _ancillary, flags, (port, _groups) = sock.recvmsg(_DATAGRAM)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the kernel did not answer") from None
        if flags & socket.MSG_TRUNC:
            raise Malformed(f"an answer of more than {_DATAGRAM} octets")
        if port == 0:  # other processes can send to us, only the kernel has no port
            return data
