"""Names answered here and never asked outside: hosts, `[[local.record]]`, and special-use names (RFC 6761).

Rules:
1. A record of ours wins over everything; a record of `[[local.record]]` over the hosts file for the same name and type.
2. The longest rule wins. What lies in an `[[upstream.zone]]` has no rule.
3. A name above a record or a zone exists: it gets NODATA where its neighbours get NXDOMAIN (RFC 8020).
4. DS at the top of a rule's zone is the parent's to answer and goes upstream (RFC 8375 section 4).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from core import rr
from core.config import MAX_TTL
from core.config_local import record_data
from core.names import ROOT, Name, from_text, is_under, suffixes
from resolver import special_use
from resolver.hosts import Host, parse_hosts, read_hosts
from resolver.sinkhole import Replacement
from resolver.special_use import SINGLE_LABEL_TYPES, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from core import config

HOSTS_TTL: Final = 300  # seconds, for names of the hosts file and for what local names do not have
SPECIAL_TTL: Final = 3_600  # seconds, for special-use names, which do not change
MAX_MADE: Final = 16_384  # answers remembered

_QUESTION: Final = b"\xc0\x0c"  # a pointer to the question's name, RFC 1035 section 4.1.4
_FIXED: Final = Struct("!HHIH")  # type, class, TTL, RDLENGTH
_COUNTS: Final = Struct("!HHH")  # answer, authority, additional
_TIMERS: Final = Struct("!IIIII")  # serial, refresh, retry, expire, minimum
_SOA_NAMES: Final = from_text("localhost") + from_text("nobody.invalid")
_RETRY: Final = 3_600  # seconds, SOA timers that no resolver uses
_TOP_TYPES: Final = frozenset({rr.SOA, rr.NS, rr.DS})  # answered by the rule even where its zone has data
_LOOPBACK: Final = {rr.A: IPv4Address("127.0.0.1").packed, rr.AAAA: IPv6Address("::1").packed}


class _Set(NamedTuple):
    """An RRset: seconds and the data of each record."""

    ttl: int
    data: tuple[bytes, ...]


class _Rule(NamedTuple):
    kind: Kind
    name: Name
    absent: Replacement
    nodata: Replacement


class LocalZones:
    """Answers what lies here; `tops` holds the last labels under which something does."""

    def __init__(
        self, settings: config.Local, *, base: Path, zones: Iterable[Name], hosts: bytes | None = None
    ) -> None:
        """Take the hosts file as `hosts`, else read it; raises BadConfig with FILE:LINE for what is wrong in it."""
        zones = frozenset(zones)
        self._sets: dict[Name, dict[int, _Set]] = {}
        self._made: dict[tuple[Name, int], Replacement] = {}
        self._add_records(settings)
        if settings.hosts:
            path = base / settings.hosts
            self._add_hosts(parse_hosts(read_hosts(path) if hosts is None else hosts, str(path)))
        self._add_special(settings, zones)
        wanted = {
            name: kind for name, kind in special_use.rules(settings).items() if zones.isdisjoint(suffixes(name))
        } | dict.fromkeys(zones, Kind.PASS)
        self._rules = {name: _rule(kind, name) for name, kind in wanted.items()}
        self._above = frozenset(above for name in (*self._sets, *zones) for above in suffixes(name)[1:])
        self._single = _rule(Kind.ABSENT, ROOT) if settings.special_use else None
        answered = (name for name, kind in wanted.items() if kind is not Kind.PASS)
        self.tops: frozenset[Name] = frozenset(suffixes(name)[-1] for name in (*self._sets, *answered))

    def find(self, keys: list[Name], qtype: int) -> Replacement | None:
        """Return the answer for the name whose `core.names.suffixes` are `keys`, or None when it is asked outside.

        Worth a call when `keys[-1]` is in `tops`, or when there is one key only: any single label may be answered.
        """
        if not keys:
            return None
        name = keys[0]
        if name in self._sets and not (qtype in _TOP_TYPES and name in self._rules):
            return self._answer(name, qtype)
        for key in keys:
            rule = self._rules.get(key)
            if rule is not None:
                return self._apply(rule, name, qtype)
        if len(keys) == 1 and self._single is not None and qtype in SINGLE_LABEL_TYPES:
            return self._single.nodata  # not NXDOMAIN: it may be a TLD, and RFC 8020 would take all below it away
        return None

    def _apply(self, rule: _Rule, name: Name, qtype: int) -> Replacement | None:
        if rule.kind is Kind.PASS or (qtype == rr.DS and name == rule.name):
            return None
        if rule.kind is Kind.LOOPBACK:
            data = _LOOPBACK.get(qtype)
            return rule.nodata if data is None else _positive(qtype, _Set(SPECIAL_TTL, (data,)))
        if name == rule.name and (rule.kind is Kind.ZONE or name in self._sets):
            return (_apex(name, qtype) if rule.kind is Kind.ZONE else None) or rule.nodata
        return rule.nodata if name in self._above else rule.absent

    def _answer(self, name: Name, qtype: int) -> Replacement:
        found = self._made.get((name, qtype))
        if found is None:
            if len(self._made) >= MAX_MADE:
                self._made.clear()
            found = self._made[name, qtype] = self._make(name, qtype)
        return found

    def _make(self, name: Name, qtype: int) -> Replacement:
        body, count, ttl, owner = b"", 0, MAX_TTL, _QUESTION
        seen: set[Name] = set()
        sets = self._sets[name]
        while (alias := sets.get(rr.CNAME)) and qtype not in (rr.CNAME, rr.ANY) and name not in seen:
            seen.add(name)
            body, count, ttl = body + _records(owner, rr.CNAME, alias), count + 1, min(ttl, alias.ttl)
            name = owner = alias.data[0]
            sets = self._sets.get(name, {})
        # RFC 8482 section 4.1: ANY may be answered with one of the RRsets
        kind = next(iter(sets), qtype) if qtype == rr.ANY else qtype
        found = sets.get(kind)
        if found is None:
            soa = _soa(owner, HOSTS_TTL)
            return Replacement(rr.Rcode.NOERROR, _COUNTS.pack(count, 1, 0), body + soa, min(ttl, HOSTS_TTL))
        last = _positive(kind, found, owner)
        counts = _COUNTS.pack(count + len(found.data), 0, 0)
        return Replacement(last.rcode, counts, body + last.body, min(ttl, found.ttl), last.addresses)

    def _add(self, name: Name, kind: int, data: bytes, ttl: int) -> None:
        sets = self._sets.setdefault(name, {})
        found = sets.get(kind)
        if found is None:
            sets[kind] = _Set(ttl, (data,))
        elif data not in found.data:
            sets[kind] = _Set(min(ttl, found.ttl), (*found.data, data))  # RFC 2181 section 5.2: one TTL

    def _add_records(self, settings: config.Local) -> None:
        reverse: dict[Name, tuple[Name, int]] = {}
        for record in settings.record:
            name, data = from_text(record.name), record_data(record)
            self._add(name, rr.NUMBERS[record.type], data, record.ttl)
            if record.type in ("A", "AAAA"):
                reverse.setdefault(from_text(ip_address(data).reverse_pointer), (name, record.ttl))
        for pointer, (name, ttl) in reverse.items():
            if pointer not in self._sets:
                self._add(pointer, rr.PTR, name, ttl)

    def _add_hosts(self, hosts: list[Host]) -> None:
        taken = {(name, kind) for name, sets in self._sets.items() for kind in sets}
        for host in hosts:
            kind = rr.A if host.address.version == 4 else rr.AAAA
            for name in host.names:
                if (name, kind) not in taken and (name, rr.CNAME) not in taken:
                    self._add(name, kind, host.address.packed, HOSTS_TTL)
            pointer = from_text(host.address.reverse_pointer)
            if pointer not in self._sets:
                self._add(pointer, rr.PTR, host.names[0], HOSTS_TTL)

    def _add_special(self, settings: config.Local, zones: frozenset[Name]) -> None:
        ours = frozenset(self._sets)
        for name, kind, data in special_use.data(settings):
            if name not in ours and not any(is_under(name, zone) for zone in zones):
                self._add(name, kind, data, SPECIAL_TTL)


def _rule(kind: Kind, name: Name) -> _Rule:
    counts, soa = _COUNTS.pack(0, 1, 0), _soa(name, SPECIAL_TTL)
    absent, nodata = (Replacement(rcode, counts, soa, SPECIAL_TTL) for rcode in (rr.Rcode.NXDOMAIN, rr.Rcode.NOERROR))
    return _Rule(kind, name, absent, nodata)


def _apex(name: Name, qtype: int) -> Replacement | None:
    """Return the SOA or NS at the top of an empty zone, whose server is the zone itself (RFC 6303 section 3)."""
    if qtype == rr.SOA:
        return Replacement(rr.Rcode.NOERROR, _COUNTS.pack(1, 0, 0), _soa(name, SPECIAL_TTL), SPECIAL_TTL)
    return _positive(rr.NS, _Set(SPECIAL_TTL, (name,))) if qtype == rr.NS else None


def _positive(kind: int, found: _Set, owner: bytes = _QUESTION) -> Replacement:
    addresses = found.data if kind in (rr.A, rr.AAAA) else ()
    counts = _COUNTS.pack(len(found.data), 0, 0)
    return Replacement(rr.Rcode.NOERROR, counts, _records(owner, kind, found), found.ttl, addresses)


def _records(owner: bytes, kind: int, found: _Set) -> bytes:
    fixed = [_FIXED.pack(kind, rr.CLASS_IN, found.ttl, len(data)) for data in found.data]
    return b"".join(owner + head + data for head, data in zip(fixed, found.data, strict=True))


def _soa(owner: bytes, ttl: int) -> bytes:
    """Return the SOA that says for how long a "no" holds (RFC 2308 section 3)."""
    data = _SOA_NAMES + _TIMERS.pack(1, _RETRY, _RETRY, _RETRY, ttl)
    return owner + _FIXED.pack(rr.SOA, rr.CLASS_IN, ttl, len(data)) + data
