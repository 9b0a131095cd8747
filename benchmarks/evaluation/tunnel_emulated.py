"""Tools nobody gave us captures of, spoken by emulators written from their public protocol descriptions.

They show that a name is found from the protocol as described; they do not show that the description is right. The last
ones are tunnels of nobody's: only their shape can give them away.
"""

from __future__ import annotations

from base64 import b32encode, b64encode
from random import Random
from typing import TYPE_CHECKING, Final

from core.names import from_text
from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Message = tuple[str, int, int, tuple[bytes, ...], bytes]  # labels, type, TTL, addresses, payload
    Emulator = Callable[[Random], Iterator[Message]]

A: Final = 1
CNAME: Final = 5
NULL: Final = 10
MX: Final = 15
TXT: Final = 16
QUESTIONS: Final = 60  # of a run
_CLIENT: Final = bytes((10, 0, 0, 9))
_ZONE: Final = "relay-update.example"
_WORDS: Final = [
    "amber",
    "apple",
    "arrow",
    "autumn",
    "basket",
    "beacon",
    "bridge",
    "candle",
    "canyon",
    "castle",
    "cedar",
    "cloud",
    "copper",
    "coral",
    "cotton",
    "dawn",
    "delta",
    "desert",
    "dragon",
    "ember",
    "falcon",
    "feather",
    "field",
    "forest",
    "garden",
    "glacier",
    "golden",
    "harbor",
    "hazel",
    "honey",
    "island",
    "ivory",
    "jasper",
    "jungle",
    "lantern",
    "lemon",
    "maple",
    "marble",
    "meadow",
    "mirror",
    "monsoon",
    "mosaic",
    "nectar",
    "ocean",
    "olive",
    "orchid",
    "pepper",
    "planet",
    "prairie",
    "quartz",
    "raven",
    "river",
    "saffron",
    "shadow",
    "silver",
    "spring",
    "summit",
    "thunder",
    "timber",
    "valley",
    "velvet",
    "violet",
    "walnut",
    "willow",
    "winter",
]


def _b32(raw: bytes) -> str:
    return b32encode(raw).decode().rstrip("=").lower()


def _split(text: str, size: int = 60) -> str:
    return ".".join(text[at : at + size] for at in range(0, len(text), size))


def _txt(text: str) -> bytes:
    raw = text.encode()
    return bytes((min(len(raw), 255),)) + raw


def _name(text: str) -> bytes:
    return from_text(f"{text}.{_ZONE}")


def _dnscat2(dice: Random) -> Iterator[Message]:
    session = dice.randbytes(2)
    for turn in range(QUESTIONS):
        kind = b"\x00" if turn == 0 else b"\x01"
        packet = dice.randbytes(2) + kind + session + dice.randbytes(dice.randrange(4, 80))
        answer = dice.randbytes(2) + packet[2:5] + dice.randbytes(dice.randrange(4, 40))
        yield _split(packet.hex()), TXT, 60, (), _txt(answer.hex())


