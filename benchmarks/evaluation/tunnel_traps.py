"""Legitimate services that look like tunnels, as sights: real names where the data folder has them, made ones else.

The folder holds names without answers; answers are made in the manner each service documents. One client asks for every
name of a service, which is the hardest case: with many clients the peer rule speaks for the service.
"""

from __future__ import annotations

from base64 import b32encode, b64encode
from random import Random
from typing import TYPE_CHECKING, Final
from zlib import crc32

from benchmarks.evaluation.data import rows
from core.names import from_text
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Answered = tuple[int, int, tuple[bytes, ...], bytes]  # rcode, TTL, addresses, payload
    Answer = Callable[[Random, str], Answered]

A: Final = 1
CNAME: Final = 5
PTR: Final = 12
TXT: Final = 16
SRV: Final = 33
SMIMEA: Final = 53
OPENPGPKEY: Final = 61
_CLIENT: Final = bytes((10, 0, 0, 7))
_EVERY: Final = 20.0  # seconds between questions
_MADE: Final = 300  # names of a made service


def _listed(dice: Random, _: str) -> Answered:
    if dice.random() < 0.7:
        return 3, 60, (), b""
    return 0, 60, (bytes((127, 0, 0, dice.randrange(2, 12))),), b""


def _verdict(dice: Random, _: str) -> Answered:
    return 0, 60, (bytes((127, 0, dice.randrange(256), dice.randrange(256))),), b""


def _host(dice: Random, _: str) -> Answered:
    return 0, dice.choice((20, 60, 300)), (bytes((dice.choice((13, 52, 151, 104)), *dice.randbytes(3))),), b""


def _edge(dice: Random, name: str) -> Answered:
    target = from_text(f"{name.split('.', maxsplit=1)[0][:40]}.edge-{dice.randrange(900)}.cdn.example")
    return 0, 30, _host(dice, name)[2], target


def _pointer(dice: Random, name: str) -> Answered:
    quads = name.split(".")[:4]
    return (
        (0, 3600, (), from_text(f"host-{'-'.join(quads)}.pool{dice.randrange(9)}.isp.example"))
        if quads
        else (3, 60, (), b"")
    )


def _text(make: Callable[[Random, str], str], ttl: int) -> Answer:
    def answer(dice: Random, name: str) -> Answered:
        words = make(dice, name).encode()
        return 0, ttl, (), bytes((min(len(words), 255),)) + words

    return answer


def _b64(dice: Random, size: int) -> str:
    return b64encode(dice.randbytes(size)).decode()


def _b32(dice: Random, size: int) -> str:
    return b32encode(dice.randbytes(size)).decode().rstrip("=").lower()


def _quad(dice: Random) -> str:
    return ".".join(str(dice.randrange(1, 255)) for _ in range(4))


_dkim: Final = _text(lambda dice, _: f"v=DKIM1; k=rsa; p={_b64(dice, 160)}", 300)
_dmarc: Final = _text(lambda dice, _: f"v=DMARC1; p=none; rua=mailto:r{dice.randrange(9999)}@agg.example", 60)


def _service(dice: Random, _: str) -> Answered:
    return 0, 600, (), bytes(6) + from_text(f"dc{dice.randrange(4)}.corp.example")


