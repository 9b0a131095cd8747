"""Firewalls that are down, slow, hostile or say no: the agent hears one line in bounded time, and no secret."""

from __future__ import annotations

import logging
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from firewalling.appliances import FortigateStandin
from firewalling.bench import WebBench
from firewalling.standin import Running
from structlog.testing import capture_logs

from egress.enforcer import Enforcer, Lease, Refused, Target
from egress.firewalls import build, secret, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

C2 = Target("91.66.0.80")
OTHERS = [Target(f"91.66.1.{at}") for at in range(1, 31)]
HOUR = 3_600.0
OWN_HTTP = ["crowdsec", "fortigate", "mikrotik", "opnsense", "panos", "webhook"]  # the others' SDKs speak HTTP
ALL = [*OWN_HTTP, "tencent"]
BOMB = (
    b'<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><response status="success">&b;</response>'
)
GARBLED = [
    b"{", b"{}", b"[" * 100_000, b'{"results": 7}', b"{\xff\xfe}", BOMB, b"<html><body>please log in</body></html>",
    b"<response", b"null", b'{"new": [{"value": 7}]}', b'{"rows": [7]}', b'[{".id": 7}]', b'{"failures": "none"}',
    b'{"Response": []}', b"",
]  # fmt: skip


def prepared(web: WebBench) -> Enforcer:
    enforcer = web.build()
    enforcer.prepare()
    return enforcer


def every_way(enforcer: Enforcer) -> Iterator[Callable[[], Any]]:
    yield enforcer.prepare
    yield enforcer.present
    yield lambda: enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=())
    yield enforcer.flush


def refusal(web: WebBench, do: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as caught:
        do()
    text = str(caught.value)
    assert f"{web.standin.kind} branch: " in text
    assert text.isprintable()
    assert len(text) < 400
    assert all(line not in text for line in web.secret.split("\n"))
    assert caught.value.__cause__ is None
    return text


@pytest.mark.parametrize("web", ALL, indirect=True)
def test_one_that_is_refused_keeps_no_other(web: WebBench) -> None:
    enforcer = prepared(web)
    web.standin.turned_away = {OTHERS[3].address, OTHERS[17].address}
    applied = enforcer.apply(add=[Lease(each, HOUR) for each in (*OTHERS, C2)], renew=(), remove=())
    assert {each.target for each in applied.failures} == {OTHERS[3], OTHERS[17]}
    assert all(each.reason.isprintable() and not each.full for each in applied.failures)
    assert applied.done == len(OTHERS) - 1
    assert set(web.truth()) == {C2, *OTHERS} - {OTHERS[3], OTHERS[17]}
    assert {each.target for each in enforcer.present()} == set(web.truth())


@pytest.mark.parametrize("web", ALL, indirect=True)
def test_one_that_is_down_is_told_at_once_and_works_when_it_is_back(web: WebBench) -> None:
    enforcer = prepared(web)
    web.running.stop()
    for do in every_way(enforcer):
        if web.standin.kind == "webhook" and do in {enforcer.present, enforcer.flush}:
            continue  # it knows by itself what stands, and nothing does
        started = time.monotonic()
        refusal(web, do)
        assert time.monotonic() - started < 10.0
    web.running = Running(web.standin)
    again = prepared(web)
    assert again.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
    assert set(web.truth()) == {C2}


@pytest.mark.parametrize("status", [302, 401, 403, 418, 429, 500, 503])
@pytest.mark.parametrize("web", ALL, indirect=True)
def test_a_status_of_trouble_is_told_and_over_when_it_is_over(web: WebBench, status: int) -> None:
    enforcer = prepared(web)
    web.standin.status = status
    web.standin.body = f"<h1>\n{status}</h1> you said {web.secret}".encode()
    text = refusal(web, lambda: enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()))
    if web.standin.kind != "tencent":
        assert str(status) in text
    web.standin.status, web.standin.body = 0, None
    assert enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
    assert set(web.truth()) == {C2}


@pytest.mark.parametrize("web", ALL, indirect=True)
def test_garbled_answers_are_refused(web: WebBench) -> None:
    enforcer = prepared(web)
    tried = 0
    for body in GARBLED:
        web.standin.body = body
        for do in every_way(enforcer):
            if web.standin.kind == "webhook" and (do in {enforcer.present, enforcer.flush} or body in {b"{}", *WORDS}):
                continue  # a receiver of 2xx may say what it likes, but for an object of another form
            try:
                do()
            except Refused:
                refusal(web, do)
                tried += 1
            else:
                assert web.standin.kind in OWN_HTTP
    assert tried > (5 if web.standin.kind == "webhook" else len(GARBLED))
    web.standin.body = None
    assert set(web.truth()) <= {C2}
    again = prepared(web)
    assert again.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
    assert set(web.truth()) == {C2}


