"""The two levels of the answer cache: what came back from upstream, and the octets equal packets are answered with.

Rules:
1. An `Answer` is judged for one view and remembers what was judged; when the policy's epoch moves on it is judged anew
   before it is served again, so that no entry outlives the policy that let it in.
2. A `Rendered` is good while its stamp is less than LIFE behind the worker's, which moves LIFE a second and with every
   change of policy: one comparison on the hot path covers ageing TTLs, expiry and policy.
3. Eviction is S3-FIFO (Yang et al., SOSP 2023): an entry asked for only once leaves through the small queue, so a scan
   of random names cannot push out what people use.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from core.verdict import UNTOUCHED

if TYPE_CHECKING:
    from core.cut import Form
    from core.names import Name
    from core.verdict import Verdict
    from resolver.subjects import Subject

SMALL_SHARE: Final = 10  # the small queue holds one part in this many of the octets
LIFE: Final = (
    8  # stamps a rendered reply is good for: a second. Entries come up at different ones, so none is a rush hour
)
OVERHEAD: Final = 600  # octets CPython spends on an entry beside its bytes: object, tuples, dict slot, queue slot
NEVER: Final = float("inf")
MAX_GHOSTS: Final = 50_000  # keys of entries that just left, remembered by their hash, in two generations of half


class Entry(Protocol):
    """What a cache holds: it knows its size and whether it was asked for since it came in."""

    used: bool
    size: int


E = TypeVar("E", bound=Entry)


class Cache(Generic[E]):
    """A bounded map by S3-FIFO. Read `table` directly and set `used` on what is found there."""

    def __init__(self, limit: int) -> None:
        """`limit` is in octets, as counted by each entry's `size`."""
        self.table: dict[bytes, E] = {}
        self.limit = limit
        self.octets = 0
        self.evicted = 0
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._small_octets = 0
        self._ghosts: set[int] = set()
        self._old_ghosts: set[int] = set()

    def put(self, key: bytes, entry: E) -> None:
        """Hold `entry` under `key`, evicting others where needed. An entry over a tenth of the limit is not held."""
        if entry.size * SMALL_SHARE > self.limit:
            return
        table = self.table
        old = table.get(key)
        if old is not None:
            self.octets += entry.size - old.size
            entry.used = True
            table[key] = entry
        else:
            table[key] = entry
            self.octets += entry.size
            if self._was_here(hash(key)):
                self._main.append(key)
            else:
                self._small.append(key)
                self._small_octets += entry.size
        if self.octets > self.limit:
            self._evict()

    def drop(self, key: bytes) -> None:
        """Forget `key`; its place in a queue is found empty later."""
        entry = self.table.pop(key, None)
        if entry is not None:
            self.octets -= entry.size

    def clear(self) -> None:
        """Forget everything."""
        self.table.clear()
        self._small.clear()
        self._main.clear()
        self._ghosts.clear()
        self._old_ghosts.clear()
        self.octets = self._small_octets = 0

    def _was_here(self, ghost: int) -> bool:
        """True when an entry left a short while ago, which is then forgotten."""
        for ghosts in (self._ghosts, self._old_ghosts):
            if ghost in ghosts:
                ghosts.remove(ghost)
                return True
        return False

    def _evict(self) -> None:
        while self.octets > self.limit and (self._small or self._main):
            if self._small and (self._small_octets * SMALL_SHARE > self.limit or not self._main):
                self._evict_small()
            else:
                self._evict_main()

    def _evict_small(self) -> None:
        key = self._small.popleft()
        if not self._small:
            self._small_octets = 0
        entry = self.table.get(key)
        if entry is None:
            return
        self._small_octets = max(self._small_octets - entry.size, 0)
        if entry.used:
            entry.used = False
            self._main.append(key)
            return
        self._remove(key, entry)
        self._ghosts.add(hash(key))
        if len(self._ghosts) >= MAX_GHOSTS // 2:
            self._ghosts, self._old_ghosts = set(), self._ghosts

    def _evict_main(self) -> None:
        key = self._main.popleft()
        entry = self.table.get(key)
        if entry is None:
            return
        if entry.used:
            entry.used = False
            self._main.append(key)
            return
        self._remove(key, entry)

    def _remove(self, key: bytes, entry: E) -> None:
        del self.table[key]
        self.octets -= entry.size
        self.evicted += 1


class Answer:
    """What one question comes to in one view. Times are Unix seconds."""

    __slots__ = (
        "addresses", "born", "ede", "ede_text", "epoch", "expires", "flags", "key", "payload", "plain", "qname",
        "qtype", "rcode", "renew_at", "secure", "signed", "size", "stale_until", "subjects", "ttl", "upstream", "used",
        "verdict",
    )  # fmt: skip

    def __init__(self, key: bytes, plain: Form, signed: Form | None, rcode: int) -> None:
        """`key` is the `Query.key` of the question: name, type, class, CD bit."""
        self.key = key
        self.qname: Name = key[:-5]
        self.qtype = key[-5] << 8 | key[-4]
        self.plain = plain
        self.signed = signed  # with DNSSEC records, for clients that set DO; None: the same as `plain`
        self.rcode = rcode
        self.flags = 0  # header flags beside those of the query: AA, TC
        self.secure = False
        self.born = 0.0
        self.expires = 0.0
        self.stale_until = 0.0  # how long it may serve when nobody else answers; `expires` for what may not
        self.renew_at = NEVER  # when it is to be asked anew though it is still good
        self.ttl = 0
        self.epoch = 0
        self.subjects: tuple[Subject, ...] = ()
        self.addresses: tuple[bytes, ...] = ()
        self.payload = b""  # record data that is no address, for the detectors
        self.verdict: Verdict = UNTOUCHED
        self.ede = -1
        self.ede_text = ""
        self.upstream = ""
        self.used = False
        self.size = OVERHEAD + len(key) + len(plain.body) + (len(signed.body) if signed else 0)


class Rendered:
    """Reply octets behind the ID, with all that ages them. `offset` is where the form's body starts in `body`."""

    __slots__ = ("answer", "body", "offset", "size", "stamp", "ttls", "turns", "used")

    def __init__(
        self, answer: Answer, body: bytes | bytearray, offset: int, ttls: tuple[tuple[int, int], ...], stamp: int
    ) -> None:
        self.answer = answer
        self.body = body
        self.offset = offset
        self.ttls = ttls
        self.stamp = stamp
        self.turns = 0  # how many records its answer section has, when their order turns
        self.used = False
        self.size = OVERHEAD + 2 * len(body)


class AnswerCache(Cache[Answer]):
    """Answers by `Query.key`."""


class RenderedCache(Cache[Rendered]):
    """Rendered replies by the packet that asks for them, without its ID."""
