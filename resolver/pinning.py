"""The worker's side of pins: the agent opens what a pinned client is answered before the reply leaves.

Rules:
1. A reply waits for the agent, PATIENCE at most; when nobody listens it does not wait. DNS goes on whatever happens.
2. Only what passed the policy is told, and nothing that lies inside or was put in place of the truth.
3. An answer is told for as long as the client may keep it: the longest TTL of its answer section, what is left of it.
4. What the agent knows is told again in the second half of its time only, unless it lasts longer now. What was told to
   an agent that has gone is forgotten: its successor may know nothing.
5. Clients no pin names never come here; those that are named have no rendered replies, so that all of theirs do.
"""

from __future__ import annotations

import socket
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from core.config import MAX_TTL
from core.verdict import Trigger
from egress.pins.messages import MAX_ADDRESSES, MAX_PACKET, Told, encode, unpack
from resolver.limits import covered
from resolver.rebind import lies_inside

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

    from core.config import Pin
    from resolver.answers import Answer
    from resolver.waiting import Peer

PATIENCE: Final = 0.005  # seconds a reply waits for the agent
HUNG: Final = 1.0  # seconds without a word after which an agent that was told something is given up
RETRY: Final = 1.0  # seconds until an agent that is away is looked for again
RETRY_HUNG: Final = 10.0  # and one that was there and said nothing
MAX_KNOWN: Final = 65_536  # pairs of client and address the agent is known to know; about 15 MB
SLACK: Final = 1.0  # seconds by which an end may be later than the one told: TTLs are whole seconds


class _Held(NamedTuple):
    """A reply that waits for the agent."""

    deadline: float
    peer: Peer
    identity: bytes
    body: bytes | bytearray
    pairs: tuple[bytes, ...]
    told: float
    ends: float


