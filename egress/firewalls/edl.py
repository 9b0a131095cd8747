"""External dynamic lists over HTTP, which Palo Alto, FortiGate, Check Point and Cisco firewalls fetch by themselves.

Rules:
1. One address a line, IPv4 and IPv6 apart (/LIST-v4.txt, /LIST-v6.txt), sorted, LF, a newline at the end, no comments:
   what all of them read.
2. A list is never empty: some firewalls then keep what they had. Where nothing is blocked it names an address of the
   documentation, which nobody uses.
3. What has run out is left out whenever a list is fetched, whether or not anybody tells us.
4. What stands is on disk, and served again after a restart. Where the file is damaged the answer is 503 until `apply`
   or `flush` says what stands, or had UNKNOWN_SECONDS to say so.
"""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from egress.enforcer import Failure, Refused, Standing, Target
from egress.firewalls import kept, secret
from egress.firewalls.edl_http import Server, Text
from egress.firewalls.listed import Listed, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Applied, Lease

NOBODY: Final = {4: "203.0.113.255", 6: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"}  # RFC 5737, RFC 3849
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
UNKNOWN_SECONDS: Final = 120.0  # an agent compares what stands with what is wanted once a minute
_log = structlog.get_logger("egress")


class Edl(Listed):
    """An `Enforcer` over lists that firewalls fetch. `tls_ca_file`: certificate and key, if they come over TLS."""

    tells_end = True  # our own file does

    def __init__(self, firewall: Firewall, base: Path, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        if not firewall.listen:
            raise Refused(f"{self.what}: needs listen, where the lists are served")
        if not _NAME.fullmatch(firewall.list):
            raise Refused(f"{self.what}: list must be a name of letters, digits, _ . -")
        password = secret.read(firewall, base).reveal()
        certificate = base / firewall.tls_ca_file if firewall.tls_ca_file else None
        self._paths = {f"/{firewall.list}-v{version}.txt": version for version in NOBODY}
        self._file = file
        self._lock = threading.Lock()  # the server's thread asks for texts
        self._served: dict[Target, float] | None = None  # None: not known yet
        self._texts: dict[int, Text] = {}
        self._rendered = 0.0  # the time until which the texts hold
        self._unknown_until = 0.0
        self.server = Server(firewall.listen, self.text, user=firewall.user, password=password, certificate=certificate)

    def prepare(self) -> None:
        """The lists are served, as they were left."""
        if self._served is None:
            try:
                found = kept.load(self._file)
            except kept.Damaged as error:
                _log.error("a list starts anew", firewall=self.what, reason=str(error))
                found = None
            with self._lock:
                self._unknown_until = self._unknown_until or self._clock() + UNKNOWN_SECONDS
                self._served = found
        try:
            self.server.start()
        except Refused as error:
            raise Refused(f"{self.what}: {error}") from None

    def apply(
        self, *, add: Sequence[Lease] = (), renew: Sequence[Lease] = (), remove: Sequence[Target] = ()
    ) -> Applied:
        """The lists are as wished and on disk; raises Refused when they can not be kept, and serves what it served."""
        with self._lock:
            before = None if self._served is None else dict(self._served)
            self._served, self._rendered = self._served or {}, 0.0
        applied = super().apply(add=add, renew=renew, remove=remove)
        self._keep(before)
        return applied

    def flush(self) -> None:
        """Both lists name nobody."""
        before = self._served
        self._serve({})
        self._sure = False
        self._keep(before)

    def withdraw(self) -> None:
        """Both lists name nobody, and are served so that firewalls hear of it."""
        self.server.start()
        self.flush()

    def close(self) -> None:
        """Nothing is served any more: firewalls keep what they fetched last."""
        self.server.stop()

    def text(self, path: str) -> Text | None:
        """Return what is served under a path now: nothing yet while it is not known what stands."""
        version = self._paths.get(path)
        if version is None:
            return None
        with self._lock:
            now = self._clock()
            if self._served is None and now < self._unknown_until:
                return Text(b"", 0.0)
            if now >= self._rendered or version not in self._texts:
                self._render(now)
            return self._texts[version]

    def _render(self, now: float) -> None:
        """Make the texts anew, under the lock; they hold until the next block runs out."""
        living = {target: ends for target, ends in (self._served or {}).items() if ends > now}
        self._rendered = min(living.values(), default=float("inf"))
        for version, nobody in NOBODY.items():
            addresses = [ipaddress.ip_address(each.address) for each in living if version_of(each.address) == version]
            lines = [str(each) for each in sorted(addresses, key=int)] or [nobody]
            body = ("\n".join(lines) + "\n").encode()
            known = self._texts.get(version)
            if known is None or known.body != body:
                self._texts[version] = Text(body, now)

    def _held(self) -> list[Standing]:
        now = self._clock()
        with self._lock:
            return [Standing(target, ends - now) for target, ends in (self._served or {}).items() if ends > now]

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        now = self._clock()
        self._serve({**(self._served or {}), **{each.target: now + each.seconds for each in (*fresh, *again)}})
        return []

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        gone = set(targets)
        self._serve({target: ends for target, ends in (self._served or {}).items() if target not in gone})
        return []

    def _serve(self, served: dict[Target, float]) -> None:
        now = self._clock()
        with self._lock:
            self._served = {target: ends for target, ends in served.items() if ends > now}
            self._rendered = 0.0

    def _keep(self, before: dict[Target, float] | None) -> None:
        """What is served is on disk; where that fails, what was served is served again."""
        try:
            kept.save(self._file, self._served or {})
        except Refused as error:
            with self._lock:
                self._served, self._rendered = before, 0.0
            self._sure = False
            raise Refused(f"{self.what}: {error}") from None
