"""The command line as a whole: exit codes, errors of one line, the configuration it finds, a quick start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from place import REPOSITORY, Place, section

from console.cli import cli
from console.params import NameOrAddress

HEAVY = ("duckdb", "redis", "scipy", "uvloop", "numpy", "rich", "fastconstmap", "httpx2", "dns", "dnslib", "structlog")
BAD = [
    "nonsense", "--nonsense", "log --nonsense", "log extra", "log --since", "log --since yesterday", "log --since -5m",
    "log --since 99999999999d", "log --since 0000-00-00", "log --until 25:61", "log --client 1.2.3", "log --client x/y",
    "log --client 10.0.0.0/33", "log --domain a..b", "log --action explode", "log --cause moon",
    "log --domain 192.0.2.1",
    "log --limit 0", "log --limit -1", "log --limit many", "log --json --csv", "log --follow --until 1h", "top",
    "top nobody", "top clients --limit 0", "explain", "explain a..b", "explain http://evil.example/",
    "explain x --type Z",
    "explain x --client nobody", "explain x --client 10.0.0.0/8", "allow x.example", "allow --reason y",
    "allow x.example --reason", "allow . --reason y", "allow *.x.example --reason y", "block x --for never --reason y",
    "block x --for 0s --reason y", "block x --client 1.2.3.4 --view v --reason y", "forget", "forget a..b",
    "overrides extra", "status extra", "check extra", "serve extra", "feeds nonsense", "feeds update --feed nobody",
    "feeds diff x", "feeds diff 1 2 3", "feeds rollback --to 0", "feeds export --format word",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD)
def test_bad_usage_is_one_line_and_exit_code_2(place: Place, line: str) -> None:
    result = place.run(*line.split(" "))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"plughole[^\n]*; see `plughole[^\n]* --help`\n", result.stderr), result.stderr
    assert not (place.folder / "var").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["explain", "x" * 64],
        ["explain", "\x1b]0;owned\x07.example", "--type", "\x1b[2J"],
        ["allow", "x.example", "--reason", ""],
        ["allow", "x.example", "--reason", "r" * 513],
        ["allow", "x.example", "--reason", "y", "--view", " "],
        ["explain", "two names"],
        ["log", "--domain", "\N{RIGHT-TO-LEFT OVERRIDE}.example"],
        ["log", "--since", "\x00"],
        ["\n"],
    ],
)
def test_bad_words_are_quoted_without_what_a_terminal_obeys(place: Place, args: list[str]) -> None:
    result = place.run(*args)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", ["log", "status", "check", "serve", "overrides", "feeds list", "explain x.example"])
def test_every_mistake_in_the_configuration_is_a_line(place: Place, command: str) -> None:
    place.file.write_text('[server]\nlisten = "nowhere"\nworkers = -1\ncolour = "blue"\n')
    result = place.run(*command.split())
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(any(key in line for line in lines) for key in ("listen", "workers", "colour"))


def test_a_missing_configuration_file_is_bad_usage(place: Place) -> None:
    result = place.run("check", "-c", str(place.folder / "nothing.toml"))
    assert result.exit_code == 2
    assert "nothing.toml: cannot be read" in result.stderr


def test_without_words_the_commands_are_listed(place: Place) -> None:
    result = place.run()
    assert result.exit_code == 2
    assert "explain" in result.stderr


def test_the_configuration_is_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLUGHOLE_CONFIG", raising=False)
    (tmp_path / "config.toml").write_text("[server]\nhere = 1\n")
    (tmp_path / "other.toml").write_text("[server]\nother = 1\n")
    (tmp_path / "named.toml").write_text("[server]\nnamed = 1\n")

    def complaint(**environ: str) -> str:
        args = environ.pop("args", "check").split()
        return CliRunner(env=environ).invoke(cli, args, prog_name="plughole").stderr

    assert "server.here" in complaint()
    assert "server.other" in complaint(PLUGHOLE_CONFIG="other.toml")
    assert "server.named" in complaint(PLUGHOLE_CONFIG="other.toml", args="check -c named.toml")


def test_the_environment_beats_the_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGHOLE_SERVER__WORKERS", "many")
    result = place.run("check")
    assert result.exit_code == 2
    assert "PLUGHOLE_SERVER__WORKERS" in result.stderr


def test_a_mistake_of_ours_is_one_line_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr("console.explain.Explainer", broken)
    result = place.run("explain", "x.example")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError: one two" in result.stderr


def test_an_error_of_the_system_names_the_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/plughole")

    monkeypatch.setattr("console.explain.Explainer", broken)
    result = place.run("explain", "x.example")
    assert (result.exit_code, result.stderr) == (1, "plughole: /var/lib/plughole: Permission denied\n")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom console.cli import cli\n"
        "for line in (['--help'], ['log', '--help'], ['feeds', 'update', '--help']):\n"
        "    try: cli.main(line)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told(place: Place) -> None:
    result = place.run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("plughole")


def commands(group: click.Group, path: str = "plughole") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, f"{path} {name}")
        else:
            found.append((f"{path} {name}", command))
    return found


def test_every_command_takes_a_configuration_and_shows_examples() -> None:
    for path, command in commands(cli):
        flags = {flag for option in command.params for flag in option.opts}
        assert {"-c", "--config"} <= flags, path
        assert f"  {path}" in (command.epilog or ""), path


def test_the_manual_has_every_command_option_and_example() -> None:
    missing = []
    for path, command in commands(cli):
        flags = {flag for option in command.params for flag in option.opts if flag.startswith("--")}
        part = section(path)
        missing += [f"{path} {flag}" for flag in flags - {"--config"} if f"{flag}" not in part]
        missing += [f"{path}: {line}" for line in (command.epilog or "").splitlines()[2:] if f"  {line}\n" not in part]
    assert not missing


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("EVIL.example.", "evil.example"),
        ("evil[.]example", "evil.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a\\.b.example", "a\\.b.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("192[.]0[.]2[.]1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_names_and_addresses_are_read_as_people_write_them(text: str, found: str) -> None:
    assert NameOrAddress().convert(text, None, None).text == found


def test_a_closed_pipe_is_no_failure(place: Place) -> None:
    process = place.popen("check", "--help")
    process.stdout.close()  # type: ignore[union-attr]
    assert process.wait(60) in (0, 1)
    assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]
    process.stderr.close()  # type: ignore[union-attr]


def test_check_says_what_is_missing_around_a_right_configuration(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "list.txt").unlink()
    monkeypatch.setenv("PATH", str(place.folder))
    monkeypatch.setattr("feeds.redis.find_spec", lambda _: None)
    monkeypatch.setattr("resolver.upstream.libunbound.UNBOUND", "libnothing.so.8")
    result = place.run("check")
    assert (result.exit_code, result.stderr) == (0, "")
    first, *notes = result.stdout.splitlines()
    assert first == "config is fine"
    assert len(notes) == 3
    for word in ("libunbound8", "redis-server", "list.txt"):
        assert any(word in note for note in notes)


def test_check_notes_a_node_without_feeds(place: Place) -> None:
    place.file.write_text("")
    assert "note: no feed is configured" in place.run("check").stdout


def test_serve_says_what_to_try(place: Place) -> None:
    from console.serve import trials

    place.file.write_text(place.file.read_text().replace("list.txt", "sample.txt").replace("127.0.0.1", "0.0.0.0"))
    dig, other, log = trials(place.config)
    assert dig == "dig @127.0.0.1 -p 5353 c2.evil.example"
    assert other == "dig @127.0.0.1 -p 5353 example.com"
    assert log == "plughole log --since 10m"


def test_json_is_ascii_for_whatever_is_in_it() -> None:
    from console.show import json_text

    value = {"text": "".join(map(chr, range(0x300))) + "\u202e\U0001f600"}
    assert json.loads(json_text(value)) == value
    assert json_text(value).isascii()
    assert json_text(value).isprintable()


def test_the_service_log_is_json_where_nobody_looks(tmp_path: Path) -> None:
    code = (
        "import logging, structlog\nfrom console.logging import set_up\nset_up()\n"
        "structlog.get_logger('hub').warning('redis is away', reason='\\x1b[2J')\n"
        "logging.getLogger('plughole.journal').warning('%d rows lost', 3)\n"
        "structlog.get_logger('hub').debug('nothing')\n"
    )
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    first, second = map(json.loads, done.stderr.splitlines())
    assert set(first) == {"event", "level", "logger", "timestamp", "reason"}
    assert (first["event"], first["level"], first["logger"]) == ("redis is away", "warning", "plughole.hub")
    assert (second["event"], second["logger"]) == ("3 rows lost", "plughole.journal")
