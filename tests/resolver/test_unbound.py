"""libunbound in process against real authoritative servers: right answers, refused forgeries, never a hang."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.rdatatype
import pytest
import trustme
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from internet import ALL, ALL_PORT, Internet

from core.config import Upstream, Zone
from core.errors import BadConfig, Unavailable
from core.names import from_labels, from_text, to_text
from core.rr import Ede, Rcode
from resolver.upstream import Answer, Question, libunbound
from resolver.upstream.unbound import Unbound, _presentation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
FORWARDER = f"{ALL}@{ALL_PORT}"
TIMEOUT = 30.0  # seconds, of engines whose questions are all answered, also while this process is paused
PATIENCE = 60.0  # seconds for what happens at all
SLACK = 1.0  # seconds after the timeout within which every question must have been answered


def run(internet: Internet, scene: Coroutine[Any, Any, None], *, loop: str = "uvloop") -> None:
    """Play `scene` on an event loop inside the internet."""
    with internet.inside(), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scene)


def settings(internet: Internet, **changes: Any) -> Upstream:
    defaults = {"root_hints": str(internet.root_hints), "trust_anchors": (str(internet.trust_anchor),)}
    return Upstream(**{**defaults, "timeout": TIMEOUT, **changes})


@contextlib.contextmanager
def engine(of: Upstream) -> Iterator[Unbound]:
    made = Unbound(of, base=Path("/"))
    made.start()
    try:
        yield made
    finally:
        made.close()


async def ask(of: Unbound, name: str, qtype: str = "A", *, checking_disabled: bool = False) -> Answer:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    question = Question(from_text(name), dns.rdatatype.from_text(qtype), checking_disabled=checking_disabled)
    of.ask(question, answer.set_result)  # a second call would raise InvalidStateError
    return await asyncio.wait_for(answer, PATIENCE)


async def ask_on(of: Unbound, name: str) -> Answer:
    """Ask until there is an answer: of an engine whose timeout is short for the sake of servers that keep silent."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := await ask(of, name)).wire:
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.02)
    return answer


def records(answer: Answer) -> list[str]:
    """Return the answer section as text, without signatures and TTLs."""
    return [
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
        for rrset in dns.message.from_wire(answer.wire).answer
        if rrset.rdtype != dns.rdatatype.RRSIG
        for rdata in rrset
    ]


ANSWERS = [
    ("www.good.com", "A", True, ["www.good.com. A 192.0.2.11"]),
    ("www.good.com", "AAAA", True, ["www.good.com. AAAA 2001:db8:80::11"]),
    ("good.com", "MX", True, ["good.com. MX 10 mail.good.com."]),
    ("good.com", "TXT", True, ['good.com. TXT "v=spf1 mx -all"']),
    ("www2.good.com", "A", True, ["www2.good.com. CNAME www.good.com.", "www.good.com. A 192.0.2.11"]),
    ("x.y.wild.good.com", "A", True, ["x.y.wild.good.com. A 192.0.2.12"]),
    ("www.good.com", "TXT", True, []),
    (
        "svc.good.com",
        "HTTPS",
        True,
        ['svc.good.com. HTTPS 1 . alpn="h2" ipv4hint="192.0.2.20" ipv6hint="2001:db8:80::20"'],
    ),
    ("_dns.svc.good.com", "SVCB", True, ['_dns.svc.good.com. SVCB 1 www.good.com. alpn="dot"']),
    ("fine.bogus.com", "A", True, ["fine.bogus.com. A 192.0.2.30"]),
    ("www.plain.net", "A", False, ["www.plain.net. A 192.0.2.41"]),
    ("anything.many.net", "A", False, ["anything.many.net. A 192.0.2.200"]),
    ("www.six.net", "A", False, ["www.six.net. A 192.0.2.50"]),
    (
        "chain.good.com",
        "A",
        False,  # as secure as its weakest link: plain.net is not signed
        [
            "chain.good.com. CNAME hop.good.com.",
            "hop.good.com. CNAME hop.plain.net.",
            "hop.plain.net. CNAME target.plain.net.",
            "target.plain.net. A 192.0.2.42",
        ],
    ),
    (
        "listed.good.com",
        "A",
        False,
        ["listed.good.com. CNAME evil-c2.plain.net.", "evil-c2.plain.net. A 192.0.2.66"],
    ),
]  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_recursion_from_the_root(internet: Internet, loop: str) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for name, qtype, secure, expected in ANSWERS:
                answer = await ask(unbound, name, qtype)
                assert (answer.rcode, answer.secure, answer.bogus, answer.ede) == (Rcode.NOERROR, secure, False, -1), (
                    name
                )
                assert records(answer) == expected
            counted = unbound.counters()
            assert counted["asked"] == counted["answered"] == len(ANSWERS)
            assert counted["outstanding"] == counted["failed"] == counted["timeouts"] == 0

    run(internet, scene(), loop=loop)


