"""Alerts: one incident of a client and a domain, whichever detectors find something, told in words for whoever is called.

Rules:
1. An incident is about a client (or ANYBODY) and a domain. It keeps its id until QUIET passed without a finding; each
   detector's surest word stays in it, and the surest of all leads.
2. It becomes an alert with the first finding at or above the level wanted of its detector. Weaker ones before that are
   kept, and shown with it.
3. An alert is handed out when it is new, and again after it changed or, each REFRESH, while the client goes on asking.
   Past the caps the oldest goes, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import BadName
from core.finding import Confidence, Evidence, Finding
from core.names import from_text
from detectors.alert_words import Heard, Story, told
from detectors.combining import COMBINED
from detectors.conviction import ANYBODY, EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detectors.accounts import Account, Accounts

QUIET: Final = 86_400.0  # seconds
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
    """What is known of an incident. Times are Unix seconds; payload is what detectors/carried.py estimates, in octets."""

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
    told: float = 0.0  # until when its questions are told


class Alerts:
    """The incidents under way, and the alerts nobody has taken yet."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._known: OrderedDict[Key, Incident] = OrderedDict()  # the longest quiet first
        self._waiting: OrderedDict[Key, Incident] = OrderedDict()
        self._refreshed = 0.0
        self._dropped = 0
        self._raised = 0

    def raise_(self, finding: Finding, now: float, *, blocks: bool, level: Confidence = Confidence.LOW) -> None:
        """Add a finding to the incident of its pair; from `level` on it is an alert."""
        key = key_of(finding)
        incident = self._known.get(key)
        if incident is None or now - incident.last > QUIET:
            incident = self._begin(key, now)
        account = self._accounts.hold(_account_of(key), now)
        before = incident.said.get(finding.detector)
        incident.said[finding.detector] = _surer(before, finding, now)
        incident.count += finding.detector != COMBINED
        incident.last = now
        incident.blocks = incident.blocks or blocks
        if blocks:
            account.block(now)
        self._known.move_to_end(key)
        if not incident.alerted and finding.confidence >= level:
            incident.alerted, incident.alerted_bits = now, account.bits
            self._raised += 1
        if incident.alerted:
            self._wait(key, incident)

    def tick(self, now: float) -> None:
        """End what was quiet for long, and have told again whose client goes on asking."""
        while self._known:
            key, oldest = next(iter(self._known.items()))
            if now - oldest.last <= QUIET:
                break
            self.end(key)
        if now - self._refreshed < REFRESH:
            return
        self._refreshed = now
        for key, incident in self._known.items():
            if incident.alerted and self._accounts.hold(_account_of(key), now).last > incident.told:
                self._wait(key, incident)

    def take(self) -> list[Alert]:
        """Return the alerts that are new or have changed since the last call, oldest first."""
        taken = [self._alert(key, incident) for key, incident in self._waiting.items()]
        self._waiting.clear()
        return taken

    def end(self, key: Key) -> None:
        """End the incident of a pair: what is found from now on is another one."""
        self._known.pop(key, None)
        self._accounts.release(_account_of(key))

    def counters(self) -> Mapping[str, int]:
        """Return how many became alerts, how many incidents are under way, and how many were lost at the caps."""
        return {"raised": self._raised, "alerts": len(self._known), "dropped_alerts": self._dropped}

    def dump(self) -> list[Incident]:
        """Return the incidents under way."""
        return list(self._known.values())

    def load(self, incidents: list[Incident]) -> None:
        """Take up what `dump` returned, so that a restart does not alert twice."""
        for incident in incidents:
            key = (incident.client, incident.domain)
            self._known[key] = incident
            self._accounts.hold(_account_of(key), incident.last)

    def _begin(self, key: Key, now: float) -> Incident:
        self.end(key)
        if len(self._known) >= MAX_INCIDENTS:
            self.end(next(iter(self._known)))
            self._dropped += 1
        incident = self._known[key] = Incident(_identity(key, now), *key, now)
        return incident

    def _wait(self, key: Key, incident: Incident) -> None:
        self._waiting[key] = incident
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._dropped += 1

    def _alert(self, key: Key, incident: Incident) -> Alert:
        account = self._accounts.hold(_account_of(key), incident.last)
        incident.told = account.last
        ranked = sorted(incident.said.items(), key=_rank)
        detector, lead = ranked[0]
        blocked = incident.blocks or account.blocked_at > 0.0
        story = Story(
            incident.client, incident.domain, ranked, account.queries, account.first, account.octets,
            account.blocked_at, _octets(account.blocked_bits),
        )  # fmt: skip
        return Alert(
            incident.id, incident.client, incident.domain, detector,
            tuple(name for name, _ in ranked if name != COMBINED), lead.confidence, round(lead.score, 4),
            next((heard.tool for _, heard in ranked if heard.tool), ""), account.queries,
            _octets(incident.alerted_bits), _octets(account.blocked_bits) if blocked else None, account.first,
            max(account.last, incident.last), incident.count, blocked, told(story),
            tuple(Shown(name, one.name, one.value, one.threshold) for name, heard in ranked if name != COMBINED
                  for one in heard.evidence),
        )  # fmt: skip


def key_of(finding: Finding) -> Key:
    """Return the pair a finding is about, all clients as ANYBODY."""
    return (ANYBODY if finding.client in EVERYWHERE else finding.client, finding.domain)
