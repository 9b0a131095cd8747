"""Runs of tunnels out of packet captures and CSV files, each name with the octets of payload it carries.

Rules:
1. A run is what one client asked below one registered domain; of a file with more, the domain with most names counts.
2. Payload is what the tool was given to carry. Its own framing, log-ins, probes and empty polls are none where the
   protocol says so; what an unknown tool sends counts whole, at the bits a character of its alphabet can hold.
3. Payload is counted from the names as captured. A resolver that folds case destroys part of a base64 name; it is
   counted all the same.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from benchmarks.evaluation.data import rows
from benchmarks.evaluation.packets import Asked, Labels, questions
from core.errors import BadName
from core.names import Name, from_labels, from_text
from detectors.sight import domain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TUNING: Final = frozenset({"iodine", "dns2tcp", "dnscat2"})  # tools the meter was tuned on; all others are held out

PAUSE: Final = 25.0  # seconds without a question end a session of a CSV file; tools poll more often

_NO_TUNNEL: Final = ("testing", "benign")  # how the names of the other captures begin
_SCANNERS: Final = re.compile(r"\.[a-z]\.[a-z]$|\.av[tq]s$|mcafee")  # below e5.sk and mcafee.com
_BASE32: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz234567")
_HEXADECIMAL: Final = frozenset(b"0123456789abcdefABCDEF")
_TYPES: Final = {"*": 255, "-": 0, "": 0}


class Query(msgspec.Struct, frozen=True, gc=False):
    """A question of a run and the octets of payload its name carries."""

    at: float  # seconds
    qname: Name
    domain: Name
    qtype: int
    payload: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer of one tool."""

    tool: str
    source: str
    queries: tuple[Query, ...]
    synthetic: bool = False

    @property
    def payload(self) -> float:
        """Octets the whole run carries."""
        return sum(query.payload for query in self.queries)

    @property
    def held_out(self) -> bool:
        """True for a tool nothing was tuned on."""
        return self.tool not in TUNING


def tunnel_runs(data: Path) -> list[Run]:
    """Return every run of a tunnel below the data folder, the same run in two files once."""
    runs: dict[tuple[str, Name], Run] = {}
    for tool, source, asked in _sources(data):
        run = as_run(tool, source, asked)
        if run is not None:
            runs.setdefault((tool, run.queries[0].qname), run)
    return list(runs.values())


def _sources(data: Path) -> Iterator[tuple[str, str, list[Asked]]]:
    for path in sorted((data / "captures").glob("*/*.pcap*")):
        tool = path.stem.replace("-", "_").split("_")[0].lower()
        if tool not in _NO_TUNNEL:
            yield tool, f"{path.parent.name}/{path.stem}", list(questions(path))
    for path in sorted((data / "tunnels").glob("*.csv.gz")):
        parts: defaultdict[tuple[str, str], list[Asked]] = defaultdict(list)
        for row in rows(path):
            if row.get("qr", "0") == "0" and (asked := _of_row(row)) is not None:
                parts[row.get("tool") or path.name.split("_")[0], row.get("source", path.name)].append(asked)
        for (tool, source), found in parts.items():
            for number, run in enumerate(_sessions(found), start=1):
                yield tool, f"{source}#{number}", run


