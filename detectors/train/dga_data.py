"""The names the single-name DGA model learns from and is measured with, split so that neither sees the other's.

Rules:
1. A benign label falls by its checksum into TEST, TABLES or TREES, whatever its suffix: what one part learned of
   `example.com` cannot help it with `example.net` in another.
2. Names that a known family generates are no benign names for training or for lists said to be clean.
3. Families that share a generator are one family when folds are made.
"""

from __future__ import annotations

import csv
import gzip
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from core.errors import BadName
from core.names import from_text
from detectors.dga_features import split
from detectors.dga_suffixes import DYNAMIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Item = tuple[bytes, bytes]  # label and effective suffix (a Name)

CRAWL: Final = "benign/top1m_crawl.csv.gz"
HUMAN: Final = "benign/alexa100k_2013.txt.gz"
LATER: Final = "benign/cloudflare_top100k_2026.txt.gz"
FAMILIES: Final = "dga/families.csv.gz"
SOURCES: Final[Mapping[str, str]] = {
    CRAWL: "replies to one client that walked a public list of the top million names of 2023-08",
    HUMAN: "a public list of the 100,000 most visited sites of 2013",
    FAMILIES: "names of malware domain generators, run from public re-implementations or collected",
}
TEST: Final = 30  # per cent of labels
TABLES: Final = 40  # likewise; the rest is for the trees
FOLDS: Final = 6
PER_FAMILY: Final = 3_000  # names of one family, evenly spread over its sorted list
SMALLEST: Final = 40  # names of a family that is measured
_ALIASES: Final[Mapping[str, str]] = {"qsnatch_b": "qsnatch_a", "murofet_v3": "murofet"}
_SEED: Final = b"plughole dga "


class Benign(msgspec.Struct, frozen=True, kw_only=True):
    """Distinct (label, suffix) of benign lists. `raw` and `human` are held back by checksum, `later` by list."""

    tables: list[Item]
    trees: list[Item]
    raw: list[Item]
    resolving: list[bool]  # of each of `raw`: had an answer, and no known family makes it
    human: list[Item]
    later: list[Item]


def part(label: bytes) -> str:
    """Return where a benign label belongs: "test", "tables" or "trees"."""
    share = crc32(_SEED + label) % 100
    return "test" if share < TEST else "tables" if share < TEST + TABLES else "trees"


def folds(families: Iterable[str]) -> dict[str, int]:
    """Return the fold each family is held out in, the same for families that share a generator."""
    own = {family: _ALIASES.get(family, family) for family in families}
    ranks = {name: rank for rank, name in enumerate(sorted(set(own.values())))}
    return {family: ranks[name] % FOLDS for family, name in own.items()}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()


def item_of(text: str) -> Item | None:
    """Return label and suffix of a name as people write it; None for what is no name or has no suffix."""
    try:
        label, suffix = split(from_text(text.strip().lower()), DYNAMIC)
    except BadName:
        return None
    return (label, suffix) if label and len(suffix) > 1 else None


def families(data: Path) -> dict[str, list[Item]]:
    """Return the distinct names of each family, at most PER_FAMILY, in order of the alphabet."""
    found: dict[str, dict[Item, None]] = {}
    with gzip.open(data / FAMILIES, "rt", encoding="utf-8", errors="replace", newline="") as text:
        for row in csv.DictReader(text):
            if item := item_of(row["domain"]):
                found.setdefault(row["family"], {})[item] = None
    return {family: _spread(sorted(items)) for family, items in sorted(found.items())}


def _spread(items: list[Item]) -> list[Item]:
    step = max(len(items) / PER_FAMILY, 1.0)
    return [items[int(at * step)] for at in range(min(len(items), PER_FAMILY))]


def benign(data: Path, *, known: set[Item]) -> Benign:
    """Return the benign lists in their parts; `known` are names of families."""
    crawl: dict[Item, bool] = {}
    for item, resolves in crawled(data):
        crawl[item] = crawl.get(item, False) or resolves
    human = listed(data / HUMAN)
    parts: dict[str, list[Item]] = {"test": [], "tables": [], "trees": []}
    for item in crawl:
        parts[part(item[0])].append(item)
    for item in human:
        if item not in crawl and (where := part(item[0])) != "test":
            parts[where].append(item)
    later = [item for item in listed(data / LATER) if part(item[0]) == "test"]
    return Benign(
        tables=[item for item in parts["tables"] if item not in known],
        trees=[item for item in parts["trees"] if item not in known],
        raw=parts["test"],
        resolving=[crawl[item] and item not in known for item in parts["test"]],
        human=[item for item in human if part(item[0]) == "test" and item not in known],
        later=later,
    )


def crawled(data: Path, *, every: int = 1) -> Iterator[tuple[Item, bool]]:
    """Yield names of the crawl and whether they resolved; `every` takes a sample."""
    with gzip.open(data / CRAWL, "rt", encoding="utf-8", errors="replace", newline="") as text:
        for row in islice(csv.DictReader(text), 0, None, every):
            if item := item_of(row["qname"]):
                yield item, row["rcode"] == "0" and bool(row["answers"])


def listed(path: Path) -> list[Item]:
    """Return the distinct names of a list, in its order; none when the file is missing."""
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as text:
        return list(dict.fromkeys(item for line in text if (item := item_of(line))))
