"""A simulated office whose computers do what is regular by nature: time, mail, telemetry, health checks, updates.

Rules:
1. A service has clients (all of them, a share, or one), a period with jitter, hours, a TTL, and a client that keeps
   what it is told until the TTL ends, or does not.
2. Some services served for tuning, among them every law of people's gaps that an earlier detector got wrong; the
   others are held out, and so are the infected computers.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
import numpy as np

from core.names import from_text, to_text
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy import float64
    from numpy.typing import NDArray

    from core.names import Name

Owners: TypeAlias = dict[tuple[str, str], "Service"]

DAY: Final = 86_400
_AT_WORK: Final = (8 * 3_600, 18 * 3_600)  # seconds of the day
_FIRST_CLIENT: Final = 0x0A010001  # 10.1.0.1


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that many computers, or one, do again and again."""

    name: str
    period: float  # seconds; of people: the mean
    jitter: float = 0.02  # of the period, uniform
    share: float = 1.0  # of the clients that use it; 0: `alone` clients, each with domains of its own
    alone: int = 0
    domains: int = 1  # of the service, or of each lone client
    ttl: int = 300
    keeps: bool = True  # asks again only when the TTL has ended
    people: bool = False  # no period, and within working hours
    spread: float = 0.0  # of people: standard deviation of the logarithm of their gaps; 0: exponential gaps
    at_work: bool = False  # the computer is off at night
    rotating: bool = False  # the answer changes all the time
    tail: float = 0.0  # of people: exponent of a Lomax law of their gaps, the period being its scale
    shape: float = 0.0  # of people: shape of a gamma law of their gaps, the period being the mean
    pinned: int = 0  # seconds a browser keeps an answer whatever its TTL
    begins: float = 0.0  # days after the start
    held_out: bool = False
    infected: bool = False


def services() -> tuple[Service, ...]:
    """Return the services of an ordinary office."""
    return (
        Service(name="time pool", period=1_024, ttl=130, rotating=True),
        Service(name="telemetry", period=900, jitter=0.1, share=0.8, at_work=True),
        Service(name="health check of a farm", period=30, share=0.06, ttl=60),
        Service(name="asking again at the end of the TTL", period=20, share=0, alone=5, ttl=300),
        Service(name="browsing, popular sites", period=3_000, share=0.5, domains=20, people=True),
        Service(name="browsing, sites of one person", period=7_000, share=0, alone=60, domains=10, people=True),
        Service(name="new sites of one person", period=5_000, share=0, alone=40, domains=6, people=True, begins=8),
        Service(name="sites of one person, in sessions", period=1_500, spread=1.6, share=0, alone=50, domains=10,
                people=True),
        Service(name="new sites, in sessions", period=1_500, spread=1.6, share=0, alone=40, domains=6, people=True,
                begins=8),
        Service(name="sites of one person, browser's cache", period=300, tail=1.3, share=0, alone=50, domains=10,
                ttl=20, pinned=60, people=True),
        Service(name="new tool of a team", period=600, share=0.04, begins=8.5, at_work=True),
        Service(name="mail, polled by one", period=600, share=0, alone=2, ttl=600, at_work=True),
        Service(name="monitor of customers' sites", period=60, share=0, alone=1, domains=30, ttl=300),
        Service(name="monitor without a cache", period=120, share=0, alone=1, domains=12, keeps=False),
        Service(name="mail, polled", period=300, share=0.3, ttl=3_600, at_work=True, held_out=True),
        Service(name="update check", period=14_400, jitter=0.25, share=0.7, domains=2, keeps=False, held_out=True),
        Service(name="captive portal test", period=300, share=0.6, ttl=60, at_work=True, held_out=True),
        Service(name="virus signatures", period=3_600, share=0.9, ttl=60, keeps=False, held_out=True),
        Service(name="chat, kept alive", period=45, share=0.5, ttl=60, people=True, held_out=True),
        Service(name="thing with a cloud of its own", period=180, share=0, alone=2, ttl=60, keeps=False, held_out=True),
        Service(name="feed reader of one person", period=1_800, share=0, alone=1, domains=5, ttl=3_600, held_out=True),
        Service(name="backup every night", period=DAY, share=0, alone=3, keeps=False, held_out=True),
        Service(name="weather of a few desks", period=900, share=0.03, ttl=60, at_work=True, held_out=True),
        Service(name="sites of one person, many short gaps", period=2_500, shape=0.5, share=0, alone=50, domains=10,
                ttl=120, people=True, held_out=True),
        Service(name="popular sites, heavy tail", period=400, tail=1.3, share=0.3, domains=20, people=True,
                held_out=True),
        Service(name="new sites, narrow gaps", period=4_000, spread=0.9, share=0, alone=40, domains=6, ttl=1_800,
                people=True, begins=8, held_out=True),
        Service(name="new thing with a cloud of its own", period=600, share=0, alone=1, ttl=60, begins=8.5,
                held_out=True),
        Service(name="beacon, 60 s", period=60, jitter=0.2, share=0, alone=4, ttl=30, begins=9, infected=True,
                held_out=True),
        Service(name="beacon, 15 min at work", period=900, jitter=0.3, share=0, alone=4, ttl=300, at_work=True,
                begins=8, infected=True, held_out=True),
        Service(name="beacon, 1 h", period=3_600, jitter=0.1, share=0, alone=4, ttl=300, begins=8, infected=True,
                held_out=True),
    )  # fmt: skip


