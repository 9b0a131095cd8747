"""The table, sets, chains and rules that hold pinned clients to the addresses they were answered.

Rules:
1. All is in table `inet plughole_pins`, a table of its own beside `inet plughole`: it is made anew whenever the pins
   of the configuration change, and neither a fault in it nor its removal touches a block.
2. Its chain comes behind the blocks (-10), which cut running flows, and ahead of the usual filters (0), which have
   their say on what passes here.
3. Nothing is refused unless set `alive` names the packet's family. Its elements run out: when nobody tells the
   kernel of answers any more, clients are free.
4. Sets that are told of answers are hash sets: one element more in an `interval` set costs milliseconds, then seconds.
   Networks stand in the rules themselves, where nobody can empty them by mistake.
5. The first pin that names a client is its pin.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from egress.nftables_rules import LOG_PREFIX_PIN, PRIORITY, REJECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.config import Pin

TABLE: Final = "plughole_pins"
PIN_PRIORITY: Final = PRIORITY + 1
CAPACITY: Final = 131_072  # elements of each set
ALIVE: Final = "alive"  # the set of the families, NFPROTO_*, for which pins are in force
PAIRS: Final = {4: "allow4", 16: "allow6"}  # client . address; by the octets of both

_TYPES: Final = {4: "ipv4_addr", 16: "ipv6_addr"}
_WORDS: Final = {4: "ip", 16: "ip6"}
_FEW: Final = 16  # elements of `alive` at most


class Rule(NamedTuple):
    chain: str
    text: str


def shared(pin: str, octets: int) -> str:
    """Return the set of addresses a pin's clients were answered over the other family, open to all clients of the pin.

    Which address of the one family belongs to a client of the other is not known here.
    """
    return f"others{4 if octets == 4 else 6}_{pin}"


def ruleset(pins: Sequence[Pin], *, log_group: int, enforce: bool, capacity: int = CAPACITY) -> str:
    """Return what `nft -f` reads to make the table anew, in one transaction; its sets are empty then.

    Without `enforce` every pin records, whatever its own mode.
    """
    head = f"inet {TABLE}"
    made = rules(pins, log_group=log_group, enforce=enforce)
    lines = [f"add table {head}", f"delete table {head}", f"add table {head}"]
    lines.append(f"add set {head} {ALIVE} {{ type nf_proto; flags timeout; size {_FEW}; }}")
    for name, kind in _sets(pins):
        lines.append(f"add set {head} {name} {{ type {kind}; flags timeout; size {capacity}; }}")
    lines.append(f"add chain {head} forward {{ type filter hook forward priority {PIN_PRIORITY}; policy accept; }}")
    lines += [f"add chain {head} {_chain(pin.name)}" for pin in pins]
    lines += [f"add rule {head} {rule.chain} {rule.text}" for rule in made]
    return "\n".join(lines) + "\n"


def rules(pins: Sequence[Pin], *, log_group: int, enforce: bool) -> list[Rule]:
    """Return the rules in their order."""
    found = [
        Rule("forward", f"meta nfproto != @{ALIVE} accept"),
        Rule("forward", "ct state established,related accept"),  # a flow goes on although its address has run out
    ]
    for pin in pins:
        found += [
            Rule("forward", f"{_WORDS[octets]} saddr {{ {networks} }} goto {_chain(pin.name)}")
            for octets, networks in _networks(pin.clients)
        ]
    for pin in pins:
        found += _rules_of(pin, log_group=log_group, enforce=enforce and pin.mode == "enforce")
    return found


def _rules_of(pin: Pin, *, log_group: int, enforce: bool) -> list[Rule]:
    chain = _chain(pin.name)
    found = [f"{_WORDS[octets]} daddr {{ {networks} }} accept" for octets, networks in _networks(pin.exempt)]
    for octets, word in _WORDS.items():
        found.append(f"{word} saddr . {word} daddr @{PAIRS[octets]} accept")
        found.append(f"{word} daddr @{shared(pin.name, octets)} accept")
    if enforce:
        found.append("ct state invalid counter drop")  # a reset would end a running flow for a packet that came late
    found.append(f'limit rate 50/second burst 20 packets log prefix "{LOG_PREFIX_PIN}" group {log_group}')
    found.append("counter")
    if enforce:
        found += REJECT
    return [Rule(chain, text) for text in found]


def _sets(pins: Iterable[Pin]) -> list[tuple[str, str]]:
    found = [(name, f"{_TYPES[octets]} . {_TYPES[octets]}") for octets, name in PAIRS.items()]
    return found + [(shared(pin.name, octets), kind) for pin in pins for octets, kind in _TYPES.items()]


def set_sizes(pins: Iterable[Pin]) -> dict[str, int]:
    """Return the sets that are told of answers, and the octets of a key of each."""
    found = {name: 2 * octets for octets, name in PAIRS.items()}
    return found | {shared(pin.name, octets): octets for pin in pins for octets in _TYPES}


def _networks(texts: Iterable[str]) -> list[tuple[int, str]]:
    """Return the networks of each family that has any, as nft writes a set; it refuses those that overlap."""
    networks = [ip_network(text, strict=False) for text in texts]
    four = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    six = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    written = ((4, ", ".join(map(str, four))), (16, ", ".join(map(str, six))))
    return [(octets, text) for octets, text in written if text]


def _chain(pin: str) -> str:
    return f"pin_{pin}"
