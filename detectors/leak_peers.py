"""Evidence that scales a budget: how many others send as much to the same domain, for how long, and who does mail.

Rules:
1. Evidence is what an attacker cannot write into a name: loads of other clients of the organisation, age, role.
2. A domain that carried no data while learning gets no help from peers for two days and little after that, and what all
   its clients together send is bounded (detectors/leak_sums.py): a group of bots looks like peers too.
"""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING, Any, Final

from detectors.leak_accounts import DAY, HOUR, WEEK, Account
from detectors.leak_code import Coder
from detectors.leak_sums import LONE, Sum

if TYPE_CHECKING:
    from core.names import Name

CLIENTS_KNOWN: Final = 20  # clients of a domain that are remembered by address
PEERS_KNOWN: Final = 64  # loaded clients of a domain and day
PEER_LOAD: Final = 0.1  # load from which a client counts as a peer
RANK: Final = 6  # the load that is exceeded by five others

FEW: Final = 10  # clients; fewer are no crowd
MANY: Final = 20  # clients; from here on the loads of today count as well, not only those of the days before
CROWD: Final = 32  # peers; an attacker does not have so many clients for a day unseen

STEP: Final = 3.0  # times the load of the sixth peer
STEP_LEARNED: Final = 4.0
STEP_CROWD: Final = 8.0
MOST: Final = 256.0  # budgets
MOST_UNLEARNED: Final = 4.0
MOST_UNLEARNED_CROWD: Final = 16.0
_KEEP: Final = 0.95  # of the level from day to day, so that a weekend does not wipe it out

MAIL_DOMAINS: Final = 30  # asked for MX, DMARC or DKIM
MAIL_AGE: Final = 3.0 * DAY
MAIL_REPLIES: Final = 20
MAIL_SHARE: Final = 0.95  # of replies that are NXDOMAIN or 127/8
_MAIL_BEGUN: Final = 10  # domains after which the learning phase takes a client for a mail server


class Use:
    """Who asks at a domain, since when, and what all of them sent."""

    __slots__ = ("clients", "first", "learned", "sum")

    def __init__(self, first: float) -> None:
        self.first: float = first  # Unix seconds
        self.clients: tuple[bytes, ...] = ()  # at most CLIENTS_KNOWN
        self.learned: int = 0  # clients that came while learning
        self.sum: Sum | None = None  # none within the first tier

    def meet(self, client: bytes, *, learning: bool) -> None:
        """Take in a client that was not there lately."""
        self.learned += learning
        if len(self.clients) < CLIENTS_KNOWN and client not in self.clients:
            self.clients = (*self.clients, client)

    def carried(self, now: float) -> Sum:
        """Return the sum of what was sent; it begins now when there is none."""
        found = self.sum
        if found is None:
            found = self.sum = Sum(now)
        return found

    def crowded(self) -> bool:
        """True of a domain that a crowd asked at while learning."""
        return self.learned > CROWD

    def limit(self, now: float, budget: float) -> float:
        """Return how many bits all clients may send here."""
        return self.carried(now).limit(now, budget, crowded=self.crowded())

    def lone(self) -> bool:
        """True while hardly anybody else asks there."""
        return len(self.clients) <= LONE


