"""`python -m benchmarks.echo PORT`: a server that returns every datagram as it came, many a system call.

What it measures is the path: sender, kernel, and waking a process on another core. No server can be faster than that.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import numpy as np

from benchmarks import probe
from resolver.mmsg import ffi, libc

SLOTS: Final = 64  # datagrams a call, as many as Plughole takes

_WIDTH: Final = 512  # octets of a question
_NAME: Final = 16  # sizeof(struct sockaddr_in)
_RECEIVE_BUFFER: Final = 4_194_304  # octets
_WAIT_FOR_ONE: Final = 0x10000


def serve(port: int) -> None:
    """Echo on a loopback port until killed."""
    data, names = ffi.new("char[]", SLOTS * _WIDTH), ffi.new("char[]", SLOTS * _NAME)
    iovs, headers = ffi.new("struct iovec[]", SLOTS), ffi.new("struct mmsghdr[]", SLOTS)
    for slot in range(SLOTS):
        iovs[slot].iov_base, iovs[slot].iov_len = data + slot * _WIDTH, _WIDTH
        head = headers[slot].msg_hdr
        head.msg_name, head.msg_namelen = names + slot * _NAME, _NAME
        head.msg_iov, head.msg_iovlen = iovs + slot, 1
    step = ffi.sizeof("struct mmsghdr") // 4
    lengths = np.frombuffer(ffi.buffer(headers), np.uint32)[ffi.offsetof("struct mmsghdr", "msg_len") // 4 :: step]
    sizes = np.frombuffer(ffi.buffer(iovs), np.uint64)[1::2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind((probe.HOST, port))
        while True:
            sizes[:] = _WIDTH
            got = libc.recvmmsg(sock.fileno(), headers, SLOTS, _WAIT_FOR_ONE, ffi.NULL)
            if got > 0:
                sizes[:got] = lengths[:got]
                libc.sendmmsg(sock.fileno(), headers, got, 0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
