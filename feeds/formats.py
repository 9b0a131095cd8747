"""One line of a feed, read with care: hosts, plain, wildcard and adblock syntax, defanged names, URLs and IDN.

Rules:
1. A line gives names within a scope, or nothing (a comment), or raises Refused (wrong) or Unsupported (not for DNS).
2. A name has at least two labels, is no address and no public suffix of ICANN's list.
3. An adblock rule is taken only when it means whole labels: never by substring, path, port, client or page content.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import BadName
from core.names import from_text, labels
from feeds.entries import Scope

if TYPE_CHECKING:
    from feeds.suffixes import Suffixes

DETECT_LINES: Final = 400  # lines with content that `detect` looks at
MAX_LINE: Final = 4_096  # octets of a line that may hold names; a hosts line of a few dozen names is far below

LOCAL_NAMES: Final = frozenset({
    "localhost", "localhost.localdomain", "localhost4", "localhost6", "localhost4.localdomain4",
    "localhost6.localdomain6", "local", "localdomain", "broadcasthost", "ip6-localhost", "ip6-loopback", "ip6-localnet",
    "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "0.0.0.0", "127.0.0.1", "::1",
})  # fmt: skip
_SINKS: Final = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "0", "::0"})
_IPV4: Final = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_IPV6: Final = re.compile(r"[0-9a-f]*:[0-9a-f:.]*:[0-9a-f:.]*(%\S+)?")
_COMMENT: Final = re.compile(r"(?:^|\s)[#;!].*|^//.*")
_URL: Final = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//([^/?#]*)([^?#]*)(.*)")
_PORT: Final = re.compile(r":\d{1,5}$")
_NAME: Final = re.compile(rb"[a-z0-9_.-]+")
_COSMETIC: Final = re.compile(r"#[@?$%]*#[^#\s]|\$@?\$")
_MODIFIERS: Final = re.compile(r"~?[a-z0-9_-]+(?:=.*)?")


class Refused(Exception):
    """The line is wrong; the text says why."""


class Unsupported(Exception):
    """The line is right for its format but says what DNS cannot judge."""


class Entry(NamedTuple):
    """What one line gives."""

    scope: Scope
    names: list[bytes]
    important: bool = False


NOTHING: Final = Entry(Scope(), [])


def detect(text: bytes) -> str:
    """Name the format that most of the first DETECT_LINES lines with content are written in; plain when in doubt."""
    votes = {"plain": 0, "hosts": 0, "wildcard": 0, "adblock": 0}
    lines = (line.strip() for line in text[: DETECT_LINES * 256].lower().split(b"\n"))
    content = [line for line in lines if line and not line.startswith((b"# ", b"#\t", b"//", b";")) and line != b"#"]
    for line in content[:DETECT_LINES]:
        votes[_vote(line[:MAX_LINE].decode("utf-8", "replace"))] += 1
    return max(votes, key=votes.__getitem__)


def _vote(line: str) -> str:
    if line.startswith(("||", "@@", "!", "[adblock")) or line.endswith("^") or _COSMETIC.search(line):
        return "adblock"
    if line.startswith("*."):
        return "wildcard"
    first, _, rest = line.partition("#")[0].replace("\t", " ").partition(" ")
    return "hosts" if rest.strip() and is_address(first) else "plain"


def read_line(line: bytes, syntax: str, suffixes: Suffixes) -> Entry:
    """Return what a lower-case line gives; raises Refused or Unsupported."""
    if len(line) > MAX_LINE:
        raise Refused(f"line of more than {MAX_LINE} octets")
    text = line.decode("utf-8", "replace").strip()
    return _adblock(text, suffixes) if syntax == "adblock" else _words(text, suffixes)


def is_address(text: str) -> bool:
    """True for what is meant as an IPv4 or IPv6 address, in range or not."""
    return bool(_IPV4.fullmatch(text) or _IPV6.fullmatch(text))


def canonical(text: str, suffixes: Suffixes) -> bytes:
    """Return the folded presentation name; raises Refused with the reason when a feed may not list it."""
    if is_address(text):
        raise Refused("an address, not a name")
    if "\\" in text:
        raise Refused("not a domain name")
    try:
        parts = labels(from_text(text))
    except BadName as error:
        raise Refused(str(error)) from None
    name = b".".join(parts)
    if not _NAME.fullmatch(name) or name.count(b".") != len(parts) - 1:
        raise Refused("not a domain name")
    if len(parts) < 2:
        raise Refused("a single label")
    if parts[-1].isdigit():
        raise Refused("ends in a number, so it is no name")
    if suffixes.holds(name):
        raise Refused("a public suffix: it would cover everybody below it")
    return name


def _words(text: str, suffixes: Suffixes) -> Entry:
    words = _COMMENT.sub("", text).split()
    if not words:
        return NOTHING
    if len(words) == 1:
        return Entry(Scope(), [canonical(_refang(words[0]), suffixes)])
    if not is_address(words[0]) and words[0] not in _SINKS:
        raise Refused("more than one word")
    names = [word for word in words[1:] if word.removesuffix(".") not in LOCAL_NAMES]
    if names and words[0] not in _SINKS:
        raise Refused("a hosts line with an address of its own, which is no block")
    return Entry(Scope(), [canonical(_refang(word), suffixes) for word in names])


def _refang(word: str) -> str:
    """Undo what people do to a name so that nobody clicks on it, and take the host out of a URL without a path."""
    for dot in ("[.]", "(.)", "{.}", "[dot]", "(dot)"):
        word = word.replace(dot, ".")
    word = word.replace("[:]", ":").replace("[://]", "://")
    if url := _URL.fullmatch(word):
        host, path, rest = url.groups()
        if path not in ("", "/") or rest:
            raise Refused("a URL with a path: it does not speak of its whole host")
        if "@" in host:
            raise Refused("a URL with a user")
        word = host
    if not is_address(word):
        word = _PORT.sub("", word)
    return word.removeprefix("*").removeprefix(".") if word.startswith(("*.", ".")) else word


def _adblock(text: str, suffixes: Suffixes) -> Entry:
    if not text or text.startswith("!") or (text.startswith("[") and text.endswith("]")):
        return NOTHING
    if _COSMETIC.search(text):
        raise Unsupported("cosmetic rule")
    if text.startswith("#"):
        return NOTHING
    allow, rule = text.startswith("@@"), text.removeprefix("@@")
    if rule.startswith("/") and (rule.endswith("/") or "/$" in rule):
        raise Unsupported("regular expression")
    if len(rule.split()) > 1:
        return _words(rule, suffixes)
    rule, important = _modifiers(rule)
    exact, below, body = _anchors(rule, suffixes)
    try:
        return Entry(Scope(allow, exact, below), [canonical(body, suffixes)], important)
    except Refused as reason:
        if is_address(body):
            raise Unsupported("address rule") from None
        raise Refused(str(reason)) from None


def _modifiers(rule: str) -> tuple[str, bool]:
    """Split the modifiers off; only `important` is one that DNS can honour."""
    pattern, dollar, tail = rule.rpartition("$")
    if not dollar:
        return rule, False
    for modifier in tail.split(","):
        if modifier != "important":
            known = _MODIFIERS.fullmatch(modifier)
            raise Unsupported(f"modifier ${modifier.partition('=')[0]}" if known else "modifier")
    return pattern, True


def _anchors(rule: str, suffixes: Suffixes) -> tuple[bool, bool, str]:
    """Return (the name itself, names below, name) of a pattern of whole labels; raises Unsupported for others."""
    exact, below, body = True, True, rule
    if rule.startswith("||*."):
        exact, body = False, rule[4:]
    elif rule.startswith("||"):
        body = rule[2:]
    elif rule.startswith(("|", "://")):
        below, body = False, rule.lstrip("|:/")
    elif rule.startswith(".") and rule.endswith(("^", "|")):
        exact, body = False, rule[1:]
    else:
        body = rule.removeprefix("*.")
    end = body.rstrip("^|")
    for sign, reason in (("*", "wildcard inside the name"), ("/", "path"), ("?", "path"), ("=", "path"), ("^", "path"),
                         ("|", "anchor inside the name")):  # fmt: skip
        if sign in end:
            raise Unsupported(reason)
    if ":" in end and not is_address(end):
        raise Unsupported("port")
    if end == body and rule.startswith("|") and not _whole(body, suffixes):
        raise Unsupported("prefix pattern")
    if end.startswith((".", "-")) or end.endswith((".", "-")) or "." not in end:
        raise Unsupported("part of a name")
    return exact, below, end


def _whole(body: str, suffixes: Suffixes) -> bool:
    """True when an unended pattern stops at a top-level domain, so that its author meant the name."""
    top = body.rpartition(".")[2]
    return top.encode("utf-8", "replace") in suffixes.plain
