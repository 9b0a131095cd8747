"""Clients that look for a way around this resolver: names and addresses of public encrypted resolvers.

Rules:
1. Looking up such a resolver is what a client does before it stops asking here; that it then went there is not seen.
   Browsers, phones and administrators do it too, so every finding is LOW and none ever blocks.
2. Asking whether bypassing is allowed (Firefox's canary, private relay, RFC 9462 discovery) is politeness: it is
   counted and added to a later finding, and told by itself only when `discovery` is set.
3. A finding about a client and a provider is not repeated within a day.
"""

from __future__ import annotations

from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from core.finding import Confidence, Evidence, Finding
from core.names import Name, from_text, registered_domain, suffixes, to_text
from detectors.bounded import Bounded, Said

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from detectors.sight import Sight

DAY: Final = 86_400.0  # seconds
MAX_SAID: Final = 16_384  # (client, provider) pairs
MAX_POLITE: Final = 16_384  # clients that asked for leave
LISTED: Final = 0.5  # score of a listed host looked up
ADDRESSED: Final = 0.3  # of another name answered by a listed address
ASKED: Final = 0.2  # of a question for a server's encrypted service
POLITE: Final = 0.1  # of asking for leave
OPERATORS: Final = "your list"  # the provider of what the operator added
_SVCB: Final = 64  # RFC 9460
_SERVICE: Final = b"\x04_dns"  # RFC 9461 section 4, behind `_port` at times
_CANARIES: Final[dict[Name, str]] = {
    b"\x13use-application-dns\x03net\x00": "asks whether Firefox may use its own resolver",
    b"\x04mask\x06icloud\x03com\x00": "asks whether iCloud Private Relay may be used",
    b"\x07mask-h2\x06icloud\x03com\x00": "asks whether iCloud Private Relay may be used",
    b"\x04_dns\x08resolver\x04arpa\x00": "asks for an encrypted way to this resolver",
}


class BypassSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `bypass`. `extra` and `allow` hold host names (with all below them) and addresses, in text."""

    mode: Literal["alert", "off"] = "alert"
    extra: tuple[str, ...] = ()  # more resolvers to watch for
    allow: tuple[str, ...] = ()  # resolvers the organisation uses itself
    discovery: bool = False  # also tell of clients that merely ask for leave


class Resolvers(msgspec.Struct, frozen=True):
    """Who runs which host and which address. Names in `exact` do not speak for what lies below them."""

    hosts: dict[Name, str]
    exact: dict[Name, str]
    addresses: dict[bytes, str]


class Bypass:
    """A Watch for look-ups of public encrypted resolvers. Raises BadName for an entry that is no name."""

    name = "bypass"

    def __init__(self, settings: BypassSettings, listed: Resolvers | None = None) -> None:
        self._settings = settings
        known = read(f"{OPERATORS}: {' '.join(settings.extra)}\n", shipped() if listed is None else listed)
        allowed = read(f"{OPERATORS}: {' '.join(settings.allow)}\n", Resolvers({}, {}, {}))
        self._known = _without(known, allowed)
        self._domains = {registered_domain(name) for name in (*self._known.hosts, *self._known.exact)}
        self._domains |= {registered_domain(name) for name in _CANARIES}
        self._addresses = frozenset(self._known.addresses)
        self._polite: Bounded[bytes, str] = Bounded(MAX_POLITE)  # client: what it asked leave for
        self._said: Said[tuple[bytes, str]] = Said(MAX_SAID, every=DAY)
        self._asked = 0

    def see(self, sight: Sight) -> Sequence[Finding]:
        """Return a finding for a look-up of, or an answer with, a listed resolver."""
        if (
            sight.domain not in self._domains
            and self._addresses.isdisjoint(sight.addresses)
            and (sight.qtype != _SVCB or _SERVICE not in sight.qname)
        ):
            return ()
        if sight.blocked or self._settings.mode == "off":
            return ()
        return self._looked_up(sight) or self._asked_leave(sight) or self._answered(sight) or self._service(sight)

    def tick(self, now: float) -> Sequence[Finding]:
        """Nothing is due by the clock."""
        del now
        return ()

    def counters(self) -> Mapping[str, int]:
        """Return sizes, how often leave was asked for, and what was dropped at the caps."""
        return {
            "hosts": len(self._known.hosts) + len(self._known.exact),
            "addresses": len(self._addresses),
            "asked_leave": self._asked,
            "dropped": self._said.dropped + self._polite.dropped,
        }

    def dump(self) -> dict[str, Any]:
        """Return what was told within the last day."""
        return {"said": [[client, provider, at] for (client, provider), at in self._said.dump()]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned."""
        self._said.load([((client, provider), at) for client, provider, at in state.get("said", ())])

    def _looked_up(self, sight: Sight) -> Sequence[Finding]:
        provider = self._known.exact.get(sight.qname)
        if provider is None:
            provider = next((self._known.hosts[key] for key in suffixes(sight.qname) if key in self._known.hosts), None)
        if provider is None:
            return ()
        words = f"looks up {to_text(sight.qname)}, an encrypted resolver ({provider})"
        return self._finding(sight, provider, LISTED, words)

    def _asked_leave(self, sight: Sight) -> Sequence[Finding]:
        words = _CANARIES.get(sight.qname)
        if words is None:
            return ()
        self._asked += 1
        self._polite.put(sight.client, words)
        return self._finding(sight, words, POLITE, words) if self._settings.discovery else ()

    def _answered(self, sight: Sight) -> Sequence[Finding]:
        for address in sight.addresses:
            if (provider := self._known.addresses.get(address)) is not None:
                words = f"{to_text(sight.qname)} is at {ip_address(address)}, a public resolver ({provider})"
                return self._finding(sight, provider, ADDRESSED, words)
        return ()

    def _service(self, sight: Sight) -> Sequence[Finding]:
        """Find a question for the encrypted service of a name server that is on no list."""
        if sight.qtype != _SVCB or sight.qname in _CANARIES:
            return ()
        keys = suffixes(sight.qname)
        below = next((keys[at + 1] for at in (0, 1) if at + 1 < len(keys) and keys[at].startswith(_SERVICE)), None)
        if below is None:
            return ()
        words = f"asks for the encrypted service of the resolver {to_text(below)}"
        return self._finding(sight, to_text(below), ASKED, words)

    def _finding(self, sight: Sight, provider: str, score: float, words: str) -> Sequence[Finding]:
        if not self._said.due((sight.client, provider), sight.at):
            return ()
        before = self._polite.get(sight.client) if score > POLITE else None
        finding = Finding(
            detector=self.name,
            client=str(ip_address(sight.client)),
            domain=to_text(sight.domain),
            score=score,
            confidence=Confidence.LOW,
            reason=words if before is None else f"{words}; it also {before}",
            evidence=(Evidence("score", score, ASKED), Evidence("asked_leave", float(before is not None), 1.0)),
        )
        return (finding,)


def shipped() -> Resolvers:
    """Return the list that comes with the product."""
    return read((files("detectors") / "models" / "doh.txt").read_text(encoding="utf-8"), Resolvers({}, {}, {}))


def read(text: str, known: Resolvers) -> Resolvers:
    """Return `known` and what the text adds: lines of a provider, a colon, hosts and addresses; `#` begins a comment.

    Raises BadName for what is neither a name nor an address.
    """
    hosts, exact, addresses = dict(known.hosts), dict(known.exact), dict(known.addresses)
    for line in text.splitlines():
        provider, colon, words = line.partition(": ")
        if not colon or line.startswith("#"):
            continue
        for word in words.split():
            if (address := _address(word)) is not None:
                addresses[address] = provider
            elif word.startswith("="):
                exact[from_text(word[1:])] = provider
            else:
                hosts[from_text(word)] = provider
    return Resolvers(hosts, exact, addresses)


def _address(word: str) -> bytes | None:
    try:
        return ip_address(word).packed
    except ValueError:
        return None


def _without(known: Resolvers, allowed: Resolvers) -> Resolvers:
    """Leave out allowed hosts, what lies below them, and allowed addresses."""

    def kept(names: Mapping[Name, str]) -> dict[Name, str]:
        return {name: who for name, who in names.items() if not _allowed(suffixes(name), allowed.hosts)}

    addresses = {address: who for address, who in known.addresses.items() if address not in allowed.addresses}
    return Resolvers(kept(known.hosts), kept(known.exact), addresses)


def _allowed(keys: Iterable[Name], hosts: Mapping[Name, str]) -> bool:
    return any(key in hosts for key in keys)