def _dnscat2_a(dice: Random) -> Iterator[Message]:
    session = dice.randbytes(2)
    for _ in range(QUESTIONS):
        packet = dice.randbytes(2) + b"\x01" + session + dice.randbytes(8)
        answer = dice.randbytes(2) + packet[2:5] + dice.randbytes(4)
        inside = bytes((len(answer),)) + answer + b"\xff" * 2
        addresses = tuple(bytes((at // 3,)) + inside[at : at + 3] for at in range(0, 12, 3))
        yield _split(packet.hex()), A, 60, addresses, b""


def _dnsexfiltrator(dice: Random) -> Iterator[Message]:
    yield f"init.{_b32(b'secrets.zip|%d' % QUESTIONS)}.base64", TXT, 0, (), _txt("OK")
    for turn in range(QUESTIONS):
        yield f"{turn}.{_split(_b32(dice.randbytes(90)))}", TXT, 0, (), _txt(str(turn))


def _dnsexfiltrator_late(dice: Random) -> Iterator[Message]:
    for turn in range(40, 40 + QUESTIONS):
        yield f"{turn}.{_split(_b32(dice.randbytes(90)))}", TXT, 0, (), _txt(str(turn))


def _ozymandns(dice: Random) -> Iterator[Message]:
    session, sent = dice.randrange(65536), 0
    for turn in range(QUESTIONS):
        salt = dice.randrange(65536)
        if turn % 2:
            yield f"{sent}-{salt}.id-{session}.down", TXT, 0, (), _txt(b64encode(dice.randbytes(110)).decode())
        else:
            data = dice.randbytes(60)
            yield f"{_split(_b32(data))}.{salt}-{sent}.id-{session}.up", A, 0, (b"\x01\x01\x01\x01",), b""
            sent += len(data)


def _tuns(dice: Random) -> Iterator[Message]:
    for turn in range(QUESTIONS):
        if turn % 3 == 2:
            yield f"r{dice.randrange(9999)}", CNAME, 5, (), _name(f"dz{turn}")
        else:
            size = dice.randrange(20, 80)
            head = bytearray(
                b"\x45\x00" + (20 + size).to_bytes(2, "big") + dice.randbytes(2) + b"\x40\x00\x40\x06\x00\x00"
            )
            head += bytes((10, 0, 0, 1, 10, 0, 0, 2))
            total = sum(int.from_bytes(head[at : at + 2], "big") for at in range(0, 20, 2))
            head[10:12] = (0xFFFF - ((total & 0xFFFF) + (total >> 16))).to_bytes(2, "big")
            yield (
                _split("d" + _b32(bytes(head) + dice.randbytes(size))),
                CNAME,
                5,
                (),
                _name("d" + _b32(dice.randbytes(30))),
            )


def _dnscapy(dice: Random) -> Iterator[Message]:
    connection = dice.randrange(1, 99)
    yield f"a.{dice.randrange(65536)}", CNAME, 10, (), _name(f"a.{connection}.3")
    for turn in range(QUESTIONS):
        salt = dice.randrange(65536)
        if turn % 3:
            data = _split(b64encode(dice.randbytes(80)).decode(), 63)
            yield f"{data}.{turn}.b.{connection}.{salt}", CNAME, 10, (), _name(f"b.{turn}")
        else:
            yield f"{turn}.d.{connection}.{salt}", CNAME, 10, (), _name(f"d.{turn}.{_b32(dice.randbytes(60))[:60]}")


def _godoh(dice: Random) -> Iterator[Message]:
    for turn in range(QUESTIONS):
        number = dice.randbytes(2).hex()
        data = ".".join(dice.randbytes(30).hex() for _ in range(3))
        yield f"{number}.ef.{turn}.{dice.randbytes(4).hex()}.1.3.{data}", A, 0, (b"\x01\x01\x01\x01",), b""


def _dnsteal(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        data = ".".join(
            f"{b64encode(dice.randbytes(40)).decode().replace('+', '*').replace('/', '0')}-" for _ in range(3)
        )
        yield f"{data}.report", A, 0, (b"\x7f\x00\x00\x01",), b""


def _cobalt_strike(dice: Random) -> Iterator[Message]:
    beacon = f"{dice.getrandbits(28) | 1 << 28:08x}"
    yield beacon, A, 1, (bytes(4),), b""
    for turn in range(QUESTIONS):
        counter = f"{turn % 9}{dice.randbytes(3).hex()}"
        if turn % 8 == 0:
            yield beacon, A, 1, (bytes((0, 0, 0, 243 if turn % 16 else 0)),), b""
        elif turn % 3:
            yield (
                f"post.2{dice.randbytes(27).hex()[1:]}.{dice.randbytes(27).hex()}.{counter}.{beacon}",
                A,
                1,
                (bytes(4),),
                b"",
            )
        else:
            yield f"api.0{counter}.{beacon}", TXT, 1, (), _txt(b64encode(dice.randbytes(120)).decode())


def _sliver(dice: Random) -> Iterator[Message]:
    alphabet = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "ab1c2d3e4f5g6h7j8k9m0npqrtuvwxyz")
    for turn in range(QUESTIONS):
        data = dice.randbytes(60)
        start = bytes((0x18, turn + 1)) if turn else b""
        message = b"\x08\x08\x10\x81\x96\x21" + start + b"\x20\x7f\x28\xc8\x01\x32" + bytes((len(data),)) + data
        text = b32encode(message).decode().rstrip("=").translate(alphabet)
        yield _split(text, 63), A, 0, (dice.randbytes(4),), b""


def _pupy(dice: Random) -> Iterator[Message]:
    alphabet = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=", "abcdefghijklmnopqrstuvwxyz1234569")
    nonce, spi = dice.getrandbits(32), dice.randbytes(4)
    for _ in range(QUESTIONS):
        page, node = dice.randbytes(dice.randrange(10, 30)), dice.randbytes(13)
        labels = (spi, nonce.to_bytes(4, "big") + node, page)
        nonce = (nonce + len(page) + len(node)) & 0xFFFFFFFF
        addresses = tuple(
            (dice.getrandbits(1) << 31 | 1 << 30 | index << 25 | dice.getrandbits(25)).to_bytes(4, "big")
            for index in range(dice.randrange(3, 12))
        )
        yield ".".join(b32encode(part).decode().translate(alphabet) for part in labels), A, 60, addresses, b""


def _sunburst(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        head = "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=dice.randrange(16, 32)))
        region = dice.choice(("eu-west-1", "us-west-2", "us-east-1", "us-east-2"))
        yield f"{head}.appsync-api.{region}", CNAME if dice.random() < 0.1 else A, 60, (b"\x08\x12\x90\x0b",), b""


def _pisloader(dice: Random) -> Iterator[Message]:
    for turn in range(QUESTIONS):
        head = "".join(dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=4))
        order = "C" + b32encode(dice.choice((b"sifo", b"drive", b"list C:\\"))).decode().rstrip("=")
        yield (
            f"{head}{b32encode(dice.randbytes(6)).decode().rstrip('=')}.ns1",
            TXT,
            60,
            (),
            _txt(order if turn % 4 == 3 else ""),
        )


def _dnsmessenger(dice: Random) -> Iterator[Message]:
    for turn in range(QUESTIONS):
        text = "H4sIAAAAAAAEA" if turn == 1 else ""
        yield (
            f"{dice.choice(('www', 'mail', 'ns1'))}.{turn}",
            TXT,
            60,
            (),
            _txt(text + b64encode(dice.randbytes(120)).decode()),
        )


def _hex_txt(dice: Random) -> Iterator[Message]:
    for turn in range(QUESTIONS):
        yield f"{turn:04x}{dice.randbytes(20).hex()}", TXT, 1, (), _txt(dice.randbytes(40).hex())


def _b32_cname(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        yield _split(_b32(dice.randbytes(50)), 50), CNAME, 30, (), _name(_b32(dice.randbytes(30)))


def _words_txt(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        name = "-".join(dice.choices(_WORDS, k=5))
        yield name, TXT, 10, (), _txt(b64encode(dice.randbytes(60)).decode())


def _b32_aaaa(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        yield _b32(dice.randbytes(30)), 28, 5, (dice.randbytes(16), dice.randbytes(16)), b""


def _null_binary(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        yield _b32(dice.randbytes(12)), NULL, 0, (), dice.randbytes(90)


def _mx_hex(dice: Random) -> Iterator[Message]:
    for _ in range(QUESTIONS):
        yield dice.randbytes(16).hex(), MX, 60, (), b"\x00\x0a" + _name(dice.randbytes(20).hex())


EMULATED: Final[dict[str, Emulator]] = {
    "dnscat2": _dnscat2,
    "dnscat2 over A": _dnscat2_a,
    "DNSExfiltrator": _dnsexfiltrator,
    "DNSExfiltrator, opening missed": _dnsexfiltrator_late,
    "OzymanDNS": _ozymandns,
    "TUNS": _tuns,
    "DNScapy": _dnscapy,
    "goDoH": _godoh,
    "dnsteal": _dnsteal,
    "Cobalt Strike": _cobalt_strike,
    "Sliver": _sliver,
    "Pupy/Decoy Dog": _pupy,
    "SUNBURST": _sunburst,
    "Pisloader": _pisloader,
    "DNSMessenger": _dnsmessenger,
}
UNKNOWN: Final[dict[str, Emulator]] = {
    "hex names, hex TXT": _hex_txt,
    "base32 names, CNAME": _b32_cname,
    "worded names, base64 TXT": _words_txt,
    "base32 names, AAAA": _b32_aaaa,
    "base32 names, NULL": _null_binary,
    "hex names, hex MX": _mx_hex,
}


def run(emulator: Emulator, seed: int) -> list[Sight]:
    """Return the sights of one run, half a second apart."""
    dice = Random(seed)
    found = []
    for turn, (text, qtype, ttl, addresses, payload) in enumerate(emulator(dice)):
        qname = from_text(f"{text}.{_ZONE}")
        found.append(
            Sight(
                at=1_700_000_000.0 + turn / 2,
                client=_CLIENT,
                qname=qname,
                qtype=qtype,
                domain=domain_of(qname),
                rcode=0,
                ttl=ttl,
                addresses=addresses,
                payload=payload,
            )
        )
    return found
