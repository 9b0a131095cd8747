"""The meter: what passes before the block, what evidence is worth, and what is remembered."""

from __future__ import annotations

import random
from math import log2

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadName
from core.finding import Confidence, Finding
from core.names import Name, from_text
from detectors.leak import LeakMeter, LeakSettings
from detectors.leak_accounts import DAY, HOUR_SHARE
from detectors.leak_crude import CARRIER_FACTOR, SEED
from detectors.sight import domain_of

START = 1_700_000_000.0
LEARNED = START + 8 * DAY
ANN, BOB, EVE = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02", bytes(range(16))
A, MX, TXT, NULL, PTR = 1, 15, 16, 10, 12
BUDGET_HOUR = LeakSettings().budget * HOUR_SHARE  # octets
FIRST_TIER = SEED / 8  # octets a sender may gain where the first tier's price by length is below what a name carries


def meter(**changes: object) -> LeakMeter:
    return LeakMeter(msgspec.convert(changes, LeakSettings), started=START)


def ask(leak: LeakMeter, now: float, name: str | Name, client: bytes = ANN, qtype: int = A) -> Finding | None:
    qname = from_text(name) if isinstance(name, str) else name
    return leak.check(now, client, domain_of(qname), qname, qtype)


def send(
    leak: LeakMeter, now: float, domain: str, *, client: bytes = ANN, gap: float = 0.1, most: int = 500, seed: int = 1
) -> tuple[int, Finding | None]:
    """Return how many octets passed in names of 16 random ones, and what stopped them."""
    rng = random.Random(f"{seed}{domain}{client!r}")
    for number in range(most):
        finding = ask(leak, now + number * gap, f"{rng.randbytes(16).hex()}.{domain}", client)
        if finding is not None:
            return 16 * number, finding
    return 16 * most, None


