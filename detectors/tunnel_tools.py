"""Protocols of tunnel tools, told by the shape of their names and answers.

Each reader returns the clues one exchange holds. The shapes come from the tools' public protocol descriptions:
iodine doc/proto_00000502.txt, dnscat2 doc/protocol.md, the dns2tcp, DNSExfiltrator, DNScapy, goDoH and dnsteal pages,
Kaminsky's OzymanDNS (whose names SODS speaks too), Nussbaum et al., "On Robust Covert Channels Inside DNS" (2009).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from detectors.tunnel_codec import (
    CNAME,
    RFC4648,
    TXT,
    Clue,
    Exchange,
    from_base,
    from_hex,
    is_ipv4_packet,
    leading_hex,
    looks_encoded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[Exchange], list[Clue]]

KEY: Final = 25

_IODINE_VERSION: Final = re.compile(rb"v(?:[a-z0-5]{10}|[a-z0-5]{11})")
_IODINE_VERSION_HEAD: Final = (b"vaaaak", b"vaaaaj")  # 00 00 05 0x, the protocols 0x500 to 0x502
_IODINE_LOGIN: Final = re.compile(rb"l[ab][a-z0-5]{30}")
_IODINE_SHORT: Final = re.compile(rb"(?:s[a-p][fgh2]|o[a-p][tsuvrli]|i[a-p]|y[tsuvr]b)[a-z0-5]{3}")
_IODINE_SIZE: Final = re.compile(rb"n[a-p][a-z0-5]{7}")
_IODINE_PING: Final = re.compile(rb"p[ab][a-z0-5]{6}")
_IODINE_DATA: Final = re.compile(rb"[0-9a-f][a-z0-5]{3}[a-z0-9]")
_IODINE_PROBES: Final = (b"aa-aaahhh-drink", b"aa-la-fl\xfbte", b"aaabbccddeeffgg", b"aabbccddeeffggh", b"aa01234567")
_IODINE_BASE32: Final = b"abcdefghijklmnopqrstuvwxyz012345"
_IODINE_COUNTER: Final = b"abcdefghijklmnopqrstuvwxyz0123456789"
_IODINE_ACCEPTS: Final = (b"VACK", b"kzaugs")  # the second is base32 of the first

_DNSCAT_TYPES: Final = {0: "SYN", 1: "MSG", 2: "FIN", 3: "ENC", 255: "PING"}
_DNSCAT_HEADER: Final = 10  # hex digits: packet id 4, type 2, session id 4
_DNSCAT_NEAR: Final = 16  # octets of an answer in which the header lies, behind lengths and a preference
_HEX: Final = b"0123456789abcdef"

_DNS2TCP_COMMANDS: Final = frozenset((b"=auth", b"=connect", b"=resource"))
_DNS2TCP_HEADER: Final = 8  # base64 characters: session, acknowledgement and sequence number, 16 bits each
_DNS2TCP_POLL: Final = re.compile(rb"[a-z0-9+/_-]{8}ba")  # a header of 7 octets whose last, the type, is 4

_OZYMAN: Final = re.compile(rb"(?:^|\.)(\d{1,10}-\d{1,10})\.(id-\d{1,10})\.(up|down)(?:\.|$)")
_OZYMAN_WAYS: Final = frozenset((b"up", b"down"))
_DNSCAPY: Final = re.compile(rb"(?:^|\.)(?:\d{1,6}\.[bdf]|c|[bd]\.e|\d{1,3}\.d)\.(\d{1,6})\.(\d{2,5})(?:\.|$)")
_GODOH: Final = re.compile(rb"([0-9a-f]{4})\.(?:be|ef|ca)\.(\d{1,5})\.[0-9a-f]{1,8}\.[01]\.[0-3]\.[0-9a-f]")
_DECIMAL: Final = re.compile(rb"(?:0|[1-9]\d{0,6})")
_IPV4_HEAD: Final = b"i"  # how the octet 0x45 begins in base32
_TUNS_POLL: Final = re.compile(rb"r\d{1,9}")
_DNSTEAL: Final = re.compile(rb"[a-z0-9*/=_-]{2,62}-")


def iodine(seen: Exchange) -> list[Clue]:
    """Return what iodine's handshake letters, codec probes and running counters show."""
    head = seen.parts[0]
    if _IODINE_VERSION.fullmatch(head) and head.startswith(_IODINE_VERSION_HEAD):
        accepted = any(word in seen.payload for word in _IODINE_ACCEPTS)
        return [Clue("iodine", b"version", b"v", 1.0 if accepted else 0.7, "its version handshake")]
    if head[:1] == b"z" and any(probe in head for probe in _IODINE_PROBES):
        return [Clue("iodine", b"probe", b"z", 1.0, "its test of the upstream codec")]
    if _IODINE_LOGIN.fullmatch(head):
        return [Clue("iodine", b"login", b"l", 0.3, "its login")]
    if _IODINE_SHORT.fullmatch(head) or _IODINE_SIZE.fullmatch(head):
        return [Clue("iodine", b"options", head[:1], 0.05, "its option letters")]
    if _IODINE_PING.fullmatch(head):
        ping = from_base(head[1:], _IODINE_BASE32) or bytes(4)
        before = (int.from_bytes(ping[2:4], "big") - 1 & 0xFFFF).to_bytes(2, "big")
        return [Clue("iodine", b"ping" + ping[:1], ping[2:4], 0.3, "its pings that count up", after=before)]
    if _IODINE_DATA.match(head) and len(head) >= 16 and looks_encoded(head) and head.translate(None, _HEX):
        at = _IODINE_COUNTER.index(head[4])
        before = bytes((_IODINE_COUNTER[at - 1],))
        return [Clue("iodine", b"data" + head[:1], head[4:5], 0.15, "its running data counter", after=before)]
    return []


