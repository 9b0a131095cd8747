"""Names an office asks for: real ones, real ones with their variable characters drawn anew, documented shapes."""

from __future__ import annotations

import re
import string
import uuid
from typing import TYPE_CHECKING, Final, TypeAlias

from benchmarks.evaluation.captures import labelled_attacks, name_of
from benchmarks.evaluation.data import lines, rows
from core.names import Name, from_labels, from_text, to_text
from detectors.sight import domain_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Named: TypeAlias = tuple[Name, Name]  # a name and who it belongs to
Maker: TypeAlias = "Callable[[random.Random], Named]"
Pools: TypeAlias = dict[str, list[Named]]

PEOPLE: Final = 50_000  # well-known domains taken

BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
HEX: Final = "0123456789abcdef"
LDH: Final = string.ascii_lowercase + string.digits

# Domains of names the ISP's list holds without theirs.
_STRIPPED: Final = {
    "eset_livegrid": "e5.sk",
    "mcafee_gti": "mcafee.com",
    "safeframe": "googlesyndication.com",
    "youtube_r_sn": "googlevideo.com",
    "office_fp_measure": "office.com",
    "azure_trafficmgr": "azure.com",
    "aws_elb": "amazonaws.com",
    "apple_push": "push.apple.com",
    "teams_trouter": "skype.com",
    "azure_blob": "windows.net",
    "fb_cdn": "fbcdn.net",
    "kaspersky_ksn": "kaspersky-labs.com",
    "onedrive_prod": "live.com",
    "ntp_pool": "ntp.org",
    "ec2_host": "amazonaws.com",
    "msh_tm": "msh.amazonaws.com",
}


def trap_pools(data: Path) -> Pools:
    """Return the real names of each trap service; those the ISP's list calls tunnels are left out."""
    attacks = labelled_attacks(data)
    pools: Pools = {}
    for row in rows(data / "traps" / "names.csv.gz"):
        if row["name"] in attacks:
            continue
        text = row["name"]
        if row["suffix_stripped"] == "1":
            text += "." + _STRIPPED.get(row["service"], row["service"].replace("_", "-") + "-service.net")
        if (name := name_of(text)) is not None:
            pools.setdefault(row["service"], []).append((name, domain_of(name)))
    return pools


def well_known(data: Path) -> list[Name]:
    """Return well-known domains, the best known first."""
    found = []
    for line in lines(data / "benign" / "cloudflare_top100k_2026.txt.gz"):
        if (name := name_of(line)) is not None and domain_of(name) == name:
            found.append(name)
        if len(found) == PEOPLE:
            break
    return found


