"""Groups of failed names out of a data folder: what people and dead sites cause, and what generators cause.

Rules:
1. Benign names are split by the hash of their first four letters: a series of mirrors lies wholly in one quarter.
2. A group holds distinct registrable names; what one client of one sample asks comes from one source of its family.
3. Files are gzipped: lines of names, or CSV with a header (qname, rcode; family, domain, source).
"""

from __future__ import annotations

import csv
import gzip
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec

from core.errors import BadName
from core.names import from_text, to_text
from detectors.dga_features import split
from detectors.dga_suffixes import DYNAMIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from random import Random

MIX: Final = {  # shares of the kinds of benign groups, after the study of hard ones
    "failed": 0.22, "neighbours": 0.13, "series": 0.10, "typos": 0.15, "link rot": 0.15, "mixture": 0.15,
    "one suffix": 0.10,
}  # fmt: skip
TRAINING: Final = (0, 1)  # quarters; the single-name scorer splits by itself
CALIBRATION: Final = (2,)
TEST: Final = (3,)
MIN_SOURCE: Final = 60  # names; smaller sources of a family are taken together
MIN_STEM: Final = 4  # letters that the names of a series of mirrors share
SPECIAL: Final = frozenset(
    ("arpa", "lan", "local", "localdomain", "home", "corp", "internal", "test", "onion", "invalid")
)
_NEAR: Final = dict(
    zip(
        "qwertyuiopasdfghjklzxcvbnm",
        ("wa", "qes", "wrd", "etf", "ryg", "tuh", "yij", "uok", "ipl", "ol",
         "qsz", "adwx", "sfec", "dgrv", "fhtb", "gjyn", "hkum", "jli", "kop",
         "asx", "zsc", "xdv", "cfb", "vgn", "bhm", "njk"),
        strict=True,
    )
)  # fmt: skip


class Pools(msgspec.Struct):
    """Benign names of some quarters, as registrable text names in order of appearance."""

    failed: list[str]  # NXDOMAIN in life, neighbours beside each other
    popular: list[str]  # known to be visited, most popular first where the list has an order
    dead: list[str]  # popular years ago, gone since
    series: list[list[str]]  # names of one stem


class Parts(NamedTuple):
    """Benign names by what they are for."""

    train: Pools
    calibrate: Pools
    test: Pools


def quarter(name: str) -> int:
    """Return 0 to 3: which quarter a benign name belongs to."""
    return crc32(name[:4].encode()) & 3


def registrable(name: str) -> str | None:
    """Return the label right under the public or dynamic-DNS suffix with that suffix; None for names not in public."""
    try:
        label, suffix = split(from_text(name.strip().lower()), DYNAMIC)
    except BadName:
        return None
    text = to_text(bytes((len(label),)) + label + suffix)
    return text if "." in text and text.rpartition(".")[2] not in SPECIAL and "\\" not in text else None


def crawl(data: Path) -> tuple[list[str], list[str]]:
    """Return the registrable names of the crawl that resolved, and those that did not exist, in order of appearance."""
    alive: dict[str, None] = {}
    failed: dict[str, None] = {}
    with gzip.open(
        data / "benign" / "top1m_crawl.csv.gz", "rt", encoding="utf-8", errors="replace", newline=""
    ) as text:
        for row in csv.DictReader(text):
            target = alive if row["rcode"] == "0" else failed if row["rcode"] == "3" else None
            if target is not None and (name := registrable(row["qname"])):
                target[name] = None
    return list(alive), [name for name in failed if name not in alive]


