"""A hunt: every detector over sights in order of time, and for each thing found how much had got out by then.

Rules:
1. The engine is the resolver's, with its thresholds; every detector that can block counts as if it did, and learning
   counts as over, for a file has no week to learn from before it matters.
2. The clock is the sights' own. What would be blocked does not count as sent out from then on, but is looked at.
3. A question that the resolver would have answered from its cache, or by itself, counts as such: nothing of it left.
4. Pairs past MAX_PAIRS that nobody has found anything about are forgotten, and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from core.endpoints import packed
from core.errors import BadName
from core.finding import Confidence, Finding
from core.names import Name, from_text
from core.rr import Rcode
from detectors.bounded import Bounded
from detectors.carried import payload_bits
from detectors.conviction import EVERYWHERE
from detectors.engine import Engine, address_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from detectors.engine import Outcome
    from detectors.sight import Sight

MAX_PAIRS: Final = 100_000  # clients and their domains; about 300 octets each
MAX_NAMES: Final = 131_072  # questions remembered, so that a name counts once; about 100 octets each
MAX_CACHED: Final = 131_072  # answers the resolver would hold; about 130 octets each
MIN_TTL: Final = 60.0  # seconds any answer is kept, the resolver's own against channels in time
MAX_TTL: Final = 86_400.0  # seconds
NEGATIVE_TTL: Final = 300.0  # seconds; logs do not tell how long a name is known not to exist
MAX_ROWS: Final = 100_000  # findings kept
LEARNED: Final = 400 * 86_400.0  # seconds before the first sight at which learning began, more than any detector's
AFTER: Final = (1.0, 60.0, 600.0, 3_600.0)  # seconds after the last sight at which detectors may still conclude

Key = tuple[bytes, Name]  # client, empty for all of them; domain, empty for all of them


class Row(NamedTuple):
    """What a detector found about a client and a domain. Bytes are those of detectors/carried.py."""

    client: str
    domain: str
    detector: str
    confidence: str
    score: float
    queries: int  # of the client for the domain, over everything read
    bytes_before_alert: int
    bytes_before_block: int | None  # None: nothing would have been blocked
    first: float  # Unix seconds of the first of these queries
    last: float
    reason: str
    evidence: list[dict[str, Any]]


class _Account:
    """The queries of a client for a domain, or of all clients, or for all domains."""

    __slots__ = ("bits", "blocked_at", "first", "last", "queries")

    def __init__(self, at: float) -> None:
        self.queries = 0
        self.bits = 0.0
        self.blocked_at: float | None = None  # bits that had got out when it was blocked
        self.first = self.last = at


class _Found(NamedTuple):
    finding: Finding
    account: _Account
    bits: float  # when it was found first


class Hunt:
    """One run of all detectors. Raises BadConfig for tables that make no sense.

    `answered_here` says of a name and a type whether the resolver answers them by itself.
    """

    def __init__(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        *,
        started: float,
        answered_here: Callable[[Name, int], bool] = lambda _name, _qtype: False,
    ) -> None:
        self.engine = Engine(tables, started=started - LEARNED, blocking=True, alerting=False)
        self.queries = 0
        self.lost_rows = 0
        self._accounts: Bounded[Key, _Account] = Bounded(MAX_PAIRS)
        self._asked: Bounded[int, bool] = Bounded(MAX_NAMES)
        self._answers: Bounded[int, float] = Bounded(MAX_CACHED)  # question: until when its answer is held
        self._answered_here = answered_here
        self._found: dict[tuple[str, str, str], _Found] = {}
        self._kept: dict[Key, _Account] = {}  # those something was found about
        self._last = started

    def see(self, sight: Sight) -> None:
        """Take in the next sight."""
        self.queries += sight.count
        self._last = max(self._last, sight.at)
        if not (sight.cached or sight.blocked) and self._stays(sight):
            sight = msgspec.structs.replace(sight, cached=True)
        outcome = self.engine.see(sight)
        blocked = outcome.blocked or sight.blocked
        bits = 0.0
        if not (sight.cached or blocked):
            asked = hash((sight.client, sight.qname))
            if not self._asked.get(asked):
                self._asked.put(asked, value=True)
                bits = payload_bits(sight.qname, sight.domain)
        for key in ((sight.client, sight.domain), (sight.client, b""), (b"", sight.domain)):
            account = self._account(key, sight.at)
            account.queries += sight.count
            account.bits += bits
            account.last = max(account.last, sight.at)
        if blocked:
            self._block((sight.client, sight.domain), sight.at)
        if outcome.findings:
            self._note(outcome)

    def finish(self) -> None:
        """Let the detectors conclude what was still open when the sights ended."""
        for later in AFTER:
            self._note(self.engine.tick(self._last + later))

    def rows(self, aliases: Mapping[bytes, str] | None = None) -> list[Row]:
        """Return what was found, the surest first; `aliases` are what clients are called that are no addresses."""
        called = {address_text(address): text for address, text in (aliases or {}).items()}
        found = sorted(self._found.values(), key=lambda one: (-one.finding.confidence, one.account.first))
        return [_row(one, called) for one in found]

    def counters(self) -> Mapping[str, int]:
        """Return what was dropped at the caps."""
        return {"pairs forgotten": self._accounts.dropped, "findings forgotten": self.lost_rows}

    def _stays(self, sight: Sight) -> bool:
        """True when the resolver would not have had to ask for it."""
        question = hash((sight.qname, sight.qtype))
        held = self._answers.get(question)
        if held is not None and held > sight.at:
            return True
        if self._answered_here(sight.qname, sight.qtype):
            return True
        self._answers.put(question, sight.at + _lifetime(sight))
        return False

    def _account(self, key: Key, at: float) -> _Account:
        account = self._kept.get(key) or self._accounts.get(key)
        if account is None:
            account = _Account(at)
            self._accounts.put(key, account)
        return account

    def _block(self, key: Key, at: float) -> None:
        account = self._account(key, at)
        if account.blocked_at is None:
            account.blocked_at = account.bits

    def _note(self, outcome: Outcome) -> None:
        for finding in outcome.findings:
            key = (finding.client, finding.domain, finding.detector)
            before = self._found.get(key)
            if before is not None:
                surer = (finding.confidence, finding.score) > (before.finding.confidence, before.finding.score)
                self._found[key] = before._replace(finding=finding) if surer else before
            elif len(self._found) >= MAX_ROWS:
                self.lost_rows += 1
            else:
                account = self._keep(_key(finding.client, finding.domain))
                self._found[key] = _Found(finding, account, account.bits)
        for conviction in outcome.convicted:
            self._block(_key(conviction.client, conviction.domain), self._last)

    def _keep(self, key: Key) -> _Account:
        account = self._account(key, self._last)
        self._accounts.pop(key)
        self._kept[key] = account
        return account


def _row(found: _Found, called: Mapping[str, str]) -> Row:
    finding, account = found.finding, found.account
    blocked = account.blocked_at
    return Row(
        called.get(finding.client, finding.client), finding.domain, finding.detector,
        Confidence(finding.confidence).name, round(finding.score, 4), account.queries, _octets(found.bits),
        None if blocked is None else _octets(blocked), account.first, account.last, finding.reason,
        [{"name": one.name, "value": one.value, "threshold": one.threshold} for one in finding.evidence],
    )  # fmt: skip


def _lifetime(sight: Sight) -> float:
    """Return for how many seconds the resolver would hold the answer."""
    if sight.rcode == Rcode.NXDOMAIN or (sight.rcode == Rcode.NOERROR and not sight.ttl):
        return NEGATIVE_TTL
    return min(max(float(sight.ttl), MIN_TTL), MAX_TTL)


def _octets(bits: float) -> int:
    return round(bits / 8)


def _key(client: str, domain: str) -> Key:
    """Return the account a finding is about."""
    return packed(client), b"" if domain in EVERYWHERE else _wire(domain)


def _wire(domain: str) -> Name:
    try:
        return from_text(domain)
    except BadName:
        return b""
