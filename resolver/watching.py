"""The detectors in the hub: what workers tell goes past all Watches; what they find becomes alerts and convictions.

Rules:
1. What a feed or an analyst blocked is no news to a detector; what is answered here never left. What a conviction
   turned away is counted for its alert.
2. A conviction is an override of one client and domain, put into Redis, so that every worker of every node has it.
3. The state is kept over a restart; one that cannot be read starts afresh, part by part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.errors import BadName
from core.names import from_text, to_text
from core.verdict import Action, Cause
from detectors.conviction import ANYBODY, FOREVER
from detectors.engine import Engine
from detectors.sight import Sight, domain_of
from feeds.overlay import CONVICTS, MAX_TEXT, Override
from resolver.decisions import Decisions
from resolver.keeping import FOLDER, Saver, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.config import Config
    from core.event import Event
    from core.finding import Finding
    from detectors.alert import Alert
    from detectors.conviction import Conviction
    from detectors.engine import Outcome
    from resolver.decisions import Decision

MARGIN: Final = 600.0  # seconds by which an override outlasts its conviction, which evidence on the way prolongs
_FILE: Final = "watches"
_NODATA: Final = Action.NODATA.value
_INSIDE: Final = frozenset((Cause.LOCAL, Cause.ACCESS))
_KNOWN: Final = frozenset((Cause.OVERRIDE, Cause.INTEL, Cause.CONVICTION))


class Watching:
    """The engine of one node."""

    def __init__(self, config: Config, *, now: float) -> None:
        """Take up the state there is; raises BadConfig."""
        self.engine = Engine(config.detectors, started=now, inline=False)
        self.saver = Saver(config.data_dir / FOLDER / _FILE, self.engine.dump, now=now)
        self._convicted: list[Override] = []
        self._allowed: set[tuple[str, str]] = set()
        self._decisions = Decisions(config.data_dir)
        state = read(self.saver.path)
        if state is not None:
            self.engine.load(state)

    def see(self, events: Iterable[Event]) -> None:
        """Show the detectors what was asked."""
        see = self.engine.see
        for event in events:
            cause = event.cause
            if cause in _INSIDE:
                continue
            if cause in _KNOWN and event.action >= _NODATA:
                if cause == Cause.CONVICTION:
                    self.engine.turned_away(_sight(event))
                continue
            outcome = see(_sight(event))
            if outcome.convicted:
                self._convict(outcome)

    def take_in(self, findings: Sequence[Finding], now: float) -> None:
        """Take in what a worker's leak meter found."""
        self._convict(self.engine.take_in(findings, now))

    def tick(self, now: float) -> None:
        """Do what is due: detectors' own chores, and the state on disk by a fork that nobody waits for."""
        for decision in self._decisions.unseen():
            if decision.what == "snooze":
                who = decision.client or ANYBODY
                self.engine.snooze(decision.domain, until=decision.until, client=who, detector=decision.detector)
            else:
                self._release(decision, now)
        self._convict(self.engine.tick(now))
        self.saver.tick(now)

    def take_alerts(self) -> list[Alert]:
        """Return the alerts that are new or have changed."""
        return self.engine.take_alerts()

    def take_convictions(self) -> list[Override]:
        """Return the overrides that are to be put into Redis."""
        taken, self._convicted = self._convicted, []
        return taken

    def follow(self, overrides: Iterable[Override]) -> None:
        """Neither convict nor alert about what analysts allow, for as long as they do."""
        allowed: set[tuple[str, str]] = set()
        for item in overrides:
            if item.action is Action.PASSTHRU and item.name[:1] != b"\x00" and "/" not in item.client:
                pair = (to_text(item.name), item.client or ANYBODY)
                allowed.add(pair)
                self.engine.allow(pair[0], client=pair[1], until=item.expires or FOREVER)
        for domain, client in self._allowed - allowed:
            self.engine.forget(domain, client=client)
        self._allowed = allowed

    def close(self) -> None:
        """Write the state."""
        self.saver.write()

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the counters of every detector."""
        return self.engine.counters()

    def _release(self, decision: Decision, now: float) -> None:
        """Forget the convictions of before the decision, so that another one is news."""
        for one in self.engine.convictions.all(now):
            if one.domain == decision.domain and decision.client in {"", one.client} and one.since <= decision.at:
                self.engine.release(one.domain, client=one.client)

    def _convict(self, outcome: Outcome) -> None:
        self._convicted += [override for one in outcome.convicted if (override := _override(one)) is not None]


def _sight(event: Event) -> Sight:
    return Sight(
        event.at, event.client, event.qname, event.qtype, domain_of(event.qname), event.rcode, event.ttl, event.size,
        event.answers, event.payload, event.count, event.cached, event.action >= _NODATA,
    )  # fmt: skip


def _override(conviction: Conviction) -> Override | None:
    """Return what puts a conviction in force; None for one whose domain is no name."""
    try:
        name = from_text(conviction.domain)
    except BadName:
        return None
    by = f"{CONVICTS}{'+'.join(conviction.detectors)}"
    return Override(
        name, Action.SINKHOLE, "" if conviction.client == ANYBODY else conviction.client, "", conviction.until + MARGIN,
        conviction.reason[:MAX_TEXT], by[:MAX_TEXT], conviction.since,
    )  # fmt: skip
