"""A person at another desk who browses the web without a pause, and what went wrong for them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import dns.edns
import dns.exception
import dns.message
import dns.query
import dns.rcode
from lab.network import PAGES, RESOLVER, SITE

if TYPE_CHECKING:
    from lab.network import Host

_PAUSE: Final = 0.05  # seconds between two names
_PATIENCE: Final = 20.0  # seconds


class Browsing:
    """Asks for all PAGES again and again, from `with` to its end."""

    def __init__(self, host: Host) -> None:
        self.answered = 0
        self.rounds = 0
        self.faults: list[str] = []
        self._host = host
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._browse)

    def __enter__(self) -> Browsing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _browse(self) -> None:
        with self._host.inside():
            while not self._over.is_set():
                for name in PAGES:
                    self._visit(name)
                    if self._over.wait(_PAUSE):
                        return
                self.rounds += 1

    def _visit(self, name: str) -> None:
        for kind in ("A", "AAAA", "HTTPS"):
            query = dns.message.make_query(name, kind, use_edns=0)
            try:
                reply = dns.query.udp(query, RESOLVER, timeout=_PATIENCE)
            except (dns.exception.DNSException, OSError) as error:
                self.faults.append(f"{name} {kind}: {error!r}")
                continue
            told = [str(option) for option in reply.options if isinstance(option, dns.edns.EDEOption)]
            right = reply.rcode() == dns.rcode.NOERROR and not told
            if kind == "A":
                right &= [str(item) for rrset in reply.answer for item in rrset][-1:] == [SITE]
            if right:
                self.answered += 1
            else:
                self.faults.append(f"{name} {kind}: {reply.to_text()}")
