"""The tunnel detector: watches what a client and a domain tell each other, and names the tool when its protocol shows.

Rules:
1. A protocol names a tool: clues of one tool add up per session key, 0.6 is MEDIUM, 1.0 is HIGH.
2. A shape without a name is never HIGH: data must flow both ways (fresh names out, answers that vary back) for MEDIUM,
   and names that carry data while nothing comes back are LOW, since reputation services do just that.
3. A domain with which many clients speak alike is a service: shapes are silent there, protocols are not.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from core.finding import Confidence, Evidence, Finding
from core.names import ROOT, Name, labels, to_text
from detectors.tunnel_c2 import IMPLANTS
from detectors.tunnel_codec import ADDRESS_TYPES, Clue, Exchange, is_reachable, looks_encoded
from detectors.tunnel_kept import keep, restore
from detectors.tunnel_pair import ALL_TRAITS, ORDINARY, Pair, answers_carry, judge, may_be_judged
from detectors.tunnel_tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from detectors.sight import Sight

    Reader = Callable[[Exchange], list[Clue]]

READERS: Final[tuple[Reader, ...]] = TOOLS + IMPLANTS
NAMED: Final = 1.0  # points
SUSPECTED: Final = 0.6  # points
TWO_WAY: Final = 5  # traits of ALL_TRAITS
_ARPA: Final[Name] = b"\x04arpa\x00"
_ROOM: Final = 16  # octets left of the domain up to which a worded name is nothing to look at
_PEERS_KEPT: Final = 16  # clients remembered a domain
_STATE_VERSION: Final = 1
_UPLOAD_SCORE: Final = 0.4


class TunnelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the tunnel detector."""

    mode: Literal["block", "alert", "off"] = "alert"  # block acts on HIGH, that is on named tools, only
    shapes: bool = True  # also report two-way traffic of no known tool
    min_names: int = 8  # fresh names before a shape is judged
    min_carried: int = 2048  # octets in encoded names before one-way traffic is reported
    peers: int = 5  # clients that speak alike with a domain make it a service
    repeat: float = 3600.0  # seconds between findings that say the same of a pair
    max_pairs: int = 20_000  # client-domain pairs kept, 2.5 to 5 kB each
    max_domains: int = 20_000  # domains whose clients are counted, about 1 kB each


