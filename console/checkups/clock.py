"""The clock: whether something keeps it, and whether the hardware clock and Redis agree with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from console.checkups.host import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.checkups.host import Host

RTC_SKEW: Final = 60.0  # seconds; signatures and cookies forgive minutes, and a hardware clock drifts by seconds a week
REDIS_SKEW: Final = 5.0  # seconds; overrides expire by the clock of each node
_RTC: Final = "sys/class/rtc/rtc0/since_epoch"
_CURE: Final = "timedatectl set-ntp true (a container's clock is kept by its host)"


def clock(host: Host) -> Iterator[Finding]:
    """Something keeps the clock right, and other clocks agree; DNSSEC, cookies and overrides need it."""
    troubles = 0
    for found in _troubles(host):
        troubles += 1
        yield found
    if not troubles:
        yield Finding("clock", "ok", "synchronised, and no other clock disagrees")


def _troubles(host: Host) -> Iterator[Finding]:
    if host.system.unsynchronised():
        yield Finding("clock", "warn", "nothing keeps the clock synchronised (STA_UNSYNC)", _CURE)
    if rtc := host.read_if_there(_RTC).strip():
        apart = host.system.now() - int(rtc)
        if abs(apart) > RTC_SKEW:
            cure = f"{_CURE}; when it is right: hwclock --systohc --utc"
            yield Finding("clock", "warn", f"the clock is {_apart(apart)} the hardware clock", cure)
    yield from _redis(host)


def _redis(host: Host) -> Iterator[Finding]:
    from redis.exceptions import RedisError

    from core.errors import Unavailable

    try:
        if (client := host.system.redis(host.config)) is None:
            return
        try:
            seconds, micros = client.time()
        finally:
            client.close()
    except (RedisError, OSError, Unavailable):
        return  # the check of Redis says so
    apart = host.system.now() - seconds - micros / 1e6
    if abs(apart) > REDIS_SKEW:
        cure = f"on both hosts: {_CURE}"
        yield Finding("clock", "fail", f"the clock is {_apart(apart)} that of the Redis server", cure)


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
