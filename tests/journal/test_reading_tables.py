"""Zeek's logs, CSV and our own query log read as sights."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import zstandard
from place import Place

from core import names
from core.event import Event
from core.verdict import Action, Cause
from detectors.sight import Sight
from journal.reading import fields, order, rows, tables, zeek
from journal.reading.open import open_file
from journal.reading.order import LATE, in_order, in_time, merged
from journal.reading.source import BadFile, Reader
from journal.reading.streams import MAX_LINE

CLIENT = ip_address("192.0.2.7").packed
ZEEK = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tdns\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tproto\tquery\tqtype\tqtype_name\trcode\trcode_name\tanswers\tTTLs\n"
    "#types\ttime\tstring\taddr\tport\tenum\tstring\tcount\tstring\tcount\tstring\tvector[string]\tvector[interval]\n"
)


def opened(folder: Path, text: str | bytes, name: str = "any.name") -> Reader:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return open_file(path)


def sights(reader: Reader) -> list[Sight]:
    reader.first()
    return list(reader.sights())


def row(at: float, query: str, **changes: str) -> str:
    cells = {
        "qtype": "1",
        "type": "A",
        "rcode": "0",
        "code": "NOERROR",
        "answers": "203.0.113.9",
        "ttls": "60.000000",
    } | changes
    return "\t".join(
        (str(at), "C1", "192.0.2.7", "4000", "udp", query, cells["qtype"], cells["type"], cells["rcode"], cells["code"],
         cells["answers"], cells["ttls"])
    ) + "\n"  # fmt: skip


def test_zeek_separated_by_tabs(tmp_path: Path) -> None:
    text = ZEEK + row(5.5, "WWW.example.com", answers="alias.example,203.0.113.9", ttls="60.000000,30.000000")
    text += (
        row(6, "-")
        + row(7, "t.example", qtype="-", type="TXT", rcode="-", code="-", answers="-", ttls="-")
        + "torn\tline\n"
    )
    reader = opened(tmp_path, text + ZEEK + row(8, "b\\xff\\x2ec.example"))
    first, second, third = sights(reader)
    assert first == Sight(
        5.5, CLIENT, names.from_text("www.example.com"), 1, names.from_text("example.com"), 0, 30, 0,
        (ip_address("203.0.113.9").packed,), b"alias.example",
    )  # fmt: skip
    assert (second.qtype, second.rcode, second.ttl, second.payload) == (16, -1, 0, b"")
    assert names.labels(third.qname)[0] == b"b\xff.c"
    assert reader.tally == {rows.NO_NAME: 1, zeek.BAD_LINES: 1}
    assert reader.kind == "Zeek TSV"


def test_zeek_as_json(tmp_path: Path) -> None:
    objects: list[dict[str, Any]] = [
        {"ts": 5.5, "id.orig_h": "192.0.2.7", "query": "a.example", "qtype": 28, "rcode_name": "NXDOMAIN"},
        {"ts": "1970-01-01T00:00:06.250000Z", "id": {"orig_h": "2001:db8::7"}, "query": "b.example",
         "qtype_name": "TXT",
         "answers": ["TXT 5 hello", "203.0.113.9"], "TTLs": [60.0, 7.0], "_path": "dns"},
        {"ts": 7, "_path": "conn", "query": "c.example"},
        {"ts": "never", "query": "d.example"},
    ]  # fmt: skip
    reader = opened(tmp_path, "".join(json.dumps(one) + "\n" for one in objects) + "[]\n{torn\n\n" + "[" * 5_000)
    first, second = sights(reader)
    assert (first.at, first.client, first.qtype, first.rcode) == (5.5, CLIENT, 28, 3)
    assert (second.at, len(second.client), second.qtype, second.ttl) == (6.25, 16, 16, 7)
    assert second.addresses == (ip_address("203.0.113.9").packed,)
    assert reader.tally == {zeek.BAD_LINES: 3, zeek.OTHER_LOGS: 1, rows.BAD_ROWS: 1}


def test_other_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no dns\.log: it has no ts or no query"):
        opened(tmp_path, ZEEK.replace("query", "host")).first()
    with pytest.raises(BadFile, match="there is no ts"):
        opened(tmp_path, '{"name": "x"}\n').first()


@pytest.mark.parametrize(
    "header",
    [
        "ts,client,qname,qtype,rcode", "Timestamp;Source IP;Query;Record Type;Response Code",
        "frame.time_epoch\tip.src\tdns.qry.name\tdns.qry.type\tdns.flags.rcode", "time|src_ip|domain|type|rcode_name",
        '"at","client","qname","qtype","rcode"', "\ufeff_time,src,fqdn,query_type,reply_code",
    ],
)  # fmt: skip
def test_csv_by_what_its_header_says(tmp_path: Path, header: str) -> None:
    delimiter = next(one for one in "\t;|," if one in header)
    line = delimiter.join(("1700000000.5", "192.0.2.7", "a.example.com", "TXT", "NXDOMAIN"))
    (sight,) = sights(opened(tmp_path, f"{header}\n{line}\n\n"))
    assert (sight.at, sight.client, sight.qtype, sight.rcode) == (1_700_000_000.5, CLIENT, 16, 3)
    assert sight.domain == names.from_text("example.com")


def test_csv_of_our_own_log(tmp_path: Path) -> None:
    head = "at,client,view,qname,qtype,rcode,action,cause,cached,count,size,ttl,answers\n"
    text = (
        head
        + "1970-01-01T00:00:05.5Z,192.0.2.7,,a.example,TYPE65399,NOERROR,SINKHOLE,intel,true,4,90,30,203.0.113.9 ::1\n"
    )
    (sight,) = sights(opened(tmp_path, text))
    assert (sight.at, sight.qtype, sight.cached, sight.blocked, sight.count) == (5.5, 65_399, True, True, 4)
    assert (sight.size, sight.ttl, len(sight.addresses)) == (90, 30, 2)


def test_csv_with_replies_in_rows_of_their_own(tmp_path: Path) -> None:
    text = (
        "ts,src,sport,dst,dport,qr,id,qname,qtype,rcode,answers\n"
        "1,192.0.2.7,4000,198.51.100.53,53,0,9,a.example,16,0,\n"
        "2,198.51.100.53,53,192.0.2.7,4000,1,9,a.example,16,3,16:30:5:hello\n"
    )
    (sight,) = sights(opened(tmp_path, text))
    assert (sight.at, sight.client, sight.rcode, sight.ttl, sight.payload) == (1.0, CLIENT, 3, 30, b"hello")


def test_csv_rows_that_make_no_sense_are_counted(tmp_path: Path) -> None:
    bad = [
        "x,192.0.2.7,a.example",
        "nan,192.0.2.7,a.example",
        "-5,192.0.2.7,a.example",
        f"5,192.0.2.7,{'a' * 64}.example",
    ]
    text = "ts,client,qname\n5,192.0.2.7,fine.example\n" + "\n".join(bad) + "\n6\n7,192.0.2.7,\n"
    reader = opened(tmp_path, text)
    assert len(sights(reader)) == 1
    assert reader.tally == {rows.BAD_ROWS: len(bad), tables.BAD_LINES: 1, rows.NO_NAME: 1}


def test_csv_without_a_client_or_with_words_for_it(tmp_path: Path) -> None:
    (sight,) = sights(opened(tmp_path, "ts,qname\n5,a.example\n"))
    assert sight.client == fields.NAMELESS
    reader = opened(tmp_path, "ts,client,qname\n5,alice,a.example\n6,bob,a.example\n7,alice,b.example\n")
    first, second, third = sights(reader)
    assert first.client == third.client != second.client
    assert reader.aliases == {first.client: "alice", second.client: "bob"}


@pytest.mark.parametrize(
    ("header", "word"), [("client,qname", "time"), ("ts,client", "name"), ("just some text", "time")]
)
def test_csv_needs_a_time_and_a_name(tmp_path: Path, header: str, word: str) -> None:
    with pytest.raises(BadFile, match=f"has no column for the {word}"):
        opened(tmp_path, f"{header}\n1,2\n").first()


def test_octets_beyond_ascii_stand_for_themselves(tmp_path: Path) -> None:
    (sight,) = sights(opened(tmp_path, b"ts,qname\n5,\xff\xfeA.example\n"))
    assert names.labels(sight.qname)[0] == b"\xff\xfea"


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gz", "bz2", "xz", "zst"],
)
def test_packed_files_and_their_damage(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    text = b"ts,client,qname\n" + b"".join(b"%d,192.0.2.7,n%d.example\n" % (at, at * 7919) for at in range(20_000))
    packed = pack(text)
    assert len(sights(opened(tmp_path, packed + pack(b"99999,192.0.2.7,last.example\n")))) == 20_001
    got: list[Sight] = []
    with pytest.raises(BadFile, match=r"any\.name: \w+ cannot be read further"):  # noqa: PT012  either may raise
        reader = opened(tmp_path, packed[: len(packed) // 2])
        assert reader.first() is not None
        got.extend(reader.sights())
    assert len(got) < 20_000
    assert got or pack is bz2.compress  # which packs blocks of 900 kB


def test_a_line_without_end_costs_no_memory(tmp_path: Path) -> None:
    reader = opened(tmp_path, b"ts,qname\n5,a.example\n6," + b"x" * (3 * MAX_LINE) + b"\n7,b.example\n")
    assert [names.to_text(one.qname) for one in sights(reader)] == ["a.example", "b.example"]
    assert reader.tally["lines too long"] == 1


@pytest.mark.parametrize("apart", [1, 1_000])
def test_a_table_out_of_order_comes_in_order(tmp_path: Path, apart: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "RUN", 4_096)
    monkeypatch.setattr(order, "BLOCK", 512)
    lines = [f"{1_000_000 + apart * (at * 7 % 500)},192.0.2.7,n{at}.example" for at in range(500)]
    reader = opened(tmp_path, "ts,client,qname\n" + "\n".join(lines))
    found = sights(reader)
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert len({one.qname for one in found}) == 500
    assert not reader.tally
    assert reader.first() == 1_000_000


def sight(at: float, name: str = "a.example") -> Sight:
    qname = names.from_text(name)
    return Sight(at, CLIENT, qname, 1, qname)


def test_order_within_a_window_and_late_ones_counted() -> None:
    tally: Any = Counter()
    found = list(in_time(map(sight, [1.0, 3.0, 2.0, 9.0, 1.5, 10.0]), 2.0, tally))
    assert [one.at for one in found] == [1.0, 2.0, 3.0, 1.5, 9.0, 10.0]
    assert tally == {LATE: 1}
    assert [one.at for one in in_time(map(sight, [5.0, 4.0, 3.0]), 99.0, tally, waiting=1)] == [4.0, 3.0, 5.0]
    assert list(in_order(iter([]), Sight)) == []


def test_files_are_merged_and_opened_only_when_their_time_has_come() -> None:
    events: list[str] = []

    def source(name: str, *times: float) -> tuple[float, Any]:
        def run() -> Any:
            events.append(name)
            yield from (sight(at, f"{name}.example") for at in times)

        return min(times, default=0.0), run

    for one in merged([source("c", 50, 60), source("a", 1, 9, 55), source("b", 5, 6), source("d")]):
        events += [f"{one.at:.0f}"]
    assert events == ["d", "a", "1", "b", "5", "6", "9", "c", "50", "55", "60"]


def test_our_own_segments(tmp_path: Path) -> None:
    place = Place(tmp_path)
    name, base = names.from_text("a.example"), 1_700_000_000.0
    place.give_log(
        Event(base + 3, CLIENT, name, 16, 3, action=Action.SINKHOLE, cause=Cause.INTEL),
        Event(
            base + 1,
            CLIENT,
            names.from_text("\\255b.example"),
            1,
            0,
            answers=(CLIENT,),
            ttl=60,
            size=70,
            count=3,
            cached=True,
        ),
        Event(base + 2, CLIENT, names.from_text("localhost"), 1, 0, cause=Cause.LOCAL),
    )
    (segment,) = (place.config.data_dir / "journal").rglob("*.parquet")
    reader = open_file(segment)
    assert reader.first() == base + 1
    first, second, third = reader.sights()
    assert (first.at, first.count, first.ttl, first.size, first.cached) == (base + 1, 3, 60, 70, True)
    assert (first.qname, first.addresses) == (names.from_text("\\255b.example"), (CLIENT,))
    assert second.cached
    assert (third.qtype, third.rcode, third.blocked, third.cached) == (16, 3, True, False)
    assert reader.position() == segment.stat().st_size


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "other"
    duckdb.execute(f"COPY (SELECT 1 AS x) TO '{path}' (FORMAT parquet)")
    with pytest.raises(BadFile, match=r"cannot be read|no query log of plughole"):
        open_file(path).first()
    duckdb.execute(f"COPY (SELECT TIMESTAMP '2026-01-01' AS \"at\") TO '{path}' (FORMAT parquet)")
    with pytest.raises(BadFile, match="no query log of plughole: it has no column client"):
        open_file(path).first()
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(BadFile, match="inside gzip"):
        open_file(path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1700000000", 1.7e9), ("1700000000.25", 1_700_000_000.25), ("1700000000250", 1_700_000_000.25),
     ("1700000000250000", 1_700_000_000.25), ("1700000000250000000", 1_700_000_000.25),
     ("2023-11-14T22:13:20Z", 1.7e9), ("2023-11-14 23:13:20+01:00", 1.7e9), ("2023-11-14 22:13:20 UTC", 1.7e9)],
)  # fmt: skip
def test_moments(text: str, seconds: float) -> None:
    assert fields.moment(text) == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "number"),
    [("A", 1), ("txt", 16), ("16", 16), ("TYPE65", 65), ("unknown (99)", 99), ("*", 255), ("", 1), ("??", 0)],
)
def test_types(text: str, number: int) -> None:
    assert fields.qtype(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("NOERROR", 0), ("nxdomain", 3), ("2", 2), ("RCODE23", 23), ("", -1), ("?", -1)]
)
def test_codes(text: str, number: int) -> None:
    assert fields.rcode(text) == number
