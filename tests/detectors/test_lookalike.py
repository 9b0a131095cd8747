from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from string import ascii_lowercase

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadName
from core.finding import Confidence, Finding
from core.names import from_text
from detectors.confusables import glyphs, latin, readable, skeleton
from detectors.lookalike import MAX_CLEAN, MAX_SAID, MAX_SUSPECT, Likeness, Lookalike, LookalikeSettings
from detectors.sight import Sight, domain_of
from detectors.typos import BIT, DOUBLING, HYPHEN, NEIGHBOUR, NUMBER, OMISSION, OTHER, SWAP, VOWEL, Neighbourhood, slip

START = 1_700_000_000.0
DAY = 86_400.0
ANN, BOB = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
SETTINGS = LookalikeSettings(
    own=("examplebank.com", "examplebank.de", "müller-gmbh.de"), watch=("paypal.com", "kb.nl"), ignore=("paypa.com",)
)
WORDS = st.text(ascii_lowercase + "0123456789-", min_size=2, max_size=14)


def ask(
    watch: Lookalike,
    name: str,
    at: float = START,
    client: bytes = ANN,
    *,
    rcode: int = 0,
    to: str = "192.0.2.1",
    blocked: bool = False,
) -> Sequence[Finding]:
    qname = from_text(name)
    sight = Sight(
        at=at,
        client=client,
        qname=qname,
        qtype=1,
        domain=domain_of(qname),
        rcode=rcode,
        addresses=(ip_address(to).packed,) if to else (),
        blocked=blocked,
    )
    return [*watch.see(sight), *watch.tick(at)]


def judged(name: str) -> Likeness | None:
    return Lookalike(SETTINGS).judge(from_text(name))


@pytest.mark.parametrize(
    ("name", "target", "confidence"),
    [
        ("ex\u0430mplebank.com", "examplebank.com", Confidence.HIGH),  # Cyrillic a
        ("\u0440\u0430\u0443\u0440\u0430\u04cf.com", "paypal.com", Confidence.HIGH),  # all Cyrillic
        ("p\u00e1ypal.com", "paypal.com", Confidence.MEDIUM),  # an accent
        ("muller-gmbh.de", "xn--mller-gmbh-9db.de", Confidence.MEDIUM),
        ("paypa1.com", "paypal.com", Confidence.MEDIUM),
        ("paypai.com", "paypal.com", Confidence.MEDIUM),
        ("examp1ebank.net", "examplebank.com", Confidence.MEDIUM),
        ("exarnplebank.com", "examplebank.com", Confidence.MEDIUM),
        ("examplebnk.com", "examplebank.com", Confidence.MEDIUM),
        ("exammplebank.com", "examplebank.com", Confidence.MEDIUM),
        ("examplebnak.com", "examplebank.com", Confidence.MEDIUM),
        ("examplebamk.com", "examplebank.com", Confidence.MEDIUM),
        ("ezamplebank.com", "examplebank.com", Confidence.MEDIUM),
        ("example-bank.com", "examplebank.com", Confidence.MEDIUM),
        ("examplebaok.com", "examplebank.com", Confidence.MEDIUM),  # n and o differ by one bit
        ("wwwexamplebank.com", "examplebank.com", Confidence.MEDIUM),
        ("examplebankcom.net", "examplebank.com", Confidence.MEDIUM),
        ("examplebank-login.net", "examplebank.com", Confidence.MEDIUM),
        ("secure-examp1ebank.net", "examplebank.com", Confidence.MEDIUM),
        ("paypallogin.com", "paypal.com", Confidence.MEDIUM),
        ("verifypaypal.xyz", "paypal.com", Confidence.MEDIUM),
        ("p\u0430ypal-support.com", "paypal.com", Confidence.MEDIUM),
        ("paypal-fans.org", "paypal.com", Confidence.LOW),
        ("paypal-service.org", "paypal.com", Confidence.LOW),  # owners write that too
        ("examplebankrobbers.org", "examplebank.com", Confidence.LOW),
        ("my0ldexamplebank.org", "examplebank.com", Confidence.LOW),
        ("examplebabk.com", "examplebank.com", Confidence.MEDIUM),
        ("ex\u00f8mplebank.com", "examplebank.com", Confidence.LOW),  # an o with a stroke for an a: another letter
        ("paypal.top", "paypal.com", Confidence.LOW),
        ("examplebank.co.uk", "examplebank.com", Confidence.LOW),
        ("payapl.com", "paypal.com", Confidence.LOW),  # six letters: chance is too near
        ("examplebnk.ru", "examplebank.com", Confidence.LOW),
    ],
)
def test_what_looks_like_a_protected_name(name: str, target: str, confidence: Confidence) -> None:
    found = judged(name)
    assert found is not None
    assert (found.target, found.confidence) == (target, confidence)
    (finding,) = ask(Lookalike(SETTINGS), "www." + name)
    assert finding.confidence is confidence
    assert target in finding.reason


