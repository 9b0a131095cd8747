"""`plughole hunt`: what is found, how much had got out, and what is said about files that cannot be read."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import zstandard
from capturing import CLIENT, START, Packet, asked, pcap, pcapng, record
from place import Place

from console import hunt as command
from core import names
from core.event import Event
from detectors.carried import payload_bits
from detectors.engine import Outcome
from detectors.sight import Sight, domain_of
from journal import hunting
from journal.hunting import Hunt, Row

KEYS = (
    "client", "domain", "detector", "confidence", "score", "queries", "bytes_before_alert", "bytes_before_block",
    "first", "last", "reason", "evidence",
)  # fmt: skip
TUNNEL = "evil-c2.example"
QUICK = {"dga": {"mode": "off"}}


@pytest.fixture(autouse=True)
def _without_models(place: Place) -> None:
    """Leave out the one detector that takes half a second to make."""
    place.file.write_text(f'{place.file.read_text()}\n[detectors.dga]\nmode = "off"\n')


def chunk(number: int, size: int = 30) -> str:
    """A label of base 32 that carries so many octets of payload."""
    return base64.b32encode(random.Random(number).randbytes(size)).decode().rstrip("=").lower()


def uploads(count: int = 60, *, start: float = START, apart: float = 1.0, client: str = CLIENT) -> list[Packet]:
    """A file sent out in names of a tool nobody knows, each answered with an address."""
    packets: list[Packet] = []
    for number in range(count):
        name = f"{chunk(number)}.{TUNNEL}"
        answer = record(1, ip_address("203.0.113.9").packed)
        packets += asked(name, 1, start + apart * number, answer, number=number % 65_536, client=client)
    return packets


def browsing(count: int = 200) -> list[Packet]:
    """Ordinary names, each a few times."""
    packets: list[Packet] = []
    for number in range(count):
        name = f"{('www', 'mail', 'cdn')[number % 3]}.shop-{'abcdefgh'[number % 8]}.example"
        answer = record(1, ip_address("203.0.113.9").packed)
        packets += asked(name, 1, START + number, answer, number=number, client="192.0.2.8")
    return packets


def write(place: Place, name: str, octets: bytes) -> str:
    path = place.folder / name
    path.write_bytes(octets)
    return str(path)


def rows(place: Place, *files: str) -> list[dict[str, Any]]:
    result = place.run("hunt", "--json", *files)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def of(found: list[dict[str, Any]], detector: str) -> dict[str, Any]:
    (row,) = [one for one in found if one["detector"] == detector]
    return row


def test_a_tunnel_is_found_with_what_it_got_out(place: Place) -> None:
    found = rows(place, write(place, "a.pcap", pcap(sorted(uploads() + browsing()))))
    row = of(found, "leak")
    assert tuple(row) == KEYS
    assert (row["client"], row["domain"], row["confidence"], row["queries"]) == (CLIENT, TUNNEL, "HIGH", 60)
    assert 100 < row["bytes_before_block"] <= 512
    assert row["bytes_before_alert"] <= row["bytes_before_block"]
    assert row["bytes_before_block"] % 30 == 0  # base 32 is told from other alphabets, so it is the payload itself
    assert row["first"] == "2023-11-14T22:13:20.000000Z"
    assert row["last"] == "2023-11-14T22:14:19.000000Z"
    assert row["evidence"]
    assert set(row["evidence"][0]) == {"name", "value", "threshold"}
    assert not [one for one in found if one["client"] == "192.0.2.8" and one["confidence"] != "LOW"]


def test_nothing_bad_is_no_row(place: Place) -> None:
    found = rows(place, write(place, "a.pcap", pcap(browsing())))
    assert not [one for one in found if one["confidence"] != "LOW"]


def forms() -> Iterator[tuple[str, bytes]]:
    packets = uploads()
    zeek = "#separator \\x09\n#fields\tts\tid.orig_h\tquery\tqtype\trcode\tanswers\tTTLs\n"
    objects, table = "", "ts,client,qname,qtype,rcode,answers,ttl\n"
    for number in range(60):
        at, name = START + number, f"{chunk(number)}.{TUNNEL}"
        zeek += f"{at}\t{CLIENT}\t{name}\t1\t0\t203.0.113.9\t300.0\n"
        objects += json.dumps({"ts": at, "id.orig_h": CLIENT, "query": name, "qtype": 1, "rcode": 0}) + "\n"
        table += f"{at},{CLIENT},{name},A,NOERROR,203.0.113.9,300\n"
    yield "pcap", pcap(packets)
    yield "pcap.gz", gzip.compress(pcap(packets))
    yield "pcapng", pcapng(packets, nano=True)
    yield "dns.log", zeek.encode()
    yield "dns.log.zst", zstandard.compress(zeek.encode())
    yield "json", objects.encode()
    yield "csv", table.encode()


def test_every_form_tells_the_same(place: Place) -> None:
    told = {}
    for name, octets in forms():
        row = of(rows(place, write(place, "file", octets)), "leak")
        told[name] = (row["domain"], row["bytes_before_block"], row["queries"], row["first"], row["last"])
    assert len(told) == 7
    assert len(set(told.values())) == 1, told


def test_our_own_log_is_read(place: Place) -> None:
    client = ip_address(CLIENT).packed
    qnames = [names.from_text(f"{chunk(number)}.{TUNNEL}") for number in range(60)]
    place.give_log(*(Event(START + number, client, qname, 1, 0) for number, qname in enumerate(qnames)))
    files = [str(path) for path in (place.config.data_dir / "journal").rglob("*.parquet")]
    assert files
    assert of(rows(place, *files), "leak")["queries"] == 60


def test_files_are_taken_in_order_of_time(place: Place) -> None:
    first = write(place, "z.pcap", pcap(uploads(20)))
    second = write(place, "a.csv", b"ts,client,qname\n" + b"".join(
        f"{START + number},{CLIENT},{chunk(number)}.{TUNNEL}\n".encode() for number in range(20, 60)
    ))  # fmt: skip
    whole = of(rows(place, write(place, "whole.pcap", pcap(uploads(60)))), "leak")
    for order in ((first, second), (second, first)):
        split = of(rows(place, *order), "leak")
        assert {**split, "evidence": [], "reason": "", "score": 0} == {
            **whole,
            "evidence": [],
            "reason": "",
            "score": 0,
        }


def test_a_table_for_people(place: Place) -> None:
    result = place.run("hunt", write(place, "a.pcap", pcap(uploads())))
    assert result.exit_code == 0
    head, *lines = result.stdout.splitlines()
    assert head.split()[:4] == ["confidence", "client", "domain", "detector"]
    assert any(line.startswith("HIGH") and TUNNEL in line and " leak " in line for line in lines)
    assert "60 queries in" in result.stderr


def test_unreadable_files_are_one_line_each_and_the_others_count(place: Place) -> None:
    good = write(place, "good.pcap", pcap(uploads()))
    bad = write(place, "bad", b"\x7fELF\x00")
    torn = write(place, "torn.gz", gzip.compress(pcap(uploads(400, start=START + 900)))[:-500])
    result = place.run("hunt", "--json", good, bad, str(place.folder / "missing"), torn)
    assert result.exit_code == 1
    assert of([json.loads(line) for line in result.stdout.splitlines()], "leak")["queries"] > 60
    errors = [line for line in result.stderr.splitlines() if line.startswith("plughole: ")]
    assert len(errors) == 3
    assert f"{bad}: is none of" in errors[0]
    assert "missing: No such file" in errors[1]
    assert f"{torn}: gzip cannot be read further" in errors[2]
    assert place.run("hunt", bad).stdout == ""


def test_usage_and_configuration(place: Place) -> None:
    assert place.run("hunt").exit_code == 2
    assert place.run("hunt", "--frobnicate", "x").exit_code == 2
    place.file.write_text(place.file.read_text() + '\n[detectors.leak]\nmode = "of"\n')
    result = place.run("hunt", write(place, "a.pcap", pcap(uploads())))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "detectors.leak.mode" in result.stderr


def test_what_is_off_finds_nothing(place: Place) -> None:
    place.file.write_text(place.file.read_text() + '\n[detectors.leak]\nmode = "off"\n')
    found = rows(place, write(place, "a.pcap", pcap(uploads())))
    assert not [one for one in found if one["detector"] == "leak"]


def test_what_was_passed_over_is_noted(place: Place) -> None:
    result = place.run("hunt", write(place, "a.pcap", pcap(uploads()) + b"\x00"))
    assert "a.pcap: 1 packets cut off at the end of the file" in result.stderr
    empty = place.run("hunt", write(place, "b.pcap", pcap([])))
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "b.pcap: holds no DNS" in empty.stderr


def test_clients_that_are_no_addresses_keep_their_names(place: Place) -> None:
    table = "ts,client,qname\n" + "".join(f"{START + at},alice,{chunk(at)}.{TUNNEL}\n" for at in range(60))
    assert of(rows(place, write(place, "a.csv", table.encode())), "leak")["client"] == "alice"


def test_a_bar_on_a_terminal_only(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = command._Opened([Path(write(place, "a.pcap", pcap(uploads())))])
    with opened.progress() as told:
        told(5)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with opened.progress() as told:
        assert len(list(opened.sights())) == 60
        told(60)


def test_local_names_never_left(place: Place) -> None:
    table = "ts,client,qname\n" + "".join(f"{START + at},{CLIENT},{chunk(at)}.foo.localhost\n" for at in range(60))
    assert rows(place, write(place, "a.csv", table.encode())) == []


# The hunt itself


def sight(name: str, at: float, client: str = CLIENT, **changes: Any) -> Sight:
    qname = names.from_text(name)
    return Sight(at, ip_address(client).packed, qname, changes.pop("qtype", 1), domain_of(qname), **changes)


def run(*sights: Sight) -> list[Row]:
    made = Hunt(QUICK, started=START)
    for one in sights:
        made.see(one)
    made.finish()
    return made.rows()


def test_questions_the_cache_would_have_answered_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    again = [sight("a-long-name-that-comes-again.shop.example", START + at, rcode=0, ttl=3_600) for at in range(3_000)]
    assert not [row for row in run(*again) if row.detector == "leak"]
    made = Hunt(QUICK, started=START)
    cached: list[bool] = []
    see = made.engine.see

    def spy(one: Sight) -> Outcome:
        cached.append(one.cached)
        return see(one)

    monkeypatch.setattr(made.engine, "see", spy)
    for at in (0, 30, 59, 61, 62):
        made.see(sight("www.shop.example", START + at, rcode=0, ttl=5))
    for at in (0, 299, 301):
        made.see(sight("gone.shop.example", START + 100 + at, rcode=3))
    assert cached == [False, True, True, False, True, False, True, False]


def test_names_count_once_and_blocked_ones_not_at_all() -> None:
    sights = [sight(f"{chunk(number)}.{TUNNEL}", START + number) for number in range(60)]
    once, twice = run(*sights), run(*(one for item in sights for one in (item, item)))
    leak = {row.detector: row for row in once}["leak"]
    assert {row.detector: row for row in twice}["leak"].bytes_before_block == leak.bytes_before_block
    blocked = run(*(sight(f"{chunk(number)}.{TUNNEL}", START + number, blocked=True) for number in range(60)))
    assert not [row for row in blocked if row.detector == "leak"]


def test_caps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hunting, "MAX_PAIRS", 20)
    monkeypatch.setattr(hunting, "MAX_ROWS", 1)
    made = Hunt(QUICK, started=START)
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        for number in range(60):
            made.see(sight(f"{chunk(number)}.{client.replace('.', '-')}.{TUNNEL}", START + number, client))
    for number in range(100):
        made.see(sight(f"n{number}.example", START + 70 + number))
    assert len(made.rows()) == 1
    assert made.rows()[0].queries == 60
    assert made.counters()["findings forgotten"] >= 1
    assert made.counters()["pairs forgotten"] > 100


@pytest.mark.parametrize(
    ("name", "octets"),
    [("0123456789.example", 4.15), ("deadbeef.example", 4.0), ("mzxw6ytb.example", 5.0), ("www-09_a.example", 5.25),
     ("\\255\\254.example", 2.0), ("example", 0.0), ("ab.cd.example", 2.0)],
)  # fmt: skip
def test_the_estimate_of_payload(name: str, octets: float) -> None:
    assert payload_bits(names.from_text(name), names.from_text("example")) / 8 == pytest.approx(octets, abs=0.01)


def test_the_manual_names_every_key() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "hunt.md").read_text()
    assert set(KEYS) <= set(re.findall(r"`([a-z_]+)`", manual))


def test_all_detectors_together(place: Place) -> None:
    place.file.write_text(place.file.read_text().partition("[detectors.dga]")[0])
    assert of(rows(place, write(place, "a.pcap", pcap(sorted(uploads() + browsing())))), "leak")["confidence"] == "HIGH"
