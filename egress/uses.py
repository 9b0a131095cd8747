"""Own passive DNS: which names each address was answered for, and which clients use them.

Rules:
1. A name counts when enough clients used it, when one did on two days, or when the organisation trusts it.
2. What lies under a condemned name never counts, whenever it was seen: C2 hosts would vouch for each other.
3. One use by one client vouches for that client only, and only if it is older than the block it speaks against.
4. Addresses with a name that counts are kept apart from the rest, so that no flood of answers pushes them out. Of many
   names at one address the first stay; those past the cap are remembered as one.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from core.names import Name, is_public_suffix, suffixes
from egress.plan import Destination
from egress.ranges import unmapped
from egress.reserved import Carriers

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_USES: Final = 100_000  # names at addresses with one that counts, and as many at others; the longest unused goes
MAX_NAMES: Final = 64  # of an address
MAX_CLIENTS: Final = 16  # of a name at an address, told apart; those past it are a bit each in a crowd
CROWD: Final = 2_048  # bits; one client in five is taken for another when there are 450
MAX_CONDEMNED: Final = 200_000
MAX_MARKS: Final = 100_000  # blocks remembered
MAX_A_DAY: Final = 100_000  # addresses

DAY: Final = 86_400.0  # seconds
OTHERS: Final[Name] = b""  # stands for the names an address has past the cap


class UseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the organisation uses a name."""

    clients: int = 2  # at most MAX_CLIENTS
    memory: float = 7 * DAY  # seconds; older uses and condemnations are forgotten
    trusted: frozenset[Name] = frozenset()  # with all below them


class Use(msgspec.Struct, gc=False):
    """A name at an address: the first and the last time it was answered, to whom."""

    first: float
    last: float
    clients: tuple[bytes, ...] = ()
    crowd: int = 0  # a bit for each client past MAX_CLIENTS

    def add(self, client: bytes) -> None:
        """The client uses the name."""
        if client in self.clients:
            return
        if len(self.clients) < MAX_CLIENTS:
            self.clients = (*self.clients, client)
        else:
            self.crowd |= 1 << zlib.crc32(client) % CROWD

    def by(self, client: bytes) -> bool:
        """True when the client uses the name; in a crowd it may be taken for another that does."""
        return client in self.clients or bool(self.crowd >> zlib.crc32(client) % CROWD & 1)


class Remembered(msgspec.Struct, frozen=True):
    """All that is known of uses, to be written down and taken up again."""

    uses: tuple[tuple[bytes, Name, float, float, tuple[bytes, ...], bytes], ...] = ()
    condemned: tuple[tuple[Name, float, bool], ...] = ()
    marks: tuple[tuple[Destination, float, float], ...] = ()
    day: int = 0
    today: tuple[bytes, ...] = ()
    yesterday: tuple[bytes, ...] = ()


