"""Numbers of the DNS protocol that we name, with their mnemonics (IANA "Domain Name System Parameters")."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Rcode(IntEnum):
    """Response codes, RFC 1035 section 4.1.1, RFC 2136, RFC 6891."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    YXRRSET = 7
    NXRRSET = 8
    NOTAUTH = 9
    NOTZONE = 10
    BADVERS = 16
    BADCOOKIE = 23  # RFC 7873


class Ede(IntEnum):
    """Extended DNS errors, RFC 8914 section 5.2."""

    OTHER = 0
    STALE_ANSWER = 3
    FORGED_ANSWER = 4
    INDETERMINATE = 5
    BOGUS = 6
    BLOCKED = 15
    CENSORED = 16
    STALE_NXDOMAIN = 19
    FILTERED = 17
    PROHIBITED = 18
    NOT_READY = 14
    NOT_AUTHORITATIVE = 20
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    NETWORK_ERROR = 23


A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
MX: Final = 15
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
DNAME: Final = 39
OPT: Final = 41
DS: Final = 43
RRSIG: Final = 46
NSEC: Final = 47
DNSKEY: Final = 48
NSEC3: Final = 50
SVCB: Final = 64
HTTPS: Final = 65
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255

CLASS_IN: Final = 1
CLASS_CH: Final = 3
CLASS_ANY: Final = 255

# Header flags as they stand in the second 16-bit word, RFC 1035 section 4.1.1 and RFC 4035 section 3.
QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
OPCODE: Final = 0x7800
DO: Final = 0x8000  # in the OPT record's TTL, RFC 3225

TYPES: Final[dict[int, str]] = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP",
    18: "AFSDB", 24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT",
    39: "DNAME", 41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC",
    48: "DNSKEY", 49: "DHCID", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS",
    60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48",
    109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 253: "MAILB", 254: "MAILA", 255: "ANY",
    256: "URI", 257: "CAA", 32768: "TA", 32769: "DLV",
}  # fmt: skip
NUMBERS: Final[dict[str, int]] = {text: number for number, text in TYPES.items()}


def type_text(number: int) -> str:
    """Return the mnemonic of an RR type, or `TYPE123` (RFC 3597 section 5)."""
    return TYPES.get(number) or f"TYPE{number}"


def type_number(text: str) -> int:
    """Return the number of a mnemonic or of `TYPE123`; raises ValueError for anything else."""
    upper = text.upper()
    if upper in NUMBERS:
        return NUMBERS[upper]
    digits = upper.removeprefix("TYPE")
    if digits != upper and digits.isdecimal() and int(digits) < 65_536:
        return int(digits)
    raise ValueError(f"not an RR type: {text}")


def rcode_text(number: int) -> str:
    """Return the mnemonic of a response code, or `RCODE123`."""
    try:
        return Rcode(number).name
    except ValueError:
        return f"RCODE{number}"
