"""A server that sends without end to whoever connects, and takes whatever comes: a download, an upload, a C2."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

PAUSE = 0.01  # seconds between two pieces
PIECE = bytes(1_000)


def _give(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        while True:
            peer.sendall(PIECE)
            time.sleep(PAUSE)  # a download of 100 kB a second


def _take(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(65_536):
            pass


def main() -> None:
    """Serve on the port given, on every address, until killed."""
    listener = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=128)
    sys.stdout.write("listens\n")
    sys.stdout.flush()
    while True:
        peer, _ = listener.accept()
        for act in (_give, _take):
            threading.Thread(target=act, args=(peer,), daemon=True).start()


if __name__ == "__main__":
    main()
