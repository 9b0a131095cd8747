"""The lists that ship are sound and quick to load; a newer file is taken, a bad one told and passed over."""

from __future__ import annotations

import gzip
import ipaddress
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadFeed
from egress import range_lists
from egress.range_lists import KINDS, file_name, load_lists, pack, unpack
from egress.ranges import listed

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "egress" / "lists"


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def put(folder: Path, kind: str, network: str, date: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / file_name(kind)).write_bytes(pack(kind, [listed("mine", [network])], date=date, source="a test"))


def test_what_ships_is_small_whole_and_quick() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_000_000
    begun = time.thread_time()
    lists = load_lists(None)
    assert time.thread_time() - begun < 3.0  # 0.2 s on the machine it was made on
    assert (len(lists.never), len(lists.shared), len(lists.sinkholes)) > (60_000, 20_000, 100)
    assert not lists.mistakes
    assert set(lists.sources) == set(KINDS)
    readme = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert all(source.rpartition(", ")[2] in readme for source in lists.sources.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ships_reads_and_writes_back_to_the_same_octets(kind: str) -> None:
    octets = (SHIPPED / file_name(kind)).read_bytes()
    found = unpack(octets, kind)
    assert {one.name for one in found.lists} <= set(KINDS[kind].values())
    assert gzip.decompress(pack(kind, found.lists, date=found.date, source=found.source)) == gzip.decompress(octets)


def test_the_newer_of_two_files_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "shared", "91.66.0.0/16", "2099-01-01")
    put(tmp_path, "sinkholes", "91.66.0.0/16", "2001-01-01")
    lists = load_lists(tmp_path)
    assert lists.shared.find(packed("91.66.0.80")) == "mine"
    assert lists.shared.find(packed("104.16.0.1")) is None
    assert lists.sinkholes.find(packed("91.66.0.80")) is None
    assert lists.never.find(packed("8.8.8.8")) is not None
    assert lists.sources["shared"] == "a test, 2099-01-01"
    assert not lists.mistakes


def test_a_bad_file_is_told_and_what_ships_taken(tmp_path: Path) -> None:
    for kind, octets in zip(KINDS, (b"", b"<html>", gzip.compress(b"plughole")[:-3]), strict=True):
        (tmp_path / file_name(kind)).write_bytes(octets)
    lists = load_lists(tmp_path)
    assert len(lists.mistakes) == 3
    assert all(str(tmp_path) in mistake for mistake in lists.mistakes)
    assert lists.shared.find(packed("104.16.0.1")) == "Cloudflare"


def test_a_folder_that_is_not_there_is_no_mistake(tmp_path: Path) -> None:
    assert not load_lists(tmp_path / "egress" / "lists").mistakes


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / file_name("never")).mkdir()
    assert len(load_lists(tmp_path).mistakes) == 1


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans with those that touch made one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


HEADER = b"plughole ranges 1, never, 2026-08-20, a test\n"


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"never\n1.2.3.4\n",
        HEADER.replace(b"never", b"shared") + b"= x\n1.2.3.4\n",
        HEADER.replace(b"ranges 1", b"ranges 2") + b"= x\n1.2.3.4\n",
        HEADER,
        HEADER + b"= x\n",
        HEADER + b"= x\n1.2.3.4/0\n",
        HEADER + b"= x\n1.2.3.4/33\n",
        HEADER + b"= x\n1.2.3.4/-1\n",
        HEADER + b"= x\n1.2.3.4/24\n",
        HEADER + b"= x\n1.2.3.4/x\n",
        HEADER + b"= x\n::/129\n",
        HEADER + b"= x\n1.2.3\n",
        HEADER + b"= x\n\n",
        HEADER + b"= x\n1.2.3.4\x00\n",
        HEADER + b"= x\n\xff\n",
    ],
)
def test_a_damaged_file_is_refused(plain: bytes) -> None:
    with pytest.raises(BadFeed):
        unpack(gzip.compress(plain), "never")


def test_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    octets = gzip.compress(HEADER + b"= x\n" + b"1.2.3.4\n" * 1_000)
    assert len(unpack(octets, "never").lists[0].prefixes) == 1_000
    for cap, at_most in (("MAX_PREFIXES", 999), ("MAX_PLAIN", 5_000), ("MAX_PACKED", 20)):
        with monkeypatch.context() as patch:
            patch.setattr(range_lists, cap, at_most)
            with pytest.raises(BadFeed, match="more than"):
                unpack(octets, "never")


@pytest.mark.parametrize(("date", "source"), [("today", "x"), ("2026-08-20", ""), ("2026-08-20", "a\nb")])
def test_a_header_that_could_not_be_read_is_not_written(date: str, source: str) -> None:
    with pytest.raises(ValueError, match="header"):
        pack("never", [listed("x", ["1.2.3.4"])], date=date, source=source)


four = st.tuples(st.integers(0, 2**32 - 1), st.integers(4, 32)).map(lambda it: ipaddress.IPv4Network(it, strict=False))
six = st.tuples(st.integers(0, 2**128 - 1), st.integers(4, 128)).map(lambda it: ipaddress.IPv6Network(it, strict=False))


@given(st.lists(st.one_of(four, six.filter(lambda it: it[0].ipv4_mapped is None)), min_size=1, max_size=20))
def test_what_is_packed_holds_the_same_addresses(networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
    one = listed("x", map(str, networks))
    found = unpack(pack("shared", [one], date="2026-08-20", source="a test"), "shared").lists[0]
    assert all(each.last - each.first < 1 << (8 * each.octets - 4) for each in found.prefixes)
    for version, octets in ((4, 4), (6, 16)):
        told = [(each.first, each.last) for each in found.prefixes if each.octets == octets]
        meant = [(int(each[0]), int(each[-1])) for each in networks if each.version == version]
        assert merged(told) == merged(meant)


def test_neighbours_that_are_too_wide_together_stay_apart() -> None:
    octets = pack("never", [listed("x", ["0.0.0.0/4", "16.0.0.0/4"])], date="2026-08-20", source="a test")
    assert len(unpack(octets, "never").lists[0].prefixes) == 2


def test_a_snapshot_is_made_from_a_folder_of_warninglists(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "lists" / "cloudflare"
    folder.mkdir(parents=True)
    (folder / "list.json").write_text('{"type": "cidr", "name": "x", "list": ["91.66.0.0/17", "91.66.128.0/17"]}')
    sinks = tmp_path / "checkout" / "lists" / "sinkholes"
    sinks.mkdir()
    (sinks / "list.json").write_text('{"type": "cidr", "name": "x", "list": ["91.67.0.1"]}')
    (tmp_path / "checkout" / "lists" / "crl-ip").mkdir()
    (tmp_path / "checkout" / "lists" / "crl-ip" / "list.json").write_text('{"type": "cidr", "list": ["91.68.0.1"]}')
    script = [sys.executable, str(ROOT / "packaging" / "make_range_lists.py")]
    words = [str(tmp_path / "checkout"), "2099-01-01", "misp-warninglists abc", str(tmp_path / "made")]
    done = subprocess.run([*script, *words], capture_output=True, text=True, check=True)
    assert "left out: " in done.stderr
    lists = load_lists(tmp_path / "made")
    assert lists.shared.find(packed("91.66.0.80")) == "Cloudflare"
    assert len(lists.shared) == 1
    assert lists.sources == dict.fromkeys(KINDS, "misp-warninglists abc, 2099-01-01")
