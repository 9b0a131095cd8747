"""Alerts: one incident of a client and a domain, whichever detectors find something, told in words for people.

Rules:
1. An incident is about a client (or ANYBODY) and a domain. It keeps its id until QUIET passed without a finding; each
   detector's surest word stays in it, and the surest of all leads.
2. It becomes an alert with the first finding that blocks, or is at or above the level wanted of its detector. Weaker
   ones before that are kept, and shown with it.
3. An alert is handed out when it is new, and again after it changed or, each REFRESH, while the client goes on asking.
   Past the caps the oldest goes, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from core.endpoints import packed
from core.errors import BadName
from core.finding import Confidence
from core.names import from_text
from detectors.alert_words import Heard, Story, told
from detectors.combining import COMBINED
from detectors.conviction import ANYBODY, EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.finding import Finding
    from core.names import Name
    from detectors.accounts import Account, Accounts

QUIET: Final = 86_400.0  # seconds
JUST: Final = 600.0  # seconds by which a block may be known before the finding it came from
REFRESH: Final = 60.0  # seconds
MAX_INCIDENTS: Final = 20_000  # about 2 kB each
MAX_WAITING: Final = 4_096  # changed and not taken yet

Key = tuple[str, str]  # client or ANYBODY, domain


class Shown(msgspec.Struct, frozen=True):
    """One named value beside its threshold, and the detector that looked at it."""

    detector: str
    name: str
    value: float
    threshold: float


class Alert(msgspec.Struct, frozen=True):
    """What is known of an incident. Times are Unix seconds; bytes are those of detectors/carried.py."""

    id: str  # the same as long as the incident lasts
    client: str  # ANYBODY: all of them together
    domain: str
    detector: str  # whose finding is the surest
    detectors: tuple[str, ...]  # all that found something, the surest first
    confidence: Confidence
    score: float  # of `detector`
    tool: str  # empty when none is named
    queries: int  # of the client for the domain
    bytes_before_alert: int
    bytes_before_block: int | None  # None: not blocked
    first: float  # the first of these queries
    last: float  # the last of them, or the last finding
    count: int  # findings
    blocks: bool  # the pair was convicted, or its questions were stopped
    reason: str
    evidence: tuple[Shown, ...]


class Incident(msgspec.Struct):
    """What was found about a pair so far."""

    id: str
    client: str
    domain: str
    last: float  # finding
    said: dict[str, Heard] = {}
    count: int = 0
    blocks: bool = False
    alerted: float = 0.0  # when it became an alert; 0: not yet
    alerted_bits: float = 0.0  # that had got out by then
    told: int = 0  # queries, when it was told last


class Case(NamedTuple):
    """An incident and the account of its pair."""

    incident: Incident
    account: Account


class Alerts:
    """The incidents under way, and the alerts nobody has taken yet."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._known: OrderedDict[Key, Case] = OrderedDict()  # the longest quiet first
        self._waiting: OrderedDict[Key, Case] = OrderedDict()
        self._over: deque[Alert] = deque(maxlen=MAX_WAITING)  # last words on incidents that ended
        self._refreshed = 0.0
        self._dropped = 0
        self._raised = 0

    def raise_(self, finding: Finding, now: float, *, blocks: bool, level: Confidence = Confidence.LOW) -> None:
        """Add a finding to the incident of its pair; from `level` on it is an alert."""
        key = key_of(finding)
        case = self._known.get(key)
        if case is None or now - case.incident.last > QUIET:
            case = self._begin(key, now)
        incident, account = case
        incident.said[finding.detector] = _surer(incident.said.get(finding.detector), finding, now)
        incident.count += finding.detector != COMBINED
        incident.last = now
        if blocks:
            incident.blocks = True
            account.block(now)
        self._known.move_to_end(key)
        if not incident.alerted and (blocks or finding.confidence >= level):
            incident.alerted, incident.alerted_bits = now, account.bits
            self._raised += 1
        if incident.alerted:
            self._wait(key, case)

    def tick(self, now: float) -> None:
        """End what was quiet for long, and have told again whose client goes on asking."""
        while self._known:
            key, oldest = next(iter(self._known.items()))
            if now - oldest.incident.last <= QUIET:
                break
            self.end(key)
        if now - self._refreshed < REFRESH:
            return
        self._refreshed = now
        for key, case in self._known.items():
            if case.incident.alerted and case.account.queries > case.incident.told:
                self._wait(key, case)

    def take(self) -> list[Alert]:
        """Return the alerts that are new or have changed since the last call, the longest waiting first."""
        taken = [*self._over, *(_alert(*case) for case in self._waiting.values())]
        self._over.clear()
        self._waiting.clear()
        return taken

    def end(self, key: Key) -> None:
        """End the incident of a pair: what is found from now on is another one."""
        case = self._known.pop(key, None)
        if case is not None:
            if self._waiting.pop(key, None) is not None:
                self._dropped += len(self._over) == MAX_WAITING
                self._over.append(_alert(*case))
            case.account.unblock()
            self._accounts.release(_account_key(key))

    def counters(self) -> Mapping[str, int]:
        """Return how many became alerts, how many incidents are under way, and how many were lost at the caps."""
        return {"raised": self._raised, "alerts": len(self._known), "dropped_alerts": self._dropped}

    def dump(self) -> list[Incident]:
        """Return the incidents under way."""
        return [case.incident for case in self._known.values()]

    def load(self, incidents: list[Incident]) -> None:
        """Take up what `dump` returned, so that a restart does not alert twice."""
        for incident in incidents:
            key = (incident.client, incident.domain)
            self._known[key] = Case(incident, self._accounts.hold(_account_key(key), incident.last))

    def _begin(self, key: Key, now: float) -> Case:
        self.end(key)
        if len(self._known) >= MAX_INCIDENTS:
            self.end(next(iter(self._known)))
            self._dropped += 1
        account = self._accounts.hold(_account_key(key), now)
        if now - account.blocked_at > JUST:
            account.unblock()
        case = self._known[key] = Case(Incident(_identity(key, now), *key, now), account)
        return case

    def _wait(self, key: Key, case: Case) -> None:
        self._waiting[key] = case
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._dropped += 1