def _sessions(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Part the questions where none was asked for PAUSE seconds."""
    session: list[Asked] = []
    for one in sorted(asked, key=lambda one: one.at):
        if session and one.at - session[-1].at > PAUSE:
            yield session
            session = []
        session.append(one)
    yield session


def _of_row(row: dict[str, str]) -> Asked | None:
    client = bytes(int(part) for part in (row.get("client") or row["src"]).split("."))
    labels = _split(row["qname"])
    return Asked(float(row["ts"]), client, labels, qtype_of(row["qtype"])) if labels else None


def _split(text: str) -> Labels:
    r"""Return the labels of a name with `\DDD` escapes, case kept."""
    raw = bytearray()
    at = 0
    octets = text.encode("utf-8", "surrogateescape")
    while at < len(octets):
        if octets[at] == 0x5C and octets[at + 1 : at + 4].isdigit():
            raw.append(int(octets[at + 1 : at + 4]) & 0xFF)
            at += 4
        else:
            raw.append(octets[at])
            at += 1
    return tuple(part for part in bytes(raw).split(b".") if part)


def qtype_of(text: str) -> int:
    """Return the number of a record type given by number, mnemonic or TYPEnnn; 0 for what nobody knows."""
    if text.isdigit():
        return int(text)
    if text in _TYPES:
        return _TYPES[text]
    import dns.exception
    import dns.rdatatype

    try:
        return int(dns.rdatatype.from_text(text))
    except (dns.rdatatype.UnknownRdatatype, dns.exception.DNSException, ValueError):
        return 0


def as_run(tool: str, source: str, asked: Sequence[Asked]) -> Run | None:
    """Return the run within these questions, or None when they hold fewer than two names of one domain."""
    named = [(one, name) for one in asked if (name := _name(one.labels)) is not None]
    counts = Counter((one.client, domain_of(name)) for one, name in set_of(named))
    if not counts:
        return None
    (client, domain), names = counts.most_common(1)[0]
    if names < 2:
        return None
    mine = [(one, name) for one, name in named if one.client == client and domain_of(name) == domain]
    payloads = _payloads(tool, [one.labels for one, _ in mine])
    known: set[Name] = set()
    queries = []
    for (one, name), payload in zip(mine, payloads, strict=True):
        queries.append(Query(one.at, name, domain, one.qtype, 0.0 if name in known else payload))
        known.add(name)
    return Run(tool=tool, source=source, queries=tuple(queries))


def set_of(named: Sequence[tuple[Asked, Name]]) -> list[tuple[Asked, Name]]:
    """Return the first question for each name."""
    first: dict[Name, tuple[Asked, Name]] = {}
    for one, name in named:
        first.setdefault(name, (one, name))
    return list(first.values())


def _name(labels: Labels) -> Name | None:
    try:
        return from_labels(labels) if labels else None
    except BadName:
        return None


def _payloads(tool: str, names: Sequence[Labels]) -> list[float]:
    zone = _common_suffix(names)
    subs = [labels[: len(labels) - zone] for labels in names]
    return _BY_TOOL.get(tool, _unknown)(subs)


def _common_suffix(names: Sequence[Labels]) -> int:
    """Return how many labels at the end all names share, without regard to case."""
    shared = min(len(labels) for labels in names)
    first = [label.lower() for label in names[0]]
    for labels in names:
        same = 0
        while same < shared and labels[-1 - same].lower() == first[-1 - same]:
            same += 1
        shared = same
    return shared


def _iodine(subs: Sequence[Labels]) -> list[float]:
    """One hexadecimal user, four characters of header, then data; other first characters are set-up and polls."""
    joined = [b"".join(labels) for labels in subs]
    data = [text if text[:1] in b"0123456789abcdefABCDEF" and len(text) > 5 else b"" for text in joined]
    bits = max((_bits(text[5:]) for text in data if text), default=5)
    return [max(len(text) - 5, 0) * bits / 8 for text in data]


def _bits(text: bytes) -> int:
    if any(octet >= 0x80 for octet in text):
        return 7
    return 5 if text == text.lower() else 6


def _dns2tcp(subs: Sequence[Labels]) -> list[float]:
    """Base64 of seven octets of header and the data; labels after `=` are log-in and connect."""
    found = []
    for labels in subs:
        text = b"".join(labels)
        found.append(0.0 if b"=" in text else max(len(text) * 6 // 8 - 7, 0))
    return [float(value) for value in found]


def _dnscat2(subs: Sequence[Labels]) -> list[float]:
    """Hexadecimal: id 2, kind 1, session 2; a message (kind 1) has 4 more, an encrypted one another 8 before those."""
    packets = [_unhex(labels) for labels in subs]
    messages = [len(packet) for packet in packets if packet[2:3] == b"\x01"]
    header = 9 if min(messages, default=0) < 17 else 17  # an empty one shows which it is
    return [float(max(len(packet) - header, 0)) if packet[2:3] == b"\x01" else 0.0 for packet in packets]


def _unhex(labels: Labels) -> bytes:
    text = b"".join(label for label in labels if label.lower() != b"dnscat")
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


def _sods(subs: Sequence[Labels]) -> list[float]:
    """Base32 labels, then position, `id-` and direction; what goes `down` asks only."""
    found = []
    for labels in subs:
        up = [at for at, label in enumerate(labels) if label.startswith(b"id-")]
        data = b"".join(labels[: up[0] - 1]) if up and labels[-1:] != (b"down",) else b""
        found.append(len(data) * 5 / 8)
    return found


def _unknown(subs: Sequence[Labels]) -> list[float]:
    joined = [b"".join(labels) for labels in subs]
    letters = set(b"".join(joined))
    bits = 4 if letters <= _HEXADECIMAL else max((_bits(text) for text in joined), default=5)
    return [len(text) * bits / 8 for text in joined]


_BY_TOOL: Final[dict[str, Callable[[Sequence[Labels]], list[float]]]] = {
    "iodine": _iodine,
    "dns2tcp": _dns2tcp,
    "dnscat2": _dnscat2,
    "sods": _sods,
    "ozymandns": _sods,
}


def name_of(text: str) -> Name | None:
    """Return the folded name of a log's text, or None for what is no name."""
    try:
        return from_text(text)
    except BadName:
        return _name(_split(text))


def labelled_attacks(data: Path) -> frozenset[str]:
    """Return the sub-domains of the ISP's list labelled as attack, but for look-ups of ESET's and McAfee's scanners."""
    return frozenset(
        row["text"]
        for path in sorted((data / "benign").glob("isp_subdomains_*.csv.gz"))
        for row in rows(path)
        if row["label"] == "1" and not _SCANNERS.search(row["text"]) and len(row["text"]) >= 16
    )


def labelled_runs(data: Path) -> list[Run]:
    """Return those sub-domains as runs by the length of their first label and their alphabet, a name a second."""
    parts: defaultdict[str, list[Asked]] = defaultdict(list)
    zone = (b"isp-labelled", b"net")
    for text in sorted(labelled_attacks(data)):
        labels = _split(text)
        alphabet = "base32" if _BASE32.issuperset(b"".join(labels)) else "base64url"
        part = parts[f"labels of {len(labels[0])}, {alphabet}"]
        part.append(Asked(float(len(part)), b"\x0a\x00\x00\x01", labels + zone, 1))
    runs = (as_run("labelled by ISP", source, asked) for source, asked in sorted(parts.items()))
    return [run for run in runs if run is not None]
