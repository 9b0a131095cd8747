"""Each tool is told by its own talk, and by nobody else's."""

from __future__ import annotations

from base64 import b32encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_labels, from_text
from detectors.sight import Sight, domain_of
from detectors.tunnel import READERS, TunnelSettings, TunnelWatch
from detectors.tunnel_c2 import _CODE, _SLIVER, _SLIVER_HEAD, staged_code
from detectors.tunnel_codec import (
    RFC4648,
    Exchange,
    from_base,
    is_ipv4_packet,
    is_reachable,
    looks_encoded,
    payload_is_dense,
)
from detectors.tunnel_tools import _IPV4_HEAD, tuns

ZONE = "t.relay.example"
A, CNAME, NULL, TXT, KEY = 1, 5, 10, 16, 25
PACKET = bytes.fromhex("450000541c46400040 01 0a5f0a0000010a000002".replace(" ", ""))


def text(words: str) -> bytes:
    return bytes((len(words),)) + words.encode()


def b32(raw: bytes) -> str:
    return b32encode(raw).decode().rstrip("=").lower()


def iodine32(raw: bytes) -> str:
    return b32(raw).translate(str.maketrans("234567", "012345"))


def checked(packet: bytes) -> bytes:
    bare = packet[:10] + b"\x00\x00" + packet[12:]
    total = sum(int.from_bytes(bare[at : at + 2], "big") for at in range(0, 20, 2))
    return bare[:10] + (0xFFFF - ((total & 0xFFFF) + (total >> 16))).to_bytes(2, "big") + bare[12:]


def ask(
    name: str | bytes, qtype: int = TXT, payload: bytes = b"", *addresses: bytes, at: float = 0.0, zone: str = ZONE
) -> Sight:
    qname = name if isinstance(name, bytes) else from_text(f"{name}.{zone}".lower())
    return Sight(
        at=at,
        client=b"\x0a\x00\x00\x01",
        qname=qname,
        qtype=qtype,
        domain=domain_of(qname),
        rcode=0,
        ttl=300,
        payload=payload,
        addresses=addresses,
    )


def last(*sights: Sight) -> Finding | None:
    watch = TunnelWatch(TunnelSettings(shapes=False))
    found = [finding for sight in sights for finding in watch.see(sight)]
    return found[-1] if found else None


def nonce_page(nonce: int, page: bytes) -> str:
    swap = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=", "abcdefghijklmnopqrstuvwxyz1234569")
    return ".".join(b32encode(raw).decode().translate(swap) for raw in (b"spi!", nonce.to_bytes(4, "big"), page))


SESSION = "01a7c3"
SLIVER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "ab1c2d3e4f5g6h7j8k9m0npqrtuvwxyz")


def sliver(number: int) -> str:
    message = b"\x08\x08\x10\x81\x01\x18" + bytes((number,)) + b"\x28\x10\x32\x04abcd"
    return b32encode(message).decode().rstrip("=").translate(SLIVER)


TALKS: dict[str, tuple[Sight, ...]] = {
    "iodine": (ask("vaaaakatgui", NULL, b"VACK\x12\x34\x56\x78\x00"),),
    "iodine: its": (
        ask("vaaaakatgui", NULL),
        ask("laaygpem3voabaxnnmhituecvkmhgniy", NULL),
        ask("yrbzve", NULL),
        ask("sahzvk", NULL),
    ),
    "test of the upstream codec": (ask(b"\x15zzvfaa-aaahhh-drink-m\x01t\x05relay\x07example\x00", NULL),),
    "running data counter": tuple(ask(f"0eab{counter}82d4gq7wx5m2k9p1v3", NULL) for counter in "yz0123456"),
    "pings that count up": tuple(ask(f"p{iodine32(bytes((0, 5, 0x40, turn)))}", NULL) for turn in range(7, 13)),
    "dnscat2": tuple(ask(f"{number:04x}{SESSION}0011223344aa") for number in (0x1F00, 0x0A77, 0xB001)),
    "dnscat2: MSG packets answered": tuple(
        ask(f"{number:04x}{SESSION}0011223344aa", TXT, text(f"{number + 9:04x}{SESSION}99aabb")) for number in (7, 900)
    ),
    "dnscat label": (ask("dnscat.1f0a01a7c30011223344"),),
    "dns2tcp": (ask("AAAAACKqAA.=auth", KEY),),
    "dns2tcp: answers": (
        ask("73gAAAABBA", TXT, text("A73gAAAABGEhUVF")),
        ask("73gAAAACCEdFVCAv", TXT, text("A73gAAAACEA")),
    ),
    "empty polls": tuple(ask(f"gq5v{turn}9aba", KEY) for turn in ("k2", "lg", "lw", "lm", "mg")),
    "OzymanDNS/SODS": (ask("0-60451.id-1605.down", CNAME),),
    "DNSExfiltrator": (ask(f"init.{b32(b'passwords.zip|12')}.base64"),),
    "numbered chunks": tuple(ask(f"{turn}.{b32(bytes(20))}", TXT, text(str(turn))) for turn in range(7, 12)),
    "DNScapy": tuple(
        ask(f"aGVsbG8gd29ybGQ.{turn}.b.7.{salt}", CNAME) for turn, salt in enumerate((4011, 77, 60112, 312))
    ),
    "TUNS": (ask(f"d{b32(checked(PACKET))}", CNAME),),
    "IP over DNS": (ask(b32(checked(PACKET) + b"ping"), TXT),),
    "goDoH": tuple(ask(f"{turn:04x}.ef.{turn}.0f5a4d11.1.3.aabbcc.ddee.ff", A) for turn in (1, 2)),
    "dnsteal": tuple(ask(f"h4siaaaaaaaaa{turn}aqcsvq-.pwk0s3fxc2v0-.f", A) for turn in range(3)),
    "Cobalt Strike": tuple(ask(f"post.14{turn}.0984291{turn}.19997cf2", A) for turn in range(5)),
    "its stager": (ask("aaa.stage.123456", TXT),),
    "a check-in": tuple(
        sight for code in (0, 243) for sight in (ask("19997cf2", A, b"", bytes((0, 0, 0, code))), ask("19997cf2", A))
    )
    + tuple(ask(f"api.0{turn}ab12.19997cf2", TXT) for turn in range(3)),
    "Sliver": tuple(ask(sliver(number), A) for number in (1, 2)),
    "Pupy/Decoy Dog": tuple(ask(nonce_page(1000 + turn * 12, b"0123456789ab"), A) for turn in range(3)),
    "SUNBURST": tuple(
        ask(f"{head}.appsync-api.eu-west-1", A) for head in ("6a57jk2ba1d9keg15cbg", "7sbvaemscs0mc925tb99")
    ),
    "Pisloader": (ask("KRMDBQVG4MZX.ns1", TXT, text("CONUWM3Y")),),
    "code in TXT": (ask("www.1", TXT, text("H4sIAAAAAAAEAO29B2AcSZYlJi9tynt")),),
}


