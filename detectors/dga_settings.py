"""Settings of the detector of generated names."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class DgaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `dga`. Levels of groups are MEDIUM at 1 in 1,000 and HIGH at 1 in 10,000 hard benign groups."""

    mode: Literal["block", "alert", "off"] = "alert"
    window: Annotated[float, Meta(ge=60.0, le=604_800.0)] = 21_600.0  # seconds a failed name counts
    stricter: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.0  # added to every threshold of a group, in nats
    single: bool = True  # tell of single names that resolve, too, always as LOW
    dynamic: tuple[str, ...] = ()  # further dynamic-DNS domains, under which each label is a name of its own
    clients: Annotated[int, Meta(ge=100, le=1_000_000)] = 10_000  # with failed names, about 3 kB each, 9 kB at most
    names: Annotated[int, Meta(ge=1_000, le=10_000_000)] = 100_000  # that resolved, about 150 octets each
