"""The book of what pinned clients were answered, and the gate that keeps a (pretended) kernel as it says."""

from __future__ import annotations

from ipaddress import ip_address
from typing import cast

import msgspec
import pytest

from core.config import Config, Egress, Pin, Server
from core.errors import UNREADABLE
from egress.enforcer import Absent, Refused
from egress.pins import book as pin_book
from egress.pins.book import SLACK, Book
from egress.pins.gate import RENEWALS, RETRY, Gate
from egress.pins.messages import ACKS, MAX_ADDRESSES, MAX_PACKET, Told, decode, encode, pack, path_of, unpack
from egress.pins.rules import rules, ruleset
from egress.pins.table import PinTable, Put

NOW = 1000.0
GRACE = 300.0
LEASE = 90.0
PINS = (
    Pin(name="servers", clients=("10.2.0.0/16", "fd00:2::/64")),
    Pin(name="all", clients=("10.0.0.0/8",)),
)


def packed(text: str) -> bytes:
    return ip_address(text).packed


CLIENT, OTHER, SIX = packed("10.2.0.1"), packed("10.2.0.2"), packed("fd00:2::1")
SITE, SITE6 = packed("91.66.0.80"), packed("2a01:66::80")


def told(client: bytes, *addresses: bytes, seconds: int = 60, number: int = 1) -> Told:
    return Told(number, client, seconds, addresses)


def book() -> Book:
    return Book(PINS, grace=GRACE)


def test_an_address_is_open_to_who_was_answered_for_its_ttl_and_the_grace() -> None:
    assert book().note(told(CLIENT, SITE), NOW) == [Put("allow4", CLIENT + SITE, 360.0)]
    assert book().note(told(SIX, SITE6), NOW) == [Put("allow6", SIX + SITE6, 360.0)]


def test_an_address_of_the_other_family_is_open_to_the_pin() -> None:
    kept = book()
    assert kept.note(told(CLIENT, SITE6), NOW) == [Put("others6_servers", SITE6, 360.0)]
    assert kept.note(told(OTHER, SITE6), NOW) == []
    assert kept.note(told(SIX, SITE), NOW) == [Put("others4_servers", SITE, 360.0)]


def test_the_first_pin_that_names_a_client_is_its_pin_and_others_have_none() -> None:
    kept = book()
    assert kept.pin_of(CLIENT) == "servers"
    assert kept.pin_of(packed("10.9.0.1")) == "all"
    assert kept.pin_of(packed("192.168.0.1")) == ""
    assert kept.note(told(packed("192.168.0.1"), SITE), NOW) == []
    assert kept.size == 0


def test_only_a_later_end_is_worth_telling_the_kernel() -> None:
    kept = book()
    kept.note(told(CLIENT, SITE), NOW)
    assert kept.note(told(CLIENT, SITE), NOW + SLACK) == []
    assert kept.note(told(CLIENT, SITE, seconds=1), NOW + 30) == []
    assert kept.note(told(CLIENT, SITE), NOW + 30) == [Put("allow4", CLIENT + SITE, 360.0, renews=True)]


def test_what_ran_out_is_forgotten_and_what_stands_has_the_rest_of_its_time() -> None:
    kept = book()
    kept.note(told(CLIENT, SITE), NOW)
    kept.note(told(OTHER, SITE, seconds=600), NOW)
    kept.expire(NOW + 400)
    assert kept.standing(NOW + 400) == [Put("allow4", OTHER + SITE, 500.0)]
    assert kept.size == 1


def test_one_client_cannot_fill_it_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_book, "MAX_OPEN", 3)
    kept = book()
    many = [packed(f"91.66.0.{number}") for number in range(1, 6)]
    assert len(kept.note(told(CLIENT, *many), NOW)) == 3
    assert kept.over == 2
    assert len(kept.note(told(OTHER, *many[:2]), NOW)) == 2
    assert len(kept.note(told(CLIENT, *many[3:]), NOW + 1000)) == 2  # the first have run out
    assert kept.over == 2


