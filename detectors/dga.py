"""Clients that ask for names a generator makes up: bursts of failed names, and the one name among them that resolves.

Rules:
1. Counted are distinct registrable names that do not exist: under a registry's or a dynamic-DNS suffix, asked for
   addresses, at most one label deeper, no service labels, no domain that ever resolved here. Search suffixes, wpad,
   probes, block lists and names that platforms deal out fall through that gate, whatever they look like.
2. After every 5th, 10th, 20th and 40th such name the last so many are judged together. One name never makes a group.
   A client with 40 of them, or 20 and a HIGH group, is looked at again after PAUSE; all share BUDGET names a second.
   What was due meanwhile is made up for at the next look: a storm delays a verdict by seconds and skips no size.
3. Names that are all look-alikes of one name are a scan for squatters, which is told as such and is no DGA.
4. Within an hour of a group, a name that resolves and has the structure of the group is named as its C2.
5. A single name that resolves is told from a score calibrated to MEDIUM on, and as LOW: one name proves little. At most
   ALONE new names a second are looked at so.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.finding import Confidence, Evidence, Finding
from core.names import Name, labels, to_text
from detectors.bounded import Bounded, Said
from detectors.dga_features import split
from detectors.dga_groups import SIZES, GroupModel, probability
from detectors.dga_lookalike import DISTANCE, middle, one_edit
from detectors.dga_settings import DgaSettings
from detectors.dga_suffixes import dynamic_suffixes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from detectors.dga_traits import Traits
    from detectors.sight import Sight

__all__ = ["DgaSettings", "DgaWatch"]

SCAN: Final = "dga-lookalike-scan"  # the detector of a finding about rule 3
STEP: Final = SIZES[0]  # new names between two looks
KEEP: Final = SIZES[-1]  # failed names kept of a client
SURE: Final = SIZES[-2]  # failed names of a client that are enough once a group of them was HIGH
MAX_RESOLVED: Final = 32  # names that resolved, kept of a client with failed ones
FEW: Final = 3  # failed names from which on a client's resolving names are kept
SECOND_LEVEL: Final = 4  # letters of co, com, gov, info ... below a country
COMMON: Final = 3  # clients whose use makes a name no C2
HOUR: Final = 3_600.0  # seconds a group is held and a finding is not repeated
PAUSE: Final = 10.0  # seconds
BUDGET: Final = 2_000  # names of groups judged a second, about 50 us of work each
ALONE: Final = 5_000  # names judged alone a second, about 25 us of work each
MAX_LOOKS: Final = 200  # bursts whose names are kept taken apart, about 80 kB each
MAX_TRAITS: Final = 16_384  # names kept taken apart for the next larger group, about 2 kB each
MAX_SUFFIXES: Final = 4_096  # of which it is known whether anybody registers names there
MAX_SAID: Final = 16_384  # (client, domain)
_ALONE: Final = b"alone"  # before a name: told as a single one
_SCANS: Final[Name] = b"scan"  # in place of a name: told of a scan
_ADDRESSES: Final = frozenset((1, 28, 65))  # A, AAAA, HTTPS (RFC 1035, 3596, 9460)
_NOERROR: Final = 0
_NXDOMAIN: Final = 3


class _Client:
    """What one client asked for in vain, and what it got meanwhile."""

    __slots__ = ("burst", "failed", "fresh", "group", "level", "owed", "resolved", "rest")

    def __init__(self) -> None:
        self.failed: dict[Name, float] = {}  # first time, oldest first
        self.resolved: dict[Name, float] = {}
        self.fresh = 0  # distinct failed names since the window was empty
        self.rest = float("-inf")  # until when it is not looked at
        self.owed: frozenset[int] = frozenset()  # sizes of groups that were due meanwhile
        self.burst = float("-inf")  # until when `group` is held
        self.group: list[Name] = []
        self.level = Confidence.LOW


class _Verdict(NamedTuple):
    """A group that was found, with its log-odds."""

    level: Confidence
    value: float
    names: list[Name]
    group: list[Traits]


class DgaWatch:
    """A Watch for generated names.

    `score` gives the log-odds of one name, `level` what a score is worth alone, `groups` judges several; `telling`, for
    less work, gives the log-odds of a label and its suffix that may be MEDIUM alone and None of others. Raises BadName
    when a dynamic-DNS domain of the settings is no name.
    """

    name = "dga"

    def __init__(
        self,
        settings: DgaSettings,
        *,
        score: Callable[[Name], float],
        groups: GroupModel,
        level: Callable[[float], Confidence | None] | None = None,
        telling: Callable[[bytes, Name], float | None] | None = None,
    ) -> None:
        self._settings = settings
        self._score = score
        self._groups = groups
        self._level = level
        self._telling = telling
        self._dynamic = dynamic_suffixes(settings.dynamic)
        self._clients: Bounded[bytes, _Client] = Bounded(settings.clients)
        self._known: Bounded[Name, tuple[int, bytes]] = Bounded(settings.names)  # clients, and the last of them
        self._said: Said[tuple[bytes, Name]] = Said(MAX_SAID, every=HOUR)
        self._looks: Bounded[bytes, list[Traits]] = Bounded(MAX_LOOKS)
        self._registries: Bounded[Name, bool] = Bounded(MAX_SUFFIXES)
        self._traits: Bounded[Name, Traits] = Bounded(MAX_TRAITS)
        self._gated = self._judged = self._scans = self._put_off = self._unscored = 0
        self._until = float("-inf")  # end of the second of the budgets
        self._left, self._left_alone = BUDGET, ALONE  # names that may be judged in it

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Take in a failed or a resolving name; returns what a group, a C2 or a single name makes suspicious."""
        if sight.blocked or self._settings.mode == "off":
            return ()
        if sight.rcode == _NXDOMAIN and sight.qtype in _ADDRESSES:
            return self._failed(sight)
        return self._resolved(sight) if sight.rcode == _NOERROR else ()

    def tick(self, now: float) -> Sequence[Finding]:
        """Do nothing: what is old is left out when it is next looked at."""
        del now
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return sizes, what the gate kept out, what was judged, and what was dropped at the caps."""
        return {
            "clients": len(self._clients),
            "names": len(self._known),
            "gated": self._gated,
            "judged": self._judged,
            "put_off": self._put_off,
            "unscored": self._unscored,
            "scans": self._scans,
            "dropped": self._clients.dropped + self._known.dropped + self._said.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return failed names, what is known to resolve, and what was told."""
        clients = [
            [who, client.fresh, list(client.failed.items()), list(client.resolved.items()), client.burst, client.level]
            for who, client in self._clients.items()
        ]
        known = [[name, *facts] for name, facts in self._known.items()]
        return {"clients": clients, "known": known, "said": [[*key, at] for key, at in self._said.dump()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; a burst goes on with the failed names that are still held."""
        for name, count, last in state.get("known", ()):
            self._known.put(name, (count, last))
        self._said.load([((who, name), at) for who, name, at in state.get("said", ())])
        for who, fresh, failed, resolved, burst, level in state.get("clients", ()):
            client = _Client()
            client.fresh, client.burst, client.level = fresh, burst, Confidence(level)
            client.failed = dict(tuple(pair) for pair in failed[-KEEP:])
            client.resolved = dict(tuple(pair) for pair in resolved[-MAX_RESOLVED:])
            if burst > float("-inf"):
                client.group = list(client.failed)
            self._clients.put(who, client)

    def _failed(self, sight: Sight) -> Sequence[Finding]:
        name = self._passes(sight.qname)
        if name is None:
            self._gated += 1
            return ()
        client = self._clients.get(sight.client)
        if client is None:
            client = _Client()
            self._clients.put(sight.client, client)
        self._expire(client, sight.at)
        if name in client.failed:
            return ()
        client.failed[name] = sight.at
        if len(client.failed) > KEEP:
            del client.failed[next(iter(client.failed))]
        client.fresh += 1
        return self._look(sight, client) if client.fresh % STEP == 0 else ()

    def _due(self, client: _Client, now: float) -> list[int]:
        """Return the sizes of groups to judge now, the largest first; none of a client that has to wait."""
        count = len(client.failed)
        due = [size for size in reversed(SIZES) if count >= size and (client.fresh % size == 0 or size in client.owed)]
        self._refill(now)
        if now < client.rest or self._left <= 0:
            self._put_off += 1
            client.owed = frozenset(due)
            return []
        client.owed = frozenset()
        if client.fresh >= (SURE if now < client.burst and client.level is Confidence.HIGH else KEEP):
            client.rest = now + PAUSE
        self._left -= max(due, default=0)
        return due

    def _passes(self, qname: Name) -> Name | None:
        """Return the registrable name of a failed one that may count."""
        name = self._registrable(qname)
        if name is None or b"\x01_" in qname or qname[1:2] == b"_" or name in self._known:
            return None
        near = len(qname) - len(name) in (0, qname[0] + 1)  # at most one label left of it
        return name if near and self._open(name) else None

    def _registrable(self, qname: Name) -> Name | None:
        label, suffix = split(qname, self._dynamic)
        return bytes((len(label),)) + label + suffix if label and len(suffix) > 1 else None

    def _open(self, name: Name) -> bool:
        """True when anybody registers names of his choice there: not below a platform that deals out random ones."""
        suffix = name[1 + name[0] :]
        known = self._registries.get(suffix)
        if known is None:
            known = self._deals_freely(suffix)
            self._registries.put(suffix, known)
        return known

    def _deals_freely(self, suffix: Name) -> bool:
        parts = labels(suffix)
        registry = len(parts) == 1 or (len(parts) == 2 and len(parts[1]) == 2 and len(parts[0]) <= SECOND_LEVEL)
        return suffix in self._dynamic or (registry and self._groups.knows(to_text(suffix)))

    def _expire(self, client: _Client, now: float) -> None:
        oldest = now - self._settings.window
        for held in (client.failed, client.resolved):
            while held and held[first := next(iter(held))] < oldest:
                del held[first]
        if not client.failed:
            client.fresh, client.owed = 0, frozenset()

    def _refill(self, now: float) -> None:
        if now >= self._until:
            self._left, self._left_alone, self._until = BUDGET, ALONE, now + 1.0

    def _apart(self, name: Name) -> Traits:
        found = self._traits.get(name)
        if found is None:
            found = self._groups.traits(name, self._score(name))
            self._traits.put(name, found)
        return found

    def _look(self, sight: Sight, client: _Client) -> Sequence[Finding]:
        """Judge every size that is due, the largest first; the surest counts."""
        names = list(client.failed)
        best: _Verdict | None = None
        for size in self._due(client, sight.at):
            group = names[-size:]
            if centre := middle([labels(name)[0].decode("latin-1") for name in group]):
                return self._scan(sight, group, centre)
            self._judged += 1
            traits = [self._apart(name) for name in group]
            value = self._groups.score(traits) - self._settings.stricter
            confidence = self._groups.confidence(value, size)
            if confidence is not None and (best is None or confidence > best.level):
                best = _Verdict(confidence, value, group, traits)
        return self._burst(sight, client, best) if best else ()

    def _scan(self, sight: Sight, group: list[Name], centre: str) -> Sequence[Finding]:
        self._scans += 1
        if not self._said.due((sight.client, _SCANS), sight.at):
            return ()
        existing = self._existing(centre.encode("latin-1"), {name[1 + name[0] :] for name in group})
        reason = (
            f"look-alike scan: {len(group)} names that do not exist lie all within {DISTANCE} edits of "
            f"{to_text(existing)}; somebody checks for squatters, no generator is at work"
        )
        evidence = (
            Evidence("names within two edits", float(len(group)), float(STEP)),
            Evidence("the name in the middle resolves here", float(existing in self._known), 1.0),
        )
        who = str(ip_address(sight.client))
        return (Finding(SCAN, who, to_text(existing), 0.5, Confidence.LOW, reason, evidence),)

    def _existing(self, centre: bytes, suffixes: AbstractSet[Name]) -> Name:
        """Return the name that resolved here closest to the middle of a scan, at most one edit off, else the middle."""
        labels_near = dict.fromkeys((centre, *one_edit(centre)))
        names = (bytes((len(label),)) + label + suffix for label in labels_near for suffix in sorted(suffixes))
        found = next((name for name in names if name in self._known), None)
        return found or bytes((len(centre),)) + centre + min(suffixes)

    def _burst(self, sight: Sight, client: _Client, verdict: _Verdict) -> Sequence[Finding]:
        """Hold the group; tell of it and of a name that resolved before it was one."""
        held = sight.at < client.burst
        again = held and verdict.level <= client.level
        client.level = max(verdict.level, client.level) if held else verdict.level
        client.group, client.burst = verdict.names, sight.at + HOUR
        self._looks.put(sight.client, verdict.group)
        found = [] if again else [self._of_group(sight, verdict)]
        fits = [(self._fit(name, verdict.group), name) for name in client.resolved if not self._common(name)]
        if fits and (one := self._of_c2(sight, client, *max(fits))):
            found.append(one)
        return found

    def _of_group(self, sight: Sight, verdict: _Verdict) -> Finding:
        level, value, names, group = verdict
        size = len(names)
        threshold = self._groups.threshold(size)
        bound = threshold.high if level is Confidence.HIGH else threshold.medium
        worst = max(zip(group, names, strict=True), key=lambda pair: pair[0].score)[1]
        suffixes = len({one.suffix for one in group})
        reason = (
            f"{size} different names that do not exist look made by one generator, "
            f"like {', '.join(to_text(name) for name in names[-3:])} under {suffixes} suffixes"
        )
        scores = sorted(one.score for one in group)
        evidence = (
            Evidence("failed registrable names", float(size), float(STEP)),
            Evidence("log-odds of the group", value, bound),
            Evidence("median log-odds of a name", scores[size // 2], 0.0),
        )
        who = str(ip_address(sight.client))
        return Finding(self.name, who, to_text(worst), probability(value), level, reason, evidence)

    def _resolved(self, sight: Sight) -> Sequence[Finding]:
        name = self._registrable(sight.qname)
        if name is None:
            return ()
        held = self._known.get(name)
        if held is None or (held[0] < COMMON and held[1] != sight.client):
            self._known.put(name, ((held[0] if held else 0) + 1, sight.client))
        client = self._clients.get(sight.client)
        found: list[Finding] = []
        if client is not None and sight.addresses and not self._common(name) and self._open(name):
            self._expire(client, sight.at)
            found = self._meanwhile(sight, client, name)
        if held is None and sight.addresses and not found:
            found = self._alone(sight, name)
        return found

    def _common(self, name: Name) -> bool:
        held = self._known.get(name)
        return held is not None and held[0] >= COMMON

    def _meanwhile(self, sight: Sight, client: _Client, name: Name) -> list[Finding]:
        """Keep a name that resolves while others fail; tell when it is the one a burst was about."""
        if name not in client.resolved and len(client.failed) >= FEW:
            client.resolved[name] = sight.at
            if len(client.resolved) > MAX_RESOLVED:
                del client.resolved[next(iter(client.resolved))]
        if sight.at >= client.burst or not client.group:
            return []
        one = self._of_c2(sight, client, self._fit(name, self._held(sight.client, client)), name)
        return [one] if one else []

    def _held(self, who: bytes, client: _Client) -> list[Traits]:
        """Return what the names of a client's burst look like."""
        found = self._looks.get(who)
        if found is None:
            found = [self._apart(name) for name in client.group]
            self._looks.put(who, found)
        return found

    def _fit(self, name: Name, group: list[Traits]) -> float:
        return self._groups.fits(self._apart(name), group)

    def _of_c2(self, sight: Sight, client: _Client, fit: float, name: Name) -> Finding | None:
        if fit < self._groups.fit_threshold or self._common(name) or not self._said.due((sight.client, name), sight.at):
            return None
        reason = (
            f"resolves, and has the structure of {len(client.group)} names of one generator that failed for the same "
            f"client, like {to_text(client.group[-1])}: probably its C2"
        )
        evidence = (
            Evidence("log-odds that it belongs to the group", fit, self._groups.fit_threshold),
            Evidence("failed registrable names", float(len(client.group)), float(STEP)),
        )
        who = str(ip_address(sight.client))
        level = min(client.level, Confidence.MEDIUM)
        return Finding(self.name, who, to_text(name), probability(fit), level, reason, evidence)

    def _alone(self, sight: Sight, name: Name) -> list[Finding]:
        if self._level is None or not self._settings.single or not self._open(name):
            return []
        self._refill(sight.at)
        if self._left_alone <= 0:
            self._unscored += 1
            return []
        self._left_alone -= 1
        at = 1 + name[0]
        score = self._score(name) if self._telling is None else self._telling(name[1:at], name[at:])
        level = None if score is None else self._level(score)
        if (
            score is None
            or level is None
            or level < Confidence.MEDIUM
            or not self._said.due((sight.client, _ALONE + name), sight.at)
        ):
            return []
        reason = f"the name {to_text(name)} alone looks generated; it resolves, and one name proves little"
        who = str(ip_address(sight.client))
        evidence = (Evidence("log-odds of the name", score, 0.0),)
        return [Finding(self.name, who, to_text(name), probability(score), Confidence.LOW, reason, evidence)]
