"""What the leak meter remembers: bounded maps of clients, domains and pairs, and how they are kept over a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from detectors.leak_accounts import WEEK, Generations, Pair
from detectors.leak_peers import Apex, Client, Use
from detectors.leak_sums import Sum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.names import Name

ARPA: Final = b"\x04arpa\x00"
MX: Final = 15
TXT: Final = 16
_DMARC: Final = b"\x06_dmarc"
_DKIM: Final = b"\x0a_domainkey"
VERSION: Final = 2  # of what `dump` returns
# At most 270 MB when all are full: 115 octets a pair in the first tier, 100 a name, 400 a pair beyond it, 250 a domain,
# 230 for its sum, and up to 78,000 an apex, of which an office of 500 clients has some 250.
CHEAP_CAP: Final = 400_000  # pairs in the first tier
NAMES_CAP: Final = 200_000  # names known in the first tier
PAIRS_CAP: Final = 65_536  # pairs beyond it
APEXES_CAP: Final = 1_024  # domains beyond it
USES_CAP: Final = 200_000  # domains with who asks there
CLIENTS_CAP: Final = 65_536


class Pairs(Generations[Pair]):
    """Pairs beyond the first tier; blocked ones outlive the others."""

    __slots__ = ()

    def rotate(self) -> dict[bytes, Pair]:
        """Start a new generation; returns the pairs that are gone. Half of the room is kept for blocked ones."""
        gone = super().rotate()
        blocked = [key for key, pair in gone.items() if pair.finding is not None]
        for key in blocked[-(PAIRS_CAP // 4) :]:
            self.young[key] = gone.pop(key)
        return gone


class State:
    """The maps of the meter. Each drops what was used least recently at its cap and counts it."""

    __slots__ = ("apexes", "cheap", "clients", "known", "pairs", "rotate_at", "uses")

    def __init__(self, now: float) -> None:
        self.cheap: Generations[int] = Generations(CHEAP_CAP)  # client + domain -> bits
        self.known: Generations[bool] = Generations(NAMES_CAP)  # names anybody asked for
        self.pairs: Pairs = Pairs(PAIRS_CAP)  # client + domain
        self.apexes: Generations[Apex] = Generations(APEXES_CAP)
        self.uses: Generations[Use] = Generations(USES_CAP)
        self.clients: Generations[Client] = Generations(CLIENTS_CAP)
        self.rotate_at: float = now + WEEK

    def tick(self, now: float) -> None:
        """Start a new week of the first tier when one is over."""
        if now >= self.rotate_at:
            self.rotate_at = now + WEEK
            self.cheap.rotate()
            self.known.rotate()

    def use(self, domain: Name, now: float) -> Use:
        """Return who asks at the domain."""
        found = self.uses.get(domain)
        if found is None:
            apex = self.apexes.get(domain)
            found = apex.use if apex is not None else Use(now)
            self.uses.put(domain, found)
        return found

    def apex(self, domain: Name, now: float) -> Apex:
        """Return the domain's code and peers."""
        found = self.apexes.get(domain)
        if found is None:
            found = Apex(self.use(domain, now), now, reverse=domain.endswith(ARPA))
            self.apexes.put(domain, found)
        return found

    def client(self, client: bytes, now: float) -> Client:
        """Return what is known of the client."""
        found = self.clients.get(client)
        if found is None:
            found = Client(now)
            self.clients.put(client, found)
        return found

    def release(self, client: bytes, domain: Name) -> None:
        """Unlatch the pair with empty accounts; an empty client stands for all of them, and empties their sum."""
        for pair in self.pairs.values():
            if pair.domain == domain and client in {b"", pair.client}:
                pair.release()
        use = self.uses.get(domain)
        if not client and use is not None and use.sum is not None:
            use.sum.bits = 0.0

    def note_mail(self, now: float, client: bytes, domain: Name, qname: Name, qtype: int) -> None:
        """Take in a question for MX or TXT: a mail server asks for MX, DMARC and DKIM of many domains."""
        if qtype == MX or qname.startswith(_DMARC) or _DKIM in qname:
            self.client(client, now).note_mail(now, domain)

    def counters(self) -> dict[str, int]:
        """Return sizes, and what was dropped at the caps."""
        return {
            "first_tier": len(self.cheap),
            "first_tier_dropped": self.cheap.dropped,
            "names": len(self.known),
            "names_dropped": self.known.dropped,
            "pairs": len(self.pairs),
            "pairs_dropped": self.pairs.dropped,
            "apexes": len(self.apexes),
            "apexes_dropped": self.apexes.dropped,
            "domains": len(self.uses),
            "domains_dropped": self.uses.dropped,
            "clients": len(self.clients),
            "clients_dropped": self.clients.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return {
            "version": VERSION,
            "rotate_at": self.rotate_at,
            "cheap": self.cheap.items(),
            "known": [name for name, _ in self.known.items()],
            "uses": [
                (domain, use.first, use.learned, use.clients, None if use.sum is None else use.sum.dump())
                for domain, use in self.uses.items()
            ],
            "apexes": [(domain, apex.dump()) for domain, apex in self.apexes.items()],
            "clients": [(client, known.dump()) for client, known in self.clients.items()],
            "pairs": [pair.dump_pair() for pair in self.pairs.values()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned. Raises ValueError, TypeError or KeyError when it is something else."""
        if state["version"] != VERSION:
            return
        self.rotate_at = float(state["rotate_at"])
        for key, bits in state["cheap"]:
            self.cheap.put(bytes(key), int(bits))
        for name in state["known"]:
            self.known.put(bytes(name), True)
        for domain, first, learned, clients, carried in state["uses"]:
            use = Use(float(first))
            use.learned = int(learned)
            use.sum = None if carried is None else Sum.from_dump(carried)
            use.clients = tuple(bytes(client) for client in clients)
            self.uses.put(bytes(domain), use)
        for domain, kept in state["apexes"]:
            apex = self.apex(bytes(domain), 0.0)
            apex.restore(kept)
        for client, kept in state["clients"]:
            self.client(bytes(client), 0.0).restore(kept)
        for kept in state["pairs"]:
            pair = Pair.from_dump(kept)
            self.pairs.put(pair.client + pair.domain, pair)
