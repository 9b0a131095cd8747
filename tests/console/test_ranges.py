"""The lists of networks renewed by `plughole feeds update`, from files and from a web server."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from place import Place, documented

from console import ranges
from console.ranges import FOLDER, ListReport, complaints, in_force, renew
from core.config import Config, Egress, Feeds, Server
from egress.range_lists import KINDS, file_name, load_lists, newest, pack, put
from egress.ranges import Listed
from egress.renewal import held
from feeds.updater import locked

FEW = 40  # networks of a list
BEFORE = "2096-01-01"
NOW = 4_000_000_000.0  # in 2096: newer than what ships
LATER = NOW + 86_400.0
NAMES = [name for names in KINDS.values() for name in names]
LIST_KEYS = {"name", "kind", "status", "networks", "before", "message"}
KIND_KEYS = {"kind", "networks", "source", "date"}


def folder_of(name: str) -> str:
    return f"{name}/list.json"


class Mirror:
    """A copy of `lists/` of misp-warninglists, and a node that has the same in force and renews from there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "lists"
        self.config = Config(
            server=Server(data_dir=str(folder / "data")),
            egress=Egress(lists="file:lists"),
            feeds=Feeds(timeout=5.0),
            base=str(folder),
        )
        self.install(self.ranges)

    @property
    def ranges(self) -> Path:
        return self.config.data_dir / FOLDER

    def install(self, folder: Path) -> None:
        """Make some networks a list, the longer ones that ship cut off, those on the mirror and those in force."""
        for kind, names in KINDS.items():
            found = {name: each[:FEW] for name, each in held(newest(kind, None, [])).items()}
            for name, prefixes in found.items():
                self.put(name, [text_of(each) for each in prefixes])
            lists = [Listed(names[name], each) for name, each in found.items()]
            put(folder, kind, pack(kind, lists, date=BEFORE, source="a test"))

    def path(self, name: str) -> Path:
        return self.folder / folder_of(name)

    def put(self, name: str, entries: list[str]) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(json.dumps({"type": "cidr", "name": name, "list": entries}))

    def entries(self, name: str) -> list[str]:
        found: list[str] = json.loads(self.path(name).read_text())["list"]
        return found

    def renew(self, *, dry_run: bool = False, force: bool = False, now: float = NOW) -> dict[str, ListReport]:
        return {one.name: one for one in renew(self.config, dry_run=dry_run, force=force, now=now)}

    def files(self) -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.ranges.glob("*.gz")}


def text_of(prefix: tuple[int, int, int]) -> str:
    first, last, octets = prefix
    family = socket.AF_INET if octets == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, first.to_bytes(octets, 'big'))}/{8 * octets - (last - first).bit_length()}"


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, text)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


def test_nothing_is_asked_where_no_url_is_set(mirror: Mirror) -> None:
    config = msgspec.structs.replace(mirror.config, egress=Egress())
    assert renew(config, dry_run=False, force=False) == ()
    assert not (mirror.ranges / "lock").exists()


def test_what_is_the_same_as_what_is_in_force_writes_nothing(mirror: Mirror) -> None:
    before = mirror.files()
    reports = mirror.renew()
    assert list(reports) == NAMES
    assert {one.status for one in reports.values()} == {"unchanged"}
    assert mirror.files() == before


def test_a_list_that_changed_is_in_force_and_no_other_kind_is_written(mirror: Mirror) -> None:
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    mirror.put("telegram-ips", [*mirror.entries("telegram-ips"), "91.99.0.1/32"])
    before = mirror.files()
    reports = mirror.renew()
    assert {name for name, one in reports.items() if one.status == "new"} == {"cloudflare", "telegram-ips"}
    assert reports["cloudflare"].networks == reports["cloudflare"].before + 1
    assert {name for name, file in mirror.files().items() if file != before[name]} == {file_name("shared")}
    lists = load_lists(mirror.ranges)
    assert lists.shared.find(packed("91.66.0.80")) == "Cloudflare"
    assert lists.shared.find(packed("104.16.0.1")) == "Cloudflare"
    assert lists.sources["shared"].endswith(", 2096-10-02")
    assert [one.date for one in in_force(mirror.config) if one.kind == "shared"] == ["2096-10-02"]


