"""What the leak meter's evaluation counts: payload before the block, the cache in between, alerts by pair and day."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from benchmarks.evaluation import attackers, leak, leak_benign, office
from benchmarks.evaluation.captures import Query, Run
from benchmarks.evaluation.leak_line import Cache, Line
from benchmarks.evaluation.office import DAY, LEARNING_DAYS, Event, Office
from core.finding import Confidence, Finding
from core.names import MAX_NAME, Name, from_text, labels, to_text
from detectors.sight import domain_of

DOMAIN = from_text("example.net")
CLIENT = bytes((10, 0, 0, 1))


class StandIn:
    """Blocks a pair after so many octets of names, and forgets nothing."""

    def __init__(self, octets: int) -> None:
        self.left: Counter[bytes] = Counter()
        self.octets = octets
        self.ticks: list[float] = []
        self.replies: list[tuple[int, tuple[bytes, ...]]] = []
        self.confirmed: list[tuple[bytes, Name]] = []
        self.waiting: list[Finding] = []

    def check(self, now: float, client: bytes, domain: Name, qname: Name, qtype: int) -> Finding | None:
        key = client + domain
        self.left[key] += len(qname) - len(domain)
        if self.left[key] <= self.octets or (client, domain) in self.confirmed:
            return None
        finding = Finding("leak", ".".join(map(str, client)), to_text(domain), 1.0, Confidence.HIGH, "too much")
        self.waiting.append(finding)
        return finding

    def answered(
        self, now: float, client: bytes, domain: Name, qtype: int, rcode: int, addresses: tuple[bytes, ...]
    ) -> None:
        self.replies.append((rcode, addresses))

    def tick(self, now: float) -> None:
        self.ticks.append(now)

    def take_alerts(self) -> list[Finding]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def review(self, now: float) -> list[Finding]:
        return [
            Finding("leak", "10.0.0.1", "example.net", 1.0, Confidence.LOW, "much"),
        ]

    def confirm(self, client: bytes, domain: Name) -> None:
        self.confirmed.append((client, domain))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven octets of a name a pair: two labels of four and five letters."""

    def new(*, started: float) -> Line:
        return Line(StandIn(11))

    monkeypatch.setattr(leak, "new_line", new)
    monkeypatch.setattr(leak_benign, "new_line", new)


def query(sub: str, at: float = 0.0, payload: float = 4.0) -> Query:
    return Query(at, from_text(f"{sub}.example.net"), DOMAIN, 16, payload)


def run_of(*queries: Query, tool: str = "newtool") -> Run:
    return Run(tool=tool, source="made", queries=queries)


@pytest.mark.usefixtures("stand_in")
def test_what_got_out_is_the_payload_before_the_first_block() -> None:
    run = run_of(query("aaaa"), query("bbbbb"), query("cccc"), query("dddd"))
    assert leak.play(run, run.queries) == leak.Outcome(run, 8.0, 2, stopped=True, warned=False)


@pytest.mark.usefixtures("stand_in")
def test_a_run_nobody_stops_counts_whole() -> None:
    run = run_of(query("aaaa"), query("bbbb"))
    assert leak.play(run, run.queries) == leak.Outcome(run, 8.0, 2, stopped=False, warned=False)


@pytest.mark.usefixtures("stand_in")
def test_a_question_asked_again_within_a_minute_is_neither_metered_nor_carried() -> None:
    run = run_of(query("aaaa", 0), query("aaaa", 59), query("aaaa", 61), query("bbbbb", 62))
    assert leak.play(run, run.queries)[1:] == (8.0, 2, True, False)


def test_the_cache_keeps_a_minute_and_no_more() -> None:
    cache = Cache()
    for at in range(0, 300, 20):
        cache.put(float(at), DOMAIN, at)
    assert cache.holds(300.0, DOMAIN, 260)
    assert not cache.holds(300.0, DOMAIN, 240)
    assert not cache.holds(300.0, DOMAIN, 1)
    assert len(cache._young) + len(cache._old) <= 7


def test_a_line_ticks_once_a_minute_and_tells_only_what_was_sent() -> None:
    meter = StandIn(11)
    line = Line(meter)
    for at in (0.0, 30.0, 59.0, 60.0, 200.0):
        line.ask(at, CLIENT, DOMAIN, from_text("aaaa.example.net"), 1, rcode=3 if at else 0)
    assert meter.ticks == [0.0, 60.0, 200.0]
    assert [rcode for rcode, _ in meter.replies] == [0, 3]
    assert meter.replies[0][1]