def test_what_a_predecessor_opened_is_taken_over() -> None:
    kept = book()
    kept.adopt([Put("allow4", CLIENT + SITE, 100.0), Put("others6_servers", SITE6, 50.0)], NOW)
    assert kept.note(told(CLIENT, SITE), NOW) == [Put("allow4", CLIENT + SITE, 360.0, renews=True)]
    assert {put.name for put in kept.standing(NOW)} == {"allow4", "others6_servers"}


def test_what_could_not_be_opened_is_told_again() -> None:
    kept = book()
    puts = kept.note(told(CLIENT, SITE), NOW)
    kept.forget(puts)
    assert kept.note(told(CLIENT, SITE), NOW) == puts


# ---- the gate


class Kernel:
    """A table that can be gone, full or out of order."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, bytes], float] = {}
        self.held = 0.0
        self.there = False
        self.room = 1000
        self.fault = ""

    def _ask(self) -> None:
        if self.fault:
            raise Refused(self.fault)

    def prepare(self) -> None:
        self._ask()
        self.there, self.held = True, 0.0
        self.open.clear()

    def present(self) -> list[Put]:
        return [Put(name, key, left) for (name, key), left in self.open.items()]

    def is_alive(self) -> bool:
        return self.held > 0

    def check(self) -> None:
        self._ask()
        if not self.there:
            raise Absent("gone")

    def put(self, puts: list[Put]) -> list[Put]:
        self.check()
        full = []
        for put in puts:
            if len(self.open) >= self.room and (put.name, put.key) not in self.open:
                full.append(put)
            else:
                self.open[put.name, put.key] = put.seconds
        return full

    def hold(self, seconds: float) -> None:
        self.check()
        self.held = seconds

    def free(self) -> None:
        self.check()
        self.held = 0.0


def gate(kernel: Kernel, kept: Book | None = None, *, settling: float = 0.0) -> Gate:
    return Gate(cast(PinTable, kernel), kept or book(), lease=LEASE, settling=settling)


def test_clients_are_held_a_lease_at_a_time() -> None:
    kernel = Kernel()
    made = gate(kernel)
    made.keep(NOW)
    assert (kernel.held, made.holding, made.due) == (LEASE, True, NOW + LEASE / RENEWALS)


def test_after_a_cold_start_nothing_is_refused_until_clients_have_settled() -> None:
    kernel = Kernel()
    made = gate(kernel, settling=10.0)
    made.keep(NOW)
    assert (kernel.held, made.holding, made.due) == (0.0, False, NOW + 10)
    assert made.open([told(CLIENT, SITE)], NOW) == [True]
    made.keep(NOW + 10)
    assert (kernel.held, made.holding) == (LEASE, True)
    assert len(kernel.open) == 1


def test_a_successor_holds_at_once_and_loses_nothing() -> None:
    kernel = Kernel()
    kernel.prepare()
    kernel.hold(40.0)
    kernel.put([Put("allow4", CLIENT + SITE, 100.0)])
    made = gate(kernel, settling=300.0)
    made.keep(NOW)
    assert made.holding
    assert kernel.open == {("allow4", CLIENT + SITE): 100.0}


def test_a_full_set_is_counted_and_told() -> None:
    kernel = Kernel()
    made = gate(kernel)
    made.keep(NOW)
    kernel.room = 1
    answers = [told(CLIENT, SITE), told(OTHER, SITE), told(OTHER, SITE)]
    assert made.open(answers, NOW) == [True, False, False]
    assert made.counters() | {"pin_opened": 1, "pin_full": 1, "pin_open": 1} == made.counters()
    kernel.room = 2
    assert made.open([told(OTHER, SITE)], NOW) == [True]


def test_a_table_that_is_gone_is_made_anew_with_all_that_is_open() -> None:
    kernel = Kernel()
    made = gate(kernel)
    made.keep(NOW)
    made.open([told(CLIENT, SITE)], NOW)
    kernel.there = False
    assert made.open([told(OTHER, SITE)], NOW) == [True]
    assert len(kernel.open) == 2
    assert kernel.held == LEASE
    kernel.there = False
    made.keep(NOW + 30)
    assert (len(kernel.open), kernel.held, made.restored) == (2, LEASE, 2)


def test_a_kernel_that_refuses_is_tried_again_and_nobody_is_said_to_be_held() -> None:
    kernel = Kernel()
    kernel.fault = "nftables: Operation not permitted"
    made = gate(kernel)
    made.keep(NOW)
    assert (made.trouble, made.holding, made.due) == (kernel.fault, False, NOW + RETRY)
    assert made.open([told(CLIENT, SITE)], NOW) == [False]
    kernel.fault = ""
    made.keep(NOW + RETRY)
    assert (made.trouble, made.holding) == ("", True)
    assert made.open([told(CLIENT, SITE)], NOW + RETRY) == [True]


def test_panic_frees_clients_and_what_is_open_stays_known() -> None:
    kernel = Kernel()
    made = gate(kernel)
    made.keep(NOW)
    made.panic = True
    made.keep(NOW + 1)
    assert (kernel.held, made.holding) == (0.0, False)
    assert made.open([told(CLIENT, SITE)], NOW + 1) == [True]
    made.panic = False
    made.keep(NOW + 2)
    assert (kernel.held, len(kernel.open)) == (LEASE, 1)


# ---- messages and rules


def test_messages_come_back_as_they_were_sent() -> None:
    answer = told(CLIENT, *[packed(f"2a01:66::{number:x}") for number in range(MAX_ADDRESSES)], seconds=604_800)
    assert decode(encode(answer)) == answer
    assert len(encode(answer)) <= MAX_PACKET
    acks = [(number, number % 2 == 0) for number in range(ACKS)]
    assert len(pack(acks)) <= MAX_PACKET
    assert list(unpack(pack(acks))) == acks


@pytest.mark.parametrize(
    "fields",
    [
        (1, b"\x0a\x02\x00\x00\x01", 60, (SITE,)),
        (1, CLIENT, 60, (b"short",)),
        (1, CLIENT, -1, (SITE,)),
        (1, CLIENT, 10**7, (SITE,)),
        (1, CLIENT, 60, (SITE,) * (MAX_ADDRESSES + 1)),
        (1, CLIENT, 60),
        (1, "text", 60, (SITE,)),
    ],
)
def test_what_can_not_be_is_no_message(fields: tuple[object, ...]) -> None:
    with pytest.raises(UNREADABLE):
        decode(msgspec.msgpack.encode(fields))


def test_half_a_number_is_no_acknowledgement() -> None:
    with pytest.raises(ValueError, match="octets"):
        list(unpack(pack([(1, True)])[:-1]))


def test_the_socket_lies_in_the_data_folder_or_where_it_is_told() -> None:
    assert path_of(Config(base="/b", server=Server(data_dir="d"))).as_posix() == "/b/d/egress.sock"
    assert path_of(Config(base="/b", egress=Egress(pin_socket="run/e.sock"))).as_posix() == "/b/run/e.sock"


def test_without_enforcement_no_rule_refuses() -> None:
    pins = [Pin(name="a", clients=("10.0.0.0/8",), mode="enforce")]
    for enforce in (True, False):
        text = ruleset(pins, log_group=5, enforce=enforce)
        assert ("reject" in text, "drop" in text) == (enforce, enforce)
        assert 'log prefix "plughole-pin " group 5' in text
    assert "reject" not in ruleset([Pin(name="a", clients=("10.0.0.0/8",))], log_group=5, enforce=True)


def test_networks_that_overlap_are_written_once() -> None:
    pins = [Pin(name="a", clients=("10.2.3.4/16", "10.2.3.0/24", "fd00::/8"), exempt=("10.0.0.0/9", "10.128.0.0/9"))]
    texts = [rule.text for rule in rules(pins, log_group=5, enforce=True)]
    assert "ip saddr { 10.2.0.0/16 } goto pin_a" in texts
    assert "ip6 saddr { fd00::/8 } goto pin_a" in texts
    assert "ip daddr { 10.0.0.0/8 } accept" in texts