REAL: Final[dict[str, tuple[str, int, Answer]]] = {  # by service of names.csv.gz: domain, type, answers
    "dnsbl_v4": ("spamhaus.org", A, _listed),
    "uribl_surbl": ("surbl.org", A, _listed),
    "eset_livegrid": ("e5.sk", A, _verdict),
    "mcafee_gti": ("mcafee.com", A, _verdict),
    "ptr_v4": ("", PTR, _pointer),
    "ptr_v6": ("", PTR, _pointer),
    "dkim_other": ("customer.example", TXT, _dkim),
    "dkim_ses": ("customer.example", TXT, _dkim),
    "dmarc": ("customer.example", TXT, _dmarc),
    "srv_ad": ("corp.example", SRV, _service),
    "sip_srv": ("corp.example", SRV, _service),
    "safeframe": ("googlesyndication.com", A, _host),
    "uuid_server": ("uuid-hosts.example", A, _edge),
    "tor2web_onion": ("onion", A, lambda dice, _: (3, dice.choice((60, 900)), (), b"")),
    "isatap_wpad": ("corp.example", A, lambda dice, _: (3, dice.choice((60, 900)), (), b"")),
    "azure_trafficmgr": ("cloudapp.net", A, _edge),
    "cdnperf_rum": ("perf.example", A, _edge),
}
MADE: Final[dict[str, tuple[Callable[[Random], str], int, Answer]]] = {
    "sophos_sxl": (
        lambda dice: f"{_b32(dice, 20)}.{_b32(dice, 20)}.w.0.sophosxl.net", TXT,
        _text(lambda dice, _: f"w c={dice.randrange(40)} r={dice.randrange(9)}", 300),
    ),
    "cymru_asn": (
        lambda dice: f"{_quad(dice)}.origin.asn.cymru.com", TXT,
        _text(lambda dice, _: f"{dice.randrange(64000)} | {_quad(dice)}/24 | US | arin | 2019-01-02", 14400),
    ),
    "dnsbl_text": (
        lambda dice: f"{_quad(dice)}.zen.spamhaus.org", TXT,
        _text(lambda _, name: f"https://www.spamhaus.org/query/ip/{name[:12]}", 60),
    ),
    "hashbl": (lambda dice: f"{dice.randbytes(20).hex()}.ebl.msbl.org", A, _listed),
    "spf_macro": (lambda dice: f"{_quad(dice)}._spf.mta.salesforce.com", A, _listed),
    "dkim_hosted": (lambda dice: f"google._domainkey.c{dice.randrange(9**6)}-com.20230601.gappssmtp.com", TXT, _dkim),
    "ethereum_enr": (
        lambda dice: f"{_b32(dice, 16)}.all.mainnet.ethdisco.net", TXT,
        _text(lambda dice, _: f"enr:-{_b64(dice, 130)}", 3600),
    ),
    "ipfs_link": (
        lambda dice: f"_dnslink.k51{_b32(dice, 34)}.ipns.dweb.link", TXT,
        _text(lambda dice, _: f"dnslink=/ipfs/bafy{_b32(dice, 34)}", 60),
    ),
    "openpgpkey": (
        lambda dice: f"{dice.randbytes(28).hex()}._openpgpkey.posteo.de", OPENPGPKEY,
        lambda dice, _: (3, 300, (), b"") if dice.random() < 0.8 else (0, 300, (), dice.randbytes(400)),
    ),
    "acme_dns": (
        lambda dice: f"{dice.randbytes(4).hex()}-{dice.randbytes(8).hex()}.auth.acme-dns.io", TXT,
        _text(lambda dice, _: _b64(dice, 32).rstrip("="), 1),
    ),
    "safeframe_edge": (lambda dice: f"{dice.randbytes(16).hex()}.safeframe.googlesyndication.com", A, _edge),
    "https_ech": (
        lambda dice: f"t{dice.randbytes(4).hex()}.shop.example", 65,
        lambda dice, _: (0, 300, (), b"\x00\x01\x00\x00\x05" + dice.randbytes(90)),
    ),
}  # fmt: skip


def services(data: Path) -> Iterator[tuple[str, str, list[Sight]]]:
    """Yield (service, "tune" or "test", its sights); services with fewer than eight names are left out."""
    named: dict[str, list[str]] = {}
    for row in rows(data / "traps" / "names.csv.gz"):
        domain, *_ = REAL.get(row["service"], (f"{row['service'].replace('_', '-')}.example", A, _host))
        bare = row["suffix_stripped"] == "0" or not domain
        named.setdefault(row["service"], []).append(row["name"] if bare else f"{row['name']}.{domain}")
    for service, names in sorted(named.items()):
        if len(names) >= 8:
            _, qtype, answer = REAL.get(service, ("", A, _host))
            yield service, half(service), _replay(service, names, qtype, answer)
    for service, (make, qtype, answer) in MADE.items():
        dice = Random(service)
        yield f"{service} (made)", half(service), _replay(service, [make(dice) for _ in range(_MADE)], qtype, answer)


def half(word: str) -> str:
    """Return which half of the split by service, tool or family a word falls into."""
    return "test" if crc32(word.encode()) & 1 else "tune"


def _replay(service: str, names: list[str], qtype: int, answer: Answer) -> list[Sight]:
    dice = Random(service)
    found, at = [], 1_700_000_000.0
    for text in names:
        try:
            qname = from_text(text)
        except ValueError:
            continue
        at += dice.expovariate(1 / _EVERY)
        rcode, ttl, addresses, payload = answer(dice, text)
        found.append(
            Sight(
                at=at, client=_CLIENT, qname=qname, qtype=qtype, domain=domain_of(qname), rcode=rcode, ttl=ttl,
                addresses=addresses, payload=payload[:512],
            )
        )  # fmt: skip
    return found
