"""From what an engine brought to an `Answer` for the cache: judged, cut, with its lifetime; and an old one made stale.

Rules:
1. A reply that does not hold together is a failure with its reason, never an exception.
2. Failures are remembered for FAILURE_TTL and never go stale; only NOERROR and NXDOMAIN do (RFC 8767 section 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core import rr
from core.cut import Form, cut
from core.errors import Malformed
from core.verdict import Action, Trigger, Verdict
from core.wire import Message, walk
from resolver.answers import Answer
from resolver.judge import judge
from resolver.policy import Policy, Ruling, View, verdict
from resolver.sinkhole import block_text
from resolver.subjects import Subject, payload, subjects
from resolver.upstream import Answer as Reply

if TYPE_CHECKING:
    from core.config import Cache as Settings
    from core.names import Name
    from resolver.dns64 import Dns64
    from resolver.sinkhole import Replacement, Sinkhole

FAILURE_TTL: Final = 2  # seconds a failure is remembered, RFC 9520 section 3.2: at least one
STALE_TTL: Final = 30  # seconds a stale answer is served before its servers are asked again, RFC 8767 section 4
PREFETCH_SHARE: Final = 10  # what is in use is asked anew in the last tenth of its life
HEALTHY: Final = frozenset((0, 3))  # NOERROR and NXDOMAIN
_NODATA: Final = Action.NODATA  # enum members are slow to reach through their class
_REPLACED: Final = frozenset((Action.SINKHOLE, Action.NODATA, Action.NXDOMAIN))
_NXDOMAIN: Final = 3  # as a response code
_ADDRESSES: Final = frozenset((rr.A, rr.AAAA))
_EMPTY: Final = Form(b"\x00" * 6, b"", ())


class Replies:
    """Makes the answers of one worker."""

    def __init__(self, policy: Policy, sinkhole: Sinkhole, settings: Settings, dns64: Dns64 | None = None) -> None:
        """`dns64`: what IPv6 addresses under its prefix stand for is judged too."""
        self.replaced = 0  # answers a chain member or an address got blocked
        self.failed = 0
        self._policy = policy
        self._sinkhole = sinkhole
        self._settings = settings
        self._dns64 = dns64

    def answer(self, key: bytes, reply: Reply, keys: list[Name], ruling: Ruling, view: View, now: float) -> Answer:
        """Return what the question `key` (`keys`, `ruling`) comes to in `view`."""
        try:
            answer = self._accepted(key, reply, keys, ruling, view) if reply.wire else None
        except Malformed as error:
            reply = Reply(b"", rr.Rcode.SERVFAIL, ede=rr.Ede.OTHER, ede_text=f"malformed reply: {error}")
            answer = None
        if answer is None:
            self.failed += 1
            answer = _failed(key, reply)
            answer.verdict = verdict(ruling, keys)
        self._date(answer, now)
        answer.upstream = reply.server
        return answer

    def local(self, key: bytes, made: Replacement, verdict_: Verdict, now: float) -> Answer:
        """Return the answer to `key` made here."""
        answer = Answer(key, Form(made.counts, made.body, ()), None, made.rcode)
        answer.ttl = made.ttl
        answer.addresses = made.addresses
        answer.verdict = verdict_
        answer.epoch = self._policy.epoch
        answer.born = now
        answer.expires = answer.stale_until = now + made.ttl
        return answer

    def revived(self, old: Answer, now: float) -> Answer:
        """Return the expired answer `old` as one that is good for STALE_TTL and says that it is stale."""
        answer = Answer(old.key, _relabelled(old.plain), _relabelled(old.signed) if old.signed else None, old.rcode)
        answer.flags = old.flags
        answer.secure = old.secure
        answer.subjects = old.subjects
        answer.addresses = old.addresses
        answer.verdict = old.verdict
        answer.upstream = old.upstream
        answer.epoch = self._policy.epoch
        answer.ede = rr.Ede.STALE_NXDOMAIN if old.rcode == rr.Rcode.NXDOMAIN else rr.Ede.STALE_ANSWER
        answer.ede_text = "its servers do not answer; this is what they said last"
        answer.ttl = STALE_TTL
        answer.born = now
        answer.expires = now + STALE_TTL
        answer.stale_until = old.stale_until
        answer.used = True
        return answer

    def keep(self, answer: Answer, ttl: int, now: float) -> None:
        """Have a healthy answer last for `ttl` seconds at least, here: clients are told what it said."""
        if answer.rcode in HEALTHY and answer.ttl < ttl:
            answer.ttl = ttl
            self._date(answer, now)

    def _date(self, answer: Answer, now: float) -> None:
        settings = self._settings
        answer.epoch = self._policy.epoch
        answer.born = now
        answer.expires = answer.stale_until = now + answer.ttl
        if answer.rcode not in HEALTHY or answer.verdict.action >= _NODATA or answer.ttl <= 0:
            return
        answer.stale_until += settings.serve_stale
        if settings.prefetch:
            answer.renew_at = answer.expires - answer.ttl // PREFETCH_SHARE

    def _accepted(self, key: bytes, reply: Reply, keys: list[Name], ruling: Ruling, view: View) -> Answer:
        wire = reply.wire
        message = walk(wire)
        if message.qname != key[:-5] or message.qtype != key[-5] << 8 | key[-4]:
            raise Malformed("it answers another question")
        met, addresses = subjects(wire, message)
        if self._dns64 is not None:
            meant = [self._dns64.extract(address) for address in addresses if len(address) == 16]
            met += [Subject(Trigger.ADDRESS, address, address=True) for address in meant if address is not None]
        found = judge(self._policy, keys, ruling, met, view)
        if found.action in _REPLACED:
            answer = self._replaced(key, message.qtype, found)
        else:
            answer = self._true(key, wire, message, reply)
            answer.addresses = tuple(addresses)
            if message.qtype not in _ADDRESSES:
                answer.payload = payload(wire, message)
        answer.subjects = tuple(met)
        answer.verdict = found
        return answer

    def _replaced(self, key: bytes, qtype: int, found: Verdict) -> Answer:
        self.replaced += 1
        made = self._sinkhole.replacement(found.action, qtype)
        answer = Answer(key, Form(made.counts, made.body, ()), None, made.rcode)
        answer.ttl = made.ttl
        answer.ede = rr.Ede.BLOCKED
        answer.ede_text = block_text(found)
        answer.addresses = made.addresses
        return answer

    def _true(self, key: bytes, wire: bytes, message: Message, reply: Reply) -> Answer:
        lifetime = self._lifetime(wire, message)
        no = lifetime if _is_negative(message) else -1
        plain = self._capped(cut(wire, message, signatures=False), no)
        signed = self._capped(cut(wire, message, signatures=True), no) if message.signed else None
        answer = Answer(key, plain, signed, message.rcode)
        answer.secure = reply.secure
        answer.ttl = lifetime
        if message.rcode not in HEALTHY:
            answer.ede = reply.ede if reply.ede >= 0 else rr.Ede.OTHER
            answer.ede_text = reply.ede_text or f"{reply.server} says {rr.rcode_text(message.rcode)}"
        return answer

    def _lifetime(self, wire: bytes, message: Message) -> int:
        """Seconds an answer may be kept; negative ones by their SOA (RFC 2308 section 5), without one not at all."""
        if message.rcode not in HEALTHY:
            return FAILURE_TTL
        settings, records = self._settings, message.records
        if _is_negative(message):
            soa = next((record for record in records if record.section == 2 and record.rtype == rr.SOA), None)
            minimum = int.from_bytes(wire[soa.end - 4 : soa.end], "big") if soa is not None else 0
            return min(message.lowest, minimum, settings.max_negative_ttl)
        return max(min(message.lowest, settings.max_ttl), settings.min_ttl)

    def _capped(self, form: Form, no: int) -> Form:
        """Bound the TTLs; what proves a "no" is to be kept by clients for `no` seconds at most, as it is here."""
        low, high = self._settings.min_ttl, self._settings.max_ttl
        ttls = form.ttls
        if no >= 0:
            answers = form.counts[0] << 8 | form.counts[1]
            ttls = ttls[:answers] + tuple([(at, min(ttl, no)) for at, ttl in ttls[answers:]])
            low = min(low, no)
        for _, ttl in ttls:
            if not low <= ttl <= high:
                return form.lasting(tuple([(at, min(max(ttl, low), high)) for at, ttl in ttls]))
        return form if ttls is form.ttls else form.lasting(ttls)


def _is_negative(message: Message) -> bool:
    """True for a reply that says a name or a type does not exist."""
    return message.rcode == _NXDOMAIN or not message.records or message.records[0].section != 1


def _failed(key: bytes, reply: Reply) -> Answer:
    answer = Answer(key, _EMPTY, None, reply.rcode or rr.Rcode.SERVFAIL)
    answer.ede = reply.ede if reply.ede >= 0 else (rr.Ede.BOGUS if reply.bogus else rr.Ede.OTHER)
    answer.ede_text = reply.ede_text
    answer.ttl = FAILURE_TTL
    return answer


def _relabelled(form: Form) -> Form:
    return form.lasting(tuple([(at, STALE_TTL) for at, _ in form.ttls]))