def service(leak: LeakMeter, now: float, domain: str, clients: int, octets: int, seed: int) -> list[Finding]:
    """Return what is said when so many clients send that much in a day of office hours."""
    rng = random.Random(seed)
    events = [
        (now + rng.uniform(0, DAY / 3), bytes((10, 1, 0, client)), f"{rng.randbytes(16).hex()}.{domain}")
        for client in range(clients)
        for _ in range(octets // 16)
    ]
    found = [ask(leak, at, name, client) for at, client, name in sorted(events)]
    return [finding for finding in found if finding is not None]


def test_a_tunnel_is_stopped_before_the_budget_and_stays_stopped() -> None:
    leak = meter()
    passed, finding = send(leak, LEARNED, "tunnel.net")
    assert finding is not None
    assert 64 < passed <= BUDGET_HOUR
    assert finding.confidence is Confidence.HIGH
    assert (finding.detector, finding.client, finding.domain) == ("leak", "10.0.0.1", "tunnel.net")
    assert "tunnel.net" in finding.reason
    assert {one.name for one in finding.evidence} >= {"bytes_hour", "bytes_day", "clients"}
    assert ask(leak, LEARNED + 5 * DAY, "www.tunnel.net") is finding  # the very same, whatever the name
    assert ask(leak, LEARNED + 5 * DAY, "www.tunnel.net", BOB) is None
    assert ask(leak, LEARNED + 5 * DAY, "www.other.net") is None
    assert leak.counters()["blocked"] == 2


def test_what_is_blocked_is_not_charged() -> None:
    leak = meter()
    _, finding = send(leak, LEARNED, "tunnel.net")
    (shown,) = leak.review(LEARNED + 60)
    for number in range(50):
        assert ask(leak, LEARNED + 60, f"{number:032x}.tunnel.net") is finding
    (again,) = leak.review(LEARNED + 60)
    assert again == shown
    assert again.blocked


def test_the_pair_is_released_after_the_latch_or_by_hand() -> None:
    leak = meter(latch_days=10.0)
    send(leak, LEARNED, "tunnel.net")
    assert ask(leak, LEARNED + 9 * DAY, "www.tunnel.net") is not None
    assert ask(leak, LEARNED + 11 * DAY, "www.tunnel.net") is None
    passed, _ = send(leak, LEARNED + 12 * DAY, "tunnel.net", seed=2)
    assert passed > 0
    leak.forget(ANN, from_text("tunnel.net"))
    assert ask(leak, LEARNED + 12 * DAY + 60, "www.tunnel.net") is None


@pytest.mark.parametrize(("gap", "most"), [(10.0, 512), (60.0, 512), (600.0, 1024), (3600.0, 1536)])
def test_slow_tunnels_are_stopped_too(gap: float, most: int) -> None:
    passed, finding = send(meter(), LEARNED, "slow.net", gap=gap)
    assert finding is not None
    assert passed <= most


def test_browsing_is_never_stopped() -> None:
    leak = meter()
    hosts = ["www", "img", "static", "api", "cdn", "login", "m", "fonts"]
    for hour in range(24 * 9):
        for number, host in enumerate(hosts):
            for site in range(20):
                assert ask(leak, LEARNED + 3600 * hour + number, f"{host}.site{site}.com") is None
    assert not leak.take_alerts()
    assert leak.counters()["pairs"] < 200


def test_carriers_have_a_quarter_of_the_budget() -> None:
    def until_block(qtype: int) -> int:
        leak, rng = meter(), random.Random(3)
        return next(at for at in range(100) if ask(leak, LEARNED, f"{rng.randbytes(8).hex()}.odd.net", ANN, qtype))

    assert until_block(NULL) * CARRIER_FACTOR <= until_block(A) + CARRIER_FACTOR


def test_alert_mode_lets_through_and_says_it_once() -> None:
    leak = meter(mode="alert")
    passed, finding = send(leak, LEARNED, "tunnel.net", most=60)
    assert (passed, finding) == (960, None)
    said = leak.take_alerts()
    assert [one.confidence for one in said] in ([Confidence.HIGH], [Confidence.MEDIUM, Confidence.HIGH])
    assert not leak.take_alerts()


def test_off_is_off() -> None:
    leak = meter(mode="off")
    assert send(leak, LEARNED, "tunnel.net", most=60) == (960, None)
    assert leak.counters()["first_tier"] == 0


def test_an_alert_comes_before_the_block() -> None:
    leak = meter()
    rng = random.Random(5)
    for _ in range(200):
        if ask(leak, LEARNED, f"{rng.randbytes(2).hex()}.tunnel.net") is not None:
            break
    (alert,) = leak.take_alerts()
    assert alert.confidence is Confidence.MEDIUM
    assert "nearly" in alert.reason


def test_peers_speak_for_a_service_and_not_for_a_domain_that_is_new() -> None:
    leak = meter()
    for day in range(7):
        assert not service(leak, START + day * DAY, "scanner.net", 24, 400, day)
    for day in range(8, 12):
        assert not service(leak, START + day * DAY, "scanner.net", 24, 400, day)
    assert not leak.review(START + 12 * DAY)
    blocked = service(leak, START + 12 * DAY, "fresh.net", 24, 400, 99)
    assert len({finding.client for finding in blocked}) == 24


@pytest.mark.parametrize(("bots", "most"), [(10, 4096), (30, 8192)])
@pytest.mark.parametrize("gap", [60.0, 3600.0])
def test_bots_on_a_new_domain_share_a_budget(bots: int, most: int, gap: float) -> None:
    leak, rng, passed = meter(), random.Random(7), 0
    for turn in range(min(int(3 * DAY / gap), 100)):
        for bot in range(bots):
            name = f"{rng.randbytes(16).hex()}.botnet.net"
            passed += 16 * (ask(leak, LEARNED + turn * gap + bot, name, bytes((10, 2, 0, bot))) is None)
    assert 1000 < passed <= most


@pytest.mark.parametrize("domains", [5, 10])
@pytest.mark.parametrize("gap", [0.1, 60.0, 600.0])
def test_a_client_that_splits_over_domains_shares_a_budget(domains: int, gap: float) -> None:
    leak, rng, passed = meter(), random.Random(9), 0
    for number in range(2000):
        name = f"{rng.randbytes(16).hex()}.split{number % domains}.net"
        passed += 16 * (ask(leak, LEARNED + number * gap, name) is None)
    assert 100 < passed <= 1024
    assert ask(leak, LEARNED + 2000 * gap, "www.harmless.com") is None


def test_many_domains_within_the_first_tier_share_a_budget() -> None:
    leak, rng, passed = meter(), random.Random(11), 0
    for number in range(1500):
        name = f"{rng.randbytes(8).hex()}.wide{number % 300}.net"
        passed += 8 * (ask(leak, LEARNED + number, name) is None)
    assert passed < 300 * 16 + 1000  # of 12,000


def test_a_mail_server_may_ask_block_lists_as_much_as_it_did() -> None:
    def run(rcode: int, *, mails: bool) -> list[Finding]:
        leak, rng, found = meter(), random.Random(13), []
        for day in range(12):
            for number in range(60):
                at = START + day * DAY + number * 1000
                if mails:
                    ask(leak, at, f"sender{number}.com", ANN, MX)
                name = from_text(f"{'.'.join(str(octet) for octet in rng.randbytes(4))}.zen.list.org")
                finding = ask(leak, at, name)
                if finding is None:
                    leak.answered(at, ANN, domain_of(name), A, rcode, ())
                elif day > 7:
                    found.append(finding)
                else:
                    assert day == 7
        return found

    assert not run(3, mails=True)
    assert run(0, mails=True)
    assert run(3, mails=False)


def test_the_operator_confirms_what_one_client_does() -> None:
    leak = meter()
    for day in range(7):
        assert send(leak, START + day * DAY, "ledger.net", gap=300.0, most=250, seed=day)[1] is None
    (lone,) = leak.review(START + 7 * DAY)
    assert (lone.client, lone.domain, lone.clients, lone.blocked) == ("10.0.0.1", "ledger.net", 1, False)
    assert lone.per_day > 512
    assert lone.samples
    assert all(sample.endswith(".ledger.net") for sample in lone.samples)
    leak.confirm(ANN, from_text("ledger.net"))
    assert send(leak, START + 7 * DAY, "ledger.net", gap=300.0, most=250, seed=8)[1] is None
    assert not leak.review(START + 8 * DAY)
    assert send(leak, START + 8 * DAY, "ledger.net", gap=0.1, most=5000, seed=9)[1] is not None  # there is an end to it


def test_a_confirmed_domain_of_the_settings() -> None:
    for entry in ("tunnel.net", "10.0.0.1 tunnel.net"):
        assert send(meter(confirmed=[entry]), LEARNED, "tunnel.net", most=60)[1] is None
    assert send(meter(confirmed=["10.0.0.9 tunnel.net"]), LEARNED, "tunnel.net", most=60)[1] is not None
    with pytest.raises(BadName):
        meter(confirmed=["a..b"])
    with pytest.raises(ValueError, match="nobody"):
        meter(confirmed=["nobody tunnel.net"])


def test_learning_lets_through_but_not_everything() -> None:
    assert send(meter(), START, "tunnel.net", most=100) == (1600, None)
    passed, finding = send(meter(), START, "tunnel.net", most=3000)
    assert finding is not None
    assert 12_000 < passed < 16_384
    assert "learning" in finding.reason
    assert send(meter(learning_limit=0), START, "tunnel.net", most=3000)[1] is None
    assert send(meter(learning_days=0.0), START, "tunnel.net")[1] is not None


def test_nodes_sum_what_a_client_sends_through_both() -> None:
    one, other, rng, passed = meter(), meter(), random.Random(15), 0
    for leak in (one, other):
        assert leak.totals(LEARNED) == []
    for number in range(200):
        name = f"{rng.randbytes(16).hex()}.tunnel.net"
        passed += 16 * (ask((one, other)[number % 2], LEARNED + number, name) is None)
        told = one.totals(LEARNED + number), other.totals(LEARNED + number)
        other.add_foreign(LEARNED + number, told[0])
        one.add_foreign(LEARNED + number, told[1])
    assert 64 < passed <= BUDGET_HOUR + FIRST_TIER
    assert one.totals(LEARNED + 200) == []


def test_state_is_kept_over_a_restart() -> None:
    leak = meter()
    send(leak, START, "known.net", most=20)
    _, finding = send(leak, LEARNED, "tunnel.net")
    send(leak, LEARNED, "half.net", client=BOB, most=8)
    ask(leak, LEARNED, "www.cheap.net", EVE)
    leak.confirm(b"", from_text("ours.net"))
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(leak.dump()))
    other = LeakMeter(LeakSettings(), started=LEARNED)
    other.load(kept)
    for name in ("first_tier", "names", "pairs", "apexes", "domains", "clients"):
        assert other.counters()[name] == leak.counters()[name], name
    cut = [sorted(key for key, pair in one._state.pairs.items() if pair.finding) for one in (leak, other)]
    assert len(cut[0]) == 1
    assert cut[0] == cut[1]
    assert ask(other, LEARNED + 60, "www.tunnel.net") == finding
    assert other.review(LEARNED + 60) == leak.review(LEARNED + 60)
    passed, stopped = send(other, LEARNED + 60, "half.net", client=BOB, seed=2)
    assert stopped is not None
    assert passed + 8 * 16 <= BUDGET_HOUR
    assert send(other, LEARNED + 60, "ours.net", most=60)[1] is None


