"""How many bits the names asked below one domain can carry: an adaptive code whose lengths are the price of a name.

Rules:
1. Every choice of the code pays for itself: the shares 2^-bits of all names and types of one step sum to at most one
   (Kraft 1949). Whatever encoding an attacker picks, names that carry B bits therefore cost B bits or more on average.
2. The state is a function of the names that were let through, which the receiver at the domain's server sees too.
3. State is bounded: two generations of names and of labels, one template for each length and each of the first depths.
"""

from __future__ import annotations

from math import log2
from typing import Any, Final

from core.names import MAX_LABEL

GENERATION: Final = 256  # names, and labels, of a generation; two are kept
DEPTHS: Final = 8  # labels from the left that have a template
_MAX_LABELS: Final = 127  # of a name of 255 octets
_MAX_CACHED: Final = 4 * GENERATION

_NIBBLES: Final = 40  # octets of the 20 labels below the reverse zone of a /48

FLAG: Final = 1.0  # bits: known or new
CLASS: Final = 3.0  # bits: one of eight ways to write a new label
_DIGIT: Final = log2(10)
_HEX: Final = 4.0
_BASE32: Final = 5.0
_HOST: Final = log2(38)
_OCTET: Final = 8.0

_HEX_OCTETS: Final = b"0123456789abcdef"
_BASE32_OCTETS: Final = b"abcdefghijklmnopqrstuvwxyz234567"
_HOST_OCTETS: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_"

# Record types: shares of 2^-1.5 + 2 * 2^-2.5 + 7 * 2^-5 leave 0.07; 0.06 are spread over all types.
TYPE_WEIGHT: Final = 4.0  # questions the shares below count as beside those that were asked
_TYPE_SHARES: Final[dict[int, float]] = {
    1: 2.0**-1.5,  # A
    28: 2.0**-2.5,  # AAAA
    65: 2.0**-2.5,  # HTTPS
    **dict.fromkeys((2, 5, 6, 12, 15, 16, 33), 2.0**-5),  # NS CNAME SOA PTR MX TXT SRV
}
_OTHER_SHARE: Final = 2.0**-20  # of any other

# Labels everybody uses, 128 of them: 7 bits each.
_COMMON: Final = frozenset(
    b"www mail smtp imap pop mx mx1 mx2 ns ns1 ns2 ns3 dns api app apps web m img images static assets media video "
    b"cdn cdn1 cdn2 s3 files download downloads dl update updates upload login auth sso accounts account id oauth "
    b"secure ssl vpn remote gateway proxy portal admin dev test staging prod stage beta demo docs help support "
    b"status blog news shop store pay search ads ad analytics stats metrics events track tracking tags pixel log "
    b"logs telemetry data db config settings edge cache origin live stream push chat meet calendar contacts drive "
    b"cloud storage sync backup git ftp ntp time autodiscover lyncdiscover sip webmail owa exchange www2 us eu "
    b"asia uk de global local internal public client clients server services service connect _tcp _udp".split()
)
_COMMON_BITS: Final = CLASS + 7.0

# Letters of host names that hold no digit, in sixteenths of a bit, rounded up; sum of shares 0.977. Counted over the
# benign host labels of an ISP (Ziza et al. 2023, training part).
_TEXT: Final[dict[bytes, int]] = {
    b"-": 77, b"_": 163, b"a": 60, b"b": 88, b"c": 71, b"d": 74, b"e": 57, b"f": 94, b"g": 85, b"h": 95, b"i": 65,
    b"j": 116, b"k": 97, b"l": 75, b"m": 78, b"n": 69, b"o": 67, b"p": 75, b"q": 124, b"r": 67, b"s": 62, b"t": 67,
    b"u": 84, b"v": 95, b"w": 101, b"x": 111, b"y": 102, b"z": 122,
    b"0": 121, b"1": 121, b"2": 121, b"3": 121, b"4": 121, b"5": 121, b"6": 121, b"7": 121, b"8": 121, b"9": 121,
}  # fmt: skip
_TEXT_TABLE: Final = bytes(_TEXT.get(bytes((octet,)), 0xFF) for octet in range(256))


