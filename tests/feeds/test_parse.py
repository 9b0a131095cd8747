"""Feeds as bytes to names: every format, every oddity seen in the wild, and any bytes at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadFeed
from core.names import from_text
from feeds import parse as parse_module
from feeds.bulk import to_wire
from feeds.entries import MAX_EXAMPLES, Parsed, Scope
from feeds.formats import detect
from feeds.parse import parse

DATA = Path(__file__).parents[3] / "shared" / "data" / "feeds"
BLOCK = Scope()
FORMATS = ("auto", "plain", "hosts", "wildcard", "adblock")


def blocked(text: str | bytes, syntax: str = "auto") -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [name.decode() for name in parse(data, syntax).names.get(BLOCK, {})]


def reasons(text: str, syntax: str) -> list[tuple[int, str]]:
    parsed = parse(text.encode(), syntax)
    return [(bad.line, bad.reason) for bad in (*parsed.bad_lines, *parsed.unsupported_lines)]


def test_plain_takes_what_people_write() -> None:
    text = (
        "\ufeff# a banner\r\n\r\nevil.example\r\nUPPER.Example.\r\n  padded.example \t# why\r\n"
        "under_score._tcp.example\nevil[.]com\nhxxp://bad(.)example/\nhxxps[:]//worse.example:8443\n"
        "b\u00fccher.example\n*.star.example\n.dot.example\nc2.example:4444\n; done\n// done\nlast.example"
    )
    assert set(blocked(text, "plain")) == {
        "evil.example", "upper.example", "padded.example", "under_score._tcp.example", "evil.com", "bad.example",
        "worse.example", "xn--bcher-kva.example", "star.example", "dot.example", "c2.example", "last.example",
    }  # fmt: skip
    assert parse(text.encode(), "plain").bad == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("localhost", "a single label"),
        ("com", "a single label"),
        ("co.uk", "a public suffix: it would cover everybody below it"),
        ("anything.ck", "a public suffix: it would cover everybody below it"),
        ("192.0.2.1", "an address, not a name"),
        ("2001:db8::1", "an address, not a name"),
        ("999.1.1.1", "an address, not a name"),
        ("a..example", "label of 0 octets (1 to 63 allowed)"),
        (f"{'a' * 64}.example", "label of 64 octets (1 to 63 allowed)"),
        (".".join(["a" * 49] * 6), "name of 301 octets (at most 255)"),
        ("sp ace.example", "more than one word"),
        ("semi;colon.example", "not a domain name"),
        ("back\\slash.example", "not a domain name"),
        ("http://shared.example/evil.exe", "a URL with a path: it does not speak of its whole host"),
        ("http://user@shared.example/", "a URL with a user"),
        ("name.123", "ends in a number, so it is no name"),
        ("ev*l.example", "not a domain name"),
        ("a" * 5000 + ".example", "line of more than 4096 octets"),
    ],
)
def test_a_bad_line_costs_only_itself_and_is_named(line: str, reason: str) -> None:
    text = f"one.example\n{line}\ntwo.example\n"
    assert reasons(text, "plain") == [(2, reason)]
    assert blocked(text, "plain") == ["one.example", "two.example"]


def test_a_suffix_exception_and_a_private_suffix_may_be_listed() -> None:
    assert blocked("www.ck\ngithub.io\nevil.co.uk\ndeep.evil.ck\n", "plain") == [
        "www.ck", "github.io", "evil.co.uk", "deep.evil.ck",
    ]  # fmt: skip


def test_hosts_takes_sinkhole_addresses_and_nothing_else() -> None:
    text = (
        "127.0.0.1 localhost\n127.0.0.1\tlocalhost.localdomain local\n255.255.255.255 broadcasthost\n"
        "::1 ip6-localhost\n"
        "fe80::1%lo0 localhost\n0.0.0.0 0.0.0.0\n0.0.0.0 one.example\n127.0.0.1\ttwo.example # ads\n"
        ":: three.example four.example\t five.example\n0.0.0.0    six.example\n203.0.113.9 printer.example\n"
    )
    assert set(blocked(text)) == {f"{word}.example" for word in ("one", "two", "three", "four", "five", "six")}
    assert reasons(text, "hosts") == [(11, "a hosts line with an address of its own, which is no block")]
    assert parse(text.encode()).comments == 6


def test_wildcard_covers_the_name_too() -> None:
    assert blocked("# x\n*.one.example\n*.TWO.example\nthree.example\n") == [
        "one.example", "two.example", "three.example",
    ]  # fmt: skip


ADBLOCK = """[Adblock Plus 2.0]
! Title: golden
||one.example^
||two.example^|
||Three.example^$important
@@||good.two.example^
@@||good.three.example^
|exact.example^
://start.example^
||*.below.example^
.tail.example^
four.example
five.example^
||prefix.example.c
||ends.com
0.0.0.0 six.example
# a comment
example.com##.banner
/ads[0-9]+/
||x.example^$third-party
||x.example^$denyallow=a.example
||x.example^$dnsrewrite=192.0.2.1
||x.example/path
||x.example:8080^
||ad*.example^
||192.0.2.7^
||ads.
banner-
||co.uk^
"""


def test_adblock_golden() -> None:
    parsed = parse(ADBLOCK.encode())
    found = {scope: sorted(name.decode() for name in names) for scope, names in parsed.names.items()}
    assert parsed.syntax == "adblock"
    assert found == {
        BLOCK: sorted(["ends.com", *(f"{word}.example" for word in ("one", "two", "three", "four", "five", "six"))]),
        Scope(exact=False): ["below.example", "tail.example"],
        Scope(below=False): ["exact.example", "start.example"],
        Scope(allow=True): ["good.two.example"],
    }  # fmt: skip
    assert parsed.overruled == 1
    assert [(bad.line, bad.reason) for bad in parsed.bad_lines] == [
        (29, "a public suffix: it would cover everybody below it")
    ]


def test_adblock_says_what_dns_cannot_do() -> None:
    parsed = parse(ADBLOCK.encode())
    assert [(bad.line, bad.reason) for bad in parsed.unsupported_lines if bad.line != 14] == [
        (18, "cosmetic rule"), (19, "regular expression"), (20, "modifier $third-party"), (21, "modifier $denyallow"),
        (22, "modifier $dnsrewrite"), (23, "path"), (24, "port"), (25, "wildcard inside the name"),
        (26, "address rule"), (27, "prefix pattern"), (28, "part of a name"),
    ]  # fmt: skip


def test_an_important_exception_outlives_an_important_rule() -> None:
    parsed = parse(b"||a.example^$important\n@@||ok.a.example^$important\n@@||no.a.example^\n")
    assert list(parsed.names[Scope(allow=True)]) == [b"ok.a.example"]


@pytest.mark.parametrize(
    ("text", "syntax"),
    [
        ("a.example\nb.example\n", "plain"),
        ("# x\n0.0.0.0 a.example\n", "hosts"),
        ("*.a.example\n", "wildcard"),
        ("! x\n||a.example^\n", "adblock"),
        ("", "plain"),
        ("#\n#\n", "plain"),
    ],
)
def test_the_format_is_detected(text: str, syntax: str) -> None:
    assert detect(text.encode()) == syntax


def test_examples_are_capped_and_counts_are_not() -> None:
    parsed = parse(b"bad\n" * 1_000, "plain")
    assert (parsed.bad, len(parsed.bad_lines), parsed.lines) == (1_000, MAX_EXAMPLES, 1_000)


def test_quotes_are_safe_for_a_terminal() -> None:
    parsed = parse(b"\x1b[31mred\x07 " + b"x" * 500 + b"\n", "plain")
    assert parsed.bad_lines[0].text.isprintable()
    assert len(parsed.bad_lines[0].text) <= 80


def test_caps_refuse_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_module, "MAX_NAMES", 2)
    with pytest.raises(BadFeed, match="more than 2 names"):
        parse(b"a.example\nb.example\nc.example\n")
    monkeypatch.setattr(parse_module, "MAX_ODD", 2)
    with pytest.raises(BadFeed, match="more than 2 lines"):
        parse(b"a\nb\nc\n")


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"n{number}.example\n" + ("odd line\n" if number % 7 == 0 else "") for number in range(500))
    whole = parse(text.encode(), "plain")
    monkeypatch.setattr(parse_module, "CHUNK", 64)
    pieces = parse(text.encode() + b"z" * 100 + b"\nafter.example", "plain")
    assert list(pieces.names[BLOCK]) == [*whole.names[BLOCK], b"after.example"]
    assert (pieces.lines, pieces.bad) == (whole.lines + 2, whole.bad + 1)
    assert pieces.bad_lines[:MAX_EXAMPLES] == whole.bad_lines[:MAX_EXAMPLES]


def counted(parsed: Parsed) -> int:
    return parsed.comments + parsed.bad + parsed.unsupported


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"||a.example^", b"@@||b.example^$important", b"0.0.0.0 c.example d.example", b"*.e.example",
                         b"##.x", b"$", b"^", b"||", b"|", b"://", b"@@", b"*.", b".", b"\xff\xfe", b"\r", b"xn--a"]),
        st.from_regex(re.compile(rb"\A[|@.*^]{0,3}[a-z0-9_-]{1,6}(\.[a-z0-9\\_-]{0,6}){0,4}[\^|$.]{0,2}\Z")),
    )
)  # fmt: skip


@settings(deadline=None)  # the first example reads the suffix list
@given(st.one_of(st.binary(max_size=300), LINES.map(b"\n".join)), st.sampled_from(FORMATS))
def test_no_bytes_crash_a_parser_and_names_are_names(data: bytes, syntax: str) -> None:
    parsed = parse(data, syntax)
    for names in parsed.names.values():
        wire = [name for batch in to_wire(list(names)) for name in batch]
        assert wire == [from_text(name.decode()) for name in names]
        assert all(re.fullmatch(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)+", name) for name in names)
    assert counted(parsed) <= parsed.lines
    assert parsed.lines == data.removeprefix(b"\xef\xbb\xbf").count(b"\n") + (
        not data.endswith(b"\n") and bool(data.removeprefix(b"\xef\xbb\xbf"))
    )


LABELS = st.from_regex(re.compile(r"\A[a-z0-9_-]{1,63}\Z"))


@settings(deadline=None)
@given(st.lists(st.lists(LABELS, min_size=1, max_size=4), max_size=20))
def test_fast_and_careful_readers_agree(names: list[list[str]]) -> None:
    texts = [".".join([*labels, "example"]) for labels in names if len(".".join(labels)) < 240]
    fast = parse("".join(f"{text}\n" for text in texts).encode(), "plain")
    careful = parse("".join(f"{text} # slow\n" for text in texts).encode(), "plain")
    assert fast.names.get(BLOCK, {}).keys() == careful.names.get(BLOCK, {}).keys() == {text.encode() for text in texts}


def independent_count(path: Path, syntax: str) -> set[str]:
    """Count names with none of the package's code: one regular expression a format, and Python's own IDNA."""
    pattern = {
        "plain": r"^([\w.-]+\.[\w-]*[a-z][\w-]*)\.?\s*(?:#.*)?$",
        "wildcard": r"^\*\.([\w.-]+\.[\w-]*[a-z][\w-]*)\s*$",
        "hosts": r"^(?:0\.0\.0\.0|127\.0\.0\.1)\s+([\w.-]+\.[\w-]*[a-z][\w-]*)\s*(?:#.*)?$",
        "adblock": r"^\|\|([\w.-]+\.[\w-]*[a-z][\w-]*)\^\s*$",
    }[syntax]
    lines = path.read_text("utf-8").lower().splitlines()
    found = {match[1] for line in lines if (match := re.match(pattern, line))}
    return {name.encode("idna").decode() if not name.isascii() else name for name in found} - {"localhost.localdomain"}


@pytest.mark.parametrize("syntax", FORMATS[1:])
def test_real_lists_hold_what_a_second_count_finds(syntax: str) -> None:
    if not DATA.is_dir():
        pytest.skip("the shared feed samples are not on this machine")
    for path in sorted((DATA / syntax).iterdir()):
        parsed = parse(path.read_bytes())
        assert parsed.syntax == syntax
        found = {name.decode() for name in parsed.names[BLOCK]}
        expected = independent_count(path, syntax)
        if syntax == "adblock":  # the counter knows `||name^`; what is more must be a rule without one of its anchors
            assert expected <= found
            rules = {line.strip("|^ ") for line in path.read_text("utf-8").lower().splitlines()}
            assert found - expected <= rules
        else:
            assert found == expected
            assert parsed.bad == 0
