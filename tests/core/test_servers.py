"""Upstream servers as text: what is read, what is refused, and that nothing slips through into a configuration."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.servers import Server, parse_server


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", Server("udp", "192.0.2.1", 53)),
        ("192.0.2.1@5300", Server("udp", "192.0.2.1", 5300)),
        ("2001:db8::1", Server("udp", "2001:db8::1", 53)),
        ("2001:db8::1@5300", Server("udp", "2001:db8::1", 5300)),
        ("[2001:db8::1]@5300", Server("udp", "2001:db8::1", 5300)),
        ("2001:DB8:0::0001", Server("udp", "2001:db8::1", 53)),
        ("fe80::1%eth0", Server("udp", "fe80::1%eth0", 53)),
        ("tls://192.0.2.1#dns.example", Server("tls", "192.0.2.1", 853, "dns.example")),
        ("tls://192.0.2.1@853#dns.example", Server("tls", "192.0.2.1", 853, "dns.example")),
        ("TLS://[2001:db8::1]@8853#DNS.Example.", Server("tls", "2001:db8::1", 8853, "dns.example")),
        (
            "https://dns.example/dns-query",
            Server("https", "dns.example", 443, url="https://dns.example/dns-query"),
        ),
        (
            "https://[2001:db8::1]:8443/q?x=1",
            Server("https", "2001:db8::1", 8443, url="https://[2001:db8::1]:8443/q?x=1"),
        ),
    ],
)
def test_reads_every_form(text: str, server: Server) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "visible ASCII"),
        ("dns.example", "is not an IP address; write 192.0.2.1"),
        ("192.0.2.256", "is not an IP address"),
        ("192.0.2.1:53", "is not an IP address"),
        ("192.0.2.0/24", "is not an IP address"),
        ("[192.0.2.1]", "is not an IP address"),
        ("192.0.2.1@", "port '' is not 1 to 65535"),
        ("192.0.2.1@0", "port '0' is not"),
        ("192.0.2.1@65536", "port '65536' is not"),
        ("192.0.2.1@+53", "port '+53' is not"),
        ("0.0.0.0", "not the address of one server"),
        ("ff02::1", "not the address of one server"),
        ("192.0.2.1 # comment", "without blanks"),
        ('192.0.2.1"\nserver:', "without blanks"),
        ("192.0.2.1\x00", "visible ASCII"),
        ("\uff11.2.3.4", "visible ASCII"),
        ('fe80::1%eth0"', "is not an interface"),
        ("tls://192.0.2.1", "no certificate name; write tls://192.0.2.1#dns.example"),
        ("tls://192.0.2.1#", "'' is not a host name"),
        ('tls://192.0.2.1#a"b', "is not a host name"),
        ("tls://dns.example#dns.example", "is not an IP address"),
        ("quic://192.0.2.1", "unknown scheme 'quic'"),
        ("http://dns.example/dns-query", "unknown scheme 'http'"),
        ("https:///dns-query", "'' is not a host name"),
        ("https://dns.example:0/", "port 0 is not"),
        ("https://dns.example:99999/", "ort out of range"),
        ("https://user:secret@dns.example/", "no user name or password"),
        ("https://dns.example/{?dns}", "'{' is not allowed"),
        ("https://1.2.3.4.5/", "is not an IP address"),
        ("https://" + "a" * 2_000, "visible ASCII"),
    ],
)
def test_refuses_with_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        parse_server(text)
    assert "\n" not in str(caught.value)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet='0123456789.:@#[]%/"\\ \n\tabtlshps-_{}'),
        st.builds(
            "{}{}{}".format, st.sampled_from(["tls://", "https://", ""]), st.ip_addresses(), st.text(max_size=20)
        ),
    )
)
@example("tls://::1%a#b")
def test_whatever_passes_is_safe_to_write_down(text: str) -> None:
    try:
        server = parse_server(text)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert 0 < server.port < 65_536
    for part in (server.address, server.auth_name, server.url):
        assert part.isascii()
        assert not set(part) & set("\"'\\ \t\r\n")
    assert parse_server(server.text) == server


def test_the_address_of_an_https_host_may_be_given() -> None:
    server = parse_server("https://dns.example/dns-query#192.0.2.1")
    assert (server.address, server.connect_to, server.url) == (
        "dns.example",
        "192.0.2.1",
        "https://dns.example/dns-query",
    )
    with pytest.raises(ValueError, match="not an IP address"):
        parse_server("https://dns.example/dns-query#elsewhere")
