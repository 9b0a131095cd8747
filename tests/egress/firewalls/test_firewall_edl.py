"""The lists as firewalls fetch them: text that four makers read, validators, and a server nobody can tie up."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
import trustme
from firewalling.bench import EdlBench

from egress.enforcer import Lease, Refused, Target
from egress.firewalls import edl_http
from egress.firewalls.edl import NOBODY, UNKNOWN_SECONDS, Edl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOUR, SIX = "/plughole-v4.txt", "/plughole-v6.txt"
HOUR = 3_600.0
ADDRESSES = ["91.66.0.9", "91.66.0.80", "2a01:66::80", "2a01:66::9", "8.100.0.1"]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Served(EdlBench):
    """The adapter with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = Clock()
        self.file = folder / "data" / "branch.json"

    def start(self, **changes: object) -> Edl:
        self.close()
        found = Edl(self.firewall(**changes), self.folder, self.file, clock=self.clock)
        self.made.append(found)
        found.prepare()
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.close()


def add(edl: Edl, *addresses: str, seconds: float = HOUR) -> None:
    assert edl.apply(add=[Lease(Target(each), seconds) for each in addresses]).failures == ()


def panos(body: bytes) -> list[str]:
    """PAN-OS: IP, IP/mask or IP-IP, a blank and a comment; UTF-8 without a mark."""
    lines = body.decode("utf-8").split("\n")
    assert lines.pop() == ""
    found = [line.split(" ")[0] for line in lines]
    assert all(re.fullmatch(r"[0-9a-f.:]+(/\d+|-[0-9a-f.:]+)?", each) for each in found)
    return found


def fortigate(body: bytes) -> list[str]:
    """FortiGate: one address, network or range a line, nothing else."""
    return [str(ipaddress.ip_address(line.decode("ascii"))) for line in body.splitlines()]


def cisco(body: bytes) -> list[str]:
    """Cisco FMC: one address or network a line, # comments, no /0; a file without any address replaces nothing."""
    found = [line for line in body.decode("ascii").splitlines() if not line.startswith("#")]
    assert found
    assert not any(ipaddress.ip_network(line).prefixlen == 0 for line in found)
    return found


def check_point(body: bytes) -> list[str]:
    """Check Point's network feed: a flat list of addresses, networks and ranges."""
    return [str(ipaddress.ip_network(line).network_address) for line in body.decode("ascii").split()]


@pytest.mark.parametrize("read", [panos, fortigate, cisco, check_point])
def test_every_maker_reads_the_lists(served: Served, read: object) -> None:
    assert callable(read)
    edl = served.start()
    add(edl, *ADDRESSES)
    assert read(served.get(FOUR)[2]) == ["8.100.0.1", "91.66.0.9", "91.66.0.80"]
    assert read(served.get(SIX)[2]) == ["2a01:66::9", "2a01:66::80"]
    edl.flush()
    assert read(served.get(FOUR)[2]) == [NOBODY[4]]
    assert read(served.get(SIX)[2]) == [NOBODY[6]]


def test_what_a_list_says_of_itself(served: Served) -> None:
    edl = served.start()
    add(edl, *ADDRESSES)
    status, headers, body = served.get(FOUR)
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert body == b"8.100.0.1\n91.66.0.9\n91.66.0.80\n"
    assert parsedate_to_datetime(headers["last-modified"]).timestamp() == served.clock.now
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}{FOUR}", method="HEAD")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)


def test_an_unchanged_list_is_not_sent_again(served: Served) -> None:
    edl = served.start()
    add(edl, *ADDRESSES)
    _, headers, _ = served.get(FOUR)
    etag, since = headers["etag"], headers["last-modified"]
    assert served.get(FOUR, If_None_Match=f'"other", W/{etag}')[::2] == (304, b"")
    assert served.get(FOUR, If_Modified_Since=since)[0] == 304
    assert served.get(FOUR, If_None_Match='"other"', If_Modified_Since=since)[0] == 200
    assert served.get(FOUR, If_Modified_Since="yesterday")[0] == 200
    served.clock.now += 60
    assert edl.apply(renew=[Lease(Target(each), 2 * HOUR) for each in ADDRESSES]).failures == ()
    add(edl, "2a01:66::99")
    assert served.get(FOUR, If_None_Match=etag)[0] == 304
    assert served.get(FOUR, If_Modified_Since=since)[0] == 304
    add(edl, "91.66.0.81")
    status, headers, _ = served.get(FOUR, If_None_Match=etag)
    assert (status, headers["etag"] != etag) == (200, True)
    assert served.get(FOUR, If_Modified_Since=since)[0] == 200


def test_what_has_run_out_is_not_served_though_nobody_removes_it(served: Served) -> None:
    edl = served.start()
    add(edl, "91.66.0.80", seconds=600)
    add(edl, "91.66.0.81", seconds=1_200)
    served.clock.now += 601
    assert served.get(FOUR)[2] == b"91.66.0.81\n"
    assert [each.target.address for each in edl.present()] == ["91.66.0.81"]
    served.clock.now += 600
    assert served.get(FOUR)[2].decode() == f"{NOBODY[4]}\n"


def test_after_a_restart_the_last_good_list_is_served_before_anybody_says_a_word(served: Served) -> None:
    add(served.start(), *ADDRESSES)
    before = served.get(FOUR)
    served.clock.now += 60
    served.start()
    after = served.get(FOUR)
    assert (after[0], after[2], after[1]["etag"]) == (200, before[2], before[1]["etag"])


