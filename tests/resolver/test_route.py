"""Which engine a name goes to, and which engines a configuration makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from core.config import Upstream as Settings
from core.config import Zone
from core.errors import Unavailable
from core.names import from_text
from resolver.upstream import Answer, Question
from resolver.upstream.route import Route, build

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder:
    """An engine that only takes note."""

    def __init__(self, *, broken: bool = False) -> None:
        self.asked: list[bytes] = []
        self.state = "new"
        self._broken = broken

    def start(self) -> None:
        if self._broken:
            raise Unavailable("broken")
        self.state = "started"

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        self.asked.append(question.qname)

    def close(self) -> None:
        self.state = "closed"

    def counters(self) -> dict[str, int]:
        return {"asked": len(self.asked)}


def test_the_longest_zone_by_labels_is_asked() -> None:
    default, corp, lab = Recorder(), Recorder(), Recorder()
    route = Route(default, [(from_text("corp.example"), corp), (from_text("lab.corp.example"), lab)])
    names = [from_text(text) for text in ("corp.example", "a.lab.corp.example", "xcorp.example", "example", ".")]
    for name in names:
        route.ask(Question(name, 1), lambda answer: None)
    assert corp.asked == [names[0]]
    assert lab.asked == [names[1]]
    assert default.asked == names[2:]
    assert route.counters() == {"asked": 5}


def test_an_engine_that_cannot_start_takes_the_others_down_again() -> None:
    default = Recorder()
    with pytest.raises(Unavailable):
        Route(default, [(from_text("a"), Recorder(broken=True))]).start()
    assert default.state == "closed"


def test_build_chooses_the_engine_and_names_mistakes(tmp_path: Path) -> None:
    def kind(**more: object) -> str:
        return type(build(Settings(**{"dnssec": False, **more}), base=tmp_path)).__name__  # type: ignore[arg-type]

    assert kind() == "Unbound"
    assert kind(mode="forward", servers=("192.0.2.1",), dnssec=True) == "Unbound"
    assert kind(mode="forward", servers=("192.0.2.1", "tls://192.0.2.1#dns.example")) == "Forward"
    assert kind(mode="forward", servers=("https://dns.example/q",)) == "Doh"
    assert kind(zone=(Zone(name="corp.example", servers=("192.0.2.53",)),)) == "Route"
    with pytest.raises(ValueError, match="mixed"):
        kind(mode="forward", servers=("192.0.2.1", "https://dns.example/q"))
    with pytest.raises(ValueError, match=r"upstream\.servers: empty"):
        kind(mode="forward")
    with pytest.raises(ValueError, match=r"zone corp\.example"):
        kind(zone=(Zone(name="corp.example", servers=()),))
