"""What is peculiar to one kind of firewall each."""

from __future__ import annotations

import datetime as dt
import math
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pytest
from firewalling.appliances import FortigateStandin, MikrotikStandin, OpnsenseStandin, PanosStandin, WebhookStandin
from firewalling.bench import AwsBench, IpsetBench, WebBench
from firewalling.clouds import BEIJING, CrowdsecStandin, TencentStandin

from core.config import Firewall
from egress.enforcer import Absent, Failure, Lease, Refused, Target
from egress.firewalls import KINDS, build, crowdsec, ipset, kept, listed, mikrotik, tencent
from egress.firewalls.listed import FULL
from egress.firewalls.tencent import Tencent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from firewalling.standin import Firewall as Standin

    from egress.enforcer import Enforcer, Standing

C2, NEXT, SIX = Target("91.66.0.80"), Target("91.66.0.81"), Target("2a01:66::80")
HOUR = 3_600.0
needs_sdk = pytest.mark.skipif(find_spec("tencentcloud") is None, reason="the SDK is missing (extra tencent)")


def add(enforcer: Enforcer, *targets: Target, seconds: float = HOUR) -> tuple[Failure, ...]:
    return enforcer.apply(add=[Lease(each, seconds) for each in targets], renew=(), remove=()).failures


class Place:
    """Benches of stand-ins a test makes itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.benches: list[WebBench] = []

    def start(self, standin: Standin, **changes: Any) -> Enforcer:
        bench = WebBench(self.folder, standin)
        self.benches.append(bench)
        enforcer = bench.build(**changes)
        enforcer.prepare()
        return enforcer


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for bench in found.benches:
        bench.stop()
        assert not bench.standin.complaints


def test_every_kind_of_the_configuration_can_be_built() -> None:
    assert sorted(KINDS) == sorted(get_args(get_type_hints(Firewall)["kind"]))


# FortiGate


def test_a_feed_that_is_fetched_and_not_pushed_to_is_no_feed_of_ours(place: Place) -> None:
    with pytest.raises(Refused, match='must be of type "address" and update-method "push"'):
        place.start(FortigateStandin(update_method="feed"))


# Palo Alto


def test_more_addresses_than_a_page_are_known(place: Place) -> None:
    standin = PanosStandin()
    enforcer = place.start(standin)
    targets = [Target(f"91.{66 + at // 250}.3.{at % 250}") for at in range(1_100)]
    assert add(enforcer, *targets) == ()
    assert {each.target for each in enforcer.present()} == set(targets)
    enforcer.flush()
    assert standin.truth() == {}
    assert standin.tags["198.51.100.7"] == {"printers": 9e9}


def test_a_listing_without_end_is_refused(place: Place) -> None:
    standin = PanosStandin()
    enforcer = place.start(standin, max_entries=100)
    for at in range(1_000):
        standin.tags[f"91.66.{at // 250}.{at % 250}"] = {"plughole": time.time() + HOUR}
    with pytest.raises(Refused, match="more addresses"):
        enforcer.present()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'<response status="error" code="16"><msg><line>Unauthorized request</line></msg></response>', "our key"),
        (b'<response status="error"><msg><line>Server\nerror</line></msg></response>', "branch: Server error"),
        (b"<config/>", "not that of such a firewall"),
    ],
)
def test_what_pan_os_says_is_told(place: Place, body: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        place.start(PanosStandin(body=body))


# OPNsense


def test_versions_that_list_in_another_way_are_read(place: Place) -> None:
    standin = OpnsenseStandin(old=True)
    enforcer = place.start(standin)
    assert add(enforcer, C2, SIX) == ()
    assert {each.target for each in enforcer.present()} == {C2, SIX}


def test_an_alias_that_is_not_there_is_said(place: Place) -> None:
    standin = OpnsenseStandin(body=b"[]")
    with pytest.raises(Refused, match="there is no alias plughole"):
        place.start(standin)


# MikroTik


def test_an_entry_that_ran_out_meanwhile_is_made_anew(place: Place) -> None:
    standin = MikrotikStandin()
    enforcer = place.start(standin)
    assert add(enforcer, C2, SIX) == ()
    standin.rows.clear()
    assert enforcer.apply(add=(), renew=[Lease(C2, HOUR)], remove=[SIX]).failures == ()
    assert set(standin.truth()) == {C2}


def test_an_address_somebody_else_listed_is_a_failure_of_its_own(place: Place) -> None:
    standin = MikrotikStandin()
    enforcer = place.start(standin)
    standin.add_foreign(C2.address)
    assert [(each.target, "already have such entry" in each.reason) for each in add(enforcer, C2, NEXT)] == [(C2, True)]
    assert set(standin.truth()) == {NEXT}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59m50s", 3_590), ("1w2d3h4m5s", 788_645), ("1d00:00:10", 86_410), ("26:03:04", 93_784), ("500ms", 0.5),
     ("", math.inf), ("soon", math.inf)],
)  # fmt: skip
def test_times_as_the_router_writes_them(text: str, seconds: float) -> None:
    assert mikrotik._seconds(text) == seconds


# Webhook


def test_what_was_told_is_on_disk_and_nobody_else_reads_it(place: Place) -> None:
    standin = WebhookStandin(turned_away={NEXT.address})
    enforcer = place.start(standin)
    pair = Target(C2.address, "10.20.1.2")
    assert [(each.target, each.reason) for each in add(enforcer, C2, NEXT, pair)] == [(NEXT, "a printer of ours")]
    file = place.folder / "data" / "branch.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert set(kept.load(file)) == {C2, pair}
    again = place.benches[0].build()
    again.flush()
    assert standin.blocked == {}
    assert kept.load(file) == {}


def test_the_address_of_the_receiver_is_used_as_it_is(place: Place) -> None:
    standin = WebhookStandin()
    bench = WebBench(place.folder, standin)
    place.benches.append(bench)
    bench.build(url=f"{bench.running.url}/hooks/plughole?site=1").prepare()
    assert [(each.path, each.params) for each in standin.asked] == [("/hooks/plughole", {"site": "1"})]


def test_a_disk_that_takes_nothing_is_said(place: Place) -> None:
    enforcer = place.start(WebhookStandin())
    (place.folder / "data").write_text("a file where a folder belongs")
    with pytest.raises(Refused, match=r"branch\.json"):
        add(enforcer, C2)


# CrowdSec


def test_a_token_is_renewed_before_it_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = CrowdsecStandin()
    enforcer = place.start(standin)
    assert add(enforcer, C2) == ()
    logins = [each.path for each in standin.asked].count("/v1/watchers/login")
    assert logins == 1
    monkeypatch.setattr(crowdsec, "TOKEN_SECONDS", -1.0)
    assert add(enforcer, NEXT) == ()
    assert [each.path for each in standin.asked].count("/v1/watchers/login") == 2


def test_a_secret_of_one_line_is_too_little(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("only-the-password\n")
    keys = Firewall(name="branch", kind="crowdsec", url="http://127.0.0.1:1", user="agent", secret_file="secret")
    with pytest.raises(Refused, match="a bouncer's key"):
        build(keys, tmp_path)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h2m3.5s", 3_723.5), ("59m59.999999999s", 3_599.999999999), ("250ms", 0.25), ("-3s", 0), ("", 0), ("x", 0)],
)
def test_times_as_go_writes_them(text: str, seconds: float) -> None:
    assert crowdsec._seconds(text) == pytest.approx(seconds)


# Tencent Cloud


@needs_sdk
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Shanghai"])
def test_ends_are_told_in_the_time_of_beijing(place: Place, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        standin = TencentStandin()
        assert add(place.start(standin), C2) == ()
        wanted = dt.datetime.now(BEIJING) + dt.timedelta(seconds=HOUR)
        told = dt.datetime.strptime(standin.rules[C2.address, 1]["EndTime"] + "+0800", "%Y-%m-%d %H:%M:%S%z")
        assert abs((told - wanted).total_seconds()) < 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_forever_is_no_time() -> None:
    assert tencent._ends(tencent.FOREVER) == math.inf
    assert tencent._ends("") == math.inf
    assert tencent._beijing(0.5) == "1970-01-01 08:00:01"
    assert tencent._ends("1970-01-01 08:00:01") == 1.0


@needs_sdk
def test_no_request_can_clear_a_whole_list(place: Place) -> None:
    standin = TencentStandin()
    enforcer = place.start(standin)
    standin.add_foreign("91.66.0.90")
    assert add(enforcer, C2, NEXT) == ()
    enforcer.apply(add=(), renew=(), remove=[C2])
    enforcer.withdraw()
    told = [each for each in standin.asked if each.headers["x-tc-action"].startswith("Delete")]
    assert len(told) == 2
    assert all(each.json("DeleteAll", "ShowType", "Rules")["DeleteAll"] == 0 for each in told)
    assert {each.headers["x-tc-action"] for each in standin.asked} == {
        "CreateBlockIgnoreRuleNew", "DeleteBlockIgnoreRuleNew", "DescribeBlockIgnoreList",
    }  # fmt: skip
    assert standin.foreign() == {"91.66.0.90"}


@needs_sdk
def test_a_rule_of_somebody_else_is_not_changed(place: Place) -> None:
    standin = TencentStandin()
    enforcer = place.start(standin)
    standin.add_foreign(C2.address)
    standin.add_foreign(NEXT.address)
    standin.rules[NEXT.address, 1]["DirectionList"] = "1"
    before = {key: dict(rule) for key, rule in standin.rules.items()}
    failures = add(enforcer, C2, NEXT)  # the first is blocked outbound already, the second is not
    assert [(each.target, "somebody else" in each.reason) for each in failures] == [(NEXT, True)]
    assert standin.rules == before


@needs_sdk
def test_limits_are_told_apart(place: Place) -> None:
    standin = TencentStandin(room=2)
    enforcer = place.start(standin)
    third = Target("91.66.0.82")
    assert [(each.target, each.full) for each in add(enforcer, C2, NEXT, third)] == [(third, True)]
    standin.limited = True
    with pytest.raises(Refused, match="too many requests"):
        enforcer.present()


@needs_sdk
def test_the_clouds_own_audit_proves_a_change(place: Place) -> None:
    standin = TencentStandin()
    enforcer = place.start(standin)
    assert isinstance(enforcer, Tencent)
    assert add(enforcer, C2) == ()
    enforcer.apply(add=(), renew=(), remove=[C2])
    events = enforcer.audited(since=time.time() - 600)
    assert {(each.name, each.user, each.source) for each in events} == {
        ("CreateBlockIgnoreRuleNew", "agent", "192.0.2.9"), ("DeleteBlockIgnoreRuleNew", "agent", "192.0.2.9"),
    }  # fmt: skip


# AWS


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[AwsBench]:
    if find_spec("boto3") is None or find_spec("moto") is None:
        pytest.skip("boto3 or moto is missing (extra aws; moto)")
    found = AwsBench(tmp_path)
    yield found
    found.stop()


def test_without_a_list_for_a_family_its_addresses_fail(aws: AwsBench) -> None:
    enforcer = aws.build(list=f"eu-central-1/{aws.lists['IPv4']}")
    enforcer.prepare()
    assert [(each.target, each.reason) for each in add(enforcer, C2, SIX)] == [
        (SIX, "there is no prefix list for IPv6")
    ]
    assert set(aws.truth()) == {C2}


def test_lists_that_are_gone_or_of_one_family_are_said(aws: AwsBench) -> None:
    with pytest.raises(Absent, match="aws branch: "):
        aws.build(list="eu-central-1/pl-00000000000000000").prepare()
    made = aws.ec2.create_managed_prefix_list(PrefixListName="x", MaxEntries=5, AddressFamily="IPv4")
    second = made["PrefixList"]
    with pytest.raises(Refused, match="of one family"):
        aws.build(list=f"eu-central-1/{aws.lists['IPv4']},{second['PrefixListId']}").prepare()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("RequestLimitExceeded", Refused, "too many requests"), ("AuthFailure", Refused, "not accept our key"),
        ("InvalidPrefixListID.NotFound", Absent, "NotFound"), ("InternalError", Refused, "InternalError"),
    ],
)  # fmt: skip
def test_what_ec2_says_is_told_in_our_words(aws: AwsBench, code: str, kind: type[Refused], words: str) -> None:
    from botocore.stub import Stubber

    enforcer: Any = aws.build()
    enforcer.prepare()
    with Stubber(enforcer._ec2) as stub:
        stub.add_client_error("describe_managed_prefix_lists", code, f"you said {aws.secret}")
        with pytest.raises(kind, match=words) as caught:
            enforcer.present()
    assert type(caught.value) is kind
    assert aws.secret not in str(caught.value)


def test_pages_are_read_and_a_list_that_is_being_changed_is_waited_for(
    aws: AwsBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.stub import Stubber

    monkeypatch.setattr("egress.firewalls.aws.POLL", 0.0)
    enforcer: Any = aws.build(list="eu-central-1/pl-1")
    known = {"PrefixListId": "pl-1", "AddressFamily": "IPv4", "Version": 3}
    asked = {"PrefixListId": "pl-1", "MaxResults": 100}
    with Stubber(enforcer._client()) as stub:
        for state in ("modify-in-progress", "modify-complete"):
            stub.add_response("describe_managed_prefix_lists", {"PrefixLists": [{**known, "State": state}]})
        for token, address in ((None, C2.address), ("more", NEXT.address)):
            page: dict[str, Any] = {"Entries": [{"Cidr": f"{address}/32", "Description": "plughole"}]}
            page |= {} if token else {"NextToken": "more"}
            stub.add_response("get_managed_prefix_list_entries", page, asked | ({"NextToken": token} if token else {}))
        assert [each.target for each in enforcer.present()] == [C2, NEXT]
        stub.assert_no_pending_responses()
        monkeypatch.setattr("egress.firewalls.aws.SETTLES", -1.0)
        stub.add_response("describe_managed_prefix_lists", {"PrefixLists": [{**known, "State": "modify-in-progress"}]})
        with pytest.raises(Refused, match="a change takes more than"):
            enforcer.present()


def test_a_full_prefix_list_takes_what_it_can(aws: AwsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcer: Any = aws.build()
    enforcer.prepare()
    honest = enforcer._call

    def call(action: str, **fields: Any) -> Any:
        if action == "modify_managed_prefix_list" and len(aws.truth()) + len(fields.get("AddEntries", ())) > 2:
            raise enforcer._fault({"Code": "PrefixListMaxEntriesExceeded", "Message": "full"})
        return honest(action, **fields)

    monkeypatch.setattr(enforcer, "_call", call)
    failures = add(enforcer, C2, NEXT, Target("91.66.0.82"))
    assert [(each.target.address, each.full) for each in failures] == [("91.66.0.82", True)]
    assert set(aws.truth()) == {C2, NEXT}


def test_a_cloud_that_is_down_is_told_in_bounded_time(tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="boto3 is missing (extra aws)")
    (tmp_path / "secret").write_text("s3cr3t\n")
    keys = Firewall(name="branch", kind="aws", url="http://127.0.0.1:9", list="eu-central-1/pl-1", user="AKIA",
                    secret_file="secret")  # fmt: skip
    enforcer = build(keys, tmp_path)
    started = time.monotonic()
    with pytest.raises(Refused, match="aws branch: ") as caught:
        enforcer.prepare()
    assert time.monotonic() - started < 20
    assert "s3cr3t" not in str(caught.value)
    enforcer.close()


@pytest.mark.parametrize(("kind", "module"), [("tencent", "tencentcloud.common"), ("aws", "boto3")])
def test_a_missing_sdk_is_said(tmp_path: Path, kind: Any, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [*sys.modules]:
        if name == module or name.startswith(f"{module}."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "secret").write_text("s3cr3t\n")
    keys = Firewall(name="branch", kind=kind, list="pl-1", user="AKID", secret_file="secret")
    with pytest.raises(Refused, match=rf'pip install "plughole\[{kind}\]"'):
        build(keys, tmp_path).prepare()


# ipset


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IpsetBench]:
    if reason := IpsetBench.reason_to_skip():
        pytest.skip(reason)
    found = IpsetBench(tmp_path, monkeypatch)
    yield found
    found.stop()


def test_a_set_the_kernel_finds_full_is_told(sets: IpsetBench) -> None:
    for end, family in (("4", "inet"), ("6", "inet6")):
        sets.run("create", f"plughole{end}", "hash:ip", "family", family, "timeout", "0", "counters", "maxelem", "2")
    enforcer = sets.build(max_entries=2)
    enforcer.prepare()
    sets.run("add", "plughole4", "91.66.0.98")
    sets.run("add", "plughole4", "91.66.0.99")
    assert isinstance(enforcer, ipset.Ipset)
    enforcer._room = 10  # as if the set were larger
    failures = add(enforcer, SIX, C2, Target("2a01:66::81"))
    assert failures == (Failure(C2, FULL, full=True),)
    assert {SIX, Target("2a01:66::81")} <= set(sets.truth())


def test_an_entry_without_end_has_an_infinite_one(sets: IpsetBench) -> None:
    enforcer = sets.build()
    enforcer.prepare()
    sets.run("add", "plughole4", C2.address, "packets", "7", "bytes", "700")
    standing: list[Standing] = enforcer.present()
    assert [(each.target, each.seconds, each.packets, each.octets) for each in standing] == [(C2, math.inf, 7, 700)]
    assert enforcer.apply(add=(), renew=(), remove=[C2]).failures == ()
    assert sets.truth() == {}


def test_sets_that_are_gone_are_noticed(sets: IpsetBench) -> None:
    enforcer = sets.build()
    enforcer.prepare()
    assert add(enforcer, C2) == ()
    sets.run("destroy", "plughole4")
    with pytest.raises(Absent, match="does not exist"):
        enforcer.present()
    with pytest.raises(Absent, match="does not exist"):
        enforcer.apply(add=[Lease(NEXT, HOUR)], renew=(), remove=())
    enforcer.prepare()
    assert add(enforcer, C2) == ()
    assert set(sets.truth()) == {C2}


def test_other_sets_stay(sets: IpsetBench) -> None:
    sets.run("create", "office", "hash:ip")
    sets.run("add", "office", "10.1.1.1")
    enforcer = sets.build()
    enforcer.prepare()
    assert add(enforcer, C2) == ()
    enforcer.withdraw()
    assert sets.run("list", "-n").split() == ["office"]
    assert "10.1.1.1" in sets.run("save", "office")


def test_pairs_as_the_program_writes_them() -> None:
    lines = {
        "add plughole4p 10.20.1.2,91.66.0.80 timeout 59 packets 3 bytes 180": (Target("91.66.0.80", "10.20.1.2"), 59.0),
        "add plughole6p fd20::2,2a01:66::80/128 timeout 7": (Target("2a01:66::80", "fd20::2"), 7.0),
    }
    for line, wanted in lines.items():
        found = ipset._ENTRY.match(line)
        assert found
        standing = ipset._standing(*found.groups()[1:])
        assert (standing.target, standing.seconds) == wanted


def test_a_program_that_is_missing_or_stuck_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ipset.Ipset(Firewall(name="branch", kind="ipset"), program=str(tmp_path / "ipset"))
    with pytest.raises(Refused, match="No such file"):
        missing.prepare()
    (tmp_path / "ipset").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "ipset").chmod(0o755)
    monkeypatch.setattr(ipset, "PATIENCE", 0.2)
    stuck = ipset.Ipset(Firewall(name="branch", kind="ipset"), program=str(tmp_path / "ipset"))
    with pytest.raises(Refused, match=r"takes more than 0\.2 s"):
        stuck.present()


# all


def test_what_there_is_no_time_for_comes_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = OpnsenseStandin()
    enforcer = place.start(standin)
    monkeypatch.setattr(listed, "APPLY_SECONDS", -1.0)
    failures: Sequence[Failure] = add(enforcer, C2, NEXT)
    assert [each.reason for each in failures] == ["no time was left"] * 2
    monkeypatch.undo()
    assert add(enforcer, C2, NEXT) == ()
    assert set(standin.truth()) == {C2, NEXT}


@pytest.mark.parametrize("standin", [FortigateStandin, OpnsenseStandin, PanosStandin])
def test_an_outage_does_not_make_it_forget_when_blocks_end(place: Place, standin: type[Standin]) -> None:
    firewall = standin()
    enforcer = place.start(firewall)
    assert add(enforcer, C2) == ()
    firewall.status = 503
    for do in (enforcer.present, lambda: enforcer.apply(add=[Lease(NEXT, HOUR)], renew=(), remove=())):
        with pytest.raises(Refused, match="503"):
            do()
    firewall.status = 0
    assert [(each.target, HOUR - 60 < each.seconds <= HOUR) for each in enforcer.present()] == [(C2, True)]


def test_to_flush_what_stays_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = OpnsenseStandin()
    enforcer = place.start(standin)
    assert add(enforcer, C2) == ()
    monkeypatch.setattr(listed, "APPLY_SECONDS", -1.0)
    with pytest.raises(Refused, match=r"1 blocks stay; the first, 91\.66\.0\.80: no time was left"):
        enforcer.flush()