class TunnelWatch:
    """Watches (client, domain) pairs; see the module."""

    name = "tunnel"

    def __init__(self, settings: TunnelSettings, readers: Sequence[Reader] = READERS) -> None:
        self._settings = settings
        self._readers = readers
        self._pairs: dict[tuple[bytes, Name], Pair] = {}
        self._older: dict[tuple[bytes, Name], Pair] = {}
        self._clients: OrderedDict[Name, set[bytes]] = OrderedDict()  # the longest known first
        self._dropped_pairs = 0
        self._dropped_domains = 0

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Take in one sight; returns a finding when a pair first deserves it, or again after `repeat` seconds."""
        if sight.cached or len(sight.qname) <= len(sight.domain) or self._settings.mode == "off":
            return ()
        key = (sight.client, sight.domain)
        pair = self._pairs.get(key)
        if pair is None and (pair := self._open(key, sight)) is None:
            return ()
        parts = labels(sight.qname[: len(sight.qname) - len(sight.domain)] + ROOT)
        pair.take(sight, parts)
        if not sight.domain.endswith(_ARPA):
            self._read(pair, Exchange(parts, sight.qtype, sight.payload, sight.addresses, sight.domain), sight.at)
        return self._say(pair, sight)

    def tick(self, now: float) -> Sequence[Finding]:  # noqa: ARG002 - findings come with what is seen
        """Do nothing: pairs age by use."""
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return sizes of state and what was dropped at the caps."""
        return {
            "pairs": len(self._pairs) + len(self._older),
            "domains": len(self._clients),
            "dropped_pairs": self._dropped_pairs,
            "dropped_domains": self._dropped_domains,
        }

    def dump(self) -> dict[str, Any]:
        """Return the pairs and who speaks with which domain, as plain values."""
        kept = {**self._older, **self._pairs}
        return {
            "version": _STATE_VERSION,
            "pairs": [[client, domain, keep(pair)] for (client, domain), pair in kept.items()],
            "clients": [[domain, sorted(clients)] for domain, clients in self._clients.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; what does not fit this version is left out."""
        if state.get("version") != _STATE_VERSION:
            return
        for client, domain, values in state["pairs"][-self._settings.max_pairs // 2 :]:
            self._pairs[client, domain] = restore(values)
        for domain, clients in state["clients"][-self._settings.max_domains :]:
            self._clients[domain] = set(clients)

    def _open(self, key: tuple[bytes, Name], sight: Sight) -> Pair | None:
        """Return the pair of a key, made when the sight is worth a look; None when it is not."""
        pair = self._older.pop(key, None)
        if pair is None:
            if not _is_notable(sight):
                return None
            pair = Pair()
        if len(self._pairs) >= max(self._settings.max_pairs // 2, 1):
            self._dropped_pairs += len(self._older)
            self._older, self._pairs = self._pairs, {}
        self._pairs[key] = pair
        return pair

    def _read(self, pair: Pair, exchange: Exchange, at: float) -> None:
        for reader in self._readers:
            for clue in reader(exchange):
                pair.note(clue, at)

    def _say(self, pair: Pair, sight: Sight) -> Sequence[Finding]:
        most = Confidence.HIGH if pair.points >= NAMED else Confidence.MEDIUM
        if pair.said >= most and sight.at - pair.said_at < self._settings.repeat:
            return ()
        found = self._named(pair, sight)
        if found is None and self._settings.shapes:
            found = self._shaped(pair, sight)
        if found is None or not pair.may_say(found.confidence, sight.at, self._settings.repeat):
            return ()
        return (found,)

    def _named(self, pair: Pair, sight: Sight) -> Finding | None:
        if pair.points < SUSPECTED:
            return None
        sure = pair.points >= NAMED
        reason = f"{'speaks' if sure else 'may speak'} the protocol of {pair.tool}: {pair.why}"
        evidence = Evidence("protocol clues", round(pair.points, 2), NAMED if sure else SUSPECTED)
        confidence = Confidence.HIGH if sure else Confidence.MEDIUM
        found = _finding(pair, sight, min(pair.points / 2, 1.0), confidence, reason, (evidence,))
        return msgspec.structs.replace(found, tool=pair.tool)

    def _shaped(self, pair: Pair, sight: Sight) -> Finding | None:
        if pair.fresh < self._settings.min_names or not may_be_judged(pair, self._settings.min_carried):
            return None
        if pair.said and sight.at - pair.said_at < self._settings.repeat and not answers_carry(pair):
            return None  # an upload it may be, which was said
        traits = judge(pair)
        two_way = traits.two_way and traits.met >= TWO_WAY
        upload = traits.carries and traits.silent and pair.encoded_octets >= self._settings.min_carried
        if not traits.outward or not (two_way or upload):
            return None
        others = self._alike(sight)
        if others >= self._settings.peers:
            return None
        peers = Evidence("other clients that do alike", others, self._settings.peers)
        if two_way:
            reason = f"talks both ways in names and answers like a tunnel: {traits.words}"
            evidence = (*traits.evidence, Evidence("traits", traits.met, TWO_WAY), peers)
            return _finding(pair, sight, traits.met / ALL_TRAITS, Confidence.MEDIUM, reason, evidence)
        reason = "sends data in names and gets nothing back, like an upload or a reputation service"
        carried = Evidence("octets in encoded names", pair.encoded_octets, self._settings.min_carried)
        return _finding(pair, sight, _UPLOAD_SCORE, Confidence.LOW, reason, (carried, peers))

    def _alike(self, sight: Sight) -> int:
        """Count how many other clients speak alike with the domain, this one remembered."""
        clients = self._clients.get(sight.domain)
        if clients is None:
            if len(self._clients) >= self._settings.max_domains:
                self._clients.popitem(last=False)
                self._dropped_domains += 1
            clients = self._clients[sight.domain] = set()
        if len(clients) < _PEERS_KEPT:
            clients.add(sight.client)
        return len(clients) - (sight.client in clients)


def _is_notable(sight: Sight) -> bool:
    """True unless a question is of an ordinary kind: short worded names and usable addresses."""
    if sight.qtype not in ORDINARY:
        return True
    room = len(sight.qname) - len(sight.domain)
    if room > _ROOM or (sight.payload and not sight.addresses and sight.qtype in ADDRESS_TYPES):
        return True
    if not all(map(is_reachable, sight.addresses)):
        return True
    return looks_encoded(sight.qname[1:room])


def _finding(  # noqa: PLR0917 - one line a call
    pair: Pair, sight: Sight, score: float, confidence: Confidence, reason: str, evidence: tuple[Evidence, ...]
) -> Finding:
    spent = (Evidence("questions", pair.questions, 0), Evidence("octets in fresh names", pair.octets, 0))
    return Finding(
        detector="tunnel",
        client=_address(sight.client),
        domain=to_text(sight.domain),
        score=round(score, 3),
        confidence=confidence,
        reason=reason,
        evidence=(*evidence, *spent),
    )


def _address(packed: bytes) -> str:
    from ipaddress import ip_address

    return str(ip_address(packed))