def browsing(data: Path, people: Sequence[Name], rng: random.Random) -> Maker:
    """Each domain has a few names of its own, drawn once from the ISP's; the 40 best known have many."""
    hosts = sorted({sub for sub in _plain_hosts(data, limit=40_000) if 1 < len(sub) < 40})
    offsets = [rng.randrange(len(hosts)) for _ in people]
    sizes = [max(min(int(rng.paretovariate(0.9)), 60), 400 // (at + 1)) for at in range(len(people))]

    def make(rng: random.Random) -> Named:
        at = min(int(len(people) ** rng.random()) - 1, len(people) - 1)  # Zipf of exponent 1
        which = int(sizes[at] * rng.random() ** 2)
        if which == 0:
            return people[at], people[at]
        return hosts[(offsets[at] + which) % len(hosts)][:-1] + people[at], people[at]

    return make


def _plain_hosts(data: Path, *, limit: int) -> Iterator[Name]:
    for number, row in enumerate(rows(data / "benign" / "isp_subdomains_train.csv.gz")):
        if number == limit:
            return
        plain = row["label"] == "0" and re.fullmatch(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,12})?", row["text"])
        if plain and not re.search(r"\d{3}|[0-9a-f]{12}", row["text"]) and (name := name_of(row["text"])) is not None:
            yield name


def draw(rng: random.Random, alphabet: str, length: int) -> str:
    """Return random characters of an alphabet."""
    return "".join(rng.choices(alphabet, k=length))


def named(sub: str, domain: Name) -> Name:
    """Return the name of labels in front of a domain."""
    return b"".join(bytes((len(part),)) + part.encode() for part in sub.split(".")) + domain


def shaped(below: str, sub: Callable[[random.Random], str]) -> Maker:
    """Return a maker of what `sub` writes, below a zone."""
    zone = from_text(below)
    domain = domain_of(from_text("x." + below))
    single = len(domain) > len(zone)  # below a public suffix each name is a domain of its own

    def make(rng: random.Random) -> Named:
        name = named(sub(rng), zone)
        return name, domain_of(name) if single else domain

    return make


def hashed(length: int, below: str) -> Maker:
    """Return a maker of random hexadecimal labels."""
    return shaped(below, lambda rng: draw(rng, HEX, length))


def fixed(text: str) -> Maker:
    """Return a maker of one name."""
    name = from_text(text)
    return lambda _rng: (name, domain_of(name))


def pool(names: Sequence[Named]) -> Maker:
    """Return a maker of these names, the first ones more often."""
    return lambda rng: names[int(len(names) * rng.random() ** 2)]


def redrawn(names: Sequence[Named], *, alphabet: str, keep: tuple[int, int], least: int) -> Maker:
    """Return a maker of these names with long labels drawn anew but for their first and last characters."""
    texts = [to_text(name).split(".") for name, _ in names]
    domains = [domain for _, domain in names]
    head, tail = keep

    def make(rng: random.Random) -> Named:
        at = rng.randrange(len(texts))
        parts = [
            part
            if len(part) < least
            else part[:head] + draw(rng, alphabet, len(part) - head - tail) + part[len(part) - tail :]
            for part in texts[at]
        ]
        return from_labels(tuple(part.encode() for part in parts)), domains[at]

    return make


def youtube(names: Sequence[Named]) -> Maker:
    """Return a maker of real sites of cache hosts, each with twenty hosts."""
    found = [(to_text(name), domain) for name, domain in names]
    sites = [(label.group(), domain) for text, domain in found if (label := re.search(r"sn-[a-z0-9-]+", text))]

    def make(rng: random.Random) -> Named:
        site, domain = sites[int(len(sites) * rng.random() ** 2)]
        return named(f"r{rng.randrange(1, 21)}---{site}", domain), domain

    return make


def metric(rng: random.Random) -> str:
    """Return a label of Google's measurement of IPv6."""
    return f"p4-{draw(rng, BASE32, 13)}-{draw(rng, BASE32, 16)}-{rng.randrange(10**6)}-i1-v6exp3"


def unique_host(rng: random.Random) -> str:
    """Return a UUID and a server's number."""
    return f"{uuid.UUID(int=rng.getrandbits(128), version=4)}.server-{rng.randrange(1, 100)}"


def dropbox(rng: random.Random) -> str:
    """Return the host of one download."""
    return "uc" + draw(rng, HEX, 27)


def avast(rng: random.Random) -> str:
    """Return a look-up of a file's hash, as a scanner that is new here would send."""
    return f"{draw(rng, BASE32, 26)}.{rng.randrange(16):x}.lookup"


def content(rng: random.Random) -> str:
    """Return a content identifier of IPFS, version 1."""
    return "bafybei" + draw(rng, BASE32, 52)


def node_record(rng: random.Random) -> str:
    """Return a node of a tree of records (EIP-1459)."""
    return draw(rng, BASE32, 26)


def onion(rng: random.Random) -> str:
    """Return a hidden service of version 3."""
    return draw(rng, BASE32, 56)


def address(rng: random.Random) -> str:
    """Return the octets of an address, last first; a quarter of the networks make most of the traffic."""
    network = int(16_384 * rng.random() ** 3)
    return f"{rng.randrange(1, 255)}.{rng.randrange(256)}.{network & 0xFF}.{1 + (network >> 8) * 3}"


def address6(rng: random.Random) -> str:
    """Return the nibbles of an address, last first."""
    network = f"2a0{rng.randrange(16):x}{int(4096 * rng.random() ** 3):04x}{rng.randrange(16):04x}"
    return ".".join(reversed(network + draw(rng, HEX, 32 - len(network))))


def listed(people: Sequence[Name]) -> Callable[[random.Random], str]:
    """Return a maker of domains seen in mail: half known ones, half nobody knows."""
    known = [to_text(name) for name in people]

    def make(rng: random.Random) -> str:
        if rng.random() < 0.5:
            return known[int(len(known) * rng.random() ** 2)]
        return draw(rng, string.ascii_lowercase, rng.randrange(6, 15)) + rng.choice((".com", ".net", ".info", ".xyz"))

    return make


def macro(people: Sequence[Name]) -> Callable[[random.Random], str]:
    """Return a maker of what an SPF record with `exists:` has the receiver ask (RFC 7208 section 7)."""
    sender = listed(people)

    def make(rng: random.Random) -> str:
        return f"{address(rng)}._i.mail{rng.randrange(40)}._h.{sender(rng)}._d"

    return make


def mail(people: Sequence[Name]) -> Maker:
    """Return a maker of what a mail server asks about the domains of senders: MX, DMARC, DKIM."""
    selectors = ("_dmarc", "selector1._domainkey", "default._domainkey", "s1._domainkey", "google._domainkey", "")

    def make(rng: random.Random) -> Named:
        domain = people[int(len(people) * rng.random() ** 3)]
        before = rng.choice(selectors)
        return (named(before, domain) if before else domain), domain

    return make


def openpgp(people: Sequence[Name]) -> Maker:
    """Return a maker of keys looked up by address (RFC 7929)."""

    def make(rng: random.Random) -> Named:
        domain = people[int(len(people) * rng.random() ** 3)]
        return named(draw(rng, HEX, 56) + "._openpgpkey", domain), domain

    return make


def probe(rng: random.Random) -> Named:
    """Return one of a browser's three random names that show whether the network answers for what does not exist."""
    name = from_text(draw(rng, string.ascii_lowercase, rng.randrange(7, 16)))
    return name, name
