"""An engine in front of another that gives IPv6-only clients addresses for names that have none (RFC 6147)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from core import rr
from core.errors import Malformed
from core.wire import walk
from resolver.upstream import Answer, Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from resolver.dns64 import Dns64
    from resolver.upstream import Upstream


class Translated:
    """An `Upstream` that asks `inner`, and for AAAA answers without a usable address once more for A."""

    def __init__(self, inner: Upstream, dns64: Dns64) -> None:
        self._inner = inner
        self._dns64 = dns64
        self._translated = 0

    def start(self) -> None:
        """Start what is behind."""
        self._inner.start()

    def close(self) -> None:
        """Close what is behind."""
        self._inner.close()

    def counters(self) -> dict[str, int]:
        """Return the counters of what is behind, and how many answers were made from IPv4 addresses."""
        return self._inner.counters() | {"translated": self._translated}

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done` exactly once; who validates for itself (CD) gets the truth."""
        if question.qtype == rr.AAAA and not question.checking_disabled:
            done = partial(self._arrived, question, done)
        self._inner.ask(question, done)

    def _arrived(self, question: Question, done: Callable[[Answer], None], answer: Answer) -> None:
        if answer.wire and self._wanted(answer.wire):
            self._inner.ask(Question(question.qname, rr.A, question.qclass), partial(self._translate, done, answer))
        else:
            done(answer)

    def _wanted(self, wire: bytes) -> bool:
        try:
            return self._dns64.wanted(walk(wire), wire)
        except Malformed:
            return False  # who asked finds out, and why

    def _translate(self, done: Callable[[Answer], None], nothing: Answer, answer: Answer) -> None:
        try:
            wire = self._dns64.synthesise(answer.wire, nothing.wire) if answer.wire else None
        except Malformed:
            wire = None
        if wire is None:
            done(nothing)
            return
        self._translated += 1
        done(Answer(wire, server=answer.server))
