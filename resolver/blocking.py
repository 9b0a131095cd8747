"""What a client gets in place of an answer it must not have, and the event that tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core import rr
from core.verdict import UNTOUCHED, Action
from resolver.policy import verdict
from resolver.sinkhole import block_text

if TYPE_CHECKING:
    from core.names import Name
    from core.verdict import Verdict
    from core.wire import Query
    from resolver.clients import Client
    from resolver.policy import Ruling
    from resolver.render import Renderer
    from resolver.sinkhole import Sinkhole
    from resolver.telling import Teller
    from resolver.waiting import Peer

NO_REPLY: Final = b""
_TCP_ONLY: Final = Action.TCP_ONLY  # enum members are slow to reach through their class
_DROP: Final = Action.DROP
_BLOCKED: Final = rr.Ede.BLOCKED


class Blocker:
    """Makes the blocked replies of one worker; `blocked` counts them."""

    def __init__(self, renderer: Renderer, sinkhole: Sinkhole, teller: Teller) -> None:
        self.blocked = 0
        self._renderer = renderer
        self._sinkhole = sinkhole
        self._teller = teller

    def by_name(self, query: Query, client: Client, peer: Peer, keys: list[Name], ruling: Ruling) -> bytes:
        """Return the reply to a question whose name is blocked; reasons are written out only for somebody."""
        found = verdict(ruling, keys) if query.edns or self._teller.room else UNTOUCHED
        return self.by_verdict(query, client, peer, ruling.action, found)

    def by_verdict(self, query: Query, client: Client, peer: Peer, action: Action, found: Verdict) -> bytes:
        """Return the reply under `action`, with the reasons of `found` in the event and for clients with EDNS."""
        self.blocked += 1
        made = self._sinkhole.replacement(action, query.qtype)
        if self._teller.has_room():
            self._teller.blocked(query, client, peer, found, made)
        if action is _DROP:
            return NO_REPLY
        if action is _TCP_ONLY:
            return self._renderer.truncated(query)
        if not query.edns:
            return self._renderer.made(query, made)
        return self._renderer.made(query, made, _BLOCKED, block_text(found))
