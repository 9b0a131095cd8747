"""The leak meter: how many bytes a client can have sent out in the names it asked for, and the query that is too much.

Rules:
1. A query is charged before it is sent on. The one that would pass the budget is not sent and not charged, and its pair
   of client and registered domain stays blocked until somebody releases it or a month is over.
2. No domain is trusted by its name. What raises a budget is evidence about the organisation or a word of its operator
   (detectors/leak_budgets.py).
3. The first tier charges by length, hardly less than a name can carry, and costs next to nothing; only pairs that
   leave it get a code and accounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from core.finding import Confidence, Finding
from detectors import leak_words as words
from detectors.leak_accounts import DAY, Pair
from detectors.leak_budgets import CLIENT_FULL, CLIENT_NEAR, DOMAIN_FULL, FITS, Budgets
from detectors.leak_crude import (
    CARRIER_FACTOR,
    CARRIERS,
    FRESH_MASK,
    KNOWN,
    ODD_REPEAT,
    PLAIN_TYPES,
    REPEAT,
    REPEATS,
    SEED,
    crude_bits,
)
from detectors.leak_peers import PEER_LOAD, Apex
from detectors.leak_settings import LeakSettings
from detectors.leak_state import ARPA, MX, TXT, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.names import Name
    from detectors.leak_accounts import Account

__all__ = ["LeakMeter", "LeakSettings"]

PAID: Final = 8.0  # bits of a name the first tier was paid for, when the second sees it for the first time
WIDE_FREE: Final = 24 * 8  # bits of a pair within the first tier that are not charged to its client

_LOOK: Final = 0.75  # load from which evidence is weighed
_AGAIN: Final = 7.0 * DAY  # seconds until a pair is alerted about once more
MAX_ALERTS: Final = 1_024  # waiting to be taken
MAX_UNSENT: Final = 65_536  # pairs whose charges wait to be told to other nodes
_NX: Final = 3
_LOOPBACK: Final = 127


class LeakMeter:
    """The accounts of one worker's clients. Time is Unix seconds, never read here."""

    __slots__ = (
        "_alert_share",
        "_alerts",
        "_alerts_dropped",
        "_blocked",
        "_blocks",
        "_budgets",
        "_cut",
        "_latch",
        "_off",
        "_sharing",
        "_state",
        "_unsent",
        "_unsent_dropped",
    )

    def __init__(self, settings: LeakSettings, *, started: float, tagged: frozenset[bytes] = frozenset()) -> None:
        """Start learning at `started`; `tagged` are the addresses of mail servers. Raises BadName, ValueError."""
        self._off: bool = settings.mode == "off"
        self._blocks: bool = settings.mode == "block"
        self._alert_share: float = settings.alert_share
        self._latch: float = settings.latch_days * DAY
        self._state: State = State(started)
        self._budgets: Budgets = Budgets(settings, self._state, started=started, tagged=tagged)
        self._alerts: list[Finding] = []
        self._alerts_dropped: int = 0
        self._blocked = self._cut = 0  # queries, and pairs
        self._sharing: bool = False  # somebody takes the totals
        self._unsent: list[Pair] = []
        self._unsent_dropped: int = 0

    def check(self, now: float, client: bytes, domain: Name, qname: Name, qtype: int) -> Finding | None:
        """Charge the question, or return why it must not be sent on; it is then not charged."""
        if self._off:
            return None
        if qtype in {MX, TXT}:
            self._state.note_mail(now, client, domain, qname, qtype)
        key = client + domain
        pair = self._state.pairs.get(key)
        if pair is None:
            return self._first_tier(now, client, domain, qname, qtype, key)
        if pair.finding is None:
            return self._second_tier(now, pair, qname, qtype)
        return self._latched(now, pair, qname, qtype)

    def answered(  # noqa: PLR0917 - called for every reply: positions are cheaper
        self,
        now: float,  # noqa: ARG002 - the clock of all calls, of use to a meter that ages replies
        client: bytes,
        domain: Name,
        qtype: int,  # noqa: ARG002 - likewise
        rcode: int,
        addresses: tuple[bytes, ...],
    ) -> None:
        """Take in what a question was answered: block lists for mail say NXDOMAIN or an address in 127/8."""
        pair = self._state.pairs.get(client + domain)
        if pair is None:
            return
        pair.replies += 1
        if rcode == _NX or (addresses and len(addresses[0]) == 4 and addresses[0][0] == _LOOPBACK):
            pair.void += 1

    def watches(self, domain: Name) -> bool:
        """True for a domain some client of which left the first tier."""
        apexes = self._state.apexes
        return domain in apexes.young or domain in apexes.old

    def take_alerts(self) -> list[Finding]:
        """Return the findings that block nothing and were not taken yet."""
        taken, self._alerts = self._alerts, []
        return taken

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""
        self._state.tick(now)

    def counters(self) -> dict[str, int]:
        """Return sizes of the state, what was dropped at its caps, and queries blocked."""
        own = {"blocked": self._blocked, "pairs_cut": self._cut}
        own |= {"alerts_dropped": self._alerts_dropped, "unsent_dropped": self._unsent_dropped}
        return self._state.counters() | own

    def review(self, now: float) -> list[words.Lone]:
        """Return the pairs for whose load nobody else speaks, the heaviest first."""
        found = [lone for pair in self._state.pairs.values() if (lone := self._budgets.alone(now, pair)) is not None]
        return sorted(found, key=lambda lone: -lone.per_day)

    def confirm(self, client: bytes, domain: Name) -> None:
        """Let the pair send more from now on and release it; an empty client stands for all of them."""
        self._budgets.confirmed.add(client + domain)
        for pair in self._state.pairs.values():
            if pair.domain == domain and client in {b"", pair.client} and pair.finding is not None:
                pair.finding = None

    def forget(self, client: bytes, domain: Name) -> None:
        """Release the pair with empty accounts, and take a confirmation back; an empty client stands for all.

        What all clients sent to the domain together is forgotten only for all.
        """
        self._budgets.confirmed.discard(client + domain)
        self._state.release(client, domain)

    def totals(self, now: float) -> list[words.Total]:  # noqa: ARG002 - the clock of all calls
        """Return what was charged beyond the first tier since the last call, for the `add_foreign` of other nodes.

        The first call returns nothing: who never asks is not counted for.
        """
        self._sharing = True
        told = []
        for pair in self._unsent:
            told.append(words.Total(pair.client, pair.domain, pair.unsent, pair.unsent_fresh))
            pair.unsent = pair.unsent_fresh = 0.0
        self._unsent = []
        return told

    def add_foreign(self, now: float, totals: Sequence[words.Total]) -> None:
        """Charge here what the clients sent through another node."""
        for total in totals:
            key = total.client + total.domain
            pair = self._state.pairs.get(key)
            if pair is None:
                self._meet(now, total.client, total.domain, key)
                pair = self._enter(now, total.client, total.domain, key, 0)
            pair.settle(now)
            pair.add(total.bits, total.fresh)
            apex = self._state.apex(total.domain, now)
            self._budgets.carry(now, pair, apex.use, total.fresh)
            apex.note(total.client, pair.load(0.0, 0.0, self._budgets.pair))

    def dump(self) -> dict[str, Any]:
        """Return the state worth keeping over a restart, as plain values."""
        return {
            **self._state.dump(),
            "learning_until": self._budgets.learning_until,
            "confirmed": list(self._budgets.confirmed),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned; what does not fit this version is left out."""
        fresh = State(0.0)
        try:
            fresh.load(state)
            learning_until = float(state["learning_until"])
            confirmed = {bytes(key) for key in state["confirmed"]}
        except (KeyError, TypeError, ValueError):
            return
        self._state = self._budgets.state = fresh
        self._budgets.learning_until = min(self._budgets.learning_until, learning_until)
        self._budgets.confirmed |= confirmed

    def _first_tier(  # noqa: PLR0917 - called for every miss: positions are cheaper
        self, now: float, client: bytes, domain: Name, qname: Name, qtype: int, key: bytes
    ) -> Finding | None:
        state = self._state
        before = state.cheap.young.get(key, -1)
        if before < 0:
            before = self._meet(now, client, domain, key)
        below = len(qname) - len(domain)
        if not below or qname in state.known.young or qname in state.known.old:
            after = before + (REPEAT if qtype in PLAIN_TYPES else ODD_REPEAT)
            if after < REPEATS:
                state.cheap.young[key] = after
                return None
        else:
            charge = crude_bits(qname, below, qtype, reverse=domain.endswith(ARPA))
            fresh = (before & FRESH_MASK) + charge
            if fresh < SEED:
                state.known.put(qname, True)
                wide = FITS
                if fresh > WIDE_FREE:
                    wide = self._budgets.too_wide(now, client, domain, min(charge, fresh - WIDE_FREE))
                if wide == CLIENT_FULL:
                    pair = self._enter(now, client, domain, key, before)
                    return self._block_wide(now, pair)
                if wide == CLIENT_NEAR:
                    self._warn_client(now, Pair(now, client, domain), state.client(client, now).wide)
                state.cheap.young[key] = before + charge
                return None
        return self._second_tier(now, self._enter(now, client, domain, key, before), qname, qtype)

    def _second_tier(self, now: float, pair: Pair, qname: Name, qtype: int) -> Finding | None:
        apex = self._state.apexes.get(pair.domain)
        if apex is None:
            apex = self._state.apex(pair.domain, now)
        below = qname[: len(qname) - len(pair.domain)]
        coder = apex.coder
        bits = coder.price(below, qtype)
        fresh = 0.0
        if not coder.repeat:
            if qtype in CARRIERS:
                bits *= CARRIER_FACTOR
            elif bits > PAID and qtype in PLAIN_TYPES and self._paid(qname):
                bits = PAID
            fresh = bits
        pair.settle(now)
        load = pair.load(bits, fresh, self._budgets.pair)
        finding = self._weigh(now, pair, apex, bits, load) if load > _LOOK else None
        if finding is None and fresh > 0.0 and now >= self._budgets.learning_until:
            finding = self._weigh_together(now, pair, apex, bits, fresh)
        if finding is not None:
            return finding if self._blocks else None
        coder.learn(below, qtype)
        if load > PEER_LOAD:
            apex.note(pair.client, load)
            if load > pair.peak and now < self._budgets.learning_until:
                pair.peak = load
        self._charge(pair, bits, fresh)
        if fresh > 0.0:
            self._budgets.carry(now, pair, apex.use, fresh)
        return None

    def _paid(self, qname: Name) -> bool:
        """True of a name that was charged to somebody in the first tier."""
        known = self._state.known
        return qname in known.young or qname in known.old

    def _charge(self, pair: Pair, bits: float, fresh: float) -> None:
        pair.add(bits, fresh)
        if self._sharing:
            self._note_unsent(pair, bits, fresh)

    def _weigh(self, now: float, pair: Pair, apex: Apex, bits: float, load: float) -> Finding | None:
        """Return why a pair near its budget is blocked, if it is; alerts on the way there."""
        clients = len(apex.use.clients)
        if now < self._budgets.learning_until:
            if not self._budgets.too_much_to_learn(now, pair, apex, bits):
                return None
            return self._block(now, pair, words.learning_reason(pair.domain, pair), load, clients=clients)
        allowance = self._budgets.allowance(now, pair, apex)
        if load > allowance:
            reason = words.pair_reason(pair.domain, pair, allowance=allowance, blocked=True)
            return self._block(now, pair, reason, load, clients=clients, allowance=allowance)
        if load > allowance - 1.0 + self._alert_share and now - pair.alerted > _AGAIN:
            pair.alerted = now
            reason = words.pair_reason(pair.domain, pair, allowance=allowance, blocked=False)
            self._alert(self._finding(pair, Confidence.MEDIUM, load, reason, clients=clients, allowance=allowance))
        return None

    def _weigh_together(self, now: float, pair: Pair, apex: Apex, bits: float, fresh: float) -> Finding | None:
        """Return why a pair is blocked by a budget it shares, if it is; alerts on the way there."""
        said = self._budgets.together(now, pair, apex, bits, fresh)
        if said == FITS:
            return None
        clients = len(apex.use.clients)
        account = self._state.client(pair.client, now).lone
        carried = apex.use.carried(now)
        if said == CLIENT_FULL:
            reason = words.lone_reason(pair.domain, account, blocked=True)
            return self._block(now, pair, reason, 1.0, clients=clients)
        if said == DOMAIN_FULL:
            reason = words.young_reason(pair.domain, carried, blocked=True)
            return self._block(now, pair, reason, 1.0, clients=clients)
        if said == CLIENT_NEAR:
            self._warn_client(now, pair, account)
        elif now - carried.alerted > _AGAIN:
            carried.alerted = now
            self._warn(pair, words.young_reason(pair.domain, carried, blocked=False), clients=clients)
        return None

    def _warn_client(self, now: float, pair: Pair, account: Account) -> None:
        """Alert that a client's budget for its lone domains is nearly used up; `pair` is the last of them."""
        client = self._state.client(pair.client, now)
        if now - client.alerted > _AGAIN:
            client.alerted = now
            self._warn(pair, words.lone_reason(pair.domain, account, blocked=False))

    def _warn(self, pair: Pair, reason: str, *, clients: int = 1) -> None:
        load = pair.load(0.0, 0.0, self._budgets.pair)
        self._alert(self._finding(pair, Confidence.MEDIUM, load, reason, clients=clients, allowance=1.0))

    def _note_unsent(self, pair: Pair, bits: float, fresh: float) -> None:
        if not pair.unsent:
            if len(self._unsent) >= MAX_UNSENT:
                self._unsent_dropped += 1
                return
            self._unsent.append(pair)
        pair.unsent += bits
        pair.unsent_fresh += fresh

    def _meet(self, now: float, client: bytes, domain: Name, key: bytes) -> int:
        """Take in a pair that is new this week; returns what it was charged in the week before."""
        state = self._state
        bits = state.cheap.old.pop(key, 0)
        state.use(domain, now).meet(client, learning=not bits and now < self._budgets.learning_until)
        state.cheap.put(key, bits)
        return bits

    def _enter(self, now: float, client: bytes, domain: Name, key: bytes, charged: int) -> Pair:
        """Move a pair from the first tier to accounts that hold what it was charged there.

        Repeated names took long to add up, so they are charged to the week alone.
        """
        state = self._state
        state.cheap.young.pop(key, None)
        pair = Pair(now, client, domain)
        pair.learned = now < self._budgets.learning_until
        seed = charged & FRESH_MASK
        self._charge(pair, seed, seed)
        use = state.use(domain, now)
        if use.carried(now).join(learning=pair.learned):
            self._budgets.carry(now, pair, use, seed)
        pair.week += (charged // REPEAT) * KNOWN
        state.pairs.put(key, pair)
        return pair

    def _latched(self, now: float, pair: Pair, qname: Name, qtype: int) -> Finding | None:
        if now - pair.latched > self._latch:
            pair.release()
            return self._second_tier(now, pair, qname, qtype)
        if not self._blocks:
            return None
        self._blocked += 1
        return pair.finding

    def _block(
        self, now: float, pair: Pair, reason: str, load: float, *, clients: int = 1, allowance: float = 1.0
    ) -> Finding:
        found = self._finding(pair, Confidence.HIGH, load, reason, clients=clients, allowance=allowance)
        pair.finding = found
        pair.latched = now
        self._cut += 1
        if self._blocks:
            self._blocked += 1
        else:
            self._alert(found)
        return found

    def _block_wide(self, now: float, pair: Pair) -> Finding | None:
        account = self._state.client(pair.client, now).wide
        found = self._block(now, pair, words.lone_reason(pair.domain, account, blocked=True), 1.0)
        return found if self._blocks else None

    def _alert(self, found: Finding) -> None:
        if len(self._alerts) < MAX_ALERTS:
            self._alerts.append(found)
        else:
            self._alerts_dropped += 1

    def _finding(
        self, pair: Pair, confidence: Confidence, load: float, reason: str, *, clients: int, allowance: float
    ) -> Finding:
        shown = words.evidence(pair, self._budgets.pair, clients=clients, allowance=allowance)
        return words.finding(pair.client, pair.domain, confidence=confidence, load=load, reason=reason, evidence=shown)
