"""What the fuzzer found, each with its smallest input.

Rules:
1. What is not repaired yet is marked as an expected failure. Whoever repairs it takes the mark away, which fails
   otherwise, and the exception for it in the target that the mark names.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from struct import pack
from typing import TYPE_CHECKING

import pytest
from fuzz import on_files, on_node, on_tcp, seeds
from fuzz.on_wire import hints_of
from scene import OFFICE

from core.errors import BadFeed, Malformed
from core.event import Transport
from core.names import from_text
from core.wire import read_name, walk
from feeds.index import Index
from feeds.parse import parse
from feeds.snapshot import STATE, load_state
from resolver.control import State, intel_dir, read_state
from resolver.hub import Hub
from resolver.subjects import MAX_SUBJECTS, subjects

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = bytes((127, 0, 0, 1))
NO_UTF8 = b"\x81\xa5index\xa1\xff"
NESTED = b"\x81\xa1x" + b"\x91" * 2_000


@pytest.mark.parametrize("data", [NO_UTF8, NESTED], ids=["no-utf8", "nested"])
def test_a_damaged_state_file_counts_as_none(tmp_path: Path, data: bytes) -> None:
    intel_dir(tmp_path).mkdir()
    (intel_dir(tmp_path) / "state").write_bytes(data)
    assert read_state(tmp_path) == State()


@pytest.mark.parametrize("data", [b'{"sha256":"\xff"}', b'{"x":' + b"[" * 2_000], ids=["no-utf8", "nested"])
def test_a_damaged_snapshot_state_counts_as_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / STATE).write_bytes(data)
    assert load_state(tmp_path) is None


def test_an_index_of_nested_brackets_is_refused(tmp_path: Path) -> None:
    good = seeds.index()
    path = tmp_path / "1.index"
    path.write_bytes(on_files._with_metadata(good, b'{"x":' + b"[" * 2_000))
    with pytest.raises(BadFeed):
        Index.open(path)


def test_no_octet_of_an_index_can_change_unseen(tmp_path: Path) -> None:
    good, path = seeds.index(), tmp_path / "1.index"
    unseen = []
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 4  # among others it makes PASSTHRU of SINKHOLE
        path.write_bytes(data)
        with suppress(BadFeed):
            opened = Index.open(path)
            unseen.append((at, opened.sets))
            opened.close()
    assert not [at for at, sets in unseen if sets != seeds.SETS]
    assert not unseen


def test_the_hub_counts_what_it_cannot_read() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        hub = Hub.__new__(Hub)
        hub._garbled = 0
        far.send(b"\x96\xa1\xff_")
        hub._on_said(near)
        assert hub._garbled == 1


def test_hints_behind_a_compressed_target_are_judged_or_the_reply_is_refused() -> None:
    [data] = [one for one in seeds.replies() if b"\x00\x41\x00\x01\x00\x00\x01\x2c\x00\x0c\x00\x01\xc0\x0c" in one]
    message = walk(data)
    hints = hints_of(data, message.records[0])
    assert hints
    try:
        found, _ = subjects(data, message)
    except Malformed:
        return
    assert set(hints) <= set(found)


def test_an_address_behind_many_others_is_judged_or_the_reply_is_refused() -> None:
    decoys = [b"\x08\x08" + at.to_bytes(2, "big") for at in range(MAX_SUBJECTS)]
    head = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04"
    records = b"".join(head + address for address in (*decoys, LOOPBACK))
    name = from_text(seeds.NAME)
    wire = pack("!6H", 0, 0x8180, 1, len(decoys) + 1, 0, 0) + name + b"\x00\x01\x00\x01" + records
    assert walk(wire).records[-1].end == len(wire)
    on_node.stage(dns64=False).reset(wire)
    reply = on_node.ask(on_node.stage(dns64=False).scene, seeds.query(), Transport.TCP, OFFICE)
    assert LOOPBACK not in reply  # `local.rebind_protection` is on


def test_a_pointer_into_the_header_is_malformed() -> None:
    with pytest.raises(Malformed):
        read_name(b"\x03abc" + b"\x00" * 8 + b"\x01a\xc0\x00", 12)


def test_nothing_is_handled_behind_a_frame_too_short_for_a_header() -> None:
    frame = len(seeds.query()).to_bytes(2, "big") + seeds.query()
    found = on_tcp.fed(frame + b"\x00\x03abc" + frame, on_tcp.CHUNK, proxied=False)
    assert found.closing
    assert len(found.asked) == 1


@pytest.mark.parametrize("line", [b"-ads.example", b"x.example-"])
def test_an_adblock_rule_for_a_part_of_a_name_is_passed_over(line: bytes) -> None:
    parsed = parse(line + b"\n", "adblock")
    assert parsed.count == 0
    assert parsed.unsupported == 1
