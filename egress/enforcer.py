"""What every firewall adapter promises: blocks that run out by themselves, put and taken in one change.

Rules:
1. A target is one address, for every client or for one. Nothing is blocked without a time that ends it.
2. `apply` settles each target by itself: one that is refused keeps no other from being blocked or released.
3. An adapter touches what it made and nothing else. When it dies, what it put runs out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Refused(PlugholeError):
    """The firewall would not do what it was told; the message says what and why."""


class Absent(Refused):
    """What `prepare` made is gone or damaged: prepare again, then apply all that is wanted."""


class Target(msgspec.Struct, frozen=True, gc=False, order=True):
    """A destination as text, IPv4 or IPv6; with a client of the same family only what that client exchanges with it."""

    address: str
    client: str = ""


class Lease(msgspec.Struct, frozen=True, gc=False):
    """A target to block for so many seconds from now on."""

    target: Target
    seconds: float


class Standing(msgspec.Struct, frozen=True, gc=False):
    """A block the firewall holds: the seconds it has left, what it has stopped since it was put there."""

    target: Target
    seconds: float  # infinity: somebody else put it there without an end
    packets: int = 0
    octets: int = 0


class Failure(msgspec.Struct, frozen=True, gc=False):
    """A target that was not blocked or released, and why."""

    target: Target
    reason: str
    full: bool = False  # the firewall has no room for it


class Applied(msgspec.Struct, frozen=True):
    """What came of a change: how many targets are as wished, and those that are not."""

    done: int
    failures: tuple[Failure, ...] = ()


class Enforcer(Protocol):
    """A firewall that holds blocks. Every method raises `Refused` when the firewall as a whole says no."""

    def prepare(self) -> None:
        """Everything that carries the blocks stands afterwards; blocks that were there stay. Safe to call again."""

    def present(self) -> list[Standing]:
        """Return every block there is; `Absent` is raised when nothing would act on them."""

    def apply(self, *, add: Sequence[Lease], renew: Sequence[Lease], remove: Sequence[Target]) -> Applied:
        """Each added and renewed target is blocked for its seconds from now, each removed one is free.

        Raises `Absent` when what carries the blocks is gone, ValueError for a target or time that can not be.
        """

    def flush(self) -> None:
        """No target is blocked any more; what carries the blocks stands."""

    def withdraw(self) -> None:
        """Nothing of ours is left in the firewall."""

    def close(self) -> None:
        """Let go of the connection; blocks stay until they run out."""
