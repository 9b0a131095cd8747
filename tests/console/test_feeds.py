"""`plughole feeds` against a real Redis and lists on disk."""

from __future__ import annotations

import json
from typing import Any

from place import CONFIG, Place, documented

UPDATE_KEYS = {"feeds", "generation", "published", "names", "seconds", "message", "lists"}
REPORT_KEYS = {
    "name", "status", "syntax", "lines", "names", "bad", "unsupported", "added", "removed", "seconds", "message",
    "bad_lines", "unsupported_lines",
}  # fmt: skip
LIST_KEYS = {"feeds", "generation", "names", "created", "history", "networks"}
FEED_KEYS = {"name", "mode", "category", "confidence", "syntax", "fetched", "names", "bad", "unsupported", "in_force"}
DIFF_KEYS = {"source", "added", "removed", "added_sample", "removed_sample"}
SECOND = '\n[[feeds.source]]\nname = "second"\nurl = "file:second.txt"\n'


def done(place: Place, *args: str) -> Any:
    result = place.run("feeds", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout)


def test_a_generation_comes_and_goes(with_redis: Place) -> None:
    first = done(with_redis, "update")
    assert set(first) == UPDATE_KEYS
    assert set(first["feeds"][0]) == REPORT_KEYS
    assert (first["generation"], first["published"], first["names"]) == (1, True, 2)
    (with_redis.folder / "list.txt").write_text("c2.evil.example\nnew.example\n")
    assert done(with_redis, "update", "--dry-run")["generation"] == 1
    assert done(with_redis, "update", "--feed", "sample")["generation"] == 2
    (difference,) = done(with_redis, "diff")
    assert set(difference) == DIFF_KEYS
    assert (difference["added_sample"], difference["removed_sample"]) == (["new.example"], ["both.example"])
    page = with_redis.run("feeds", "diff", "1", "2").stdout.splitlines()
    assert page == ["sample: 1 added, 1 removed", "  + new.example", "  - both.example"]
    listed = done(with_redis, "list")
    assert set(listed) == LIST_KEYS
    assert set(listed["feeds"][0]) == FEED_KEYS
    assert (listed["generation"], listed["history"]) == (2, [2, 1])
    back = done(with_redis, "rollback")
    assert set(back) == {"generation", "names", "created"}
    assert back["generation"] == 1
    assert "generation 2 of" in with_redis.run("feeds", "rollback", "--to", "2").stdout
    assert "to go back to: 1" in with_redis.run("feeds", "list").stdout


def test_nothing_yet_is_said_in_one_line(with_redis: Place) -> None:
    assert with_redis.run("feeds", "list").stdout.startswith("no generation yet")
    for args in (["diff"], ["rollback"], ["rollback", "--to", "9"], ["export"]):
        result = with_redis.run("feeds", *args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1


def test_some_feeds_failing_is_a_warning_and_all_a_failure(with_redis: Place) -> None:
    with_redis.file.write_text(with_redis.file.read_text() + SECOND)
    result = with_redis.run("feeds", "update")
    assert result.exit_code == 0
    assert "second  failed" in result.stdout
    assert result.stderr.startswith("feed second failed: ")
    assert result.stderr.count("\n") == 1
    (with_redis.folder / "list.txt").write_text("<html>\x1b[2J</html>")
    result = with_redis.run("feeds", "update")
    assert result.exit_code == 1
    assert "HTML page" in result.stderr
    report = with_redis.run("feeds", "update", "--json")
    assert report.exit_code == 1
    assert [feed["status"] for feed in json.loads(report.stdout)["feeds"]] == ["refused", "failed"]


def test_bad_lines_are_quoted_with_their_numbers(with_redis: Place) -> None:
    (with_redis.folder / "list.txt").write_text(
        "good.example\nbad..example\n\x1b]0;x\x07.example\n" + "ok.example\n" * 20
    )
    result = with_redis.run("feeds", "update")
    assert result.exit_code == 0
    assert "sample line 2, bad: " in result.stdout
    assert all(line.isprintable() for line in result.stdout.split("\n"))


def test_export_is_what_is_in_force(with_redis: Place) -> None:
    done(with_redis, "update")
    run = with_redis.run
    assert sorted(run("feeds", "export").stdout.split()) == ["both.example", "c2.evil.example"]
    assert "0.0.0.0 both.example" in run("feeds", "export", "--format", "hosts").stdout.splitlines()
    assert "*.both.example CNAME ." in run("feeds", "export", "--format", "rpz").stdout.splitlines()
    lines = [json.loads(line) for line in run("feeds", "export", "--json").stdout.splitlines()]
    assert {line["name"] for line in lines} == {"both.example", "c2.evil.example"}
    assert set(lines[0]) == {"name", "matches"}


def test_the_embedded_redis_is_started_for_a_command_alone(place: Place) -> None:
    if len(str(place.folder)) > 80:
        place.file.write_text(CONFIG.replace("[server]", f'[server]\ndata_dir = "{place.folder.parent}"'))
    assert done(place, "update")["generation"] == 1
    assert done(place, "list")["generation"] == 1


def test_the_manual_has_the_keys() -> None:
    assert documented("plughole feeds update") >= UPDATE_KEYS | REPORT_KEYS
    assert documented("plughole feeds list") >= LIST_KEYS | FEED_KEYS
    assert documented("plughole feeds diff") >= DIFF_KEYS