class Uses:
    """What the answers given to clients tell about addresses. Bounded; fed with answers that were not blocked."""

    def __init__(self, settings: UseSettings | None = None, carriers: Carriers | None = None) -> None:
        self.settings = settings or UseSettings()
        self.carriers = carriers or Carriers()
        self.evicted = 0  # names at addresses that went at the caps
        self._counting = _Table()
        self._others = _Table()
        self._condemned: OrderedDict[Name, tuple[float, bool]] = OrderedDict()  # since when; with those below?
        self._marks: OrderedDict[Destination, tuple[float, float]] = OrderedDict()
        self._day = 0
        self._today: set[bytes] = set()
        self._yesterday: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        """Names at addresses."""
        return self._counting.names + self._others.names

    def see(self, address: bytes, name: Name, client: bytes, *, now: float) -> bool:
        """An answer gave a client this address for a folded name; tell each alias on the way to it as well.

        Returns True when the address was cleared for blocking and this name, just now, came to speak against it.
        Raises ValueError for what is no packed address.
        """
        spoke = [self._see(face, name, unmapped(client), now) for face in self.carriers.faces(address)]
        return any(spoke)

    def touch(self, address: bytes, *, now: float) -> None:
        """A client talked to the address, by whatever name; it is one of the day's destinations."""
        self._turn(now)
        if len(self._today) < MAX_A_DAY:
            self._today.add(unmapped(address))

    def yesterday(self, now: float) -> frozenset[bytes]:
        """Return the addresses clients were given or talked to on the day before (of UTC)."""
        self._turn(now)
        return self._yesterday

    def condemn(self, name: Name, *, now: float, below: bool = True) -> None:
        """The name, with those below it, counts no more, until `memory` after the last time it is condemned.

        A public suffix is passed over: those below it are strangers to each other.
        """
        if is_public_suffix(name):
            return
        self._condemned.pop(name, None)
        self._condemned[name] = (now, below)
        while len(self._condemned) > MAX_CONDEMNED:
            self._condemned.popitem(last=False)

    def pardon(self, name: Name) -> None:
        """The name counts again as its uses say."""
        self._condemned.pop(name, None)

    def condemned(self, name: Name, *, now: float, whole: bool = False) -> bool:
        """True when the name or one above it is condemned and the organisation does not trust it.

        `whole`: only when all below the name is, too.
        """
        since = now - self.settings.memory
        for key in suffixes(name):
            at, below = self._condemned.get(key, (-math.inf, False))
            if at >= since and (below or (key == name and not whole)):
                return not self.trusts(name)
        return False

    def trusts(self, name: Name) -> bool:
        """True when the name is or lies below one the organisation trusts."""
        return bool(self.settings.trusted) and any(key in self.settings.trusted for key in suffixes(name))

    def mark(self, destination: Destination, *, now: float) -> None:
        """The destination was cleared for blocking; uses by one client that begin later say nothing against that."""
        begun, last = self._marks.pop(destination, (now, now))
        self._marks[destination] = (now if last + DAY < now else begun, now)
        while len(self._marks) > MAX_MARKS:
            self._marks.popitem(last=False)

    def marked(self, address: bytes, *, now: float) -> bool:
        """True when the address was cleared for blocking, for everybody, within the last day."""
        return self._begun(Destination(address), now) < math.inf

    def used(self, address: bytes, *, now: float) -> Name | None:
        """Return a name the organisation uses at the address, None when there is none."""
        return next((name for name, use in self._good(address, now) if self._counts(name, use)), None)

    def used_by(self, address: bytes, client: bytes, *, now: float) -> Name | None:
        """Return a name this client was given the address for, once is enough, None when there is none."""
        begun = min(self._begun(Destination(address, client), now), self._begun(Destination(address), now))
        for name, use in self._good(address, now):
            if use.by(client) and (use.first < begun or self._counts(name, use)):
                return name
        return None

    def dump(self) -> Remembered:
        """Return all there is to keep over a restart, the longest unused first."""
        tables = (self._others, self._counting)
        return Remembered(
            tuple(
                (address, name, use.first, use.last, use.clients, _packed(use.crowd))
                for table in tables
                for address, names in table.addresses.items()
                for name, use in names.items()
            ),
            tuple((name, *told) for name, told in self._condemned.items()),
            tuple((destination, *times) for destination, times in self._marks.items()),
            self._day,
            tuple(sorted(self._today)),
            tuple(sorted(self._yesterday)),
        )

    def load(self, kept: Remembered, *, now: float) -> None:
        """Take up what `dump` returned, in place of what was here; what is too old or past the caps is left out."""
        self._counting, self._others = _Table(), _Table()
        for address, name, first, last, clients, crowd in kept.uses:
            if last + self.settings.memory >= now:
                counted, names = address in self._counting.addresses, self._take(address)
                use = names[name] = Use(
                    first, last, clients[:MAX_CLIENTS], int.from_bytes(crowd[: CROWD // 8], "little")
                )
                self._place(address, names, now, counts=counted or self._counts(name, use))
        self._condemned = OrderedDict((name, (at, below)) for name, at, below in kept.condemned[-MAX_CONDEMNED:])
        self._marks = OrderedDict((destination, (begun, last)) for destination, begun, last in kept.marks[-MAX_MARKS:])
        self._day, self._today = kept.day, set(kept.today[:MAX_A_DAY])
        self._yesterday = frozenset(kept.yesterday[:MAX_A_DAY])

    def _see(self, address: bytes, name: Name, client: bytes, now: float) -> bool:
        self.touch(address, now=now)
        counted = address in self._counting.addresses
        names = self._take(address)
        name, use = self._use(names, name, now)
        before = self._counts(name, use)
        use.last = max(use.last, now)
        use.add(client)
        counts = self._counts(name, use)
        self._place(address, names, now, counts=counted or counts)
        return counts and not before and self.marked(address, now=now) and not self.condemned(name, now=now)

    def _use(self, names: dict[Name, Use], name: Name, now: float) -> tuple[Name, Use]:
        """Return the name's use, a new one when it is unknown or forgotten, of OTHERS when there is no room."""
        since = now - self.settings.memory
        if name not in names and len(names) >= MAX_NAMES:
            for old in [each for each, use in names.items() if use.last < since]:
                del names[old]
            name = name if len(names) < MAX_NAMES else OTHERS
        use = names.get(name)
        if use is None or use.last < since:
            use = names[name] = Use(now, now)
        return name, use

    def _good(self, address: bytes, now: float) -> Iterator[tuple[Name, Use]]:
        names = self._counting.addresses.get(address) or self._others.addresses.get(address) or {}
        for name, use in names.items():
            if use.last + self.settings.memory >= now and not self.condemned(name, now=now):
                yield name, use

    def _counts(self, name: Name, use: Use) -> bool:
        """True when the organisation uses the name, which is not forgotten."""
        return len(use.clients) >= self.settings.clients or use.last - use.first >= DAY or self.trusts(name)

    def _begun(self, destination: Destination, now: float) -> float:
        begun, last = self._marks.get(destination, (math.inf, math.inf))
        return math.inf if last + DAY < now else begun

    def _take(self, address: bytes) -> dict[Name, Use]:
        return self._counting.take(address) or self._others.take(address) or {}

    def _place(self, address: bytes, names: dict[Name, Use], now: float, *, counts: bool) -> None:
        (self._counting if counts else self._others).put(address, names)
        for table in (self._counting, self._others):
            table.forget(now - self.settings.memory)
            self.evicted += table.shrink()

    def _turn(self, now: float) -> None:
        """Begin a new day; a clock set back begins none."""
        day = int(now // DAY)
        if day > self._day:
            self._yesterday = frozenset(self._today) if day == self._day + 1 else frozenset()
            self._today, self._day = set(), day


def _packed(crowd: int) -> bytes:
    return crowd.to_bytes((crowd.bit_length() + 7) // 8, "little")


class _Table:
    """Addresses with their names, the longest unused first."""

    def __init__(self) -> None:
        self.addresses: OrderedDict[bytes, dict[Name, Use]] = OrderedDict()
        self.names = 0

    def take(self, address: bytes) -> dict[Name, Use] | None:
        names = self.addresses.pop(address, None)
        self.names -= len(names or ())
        return names

    def put(self, address: bytes, names: dict[Name, Use]) -> None:
        """The address, which is not here, comes last."""
        self.addresses[address] = names
        self.names += len(names)

    def forget(self, since: float) -> None:
        """The longest unused address is gone when none of its names was used since then."""
        for address, names in self.addresses.items():
            if all(use.last < since for use in names.values()):
                self.take(address)
            return

    def shrink(self) -> int:
        """Return how many names went so that at most MAX_USES are left."""
        before = self.names
        while self.names > MAX_USES:
            self.take(next(iter(self.addresses)))
        return before - self.names
