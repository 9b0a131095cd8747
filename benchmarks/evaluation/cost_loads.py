"""Loads for measuring what detectors cost: browsing, domains nobody asked for before, NXDOMAIN storms and a tunnel.

Rules:
1. Benign domains are those of the data folder's ranked list, drawn as people draw them: with a probability that falls
   with the rank (Zipf). What clients get back is made up.
2. Sights follow each other by their own clock at the rate that the hub is to keep up with.
"""

from __future__ import annotations

from random import Random
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation.data import lines
from core.errors import BadName
from core.names import Name, from_text, is_public_suffix
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKED: Final = "alexa100k_2013.txt.gz"
RATE: Final = 20_000  # events a second
BEGUN: Final = 1_700_000_000.0  # Unix seconds
CLIENTS: Final = 300
_HOSTS: Final = ("www", "cdn", "api", "static", "img", "m")
_TUNNELLERS: Final = 3
_LABEL: Final = 60  # characters; a name of a tunnel has two such labels
_ANSWER: Final = 120  # octets
_TXT: Final = 16
_NXDOMAIN: Final = 3
_ENDINGS: Final = ("com", "net", "org", "info")


class Loads:
    """Makes loads of `size` sights, the same ones each time."""

    def __init__(self, data: Path, size: int) -> None:
        self.size = size
        self.domains = _domains(data)

    def all(self) -> dict[str, list[Sight]]:
        """Return every load by what it is."""
        return {
            "ordinary browsing": self.browsing(),
            "domains all new": self.new(),
            "NXDOMAIN storm, random names": self.storm(_random_name),
            "NXDOMAIN storm, misspelt names": self.storm(self._misspelt),
            "tunnel at full speed": self.tunnel(),
        }

    def browsing(self) -> list[Sight]:
        """Return clients that ask for hosts of well-known domains, popular ones most, everything from the outside."""
        random = Random(1)
        found = []
        for at in range(self.size):
            domain = self.domains[min(int(len(self.domains) ** random.random()), len(self.domains)) - 1]
            found.append(_answered(at, random, f"{random.choice(_HOSTS)}.{domain}"))
        return found

    def new(self) -> list[Sight]:
        """Return clients each of whose questions is for a domain nobody asked for before."""
        random = Random(2)
        domains = random.sample(self.domains, min(self.size, len(self.domains)))
        return [_answered(at, random, f"www.{domain}") for at, domain in enumerate(domains)]

    def storm(self, make: Callable[[Random], str]) -> list[Sight]:
        """Return clients all of whose questions are for registrable names that do not exist."""
        random = Random(3)
        return [_sight(at, client(at % CLIENTS), from_text(make(random)), rcode=_NXDOMAIN) for at in range(self.size)]

    def tunnel(self) -> list[Sight]:
        """Return few clients that carry data in long names and long TXT answers."""
        random = Random(4)
        found = []
        for at in range(self.size):
            name = from_text(f"{_text(random, _LABEL)}.{_text(random, _LABEL)}.t.tunnel-of-a-test.com")
            payload = random.randbytes(_ANSWER)
            found.append(_sight(at, client(at % _TUNNELLERS), name, qtype=_TXT, rcode=0, payload=payload))
        return found

    def _misspelt(self, random: Random) -> str:
        label, _, suffix = random.choice(self.domains).partition(".")
        at = random.randrange(len(label))
        return f"{label[:at]}{random.choice(ascii_lowercase)}{label[at + 1 :]}{random.choice(ascii_lowercase)}.{suffix}"


def client(number: int) -> bytes:
    """Return the address of a client, of up to 65,536."""
    return bytes((10, 0)) + number.to_bytes(2, "big")


def _domains(data: Path) -> list[str]:
    found = []
    for line in lines(data / "benign" / RANKED):
        domain = line.rpartition(",")[2].strip()
        try:
            if domain_of(wire := from_text(domain)) == wire and not is_public_suffix(wire):
                found.append(domain)
        except BadName:
            continue
    return found


def _answered(at: int, random: Random, text: str) -> Sight:
    name = from_text(text)
    addresses = (bytes((random.randint(20, 100), *random.randbytes(3))),)
    return _sight(at, client(random.randrange(CLIENTS)), name, rcode=0, ttl=300, addresses=addresses)


def _sight(at: int, who: bytes, name: Name, *, qtype: int = 1, rcode: int, ttl: int = 0, **more: object) -> Sight:
    when = BEGUN + at / RATE
    return Sight(when, who, name, qtype, domain_of(name), rcode=rcode, ttl=ttl, size=120, **more)  # type: ignore[arg-type]


def _random_name(random: Random) -> str:
    return f"{_text(random, 12, ascii_lowercase)}.{random.choice(_ENDINGS)}"


def _text(random: Random, size: int, letters: str = ascii_lowercase + digits) -> str:
    return "".join(random.choices(letters, k=size))