@pytest.mark.parametrize("state", [{}, {"version": 99}, {"version": 1}, {"version": 1, "cheap": 7, "rotate_at": "x"}])
def test_a_state_that_does_not_fit_is_left_out(state: dict[str, object]) -> None:
    leak = meter()
    ask(leak, LEARNED, "www.cheap.net")
    before = leak.counters()
    leak.load(state)
    assert leak.counters() == before


def test_a_week_later_the_first_tier_begins_anew() -> None:
    leak = meter()
    leak.tick(LEARNED)
    ask(leak, LEARNED, "www.site.com")
    assert leak.counters()["first_tier"] == 1
    for week in (1, 2):
        leak.tick(LEARNED + week * 7 * DAY + 1)
    assert leak.counters()["first_tier"] == 0


def payloads(rng: random.Random) -> dict[str, list[tuple[str, int, float]]]:
    """Return, by sender, names, types and the octets each carries."""
    book = ["".join(rng.choices("abcdefgh", k=4)) for _ in range(32)]
    kinds = (1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 65)
    return {
        "hexadecimal": [(rng.randbytes(12).hex(), A, 12.0) for _ in range(200)],
        "short": [(f"{rng.randrange(256):02x}", A, 1.0) for _ in range(800)],
        "binary": [("".join(f"\\{rng.randrange(128, 256)}" for _ in range(20)), A, 20 * 7 / 8) for _ in range(100)],
        "codebook": [(rng.choice(book), A, 5 / 8) for _ in range(3000)],
        "types": [("www", rng.choice(kinds), log2(len(kinds)) / 8) for _ in range(3000)],
    }