def dnscat2(seen: Exchange) -> list[Clue]:
    """Return what dnscat2's hex packets show: packet id, type, session id, and the same ids in the answer."""
    tagged = seen.parts[0] == b"dnscat"
    parts = seen.parts[1:] if tagged else seen.parts
    text = leading_hex(parts)
    if len(text) < _DNSCAT_HEADER + 4 or len(parts[0]) < _DNSCAT_HEADER:
        return []
    packet = from_hex(text)
    kind = _DNSCAT_TYPES.get(packet[2])
    if kind is None:
        return []
    if tagged:
        return [Clue("dnscat2", b"tag", packet[:2], 1.0, f"its dnscat label before a {kind} packet")]
    if _dnscat_answers(seen, text, packet):
        return [Clue("dnscat2", b"echo", packet[:2], 0.7, f"{kind} packets answered with packets of the same session")]
    return [Clue("dnscat2", packet[2:5], packet[:2], 0.5, f"{kind} packets of one session id", repeats=True)]


def _dnscat_answers(seen: Exchange, text: bytes, packet: bytes) -> bool:
    """True when the answer is a packet of the same type and session with an id of its own, in hex or in addresses.

    A CNAME that repeats the name, as those of content networks do, has the same id.
    """
    answer = seen.payload[:_DNSCAT_NEAR].lower()
    at = answer.find(text[4:_DNSCAT_HEADER]) - 4
    if 0 <= at <= 4 and answer[at : at + 4] != text[:4] and not answer[at : at + 4].translate(None, _HEX):
        return True
    inside = b"".join(address[1:] for address in sorted(seen.addresses))
    return any(inside[at + 2 : at + 5] == packet[2:5] and inside[at : at + 2] != packet[:2] for at in (0, 1))


def dns2tcp(seen: Exchange) -> list[Clue]:
    """Return what dns2tcp's commands, its session header and its echo in the answer show."""
    head = seen.parts[0]
    if not _DNS2TCP_COMMANDS.isdisjoint(seen.parts[1:]):
        return [Clue("dns2tcp", b"command", b"=", 1.0, "its =auth, =connect and =resource labels")]
    if len(head) < _DNS2TCP_HEADER + 2 or seen.qtype not in {TXT, KEY}:
        return []
    at = seen.payload.lower().find(head[:_DNS2TCP_HEADER])
    if at > 0 and seen.payload[at - 1 : at].isupper():
        return [Clue("dns2tcp", b"echo", head[:8], 0.7, "answers that repeat the session header behind a block letter")]
    if _DNS2TCP_POLL.fullmatch(head):
        return [Clue("dns2tcp", b"poll" + head[:2], head[2:8], 0.34, "its empty polls of one session", repeats=True)]
    return []


