"""What an alert says to whoever is called at night: what, who, how much, since when, and what was done about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from core.finding import Confidence, Evidence
from detectors.combining import COMBINED, part_of
from detectors.conviction import ANYBODY, EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST: Final = 400  # characters of one detector's reason
KIBI: Final = 1_024
_HEDGES: Final[Mapping[Confidence, str]] = {
    Confidence.HIGH: "", Confidence.MEDIUM: "probably ", Confidence.LOW: "possibly ",
}  # fmt: skip
_DEEDS: Final[Mapping[str, str]] = {  # what a client does with a domain, by the detector that leads
    "leak": "sends data out in the names it asks for below {domain}",
    "tunnel": "tunnels data through questions and answers of {domain}",
    "dga": "runs a program that makes up domain names, {domain} among them",
    "dga-lookalike-scan": "looks for names that are look-alikes of {domain}",
    "storm": "floods {domain} with questions that fail",
    "beacon": "calls {domain} like clockwork",
    "flux": "talks to {domain}, whose addresses wander over many networks",
    "young": "uses {domain}, which is new here or was registered lately",
    "lookalike": "uses {domain}, which imitates a protected name",
    "bypass": "looks for a way around this resolver by {domain}",
}
_OTHER: Final = "does something suspicious with {domain}"


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """The surest word of one detector about a pair, and when it spoke first and last, in Unix seconds."""

    confidence: Confidence
    score: float
    reason: str
    evidence: tuple[Evidence, ...]
    tool: str
    first: float
    last: float


class Story(NamedTuple):
    """What is told of an incident. Times are Unix seconds, sizes octets."""

    client: str
    domain: str
    said: Sequence[tuple[str, Heard]]  # detectors and what they said, the surest first
    queries: int
    since: float
    last: float
    carried: int
    blocked_at: float  # 0: not blocked
    before_block: int


def told(story: Story) -> str:
    """Return the reason of an alert, a few sentences."""
    return f"{_deed(story)}. {_extent(story)}. {_measure(story)}. {_witnesses(story)}"


def _deed(story: Story) -> str:
    """Say who does what."""
    said = [one for one in story.said if one[0] != COMBINED] or story.said
    tool = next((heard.tool for _, heard in said if heard.tool), "")
    leader = "tunnel" if tool else said[0][0]
    who = "Many clients together" if story.client == ANYBODY else story.client
    domain = "many domains" if story.domain in EVERYWHERE else story.domain
    deed = (_DEEDS.get(leader) or _DEEDS.get(part_of(leader), _OTHER)).format(domain=domain)
    hedge = _HEDGES[story.said[0][1].confidence]
    return f"{who} {hedge}{deed}" + (f" with {tool}" if tool else "")


def _extent(story: Story) -> str:
    """Say how much, and since when."""
    questions = f"{story.queries:,} question{'' if story.queries == 1 else 's'}"
    until = f", the last at {moment(story.last)}" if story.last > story.since else ""
    carried = f"their names can have carried {octets(story.carried)} out so far"
    return f"{questions} since {moment(story.since)}{until}; {carried}"


def _measure(story: Story) -> str:
    """Say what was done."""
    if not story.blocked_at:
        return "NOT BLOCKED: no detector in mode block was sure enough"
    return f"Blocked at {moment(story.blocked_at)}, when it was {octets(story.before_block)}"


def _witnesses(story: Story) -> str:
    """Say which detectors saw it, and what each has to say."""
    shown = [
        f"{name} ({Confidence(heard.confidence).name}): {_short(heard.reason)}"
        for name, heard in story.said
        if name != COMBINED
    ]
    agreed = "They agree on different kinds of evidence, which makes it HIGH. " if story.said[0][0] == COMBINED else ""
    return f"{agreed}Seen by {'; '.join(shown)}"


def moment(at: float) -> str:
    """Return a time in Unix seconds as people write it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def octets(count: int) -> str:
    """Return a size with the unit people read it in."""
    if count < KIBI:
        return f"{count} bytes"
    return f"{count / KIBI:.1f} KiB" if count < KIBI**2 else f"{count / KIBI**2:.1f} MiB"


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 3]}..."
