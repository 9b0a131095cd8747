"""Damaged and hostile files: every reader gives sights, counts, or one clean error."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from capturing import CLIENT, SERVER, START, asked, pcap, pcapng, query, record, tcp
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.sight import MAX_PAYLOAD
from journal.reading.open import open_file
from journal.reading.source import BadFile

_PACKETS = [
    *asked("www.example.com", 1, START, record(1, bytes((203, 0, 113, 9)))),
    *asked("t.example.com", 16, START + 1, record(16, b"\x05hello"), record(5, b"\x01a\xc0\x0c"), number=8),
    (START + 2, tcp(b"", (CLIENT, 5), (SERVER, 53), sequence=9, flags=2)),
    (START + 3, tcp(b"\x00\x1f" + query("over.tcp.example"), (CLIENT, 5), (SERVER, 53), sequence=10)),
]
_TSV = (
    b"#separator \\x09\n#fields\tts\tid.orig_h\tquery\tqtype\trcode\tanswers\tTTLs\n"
    b"5.5\t192.0.2.7\ta.example\t1\t0\t203.0.113.9\t60.0\n6.5\t192.0.2.7\tb\\xff.example\t16\t0\tTXT 1 a\t60.0\n"
)
_JSON = b'{"ts": 5.5, "id.orig_h": "192.0.2.7", "query": "a.example", "qtype": 1, "answers": ["::1"], "TTLs": [6]}\n'
_CSV = b'ts,client,qname,qtype,rcode,ttl,answers\n5,192.0.2.7,a.example,A,NOERROR,60,::1\n6,::1,"b.example",16,3,0,\n'
SEEDS = {
    "pcap": pcap(_PACKETS),
    "pcap nano": pcap(_PACKETS, 101, mark=">", nano=True),
    "pcapng": pcapng(_PACKETS),
    "tsv": _TSV,
    "json": _JSON * 3,
    "csv": _CSV,
    "gzip": gzip.compress(_CSV),
}


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """The file with octets changed, parts cut out, doubled or put in."""
    octets = bytearray(seed)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(octets)))
        what = draw(st.sampled_from(("set", "cut", "end", "insert", "double")))
        if what == "set" and at < len(octets):
            octets[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del octets[at : at + draw(st.integers(1, 40))]
        elif what == "end":
            del octets[at:]
        elif what == "insert":
            octets[at:at] = draw(st.binary(max_size=24))
        else:
            octets[at:at] = octets[max(0, at - 30) : at]
    return bytes(octets)


def read(octets: bytes) -> int:
    """Read the file to its end; returns how many sights it gave."""
    with tempfile.NamedTemporaryFile(prefix="plughole-test-") as file:
        file.write(octets)
        file.flush()
        count = 0
        try:
            reader = open_file(Path(file.name))
            reader.first()
            for sight in reader.sights():
                assert len(sight.client) in (4, 16)
                assert sight.qname.endswith(sight.domain)
                assert len(sight.payload) <= MAX_PAYLOAD
                assert sight.count >= 1
                assert sight.at >= 0
                count += 1
            assert 0 <= reader.position() <= len(octets)
        except BadFile as error:
            text = str(error)
            assert text.startswith(file.name)
            assert "\n" not in text
        return count


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seed_itself_is_sound(seed: str) -> None:
    assert read(SEEDS[seed]) >= 2


@pytest.mark.parametrize("seed", SEEDS)
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_damage_never_crashes_a_reader(seed: str, data: st.DataObject) -> None:
    read(data.draw(damaged(SEEDS[seed])))


@given(start=st.sampled_from([b"", *(seed[:24] for seed in SEEDS.values()), b"PAR1"]), rest=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_octets_behind_any_beginning(start: bytes, rest: bytes) -> None:
    read(start + rest)
