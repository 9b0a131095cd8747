"""The code of a domain: shares sum to one at most, repetition is cheap, no sender gets more out than it is charged."""

from __future__ import annotations

import random
import string
from itertools import product
from math import log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.leak_code import DEPTHS, GENERATION, Coder

A, PTR, TXT, AAAA = 1, 12, 16, 28
HOST = string.ascii_lowercase + string.digits + "-_"
SLACK = 64.0  # bits; Kraft's inequality leaves a chance of 2^-64 that a code is that much shorter than what it carries


def wire(text: str) -> bytes:
    return b"".join(bytes((len(part),)) + part.encode("latin-1") for part in text.split("."))


def ask(coder: Coder, below: bytes, qtype: int = A) -> float:
    bits = coder.price(below, qtype)
    coder.learn(below, qtype)
    return bits


LABEL = st.text(alphabet="abcdef0123-.w", min_size=1, max_size=12).map(lambda text: text.strip("."))
SUB = LABEL.filter(lambda text: text and ".." not in text)
HISTORY = st.lists(st.tuples(SUB, st.sampled_from((A, PTR, TXT, AAAA, 10))), max_size=60)


@given(history=HISTORY, reverse=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_shares_of_all_names_sum_to_one_at_most(history: list[tuple[str, int]], reverse: bool) -> None:
    coder = Coder(reverse=reverse)
    for sub, qtype in history:
        ask(coder, wire(sub), qtype)
    universe = {wire("".join(letters)) for size in (1, 2) for letters in product(HOST, repeat=size)}
    universe |= {wire(f"{one}.{other}") for one in HOST for other in "abc01w"}
    universe |= {b"", wire("\x80"), wire("a" * 63)} | {wire(sub) for sub, _ in history}
    total = sum(2.0 ** -coder.price(below, qtype) for below in universe for qtype in (A, PTR, TXT, AAAA, 10))
    assert 0.0 < total <= 1.0


@given(below=st.lists(st.binary(min_size=1, max_size=63), min_size=0, max_size=4), qtype=st.integers(0, 65535))
def test_every_name_has_a_price_and_repeating_it_is_not_dearer(below: list[bytes], qtype: int) -> None:
    coder = Coder()
    name = b"".join(bytes((len(label),)) + label.lower() for label in below)
    first = ask(coder, name, qtype)
    second = ask(coder, name, qtype)
    assert 1.0 <= second <= first


def senders(rng: random.Random) -> dict[str, list[tuple[str, int, float]]]:
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randrange(3, 9))) for _ in range(256)]
    book = [f"{rng.randrange(16**6):06x}" for _ in range(64)]
    types = (1, 2, 5, 6, 12, 15, 16, 28, 33, 65, 257, 37, 44, 52, 13, 17)
    return {
        "hexadecimal": [(rng.randbytes(20).hex(), A, 160.0) for _ in range(60)],
        "base32": [("".join(rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=50)), TXT, 250.0) for _ in range(60)],
        "all of a host name": [("".join(rng.choices(HOST, k=63)), A, 63 * log2(38)) for _ in range(60)],
        "four letters": [("".join(rng.choices("acgt", k=30)), A, 60.0) for _ in range(200)],
        "one letter and its length": [("a" * rng.randrange(1, 64), A, log2(63)) for _ in range(400)],
        "words": [(".".join(rng.choices(words, k=3)), A, 24.0) for _ in range(300)],
        "words in one label": [("-".join(rng.choices(words, k=3)), A, 24.0) for _ in range(300)],
        "a codebook": [(rng.choice(book), A, 6.0) for _ in range(600)],
        "record types": [("www", rng.choice(types), 4.0) for _ in range(600)],
        "a counter with a nibble": [(f"poll{at:06d}{rng.randrange(16):x}end", A, 4.0) for at in range(300)],
        "how many labels": [(".".join("x" * rng.randrange(1, 33)), A, 5.0) for _ in range(400)],
        "an address": [(".".join(str(octet) for octet in rng.randbytes(4)), A, 32.0) for _ in range(200)],
    }


@given(seed=st.integers(0, 10**9))
@settings(max_examples=6, deadline=None)
def test_no_sender_gets_more_bits_out_than_it_is_charged(seed: int) -> None:
    for kind, sent in senders(random.Random(seed)).items():
        coder = Coder()
        charged = carried = 0.0
        for sub, qtype, bits in sent:
            charged += ask(coder, wire(sub), qtype)
            carried += bits
            assert charged >= carried - SLACK, kind
        assert charged < 12 * carried, kind  # and it is a measure, not a wall


def test_what_is_known_costs_little() -> None:
    coder = Coder()
    fresh = ask(coder, wire("r4---sn-5hnekn7s"))
    assert 60 < fresh < 120
    assert ask(coder, wire("r4---sn-5hnekn7s"), AAAA) < 20  # another type of a known name
    assert ask(coder, wire("r5---sn-5hnekn7s")) < 25  # one character changed
    for _ in range(30):
        ask(coder, wire("r4---sn-5hnekn7s"))
    assert ask(coder, wire("r4---sn-5hnekn7s")) < 1.5


def test_a_well_known_label_costs_less_than_a_random_one() -> None:
    assert Coder().price(wire("www"), A) < Coder().price(wire("xq7"), A)
    assert Coder().price(wire("images"), A) < Coder().price(wire("qzjxwv"), A)


def test_an_address_of_version_6_is_one_label() -> None:
    near, far = Coder(reverse=True), Coder()
    first = wire(".".join("0123456789abcdef0123"))
    second = wire(".".join("4123456789abcdef0123"))
    ask(near, first, PTR)
    ask(far, first, PTR)
    assert ask(near, second, PTR) < 35
    assert ask(far, second, PTR) > 60


def test_the_state_is_bounded() -> None:
    coder, rng = Coder(), random.Random(1)
    for _ in range(5 * GENERATION):
        ask(coder, wire(rng.randbytes(8).hex() + "." + rng.randbytes(4).hex()))
    names, old_names, labels, old_labels, templates, types = coder.dump()
    assert len(names) + len(old_names) <= 2 * GENERATION
    assert len(labels) + len(old_labels) <= 2 * GENERATION + 2
    assert len(templates) == DEPTHS
    assert all(len(kept) <= 63 for kept in templates)
    assert types == {A: 5 * GENERATION}


def test_dump_and_load_keep_the_prices() -> None:
    coder, rng = Coder(), random.Random(2)
    for _ in range(400):
        ask(coder, wire(f"{rng.randrange(10**6)}.host{rng.randrange(50)}"), rng.choice((A, AAAA)))
    other = Coder()
    other.load(coder.dump())
    for sub in ("4711.host3", "nobody.asked.this", "host3"):
        assert other.price(wire(sub), A) == pytest.approx(coder.price(wire(sub), A))
    assert other.samples(3) == coder.samples(3)
    assert len(other.samples(3)) == 3
