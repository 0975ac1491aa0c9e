from __future__ import annotations

import pytest

from common.errors import LocalError
from common.proxy import proxy_for

HUB = "https://hub.example.org"
PLAIN = "http://hub.example.org:8700/federation/v1/link"
PROXY = "http://proxy.example.net:3128"

CASES: dict[str, tuple[str, dict[str, str], str | None]] = {
    "nothing set": (HUB, {}, None),
    "https": (HUB, {"HTTPS_PROXY": PROXY}, PROXY),
    "lower case": (HUB, {"https_proxy": PROXY}, PROXY),
    "lower case before upper": (HUB, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
    "empty": (HUB, {"HTTPS_PROXY": ""}, None),
    "for http only": (HUB, {"HTTP_PROXY": PROXY}, None),
    "for https only": (PLAIN, {"HTTPS_PROXY": PROXY}, None),
    "http": (PLAIN, {"HTTP_PROXY": PROXY}, PROXY),
    "without a scheme": (HUB, {"HTTPS_PROXY": "proxy.example.net:3128"}, PROXY),
    "not for all": (HUB, {"ALL_PROXY": PROXY}, None),
    "loopback": ("http://127.0.0.1:8700", {"HTTP_PROXY": PROXY}, None),
    "loopback of IPv6": ("http://[::1]:8700", {"HTTP_PROXY": PROXY}, None),
    "localhost": ("https://localhost", {"HTTPS_PROXY": PROXY}, None),
}
SPARED: dict[str, tuple[str, str, bool]] = {
    "the name": (HUB, "hub.example.org", True),
    "in another case": (HUB, "HUB.Example.ORG", True),
    "one of a list": (HUB, "a.example, hub.example.org ,b", True),
    "a name above": (HUB, "example.org", True),
    "a name above, with a dot": (HUB, ".example.org", True),
    "a name above, with a star": (HUB, "*.example.org", True),
    "all": (HUB, "*", True),
    "the end of a name": (HUB, "ple.org", False),
    "a name below": (HUB, "eu.hub.example.org", False),
    "another": (HUB, "example.net", False),
    "empty entries": (HUB, ",, ,", False),
    "the port, by its scheme": (HUB, "hub.example.org:443", True),
    "the port": (PLAIN, "hub.example.org:8700", True),
    "another port": (PLAIN, "hub.example.org:80", False),
    "an address": ("http://10.1.2.3", "10.1.2.3", True),
    "a network": ("http://10.1.2.3", "10.0.0.0/8", True),
    "another network": ("http://10.1.2.3", "10.2.0.0/16", False),
    "an address of IPv6": ("http://[fd00::1]:8700", "fd00::/8", True),
    "a dot at the end": ("http://hub.example.org.", "hub.example.org", True),
}


@pytest.mark.parametrize(("url", "environment", "proxy"), CASES.values(), ids=CASES)
def test_which_proxy(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, environment) == proxy


@pytest.mark.parametrize(("url", "no_proxy", "spared"), SPARED.values(), ids=SPARED)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_what_goes_straight(url: str, no_proxy: str, spared: bool, name: str) -> None:
    environment = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, name: no_proxy}
    assert proxy_for(url, environment) == (None if spared else PROXY)


@pytest.mark.parametrize("proxy", ["socks5://user:secret@proxy:1080", "https://proxy"])
def test_a_proxy_of_another_kind_is_named_without_its_secret(proxy: str) -> None:
    with pytest.raises(LocalError) as refused:
        proxy_for(HUB, {"HTTPS_PROXY": proxy})
    assert refused.value.code == "config"
    assert refused.value.message == "HTTPS_PROXY must be http://host:port"
