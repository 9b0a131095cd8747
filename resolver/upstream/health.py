"""How well each server answers, and which one gets the next question: no I/O, time is an argument in seconds.

Rules:
1. A server has failed when a question timed out and nothing at all was heard from it since that question left; one slow
   name says nothing about the server. Failures are counted at most once in 0.4 s,
   and questions that left before the last counted one not at all.
2. The time-out follows RFC 6298 (smoothed RTT plus four deviations) and doubles with each failure in a row.
3. The answering server with the lowest smoothed RTT is asked. A failed one is tried again with one real question after
   1, 2, 4 ... 60 seconds, an idle one every 5 seconds, so that figures stay true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_TIMEOUT: Final = 0.8  # seconds, while the RTT is unknown
FIRST_TIMEOUT_STREAM: Final = 2.0  # seconds: TCP and TLS handshakes come first
MIN_TIMEOUT: Final = 0.4  # seconds: a forwarder behind us needs time for its own recursion
MAX_TIMEOUT: Final = 3.0  # seconds
FIRST_RETRY: Final = 1.0  # seconds until a failed server is tried again
MAX_RETRY: Final = 60.0  # seconds
EXPLORE: Final = 5.0  # seconds between questions to a server that is not the best one
CASE_STRIKES: Final = 3  # replies with the wrong case, none right in between, before 0x20 is given up
CASE_PARDON: Final = 3_600.0  # seconds until 0x20 is tried again
MAX_FAILURES: Final = 8  # counted in a row; more would double nothing further
UNKNOWN_RTT: Final = 0.05  # seconds, the rank of a server never heard

_GAIN: Final = 0.125  # RFC 6298 section 2
_VARIANCE_GAIN: Final = 0.25


class Health:
    """What is known of one server."""

    __slots__ = ("failed_at", "failures", "first", "heard_at", "mixes_case", "pardon_at", "retry_at", "srtt", "strikes",
                 "timeout", "variance")  # fmt: skip

    def __init__(self, *, stream: bool = False) -> None:
        self.first = FIRST_TIMEOUT_STREAM if stream else FIRST_TIMEOUT
        self.timeout = self.first  # seconds to wait for a reply
        self.srtt = 0.0  # seconds, 0: unknown
        self.variance = 0.0
        self.failures = 0
        self.failed_at = float("-inf")
        self.heard_at = float("-inf")
        self.retry_at = 0.0
        self.mixes_case = True
        self.strikes = 0
        self.pardon_at = 0.0

    def replied(self, rtt: float, now: float) -> None:
        """Take one measured round trip: the server is well, whatever it was before."""
        if self.srtt:
            self.variance += _VARIANCE_GAIN * (abs(self.srtt - rtt) - self.variance)
            self.srtt += _GAIN * (rtt - self.srtt)
        else:
            self.srtt, self.variance = rtt, rtt / 2
        self.failures = 0
        self.heard_at = now
        if self.mixes_case:
            self.strikes = 0
        self._set_timeout()

    def missed(self, sent: float, now: float) -> None:
        """Take a time-out or a network error of a question that left at `sent`."""
        if sent <= self.failed_at or sent < self.heard_at or now - self.failed_at < MIN_TIMEOUT:
            return
        self.failures = min(self.failures + 1, MAX_FAILURES)
        self.failed_at = now
        self.retry_at = now + min(FIRST_RETRY * 2.0 ** (self.failures - 1), MAX_RETRY)
        self._set_timeout()

    def miscased(self, now: float) -> None:
        """Take a reply in the wrong case; a few in a row end 0x20 with this server for an hour."""
        self.strikes += 1
        if self.strikes >= CASE_STRIKES:
            self.mixes_case = False
            self.pardon_at = now + CASE_PARDON

    def pardon(self, now: float) -> None:
        """Start 0x20 again when its hour is over."""
        if not self.mixes_case and now >= self.pardon_at:
            self.mixes_case = True
            self.strikes = 0

    def _set_timeout(self) -> None:
        learned = max(self.srtt + 4 * self.variance, MIN_TIMEOUT) if self.srtt else self.first
        self.timeout = min(learned * 2.0 ** min(self.failures, 4), MAX_TIMEOUT)


class Fleet:
    """The servers in the order the administrator gave, and the choice among them."""

    __slots__ = ("_current", "_members", "_probe")

    def __init__(self, members: Sequence[Health]) -> None:
        self._members = members
        self._current = 0
        self._probe = -1

    def take(self, now: float) -> int:
        """Return the index of the server for a new question; one that `look` found due for a trial gets it."""
        probe = self._probe
        if probe < 0:
            return self._current
        self._probe = -1
        member = self._members[probe]
        member.retry_at = now + max(EXPLORE, min(FIRST_RETRY * 2.0**member.failures, MAX_RETRY))
        return probe

    def look(self, now: float) -> None:
        """Choose again; to be called often (20 times a second) and after each failure."""
        members = self._members
        self._current = min(range(len(members)), key=self._rank)
        self._probe = -1
        for index, member in enumerate(members):
            member.pardon(now)
            if index != self._current and now >= member.retry_at:
                self._probe = index

    def best_of(self, excluded: int) -> int:
        """Return the best server whose bit is not set in `excluded`, or -1 when all are."""
        left = [index for index in range(len(self._members)) if not excluded >> index & 1]
        return min(left, key=self._rank, default=-1)

    def _rank(self, index: int) -> tuple[int, float, int]:
        member = self._members[index]
        return member.failures, member.srtt or UNKNOWN_RTT, index