def test_a_name_that_does_not_exist_is_proven_absent(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for name, secure in (("nope.good.com", True), ("nope.plain.net", False), ("no-such-tld", True)):
                answer = await ask(unbound, name)
                assert (answer.rcode, answer.secure) == (Rcode.NXDOMAIN, secure)
                assert int(dns.message.from_wire(answer.wire).rcode()) == Rcode.NXDOMAIN
            dangling = await ask(unbound, "dangling.good.com")
            assert dangling.rcode == Rcode.NXDOMAIN
            assert records(dangling) == ["dangling.good.com. CNAME nowhere.plain.net."]

    run(internet, scene())


def test_answers_larger_than_a_datagram_come_by_tcp(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for name, octets in (("middle.good.com", 1_500), ("big.good.com", 4_000)):
                answer = await ask(unbound, name, "TXT")
                assert answer.secure
                assert len(answer.wire) > octets
            assert len(records(await ask(unbound, "twelve.good.com"))) == 12

    run(internet, scene())


def test_forged_and_expired_records_are_bogus_with_the_reason(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for name, why in (
                ("tampered.bogus.com", "verification failed"),
                ("expired.bogus.com", "signature expired"),
            ):
                for _ in range(2):  # the second from libunbound's cache
                    answer = await ask(unbound, name)
                    assert (answer.wire, answer.rcode, answer.bogus) == (b"", Rcode.SERVFAIL, True)
                    assert answer.ede == Ede.BOGUS
                    assert why in answer.ede_text
            assert unbound.counters()["bogus"] == 4

    run(internet, scene())


def test_checking_disabled_hands_over_what_does_not_validate(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            answer = await ask(unbound, "tampered.bogus.com", checking_disabled=True)
            assert records(answer) == ["tampered.bogus.com. A 192.0.2.99"]
            assert not answer.secure
            assert (await ask(unbound, "tampered.bogus.com")).bogus
            assert not (await ask(unbound, "www.good.com", checking_disabled=True)).secure
            assert (await ask(unbound, "www.good.com")).secure
        with engine(settings(internet, dnssec=False)) as unbound:
            for checking_disabled in (False, True):
                answer = await ask(unbound, "tampered.bogus.com", checking_disabled=checking_disabled)
                assert records(answer) == ["tampered.bogus.com. A 192.0.2.99"]

    run(internet, scene())


def test_another_root_key_makes_everything_bogus(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet, trust_anchors=())) as unbound:
            assert (await ask(unbound, "www.good.com")).bogus

    run(internet, scene())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_silent_server_is_servfail_in_time_and_the_late_callback_harmless(internet: Internet, loop: str) -> None:
    async def scene() -> None:
        for left in (2, 1, 0):  # the best of three: a machine that pauses this process is not the engine's lateness
            with engine(settings(internet, timeout=0.4)) as unbound:
                began = time.monotonic()
                answer = await ask(unbound, "www.lame.net")
                took = time.monotonic() - began
                assert (answer.wire, answer.rcode, answer.bogus) == (b"", Rcode.SERVFAIL, False)
                assert (answer.ede, answer.ede_text) == (Ede.NO_REACHABLE_AUTHORITY, "no answer within 0.4 s")
                counted = unbound.counters()
                assert (counted["timeouts"], counted["abandoned"], counted["outstanding"]) == (1, 1, 0)
                assert (await ask_on(unbound, "www.good.com")).secure
            assert took >= 0.39  # uvloop counts whole milliseconds
            if took < 0.4 + SLACK:
                return
            assert left, took

    run(internet, scene(), loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_other_server_is_tried_when_one_is_silent(internet: Internet, loop: str) -> None:
    async def scene() -> None:  # needs libunbound's retry timers, of which its descriptor tells nothing
        with engine(settings(internet)) as unbound:
            answers = await asyncio.gather(*(ask(unbound, f"n{at}.half.net") for at in range(20)))
            assert {answer.rcode for answer in answers} == {Rcode.NOERROR}

    run(internet, scene(), loop=loop)


def test_refusing_looping_and_unreachable_servers_are_servfail_at_once(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for name in ("www.refused.net", "loop1.plain.net", "www.refused.net"):  # the last one out of its cache
                answer = await ask(unbound, name)
                assert (answer.wire, answer.rcode, answer.ede) == (b"", Rcode.SERVFAIL, Ede.NO_REACHABLE_AUTHORITY)
            assert unbound.counters()["failed"] == 3
        with engine(settings(internet, root_hints="", timeout=1.0)) as unbound:  # the real root: no route from here
            assert (await ask(unbound, "www.good.com")).rcode == Rcode.SERVFAIL

    run(internet, scene())


def test_forwarding(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet, mode="forward", servers=(FORWARDER,), dnssec=False)) as unbound:
            assert records(await ask(unbound, "www.good.com")) == ["www.good.com. A 192.0.2.11"]
            assert records(await ask(unbound, "tampered.bogus.com")) == ["tampered.bogus.com. A 192.0.2.99"]
            assert len((await ask(unbound, "big.good.com", "TXT")).wire) > 4_000
            assert (await ask(unbound, "nope.good.com")).rcode == Rcode.NXDOMAIN

    run(internet, scene())


def test_forwarding_with_validation(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet, mode="forward", servers=(FORWARDER,))) as unbound:
            assert (await ask(unbound, "www.good.com")).secure
            assert (await ask(unbound, "tampered.bogus.com")).bogus

    run(internet, scene())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("certificate", "works"), [("dns.example", True), ("other.example", False)])
def test_forwarding_over_tls_checks_the_certificate(
    internet: Internet, tmp_path: Path, loop: str, certificate: str, works: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certificate).configure_cert(context)

    async def scene() -> None:
        async with tls_server(context) as port:
            server = f"tls://127.0.0.1@{port}#dns.example"
            for more in (
                {"mode": "forward", "servers": (server,)},
                {"zone": (Zone(name="good.com", servers=(server,)),)},
            ):
                timeout = TIMEOUT if works else 3.0
                ca_file = str(tmp_path / "ca.pem")
                with engine(settings(internet, tls_ca_file=ca_file, timeout=timeout, **more)) as unbound:
                    answer = await ask(unbound, "www.good.com")
                    assert answer.rcode == (Rcode.NOERROR if works else Rcode.SERVFAIL)
                    assert answer.secure == (works and "mode" in more)  # a zone is not validated unless asked
                    if works:
                        names = [f"n{at}.wild.good.com" for at in range(300)]
                        answers = await asyncio.gather(*(ask(unbound, name) for name in names))
                        assert {answer.rcode for answer in answers} == {Rcode.NOERROR}
                        assert len((await ask(unbound, "big.good.com", "TXT")).wire) > 4_000

    run(internet, scene(), loop=loop)


@contextlib.asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A DoT server on the loopback that carries messages to and from the forwarder's TCP port; gives its port."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(carry(reader, writer)))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(ALL, ALL_PORT)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        server.close()
        await server.wait_closed()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError, ssl.SSLError):
            while octets := await reader.read(65_536):
                writer.write(octets)
                await writer.drain()
    finally:
        writer.close()


def test_a_zone_has_its_own_servers(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            assert (await ask(unbound, "host.corp.example")).rcode == Rcode.NXDOMAIN
        with engine(settings(internet, zone=(Zone(name="corp.example", servers=(FORWARDER,)),))) as unbound:
            answer = await ask(unbound, "host.corp.example")
            assert records(answer) == ["host.corp.example. A 10.1.2.3"]
            assert not answer.secure
            assert (await ask(unbound, "www.good.com")).secure
        signed = Zone(name="corp.example", servers=(FORWARDER,), dnssec=True)
        with engine(settings(internet, zone=(signed,))) as unbound:  # the root proves that it does not exist
            assert not records_or_none(await ask(unbound, "host.corp.example"))

    run(internet, scene())


def records_or_none(answer: Answer) -> list[str]:
    return records(answer) if answer.wire else []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_flood_is_answered_each_question_once(internet: Internet, loop: str) -> None:
    count = 5_000

    async def scene() -> None:
        answers: Counter[int] = Counter()
        wrong: list[Answer] = []
        finished = asyncio.Event()

        def done_for(at: int) -> Callable[[Answer], None]:
            def done(answer: Answer) -> None:
                answers[at] += 1
                if b"q%d\x04many" % at not in answer.wire:
                    wrong.append(answer)
                if len(answers) == count:
                    finished.set()

            return done

        with engine(settings(internet, max_outstanding=count, timeout=PATIENCE)) as unbound:
            for at in range(count):
                unbound.ask(Question(from_text(f"q{at}.many.net"), 1), done_for(at))
            await asyncio.wait_for(finished.wait(), PATIENCE + SLACK)
            assert unbound.counters()["outstanding"] == 0
        assert not wrong
        assert set(answers.values()) == {1}

    run(internet, scene(), loop=loop)


def test_past_max_outstanding_questions_are_refused_at_once(internet: Internet) -> None:
    async def scene() -> None:
        answers: list[Answer] = []
        with engine(settings(internet, max_outstanding=10)) as unbound:
            for at in range(25):
                unbound.ask(Question(from_text(f"n{at}.lame.net"), 1), answers.append)
            assert [(answer.rcode, answer.ede) for answer in answers] == [(Rcode.SERVFAIL, Ede.OTHER)] * 15
            assert answers[0].ede_text == "too many questions are outstanding"
            counted = unbound.counters()
            assert (counted["asked"], counted["refused"], counted["outstanding"]) == (25, 15, 10)

    run(internet, scene())


def test_questions_libunbound_will_not_let_go_of_count_too(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet, max_outstanding=5, timeout=0.1)) as unbound:
            for domain in ("lame.net", "lame1.net"):
                await asyncio.gather(*(ask(unbound, f"n{at}.{domain}") for at in range(5)))
            assert unbound.counters()["abandoned"] == 10
            assert (await ask(unbound, "www.good.com")).ede_text == "too many questions are outstanding"

    run(internet, scene())


def test_a_domain_that_keeps_silent_does_not_use_up_what_others_need(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet, max_outstanding=64, timeout=0.1)) as unbound:  # a domain may hold two
            await asyncio.gather(*(ask(unbound, f"n{at}.lame.net") for at in range(2)))
            refused: list[Answer] = []
            unbound.ask(Question(from_text("other.lame.net"), 1), refused.append)
            [answer] = refused  # at once
            assert (answer.rcode, answer.ede) == (Rcode.SERVFAIL, Ede.NO_REACHABLE_AUTHORITY)
            assert answer.ede_text == "servers of this domain keep silent"
            assert (await ask(unbound, "n.lame1.net")).ede_text == "no answer within 0.1 s"
            assert (await ask_on(unbound, "www.good.com")).secure

    run(internet, scene())


