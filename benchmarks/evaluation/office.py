"""A made office of some hundred clients with mail servers, log servers and every trap service, one day at a time.

Rules:
1. Names are real ones of the data folder, or real ones with their variable characters drawn anew (ESET keeps its first
   2 and last 11), or of the documented shape where no name is at hand. Behaviour and volumes are assumptions.
2. The mean a client and day is in SERVICES; each client has its own (lognormal, sigma 0.8), each day is Poisson.
3. Only misses are made: what a cache would have answered is left out. Repeated names count as misses all the same.
4. A day is planned as three arrays of numbers and its names are made one by one, so that memory does not grow.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from benchmarks.evaluation import office_names as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from core.names import Name

DAY: Final = 86_400.0  # seconds
LEARNING_DAYS: Final = 7
ROLLED_OUT: Final = LEARNING_DAYS  # the day on which a fifth of the office gets a new virus scanner
BROWSING: Final = "browsing"
ROLL_OUT: Final = "roll-out"

_SIGMA: Final = 0.8
_OPENS, _CLOSES = 8 * 3600, 18 * 3600
_OK, _NONE, _LOOPBACK, _LISTED = "ok", "none", "loopback", "listed"
_ADDRESS: Final = bytes((198, 51, 100, 7))
_A, _PTR, _MX, _TXT, _AAAA = 1, 12, 15, 16, 28


class Event(NamedTuple):
    """A miss and its reply."""

    at: float  # seconds since the office opened for the first time
    client: bytes
    service: str
    qname: Name
    domain: Name
    qtype: int
    rcode: int
    addresses: tuple[bytes, ...]


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks it, how often, what, and what comes back."""

    name: str
    share: float = 0.0  # of the office's clients
    servers: tuple[str, ...] = ()  # or these
    mean: float  # questions a client and day
    make: names.Maker
    qtypes: tuple[int, ...] = (_A,)
    reply: str = _OK
    since: int = 0  # day


class Office:
    """The clients and services of one office; `seed` gives the same days again."""

    def __init__(self, data: Path, *, clients: int, seed: int = 1) -> None:
        self._rng = random.Random(seed)
        self.clients = clients
        self.services = _services(data, self._rng)
        self._rates = [
            [
                (client, service.mean * self._rng.lognormvariate(-_SIGMA * _SIGMA / 2, _SIGMA))
                for client in self._askers(service)
            ]
            for service in self.services
        ]

    @property
    def allow_list(self) -> frozenset[str]:
        """What an operator would put on the allow-list: the security, mail and platform services in use here."""
        return _ALLOWED

    def day(self, number: int) -> Iterator[Event]:
        """Yield the events of a day in order of time."""
        import numpy as np

        draw = np.random.default_rng(self._rng.randrange(1 << 62))
        times, services, clients = [], [], []
        for which, (service, rates) in enumerate(zip(self.services, self._rates, strict=True)):
            if number < service.since or not rates:
                continue
            counts = draw.poisson([rate for _, rate in rates])
            total = int(counts.sum())
            at = draw.uniform(0, DAY, total) if service.servers else draw.uniform(_OPENS, _CLOSES, total)
            times.append(at)
            services.append(np.full(total, which, dtype=np.int16))
            clients.append(np.repeat(np.array([client for client, _ in rates], dtype=np.int32), counts))
        when, what, who = np.concatenate(times), np.concatenate(services), np.concatenate(clients)
        for place in np.argsort(when, kind="stable"):
            yield self._event(number * DAY + float(when[place]), int(what[place]), int(who[place]))

    def _event(self, at: float, which: int, who: int) -> Event:
        service, rng = self.services[which], self._rng
        qname, domain = service.make(rng)
        qtype = service.qtypes[0] if len(service.qtypes) == 1 else rng.choice(service.qtypes)
        rcode, addresses = _reply(service.reply, qtype, rng)
        return Event(at, _address(who), service.name, qname, domain, qtype, rcode, addresses)

    def _askers(self, service: Service) -> list[int]:
        if service.servers:
            return [-1 - _SERVERS.index(server) for server in service.servers]
        size = max(round(service.share * self.clients), 1)
        return self._rng.sample(range(self.clients), min(size, self.clients))


_SERVERS: Final = ("mail1", "mail2", "log1", "log2", "log3", "log4", "siem", "node")


def _address(who: int) -> bytes:
    """Return 10.1.x.y of a client, 10.0.0.x of a server, which has a negative number."""
    return bytes((10, 0, 0, -who)) if who < 0 else bytes((10, 1, who >> 8, who & 0xFF))


def _reply(kind: str, qtype: int, rng: random.Random) -> tuple[int, tuple[bytes, ...]]:
    if kind == _NONE or (kind == _LISTED and rng.random() < 0.85):
        return 3, ()
    if qtype != _A:
        return 0, ()
    return 0, (_ADDRESS,) if kind == _OK else (bytes((127, 0, 0, rng.randrange(2, 12))),)


def _services(data: Path, rng: random.Random) -> tuple[Service, ...]:
    pools, people = names.trap_pools(data), names.well_known(data)
    return (
        Service(name=BROWSING, share=1.0, mean=80, make=names.browsing(data, people, rng), qtypes=(_A, _A, _AAAA, 65)),
        *_of_clients(pools, people),
        *_of_servers(people),
        *_real(pools),
    )


