"""Settings of the leak meter."""

from __future__ import annotations

from typing import Literal

import msgspec


class LeakSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator may tune; bytes are those of the documented estimate."""

    mode: Literal["block", "alert", "off"] = "block"
    budget: int = 512
    """Bytes a client may send out to one domain in a day: 0.55 of it in an hour, 2.5 in a week, 4 in 30 days."""
    learning_days: float = 7.0
    """Days from the start in which peaks are learned and only `learning_limit` blocks."""
    learning_limit: int = 16_384
    """Bytes an hour of a client to a domain nobody else uses that are too much even while learning; 0: no limit."""
    alert_share: float = 0.9
    """Share of the budget at which an alert of MEDIUM confidence is raised."""
    shared_alert_share: float = 0.75
    """The same of `lone_budget` and `young_budget`."""
    lone_budget: int = 384
    """Bytes a day, or in an hour, of a client to all new domains together that hardly anybody else uses, beyond the
    first 96 of each."""
    young_budget: int = 4_096
    """Bytes of all clients together to a domain in 60 days, when it carried less than that while learning; where that
    is more, a 32nd of it for each of up to 128 clients, from two days after the first data a 16th; and each month as
    much again."""
    confirmed: tuple[str, ...] = ()
    """`DOMAIN` or `CLIENT DOMAIN` that may send eight budgets, or twice what was learned where that is more."""
    latch_days: float = 30.0
    """Days a pair stays blocked when nobody releases it."""
