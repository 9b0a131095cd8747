"""Where blocked names truly are: from the events of blocked questions to addresses that firewalls are told.

Rules:
1. `see` costs microseconds: what is known to be fresh is passed over, what is to be learnt is queued, nothing is waited
   for. All tables are bounded.
2. What clients are given goes into the passive DNS by which the guard judges; it is looked at before each judgement.
3. In a second at most A_SECOND blocks that are news are gone into; the others are counted, and are news again when they
   come again.
4. Until the ranges of CDNs and clouds are read nothing is judged: what is to be learnt waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from core.config import Egress
from core.errors import UNREADABLE, BadFeed, PlugholeError
from core.names import from_text
from core.verdict import Action, Cause
from egress.guard import Guard
from egress.reserved import Carriers
from egress.uses import Remembered, Uses, UseSettings
from resolver.blamed import LEARNT, Blamer
from resolver.given import Given
from resolver.keeping import Saver, read
from resolver.own import own_networks
from resolver.posting import Post
from resolver.proposing import Proposer
from resolver.ranging import RangeFiles
from resolver.referring import Referring
from resolver.servers import Servers
from resolver.targets import REST, Targets
from resolver.upstream.route import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from core.config import Config
    from core.event import Event
    from core.names import Name
    from egress.range_lists import Lists
    from feeds.overlay import Override
    from resolver.blamed import Blamed
    from resolver.upstream import Upstream

BY_ADDRESS: Final = 300.0  # seconds an address that is bad by itself rests; a block lasts twice that, at least
MAX_DUE: Final = 100_000  # names and (name, client) that rest
MAX_EARLY: Final = 1_000  # blocks that wait for the ranges
AT_A_TICK: Final = 1_000  # answers of clients taken in, a few milliseconds
A_SECOND: Final = 1_000  # blocks gone into, 10 us each; more names cannot be asked either
OUTSTANDING: Final = 256  # questions the engine may hold
FOLDER: Final = "egress"  # below the data folder
RANGES: Final = "ranges"  # below that: newer lists of networks than those that ship
_NODATA: Final = Action.NODATA.value
_log = structlog.get_logger("egress")


class Learning:
    """The learner of one node. Everything but `Post` runs on the event loop."""

    def __init__(
        self,
        config: Config,
        *,
        now: float,
        node: str,
        clock: Callable[[], float] = time.time,
        post: Post | None = None,
    ) -> None:
        """`node` is how this node is called in what it posts."""
        self.trouble = ""
        self._config = config
        self._clock = clock
        self._mode = config.egress.learn
        trusted = frozenset(map(from_text, config.egress.trusted))
        self._uses = Uses(UseSettings(trusted=trusted), Carriers(filter(None, [config.local.dns64_prefix])))
        self._own = own_networks(config)
        self._proposer = Proposer(self._guard(), post or Post(config), node=node)
        self._blamer = Blamer(config.egress.spare)
        self._engine: Upstream | None = None
        self._ranges = RangeFiles(config.data_dir / FOLDER / RANGES, now=now)
        self._ready = False  # they are read
        self._early: deque[Blamed] = deque()  # what was blocked before
        self._due: dict[object, float] = {}
        self._second = now  # when it began
        self._left = A_SECOND
        self._put_off = 0
        self._given = Given(self._uses, self._spoke, now=now)
        self.equip(None)
        self._now = now
        self._saver = Saver(config.data_dir / FOLDER / "uses", self._dump, now=now)
        self._loading: asyncio.Task[None] | None = None
        if self.on:
            self._load(now)

    @property
    def on(self) -> bool:
        """True when anything is to be learnt."""
        return self._mode != "off"

    def start(self) -> None:
        """Begin: read the ranges, start the engine and the thread that posts."""
        if not self.on:
            return
        self._proposer.post.start()
        self._read_ranges()
        if self._mode == "active":
            self._start_engine()

    def equip(self, engine: Upstream | None) -> None:
        """Ask this engine from now on, None for nobody."""
        recurses = engine if self._config.upstream.mode == "recursive" else None
        asked = engine if recurses is None else Referring(recurses)
        self._targets = Targets(self._proposer, self._given, self._clock, engine=asked)
        self._servers = Servers(recurses, self._proposer.guard, self._spoke, self._clock)

    def begin(self, lists: Lists) -> None:
        """Judge by these ranges from now on, and what was blocked before them."""
        if not self.on:
            return
        for mistake in lists.mistakes:
            _log.error("list of networks left out", reason=mistake)
        if self._ready and lists.mistakes:
            return  # what is in force is better than what ships
        self._proposer.guard.configure(self._config.egress, lists=lists, own=self._own)
        self._ready = True
        now = self._clock()
        while self._early:
            self._take(self._early.popleft(), now)
        self._proposer.flush(now)
        self._pump(now)

    def see(self, events: Iterable[Event]) -> None:
        """Take in what clients asked and got."""
        if not self.on:
            return
        now = self._clock()
        if not 0.0 <= now - self._second < 1.0:
            self._second, self._left = now, A_SECOND
        due = self._due
        recent, older = self._given.recent, self._given.older
        for event in events:
            at = event.at
            if event.action >= _NODATA:
                if at < due.get(event.qname, 0.0) or at < due.get((event.qname, event.client), 0.0):
                    continue
                if event.cause in LEARNT:
                    self._blocked(event)
            elif event.answers:
                key = (event.client, event.qname, event.answers)
                if key not in recent and key not in older:
                    recent.add(key)
                    self._passed(event)
        self._proposer.flush(now)
        self._pump(now)

    def tick(self, now: float) -> None:
        """Do what is due, a few times a second."""
        if not self.on:
            return
        if now < self._now - REST:  # the clock was set back: nothing rests until a day that may never come
            self._due.clear()
            self._targets.clear()
        self._now = now
        self._given.catch_up(AT_A_TICK)
        self._given.turn(now)
        self._proposer.flush(now)
        self._pump(now)
        self._saver.tick(now)
        if self._ranges.changed(now) and (self._loading is None or self._loading.done()):
            self._read_ranges()

    def follow(self, overrides: Iterable[Override]) -> None:
        """Take in what analysts and detectors decided."""
        if not self.on:
            return
        overrides = tuple(overrides)
        self._blamer.follow(overrides)
        before = self._proposer.allowed
        self._proposer.follow(overrides, now=self._clock())
        if self._proposer.allowed != before:
            self._due.clear()
            self._targets.clear()
            self._given.all_news()

    def close(self) -> None:
        """End, with what is known on disk and what was ordered posted."""
        if not self.on:
            return
        if self._loading is not None:
            self._loading.cancel()
        if self._engine is not None:
            self._engine.close()
        self._given.catch_up(len(self._given))
        self._saver.write()
        self._proposer.post.close()

    def troubles(self) -> list[str]:
        """Return one line for each part that does not do its whole job."""
        return [f"egress: {text}" for text in (self.trouble, self._saver.trouble) if text]

    def counters(self) -> dict[str, Any]:
        """Return what was learnt, published, refused, queued, dropped and is in flight."""
        return {
            "learnt": self._targets.learnt,
            **self._proposer.counters(),
            **self._proposer.post.counters(),
            **self._targets.lookups.counters(),
            "servers_noted": self._servers.noted,
            "servers_queued": self._servers.lookups.counters()["queued"],
            "held_back": self._blamer.held_back,
            "put_off": self._put_off,
            "targets": len(self._targets),
            "uses": len(self._uses),
            "uses_evicted": self._uses.evicted,
            "uses_waiting": len(self._given),
            "uses_dropped": self._given.dropped,
        }

    # ---- what was blocked

    def _blocked(self, event: Event) -> None:
        listed = event.reasons[0].indicator if event.reasons else ""
        if event.at < self._due.get((listed, event.client), 0.0) and self._blamer.repeats(event):
            return
        if self._left <= 0:
            self._put_off += 1
            return
        self._left -= 1
        if len(self._due) >= MAX_DUE:
            self._due.clear()
        blamed = self._blamer.blame(event)
        if blamed is None:
            self._due[event.qname, event.client] = event.at + REST
            return
        if not self._ready:
            if len(self._early) < MAX_EARLY:
                self._early.append(blamed)
                self._due[event.qname, event.client] = event.at + REST
            return
        until, anybody = self._take(blamed, event.at)
        if not blamed.servers or blamed.name == event.qname:
            self._due[event.qname if anybody else (event.qname, event.client)] = until
        if blamed.servers:
            self._due[listed, event.client] = until

    def _take(self, blamed: Blamed, now: float) -> tuple[float, bool]:
        """Do what a block calls for; returns until when the same block calls for nothing, and if anybody's does so."""
        self._given.catch_up(AT_A_TICK)
        case = blamed.case
        self._uses.condemn(case.domain, now=now, below=case.below)
        self._servers.meet(case.domain, now, blocked=True)
        if not blamed.address:
            return self._targets.take(blamed, now)
        self._targets.learnt += 1
        self._proposer.propose(case, blamed.address, 0.0, case.evidence, now=now)
        return now + BY_ADDRESS, False

    # ---- what passed

    def _passed(self, event: Event) -> None:
        if event.action is Action.PASSTHRU and event.cause is Cause.OVERRIDE:
            self._proposer.see_allowed(event.qname, event.answers, now=event.at)
        self._given.take(event)
        self._servers.meet(event.qname, event.at)

    def _spoke(self, name: Name, address: bytes) -> None:
        self._proposer.came_into_use(name, address, now=self._clock())

    def _pump(self, now: float) -> None:
        self._targets.lookups.pump(now)
        self._servers.lookups.pump(now)

    # ---- beginning and state

    def _guard(self) -> Guard:
        """Return the guard; nothing is learnt when the networks it shall never block are none."""
        try:
            return Guard(self._config.egress, self._uses, own=self._own)
        except BadFeed as error:
            self._fail(f"nothing is learnt: {error}")
            self._mode, self._own = "off", {}
            return Guard(Egress(), self._uses)

    def _fail(self, trouble: str) -> None:
        self.trouble = trouble
        _log.error("egress does not do its whole job", reason=trouble)

    def _start_engine(self) -> None:
        config = self._config
        settings = msgspec.structs.replace(config.upstream, max_outstanding=OUTSTANDING)
        try:
            self._engine = build(settings, base=Path(config.base))
            self._engine.start()
        except (PlugholeError, ValueError, OSError) as error:
            self._engine = None
            self._fail(f"blocked names are not resolved, only what clients were given is known: {error}")
        self.equip(self._engine)

    def _read_ranges(self) -> None:
        self._loading = asyncio.get_running_loop().create_task(self._take_up_ranges())

    async def _take_up_ranges(self) -> None:
        """Read the lists of networks off the loop, then do what waited for them."""
        try:
            lists = await asyncio.get_running_loop().run_in_executor(None, self._ranges.read)
        except (BadFeed, OSError) as error:
            if not self._ready:
                self._fail(f"nothing is learnt, the lists of networks cannot be read: {error}")
            return
        self.begin(lists)

    def _dump(self) -> dict[str, Any]:
        kept = msgspec.msgpack.encode(self._uses.dump())
        return {"uses": kept, "allowed": sorted(self._proposer.allowed)}

    def _load(self, now: float) -> None:
        state = read(self._saver.path)
        if state is None:
            return
        try:
            self._uses.load(msgspec.msgpack.decode(state["uses"], type=Remembered), now=now)
            self._proposer.allowed = frozenset(msgspec.convert(state["allowed"], tuple[bytes, ...]))
        except (KeyError, *UNREADABLE) as error:
            _log.error("own passive DNS left out", path=str(self._saver.path), reason=str(error))
