"""Captures are read as they were written, and a name's payload is what its tool carries."""

from __future__ import annotations

import base64
import gzip
import struct
from pathlib import Path

import pytest

from benchmarks.evaluation import captures, packets
from benchmarks.evaluation.captures import as_run, labelled_attacks, labelled_runs, qtype_of, tunnel_runs
from benchmarks.evaluation.packets import Asked
from core.names import from_text

CLIENT = bytes((192, 0, 2, 5))
SERVER = bytes((192, 0, 2, 53))


def message(name: str, qtype: int = 16, *, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes((len(part),)) + part.encode("latin-1") for part in name.split("."))
    return struct.pack(">HHHHHH", 7, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", qtype, 1)


def ipv4(payload: bytes, *, port: int = 53, protocol: int = 17) -> bytes:
    udp = struct.pack(">HHHH", 40_000, port, 8 + len(payload), 0) + payload
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, protocol, 0) + CLIENT + SERVER + udp


def ethernet(packet: bytes, *, tag: bytes = b"") -> bytes:
    return bytes(12) + tag + b"\x08\x00" + packet


def pcap(frames: list[bytes], *, order: str = "<", link: int = 1) -> bytes:
    head = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, link)
    return head + b"".join(
        struct.pack(order + "IIII", 100 + at, 500_000, len(frame), len(frame)) + frame
        for at, frame in enumerate(frames)
    )


def pcapng(frames: list[bytes]) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))

    resolution = struct.pack("<HHB3x", 9, 1, 3) + struct.pack("<HH", 0, 0)  # milliseconds
    parts = [block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))]
    parts.append(block(1, struct.pack("<HHI", 1, 0, 0) + resolution))
    for at, frame in enumerate(frames):
        parts.append(block(6, struct.pack("<IIIII", 0, 0, 100_500 + at * 1000, len(frame), len(frame)) + frame))
    return b"".join(parts)


