"""Senders made here: tools no capture is at hand of, after their published protocols, and encodings meant to hide.

Rules:
1. Everything is `synthetic`: shapes, sizes and framing follow the tools' public descriptions, the content is random,
   as of encrypted or compressed data.
2. Payload is what a name carries beside the tool's framing; of an encoding, the logarithm of the choices it had.
3. Nothing here was looked at while the meter was tuned.
"""

from __future__ import annotations

import base64
import re
import string
from collections import Counter, defaultdict
from itertools import count, islice
from math import log2
from typing import TYPE_CHECKING, Final, TypeAlias

from benchmarks.evaluation.captures import Query, Run
from core.names import from_labels, from_text

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from core.names import Name

Sent: TypeAlias = tuple[str, int, float]  # what stands left of the domain, record type, octets of payload
Maker: TypeAlias = "Callable[[random.Random], Iterator[Sent]]"
Encoder: TypeAlias = "Callable[[random.Random, Sequence[str]], Iterator[Sent]]"

TRANSFER: Final = 8192  # octets a tool sends
SECRET: Final = 4096  # octets an encoding sends
WORDS: Final = 2048
A, CNAME, TXT, AAAA = 1, 5, 16, 28

_RESTING: Final = 20_000  # names after which a sender of tiny symbols stops
_LDH: Final = string.ascii_lowercase + string.digits


def tools(rng: random.Random) -> list[Run]:
    """Return one transfer of TRANSFER octets by each tool; those with options once an option."""
    return [_run(tool, source, _until(make(rng), TRANSFER), gap=gap) for tool, source, gap, make in _TOOLS]


def encodings(rng: random.Random, words: Sequence[str]) -> list[Run]:
    """Return SECRET octets sent by each way of hiding; `words` are WORDS names people know, or more."""
    return [_run(tool, "4 kB", _until(make(rng, words), SECRET), gap=0.2) for tool, make in _ENCODINGS.items()]


def narrow(rng: random.Random) -> list[Run]:
    """Return senders that use no fresh names: a codebook of 256 names, and the record type of a single name."""
    codebook = _until(_codebook(rng), SECRET)
    types = _until(_types(rng), SECRET)
    return [_run("codebook of 256", "4 kB", codebook, gap=0.2), _run("record types", "4 kB", types, gap=0.2)]


def bot(rng: random.Random, domain: Name, octets: int = 16) -> Query:
    """Return what one of many bots sends: a name of so many random octets."""
    return Query(0.0, from_labels((_base32(rng, octets).encode(),))[:-1] + domain, domain, A, float(octets))


def moved(query: Query, domain: Name, *, at: float) -> Query:
    """Return the same question below another domain at another time."""
    return Query(at, query.qname[: -len(query.domain)] + domain, domain, query.qtype, query.payload)


def domain_for(rng: random.Random) -> Name:
    """Return a registered domain nobody has asked about."""
    return from_text("".join(rng.choices(string.ascii_lowercase, k=4)) + ".net")


def _run(tool: str, source: str, sent: Sequence[Sent], *, gap: float) -> Run:
    domain = from_text(re.sub(r"[^a-z0-9]+", "-", tool.lower()) + "-made.net")
    queries = tuple(
        Query(number * gap, from_text(sub)[:-1] + domain, domain, qtype, payload)
        for number, (sub, qtype, payload) in enumerate(sent)
    )
    return Run(tool=tool, source=source, queries=queries, synthetic=True)


def _until(sent: Iterator[Sent], octets: int) -> list[Sent]:
    taken, carried = [], 0.0
    for one in islice(sent, _RESTING):
        taken.append(one)
        carried += one[2]
        if carried >= octets:
            break
    return taken


def _base32(rng: random.Random, octets: int) -> str:
    return base64.b32encode(rng.randbytes(octets)).decode().rstrip("=").lower()


def _base64(rng: random.Random, octets: int, extra: str = "-_") -> str:
    return base64.b64encode(rng.randbytes(octets), extra.encode()).decode().rstrip("=")


def _cut(text: str, size: int = 63) -> str:
    return ".".join(text[at : at + size] for at in range(0, len(text), size))


def _exfiltrator(encode: Callable[[random.Random, int], str], octets: int, label: int) -> Maker:
    """DNSExfiltrator: `init.<base32 of name and count>`, then `<number>.<data>`; RC4 of a zip file."""

    def make(rng: random.Random) -> Iterator[Sent]:
        yield f"init.{_base32(rng, 14)}.{encode(rng, 3)}", TXT, 0.0
        for number in count():
            yield f"{number}.{_cut(encode(rng, octets), label)}", TXT, float(octets)

    return make


