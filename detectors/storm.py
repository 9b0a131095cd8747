"""NXDOMAIN storms of a client, and floods of failing sub-domains on one domain over all clients.

Rules:
1. Counted are different failing names within a minute by the clock of the sights; a name asked again counts once.
2. Water torture is random labels below one domain that exists here, from clients that each ask for many of them.
   Words below one domain are an enumeration; many domains are a storm of the client; the reverse tree is a sweep.
3. Look-ups in block lists (reversed addresses, hashes, whole domains in front of the list's) fail by design and
   never count. What was blocked here did not fail.
4. A finding of one kind about a client and a domain is not repeated within the hour.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from math import log2
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from core.finding import Confidence, Evidence, Finding
from core.names import Name, to_text
from detectors.bounded import Bounded, Said
from detectors.storm_shapes import REVERSE, label_of, looks_listed, network_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors.sight import Sight

WINDOW: Final = 60.0  # seconds
HOUR: Final = 3_600.0  # seconds
NO_ONE_DOMAIN: Final = "."  # the domain of a finding about many
MAX_NAMES: Final = 4_096  # different names kept of a client or a domain in a window; counting ends there
LOOK_EVERY: Final = 32  # names beyond the threshold
MAX_SAMPLE: Final = 256  # labels looked at for randomness
MAX_SAID: Final = 16_384  # (kind, client, domain)
MAX_EXISTING: Final = 65_536  # domains known to have names
MAX_TOLD: Final = 8  # clients named for one flood
MIN_SYMBOLS: Final = 10  # fewer different characters than ten digits are a pattern, not chance
RANDOM: Final = 0.965  # of the entropy of its alphabet: random labels reach .995, words .92-.95, counters .65-.9
ONE_DOMAIN: Final = 0.8  # share of a client's failures that makes them a matter of one domain
FEW_NETWORKS: Final = 0.1  # networks a failing address from which a sweep walks and does not look up visitors
_NOERROR: Final = 0
_SERVFAIL: Final = 2  # what a flooded domain ends with
_NXDOMAIN: Final = 3


class StormSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `storm`. Numbers are different failing names within a minute."""

    mode: Literal["block", "alert", "off"] = "alert"
    client: Annotated[int, Meta(ge=10, le=MAX_NAMES)] = 100  # of one client, outside the reverse tree
    domain: Annotated[int, Meta(ge=10, le=MAX_NAMES)] = 200  # below one domain, of all clients
    reverse: Annotated[int, Meta(ge=10, le=MAX_NAMES)] = 300  # of one client in the reverse tree
    each: Annotated[int, Meta(ge=1, le=1_000)] = 10  # of a client below the domain before it counts as flooding it
    share: Annotated[float, Meta(ge=0.1, le=1.0)] = 0.5  # of the answers that must be failures
    clients: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000  # watched within a window
    domains: Annotated[int, Meta(ge=100, le=1_000_000)] = 20_000  # watched within a window


class _Asker:
    """The failures of one client within the window."""

    __slots__ = ("answered", "domains", "names", "networks", "reverse")

    def __init__(self) -> None:
        self.names: set[int] = set()
        self.domains: Counter[Name] = Counter()
        self.reverse: set[int] = set()
        self.networks: set[bytes] = set()
        self.answered = 0


class _Target:
    """The failures below one domain within the window."""

    __slots__ = ("answered", "clients", "names", "sample", "servfail")

    def __init__(self) -> None:
        self.names: set[int] = set()
        self.clients: Counter[bytes] = Counter()
        self.sample: Counter[int] = Counter()
        self.answered = 0
        self.servfail = 0


