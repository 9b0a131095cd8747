"""Domain names as folded wire bytes, compared label by label.

A `Name` is an uncompressed wire name in lower case: length byte, label, ..., zero byte (RFC 1035 section 3.1).
Every suffix of a name at a label boundary is therefore a slice of it, which is what the policy index is asked with.

Rules:
1. A name is folded once, on entry. Length bytes are below 64 and so never look like a letter to `bytes.lower`.
2. Text is for people: `from_text` and `to_text` are the only two doors.
3. Whether one name lies under another is a question about labels, never about substrings.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from core.errors import BadName
from core.suffix_rules import rules

Name: TypeAlias = bytes

ROOT: Final[Name] = b"\x00"
MAX_NAME: Final = 255  # octets on the wire, RFC 1035 section 2.3.4
MAX_LABEL: Final = 63  # octets, RFC 1035 section 2.3.4

_PLAIN: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_SPECIAL: Final = frozenset(b'."();@$\\')  # escaped in master files, RFC 1035 section 5.1


def fold(wire: bytes) -> Name:
    """Return the wire name in lower case."""
    return wire.lower()


def suffixes(name: Name) -> list[Name]:
    """Return the name and each of its parents, longest first, without the root."""
    found = []
    at, end = 0, len(name) - 1
    while at < end:
        found.append(name[at:])
        at += name[at] + 1
    return found


def labels(name: Name) -> tuple[bytes, ...]:
    """Return the labels, leftmost first, without the empty root label."""
    found = []
    at, end = 0, len(name) - 1
    while at < end:
        after = at + name[at] + 1
        found.append(name[at + 1 : after])
        at = after
    return tuple(found)


def from_labels(parts: tuple[bytes, ...]) -> Name:
    """Join labels into a folded name; raises BadName when one label or the whole is too long or empty."""
    for part in parts:
        if not 0 < len(part) <= MAX_LABEL:
            raise BadName(f"label of {len(part)} octets (1 to {MAX_LABEL} allowed)")
    wire = b"".join(bytes((len(part),)) + part for part in parts) + ROOT
    if len(wire) > MAX_NAME:
        raise BadName(f"name of {len(wire)} octets (at most {MAX_NAME})")
    return wire.lower()


def is_under(name: Name, parent: Name) -> bool:
    """True when `name` equals `parent` or lies below it, by labels."""
    if len(name) <= len(parent):
        return name == parent
    at, end = 0, len(name) - len(parent)
    while at < end:
        at += name[at] + 1
    return at == end and name.endswith(parent)


def from_text(text: str) -> Name:
    r"""Parse a presentation name: dots, a trailing dot or none, `\DDD` and `\X` escapes, Unicode by IDNA.

    Raises BadName with the reason.
    """
    if text in ("", "."):
        if text == ".":
            return ROOT
        raise BadName("empty name")
    if not text.isascii():
        return from_labels(tuple(_idna(part) for part in _split_unicode(text)))
    if "\\" not in text:
        return from_labels(tuple(part.encode("ascii") for part in text.removesuffix(".").split(".")))
    return from_labels(_unescape(text))


def to_text(name: Name) -> str:
    """Return the presentation form without the trailing dot (`.` for the root), odd octets escaped."""
    parts = labels(name)
    joined = b".".join(parts)
    if not joined.translate(None, _PLAIN) and joined.count(b".") == len(parts) - 1:
        return joined.decode("ascii")
    return ".".join(_escape(part) for part in parts) or "."


def registered_domain(name: Name) -> Name:
    """Return the domain one label below the public suffix, or the name itself when it is a suffix or alone.

    Follows publicsuffix.org's list, private rules included, so that `a.example.co.uk` gives `example.co.uk` and a
    tenant of a shared host stays apart from its neighbours.
    """
    return registered(suffixes(name)) or name


def registered(keys: list[Name]) -> Name:
    """Return the registered domain of a name given as itself and its parents (see `suffixes`); empty for the root."""
    plain, wild, exceptions = rules()
    last = len(keys) - 1
    for at, key in enumerate(keys):  # the longest rule holds
        if key in exceptions:
            return key
        if key in plain or key in wild or (at < last and keys[at + 1] in wild):
            return keys[at - 1] if at else key
    return keys[-2] if last > 0 else b"".join(keys)  # an unlisted top level is a suffix


def is_public_suffix(name: Name) -> bool:
    """True for a name under which anybody may register, like `co.uk`, by the same list."""
    plain, wild, exceptions = rules()
    if name in plain or name in wild:
        return True
    keys = suffixes(name)
    return len(keys) < 2 or (keys[1] in wild and name not in exceptions)


def _escape(label: bytes) -> str:
    return "".join(
        f"\\{octet:03d}" if octet <= 0x20 or octet >= 0x7F else (f"\\{chr(octet)}" if octet in _SPECIAL else chr(octet))
        for octet in label
    )


def _unescape(text: str) -> tuple[bytes, ...]:
    parts: list[bytes] = []
    part = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == ".":
            parts.append(bytes(part))
            part.clear()
        elif char != "\\":
            part.append(ord(char))
        elif (digits := text[at : at + 3]).isdigit() and len(digits) == 3 and int(digits) < 256:
            part.append(int(digits))
            at += 3
        elif at < len(text) and not text[at].isdigit():
            part.append(ord(text[at]))
            at += 1
        else:
            raise BadName("a backslash needs three digits below 256 or one character after it")
    if part or not parts:
        parts.append(bytes(part))
    return tuple(parts)


def _split_unicode(text: str) -> list[str]:
    for dot in "\u3002\uff0e\uff61":  # the other full stops of RFC 3490 section 3.1
        text = text.replace(dot, ".")
    return text.removesuffix(".").split(".")


def _idna(label: str) -> bytes:
    if label.isascii():
        return label.encode("ascii")
    import idna

    try:
        return idna.encode(label, uts46=True)
    except idna.IDNAError as error:
        raise BadName(f"not an internationalised label: {error}") from error
