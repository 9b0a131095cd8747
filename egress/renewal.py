"""Lists of networks renewed: what came is held against what is in force, and a kind's file is made of what passes.

Rules:
1. A list that lost more than half of its networks, or counts or covers more than ten times as much, is refused: one cut
   short lets blocks through that should not be, a forged one spares whatever its owner likes.
2. A kind's file is dated by the day its networks changed and never before the one it replaces, or nobody would take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.errors import BadFeed
from egress.range_lists import KINDS, pack, unpack
from egress.ranges import Listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from egress.range_lists import Snapshot
    from egress.ranges import Prefix

MAX_LOSS: Final = 2  # a list may shrink to one in so many
MAX_GROWTH: Final = 10  # times what is in force
SOURCE: Final = "misp-warninglists as fetched"
# Addresses below which growth is no matter, by the octets of one: an IPv4 /12, an IPv6 /28; large hosters have more.
_SMALL: Final[Mapping[int, int]] = {4: 1 << 20, 16: 1 << 100}
_FAMILY: Final[Mapping[int, str]] = {4: "IPv4", 16: "IPv6"}


def held(snapshot: Snapshot) -> dict[str, tuple[Prefix, ...]]:
    """Return the networks of a snapshot by the folder of misp-warninglists each list comes from.

    Lists under the same words are told apart by their order: where one is missing its twin stands in, so none is lost.
    """
    left: dict[str, list[Listed]] = {}
    for one in snapshot.lists:
        left.setdefault(one.name, []).append(one)
    kind = KINDS[snapshot.kind]
    return {name: left[words].pop(0).prefixes for name, words in kind.items() if left.get(words)}


def check(new: Sequence[Prefix], old: Sequence[Prefix]) -> None:
    """Raise BadFeed when a list may not take the place of another by rule 1; nothing is held against an empty one."""
    if not old:
        return
    change = f"{len(old):,} to {len(new):,} networks"
    if len(new) * MAX_LOSS < len(old):
        raise BadFeed(f"shrank from {change}, more than half")
    if len(new) > len(old) * MAX_GROWTH:
        raise BadFeed(f"grew from {change}, more than {MAX_GROWTH} times")
    for octets, small in _SMALL.items():
        before, after = _covered(old, octets), _covered(new, octets)
        if after > max(small, before * MAX_GROWTH):
            raise BadFeed(
                f"covers {after:,} {_FAMILY[octets]} addresses, {before:,} before; more than {MAX_GROWTH} times"
            )


def renewed(
    current: Snapshot, lists: Mapping[str, tuple[Prefix, ...]], *, date: str, anyway: bool = False
) -> bytes | None:
    """Return the file of a kind that holds these lists, by their folders' names; None when it would say nothing new.

    `anyway`: it is returned all the same. `date`: today, YYYY-MM-DD. Raises BadFeed for what could not be read again.
    """
    kind = current.kind
    wanted = tuple(Listed(words, lists[name]) for name, words in KINDS[kind].items() if lists.get(name))
    if wanted == current.lists and not anyway:
        return None
    octets = pack(kind, wanted, date=max(date, current.date), source=SOURCE)
    unpack(octets, kind)
    return octets


def _covered(prefixes: Sequence[Prefix], octets: int) -> int:
    return sum(each.last - each.first + 1 for each in prefixes if each.octets == octets)