@pytest.mark.parametrize("what", TALKS)
def test_a_tool_is_named_by_its_own_talk(what: str) -> None:
    found = last(*TALKS[what])
    assert found is not None
    assert what.split(":", maxsplit=1)[0] in found.reason
    if what != "code in TXT":
        assert found.confidence is Confidence.HIGH
        assert found.evidence[0].value >= found.evidence[0].threshold == 1.0


STRANGERS: dict[str, tuple[Sight, ...]] = {
    "words that begin like iodine": tuple(
        ask(word, A) for word in ("signal", "saharb", "oauths", "payments", "valentine")
    ),
    "counted hosts": tuple(ask(f"edge{number}.frankfurt-node", A) for number in range(10)),
    "md5 names": tuple(
        ask(f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}.safeframe", A) for number in range(99)
    ),
    "a CNAME that repeats an md5 name": tuple(
        ask(
            f"{number:04x}01a7c3ffee0011{number:04x}",
            A,
            from_text(f"{number:04x}01a7c3ffee0011{number:04x}.cdn.example"),
        )
        for number in (17,)
    ),
    "reversed addresses": tuple(ask(f"{number}.0.1.204.zen", A) for number in range(60)),
    "a list's nibbles": tuple(ask(".".join(f"{number:02x}00000000008b"), A) for number in range(60)),
    "dates and numbers": tuple(
        ask(f"{number}.reports.monthly-summary", TXT, text("v=1; ok")) for number in (3, 5, 9, 12)
    ),
    "the real AppSync": tuple(
        ask(f"{head}.appsync-api.eu-west-1", A, zone="amazonaws.com")
        for head in ("6a57jk2ba1d9keg15cbgwq2x4e", "7sbvaemscs0mc925tb99zq2x4e", "5sbvaemscs0mc925tb99zq2x4a")
    ),
    "a sinkhole upstream": tuple(ask(f"{number:08x}", A, b"", bytes(4)) for number in range(0x10000000, 0x10000030)),
    "a content network": tuple(ask(f"cdn{number}.ab12cd{number}", A, b"", b"\x34\x01\x01\x01") for number in range(20)),
    "a mail key": tuple(
        ask(f"s{number}._domainkey", TXT, text("v=DKIM1; k=rsa; p=MIGfMA0GCSq")) for number in range(20)
    ),
    "a base32 name that is no packet": (ask(f"d{b32(PACKET)}", CNAME), ask(b32(b"E" * 36), CNAME)),
    "padded labels whose nonce does not run": tuple(
        ask(nonce_page(turn * 7919, b"0123456789ab"), A) for turn in range(9)
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_nobody_elses_talk_names_a_tool(what: str) -> None:
    assert STRANGERS[what]
    assert last(*STRANGERS[what]) is None


def test_the_reverse_tree_speaks_no_tool() -> None:
    names = [from_text(f"{number}.2.0.192.in-addr.arpa") for number in range(80)]
    assert last(*(ask(name, 12, from_text(f"h{at}.isp.example")) for at, name in enumerate(names))) is None


def test_a_counter_that_stops_running_begins_again() -> None:
    apart = [ask(f"0eab{counter}82d4gq7wx5m2k9p1v3", NULL) for counter in "yz0a" * 6]
    assert last(*apart) is None


def test_old_clues_are_forgotten() -> None:
    day = 86_400.0
    spread = [ask(f"{turn:04x}{SESSION}0011223344aa", at=turn * 8 * day) for turn in range(9)]
    near = [ask(f"{turn:04x}{SESSION}0011223344aa", at=turn * day) for turn in range(9)]
    assert last(*spread) is None
    assert last(*near) is not None


octets = st.binary(min_size=1, max_size=63)


@given(
    parts=st.lists(octets.map(bytes.lower), min_size=1, max_size=5).map(tuple),
    qtype=st.sampled_from([A, CNAME, NULL, TXT, KEY, 28]),
    payload=st.binary(max_size=80),
    addresses=st.lists(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), max_size=4).map(tuple),
)
def test_no_exchange_upsets_a_reader(
    parts: tuple[bytes, ...], qtype: int, payload: bytes, addresses: tuple[bytes, ...]
) -> None:
    from_labels(tuple(part[:40] for part in parts))
    for reader in READERS:
        assert all(
            0 < clue.points <= 1
            for clue in reader(Exchange(parts, qtype, payload, addresses, b"\x05relay\x07example\x00"))
        )


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=1, max_size=60),
    st.integers(0, 255),
    st.sampled_from([b"\x08\x01\x10", b"\x08\x02\x18\x01\x20"]),
)
def test_base32_of_any_kind_upsets_no_reader(name: str, octet: int, head: bytes) -> None:
    made = b32encode(head + bytes((octet,))).decode().rstrip("=").translate(SLIVER)
    for reader in READERS:
        for first in (name, made):
            reader(Exchange((first.encode(), name.encode()), A, name.encode(), (), b"\x05relay\x07example\x00"))


