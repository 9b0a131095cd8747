"""The configuration: defaults, overrides and every mistake with its path and its cure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Config, Source
from core.config_load import load, parse
from core.config_read import SHAPE, Mistakes, keys_of, read_struct
from core.config_rules import check_together
from core.errors import BadConfig

SHIPPED = Path(__file__).parents[2] / "config.toml"
BASE = Path("/etc/plughole")
DEFAULT_LINE = re.compile(r"^#(?=[a-z0-9_]+ = )", re.MULTILINE)


def mistakes(text: str, **environ: str) -> list[str]:
    with pytest.raises(BadConfig) as caught:
        parse(text, environ, BASE)
    return caught.value.mistakes


def test_empty_text_gives_the_defaults() -> None:
    assert parse("", {}, BASE) == Config(base="/etc/plughole")


def test_shipped_file_gives_the_defaults_and_the_sample_feed() -> None:
    found = load(SHIPPED, {})
    assert found.feeds.source == (Source(name="sample", url="file:feeds/lists/sample.txt"),)
    assert found == Config(base=str(SHIPPED.parent), feeds=found.feeds)


def test_shipped_file_shows_every_default_as_it_is() -> None:
    text = DEFAULT_LINE.sub("", SHIPPED.read_text(encoding="utf-8"))
    assert parse(text, {}, SHIPPED.parent) == load(SHIPPED, {})


@pytest.mark.parametrize("section", keys_of(SHAPE), ids=lambda section: section.name)
def test_shipped_file_shows_every_key(section: msgspec.inspect.Field) -> None:
    shown = re.split(rf"^\[{section.name}\]$", SHIPPED.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    shown = re.split(r"^\[[a-z]+\]$", shown, flags=re.MULTILINE)[0]
    if isinstance(section.type, msgspec.inspect.StructType):
        for field in section.type.fields:
            assert re.search(rf"^(#? *|#? *\[\[{section.name}\.){field.name}( = |\]\])", shown, re.MULTILINE), (
                field.name
            )


@pytest.mark.parametrize("table", ["zone", "source"])
def test_shipped_file_shows_every_key_of_a_repeated_table(table: str) -> None:
    kind = {"zone": "upstream", "source": "feeds"}[table]
    shape = next(field.type for field in SHAPE.fields if field.name == kind)
    assert isinstance(shape, msgspec.inspect.StructType)
    items = next(field.type for field in shape.fields if field.name == table)
    assert isinstance(items, msgspec.inspect.VarTupleType)
    assert isinstance(items.item_type, msgspec.inspect.StructType)
    shown = SHIPPED.read_text(encoding="utf-8").partition(f"[[{kind}.{table}]]")[2]
    for field in items.item_type.fields:
        assert re.search(rf"^#? *{field.name} = ", shown, re.MULTILINE), field.name


def test_whole_numbers_do_for_seconds_and_stay_seconds() -> None:
    assert repr(parse("[upstream]\ntimeout = 3", {}, BASE).upstream.timeout) == "3.0"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            'server.listen = ["127.0.0.1:53", "foo"]',
            'server.listen[1]: "foo" is not ADDRESS:PORT; write "127.0.0.1:5353" or "[::1]:5353"',
        ),
        ('server.listen = ["127.0.0.1:0"]', 'server.listen[0]: "127.0.0.1:0" holds port 0; write one from 1 to 65535'),
        (
            'server.listen = ["[127.0.0.1]:53"]',
            'server.listen[0]: "[127.0.0.1]:53" has brackets round an IPv4 address; write',
        ),
        ("server.listen = []", 'server.listen: is empty; write ["127.0.0.1:5353", "[::1]:5353"]'),
        ('server.listen = ["[::]:53", "[::]:53"]', 'server.listen[1]: "[::]:53" is there already; remove it'),
        ('server.listen = "[::]:53"', 'server.listen: "[::]:53" is not a list; write ["[::]:53"]'),
        ("server.liste = []", "server.liste: there is no such key; write listen"),
        ("sever = {}", "sever: there is no such key; write server"),
        ("server = 1", "server: 1 is not a table; write [server]"),
        ("base = '/'", "base: there is no such key; the keys here are server,"),
        ('server.workers = "two"', 'server.workers: "two" is not a whole number; write one like 0, without quotes'),
        ("server.workers = true", "server.workers: true is not a whole number; write one like 0, without quotes"),
        ("server.workers = -1", "server.workers: -1 is out of range; write a number from 0 to 256"),
        ("server.tcp_idle = nan", "server.tcp_idle: nan is out of range; write a number from 0.1 to 3600.0"),
        (
            "server.user = 'a b'",
            'server.user: "a b" is not a user name; write "plughole", or "" to stay who started it',
        ),
        (
            'server.allow_from = ["192.0.2.1/24"]',
            'server.allow_from[0]: "192.0.2.1/24" has bits set behind its prefix; write "192.0.2.0/24"',
        ),
        ('server.allow_from = ["lan"]', 'server.allow_from[0]: "lan" is not a network; write "192.0.2.0/24" or'),
        ("cache.max_ttl = 700000", "cache.max_ttl: 700000 is out of range; write a number from 0 to 604800"),
        ("cache.min_ttl = 99999", "cache.min_ttl: is above max_ttl; write at most 86400"),
        ('upstream.mode = "recursiv"', 'upstream.mode: "recursiv" is not one of the choices; write "recursive"'),
        ("upstream.mode = 7", 'upstream.mode: 7 is not one of the choices; write "forward" or "recursive"'),
        ("upstream.dnssec = 'yes'", 'upstream.dnssec: "yes" is neither true nor false; write true or false'),
        ('upstream.mode = "forward"', 'upstream.servers: is empty though mode is "forward"; write ["192.0.2.1"] or'),
        ('upstream.servers = ["dns.example"]', 'upstream.servers[0]: "dns.example" is no server: '),
        ('upstream.servers = ["192.0.2.1@0"]', 'upstream.servers[0]: "192.0.2.1@0" is no server: port '),
        ('upstream.servers = ["tls://192.0.2.1"]', 'upstream.servers[0]: "tls://192.0.2.1" is no server: no'),
        ('upstream.servers = ["quic://192.0.2.1"]', 'upstream.servers[0]: "quic://192.0.2.1" is no server: '),
        (
            'upstream.servers = ["192.0.2.1", "https://dns.example/q"]',
            "upstream.servers: mixes https:// with others; write servers of one kind",
        ),
        ("upstream.zone = [{servers = []}]", 'upstream.zone[0].name: is missing; write name = "corp.example"'),
        ("upstream.zone = [{name = 'a'}]", 'upstream.zone[0].servers: is missing; write servers = ["192.0.2.53"]'),
        ("upstream.zone = [{name = 'a', servers = []}]", 'upstream.zone[0].servers: is empty; write ["192.0.2.53"]'),
        ("upstream.zone = [1]", "upstream.zone[0]: 1 is not a table; write [[upstream.zone]]"),
        ("upstream.zone = 1", "upstream.zone: 1 is not a list; write [[upstream.zone]] above each table"),
        (
            "upstream.zone = [{name = 'a..b', servers = ['192.0.2.1']}]",
            'upstream.zone[0].name: "a..b" is not a domain name (label of 0 octets (1 to 63 allowed)); write',
        ),
        (
            "upstream.zone = [{name = 'a', servers = ['https://a.example/']}]",
            'upstream.zone[0].servers[0]: "https://a.example/" is DNS over HTTPS, which a zone cannot use; write',
        ),
        (
            "upstream.zone = [{name = 'a', servers = ['::1']}, {name = 'A.', servers = ['::1']}]",
            'upstream.zone[1].name: "a" is there already; write a name of its own',
        ),
        ("redis.url = 'http://a:s3cret@b'", 'redis.url: the value is not "embedded" and has no scheme of redis:,'),
        ("redis.url = 'unix:'", 'redis.url: the value names no socket; write "unix:///run/redis/redis.sock"'),
        ("sinkhole.ipv4 = '::1'", 'sinkhole.ipv4: "::1" is not an IPv4 address; write "192.0.2.1"'),
        ("sinkhole.ipv6 = '192.0.2.1'", 'sinkhole.ipv6: "192.0.2.1" is not an IPv6 address; write "2001:db8::1"'),
        ("feeds.source = [{name = 'a'}]", "feeds.source[0].url: is missing; write url ="),
        (
            "feeds.source = [{name = 'My Feed', url = 'file:a'}]",
            'feeds.source[0].name: "My Feed" is not made of a-z, 0-9 and inner hyphens; write "my-feed"',
        ),
        ("feeds.source = [{name = 'a', url = 'ftp://h/p'}]", "feeds.source[0].url: the value has no scheme of file:,"),
        ("egress.lists = 'ftp://h/lists'", "egress.lists: the value has no scheme of file:, http:, https:; write"),
        ("feeds.source = [{name = 'a', url = 'https:'}]", "feeds.source[0].url: the value names no host; write"),
        ("feeds.source = [{name = 'a', url = 'file://h/p'}]", "feeds.source[0].url: the value names no file of this"),
        ("feeds.source = [{name = 'a', url = 'http://h:99999/'}]", "feeds.source[0].url: the value is not a URL (Port"),
        (
            "feeds.source = [{name = 'a', url = 'file:a', confidence = 101}]",
            "feeds.source[0].confidence: 101 is out of range; write a number from 0 to 100",
        ),
        (
            "feeds.source = [{name = 'a', url = 'file:a'}, {name = 'a', url = 'file:b'}]",
            'feeds.source[1].name: "a" is there already; write a name of its own',
        ),
        ("detectors = 1", "detectors: 1 is not a table of tables; write [detectors.NAME]"),
        ("detectors.leak = 'off'", 'detectors.leak: "off" is not a table; write [detectors.leak]'),
        ("'a b' = 1", '"a b": there is no such key; the keys here are server,'),
        ("server.workers = 0x" + "f" * 5000, "server.workers: a huge number is out of range;"),
    ],
)
def test_one_mistake_is_one_line(text: str, line: str) -> None:
    (found,) = [mistake for mistake in mistakes(text) if mistake.startswith(line.partition(":")[0])]
    assert found.startswith(line)
    assert "\n" not in found


def test_all_mistakes_come_at_once() -> None:
    text = 'server = {workers = 999, listen = ["x", "y"]}\nsinkhole = {ttl = -1}\negress = {mode = "on"}'
    assert [line.partition(":")[0] for line in mistakes(text)] == [
        "server.listen[0]",
        "server.listen[1]",
        "server.workers",
        "sinkhole.ttl",
        "egress.mode",
    ]


def test_a_wrong_list_of_servers_is_told_once() -> None:
    assert len(mistakes('upstream = {mode = "forward", servers = "192.0.2.1"}')) == 1


def test_secrets_are_not_repeated() -> None:
    text = "redis.url = 'reddis://:hunter2@h'\nfeeds.source = [{name = 'a', url = 'htps://h/?token=hunter2'}]"
    assert not any("hunter2" in line for line in mistakes(text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nworkers = = 1", "line 2, column 11: Invalid value; write TOML as config.toml does"),
        ("[server", "the last line: "),
        ("a = " + "9" * 5000, "not TOML: "),
        ("a = " + "[" * 100_000, "brackets are nested too deeply; "),
    ],
)
def test_text_that_is_not_toml_names_its_line_and_column(text: str, line: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(line)


@pytest.mark.parametrize(
    "servers",
    [
        ["192.0.2.1", "192.0.2.1@5300", "2001:db8::1", "[2001:db8::1]@53", "fe80::1%eth0"],
        ["tls://192.0.2.1@853#dns.example", "tls://2001:db8::1#dns.example"],
        ["https://dns.example/dns-query", "https://192.0.2.1:8443/q", "https://[2001:db8::1]/q"],
    ],
)
def test_upstream_servers_of_every_kind_are_accepted(servers: list[str]) -> None:
    found = parse(f'upstream = {{mode = "forward", servers = {servers}}}', {}, BASE)
    assert found.upstream.servers == tuple(servers)


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://:pw@127.0.0.1:6379/0",
        "rediss://redis.example",
        "unix:///run/redis/redis.sock",
        "redis+sentinel://192.0.2.1:26379,192.0.2.2:26379/plughole",
        "redis+cluster://192.0.2.1:6379",
    ],
)
def test_redis_urls_of_every_kind_are_accepted(url: str) -> None:
    assert parse(f'redis.url = "{url}"', {}, BASE).redis.url == url


def test_environment_beats_the_file() -> None:
    environ = {
        "PLUGHOLE_SERVER__LISTEN": '["127.0.0.1:5300"]',
        "PLUGHOLE_SERVER__WORKERS": "2",
        "PLUGHOLE_SERVER__DATA_DIR": "/srv/plughole",
        "PLUGHOLE_SERVER__USER": '"nobody"',
        "PLUGHOLE_UPSTREAM__MODE": "forward",
        "PLUGHOLE_UPSTREAM__SERVERS": "['192.0.2.1']",
        "PLUGHOLE_DETECTORS__LEAK__MODE": "off",
        "PLUGHOLE_FEEDS__SOURCE": '[{name = "a", url = "file:a.txt"}]',
        "PLUGHOLE_CONFIG": "not ours: no double underscore",
        "PATH": "/bin",
    }
    found = parse("[server]\nworkers = 4\nudp_size = 1400", environ, BASE)
    assert (found.server.listen, found.server.workers, found.server.udp_size) == (("127.0.0.1:5300",), 2, 1400)
    assert (found.server.data_dir, found.server.user) == ("/srv/plughole", "nobody")
    assert (found.upstream.mode, found.upstream.servers) == ("forward", ("192.0.2.1",))
    assert found.detectors == {"leak": {"mode": "off"}}
    assert [source.name for source in found.feeds.source] == ["a"]


def test_a_number_in_the_environment_is_text_where_text_belongs() -> None:
    assert parse("", {"PLUGHOLE_SERVER__DATA_DIR": "2024"}, BASE).server.data_dir == "2024"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("PLUGHOLE_SERVER__LISTENS", "1", "PLUGHOLE_SERVER__LISTENS: names no key of the configuration; write "),
        ("PLUGHOLE_SERVER", "1", ""),
        ("PLUGHOLE_DETECTORS__LEAK", "{}", "PLUGHOLE_DETECTORS__LEAK: names no key of the configuration; "),
        ("PLUGHOLE_SERVER__LISTEN__X", "1", "PLUGHOLE_SERVER__LISTEN__X: names no key of the configuration; "),
        ("PLUGHOLE___", "1", "PLUGHOLE___: names no key of the configuration; "),
        ("PLUGHOLE_SERVER__BASE", "1", "PLUGHOLE_SERVER__BASE: names no key of the configuration; "),
        ("PLUGHOLE_SERVER__WORKERS", "1\nuser = 2", "server.workers (from PLUGHOLE_SERVER__WORKERS): "),
        ("PLUGHOLE_SERVER__LISTEN", "['x']", "server.listen[0] (from PLUGHOLE_SERVER__LISTEN): "),
        ("PLUGHOLE_SERVER__USER", "\udcff", 'server.user (from PLUGHOLE_SERVER__USER): "\\udcff" is not a user name'),
    ],
)
def test_mistakes_of_the_environment_name_the_variable(variable: str, value: str, line: str) -> None:
    if not line:
        assert parse("", {variable: value}, BASE) == Config(base=str(BASE))
    else:
        (found,) = mistakes("", **{variable: value})
        assert found.startswith(line)
        assert "\n" not in found


def test_named_files_must_exist(tmp_path: Path) -> None:
    (tmp_path / "root.hints").touch()
    file = tmp_path / "c.toml"
    file.write_text(
        '[upstream]\nroot_hints = "root.hints"\ntrust_anchors = ["root.hints", "no.key"]\ntls_ca_file = "/no/ca"\n'
        '[redis]\npassword_file = "no.pw"\n[sinkhole]\nttl = -1\n',
        encoding="utf-8",
    )
    with pytest.raises(BadConfig) as caught:
        load(file, {})
    assert [line.partition(":")[0] for line in caught.value.mistakes] == [
        "sinkhole.ttl",
        "upstream.tls_ca_file",
        "redis.password_file",
        "upstream.trust_anchors[1]",
    ]
    assert f'"{tmp_path / "no.key"}"' in caught.value.mistakes[-1]


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("", encoding="utf-8")
    assert load(file, {}).data_dir == tmp_path / "var"
    assert load(None, {}).data_dir == Path("var").absolute()


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# fine\n# caf\xe9\n")
    for path, line in (
        (tmp_path / "none.toml", "cannot be read (No such file or directory)"),
        (tmp_path, "cannot be read (Is a directory)"),
        (latin, "line 2 is not UTF-8"),
    ):
        with pytest.raises(BadConfig, match=re.escape(f"{path}: {line}")):
            load(path, {})


@given(text=st.text())
def test_any_text_gives_a_config_or_mistakes(text: str) -> None:
    try:
        parse(text, {"PLUGHOLE_UPSTREAM__SERVERS": text, "PLUGHOLE_SERVER__USER": text}, BASE)
    except BadConfig as error:
        assert error.mistakes
        assert all(line.isprintable() for line in error.mistakes)


KEYS = st.sampled_from(
    sorted(
        {section.name for section in SHAPE.fields}
        | {f.name for s in SHAPE.fields if isinstance(s.type, msgspec.inspect.StructType) for f in s.type.fields}
    )
)
VALUES = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["x", "::1", "file:a", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)


@given(raw=st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, max_size=4))
def test_values_of_any_shape_give_a_config_that_holds_its_types_or_mistakes(raw: dict[str, Any]) -> None:
    mistakes = Mistakes()
    found = read_struct(SHAPE, raw, "", mistakes, base="/")
    check_together(found, mistakes)
    assert all(line.isprintable() for line in mistakes.lines)
    if not mistakes.lines:
        assert msgspec.convert(msgspec.to_builtins(found), Config) == found
