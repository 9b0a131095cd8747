"""From blocked questions to orders: which names are asked, what is proposed for whom, and what is left alone."""

from __future__ import annotations

import asyncio
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import dns.zone
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Config, Egress
from core.config import Upstream as UpstreamSettings
from core.event import Event
from core.names import from_labels, from_text, to_text
from core.verdict import Action, Cause, Reason, Trigger
from egress.orders import Block, Refusal, Release
from egress.range_lists import Lists, file_name, pack, put
from egress.ranges import Ranges, listed
from feeds.overlay import CONVICTS, Override
from resolver.blamed import LEARNT, MAX_PER_HOUR, Blamer
from resolver.learning import A_SECOND, FOLDER, MAX_EARLY, RANGES, Learning
from resolver.lookups import MAX_IN_FLIGHT, MAX_QUEUED
from resolver.posting import Post
from resolver.ranging import LOOK
from resolver.targets import EMPTY, LONGEST, REST
from resolver.upstream import Answer, Question

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from egress.plan import Proposal

NOW = 1_700_000_000.0
LISTS = Lists(shared=Ranges([listed("a CDN", ["25.99.0.0/16"])]))
ZONE = """
c2.evil.example. 60 A 25.0.0.1
c2.evil.example. 600 AAAA 2a0f:ffff::1
c2.evil.example. 600 HTTPS 1 svc.evil.example. ipv4hint=25.0.0.3
svc.evil.example. 600 A 25.0.0.4
other.evil.example. 7200 A 25.0.0.8
shared.evil.example. 600 A 25.99.0.1
inside.evil.example. 600 A 10.0.0.1
evil.example. 600 A 25.0.0.9
evil.example. 600 NS ns1.evil.example.
evil.example. 600 NS ns.strangers.example.
ns1.evil.example. 600 A 25.0.0.53
ns.strangers.example. 600 A 25.0.1.53
alias.evil.example. 30 CNAME hop.cdn.example.
hop.cdn.example. 600 CNAME end.cdn.example.
end.cdn.example. 600 A 25.0.0.7
short.evil.example. 1 A 25.0.0.6
shop.example. 600 NS ns.shop.example.
ns.shop.example. 600 A 25.0.0.80
example. 600 NS a.nic.example.
a.nic.example. 600 A 25.0.0.81
"""


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Kept(Post):
    """Keeps what is posted."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.messages: list[Block | Release | Refusal] = []

    def offer(self, message: Block | Release | Refusal) -> None:
        self.messages.append(message)


class Engine:
    """An upstream that knows ZONE and answers when told, or keeps silent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answering = True
        self.dead = False
        self._waiting: list[tuple[Question, Callable[[Answer], None]]] = []
        self._zone = dns.zone.from_text(f"$ORIGIN .\n{ZONE}", origin=".", check_origin=False, relativize=False)

    def start(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to give back."""

    def counters(self) -> dict[str, int]:
        return {}

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        self.asked.append((to_text(question.qname), dns.rdatatype.to_text(dns.rdatatype.RdataType(question.qtype))))
        self._waiting.append((question, done))
        if self.answering:
            self.answer()

    def answer(self) -> None:
        """Answer everything that waits."""
        while self._waiting:
            question, done = self._waiting.pop(0)
            done(Answer(b"", 2) if self.dead else Answer(self._reply(question)))

    def names(self) -> set[str]:
        return {name for name, _ in self.asked}

    def _reply(self, question: Question) -> bytes:
        rdtype = dns.rdatatype.RdataType(question.qtype)
        reply = dns.message.make_response(dns.message.make_query(to_text(question.qname), rdtype))
        name = reply.question[0].name
        while True:
            alias = self._find(name, dns.rdatatype.CNAME)
            reply.answer += [rrset for rrset in (alias, self._find(name, rdtype)) if rrset is not None]
            if alias is None:
                return reply.to_wire()
            name = alias[0].target

    def _find(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> dns.rrset.RRset | None:
        return self._zone.get_rrset(name, rdtype)


class Scene:
    """A learner with its clock, its engine and what it posted."""

    def __init__(self, folder: Path, *, ready: bool = True, **given: Any) -> None:
        self.clock = Clock()
        settings = Egress(**given)
        upstream = UpstreamSettings(mode="forward", servers=("25.0.9.9",), dnssec=False)
        self.config = Config(base=str(folder), egress=settings, upstream=upstream)
        self.post = Kept(self.config)
        self.engine = Engine()
        self.learning = self.made()
        if ready:
            self.learning.begin(LISTS)

    def made(self) -> Learning:
        made = Learning(self.config, now=NOW, node="here", clock=self.clock, post=self.post)
        made.equip(self.engine if self.config.egress.learn == "active" else None)
        return made

    def see(self, *events: Event) -> None:
        self.learning.see(events)

    def blocked(self, name: str, *, by: str = "", client: str = "10.0.0.7", **given: Any) -> None:
        """Show a question that was blocked."""
        self.see(event(name, by=by, client=client, at=self.clock.now, **given))

    def passed(self, name: str, *addresses: str, client: str = "10.0.0.7", **given: Any) -> None:
        """Show a question that was answered."""
        packed = tuple(ip_address(address).packed for address in addresses)
        self.see(
            Event(self.clock.now, ip_address(client).packed, from_text(name), 1, 0, ttl=60, answers=packed, **given)
        )
        self.learning.tick(self.clock.now)

    @property
    def proposals(self) -> list[Proposal]:
        return [item for message in self.post.messages if isinstance(message, Block) for item in message.proposals]

    @property
    def addresses(self) -> set[str]:
        return {str(ip_address(item.address)) for item in self.proposals}

    def of(self, kind: type[Release | Refusal]) -> list[Any]:
        return [message for message in self.post.messages if isinstance(message, kind)]

    def counted(self, key: str) -> int:
        count: int = self.learning.counters()[key]
        return count


def event(
    name: str, *, by: str, client: str, at: float, cause: Cause = Cause.INTEL, action: Action = Action.SINKHOLE,
    trigger: Trigger = Trigger.QNAME, member: str = "", source: str = "sample", text: str = "",
    category: str = "malware",
) -> Event:  # fmt: skip
    reason = Reason(cause, action, source, by or name, category, 80, text)
    return Event(
        at, ip_address(client).packed, from_text(name), 1, 0, action, cause, answers=(ip_address("192.0.2.1").packed,),
        reasons=(reason,), trigger=trigger, member=member,
    )  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# ---- what is learnt


def test_a_blocked_name_gives_every_address_it_truly_has(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    assert scene.addresses == {"25.0.0.1", "2a0f:ffff::1", "25.0.0.3", "25.0.0.4"}
    first = scene.proposals[0]
    assert (first.client, first.domain, first.ttl) == (b"", from_text("c2.evil.example"), 60)
    assert (first.reason, first.evidence) == ("feed sample lists c2.evil.example (malware, 80)", "c2.evil.example A")


@pytest.mark.parametrize("category", Egress().spare)
def test_what_is_blocked_for_a_spared_category_teaches_nothing(scene: Scene, category: str) -> None:
    scene.blocked("c2.evil.example", category=category)
    assert (scene.engine.asked, scene.proposals) == ([], [])


def test_a_chain_is_followed_with_its_lowest_ttl(scene: Scene) -> None:
    scene.blocked("alias.evil.example")
    [proposal] = scene.proposals
    assert (str(ip_address(proposal.address)), proposal.ttl) == ("25.0.0.7", 30)


def test_a_bad_member_of_a_chain_is_asked_and_the_listed_name_is_blamed(scene: Scene) -> None:
    scene.blocked("www.shop.example", by="evil.example", trigger=Trigger.CNAME, member="c2.evil.example")
    assert "www.shop.example" not in scene.engine.names()
    assert {item.domain for item in scene.proposals} == {from_text("evil.example")}
    assert "25.0.0.1" in scene.addresses


@pytest.mark.parametrize("trigger", [Trigger.ADDRESS, Trigger.HINT])
def test_a_bad_address_in_an_answer_is_proposed_without_a_question(scene: Scene, trigger: Trigger) -> None:
    scene.blocked("www.odd.example", by="25.0.0.44", trigger=trigger, member="25.0.0.44")
    [proposal] = scene.proposals
    assert (str(ip_address(proposal.address)), proposal.domain) == ("25.0.0.44", from_text("www.odd.example"))
    assert scene.engine.asked == []


@pytest.mark.parametrize(
    ("cause", "action"),
    [
        (Cause.LOCAL, Action.NXDOMAIN),
        (Cause.ACCESS, Action.DROP),
        (Cause.REBIND, Action.NODATA),
        (Cause.INTEL, Action.TCP_ONLY),
        (Cause.INTEL, Action.ALERT),
    ],
)
def test_what_is_no_verdict_on_a_place_teaches_nothing(scene: Scene, cause: Cause, action: Action) -> None:
    scene.blocked("c2.evil.example", cause=cause, action=action)
    assert (scene.engine.asked, scene.post.messages) == ([], [])


# ---- what is never sent


@pytest.mark.parametrize(
    "name",
    [
        "4d5a90000300000004000000ffff0000.evil.example",
        "a.b.c.evil.example",
        "c2-1234.evil.example",
        "x8f3k2q9.evil.example",
        "averyverylonglabelthatmaycarry.evil.example",
        "0abc.evil.example",
        "a\\200b.evil.example",
        "with_underscore.evil.example",
    ],
)
def test_a_name_that_may_carry_data_is_not_sent(scene: Scene, name: str) -> None:
    scene.blocked(name, by="evil.example")
    assert scene.engine.names() == {"evil.example", "ns1.evil.example"}
    assert scene.addresses == {"25.0.0.9", "25.0.0.53"}
    assert all(name not in item.evidence for item in scene.proposals)


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4), st.sampled_from(sorted(LEARNT)))
def test_whatever_a_client_asks_only_plain_names_leave(below: list[bytes], cause: Cause) -> None:
    name = from_labels((*below, b"evil", b"example"))
    blamed = Blamer().blame(event(to_text(name), by="evil.example", client="10.0.0.7", at=NOW, cause=cause))
    assert blamed is not None
    if blamed.name != from_text("evil.example"):
        assert (blamed.name, cause in {Cause.INTEL, Cause.OVERRIDE}) == (name, True)
        assert re.fullmatch(r"(?:[a-z][a-z0-9-]{0,19}\.){1,2}evil\.example", to_text(name))


def test_in_a_second_a_thousand_new_blocks_are_gone_into_and_the_others_when_they_come_again(scene: Scene) -> None:
    names = [f"n{number}.example" for number in range(A_SECOND + 5)]
    for name in names:
        scene.blocked(name)
    assert scene.counted("put_off") == 5
    assert scene.counted("asked") + scene.counted("queued") + scene.counted("dropped") > 0
    scene.blocked(names[0])  # nothing new
    assert scene.counted("put_off") == 5
    scene.clock.now += 1.0
    before = len(scene.learning._due)
    scene.blocked(names[-1])
    assert (scene.counted("put_off"), len(scene.learning._due)) == (5, before + 1)


def test_plain_names_below_a_listed_one_are_sent_but_few_an_hour(scene: Scene) -> None:
    for number in range(MAX_PER_HOUR + 4):
        scene.blocked(f"cdn{number:02}.evil.example", by="evil.example")
    asked = {name for name in scene.engine.names() if name.startswith("cdn")}
    assert len(asked) == MAX_PER_HOUR
    assert scene.counted("held_back") == 4
    scene.clock.now += 3_600.0
    scene.blocked("cdn99.evil.example", by="evil.example")
    assert "cdn99.evil.example" in scene.engine.names()


@pytest.mark.parametrize("cause", [Cause.CONVICTION, Cause.DETECTOR])
def test_of_a_convicted_domain_only_its_own_name_servers_are_asked(scene: Scene, cause: Cause) -> None:
    for number in range(3):
        scene.blocked(
            f"www{number}.evil.example", by="evil.example", cause=cause, source=f"{CONVICTS}tunnel", text="a tunnel"
        )
    assert scene.engine.names() == {"evil.example", "ns1.evil.example"}
    assert {rtype for name, rtype in scene.engine.asked if name == "evil.example"} == {"NS"}
    assert {item.evidence: str(ip_address(item.address)) for item in scene.proposals} == {
        "ns1.evil.example A": "25.0.0.53"
    }
    assert {item.reason for item in scene.proposals} == {"evil.example is convicted: a tunnel"}


def test_a_convicted_reverse_zone_is_its_owners_and_teaches_nothing(scene: Scene) -> None:
    zone = "0.0.25.in-addr.arpa"
    scene.blocked(f"7.{zone}", by=zone, cause=Cause.CONVICTION)
    assert (scene.engine.asked, scene.post.messages) == ([], [])


# ---- for whom


def test_a_shared_address_is_blocked_for_each_client_that_asks(scene: Scene) -> None:
    scene.blocked("shared.evil.example", client="10.0.0.7")
    asked = list(scene.engine.asked)
    scene.blocked("shared.evil.example", client="10.0.0.8")
    assert scene.engine.asked == asked
    assert [str(ip_address(item.client)) for item in scene.proposals] == ["10.0.0.7", "10.0.0.8"]


def test_who_waits_for_the_same_name_is_told_with_the_others(scene: Scene) -> None:
    scene.engine.answering = False
    scene.blocked("shared.evil.example", client="10.0.0.7")
    scene.blocked("shared.evil.example", client="10.0.0.8")
    assert len(scene.engine.asked) == 3
    scene.engine.answer()
    assert {str(ip_address(item.client)) for item in scene.proposals} == {"10.0.0.7", "10.0.0.8"}


def test_a_block_of_one_client_cuts_off_that_client_only(scene: Scene) -> None:
    domain = from_text("c2.evil.example")
    scene.learning.follow([Override(domain, Action.SINKHOLE, client="10.0.0.7", by="ann")])
    scene.blocked("c2.evil.example", cause=Cause.OVERRIDE)
    assert {str(ip_address(item.client)) for item in scene.proposals} == {"10.0.0.7"}
    assert "25.0.0.1" in scene.addresses
    assert "2a0f:ffff::1" not in scene.addresses
    assert scene.counted("other_family") == 1
    scene.learning.follow([Override(domain, Action.SINKHOLE, by="ann")])
    scene.clock.now += LONGEST
    scene.blocked("c2.evil.example", cause=Cause.OVERRIDE)
    assert "2a0f:ffff::1" in scene.addresses


# ---- how often


def test_a_name_is_asked_again_when_what_was_learnt_has_run_out(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    first = len(scene.engine.asked)
    for _ in range(5):
        scene.clock.now += 10.0
        scene.blocked("c2.evil.example")
    assert len(scene.engine.asked) == first
    scene.clock.now += 11.0
    scene.blocked("c2.evil.example")
    assert len(scene.engine.asked) == 2 * first


@pytest.mark.parametrize(
    ("name", "rests"), [("short.evil.example", REST), ("other.evil.example", LONGEST), ("none.evil.example", EMPTY)]
)
def test_however_long_the_ttl_is_a_name_rests_within_bounds(scene: Scene, name: str, rests: float) -> None:
    scene.blocked(name)
    scene.blocked(name, client="10.0.0.8")
    scene.clock.now += rests - 1
    scene.blocked(name, client="10.0.0.9")
    assert len(scene.engine.asked) == 3
    scene.clock.now += 2
    scene.blocked(name, client="10.0.0.9")
    assert len(scene.engine.asked) == 6


def test_a_clock_set_back_stops_no_learning(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    before = len(scene.engine.asked)
    scene.clock.now -= 86_400.0
    scene.learning.tick(scene.clock.now)
    scene.blocked("c2.evil.example")
    assert len(scene.engine.asked) == 2 * before


def test_a_flood_of_blocked_names_is_bounded_and_counted(scene: Scene) -> None:
    scene.engine.answering = False
    for number in range(MAX_QUEUED // 2):
        scene.clock.now += 1.0 / A_SECOND
        scene.blocked(f"n{number}.bad.example")
    assert len(scene.engine.asked) == MAX_IN_FLIGHT
    assert scene.counted("in_flight") == MAX_IN_FLIGHT
    assert scene.counted("queued") == MAX_QUEUED
    assert scene.counted("dropped") > 0
    scene.engine.answer()
    assert scene.counted("in_flight") <= MAX_IN_FLIGHT


def test_questions_of_a_second_are_bounded(scene: Scene) -> None:
    scene.see(*[event(f"n{number}.bad.example", by="", client="10.0.0.7", at=NOW) for number in range(1_000)])
    first = len(scene.engine.asked)
    assert 0 < first < 1_000
    scene.clock.now += 1.0
    scene.learning.tick(scene.clock.now)
    assert first < len(scene.engine.asked) <= 2 * first


# ---- other ways to learn


def test_passive_learns_from_what_clients_were_given_and_asks_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, learn="passive")
    scene.passed("c2.evil.example", "25.0.0.1")
    scene.blocked("c2.evil.example")
    scene.blocked("other.evil.example")
    assert scene.engine.asked == []
    [proposal] = scene.proposals
    assert (str(ip_address(proposal.address)), proposal.ttl) == ("25.0.0.1", 60)
    assert proposal.evidence == "c2.evil.example, as a client was told before"


def test_what_a_client_was_given_before_is_learnt_beside_the_truth_of_today(scene: Scene) -> None:
    scene.passed("c2.evil.example", "25.0.0.99")
    scene.blocked("c2.evil.example")
    assert {"25.0.0.99", "25.0.0.1"} <= scene.addresses


def test_off_is_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path, learn="off")
    scene.learning.start()
    scene.passed("c2.evil.example", "25.0.0.1")
    scene.blocked("c2.evil.example")
    scene.learning.close()
    assert (scene.engine.asked, scene.post.messages, scene.counted("uses")) == ([], [], 0)
    assert not (scene.config.data_dir / FOLDER).exists()


def test_nothing_is_judged_before_the_ranges_are_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ready=False)
    scene.blocked("shared.evil.example")
    assert (scene.engine.asked, scene.post.messages) == ([], [])
    scene.learning.begin(LISTS)
    assert [str(ip_address(item.client)) for item in scene.proposals] == ["10.0.0.7"]


def test_a_flood_before_the_ranges_are_known_is_bounded_and_asked_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ready=False)
    flood = [
        event(f"n{number}.bad.example", by="", client="10.0.0.7", at=NOW, trigger=Trigger.ADDRESS,
              member=str(ip_address(0x19000000 + number))) for number in range(MAX_EARLY + 5)
    ]  # fmt: skip
    scene.see(*flood)
    scene.learning.begin(LISTS)
    assert len(scene.addresses) == MAX_EARLY
    scene.clock.now += 1.0
    scene.see(*flood)
    assert len(scene.addresses) == MAX_EARLY + 5


def newer(scene: Scene, network: str, date: str = "2099-01-01") -> None:
    """Put a newer list of shared networks where the updater does."""
    octets = pack("shared", [listed("a newer CDN", [network])], date=date, source="a test")
    put(scene.config.data_dir / FOLDER / RANGES, "shared", octets)


async def read_again(scene: Scene) -> None:
    """Let time pass until the next look, and what it begins be done."""
    scene.clock.now += LOOK
    scene.learning.tick(scene.clock.now)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)


async def test_newer_lists_of_networks_are_taken_up_without_a_restart(scene: Scene) -> None:
    newer(scene, "25.0.0.0/29")
    scene.learning.tick(scene.clock.now)
    scene.blocked("c2.evil.example")
    assert {item.client for item in scene.proposals} == {b""}
    await read_again(scene)
    scene.blocked("shared.evil.example", client="10.0.0.8")
    assert scene.proposals[-1].client == b"", "a network of the older lists only"
    scene.blocked("end.cdn.example", client="10.0.0.9")
    assert scene.addresses >= {"25.0.0.7", "25.99.0.1"}
    assert {str(ip_address(item.client)) for item in scene.proposals if item.client} == {"10.0.0.9"}


async def test_lists_that_nobody_touched_are_not_read_again(scene: Scene) -> None:
    newer(scene, "25.0.0.0/29")
    await read_again(scene)
    guard = scene.learning._proposer.guard
    before = guard._lists
    await read_again(scene)
    assert guard._lists is before
    newer(scene, "25.0.0.0/28")
    await read_again(scene)
    assert guard._lists is not before


async def test_a_list_that_goes_bad_leaves_what_was_read(scene: Scene) -> None:
    newer(scene, "25.0.0.0/29")
    await read_again(scene)
    path = scene.config.data_dir / FOLDER / RANGES / file_name("shared")
    path.write_bytes(path.read_bytes()[:-9])
    await read_again(scene)
    scene.blocked("end.cdn.example", client="10.0.0.9")
    assert [str(ip_address(item.client)) for item in scene.proposals] == ["10.0.0.9"]


async def test_of_lists_that_are_gone_those_that_ship_are_taken(scene: Scene) -> None:
    newer(scene, "25.0.0.0/29")
    await read_again(scene)
    (scene.config.data_dir / FOLDER / RANGES / file_name("shared")).unlink()
    await read_again(scene)
    scene.blocked("end.cdn.example", client="10.0.0.9")
    assert [item.client for item in scene.proposals] == [b""]


async def test_a_bad_list_at_the_start_leaves_those_that_ship(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ready=False, learn="passive")
    folder = scene.config.data_dir / FOLDER / RANGES
    folder.mkdir(parents=True)
    (folder / file_name("shared")).write_bytes(b"half")
    scene.learning.start()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    scene.blocked("www.odd.example", trigger=Trigger.ADDRESS, member="104.16.0.1")
    scene.learning.close()
    assert [str(ip_address(item.client)) for item in scene.proposals] == ["10.0.0.7"]


# ---- what speaks against it


def test_an_address_behind_the_own_nat64_prefix_is_the_address_it_carries(tmp_path: Path) -> None:
    scene = Scene(tmp_path, never=("25.0.0.1/32",))
    inside = "2a02:64::1900:1"
    scene.blocked("www.odd.example", trigger=Trigger.ADDRESS, member=inside)
    assert scene.addresses == {inside}
    local = msgspec.structs.replace(scene.config.local, dns64_prefix="2a02:64::/96")
    scene.config = msgspec.structs.replace(scene.config, local=local)
    scene.learning = scene.made()
    scene.learning.begin(LISTS)
    before = len(scene.proposals)
    scene.blocked("www.other.example", trigger=Trigger.ADDRESS, member=inside)
    assert len(scene.proposals) == before
    assert [one.rule for one in scene.of(Refusal)] == ["never"]


def test_what_the_organisation_uses_is_refused_and_told_once_in_ten_minutes(scene: Scene) -> None:
    for client in ("10.0.0.1", "10.0.0.2"):
        scene.passed("www.shop.example", "25.0.0.1", client=client)
    for _ in range(3):
        scene.blocked("c2.evil.example")
        scene.clock.now += 61.0
    assert "25.0.0.1" not in scene.addresses
    [refusal] = [one for one in scene.of(Refusal) if one.address == ip_address("25.0.0.1").packed]
    assert (refusal.who, refusal.rule, refusal.domain) == ("here", "passive-dns", from_text("c2.evil.example"))
    assert "www.shop.example" in refusal.reason
    assert scene.learning.counters()["refused_by"]["passive-dns"] == 3
    scene.clock.now += 600.0
    scene.blocked("c2.evil.example")
    assert len([one for one in scene.of(Refusal) if one.rule == "passive-dns"]) == 2


def test_what_passed_a_moment_ago_counts_before_the_tick(scene: Scene) -> None:
    given = (ip_address("25.0.0.1").packed,)
    scene.see(
        *[Event(NOW, ip_address(f"10.0.0.{last}").packed, from_text("www.shop.example"), 1, 0, answers=given)
          for last in (1, 2)],
        event("c2.evil.example", by="", client="10.0.0.7", at=NOW),
    )  # fmt: skip
    assert "25.0.0.1" not in scene.addresses


def test_an_address_that_comes_into_use_is_released(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    scene.clock.now += 1.0
    for client in ("10.0.0.1", "10.0.0.2"):
        scene.passed("www.shop.example", "25.0.0.1", client=client)
    [release] = scene.of(Release)
    assert (release.address, release.domain, release.by) == (ip_address("25.0.0.1").packed, b"", "here")
    assert release.reason == "www.shop.example came into use there"


def test_a_name_under_suspicion_vouches_for_nothing(scene: Scene) -> None:
    for client in ("10.0.0.1", "10.0.0.2"):
        scene.passed("odd.shop.example", "25.0.0.1", client=client, action=Action.ALERT, cause=Cause.INTEL)
    scene.blocked("c2.evil.example")
    assert "25.0.0.1" in scene.addresses


def test_refusals_of_a_second_are_bounded(scene: Scene) -> None:
    member = [event("www.odd.example", by=f"10.1.0.{last}", client="10.0.0.7", at=NOW, trigger=Trigger.ADDRESS,
                    member=f"10.1.0.{last}") for last in range(100)]  # fmt: skip
    for number, one in enumerate(member):
        scene.see(msgspec.structs.replace(one, client=bytes((10, 0, 1, number))))
    assert len(scene.of(Refusal)) == 20
    assert scene.counted("refusals_untold") == 80
    assert scene.counted("refused") == 100


def test_own_networks_and_servers_are_never_blocked(tmp_path: Path) -> None:
    scene = Scene(tmp_path, never=("25.0.0.0/30",))
    scene.blocked("c2.evil.example")
    scene.blocked("www.odd.example", by="25.0.9.9", trigger=Trigger.ADDRESS, member="25.0.9.9")
    assert scene.addresses == {"2a0f:ffff::1", "25.0.0.4"}
    assert {one.rule for one in scene.of(Refusal)} == {"never"}
    assert any("a server this resolver asks" in one.reason for one in scene.of(Refusal))


def test_networks_that_are_none_switch_learning_off_and_are_told(tmp_path: Path) -> None:
    scene = Scene(tmp_path, never=("0.0.0.0/0",))
    assert not scene.learning.on
    assert scene.learning.troubles()[0].startswith("egress: nothing is learnt")
    scene.blocked("c2.evil.example")
    assert scene.post.messages == []


# ---- servers of zones in use


def recursing(folder: Path) -> Scene:
    scene = Scene(folder)
    scene.config = msgspec.structs.replace(scene.config, upstream=UpstreamSettings())
    scene.learning = scene.made()
    scene.learning.begin(LISTS)
    return scene


def test_name_servers_of_zones_in_use_are_asked_for_and_never_blocked(tmp_path: Path) -> None:
    scene = recursing(tmp_path)
    scene.passed("www.shop.example", "25.0.7.7")
    assert {("shop.example", "NS"), ("example", "NS"), ("ns.shop.example", "A")} <= set(scene.engine.asked)
    for address in ("25.0.0.80", "25.0.0.81"):
        scene.blocked(f"x{address}.example", by=address, trigger=Trigger.ADDRESS, member=address)
    assert scene.proposals == []
    assert {one.rule for one in scene.of(Refusal)} == {"name-server"}
    asked = len(scene.engine.asked)
    scene.passed("mail.shop.example", "25.0.7.8")
    assert len(scene.engine.asked) == asked
    for _ in range(2):  # what is no news at first is forgotten
        scene.clock.now += 43_201.0
        scene.learning.tick(scene.clock.now)
    scene.passed("mail.shop.example", "25.0.7.8")
    assert ("shop.example", "NS") in scene.engine.asked[asked:]


def test_a_server_that_was_blocked_and_is_asked_now_is_released(tmp_path: Path) -> None:
    scene = recursing(tmp_path)
    scene.blocked("www.odd.test", by="25.0.0.80", trigger=Trigger.ADDRESS, member="25.0.0.80")
    assert scene.addresses == {"25.0.0.80"}
    scene.passed("www.shop.example", "25.0.7.7")
    assert [one.address for one in scene.of(Release)] == [ip_address("25.0.0.80").packed]


def test_the_servers_of_a_blocked_domain_are_none_of_ours(tmp_path: Path) -> None:
    scene = recursing(tmp_path)
    scene.blocked("c2.evil.example")
    assert ("example", "NS") in scene.engine.asked
    assert ("evil.example", "NS") not in scene.engine.asked


def test_a_zone_whose_servers_nobody_told_is_tried_again_soon(tmp_path: Path) -> None:
    scene = recursing(tmp_path)
    scene.engine.dead = True
    scene.passed("www.shop.example", "25.0.7.7")
    asked = scene.engine.asked.count(("shop.example", "NS"))
    scene.clock.now += 601.0
    scene.passed("www.shop.example", "25.0.7.8")
    assert scene.engine.asked.count(("shop.example", "NS")) == asked + 1


# ---- what analysts allow


def test_what_an_analyst_allows_is_released_once_and_vouches_again(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    allow = Override(from_text("c2.evil.example"), Action.PASSTHRU, by="ann")
    scene.learning.follow([allow])
    scene.learning.follow([allow])
    [release] = scene.of(Release)
    assert (release.domain, release.address) == (from_text("c2.evil.example"), b"")
    assert release.reason == "ann allows c2.evil.example"
    scene.learning.follow([])
    scene.learning.follow([allow])
    assert len(scene.of(Release)) == 2


def test_an_allow_for_one_client_or_an_expired_one_releases_nothing(scene: Scene) -> None:
    name = from_text("c2.evil.example")
    scene.learning.follow(
        [
            Override(name, Action.PASSTHRU, client="10.0.0.7"),
            Override(name, Action.PASSTHRU, view="guests"),
            Override(name, Action.PASSTHRU, expires=NOW - 1),
            Override(name, Action.SINKHOLE),
        ]
    )
    assert scene.of(Release) == []


def test_an_allow_is_not_released_again_after_a_restart(scene: Scene) -> None:
    allow = Override(from_text("c2.evil.example"), Action.PASSTHRU, by="ann")
    scene.learning.follow([allow])
    scene.learning.close()
    again = scene.made()
    again.follow([allow])
    assert len(scene.of(Release)) == 1


def test_the_addresses_of_an_allowed_name_below_a_listed_one_are_spared(scene: Scene) -> None:
    allow = Override(from_text("www.evil.example"), Action.PASSTHRU, by="ann")
    scene.learning.follow([allow])
    scene.passed("www.evil.example", "25.0.0.9", action=Action.PASSTHRU, cause=Cause.OVERRIDE)
    scene.blocked("evil.example")
    assert "25.0.0.9" not in scene.addresses
    [refusal] = scene.of(Refusal)
    assert (refusal.rule, "www.evil.example" in refusal.reason) == ("trusted", True)
    scene.learning.follow([])
    scene.blocked("evil.example")
    assert "25.0.0.9" in scene.addresses


def test_an_address_that_was_ordered_is_released_when_an_allowed_name_is_there(scene: Scene) -> None:
    scene.blocked("evil.example")
    assert "25.0.0.9" in scene.addresses
    scene.learning.follow([Override(from_text("www.evil.example"), Action.PASSTHRU, by="ann")])
    scene.passed("www.evil.example", "25.0.0.9", action=Action.PASSTHRU, cause=Cause.OVERRIDE)
    assert [one.address for one in scene.of(Release) if one.address] == [ip_address("25.0.0.9").packed]


def test_a_name_blocked_again_is_ordered_again_at_once(scene: Scene) -> None:
    scene.blocked("c2.evil.example")
    scene.learning.follow([Override(from_text("c2.evil.example"), Action.PASSTHRU)])
    scene.learning.follow([])
    before = len(scene.proposals)
    scene.clock.now += 1.0
    scene.blocked("c2.evil.example")
    assert len(scene.proposals) > before


# ---- failures


def test_a_dead_upstream_is_asked_again_after_a_rest(scene: Scene) -> None:
    scene.engine.dead = True
    scene.blocked("c2.evil.example")
    assert scene.counted("failed") == 3
    assert scene.post.messages == []
    scene.engine.dead = False
    scene.clock.now += EMPTY + 1
    scene.blocked("c2.evil.example")
    assert "25.0.0.1" in scene.addresses


async def test_an_engine_that_does_not_start_leaves_what_clients_were_given(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.config = msgspec.structs.replace(scene.config, upstream=UpstreamSettings(mode="forward", servers=()))
    made = Learning(scene.config, now=NOW, node="here", clock=scene.clock, post=scene.post)
    made.start()
    made.begin(LISTS)
    assert "only what clients were given" in made.troubles()[0]
    made.see([Event(NOW, bytes((10, 0, 0, 7)), from_text("c2.evil.example"), 1, 0,
                    answers=(ip_address("25.0.0.1").packed,))])  # fmt: skip
    made.see([event("c2.evil.example", by="", client="10.0.0.7", at=NOW)])
    assert scene.addresses == {"25.0.0.1"}
    made.close()


def test_the_passive_dns_outlives_a_restart(scene: Scene) -> None:
    for client in ("10.0.0.1", "10.0.0.2"):
        scene.passed("www.shop.example", "25.0.0.1", client=client)
    scene.learning.close()
    scene.learning = scene.made()
    scene.learning.begin(LISTS)
    scene.blocked("c2.evil.example")
    assert "25.0.0.1" not in scene.addresses


@pytest.mark.parametrize(
    "octets", [b"", b"\xc1", msgspec.msgpack.encode({"uses": b"\x93"}), msgspec.msgpack.encode({})]
)
def test_a_damaged_state_is_none(scene: Scene, octets: bytes) -> None:
    path = scene.config.data_dir / FOLDER / "uses"
    path.parent.mkdir(parents=True)
    path.write_bytes(octets)
    made = scene.made()
    assert made.on
    assert made.counters()["uses"] == 0


def test_a_state_that_cannot_be_written_is_told(scene: Scene) -> None:
    (scene.config.data_dir).mkdir(parents=True)
    (scene.config.data_dir / FOLDER).write_text("in the way")
    scene.learning.close()
    assert scene.learning.troubles()
