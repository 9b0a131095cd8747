"""What keeps a verdict from hurting: beside the resolver, every address is judged before it may be blocked.

Rules, the first that applies decides:
1. What is no address or names the root is refused; so is a name the organisation trusts.
2. Never blocked: reserved and own networks, listed servers, name servers we ask (but not those that serve condemned
   domains only, as a tunnel's do), and addresses at which somebody sinkholed the name already.
3. An address at which the asking client uses another name is not blocked; outside shared ranges, nor is one at which
   anybody of the organisation does: whoever owns a domain can point it at the bank.
4. In a shared range (CDN, cloud) the asking client's way to the address is blocked, never the address.
5. No more of yesterday's destinations are blocked than a share, so that no error of ours cuts off what was in use.
An address that carries others inside (NAT64, 6to4) is judged with each of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from core.names import ROOT, Name, from_text, to_text
from egress.plan import ANY
from egress.range_lists import Lists
from egress.ranges import Ranges, listed, unmapped
from egress.reserved import reserved
from egress.rulings import Rule, Ruling, cleared, refused, text
from egress.uses import DAY, OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from core.config import Egress
    from egress.plan import Proposal
    from egress.uses import Uses

MAX_SERVERS: Final = 100_000  # name servers remembered
MAX_ZONES: Final = 8  # of a server; one with more is taken to serve everybody
SHARE_FLOOR: Final = 4  # destinations of yesterday that may be blocked, however few there were


class Guard:
    """The judge beside a resolver. `uses` is fed by others; name servers are told by `note_server`."""

    def __init__(
        self,
        settings: Egress,
        uses: Uses,
        *,
        lists: Lists | None = None,
        own: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.uses = uses
        self._servers: OrderedDict[bytes, dict[Name, float]] = OrderedDict()
        self._hit: dict[bytes, float] = {}  # destinations of yesterday cleared for blocking, and when last
        self._lists = Lists()
        self._own: Mapping[str, Iterable[str]] = {}
        self.configure(settings, lists=lists, own=own)

    def configure(
        self, settings: Egress, *, lists: Lists | None = None, own: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Judge by these settings and ranges from now on; lists or networks not given stay.

        `own` names the node's own networks by what they are. Raises BadFeed when one of them is no network.
        """
        own = self._own if own is None else own
        never = reserved({**own, "a network of egress.never": settings.never})
        shared = Ranges([listed("a network of egress.shared", settings.shared)])
        trusted = frozenset(map(from_text, settings.trusted))
        self.uses.settings = msgspec.structs.replace(self.uses.settings, trusted=trusted)
        self._share = settings.share
        self._lists = self._lists if lists is None else lists
        self._own, self._reserved, self._shared = own, never, shared

    def note_server(self, address: bytes, zone: Name, *, now: float) -> bool:
        """We ask this server about a zone.

        Returns True when the address was cleared for blocking and may not be blocked any more. Raises ValueError for
        what is no packed address.
        """
        lifted = False
        for face in self.uses.carriers.faces(address):
            zones = self._servers.pop(face, {})
            if zone not in zones and len(zones) >= MAX_ZONES:
                zone = ROOT
            zones[zone] = now
            self._servers[face] = zones
            lifted = lifted or (self.uses.marked(face, now=now) and not self.uses.condemned(zone, now=now, whole=True))
        while len(self._servers) > MAX_SERVERS:
            self._servers.popitem(last=False)
        return lifted

    def judge(self, proposal: Proposal, *, now: float, below: bool = True) -> Ruling:
        """Return how much of a proposal may be blocked; `below`: its verdict covers the names below the domain too."""
        try:
            faces = self.uses.carriers.faces(proposal.address)
            client = unmapped(proposal.client) if proposal.client else ANY
        except ValueError as fault:
            return refused(proposal, Rule.MALFORMED, str(fault))
        proposal = msgspec.structs.replace(proposal, address=faces[0], client=client)
        if proposal.domain in (b"", ROOT):
            return refused(proposal, Rule.MALFORMED, "a verdict about no domain, or about the root")
        if self.uses.trusts(proposal.domain):
            return refused(proposal, Rule.TRUSTED, f"the organisation trusts {to_text(proposal.domain)}")
        self.uses.condemn(proposal.domain, now=now, below=below)
        ruling = self._against(faces, proposal, now) or self._scope(proposal, now)
        if ruling.passes:
            self.uses.mark(ruling.destination, now=now)
        return ruling

    def _against(self, faces: tuple[bytes, ...], proposal: Proposal, now: float) -> Ruling | None:
        """Return the refusal of the first rule that speaks against any of the faces."""
        rules = (
            (Rule.NEVER, self._never),
            (Rule.NAME_SERVER, self._server),
            (Rule.SINKHOLE, self._sinkhole),
            (Rule.OWN_USE, self._own_use),
            (Rule.PASSIVE_DNS, self._passive_dns),
        )
        for rule, speaks in rules:
            for face in faces:
                if reason := speaks(face, proposal, now):
                    inside = "" if face == faces[0] else f", carried in {text(faces[0])}"
                    return refused(proposal, rule, f"{text(face)}{inside}: {reason}")
        return None

    def _never(self, face: bytes, _: Proposal, __: float) -> str | None:
        where = self._reserved.find(face) or self._lists.never.find(face)
        return where and f"never blocked, it is of {where}"

    def _server(self, face: bytes, _: Proposal, now: float) -> str | None:
        since = now - self.uses.settings.memory
        for zone, last in self._servers.get(face, {}).items():
            if last >= since and not self.uses.condemned(zone, now=now, whole=True):
                return f"a name server this resolver asks, for {'many zones' if zone == ROOT else to_text(zone)}"
        return None

    def _sinkhole(self, face: bytes, _: Proposal, __: float) -> str | None:
        where = self._lists.sinkholes.find(face)
        return where and f"somebody sinkholed the name already, it is of {where}"

    def _own_use(self, face: bytes, proposal: Proposal, now: float) -> str | None:
        client = proposal.client
        name = self.uses.used_by(face, client, now=now) if client else None
        return name if name is None else f"the client {text(client)} uses {_called(name)} there"

    def _passive_dns(self, face: bytes, proposal: Proposal, now: float) -> str | None:
        name = None if self._sharers(proposal.address) else self.uses.used(face, now=now)
        return name if name is None else f"the organisation uses {_called(name)} there"

    def _sharers(self, address: bytes) -> str | None:
        """Return who shares the address, or one it carries, with the world; None when nobody does."""
        faces = self.uses.carriers.faces(address)
        return next((who for face in faces if (who := self._shared.find(face) or self._lists.shared.find(face))), None)

    def _scope(self, proposal: Proposal, now: float) -> Ruling:
        """Return what is left of a proposal that nothing speaks against: the address, a pair, or the caps' refusal."""
        address = proposal.address
        sharers = self._sharers(address)
        if sharers is None:
            return self._sharing(proposal, now) or cleared(proposal, reason=f"nothing speaks for {text(address)}")
        reason = f"{text(address)}: many sites share it, it is of {sharers}"
        if not proposal.client:
            return refused(proposal, Rule.SHARED, f"{reason}; no client is known that asked")
        if len(proposal.client) != len(address):
            return refused(
                proposal, Rule.SHARED, f"{reason}; {text(proposal.client)} reaches it from an address not known here"
            )
        return cleared(
            proposal, pair=True, rule=Rule.SHARED, reason=f"{reason}; only {text(proposal.client)} is cut off"
        )

    def _sharing(self, proposal: Proposal, now: float) -> Ruling | None:
        """Return the refusal when too many of yesterday's destinations would be blocked."""
        address, yesterday = proposal.address, self.uses.yesterday(now)
        if address not in yesterday:
            return None
        self._hit = {each: last for each, last in self._hit.items() if last + DAY >= now}
        cap = max(SHARE_FLOOR, int(self._share * len(yesterday)))
        if address not in self._hit and len(self._hit) >= cap:
            of = f"{len(self._hit)} of the {len(yesterday)} destinations of yesterday"
            return refused(proposal, Rule.SHARE, f"{text(address)}: {of} are blocked within a day, and no more may be")
        self._hit[address] = now
        return None


def _called(name: Name) -> str:
    return "one of many names" if name == OTHERS else to_text(name)
