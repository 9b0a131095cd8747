"""Recursion, DNSSEC validation and validated forwarding inside this process, by libunbound's event API.

Rules:
1. libunbound runs only in `_turn`: when its descriptor is readable, once after each batch of questions, and by a clock
   for its timers, which show on no descriptor.
2. Its callback only takes note of the answer; `done` is called after libunbound has returned, so it may ask again.
3. A question lives in `_waiting` until it is answered or past its deadline. Past it the asker gets SERVFAIL and the
   question counts as abandoned until libunbound lets go of it, because it still costs memory there.
4. A registered domain with too many abandoned questions is answered SERVFAIL at once until libunbound lets go of them,
   which takes it up to half a minute: servers that keep silent must not use up what all others need.
5. libunbound has no checking-disabled per question: a second context without the validator, made when first needed,
   serves those.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.errors import BadConfig, PlugholeError
from core.names import labels, registered_domain, to_text
from core.rr import Ede, Rcode
from resolver.upstream import Answer, Question
from resolver.upstream.libunbound import BOGUS, SECURE, TRIAL, Context, EventBase, load
from resolver.upstream.tls_relay import TlsRelay
from resolver.upstream.unbound_conf import conf_text, mistakes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from core.config import Upstream as Settings
    from core.names import Name

BUSY_TICK: Final = 0.02  # seconds between looks at timers and deadlines while something is asked; retries start at 0.05
IDLE_TICK: Final = 1.0  # seconds, otherwise: libunbound still closes idle TCP connections
ABANDONED_FACTOR: Final = 2  # questions libunbound may hold, abandoned ones too, as a multiple of max_outstanding
SILENT_SHARE: Final = 32  # a domain may hold one in so many of max_outstanding with abandoned questions
MAX_WHY: Final = 240  # characters of libunbound's reason passed on
HEADER: Final = 12  # octets, RFC 1035 section 4.1.1
RCODE_BITS: Final = 0x0F  # of its fourth octet
NAME: Final = "libunbound"
_ORDINARY: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_."


class _Waiting(NamedTuple):
    done: Callable[[Answer], None]
    deadline: float
    qname: Name


class Unbound:
    """The engine over libunbound; see `Upstream` for what its methods promise."""

    def __init__(self, settings: Settings, *, base: Path) -> None:
        self._settings = settings
        self._folder = base
        self._limit = settings.max_outstanding
        self._waiting: dict[int, _Waiting] = {}  # oldest first, so also in order of deadline
        self._ready: deque[tuple[Callable[[Answer], None], Answer]] = deque()  # at most what `_waiting` held
        self._silent_limit = max(1, self._limit // SILENT_SHARE)
        self._abandoned: dict[int, Name] = {}  # the registered domain of each
        self._silent: Counter[Name] = Counter()  # how many of them a registered domain has
        self._number = 0
        self._asked = self._answered = self._timeouts = self._refused = self._failed = self._bogus = 0
        self._turn_due = False
        self._running: _Running | None = None

    def start(self) -> None:
        """Load libunbound and attach it to the running loop.

        Raises Unavailable when the library is missing or refuses its files, BadConfig when the settings are wrong.
        """
        if found := mistakes(self._settings, base=self._folder):
            raise BadConfig(found)
        self._running = running = _Running(self._settings, self._folder, self._called_back)
        running.loop.add_reader(running.events.descriptor, self._turn)
        self._look_again(running, IDLE_TICK)

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done` exactly once, by `timeout` plus a tick."""
        self._asked += 1
        running = self._running
        if running is None:
            self._refuse(done, _failure(Ede.NOT_READY, "the resolver is starting or stopping"))
        elif self._full():
            self._refuse(done, _failure(Ede.OTHER, "too many questions are outstanding"))
        elif self._silent and self._silent[registered_domain(question.qname)] >= self._silent_limit:
            self._refuse(done, _failure(Ede.NO_REACHABLE_AUTHORITY, "servers of this domain keep silent"))
        else:
            self._submit(running, question, done)

    def close(self) -> None:
        """Answer what is outstanding SERVFAIL and give libunbound back. Safe to call twice."""
        running, self._running = self._running, None
        if running is None:
            return
        running.loop.remove_reader(running.events.descriptor)
        if running.tick is not None:
            running.tick.cancel()
        left, self._waiting = self._waiting, {}
        running.free()
        self._abandoned.clear()
        self._silent.clear()
        self._ready += [(entry.done, _failure(Ede.NOT_READY, "the resolver is stopping")) for entry in left.values()]
        self._deliver()

    def counters(self) -> dict[str, int]:
        """Return asked, answered, timeouts, refused and outstanding, and failed, bogus and abandoned beside them."""
        return {
            "asked": self._asked,
            "answered": self._answered,
            "timeouts": self._timeouts,
            "refused": self._refused,
            "outstanding": len(self._waiting),
            "failed": self._failed,
            "bogus": self._bogus,
            "abandoned": len(self._abandoned),
        }

    def _refuse(self, done: Callable[[Answer], None], answer: Answer) -> None:
        self._refused += 1
        done(answer)

    def _full(self) -> bool:
        asked = len(self._waiting)
        return asked >= self._limit or asked + len(self._abandoned) >= self._limit * ABANDONED_FACTOR

    def _submit(self, running: _Running, question: Question, done: Callable[[Answer], None]) -> None:
        if not self._waiting:
            self._look_again(running, BUSY_TICK)
        self._number = number = self._number + 1
        self._waiting[number] = _Waiting(done, running.loop.time() + self._settings.timeout, question.qname)
        problem = self._resolve(running, question, number)
        if problem and number in self._waiting:
            self._note(number, _failure(Ede.OTHER, problem))
            self._failed += 1
        if not self._turn_due:
            self._turn_due = True
            running.loop.call_soon(self._turn)

    def _resolve(self, running: _Running, question: Question, number: int) -> str:
        try:
            context = running.unchecked() if question.checking_disabled else running.context
        except PlugholeError as error:
            return str(error)
        return context.resolve(_presentation(question.qname), question.qtype, qclass=question.qclass, number=number)

    def _turn(self) -> None:
        self._turn_due = False
        if self._running is not None:
            self._running.events.run()
            self._deliver()

    def _on_tick(self) -> None:
        running = self._running
        if running is None:
            return
        self._expire(running.loop.time())
        self._look_again(running, BUSY_TICK if self._waiting or self._abandoned else IDLE_TICK)
        self._turn()

    def _look_again(self, running: _Running, delay: float) -> None:
        if running.tick is not None:
            running.tick.cancel()
        running.tick = running.loop.call_later(delay, self._on_tick)

    def _expire(self, now: float) -> None:
        late = []
        for number, entry in self._waiting.items():
            if entry.deadline > now:
                break
            late.append(number)
        for number in late:
            self._abandon(number, self._waiting[number].qname)
            self._note(number, _failure(Ede.NO_REACHABLE_AUTHORITY, f"no answer within {self._settings.timeout:g} s"))

    def _abandon(self, number: int, qname: Name) -> None:
        self._timeouts += 1
        self._abandoned[number] = domain = registered_domain(qname)
        self._silent[domain] += 1

    def _forget(self, number: int) -> None:
        domain = self._abandoned.pop(number)
        self._silent[domain] -= 1
        if not self._silent[domain]:
            del self._silent[domain]

    def _called_back(  # noqa: PLR0917  libunbound sets the signature
        self, number: int, rcode: int, packet: Any, length: int, sec: int, why: Any, _ratelimited: int
    ) -> None:
        running = self._running
        if running is None or number == TRIAL:
            return  # when closing, `close` answers
        if number not in self._waiting:
            self._forget(number)
            return
        wire = running.bytes_of(packet, length) if rcode == 0 and length >= HEADER else b""
        if sec == BOGUS:
            self._bogus += 1
            self._note(number, _bogus(running.text_of(why)))
        elif not wire or wire[3] & RCODE_BITS == Rcode.SERVFAIL:  # a failure it remembers comes as a message
            self._failed += 1
            self._note(number, _failure(Ede.NO_REACHABLE_AUTHORITY, "no authoritative server gave a usable answer"))
        else:
            self._answered += 1
            self._note(number, Answer(wire, rcode=wire[3] & RCODE_BITS, secure=sec == SECURE, server=NAME))

    def _note(self, number: int, answer: Answer) -> None:
        self._ready.append((self._waiting.pop(number).done, answer))

    def _deliver(self) -> None:
        while self._ready:  # one by one, so that a `done` that fails leaves the others for the next turn
            done, answer = self._ready.popleft()
            done(answer)


