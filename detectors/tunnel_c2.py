"""Protocols of implants that take orders over DNS, told by the shape of their names and answers.

Shapes as public write-ups give them: Cobalt Strike (Sigma rule net_mal_dns_cobaltstrike and traffic parsers' notes),
Sliver (its DNS messages are protobuf in base32), Pupy (which Decoy Dog is built on; Infoblox 2023), SUNBURST
(FireEye 2020), Pisloader (Palo Alto Networks 2016), DNSMessenger (Cisco Talos 2017).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from detectors.tunnel_codec import RFC4648, TXT, Clue, Exchange, from_base

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[Exchange], list[Clue]]

_STAGER: Final = re.compile(rb"[a-z]{3}\.stage\.\d{1,9}(?:\.|$)")
_COBALT: Final = re.compile(
    rb"(?:www6?|post|api|cdn|doc\.(?:bc|1a|4a|tx|md|po))\.([0-9a-f]{2,63}(?:\.[0-9a-f]{1,63})*)\.([0-9a-f]{7,8})(?:\.|$)"
)
_COBALT_CHECK_IN: Final = re.compile(rb"[0-9a-f]{7,8}")
_COBALT_ORDERS: Final = frozenset(bytes((0, 0, 0, code)) for code in (0, 240, 241, 242, 243))

_SLIVER: Final = b"ab1c2d3e4f5g6h7j8k9m0npqrtuvwxyz"
_SLIVER_HEAD: Final = b"b"  # how the octet 0x08 begins in it
_SLIVER_TYPES: Final = range(1, 10)
_VARINTS: Final = {0x08: "type", 0x10: "id", 0x18: "start", 0x20: "stop", 0x28: "size"}
_BYTES: Final = 0x32  # field 6, length-delimited

_PUPY_LABEL: Final = re.compile(rb"[a-z1-6]+9{0,6}")  # 9 stands for the padding
_PUPY_TO_RFC: Final = bytes.maketrans(b"123456", b"234567")

_SUNBURST: Final = re.compile(rb"[a-z0-9]{15,40}\.appsync-api\.(?:us|eu)-(?:east|west)-[12](?:\.|$)")
_AWS: Final = (b"\x09amazonaws\x03com\x00", b"\x09amazonaws\x03com\x02cn\x00")
_PISLOADER: Final = (b"sifo", b"drive", b"list", b"upload", b"open")
_CODE: Final = re.compile(
    rb"H4sIAAAA|TVqQAAM|4d5a9000|powershell|frombase64string|invoke-expression|\biex\s*[($]", re.IGNORECASE
)
_CODE_WORDS: Final = (
    b"h4siaaaa", b"tvqqaam", b"4d5a9000", b"powershell", b"frombase64string", b"invoke-expression", b"iex",
)  # fmt: skip
"""One of them lies in whatever `_CODE` finds, and is found faster."""


def cobalt_strike(seen: Exchange) -> list[Clue]:
    """Return what Cobalt Strike's stager, its posts under one beacon id and its idle answers show."""
    text = b".".join(seen.parts)
    if seen.qtype == TXT and _STAGER.match(text):
        return [Clue("Cobalt Strike", b"stage", b"s", 1.0, "its stager")]
    if found := _COBALT.match(text):
        why = "posts and polls under one beacon id"
        return [Clue("Cobalt Strike", found[2], found[1][:16], 0.4, why, repeats=True)]
    head = seen.parts[0]
    if _COBALT_CHECK_IN.fullmatch(head) and seen.addresses and _COBALT_ORDERS.issuperset(seen.addresses):
        order = seen.addresses[0]
        points = 0.5 if order[3] else 0.3
        return [Clue("Cobalt Strike", b"check-in", order, points, "a check-in answered with an order in 0.0.0.0/24")]
    return []


def sliver(seen: Exchange) -> list[Clue]:
    """Return what Sliver's messages show: protobuf of known fields in its own base32."""
    if seen.parts[0][:1] != _SLIVER_HEAD:
        return []
    for count in range(len(seen.parts), 0, -1):
        raw = from_base(b"".join(seen.parts[:count]), _SLIVER)
        if raw and len(raw) > 4 and raw[0] == 0x08 and (fields := _sliver_fields(raw)) >= 3:
            return [Clue("Sliver", b"message", raw[:12], 0.3 * min(fields, 4) - 0.4, "its protobuf messages in base32")]
    return []


def _sliver_fields(raw: bytes) -> int:
    """Return how many fields a message has; 0 when it is none."""
    at = fields = 0
    if raw[1] not in _SLIVER_TYPES:
        return 0
    last = -1
    while at < len(raw):
        tag = raw[at]
        if tag <= last or (tag not in _VARINTS and tag != _BYTES):
            return 0
        last = tag
        at += 1
        value = shift = 0
        while at < len(raw) and shift <= 28:
            value |= (raw[at] & 0x7F) << shift
            shift += 7
            at += 1
            if raw[at - 1] < 0x80:
                break
        if tag == _BYTES:
            at += value
        fields += 1
    return fields if at == len(raw) else 0


def pupy(seen: Exchange) -> list[Clue]:
    """Return what Pupy's pages show: padded base32 labels and a nonce that grows by each page's length."""
    labels = []
    for part in seen.parts:
        if len(part) % 8 or not _PUPY_LABEL.fullmatch(part):
            break
        labels.append(part)
    octets = [_pupy_octets(label) for label in labels]
    return [
        Clue(
            "Pupy/Decoy Dog",
            b"nonce%d" % at,
            (int.from_bytes(nonce[:4], "big") + len(nonce) - 4 + len(page) & 0xFFFFFFFF).to_bytes(4, "big"),
            0.5,
            "a nonce that grows by the length of each page",
            after=nonce[:4],
        )
        for at, (nonce, page) in enumerate(pairwise(octets))
        if len(nonce) >= 4 and page
    ]


def _pupy_octets(label: bytes) -> bytes:
    return from_base(label.rstrip(b"9").translate(_PUPY_TO_RFC), RFC4648) or b""


def sunburst(seen: Exchange) -> list[Clue]:
    """Return what SUNBURST's imitation of an AWS service shows; the real one lives under amazonaws.com."""
    if seen.domain.endswith(_AWS) or not _SUNBURST.match(b".".join(seen.parts)):
        return []
    return [Clue("SUNBURST", b"appsync", seen.parts[0][:16], 0.6, "an AWS AppSync name outside of AWS")]


def pisloader(seen: Exchange) -> list[Clue]:
    """Return what Pisloader's orders in TXT show: the letter C and a base32 word."""
    text = seen.payload[1:] if seen.payload[:1] < b"A" else seen.payload
    if seen.qtype != TXT or text[:1] != b"C":
        return []
    order = from_base(text[1:].rstrip(b"=").lower(), RFC4648) or b""
    if not order.startswith(_PISLOADER):
        return []
    return [Clue("Pisloader", b"order", order[:6], 1.0, "an order of its in a TXT answer")]


def staged_code(seen: Exchange) -> list[Clue]:
    """Return what compressed or plain code in TXT answers shows, the way DNSMessenger loads its stages."""
    if seen.qtype != TXT or not any(map(seen.payload.lower().__contains__, _CODE_WORDS)):
        return []
    found = _CODE.search(seen.payload)
    if not found:
        return []
    return [Clue("code in TXT (as DNSMessenger)", b"code", found[0][:8].lower(), 0.7, "code to run in a TXT answer")]


IMPLANTS: Final[tuple[Reader, ...]] = (
    cobalt_strike,
    sliver,
    pupy,
    sunburst,
    pisloader,
    staged_code,
)