def test_nothing_new_the_next_day_changes_no_file(mirror: Mirror) -> None:
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    mirror.renew()
    before = mirror.files()
    assert {one.status for one in mirror.renew(now=LATER).values()} == {"unchanged"}
    assert mirror.files() == before
    mirror.put("fastly", [*mirror.entries("fastly"), "91.67.0.0/16"])
    mirror.renew(now=LATER)
    lists = load_lists(mirror.ranges)
    assert [lists.shared.find(packed(text)) for text in ("91.66.0.1", "91.67.0.1")] == ["Cloudflare", "Fastly"]


def test_bad_lists_keep_what_is_in_force_and_no_other_list_from_being_renewed(mirror: Mirror) -> None:
    before = len(mirror.entries("cloudflare"))
    assert before > 10
    mirror.path("cloudflare").write_text("<html><body>log in</body></html>")
    mirror.path("fastly").write_text('{"type": "hostname", "list": ["a.example"]}')
    mirror.path("github").unlink()
    mirror.put("akamai", mirror.entries("akamai")[:10])
    mirror.put("wikimedia", [f"91.{n // 256}.{n % 256}.0/32" for n in range(1_000)])
    mirror.path("apple").write_bytes(mirror.path("apple").read_bytes()[:-3])
    mirror.put("bunny-net", [*mirror.entries("bunny-net"), "91.66.0.0/32"])
    reports = mirror.renew()
    said = {name: one.status for name, one in reports.items() if one.status != "unchanged"}
    refused = dict.fromkeys(("akamai", "apple", "cloudflare", "fastly", "wikimedia"), "refused")
    assert said == refused | {"github": "failed", "bunny-net": "new"}
    assert reports["cloudflare"].networks == reports["cloudflare"].before == before
    assert "HTML page" in reports["cloudflare"].message
    assert "look at egress.lists" in reports["github"].message
    assert "shrank" in reports["akamai"].message
    assert "grew" in reports["wikimedia"].message
    assert all(one.message.endswith("what is in force stays") for one in reports.values() if one.message)
    lists = load_lists(mirror.ranges)
    assert lists.shared.find(packed("91.66.0.0")) == "bunny.net"
    assert lists.shared.find(packed("104.16.0.1")) == "Cloudflare"


def test_force_takes_a_list_that_shrank(mirror: Mirror) -> None:
    mirror.put("akamai", ["91.66.0.0/24"])
    assert "--force" in mirror.renew()["akamai"].message
    assert mirror.renew(force=True)["akamai"].status == "new"
    assert mirror.renew(now=LATER)["akamai"].status == "unchanged"
    assert load_lists(mirror.ranges).shared.find(packed("91.66.0.1")) == "Akamai"


def test_a_dry_run_writes_nothing(mirror: Mirror) -> None:
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    before = mirror.files()
    assert mirror.renew(dry_run=True)["cloudflare"].status == "new"
    assert mirror.files() == before
    assert {path.name for path in mirror.ranges.iterdir()} == {*before, "lock"}


def test_a_damaged_file_of_the_folder_is_written_anew(mirror: Mirror) -> None:
    (mirror.ranges / file_name("sinkholes")).write_bytes(b"half a fi")
    assert load_lists(mirror.ranges).mistakes
    mirror.renew(force=True)
    assert not load_lists(mirror.ranges).mistakes