def ozymandns(seen: Exchange) -> list[Clue]:
    """Return what the up and down labels of OzymanDNS and SODS show."""
    found = None if _OZYMAN_WAYS.isdisjoint(seen.parts) else _OZYMAN.search(b".".join(seen.parts))
    if not found:
        return []
    return [Clue("OzymanDNS/SODS", found[2], found[1], 1.0, f"a session number and the label {found[3].decode()}")]


def dnsexfiltrator(seen: Exchange) -> list[Clue]:
    """Return what DNSExfiltrator's opening message and its numbered chunks show."""
    if seen.qtype != TXT or len(seen.parts) < 2:
        return []
    head = seen.parts[0]
    if head == b"init":
        opened = from_base(seen.parts[1], RFC4648) or b""
        name, _, count = opened.rpartition(b"|")
        return (
            [Clue("DNSExfiltrator", b"init", b"i", 1.0, "its opening message with a file name and a number of chunks")]
            if name and count.isdigit()
            else []
        )
    if not _DECIMAL.fullmatch(head) or len(seen.parts[1]) < 12:
        return []
    echoed = seen.payload in {bytes((len(head),)) + head, head}
    before = b"%d" % (int(head) - 1) if head != b"0" else b""
    points = 0.4 if echoed else 0.15
    return [Clue("DNSExfiltrator", b"chunk", head, points, "numbered chunks, answered by their number", after=before)]


def dnscapy(seen: Exchange) -> list[Clue]:
    """Return what DNScapy's message letters before a connection and a random number show."""
    if seen.qtype not in {TXT, CNAME} or not any(map(bytes.isdigit, seen.parts)):
        return []
    found = _DNSCAPY.search(b".".join(seen.parts))
    if not found:
        return []
    return [Clue("DNScapy", found[1], found[2], 0.4, "its message letter, connection and salt labels", repeats=True)]


def tuns(seen: Exchange) -> list[Clue]:
    """Return what IP packets in base32 names show, and the polls between them."""
    head = seen.parts[0]
    if seen.qtype == CNAME and _TUNS_POLL.fullmatch(head):
        return [Clue("TUNS", b"poll", head, 0.1, "its numbered polls", repeats=True)]
    text = b"".join(seen.parts)
    for skip, tool in ((1, "TUNS"), (0, "IP over DNS")):
        if text[skip : skip + 1] != _IPV4_HEAD:
            continue
        for count in range(len(seen.parts), 0, -1):
            raw = from_base(b"".join(seen.parts[:count])[skip:], RFC4648)
            if raw and is_ipv4_packet(raw):
                named = tool if skip == 0 or head[:1] == b"d" else "IP over DNS"
                return [Clue(named, b"packet", raw[:12], 1.0, "a whole IPv4 header with a right checksum in the name")]
            if raw and raw[0] != 0x45:
                break
    return []


def godoh(seen: Exchange) -> list[Clue]:
    """Return what goDoH's nine labels show."""
    found = _GODOH.match(b".".join(seen.parts))
    if not found:
        return []
    return [Clue("goDoH", b"frame", found[1] + found[2], 0.5, "its frame of identifier, state, sequence and checksum")]


def dnsteal(seen: Exchange) -> list[Clue]:
    """Return what dnsteal's labels that end in a hyphen show; no host name may end so (RFC 952)."""
    ending = [part for part in seen.parts if part.endswith(b"-") and _DNSTEAL.fullmatch(part)]
    if not ending or max(map(len, ending)) < 16:
        return []
    return [Clue("dnsteal", b"hyphen", ending[0][:16], 0.4, "data labels that end in a hyphen")]


TOOLS: Final[tuple[Reader, ...]] = (
    iodine,
    dnscat2,
    dns2tcp,
    ozymandns,
    dnsexfiltrator,
    dnscapy,
    tuns,
    godoh,
    dnsteal,
)
