"""Which budget a pair has, and the budgets it shares: of a client's lone domains, and of a new domain's clients.

Rules:
1. A pair has one budget. Peers, what was learned of a mail server, or the operator's word speak for more.
2. New domains hardly anybody else uses are charged to their client as well, or data split over domains would fit.
3. A domain that carried little while learning has one budget for all its clients, or many bots would fit.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from core.names import Name, from_text
from detectors.leak_accounts import DAY, Account, Budget, Pair
from detectors.leak_peers import MAIL_REPLIES, MAIL_SHARE, Apex, Use
from detectors.leak_state import ARPA, State
from detectors.leak_words import Lone, lone

if TYPE_CHECKING:
    from detectors.leak_settings import LeakSettings

CONFIRMED: Final = 8.0  # budgets of a pair the operator confirmed
PEAKS: Final = 2.0  # times what was learned
LEARNED_LOAD: Final = 0.5  # a peak that speaks for a mail server, or is worth a look
LONE_FREE: Final = 96 * 8.0  # bits of a pair that are not charged to its client
COUNTED: Final = 512.0  # bits of fresh names from which a lone domain of a client counts
EXITS_FREE: Final = 4.0  # such domains of a client and week; from the next one on nothing is free
WIDE_FACTOR: Final = 4.0  # of the lone budget, for what stays within the first tier

FITS: Final = 0  # what is said of a shared budget
CLIENT_NEAR: Final = 1  # it fits, and an alert is due
DOMAIN_NEAR: Final = 2
CLIENT_FULL: Final = 3
DOMAIN_FULL: Final = 4


class Budgets:
    """The budgets of one meter and the evidence that scales them."""

    __slots__ = (
        "_alert_share",
        "_learning_limit",
        "_lone",
        "_tagged",
        "_wide",
        "_young",
        "confirmed",
        "learning_until",
        "pair",
        "state",
    )

    def __init__(self, settings: LeakSettings, state: State, *, started: float, tagged: frozenset[bytes]) -> None:
        """Raises BadName, ValueError for an entry of `confirmed` that is none."""
        self.state: State = state
        self.pair: Budget = Budget(settings.budget * 8.0)
        self.learning_until: float = started + settings.learning_days * DAY
        self.confirmed: set[bytes] = {_confirmed_key(text) for text in settings.confirmed}
        self._lone: Budget = Budget(settings.lone_budget * 8.0, hour_share=1.0)
        self._wide: Budget = Budget(settings.lone_budget * 8.0 * WIDE_FACTOR)
        self._young: float = settings.young_budget * 8.0
        self._alert_share: float = settings.shared_alert_share
        self._learning_limit: float = settings.learning_limit * 8.0
        self._tagged: frozenset[bytes] = tagged

    def allowance(self, now: float, pair: Pair, apex: Apex) -> float:
        """Return how many budgets the pair has after all evidence, at least one."""
        best = apex.allowance(now)
        if self.is_confirmed(pair.client, pair.domain):
            return max(best, CONFIRMED, PEAKS * pair.peak)
        learned = PEAKS * pair.peak
        if learned > best and pair.peak > LEARNED_LOAD and _void(pair) and self._mails(now, pair.client):
            return learned
        return best

    def alone(self, now: float, pair: Pair) -> Lone | None:
        """Return what the operator is to see of a pair with much load for which nobody else speaks."""
        apex = self.state.apex(pair.domain, now)
        pair.settle(now)
        load = max(pair.peak, pair.load(0.0, 0.0, self.pair))
        if load <= LEARNED_LOAD or load <= self.allowance(now, pair, apex) - LEARNED_LOAD:
            return None
        return lone(pair, apex, peak=load)

    def is_confirmed(self, client: bytes, domain: Name) -> bool:
        """True when the operator said that the client may send more there, or that all may."""
        return domain in self.confirmed or client + domain in self.confirmed

    def too_much_to_learn(self, now: float, pair: Pair, apex: Apex, bits: float) -> bool:
        """True when not even the learning phase lets a lone pair send that much in an hour."""
        if not self._learning_limit or pair.hour + bits <= self._learning_limit or not apex.use.lone():
            return False
        if self.is_confirmed(pair.client, pair.domain):
            return False
        return not (_void(pair) and (pair.client in self._tagged or self.state.client(pair.client, now).may_mail()))

    def together(self, now: float, pair: Pair, apex: Apex, bits: float, fresh: float) -> int:
        """Charge the budget of the client, or return which of those the pair shares is full, or nearly so.

        What the domain is charged, `carry` is told when the question has passed everything.
        """
        if fresh <= 0.0 or self._exempt(pair.client, pair.domain):
            return FITS
        share = 0.0
        if pair.peak <= LEARNED_LOAD:
            share = (apex.use.carried(now).bits + fresh) / apex.use.limit(now, self._young)
            if share > 1.0:
                return DOMAIN_FULL
        said = FITS
        if not pair.learned and apex.use.lone():
            said = self._pay_lone(now, pair, bits, fresh)
        return DOMAIN_NEAR if said == FITS and share > self._alert_share else said

    def carry(self, now: float, pair: Pair, use: Use, fresh: float) -> None:
        """Charge the domain with what a pair sent there. What one does that always sent much is its own affair."""
        learning = now < self.learning_until
        if learning or (pair.peak <= LEARNED_LOAD and not self._exempt(pair.client, pair.domain)):
            use.carried(now).add(now, fresh, learning=learning)

    def too_wide(self, now: float, client: bytes, domain: Name, charge: float) -> int:
        """Charge a client for a lone domain within the first tier, or return that the budget is full, or nearly so."""
        if now < self.learning_until or self._exempt(client, domain):
            return FITS
        use = self.state.use(domain, now)
        if use.first < self.learning_until or not use.lone():
            return FITS
        return self._pay(now, self.state.client(client, now).wide, charge, self._wide)

    def _pay_lone(self, now: float, pair: Pair, bits: float, fresh: float) -> int:
        """Charge a client for a lone domain beyond what is free there, or return that the budget is full, or nearly."""
        client = self.state.client(pair.client, now)
        total = pair.month + fresh
        if not pair.counted and total >= COUNTED:
            pair.counted = True
            client.note_exit(now)
            if client.exits > EXITS_FREE:
                client.lone.settle(now)
                client.lone.add(pair.month, pair.month)
        if client.exits <= EXITS_FREE:
            free = LONE_FREE
        elif pair.counted:
            free = 0.0
        else:
            free = COUNTED
        charge = min(bits, total - free)
        return FITS if charge <= 0.0 else self._pay(now, client.lone, charge, self._lone)

    def _pay(self, now: float, account: Account, bits: float, budget: Budget) -> int:
        """Charge the account when it has room."""
        account.settle(now)
        load = account.load(bits, bits, budget)
        if load > 1.0:
            return CLIENT_FULL
        account.add(bits, bits)
        return CLIENT_NEAR if load > self._alert_share else FITS

    def _exempt(self, client: bytes, domain: Name) -> bool:
        return domain.endswith(ARPA) or self.is_confirmed(client, domain)

    def _mails(self, now: float, client: bytes) -> bool:
        return client in self._tagged or self.state.client(client, now).mails(now)


def _void(pair: Pair) -> bool:
    """True when a pair's answers are those of a block list."""
    return pair.replies >= MAIL_REPLIES and pair.void >= MAIL_SHARE * pair.replies


def _confirmed_key(text: str) -> bytes:
    """Return the key of `DOMAIN` or `CLIENT DOMAIN`. Raises BadName, ValueError."""
    client, _, domain = text.strip().rpartition(" ")
    return (ip_address(client.strip()).packed if client else b"") + from_text(domain)