@pytest.mark.parametrize(
    "name",
    [
        "examplebank.com", "examplebank.de", "paypal.com", "kb.nl", "paypa.com", "google.com", "bank.com",
        "example.com", "kb.de", "kbb.nl", "palpay.com", "paypalooza.com", "simplebanks.com", "com", "localhost",
        "xn--zz-.com",         "m\u00fcnchen.de", "4.3.2.1.in-addr.arpa",
    ],
)  # fmt: skip
def test_what_does_not(name: str) -> None:
    watch = Lookalike(SETTINGS)
    assert not ask(watch, name)
    assert not ask(watch, "www." + name)


def test_below_a_protected_domain_nothing_is_flagged() -> None:
    watch = Lookalike(SETTINGS)
    for name in ("paypa1.com.examplebank.com", "paypal-login.examplebank.de", "www.paypal.com.paypal.com"):
        assert not ask(watch, name)


def test_the_whole_name_in_front_of_anothers_domain() -> None:
    watch = Lookalike(SETTINGS)
    assert not ask(watch, "www.evil.net")
    (finding,) = ask(watch, "www.paypal.com.session.evil.net")
    assert (finding.domain, finding.confidence) == ("evil.net", Confidence.LOW)
    assert "paypal.com" in finding.reason
    (front,) = ask(watch, "examplebank.com.evil.net", client=BOB)
    assert "examplebank.com" in front.reason


def test_a_block_list_or_a_search_suffix_is_no_trick() -> None:
    watch = Lookalike(SETTINGS)
    assert not ask(watch, "paypal.com.multi.surbl.org", to="127.0.0.2")
    assert not ask(watch, "paypal.com.isp-net.org", rcode=3, to="")
    assert not ask(watch, "paypal.com._report._dmarc.vendor.com", to="")
    assert not ask(watch, "mypaypal.community.evil.net")


def test_only_what_exists_is_told_and_once_a_day_and_client() -> None:
    watch = Lookalike(SETTINGS)
    assert not ask(watch, "paypa1.com", rcode=3)
    assert not ask(watch, "paypa1.com", blocked=True)
    assert len(ask(watch, "paypa1.com")) == 1
    assert not ask(watch, "www.paypa1.com", START + 60)
    assert len(ask(watch, "paypa1.com", START + 60, BOB)) == 1
    assert len(ask(watch, "paypa1.com", START + DAY)) == 1


def test_without_names_or_off_it_is_silent() -> None:
    assert not ask(Lookalike(LookalikeSettings()), "paypa1.com")
    assert not ask(Lookalike(LookalikeSettings(watch=("paypal.com",), mode="off")), "paypa1.com")
    with pytest.raises(BadName):
        Lookalike(LookalikeSettings(own=("",)))


def test_a_name_below_the_registered_domain_protects_the_domain() -> None:
    watch = Lookalike(LookalikeSettings(own=("portal.examplebank.com",)))
    assert len(ask(watch, "examplebankk.com")) == 1
    assert not ask(watch, "www.examplebank.com")


