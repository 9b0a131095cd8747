"""Cookies agree with RFC 9018's examples, nothing forged is good, and the secrets' file survives its rotation."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from siphash24 import siphash24

from core.errors import BadConfig, Unavailable
from resolver.cookies import MAX_AGE, MAX_AHEAD, RENEW_AGE, Cookies, keep, load, well_formed

FIRST = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
ROLLED = tuple(map(bytes.fromhex, ("445536bcd2513298075a5d379663c962", "dd3bdf9344b678b185a6f5cb60fca715")))
CLIENT = bytes.fromhex("2464c4abcf10c957")
ADDRESS = ip_address("198.51.100.100").packed
NOW = 1_559_731_985.7
DAY = 86_400.0

options = st.one_of(st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=40))
clients = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
moments = st.integers(0, 2**33)


@pytest.mark.parametrize(
    ("secrets", "address", "now", "sent", "replied", "good"),
    [
        ((FIRST,), "198.51.100.100", 1_559_731_985, "2464c4abcf10c957",
         "2464c4abcf10c957010000005cf79f111f8130c3eee29480", False),
        ((FIRST,), "198.51.100.100", 1_559_734_385, "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
         "2464c4abcf10c957010000005cf7a871d4a564a1442aca77", True),
        # by the RFC's own clock this one is 112 minutes old and so not good
        ((FIRST,), "203.0.113.203", 1_559_734_700, "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
         "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e", False),
        (ROLLED, "2001:db8:220:1:59de:d0f4:8769:82b8", 1_559_741_961,
         "22681ab97d52c298010000005cf7c57926556bd0934c72f8", "22681ab97d52c298010000005cf7c609a6bb79d16625507a", True),
    ],
    ids=["A.1 new", "A.2 renewed", "A.3 reserved octets set", "A.4 IPv6, secret rolled over"],
)  # fmt: skip
def test_the_examples_of_rfc_9018(
    secrets: tuple[bytes, ...], address: str, now: int, sent: str, replied: str, good: bool
) -> None:
    made = Cookies(secrets).reply(bytes.fromhex(sent), ip_address(address).packed, now)
    assert made == (bytes.fromhex(replied), good)


def test_reserved_octets_do_not_make_a_cookie_bad() -> None:
    sent = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
    replied, good = Cookies([FIRST]).reply(sent, ip_address("203.0.113.203").packed, 0x5CF78F71 + 5)
    assert good
    assert replied[8:12] == b"\x01\x00\x00\x00"


@pytest.mark.parametrize(
    ("age", "good", "same"),
    [
        (0, True, True),
        (RENEW_AGE, True, True),
        (RENEW_AGE + 1, True, False),
        (MAX_AGE, True, False),
        (MAX_AGE + 1, False, False),
        (-MAX_AHEAD, True, True),
        (-MAX_AHEAD - 1, False, False),
        (2**31, False, False),
    ],
)
@pytest.mark.parametrize("made_at", [NOW, 2.0**32 - 10], ids=["2019", "where 32 bits end"])
def test_ages(age: int, good: bool, same: bool, made_at: float) -> None:
    cookies = Cookies([FIRST])
    sent, _ = cookies.reply(CLIENT, ADDRESS, made_at)
    replied, found = cookies.reply(sent, ADDRESS, made_at + age)
    assert (found, replied == sent) == (good, same)
    assert cookies.reply(replied, ADDRESS, made_at + age)[1]


@given(options, clients, moments)
def test_whatever_comes_gets_a_cookie_that_is_good(sent: bytes, address: bytes, now: int) -> None:
    cookies = Cookies([FIRST, *ROLLED])
    replied, good = cookies.reply(sent, address, now)
    assert not good
    assert (len(replied), replied[:8]) == (24, sent[:8])
    assert cookies.reply(replied, address, now) == (replied, True)


@given(st.integers(0, 23), st.integers(1, 255), clients)
def test_one_octet_changed_is_no_longer_good(at: int, change: int, address: bytes) -> None:
    cookies = Cookies([FIRST])
    sent = bytearray(cookies.reply(CLIENT, address, NOW)[0])
    sent[at] ^= change
    assert not cookies.reply(bytes(sent), address, NOW)[1]


def test_a_cookie_of_another_version_is_not_good() -> None:
    head = CLIENT + b"\x02\x00\x00\x00" + int(NOW).to_bytes(4, "big")
    sent = head + siphash24(head + ADDRESS, key=FIRST).digest()
    assert Cookies([FIRST]).reply(sent, ADDRESS, NOW) == (Cookies([FIRST]).reply(CLIENT, ADDRESS, NOW)[0], False)


def test_another_address_or_secret_is_no_longer_good() -> None:
    sent, _ = Cookies([FIRST]).reply(CLIENT, ADDRESS, NOW)
    assert Cookies([FIRST]).reply(sent, ADDRESS, NOW)[1]
    assert not Cookies([FIRST]).reply(sent, bytes(4), NOW)[1]
    assert not Cookies(ROLLED).reply(sent, ADDRESS, NOW)[1]


def test_sizes_of_an_option() -> None:
    assert [size for size in range(60) if well_formed(bytes(size))] == [8, *range(16, 41)]


def test_secrets_of_another_size_are_refused() -> None:
    for secrets in ((), (b"short",), (FIRST, FIRST + b"x")):
        with pytest.raises(ValueError, match="16 octets") as caught:
            Cookies(secrets)
        assert "short" not in str(caught.value)


def test_a_file_of_secrets(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text(f"# ours\n\n{FIRST.hex().upper()}  # in use\n  {ROLLED[0].hex()}\r\n{ROLLED[1].hex()}")
    assert load(path) == (FIRST, *ROLLED)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "holds no secret"),
        ("# nothing\n", "holds no secret"),
        (f"#\n{FIRST.hex()[:-1]}\n", "line 2"),
        (f"{FIRST.hex()}00\n", "line 1"),
        (f"{FIRST.hex()[:-1]}g\n", "line 1"),
        (" ".join(FIRST.hex()), "line 1"),
        (FIRST.hex(" "), "line 1"),
        (f"{FIRST.hex()[:29]} 9e\n", "line 1"),
        (f"{FIRST.hex()} {FIRST.hex()}\n", "line 1"),
        (f"{FIRST.hex()}\n" * 4, "line 4"),
        (f"{FIRST.hex()}\n" * 400, "longer than"),
        ("e5e973e5a6b2a43f48e7dc849e37bf\u00fc\n", "line 1"),
    ],
)
def test_a_bad_file_gets_one_clear_line_without_its_content(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "secrets"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig) as caught:
        load(path)
    (line,) = caught.value.mistakes
    assert str(path) in line
    assert where in line
    assert "e5e9" not in line
    assert "\n" not in line
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(data=st.binary(max_size=200))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(data)
    try:
        found = load(path)
    except BadConfig:
        return
    assert all(len(secret) == 16 for secret in found)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read"):
        load(tmp_path / "none")


def test_the_file_is_made_kept_and_rotated(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    first = keep(path, NOW, DAY)
    assert (len(first), load(path)) == (1, first)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keep(path, NOW + DAY - 1, DAY) == first
    second = keep(path, NOW + DAY + 1, DAY)
    assert second[1:] == first
    assert second[0] != first[0]
    third = keep(path, NOW + 2 * DAY + 2, DAY)
    assert third[1:] == second[:1]
    assert load(path) == third
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "secrets"]


def test_a_cookie_outlives_the_rotation(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    sent, _ = Cookies(keep(path, NOW)).reply(CLIENT, ADDRESS, NOW + DAY)
    after = Cookies(keep(path, NOW + DAY + 1)).reply(sent, ADDRESS, NOW + DAY + 1)
    assert after[1]
    assert after[0] != sent


def test_a_clock_set_back_a_little_changes_nothing_and_a_lot_rotates(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    first = keep(path, NOW, DAY)
    assert keep(path, NOW - 600, DAY) == first
    assert keep(path, NOW - 3 * DAY, DAY)[1:] == first


def test_many_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: keep(path, NOW, DAY), range(32)))
        assert made == {load(path)}
        rotated = set(pool.map(lambda _: keep(path, NOW + 2 * DAY, DAY), range(32)))
    assert rotated == {load(path)}
    assert load(path)[1:] == made.pop()


def test_a_draft_left_by_the_dead_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / f".secrets.{os.getpid()}.tmp").write_text("half")
    assert keep(tmp_path / "secrets", NOW) == load(tmp_path / "secrets")
    assert list(tmp_path.iterdir()) == [tmp_path / "secrets"]


def test_a_damaged_file_of_ours_is_told_and_left(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("damaged")
    with pytest.raises(BadConfig, match="line 1"):
        keep(path, NOW)
    assert path.read_text() == "damaged"


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be kept there"):
        keep(tmp_path / "none" / "secrets", NOW)
    (tmp_path / "secrets").mkdir()
    with pytest.raises(BadConfig, match="cannot be read"):
        keep(tmp_path / "secrets", NOW)