@pytest.mark.parametrize("loop", LOOPS)
def test_closing_answers_what_is_outstanding_once(internet: Internet, loop: str) -> None:
    async def scene() -> None:
        answers: list[Answer] = []
        unbound = Unbound(settings(internet), base=Path("/"))
        unbound.start()
        for at in range(50):
            unbound.ask(Question(from_text(f"n{at}.lame.net"), 1, checking_disabled=at % 2 == 0), answers.append)
        await asyncio.sleep(0)  # let them leave
        assert not answers
        unbound.close()
        assert [(answer.rcode, answer.ede) for answer in answers] == [(Rcode.SERVFAIL, Ede.NOT_READY)] * 50
        unbound.close()
        unbound.ask(Question(from_text("www.good.com"), 1), answers.append)
        assert answers[-1].ede == Ede.NOT_READY
        await asyncio.sleep(0.05)
        assert len(answers) == 51

    run(internet, scene(), loop=loop)


def test_done_may_ask_again_close_and_fail(internet: Internet) -> None:
    async def scene() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        answers: list[Answer] = []
        closed = asyncio.Event()
        unbound = Unbound(settings(internet), base=Path("/"))
        unbound.start()

        def fail(_: Answer) -> None:
            raise RuntimeError("a fault of the asker")

        def again(answer: Answer) -> None:
            answers.append(answer)
            if len(answers) < 5:
                unbound.ask(Question(from_text(f"n{len(answers)}.many.net"), 1), again)
            else:
                unbound.close()
                closed.set()

        unbound.ask(Question(from_text("www.good.com"), 1), fail)
        unbound.ask(Question(from_text("www.good.com"), 1), again)
        await asyncio.wait_for(closed.wait(), PATIENCE)
        assert len(answers) == 5
        assert all(answer.wire for answer in answers)
        assert [str(context["exception"]) for context in reported] == ["a fault of the asker"]

    run(internet, scene())


