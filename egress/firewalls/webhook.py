"""A web service of the organisation's own: signed JSON tells it what to block, renew and release.

Each request is `POST url` with {"id", "at", "list", "block": [{"address", "client", "seconds"}], "release": [...]} and
the headers `X-Plughole-Timestamp` (Unix seconds) and `X-Plughole-Signature`: "sha256=" and the HMAC-SHA256, in hex, of
the timestamp, a full stop and the body, with the content of `secret_file` as the key. An answer of 2xx says that it is
done; {"failures": [{"address", "client", "reason"}]} in it names what is not. What stands is kept here.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec

from egress.enforcer import Failure, Standing, Target
from egress.firewalls import kept
from egress.firewalls.listed import Listed, Rejected
from egress.firewalls.secret import needed
from egress.firewalls.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Applied, Lease

PIECE: Final = 1_000  # targets in one request


class _Failure(msgspec.Struct):
    address: str
    client: str = ""
    reason: str = ""


class _Answer(msgspec.Struct):
    failures: list[_Failure] = []


class Webhook(Listed):
    """An `Enforcer` that tells a receiver, pairs too, and keeps what it told in a file."""

    pairs = True
    tells_end = True  # our own file does

    def __init__(self, firewall: Firewall, base: Path, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        self._secret = needed(firewall, base)
        self._service = Service(firewall, base, secret=self._secret)
        self._url = firewall.url  # whole: joined to a base it would get a slash at its end, and lose its query
        self._list = firewall.list
        self._file = file
        self._told: dict[Target, float] | None = None

    def prepare(self) -> None:
        """The receiver answers to an empty change."""
        try:
            self._send([], [])
        except Rejected as error:
            raise self._service.strange() from error

    def apply(
        self, *, add: Sequence[Lease] = (), renew: Sequence[Lease] = (), remove: Sequence[Target] = ()
    ) -> Applied:
        """The receiver is told, and what stands is kept on disk."""
        try:
            return super().apply(add=add, renew=renew, remove=remove)
        finally:
            kept.save(self._file, self._known())

    def flush(self) -> None:
        """The receiver is told to release all that was told and not taken back."""
        super().flush()
        kept.save(self._file, self._known())

    def close(self) -> None:
        """The connection is closed; the receiver ends each block by its seconds."""
        self._service.close()

    def _held(self) -> list[Standing]:
        now = self._clock()
        return [Standing(target, ends - now) for target, ends in self._known().items() if ends > now]

    def _known(self) -> dict[Target, float]:
        if self._told is None:
            try:
                self._told = kept.load(self._file)
            except kept.Damaged:
                self._told = {}
        return self._told

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        return self._tell((*fresh, *again), self._send_block)

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        return self._tell(targets, self._send_release)

    def _send_block(self, leases: Sequence[Lease]) -> list[Failure]:
        failures = self._send([_lease(lease) for lease in leases], [])
        bad = {failure.target for failure in failures}
        now = self._clock()
        self._known().update({each.target: now + each.seconds for each in leases if each.target not in bad})
        return failures

    def _send_release(self, targets: Sequence[Target]) -> list[Failure]:
        failures = self._send([], [{"address": each.address, "client": each.client} for each in targets])
        bad = {failure.target for failure in failures}
        for target in targets:
            if target not in bad:
                self._known().pop(target, None)
        return failures

    def _tell(self, items: Sequence[Any], send: Callable[[Sequence[Any]], list[Failure]]) -> list[Failure]:
        failures: list[Failure] = []

        def do(piece: Sequence[Any]) -> None:
            failures.extend(send(piece))

        for at in range(0, len(items), PIECE):
            for item, why in self.halving(items[at : at + PIECE], do):
                failures.append(Failure(getattr(item, "target", item), str(why)))
        return failures

    def _send(self, block: list[dict[str, Any]], release: list[dict[str, str]]) -> list[Failure]:
        at = str(int(self._clock()))
        body = msgspec.json.encode(
            {"id": str(uuid.uuid4()), "at": int(at), "list": self._list, "block": block, "release": release}
        )
        signed = hmac.new(self._secret.reveal().encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"x-plughole-timestamp": at, "x-plughole-signature": f"sha256={signed}"}
        reply = self._service.ask("POST", self._url, content=body, headers=headers)
        if not reply.body.lstrip().startswith(b"{"):
            return []  # a receiver may answer 2xx with nothing, or with words
        asked = {Target(each["address"], each["client"]) for each in (*block, *release)}
        return list(self._failures(self._service.read(reply, _Answer).failures, asked))

    def _failures(self, told: Iterable[_Failure], asked: set[Target]) -> Iterable[Failure]:
        for each in told:
            target = Target(each.address, each.client)
            if target in asked:
                asked.discard(target)
                yield Failure(target, self._service.shown(each.reason) or "was not done")


def _lease(lease: Lease) -> dict[str, Any]:
    return {"address": lease.target.address, "client": lease.target.client, "seconds": lease.seconds}
