"""Many datagrams a system call: recvmmsg and sendmmsg on one UDP socket, through cffi (CPython has neither).

Rules:
1. Slot i of the inbox holds one datagram, its sender and, on wildcard sockets, the address it was sent to.
2. A reply goes out with the sender's own `sockaddr` and control message, so it leaves from the address that was asked.
3. What the kernel does not take at once is dropped and counted: UDP clients ask again, a blocked loop answers nobody.
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import Final

import cffi

SLOTS: Final = 64  # datagrams a call; more gains under 2 % and delays the first reply of a batch
INBOX: Final = 4_096  # octets of one query; a longer one is cut by the kernel and fails to parse
OUTBOX: Final = 4_096  # octets of one reply, the most `server.udp_size` may say
NAME: Final = 28  # sizeof(struct sockaddr_in6)
CONTROL: Final = 64  # octets: one in_pktinfo or in6_pktinfo with its header

IP_PKTINFO: Final = 8
IPV6_RECVPKTINFO: Final = 49
_MSG_DONTWAIT: Final = 0x40
_SPANS: Final = tuple(Struct(f"={2 * count}Q") for count in range(SLOTS + 1))  # struct iovec, one after the other
_AGAIN: Final = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR))

ffi = cffi.FFI()
ffi.cdef("""
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr { void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
                    void *msg_control; size_t msg_controllen; int msg_flags; };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int recvmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags, void *timeout);
    int sendmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags);
""")
libc = ffi.dlopen(None)


class _Side:
    """One direction: an array of headers over slotted buffers, and flat views of the fields that change."""

    def __init__(self, width: int, name_size: int = NAME) -> None:
        self.data = ffi.new("char[]", SLOTS * width)
        self.names = ffi.new("char[]", SLOTS * NAME)
        self.controls = ffi.new("char[]", SLOTS * CONTROL)
        self.iovs = ffi.new("struct iovec[]", SLOTS)
        self.headers = ffi.new("struct mmsghdr[]", SLOTS)
        for slot in range(SLOTS):
            self.iovs[slot].iov_base = self.data + slot * width
            self.iovs[slot].iov_len = width
            header = self.headers[slot].msg_hdr
            header.msg_name = self.names + slot * name_size
            header.msg_namelen = name_size
            header.msg_iov = ffi.addressof(self.iovs, slot)
            header.msg_iovlen = 1
        self.bytes = ffi.buffer(self.data)
        self.name_bytes = ffi.buffer(self.names)
        self.control_bytes = ffi.buffer(self.controls)
        self.spans = ffi.buffer(self.iovs)
        self.address = int(ffi.cast("uintptr_t", self.data))
        words = memoryview(ffi.buffer(self.headers)).cast("B").cast("I")
        step = ffi.sizeof("struct mmsghdr") // 4
        self.lengths = words[ffi.offsetof("struct mmsghdr", "msg_len") // 4 :: step]


class Ring:
    """The datagrams of one socket. `receive`, read `inbox`, `put` replies, `flush`."""

    def __init__(self, sock: socket.socket, *, pktinfo: bool) -> None:
        """`pktinfo`: the socket is bound to the wildcard address and must learn where each query was sent to."""
        self.sock = sock
        self.fd = sock.fileno()
        self.ipv6 = sock.family == socket.AF_INET6
        self.name_size = NAME if self.ipv6 else 16
        self.pktinfo = pktinfo
        if pktinfo:
            level, option = (socket.IPPROTO_IPV6, IPV6_RECVPKTINFO) if self.ipv6 else (socket.IPPROTO_IP, IP_PKTINFO)
            sock.setsockopt(level, option, 1)
        self._in = _Side(INBOX)
        self._out = _Side(OUTBOX, self.name_size)
        self.inbox = self._in.bytes
        self.senders = self._in.name_bytes
        self.lengths = self._in.lengths
        self._outbox = self._out.bytes
        self._out_names = self._out.name_bytes
        self._parts: list[bytes | bytearray] = []  # of the replies that are queued: two each
        self._sizes: list[int] = []  # of each
        self._names: list[bytes] = []  # to whom each goes
        self.received = 0
        self.sent = 0
        self.unsent = 0

    def receive(self) -> int:
        """Take up to SLOTS datagrams; returns how many. Sender i is `senders[i * 28 : i * 28 + name_size]`."""
        headers = self._in.headers
        if self.pktinfo:
            for slot in range(SLOTS):
                headers[slot].msg_hdr.msg_control = self._in.controls + slot * CONTROL
                headers[slot].msg_hdr.msg_controllen = CONTROL
        got: int = libc.recvmmsg(self.fd, headers, SLOTS, _MSG_DONTWAIT, ffi.NULL)
        if got <= 0:
            return 0
        self.received += got
        return got

    def control(self, slot: int) -> bytes:
        """Return what a reply to inbox slot `slot` needs to leave from the address that was asked, empty if nothing."""
        if not self.pktinfo:
            return b""
        size = self._in.headers[slot].msg_hdr.msg_controllen
        found: bytes = self._in.control_bytes[slot * CONTROL : slot * CONTROL + size]
        return found

    def put(self, name: bytes, control: bytes, head: bytes, body: bytes | bytearray) -> None:
        """Queue the reply `head + body` (together at most OUTBOX octets) to the sender `name`."""
        sizes = self._sizes
        if len(sizes) == SLOTS:
            self.flush()
        if control:
            self._put_control(len(sizes), control)
        self._parts.append(head)
        self._parts.append(body)
        sizes.append(len(head) + len(body))
        self._names.append(name)

    def _put_control(self, slot: int, control: bytes) -> None:
        self._out.control_bytes[slot * CONTROL : slot * CONTROL + len(control)] = control
        header = self._out.headers[slot].msg_hdr
        header.msg_control = self._out.controls + slot * CONTROL
        header.msg_controllen = len(control)

    def flush(self) -> None:
        """Send what is queued. A datagram the kernel refuses is skipped; a full socket drops the rest."""
        count = len(self._sizes)
        if count == 0:
            return
        self._lay_out()
        at = 0
        while at < count:
            sent = libc.sendmmsg(self.fd, self._out.headers + at, count - at, _MSG_DONTWAIT)
            if sent > 0:
                at += sent
                self.sent += sent
            elif ffi.errno in _AGAIN:
                self.unsent += count - at
                return
            else:
                self.unsent += 1
                at += 1

    def _lay_out(self) -> None:
        """Put the replies that are queued one behind the other where the kernel takes them from."""
        sizes = self._sizes
        octets = b"".join(self._parts)
        self._outbox[: len(octets)] = octets
        names = b"".join(self._names)
        self._out_names[: len(names)] = names
        at = self._out.address
        spans: list[int] = []
        for size in sizes:
            spans.append(at)
            spans.append(size)
            at += size
        _SPANS[len(sizes)].pack_into(self._out.spans, 0, *spans)
        self._parts.clear()
        self._names.clear()
        sizes.clear()