def test_pacing_keeps_order_content_and_the_mean_within_the_jitter() -> None:
    queries = [query(f"n{at}") for at in range(400)]
    paced = list(leak.spaced(queries, 60.0, random.Random(1)))
    gaps = [after.at - before.at for before, after in pairwise(paced)]
    assert [one.qname for one in paced] == [one.qname for one in queries]
    assert 30.0 <= min(gaps) < 35.0
    assert 85.0 < max(gaps) <= 90.0
    assert sum(gaps) / len(gaps) == pytest.approx(60.0, rel=0.05)


def test_one_with_time_asks_for_a_name_once() -> None:
    queries = [query("a"), query("b"), query("a", payload=0.0)]
    assert [labels(one.qname)[0] for one in leak.fresh(queries)] == [b"a", b"b"]


@pytest.mark.usefixtures("stand_in")
def test_a_split_run_counts_what_all_domains_let_out() -> None:
    run = run_of(*(query(f"n{at:03}") for at in range(100)))
    assert leak._split_sum(run, 5, 1.0, most=100) == 5 * 2 * 4.0
    assert leak._split_sum(run, 10, 1.0, most=100) == 10 * 2 * 4.0


@pytest.mark.usefixtures("stand_in")
def test_bots_count_together() -> None:
    assert leak._bots_sum(10, 3600.0, 1) == 0.0  # one name of 26 characters is too much for the stand-in


def test_every_sender_carries_what_it_was_given_in_names_that_exist() -> None:
    words = [f"word{at}" for at in range(attackers.WORDS)]
    tools = attackers.tools(random.Random(1))
    hidden = attackers.encodings(random.Random(1), words)
    narrow = attackers.narrow(random.Random(1))
    assert {run.tool for run in tools} >= {"DNSExfiltrator", "ozymandns", "tuns", "dnscapy", "Pupy", "SUNBURST"}
    assert len(hidden) == 10
    for run, octets in [(run, attackers.TRANSFER) for run in tools] + [
        (run, attackers.SECRET) for run in hidden + narrow
    ]:
        assert run.synthetic
        assert octets <= run.payload < octets + 256, run.tool
        assert {domain_of(one.qname) for one in run.queries} == {run.queries[0].domain}, run.tool
        assert max(len(one.qname) for one in run.queries) <= MAX_NAME
        for one in run.queries:
            below = sum(len(part) for part in labels(one.qname)) - sum(len(part) for part in labels(one.domain))
            assert run in narrow or one.payload <= below, run.tool  # no name carries more than its octets


def test_the_same_seed_sends_the_same() -> None:
    assert attackers.tools(random.Random(3)) == attackers.tools(random.Random(3))
    assert attackers.tools(random.Random(3)) != attackers.tools(random.Random(4))