@pytest.mark.parametrize(
    "content",
    [
        pcap([ethernet(ipv4(message("Ab.example.com")))]),
        pcap([ethernet(ipv4(message("Ab.example.com")))], order=">"),
        pcap([ethernet(ipv4(message("Ab.example.com")), tag=b"\x81\x00\x00\x05")]),
        pcap([ipv4(message("Ab.example.com"))], link=101),
        pcap([bytes(16) + ipv4(message("Ab.example.com"))], link=113),
        pcapng([ethernet(ipv4(message("Ab.example.com")))]),
    ],
    ids=["pcap", "big-endian", "tagged", "raw", "cooked", "pcapng"],
)
def test_a_question_is_found_in_every_form(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.pcap"
    path.write_bytes(content)
    assert list(packets.questions(path)) == [Asked(100.5, CLIENT, (b"Ab", b"example", b"com"), 16)]


def test_replies_other_ports_and_broken_packets_are_no_questions(tmp_path: Path) -> None:
    whole = ethernet(ipv4(message("a.example.com")))
    frames = [
        ethernet(ipv4(message("a.example.com", flags=0x8180))),
        ethernet(ipv4(message("a.example.com"), port=5353)),
        ethernet(ipv4(message("a.example.com"), protocol=6)),
        whole[:60],
        whole[:20],
        b"",
        ethernet(ipv4(b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1")),
        ethernet(ipv4(message("last.example.com"))),
    ]
    path = tmp_path / "some.pcap.gz"
    path.write_bytes(gzip.compress(pcap(frames)))
    assert [asked.labels[0] for asked in packets.questions(path)] == [b"last"]


@pytest.mark.parametrize("keep", [0, 3, 20, 30, 41])
def test_a_capture_cut_short_ends_quietly(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "short.pcap"
    for content in (
        pcap([ethernet(ipv4(message("a.example.com")))]),
        pcapng([ethernet(ipv4(message("a.example.com")))]),
    ):
        path.write_bytes(content[:keep])
        assert list(packets.questions(path)) == []


def asked(*names: str) -> list[Asked]:
    return [
        Asked(float(at), CLIENT, tuple(part.encode("latin-1") for part in name.split(".")), 16)
        for at, name in enumerate(names)
    ]


def payloads(tool: str, *subs: str) -> list[float]:
    run = as_run(tool, "made", asked(*(f"{sub}.t.example.com" for sub in subs)))
    assert run is not None
    return [query.payload for query in run.queries]


def test_iodine_carries_data_behind_five_characters_and_none_in_its_setup() -> None:
    assert payloads("iodine", "vaaaakatb4e", "laafkl5i", "0eaba" + "abcdefgh", "paaa") == [0, 0, 5.0, 0]
    assert payloads("iodine", "yabc", "0eaba" + "ABCDefgh") == [0, 6.0]
    assert payloads("iodine", "yabc", "0eaba" + "\xe1bcdefgh") == [0, 7.0]


def test_dns2tcp_carries_base64_behind_seven_octets() -> None:
    data = base64.b64encode(b"seven.." + b"x" * 20).decode().rstrip("=")
    assert payloads("dns2tcp", "AAAAACKqAA.=auth", data, "73gAAAABBA") == [0.0, 20.0, 0.0]


def test_dnscat2_carries_what_stands_behind_its_header() -> None:
    plain = bytes.fromhex("aaaa01bbbbccccdddd")
    assert payloads("dnscat2", plain.hex(), (plain + b"12345").hex(), "aaaa00bbbb0000") == [0.0, 5.0, 0.0]
    sealed = bytes(2) + b"\x01" + bytes(14)
    assert payloads("dnscat2", sealed.hex(), (b"\1" + sealed[1:] + b"123").hex(), "aaaa03bbbb" + "00" * 20) == [
        0,
        3.0,
        0,
    ]


def test_sods_carries_data_upwards_only() -> None:
    assert payloads("sods", "0-1.id-7.down", "abcdefgh.ij.5-0.id-7.up", "9-1.id-7.down") == [0.0, 6.25, 0.0]


def test_an_unknown_tool_is_counted_whole_at_the_bits_of_its_alphabet() -> None:
    assert payloads("newtool", "0011", "aabb") == [2.0, 2.0]
    assert payloads("newtool", "wxyz2345", "klmnopqr") == [5.0, 5.0]


def test_a_name_asked_twice_carries_its_payload_once_and_other_domains_do_not_count() -> None:
    run = as_run(
        "newtool", "made", asked("wxyz2345.example.com", "wxyz2345.example.com", "qq.example.com", "w.example.net")
    )
    assert run is not None
    assert [query.payload > 0 for query in run.queries] == [True, False, True]
    assert {query.domain for query in run.queries} == {from_text("example.com")}
    assert as_run("newtool", "made", asked("a.example.com")) is None


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_runs_come_from_captures_and_from_files_parted_at_pauses(tmp_path: Path) -> None:
    folder = tmp_path / "captures" / "own"
    folder.mkdir(parents=True)
    frames = [ethernet(ipv4(message(f"0eaba{sub}.t.example.com"))) for sub in ("abcd", "efgh")]
    (folder / "iodine-txt.pcap").write_bytes(pcap(frames))
    (folder / "benign_walk.pcap").write_bytes(pcap(frames))
    rows = [
        f"sods,site,{at},192.0.2.1,{name}.example.org,TXT"
        for at, name in ((1, "a1"), (2, "a2"), (60, "b1"), (61, "b2"))
    ]
    write(tmp_path / "tunnels" / "queries.csv.gz", "tool,source,ts,client,qname,qtype", *rows)
    runs = tunnel_runs(tmp_path)
    assert [(run.tool, run.source, len(run.queries), run.held_out) for run in runs] == [
        ("iodine", "own/iodine-txt", 2, False),
        ("sods", "site#1", 2, True),
        ("sods", "site#2", 2, True),
    ]


def test_escaped_octets_of_a_file_are_octets(tmp_path: Path) -> None:
    rows = [
        rf"iodine,site,{at},192.0.2.1,{name}.t.example.org,TXT" for at, name in enumerate(["yabc", r"0eaba\225bcdefgh"])
    ]
    write(tmp_path / "tunnels" / "queries.csv.gz", "tool,source,ts,client,qname,qtype", *rows)
    (run,) = tunnel_runs(tmp_path)
    assert run.queries[1].qname == from_text(r"0eaba\225bcdefgh.t.example.org")
    assert run.payload == 7.0


def test_scanners_look_ups_are_no_attacks(tmp_path: Path) -> None:
    attack, other = "2sd4vel6mvgqleqd4f37vsq4c36dld.p2mlevep45", "zsd4vel6mvgqleqd4f37vsq4c36dld.q2mlevep45"
    scanner = "ae64vzr5s7fepmb7ztjos6xveebqeaqbaeaq.a.e"
    rows = [f"{attack},1", f"{other},1", f"{scanner},1", "c-0.19-a3000.32uw6zsqdjlf2aq3vtc7ugcpkb.avqs,1", "www.cdn,0"]
    write(tmp_path / "benign" / "isp_subdomains_train.csv.gz", "text,label", *rows)
    assert labelled_attacks(tmp_path) == {attack, other}
    (run,) = labelled_runs(tmp_path)
    assert run.source == "labels of 30, base32"
    assert run.payload == pytest.approx(2 * 40 * 5 / 8)


def test_record_types_by_number_name_and_neither() -> None:
    assert [qtype_of(text) for text in ("16", "TXT", "TYPE65", "*", "-", "no-such")] == [16, 16, 65, 255, 0, 0]
    assert captures.name_of("a..b") == from_text("a.b")