class _Running:
    """What exists between `start` and `close`."""

    def __init__(self, settings: Settings, folder: Path, callback: Callable[..., None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.tick: asyncio.TimerHandle | None = None
        self._settings, self._folder = settings, folder
        self._library = load()
        self._callback = self._library.ffi.callback("ub_callback", callback)
        self._unchecked: Context | None = None
        with ExitStack() as undo:
            self._relay = TlsRelay(str(folder / settings.tls_ca_file) if settings.tls_ca_file else "")
            undo.callback(self._relay.close)
            self.events = EventBase(self._library)
            undo.callback(self.events.free)
            self.context = self._open(validate=True)
            undo.pop_all()

    def unchecked(self) -> Context:
        """Return the context that does not validate; raises PlugholeError when it cannot be made."""
        if not self._settings.dnssec:
            return self.context
        if self._unchecked is None:
            self._unchecked = self._open(validate=False)
        return self._unchecked

    def _open(self, *, validate: bool) -> Context:
        conf = conf_text(self._settings, base=self._folder, relay=self._relay, validate=validate)
        return Context(self._library, self.events, conf=conf, callback=self._callback)

    def bytes_of(self, pointer: Any, length: int) -> bytes:
        return bytes(self._library.ffi.buffer(pointer, length))

    def text_of(self, pointer: Any) -> str:
        if not pointer:
            return "DNSSEC validation failed"
        text: bytes = self._library.ffi.string(pointer, MAX_WHY)
        return text.decode("utf-8", "replace")

    def free(self) -> None:
        self.context.delete()
        if self._unchecked is not None:
            self._unchecked.delete()
        self.events.free()
        self._relay.close()


def _presentation(name: Name) -> bytes:
    """Return the text form of a wire name; ordinary names, nearly all, without the cost of looking at each octet."""
    parts = labels(name)
    text = b".".join(parts)
    if parts and text.count(b".") == len(parts) - 1 and not text.translate(None, _ORDINARY):
        return text
    return to_text(name).encode("ascii")


def _failure(ede: Ede, text: str) -> Answer:
    return Answer(b"", rcode=Rcode.SERVFAIL, ede=ede, ede_text=text, server=NAME)


def _bogus(text: str) -> Answer:
    return Answer(b"", rcode=Rcode.SERVFAIL, bogus=True, ede=Ede.BOGUS, ede_text=text, server=NAME)