def test_names_of_any_octets_arrive_as_they_are(internet: Internet) -> None:
    async def scene() -> None:
        with engine(settings(internet)) as unbound:
            for label in (b"a.b", b"\x00\xff", b'"\\;$@(', b" ", b"*", b"x" * 63):
                name = from_labels((label, b"many", b"net"))
                answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                unbound.ask(Question(name, 1), answer.set_result)
                wire = (await answer).wire
                assert wire[12 : 12 + len(name)] == name
                assert [row.rpartition(" ")[2] for row in records(Answer(wire))] == ["192.0.2.200"]

    run(internet, scene())


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6))
def test_the_quick_text_of_a_name_means_the_name(parts: list[bytes]) -> None:
    name = from_labels(tuple(parts))
    assert from_text(_presentation(name).decode("ascii")) == name
    assert dns.name.from_text(_presentation(name).decode("ascii")).to_wire() == name
    if all(part.isalnum() for part in parts):
        assert _presentation(name).decode("ascii") == to_text(name)


def test_nothing_is_left_open(internet: Internet) -> None:
    async def scene() -> None:
        before = None
        for _ in range(5):
            with engine(settings(internet)) as unbound:
                await asyncio.gather(
                    ask(unbound, "www.good.com"), ask(unbound, "big.good.com", "TXT", checking_disabled=True)
                )
            opened = open_descriptors()
            assert before is None or opened <= before
            before = opened

    run(internet, scene())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _start(of: Upstream) -> None:
    Unbound(of, base=Path("/")).start()


def test_without_the_library_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libunbound, "UNBOUND", "libabsent.so.8")
    with pytest.raises(Unavailable, match=r"libabsent.so.8.*libunbound8.*libevent-2.1-7"):
        asyncio.run(_start(Upstream()))


def test_wrong_settings_and_wrong_files_stop_the_start(internet: Internet, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"upstream.servers\[0\]"):
        asyncio.run(_start(Upstream(mode="forward", servers=("nonsense",))))
    (tmp_path / "anchor").write_text(". IN DS this is no key\n")
    opened = open_descriptors()
    with pytest.raises(Unavailable, match=r"libunbound refused its configuration: .*anchor"):
        asyncio.run(_start(settings(internet, trust_anchors=(str(tmp_path / "anchor"),))))
    assert open_descriptors() <= opened  # what earlier tests left may be collected meanwhile
