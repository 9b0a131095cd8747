"""What the tunnel detector remembers of one client and one domain, and how it judges the shape of their talk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from core.finding import Evidence
from detectors.tunnel_codec import (
    ADDRESS_TYPES,
    Clue,
    is_loopback,
    is_reachable,
    looks_encoded,
    payload_is_dense,
)

if TYPE_CHECKING:
    from detectors.sight import Sight

HALVE_AT: Final = 256  # questions; then all shares are halved, so that they follow what goes on now
KNOWN: Final = 128  # names, and answers, remembered a pair
KEYS: Final = 8  # sessions of tools remembered a pair
TOKENS: Final = 8  # remembered a session
MARK_LIFE: Final = 7 * 86_400.0  # seconds; a session not heard of for longer begins again
LOW_TTL: Final = 60  # seconds
MIN_JUDGED: Final = 8  # characters of a label that may be called encoded

FRESH: Final = 0.6  # share of questions never asked before
VARIED: Final = 0.5  # share of answers that carry data never given before
MIN_VARIED: Final = 6  # such answers
HALF: Final = 0.5
LONG_NAME: Final = 20.0  # octets of a fresh name, mean
LONG_ANSWER: Final = 24.0  # octets of varied record data, mean
UNREACHABLE: Final = 0.3  # share of answers with addresses no host can have
SAME: Final = 0.8  # share of answers given before, which tell the client nothing
SHORT_ANSWER: Final = 8.0  # octets, mean, that acknowledge and carry nothing
LISTED: Final = 0.8  # share of answers that are NXDOMAIN or in 127/8: those of block lists
ALL_TRAITS: Final = 8

_ROUNDING: Final = 1e-6
_DIGEST: Final = 4  # octets
_UNTOLD: Final = -1
_SELF_VARIED: Final = frozenset({2, 6, 43, 46, 47, 48, 50, 51, 64, 65})
"""Types whose data differs from name to name by itself: NS, SOA, DNSSEC's, SVCB, HTTPS."""
ORDINARY: Final = ADDRESS_TYPES | _SELF_VARIED | {12}


SHARES: Final = (
    "seen", "new", "encoded", "up", "rare", "told", "low", "listed", "same", "varied", "dense", "down", "unreachable",
)  # fmt: skip


class Traits(NamedTuple):
    """What the shape of a pair's talk shows."""

    outward: bool  # most names are fresh
    carries: bool  # and encoded
    two_way: bool  # data comes back too
    silent: bool  # nothing comes back, or nobody saw the answers
    met: int  # traits that hold, of ALL_TRAITS
    words: str
    evidence: tuple[Evidence, ...]


class Shares:
    """Counts that are halved together."""

    __slots__ = SHARES

    def __init__(self) -> None:
        self.seen = 0.0  # questions
        self.new = 0.0  # of names never asked before
        self.encoded = 0.0  # of such names
        self.up = 0.0  # octets of new names
        self.rare = 0.0  # questions of types other than addresses and the resolvers' own
        self.told = 0.0  # answers known
        self.low = 0.0  # with a TTL of at most LOW_TTL
        self.listed = 0.0
        self.same = 0.0
        self.varied = 0.0
        self.dense = 0.0  # of varied answers
        self.down = 0.0  # octets of varied answers
        self.unreachable = 0.0

    def halve(self) -> None:
        """Halve every count."""
        for field in SHARES:
            setattr(self, field, getattr(self, field) / 2)


class Mark:
    """What was seen of one session of a tool."""

    __slots__ = ("at", "last", "points", "tokens", "tool", "why")

    def __init__(self, tool: str, why: str, at: float) -> None:
        self.tool = tool
        self.why = why
        self.points = 0.0
        self.at = at
        self.last = b""
        self.tokens: list[bytes] = []