def office(
    kinds: Sequence[Service], *, days: float, clients: int, seed: int, start: float
) -> tuple[Iterator[Sight], Owners]:
    """Return what the office asks in order of time, and whose pair is which service's.

    What begins after the end of the simulation is left out.
    """
    rng = np.random.default_rng(seed)
    owners: Owners = {}
    users: list[tuple[bytes, Name, Service]] = []
    times: list[NDArray[float64]] = []
    for number, service in enumerate(kinds):
        if service.begins >= days:
            continue
        for client, domain in _pairs(service, number, clients, rng):
            owners[str(ip_address(client)), to_text(domain)] = service
            users.append((client, domain, service))
            times.append(start + _times(service, days, rng))
    return _in_order(users, times), owners


def _in_order(users: Sequence[tuple[bytes, Name, Service]], times: Sequence[NDArray[float64]]) -> Iterator[Sight]:
    """Yield the sights of all users by time, made one by one: there are millions."""
    whose = np.repeat(np.arange(len(users)), [len(one) for one in times])
    when = np.concatenate(times)
    for order in np.argsort(when, kind="stable"):
        client, domain, service = users[whose[order]]
        yield _sight(float(when[order]), client, domain, service, int(order))


def _pairs(service: Service, number: int, clients: int, rng: np.random.Generator) -> list[tuple[bytes, Name]]:
    addresses = [(_FIRST_CLIENT + at).to_bytes(4, "big") for at in range(clients)]
    if service.share:
        users = rng.choice(clients, max(round(service.share * clients), 1), replace=False)
        return [
            (addresses[user], from_text(f"service{number}-{which}.com"))
            for user in users
            for which in range(service.domains)
        ]
    users = rng.choice(clients, min(service.alone, clients), replace=False)  # fewer in a small office
    return [
        (addresses[user], from_text(f"own{number}-{user}-{which}.net"))
        for user in users
        for which in range(service.domains)
    ]


def _times(service: Service, days: float, rng: np.random.Generator) -> NDArray[float64]:
    begin, end = service.begins * DAY + rng.uniform(0, min(service.period, DAY / 2)), days * DAY
    number = int((end - begin) / service.period * 1.2) + 2
    if service.spread:
        gaps = rng.lognormal(np.log(service.period) - service.spread**2 / 2, service.spread, number)
    elif service.shape:
        gaps = rng.gamma(service.shape, service.period / service.shape, number)
    elif service.tail:
        gaps = service.period * rng.pareto(service.tail, number)
    elif service.people:
        gaps = rng.exponential(service.period, number)
    else:
        gaps = service.period * (1 + rng.uniform(-service.jitter, service.jitter, number))
    times = begin + np.cumsum(gaps)
    times = times[times < end]
    if service.people or service.at_work:
        hour = times % DAY
        times = times[(hour >= _AT_WORK[0]) & (hour < _AT_WORK[1])]
    return kept(times, max(service.ttl, service.pinned)) if service.keeps else times


def kept(times: NDArray[float64], ttl: float) -> NDArray[float64]:
    """Return the times at which a client that keeps answers for their TTL has to ask."""
    asked: list[float] = []
    for at in times:
        if not asked or at >= asked[-1] + ttl:
            asked.append(float(at))
    return np.asarray(asked)


def _sight(at: float, client: bytes, domain: Name, service: Service, order: int) -> Sight:
    address = bytes((203, 0, 113, order * 37 % 251 if service.rotating else 9))
    return Sight(
        at=at,
        client=client,
        qname=domain,
        qtype=1,
        domain=domain_of(domain),
        rcode=0,
        ttl=service.ttl,
        addresses=(address,),
    )
