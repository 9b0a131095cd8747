"""`python -m benchmarks.echo PORT`: a server that returns every datagram as it came, many a system call.

What it measures is the path: sender, kernel, and waking a process on another core. No server can be faster than that.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import cffi
import numpy as np

from benchmarks import probe

SLOTS: Final = 64  # datagrams a call, as many as Plughole takes

_WIDTH: Final = 512  # octets of a question
_NAME: Final = 16  # sizeof(struct sockaddr_in)
_RECEIVE_BUFFER: Final = 4_194_304  # octets
_WAIT_FOR_ONE: Final = 0x10000

_ffi = cffi.FFI()
_ffi.cdef("""
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr { void *msg_name; unsigned int msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
                    void *msg_control; size_t msg_controllen; int msg_flags; };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int recvmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags, void *timeout);
    int sendmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags);
""")
_libc = _ffi.dlopen(None)


def serve(port: int) -> None:
    """Echo on a loopback port until killed."""
    data, names = _ffi.new("char[]", SLOTS * _WIDTH), _ffi.new("char[]", SLOTS * _NAME)
    iovs, headers = _ffi.new("struct iovec[]", SLOTS), _ffi.new("struct mmsghdr[]", SLOTS)
    for slot in range(SLOTS):
        iovs[slot].iov_base, iovs[slot].iov_len = data + slot * _WIDTH, _WIDTH
        head = headers[slot].msg_hdr
        head.msg_name, head.msg_namelen = names + slot * _NAME, _NAME
        head.msg_iov, head.msg_iovlen = iovs + slot, 1
    step = _ffi.sizeof("struct mmsghdr") // 4
    lengths = np.frombuffer(_ffi.buffer(headers), np.uint32)[_ffi.offsetof("struct mmsghdr", "msg_len") // 4 :: step]
    sizes = np.frombuffer(_ffi.buffer(iovs), np.uint64)[1::2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        sock.bind((probe.HOST, port))
        while True:
            sizes[:] = _WIDTH
            got = _libc.recvmmsg(sock.fileno(), headers, SLOTS, _WAIT_FOR_ONE, _ffi.NULL)
            if got > 0:
                sizes[:got] = lengths[:got]
                _libc.sendmmsg(sock.fileno(), headers, got, 0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
