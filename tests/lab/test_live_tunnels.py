"""Real tunnels through a whole node: what arrives at the attacker's server before the cut, while others browse."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from lab.attacks import ATTACKS, SECRET, Attack, Measured, Sink, Sniffer, under_way
from lab.browsing import Browsing
from lab.network import BROWSER, PAGES, RESOLVER, Lab
from node import Node

from benchmarks.evaluation.figures import quantile_row
from core.names import from_text
from journal import alerts
from resolver.control import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from internet import Internet

MEDIAN: Final = 256.0  # octets of payload before the cut
MOST: Final = 512.0  # octets 95 % of the attacks stay within
QUIET: Final = 5.0  # seconds without a question after which nothing more comes; iodine asks every four
PATIENCE: Final = 60.0  # seconds for a cut, and for a tunnel to carry the secret
UNHINDERED: Final = [
    attack for attack in ATTACKS if attack.options in {("-T", "TXT", "-O", "base32", "-m", "200"), ("A",)}
]
GUARDED: Final = "[detectors.leak]\nlearning_days = 0\n"
OPEN: Final = '[detectors.leak]\nmode = "off"\n[detectors.tunnel]\nmode = "off"\n'


class Scene:
    """A node with someone who browses through it, and the attacks on it, each made once."""

    def __init__(self, lab: Lab, folder: Path, browsing: Browsing) -> None:
        self.lab = lab
        self.browsing = browsing
        self.data_dir = folder / "var"
        self.sniffer = Sniffer(lab)
        self.results: dict[Attack, Measured] = {}

    def measured(self, attack: Attack) -> Measured:
        """Return what arrived of an attack until nothing more did, long after its conviction."""
        if attack not in self.results:
            with under_way(self.lab, attack) as client:
                wait(lambda: self.convictions(attack), PATIENCE, lambda: f"{attack.title}: {client.output}")
                convicted = time.time()
                wait(lambda: time.time() > max(self.sniffer.measure(attack).last, convicted) + QUIET, PATIENCE, str)
            self.results[attack] = self.sniffer.measure(attack)
        return self.results[attack]

    def convictions(self, attack: Attack) -> list[str]:
        """Return who convicted the pair."""
        name = from_text(attack.domain)
        found = read_state(self.data_dir).overrides
        return [one.by for one in found if (one.client, one.name) == (attack.client, name) and one.convicts]

    def alerts(self) -> list[dict[str, Any]]:
        """Return all alerts there are."""
        return list(alerts.find(self.data_dir))


def wait(condition: Callable[[], Any], seconds: float, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to pass in {seconds:.0f} s: {said()}"
        time.sleep(0.1)


def config(lab: Lab, folder: Path, detectors: str) -> str:
    return f"""
[server]
listen = ["{RESOLVER}:53"]
workers = 2
data_dir = "{folder}/var"
allow_from = ["192.0.2.0/24"]
[upstream]
root_hints = "{lab.root_hints}"
dnssec = false
qname_minimisation = false
{detectors}"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := Lab.why_not():
        pytest.skip(reason)
    with Lab({attack.domain: attack.server for attack in ATTACKS}) as up:
        yield up


def node(lab: Lab, folder: Path, detectors: str) -> Node:
    return Node(cast("Internet", lab.resolver), folder, config(lab, folder, detectors))  # it goes inside, no more


@pytest.fixture(scope="module")
def scene(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("guarded")
    with node(lab, folder, GUARDED) as up, Browsing(lab.browser) as browsing:
        found = Scene(lab, folder, browsing)
        wait(lambda: found.sniffer.ready, PATIENCE, lambda: "tcpdump does not listen")
        yield found
        found.sniffer.stop()
    assert up.code == 0, up.output()
    assert "Traceback" not in up.output()


@pytest.mark.parametrize("attack", UNHINDERED, ids=lambda attack: attack.title)
def test_a_tunnel_works_when_nobody_hinders_it_and_the_sniffer_sees_it(
    lab: Lab, tmp_path: Path, attack: Attack
) -> None:
    with node(lab, tmp_path, OPEN):
        sniffer, sink = Sniffer(lab), Sink(lab.attacker)
        wait(lambda: sniffer.ready, PATIENCE, lambda: "tcpdump does not listen")
        with under_way(lab, attack) as client:
            done = (lambda: client.code == 0) if attack.tool == "dnscat2" else (lambda: sink.octets == SECRET)
            wait(done, PATIENCE, lambda: client.output)
        sink.close()
        sniffer.stop()
        assert sniffer.measure(attack).payload >= SECRET


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_an_attack_is_cut_and_its_pair_convicted(scene: Scene, attack: Attack) -> None:
    found = scene.measured(attack)
    assert found.queries > 1
    assert found.names > found.payload
    assert scene.convictions(attack) == ["detector:leak"]


def test_what_arrived_is_within_the_limits(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    found = {attack: scene.measured(attack) for attack in ATTACKS}
    with capsys.disabled():
        sys.stdout.write(table(found))
    payloads = [one.payload for one in found.values()]
    assert quantile_row("leak", "live", "all", payloads, 0.5).value <= MEDIAN
    assert quantile_row("leak", "live", "all", payloads, 0.95).value <= MOST


def test_each_pair_has_one_alert_that_says_it_all(scene: Scene) -> None:
    for attack in ATTACKS:
        scene.measured(attack)
    told = scene.alerts()
    assert Counter((one["client"], one["domain"]) for one in told) == dict.fromkeys(pairs(), 1)
    for one in told:
        assert "leak" in one["detectors"]
        assert one["confidence"] == "HIGH"
        assert one["blocks"]
        assert one["domain"] in one["reason"]
        assert one["client"] in one["reason"]


def test_who_browses_notices_nothing(scene: Scene) -> None:
    for attack in ATTACKS:
        scene.measured(attack)
    wait(lambda: scene.browsing.rounds, 3 * PATIENCE, lambda: "no round of all pages came to its end")
    assert scene.browsing.faults == []
    assert scene.browsing.answered >= 3 * len(PAGES)
    assert [one for one in scene.alerts() if one["client"] == BROWSER] == []
    assert [one for one in read_state(scene.data_dir).overrides if one.client in {BROWSER, ""}] == []


def pairs() -> set[tuple[str, str]]:
    return {(attack.client, attack.domain) for attack in ATTACKS}


def table(found: dict[Attack, Measured]) -> str:
    lines = [("tool", "payload, B", "names, B", "queries", "seconds to the cut")]
    for attack, one in found.items():
        seconds = f"{one.last - one.first:.2f}"
        lines.append((attack.title, f"{one.payload:.0f}", str(one.names), str(one.queries), seconds))
    return "\n" + "\n".join(f"{line[0]:38}" + "".join(f"{cell:>20}" for cell in line[1:]) for line in lines) + "\n"