def _length_bits(length: int) -> float:
    """Return the bits of a label's length: half a uniform share of 63, half one that favours short labels."""
    total = sum(1.0 / (other + 1) ** 2 for other in range(1, MAX_LABEL + 1))
    return -log2(0.5 / MAX_LABEL + 0.5 / ((length + 1) ** 2 * total))


def _count_bits(count: int) -> float:
    """Return the bits of the number of labels, 0 to 127: shares fall with the square."""
    total = sum(1.0 / (other + 1) ** 2 for other in range(_MAX_LABELS + 1))
    return log2((count + 1) ** 2 * total)


_LENGTH_BITS: Final = [0.0, *(_length_bits(length) for length in range(1, MAX_LABEL + 1))]
_COUNT_BITS: Final = [_count_bits(count) for count in range(_MAX_LABELS + 1)]
_SPLIT_BITS: Final = [2.0 * log2(length + 1) - 1.0 for length in range(MAX_LABEL + 1)]  # kept front and tail: n(n+1)/2
_LOG2: Final = [0.0, *(log2(number) for number in range(1, _MAX_CACHED + 1))]


class Coder:
    """The code of one domain, shared by all who ask there. `price` reads it, `learn` takes the priced name in."""

    __slots__ = (
        "_depth",
        "_labels",
        "_names",
        "_old_labels",
        "_old_names",
        "_parts",
        "_questions",
        "_reverse",
        "_templates",
        "_total",
        "_types",
        "repeat",
    )

    def __init__(self, *, reverse: bool = False) -> None:
        self._reverse: bool = reverse  # of the tree of addresses, where the digits of an address are one label each
        self._types: dict[int, int] = {}
        self._questions: int = 0  # fresh names taken in, by type
        self.repeat: bool = False  # the name priced last was known with this type
        self._names: dict[bytes, int] = {}
        self._old_names: dict[bytes, int] = {}
        self._total: int = 0  # times a known name was asked
        self._labels: set[bytes] = set()
        self._old_labels: set[bytes] = set()
        self._templates: list[dict[int, bytes]] = [{} for _ in range(DEPTHS)]  # the last new label of each length
        self._parts: list[bytes] = []  # labels of the name priced last that were new
        self._depth: list[int] = []

    def price(self, below: bytes, qtype: int) -> float:
        """Return the bits of a question for `below`, the labels left of the domain as they are on the wire."""
        key = below + qtype.to_bytes(2, "big")
        count = self._names.get(key, 0) or self._old_names.get(key, 0)
        if count:
            self.repeat = True
            return FLAG + log2(self._total / count)
        self.repeat = False
        self._parts = []
        self._depth = []
        if self._reverse:
            return 2.0 * FLAG + self._type_bits(qtype) + self._labels_bits(_address(below))
        return FLAG + self._type_bits(qtype) + self._labels_bits(below)

    def learn(self, below: bytes, qtype: int) -> None:
        """Take in the question that `price` was asked for last: it was let through."""
        key = below + qtype.to_bytes(2, "big")
        names = self._names
        self._total += 1
        if key in names:
            names[key] += 1
            return
        names[key] = self._old_names.pop(key, 0) + 1
        if not self.repeat:
            self._types[qtype] = self._types.get(qtype, 0) + 1
            self._questions += 1
            self._learn_labels()
        if len(names) >= GENERATION:
            self._total = sum(names.values())
            self._old_names = names
            self._names = {}

    def samples(self, count: int) -> list[tuple[bytes, int]]:
        """Return up to `count` of the names taken in last, with their types."""
        keys = [*self._old_names, *self._names][-count:]
        return [(key[:-2], int.from_bytes(key[-2:], "big")) for key in keys]

    def dump(self) -> list[Any]:
        """Return the state as plain values."""
        kept = [list(templates.values()) for templates in self._templates]
        return [self._names, self._old_names, list(self._labels), list(self._old_labels), kept, self._types]

    def load(self, state: list[Any]) -> None:
        """Take up what `dump` returned; raises ValueError or TypeError when it is something else."""
        names, old_names, labels, old_labels, templates, types = state
        self._names = {bytes(name): int(count) for name, count in dict(names).items()}
        self._old_names = {bytes(name): int(count) for name, count in dict(old_names).items()}
        self._total = sum(self._names.values()) + sum(self._old_names.values())
        self._labels = {bytes(label) for label in labels}
        self._old_labels = {bytes(label) for label in old_labels}
        self._templates = [{len(label): bytes(label) for label in kept} for kept in templates]
        self._types = {int(qtype): int(count) for qtype, count in dict(types).items()}
        self._questions = sum(self._types.values())

    def _type_bits(self, qtype: int) -> float:
        """Return the bits of a record type: its share so far, with the general shares as TYPE_WEIGHT questions."""
        share = _TYPE_SHARES.get(qtype, _OTHER_SHARE) * TYPE_WEIGHT
        return -log2((self._types.get(qtype, 0) + share) / (self._questions + TYPE_WEIGHT))

    def _labels_bits(self, below: bytes) -> float:
        labels = self._labels
        old_labels = self._old_labels
        known = _LOG2[len(labels) + len(old_labels)]
        bits = 0.0
        at = depth = 0
        end = len(below)
        while at < end:
            after = at + below[at] + 1
            label = below[at + 1 : after]
            if label in labels or label in old_labels:
                bits += FLAG + known
            else:
                bits += FLAG + self._new_label_bits(label, depth)
                self._parts.append(label)
                self._depth.append(depth)
            at = after
            depth += 1
        return bits + _COUNT_BITS[depth]

    def _new_label_bits(self, label: bytes, depth: int) -> float:
        if label in _COMMON:
            return _COMMON_BITS
        length = len(label)
        bits = CLASS + _LENGTH_BITS[length] + _octets_bits(label, text=True)
        if depth < DEPTHS:
            templates = self._templates[depth]
            template = templates.get(length)
            if template is not None:
                return min(bits, CLASS + _LOG2[len(templates)] + self._template_bits(label, template))
        return bits

    def _template_bits(self, label: bytes, template: bytes) -> float:
        """Return the bits of a label as the one before of its length with the middle replaced."""
        length = len(label)
        differs = int.from_bytes(label, "big") ^ int.from_bytes(template, "big")
        if not differs:
            return _SPLIT_BITS[length] + CLASS + _OCTET
        front = length - (differs.bit_length() + 7) // 8
        tail = ((differs & -differs).bit_length() - 1) // 8
        return _SPLIT_BITS[length] + CLASS + _octets_bits(label[front : length - tail], text=False)

    def _learn_labels(self) -> None:
        for label, depth in zip(self._parts, self._depth, strict=True):
            self._labels.add(label)
            if depth < DEPTHS:
                self._templates[depth][len(label)] = label
        if len(self._labels) >= GENERATION:
            self._old_labels = self._labels
            self._labels = set()


def _address(below: bytes) -> bytes:
    """Return the digits of an address of version 6 as one label, any other labels as they are."""
    if len(below) == _NIBBLES and below[0::2].count(1) == _NIBBLES // 2:
        return bytes((_NIBBLES // 2,)) + below[1::2]
    return below


def _octets_bits(octets: bytes, *, text: bool) -> float:
    """Return the bits of so many octets in the cheapest alphabet that holds them all."""
    length = len(octets)
    if octets.isdigit():
        return _DIGIT * length
    if octets.translate(None, _HOST_OCTETS):
        return _OCTET * length
    if not octets.translate(None, _HEX_OCTETS):
        bits = _HEX * length
    elif not octets.translate(None, _BASE32_OCTETS):
        bits = _BASE32 * length
    else:
        bits = _HOST * length
    if text:
        return min(bits, sum(octets.translate(_TEXT_TABLE)) / 16.0)
    return bits
