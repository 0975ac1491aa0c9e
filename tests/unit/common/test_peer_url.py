from __future__ import annotations

import ipaddress

import pytest

from common.peer_url import UrlRefused, check_peer_url, is_loopback, is_peer_address

GOOD: dict[str, tuple[str, str]] = {
    "name": ("https://hub.example.org", "https://hub.example.org"),
    "plain http": ("http://hub.example.org", "http://hub.example.org"),
    "port": ("https://hub.example.org:8443", "https://hub.example.org:8443"),
    "lowest port": ("https://hub.example.org:1", "https://hub.example.org:1"),
    "a path that ends with a capital X": ("https://example.org/hubX", "https://example.org/hubX"),
    "a name that ends with digits": ("https://X10", "https://X10"),
    "highest port": ("https://hub.example.org:65535", "https://hub.example.org:65535"),
    "trailing slash": ("https://hub.example.org/", "https://hub.example.org"),
    "path": ("https://example.org/hub/eu", "https://example.org/hub/eu"),
    "path and slash": ("https://example.org/hub/", "https://example.org/hub"),
    "upper case host": ("https://HUB.example.org", "https://HUB.example.org"),
    "one label": ("http://hub", "http://hub"),
    "IPv4": ("http://192.0.2.7:8700", "http://192.0.2.7:8700"),
    "loopback": ("http://127.0.0.1:8700", "http://127.0.0.1:8700"),
    "private": ("http://10.1.2.3", "http://10.1.2.3"),
    "IPv6": ("http://[2001:db8::1]:8700", "http://[2001:db8::1]:8700"),
    "IPv6 loopback": ("http://[::1]:8700", "http://[::1]:8700"),
    "IPv4 in IPv6": ("http://[::ffff:192.0.2.7]", "http://[::ffff:192.0.2.7]"),
    "a name that begins with digits": ("https://127.example.org", "https://127.example.org"),
}


@pytest.mark.parametrize(("text", "checked"), GOOD.values(), ids=GOOD)
def test_where_a_peer_may_live(text: str, checked: str) -> None:
    assert check_peer_url(text) == checked
    assert check_peer_url(checked) == checked


BAD: dict[str, str] = {
    "empty": "",
    "no scheme": "hub.example.org",
    "scheme only": "https://",
    "no host": "https://:8700",
    "file": "file:///etc/passwd",
    "ftp": "ftp://example.org",
    "gopher": "gopher://example.org",
    "unix": "unix:///run/docker.sock",
    "javascript": "javascript:alert(1)",
    "scheme in upper case": "HTTPS://example.org",
    "three slashes": "https:///example.org",
    "user": "https://user@example.org",
    "user and password": "https://user:secret@example.org",
    "user that looks like the host": "https://good.example.org@evil.example.org",
    "encoded user": "https://good.example.org%40evil.example.org",
    "backslash": "https://good.example.org\\@evil.example.org",
    "query": "https://example.org/?a=b",
    "fragment": "https://example.org/#a",
    "newline": "https://example.org\n",
    "newline inside": "https://example.org\r\nX: y",
    "space": "https://example.org /",
    "NUL": "https://example.org\0",
    "tab": "https://exa\tmple.org",
    "not ASCII": "https://ex\u00e4mple.org",
    "full-width dot": "https://169\uff0e254\uff0e169\uff0e254",
    "enclosed digits": "http://\u2460\u2461\u2466.0.0.1",
    "trailing dot": "https://example.org.",
    "trailing dot of an address": "http://169.254.169.254.",
    "leading dot": "https://.example.org",
    "leading hyphen": "https://-example.org",
    "underscore": "https://exa_mple.org",
    "port 0": "https://example.org:0",
    "port over 65535": "https://example.org:65536",
    "six digits of port": "https://example.org:000080",
    "no port after the colon": "https://example.org:",
    "port is no number": "https://example.org:http",
    "two ports": "https://example.org:80:81",
    "double slash in the path": "https://example.org//x",
    "percent in the path": "https://example.org/%2e%2e/",
    "metadata": "http://169.254.169.254",
    "metadata with port and path": "http://169.254.169.254:80/latest/meta-data",
    "link-local": "http://169.254.0.1",
    "decimal": "http://2852039166",
    "hexadecimal": "http://0xA9FEA9FE",
    "octal": "http://0251.0376.0251.0376",
    "mixed": "http://169.0xfe.43518",
    "two parts": "http://169.16689662",
    "short loopback": "http://127.1",
    "zero": "http://0",
    "leading zeros": "http://127.000.000.001",
    "five parts": "http://1.2.3.4.5",
    "too large a part": "http://1.2.3.256",
    "unspecified": "http://0.0.0.0:8700",
    "multicast": "http://224.0.0.1",
    "IPv6 link-local": "http://[fe80::1]",
    "IPv6 link-local with zone": "http://[fe80::1%25eth0]",
    "IPv6 unspecified": "http://[::]",
    "IPv6 multicast": "http://[ff02::1]",
    "IPv6-mapped metadata": "http://[::ffff:169.254.169.254]",
    "IPv6-mapped metadata in hexadecimal": "http://[::ffff:a9fe:a9fe]",
    "IPv6-mapped unspecified": "http://[::ffff:0.0.0.0]",
    "AWS metadata over IPv6": "http://[fd00:ec2::254]",
    "AWS metadata over IPv6, spelled out": "http://[fd00:0ec2:0:0:0:0:0:0254]",
    "Alibaba metadata": "http://100.100.100.200",
    "Oracle metadata": "http://192.0.0.192",
    "broken IPv6": "http://[1:2]",
    "IPv6 without brackets": "http://::1",
    "empty brackets": "http://[]",
    "a bracket": "http://[::1",
    "too long": f"https://{'a' * 260}.org",
}


@pytest.mark.attack(48)
@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_where_no_peer_may_live(text: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        check_peer_url(text)
    assert refused.value.code == "url_refused"
    assert "secret" not in str(refused.value)


@pytest.mark.attack(48)
@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("192.0.2.1", True),
        ("127.0.0.1", True),
        ("2001:db8::1", True),
        ("::ffff:192.0.2.1", True),
        ("169.254.169.254", False),
        ("::ffff:169.254.169.254", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("224.0.0.251", False),
        ("0.0.0.0", False),  # noqa: S104  # asked about, not bound
        ("::", False),
    ],
)
def test_what_a_name_may_resolve_to(address: str, allowed: bool) -> None:
    assert is_peer_address(ipaddress.ip_address(address)) is allowed


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8700", True),
        ("http://127.9.9.9", True),
        ("http://localhost:8700", True),
        ("http://[::1]:8700", True),
        ("http://192.0.2.1", False),
        ("http://localhost.example.org", False),
        ("https://example.org", False),
        ("http://[2001:db8::1]", False),
        ("http://", False),
    ],
)
def test_which_url_names_this_machine(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
