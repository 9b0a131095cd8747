"""Between the plan's words and a firewall's: packed addresses and ends in Unix time, text and seconds from now on."""

from __future__ import annotations

import ipaddress
from typing import Final

from egress.enforcer import Lease, Target
from egress.plan import ANY, Destination, Hold

BRIEFEST: Final = 0.1  # seconds; a hold whose end has just passed is put for this long, and goes by itself


def target(destination: Destination) -> Target:
    """Return the destination as text; raises ValueError for what is no packed address."""
    return Target(_text(destination.address), _text(destination.client) if destination.client else "")


def destination(target: Target) -> Destination:
    """Return the target packed; raises ValueError for what is no address."""
    return Destination(_packed(target.address), _packed(target.client) if target.client else ANY)


def lease(hold: Hold, now: float) -> Lease:
    """Return what a firewall is told `now`, in Unix seconds, so that the block ends with the hold."""
    return Lease(target(hold.destination), max(BRIEFEST, hold.expires - now))


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed
