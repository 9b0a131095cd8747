"""Targets around TCP framing, ours and the forwarder's: however a stream is broken up, it says the same."""

from __future__ import annotations

import asyncio
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scene import Scene

from core.errors import Malformed
from core.wire import HEADER
from resolver.clients import Client, Clients
from resolver.proxy import MAX_HEADER, parse
from resolver.tcp import MAX_OUTSTANDING, TcpConnection, TcpListener
from resolver.upstream.streams import _Connection

if TYPE_CHECKING:
    import socket

    from resolver.pipeline import Pipeline
    from resolver.upstream.streams import Stream

CHUNK: Final = 65_536  # octets a transport reads at a time at most
FRAME: Final = 65_537  # octets of the longest frame
PROXIED: Final = 0x80  # bit of a run's first octet: a balancer is at the other end
MAX_STREAM: Final = 200_000  # octets looked at in one run


class Fake:
    """Both ends of a connection's world: the pipeline that is asked, and the transport that is written to."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.held: list[bytes] = []
        self.written = bytearray()
        self.closing = False
        self.paused = False
        self.most = 0  # questions on their way at a time

    # ---- a pipeline: the message's last octet says how it is answered

    def handle(self, message: bytes, client: Client, peer: TcpConnection) -> bytes | None:
        self.asked.append(message)
        self.most = max(self.most, peer.outstanding)
        if message[-1] & 1:
            self.held.append(message[:2])
            return None
        return b"" if message[-1] & 2 else message[2:]

    # ---- a transport

    def get_extra_info(self, what: str) -> tuple[str, int]:
        assert what == "peername"
        return ("127.0.0.1", 9)

    def set_write_buffer_limits(self, *, high: int) -> None:
        assert high > 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def close(self) -> None:
        self.closing = True


@cache
def _scene() -> tuple[Scene, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    return Scene(Path(folder.name)), folder


def tcp(data: bytes) -> None:
    """Each whole message is handled once and in order, at once or in pieces; no more than a frame is kept unread."""
    switch, stream = data[0] if data else 0, data[1:MAX_STREAM]
    wanted = _frames(stream, proxied=bool(switch & PROXIED))
    for step in {CHUNK, (switch & 0x7F) + 1}:
        found = fed(stream, step, proxied=bool(switch & PROXIED))
        assert found.asked == wanted, f"in steps of {step}: {len(found.asked)} messages for {len(wanted)}"
        assert found.most <= MAX_OUTSTANDING


def _frames(stream: bytes, *, proxied: bool) -> list[bytes]:
    """Return the messages to be handled: up to the first that is too short for a header, behind a balancer's words."""
    at = 0
    if proxied:
        try:
            header = parse(stream[:MAX_HEADER])
        except Malformed:
            return []
        if header is None:
            return []
        at = header.size
    found = []
    while at + 2 <= len(stream):
        end = at + 2 + int.from_bytes(stream[at : at + 2], "big")
        if end > len(stream) or end - at - 2 < HEADER:
            break
        found.append(stream[at + 2 : end])
        at = end
    return found


def fed(stream: bytes, step: int, *, proxied: bool) -> Fake:
    """Let a connection read a stream in steps of so many octets, and answer what it holds back when it has to."""
    scene, fake = _scene()[0], Fake()
    clients = Clients(scene.policy, scene.pipeline.limits, ("127.0.0.0/8",), ("127.0.0.1/32",) if proxied else ())
    listener = TcpListener(
        cast("socket.socket", None),
        pipeline=cast("Pipeline", fake),
        clients=clients,
        clock=lambda: 0.0,
        most=8,
        idle=9.0,
    )
    connection = TcpConnection(listener)
    connection.connection_made(cast(asyncio.BaseTransport, fake))
    at = 0
    while at < len(stream) and not fake.closing:
        if fake.paused:
            _release(connection, fake)
            continue
        connection.data_received(stream[at : at + step])
        at += step
        assert len(connection._buffer) <= FRAME + step
    while fake.held:
        _release(connection, fake)
    assert not connection.outstanding
    connection.connection_lost(None)
    assert not listener.connections
    assert not clients.meet(bytes((127, 0, 0, 1))).streams
    assert not connection._buffer
    return fake


def _release(connection: TcpConnection, fake: Fake) -> None:
    """Answer everything that waits, the newest first; there must be something, or the connection would hang."""
    assert fake.held, "paused for ever"
    held, fake.held = fake.held, []
    for identity in reversed(held):
        connection.deliver(identity, b"late")


class _Heard:
    """What a forwarder's connection hands on."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def made(self, connection: Any) -> None: ...

    def message(self, connection: Any, wire: bytes) -> None:
        self.messages.append(wire)


def server(data: bytes) -> None:
    """What a server sends over a stream comes out message by message, however it is broken up."""
    step, stream = (data[0] if data else 0) + 1, data[1:MAX_STREAM]
    found = []
    for size in (CHUNK, step):
        heard = _Heard()
        connection = _Connection(cast("Stream", heard))
        for at in range(0, len(stream), size):
            connection.data_received(stream[at : at + size])
            assert len(connection._buffer) < FRAME
        found.append(heard.messages)
    assert found[0] == found[1]
    framed = b"".join(len(one).to_bytes(2, "big") + one for one in found[0])
    assert stream.startswith(framed)