def _ozyman(rng: random.Random) -> Iterator[Sent]:
    """OzymanDNS: 110 octets of an SSH stream in base32, position, session, direction; polls in between."""
    session, position = rng.randrange(65536), 0
    while True:
        size = rng.choice((110, 110, 110, 48, 64))
        yield f"{_cut(_base32(rng, size), 60)}.{rng.randrange(65536)}-{position}.id-{session}.up", A, float(size)
        position += size
        yield f"{position}-{rng.randrange(65536)}.id-{session}.down", TXT, 0.0


def _tuns(rng: random.Random) -> Iterator[Sent]:
    """TUNS: CNAME only, `d` and base32 of an IP packet whose 40 octets of headers hardly vary, `r<number>` polls."""
    fixed = rng.randbytes(28)
    for number in count():
        size = rng.choice((0, 16, 48, 76))
        packet = fixed + rng.randbytes(12 + size)
        yield f"d{_cut(base64.b32encode(packet).decode().rstrip('=').lower(), 62)}", CNAME, float(len(packet))
        yield f"r{number}", CNAME, 0.0


def _dnscapy(rng: random.Random) -> Iterator[Sent]:
    """DNScapy: SSH in base64 labels, then message and connection numbers; CNAME and TXT in turn."""
    connection = rng.randrange(1, 256)
    for number in count():
        size = rng.choice((36, 52, 100, 120))
        yield f"{_cut(_base64(rng, size))}.{number}.{connection}", rng.choice((CNAME, TXT)), float(size)


def _pupy(rng: random.Random) -> Iterator[Sent]:
    """Pupy and Decoy Dog: base32 with 9 for padding, a payload label of some 24 octets and a nonce label."""
    nonce = rng.randrange(1 << 32)
    while True:
        size = rng.choice((20, 24, 24, 35))
        nonce += rng.randrange(1, 64)
        token = base64.b32encode(nonce.to_bytes(6, "big") + rng.randbytes(2)).decode().rstrip("=").lower()
        yield f"{_base32(rng, size)}9.{token}9", rng.choice((A, A, A, AAAA)), float(size)


def _sunburst(rng: random.Random) -> Iterator[Sent]:
    """SUNBURST: 15 characters of victim and key, then up to 16 of the victim's domain; four regions below its own."""
    while True:
        rest = rng.choice((10, 13, 16))
        text = "".join(rng.choices(_LDH, k=15 + rest))
        region = rng.choice(("eu-west-1", "us-west-2", "us-east-1", "us-east-2"))
        yield f"{text}.appsync-api.{region}", A, (15 + rest) * 5 / 8


def _cobalt(rng: random.Random) -> Iterator[Sent]:
    """Cobalt Strike: check-ins by id alone; data as `post.<labels><hex>...<counter><id>`, hexadecimal."""
    beacon = f"{rng.randrange(1 << 31):x}"
    for number in count():
        yield beacon, A, 0.0
        yield f"post.1{6:02x}.{number:x}{rng.randrange(1 << 16):x}.{beacon}", A, 0.0
        for part in range(6):
            size = rng.choice((14, 28, 42))
            text = _cut(rng.randbytes(size).hex(), 56)
            yield (
                f"post.{text.count('.') + 2}{text}.{part:x}{number & 15:x}{rng.randrange(1 << 16):x}.{beacon}",
                A,
                size,
            )


def _sliver(rng: random.Random) -> Iterator[Sent]:
    """Sliver where case is lost: base32 of a message with some 16 octets of framing, names filled, TXT; A polls."""
    identity = rng.randbytes(4)
    for number in count():
        size = rng.choice((24, 90, 120))
        head = (
            b"\x08\x02\x15" + identity + b"\x18" + number.to_bytes(3, "little") + b"\x20\x2a" + bytes((size,)) + b"\x32"
        )
        yield _cut(base64.b32encode(head + rng.randbytes(size)).decode().rstrip("=").lower()), TXT, float(size)


def _dnsteal(rng: random.Random) -> Iterator[Sent]:
    """dnsteal: `<number>-.<base64>-.<base64>-...<file>`, 57 characters a label."""
    for number in count():
        labels = "-.".join(_base64(rng, 42, "*-")[:56] for _ in range(3))
        yield f"{number}-.{labels}-.report.zip", A, 126.0