def key_of(finding: Finding) -> Key:
    """Return the pair a finding is about, all clients as ANYBODY."""
    return (ANYBODY if finding.client in EVERYWHERE else finding.client, finding.domain)


def _alert(incident: Incident, account: Account) -> Alert:
    incident.told = account.queries
    ranked = sorted(incident.said.items(), key=_rank)
    witnesses = [one for one in ranked if one[0] != COMBINED]
    detector, lead = ranked[0]
    blocks = incident.blocks or account.blocked_at > 0.0
    before_block = _octets(account.blocked_bits)
    last = max(account.last, incident.last)
    story = Story(
        incident.client, incident.domain, ranked, account.queries, account.first, last, _octets(account.bits),
        account.blocked_at, before_block,
    )  # fmt: skip
    return Alert(
        incident.id, incident.client, incident.domain, detector, tuple(name for name, _ in witnesses),
        lead.confidence, round(lead.score, 4), next((heard.tool for _, heard in witnesses if heard.tool), ""),
        account.queries, _octets(incident.alerted_bits), before_block if blocks else None, account.first,
        last, incident.count, blocks, told(story),
        tuple(Shown(name, one.name, one.value, one.threshold) for name, heard in witnesses for one in heard.evidence),
    )  # fmt: skip


def _rank(said: tuple[str, Heard]) -> tuple[float, float]:
    return -said[1].confidence, -said[1].score


def _surer(before: Heard | None, finding: Finding, now: float) -> Heard:
    """Return the surer of what a detector said about a pair, the later where they are alike."""
    first = now if before is None else before.first
    if before is not None and (finding.confidence, finding.score) < (before.confidence, before.score):
        return msgspec.structs.replace(before, last=now)
    return Heard(finding.confidence, finding.score, finding.reason, finding.evidence, finding.tool, first, now)


def _identity(key: Key, begun: float) -> str:
    return blake2b(f"{key[0]} {key[1]} {begun:.6f}".encode("utf-8", "replace"), digest_size=8).hexdigest()


def _octets(bits: float) -> int:
    return round(bits / 8)


def _account_key(key: Key) -> tuple[bytes | None, Name | None]:
    client, domain = key
    return None if client == ANYBODY else packed(client), None if domain in EVERYWHERE else _wire(domain)


def _wire(domain: str) -> Name:
    try:
        return from_text(domain)
    except BadName:
        return b""
