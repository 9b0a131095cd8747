"""What `[[local.record]]` must hold: data that fits its type, and CNAMEs that stand alone and end at another record."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from core.config_read import shown
from core.names import from_text

if TYPE_CHECKING:
    from core import config
    from core.config_read import Mistakes
    from core.names import Name

MAX_RRSET: Final = 16_384  # octets of data under one name and type, so that any answer fits a message

_EXAMPLES: Final = {
    "A": "192.0.2.53",
    "AAAA": "2001:db8::53",
    "CNAME": "printer.corp.example",
    "PTR": "printer.corp.example",
    "TXT": '\\"some text\\"',
    "MX": "10 mail.corp.example",
    "SRV": "0 5 5060 sip.corp.example",
}


def record_data(record: config.Record) -> bytes:
    """Return the record's data as it stands on the wire, uncompressed; raises ValueError with the reason."""
    text = record.data.strip()
    if record.type == "A":
        return IPv4Address(text).packed
    if record.type == "AAAA":
        return IPv6Address(text).packed
    if record.type in ("CNAME", "PTR"):
        return from_text(text)
    import dns.exception
    import dns.name
    import dns.rdata

    try:
        read = dns.rdata.from_text("IN", record.type, text, origin=dns.name.root, relativize=False)
        return read.to_wire() or b""
    except (dns.exception.DNSException, ValueError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def check_local(found: config.Local, mistakes: Mistakes) -> None:
    """Add one line for each record that cannot be served; a record inside an `[[upstream.zone]]` is fine and wins."""
    types: dict[Name, set[str]] = {}
    targets: dict[Name, Name] = {}
    sizes: dict[tuple[Name, str], int] = {}
    aliases: list[tuple[str, config.Record]] = []
    for at, record in enumerate(found.record):
        path = f"local.record[{at}]"
        if mistakes.has(path):
            continue
        try:
            data = record_data(record)
        except ValueError as error:
            example = f'"{_EXAMPLES[record.type]}"'
            mistakes.add(f"{path}.data", f"{shown(record.data)} is no {record.type} data ({error}); write {example}")
            continue
        name = from_text(record.name)
        sizes[name, record.type] = size = sizes.get((name, record.type), 0) + len(data) + 12
        if size > MAX_RRSET:
            mistakes.add(path, f"makes more than {MAX_RRSET} octets of {record.type} for one name; remove some")
        if record.type == "CNAME" and name in targets:
            mistakes.add(path, f"{shown(record.name)} has a CNAME already; remove one")
            continue
        types.setdefault(name, set()).add(record.type)
        if record.type == "CNAME":
            targets[name] = data
            aliases.append((path, record))
    told = mistakes.has("local.record")
    for path, record in aliases:
        problem = _alias_problem(record, types, targets, told=told)
        if problem:
            mistakes.add(path, problem)


def _alias_problem(record: config.Record, types: dict[Name, set[str]], targets: dict[Name, Name], *, told: bool) -> str:
    name = from_text(record.name)
    if types[name] != {"CNAME"}:
        return (
            f"{shown(record.name)} has other records beside its CNAME (RFC 1034 section 3.6.2); remove one of the two"
        )
    if targets[name] not in types:  # when mistakes are told already, it may be the record that was refused
        return "" if told else f"data {shown(record.data)} is not the name of a local record; add one for it"
    if _loops(name, targets):
        return f"data {shown(record.data)} leads into a loop of CNAMEs; point it to an address"
    return ""


def _loops(name: Name, targets: dict[Name, Name]) -> bool:
    at, seen = targets[name], {name}
    while at in targets and at not in seen:
        seen.add(at)
        at = targets[at]
    return at in seen
