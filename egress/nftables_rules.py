"""The table, sets, chains and rules of ours in nftables, and how they get into the kernel: through `nft`."""

from __future__ import annotations

import shutil
import subprocess
from typing import Final, Literal

from egress.enforcer import Refused

TABLE: Final = "plughole"
PRIORITY: Final = -10  # ahead of filter (0), behind mangle (-150) and destination NAT (-100)
CAPACITY: Final = 131_072  # elements of each set
LOG_GROUP: Final = 5  # of NFLOG
LOG_PREFIX: Final = "plughole "
LOG_PREFIX_PIN: Final = "plughole-pin "  # of what pinned clients tried: egress/pins/rules.py
PROBE: Final = "probe"  # a set no rule looks at: there the kernel shows how it renews an element

SETS: Final = {
    "block4": "ipv4_addr",
    "block6": "ipv6_addr",
    "pair4": "ipv4_addr . ipv4_addr",  # client . address
    "pair6": "ipv6_addr . ipv6_addr",
}
_LOOKUPS: Final = (
    "ip daddr @block4",
    "ip saddr @block4",
    "ip6 daddr @block6",
    "ip6 saddr @block6",
    "ip saddr . ip daddr @pair4",
    "ip daddr . ip saddr @pair4",
    "ip6 saddr . ip6 daddr @pair6",
    "ip6 daddr . ip6 saddr @pair6",
)
REJECT: Final = ("meta l4proto tcp reject with tcp reset", "reject with icmpx type admin-prohibited")
_PROBE_CAPACITY: Final = 16

_NFT_SECONDS: Final = 30.0
_NFT_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin"  # a service's PATH often lacks sbin

Act = Literal["reject", "count"]


def ruleset(*, capacity: int, log_group: int, act: Act) -> str:
    """Return what `nft -f` reads to make table, sets, chains and rules anew; elements of sets that are there stay."""
    head = f"inet {TABLE}"
    lines = [f"add table {head}"]
    lines += [
        f"add set {head} {name} {{ type {kind}; flags timeout; counter; size {capacity}; }}"
        for name, kind in SETS.items()
    ]
    lines += [
        f"add set {head} {PROBE} {{ type ipv4_addr; flags timeout; size {_PROBE_CAPACITY}; }}",
        f"add chain {head} cut",
        f"add chain {head} forward {{ type filter hook forward priority {PRIORITY}; policy accept; }}",
        f"flush chain {head} forward",
        f"flush chain {head} cut",
        f'add rule {head} cut limit rate 50/second burst 20 packets log prefix "{LOG_PREFIX}" group {log_group}',
    ]
    lines += [f"add rule {head} cut {rule}" for rule in (REJECT if act == "reject" else ())]
    lines += [f"add rule {head} forward {lookup} counter jump cut" for lookup in _LOOKUPS]
    return "\n".join(lines) + "\n"


def rules_of_chains(*, act: Act) -> dict[str, int]:
    """Return how many rules `ruleset` puts into each chain."""
    return {"cut": 1 + (len(REJECT) if act == "reject" else 0), "forward": len(_LOOKUPS)}


def load(text: str) -> str:
    """Run `nft -f -`; return what it complained of, empty when all was done, in one transaction."""
    binary = shutil.which("nft") or shutil.which("nft", path=_NFT_PATH)
    if binary is None:
        raise Refused("nft is not installed (package nftables)")
    try:
        done = subprocess.run(  # noqa: S603  a binary of the administrator's PATH, no shell
            [binary, "-f", "-"], input=text, capture_output=True, text=True, timeout=_NFT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise Refused(f"nft: {fault}") from fault
    return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0] if done.returncode else ""