@given(seed=st.integers(0, 10**9))
@settings(max_examples=5, deadline=None)
def test_no_more_passes_than_the_budget_of_an_hour_and_a_constant(seed: int) -> None:
    for kind, sent in payloads(random.Random(seed)).items():
        leak, passed = meter(), 0.0
        for sub, qtype, octets in sent:
            if ask(leak, LEARNED, f"{sub}.sender.net", ANN, qtype) is not None:
                break
            passed += octets
        else:
            pytest.fail(f"{kind}: never stopped")
        assert passed <= BUDGET_HOUR + FIRST_TIER, kind


@given(
    questions=st.lists(
        st.tuples(
            st.floats(-100, 10 * DAY),
            st.sampled_from((ANN, BOB, EVE)),
            st.lists(st.binary(min_size=1, max_size=20), min_size=0, max_size=4),
            st.integers(0, 65535),
        ),
        max_size=30,
    )
)
def test_any_question_has_an_answer(questions: list[tuple[float, bytes, list[bytes], int]]) -> None:
    leak = meter()
    for after, client, parts, qtype in questions:
        qname = b"".join(bytes((len(part),)) + part.lower() for part in parts) + b"\x00"
        finding = leak.check(LEARNED + after, client, domain_of(qname), qname, qtype)
        assert finding is None or finding.confidence is Confidence.HIGH
        leak.answered(LEARNED + after, client, domain_of(qname), qtype, 0, (b"\x7f\x00\x00\x01",))
    assert leak.counters()["first_tier"] + leak.counters()["pairs"] <= len(questions)
