"""Where a peer may be reached: the URL it names, checked before it is stored and again before it is used (attack row
48).

Takes `http://` and `https://` with a host and perhaps a port and a path. Refuses users, queries, fragments, other
schemes, and literal addresses where cloud machines keep their secrets, whatever their spelling.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from common.errors import PeerError

_FORM: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)"
    r"(?P<port>:[0-9]{1,5})?(?P<path>(/[A-Za-z0-9._~-]+)*)/?\Z"
)
_MAX_PORT: Final = 65_535
_NUMERIC_HOST: Final = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)(\.(0[xX][0-9a-fA-F]+|[0-9]+))*\Z")
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
"""Where clouds answer about a machine outside the link-local ranges: AWS over IPv6, Alibaba, Oracle."""


class UrlRefused(PeerError):
    """A URL under which this node will not look for a peer."""

    code = "url_refused"


def check_peer_url(text: str) -> str:
    """Return the URL without a trailing slash; raises `UrlRefused`."""
    form = _FORM.match(text)
    if form is None:
        raise UrlRefused("a peer's URL is http(s)://host[:port][/path] without user, query or fragment")
    if form["port"] and not 0 < int(form["port"][1:]) <= _MAX_PORT:
        raise UrlRefused("the port of a peer's URL lies between 1 and 65535")
    _check_host(form["host"].strip("[]"))
    return text.rstrip("/")


def _check_host(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        if _NUMERIC_HOST.match(host) or ":" in host:
            raise UrlRefused("write an address of a peer in its usual form") from error
        return
    if not is_peer_address(address):
        raise UrlRefused("metadata, link-local, multicast and unspecified addresses are no peers")


def is_peer_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a peer may live at `address`: also asked of every address that a name resolves to."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    checked = mapped or address
    return not (checked in _METADATA or checked.is_link_local or checked.is_multicast or checked.is_unspecified)


def is_loopback(url: str) -> bool:
    """Whether a URL accepted by `check_peer_url` names this machine itself."""
    return is_loopback_host(urlsplit(url).hostname or "")


def is_loopback_host(host: str) -> bool:
    """Whether a host's name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