class Pair:
    """A client and a domain."""

    __slots__ = (
        "answers", "encoded_octets", "fresh", "marks", "names", "octets", "points", "questions", "said", "said_at",
        "shares", "tool", "why",
    )  # fmt: skip

    def __init__(self) -> None:
        self.questions = 0
        self.fresh = 0  # names
        self.octets = 0  # of fresh names
        self.encoded_octets = 0
        self.shares = Shares()
        self.names = b""  # digests, oldest first
        self.answers = b""
        self.marks: dict[bytes, Mark] = {}
        self.tool = ""
        self.why = ""
        self.points = 0.0  # of `tool`
        self.said = 0  # the highest confidence told
        self.said_at = 0.0

    def take(self, sight: Sight, parts: tuple[bytes, ...]) -> None:
        """Count a question and its answer. `parts` are the labels left of the domain."""
        shares = self.shares
        if shares.seen >= HALVE_AT:
            shares.halve()
        self.questions += 1
        shares.seen += 1
        shares.rare += sight.qtype not in ORDINARY
        names = _with(self.names, sight.qname)
        if names is not self.names:
            self.names = names
            size = sum(map(len, parts))
            self.fresh += 1
            self.octets += size
            shares.new += 1
            shares.up += size
            if any(len(part) >= MIN_JUDGED and looks_encoded(part) for part in parts):
                shares.encoded += 1
                self.encoded_octets += size
        if sight.rcode != _UNTOLD and not sight.blocked:
            self._hear(sight)

    def note(self, clue: Clue, at: float) -> None:
        """Count a clue to a tool."""
        name = clue.tool.encode() + b"\x00" + clue.key
        mark = self.marks.get(name)
        if mark is None or at - mark.at > MARK_LIFE:
            if mark is None and len(self.marks) >= KEYS:
                del self.marks[min(self.marks, key=lambda kept: self.marks[kept].points)]
            mark = self.marks[name] = Mark(clue.tool, clue.why, at)
        if clue.token != mark.last:
            self._count(mark, clue)
        mark.last, mark.at = clue.token, at
        total = round(sum(other.points for other in self.marks.values() if other.tool == clue.tool), 6)
        if total > self.points:
            self.tool, self.points = clue.tool, total
            self.why = max((other for other in self.marks.values() if other.tool == clue.tool), key=_points).why

    @staticmethod
    def _count(mark: Mark, clue: Clue) -> None:
        """Add a clue's points to its session, or begin the run again where a counter did not run."""
        counts = bool(mark.tokens) or not clue.repeats
        if clue.after and mark.last != clue.after:
            counts = False
            mark.points = 0.0
            mark.tokens.clear()
        if clue.token not in mark.tokens and len(mark.tokens) < TOKENS:
            mark.tokens.append(clue.token)
            mark.points += clue.points if counts else 0.0

    def may_say(self, confidence: int, at: float, repeat: float) -> bool:
        """True when nothing as grave was said within `repeat` seconds; it counts as said from then on."""
        if confidence <= self.said and at - self.said_at < repeat:
            return False
        self.said, self.said_at = confidence, at
        return True

    def _hear(self, sight: Sight) -> None:
        shares = self.shares
        shares.told += 1
        shares.low += bool(sight.payload or sight.addresses) and sight.ttl <= LOW_TTL
        given = sight.payload + b"".join(sight.addresses)
        shares.listed += not given or (bool(sight.addresses) and all(map(is_loopback, sight.addresses)))
        answers = _with(self.answers, given)
        new = answers is not self.answers
        self.answers = answers
        shares.same += not new
        usable = bool(sight.addresses) and all(map(is_reachable, sight.addresses))
        shares.unreachable += new and bool(sight.addresses) and not usable
        if new and given and not usable and sight.qtype not in _SELF_VARIED:
            shares.varied += 1
            shares.down += len(given)
            shares.dense += payload_is_dense(sight.payload)


def may_be_judged(pair: Pair, min_carried: int) -> bool:
    """False for a pair of which `judge` would say that neither both ways nor `min_carried` octets of an upload show."""
    shares = pair.shares
    if shares.new < FRESH * max(shares.seen, 1.0) - _ROUNDING:
        return False
    return shares.varied >= MIN_VARIED or pair.encoded_octets >= min_carried


def answers_carry(pair: Pair) -> bool:
    """True while enough answers vary for `judge` to say that data comes back."""
    shares = pair.shares
    return shares.varied >= MIN_VARIED and shares.varied >= VARIED * max(shares.told, 1.0)


def judge(pair: Pair) -> Traits:
    """Return what the shape of a pair's talk shows."""
    shares = pair.shares
    new, told, varied = max(shares.new, 1.0), max(shares.told, 1.0), max(shares.varied, 1.0)
    encoded, dense = shares.encoded / new, shares.dense / varied
    unreachable = shares.unreachable / told
    traits = (
        ("encoded names", encoded, HALF, 1),
        ("long names", shares.up / new, LONG_NAME, 1),
        ("record types seldom asked for", shares.rare / max(shares.seen, 1.0), HALF, 1),
        ("encoded answers", dense, HALF, 1),
        ("long answers", shares.down / varied, LONG_ANSWER, 1),
        ("answers that expire at once", shares.low / told, HALF, 1),
        ("addresses no host can have", unreachable, UNREACHABLE, 2),
    )
    holding = [trait for trait in traits if trait[1] >= trait[2]]
    short = shares.varied >= told * VARIED and shares.down / varied <= SHORT_ANSWER and dense < HALF
    mute = shares.told == 0 or shares.same / told >= SAME or short
    return Traits(
        outward=shares.new / max(shares.seen, 1.0) >= FRESH,
        carries=encoded >= HALF,
        two_way=answers_carry(pair) and (encoded >= HALF or dense >= HALF or unreachable >= UNREACHABLE),
        silent=mute and shares.listed / told < LISTED,
        met=sum(trait[3] for trait in holding),
        words=", ".join(trait[0] for trait in holding),
        evidence=(
            Evidence("share of fresh names", round(shares.new / max(shares.seen, 1.0), 3), FRESH),
            Evidence("share of answers that vary", round(shares.varied / told, 3), VARIED),
            *(Evidence(trait[0], round(trait[1], 3), trait[2]) for trait in holding),
        ),
    )


def _points(mark: Mark) -> float:
    return mark.points


def _with(known: bytes, octets: bytes) -> bytes:
    """Return the digests with that of `octets` added; the same object when it was among them."""
    digest = crc32(octets).to_bytes(_DIGEST, "big")
    at = known.find(digest)
    while at % _DIGEST and at > 0:
        at = known.find(digest, at + 1)
    return known if at >= 0 else (known + digest)[-KNOWN * _DIGEST :]
