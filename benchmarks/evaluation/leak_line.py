"""A leak meter with what a resolver does around it: time passes, replies are told, what is blocked is not sent on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from core.finding import Confidence
from detectors.leak import LeakMeter, LeakSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.finding import Finding
    from core.names import Name

LEAST_TTL: Final = 60.0  # seconds, what the resolver raises lower ones to
LEARNED: Final = 30 * 86_400.0  # seconds a meter has been running before an attack begins

_TICK: Final = 60.0  # seconds
_A: Final = 1
_ADDRESS: Final = (bytes((198, 51, 100, 9)),)


class Pair(Protocol):
    """Who sends how much where, for the operator to look at."""

    @property
    def client(self) -> str:
        """Its address."""

    @property
    def domain(self) -> str:
        """The registered domain."""


class Meter(Protocol):
    """What is measured here."""

    def check(self, now: float, client: bytes, domain: Name, qname: Name, qtype: int) -> Finding | None:
        """Return why a question must not be sent on."""

    def answered(  # noqa: PLR0917 - called for every miss: positions are cheaper
        self, now: float, client: bytes, domain: Name, qtype: int, rcode: int, addresses: tuple[bytes, ...]
    ) -> None:
        """Take in a reply."""

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""

    def take_alerts(self) -> Sequence[Finding]:
        """Return what was found without blocking."""

    def review(self, now: float) -> Sequence[Pair]:
        """Return what the operator is to confirm."""

    def confirm(self, client: bytes, domain: Name) -> None:
        """Do as the operator says."""


class Line:
    """One resolver's way out."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._ticked = float("-inf")

    def ask(
        self,
        now: float,
        client: bytes,
        domain: Name,
        qname: Name,
        qtype: int,
        *,
        rcode: int = 0,
        addresses: tuple[bytes, ...] | None = None,
    ) -> Finding | None:
        """Send a question on and tell the reply, or return why it was not sent."""
        if now - self._ticked >= _TICK:
            self._ticked = now
            self.meter.tick(now)
        finding = self.meter.check(now, client, domain, qname, qtype)
        if finding is not None and finding.confidence is Confidence.HIGH:
            return finding
        if addresses is None:
            addresses = _ADDRESS if qtype == _A and rcode == 0 else ()
        self.meter.answered(now, client, domain, qtype, rcode, addresses)
        return None


class Cache:
    """What was asked within the last LEAST_TTL seconds; it is neither sent on nor metered."""

    def __init__(self) -> None:
        self._young: dict[tuple[Name, int], float] = {}
        self._old: dict[tuple[Name, int], float] = {}
        self._turn = float("-inf")

    def holds(self, now: float, qname: Name, qtype: int) -> bool:
        """True when the answer is still there."""
        key = qname, qtype
        return now < max(self._young.get(key, now), self._old.get(key, now))

    def put(self, now: float, qname: Name, qtype: int) -> None:
        """Keep the answer from now on."""
        if now >= self._turn:
            self._old = self._young if now < self._turn + LEAST_TTL else {}
            self._young, self._turn = {}, now + LEAST_TTL
        self._young[qname, qtype] = now + LEAST_TTL


def new_line(*, started: float) -> Line:
    """Return a line with a meter as installed, blocking."""
    return Line(LeakMeter(LeakSettings(mode="block"), started=started))
