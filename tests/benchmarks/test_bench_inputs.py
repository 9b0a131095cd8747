"""The benchmark's own parts: inputs are repeatable, /proc and dnsperf are read right, streams judge right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import inputs, load, plughole, probe, proc, report, server, stream
from benchmarks.peers import PEERS, Peer, Site

DNSPERF = """\
Statistics:

  Queries sent:         1200
  Queries completed:    1188 (99.00%)
  Queries lost:         12 (1.00%)

  Response codes:       NOERROR 1000 (84.18%), SERVFAIL 188 (15.82%)
  Average packet size:  request 40, response 56
  Run time (s):         1.000100
  Queries per second:   1187.881212

  Average Latency (s):  0.000321 (min 0.000032, max 0.002618)
  Latency StdDev (s):   0.000100
"""


def test_a_seed_gives_the_same_names_every_time_and_another_seed_others() -> None:
    names = inputs.domain_names(2_000, seed=7)
    assert names == inputs.domain_names(2_000, seed=7)
    assert len(set(names)) == 2_000
    assert set(names) != set(inputs.domain_names(2_000, seed=8))


def test_every_name_fits_the_rules_of_host_names() -> None:
    for name in inputs.domain_names(5_000, seed=1):
        labels = name.split(".")
        assert len(labels) >= 2
        assert len(name) <= 253
        assert all(0 < len(label) <= 63 and not label.startswith("-") and not label.endswith("-") for label in labels)
        assert all(c.isascii() and (c.isalnum() or c == "-") and not c.isupper() for c in "".join(labels))


def test_no_hit_name_lies_under_a_listed_one() -> None:
    listed = inputs.domain_names(5_000, seed=3)
    hits = inputs.hit_names(listed, seed=3, count=2_000)
    assert len(set(hits)) == 2_000
    assert all(set(listed).isdisjoint(inputs.parents(hit)) for hit in hits[:200])
    covered = inputs.hit_names(hits, seed=3, count=2_000)  # the same names again, now all of them listed
    assert set(covered).isdisjoint(hits)


def test_parents_are_whole_labels() -> None:
    assert list(inputs.parents("a.bc.de")) == ["a.bc.de", "bc.de", "de"]


def test_fresh_labels_never_repeat_and_are_valid() -> None:
    fresh = inputs.FreshLabels(1)
    labels = [fresh.take() for _ in range(100_000)]
    assert len(set(labels)) == len(labels)
    assert {len(label) for label in labels} == {12}


def test_popularity_is_zipf() -> None:
    names = [f"n{rank}" for rank in range(1, 101)]
    counts = Counter(inputs.popularity(names, seed=1, draws=100_000))
    assert counts["n1"] / counts["n2"] == pytest.approx(2, rel=0.1)
    assert counts["n1"] / counts["n10"] == pytest.approx(10, rel=0.2)


def test_miss_and_blocked_names_are_under_the_zone_and_under_the_list() -> None:
    fresh, listed = inputs.FreshLabels(2), ["one.com", "two.net"]
    assert all(name.endswith("." + inputs.MISS_ZONE) for name in inputs.miss_names(fresh, 10))
    blocked = list(inputs.blocked_names(fresh, listed, 100, seed=1))
    assert {name.partition(".")[2] for name in blocked} == set(listed)
    assert len(set(blocked)) == 100


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("plain", "a.com\n"),
        ("unbound", 'local-zone: "a.com" always_nxdomain\n'),
        ("dnsmasq", "local=/a.com/\n"),
        ("rpz", "a.com CNAME .\n*.a.com CNAME .\n"),
    ],
)
def test_each_form_covers_the_name_and_what_is_below(tmp_path: Path, form: str, expected: str) -> None:
    path = inputs.write_list(tmp_path / form, ["a.com"], form=form)
    assert path.read_text().endswith(expected)


def test_every_peer_reads_a_form_there_is_and_its_templates_are_complete(tmp_path: Path) -> None:
    for peer in PEERS:
        assert peer.list_form in inputs.LIST_FORMS
        folder = tmp_path / peer.name
        folder.mkdir()
        command = peer.command(Site(folder, 5301, 5302, tmp_path))
        written = "".join(path.read_text() for path in folder.iterdir())
        assert "5301" in written
        assert "5302" in written
        assert "$" not in written + "".join(command)


def test_a_peer_that_is_not_installed_names_its_package() -> None:
    peer = Peer(name="x", package="some-package", program="no-such-server", arguments=(), config="")
    assert peer.missing() == "some-package"


def test_dnsperf_is_read() -> None:
    outcome = load.parse(DNSPERF)
    assert (outcome.sent, outcome.answered, outcome.lost) == (1200, 1188, 12)
    assert outcome.qps == pytest.approx(1187.881212)
    assert (outcome.latency, outcome.latency_max) == (0.000321, 0.002618)
    assert outcome.rcodes == {"NOERROR": 1000, "SERVFAIL": 188}
    assert outcome.unexpected(frozenset({"NOERROR"})) == 188
    assert outcome.lost_share == pytest.approx(0.01)


def test_output_that_is_not_dnsperfs_is_refused() -> None:
    with pytest.raises(load.LoadError, match="Queries sent"):
        load.parse("Segmentation fault")


def test_a_stat_line_whose_name_holds_brackets_and_blanks() -> None:
    ticks = proc.TICKS_PER_SECOND
    line = f"42 (a) b (c) S 7 40 41 0 -1 0 0 0 0 0 {ticks} {2 * ticks} {3 * ticks} {4 * ticks} 20 0 1"
    assert proc.parse_stat(line) == proc.Process(42, "a) b (c", parent=7, session=41, cpu=10.0)


def test_a_rollup_gives_bytes_and_an_empty_one_gives_none() -> None:
    assert proc.parse_rollup("Rss:  9 kB\nPss:       12 kB\nPss_Dirty: 3 kB\n") == 12 * 1024
    assert proc.parse_rollup("") == 0


def test_the_group_holds_a_grandchild_in_another_session_and_counts_its_cpu() -> None:
    inner = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], start_new_session=True)"
    with subprocess.Popen(
        [sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        members = proc.pids(process.pid)
        alive = proc.cpu_seconds(process.pid)
        memory = proc.memory(process.pid)
        process.stdin.write(b"\n")
        process.stdin.close()
        process.wait()
    assert len(members) == 2
    assert alive >= 0.3
    assert memory > 1_000_000
    assert not proc.alive(members)


def test_memory_leaves_out_what_it_is_told_to() -> None:
    own = next(process for process in proc.group(os.getpid()) if process.pid == os.getpid())
    everything = proc.memory(os.getpid())
    assert proc.memory(os.getpid(), without=frozenset({own.name})) < everything


def test_stop_ends_a_child_that_left_the_session_and_ignores_the_polite_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_KILL_PATIENCE", 0.5)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    parent = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True);"
        "time.sleep(60)"
    )
    with server.running([sys.executable, "-c", parent], folder=tmp_path, core=None) as started:
        assert probe.wait_until(lambda: "1" in started.log.read_text(), within=60)
        members = proc.pids(started.pid)
        assert len(members) == 2
    assert probe.wait_until(lambda: not proc.alive(members), within=60)
    assert started.process.returncode == -signal.SIGTERM


def test_status_counters_are_flattened_without_truth_values() -> None:
    status = {"journal": {"rows": 5, "late": False}, "workers": [{"dropped": 2}, {"dropped": 3}], "name": "x"}
    assert dict(plughole.numbers(status)) == {"journal.rows": 5, "workers.0.dropped": 2, "workers.1.dropped": 3}


def test_the_configuration_bench_writes_is_valid_toml_with_the_contracts_keys(tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    for contestant in (plughole.PLUGHOLE, plughole.PLUGHOLE_LIBUNBOUND):
        folder = tmp_path / contestant.name.replace(" ", "-")
        folder.mkdir()
        contestant.command(Site(folder, 5301, 5302, tmp_path))
        config = tomllib.loads((folder / plughole.CONFIG_FILE).read_text())
        assert config["server"]["listen"] == ["127.0.0.1:5301"]
        assert config["upstream"]["servers"] == ["127.0.0.1@5302"]
        assert config["upstream"]["dnssec"] is contestant.dnssec
        assert config["journal"]["queries"] == "all"


def _reply(query: bytes, *, rcode: int = 0, passed: bool = False) -> bytes:
    answer = bytes(int(part) for part in probe.AUTHORITY_ADDRESS.split(".")) if passed else b""
    return query[:2] + bytes([0x81, 0x80 | rcode]) + query[4:] + answer


def _stream() -> stream.Stream:
    return stream.Stream(stream.Script(1, rate=100, core=0, in_both=["both.com"], only_new=["new.com"]), started=0.0)


def test_a_stream_keeps_its_pace_and_counts_what_never_came_back() -> None:
    running = _stream()
    assert running.due(0.5) == 50
    for _ in range(3):
        running.next(0.5)
    assert running.due(0.5) == 47
    running.expire(0.5 + stream.LOST_AFTER)
    assert (running.tally.lost, running.pending) == (3, 0)


def test_a_stream_tells_holes_from_the_old_list() -> None:
    running = _stream()
    new, both = running.next(0.0), running.next(0.0)
    running.take(_reply(new, passed=True), 0.1)  # the old list still rules
    running.take(_reply(both, passed=True), 0.2)  # on both lists: a hole
    assert (running.tally.unfiltered, running.tally.outdated, running.tally.live) == (1, 0, None)
    twenty = [running.next(1.0) for _ in range(20)]  # one in twenty asks for a new name
    running.take(_reply(twenty[18], rcode=3), 1.1)
    running.take(_reply(twenty[19], rcode=3), 1.2)
    assert running.tally.live == 1.1
    later = [running.next(9.0) for _ in range(20)]
    running.take(_reply(later[18], passed=True), 9.1)  # the new list has been live for long
    running.take(_reply(later[0], rcode=2), 9.1)
    running.take(b"junk", 9.1)
    assert (running.tally.outdated, running.tally.failed, running.tally.unfiltered) == (1, 1, 1)
    assert running.tally.longest_gap == pytest.approx(7.9)


def test_the_report_takes_medians_and_compares_with_the_best_peer() -> None:
    outcome = load.parse(DNSPERF)

    def visit(name: str, cpu: float) -> report.Visit:
        sample = report.Sample(
            cpu, outcome, unexpected=0, counters={"journal.rows": 1188.0} if name == "plughole" else {}
        )
        return report.Visit(name, start_seconds=1.0, memory=10**7, samples={"hit": sample})

    visits = [visit("plughole", 6.0), visit("plughole", 9.0), visit("plughole", 7.0), visit("unbound", 8.0)]
    visits += [visit("dnsdist", 5.0), report.Visit("named", failure="it does not start")]
    figures = report.Figures(visits, ["plughole", "unbound", "dnsdist", "named"], {"kresd": "knot-resolver"}, {})
    assert figures.cpu("plughole", "hit") == 7.0
    assert figures.best_peer("hit") == 5.0
    plan = {"names": 1, "seconds": 1, "repeat": 3, "latency": 3, "outstanding": 100, "seed": 1}
    page = report.markdown(figures, machine={"cores": "2"}, command="bench", plan=plan, at=0.0, latency="None.")
    assert "| plughole | 7.0 (6.0-9.0) | - | - |" in page
    assert "| plughole | 1.40 / 0.88 | - / - | - / - |" in page
    assert "- named: it does not start" in page
    assert "- kresd: skipped, missing: knot-resolver" in page
    assert "- plughole, round 1, hit: 1,200 sent; journal.rows +1,188" in page
    assert "1.40" in report.console_table(figures)