@pytest.mark.parametrize(
    ("known", "word", "kind"),
    [
        ("bank", "bnk", OMISSION), ("bank", "baank", DOUBLING), ("bank", "bnak", SWAP), ("bank", "bajk", NEIGHBOUR),
        ("bank", "ba-nk", HYPHEN), ("ba-nk", "bank", HYPHEN), ("bank", "bonk", VOWEL), ("bank", "bakk", OTHER),
        ("bank", "banjk", NEIGHBOUR), ("bank", "baxnk", OTHER), ("bank", "banks", OTHER), ("bank", "cank", BIT),
        ("bank", "bank", None), ("bank", "bnka", None), ("bank", "band-", None), ("bank", "ba", None),
        ("ab", "ba", SWAP), ("cdn-2", "cdn-3", NUMBER), ("cdn-2", "cdn-12", NUMBER), ("cdn-12", "cdn-2", NUMBER),
        ("cdn-12", "cdn-21", NUMBER), ("bank", "b4nk", OTHER), ("bank", "bank4", OTHER), ("cdn1x", "cdnx", NUMBER),
    ],
)  # fmt: skip
def test_kinds_of_slips(known: str, word: str, kind: str | None) -> None:
    assert slip(known, word) == kind


@given(WORDS, WORDS, st.data())
def test_every_slip_is_found_and_nothing_else(word: str, other: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from(ascii_lowercase + "0123456789-"))
    near = Neighbourhood([word])
    swapped = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
    for made in (
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + letter + word[at + 1 :],
        swapped,
    ):
        assert [known for known, _ in near.near(made)] == ([word] if made != word else [])
    assert bool(list(near.near(other))) == (slip(word, other) is not None)


@given(st.text(ascii_lowercase, min_size=6, max_size=14), st.data())
def test_another_scripts_letters_are_seen_through(word: str, data: st.DataObject) -> None:
    letters = {
        "a": "\u0430",
        "e": "\u0435",
        "o": "\u043e",
        "p": "\u0440",
        "c": "\u0441",
        "x": "\u0445",
        "i": "\u0456",
        "s": "\u0455",
    }
    at = data.draw(st.integers(0, len(word)))
    word = word[:at] + data.draw(st.sampled_from(sorted(letters))) + word[at:]
    fooled = "".join(letters.get(char, char) if data.draw(st.booleans()) else char for char in word)
    assert glyphs(fooled) == word
    assert skeleton(fooled) == skeleton(word)
    found = Lookalike(LookalikeSettings(own=(word + ".com",))).judge(from_text(fooled + ".com"))
    assert (found is not None and found.confidence is Confidence.HIGH) == (fooled != word)


def test_labels_are_read_as_people_read_them() -> None:
    assert readable(b"xn--mnchen-3ya") == "m\u00fcnchen"
    assert readable(b"plain-1") == "plain-1"
    assert readable(b"\xff") is None
    assert readable(b"xn--\xff") is None
    assert latin("m\u00fcn\u0441hen\u00f8") == "munchen" + "o"
    assert skeleton("modern") == skeleton("rnodem")
    assert skeleton("abc") != skeleton("abd")


@given(st.binary(min_size=1, max_size=40))
def test_no_label_upsets_it(label: bytes) -> None:
    for text in (label, b"xn--" + label):
        name = bytes((len(text),)) + text.lower() + b"\x03com\x00"
        Lookalike(SETTINGS).judge(name)


def test_it_is_kept_over_a_restart() -> None:
    watch = Lookalike(SETTINGS)
    assert len(ask(watch, "paypa1.com")) == 1
    again = Lookalike(SETTINGS)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.dump())))
    assert not ask(again, "paypa1.com", START + 60)
    assert len(ask(again, "paypa1.com", START + 60, BOB)) == 1


def test_the_caps_hold() -> None:
    watch = Lookalike(LookalikeSettings(watch=("paypal.com",)))
    for number in range(MAX_SAID + 3_000):
        domain = from_text(f"paypal-{number}.com")
        watch.see(Sight(at=START, client=ANN, qname=domain, qtype=1, domain=domain, rcode=0))
    counters = watch.counters()
    assert counters["suspects"] <= MAX_SUSPECT
    assert counters["dropped"] > MAX_SAID - MAX_SUSPECT
    watch._clean.update(number.to_bytes(4, "big") for number in range(MAX_CLEAN))
    assert not ask(watch, "plain-name.com")
    assert len(watch._clean) == 1
