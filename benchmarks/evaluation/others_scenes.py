"""Sights for the smaller detectors: real logs as they are, a crawl as one office, made-up squats and floods.

Rules:
1. What makes positives shares no code or table with the detectors: letters come by their Unicode names, slips from
   plain string work. Lures are reported apart: words the detector lists, and words it was never shown. The accents
   are no independent test: the detector too finds the bare letter in the Unicode name.
2. Every random choice hangs on a seed, so two runs print the same.
"""

from __future__ import annotations

import random
from contextlib import suppress
from ipaddress import ip_address
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Final
from unicodedata import lookup

from benchmarks.evaluation.data import rows
from core.errors import BadName
from core.names import from_text
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

ZEEK_RCODES: Final = {"NOERROR": 0, "FORMERR": 1, "SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
OFFICE: Final = 500  # clients the crawl is dealt to
LURES: Final = ("login", "signin", "secure", "account", "verify", "support", "webmail", "sso", "update", "password")
# Chosen after the detector's lists were final, without looking whether they are in them; never add them there.
FRESH: Final = (
    "checkout", "loyalty", "delivery", "parcel", "survey", "webinar", "audit", "onboarding", "inbox", "profile",
    "renewal", "tracking", "rebate", "voucher", "claims", "kyc", "airdrop", "crypto", "tax", "safe",
)  # fmt: skip
_NEAR: Final = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl",
    "p": "ol", "a": "qsz", "s": "adw", "d": "sfe", "f": "dgr", "g": "fht", "h": "gjy", "j": "hku",
    "k": "jli", "l": "kop", "z": "xas", "x": "zcd", "c": "xvf", "v": "cbg", "b": "vnh", "n": "bmj", "m": "nk",
}  # fmt: skip
_CYRILLIC: Final = {
    "a": "A", "c": "ES", "e": "IE", "i": "BYELORUSSIAN-UKRAINIAN I", "j": "JE", "o": "O", "p": "ER", "s": "DZE",
    "x": "HA", "y": "U", "h": "SHHA", "k": "KA", "m": "EM", "t": "TE", "q": "QA", "w": "WE", "d": "KOMI DE",
    "v": "IZHITSA", "r": "GHE",
}  # fmt: skip
_GREEK: Final = {
    "a": "ALPHA",
    "o": "OMICRON",
    "v": "NU",
    "p": "RHO",
    "u": "UPSILON",
    "i": "IOTA",
    "k": "KAPPA",
    "n": "ETA",
}
_ACCENTS: Final = (
    "ACUTE",
    "GRAVE",
    "DIAERESIS",
    "CIRCUMFLEX",
    "CARON",
    "DOT BELOW",
    "CEDILLA",
    "OGONEK",
    "STROKE",
    "TILDE",
)


def sight(at: float, client: bytes, name: str, *, rcode: int = 0, answers: Iterable[str] = ()) -> Sight | None:
    """Return the sight of an A question, or None for what is no name."""
    try:
        qname = from_text(name.encode("ascii", "replace").decode("ascii"))
    except BadName:
        return None
    addresses = []
    for answer in answers:
        with suppress(ValueError):
            addresses.append(ip_address(answer).packed)
    return Sight(
        at=at, client=client, qname=qname, qtype=1, domain=domain_of(qname), rcode=rcode, addresses=tuple(addresses)
    )


def crawl(data: Path, *, limit: int, office: bool) -> Iterator[Sight]:
    """Yield the crawl in its order: one client at its own pace, or dealt to an office at 20 questions a second."""
    for at, row in enumerate(rows(data / "benign" / "top1m_crawl.csv.gz")):
        if at >= limit:
            return
        when = 1_700_000_000.0 + at / 20 if office else float(row["ts"])
        client = (at * 7_919 % OFFICE + 0x0A000000).to_bytes(4, "big") if office else ip_address(row["client"]).packed
        answers = [part.split(":", 3)[3] for part in row["answers"].split("|") if part.startswith(("1:", "28:"))]
        if (one := sight(when, client, row["qname"], rcode=int(row["rcode"] or -1), answers=answers)) is not None:
            yield one


def network(data: Path) -> Iterator[Sight]:
    """Yield the log of a network of 77 clients, in order of time."""
    table = sorted(rows(data / "benign" / "zeek_brim.csv.gz"), key=lambda row: float(row["ts"]))
    for row in table:
        rcode = ZEEK_RCODES.get(row["rcode"], -1)
        client = ip_address(row["src"]).packed
        if (
            one := sight(float(row["ts"]), client, row["qname"], rcode=rcode, answers=row["answers"].split("|"))
        ) is not None:
            yield one


def traps(data: Path) -> dict[str, list[str]]:
    """Return the names of each trap service; what the source cut off gets a domain in its place."""
    found: dict[str, list[str]] = {}
    for row in rows(data / "traps" / "names.csv.gz"):
        cut = ".cut-off.org" if row["suffix_stripped"] == "1" and not row["service"].startswith("ptr") else ""
        found.setdefault(row["service"], []).append(row["name"] + cut)
    return found


