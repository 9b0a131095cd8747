"""What clients were given: fed bit by bit into the passive DNS by which the guard judges, and remembered by name.

Rules:
1. The same answer to the same client is news again after FRESH to twice FRESH seconds, not before.
2. Names that somebody suspects vouch for nothing, and what is answered inside is no use of the Internet.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from core.verdict import Action, Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.event import Event
    from core.names import Name
    from egress.uses import Uses

MAX_WAITING: Final = 50_000  # answers that wait to be taken in
MAX_RECENT: Final = 100_000  # answers that are no news
MAX_NAMES: Final = 50_000  # names with what clients were given for them last
FRESH: Final = 1_800.0  # seconds
_INSIDE: Final = frozenset((Cause.LOCAL, Cause.ACCESS))


class Given:
    """The answers of one node's clients. Times are Unix seconds."""

    def __init__(self, uses: Uses, spoke: Callable[[Name, bytes], None], *, now: float) -> None:
        """`spoke` is called with a name and an address that was cleared for blocking and may be blocked no more."""
        self.recent: set[object] = set()  # (client, name, addresses) that are no news, the older ones below
        self.older: set[object] = set()
        self.dropped = 0
        self._uses = uses
        self._spoke = spoke
        self._turned = now
        self._waiting: deque[tuple[float, bytes, Name, tuple[bytes, ...]]] = deque()
        self._names: OrderedDict[Name, tuple[float, tuple[bytes, ...]]] = OrderedDict()

    def __len__(self) -> int:
        """Answers that wait to be taken in."""
        return len(self._waiting)

    def take(self, event: Event) -> None:
        """Have an answer taken in that is news."""
        if event.cause in _INSIDE or event.action is Action.ALERT:
            return
        self._names[event.qname] = event.at + event.ttl, event.answers
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append((event.at, event.client, event.qname, event.answers))

    def last(self, name: Name) -> tuple[float, tuple[bytes, ...]]:
        """Return what clients were given last for a name, and until when that is good; nothing when it is not known."""
        return self._names.get(name, (0.0, ()))

    def catch_up(self, most: int) -> None:
        """Take in so many answers that wait."""
        waiting, see = self._waiting, self._uses.see
        for _ in range(min(most, len(waiting))):
            at, client, name, addresses = waiting.popleft()
            for address in addresses:
                if see(address, name, client, now=at):
                    self._spoke(name, address)

    def turn(self, now: float) -> None:
        """Have old answers be news again when it is time."""
        if not 0 <= now - self._turned < FRESH or len(self.recent) > MAX_RECENT:
            self._turned = now
            self.recent, self.older = set(), self.recent

    def all_news(self) -> None:
        """Have every answer be news again."""
        self.recent, self.older = set(), set()