_TOOLS: Final[tuple[tuple[str, str, float, Maker], ...]] = (
    ("DNSExfiltrator", "base64url, full names", 0.05, _exfiltrator(_base64, 165, 63)),
    ("DNSExfiltrator", "base32, full names", 0.05, _exfiltrator(_base32, 135, 63)),
    ("DNSExfiltrator", "base64url, labels of 30", 0.5, _exfiltrator(_base64, 60, 30)),
    ("DNSExfiltrator", "base32, 20 octets", 1.0, _exfiltrator(_base32, 20, 63)),
    ("ozymandns", "ssh", 0.05, _ozyman),
    ("tuns", "ip", 0.05, _tuns),
    ("dnscapy", "ssh", 0.1, _dnscapy),
    ("Pupy", "Decoy Dog's pace", 60.0, _pupy),
    ("SUNBURST", "own pace", 1200.0, _sunburst),
    ("Cobalt Strike", "post", 1.0, _cobalt),
    ("Sliver", "base32", 0.2, _sliver),
    ("dnsteal", "base64", 0.05, _dnsteal),
)


def _worded(words_a_name: int, separator: str) -> Encoder:
    def make(rng: random.Random, words: Sequence[str]) -> Iterator[Sent]:
        while True:
            chosen = [words[rng.randrange(WORDS)] for _ in range(words_a_name)]
            yield separator.join(chosen), A, words_a_name * log2(WORDS) / 8

    return make


def _pairs(rng: random.Random, words: Sequence[str]) -> Iterator[Sent]:
    while True:
        yield f"{words[rng.randrange(256)]}.{words[256 + rng.randrange(256)]}", A, 2.0


def _letters(alphabet: str, length: int) -> Encoder:
    def make(rng: random.Random, _words: Sequence[str]) -> Iterator[Sent]:
        while True:
            yield "".join(rng.choices(alphabet, k=length)), A, length * log2(len(alphabet)) / 8

    return make


def _babble(rng: random.Random, words: Sequence[str]) -> Iterator[Sent]:
    """Text an order-2 model of well-known names would write: what an arithmetic coder makes of a secret."""
    model = _order_two(words)
    while True:
        text, bits = "", 0.0
        while len(text) < 14:
            following = model[("^^" + text)[-2:]]
            letter = rng.choices(list(following), weights=list(following.values()))[0]
            bits -= log2(following[letter] / following.total())
            if letter == "$":
                break
            text += letter
        if text:
            yield text, A, bits / 8


def _order_two(words: Sequence[str]) -> dict[str, Counter[str]]:
    model: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for word in words:
        padded = f"^^{word}$"
        for at in range(2, len(padded)):
            model[padded[at - 2 : at]][padded[at]] += 1
    return model


def _reversed_address(rng: random.Random, _words: Sequence[str]) -> Iterator[Sent]:
    while True:
        yield ".".join(str(octet) for octet in rng.randbytes(4)), A, 4.0


def _uuid(rng: random.Random, _words: Sequence[str]) -> Iterator[Sent]:
    while True:
        text = rng.randbytes(16).hex()
        yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}.server-7", A, 16.0


def _cache_host(rng: random.Random, _words: Sequence[str]) -> Iterator[Sent]:
    while True:
        host = "".join(rng.choices(_LDH, k=8))
        yield f"r{rng.randrange(1, 9)}---sn-{host}", A, (3 + 8 * log2(36)) / 8


_ENCODINGS: Final[dict[str, Encoder]] = {
    "2,048 words, one": _worded(1, ""),
    "2,048 words, three": _worded(3, "-"),
    "256.256 words": _pairs,
    "base 4 letters": _letters("acgt", 24),
    "short hexadecimal": _letters("0123456789abcdef", 4),
    "text of a model": _babble,
    "reversed IPv4": _reversed_address,
    "md5 look-alike": _letters("0123456789abcdef", 32),
    "uuid look-alike": _uuid,
    "cache host look-alike": _cache_host,
}


def _codebook(rng: random.Random) -> Iterator[Sent]:
    names = ["".join(rng.choices(_LDH, k=6)) for _ in range(256)]
    while True:
        yield rng.choice(names), A, 1.0


def _types(rng: random.Random) -> Iterator[Sent]:
    kinds = (1, 2, 5, 6, 12, 13, 15, 16, 17, 28, 33, 35, 37, 44, 52, 65)
    while True:
        yield "www", rng.choice(kinds), 0.5
