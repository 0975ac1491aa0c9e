"""Who may call the spoke's own API: the bearer of the token, from this machine unless it is opened to others."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from common.http import Unauthorized
from spoke.local_api import Access

TOKEN = "t" * 43
GOOD = {"Authorization": f"Bearer {TOKEN}"}


def request(path: str, address: str | None, headers: dict[str, str]) -> web.Request:
    """A request as the server sees it; only the socket is not there."""
    transport = Mock()
    transport.get_extra_info = lambda name, default=None: (address, 9) if name == "peername" else default
    return make_mocked_request("GET", path, headers=headers, transport=transport)


@pytest.mark.attack(36)
@pytest.mark.attack(58)
@pytest.mark.parametrize(
    ("path", "address", "headers", "remote", "allowed"),
    [
        ("/queue", "127.0.0.1", GOOD, False, True),
        ("/queue", "::1", GOOD, False, True),
        ("/queue", "127.0.0.1", {}, False, False),
        ("/queue", "127.0.0.1", {"Authorization": f"Bearer {TOKEN}x"}, False, False),
        ("/queue", "192.0.2.7", GOOD, False, False),
        ("/queue", "2001:db8::7", GOOD, False, False),
        ("/queue", "not an address", GOOD, False, False),
        ("/queue", "192.0.2.7", GOOD, True, True),
        ("/queue", "192.0.2.7", {}, True, False),
        ("/metrics", "127.0.0.1", {}, False, True),
        ("/healthz", "127.0.0.1", {}, False, True),
        ("/metrics", "192.0.2.7", {}, False, False),
        ("/metrics", "192.0.2.7", {}, True, False),
        ("/metrics", "192.0.2.7", GOOD, True, True),
        ("/metrics/", "127.0.0.1", {}, False, False),
        ("/agents/../metrics", "127.0.0.1", {}, False, False),
    ],
)
def test_access(path: str, address: str, headers: dict[str, str], remote: bool, allowed: bool) -> None:
    access = Access(TOKEN, remote=remote)
    if allowed:
        access.check(request(path, address, headers))
        return
    with pytest.raises(Unauthorized) as refused:
        access.check(request(path, address, headers))
    assert TOKEN not in refused.value.message