def popular(data: Path, stem: str) -> list[str]:
    """Return the registrable names of the lists whose file name starts so."""
    found: dict[str, None] = {}
    for path in sorted((data / "benign").glob(f"{stem}*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as text:
            found |= dict.fromkeys(name for line in text if (name := registrable(line)))
    return list(found)


def pools(data: Path) -> Parts:
    """Return the parts of the benign names of a data folder."""
    alive, failed = crawl(data)
    old, new = popular(data, "alexa"), popular(data, "cloudflare")
    there = set(alive) | set(new)

    def of(quarters: tuple[int, ...]) -> Pools:
        def mine(names: Iterable[str]) -> list[str]:
            return [name for name in names if quarter(name) in quarters]

        return Pools(
            failed=mine(failed),
            popular=mine(name for name in old if name in there),
            dead=mine(name for name in old if name not in there),
            series=_series(mine(alive + failed)),
        )

    return Parts(of(TRAINING), of(CALIBRATION), of(TEST))


def _series(names: Iterable[str]) -> list[list[str]]:
    """Return runs of names that share a stem and carry a counter or a tag behind it, like mirrors of one site do."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in names:
        label = name.split(".", 1)[0]
        stem = label.rstrip("0123456789").rstrip("-")
        if len(stem) >= MIN_STEM and stem != label:
            stems[stem].append(name)
    return [found for _, found in sorted(stems.items()) if len(found) >= 6]


class BenignGroups:
    """Draws benign groups of failed names from one part of the pools."""

    def __init__(self, source: Pools, random: Random) -> None:
        self._source = source
        self._random = random
        top = source.popular[:20_000]
        self._weights = list(accumulate(1 / (rank + 20) for rank in range(len(top))))
        self._suffixes: dict[str, list[str]] = defaultdict(list)
        for name in source.failed + source.dead:
            self._suffixes[name.split(".", 1)[1]].append(name)
        self._sizes = {suffix: len(names) for suffix, names in self._suffixes.items()}

    def draw(self, size: int) -> tuple[str, list[str]]:
        """Return the kind of a group and its names."""
        kind = self._random.choices(list(MIX), list(MIX.values()))[0]
        names = self.of(kind, size)
        return kind, names if len(names) == size else self.of("mixture", size)

    def of(self, kind: str, size: int) -> list[str]:
        """Return the names of a group of a kind; fewer than `size` when the pool has no more."""
        random, source = self._random, self._source
        if kind == "failed":
            return random.sample(source.failed, min(size, len(source.failed)))
        if kind == "neighbours":
            width = size + random.randint(0, size)
            at = random.randrange(max(len(source.failed) - width, 1))
            return random.sample(source.failed[at : at + width], min(size, len(source.failed)))
        if kind == "series":
            return self._mirrors(size)
        if kind == "typos":
            return self._typos(size)
        if kind == "link rot":
            return random.sample(source.dead, min(size, len(source.dead)))
        if kind == "one suffix":
            return self._one_suffix(size)
        return self._mixture(size)

    def _mirrors(self, size: int) -> list[str]:
        random = self._random
        chosen = random.choice(self._source.series) if self._source.series else []
        names = random.sample(chosen, min(size, len(chosen)))
        while len(names) < size and self._source.series:  # a client whose dead mirrors are of several sites
            more = random.choice(self._source.series)
            names += [name for name in more[: random.randint(2, size)] if name not in names]
        return names[:size]

    def _typos(self, size: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < size:
            at = bisect_left(self._weights, self._random.random() * self._weights[-1])
            if made := typo(self._random, self._source.popular[at]):
                found[made] = None
        return list(found)

    def _one_suffix(self, size: int) -> list[str]:
        fit = [suffix for suffix, many in self._sizes.items() if many >= size]
        if not fit:
            return []
        suffix = self._random.choices(fit, [self._sizes[suffix] ** 0.5 for suffix in fit])[0]
        return self._random.sample(self._suffixes[suffix], size)

    def _mixture(self, size: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < size:
            part = self._random.choice(("failed", "neighbours", "typos", "link rot"))
            found |= dict.fromkeys(self.of(part, self._random.randint(1, 4)))
        return list(found)[:size]


def typo(random: Random, name: str) -> str | None:
    """Return a name with one slip of the fingers, None when it is too short for that."""
    label, _, suffix = name.partition(".")
    if len(label) < 4:
        return None
    at = random.randrange(len(label))
    slip = random.randrange(6)
    if slip == 0:
        made = label[:at] + label[at + 1 :]
    elif slip == 1:
        made = label[:at] + label[at] + label[at:]
    elif slip == 2:
        at = min(at, len(label) - 2)
        made = label[:at] + label[at + 1] + label[at] + label[at + 2 :]
    elif slip == 3:
        made = label[:at] + random.choice(_NEAR.get(label[at], "e")) + label[at + 1 :]
    elif slip == 4:
        made = label[:at] + random.choice(_NEAR.get(label[at], "e")) + label[at:]
    else:
        made, suffix = label, {"com": random.choice(("cm", "co", "om", "net")), "org": "og"}.get(suffix, "com")
    return f"{made}.{suffix}" if made.strip("-") and f"{made}.{suffix}" != name else None


def families(data: Path) -> dict[str, dict[str, list[str]]]:
    """Return the distinct registrable names of every family of the data folder, by source; small sources together."""
    found: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    with gzip.open(data / "dga" / "families.csv.gz", "rt", encoding="utf-8", errors="replace", newline="") as text:
        for row in csv.DictReader(text):
            if name := registrable(row["domain"]):
                found[row["family"]][row.get("source") or ""][name] = None
    return {family: _merged(sources) for family, sources in sorted(found.items())}


def _merged(sources: dict[str, dict[str, None]]) -> dict[str, list[str]]:
    large = {source: list(names) for source, names in sources.items() if len(names) >= MIN_SOURCE}
    rest = list(dict.fromkeys(name for source, names in sources.items() if source not in large for name in names))
    return large | {"other": rest} if len(rest) >= MIN_SOURCE or not large else large


def family_group(random: Random, sources: dict[str, list[str]], size: int) -> list[str]:
    """Return names of one client that runs one sample of a family; fewer when the family has no more."""
    fit = [names for names in sources.values() if len(names) >= size]
    if not fit:
        return max(sources.values(), key=len)
    return random.sample(random.choices(fit, [len(names) ** 0.5 for names in fit])[0], size)


def mined_words(names: Sequence[str], least: int = 2) -> list[str]:
    """Return the words of 3 to 12 letters that stand between hyphens in at least so many names, commonest first."""
    counts = Counter(part for name in names for part in _parts(name))
    return [word for word, seen in counts.most_common() if seen >= least]


def _parts(name: str) -> Iterator[str]:
    label = name.split(".", 1)[0]
    if "-" in label and not label.startswith("xn--"):
        yield from (part for part in label.split("-") if 3 <= len(part) <= 12 and part.isalpha() and part.isascii())