WORDS = [each for each in GARBLED if not each.startswith(b"{")]


@pytest.mark.parametrize("web", OWN_HTTP, indirect=True)
def test_an_endless_answer_is_cut(web: WebBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_REPLY", 100_000)
    enforcer = prepared(web)
    web.standin.body = b"{" + b" " * 200_000
    text = refusal(web, lambda: enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()))
    assert "more than" in text


@pytest.mark.parametrize("drip", [b"x", b"HTTP/1.1 200 OK\r\nx: y\r\n", b"HTTP/1.1 200 OK\r\n\r\n ", b""], ids=repr)
@pytest.mark.parametrize("web", OWN_HTTP, indirect=True)
def test_an_answer_that_drips_is_cut_in_time(web: WebBench, drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "READ_SECONDS", 60.0)
    enforcer = prepared(web)
    web.standin.raw = drip
    started = time.monotonic()
    with monkeypatch.context() as patched:  # what answers at once has its time, however slow the machine
        patched.setattr(service, "TOTAL_SECONDS", 0.5)
        refusal(web, lambda: enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()))
    assert time.monotonic() - started < service.READ_SECONDS / 2
    web.standin.raw = None
    assert enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()


@pytest.mark.parametrize("web", OWN_HTTP, indirect=True)
def test_a_connection_that_breaks_is_made_anew_once(web: WebBench) -> None:
    enforcer = prepared(web)
    web.standin.breaks = True
    assert enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
    assert set(web.truth()) == {C2}
    assert not web.standin.breaks


@pytest.mark.parametrize("web", ALL, indirect=True)
def test_a_wrong_key_is_said_and_not_shown(web: WebBench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    web.build()
    wrong = "wr0ng-key-1\nwr0ng-key-2" if web.standin.kind == "crowdsec" else "wr0ng-key-1"
    keys = web.firewall()
    web.keep_secret(wrong)
    web.secret = wrong
    with capture_logs() as logs:
        enforcer = build(keys, web.folder, web.folder / "data")
        text = refusal(web, enforcer.prepare)
    enforcer.close()
    assert "not accept" in text
    assert "wr0ng" not in caplog.text + repr(logs)
    assert not web.truth()
    web.standin.complaints.clear()


@pytest.mark.parametrize("web", ["fortigate"], indirect=True)
def test_a_secret_that_others_may_read_is_told(web: WebBench) -> None:
    keys = web.firewall()
    (web.folder / "secret").chmod(0o644)
    with capture_logs() as logs:
        found = secret.needed(keys, web.folder)
    assert [each["log_level"] for each in logs] == ["warning"]
    assert web.secret not in repr(logs) + repr(found) + str(found)
    (web.folder / "secret").chmod(0o600)
    with capture_logs() as logs:
        secret.needed(keys, web.folder)
    assert logs == []


@pytest.mark.parametrize("web", ["fortigate"], indirect=True)
@pytest.mark.parametrize("content", ["", "   \n", "a\0b", "x" * 70_000])
def test_a_file_without_a_secret_is_refused(web: WebBench, content: str) -> None:
    keys = web.firewall()
    (web.folder / "secret").write_text(content)
    with pytest.raises(Refused, match="holds no secret"):
        build(keys, web.folder)
    (web.folder / "secret").unlink()
    with pytest.raises(Refused, match="No such file"):
        build(keys, web.folder)


@pytest.mark.parametrize("web", ["opnsense"], indirect=True)
def test_a_secret_in_clear_over_the_network_is_told(web: WebBench) -> None:
    with capture_logs() as logs:
        web.build(url="http://192.0.2.1").close()
        web.build().close()
    assert len([each for each in logs if "in clear" in each["event"]]) == 1


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    standin = FortigateStandin()
    bench = WebBench(tmp_path, standin)
    bench.running.stop()
    bench.running = Running(standin, tls)
    try:
        refusal(bench, bench.build().prepare)
        enforcer = bench.build(tls_ca_file="ca.pem")
        enforcer.prepare()
        assert enforcer.apply(add=[Lease(C2, HOUR)], renew=(), remove=()).failures == ()
        assert set(bench.truth()) == {C2}
        with pytest.raises(Refused, match="tls_ca_file"):
            bench.build(tls_ca_file="none.pem")
    finally:
        bench.stop()