def failing(names: Sequence[str], *, rate: float, clients: int = 1, seed: int = 1, rcode: int = 3) -> Iterator[Sight]:
    """Yield failures of the names, a second's worth at `rate`, each from one of the clients by chance."""
    rng = random.Random(seed)
    begin = 1_700_000_000.0 + rng.uniform(0.0, 60.0)
    for at, name in enumerate(names):
        client = (0x0A010000 + rng.randrange(clients)).to_bytes(4, "big")
        if (one := sight(begin + at / rate, client, name, rcode=rcode)) is not None:
            yield one


def flood(kind: str, count: int, *, seed: int) -> list[str]:
    """Return random names below one domain, the way the named generator of floods makes them."""
    rng = random.Random(seed)
    if kind == "letters":
        made = ["".join(rng.choices(ascii_lowercase, k=rng.randrange(6, 17))) for _ in range(count)]
    elif kind == "letters and digits":
        made = ["".join(rng.choices(ascii_lowercase + digits, k=12)) for _ in range(count)]
    elif kind == "hexadecimal":
        made = [f"{rng.getrandbits(48):012x}" for _ in range(count)]
    elif kind == "numbers":
        made = [str(rng.randrange(10**9, 10**10)) for _ in range(count)]
    else:
        made = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=26)) for _ in range(count)]
    middle = rng.choice(("", "www.", "api."))
    return [f"{label}.{middle}victim.com" for label in made]


def squats(name: str, *, seed: int) -> dict[str, str]:
    """Return one look-alike of a registered name of each kind, where the name allows it."""
    rng = random.Random(seed)
    label, _, suffix = name.partition(".")
    other = rng.choice([one for one in ("com", "net", "org", "info", "xyz", "de", "co") if one != suffix])
    at = rng.randrange(len(label) - 1)
    lure, fresh = rng.choice(LURES), rng.choice(FRESH)
    made = {
        "omission": f"{label[:at]}{label[at + 1 :]}.{suffix}",
        "doubling": f"{label[:at]}{label[at]}{label[at:]}.{suffix}",
        "transposition": f"{label[:at]}{label[at + 1]}{label[at]}{label[at + 2 :]}.{suffix}",
        "neighbouring key": f"{label[:at]}{rng.choice(_NEAR.get(label[at], 'q'))}{label[at + 1 :]}.{suffix}",
        "inserted neighbour": f"{label[:at]}{rng.choice(_NEAR.get(label[at], 'q'))}{label[at:]}.{suffix}",
        "bitsquat": f"{label[:at]}{_flipped(label[at], rng)}{label[at + 1 :]}.{suffix}",
        "other suffix": f"{label}.{other}",
        "listed lure, hyphen": f"{label}-{lure}.{other}",
        "listed lure, joined": f"{label}{lure}.{other}",
        "fresh word, hyphen": f"{fresh}-{label}.{other}",
        "fresh word, joined": f"{label}{fresh}.{other}",
        "IDN, one letter": f"{_fooled(label, rng, share=0.0)}.{suffix}",
        "IDN, half the letters": f"{_fooled(label, rng, share=0.5)}.{suffix}",
        "IDN, accent": f"{_accented(label, rng)}.{suffix}",
        "digit for letter": label.replace("o", "0").replace("l", "1").replace("i", "1") + f".{suffix}",
    }
    return {kind: text for kind, text in made.items() if text != name and not text.startswith("-")}


def _flipped(char: str, rng: random.Random) -> str:
    options = [chr(ord(char) ^ 1 << bit) for bit in range(5)]
    return rng.choice([one for one in options if one in ascii_lowercase + digits] or [char])


def _fooled(label: str, rng: random.Random, *, share: float) -> str:
    """Replace one letter that has a twin in another script, and each further one with the chance `share`."""
    twins = [at for at, char in enumerate(label) if char in _CYRILLIC or char in _GREEK]
    chosen = {rng.choice(twins)} if twins else set()
    chosen |= {at for at in twins if rng.random() < share}
    return "".join(_twin(char, rng) if at in chosen else char for at, char in enumerate(label))


def _twin(char: str, rng: random.Random) -> str:
    names = [f"CYRILLIC SMALL LETTER {_CYRILLIC[char]}"] if char in _CYRILLIC else []
    names += [f"GREEK SMALL LETTER {_GREEK[char]}"] if char in _GREEK else []
    return lookup(rng.choice(names))


def _accented(label: str, rng: random.Random) -> str:
    order = rng.sample(range(len(label)), len(label))
    for at in order:
        for accent in rng.sample(_ACCENTS, len(_ACCENTS)):
            with suppress(KeyError):
                return label[:at] + lookup(f"LATIN SMALL LETTER {label[at].upper()} WITH {accent}") + label[at + 1 :]
    return label