class Storm:
    """A Watch for failures in mass."""

    name = "storm"

    def __init__(self, settings: StormSettings) -> None:
        self._settings = settings
        self._until = 0.0  # end of the window
        self._askers: dict[bytes, _Asker] = {}
        self._targets: dict[Name, _Target] = {}
        self._exists: Bounded[Name, bool] = Bounded(MAX_EXISTING)
        self._said: Said[tuple[str, str, str]] = Said(MAX_SAID, every=HOUR)
        self._listed = 0
        self._dropped = 0

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Count a failure; returns findings when one passes a threshold."""
        if sight.at >= self._until:
            self._begin(sight.at)
        if sight.rcode == _NOERROR:
            self._answered(sight)
            return ()
        if sight.rcode not in (_NXDOMAIN, _SERVFAIL) or sight.blocked or self._settings.mode == "off":
            return ()
        if sight.qname.endswith(REVERSE):
            return self._reverse(sight) if sight.rcode == _NXDOMAIN else ()
        if looks_listed(sight.qname, sight.domain):
            self._listed += 1
            return ()
        flood = self._below(sight)
        return flood or (self._of_client(sight) if sight.rcode == _NXDOMAIN else ())

    def tick(self, now: float) -> Sequence[Finding]:
        """End the window when it is over."""
        if now >= self._until:
            self._begin(now)
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return sizes, look-ups in block lists, and what was dropped at the caps."""
        return {
            "clients": len(self._askers),
            "domains": len(self._targets),
            "existing": len(self._exists),
            "listed": self._listed,
            "dropped": self._dropped + self._exists.dropped + self._said.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return what exists and what was told; the window is too short to keep."""
        said = [[*key, at] for key, at in self._said.dump()]
        return {"exists": [name for name, _ in self._exists.items()], "said": said}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned."""
        for name in state.get("exists", ()):
            self._exists.put(name, True)
        self._said.load([((kind, client, domain), at) for kind, client, domain, at in state.get("said", ())])

    def _begin(self, now: float) -> None:
        self._until = (now // WINDOW + 1) * WINDOW
        self._askers, self._targets = {}, {}

    def _answered(self, sight: Sight) -> None:
        domain = sight.domain
        if self._exists.get(domain) is None:
            self._exists.put(domain, True)
        asker, target = self._askers.get(sight.client), self._targets.get(domain)
        if asker is not None:
            asker.answered += 1
        if target is not None:
            target.answered += 1

    def _asker(self, client: bytes) -> _Asker | None:
        found = self._askers.get(client)
        if found is None:
            if len(self._askers) >= self._settings.clients:
                self._dropped += 1
                return None
            found = self._askers[client] = _Asker()
        return found

    def _target(self, domain: Name) -> _Target | None:
        found = self._targets.get(domain)
        if found is None:
            if len(self._targets) >= self._settings.domains:
                self._dropped += 1
                return None
            found = self._targets[domain] = _Target()
        return found

    def _reverse(self, sight: Sight) -> Sequence[Finding]:
        asker = self._asker(sight.client)
        if asker is None or len(asker.reverse) >= MAX_NAMES:
            return ()
        asker.reverse.add(hash(sight.qname))
        asker.networks.add(network_of(sight.qname))
        count = len(asker.reverse)
        if count < self._settings.reverse or not self._due("reverse", sight.client, NO_ONE_DOMAIN, sight.at):
            return ()
        networks = len(asker.networks)
        walks = networks <= count * FEW_NETWORKS
        words = (
            f"walks the addresses of {networks} networks in the reverse tree"
            if walks
            else f"looks up the names of addresses in {networks} networks, as mail servers and log readers do"
        )
        evidence = (
            self._count("failing_reverse_names", count, self._settings.reverse),
            Evidence("networks", float(networks), count * FEW_NETWORKS),
        )
        return (self._finding(sight.client, NO_ONE_DOMAIN, 0.4 if walks else 0.1, words, evidence),)

    def _below(self, sight: Sight) -> Sequence[Finding]:
        target = self._target(sight.domain) if sight.qname != sight.domain else None
        if target is None or len(target.names) >= MAX_NAMES or (key := hash(sight.qname)) in target.names:
            return ()
        target.names.add(key)
        target.clients[sight.client] += 1
        target.servfail += sight.rcode == _SERVFAIL
        if len(target.names) <= MAX_SAMPLE:
            target.sample.update(label_of(sight.qname))
        count = len(target.names)
        if not _due_look(count, self._settings.domain) or count < self._settings.share * (count + target.answered):
            return ()
        return self._flood(sight, target)

    def _flood(self, sight: Sight, target: _Target) -> Sequence[Finding]:
        """Name those who flood a domain, when they do more than half of it."""
        heavy = [(client, n) for client, n in target.clients.most_common() if n >= self._settings.each]
        count = len(target.names)
        if 2 * sum(n for _, n in heavy) < count:
            return ()
        random = randomness(target.sample)
        if random < RANDOM and target.servfail * 2 > count:  # an outage, not a flood
            return ()
        known = sight.domain in self._exists
        domain = to_text(sight.domain)
        evidence = (
            self._count("failing_names", count, self._settings.domain),
            Evidence("randomness", random, RANDOM),
            Evidence("clients", float(len(heavy)), 1.0),
            Evidence("domain_exists", float(known), 1.0),
        )
        if random < RANDOM:
            words, score, sure = f"tries words below {domain}: an enumeration of its names", 0.5, Confidence.LOW
        else:
            who = f"{len(heavy)} clients" if len(heavy) > 1 else "one client"
            words = f"floods {domain} with random names that do not exist (water torture), {who} in this minute"
            score, sure = (0.9, Confidence.MEDIUM) if known else (0.6, Confidence.LOW)
        return [
            self._finding(client, domain, score, words, evidence, confidence=sure)
            for client, _ in heavy[:MAX_TOLD]
            if self._due("flood", client, domain, sight.at)
        ]

    def _of_client(self, sight: Sight) -> Sequence[Finding]:
        asker = self._asker(sight.client)
        if asker is None or len(asker.names) >= MAX_NAMES or (key := hash(sight.qname)) in asker.names:
            return ()
        asker.names.add(key)
        asker.domains[sight.domain] += 1
        count = len(asker.names)
        if not _due_look(count, self._settings.client) or count < self._settings.share * (count + asker.answered):
            return ()
        most = max(asker.domains.values())
        if most >= ONE_DOMAIN * count:  # a matter of one domain: `_below` has it
            return ()
        if not self._due("client", sight.client, NO_ONE_DOMAIN, sight.at):
            return ()
        words = f"asked for {count} names that do not exist, in {len(asker.domains)} domains, within a minute"
        evidence = (
            self._count("failing_names", count, self._settings.client),
            Evidence("domains", float(len(asker.domains)), 1.0),
            Evidence("failing_share", count / (count + asker.answered), self._settings.share),
        )
        return (self._finding(sight.client, NO_ONE_DOMAIN, 0.5, words, evidence),)

    def _due(self, kind: str, client: bytes, domain: str, now: float) -> bool:
        return self._said.due((kind, str(ip_address(client)), domain), now)

    def _count(self, name: str, count: int, threshold: int) -> Evidence:
        return Evidence(name, float(count), float(threshold))

    def _finding(
        self,
        client: bytes,
        domain: str,
        score: float,
        words: str,
        evidence: tuple[Evidence, ...],
        *,
        confidence: Confidence = Confidence.LOW,
    ) -> Finding:
        return Finding(
            detector=self.name,
            client=str(ip_address(client)),
            domain=domain,
            score=score,
            confidence=confidence,
            reason=words,
            evidence=evidence,
        )


def _due_look(count: int, threshold: int) -> bool:
    """True at the threshold and now and then above it: looking costs more than counting."""
    return count >= threshold and (count == threshold or count % LOOK_EVERY == 0)


def randomness(characters: Mapping[int, int]) -> float:
    """Return the entropy of the characters as a share of what their alphabet could carry, 0-1."""
    total = sum(characters.values())
    if total == 0:
        return 0.0
    entropy = -sum(n / total * log2(n / total) for n in characters.values())
    return entropy / log2(max(len(characters), MIN_SYMBOLS))