@pytest.mark.parametrize("damage", [b"", b"[[1]]", b'[["no address","",1e10]]', b"\xff", b"[" * 100_000])
def test_with_a_damaged_file_nothing_is_served_until_it_is_known_what_stands(served: Served, damage: bytes) -> None:
    add(served.start(), *ADDRESSES)
    served.close()
    served.file.write_bytes(damage)
    edl = served.start()
    status, headers, _ = served.get(FOUR)
    assert (status, headers["retry-after"]) == (503, "60")
    assert edl.present() == []
    add(edl, "91.66.0.80")
    assert served.get(FOUR)[::2] == (200, b"91.66.0.80\n")
    assert served.get(SIX)[::2] == (200, f"{NOBODY[6]}\n".encode())


def test_when_nothing_is_wanted_a_damaged_file_is_got_over(served: Served) -> None:
    served.file.parent.mkdir()
    served.file.write_bytes(b"{")
    served.start()
    assert served.get(FOUR)[0] == 503
    served.clock.now += UNKNOWN_SECONDS
    assert served.get(FOUR)[::2] == (200, f"{NOBODY[4]}\n".encode())


def test_what_can_not_be_kept_is_refused_and_the_last_good_list_served_on(served: Served) -> None:
    edl = served.start()
    add(edl, "91.66.0.80")
    new = served.file.with_suffix(".new")
    new.mkdir()  # nothing can be written there
    with pytest.raises(Refused, match="edl branch: "):
        edl.apply(add=[Lease(Target("91.66.0.81"), HOUR)])
    with pytest.raises(Refused, match="edl branch: "):
        edl.flush()
    assert served.get(FOUR)[2] == b"91.66.0.80\n"
    assert [each.target.address for each in edl.present()] == ["91.66.0.80"]
    new.rmdir()
    add(edl, "91.66.0.81")
    assert served.get(FOUR)[2] == b"91.66.0.80\n91.66.0.81\n"


def test_withdrawn_before_anything_it_tells_firewalls_that_nothing_is_blocked(served: Served) -> None:
    add(served.start(), *ADDRESSES)
    served.close()
    edl = Edl(served.firewall(), served.folder, served.file, clock=served.clock)
    served.made.append(edl)
    edl.withdraw()
    assert served.truth() == {}


def test_only_who_knows_the_password_reads_the_list(served: Served) -> None:
    add(served.start(), *ADDRESSES)
    assert served.get(FOUR, login=False)[0] == 401
    status, headers, body = served.get(FOUR, login=False, Authorization="Basic Zm9vOmJhcg==")
    assert (status, headers["www-authenticate"]) == (401, 'Basic realm="plughole"')
    assert b"91.66" not in body
    served.start(secret_file="", user="")
    assert served.get(FOUR, login=False)[0] == 200


def test_there_is_nothing_else(served: Served) -> None:
    served.start()
    for path in ("/", "/plughole-v5.txt", "/../secret", "/data/branch.json", f"{FOUR}/"):
        assert served.get(path)[0] == 404
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}{FOUR}", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)


def exchange(served: Served, data: bytes) -> bytes:
    """Send octets; return all that comes until the server hangs up."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as client:
        found = b""
        with contextlib.suppress(ConnectionError):  # the server may hang up before it has all
            client.sendall(data)
            while piece := client.recv(65_536):
                found += piece
        return found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /plughole-v4.txt HTTP/1.1\r\n\r\n", 200), (b"GET /plughole-v4.txt?x=1 HTTP/1.0\r\nHost: a\r\n\r\n", 200),
        (b"POST /plughole-v4.txt HTTP/1.1\r\n\r\n", 405), (b"GET plughole-v4.txt HTTP/1.1\r\n\r\n", 400),
        (b"GET /plughole-v4.txt\r\n\r\n", 400), (b"\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400), (b"\xff\xfe \x00 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
    ],
    ids=repr,
)  # fmt: skip
def test_a_request_is_one_or_it_is_not(served: Served, data: bytes, status: int) -> None:
    served.start(secret_file="", user="")
    assert exchange(served, data).startswith(b"HTTP/1.1 %d " % status)


def test_a_request_without_end_is_cut(served: Served) -> None:
    edl = served.start(secret_file="", user="")
    assert exchange(served, b"GET / HTTP/1.1\r\nx: " + b"y" * (2 * edl_http.MAX_REQUEST)) == b""
    assert edl.server.rejected == 1
    assert served.get(FOUR)[0] == 200


def test_a_slow_request_is_cut_in_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edl_http, "REQUEST_SECONDS", 0.2)
    edl = served.start(secret_file="", user="")
    assert exchange(served, b"GET / HTTP/1.1\r\n") == b""
    assert edl.server.rejected == 1


def test_who_holds_many_connections_keeps_no_firewall_out(served: Served) -> None:
    edl = served.start()
    held = [
        socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(edl_http.MAX_CONNECTIONS + 8)
    ]
    try:
        assert served.get(FOUR)[0] == 200
        assert held[0].recv(1) == b""  # the oldest had to go
        assert edl.server.rejected >= 8
    finally:
        for each in held:
            each.close()


def test_over_tls(served: Served) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(served.folder / "server.pem"))
    edl = served.start(tls_ca_file="server.pem", secret_file="", user="")
    add(edl, "91.66.0.80")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with urllib.request.urlopen(f"https://127.0.0.1:{served.port}{FOUR}", timeout=60, context=context) as reply:
        assert reply.read() == b"91.66.0.80\n"
    (served.folder / "server.pem").write_text("nothing of the kind")
    with pytest.raises(Refused, match="needs a certificate and its key"):
        served.start(tls_ca_file="server.pem")


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", served.port))
        taken.listen()
        with pytest.raises(Refused, match=r"edl branch: 127\.0\.0\.1:\d+: .*in use"):
            served.start()
    served.start()
    assert served.get(FOUR)[0] == 200
