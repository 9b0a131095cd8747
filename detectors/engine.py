"""The engine: every detector over sights in order of time, one level for each client and domain, and what follows.

Rules:
1. A finding becomes part of the one alert of its client and domain. A level of HIGH (or of `block_at`) by detectors in
   mode `block` becomes a conviction.
2. The leak meter looks before a query is sent on; all Watches after it was answered. A convicted query is not charged.
3. Time never goes back: a sight that comes late is looked at by the engine's clock.
4. State is bounded part by part; `counters` says what was dropped where.
5. Of what one client asks below one domain in a second, Watches are shown the first CROWD questions and then every
   EVERY-th: a flood costs little, and is no less plain. Leak meter and accounts count all of it.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from core.errors import UNREADABLE
from core.finding import Confidence, Finding
from core.names import Name, to_text
from detectors.accounts import Accounts
from detectors.alert import Alerts, Incident, key_of
from detectors.bounded import Bounded
from detectors.combining import COMBINED, Said, combined, part_of
from detectors.conviction import ANYBODY, FOREVER, Conviction, Convictions, Exemptions, is_about_one
from detectors.registry import Part, build
from detectors.sight import Sort

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from detectors.alert import Alert
    from detectors.sight import Sight

    See = Callable[[Sight], Sequence[Finding]]

TICK: Final = 1.0  # seconds between two ticks of the detectors
SECOND: Final = 1.0
CROWD: Final = 100  # questions of a client and a domain in a second that are shown one by one
EVERY: Final = 10
MAX_PAIRS: Final = 50_000  # pairs something was found about lately, about 500 octets each
VERSION: Final = 1  # of what `dump` returns
_MISFIT: Final = (*UNREADABLE, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Outcome(NamedTuple):
    """What came of one sight, or of a tick."""

    blocked: bool = False  # the query would not have been sent on
    findings: tuple[Finding, ...] = ()
    convicted: tuple[Conviction, ...] = ()  # by them, newly


NOTHING: Final = Outcome()
_BLOCKED: Final = Outcome(blocked=True)


class Engine:
    """All detectors of a node, made from the tables below `[detectors]`. Raises BadConfig with every mistake.

    `started` is when learning began, in Unix seconds. `inline`: also run the leak meter; without it, as where workers
    run it, what they found comes in by `take_in`. `blocking`: as if every detector that can were in mode `block`.
    `alerting`: also keep accounts and alerts; without it there are findings and convictions only.
    """

    def __init__(
        self,
        tables: Mapping[str, Mapping[str, Any]],
        *,
        started: float,
        inline: bool = True,
        blocking: bool = False,
        alerting: bool = True,
    ) -> None:
        parts = build(tables, started=started, blocking=blocking)
        self._parts: dict[str, Part] = {part.name: part for part in parts}
        self._meter = next((part.meter for part in parts if part.meter is not None and inline), None)
        self._watches = [part.watch for part in parts if part.watch is not None]
        self._hits = _seeing(parts, Sort.HIT)
        self._addressed = _seeing(parts, Sort.ADDRESSED)
        self._bare = _seeing(parts, Sort.BARE)
        self._blocked = _seeing(parts, Sort.BLOCKED)
        self._said: Bounded[tuple[str, str], dict[str, Said]] = Bounded(MAX_PAIRS)
        self._accounts = Accounts()
        self._note = self._accounts.note if alerting else _nothing
        self._alerts = Alerts(self._accounts)
        self.convictions = Convictions()
        self.exemptions = Exemptions()
        self._alerting = alerting
        self._clock = self._ticked = self._counted = float("-inf")
        self._asked: dict[tuple[bytes, Name], int] = {}  # questions of this second
        self._excused = self._silenced = self._misfits = self._late = self._crowded = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The detectors that are on."""
        return tuple(self._parts)

    def see(self, sight: Sight) -> Outcome:
        """Take in a sight; returns what came of it, of ticks that were due, too."""
        at = sight.at
        if at < self._clock:
            self._late += 1
            at = self._clock
            sight = msgspec.structs.replace(sight, at=at)
        else:
            self._clock = at
        found: list[Finding] = self._tick(at) if at - self._ticked >= TICK else []
        blocked = sight.blocked or (len(self.convictions) > 0 and self._stands(sight))
        if self._meter is not None and not blocked and not sight.cached:
            blocked = self._weigh(sight, found)
        self._note(sight, blocked=blocked)
        if self._is_shown(sight):
            fresh = self._addressed if sight.addresses else self._bare
            for see in self._blocked if sight.blocked else self._hits if sight.cached else fresh:
                if new := see(sight):
                    found += new
        if not found:
            return _BLOCKED if blocked else NOTHING
        return self._judge(found, blocked=blocked)

    def turned_away(self, sight: Sight) -> None:
        """Count a question that a conviction stopped: no news to a detector, but for the alert it led to."""
        self._note(sight, blocked=True)

    def tick(self, now: float) -> Outcome:
        """Do what is due by the clock; returns what came of it."""
        self._clock = max(self._clock, now)
        found = self._tick(self._clock)
        return self._judge(found) if found else NOTHING

    def take_in(self, findings: Iterable[Finding], now: float) -> Outcome:
        """Take in what was found elsewhere, such as by the leak meters of the workers."""
        self._clock = max(self._clock, now)
        return self._judge(list(findings))

    def take_alerts(self) -> list[Alert]:
        """Return the alerts that are new or have changed since the last call."""
        at, said = self._clock, self.exemptions
        keys = (((one.client, one.domain), one) for one in self._alerts.take())
        return [one for key, one in keys if not said.allows(key, at) and not said.snoozes(key, "", at)]

    def allow(self, domain: str, *, client: str = ANYBODY, until: float = FOREVER) -> None:
        """Neither block nor alert about the domain and what lies below it; lifts the convictions there are."""
        self.exemptions.allow((client, domain), until)
        for one in self.convictions.all(self._clock):
            if self.exemptions.allows((one.client, one.domain), self._clock):
                self.release(one.domain, client=one.client)

    def snooze(self, domain: str, *, until: float, client: str = ANYBODY, detector: str = "") -> None:
        """Raise no alert about the domain until then, of one detector or of all; blocking goes on."""
        self.exemptions.snooze((client, domain), until, detector)

    def forget(self, domain: str, *, client: str = ANYBODY) -> None:
        """Take back what was allowed or snoozed, the conviction, and what was said about the pair."""
        self.exemptions.forget((client, domain))
        self.release(domain, client=client)
        self._said.pop((client, domain))

    def release(self, domain: str, *, client: str = ANYBODY) -> None:
        """Take back the conviction of a pair; what is found from now on convicts anew, and is another incident."""
        self.convictions.forget((client, domain))
        self._alerts.end((client, domain))

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the counters of every detector by its name, and the engine's own."""
        found = {watch.name: dict(watch.counters()) for watch in self._watches}
        if self._meter is not None:
            found["leak"] = dict(self._meter.counters())
        found["engine"] = {
            "pairs": len(self._said), "dropped_pairs": self._said.dropped, "excused": self._excused,
            "silenced": self._silenced, "late": self._late, "crowded": self._crowded, "states_left_out": self._misfits,
            "accounts": len(self._accounts), "dropped_accounts": self._accounts.dropped,
            **self._alerts.counters(), **self.convictions.counters(), **self.exemptions.counters(),
        }  # fmt: skip
        return found

    def dump(self) -> dict[str, Any]:
        """Return the state of everything as plain values msgspec can pack."""
        return {
            "version": VERSION,
            "clock": self._clock,
            "leak": None if self._meter is None else self._meter.dump(),
            "watches": {watch.name: watch.dump() for watch in self._watches},
            "said": [[*key, _plain(said)] for key, said in self._said.items()],
            "accounts": self._accounts.dump(),
            "alerts": msgspec.to_builtins(self._alerts.dump()),
            "convictions": self.convictions.dump(),
            "exemptions": self.exemptions.dump(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; a part that does not fit this version starts afresh, and is counted."""
        if state.get("version") != VERSION:
            self._misfits += 1
            return
        watches = state.get("watches")
        kept: dict[str, Any] = watches if isinstance(watches, dict) else {}
        self._attempt(lambda: self._resume(float(state["clock"])))
        if self._meter is not None and state.get("leak") is not None:
            meter, held = self._meter, state["leak"]
            self._attempt(lambda: meter.load(held))
        for watch in self._watches:
            if watch.name in kept:
                self._attempt(lambda watch=watch: watch.load(kept[watch.name]))
        self._attempt(lambda: self._remember(state["said"]))
        self._attempt(lambda: self._accounts.load(state["accounts"]))
        self._attempt(lambda: self._alerts.load(msgspec.convert(state["alerts"], list[Incident])))
        self._attempt(lambda: self.convictions.load(state["convictions"], self._clock))
        self._attempt(lambda: self.exemptions.load(state["exemptions"]))

    def _attempt(self, take_up: Any) -> None:
        try:
            take_up()
        except _MISFIT:
            self._misfits += 1

    def _resume(self, clock: float) -> None:
        self._clock = max(self._clock, clock)

    def _remember(self, said: Sequence[Any]) -> None:
        for client, domain, by in said:
            self._said.put((client, domain), msgspec.convert(by, dict[str, Said]))

    def _tick(self, now: float) -> list[Finding]:
        self._ticked = now
        found: list[Finding] = []
        if self._meter is not None:
            self._meter.tick(now)
            found += self._meter.take_alerts()
        for watch in self._watches:
            found += watch.tick(now)
        self._alerts.tick(now)
        return found

    def _is_shown(self, sight: Sight) -> bool:
        """False for most of what a client asks below a domain beyond CROWD questions in a second."""
        asked, at = self._asked, sight.at
        if at - self._counted >= SECOND or len(asked) >= MAX_PAIRS:
            asked.clear()
            self._counted = at
        key = (sight.client, sight.domain)
        count = asked[key] = asked.get(key, 0) + 1
        if count <= CROWD or count % EVERY == 0:
            return True
        self._crowded += 1
        return False

    def _weigh(self, sight: Sight, found: list[Finding]) -> bool:
        """Ask the leak meter; true when the query must not be sent on."""
        meter = self._meter
        if meter is None:
            return False
        over = meter.check(sight.at, sight.client, sight.domain, sight.qname, sight.qtype)
        found += meter.take_alerts()
        if over is None:
            meter.answered(sight.at, sight.client, sight.domain, sight.qtype, sight.rcode, sight.addresses)
            return False
        found.append(over)
        return not self.exemptions.allows((over.client, over.domain), self._clock)

    def _stands(self, sight: Sight) -> bool:
        domain = _text(sight.domain)
        standing = self.convictions.standing
        return (
            standing((address_text(sight.client), domain), self._clock) is not None
            or standing((ANYBODY, domain), self._clock) is not None
        )

    def _judge(self, found: Sequence[Finding], *, blocked: bool = False) -> Outcome:
        kept: list[Finding] = []
        convicted: list[Conviction] = []
        for finding in found:
            key = key_of(finding)
            if self.exemptions.allows(key, self._clock):
                self._excused += 1
                continue
            for one, detectors in self._weighed(key, finding):
                kept.append(one)
                conviction = self._convict(key, detectors, one) if detectors else None
                convicted += [conviction] if conviction else []
                if self._alerting:
                    self._alert(key, one, blocks=bool(detectors))
        return Outcome(blocked, tuple(kept), tuple(convicted))

    def _alert(self, key: tuple[str, str], finding: Finding, *, blocks: bool) -> None:
        if self.exemptions.snoozes(key, finding.detector, self._clock):
            self._silenced += 1
            return
        part = self._parts.get(part_of(finding.detector))
        level = Confidence.MEDIUM if part is None else part.alert_at
        self._alerts.raise_(finding, self._clock, blocks=blocks, level=level)

    def _weighed(self, key: tuple[str, str], finding: Finding) -> list[tuple[Finding, tuple[str, ...]]]:
        """Return the finding, and the engine's own when others agree; each with the detectors by which it blocks."""
        part = self._parts.get(part_of(finding.detector))
        blocks = part is not None and part.blocks
        by = self._said.get(key) or {}
        before = combined(by, self._clock)
        by[finding.detector] = Said(finding.confidence, self._clock, blocks)
        self._said.put(key, by)
        alone = blocks and part is not None and finding.confidence >= part.block_at
        told: list[tuple[Finding, tuple[str, ...]]] = [(finding, (finding.detector,) if alone else ())]
        level = combined(by, self._clock)
        if level is None or level.confidence <= finding.confidence or level == before or not is_about_one(key[1]):
            return told
        if level.confidence is Confidence.HIGH and len(level.detectors) > 1:
            together = level.detectors if all(by[name].blocks for name in level.detectors) else ()
            told.append((_agreement(finding, level.detectors), together))
        return told

    def _convict(self, key: tuple[str, str], detectors: tuple[str, ...], finding: Finding) -> Conviction | None:
        if not is_about_one(key[1]):
            return None
        return self.convictions.convict(key, detectors, finding.reason, self._clock)


def _seeing(parts: Iterable[Part], sort: Sort) -> tuple[See, ...]:
    return tuple(part.watch.see for part in parts if part.watch is not None and sort in part.sees)


def _nothing(sight: Sight, *, blocked: bool) -> None:
    """Keep no account."""


def _agreement(finding: Finding, detectors: tuple[str, ...]) -> Finding:
    reason = f"{' and '.join(detectors)} agree on different evidence; the last to speak: {finding.reason}"
    return msgspec.structs.replace(
        finding, detector=COMBINED, score=1.0 - 0.1 ** len(detectors), confidence=Confidence.HIGH, reason=reason
    )


def _plain(said: Mapping[str, Said]) -> dict[str, list[Any]]:
    return {name: [int(one.confidence), one.at, one.blocks] for name, one in said.items()}


@lru_cache(maxsize=16_384)
def address_text(address: bytes) -> str:
    """Return a client's address of 4 or 16 octets as text, any other as hexadecimal digits."""
    try:
        return str(ip_address(address))
    except ValueError:
        return address.hex()


@lru_cache(maxsize=16_384)
def _text(domain: Name) -> str:
    return to_text(domain)
