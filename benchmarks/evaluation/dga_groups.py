"""How well groups of failed names are judged: `python -m benchmarks.evaluation.dga_groups DATA [--words FILE]`.

Rules:
1. Benign groups come from the quarter of names that neither trained the group model nor set its thresholds.
2. Families the shipped model met are shown without a bar; what holds for them is the figure of the folds that never
   met them, as the training recorded it. Families it never met carry the bar.
3. Word campaigns join words of the quarter, or of a list on the command line.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation.table import Row, wilson
from core.finding import Confidence
from core.names import Name, from_text
from detectors.dga import DgaSettings, DgaWatch
from detectors.dga_groups import SIZES, GroupModel, load_groups
from detectors.dga_lookalike import middle
from detectors.dga_score import DgaModel, load_model
from detectors.sight import Sight, domain_of
from detectors.train import dga_pools
from detectors.train.dga_campaigns import WORD_STYLES, campaign

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detectors.dga_traits import Traits

NAME: Final = "dga"
BARS: Final = {10: 0.90, 20: 0.95}  # share of groups of families never met
WORD_BAR: Final = 0.80  # share of groups of 20 of word campaigns
WORD_SIZE: Final = 20
_CLIENT: Final = b"\x0a\x00\x00\x01"
_BROWSED: Final = 30  # ordinary names a client resolves around a burst


class Judge:
    """The shipped models over text names."""

    def __init__(self) -> None:
        self.single: DgaModel = load_model()
        self.groups: GroupModel = load_groups()
        self._look: Callable[[str], Traits] = cache(self._traits)

    def _traits(self, text: str) -> Traits:
        name = from_text(text)
        return self.groups.traits(name, self.single.score(name))

    def value(self, names: Sequence[str]) -> float:
        """Return the log-odds of a group."""
        return self.groups.score([self._look(name) for name in names])

    def high(self, names: Sequence[str]) -> bool:
        """True when the group is HIGH."""
        return self.value(names) >= self.groups.threshold(len(names)).high


def measure(data: Path, *, quick: bool, words: Path | None = None) -> list[Row]:
    """Return the rows of all parts; `quick` takes a sample of each."""
    judge, parts = Judge(), dga_pools.pools(data)
    test = parts.test
    rows = _benign(judge, test, 400 if quick else 20_000)
    rows += _recorded(judge.groups)
    rows += _families(judge, dga_pools.families(data), 4 if quick else 50)
    listed = words.read_text(encoding="utf-8").split() if words else _own_words(data)
    rows += _words(judge, [word for word in listed if word.isascii() and word.islower()], 15 if quick else 150)
    rows += _scans(test.popular, 40 if quick else 500)
    rows += _watched(judge, data, test, 4 if quick else 60)
    return rows


def _row(what: str, hits: int, n: int, **more: float | str | bool | None) -> Row:
    low, high = wilson(hits, n)
    share = hits / n if n else 0.0
    return Row(detector=NAME, what=what, value=share, n=n, low=low, high=high, at_most=False, **more)  # type: ignore[arg-type]


def _benign(judge: Judge, pool: dga_pools.Pools, count: int) -> list[Row]:
    """Return the share of hard benign groups at HIGH and at MEDIUM by size, and by kind for ten names."""
    groups = dga_pools.BenignGroups(pool, Random(11))
    rows = []
    for size in SIZES:
        drawn = [groups.draw(size) for _ in range(count)]
        found = [(kind, judge.value(names)) for kind, names in drawn]
        bounds = judge.groups.threshold(size)
        for level, bound in (("HIGH", bounds.high), ("MEDIUM", bounds.medium)):
            hits = sum(value >= bound for _, value in found)
            rows.append(_row(f"benign groups of {size} at {level}", hits, count, of="all kinds"))
        for kind in dga_pools.MIX:
            mine = [value for which, value in found if which == kind]
            hits = sum(value >= bounds.high for value in mine)
            if hits:
                rows.append(_row(f"benign groups of {size} at HIGH", hits, len(mine), of=kind))
    return rows


def _recorded(groups: GroupModel) -> list[Row]:
    """Return the figures of the folds of the training, held out at both levels; the interval is over families."""
    kinds = groups.about["figures"]["by kind and size"]
    rows = []
    for label, wanted, bars in (
        ("families", False, BARS),
        ("word campaigns", True, {WORD_SIZE: WORD_BAR}),
    ):
        for size in SIZES:
            shares = [
                found[str(size)]
                for kind, found in kinds.items()
                if str(size) in found and ((kind.removeprefix("made:") in WORD_STYLES) if wanted else ":" not in kind)
            ]
            low, high = _bootstrap(shares)
            rows.append(
                Row(
                    detector=NAME, what=f"groups of {size} at HIGH, held out in folds (of the training)", of=label,
                    value=sum(shares) / len(shares), n=len(shares), low=low, high=high, bar=bars.get(size),
                    at_most=False,
                )
            )  # fmt: skip
    return rows


def _bootstrap(shares: Sequence[float]) -> tuple[float, float]:
    random = Random(1)
    means = sorted(sum(random.choices(shares, k=len(shares))) / len(shares) for _ in range(1_000))
    return means[25], means[974]


def _families(judge: Judge, found: dict[str, dict[str, list[str]]], count: int) -> list[Row]:
    random, met = Random(12), set(judge.groups.about["families"])
    rows: list[Row] = []
    means: dict[tuple[bool, int], list[float]] = {}
    for family, sources in found.items():
        for size in SIZES:
            drawn = [dga_pools.family_group(random, sources, size) for _ in range(count)]
            if len(drawn[0]) < size:
                continue
            hits = sum(judge.high(names) for names in drawn)
            means.setdefault((family in met, size), []).append(hits / count)
            if hits < count:
                rows.append(
                    _row(f"groups of {size} at HIGH", hits, count, of=family + (" (met)" if family in met else ""))
                )
    for (known, size), shares in sorted(means.items()):
        low, high = _bootstrap(shares)
        rows.append(
            Row(
                detector=NAME, what=f"groups of {size} at HIGH, mean of families",
                of="met in training" if known else "never met", value=sum(shares) / len(shares), n=len(shares),
                low=low, high=high, bar=None if known else BARS.get(size), at_most=False,
            )
        )  # fmt: skip
    return rows


def _own_words(data: Path) -> list[str]:
    alive = [name for name in dga_pools.crawl(data)[0] if dga_pools.quarter(name) in dga_pools.TEST]
    return dga_pools.mined_words(alive)[:4_000]


def _words(judge: Judge, words: Sequence[str], count: int) -> list[Row]:
    """Return the share of word campaigns found, by style; styles that only tag a word are shown beside the mean."""
    random, suffixes = Random(13), ["com", "net", "org", "info", "ru", "biz", "eu", "de", "top", "xyz", "in", "cn"]
    words = [word for word in words if 3 <= len(word) <= 10]
    rows, shares = [], []
    for style in WORD_STYLES:
        for size in (10, WORD_SIZE, 40):
            drawn = [
                names for _ in range(count) if len(names := campaign(random, style, words, suffixes, size)) == size
            ]
            hits = sum(judge.high(names) for names in drawn)
            rows.append(_row(f"word campaigns, groups of {size} at HIGH", hits, len(drawn), of=style))
            if size == WORD_SIZE:
                shares.append(hits / max(len(drawn), 1))
    low, high = _bootstrap(shares)
    mean = sum(shares) / len(shares)
    what = f"word campaigns, groups of {WORD_SIZE} at HIGH, mean of styles"
    row = Row(detector=NAME, what=what, value=mean, n=len(shares), low=low, high=high, bar=WORD_BAR, at_most=False)
    return [*rows, row]


def _scans(popular: Sequence[str], count: int) -> list[Row]:
    """Return how many scans of one name get their own verdict."""
    random = Random(14)
    long = [name for name in popular if len(name.split(".")[0]) >= 6]
    rows = []
    for size in (5, 10, 20):
        hits = sum(middle(_look_alikes(random, random.choice(long), size)) is not None for _ in range(count))
        rows.append(
            _row(f"look-alike scans of {size} names told as such", hits, count, bar=0.95 if size >= 10 else None)
        )
    return rows


def _look_alikes(random: Random, name: str, size: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < size:
        made = dga_pools.typo(random, name)
        if made and random.random() < 0.2:
            made = dga_pools.typo(random, made)
        if made and made != name:
            found[made] = None
    return [made.split(".")[0] for made in found]


def _watched(judge: Judge, data: Path, pool: dga_pools.Pools, count: int) -> list[Row]:
    """Return what the Watch makes of bursts amid browsing: the C2 named, ordinary names named, and benign clients."""
    random, families = Random(15), dga_pools.families(data)
    runs = right = wrong = browsed = 0
    for sources in families.values():
        for _ in range(count):
            names = dga_pools.family_group(random, sources, 21)
            if len(names) < 21:
                continue
            told = _run(judge, random, names[:20], names[20], random.sample(pool.popular, _BROWSED))
            runs, browsed = runs + 1, browsed + _BROWSED
            right += names[20] in told
            wrong += len(told - {names[20]})
    groups = dga_pools.BenignGroups(pool, random)
    clients = 40 * count
    convicted = sum(
        bool(_run(judge, random, groups.draw(20)[1], "", [], level=Confidence.HIGH)) for _ in range(clients)
    )
    return [
        _row("bursts of 20 whose resolving name is named", right, runs),
        _row("named names that are the C2", right, right + wrong, bar=0.90),
        _row("ordinary names amid a burst named", wrong, browsed),
        _row("benign clients with 20 failed names at HIGH (all sizes)", convicted, clients),
    ]


def _run(
    judge: Judge,
    random: Random,
    failed: Sequence[str],
    c2: str,
    browsed: Sequence[str],
    *,
    level: Confidence | None = None,
) -> set[str]:
    """Return the domains named as C2, or with `level` those of findings at that level."""
    watch = DgaWatch(DgaSettings(single=False), score=judge.single.score, groups=judge.groups)
    order = [(name, 3) for name in failed] + [(name, 0) for name in browsed]
    random.shuffle(order)
    if c2:
        order.insert(random.randint(len(order) * 2 // 3, len(order)), (c2, 0))
    told = [found for at, one in enumerate(order) for found in watch.see(_sight(*one, float(at)))]
    if level is not None:
        return {found.domain for found in told if found.confidence >= level}
    return {found.domain for found in told if "C2" in found.reason}


def _sight(text: str, rcode: int, at: float) -> Sight:
    name: Name = from_text(text)
    addresses = (b"\xc6\x33\x64\x07",) if rcode == 0 else ()
    return Sight(at=at, client=_CLIENT, qname=name, qtype=1, domain=domain_of(name), rcode=rcode, addresses=addresses)


def main() -> None:
    """Print the rows."""
    arguments = argparse.ArgumentParser(description="judge groups of failed names")
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--words", type=Path, help="a word list, one a line, for the word campaigns")
    chosen = arguments.parse_args()
    for row in measure(chosen.data, quick=chosen.quick, words=chosen.words):
        bar = "" if row.bar is None else f"  bar {row.bar:g} {'ok' if row.holds else 'MISSED'}"
        bounds = f"{row.low:.4f}-{row.high:.4f}" if row.low is not None and row.high is not None else ""
        print(f"{row.what:62} {row.of:22} {row.value:.4f}  n {row.n:6}  {bounds}{bar}")


if __name__ == "__main__":
    main()