@given(st.binary(min_size=1, max_size=60))
def test_base32_is_read_back(raw: bytes) -> None:
    assert from_base(b32(raw).encode(), b"abcdefghijklmnopqrstuvwxyz234567") == raw


def test_only_a_right_checksum_makes_a_packet() -> None:
    packet = checked(PACKET)
    assert is_ipv4_packet(packet)
    assert not any(is_ipv4_packet(packet[:at] + bytes((packet[at] ^ 4,)) + packet[at + 1 : 20]) for at in range(20))


def test_data_looks_encoded_and_words_do_not() -> None:
    assert all(map(looks_encoded, (b"5d2301340f59af309420", b"kj2xq7mzbd4pr6tw", b"gq5vk29aba", b"\xe0\xd3q\xd4a")))
    assert not any(map(looks_encoded, (b"scontent-vie1-1", b"lyncdiscoverinternal", b"prod-elb-149169523", b"www")))


def test_dense_payload_is_told_from_text() -> None:
    assert payload_is_dense(text("QWxhZGRpbjpvcGVuIHNlc2FtZQ"))
    assert payload_is_dense(bytes(range(100, 250, 3)))
    assert not payload_is_dense(text("v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ"))
    assert not payload_is_dense(text("15169 | 8.8.8.0/24 | US | arin | 1992-12-01"))
    assert not payload_is_dense(b"\x00\x0a" + from_text("mail.customer.example"))


def test_reachable_addresses() -> None:
    assert all(map(is_reachable, (b"\x08\x08\x08\x08", b"\x7f\x00\x00\x02", b"\x20" + bytes(15), bytes(16))))
    assert not any(map(is_reachable, (bytes(4), b"\xf0\x01\x02\x03", b"\x99" + bytes(15))))


# What is ruled out at a glance


def exchange(*parts: bytes, payload: bytes = b"") -> Exchange:
    return Exchange(parts, TXT, payload, (), from_text(ZONE))


@given(st.from_regex(_CODE), st.binary(max_size=20), st.binary(max_size=20))
def test_no_code_is_overlooked(code: bytes, before: bytes, after: bytes) -> None:
    payload = before + code + after
    assert bool(staged_code(exchange(b"a", payload=payload))) == bool(_CODE.search(payload))


@given(st.binary(min_size=30, max_size=60), st.integers(1, 40))
def test_no_packet_in_base32_is_overlooked_wherever_labels_are_cut(rest: bytes, cut: int) -> None:
    packet = checked(b"\x45\x00\x00\x54" + rest)
    words = b32(packet).encode()
    for head in (b"d", b""):
        whole = head + words
        parts = [part for part in (whole[:cut], whole[cut:63], whole[63:]) if part]
        assert [clue.points for clue in tuns(exchange(*parts))] == [1.0]


@pytest.mark.parametrize(("alphabet", "octet", "head"), [(_SLIVER, 0x08, _SLIVER_HEAD), (RFC4648, 0x45, _IPV4_HEAD)])
def test_the_first_octet_shows_in_the_first_character(alphabet: bytes, octet: int, head: bytes) -> None:
    texts = [bytes((one, other)) for one in alphabet for other in alphabet]
    heads = {text[:1] for text in texts if from_base(text, alphabet) == bytes((octet,))}
    assert heads == {head}