def _of_clients(pools: names.Pools, people: Sequence[Name]) -> tuple[Service, ...]:
    eset = names.redrawn(pools["eset_livegrid"], alphabet=names.BASE32, keep=(2, 11), least=20)
    mcafee = names.redrawn(pools["mcafee_gti"], alphabet=names.LDH, keep=(0, 0), least=20)
    below = names.shaped
    return (
        Service(name="ESET", share=1.0, mean=30, make=eset, qtypes=(_A, _TXT), reply=_LOOPBACK),
        Service(name="McAfee GTI", share=0.4, mean=20, make=mcafee, reply=_LOOPBACK),
        Service(name="safeframe", share=0.8, mean=25, make=names.hashed(32, "safeframe.googlesyndication.com")),
        Service(name="youtube", share=0.6, mean=30, make=names.youtube(pools["youtube_r_sn"])),
        Service(name="office measure", share=0.9, mean=6, make=names.hashed(32, "fp.measure.office.com")),
        Service(name="gstatic metric", share=0.8, mean=4, make=below("metric.gstatic.com", names.metric)),
        Service(name="uuid hosts", share=0.2, mean=10, make=below("uuid-hosts.net", names.unique_host)),
        Service(name="dropbox", share=0.12, mean=10, make=below("dl.dropboxusercontent.com", names.dropbox)),
        Service(name="Sophos SXL", share=0.2, mean=10, make=names.hashed(32, "w.08.sophosxl.net"), qtypes=(_TXT,)),
        Service(name="IPFS", share=0.02, mean=15, make=below("ipfs.dweb.link", names.content)),
        Service(name="trust anchor", share=0.02, mean=1, make=names.fixed("_ta-4f66"), qtypes=(10,)),
        Service(name="openpgpkey", share=0.01, mean=2, make=names.openpgp(people), qtypes=(61,), reply=_NONE),
        Service(name="onion", share=0.02, mean=3, make=below("onion", names.onion), reply=_NONE),
        Service(name="wpad", share=0.5, mean=4, make=names.fixed("wpad.corp-office.com"), reply=_NONE),
        Service(name="intranet probes", share=0.6, mean=3, make=names.probe, reply=_NONE),
        Service(name=ROLL_OUT, share=0.2, mean=10, make=below("avast.com", names.avast), since=ROLLED_OUT),
    )


def _of_servers(people: Sequence[Name]) -> tuple[Service, ...]:
    def mail(name: str, mean: float, make: names.Maker, *, reply: str = _LISTED) -> Service:
        return Service(name=name, servers=("mail1", "mail2"), mean=mean, make=make, reply=reply)

    logs = ("log1", "log2", "log3", "log4")
    records, files = names.shaped("all.mainnet.ethdisco.net", names.node_record), names.hashed(32, "hash.cymru.com")
    reverse, reverse6 = names.shaped("in-addr.arpa", names.address), names.shaped("ip6.arpa", names.address6)
    senders = Service(
        name="mail look-ups", servers=("mail1", "mail2"), mean=400, make=names.mail(people), qtypes=(_TXT, _MX)
    )
    return (
        mail("Spamhaus", 3000, names.shaped("zen.spamhaus.org", names.address)),
        mail("DNSBL of IPv6", 150, names.shaped("zen.spamhaus.org", names.address6)),
        mail("SORBS", 1000, names.shaped("dnsbl.sorbs.net", names.address)),
        mail("PSBL", 1000, names.shaped("psbl.surriel.com", names.address)),
        mail("URIBL", 800, names.shaped("multi.surbl.org", names.listed(people))),
        mail("HashBL", 300, names.hashed(40, "ebl.msbl.org")),
        mail("mailshell", 100, names.hashed(32, "sn.mailshell.net"), reply=_LOOPBACK),
        mail("SPF macros", 100, names.shaped("_spf.espf.agari.com", names.macro(people)), reply=_LOOPBACK),
        senders,
        Service(name="PTR", servers=logs, mean=1500, make=reverse, qtypes=(_PTR,)),
        Service(name="PTR of IPv6", servers=logs, mean=100, make=reverse6, qtypes=(_PTR,), reply=_NONE),
        Service(name="cymru", servers=("siem",), mean=300, make=files, reply=_LISTED),
        Service(name="node records", servers=("node",), mean=250, make=records, qtypes=(_TXT,)),
    )


def _real(pools: names.Pools) -> Iterator[Service]:
    """Yield a service for each other one of the catalogue, by its real names."""
    for name, pool in pools.items():
        if name not in _MADE and not name.startswith(_SERVERS_OWN):
            yield Service(name=name, share=0.3, mean=3, make=names.pool(pool))


# Asked by the servers above; and a pool in which the ISP's list has tunnels.
_SERVERS_OWN: Final = ("ptr_", "dnsbl", "uribl", "dkim", "dmarc", "uuid_server", "tor2web")
_MADE: Final = frozenset({"eset_livegrid", "mcafee_gti", "safeframe", "youtube_r_sn", "office_fp_measure"})
_ALLOWED: Final = frozenset(
    {
        "e5.sk", "mcafee.com", "googlesyndication.com", "googlevideo.com", "office.com", "gstatic.com",
        "dropboxusercontent.com", "sophosxl.net", "dweb.link", "ethdisco.net", "cymru.com", "spamhaus.org", "sorbs.net",
        "surriel.com", "surbl.org", "msbl.org", "mailshell.net", "salesforce.com", "agari.com", "avast.com",
    }
)  # fmt: skip