def test_a_disk_that_takes_nothing_leaves_what_was_there(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", descriptor)

    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    mirror.renew()
    before = mirror.files()
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.67.0.0/16"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        report = mirror.renew(now=LATER)["cloudflare"]
    assert (report.status, "No space left" in report.message) == ("failed", True)
    assert mirror.files() == before
    assert mirror.renew(now=LATER)["cloudflare"].status == "new"


def test_two_updaters_do_not_meet(mirror: Mirror) -> None:
    with locked(mirror.ranges):
        reports = mirror.renew()
    assert {one.status for one in reports.values()} == {"failed"}
    [line] = complaints(reports.values())
    assert "and 28 more failed: another" in line


# ---- over HTTP


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what it said to whom."""

    said: list[int]

    def __init__(self, *args: object, said: list[int], **given: str) -> None:
        self.said = said
        super().__init__(*args, **given)  # type: ignore[arg-type]

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.said.append(int(str(getattr(code, "value", code))))

    def log_message(self, *args: object) -> None:
        """Keep silent."""


@pytest.fixture
def served(mirror: Mirror) -> Iterator[tuple[Mirror, list[int]]]:
    said: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, said=said, directory=str(mirror.folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/"
    mirror.config = msgspec.structs.replace(mirror.config, egress=Egress(lists=url))
    yield mirror, said
    server.shutdown()
    server.server_close()
    thread.join()


def never(*_: object, **given: object) -> None:
    raise AssertionError(f"{given} is read though nothing changed")


def test_a_server_is_asked_and_a_list_read_only_for_what_changed(
    served: tuple[Mirror, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, said = served
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    assert mirror.renew()["cloudflare"].status == "new"
    assert said == [200] * len(NAMES)
    said.clear()
    copies = {path: path.stat().st_mtime_ns for path in (mirror.ranges / "copies").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(ranges, "read", never)
        assert {one.status for one in mirror.renew(now=LATER).values()} == {"unchanged"}
    assert said == [304] * len(NAMES)
    assert {path: path.stat().st_mtime_ns for path in (mirror.ranges / "copies").rglob("*")} == copies


def test_a_copy_stands_in_for_a_file_that_was_taken_away(served: tuple[Mirror, list[int]]) -> None:
    mirror, said = served
    in_force = (mirror.ranges / file_name("shared")).read_bytes()
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    mirror.renew()
    put(mirror.ranges, "shared", in_force)
    said.clear()
    assert mirror.renew(now=LATER)["cloudflare"].status == "new"
    assert set(said) == {304}
    assert load_lists(mirror.ranges).shared.find(packed("91.66.0.1")) == "Cloudflare"


def test_a_damaged_copy_is_fetched_again(served: tuple[Mirror, list[int]]) -> None:
    mirror, said = served
    mirror.renew()
    [copy] = (mirror.ranges / "copies" / "fastly").glob("*.snapshot")
    copy.write_bytes(b"{}")
    said.clear()
    assert mirror.renew()["fastly"].status == "unchanged"
    assert sorted(said) == [200] + [304] * (len(NAMES) - 1)


# ---- the commands


@pytest.fixture
def node(with_redis: Place, mirror: Mirror) -> Place:
    mirror.install(with_redis.config.data_dir / FOLDER)
    with_redis.file.write_text(f'{with_redis.file.read_text()}\n[egress]\nlists = "file:{mirror.folder}"\n')
    return with_redis


def test_the_updater_renews_lists_and_tells(node: Place, mirror: Mirror) -> None:
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    mirror.path("fastly").unlink()
    result = node.run("feeds", "update")
    assert result.exit_code == 0
    assert result.stderr.startswith("list of networks fastly failed: ")
    assert result.stderr.count("\n") == 1
    assert "list of networks cloudflare: " in result.stdout
    assert f"lists of networks: 1 new, {len(NAMES) - 2} unchanged, 1 failed" in result.stdout
    report = json.loads(node.run("feeds", "update", "--json").stdout)
    assert set(report["lists"][0]) == LIST_KEYS
    assert documented("plughole feeds update") >= LIST_KEYS | {"lists"}
    listed = json.loads(node.run("feeds", "list", "--json").stdout)["networks"]
    assert [one["kind"] for one in listed] == list(KINDS)
    assert set(listed[0]) == KIND_KEYS
    assert documented("plughole feeds list") >= KIND_KEYS | {"networks"}
    assert " shared (20" in node.run("feeds", "list").stdout


@pytest.mark.parametrize("bad", ["{}", None])
def test_all_lists_failing_is_a_failure_in_one_line(node: Place, mirror: Mirror, bad: str | None) -> None:
    for name in NAMES:
        mirror.path(name).unlink()
        if bad is not None:
            mirror.path(name).write_text(bad)
    result = node.run("feeds", "update")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "generation 1 is in force" in result.stdout


def test_one_feed_asked_for_is_one_feed(node: Place, mirror: Mirror) -> None:
    assert json.loads(node.run("feeds", "update", "--feed", "sample", "--json").stdout)["lists"] == []


def test_lists_are_renewed_while_redis_is_away(place: Place, mirror: Mirror) -> None:
    mirror.install(place.config.data_dir / FOLDER)
    mirror.put("cloudflare", [*mirror.entries("cloudflare"), "91.66.0.0/16"])
    more = f'[redis]\nurl = "unix:///nowhere/redis.sock"\n[egress]\nlists = "file:{mirror.folder}"\n'
    place.file.write_text(f"{place.file.read_text()}\n{more}")
    result = place.run("feeds", "update")
    assert result.exit_code == 1
    assert load_lists(place.config.data_dir / FOLDER).shared.find(packed("91.66.0.1")) == "Cloudflare"
