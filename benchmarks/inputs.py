"""The inputs of a benchmark, made from a seed: the block list in each server's own format and the query files.

1. The same seed and size give the same list and the same hit load.
2. A name of the miss and blocked loads is never asked twice, whatever the server, round or warm-up.
3. No hit name is listed, nor lies under a listed name.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MISS_ZONE: Final = "bench.example"
HIT_NAMES: Final = 10_000
HIT_QUERIES: Final = 200_000  # lines of the hit file, which dnsperf asks over and over
ZIPF_EXPONENT: Final = 1.0

_TLDS: Final = ("com",) * 9 + ("net", "org", "info", "top", "xyz", "ru", "cn", "site", "online", "shop", "club", "icu")
_HOSTS: Final = ("www", "cdn", "login", "mail", "api", "secure", "static", "update", "img", "app")
_ONSETS: Final = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "v",
)
_NUCLEI: Final = ("a", "ai", "e", "ea", "i", "o", "ou", "u")
_CODAS: Final = ("", "", "", "l", "n", "r", "s", "t", "x")
_WORDS: Final = 6_000
_NUMBERED, _HOSTED, _DASHED = 0.2, 0.3, 0.25  # shares of the names with digits, a host label, a hyphen

_LABEL_BITS: Final = 48
_LABEL_STEP: Final = 0x9E37_79B9_7F4B  # odd, so that multiplying by it never meets the same 48 bits twice


class FreshLabels:
    """An endless supply of twelve-digit labels that look random and never repeat."""

    def __init__(self, seed: int) -> None:
        self._next = itertools.count(random.Random(seed).getrandbits(_LABEL_BITS))

    def take(self) -> str:
        """Return a label that was not returned before."""
        return f"{next(self._next) * _LABEL_STEP % (1 << _LABEL_BITS):012x}"


def domain_names(count: int, *, seed: int) -> list[str]:
    """Return `count` different names that look like real ones, in no order."""
    rng = random.Random(seed)
    words = _words(rng)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_domain_name(rng, words)] = None
    return list(found)


def hit_names(listed: Iterable[str], *, seed: int, count: int = HIT_NAMES) -> list[str]:
    """Return `count` names that no entry of `listed` covers, most popular first."""
    blocked = set(listed)
    names = domain_names(2 * count, seed=seed + 1)
    free = [name for name in names if blocked.isdisjoint(parents(name))]
    return free[:count]


def parents(name: str) -> Iterator[str]:
    """Yield the name and every parent of it, longest first."""
    while name:
        yield name
        name = name.partition(".")[2]


def popularity(names: list[str], *, seed: int, draws: int = HIT_QUERIES) -> list[str]:
    """Return `draws` of the names, the n-th as often as 1/n (Zipf with exponent 1.0)."""
    weights = itertools.accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, len(names) + 1))
    return random.Random(seed).choices(names, cum_weights=list(weights), k=draws)


def miss_names(fresh: FreshLabels, count: int) -> Iterator[str]:
    """Yield names under the wildcard zone that nobody asked for before."""
    return (f"{fresh.take()}.{MISS_ZONE}" for _ in range(count))


def blocked_names(fresh: FreshLabels, listed: list[str], count: int, *, seed: int) -> Iterator[str]:
    """Yield names one label below random listed ones; no name twice."""
    rng = random.Random(seed)
    return (f"{fresh.take()}.{rng.choice(listed)}" for _ in range(count))


def write_queries(path: Path, names: Iterable[str]) -> Path:
    """Write a dnsperf file that asks for the A records of the names."""
    return _write(path, (f"{name} A\n" for name in names))


def write_list(path: Path, names: Iterable[str], *, form: str) -> Path:
    """Write the block list in one of `LIST_FORMS`; in each, an entry covers the name and all below it."""
    return _write(path, LIST_FORMS[form](names))


def _plain(names: Iterable[str]) -> Iterator[str]:
    return (f"{name}\n" for name in names)


def _unbound(names: Iterable[str]) -> Iterator[str]:
    yield "server:\n"
    yield from (f'local-zone: "{name}" always_nxdomain\n' for name in names)


def _dnsmasq(names: Iterable[str]) -> Iterator[str]:
    return (f"local=/{name}/\n" for name in names)


def _rpz(names: Iterable[str]) -> Iterator[str]:
    yield "$TTL 60\n@ SOA localhost. hostmaster.localhost. 1 3600 600 86400 60\n@ NS localhost.\n"
    yield from (f"{name} CNAME .\n*.{name} CNAME .\n" for name in names)


LIST_FORMS: Final[dict[str, Callable[[Iterable[str]], Iterator[str]]]] = {
    "plain": _plain,
    "unbound": _unbound,
    "dnsmasq": _dnsmasq,
    "rpz": _rpz,
}


def _write(path: Path, lines: Iterable[str]) -> Path:
    with path.open("w", encoding="ascii") as file:
        file.writelines(lines)
    return path


def _words(rng: random.Random) -> list[str]:
    return ["".join(_syllable(rng) for _ in range(rng.choice((1, 2, 2, 3)))) for _ in range(_WORDS)]


def _syllable(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)


def _domain_name(rng: random.Random, words: list[str]) -> str:
    draw = rng.random
    label = words[int(draw() * _WORDS)] + ("-" if draw() < _DASHED else "") + words[int(draw() * _WORDS)]
    if draw() < _NUMBERED:
        label += str(int(draw() * 1000))
    name = f"{label}.{_TLDS[int(draw() * len(_TLDS))]}"
    return f"{_HOSTS[int(draw() * len(_HOSTS))]}.{name}" if draw() < _HOSTED else name