class Pinning:
    """Tells the agent of one host what one worker answers to pinned clients."""

    def __init__(self, path: Path, pins: Iterable[Pin], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`path`: the agent's socket; `clock`: seconds that never go back, the same as the pipeline's."""
        self.told = self.acknowledged = self.late = self.dropped = self.spared = 0
        self._path = str(path)
        self._networks = [ip_network(text, strict=False) for pin in pins for text in pin.clients]
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._agent: socket.socket | None = None
        self._retry_at = 0.0
        self._number = 0
        self._held: dict[int, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._silent_since = 0.0  # when the first was told that nothing was heard after; 0: none
        self._known: dict[bytes, tuple[float, float]] = {}  # of a pair: when it was told, when it ends

    def covers(self, source: IPv4Address | IPv6Address) -> bool:
        """True for a client some pin names."""
        return covered(source, self._networks)

    @property
    def waiting(self) -> int:
        """How many replies wait for the agent."""
        return len(self._held)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for the agent, and hear it on `loop`."""
        self._loop = loop
        self.second()

    def second(self) -> None:
        """Look for an agent that is away. Call it once a second."""
        now = self._clock()
        if self._agent is not None or self._loop is None or now < self._retry_at:
            return
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            agent.connect(self._path)
        except OSError:
            agent.close()
            self._retry_at = now + RETRY
            return
        self._agent = agent
        self._silent_since = 0.0
        self._loop.add_reader(agent.fileno(), self._on_acks)

    def stop(self) -> None:
        """Let go of the agent; replies that wait leave."""
        self._lose(retry=RETRY)
        self._loop = None

    def counters(self) -> dict[str, int]:
        """Return what was counted: answers told, known to be open, too late, not told, and known already."""
        return {
            "pin_told": self.told,
            "pin_acknowledged": self.acknowledged,
            "pin_late": self.late,
            "pin_dropped": self.dropped,
            "pin_spared": self.spared,
            "pin_away": int(self._agent is None),
        }

    def reply(
        self, client: bytes, answer: Answer, peer: Peer, identity: bytes, body: bytes | bytearray, *, now: float
    ) -> bytes | bytearray | None:
        """Return the reply when it may leave at once; None when the peer gets it, within about PATIENCE."""
        found = _addresses(answer)
        if not found:
            return body
        ends = now + _left(answer, now)
        unknown = [address for address in found if self._is_news(_pair(client, address), now, ends)]
        if not unknown:
            self.spared += 1
            return body
        if not self._tell(Told(self._number + 1, client, int(ends - now), tuple(unknown))):
            self.dropped += 1
            return body
        pairs = tuple([_pair(client, address) for address in unknown])
        self._hold(_Held(self._clock() + PATIENCE, peer.hold(), identity, body, pairs, now, ends))
        return None

    def _is_news(self, pair: bytes, now: float, ends: float) -> bool:
        known = self._known.get(pair)
        if known is None:
            return True
        told, end = known
        return ends > end + SLACK or now - told > (end - told) / 2

    def _tell(self, told: Told) -> bool:
        """Send it; false when nobody listens, or too much is on its way already."""
        if self._agent is None:
            return False
        try:
            self._agent.send(encode(told))
        except BlockingIOError:
            return False
        except OSError:
            self._lose(retry=RETRY)
            return False
        self.told += 1
        self._number = told.number
        return True

    def _hold(self, held: _Held) -> None:
        self._held[self._number] = held
        if not self._silent_since:
            self._silent_since = held.deadline - PATIENCE
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(PATIENCE, self._on_late)

    def _on_acks(self) -> None:
        """Send the replies the agent is through with."""
        if self._agent is None:
            return
        try:
            packet = self._agent.recv(MAX_PACKET)
            acks = list(unpack(packet))
        except BlockingIOError:
            return
        except (OSError, ValueError):
            acks = []
        if not acks:
            self._lose(retry=RETRY)
            return
        self._silent_since = 0.0
        for number, done in acks:
            held = self._held.pop(number, None)
            if held is not None:
                if done:
                    self._know(held)
                held.peer.deliver(held.identity, held.body)
        if self._held:
            self._silent_since = self._clock()

    def _know(self, held: _Held) -> None:
        self.acknowledged += 1
        if len(self._known) + len(held.pairs) > MAX_KNOWN:
            self._known.clear()  # all is told once more
        for pair in held.pairs:
            self._known[pair] = held.told, held.ends

    def _on_late(self) -> None:
        """Send the replies that have waited long enough."""
        self._timer = None
        now = self._clock()
        for number, held in tuple(self._held.items()):
            if held.deadline > now + PATIENCE / 10:
                break
            del self._held[number]
            self.late += 1
            held.peer.deliver(held.identity, held.body)
        if self._silent_since and now - self._silent_since > HUNG:
            self._lose(retry=RETRY_HUNG)
        elif self._held and self._loop is not None:
            first = next(iter(self._held.values()))
            self._timer = self._loop.call_later(max(first.deadline - now, 0.0), self._on_late)

    def _lose(self, *, retry: float) -> None:
        """Give the agent up for a while; nobody waits for it any more."""
        if self._agent is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._agent.fileno())
            self._agent.close()
            self._agent = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._retry_at = self._clock() + retry
        self._known.clear()
        held, self._held = self._held, {}
        self.dropped += len(held)
        for one in held.values():
            one.peer.deliver(one.identity, one.body)


def _pair(client: bytes, address: bytes) -> bytes:
    return client + address if len(client) == 4 else b"\x06" + client + address  # no two of different lengths meet


def _addresses(answer: Answer) -> list[bytes]:
    """Return the addresses and hints a client may use, MAX_ADDRESSES at most; none of an answer that was replaced."""
    if answer.verdict.action.blocks:
        return []
    hints = [met.value for met in answer.subjects if met.address and met.trigger is Trigger.HINT]
    found = dict.fromkeys((*answer.addresses, *hints))
    return [address for address in found if not lies_inside(address)][:MAX_ADDRESSES]


def _left(answer: Answer, now: float) -> int:
    """Return the seconds a client may keep what it is answered: the longest TTL of the answer section counts."""
    answers = answer.plain.counts[0] << 8 | answer.plain.counts[1]
    longest = max([ttl for _, ttl in answer.plain.ttls[:answers]], default=answer.ttl)
    return min(max(longest - int(now - answer.born), 0), MAX_TTL)