def test_a_moved_question_keeps_what_it_carries() -> None:
    moved = attackers.moved(query("ab.cd"), from_text("other.org"), at=5.0)
    assert moved == Query(5.0, from_text("ab.cd.other.org"), from_text("other.org"), 16, 4.0)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a few names of each kind."""
    benign = tmp_path / "benign"
    write(benign / "cloudflare_top100k_2026.txt.gz", *(f"site{at}.com" for at in range(500)))
    write(benign / "isp_subdomains_train.csv.gz", "text,label", *(f"host{chr(97 + at)}.a,0" for at in range(26)))
    write(
        tmp_path / "traps" / "names.csv.gz",
        "service,name,source,suffix_stripped",
        "eset_livegrid,ae64vzr5s7fepmb7ztjos6xveebqeaqbaeaq.a.e,isp,1",
        "mcafee_gti,c-0.19-a3000089.32uw6zsqdjlf2aq3vtc7ugcpkb.avqs,isp,1",
        "youtube_r_sn,r5---sn-5hnekn7s,isp,1",
        "whatsapp,e1.whatsapp.net,list,0",
    )
    return tmp_path


def test_an_office_lives_in_order_and_the_same_again(data: Path) -> None:
    days = [list(Office(data, clients=20, seed=5).day(0)) for _ in range(2)]
    assert days[0] == days[1]
    assert len(days[0]) > 5_000
    assert all(before.at <= after.at for before, after in pairwise(days[0]))
    assert max(event.at for event in days[0]) < DAY


def test_every_name_of_the_office_belongs_where_it_says(data: Path) -> None:
    events = list(Office(data, clients=20, seed=5).day(office.ROLLED_OUT))
    seen = {event.service for event in events}
    assert seen >= {"ESET", "McAfee GTI", "Spamhaus", "PTR of IPv6", "SPF macros", "cymru", "whatsapp", office.ROLL_OUT}
    for event in {event.service: event for event in events}.values():
        assert event.domain == domain_of(event.qname), event.service
        assert from_text(to_text(event.qname)) == event.qname


def test_what_is_rolled_out_later_is_not_there_before(data: Path) -> None:
    place = Office(data, clients=20, seed=5)
    assert office.ROLL_OUT not in {event.service for event in place.day(0)}


def test_names_of_scanners_keep_what_never_varies(data: Path) -> None:
    found = {to_text(one.qname) for one in Office(data, clients=20).day(0) if one.service == "ESET"}
    assert len(found) > 300
    assert {(name[:2], name[25:]) for name in found} == {("ae", "ebqeaqbaeaq.a.e.e5.sk")}


@pytest.mark.usefixtures("stand_in")
def test_alerts_are_counted_by_pair_and_day_after_learning_and_the_review_helps() -> None:
    class Scene:
        clients = 2
        allow_list = frozenset({"example.net"})

        def day(self, number: int) -> list[Event]:
            name = from_text(f"n{number}.example.net")
            at = number * DAY
            return [
                Event(at + 1, CLIENT, "scanner", from_text(f"long{number}.example.net"), DOMAIN, 1, 0, ()),
                Event(at + 2, CLIENT, "scanner", name, DOMAIN, 1, 0, ()),
            ]

    scene = cast(Office, Scene())  # all it is asked for
    told, reviewed, questions, pairs = leak_benign._live(scene, 2)
    assert {said.day for said in told.blocks} == {LEARNING_DAYS, LEARNING_DAYS + 1}
    assert len(told.blocks) == 2
    assert not reviewed.blocks
    assert questions == {"scanner": 4}
    assert pairs == 1
    rows = {(row.what, row.of): row for row in leak_benign._office_rows(scene, 2, bars=True)}
    before = rows["office, alerts before the review", "no allow-list"]
    assert before.value == 2 / (2 * 2 / 1000)
    assert not before.holds
    assert rows["office, alerts before the review", "with the operator's allow-list"].value == 0
    assert rows["office, blocks after the review", "no allow-list"].holds


@pytest.mark.usefixtures("stand_in")
def test_a_log_counts_pairs_the_meter_spoke_of(tmp_path: Path) -> None:
    names = ("aaaa", "bbbbb", "cccc", "dddd")
    lines = [f"one.log.gz,{at},10.0.0.1,10.0.0.2,udp,{name}.example.net,A,NOERROR," for at, name in enumerate(names)]
    lines.append("one.log.gz,9,10.0.0.3,10.0.0.2,udp,a.example.org,A,NXDOMAIN,")
    write(tmp_path / "benign" / "zeek_some.csv.gz", "file,ts,src,dst,proto,qname,qtype,rcode,answers", *lines)
    zeek = ["#fields\tts\tid.orig_h\tquery\tqtype_name\trcode_name", "3.5\t10.0.0.9\ta.example.org\tAAAA\tNXDOMAIN"]
    write(tmp_path / "captures" / "zeek" / "one.log.gz", *zeek)
    write(tmp_path / "captures" / "zeek" / "two__dns.log.gz", *zeek)
    logs = leak_benign._logs(tmp_path)
    assert {log: len(events) for log, events in logs.items()} == {"one.log.gz": 5, "two__dns.log.gz": 1}
    assert logs["two__dns.log.gz"][0].rcode == 3
    assert [row.value for row in leak_benign._log_rows("one", logs["one.log.gz"], learn=True)] == [0, 0]
    alerts, blocks = leak_benign._log_rows("one", logs["one.log.gz"])
    assert (alerts.value, alerts.n, alerts.holds) == (1, 2, False)
    assert blocks.value == 1