class Apex:
    """A domain somebody left the first tier at: its code, and the loads of its clients."""

    __slots__ = ("before", "coder", "day_at", "hour_at", "level", "peers", "today", "use")

    def __init__(self, use: Use, now: float, *, reverse: bool = False) -> None:
        self.use: Use = use
        self.coder: Coder = Coder(reverse=reverse)
        self.today: dict[bytes, float] = {}  # client -> highest load since `day_at`
        self.before: float = 0.0  # the level of the days before
        self.level: float = 0.0  # load that five others exceed
        self.peers: int = 0  # clients loaded at that time
        self.day_at: float = now
        self.hour_at: float = now

    def note(self, client: bytes, load: float) -> None:
        """Take in a client's load when it counts as a peer."""
        known = self.today.get(client)
        if known is None:
            if len(self.today) >= PEERS_KNOWN:
                return
        elif load <= known:
            return
        self.today[client] = load

    def refresh(self, now: float) -> None:
        """Bring the level up to date when an hour has passed."""
        if now - self.hour_at < HOUR and now - self.day_at < DAY:
            return
        self.hour_at = now
        sixth = self._sixth()
        if now - self.day_at >= DAY:
            self.before = max(self.before * _KEEP ** ((now - self.day_at) / DAY), sixth)
            self.peers = len(self.today)
            self.today = {}
            self.day_at = now
        self.level = self.before
        if len(self.use.clients) >= MANY:
            self.level = max(self.level, sixth)
            self.peers = max(self.peers, len(self.today))

    def allowance(self, now: float) -> float:
        """Return how many budgets the peers of a client speak for, at least one."""
        self.refresh(now)
        use = self.use
        carried = use.carried(now)
        learned = use.crowded() or carried.known()
        if len(use.clients) < FEW or (not learned and carried.young(now)):
            return 1.0
        crowd = self.peers >= CROWD
        step = STEP_CROWD if crowd else (STEP_LEARNED if learned else STEP)
        most = MOST if learned else (MOST_UNLEARNED_CROWD if crowd else MOST_UNLEARNED)
        return max(1.0, min(step * self.level, most))

    def dump(self) -> list[Any]:
        """Return the state as plain values."""
        numbers = [self.before, self.level, self.day_at, self.hour_at]
        return [self.coder.dump(), numbers, self.peers, self.today]

    def restore(self, state: list[Any]) -> None:
        """Take up what `dump` returned; raises ValueError or TypeError when it is something else."""
        coder, numbers, peers, today = state
        self.coder.load(coder)
        self.before, self.level, self.day_at, self.hour_at = (float(number) for number in numbers)
        self.peers = int(peers)
        self.today = {bytes(client): float(load) for client, load in dict(today).items()}

    def _sixth(self) -> float:
        if len(self.today) < RANK:
            return 0.0
        return sorted(self.today.values())[-RANK]


class Client:
    """What is known of a client whatever the domain: its lone domains together, and signs of a mail server."""

    __slots__ = ("alerted", "exits", "exits_at", "lone", "mail_domains", "mail_since", "wide")

    def __init__(self, now: float) -> None:
        self.lone: Account = Account(now)  # beyond the first tier
        self.wide: Account = Account(now)  # within the first tier
        self.alerted: float = -inf  # Unix seconds of the last alert about its lone domains
        self.exits: float = 0.0  # lone domains at which the first tier was left, of a week
        self.exits_at: float = now
        self.mail_domains: set[Name] = set()
        self.mail_since: float = now

    def note_mail(self, now: float, domain: Name) -> None:
        """Take in a domain that was asked for MX, DMARC or DKIM."""
        if not self.mail_domains:
            self.mail_since = now
        if len(self.mail_domains) < MAIL_DOMAINS:
            self.mail_domains.add(domain)

    def note_exit(self, now: float) -> None:
        """Take in a lone domain at which the first tier was left."""
        self.exits = self.exits * exp(-max(now - self.exits_at, 0.0) / WEEK) + 1.0
        self.exits_at = now

    def mails(self, now: float) -> bool:
        """True when the client has been doing a mail server's work for days."""
        return len(self.mail_domains) >= MAIL_DOMAINS and now - self.mail_since >= MAIL_AGE

    def may_mail(self) -> bool:
        """True when the client looks like a mail server in the learning phase."""
        return len(self.mail_domains) >= _MAIL_BEGUN

    def dump(self) -> list[Any]:
        """Return the state as plain values."""
        numbers = [self.exits, self.exits_at, self.mail_since, self.alerted]
        return [self.lone.dump(), self.wide.dump(), numbers, list(self.mail_domains)]

    def restore(self, state: list[Any]) -> None:
        """Take up what `dump` returned; raises ValueError or TypeError when it is something else."""
        lone, wide, numbers, mail = state
        self.lone.restore(lone)
        self.wide.restore(wide)
        self.exits, self.exits_at, self.mail_since, self.alerted = (float(number) for number in numbers)
        self.mail_domains = {bytes(domain) for domain in mail}
